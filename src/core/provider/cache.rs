//! The backend-local token cache: bounded, least recently used out first, keyed by digest.

use crate::core::identity::{Identity, Provider, RoleName, Subject};
use crate::core::provider::jwt::claims::Claims;
use crate::core::time::{self, Timestamp};
use crate::core::token::{BuildDigestHasher, Digest};
use lru::LruCache;
use std::rc::Rc;
use std::time::Duration;

/// How long a provider's word counts.
#[derive(Clone, Copy)]
pub struct Limits {
    /// A token dies this long after its last use.
    pub idle_ttl: Duration,
    /// The provider is asked again after this time; zero: in every transaction.
    pub revalidate: Duration,
    /// How much longer its last answer serves while it cannot be reached.
    pub grace: Duration,
}

/// What a provider answered about a token that is active.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolution {
    pub provider: Provider,
    pub subject: Subject,
    /// Last use that the provider knows of.
    pub last_used: Timestamp,
    /// When the provider said so.
    pub validated: Timestamp,
    /// When the token ends whatever its use, if the provider says so.
    pub expires: Option<Timestamp>,
    /// Key of the row in the token table; 0 for tokens that have none.
    pub token_id: i64,
    /// What the token itself says of its user.
    pub claims: Option<Rc<Claims>>,
}

/// What is remembered of a provider's answer.
#[derive(Clone)]
pub struct Answer {
    pub provider: Provider,
    /// The user as the provider describes them.
    pub subject: Rc<Subject>,
    pub claims: Option<Rc<Claims>>,
    pub token_id: i64,
    /// Last use that this backend knows of.
    pub last_used: Timestamp,
    /// Last use that is known to stand in the token table.
    pub recorded: Timestamp,
    /// When the provider last vouched for it.
    pub validated: Timestamp,
    /// When it ends whatever its use.
    pub expires: Option<Timestamp>,
}

/// An answer, and what this database makes of it.
#[derive(Clone)]
pub struct Resolved {
    pub answer: Answer,
    pub identity: Rc<Identity>,
    /// OID of the mapped role.
    pub role: u32,
    pub role_name: Rc<RoleName>,
    /// When the first of the user's subscriptions ends.
    pub subscriptions_end: Option<Timestamp>,
    /// Catalog generation and impersonator for which the mapping was checked.
    pub generation: u64,
    pub impersonator: u32,
}

impl Resolved {
    /// Whether the mapping still holds.
    pub fn is_current(&self, generation: u64, impersonator: u32, now: Timestamp) -> bool {
        self.generation == generation
            && self.impersonator == impersonator
            && self.subscriptions_end.is_none_or(|end| now < end)
    }
}

impl Answer {
    /// What was said at `now`, when the token is used.
    pub fn of(resolution: Resolution, now: Timestamp) -> Answer {
        Answer {
            provider: resolution.provider,
            subject: Rc::new(resolution.subject),
            claims: resolution.claims,
            token_id: resolution.token_id,
            last_used: now,
            recorded: resolution.last_used,
            validated: resolution.validated,
            expires: resolution.expires,
        }
    }

    /// Whether the token may be used at `now` without asking its provider again.
    pub fn is_fresh(&self, now: Timestamp, limits: &Limits) -> bool {
        !now.is_past(self.validated, limits.revalidate)
            && time::is_in_force(self.last_used, self.expires, now, limits.idle_ttl)
    }

    /// Whether the last answer may serve at `now` although the provider cannot be reached. What it does not hear of
    /// keeps no token alive there: the idle time to live counts from that answer.
    pub fn may_serve(&self, now: Timestamp, limits: &Limits) -> bool {
        !now.is_past(self.validated, limits.revalidate.saturating_add(limits.grace))
            && time::is_in_force(self.validated, self.expires, now, limits.idle_ttl)
    }
}

pub struct Cache {
    entries: LruCache<Digest, Resolved, BuildDigestHasher>,
}

impl Default for Cache {
    fn default() -> Self {
        Cache { entries: LruCache::unbounded_with_hasher(BuildDigestHasher::default()) }
    }
}

impl Cache {
    /// The entry of this token, which becomes the most recently used one.
    pub fn get(&mut self, digest: &Digest) -> Option<&Resolved> {
        self.entries.get(digest)
    }

    /// The entry of this token, without counting that as a use.
    pub fn peek(&self, digest: &Digest) -> Option<&Resolved> {
        self.entries.peek(digest)
    }

