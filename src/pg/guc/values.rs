//! Values of settings: read, and set on behalf of an administrator.

use crate::core::guard;
use crate::pg::catalog;
use crate::pg::guc::kinds::split_names;
use crate::pg::sys::option::{self, Unset};
use crate::pg::sys::{compat, report};
use pgrx::pg_sys;
use pgrx::pg_sys::GucContext;
use std::ffi::{CStr, CString, c_int};
use std::sync::atomic::AtomicPtr;
use std::sync::atomic::Ordering::Relaxed;

/// Whether the current value was set for this transaction only, as guc.c's stack tells.
pub fn is_local(setting: *mut pg_sys::config_generic) -> bool {
    if setting.is_null() {
        return false;
    }
    // SAFETY: guc.c never moves or frees a defined parameter; its stack is null or valid.
    unsafe {
        let stack = (*setting).stack;
        !stack.is_null()
            && matches!((*stack).state, pg_sys::GucStackState::GUC_LOCAL | pg_sys::GucStackState::GUC_SET_LOCAL)
    }
}

/// A parameter in guc.c's table; null if there is none of this name.
pub fn find(name: &CStr) -> *mut pg_sys::config_generic {
    compat::setting(name)
}

/// When the configuration files were last read (microseconds since 2000-01-01).
pub fn reload_time() -> i64 {
    // SAFETY: a static variable.
    unsafe { pg_sys::PgReloadTime }
}

/// In a background worker: reads the configuration files again if that was asked for.
pub fn reload_if_asked() {
    // SAFETY: variables that the signal handler sets; called outside transactions.
    unsafe {
        if std::ptr::read_volatile(&raw const pg_sys::ConfigReloadPending) != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// The value of a setting as SHOW has it; `None` if there is none of this name.
pub fn shown(name: &CStr) -> Option<CString> {
    // SAFETY: missing_ok; the value is null or a palloc'd string.
    unsafe {
        let value = pg_sys::GetConfigOptionByName(name.as_ptr(), std::ptr::null_mut(), true);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_owned())
    }
}

/// What came with the connection: its options, which PostgreSQL reads before a session loads a library of its own.
pub fn of_connection() -> Vec<CString> {
    // SAFETY: live parameters of guc.c.
    let is_of_connection = |&one: &_| unsafe { is_clients(one) };
    let ours = compat::all_settings()
        .into_iter()
        .filter(is_of_connection)
        .map(name_of)
        .filter(|name| guard::is_ours(name));
    ours.filter_map(|name| CString::new(name).ok()).collect()
}

/// Whether its value is that of the connection.
pub fn is_of_connection(name: &CStr) -> bool {
    let setting = compat::setting(name);
    // SAFETY: a live parameter of guc.c.
    !setting.is_null() && unsafe { is_clients(setting) }
}

/// # Safety
/// A live parameter of guc.c.
unsafe fn is_clients(setting: *mut pg_sys::config_generic) -> bool {
    // SAFETY: by contract.
    unsafe { (*setting).source == pg_sys::GucSource::PGC_S_CLIENT }
}

/// Whether there is no setting of this name.
pub fn is_unknown(name: &str) -> bool {
    CString::new(name).is_ok_and(|name| compat::setting(&name).is_null())
}

/// How long a change of a setting lasts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Lasting {
    /// To the end of the nesting level.
    Locally,
    /// Beyond the transaction, if that commits.
    ForSession,
}

impl Lasting {
    pub fn action(self) -> pg_sys::GucAction::Type {
        match self {
            Lasting::Locally => pg_sys::GucAction::GUC_ACTION_LOCAL,
            Lasting::ForSession => pg_sys::GucAction::GUC_ACTION_SET,
        }
    }
}

/// Which settings of a role are set.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Which {
    All,
    /// Those that have the value that they had before anybody set them in this session.
    Reset,
}

/// Whether nobody has set this in this session, or it was reset.
///
/// # Safety
/// Null or a live parameter of guc.c.
unsafe fn is_reset(setting: *mut pg_sys::config_generic) -> bool {
    // SAFETY: by contract.
    !setting.is_null() && unsafe { (*setting).source } != pg_sys::GucSource::PGC_S_SESSION
}

