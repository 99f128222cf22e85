//! Writing on behalf of a session that must not write: a background worker that lives for one job.
//!
//! The session's own transaction may be read only, may roll back, or may hold its locks for long. A dynamic worker
//! has a transaction of its own and needs neither shared memory nor `shared_preload_libraries`.

use crate::pg::sys::{compat, report};
use pgrx::bgworkers::BackgroundWorker;
use pgrx::spi::Spi;
use pgrx::{pg_guard, pg_sys};
use std::ffi::{CStr, c_char, c_int};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;

unsafe extern "C-unwind" {
    /// `postgres.c`: the ordinary handler of SIGTERM.
    fn die(signal: c_int);
}

const LIBRARY: &str = "immuta_ext";
const ENTRY_POINT: &str = "immuta_ext_perform";

/// Starts a worker that runs `immuta_internal.perform(job)` in this database. A job is at most 127 bytes of text. With
/// `wait`, returns when it is done. `false` if no worker slot is free: try again later.
pub fn launch(job: &str, wait: bool) -> bool {
    start("immuta_ext recorder", ENTRY_POINT, crate::pg::catalog::database(), job, wait)
}

/// Starts a worker of this library in a database, with an argument of at most 127 bytes of text.
pub fn start(name: &str, entry_point: &str, database: u32, argument: &str, wait: bool) -> bool {
    let mut worker = pg_sys::BackgroundWorker {
        bgw_flags: (pg_sys::BGWORKER_SHMEM_ACCESS | pg_sys::BGWORKER_BACKEND_DATABASE_CONNECTION) as c_int,
        bgw_start_time: pg_sys::BgWorkerStartTime::BgWorkerStart_RecoveryFinished,
        bgw_restart_time: pg_sys::BGW_NEVER_RESTART,
        bgw_main_arg: pg_sys::Datum::from(database),
        ..Default::default()
    };
    let fits = fill(&mut worker.bgw_name, name)
        && fill(&mut worker.bgw_type, name)
        && fill(&mut worker.bgw_library_name, LIBRARY)
        && fill(&mut worker.bgw_function_name, entry_point)
        && fill(&mut worker.bgw_extra, argument);
    if !fits {
        return false;
    }
    // SAFETY: the worker is fully described; waiting handles interrupts; MyProcPid is a static variable.
    unsafe {
        if wait {
            worker.bgw_notify_pid = pg_sys::MyProcPid;
        }
        let mut handle = std::ptr::null_mut();
        if !pg_sys::RegisterDynamicBackgroundWorker(&mut worker, &mut handle) {
            report_no_slot();
            return false;
        }
        if wait {
            pg_sys::WaitForBackgroundWorkerShutdown(handle);
        }
        true
    }
}

/// Once per session is enough to tell the administrator.
fn report_no_slot() {
    static REPORTED: AtomicBool = AtomicBool::new(false);
    if !REPORTED.swap(true, Relaxed) {
        report::log(
            "no free background worker slot for immuta_ext; will retry",
            "Consider increasing max_worker_processes.",
        );
    }
}

fn fill<const N: usize>(field: &mut [c_char; N], text: &str) -> bool {
    if text.len() >= N || text.as_bytes().contains(&0) {
        return false;
    }
    for (to, from) in field.iter_mut().zip(text.as_bytes()) {
        *to = *from as c_char;
    }
    true
}

/// Main function of the worker.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn immuta_ext_perform(database: pg_sys::Datum) {
    // SAFETY: runs in a background worker started by launch(), whose entry holds a NUL-terminated job.
    let job = unsafe {
        compat::pqsignal(pg_sys::SIGTERM as c_int, Some(die));
        pg_sys::BackgroundWorkerUnblockSignals();
        let database = pg_sys::Oid::from(database.value() as u32);
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::Oid::INVALID, 0);
        CStr::from_ptr((*pg_sys::MyBgworkerEntry).bgw_extra.as_ptr()).to_string_lossy().into_owned()
    };
    BackgroundWorker::transaction(|| {
        if let Err(error) = Spi::run_with_args("SELECT immuta_internal.perform($1)", &[job.into()]) {
            pgrx::log!("immuta_ext could not record a use: {error}");
        }
    });
    // A transaction of its own, so that no lock is held while it waits for another.
    BackgroundWorker::transaction(|| {
        let expired = Spi::run("SET LOCAL lock_timeout = '30s'")
            .and_then(|()| Spi::run("SELECT immuta.expire_subscriptions()"));
        if let Err(error) = expired {
            pgrx::log!("immuta_ext could not end subscriptions: {error}");
        }
    });
}
