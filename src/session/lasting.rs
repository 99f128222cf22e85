//! Impersonation that outlasts the transaction, until the session ends it.
//!
//! The role is set for the session, so that every statement is parsed as its user. The lock ends with each transaction
//! and is put on again by the first hook that the next one reaches.

use crate::core::guard::{How, Statement};
use crate::core::session::phase::Event;
use crate::core::session::presented::{Credential, Kind};
use crate::core::session::{Before, Impersonation, Scope};
use crate::core::time::is_in_force;
use crate::error::Error;
use crate::pg::guc::{names, saved};
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::{clock, running};
use crate::pg::{catalog, gate, residue, switch};
use crate::provider::lookup;
use crate::rights::{login, mapping};
use crate::session::{connection, state};
use crate::{audit, settings};
use std::rc::Rc;

/// What the session will go back to.
pub fn before() -> Before {
    Before { settings: saved::take(), role: catalog::setting(c"role").unwrap_or_else(|| c"none".into()) }
}

/// The first thing in each transaction of a session that impersonates: puts the lock on again.
pub fn lock() {
    if gate::is_lasting() && running::is_usable() && !switch::is_locked() {
        switch::lock();
        inject::point(Point::Relocked);
    }
}

/// Before anything runs: the lock is on, and the impersonation still holds. What was revoked or changed since the last
/// transaction is found here.
pub fn resume() -> Result<(), Error> {
    if !gate::is_lasting() {
        return Ok(());
    }
    lock();
    let active = state::with(|state| {
        state.impersonations.is_touched = true;
        if gate::resumes() { state.impersonations.active.clone() } else { None }
    });
    if let Some(active) = active {
        verify(&active)?;
        state::enter(Event::Verified)?;
        inject::point(Point::Verified);
    }
    Ok(())
}

fn verify(active: &Impersonation) -> Result<(), Error> {
    let installed = login::installed()?;
    let now = clock::statement_time();
    if !is_in_force(active.last_used, active.expires, now, settings::idle_ttl_of(active.provider)) {
        return Err(expired(active.kind));
    }
    if !login::holds(active.kind, active.impersonator) {
        return Err(login::not_holder(active.kind));
    }
    let credential = match active.kind {
        Kind::Token => Credential::Token(active.digest),
        Kind::Name => Credential::Name((*active.identity).clone()),
    };
    let shown = active.shown.as_ref().map(|(token, _)| Rc::clone(token));
    let user = lookup::resolved(&installed, &credential, shown.as_deref(), active.impersonator, now)?;
    if user.role != active.role || user.identity != active.identity {
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
    let Some(active) = gate::is_lasting().then(state::active).flatten() else { return Ok(false) };
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
    if running::nest_level() != 1 {
        return Err(Error::InSubtransaction);
    }
    if state::with(|state| state.impersonations.is_touched) {
        return Err(Error::MidTransaction);
    }
    if let Scope::Session { before } = &active.scope {
        end(before)?;
    }
    Ok(true)
}

/// Back to the login, and to all that it had set. Nothing of the user is left on the connection.
fn end(before: &Before) -> Result<(), Error> {
    inject::point(Point::LeaveBegins);
    residue::drop_temporary_objects();
    residue::forget_sequences();
    inject::point(Point::LeftTemporary);
    switch::switch_back(&before.role);
    inject::point(Point::LeftRole);
    saved::restore(&before.settings);
    inject::point(Point::LeftSettings);
    names::reset();
    inject::point(Point::LeftNames);
    state::with(|state| {
        state.transaction.has_set = true;
        state.impersonations.active = None;
    });
    audit::left();
    inject::point(Point::Left);
    state::enter(Event::Left)?;
    connection::come_back();
    Ok(())
}
