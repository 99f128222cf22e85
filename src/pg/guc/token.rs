//! The parameter that carries the token.

use crate::core::token::{self, Digest, Secret};
use crate::pg::guc::values::is_local;
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::{compat, raw};
use crate::pg::{gate, log};
use once_cell::sync::OnceCell;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::{PgSqlErrorCode, pg_guard, pg_sys};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::Relaxed;
use zeroize::Zeroize;

const TOKEN: &CStr = c"bodata.impersonation_token";
const MASK: &CStr = c"********";

/// The value of the token parameter is only ever an asterisk.
static TOKEN_VALUE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// What the check hook keeps of a token, in memory that guc.c owns (the value's `extra`).
#[repr(C)]
struct TokenExtra {
    digest: Digest,
    is_well_formed: bool,
    /// It came with the connection.
    is_of_connection: bool,
    /// Acted upon: presenting it again (a stacked value that comes back) means nothing.
    is_settled: bool,
}

/// The extra of the current value, while it waits to be acted upon. The assign hook runs at every change of the
/// value, so it never outlives the memory it points to.
static PRESENTED: AtomicPtr<TokenExtra> = AtomicPtr::new(std::ptr::null_mut());

/// The parameter in guc.c's table.
pub(super) static TOKEN_SETTING: AtomicPtr<pg_sys::config_generic> = AtomicPtr::new(std::ptr::null_mut());

/// Whether the text of a token is kept until it is acted upon.
static KEEPS_TEXT: OnceCell<fn() -> bool> = OnceCell::new();

thread_local! {
    /// The text of the token that was presented last, for a provider that must be sent it.
    static TEXT: RefCell<Option<(Digest, Secret)>> = const { RefCell::new(None) };
}

/// A token that was presented.
pub struct PresentedToken {
    pub digest: Digest,
    pub is_well_formed: bool,
    /// By SET LOCAL (or its like), so that it ends with the transaction.
    pub is_local: bool,
    /// In the options of the connection, not by a statement.
    pub is_of_connection: bool,
}

/// Number of the token parameter among those that say whom to impersonate.
const TOKEN_NUMBER: u32 = 0;

/// The token that waits to be acted upon, if there is one.
pub fn presented() -> Option<PresentedToken> {
    let extra = PRESENTED.load(Relaxed);
    if extra.is_null() {
        return None;
    }
    // SAFETY: not null, so it is the live extra of the current value (see PRESENTED).
    let extra = unsafe { &*extra };
    Some(PresentedToken {
        digest: extra.digest,
        is_well_formed: extra.is_well_formed,
        is_local: is_local(TOKEN_SETTING.load(Relaxed)),
        is_of_connection: extra.is_of_connection,
    })
}

#[cfg(feature = "inject")]
pub fn state_of_token() -> String {
    format!("token {} {}", PRESENTED.load(Relaxed).is_null(), TEXT.with_borrow(Option::is_none))
}

/// The text of a presented token, once, if it was kept.
pub fn take_text(digest: &Digest) -> Option<Secret> {
    TEXT.take().filter(|(kept, _)| kept == digest).map(|(_, text)| text)
}

/// Forgets the text of a token that was not acted upon. Cannot fail.
pub fn forget_text() {
    TEXT.with(|text| text.try_borrow_mut().ok().and_then(|mut text| text.take()));
}

/// The presented token has been acted upon.
pub fn settle_token() {
    forget_text();
    let extra = PRESENTED.swap(std::ptr::null_mut(), Relaxed);
    if !extra.is_null() {
        // SAFETY: as in presented().
        unsafe { (*extra).is_settled = true };
    }
    gate::set_presented(TOKEN_NUMBER, false);
}

