//! What one backend remembers of tokens that a provider refused, so that whoever retries or guesses does not flood it.

use crate::core::provider::jwt::fault::Fault;
use crate::core::time::Timestamp;
use crate::core::token::{BuildDigestHasher, Digest};
use lru::LruCache;
use std::num::NonZeroUsize;
use std::time::Duration;

/// How many refused tokens are remembered; the oldest go first.
const CAPACITY: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);

/// What the provider said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The token is no (longer a) valid one, or its user is disabled.
    Invalid,
    /// The token's user may not use the service.
    NotAllowed,
    /// The token is valid, but does not suffice.
    Insufficient(Fault),
}

pub struct Refusals {
    known: LruCache<Digest, (Refusal, Timestamp), BuildDigestHasher>,
}

impl Default for Refusals {
    fn default() -> Self {
        Refusals { known: LruCache::with_hasher(CAPACITY, BuildDigestHasher::default()) }
    }
}

impl Refusals {
    pub fn remember(&mut self, digest: Digest, refusal: Refusal, now: Timestamp) {
        self.known.put(digest, (refusal, now));
    }

    /// The refusal of this token, unless that was `ttl` ago.
    pub fn find(&self, digest: &Digest, now: Timestamp, ttl: Duration) -> Option<Refusal> {
        self.known.peek(digest).filter(|(_, since)| !now.is_past(*since, ttl)).map(|(refusal, _)| *refusal)
    }

    pub fn clear(&mut self) {
        self.known.clear();
    }
}

/// Makes failures cost time: the first few nothing, then twice as long each. A quiet minute forgives them.
#[derive(Default)]
pub struct Throttle {
    failures: u32,
    last: Option<Timestamp>,
}

impl Throttle {
    const FREE: u32 = 3;
    const FIRST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(5);
    const FORGIVEN: Duration = Duration::from_secs(60);

    /// Notes a failure; how long its answer is to be held back.
    pub fn failed(&mut self, now: Timestamp) -> Duration {
        if self.last.is_some_and(|last| now.is_past(last, Self::FORGIVEN)) {
            self.failures = 0;
        }
        self.last = Some(now);
        self.failures = self.failures.saturating_add(1);
        match self.failures.checked_sub(Self::FREE + 1) {
            Some(excess) => (Self::FIRST * (1 << excess.min(6))).min(Self::LONGEST),
            None => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const TTL: Duration = Duration::from_secs(5);

    #[test]
    fn a_refusal_is_remembered_for_its_time() {
        let mut refusals = Refusals::default();
        let digest = Digest::of(b"a");
        refusals.remember(digest, Refusal::NotAllowed, Timestamp(0));
        assert_eq!(refusals.find(&digest, Timestamp(5 * SECOND - 1), TTL), Some(Refusal::NotAllowed));
        assert_eq!(refusals.find(&digest, Timestamp(5 * SECOND), TTL), None);
        assert_eq!(refusals.find(&digest, Timestamp(-1), TTL), None, "a clock set back");
        assert_eq!(refusals.find(&digest, Timestamp(0), Duration::ZERO), None, "zero remembers nothing");
        assert_eq!(refusals.find(&Digest::of(b"b"), Timestamp(0), TTL), None);
        refusals.clear();
        assert_eq!(refusals.find(&digest, Timestamp(0), TTL), None);
    }

    #[test]
    fn guesses_do_not_fill_the_memory() {
        let mut refusals = Refusals::default();
        for guess in 0..5000u32 {
            refusals.remember(Digest::of(&guess.to_le_bytes()), Refusal::Invalid, Timestamp(0));
        }
        assert_eq!(refusals.known.len(), CAPACITY.get());
    }

    #[test]
    fn failures_cost_more_and_more_and_are_forgiven() {
        let mut throttle = Throttle::default();
        let millis: Vec<u128> = (0..12).map(|i| throttle.failed(Timestamp(i)).as_millis()).collect();
        assert_eq!(millis, [0, 0, 0, 100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000]);
        assert_eq!(throttle.failed(Timestamp(61 * SECOND)), Duration::ZERO);
    }
}
