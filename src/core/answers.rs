//! What token providers answer, read strictly: JSON objects with the members that count, of the right type.
//!
//! Sources: the user object of `GET /bim/rpc/user/current` (Immuta API), the introspection response (RFC 7662,
//! section 2.2).

use super::identity::{Authority, Identity, Subject};
use super::time::Timestamp;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeMap;
use std::fmt;

/// What is wrong with an answer.
pub type Nonsense = &'static str;

/// What a provider says of a token.
#[derive(Debug, PartialEq, Eq)]
pub enum Word {
    /// It is valid, for this user, until then.
    Active(Subject, Option<Timestamp>),
    /// It is not, or its user is disabled.
    Inactive,
    /// It is, but stands for no user (for a client, say).
    Nobody,
}

/// Reads the current user. `attribute` is the key in `profile.externalUserIds` that names the role.
pub fn immuta_user(body: &[u8], attribute: &str) -> Result<Word, Nonsense> {
    let user = Claims::of(body)?;
    let (Some(iamid), Some(userid)) = (user.name("iamid")?, user.name("userid")?) else {
        return Err("names no user");
    };
    if user.flag("disabled")? == Some(true) {
        return Ok(Word::Inactive);
    }
    let external_ids = match user.object("profile")? {
        Some(profile) => profile.object("externalUserIds")?,
        None => None,
    };
    let role_name = match external_ids {
        Some(ids) => ids.name(attribute)?.map(str::to_owned),
        None => None,
    };
    let authority = Authority::Iam(iamid.into());
    Ok(Word::Active(Subject { authority, userid: userid.into(), role_name }, None))
}

/// Reads an introspection response. The user is the first of `user_claims` that it has; `exp` may have a fraction.
pub fn introspection(body: &[u8], user_claims: &[String]) -> Result<Word, Nonsense> {
    let claims = Claims::of(body)?;
    match claims.flag("active")? {
        Some(true) => {}
        Some(false) => return Ok(Word::Inactive),
        None => return Err("does not say whether the token is active"),
    }
    let issuer = claims.text("iss")?.unwrap_or_default();
    let expires = claims.number("exp")?.map(Timestamp::from_unix);
    let mut user = None;
    for claim in user_claims {
        user = user.or(claims.name(claim)?);
    }
    let Some(userid) = user else { return Ok(Word::Nobody) };
    let authority = Authority::Issuer(issuer.into());
    Ok(Word::Active(Subject { authority, userid: userid.into(), role_name: None }, expires))
}

const WRONG_TYPE: Nonsense = "has a member of the wrong type";

/// A JSON object without duplicate members. serde_json bounds its depth.
#[derive(Debug)]
struct Claims(BTreeMap<String, Claim>);

/// A member. Lists are skipped: nothing that counts is one.
#[derive(Debug)]
enum Claim {
    Text(String),
    Number(f64),
    Flag(bool),
    Object(Claims),
    List,
    Null,
}

impl Claims {
    fn of(body: &[u8]) -> Result<Claims, Nonsense> {
        serde_json::from_slice(body).map_err(|_| "is not the JSON object it should be")
    }

