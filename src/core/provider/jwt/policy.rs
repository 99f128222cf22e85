//! What is accepted of one issuer.

use super::json::{Json, Path};
use super::keys::{Algorithm, KeySet};
use crate::core::provider::endpoint;
use crate::core::template;
use std::time::Duration;

/// What is accepted of one issuer: the settings, and what its row says instead.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    pub audiences: Vec<String>,
    pub types: Vec<String>,
    pub algorithms: Vec<Algorithm>,
    /// The first that is there names the user.
    pub user_claims: Vec<Path>,
    pub user_template: String,
    pub groups: Option<Path>,
    /// An object of all attributes, and where single ones are.
    pub attributes: Option<Path>,
    pub attribute_claims: Vec<(String, Path)>,
    pub scopes: Vec<String>,
    /// A claim, and the values of which it must have one.
    pub required: Vec<(Path, Vec<Json>)>,
    pub skew: Duration,
    /// How much longer a token counts with which the session was opened.
    pub outlives: Duration,
    pub max_lifetime: Option<Duration>,
    pub refuses_actors: bool,
    pub keys: Keys,
}

/// Where the keys are, if not where the issuer's metadata say.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Keys {
    #[default]
    Discovery,
    Url(String),
    Pinned(KeySet),
}

impl Policy {
    /// What the row of an issuer says instead; the error tells what is wrong with that.
    pub fn change(&mut self, row: &Json) -> Result<(), String> {
        for (name, value) in row.members().ok_or("It must be an object.")? {
            let wrong = || format!("{name} is not what it must be.");
            let texts = || value.texts().filter(|texts| !texts.is_empty()).ok_or_else(wrong);
            let owned = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect();
            let path = |text: &str| Path::parse(text).ok_or_else(|| format!("{name} names no claim."));
            match name.as_str() {
                "audiences" => self.audiences = owned(texts()?),
                "algorithms" => {
                    let parse = |text: &str| Algorithm::parse(text).ok_or_else(|| algorithm_fault(text));
                    self.algorithms = texts()?.into_iter().map(parse).collect::<Result<_, _>>()?;
                }
                "user_claim" => self.user_claims = texts()?.into_iter().map(path).collect::<Result<_, _>>()?,
                "groups_claim" => self.groups = Some(path(value.text().ok_or_else(wrong)?)?),
                "attribute_claims" => {
                    let place = |(attribute, at): &(String, Json)| {
                        Ok((attribute.clone(), path(at.text().ok_or_else(wrong)?)?))
                    };
                    self.attribute_claims =
                        value.members().ok_or_else(wrong)?.iter().map(place).collect::<Result<_, String>>()?;
                }
                "required_claims" => {
                    let wanted = |(claim, values): &(String, Json)| {
                        let values = values.list().map_or_else(|| vec![values.clone()], <[Json]>::to_vec);
                        Ok((path(claim)?, values))
                    };
                    self.required =
                        value.members().ok_or_else(wrong)?.iter().map(wanted).collect::<Result<_, String>>()?;
                }
                "user_template" => {
                    let template = value.text().ok_or_else(wrong)?;
                    if let Some(fault) = template::fault_of_userid(template) {
                        return Err(fault.into());
                    }
                    self.user_template = template.to_owned();
                }
                "jwks_url" => {
                    let url = value.text().ok_or_else(wrong)?;
                    if let Some(fault) = endpoint::document_fault(url) {
                        return Err(fault.into());
                    }
                    self.keys = Keys::Url(url.to_owned());
                }
                "jwks" => {
                    let keys = KeySet::of(value).ok_or("There is no key in jwks that can be used.")?;
                    self.keys = Keys::Pinned(keys);
                }
                _ => return Err(wrong()),
            }
        }
        Ok(())
    }
}

pub fn algorithm_fault(name: &str) -> String {
    format!("\"{name}\" is not one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_looked_at_before_they_count() {
        for (bad, part) in [
            ("[]", "object"),
            (r#"{"audiences":[]}"#, "audiences"),
            (r#"{"audiences":[7]}"#, "audiences"),
            (r#"{"algorithms":["HS256"]}"#, "HS256"),
            (r#"{"algorithms":["none"]}"#, "none"),
            (r#"{"user_claim":["/~"]}"#, "user_claim"),
            (r#"{"groups_claim":7}"#, "groups_claim"),
            (r#"{"attribute_claims":{"a":7}}"#, "attribute_claims"),
            (r#"{"required_claims":["a"]}"#, "required_claims"),
            (r#"{"user_template":"x"}"#, "{userid}"),
            (r#"{"jwks_url":"file:///etc/passwd"}"#, "URL"),
            (r#"{"jwks":{"keys":[]}}"#, "key"),
            (r#"{"colour":"red"}"#, "colour"),
        ] {
            let row = Json::read(bad.as_bytes()).unwrap_or(Json::Null);
            let fault = Policy::default().change(&row).err().unwrap_or_default();
            assert!(fault.contains(part), "{bad}: {fault}");
        }
    }
}
