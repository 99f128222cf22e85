//! One answer for the whole server: what one session is told about a token, all know.

use crate::core::provider::cache::{Limits, Resolution};
use crate::core::provider::flight::{Next, Wanting};
use crate::core::provider::outage::Outage;
use crate::core::time::{Timestamp, is_in_force};
use crate::core::token::Digest;
use crate::pg::catalog::{self, Installation};
use crate::pg::shared::answers::{self, AskingTurn, Key, Known, Outcome, Scope};
use crate::pg::sys::{clock, wait};
use crate::pg::{gate, shared};
use crate::provider::Failure;
use crate::settings;
use std::cell::Cell;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

thread_local! {
    /// The scope, and the count of changes of the provider and the extension for which that holds.
    static SCOPE: Cell<Option<(u64, u32, Scope)>> = const { Cell::new(None) };
}

/// What a token is known by to all sessions of this database that have the same provider.
pub fn key(installed: &Installation, digest: &Digest) -> Key {
    Key::new(digest, scope(installed))
}

pub fn scope(installed: &Installation) -> Scope {
    let (provider, extension) = (gate::provider(), installed.user_account);
    match SCOPE.get() {
        Some((at, of, scope)) if (at, of) == (provider, extension) => scope,
        _ => {
            answers::join(settings::shared_token_cache_size());
            let database = u64::from(catalog::database()) << 32 | u64::from(extension);
            let mut text = Vec::new();
            for (name, value) in settings::of_provider() {
                text.extend(name.to_bytes_with_nul());
                text.extend(value.as_deref().unwrap_or_default().to_bytes_with_nul());
            }
            let Digest(sum) = Digest::of(&text);
            let scope = [database, sum.first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))];
            SCOPE.set(Some((provider, extension, scope)));
            scope
        }
    }
}

/// The same, where the scope is known: at the end of a transaction no setting may be looked up.
pub fn known_key(digest: &Digest) -> Option<Key> {
    let (provider, _, scope) = SCOPE.get()?;
    (provider == gate::provider()).then(|| Key::new(digest, scope))
}

/// The answer that another session had, if it counts at `now`; else that of `ask`, which then one session runs at a time. The
/// token was last used at `used`.
pub fn ask(
    key: &Key,
    limits: &Limits,
    now: Timestamp,
    used: Timestamp,
    ask: impl FnOnce() -> Result<Resolution, Failure>,
) -> Result<Resolution, Failure> {
    let turn = if limits.revalidate.is_zero() || !answers::are_shared() {
        None
    } else {
        match wait(key, limits, now)? {
            Waited::Known(known) => return Ok(known),
            Waited::Asks(turn) => turn,
        }
    };
    let answer = ask();
    match (&answer, turn) {
        (Ok(Resolution { provider, subject, validated, expires, .. }), Some(turn)) => {
            let (provider, subject, validated) = (*provider, subject.clone(), *validated);
            turn.finish(Outcome::Known(&Known {
                provider,
                subject,
                validated,
                expires: *expires,
                last_used: used,
            }));
        }
        (Err(Failure::Refused(refusal)), Some(turn)) => turn.finish(Outcome::Refused(*refusal)),
        (Err(Failure::Refused(_)), None) => answers::withdraw(key),
        (Err(Failure::Outage(outage)), turn) => {
            let is_silence = outage.is_silence();
            if !is_silence {
                answers::withdraw(key);
            }
            if let Some(turn) = turn {
                turn.finish(Outcome::Failed { is_silence, timeout: settings::api_timeout() });
            }
        }
        (Ok(_), None) => {}
    }
    answer
}

enum Waited {
    Known(Resolution),
    /// With a turn for all, or for itself.
    Asks(Option<AskingTurn>),
}

/// Waits while another session asks, no longer than that may take.
fn wait(key: &Key, limits: &Limits, now: Timestamp) -> Result<Waited, Failure> {
    let since = Timestamp(clock::wall_time());
    let (timeout, negative_ttl) = (settings::api_timeout(), settings::negative_cache_ttl());
    let mut pause = Duration::from_millis(2);
    loop {
        if let Some(known) = fresh(key, limits, now) {
            return Ok(Waited::Known(known));
        }
        match answers::ask(key, |asked, now| asked.next(&Wanting { now, since, timeout, negative_ttl })) {
            // It may have come while this session took its turn.
            (Next::Ask | Next::AskAlone, turn) => {
                return Ok(fresh(key, limits, now).map_or(Waited::Asks(turn), Waited::Known));
            }
            (Next::Refuse(refusal), _) => return Err(Failure::Refused(refusal)),
            (Next::Fail { is_silence }, _) => return Err(Failure::Outage(Outage::OfOthers { is_silence })),
            (Next::Wait, _) => wait::pause(pause),
        }
        pause = (2 * pause).min(Duration::from_millis(25));
    }
}

fn fresh(key: &Key, limits: &Limits, now: Timestamp) -> Option<Resolution> {
    let known = known(key, now)?;
    let is_fresh = !now.is_past(known.validated, limits.revalidate)
        && is_in_force(known.last_used, known.expires, now, limits.idle_ttl);
    is_fresh.then(|| {
        shared::counters().shared_hits.fetch_add(1, Relaxed);
        known
    })
}

/// The last answer that any session had. What was said after `now`, when this statement began, counts as said then; what was
/// said in the future, before a clock was set back, does not count.
pub fn known(key: &Key, now: Timestamp) -> Option<Resolution> {
    let Known { provider, subject, validated, expires, last_used } = answers::known(key)?;
    if validated > Timestamp(clock::wall_time()) {
        return None;
    }
    Some(Resolution {
        provider,
        subject,
        last_used: last_used.min(now),
        validated: validated.min(now),
        expires,
        token_id: 0,
        claims: None,
    })
}
