//! Text between the database encoding and UTF-8.

use crate::pg::sys::raw;
use pgrx::{PgSqlErrorCode, PgTryBuilder, pg_sys};
use std::ffi::{CStr, CString, c_char, c_int};

const UTF8: c_int = pg_sys::pg_enc::PG_UTF8 as c_int;

/// Whether the database encoding is UTF-8.
pub fn is_utf8() -> bool {
    raw::GetDatabaseEncoding() == UTF8
}

/// Text that is meant to be UTF-8. Nearly always it is, which is faster to see than to look for what is not.
pub fn utf8(bytes: &[u8]) -> String {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes).into_owned(), str::to_owned)
}

/// As [`from_server`], but for use after an error, too, when no conversion can be looked up: letters of other
/// encodings are lost then. Raises nothing.
pub fn from_server_anyhow(bytes: &[u8]) -> String {
    if is_utf8() || bytes.is_ascii() {
        return utf8(bytes);
    }
    let plain = || bytes.iter().map(|&byte| if byte.is_ascii() { char::from(byte) } else { '?' }).collect();
    if !raw::IsTransactionState() {
        return plain();
    }
    PgTryBuilder::new(|| from_server(bytes)).catch_others(|_| plain()).execute()
}

/// Converts bytes in the database encoding to UTF-8 (`pg_server_to_any`). Raises 22021 if they are not valid there,
/// which only happens in SQL_ASCII databases.
pub fn from_server(bytes: &[u8]) -> String {
    // SAFETY: the pointer and length describe `bytes`; the result is either that pointer or a palloc'd,
    // NUL-terminated string.
    unsafe {
        let source = bytes.as_ptr() as *const c_char;
        let converted = pg_sys::pg_server_to_any(source, bytes.len() as c_int, UTF8);
        if std::ptr::eq(converted, source) { utf8(bytes) } else { utf8(CStr::from_ptr(converted).to_bytes()) }
    }
}

/// Converts UTF-8 to the database encoding (`pg_any_to_server`), for example to look a name up. `None` for text that
/// nothing in this database can be called by: with a NUL byte, or a character that the encoding lacks.
pub fn to_server(text: &str) -> Option<CString> {
    // PostgreSQL has an error of its own for it, which is no conversion's.
    if text.contains('\0') {
        return None;
    }
    let source = text.as_ptr() as *const c_char;
    let converted = PgTryBuilder::new(|| {
        // SAFETY: as in from_server(). A conversion holds nothing that an error would leave behind.
        Some(unsafe { pg_sys::pg_any_to_server(source, text.len() as c_int, UTF8) })
    })
    .catch_when(PgSqlErrorCode::ERRCODE_UNTRANSLATABLE_CHARACTER, |_| None)
    .execute()?;
    if std::ptr::eq(converted, source) {
        CString::new(text).ok()
    } else {
        // SAFETY: as in from_server().
        Some(unsafe { CStr::from_ptr(converted) }.to_owned())
    }
}
