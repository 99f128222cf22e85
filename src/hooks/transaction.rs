//! The ends of transactions and subtransactions.

use super::{CACHE, LABELLED, SEEDED, SESSION, impersonation, is_guarded, session_scope, statement};
use crate::audit;
use crate::core::session::Scope;
use crate::error::Error;
use crate::pg::inject::{self, Point};
use crate::pg::report::Report;
use crate::pg::{catalog, chain, gate, guc, role, xact};

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
    let found = SESSION.with_borrow(|session| {
        let active = session.active.as_ref()?;
        match active.scope {
            Scope::Transaction { settings_level } => Some((active.used, settings_level)),
            Scope::Session { .. } => None,
        }
    });
    let Some((used, settings_level)) = found else { return Ok(()) };
    if !used && !xact::is_block() {
        return Err(Error::Alone.into());
    }
    audit::before_commit()?;
    inject::point(Point::CommitAudited);
    guc::undo_settings(settings_level);
    inject::point(Point::SettingsUndone);
    xact::drop_temporary_objects();
    inject::point(Point::TemporaryDropped);
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
    inject::point(Point::EndsTransaction);
    if gate::is_impersonating() {
        role::unlock();
    }
    inject::point(Point::Unlocked);
    guc::forget_text();
    statement::forget_planned();
    let Some((ended, goes_on)) = SESSION.with(|session| {
        let mut session = session.try_borrow_mut().ok()?;
        Some((session.end_transaction(has_committed), session.active.clone()))
    }) else {
        return;
    };
    inject::point(Point::TransactionClosed);
    gate::set_impersonating(goes_on.is_some());
    gate::set_lasting(goes_on.is_some());
    gate::set_resumes(goes_on.is_some());
    gate::set_ended(false);
    session_scope::settle();
    inject::point(Point::GateCleared);
    audit::transaction_ended(has_committed, goes_on.as_ref());
    inject::point(Point::AuditClosed);
    let goes_on = goes_on.is_some();
    if !goes_on && LABELLED.take() {
        guc::unlabel_application();
        inject::point(Point::Unlabelled);
    }
    if !goes_on && SEEDED.take() {
        xact::reseed();
    }
    let Some(ended) = ended else { return };
    if !goes_on {
        xact::forget_sequences();
        inject::point(Point::Forgotten);
    }
    CACHE.with(|cache| {
        if let Ok(mut cache) = cache.try_borrow_mut() {
            cache.touch(&ended.digest, ended.last_used, ended.recorded);
        }
    });
}

pub fn subtransaction_started(subxact: u32) {
    inject::point(Point::SubtransactionStarts);
    SESSION.with_borrow_mut(|session| session.start_subtransaction(subxact, chain::depth()));
    inject::point(Point::SubtransactionStarted);
}

pub fn subtransaction_committed(subxact: u32) {
    inject::point(Point::SubtransactionCommits);
    SESSION.with_borrow_mut(|session| session.commit_subtransaction(subxact));
    inject::point(Point::SubtransactionCommitted);
}

pub fn subtransaction_aborted(subxact: u32) -> Option<u32> {
    inject::point(Point::SubtransactionAborts);
    let depth =
        SESSION.with(|session| session.try_borrow_mut().ok().and_then(|mut s| s.abort_subtransaction(subxact)));
    inject::point(Point::SubtransactionAborted);
    if let Some(depth) = depth {
        audit::subtransaction_aborted(depth);
    }
    depth
}
