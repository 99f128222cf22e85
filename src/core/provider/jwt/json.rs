//! JSON in which a member that is there twice is not there at all.

use super::fault::Fault;
use crate::core::identity::Identity;
use crate::core::time::Timestamp;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Serialize, Serializer};
use serde_json::Number;
use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Flag(bool),
    Number(Number),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
    /// An object with a member twice: one reader would take the first, another the last.
    Ambiguous,
}

impl Json {
    /// The whole text is one JSON value, in UTF-8, nested 127 deep at most.
    pub fn read(text: &[u8]) -> Option<Json> {
        serde_json::from_slice(text).ok()
    }

    /// A member that is there and not null.
    pub fn member(&self, name: &str) -> Option<&Json> {
        let Json::Object(members) = self else { return None };
        members
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value)
            .filter(|value| **value != Json::Null)
    }

    pub fn text(&self) -> Option<&str> {
        if let Json::Text(text) = self { Some(text) } else { None }
    }

    pub fn number(&self) -> Option<f64> {
        if let Json::Number(number) = self { number.as_f64() } else { None }
    }

    pub fn list(&self) -> Option<&[Json]> {
        if let Json::List(list) = self { Some(list) } else { None }
    }

    pub fn members(&self) -> Option<&[(String, Json)]> {
        if let Json::Object(members) = self { Some(members) } else { None }
    }

    /// A text, or several in a list, as `aud` is.
    pub fn texts(&self) -> Option<Vec<&str>> {
        match self {
            Json::Text(text) => Some(vec![text]),
            Json::List(list) => list.iter().map(Json::text).collect(),
            _ => None,
        }
    }
}

/// Where a claim is: a name or, beginning with `/`, a JSON Pointer (RFC 6901).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Path {
    Name(String),
    Pointer(Vec<String>),
}

impl Path {
    pub fn parse(text: &str) -> Option<Path> {
        if text.is_empty() || text.len() > 512 || text.chars().any(char::is_control) {
            return None;
        }
        let Some(rest) = text.strip_prefix('/') else { return Some(Path::Name(text.to_owned())) };
        rest.split('/').map(unescaped).collect::<Option<_>>().map(Path::Pointer)
    }

    /// What is there, unless that is null.
    pub fn of<'a>(&self, claims: &'a Json) -> Option<&'a Json> {
        match self {
            Path::Name(name) => claims.member(name),
            Path::Pointer(steps) => steps.iter().try_fold(claims, |at, step| match at {
                Json::List(list) => {
                    index(step).and_then(|index| list.get(index)).filter(|value| **value != Json::Null)
                }
                _ => at.member(step),
            }),
        }
    }
}

fn unescaped(step: &str) -> Option<String> {
    let mut parts = step.split('~');
    let mut plain = parts.next()?.to_owned();
    for part in parts {
        let (sign, rest) = match part.as_bytes().first()? {
            b'0' => ('~', &part[1..]),
            b'1' => ('/', &part[1..]),
            _ => return None,
        };
        plain.push(sign);
        plain.push_str(rest);
    }
    Some(plain)
}

fn index(step: &str) -> Option<usize> {
    let is_plain = step == "0" || !step.starts_with(['0', '+']);
    step.parse().ok().filter(|_| is_plain)
}

/// A text that can be shown: short and printable.
pub fn name(value: &Json) -> Result<String, Fault> {
    let fits = value.text().filter(|text| Identity::is_well_formed(text));
    fits.map(str::to_owned).ok_or(Fault::ClaimType)
}

/// A time, in seconds since 1970.
pub fn time(claims: &Json, name: &str) -> Result<Option<Timestamp>, Fault> {
    claims.member(name).map(|value| value.number().map(Timestamp::from_unix).ok_or(Fault::ClaimType)).transpose()
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Json, D::Error> {
        from.deserialize_any(Reader)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Json;

    fn expecting(&self, to: &mut fmt::Formatter) -> fmt::Result {
        to.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Json, E> {
        Ok(Json::Flag(flag))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Json, E> {
        Number::from_f64(number).map(Json::Number).ok_or_else(|| E::custom("not a finite number"))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(element) = elements.next_element()? {
            list.push(element);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Json, A::Error> {
        let mut members = Vec::new();
        while let Some(entry) = entries.next_entry::<String, Json>()? {
            members.push(entry);
        }
        let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let is_ambiguous = names.windows(2).any(|pair| pair[0] == pair[1]);
        Ok(if is_ambiguous { Json::Ambiguous } else { Json::Object(members) })
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Json::Null | Json::Ambiguous => to.serialize_unit(),
            Json::Flag(flag) => to.serialize_bool(*flag),
            Json::Number(number) => number.serialize(to),
            Json::Text(text) => to.serialize_str(text),
            Json::List(list) => to.collect_seq(list),
            Json::Object(members) => to.collect_map(members.iter().map(|(name, value)| (name, value))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Json {
        Json::read(text.as_bytes()).unwrap_or(Json::Null)
    }

    #[test]
    fn what_is_there_twice_is_not_there() {
        assert_eq!(read(r#"{"a":1,"a":1}"#), Json::Ambiguous);
        assert_eq!(read(r#"{"sub":"x","s\u0075b":"y"}"#), Json::Ambiguous);
        let nested = read(r#"{"a":{"b":1,"b":2},"c":"d","n":null}"#);
        assert_eq!(nested.member("a"), Some(&Json::Ambiguous));
        assert_eq!(nested.member("c").and_then(Json::text), Some("d"));
        assert_eq!(nested.member("n"), None);
    }

    #[test]
    fn only_json_is_read() {
        let deep = "[".repeat(100_000);
        for bad in
            ["", "{", "{} x", "\u{feff}{}", "1e400", "{\"a\":\"\\ud800\"}", "{a:1}", "[1,]", "\"a\u{0}b\"", &deep]
        {
            assert_eq!(Json::read(bad.as_bytes()), None, "{bad:.20}");
        }
        assert_eq!(Json::read(b"{\"a\":\"\xff\"}"), None);
        assert_eq!(Json::read(b"\xff\xfe{\0}\0"), None, "UTF-16");
    }

    #[test]
    fn a_path_is_a_name_or_a_pointer() {
        let claims = read(r#"{"a":{"b/c":["x",{"~":"y"}],"":"e"},"https://x/g":"z","__proto__":"p","t":"text"}"#);
        let at = |path: &str| {
            Path::parse(path).and_then(|path| path.of(&claims).and_then(Json::text).map(str::to_owned))
        };
        assert_eq!(at("/a/b~1c/0").as_deref(), Some("x"));
        assert_eq!(at("/a/b~1c/1/~0").as_deref(), Some("y"));
        assert_eq!(at("/a/").as_deref(), Some("e"));
        assert_eq!(at("https://x/g").as_deref(), Some("z"));
        assert_eq!(at("__proto__").as_deref(), Some("p"));
        for nowhere in
            ["/a/b~1c/00", "/a/b~1c/-", "/a/b~1c/2", "/a/b~1c/+0", "/t/0", "/t/length", "a/b", "constructor"]
        {
            assert_eq!(at(nowhere), None, "{nowhere}");
        }
        for bad in ["", "/~2", "/a~", "a\nb"] {
            assert_eq!(Path::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn it_is_written_as_it_was() {
        let text = r#"{"a":[1,-2,1.5,true,null,"x"],"b":{}}"#;
        assert_eq!(serde_json::to_string(&read(text)).ok().as_deref(), Some(text));
    }
}
