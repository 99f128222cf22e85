//! The end of the session.

use once_cell::sync::OnceCell;
use pgrx::{pg_guard, pg_sys};
use std::ffi::c_int;

static HANDLER: OnceCell<fn()> = OnceCell::new();

/// Has `handler` called when the process ends and no transaction is open any more. It must not fail. Only the first
/// handler counts.
pub fn on_exit(handler: fn()) {
    if HANDLER.set(handler).is_ok() {
        // SAFETY: the callback stays valid for the life of the process.
        unsafe { pg_sys::on_shmem_exit(Some(at_exit), 0.into()) };
    }
}

/// Has `last` called when nothing of this process is left to be done, so that helper threads can be kept from what must
/// not be broken off. It must not fail.
pub fn at_last(last: fn()) {
    static LAST: OnceCell<fn()> = OnceCell::new();
    #[pg_guard]
    unsafe extern "C-unwind" fn call(_code: c_int, _arg: pg_sys::Datum) {
        if let Some(last) = LAST.get() {
            last();
        }
    }
    if LAST.set(last).is_ok() {
        // SAFETY: the callback stays valid for the life of the process.
        unsafe { pg_sys::on_proc_exit(Some(call), 0.into()) };
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_exit(_code: c_int, _arg: pg_sys::Datum) {
    if let Some(handler) = HANDLER.get() {
        handler();
    }
}