/// Sets what `ALTER ROLE ... [IN DATABASE ...] SET` says of a role, with the rights that such settings have at a
/// login. What cannot be set in a running session is left out, and so is who the session is and what this extension
/// does; what is not valid (any longer) is a WARNING, as at a login.
pub fn apply_settings_of(role: u32, lasting: Lasting, which: Which) {
    // A setting can be there twice, for all databases and for this one: what is reset is found first.
    let settings: Vec<_> = catalog::settings_of_role(role)
        .into_iter()
        .filter(|(name, _)| !is_fixed(name) && !guard::is_of_identity(&name.to_string_lossy()))
        // SAFETY: what guc.c has under a name is live.
        .filter(|(name, _)| which == Which::All || unsafe { is_reset(compat::setting(name)) })
        .collect();
    for (name, value) in settings {
        // Its check raises an error, where those of others give a warning.
        if name.as_c_str() == c"temp_tablespaces"
            && let Some(unusable) =
                tablespaces(&value).into_iter().find(|one| !catalog::may_use_tablespace(role, one))
        {
            report::warn(
                "setting \"temp_tablespaces\" of the mapped role was left out".into(),
                &format!(
                    "Tablespace \"{}\" does not exist, or the role may not use it.",
                    unusable.to_string_lossy()
                ),
                "An administrator can ALTER ROLE ... RESET temp_tablespaces.",
            );
            continue;
        }
        option::set(&name, Some(&value), GucContext::PGC_SUSET, lasting.action(), Unset::Warning);
    }
}

/// The tablespaces that a value of `temp_tablespaces` names; an empty name stands for the database's own.
fn tablespaces(value: &CStr) -> Vec<CString> {
    let names = split_names(value).unwrap_or_default();
    names.into_iter().filter(|name| !name.is_empty()).filter_map(|name| CString::new(name).ok()).collect()
}

/// The setting `application_name` in guc.c's table.
pub(super) fn application_name_setting() -> Option<*mut pg_sys::config_generic> {
    static SETTING: AtomicPtr<pg_sys::config_generic> = AtomicPtr::new(std::ptr::null_mut());
    if SETTING.load(Relaxed).is_null() {
        SETTING.store(compat::setting(c"application_name"), Relaxed);
    }
    Some(SETTING.load(Relaxed)).filter(|setting| !setting.is_null())
}

/// Sets `application_name` until the end of the current nesting level. While the role is locked nobody can change it.
pub fn label_application(name: &CStr, lasting: Lasting) {
    unlabel_application();
    option::set(c"application_name", Some(name), GucContext::PGC_SUSET, lasting.action(), Unset::Warning);
    if let Some(setting) = application_name_setting() {
        // SAFETY: a live parameter of guc.c, which tests its flags at each change.
        unsafe { (*setting).flags |= pg_sys::GUC_NOT_WHILE_SEC_REST as c_int };
    }
}

#[cfg(feature = "inject")]
pub fn state_of_label() -> String {
    // SAFETY: a live parameter of guc.c.
    let flags = application_name_setting().map(|setting| unsafe { (*setting).flags });
    format!("label {flags:?}")
}

/// Whether the label was taken off by a RESET ALL.
pub fn is_unlabelled() -> bool {
    // SAFETY: a live parameter of guc.c.
    application_name_setting().is_some_and(|setting| unsafe { is_reset(setting) })
}

/// `application_name` can be changed (again). Cannot fail.
pub fn unlabel_application() {
    if let Some(setting) = application_name_setting() {
        // SAFETY: as above.
        unsafe { (*setting).flags &= !(pg_sys::GUC_NOT_WHILE_SEC_REST as c_int) };
    }
}

/// Whether there is such a setting, and it is fixed once a session runs.
fn is_fixed(name: &CStr) -> bool {
    let setting = compat::setting(name);
    // SAFETY: a live parameter of guc.c.
    !setting.is_null()
        && !matches!(
            unsafe { (*setting).context },
            pg_sys::GucContext::PGC_USERSET | pg_sys::GucContext::PGC_SUSET
        )
}

pub fn name_of(setting: *mut pg_sys::config_generic) -> String {
    // SAFETY: guc.c's parameters have NUL-terminated names.
    unsafe { CStr::from_ptr((*setting).name) }.to_string_lossy().into_owned()
}
