//! The server's log without `ereport()`, which copies each line byte by byte, and formats the same second anew each
//! time: most of what an audit record would cost there.
//!
//! Follows `send_message_to_server_log()` (elog.c) for a line at level LOG without details. Whatever is not as simple
//! as that is left to `ereport()`.

use crate::core::audit::log_prefix::{self, Moment};
use crate::core::time::Timestamp;
use crate::pg::sys::{clock, compat};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int};
use std::io::Write;

unsafe extern "C-unwind" {
    /// `postmaster.c`: whether standard error is the pipe to the logging collector.
    static redirection_done: bool;
}

/// The second that was shown last, in which time zone.
struct Second {
    begun: i64,
    zone: *const pg_sys::pg_tz,
    shown: Vec<u8>,
    zone_name: Vec<u8>,
}

thread_local! {
    static SECOND: RefCell<Option<Second>> = const { RefCell::new(None) };
    /// The line that is being written, kept for the next.
    static LINE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Writes a message, which has no line feed, as one line. `false` if that is left to `ereport()`.
pub fn write(label: &[u8], message: &[u8]) -> bool {
    const KEPT: usize = 16 * 1024;
    let Some(severity) = compat::severity_of_log() else { return false };
    // SAFETY: settings of this process. LOG is written at all levels up to ERROR.
    let is_simple = unsafe {
        pg_sys::Log_destination == pg_sys::LOG_DESTINATION_STDERR as c_int
            && pg_sys::Log_error_verbosity < pg_sys::PGErrorVerbosity::PGERROR_VERBOSE as c_int
            && compat::log_min_messages() <= pg_sys::PGERROR as c_int
    };
    is_simple
        && LINE.with_borrow_mut(|line| {
            line.clear();
            line.shrink_to(KEPT);
            if append_prefix(line).is_none() {
                return false;
            }
            for part in [severity.to_bytes(), b":  ", label, message, b"\n"] {
                line.extend_from_slice(part);
            }
            // SAFETY: set once, by the postmaster.
            if unsafe { redirection_done } {
                compat::write_to_collector(line);
            } else {
                // PostgreSQL does not look for errors here, either.
                let _ = std::io::stderr().write_all(line);
            }
            true
        })
}

fn append_prefix(line: &mut Vec<u8>) -> Option<()> {
    // SAFETY: null or a NUL-terminated setting, which does not change meanwhile; a static variable.
    let (format, pid) = unsafe {
        if pg_sys::Log_line_prefix.is_null() {
            return Some(());
        }
        (CStr::from_ptr(pg_sys::Log_line_prefix).to_bytes(), pg_sys::MyProcPid)
    };
    let now = Timestamp(clock::wall_time());
    SECOND.with_borrow_mut(|second| {
        let Second { shown, zone_name, .. } = Second::of(second, now)?;
        let moment = Moment { now, second: shown, zone: zone_name };
        log_prefix::append(line, format, moment, pid).or_else(|| {
            line.clear();
            compat::append_log_prefix(line, &log_prefix::with_time(format, moment)?)
        })
    })
}

impl Second {
    fn of(last: &mut Option<Second>, now: Timestamp) -> Option<&Second> {
        let begun = now.to_unix_micros().div_euclid(1_000_000);
        // SAFETY: a time zone that PostgreSQL keeps for ever, null before the settings are read.
        let zone = unsafe { pg_sys::log_timezone };
        if last.as_ref().is_none_or(|last| last.begun != begun || last.zone != zone) {
            let (shown, zone_name) = (in_zone(begun, zone, c"%Y-%m-%d %H:%M:%S")?, in_zone(begun, zone, c"%Z")?);
            *last = Some(Second { begun, zone, shown, zone_name });
        }
        last.as_ref()
    }
}

fn in_zone(second: i64, zone: *const pg_sys::pg_tz, format: &CStr) -> Option<Vec<u8>> {
    const LENGTH: usize = 128;
    let mut text = [0u8; LENGTH];
    if zone.is_null() {
        return None;
    }
    // SAFETY: pg_localtime() returns null or a static; the text is as long as it is told.
    let length = unsafe {
        let civil = pg_sys::pg_localtime(&second, zone);
        if civil.is_null() {
            return None;
        }
        pg_sys::pg_strftime(text.as_mut_ptr().cast::<c_char>(), LENGTH, format.as_ptr(), civil)
    };
    text.get(..length).filter(|text| !text.is_empty()).map(<[u8]>::to_vec)
}
