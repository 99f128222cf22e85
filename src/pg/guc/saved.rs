//! The settings of a session, to go back to.

use crate::core::session::presented;
use crate::core::session::saved::Saved;
use crate::pg::guc;
use crate::pg::sys::compat;
use crate::pg::sys::option::{self, Unset};
use pgrx::pg_sys;
use pgrx::pg_sys::{GucAction, GucContext};
use std::ffi::{CStr, c_int};

/// What this session has set. Left out is what says whom it impersonates, or as whom it acts, and what PostgreSQL keeps
/// out of RESET ALL (the characteristics of the transaction, say).
pub fn take() -> Vec<Saved> {
    compat::all_settings().into_iter().filter(|&setting| is_of_session(setting)).filter_map(saved).collect()
}

/// Whether a session can set it, and has.
fn is_of_session(setting: *mut pg_sys::config_generic) -> bool {
    // SAFETY: a live parameter of guc.c.
    let (context, flags, source) = unsafe { ((*setting).context, (*setting).flags, (*setting).source) };
    matches!(context, pg_sys::GucContext::PGC_USERSET | GucContext::PGC_SUSET)
        && flags & pg_sys::GUC_NO_RESET_ALL as c_int == 0
        && source > pg_sys::GucSource::PGC_S_OVERRIDE
        && !is_of_impersonation(&guc::name_of(setting))
}

fn is_of_impersonation(name: &str) -> bool {
    presented::kind_of(name).is_some() || presented::is_name_option(name)
}

fn saved(setting: *mut pg_sys::config_generic) -> Option<Saved> {
    // SAFETY: a live parameter of guc.c.
    let (name, context) = unsafe { (CStr::from_ptr((*setting).name).to_owned(), (*setting).scontext) };
    let value = guc::shown(&name)?;
    Some(Saved { name, value, context })
}

/// Goes back to what was taken, whatever was set, and by whatever route, since.
pub fn restore(before: &[Saved]) {
    let known = |name: &CStr| before.iter().any(|saved| saved.name.as_c_str() == name);
    for Saved { name, .. } in take() {
        if !known(&name) {
            set(&name, None, GucContext::PGC_SUSET);
        }
    }
    for Saved { name, value, context } in before {
        if guc::shown(name).as_ref() != Some(value) && !set(name, Some(value), *context) {
            // What was valid then is so no longer.
            set(name, None, GucContext::PGC_SUSET);
        }
    }
}

fn set(name: &CStr, value: Option<&CStr>, context: GucContext::Type) -> bool {
    option::set(name, value, context, GucAction::GUC_ACTION_SET, Unset::Quietly)
}
