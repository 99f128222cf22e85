//! Transaction and subtransaction callbacks.

use crate::pg::gate;
use crate::pg::hook::{depth, dry_run, reported};
use crate::pg::sys::client;
use crate::pg::sys::report::{self, Report, raise};
use once_cell::sync::OnceCell;
use pgrx::{pg_guard, pg_sys};
use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What happens at the ends of transactions; see `crate::hooks`. Those that return nothing must not fail: an error
/// while a transaction aborts, or after it committed, would take the server down, and ends the session: see [`finish`].
pub struct TransactionHandlers {
    /// Before a commit, of a session whose user was not looked up yet.
    pub unknown_user: fn(),
    pub pre_commit: fn() -> Result<(), Report>,
    pub prepare: fn() -> Result<(), Report>,
    /// Before either, of a transaction that changes who has access to what.
    pub changed: fn() -> Result<(), Report>,
    /// It is over.
    pub changes_end: fn(),
    /// Whether it committed.
    pub end: fn(bool),
    pub subtransaction_started: fn(u32),
    pub subtransaction_committed: fn(u32),
    /// Returns the nesting depth of the hooks at its start.
    pub subtransaction_aborted: fn(u32) -> Option<u32>,
}

static HANDLERS: OnceCell<TransactionHandlers> = OnceCell::new();

/// Registers the callbacks. Called once, from `_PG_init`.
pub fn register(handlers: TransactionHandlers) {
    if HANDLERS.set(handlers).is_ok() {
        // SAFETY: the callbacks live as long as the process.
        unsafe {
            pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(on_subtransaction), std::ptr::null_mut());
        }
    }
}

/// Plain frame: the exits come before the guard.
unsafe extern "C-unwind" fn on_transaction(event: pg_sys::XactEvent::Type, _arg: *mut c_void) {
    use pg_sys::XactEvent::*;
    // SAFETY: guarded functions; a static variable.
    unsafe {
        match event {
            XACT_EVENT_PRE_COMMIT | XACT_EVENT_PRE_PREPARE => {
                if client::is_served() && !gate::has_seen_user() {
                    meet_user();
                }
                if gate::wants_attention() {
                    before_end(event);
                }
                // Last: what is on record stays.
                if gate::is_changing() {
                    before_change();
                }
            }
            _ if gate::is_changing() => change_ends(),
            _ => {}
        }
        match event {
            XACT_EVENT_COMMIT | XACT_EVENT_PREPARE | XACT_EVENT_ABORT if !gate::is_ordinary_session() => {
                at_end(event != XACT_EVENT_ABORT);
                // A procedure that commits goes on.
                if pg_sys::ActivePortal.is_null() {
                    reported::hide();
                }
            }
            _ => {}
        }
        // A ROLLBACK inside a procedure returns to the hooks that are on the stack; an error does not. While a portal
        // is active we are inside one.
        if event == XACT_EVENT_ABORT && pg_sys::ActivePortal.is_null() {
            depth::restore_depth(0);
        }
        if event == XACT_EVENT_ABORT {
            finish(dry_run::abort);
        }
    }
}

/// Does what an end of a transaction must not fail at: PostgreSQL cannot go back then, and would take the server down. If
/// it fails all the same, nobody knows what the session still holds: it ends as soon as PostgreSQL can let it.
fn finish(act: impl FnOnce()) {
    // SAFETY: static variables of this process. An error sets the counts to 0, which PostgreSQL goes on counting.
    unsafe {
        let held = (pg_sys::InterruptHoldoffCount, pg_sys::QueryCancelHoldoffCount);
        if catch_unwind(AssertUnwindSafe(act)).is_err() {
            let told = || report::log("a session ends, as the end of its transaction failed", "");
            // Nobody is left to be told otherwise.
            let _ = catch_unwind(told);
            (pg_sys::InterruptHoldoffCount, pg_sys::QueryCancelHoldoffCount) = held;
            pg_sys::ProcDiePending = 1;
            pg_sys::InterruptPending = 1;
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn meet_user() {
    if let Some(handlers) = HANDLERS.get() {
        (handlers.unknown_user)();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn before_change() {
    if let Some(Err(report)) = HANDLERS.get().map(|handlers| (handlers.changed)()) {
        raise(report);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn change_ends() {
    if let Some(handlers) = HANDLERS.get() {
        finish(handlers.changes_end);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn before_end(event: pg_sys::XactEvent::Type) {
    let Some(handlers) = HANDLERS.get() else { return };
    let decision = match event {
        pg_sys::XactEvent::XACT_EVENT_PRE_PREPARE => (handlers.prepare)(),
        _ => (handlers.pre_commit)(),
    };
    if let Err(report) = decision {
        raise(report);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_end(has_committed: bool) {
    if let Some(handlers) = HANDLERS.get() {
        finish(|| (handlers.end)(has_committed));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_subtransaction(
    event: pg_sys::SubXactEvent::Type,
    subxact: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut c_void,
) {
    use pg_sys::SubXactEvent::*;
    let Some(handlers) = HANDLERS.get() else { return };
    match event {
        SUBXACT_EVENT_START_SUB => (handlers.subtransaction_started)(subxact),
        SUBXACT_EVENT_COMMIT_SUB => finish(|| (handlers.subtransaction_committed)(subxact)),
        SUBXACT_EVENT_ABORT_SUB => finish(|| {
            dry_run::abort();
            if let Some(depth) = (handlers.subtransaction_aborted)(subxact) {
                depth::restore_depth(depth);
            }
            // SAFETY: a static variable.
            if unsafe { pg_sys::ActivePortal.is_null() } {
                reported::ends();
            }
        }),
        _ => {}
    }
}

/// Runs a transaction in which nothing happens but what its callbacks do.
pub fn run_empty() {
    // SAFETY: outside any transaction; an error before a session's first statement ends the process.
    unsafe {
        pg_sys::StartTransactionCommand();
        pg_sys::CommitTransactionCommand();
    }
}