    /// Adds or replaces an entry and evicts the least recently used ones beyond `capacity` (at least 1); how many.
    pub fn insert(&mut self, digest: Digest, entry: Resolved, capacity: usize) -> u64 {
        self.entries.put(digest, entry);
        let mut evicted = 0;
        while self.entries.len() > capacity.max(1) {
            self.entries.pop_lru();
            evicted += 1;
        }
        evicted
    }

    pub fn remove(&mut self, digest: &Digest) {
        self.entries.pop(digest);
    }

    /// Notes a use. Neither allocates nor reorders, so that it may be called while a transaction aborts.
    pub fn touch(&mut self, digest: &Digest, last_used: Timestamp, recorded: Timestamp) {
        if let Some(entry) = self.entries.peek_mut(digest) {
            entry.answer.last_used = last_used;
            entry.answer.recorded = recorded;
        }
    }

    pub fn clear(&mut self) -> usize {
        let count = self.entries.len();
        self.entries.clear();
        count
    }

    /// Most recently used first.
    pub fn entries(&self) -> impl Iterator<Item = &Resolved> {
        self.entries.iter().map(|(_, entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::identity::Authority;

    const SECOND: i64 = 1_000_000;

    fn limits(revalidate: u64, grace: u64) -> Limits {
        let seconds = Duration::from_secs;
        Limits { idle_ttl: seconds(3600), revalidate: seconds(revalidate), grace: seconds(grace) }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp(second * SECOND)
    }

    fn answer(userid: &str) -> Answer {
        let authority = Authority::Iam("bim".into());
        Answer {
            subject: Rc::new(Subject { authority, userid: userid.into(), role_name: None }),
            provider: Provider::Local,
            claims: None,
            token_id: 1,
            last_used: Timestamp(0),
            recorded: Timestamp(0),
            validated: Timestamp(0),
            expires: None,
        }
    }

    fn entry(userid: &str) -> Resolved {
        let identity = Rc::new(Identity { iamid: "bim".into(), userid: userid.into() });
        let answer = answer(userid);
        Resolved {
            answer,
            identity,
            role: 1,
            role_name: Rc::default(),
            subscriptions_end: None,
            generation: 3,
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
        assert_eq!(cache.insert(Digest::of(b"last"), entry("last"), 0), 100);
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
        let noted = cache.get(&a).map(|e| (e.answer.last_used, e.answer.recorded));
        assert_eq!(noted, Some((Timestamp(7), Timestamp(5))));
        assert_eq!(cache.clear(), 2);
    }

    #[test]
    fn an_answer_is_fresh_until_it_is_to_be_asked_for_again() {
        let answer = answer("a");
        assert!(answer.is_fresh(at(299), &limits(300, 0)));
        assert!(!answer.is_fresh(at(300), &limits(300, 0)));
        assert!(!answer.is_fresh(at(0), &limits(0, 0)), "zero asks every time");
        assert!(!answer.is_fresh(at(3600), &limits(7200, 0)), "the idle time to live comes first");
        let ends = Answer { expires: Some(at(100)), ..self::answer("b") };
        assert!(ends.is_fresh(at(99), &limits(300, 0)) && !ends.is_fresh(at(100), &limits(300, 0)));
    }

    #[test]
    fn grace_ends_with_its_time_with_the_token_and_with_the_idle_time_to_live() {
        let used = Answer { last_used: at(3000), ..answer("a") };
        assert!(used.may_serve(at(359), &limits(300, 60)));
        assert!(!used.may_serve(at(360), &limits(300, 60)));
        assert!(!used.may_serve(at(300), &limits(300, 0)), "no grace by default");
        assert!(used.may_serve(at(3599), &limits(300, 86400)));
        assert!(!used.may_serve(at(3600), &limits(300, 86400)), "uses the provider never heard of do not count");
        let ends = Answer { expires: Some(at(310)), ..answer("b") };
        assert!(ends.may_serve(at(309), &limits(300, 60)) && !ends.may_serve(at(310), &limits(300, 60)));
    }

    #[test]
    fn a_mapping_holds_for_its_generation_impersonator_and_subscriptions() {
        let ends = Resolved { subscriptions_end: Some(at(10)), ..entry("a") };
        assert!(ends.is_current(3, 2, at(9)));
        assert!(!ends.is_current(4, 2, at(9)) && !ends.is_current(3, 1, at(9)) && !ends.is_current(3, 2, at(10)));
    }
}
