//! What is running in this session now: the transaction, the statement, the portal.

use crate::core::time::Timestamp;
use crate::pg::sys::raw;
use pgrx::pg_sys;
use std::ffi::c_int;

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

/// Whether the running portal existed at that time already: then its names were looked up, and its plan was made, for
/// the user of that time. The portals of simple query messages are invisible and made one by one.
pub fn portal_dates_from(time: Timestamp) -> bool {
    // SAFETY: a static variable, null or the live portal.
    unsafe {
        let portal = pg_sys::ActivePortal;
        !portal.is_null() && (*portal).visible && (*portal).creation_time <= time.0
    }
}

/// Whether a message of the client is being worked on that has a text: not so for a function call message.
pub fn has_message_text() -> bool {
    // SAFETY: a static variable.
    unsafe { !pg_sys::debug_query_string.is_null() }
}
