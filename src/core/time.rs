//! Instants as PostgreSQL counts them, and the idle time to live.

use std::time::Duration;

/// Microseconds since 2000-01-01 00:00 UTC (PostgreSQL's `TimestampTz`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    pub fn plus(self, span: Duration) -> Timestamp {
        Timestamp(self.0.saturating_add(micros(span)))
    }

    /// Microseconds since 1970.
    pub fn to_unix_micros(self) -> i64 {
        const UNIX_EPOCH: i64 = 946_684_800_000_000;
        self.0.saturating_add(UNIX_EPOCH)
    }

    /// Milliseconds since 1970.
    pub fn to_unix_millis(self) -> i64 {
        self.to_unix_micros().div_euclid(1000)
    }

    /// From seconds since 1970 (RFC 7519, `NumericDate`); beyond what can be counted is for ever, or long ago.
    pub fn from_unix(seconds: f64) -> Timestamp {
        const UNIX_EPOCH: f64 = 946_684_800.0;
        Timestamp(((seconds - UNIX_EPOCH) * 1e6) as i64)
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

/// Whether a token last used at `last_used` may be used at `now`: it is alive under the idle time to live and has not
/// come to the end that its provider set.
pub fn is_in_force(last_used: Timestamp, expires: Option<Timestamp>, now: Timestamp, idle_ttl: Duration) -> bool {
    is_alive(last_used, now, idle_ttl) && expires.is_none_or(|end| now < end)
}

/// When a token dies if it is not used again.
pub fn end_of_life(last_used: Timestamp, expires: Option<Timestamp>, idle_ttl: Duration) -> Timestamp {
    let idle_end = last_used.plus(idle_ttl);
    expires.map_or(idle_end, |end| end.min(idle_end))
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
    fn an_end_set_by_the_provider_comes_before_the_idle_time_to_live() {
        let end = Some(Timestamp(30 * MINUTE));
        assert!(is_in_force(Timestamp(0), end, Timestamp(30 * MINUTE - 1), HOUR));
        assert!(!is_in_force(Timestamp(0), end, Timestamp(30 * MINUTE), HOUR));
        assert!(!is_in_force(Timestamp(0), Some(Timestamp(90 * MINUTE)), Timestamp(60 * MINUTE), HOUR));
        assert_eq!(end_of_life(Timestamp(0), end, HOUR), Timestamp(30 * MINUTE));
        assert_eq!(end_of_life(Timestamp(0), None, HOUR), Timestamp(60 * MINUTE));
    }

    #[test]
    fn unix_time_is_thirty_years_older() {
        assert_eq!(Timestamp::from_unix(946_684_800.5), Timestamp(500_000));
        assert_eq!(Timestamp::from_unix(0.0), Timestamp(-946_684_800_000_000));
        assert_eq!(Timestamp::from_unix(1e300), Timestamp(i64::MAX));
        assert_eq!(Timestamp::from_unix(-1e300), Timestamp(i64::MIN));
    }

    #[test]
    fn extremes_do_not_overflow() {
        assert!(!is_alive(Timestamp(i64::MIN), Timestamp(i64::MAX), HOUR));
        assert!(!is_alive(Timestamp(i64::MAX), Timestamp(i64::MIN), HOUR));
        assert_eq!(Timestamp(i64::MAX).plus(HOUR), Timestamp(i64::MAX));
    }
}
