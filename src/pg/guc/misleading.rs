//! Values of settings with which text that was written for others is misread.

use pgrx::pg_sys;
use std::ffi::{CStr, c_int};

const CLIENT_ENCODING: &CStr = c"client_encoding";

const CONFORMING_STRINGS: &CStr = c"standard_conforming_strings";

/// Whether [`is_misleading`] may be true of some value of this setting.
pub fn may_mislead(name: &CStr) -> bool {
    [CLIENT_ENCODING, CONFORMING_STRINGS].iter().any(|other| is_name(name, other))
}

fn is_name(name: &CStr, other: &CStr) -> bool {
    name.to_bytes().eq_ignore_ascii_case(other.to_bytes())
}

/// Whether, with this value of the setting, text that was written for another value can be misread: a backslash that
/// escapes a quote, or a character of several bytes that holds one.
pub fn is_misleading(name: &CStr, value: &CStr) -> bool {
    // SAFETY: both take a NUL-terminated string; the second writes the variable.
    unsafe {
        if is_name(name, CLIENT_ENCODING) {
            // The encodings that no database may have are of that kind; they come last.
            pg_sys::pg_valid_client_encoding(value.as_ptr()) >= pg_sys::pg_enc::PG_SJIS as c_int
        } else if is_name(name, CONFORMING_STRINGS) {
            let mut is_on = false;
            !(pg_sys::parse_bool(value.as_ptr(), &mut is_on) && is_on)
        } else {
            false
        }
    }
}
