//! Impersonation that outlasts the transaction, until the session ends it.
//!
//! The role is set for the session, so that every statement is parsed as its user. The lock ends with each transaction
//! and is put on again by the first hook that the next one reaches.

use super::impersonation::{self, Credential, Presented};
use super::{CONNECTION, SEEDED, SESSION};
use crate::audit;
use crate::core::guard::{How, Statement};
use crate::core::presented::Kind;
use crate::core::session::{Before, Impersonation, Scope};
use crate::core::time::is_in_force;
use crate::core::token::Secret;
use crate::error::Error;
use crate::pg::{catalog, gate, name_guc, role, saved, xact};
use crate::{config, mapping};
use std::rc::Rc;

/// Number of the connection's own user among what may wait to be presented.
const OF_CONNECTION: u32 = 31;

/// What the session will go back to.
pub fn before() -> Before {
    Before { settings: saved::take(), role: catalog::setting(c"role").unwrap_or_else(|| c"none".into()) }
}

/// The first thing in each transaction of a session that impersonates: puts the lock on again.
pub fn lock() {
    if gate::is_lasting() && xact::is_usable() && !role::is_locked() {
        role::lock();
    }
}

/// Before anything runs: the lock is on, and the impersonation still holds. What was revoked or changed since the last
/// transaction is found here.
pub fn resume() -> Result<(), Error> {
    if !gate::is_lasting() {
        return Ok(());
    }
    lock();
    let due = SESSION.with_borrow_mut(|session| {
        session.is_touched = true;
        if session.is_verified { None } else { session.active.clone() }
    });
    if let Some(active) = due {
        verify(&active)?;
        SESSION.with_borrow_mut(|session| session.is_verified = true);
        gate::set_resumes(false);
    }
    Ok(())
}

fn verify(active: &Impersonation) -> Result<(), Error> {
    let installed = super::installed()?;
    let now = impersonation::now();
    if !is_in_force(active.last_used, active.expires, now, config::idle_ttl_of(active.provider)) {
        return Err(expired(active.kind));
    }
    if !impersonation::holds(active.kind, active.impersonator) {
        return Err(impersonation::not_holder(active.kind));
    }
    let credential = match active.kind {
        Kind::Token => Credential::Token(active.digest),
        Kind::Name => Credential::Name((*active.identity).clone()),
    };
    let shown = active.shown.as_ref().map(|(token, _)| Rc::clone(token));
    let entry = impersonation::resolved(&installed, &credential, shown.as_deref(), active.impersonator, now)?;
    if entry.role != active.role || entry.identity != active.identity {
        return Err(Error::Remapped);
    }
    mapping::check_target(&installed, active.role, active.impersonator)
}

/// The error for an impersonation that was not used for too long.
pub fn expired(kind: Kind) -> Error {
    match kind {
        Kind::Token => Error::TokenInvalid,
        Kind::Name => Error::IdleTooLong,
    }
}

/// What a statement does to the session's impersonation before it runs: ends it where it says so, whatever it says
/// after that. Returns whether it did.
pub fn ended_by(statement: &Statement, depth: u32) -> Result<bool, Error> {
    let Some(active) = gate::is_lasting().then(impersonation::active).flatten() else { return Ok(false) };
    let unchanged = || Error::WhileImpersonating("the impersonated user cannot be changed".into());
    match statement {
        Statement::DiscardAll | Statement::ResetAll if depth == 0 => {}
        Statement::Impersonate(kind, how) if depth == 0 && *how != How::Local => {
            if *how == How::Session && *kind != active.kind {
                return Err(Error::Together);
            }
        }
        Statement::Impersonate(..) => return Err(unchanged()),
        _ => return Ok(false),
    }
    if xact::nest_level() != 1 {
        return Err(Error::InSubtransaction);
    }
    if SESSION.with_borrow(|session| session.is_touched) {
        return Err(Error::MidTransaction);
    }
    if let Scope::Session { before } = &active.scope {
        end(before);
    }
    Ok(true)
}

/// Back to the login, and to all that it had set. Nothing of the user is left on the connection.
fn end(before: &Before) {
    xact::drop_temporary_objects();
    xact::forget_sequences();
    SEEDED.set(true);
    role::switch_back(&before.role);
    saved::restore(&before.settings);
    name_guc::reset();
    SESSION.with_borrow_mut(|session| session.active = None);
    audit::left();
    gate::set_ended(true);
    gate::set_lasting(false);
    gate::set_impersonating(false);
    gate::set_presented(OF_CONNECTION, CONNECTION.with_borrow(Option::is_some));
}

/// Notes the user in whose name the connection was made: he comes back whenever another one goes.
pub fn remember_connection(presented: &Presented, token: Option<Rc<Secret>>) {
    CONNECTION.set(Some((presented.clone(), token)));
}

/// The user of the connection, if he is to come back now.
pub fn of_connection() -> Option<(Presented, Option<Rc<Secret>>)> {
    gate::is_presented(OF_CONNECTION).then(|| CONNECTION.with_borrow(Clone::clone)).flatten()
}

pub fn settle() {
    gate::set_presented(OF_CONNECTION, false);
}
