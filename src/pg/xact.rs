//! Transaction and subtransaction callbacks.

use super::report::{self, Report, raise};
use super::{chain, client, dry_run, gate, raw, reported};
use crate::core::time::Timestamp;
use once_cell::sync::OnceCell;
use pgrx::{IntoDatum, pg_guard, pg_sys};
use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::hash::{BuildHasher, RandomState};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What happens at the ends of transactions; see `crate::hooks`. Those that return nothing must not fail: an error
/// while a transaction aborts, or after it committed, would take the server down, and ends the session: see [`finish`].
pub struct Handlers {
    /// Before a commit, of a session whose user was not looked up yet.
    pub unknown_user: fn(),
    pub pre_commit: fn() -> Result<(), Report>,
    pub prepare: fn() -> Result<(), Report>,
    /// Whether it committed.
    pub end: fn(bool),
    pub subtransaction_started: fn(u32),
    pub subtransaction_committed: fn(u32),
    /// Returns the nesting depth of the hooks at its start.
    pub subtransaction_aborted: fn(u32) -> Option<u32>,
}

static HANDLERS: OnceCell<Handlers> = OnceCell::new();

/// Registers the callbacks. Called once, from `_PG_init`.
pub fn register(handlers: Handlers) {
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
            }
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
            chain::restore_depth(0);
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
                chain::restore_depth(depth);
            }
        }),
        _ => {}
    }
}

/// 1 outside any savepoint or other subtransaction.
pub fn nest_level() -> c_int {
    raw::GetCurrentTransactionNestLevel()
}

/// Whether the transaction was begun by BEGIN, or holds several statements of one message.
pub fn is_block() -> bool {
    raw::IsTransactionBlock()
}

/// Whether a transaction is in progress that has not failed.
pub fn is_usable() -> bool {
    raw::IsTransactionState() && !raw::IsAbortedTransactionBlockState()
}

/// Runs a transaction in which nothing happens but what its callbacks do.
pub fn run_empty() {
    // SAFETY: outside any transaction; an error before a session's first statement ends the process.
    unsafe {
        pg_sys::StartTransactionCommand();
        pg_sys::CommitTransactionCommand();
    }
}

/// Whether a transaction is in progress.
pub fn is_in_progress() -> bool {
    raw::IsTransactionState()
}

/// Whether a statement of the client is running (and not, say, a deferred trigger at commit or a function call
/// message).
pub fn runs_a_statement() -> bool {
    // SAFETY: a static variable.
    unsafe { !pg_sys::ActivePortal.is_null() }
}

/// How many statements rules made of the one that the running portal was opened for.
pub fn statements_of_portal() -> usize {
    // SAFETY: a static variable, null or the live portal; its list is null or live.
    unsafe {
        let portal = pg_sys::ActivePortal;
        if portal.is_null() || (*portal).stmts.is_null() {
            return 1;
        }
        usize::try_from((*(*portal).stmts).length).unwrap_or(1)
    }
}

/// Makes what this transaction did so far visible to its own look-ups. For use after a utility statement.
pub fn make_changes_visible() {
    // SAFETY: no query is running.
    unsafe { pg_sys::CommandCounterIncrement() };
}

/// 64 bits that nobody outside this process can guess.
pub fn random() -> u64 {
    SEEDS.with(|(keys, count)| keys.hash_one(count.replace(count.get().wrapping_add(1))))
}

/// Whether the running portal existed at that time already: then its names were looked up, and its plan was made, for
/// the user of that time. The portals of simple query messages are invisible and made one by one.
pub fn portal_dates_from(time: Timestamp) -> bool {
    // SAFETY: a static variable, null or the live portal.
    unsafe {
        let portal = pg_sys::ActivePortal;
        !portal.is_null() && (*portal).visible && (*portal).creation_time <= time.0
    }
}

/// Whether the server is a standby.
pub fn is_standby() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// Drops the temporary objects of this session, also those that were made without touching the schema by its alias.
/// For use before commit.
pub fn drop_temporary_objects() {
    // SAFETY: inside a transaction that is about to commit; dropping needs a snapshot.
    unsafe {
        let (mut schema, mut toast) = (pg_sys::Oid::INVALID, pg_sys::Oid::INVALID);
        pg_sys::GetTempNamespaceState(&mut schema, &mut toast);
        if schema == pg_sys::Oid::INVALID {
            return;
        }
        pg_sys::PushActiveSnapshot(pg_sys::GetTransactionSnapshot());
        pg_sys::ResetTempTableNamespace();
        pg_sys::PopActiveSnapshot();
    }
}

/// The wall clock, in microseconds since 2000-01-01.
pub fn clock() -> i64 {
    raw::GetCurrentTimestamp()
}

/// Forgets what `currval()` and `lastval()` would tell of the last user. Cannot fail.
pub fn forget_sequences() {
    raw::ResetSequenceCaches();
}

thread_local! {
    /// Keys that nobody outside this process knows, and a counter.
    static SEEDS: (RandomState, Cell<u64>) = (RandomState::new(), const { Cell::new(0) });
}

/// Seeds `random()` anew, so that nothing of a `setseed()` remains. Cannot fail: the seed is within -1 and 1.
pub fn reseed() {
    let bits = random() >> 11;
    let seed = bits as f64 / (1u64 << 53) as f64;
    // SAFETY: setseed() takes one float8, passed as PostgreSQL passes it.
    unsafe {
        if let Some(seed) = seed.into_datum() {
            pg_sys::DirectFunctionCall1Coll(Some(setseed), pg_sys::Oid::INVALID, seed);
        }
    }
}

unsafe extern "C-unwind" {
    /// `float.c`, SQL function `setseed(float8)`.
    fn setseed(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum;
}
