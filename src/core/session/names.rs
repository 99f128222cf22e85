//! Which statements had their names looked up by whom.
//!
//! PostgreSQL checks USAGE of a schema when it looks a name up. A cached plan skips that: its names were looked up
//! in another user's time. What the current user has looked up themselves needs no second check.

use foldhash::quality::RandomState;
use std::collections::HashSet;
use std::hash::{BuildHasher, Hash, Hasher};

/// Beyond this many statements the memory starts anew.
const CAPACITY: usize = 1024;

/// One statement, looked up by one role under one search path.
pub struct LookUp<'a> {
    /// Its text, without what else the client or function sent: looking at all of that for each statement would take a
    /// time that is quadratic in their number. Empty if it is not known.
    pub statement: &'a [u8],
    pub search_path: &'a [u8],
    pub role: u32,
}

impl Hash for LookUp<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.statement.hash(state);
        self.search_path.hash(state);
        state.write_u32(self.role);
    }
}

#[derive(Default)]
pub struct LookedUp {
    generation: u64,
    /// Hashes under random keys of this session: nobody can choose a text that collides with another.
    known: HashSet<u64, RandomState>,
    keys: RandomState,
}

impl LookedUp {
    /// The statement's names were looked up. What was known of an older catalog generation is forgotten.
    pub fn remember(&mut self, look_up: &LookUp, generation: u64) {
        if self.generation != generation || self.known.len() >= CAPACITY {
            self.known.clear();
            self.generation = generation;
        }
        let key = self.keys.hash_one(look_up);
        self.known.insert(key);
    }

    pub fn knows(&self, look_up: &LookUp, generation: u64) -> bool {
        self.generation == generation
            && !look_up.statement.is_empty()
            && self.known.contains(&self.keys.hash_one(look_up))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(role: u32) -> LookUp<'static> {
        LookUp { statement: b"SELECT 2", search_path: b"public", role }
    }

    #[test]
    fn every_part_counts() {
        let mut names = LookedUp::default();
        names.remember(&look_up(1), 5);
        assert!(names.knows(&look_up(1), 5));
        let others = [
            look_up(2),
            LookUp { search_path: b"app", ..look_up(1) },
            LookUp { statement: b"SELECT 3", ..look_up(1) },
        ];
        assert!(others.iter().all(|other| !names.knows(other, 5)));
    }

    #[test]
    fn an_unknown_text_is_none_that_was_looked_up() {
        let mut names = LookedUp::default();
        let unknown = LookUp { statement: b"", ..look_up(1) };
        names.remember(&unknown, 5);
        assert!(!names.knows(&unknown, 5));
    }

    #[test]
    fn another_generation_knows_nothing() {
        let mut names = LookedUp::default();
        names.remember(&look_up(1), 5);
        assert!(!names.knows(&look_up(1), 6));
        names.remember(&look_up(2), 6);
        assert!(!names.knows(&look_up(1), 6));
        assert!(!names.knows(&look_up(1), 5));
    }

    #[test]
    fn it_does_not_grow_without_bound() {
        let mut names = LookedUp::default();
        for role in 0..10_000 {
            names.remember(&look_up(role), 1);
        }
        assert!(names.known.len() <= CAPACITY);
        assert!(names.knows(&look_up(9_999), 1));
    }
}
