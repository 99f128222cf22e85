//! Who writes the audit table of a database.

use crate::pg::catalog;
use crate::pg::shared::memory::shared;
use crate::pg::sys::clock;
use pgrx::pg_sys;
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64};

/// Databases whose audit table can be written at the same time.
pub(super) const WRITERS: usize = 64;

/// The entry of a database in the list of writers; `None` if there are too many, or nothing is shared.
fn writer(database: u32) -> Option<&'static Writer> {
    let writers = &shared()?.writers;
    let of = |writer: &&Writer| {
        writer.database.load(Relaxed) == database
            || writer.database.compare_exchange(0, database, AcqRel, Relaxed).is_ok()
            || writer.database.load(Relaxed) == database
    };
    writers.iter().find(of)
}

/// Whether a writer of this database's audit table has to be launched, and it is up to the caller to do so. One that
/// was launched but never came is given up after five seconds, one that failed at once is replaced after one second.
pub fn needs_writer(database: u32) -> bool {
    const PATIENCE: i64 = 5_000_000;
    const PAUSE: i64 = 1_000_000;
    let Some(writer) = writer(database) else { return false };
    let pid = writer.pid.load(Acquire);
    if pid > 0 {
        return false;
    }
    let now = clock::wall_time();
    let pause = if pid < 0 { PATIENCE } else { PAUSE };
    if now.saturating_sub(writer.launched.load(Relaxed)) < pause {
        return false;
    }
    let is_mine = writer.pid.compare_exchange(pid, -1, AcqRel, Relaxed).is_ok();
    if is_mine {
        writer.launched.store(now, Relaxed);
    }
    is_mine
}

/// This process writes the audit table of its database. `false` if another one does.
pub fn become_writer(database: u32) -> bool {
    let Some(writer) = writer(database) else { return false };
    // SAFETY: a static variable.
    let me = unsafe { pg_sys::MyProcPid };
    let pid = writer.pid.load(Acquire);
    if pid > 0 {
        return pid == me;
    }
    let is_writer = writer.pid.compare_exchange(pid, me, AcqRel, Relaxed).is_ok();
    if is_writer {
        // SAFETY: as in slot().
        unsafe { pg_sys::on_shmem_exit(Some(stop_writing), 0.into()) };
    }
    is_writer
}

unsafe extern "C-unwind" fn stop_writing(_code: c_int, _arg: pg_sys::Datum) {
    resign();
}

/// This process writes no more.
pub fn resign() {
    // SAFETY: a static variable.
    let me = unsafe { pg_sys::MyProcPid };
    if let Some(writer) = writer(catalog::database()) {
        let _ = writer.pid.compare_exchange(me, 0, AcqRel, Relaxed);
    }
}

/// Bytes that wait for the writer of this database.
pub fn backlog() -> u64 {
    writer(catalog::database()).map_or(0, |writer| writer.backlog.load(Relaxed))
}

/// These bytes wait, too.
pub fn add_to_backlog(bytes: u64) {
    if let Some(writer) = writer(catalog::database()) {
        writer.backlog.fetch_add(bytes, Relaxed);
    }
}

/// These bytes wait no more. After a crash the count began anew: there may be more of them than were counted.
pub fn take_from_backlog(bytes: u64) {
    if let Some(writer) = writer(catalog::database()) {
        let less = |backlog: u64| Some(backlog.saturating_sub(bytes));
        let _ = writer.backlog.fetch_update(Relaxed, Relaxed, less);
    }
}

/// The process that writes the audit table of a database.
#[repr(C)]
pub(super) struct Writer {
    database: AtomicU32,
    /// 0: none; -1: on its way.
    pid: AtomicI32,
    launched: AtomicI64,
    /// Bytes that wait to be written.
    backlog: AtomicU64,
}
