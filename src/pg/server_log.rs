//! The server's log without `ereport()`, which copies each line byte by byte, and formats the same second anew each
//! time: most of what an audit record would cost there.
//!
//! Follows `send_message_to_server_log()` (elog.c) for a line at level LOG without details. Whatever is not as simple
//! as that is left to `ereport()`.

use super::{compat, xact};
use crate::core::log_prefix;
use crate::core::time::Timestamp;
use pgrx::pg_sys;
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::io::Write;

unsafe extern "C-unwind" {
    /// `postmaster.c`: whether standard error is the pipe to the logging collector.
    static redirection_done: bool;
}

/// The second that was shown last, in which time zone; the text has the zone's name after a tab.
struct Second {
    begun: i64,
    zone: *const pg_sys::pg_tz,
    shown: Vec<u8>,
}

thread_local! {
    static SECOND: RefCell<Option<Second>> = const { RefCell::new(None) };
}

/// Writes a message, which has no line feed, as one line. `false` if that is left to `ereport()`.
pub fn write(message: &[u8]) -> bool {
    let Some(severity) = compat::severity_of_log() else { return false };
    // SAFETY: settings of this process. LOG is written at all levels up to ERROR.
    let is_simple = unsafe {
        pg_sys::Log_destination == pg_sys::LOG_DESTINATION_STDERR as c_int
            && pg_sys::Log_error_verbosity < pg_sys::PGErrorVerbosity::PGERROR_VERBOSE as c_int
            && pg_sys::log_min_messages <= pg_sys::PGERROR as c_int
    };
    if !is_simple {
        return false;
    }
    let Some(mut line) = prefix() else { return false };
    for part in [severity.to_bytes(), b":  ", message, b"\n"] {
        line.extend_from_slice(part);
    }
    // SAFETY: set once, by the postmaster.
    if unsafe { redirection_done } {
        compat::write_to_collector(&mut line);
    } else {
        // PostgreSQL does not look for errors here, either.
        let _ = std::io::stderr().write_all(&line);
    }
    true
}

fn prefix() -> Option<Vec<u8>> {
    // SAFETY: null or a NUL-terminated setting, which does not change meanwhile.
    let format = unsafe {
        if pg_sys::Log_line_prefix.is_null() {
            return Some(Vec::new());
        }
        CStr::from_ptr(pg_sys::Log_line_prefix).to_bytes()
    };
    let now = Timestamp(xact::clock());
    let format = SECOND.with_borrow_mut(|second| {
        let mut parts = Second::of(second, now)?.splitn(2, |&byte| byte == b'\t');
        log_prefix::with_time(format, now, parts.next()?, parts.next()?)
    })?;
    compat::log_prefix(&CString::new(format).ok()?)
}

impl Second {
    fn of(last: &mut Option<Second>, now: Timestamp) -> Option<&[u8]> {
        let begun = now.to_unix_micros().div_euclid(1_000_000);
        // SAFETY: a time zone that PostgreSQL keeps for ever, null before the settings are read.
        let zone = unsafe { pg_sys::log_timezone };
        if last.as_ref().is_none_or(|last| last.begun != begun || last.zone != zone) {
            *last = Some(Second { begun, zone, shown: shown(begun, zone)? });
        }
        last.as_ref().map(|last| last.shown.as_slice())
    }
}

fn shown(second: i64, zone: *const pg_sys::pg_tz) -> Option<Vec<u8>> {
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
        let format = c"%Y-%m-%d %H:%M:%S\t%Z".as_ptr();
        pg_sys::pg_strftime(text.as_mut_ptr().cast::<c_char>(), LENGTH, format, civil)
    };
    text.get(..length).filter(|text| !text.is_empty()).map(<[u8]>::to_vec)
}
