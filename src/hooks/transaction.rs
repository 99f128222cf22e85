//! The ends of transactions and subtransactions.

use crate::audit;
use crate::core::session::phase::Event;
use crate::core::session::{Impersonation, Scope};
use crate::error::Error;
use crate::guard::watch::is_guarded;
use crate::hooks::statement;
use crate::pg::guc::{self, names};
use crate::pg::hook::depth;
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::report::Report;
use crate::pg::sys::running;
use crate::pg::{catalog, gate, residue, switch};
use crate::provider::lookup;
use crate::session::state::{self, OfTransaction};
use crate::session::{begin, connection};
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
    inject::point(Point::CommitBegins);
    if gate::has_presented() {
        establish_for_connection()?;
    }
    let found = state::with(|state| {
        let active = state.impersonations.active.as_ref()?;
        match &active.scope {
            Scope::Transaction { settings_level, savepoint } => {
                let before = savepoint.as_ref().map(|savepoint| Rc::clone(&savepoint.settings));
                Some((active.used, *settings_level, before))
            }
            Scope::Session { .. } => None,
        }
    });
    let Some((used, settings_level, before)) = found else { return Ok(()) };
    if !used && !running::is_block() {
        return Err(Error::Alone.into());
    }
    audit::before_commit()?;
    inject::point(Point::CommitAudited);
    if let Some(before) = before {
        // The role was set in a savepoint, too, and nothing of the user's runs any more.
        switch::unlock();
        guc::undo_settings(settings_level);
        inject::point(Point::SavepointUndone);
        guc::set_again(&before);
    } else {
        guc::undo_settings(settings_level);
    }
    inject::point(Point::SettingsUndone);
    residue::drop_temporary_objects();
    inject::point(Point::TemporaryDropped);
    Ok(())
}

/// The transaction in which a connection is made is the only one in which whoever was presented may wait until the end.
/// An error here refuses the connection.
fn establish_for_connection() -> Result<(), Error> {
    if catalog::database() == 0 {
        return Err(Error::NoExtension);
    }
    if connection::is_login() && (guc::presented().is_some() || !names::presented().is_empty()) {
        return Err(Error::Together);
    }
    match begin::presented()? {
        Some(presented) if presented.is_of_connection => begin::establish(&presented),
        _ => Err(Error::OutOfStatement),
    }
}

/// A prepared transaction would be completed by somebody else.
pub fn prepare() -> Result<(), Report> {
    Err(Error::NotSupported("two-phase commit").into())
}

/// The transaction committed or aborted. Must not fail.
pub fn end(has_committed: bool) {
    inject::point(Point::EndsTransaction);
    if gate::is_impersonating() {
        switch::unlock();
    }
    inject::point(Point::Unlocked);
    guc::forget_text();
    statement::forget_planned();
    let Some((ended, goes_on)) = state::try_with(|state| {
        let ended = state.impersonations.end_transaction(has_committed);
        (ended, state.impersonations.active.clone())
    }) else {
        return;
    };
    inject::point(Point::TransactionClosed);
    // Every phase can be followed by the end of a transaction.
    let _ = state::enter(Event::TransactionEnded { goes_on: goes_on.is_some() });
    connection::stop_waiting();
    inject::point(Point::GateCleared);
    audit::transaction_ended(has_committed, goes_on.as_ref());
    inject::point(Point::AuditClosed);
    if goes_on.is_none() {
        leave_nothing(ended.is_some());
    }
    if let Some(ended) = ended {
        lookup::touch(&ended);
    }
    connection::end_transaction(has_committed);
}

/// What undoing settings does not take back.
fn leave_nothing(has_ended: bool) {
    let OfTransaction { has_set, is_labelled, .. } =
        state::try_with(|state| std::mem::take(&mut state.transaction)).unwrap_or_default();
    if is_labelled {
        guc::unlabel_application();
        inject::point(Point::Unlabelled);
    }
    if has_set {
        residue::reseed();
    }
    if has_ended {
        residue::forget_sequences();
        inject::point(Point::Forgotten);
    }
}

/// The savepoint was rolled back in which the user was presented. PostgreSQL has undone the lock and undoes the role: the
/// session can do as much as before the token, which is nothing. Must not fail.
fn rolled_back(gone: &Impersonation) {
    // Only an impersonation for the transaction goes so, which this can follow.
    let _ = state::enter(Event::RolledBack);
    inject::point(Point::RolledBack);
    audit::transaction_ended(false, None);
    leave_nothing(true);
    lookup::touch(gone);
}

pub fn subtransaction_started(subxact: u32) {
    inject::point(Point::SubtransactionStarts);
    state::with(|state| state.impersonations.start_subtransaction(subxact, depth::depth()));
    inject::point(Point::SubtransactionStarted);
}

pub fn subtransaction_committed(subxact: u32) {
    inject::point(Point::SubtransactionCommits);
    let level = running::nest_level();
    state::with(|state| state.impersonations.commit_subtransaction(subxact, level));
    if gate::is_changing() {
        audit::subtransaction_changed(level, true);
    }
    inject::point(Point::SubtransactionCommitted);
}

pub fn subtransaction_aborted(subxact: u32) -> Option<u32> {
    inject::point(Point::SubtransactionAborts);
    let level = running::nest_level();
    let (depth, gone) = state::try_with(|state| {
        (state.impersonations.abort_subtransaction(subxact), state.impersonations.roll_back(level))
    })
    .unwrap_or_default();
    inject::point(Point::SubtransactionAborted);
    if gate::is_changing() {
        audit::subtransaction_changed(level, false);
    }
    if let Some(depth) = depth {
        audit::subtransaction_aborted(depth);
    }
    if let Some(gone) = gone {
        rolled_back(&gone);
    }
    depth
}
