//! Beginning an impersonation, and making sure of it at each statement.

use super::{CACHE, SESSION, may_present};
use crate::core::cache::{Cache, Entry};
use crate::core::guard;
use crate::core::identity::Resolution;
use crate::core::session::Impersonation;
use crate::core::time::{Timestamp, is_alive, recording_interval};
use crate::core::token::Digest;
use crate::error::Error;
use crate::pg::catalog::{self, Installation};
use crate::pg::guc::{self, Presented};
use crate::pg::nodes::Permissions;
use crate::pg::{gate, raw, role, xact};
use crate::{activity, config, mapping, resolve};
use std::rc::Rc;

pub const OPENED_BEFORE: &str = "this statement or cursor was opened before the token was set";

fn now() -> Timestamp {
    Timestamp(raw::GetCurrentStatementStartTimestamp())
}

/// The impersonation in force, if any.
pub fn active() -> Option<Impersonation> {
    SESSION.with_borrow(|session| session.active.clone())
}

pub fn with_cache<T>(look: impl FnOnce(&mut Cache) -> T) -> T {
    CACHE.with_borrow_mut(look)
}

/// The statement that presented a token is complete: from the next statement on, the session runs as its user.
pub fn establish(token: Presented) -> Result<(), Error> {
    let installed = catalog::installation().ok_or(Error::NoExtension)?;
    let impersonator = role::session_user();
    if !may_present(impersonator) {
        return Err(Error::NotHolder);
    }
    if !token.is_local {
        return Err(Error::NotLocal);
    }
    if xact::nest_level() != 1 {
        return Err(Error::InSubtransaction);
    }
    if !xact::runs_a_statement() {
        return Err(Error::OutOfStatement);
    }
    if gate::is_impersonating() {
        return Err(Error::Inconsistent);
    }
    if !token.is_well_formed {
        return Err(Error::TokenInvalid);
    }
    let now = now();
    let entry = resolved(&installed, &token.digest, impersonator, now)?;
    guc::settle();
    if !role::switch_to(entry.role) {
        return Err(Error::Inconsistent);
    }
    let mut begun = Impersonation::new(token.digest, &entry, now, guc::new_level());
    begun.recorded = activity::record(&begun.digest, begun.token_id, begun.recorded, now);
    SESSION.with_borrow_mut(|session| session.active = Some(begun));
    gate::set_impersonating(true);
    Ok(())
}

/// The cached entry if it still holds, else the provider's answer.
fn resolved(installed: &Installation, digest: &Digest, impersonator: u32, now: Timestamp) -> Result<Entry, Error> {
    let generation = gate::generation();
    let known = with_cache(|cache| cache.get(digest).cloned());
    if let Some(entry) = &known {
        let holds = entry.generation == generation
            && entry.impersonator == impersonator
            && !now.is_past(entry.validated, config::token_revalidate_interval())
            && is_alive(entry.last_used, now, config::token_idle_ttl());
        if holds {
            return Ok(entry.clone());
        }
    }
    let fresh = resolve::resolve(installed, digest, known.map(|entry| entry.last_used), now)
        .and_then(|answer| entry_for(installed, answer, impersonator, generation, now));
    match &fresh {
        Ok(entry) => {
            let capacity = config::token_cache_size();
            with_cache(|cache| cache.insert(*digest, entry.clone(), capacity));
        }
        Err(_) => with_cache(|cache| cache.remove(digest)),
    }
    fresh
}

fn entry_for(
    installed: &Installation,
    answer: Resolution,
    impersonator: u32,
    generation: u64,
    now: Timestamp,
) -> Result<Entry, Error> {
    let role = mapping::mapped_role(installed, &answer.identity, &answer.mapping, impersonator)?;
    Ok(Entry {
        identity: Rc::new(answer.identity),
        provider: answer.provider,
        role,
        token_id: answer.token_id,
        last_used: now,
        recorded: answer.last_used,
        validated: now,
        generation,
        impersonator,
    })
}

/// Asks about a token without counting that as a use: the user, and when the token expires.
pub fn resolve_for_check(token: &[u8]) -> Option<(Resolution, Timestamp)> {
    let installed = catalog::installation()?;
    if !crate::core::token::is_well_formed(token) {
        return None;
    }
    let digest = Digest::of(token);
    let own_use = with_cache(|cache| cache.peek(&digest).map(|entry| entry.last_used));
    let answer = resolve::resolve(&installed, &digest, own_use, now()).ok()?;
    let last_used = own_use.map_or(answer.last_used, |own| own.max(answer.last_used));
    let expires = last_used.plus(config::token_idle_ttl());
    Some((answer, expires))
}

/// At each statement: the impersonation is still what it was, and its token still alive; the statement counts as use.
pub fn confirm() -> Result<(), Error> {
    let now = now();
    let due = SESSION.with_borrow_mut(|session| {
        let active = session.active.as_mut().ok_or(Error::Inconsistent)?;
        if !role::is_in_effect(active.role, active.impersonator) {
            return Err(Error::Inconsistent);
        }
        if xact::portal_dates_from(active.established) {
            return Err(Error::WhileImpersonating(OPENED_BEFORE.into()));
        }
        let idle_ttl = config::token_idle_ttl();
        if !is_alive(active.last_used, now, idle_ttl) {
            return Err(Error::TokenInvalid);
        }
        active.used = true;
        active.last_used = now;
        let is_due = now.is_past(active.recorded, recording_interval(idle_ttl));
        Ok(is_due.then_some((active.digest, active.token_id, active.recorded)))
    })?;
    // Outside the borrow: recording reads a table.
    if let Some((digest, token_id, recorded)) = due {
        let recorded = activity::record(&digest, token_id, recorded, now);
        SESSION.with_borrow_mut(|session| {
            if let Some(active) = session.active.as_mut() {
                active.recorded = recorded;
            }
        });
    }
    Ok(())
}

/// What the executor itself does not stop.
pub fn check_function(oid: u32) -> Result<(), Error> {
    match guard::function_refused_while_impersonating(oid) {
        Some(what) => Err(Error::WhileImpersonating(what.into())),
        None => Ok(()),
    }
}

/// The extension's own tables decide who is who: nobody reads or writes them under a token on his own rights, however
/// far those go (`pg_write_all_data`, say).
pub fn check_relations(permissions: &Permissions) -> Result<(), Error> {
    let Some(installed) = catalog::installation() else { return Ok(()) };
    if permissions.touch_any(&installed.tables()) && !super::guarded::has_authority() {
        return Err(Error::WhileImpersonating("the tables of immuta_ext are closed".into()));
    }
    Ok(())
}
