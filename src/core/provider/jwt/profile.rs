//! Groups and attributes of a user, where tokens of their issuer say them.

use super::fault::Fault;
use super::json::{Json, name};
use super::policy::Policy;

/// Most groups, and values of an attribute, and attributes.
pub const MAX_ELEMENTS: usize = 1000;

/// The groups, if tokens of this issuer say them; `None` where our own tables do.
pub fn groups(claims: &Json, policy: &Policy) -> Result<Option<Vec<String>>, Fault> {
    let Some(path) = &policy.groups else { return Ok(None) };
    match path.of(claims) {
        Some(Json::List(list)) => names(list).map(Some),
        Some(_) => Err(Fault::ClaimType),
        None if leaves_groups_out(claims) => Err(Fault::Groups),
        None => Ok(Some(Vec::new())),
    }
}

/// How Entra ID says that there are too many.
fn leaves_groups_out(claims: &Json) -> bool {
    let elsewhere = |name: &str| claims.member(name).is_some_and(|sources| sources.member("groups").is_some());
    claims.member("hasgroups").is_some() || claims.member("groups:src1").is_some() || elsewhere("_claim_names")
}

fn names(list: &[Json]) -> Result<Vec<String>, Fault> {
    if list.len() > MAX_ELEMENTS { Err(Fault::ClaimType) } else { list.iter().map(name).collect() }
}

pub type Attributes = Vec<(String, Vec<String>)>;

/// As PostgreSQL reads an array of texts.
pub fn written_groups(groups: &[String]) -> String {
    let quoted = groups.iter().map(|group| format!("\"{}\"", group.replace('\\', r"\\").replace('"', r#"\""#)));
    format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
}

/// As a JSON object of lists.
pub fn written_attributes(attributes: &Attributes) -> String {
    let object: serde_json::Map<_, _> =
        attributes.iter().map(|(name, values)| (name.clone(), values.clone().into())).collect();
    serde_json::Value::Object(object).to_string()
}

/// The attributes, if tokens of this issuer say them; `None` where our own tables do.
pub fn attributes(claims: &Json, policy: &Policy) -> Result<Option<Attributes>, Fault> {
    if policy.attributes.is_none() && policy.attribute_claims.is_empty() {
        return Ok(None);
    }
    let values = |value: &Json| match value {
        Json::Text(_) => Ok(vec![name(value)?]),
        Json::List(list) => names(list),
        _ => Err(Fault::ClaimType),
    };
    let mut found = Vec::new();
    if let Some(object) = policy.attributes.as_ref().and_then(|path| path.of(claims)) {
        let members = object.members().filter(|members| members.len() <= MAX_ELEMENTS).ok_or(Fault::ClaimType)?;
        for (attribute, value) in members {
            if policy.attribute_claims.iter().all(|(other, _)| other != attribute) {
                found.push((name(&Json::Text(attribute.clone()))?, values(value)?));
            }
        }
    }
    for (attribute, path) in &policy.attribute_claims {
        if let Some(value) = path.of(claims) {
            found.push((attribute.clone(), values(value)?));
        }
    }
    Ok(Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_written_as_postgresql_reads_them() {
        assert_eq!(written_groups(&["a".into(), r#"b"\c,{}"#.into()]), r#"{"a","b\"\\c,{}"}"#);
        assert_eq!(written_groups(&[]), "{}");
        let attributes = vec![("a\"".into(), vec!["1".into(), "2".into()]), ("b".into(), Vec::new())];
        assert_eq!(written_attributes(&attributes), r#"{"a\"":["1","2"],"b":[]}"#);
    }
}
