//! Logins with OAuth (PostgreSQL 18): this library as validator of access tokens.
//!
//! An error in the callback would reach a client that nobody knows yet, with its text: whatever happens, the login is refused
//! and the log says why. No catalogs can be read but those of roles.

use once_cell::sync::OnceCell;

/// A login, as its line of pg_hba.conf and its client have it.
#[cfg_attr(not(has_oauth_logins), allow(dead_code))]
pub struct Login<'a> {
    pub token: &'a str,
    pub issuer: &'a str,
    pub scope: &'a str,
}

/// Who the user is, or why the login is refused.
pub type Judge = fn(&Login) -> Result<String, String>;

static JUDGE: OnceCell<Judge> = OnceCell::new();

/// Called once, from `_PG_init`. Servers before 18 never ask.
pub fn install(judge: Judge) {
    let _ = JUDGE.set(judge);
}

#[cfg(has_oauth_logins)]
mod server {
    use super::{JUDGE, Login};
    use crate::pg::catalog::roles;
    use crate::pg::preload;
    use crate::pg::sys::inject::{self, Point};
    use crate::pg::sys::report;
    use pgrx::PgTryBuilder;
    use pgrx::pg_sys::{self, panic::CaughtError};
    use std::ffi::{CStr, CString, c_char, c_void};
    use std::ptr::NonNull;

    unsafe extern "C-unwind" {
        fn immuta_login_callbacks() -> *const c_void;
    }

    /// How PostgreSQL finds the validator, at each login that reaches a line with `oauth`.
    #[unsafe(no_mangle)]
    #[allow(ffi_unwind_calls)]
    pub extern "C-unwind" fn _PG_oauth_validator_module_init() -> *const c_void {
        // SAFETY: returns the address of a constant.
        unsafe { immuta_login_callbacks() }
    }

    /// # Safety
    /// Called by login.c, with NUL-terminated texts, of which the issuer and the scope may be null, and a place for one.
    #[unsafe(no_mangle)]
    unsafe extern "C-unwind" fn immuta_accepts_login(
        token: NonNull<c_char>,
        role: NonNull<c_char>,
        issuer: *const c_char,
        scope: *const c_char,
        delegates: bool,
        authn_id: NonNull<*mut c_char>,
    ) -> bool {
        let judged = PgTryBuilder::new(move || {
            // SAFETY: by contract.
            unsafe { judge(token, role, issuer, scope, delegates, authn_id) }
        })
        .catch_others(|error| {
            Err(match error {
                CaughtError::PostgresError(report) | CaughtError::ErrorReport(report) => {
                    report.message().to_owned()
                }
                CaughtError::RustPanic { .. } => "an error in immuta_ext".to_owned(),
            })
        })
        .execute();
        judged.inspect_err(|why| refuse(why)).is_ok()
    }

    /// # Safety
    /// As for [`immuta_accepts_login`].
    unsafe fn judge(
        token: NonNull<c_char>,
        role: NonNull<c_char>,
        issuer: *const c_char,
        scope: *const c_char,
        delegates: bool,
        authn_id: NonNull<*mut c_char>,
    ) -> Result<(), String> {
        inject::point(Point::OauthBegins);
        // SAFETY: by contract.
        let (token, issuer, scope) = unsafe { (CStr::from_ptr(token.as_ptr()), shown(issuer), shown(scope)) };
        let judge = JUDGE.get().filter(|_| preload::is_preloaded());
        let judge = judge.ok_or("immuta_ext must be in shared_preload_libraries, too")?;
        if !delegates {
            return Err("its line of pg_hba.conf lacks delegate_ident_mapping=1".into());
        }
        // SAFETY: NUL-terminated names; missing_ok.
        let (login, holders) = unsafe {
            (
                pg_sys::get_role_oid(role.as_ptr(), true).to_u32(),
                pg_sys::get_role_oid(c"bodata_impersonate_user".as_ptr(), true).to_u32(),
            )
        };
        if login == 0 || holders == 0 || roles::is_superuser(login) || !roles::can_act_as(login, holders) {
            return Err(
                "its role is no service login (member of bodata_impersonate_user, and no superuser)".into()
            );
        }
        let token = token.to_str().map_err(|_| "its token is not ASCII")?;
        let user = judge(&Login { token, issuer: &issuer, scope: &scope })?;
        inject::point(Point::OauthJudged);
        let user = CString::new(user).map_err(|_| "its user has a zero byte")?;
        // SAFETY: PostgreSQL frees nothing of it and wants it palloc'd.
        unsafe { authn_id.write(pg_sys::pstrdup(user.as_ptr())) };
        inject::point(Point::OauthNamed);
        Ok(())
    }

    /// # Safety
    /// `text` is null or NUL-terminated.
    unsafe fn shown(text: *const c_char) -> String {
        if text.is_null() {
            return String::new();
        }
        // SAFETY: by contract.
        unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
    }

    fn refuse(why: &str) {
        report::log(
            format!("a login with OAuth was refused: {why}"),
            "See immuta.login_settings and immuta.explain_token().",
        );
    }
}