/// Defines the token parameter. `keeps_text` tells whether the provider in use needs the token itself. SHOW gives the
/// mask; `pg_settings` does not list it; while the role is locked guc.c refuses to set it (`GUC_NOT_WHILE_SEC_REST`).
pub fn define_token(keeps_text: fn() -> bool) {
    // Defined once, from _PG_init.
    let _ = KEEPS_TEXT.set(keeps_text);
    let flags = GucFlags::NO_SHOW_ALL
        | GucFlags::DISALLOW_IN_FILE
        | GucFlags::DISALLOW_IN_AUTO_FILE
        | GucFlags::NOT_WHILE_SEC_REST;
    // SAFETY: the hooks have the signatures that guc.c expects and live as long as the process.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            TOKEN,
            c"Token of the user to impersonate for the rest of the transaction.",
            c"To be set with SET LOCAL at the start of a transaction.",
            &TOKEN_VALUE,
            GucContext::Userset,
            flags,
            Some(check_token),
            Some(assign_token),
            Some(show_token),
        );
    }
    TOKEN_SETTING.store(compat::setting(TOKEN), Relaxed);
}

/// Takes the token out of the value: keeps its digest, wipes the text, leaves an asterisk.
#[pg_guard]
unsafe extern "C-unwind" fn check_token(
    value: *mut *mut c_char,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: guc.c passes a NUL-terminated value in its own memory, which the hook may replace.
    unsafe {
        if (*value).is_null() || **value == 0 {
            return true;
        }
        // The state handed to a parallel worker holds the asterisk, and means nothing there.
        if pg_sys::InitializingParallelWorker {
            return true;
        }
        let length = CStr::from_ptr(*value).to_bytes().len();
        let text = std::slice::from_raw_parts_mut(*value as *mut u8, length);
        let is_well_formed = token::is_well_formed(text);
        let digest = Digest::of(text);
        // When a connection is made, it is not settled yet which provider the session has.
        let is_of_connection = source == pg_sys::GucSource::PGC_S_CLIENT;
        let is_of_session = source == pg_sys::GucSource::PGC_S_SESSION;
        if is_of_connection || is_of_session && KEEPS_TEXT.get().is_some_and(|keeps| keeps()) {
            TEXT.set(Secret::of(text).map(|text| (digest, text)));
        }
        text.zeroize();
        text[0] = b'*';
        inject::point(Point::TokenTaken);
        hide_statement();

        // Only a client can present a token: not a file, a role's or database's settings, or a function's SET
        // clause (which is tested first).
        if !is_of_connection && !is_of_session {
            refuse(c"an impersonation token can only be set by SET LOCAL in a transaction");
            return false;
        }
        let kept = compat::setting_alloc(size_of::<TokenExtra>()) as *mut TokenExtra;
        if kept.is_null() {
            refuse(c"out of memory");
            return false;
        }
        kept.write(TokenExtra { digest, is_well_formed, is_of_connection, is_settled: false });
        *extra = kept as *mut c_void;
        inject::point(Point::TokenKept);
        true
    }
}

/// The statement that is running holds a token: `pg_stat_activity` shows this instead of its text.
fn hide_statement() {
    log::hold_back();
    let instead = c"SET LOCAL bodata.impersonation_token = '********'";
    // SAFETY: writes this backend's entry; the text is copied.
    unsafe { raw::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, instead.as_ptr()) };
}

/// Sets the message of a refusal; without one guc.c would print the value.
fn refuse(message: &CStr) {
    // SAFETY: guc.c's variables for check hooks; the strings are palloc'd.
    unsafe {
        pg_sys::GUC_check_errcode(PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_STATE as c_int);
        pg_sys::GUC_check_errmsg_string = pg_sys::pstrdup(message.as_ptr());
        pg_sys::GUC_check_errdetail_string = pg_sys::pstrdup(c"IMPERSONATION_NOT_SUPPORTED".as_ptr());
        pg_sys::GUC_check_errhint_string =
            pg_sys::pstrdup(c"Use BEGIN; SET LOCAL bodata.impersonation_token = '...';".as_ptr());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn assign_token(_value: *const c_char, extra: *mut c_void) {
    let extra = extra as *mut TokenExtra;
    // SAFETY: null, or what check_token() made for this value.
    let waits = !extra.is_null() && unsafe { !(*extra).is_settled };
    PRESENTED.store(if waits { extra } else { std::ptr::null_mut() }, Relaxed);
    gate::set_presented(TOKEN_NUMBER, waits);
}

#[pg_guard]
unsafe extern "C-unwind" fn show_token() -> *const c_char {
    if gate::wants_attention() { MASK.as_ptr() } else { c"".as_ptr() }
}

// Assign hooks, for values of any type. They run at every change, undone ones too.
