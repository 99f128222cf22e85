//! The ends of transactions and subtransactions.

use super::{CACHE, LABELLED, SEEDED, SESSION};
use crate::audit;
use crate::error::Error;
use crate::pg::report::Report;
use crate::pg::{chain, gate, guc, role, xact};

/// Before a commit, while errors are still possible.
pub fn pre_commit() -> Result<(), Report> {
    if gate::has_presented() {
        return Err(Error::OutOfStatement.into());
    }
    let Some((used, level)) =
        SESSION.with_borrow(|session| session.active.as_ref().map(|active| (active.used, active.settings_level)))
    else {
        return Ok(());
    };
    if !used && !xact::is_block() {
        return Err(Error::Alone.into());
    }
    audit::before_commit()?;
    guc::undo_settings(level);
    xact::drop_temporary_objects();
    Ok(())
}

/// A prepared transaction would be completed by somebody else.
pub fn prepare() -> Result<(), Report> {
    Err(Error::NotSupported("two-phase commit").into())
}

/// The transaction committed or aborted. Must not fail.
pub fn end(committed: bool) {
    if gate::is_impersonating() {
        audit::ended(committed);
        role::unlock();
        gate::set_impersonating(false);
        xact::forget_sequences();
    }
    if LABELLED.take() {
        guc::unlabel_application();
    }
    if SEEDED.take() {
        xact::reseed();
    }
    guc::forget_text();
    let ended = SESSION.with(|session| session.try_borrow_mut().ok().and_then(|mut s| s.end_transaction()));
    if let Some(active) = ended {
        CACHE.with(|cache| {
            if let Ok(mut cache) = cache.try_borrow_mut() {
                cache.touch(&active.digest, active.last_used, active.recorded);
            }
        });
    }
}

pub fn subtransaction_started(subxact: u32) {
    SESSION.with_borrow_mut(|session| session.start_subtransaction(subxact, chain::depth()));
}

pub fn subtransaction_committed(subxact: u32) {
    SESSION.with_borrow_mut(|session| session.commit_subtransaction(subxact));
}

pub fn subtransaction_aborted(subxact: u32) -> Option<u32> {
    let depth =
        SESSION.with(|session| session.try_borrow_mut().ok().and_then(|mut s| s.abort_subtransaction(subxact)));
    if let Some(depth) = depth {
        audit::subtransaction_aborted(depth);
    }
    depth
}
