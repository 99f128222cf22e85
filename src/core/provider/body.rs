//! JSON objects of which single members are read, strictly, and the others skipped.

use crate::core::identity::Identity;
use crate::core::provider::answers::Nonsense;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

const WRONG_TYPE: Nonsense = "has a member of the wrong type";

/// A JSON object. Each look goes for one member and reads nothing else: the others need only be JSON, whatever a user
/// may have written into them.
pub struct Body<'a>(pub &'a [u8]);

impl Body<'_> {
    /// The member at the end of this path, which must not be there twice; `None` if it, or an object on the way, is
    /// missing or null.
    fn find(&self, path: &[&str]) -> Result<Option<Claim>, Nonsense> {
        let mut source = serde_json::Deserializer::from_slice(self.0);
        let found = Member(path).deserialize(&mut source);
        let found = found.and_then(|found| source.end().map(|()| found));
        found.map_err(|_| "is not the JSON object it should be")
    }

    pub fn text(&self, path: &[&str]) -> Result<Option<String>, Nonsense> {
        match self.find(path)? {
            Some(Claim::Text(text)) => Ok(Some(text)),
            Some(_) => Err(WRONG_TYPE),
            None => Ok(None),
        }
    }

    /// A text, or several in a list.
    pub fn texts(&self, name: &str) -> Result<Vec<String>, Nonsense> {
        match self.find(&[name])? {
            Some(Claim::Text(text)) => Ok(vec![text]),
            Some(Claim::Texts(texts)) => Ok(texts),
            Some(_) => Err(WRONG_TYPE),
            None => Ok(Vec::new()),
        }
    }

    /// A text that names somebody; an empty one names nobody.
    pub fn name(&self, path: &[&str]) -> Result<Option<String>, Nonsense> {
        match self.text(path)? {
            Some(text) if text.is_empty() => Ok(None),
            Some(text) if !Identity::is_well_formed(&text) => Err("has a name that cannot be one"),
            text => Ok(text),
        }
    }

    pub fn flag(&self, name: &str) -> Result<Option<bool>, Nonsense> {
        match self.find(&[name])? {
            Some(Claim::Flag(flag)) => Ok(Some(flag)),
            Some(_) => Err(WRONG_TYPE),
            None => Ok(None),
        }
    }

    pub fn number(&self, name: &str) -> Result<Option<f64>, Nonsense> {
        match self.find(&[name])? {
            Some(Claim::Number(number)) => Ok(Some(number)),
            Some(_) => Err(WRONG_TYPE),
            None => Ok(None),
        }
    }
}

/// The member at the end of a path.
struct Member<'a>(&'a [&'a str]);

impl<'de> DeserializeSeed<'de> for Member<'_> {
    type Value = Option<Claim>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Claim>, D::Error> {
        if self.0.is_empty() { Option::deserialize(deserializer) } else { deserializer.deserialize_any(self) }
    }
}

impl<'de> Visitor<'de> for Member<'_> {
    type Value = Option<Claim>;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_unit<E>(self) -> Result<Option<Claim>, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Option<Claim>, A::Error> {
        let (mut found, mut is_found) = (None, false);
        let Some((name, rest)) = self.0.split_first() else { return Ok(None) };
        while let Some(is_it) = object.next_key_seed(IsCalled(name))? {
            if !is_it {
                // Skipped without recursion, so that its depth does not matter.
                object.next_value::<IgnoredAny>()?;
            } else if is_found {
                return Err(A::Error::custom("duplicate member"));
            } else {
                is_found = true;
                found = object.next_value_seed(Member(rest))?;
            }
        }
        Ok(found)
    }
}

/// Whether a member has this name. Names of others may be no text (lone surrogates).
struct IsCalled<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for IsCalled<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_bytes(self)
    }
}

impl Visitor<'_> for IsCalled<'_> {
    type Value = bool;

    fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str("a name")
    }

    fn visit_bytes<E>(self, name: &[u8]) -> Result<bool, E> {
        Ok(name == self.0.as_bytes())
    }
}

/// The value of a member that counts. Nothing that counts is an object, or a list of anything but texts.
enum Claim {
    Text(String),
    Texts(Vec<String>),
    Number(f64),
    Flag(bool),
    Other,
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

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Claim, A::Error> {
        let (mut texts, mut is_of_texts) = (Vec::new(), true);
        while let Some(element) = list.next_element::<Claim>()? {
            match element {
                Claim::Text(text) if is_of_texts => texts.push(text),
                _ => is_of_texts = false,
            }
        }
        Ok(if is_of_texts { Claim::Texts(texts) } else { Claim::Other })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Claim, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Claim::Other)
    }
}
