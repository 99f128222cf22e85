//! Time, chance, and what kind of server this is.

use crate::core::time::Timestamp;
use crate::pg::sys::raw;
use pgrx::pg_sys;
use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

/// 64 bits that nobody outside this process can guess.
pub fn random() -> u64 {
    SEEDS.with(|(keys, count)| keys.hash_one(count.replace(count.get().wrapping_add(1))))
}

/// Whether the server is a standby.
pub fn is_standby() -> bool {
    // SAFETY: reads shared memory.
    unsafe { pg_sys::RecoveryInProgress() }
}

/// The wall clock, in microseconds since 2000-01-01.
pub fn wall_time() -> i64 {
    raw::GetCurrentTimestamp()
}

thread_local! {
    /// Keys that nobody outside this process knows, and a counter.
    static SEEDS: (RandomState, Cell<u64>) = (RandomState::new(), const { Cell::new(0) });
}

/// When the running statement began.
pub fn statement_time() -> Timestamp {
    Timestamp(raw::GetCurrentStatementStartTimestamp())
}
