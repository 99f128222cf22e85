//! Changes of who has access to what, while it is not known yet whether they stay.

use crate::core::audit::{MAX_TEXT_BYTES, Object};
use crate::core::identity::Identity;
use serde::{Serialize, Serializer};
use serde_json::Value;

/// So many wait for the end of their transaction. What comes after them is recorded at once, whatever becomes of it.
const MAX_WAITING: usize = 10_000;

/// A change of who has access to what.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct AccessChange {
    pub action: Action,
    /// The table of ours that says so.
    pub subject: String,
    /// Whose access it is.
    pub user: Option<Identity>,
    /// To what.
    pub source: Option<Object>,
    /// What was said before and is said now.
    pub before: Said,
    pub after: Said,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Create,
    Update,
    Delete,
}

impl Action {
    /// As triggers call it.
    pub fn of(operation: &str) -> Action {
        match operation {
            "INSERT" => Action::Create,
            "DELETE" => Action::Delete,
            _ => Action::Update,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Action::Create => "CREATE",
            Action::Update => "UPDATE",
            Action::Delete => "DELETE",
        }
    }
}

/// An object of JSON, or nothing.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Said(Option<String>);

impl Said {
    pub fn of(json: Option<String>) -> Said {
        Said(json)
    }

    /// A record is no place for more; see [`MAX_TEXT_BYTES`].
    pub fn is_too_long(&self) -> bool {
        self.0.as_ref().is_some_and(|json| json.len() > MAX_TEXT_BYTES)
    }
}

impl Serialize for Said {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let json = self.0.as_deref().filter(|_| !self.is_too_long());
        json.and_then(|json| serde_json::from_str(json).ok()).unwrap_or(Value::Null).serialize(to)
    }
}

/// Those of a transaction, each with the level of the subtransaction that made it.
#[derive(Default)]
pub struct Waiting(Vec<(i32, AccessChange)>);

impl Waiting {
    pub const fn new() -> Waiting {
        Waiting(Vec::new())
    }

    /// Takes it in, or gives it back if there is no room.
    pub fn add(&mut self, level: i32, change: AccessChange) -> Option<AccessChange> {
        if self.0.len() >= MAX_WAITING {
            return Some(change);
        }
        self.0.push((level, change));
        None
    }

    /// The subtransaction of this level committed into its parent.
    pub fn commit(&mut self, level: i32) {
        self.0.iter_mut().rev().take_while(|(of, _)| *of >= level).for_each(|(of, _)| *of = level - 1);
    }

    /// It was rolled back.
    pub fn abort(&mut self, level: i32) {
        let stay = self.0.iter().rposition(|(of, _)| *of < level).map_or(0, |at| at + 1);
        self.0.truncate(stay);
    }

    pub fn take(&mut self) -> impl Iterator<Item = AccessChange> + use<> {
        std::mem::take(&mut self.0).into_iter().map(|(_, change)| change)
    }

    pub fn clear(&mut self) {
        self.0 = Vec::new();
    }

    #[cfg(feature = "inject")]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(subject: &str) -> AccessChange {
        let (before, after) = (Said::of(None), Said::of(Some("{\"a\": 1}".into())));
        AccessChange { action: Action::Create, subject: subject.into(), user: None, source: None, before, after }
    }

    fn left(mut waiting: Waiting) -> String {
        waiting.take().map(|change| change.subject).collect()
    }

    #[test]
    fn what_was_rolled_back_is_forgotten() {
        let mut waiting = Waiting::new();
        for (level, subject) in [(1, "a"), (2, "b"), (3, "c")] {
            assert!(waiting.add(level, change(subject)).is_none());
        }
        waiting.commit(3);
        assert!(waiting.add(3, change("d")).is_none());
        waiting.abort(3);
        assert!(waiting.add(2, change("e")).is_none());
        waiting.commit(2);
        // A savepoint in which nothing happened.
        waiting.abort(2);
        assert_eq!(left(waiting), "abce");

        let mut waiting = Waiting::new();
        assert!(waiting.add(1, change("a")).is_none());
        assert!(waiting.add(3, change("b")).is_none());
        waiting.commit(3);
        waiting.abort(2);
        assert_eq!(left(waiting), "a");
    }

    #[test]
    fn so_many_wait() {
        let mut waiting = Waiting::new();
        assert!((0..MAX_WAITING).all(|_| waiting.add(1, change("a")).is_none()));
        assert_eq!(waiting.add(1, change("b")), Some(change("b")));
        waiting.clear();
        assert!(waiting.add(1, change("b")).is_none());
    }

    #[test]
    fn what_is_too_long_is_left_out() {
        let written = |json: &str| serde_json::to_string(&Said::of(Some(json.into()))).unwrap_or_default();
        assert_eq!(written("{\"a\": [1, null]}"), "{\"a\":[1,null]}");
        assert_eq!(written(&format!("\"{}\"", "x".repeat(MAX_TEXT_BYTES))), "null");
        assert_eq!(written("no json"), "null");
    }
}