    fn get(&self, name: &str) -> Option<&Claim> {
        self.0.get(name).filter(|claim| !matches!(claim, Claim::Null))
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Nonsense> {
        match self.get(name) {
            Some(Claim::Text(text)) => Ok(Some(text)),
            Some(_) => Err(WRONG_TYPE),
            None => Ok(None),
        }
    }

    /// A text that names somebody; an empty one names nobody.
    fn name(&self, name: &str) -> Result<Option<&str>, Nonsense> {
        match self.text(name)? {
            None | Some("") => Ok(None),
            Some(text) if Identity::is_well_formed(text) => Ok(Some(text)),
            Some(_) => Err("has a name that cannot be one"),
        }
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, Nonsense> {
        match self.get(name) {
            Some(Claim::Flag(flag)) => Ok(Some(*flag)),
            Some(_) => Err(WRONG_TYPE),
            None => Ok(None),
        }
    }

    fn number(&self, name: &str) -> Result<Option<f64>, Nonsense> {
        match self.get(name) {
            Some(Claim::Number(number)) => Ok(Some(*number)),
            Some(_) => Err(WRONG_TYPE),
            None => Ok(None),
        }
    }

    fn object(&self, name: &str) -> Result<Option<&Claims>, Nonsense> {
        match self.get(name) {
            Some(Claim::Object(object)) => Ok(Some(object)),
            Some(_) => Err(WRONG_TYPE),
            None => Ok(None),
        }
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Claims, D::Error> {
        match Claim::deserialize(deserializer)? {
            Claim::Object(claims) => Ok(claims),
            _ => Err(D::Error::custom("not an object")),
        }
    }
}

impl<'de> Deserialize<'de> for Claim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Claim, D::Error> {
        deserializer.deserialize_any(ClaimVisitor)
    }
}

struct ClaimVisitor;

impl<'de> Visitor<'de> for ClaimVisitor {
    type Value = Claim;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_str<E>(self, text: &str) -> Result<Claim, E> {
        Ok(Claim::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Claim, E> {
        Ok(Claim::Flag(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Claim, E> {
        Ok(Claim::Number(number as f64))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Claim, E> {
        Ok(Claim::Number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Claim, E> {
        Ok(Claim::Number(number))
    }

    fn visit_unit<E>(self) -> Result<Claim, E> {
        Ok(Claim::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Claim, A::Error> {
        // Not IgnoredAny, whose depth nobody bounds.
        while list.next_element::<Claim>()?.is_some() {}
        Ok(Claim::List)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Claim, A::Error> {
        let mut claims = BTreeMap::new();
        while let Some((name, claim)) = object.next_entry::<String, Claim>()? {
            if claims.insert(name, claim).is_some() {
                return Err(A::Error::custom("duplicate member"));
            }
        }
        Ok(Claim::Object(Claims(claims)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn immuta(body: &str) -> Result<Word, Nonsense> {
        immuta_user(body.as_bytes(), "postgresqlUser")
    }

    fn jdoe(role_name: Option<&str>) -> Result<Word, Nonsense> {
        let authority = Authority::Iam("bim".into());
        Ok(Word::Active(
            Subject { authority, userid: "jdoe".into(), role_name: role_name.map(str::to_owned) },
            None,
        ))
    }

    #[test]
    fn an_immuta_user_with_and_without_a_role() {
        assert_eq!(immuta(r#"{"iamid":"bim","userid":"jdoe","permissions":["A",{"x":[1]}],"id":7}"#), jdoe(None));
        assert_eq!(
            immuta(r#"{"iamid":"bim","userid":"jdoe","disabled":false,"profile":{"name":"J"}}"#),
            jdoe(None)
        );
        for unset in
            ["{}", "null", r#"{"postgresqlUser":null}"#, r#"{"postgresqlUser":""}"#, r#"{"snowflakeUser":1}"#]
        {
            let body = format!(r#"{{"iamid":"bim","userid":"jdoe","profile":{{"externalUserIds":{unset}}}}}"#);
            assert_eq!(immuta(&body), jdoe(None), "{unset}");
        }
        let body = r#"{"iamid":"bim","userid":"jdoe","profile":{"externalUserIds":{"postgresqlUser":"sales"}}}"#;
        assert_eq!(immuta(body), jdoe(Some("sales")));
        assert_eq!(immuta(r#"{"iamid":"bim","userid":"jdoe","disabled":true}"#), Ok(Word::Inactive));
    }

    #[test]
    fn an_answer_of_another_shape_is_nonsense() {
        for bad in [
            "",
            "null",
            "7",
            "[]",
            "{}",
            "<html>",
            r#"{"iamid":"bim"}"#,
            r#"{"userid":"jdoe"}"#,
            r#"{"iamid":"bim","userid":""}"#,
            r#"{"iamid":"bim","userid":7}"#,
            r#"{"iamid":"bim","userid":["jdoe"]}"#,
            r#"{"iamid":"bim","userid":"jd\u0000oe"}"#,
            r#"{"iamid":"bim","userid":"jdoe","disabled":"no"}"#,
            r#"{"iamid":"bim","userid":"jdoe","profile":"x"}"#,
            r#"{"iamid":"bim","userid":"jdoe","profile":{"externalUserIds":{"postgresqlUser":7}}}"#,
            r#"{"iamid":"bim","userid":"jdoe","userid":"root"}"#,
            r#"{"iamid":"bim","userid":"jdoe"} trailing"#,
        ] {
            assert!(immuta(bad).is_err(), "{bad}");
        }
        let long = format!(r#"{{"iamid":"bim","userid":"{}"}}"#, "x".repeat(256));
        assert!(immuta(&long).is_err());
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let nested = |depth| format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let deep = |depth| format!(r#"{{"iamid":"bim","userid":"jdoe","x":{}}}"#, nested(depth));
            assert_eq!(immuta(&deep(100)), jdoe(None));
            assert!(immuta(&deep(128)).is_err() && immuta(&deep(100_000)).is_err());
        }
        assert!(immuta_user(b"{\"iamid\":\"bim\",\"userid\":\"\xff\"}", "a").is_err());
    }

    fn introspect(body: &str) -> Result<Word, Nonsense> {
        introspection(body.as_bytes(), &["username".into(), "sub".into()])
    }

    fn of(issuer: &str, userid: &str, expires: Option<i64>) -> Result<Word, Nonsense> {
        let subject =
            Subject { authority: Authority::Issuer(issuer.into()), userid: userid.into(), role_name: None };
        Ok(Word::Active(subject, expires.map(Timestamp)))
    }

    #[test]
    fn the_user_is_the_first_claim_that_is_there() {
        assert_eq!(introspect(r#"{"active":true,"username":"jdoe","sub":"1"}"#), of("", "jdoe", None));
        assert_eq!(
            introspect(r#"{"active":true,"username":null,"sub":"1","iss":"https://i"}"#),
            of("https://i", "1", None)
        );
        assert_eq!(introspect(r#"{"active":true,"client_id":"c"}"#), Ok(Word::Nobody));
    }

    #[test]
    fn the_expiry_may_be_of_any_kind_of_number() {
        assert_eq!(introspect(r#"{"active":true,"sub":"1","exp":946684801}"#), of("", "1", Some(1_000_000)));
        assert_eq!(introspect(r#"{"active":true,"sub":"1","exp":946684801.5}"#), of("", "1", Some(1_500_000)));
        assert!(introspect(r#"{"active":true,"sub":"1","exp":"946684801"}"#).is_err());
    }

    #[test]
    fn an_inactive_token_needs_nothing_else() {
        assert_eq!(introspect(r#"{"active":false}"#), Ok(Word::Inactive));
        for bad in ["{}", r#"{"active":"true"}"#, r#"{"active":1}"#, r#"{"active":false,"active":true,"sub":"1"}"#]
        {
            assert!(introspect(bad).is_err(), "{bad}");
        }
    }
}
