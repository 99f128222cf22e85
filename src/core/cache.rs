//! The backend-local token cache: bounded, least recently used out first, keyed by digest.

use super::identity::{Identity, Provider};
use super::time::Timestamp;
use super::token::{BuildDigestHasher, Digest};
use lru::LruCache;
use std::rc::Rc;

/// What is remembered of a resolved token.
#[derive(Clone)]
pub struct Entry {
    pub identity: Rc<Identity>,
    pub provider: Provider,
    /// OID of the mapped role.
    pub role: u32,
    pub token_id: i64,
    /// Last use that this backend knows of.
    pub last_used: Timestamp,
    /// Last use that is known to stand in the token table.
    pub recorded: Timestamp,
    /// When the provider last vouched for it.
    pub validated: Timestamp,
    /// Catalog generation and impersonator for which the mapping was checked.
    pub generation: u64,
    pub impersonator: u32,
}

pub struct Cache {
    entries: LruCache<Digest, Entry, BuildDigestHasher>,
}

impl Default for Cache {
    fn default() -> Self {
        Cache { entries: LruCache::unbounded_with_hasher(BuildDigestHasher::default()) }
    }
}

impl Cache {
    /// The entry of this token, which becomes the most recently used one.
    pub fn get(&mut self, digest: &Digest) -> Option<&Entry> {
        self.entries.get(digest)
    }

    /// The entry of this token, without counting that as a use.
    pub fn peek(&self, digest: &Digest) -> Option<&Entry> {
        self.entries.peek(digest)
    }

    /// Adds or replaces an entry and evicts the least recently used ones beyond `capacity` (at least 1).
    pub fn insert(&mut self, digest: Digest, entry: Entry, capacity: usize) {
        self.entries.put(digest, entry);
        while self.entries.len() > capacity.max(1) {
            self.entries.pop_lru();
        }
    }

    pub fn remove(&mut self, digest: &Digest) {
        self.entries.pop(digest);
    }

    /// Notes a use. Neither allocates nor reorders, so that it may be called while a transaction aborts.
    pub fn touch(&mut self, digest: &Digest, last_used: Timestamp, recorded: Timestamp) {
        if let Some(entry) = self.entries.peek_mut(digest) {
            entry.last_used = last_used;
            entry.recorded = recorded;
        }
    }

    pub fn clear(&mut self) -> usize {
        let count = self.entries.len();
        self.entries.clear();
        count
    }

    /// Most recently used first.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().map(|(_, entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(userid: &str) -> Entry {
        Entry {
            identity: Rc::new(Identity { iamid: "bim".into(), userid: userid.into() }),
            provider: Provider::Local,
            role: 1,
            token_id: 1,
            last_used: Timestamp(0),
            recorded: Timestamp(0),
            validated: Timestamp(0),
            generation: 0,
            impersonator: 2,
        }
    }

    fn users(cache: &Cache) -> Vec<String> {
        cache.entries().map(|e| e.identity.userid.clone()).collect()
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut cache = Cache::default();
        let (a, b, c) = (Digest::of(b"a"), Digest::of(b"b"), Digest::of(b"c"));
        cache.insert(a, entry("a"), 2);
        cache.insert(b, entry("b"), 2);
        assert!(cache.get(&a).is_some());
        cache.insert(c, entry("c"), 2);
        assert_eq!(users(&cache), ["c", "a"]);
        assert!(cache.get(&b).is_none());
    }

    #[test]
    fn a_smaller_capacity_takes_effect_with_the_next_entry() {
        let mut cache = Cache::default();
        for i in 0..100u8 {
            cache.insert(Digest::of(&[i]), entry("x"), 100);
        }
        cache.insert(Digest::of(b"last"), entry("last"), 0);
        assert_eq!(users(&cache), ["last"]);
    }

    #[test]
    fn touching_notes_the_use_but_keeps_the_order() {
        let mut cache = Cache::default();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        cache.insert(a, entry("a"), 9);
        cache.insert(b, entry("b"), 9);
        cache.touch(&a, Timestamp(7), Timestamp(5));
        assert_eq!(users(&cache), ["b", "a"]);
        let noted = cache.get(&a).map(|e| (e.last_used, e.recorded));
        assert_eq!(noted, Some((Timestamp(7), Timestamp(5))));
        assert_eq!(cache.clear(), 2);
    }
}
