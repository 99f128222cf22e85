//! The background worker that writes the audit table of one database. It comes when there is something to write, and
//! goes when there was nothing for a while.

use crate::pg::job::worker;
use crate::pg::sys::{compat, report, wait};
use crate::pg::{catalog, guc, shared};
use once_cell::sync::OnceCell;
use pgrx::bgworkers::BackgroundWorker;
use pgrx::spi::Spi;
use pgrx::{pg_guard, pg_sys};
use std::ffi::c_int;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

const ENTRY_POINT: &str = "immuta_ext_store_audit";
/// How often the writer looks for records.
const INTERVAL: Duration = Duration::from_millis(100);
/// It goes when it found none for so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// Stores what waits; whether there was anything.
static STORE: OnceCell<fn() -> bool> = OnceCell::new();

static STOPS: AtomicBool = AtomicBool::new(false);

/// Called once, from `_PG_init`.
pub fn install(store: fn() -> bool) {
    // Installed once.
    let _ = STORE.set(store);
}

/// Starts the writer of a database. `false` if no worker slot is free: try again later.
pub fn launch(database: u32) -> bool {
    worker::start("immuta_ext audit writer", ENTRY_POINT, database, "", false)
}

/// Stores records in a transaction of its own. Raises errors.
pub fn store(records: &[String]) {
    BackgroundWorker::transaction(|| {
        let records: Vec<&str> = records.iter().map(String::as_str).collect();
        if let Err(error) = Spi::run_with_args("SELECT immuta_internal.store_audit($1)", &[records.into()]) {
            pgrx::error!("immuta_ext could not store audit records: {error}");
        }
    });
}

/// Drops what is older than `bodata.audit_retention`.
fn expire() {
    BackgroundWorker::transaction(|| {
        if let Err(error) = Spi::run("SELECT immuta.expire_audit()") {
            report::log(format!("immuta_ext could not expire audit records: {error}"), "");
        }
    });
}

unsafe extern "C-unwind" {
    /// `interrupt.c`: remembers that the configuration is to be read again.
    fn SignalHandlerForConfigReload(signal: c_int);
}

unsafe extern "C-unwind" fn stop(_signal: c_int) {
    STOPS.store(true, Relaxed);
    // SAFETY: the latch of this process; setting it is safe in a signal handler.
    unsafe { pg_sys::SetLatch(pg_sys::MyLatch) };
}

/// Main function of the worker. An error ends it; who writes next launches another.
#[pg_guard]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn immuta_ext_store_audit(database: pg_sys::Datum) {
    // SAFETY: runs in a background worker started by launch().
    unsafe {
        compat::pqsignal(pg_sys::SIGTERM as c_int, Some(stop));
        compat::pqsignal(pg_sys::SIGHUP as c_int, Some(SignalHandlerForConfigReload));
        pg_sys::BackgroundWorkerUnblockSignals();
        let database = pg_sys::Oid::from(database.value() as u32);
        pg_sys::BackgroundWorkerInitializeConnectionByOid(database, pg_sys::Oid::INVALID, 0);
    }
    if !shared::become_writer(catalog::database()) {
        return;
    }
    let Some(store) = STORE.get() else { return };
    let mut last = Instant::now();
    let mut expired: Option<Instant> = None;
    loop {
        const HOUR: Duration = Duration::from_secs(3600);
        let is_last = STOPS.load(Relaxed);
        if store() {
            last = Instant::now();
        }
        if is_last {
            return;
        }
        if expired.is_none_or(|at| at.elapsed() > HOUR) {
            expired = Some(Instant::now());
            expire();
        }
        if last.elapsed() > PATIENCE {
            // Who appends from now on launches another; what was appended just before is looked for once more.
            shared::resign();
            if !store() || !shared::become_writer(catalog::database()) {
                return;
            }
            last = Instant::now();
        }
        wait::nap(INTERVAL);
        guc::reload_if_asked();
    }
}
