//! Nesting levels of settings: what was set since, undone or kept.

use crate::core::guard::{self, Settable};
use crate::core::session::presented;
use crate::core::session::saved::Kept;
use crate::pg::guc::misleading::is_misleading;
use crate::pg::guc::token::TOKEN_SETTING;
use crate::pg::guc::values::{application_name_setting, name_of, shown};
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::option::{self, Unset};
use crate::pg::sys::{compat, raw};
use pgrx::pg_sys;
use pgrx::pg_sys::{GucAction, GucContext};
use std::ffi::{CStr, CString, c_int};
use std::sync::atomic::Ordering::Relaxed;

/// From here on changes of settings can be undone together (`NewGUCNestLevel`).
pub fn new_level() -> i32 {
    raw::NewGUCNestLevel()
}

/// Undoes every change of a setting since `level` was pushed, whatever route it took, and keeps what SET TRANSACTION
/// chose for the running transaction.
pub fn undo_settings(level: i32) {
    // SAFETY: the level was pushed in this transaction and, as errors unwind levels, is still there.
    unsafe {
        let characteristics = (pg_sys::XactIsoLevel, pg_sys::XactReadOnly, pg_sys::XactDeferrable);
        pg_sys::AtEOXact_GUC(false, level);
        (pg_sys::XactIsoLevel, pg_sys::XactReadOnly, pg_sys::XactDeferrable) = characteristics;
    }
}

/// As [`undo_settings`], but what the session may set stays as it was set. `names_custom`: whether that may be settings
/// with a dot in their names.
pub fn undo_settings_except(level: i32, names_custom: bool, settable: impl FnOnce() -> Settable) {
    let mut changed = changed_at(level);
    let kept = if names_custom {
        let settable = settable();
        changed.extend(custom_settings(&settable.session).into_iter().filter(|&one| is_changed_at(one, level)));
        kept_of(changed, &settable)
    } else if changed.iter().all(|&one| one == TOKEN_SETTING.load(Relaxed)) {
        // Nothing, or what is never kept.
        Vec::new()
    } else {
        kept_of(changed, &settable())
    };
    undo_settings(level);
    inject::point(Point::StatementUndone);
    set_again(&kept);
}

/// What a session that may set nothing but what `custom` and PostgreSQL's names allow has set since `level` was pushed, and
/// not for the transaction only.
pub fn set_for_session_since(level: i32, custom: &[String]) -> Vec<Kept> {
    let custom = custom_settings(custom).into_iter().filter(|&one| is_changed_at(one, level));
    changed_at(level).into_iter().chain(custom).filter_map(kept).filter(|kept| !kept.is_local).collect()
}

/// What was changed since `level` was pushed, of the settings that are there as long as the session.
fn changed_at(level: i32) -> Vec<*mut pg_sys::config_generic> {
    lasting_settings(|all| all.iter().copied().filter(|&one| is_changed_at(one, level)).collect())
}

/// Sets what was set before, with the rights of the current user, as they could themselves: raises an error where they could not.
pub fn set_again(settings: &[Kept]) {
    for setting in settings {
        let action = if setting.is_local { GucAction::GUC_ACTION_LOCAL } else { GucAction::GUC_ACTION_SET };
        option::set(&setting.name, Some(&setting.value), GucContext::PGC_USERSET, action, Unset::Error);
    }
}

/// What was set since `level` was pushed, besides what says whom to impersonate. Left out is what nobody takes back
/// (the characteristics of the transaction, the seed of `random()`), and an `application_name` that the session keeps
/// anyway: that may be about to name the user. `None` if the identity itself is among it.
pub fn set_since(level: i32, settable: &Settable) -> Option<Vec<Kept>> {
    let changed: Vec<_> =
        compat::all_settings().into_iter().filter(|&setting| is_changed_at(setting, level)).collect();
    if changed.iter().any(|&setting| guard::is_identity_parameter(&name_of(setting))) {
        return None;
    }
    let is_meant = |&setting: &*mut pg_sys::config_generic| {
        // SAFETY: a live parameter of guc.c.
        let stays = unsafe { (*setting).flags } & pg_sys::GUC_NO_RESET_ALL as c_int != 0;
        let name = name_of(setting);
        let is_named = application_name_setting() == Some(setting) && settable.allows(&name, false);
        !stays && !is_named && !guard::is_ours(&name)
    };
    Some(changed.into_iter().filter(is_meant).filter_map(kept).collect())
}

/// Those settings that are there as long as the session is: PostgreSQL's, which alone have no dot in their names, and
/// ours, whose prefixes are reserved. They are listed once; others come (with a module, or by being set) and go.
fn lasting_settings<R>(look: impl FnOnce(&[*mut pg_sys::config_generic]) -> R) -> R {
    let is_lasting = |&setting: &*mut pg_sys::config_generic| {
        let name = name_of(setting);
        // SAFETY: a live parameter of guc.c.
        let is_placeholder = unsafe { (*setting).flags } & pg_sys::GUC_CUSTOM_PLACEHOLDER as c_int != 0;
        !is_placeholder && (!name.contains('.') || guard::is_ours(&name))
    };
    LASTING_SETTINGS
        .with(|all| look(all.get_or_init(|| compat::all_settings().into_iter().filter(is_lasting).collect())))
}

/// The other settings that a list names. Only a name that stands for many takes a look at all of them.
fn custom_settings(list: &[String]) -> Vec<*mut pg_sys::config_generic> {
    let is_custom = |name: &str| name.contains('.') && !guard::is_ours(name);
    let names = list.iter().filter(|name| name.contains('.'));
    if names.clone().any(|name| name.ends_with('*')) {
        return compat::all_settings().into_iter().filter(|&setting| is_custom(&name_of(setting))).collect();
    }
    names
        .filter(|name| is_custom(name))
        .filter_map(|name| CString::new(name.as_str()).ok())
        .map(|name| compat::setting(&name))
        .filter(|setting| !setting.is_null())
        .collect()
}

/// Those of the settings that may stay as they are, with their values.
fn kept_of(settings: Vec<*mut pg_sys::config_generic>, settable: &Settable) -> Vec<Kept> {
    settings
        .into_iter()
        .filter(|&setting| is_kept(&name_of(setting), settable, false))
        .filter_map(kept)
        .filter(|kept| is_kept(&kept.name.to_string_lossy(), settable, is_misleading(&kept.name, &kept.value)))
        .collect()
}

/// What a session keeps that has not impersonated yet: how the name that comes next is to be understood, too.
fn is_kept(name: &str, settable: &Settable, is_misleading: bool) -> bool {
    presented::is_name_option(name) || settable.allows(name, is_misleading)
}

fn is_changed_at(setting: *mut pg_sys::config_generic, level: i32) -> bool {
    // SAFETY: a live parameter of guc.c; its stack is null or valid.
    unsafe {
        let stack = (*setting).stack;
        !stack.is_null() && (*stack).nest_level >= level
    }
}

fn kept(setting: *mut pg_sys::config_generic) -> Option<Kept> {
    // SAFETY: a live parameter of guc.c with a stack.
    let (name, is_local) = unsafe {
        (CStr::from_ptr((*setting).name).to_owned(), (*(*setting).stack).state == pg_sys::GucStackState::GUC_LOCAL)
    };
    let value = shown(&name)?;
    Some(Kept { name, value, is_local })
}

thread_local! {
    /// See [`lasting_settings`].
    static LASTING_SETTINGS: std::cell::OnceCell<Vec<*mut pg_sys::config_generic>> = const { std::cell::OnceCell::new() };
}
