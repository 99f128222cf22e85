//! What `pg_stat_activity` shows of a session that may present tokens.
//!
//! PostgreSQL reports the text of a message before any hook sees it (`exec_simple_query`, `exec_parse_message`,
//! `exec_bind_message`, `exec_execute_message`), and that can be a token. Between the statements of such a session
//! PostgreSQL is told that there is room for no text; while a statement runs the size is as it was, which whoever reads
//! the view needs.

use crate::pg::{gate, log};
use pgrx::pg_sys;
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::Relaxed;

/// `track_activity_query_size` while texts are hidden, else 0.
static SIZE: AtomicI32 = AtomicI32::new(0);

/// Room for the zero byte that ends it.
const NO_TEXT: i32 = 1;

/// From here on, until a statement begins, no text is reported. Cannot fail.
pub fn hide() {
    // SAFETY: a static variable, read and written by this process only.
    unsafe {
        if SIZE.load(Relaxed) == 0 && pg_sys::pgstat_track_activity_query_size > NO_TEXT {
            SIZE.store(pg_sys::pgstat_track_activity_query_size, Relaxed);
            pg_sys::pgstat_track_activity_query_size = NO_TEXT;
        }
    }
}

/// A statement begins.
#[inline]
pub fn begins() {
    if SIZE.load(Relaxed) != 0 {
        show();
    }
}

/// A statement of the client is over.
#[inline]
pub fn ends() {
    if gate::is_waiting_for_user() {
        hide();
    }
}

fn show() {
    // SAFETY: as in hide().
    unsafe { pg_sys::pgstat_track_activity_query_size = SIZE.swap(0, Relaxed) };
    if gate::is_impersonating() {
        log::report_statement();
    }
}
