//! Recording that a token was used, so that its idle time to live counts uses in every session.

use crate::config;
use crate::core::time::{Timestamp, recording_interval};
use crate::core::token::Digest;
use crate::pg::{catalog, table, worker, xact};
use serde::Serialize;

/// What a worker is asked to do; see `immuta.perform()`.
#[derive(Serialize)]
#[serde(tag = "job", rename_all = "snake_case")]
pub enum Job {
    /// A token was used at `at` (microseconds since 2000-01-01); not to be written again within `within`.
    TokenUsed { id: i64, at: i64, within: i64 },
    /// A password did not match.
    LoginFailed { id: i64 },
}

impl Job {
    fn launch(&self, wait: bool) -> bool {
        serde_json::to_string(self).is_ok_and(|text| worker::launch(&text, wait))
    }
}

/// Records the use if a twelfth of the time to live has passed since the last record, whichever session made that.
/// Returns the use now known to stand, or about to stand, in the table. Never an error: what cannot be recorded now
/// is tried again.
pub fn record(digest: &Digest, token_id: i64, recorded: Timestamp, now: Timestamp) -> Timestamp {
    let ttl = config::token_idle_ttl();
    let interval = recording_interval(ttl);
    if !now.is_past(recorded, interval) || xact::is_standby() {
        return recorded;
    }
    let stored = catalog::installation()
        .and_then(|installed| table::token_by_digest(&installed, digest))
        .map_or(recorded, |token| token.last_used);
    if !now.is_past(stored, interval) {
        return stored;
    }
    let within = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX);
    let job = Job::TokenUsed { id: token_id, at: now.0, within };
    if job.launch(false) { now } else { recorded }
}

/// Records a failed login and waits until that is durable: an attempt must count even if its transaction rolls back.
pub fn record_failed_login(user_id: i64) -> bool {
    !xact::is_standby() && Job::LoginFailed { id: user_id }.launch(true)
}
