//! Recording that a token was used, so that its idle time to live counts uses in every session, and what else must be
//! written on behalf of a session that must not write.

use crate::core::identity::Identity;
use crate::core::time::{Timestamp, recording_interval};
use crate::core::token::Digest;
use crate::error::Error;
use crate::pg::catalog::{self, Installation, tables};
use crate::pg::job::worker;
use crate::pg::sys::clock;
use crate::settings;
use serde::Serialize;

/// What a worker is asked to do; see `immuta_internal.perform()`.
#[derive(Serialize)]
#[serde(tag = "job", rename_all = "snake_case")]
pub enum Job {
    /// A token was used at `at` (microseconds since 2000-01-01); not to be written again within `within`.
    TokenUsed {
        id: i64,
        at: i64,
        within: i64,
    },
    /// A password is about to be looked at, and counts as wrong until it was right.
    LoginFailed {
        id: i64,
    },
    LoginSucceeded {
        id: i64,
    },
    /// Subscriptions have ended: that is looked at after every job.
    ExpireSubscriptions,
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
    let ttl = settings::token_idle_ttl();
    let interval = recording_interval(ttl);
    if !now.is_past(recorded, interval) || clock::is_standby() {
        return recorded;
    }
    let stored = catalog::installation()
        .and_then(|installed| tables::token_by_digest(&installed, digest))
        .map_or(recorded, |token| token.last_used);
    if !now.is_past(stored, interval) {
        return stored;
    }
    let within = i64::try_from(interval.as_micros()).unwrap_or(i64::MAX);
    let job = Job::TokenUsed { id: token_id, at: now.0, within };
    if job.launch(false) { now } else { recorded }
}

/// Records a login as failed and waits until that is durable: an attempt must count even if its transaction rolls back.
pub fn record_failed_login(user_id: i64) -> bool {
    !clock::is_standby() && Job::LoginFailed { id: user_id }.launch(true)
}

/// It did not fail, nor count the ones before it any longer.
pub fn record_login(user_id: i64) {
    Job::LoginSucceeded { id: user_id }.launch(true);
}

/// Has the user's subscriptions that have ended by now revoked, and waits for that: they must not serve once more.
/// Returns when the next one ends.
pub fn end_subscriptions(
    installed: &Installation,
    identity: &Identity,
    now: Timestamp,
) -> Result<Option<Timestamp>, Error> {
    let Some(account) = tables::user_by_identity(installed, identity) else { return Ok(None) };
    let next_end = || tables::next_end_of_subscription(installed, account.id);
    let is_due = |end: &Option<Timestamp>| end.is_some_and(|end| end <= now);
    let mut next = next_end();
    if is_due(&next) && !clock::is_standby() && Job::ExpireSubscriptions.launch(true) {
        next = next_end();
    }
    if is_due(&next) { Err(Error::SubscriptionEnded) } else { Ok(next) }
}
