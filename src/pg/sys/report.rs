//! Raising an error of ours.

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

/// An error ready to be raised.
pub struct Report {
    pub sqlstate: PgSqlErrorCode,
    pub message: String,
    pub detail: &'static str,
    pub hint: &'static str,
}

/// Raises an ERROR. Rust frames above unwind; the nearest guard hands it to PostgreSQL.
pub fn raise(report: Report) -> ! {
    ErrorReport::new(report.sqlstate, report.message, "immuta_ext")
        .set_detail(report.detail)
        .set_hint(report.hint)
        .report(PgLogLevel::ERROR);
    unreachable!("ereport(ERROR) does not return")
}

/// Raises a WARNING.
pub fn warn(message: String, detail: &str, hint: &str) {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message, "immuta_ext")
        .set_detail(detail)
        .set_hint(hint)
        .report(PgLogLevel::WARNING);
}

/// Writes a line to the server's log.
pub fn log(message: impl Into<String>, hint: &str) {
    ErrorReport::new(PgSqlErrorCode::ERRCODE_WARNING, message.into(), "immuta_ext")
        .set_hint(hint)
        .report(PgLogLevel::LOG);
}

/// Settles, for the whole process, that Rust captures no backtraces in this library: pgrx would put them into the
/// DETAIL of errors. The environment is the server's, so it is put back at once; only the decision stays.
pub fn disable_backtraces() {
    const VARIABLE: &str = "RUST_LIB_BACKTRACE";
    let before = std::env::var_os(VARIABLE);
    // SAFETY: _PG_init runs in a process with one thread (PostgreSQL's), so nothing reads the environment meanwhile.
    unsafe { std::env::set_var(VARIABLE, "0") };
    drop(std::backtrace::Backtrace::capture());
    match before {
        // SAFETY: as above.
        Some(value) => unsafe { std::env::set_var(VARIABLE, value) },
        // SAFETY: as above.
        None => unsafe { std::env::remove_var(VARIABLE) },
    }
}
