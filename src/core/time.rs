//! Instants as PostgreSQL counts them, and the idle time to live.

use std::time::Duration;

/// Microseconds since 2000-01-01 00:00 UTC (PostgreSQL's `TimestampTz`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub fn plus(self, span: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(micros(span)))
    }

    /// Whether at least `span` has gone by since `earlier`. A clock that went back counts as "yes": whatever is
    /// due after a span is then done now, which is always the safe side here (check again, record again).
    pub fn is_past(self, earlier: Timestamp, span: Duration) -> bool {
        let elapsed = self.0.saturating_sub(earlier.0);
        elapsed < 0 || elapsed >= micros(span)
    }
}

/// Whether something last used at `last_used` is still alive at `now` under the idle time to live.
///
/// A last use in the future means that a clock was set back. Up to one recording interval is ordinary skew between
/// servers; beyond that the age is unknown and the answer is no.
pub fn is_alive(last_used: Timestamp, now: Timestamp, idle_ttl: Duration) -> bool {
    let elapsed = now.0.saturating_sub(last_used.0);
    elapsed < micros(idle_ttl) && elapsed >= -micros(recording_interval(idle_ttl))
}

/// How often, at most, activity of one token is written down: every twelfth of its time to live.
pub fn recording_interval(idle_ttl: Duration) -> Duration {
    idle_ttl / 12
}

fn micros(span: Duration) -> i64 {
    i64::try_from(span.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const MINUTE: i64 = 60_000_000;

    #[test]
    fn a_token_dies_one_ttl_after_its_last_use() {
        let used = Timestamp(0);
        assert!(is_alive(used, Timestamp(60 * MINUTE - 1), HOUR));
        assert!(!is_alive(used, Timestamp(60 * MINUTE), HOUR));
    }

    #[test]
    fn a_clock_set_back_fails_closed() {
        assert!(is_alive(Timestamp(5 * MINUTE), Timestamp(0), HOUR));
        assert!(!is_alive(Timestamp(5 * MINUTE + 1), Timestamp(0), HOUR));
    }

    #[test]
    fn what_is_due_is_due_again_when_the_clock_went_back() {
        assert!(!Timestamp(MINUTE).is_past(Timestamp(0), HOUR));
        assert!(Timestamp(60 * MINUTE).is_past(Timestamp(0), HOUR));
        assert!(Timestamp(-1).is_past(Timestamp(0), HOUR));
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert!(!is_alive(Timestamp(i64::MIN), Timestamp(i64::MAX), HOUR));
        assert!(!is_alive(Timestamp(i64::MAX), Timestamp(i64::MIN), HOUR));
        assert_eq!(Timestamp(i64::MAX).plus(HOUR), Timestamp(i64::MAX));
    }
}
