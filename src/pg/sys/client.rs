//! The client of this session, and where the session runs.

use crate::pg::sys::compat;
use pgrx::{Inet, direct_function_call, pg_sys};
use std::ffi::{CStr, c_char};
use std::net::IpAddr;

/// Its address; `None` for one that came by a local socket, or in a process without a client.
pub fn address() -> Option<IpAddr> {
    // SAFETY: takes no arguments and returns null where there is no address.
    let address = unsafe { direct_function_call::<Inet>(pg_sys::inet_client_addr, &[]) };
    address.and_then(|address| address.0.parse().ok())
}

/// Whether this process serves a client, which works in a database.
pub fn is_served() -> bool {
    use pg_sys::BackendType::{B_BACKEND, B_WAL_SENDER};
    // SAFETY: static variables.
    unsafe {
        matches!(pg_sys::MyBackendType, B_BACKEND | B_WAL_SENDER) && pg_sys::MyDatabaseId != pg_sys::Oid::INVALID
    }
}

/// Takes away with what the login proved who it is: under a token it would open other servers, and this one, in the login's
/// name. It is gone for the rest of the session. Cannot fail.
pub fn forget_credentials() {
    compat::forget_scram_keys();
    // Delegated credentials are in the cache that this variable names (`pg_store_delegated_credential`).
    if compat::accepts_delegation() {
        // SAFETY: a backend reads and writes its environment in its only thread that does so.
        unsafe { std::env::set_var("KRB5CCNAME", "MEMORY:immuta_ext_none") };
    }
}

/// What the client calls itself.
pub fn application_name() -> String {
    // SAFETY: null or a NUL-terminated setting.
    unsafe { shown(pg_sys::application_name) }
}

/// Name of the cluster, often empty.
pub fn cluster_name() -> String {
    // SAFETY: as above.
    unsafe { shown(pg_sys::cluster_name) }
}

/// The session as `%c` in `log_line_prefix` shows it.
pub fn session_id() -> String {
    // SAFETY: static variables.
    let (begun, pid) = unsafe { (pg_sys::MyStartTime, pg_sys::MyProcPid) };
    format!("{begun:x}.{pid:x}")
}

/// # Safety
/// `text` is null or NUL-terminated.
unsafe fn shown(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: by contract. PostgreSQL keeps these settings in ASCII.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
