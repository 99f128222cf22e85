//! The ends of transactions and subtransactions.

use super::{CACHE, LABELLED, SEEDED, SESSION, impersonation, is_guarded, session_scope, statement};
use crate::audit;
use crate::core::session::{Impersonation, Scope};
use crate::error::Error;
use crate::pg::report::Report;
use crate::pg::{catalog, chain, gate, guc, role, xact};
use std::rc::Rc;

/// Before a commit in a session of which nothing is known yet: what the log may show of its next message is decided
/// before any of the other hooks sees that.
pub fn unknown_user() {
    is_guarded();
}

/// Before a commit, while errors are still possible.
pub fn pre_commit() -> Result<(), Report> {
    before_commit().inspect_err(audit::refused)
}

fn before_commit() -> Result<(), Report> {
    if gate::has_presented() {
        establish_for_connection()?;
    }
    let found = SESSION.with_borrow(|session| {
        let active = session.active.as_ref()?;
        match &active.scope {
            Scope::Transaction { settings_level, savepoint } => {
                let before = savepoint.as_ref().map(|savepoint| Rc::clone(&savepoint.settings));
                Some((active.used, *settings_level, before))
            }
            Scope::Session { .. } => None,
        }
    });
    let Some((used, settings_level, before)) = found else { return Ok(()) };
    if !used && !xact::is_block() {
        return Err(Error::Alone.into());
    }
    audit::before_commit()?;
    if let Some(before) = before {
        // The role was set in a savepoint, too, and nothing of the user's runs any more.
        role::unlock();
        guc::undo_settings(settings_level);
        guc::set_again(&before);
    } else {
        guc::undo_settings(settings_level);
    }
    xact::drop_temporary_objects();
    Ok(())
}

/// The transaction in which a connection is made is the only one in which whoever was presented may wait until the end.
/// An error here refuses the connection.
fn establish_for_connection() -> Result<(), Error> {
    if catalog::database() == 0 {
        return Err(Error::NoExtension);
    }
    match impersonation::presented()? {
        Some(presented) if presented.is_of_connection => impersonation::establish(&presented),
        _ => Err(Error::OutOfStatement),
    }
}

/// A prepared transaction would be completed by somebody else.
pub fn prepare() -> Result<(), Report> {
    Err(Error::NotSupported("two-phase commit").into())
}

/// The transaction committed or aborted. Must not fail.
pub fn end(has_committed: bool) {
    if gate::is_impersonating() {
        role::unlock();
    }
    guc::forget_text();
    statement::forget_planned();
    let Some((ended, goes_on)) = SESSION.with(|session| {
        let mut session = session.try_borrow_mut().ok()?;
        Some((session.end_transaction(has_committed), session.active.clone()))
    }) else {
        return;
    };
    gate::set_impersonating(goes_on.is_some());
    gate::set_lasting(goes_on.is_some());
    gate::set_resumes(goes_on.is_some());
    gate::set_ended(false);
    session_scope::settle();
    audit::transaction_ended(has_committed, goes_on.as_ref());
    let goes_on = goes_on.is_some();
    if !goes_on && LABELLED.take() {
        guc::unlabel_application();
    }
    if !goes_on && SEEDED.take() {
        xact::reseed();
    }
    let Some(ended) = ended else { return };
    if !goes_on {
        xact::forget_sequences();
    }
    count_use(&ended);
}

fn count_use(ended: &Impersonation) {
    CACHE.with(|cache| {
        if let Ok(mut cache) = cache.try_borrow_mut() {
            cache.touch(&ended.digest, ended.last_used, ended.recorded);
        }
    });
}

/// The savepoint was rolled back in which the user was presented. PostgreSQL has undone the lock and undoes the role: the
/// session can do as much as before the token, which is nothing. Must not fail.
fn rolled_back(gone: &Impersonation) {
    gate::set_impersonating(false);
    audit::transaction_ended(false, None);
    if LABELLED.take() {
        guc::unlabel_application();
    }
    if SEEDED.get() {
        xact::reseed();
    }
    xact::forget_sequences();
    count_use(gone);
}

pub fn subtransaction_started(subxact: u32) {
    SESSION.with_borrow_mut(|session| session.start_subtransaction(subxact, chain::depth()));
}

pub fn subtransaction_committed(subxact: u32) {
    SESSION.with_borrow_mut(|session| session.commit_subtransaction(subxact, xact::nest_level()));
}

pub fn subtransaction_aborted(subxact: u32) -> Option<u32> {
    let level = xact::nest_level();
    let (depth, gone) = SESSION.with(|session| {
        let Ok(mut session) = session.try_borrow_mut() else { return (None, None) };
        (session.abort_subtransaction(subxact), session.roll_back(level))
    });
    if let Some(depth) = depth {
        audit::subtransaction_aborted(depth);
    }
    if let Some(gone) = gone {
        rolled_back(&gone);
    }
    depth
}
