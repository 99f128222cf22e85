//! Parameters, each set as SET does it.

use pgrx::pg_sys;
use pgrx::pg_sys::{GucAction, GucContext};
use std::ffi::{CStr, c_int};

/// What becomes of a value that cannot be set.
#[derive(Clone, Copy)]
pub enum Unset {
    Error,
    Warning,
    /// Nothing that anybody sees.
    Quietly,
}

/// Sets or, without a value, resets, with the rights that `context` has; whether that was possible.
pub fn set(
    name: &CStr,
    value: Option<&CStr>,
    context: GucContext::Type,
    action: GucAction::Type,
    unset: Unset,
) -> bool {
    let level = match unset {
        Unset::Error => pg_sys::PGERROR,
        Unset::Warning => pg_sys::WARNING,
        Unset::Quietly => pg_sys::DEBUG1,
    };
    let value = value.map_or(std::ptr::null(), CStr::as_ptr);
    let source = pg_sys::GucSource::PGC_S_SESSION;
    // SAFETY: NUL-terminated strings, which guc.c copies.
    let done = unsafe {
        pg_sys::set_config_option(name.as_ptr(), value, context, source, action, true, level as c_int, false)
    };
    done > 0
}
