//! The parameters that name the user to impersonate. They are no secrets: their values are what was set.

use crate::core::session::presented;
use crate::pg::gate;
use crate::pg::guc::{self, Lasting};
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::option::{self, Unset};
use crate::pg::sys::{compat, text};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::{PgSqlErrorCode, pg_guard, pg_sys};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicPtr};

const COUNT: usize = presented::NAME_PARAMETERS.len();
const NAMES: [&CStr; COUNT] = [c"immuta.impersonation_userid", c"immuta.immuta_user", c"immuta.impersonate.user"];
/// The one that shows who is impersonated: always by name, and by token where that is for the session.
const SHOWN: usize = 1;
/// Where their numbers begin among all parameters that say whom to impersonate.
const FIRST_NUMBER: u32 = 1;

static VALUES: [GucSetting<Option<CString>>; COUNT] = [
    GucSetting::<Option<CString>>::new(Some(c"")),
    GucSetting::<Option<CString>>::new(Some(c"")),
    GucSetting::<Option<CString>>::new(Some(c"")),
];
static SETTINGS: [AtomicPtr<pg_sys::config_generic>; COUNT] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; COUNT];

/// What the check hook keeps beside a name, in memory that guc.c owns (the value's `extra`).
#[repr(C)]
struct NameExtra {
    is_of_connection: bool,
    /// Acted upon: a stacked value that comes back means nothing.
    is_settled: bool,
}

/// The extras of the current values while they wait to be acted upon; see [`guc`].
static WAITING: [AtomicPtr<NameExtra>; COUNT] = [const { AtomicPtr::new(std::ptr::null_mut()) }; COUNT];

/// Whether a value is set that shows what has been decided, and presents nothing.
static SHOWING: AtomicBool = AtomicBool::new(false);

/// A name that was presented.
pub struct PresentedName {
    pub name: String,
    pub is_local: bool,
    pub is_of_connection: bool,
}

/// The names that wait to be acted upon.
pub fn presented() -> Vec<PresentedName> {
    (0..COUNT)
        .filter_map(|at| {
            let extra = WAITING[at].load(Relaxed);
            if extra.is_null() {
                return None;
            }
            let value = VALUES[at].get()?;
            Some(PresentedName {
                name: text::from_server(value.as_bytes()),
                is_local: guc::is_local(SETTINGS[at].load(Relaxed)),
                // SAFETY: not null, so it is the live extra of the current value.
                is_of_connection: unsafe { (*extra).is_of_connection },
            })
        })
        .collect()
}

#[cfg(feature = "inject")]
pub fn state() -> String {
    let values: Vec<_> = VALUES.iter().map(|value| value.get()).collect();
    format!(
        "names {values:?} {:?} {}",
        WAITING.each_ref().map(|waits| waits.load(Relaxed).is_null()),
        SHOWING.load(Relaxed)
    )
}

/// What was presented has been acted upon.
pub fn settle_names() {
    for (number, waiting) in (FIRST_NUMBER..).zip(&WAITING) {
        let extra = waiting.swap(std::ptr::null_mut(), Relaxed);
        if !extra.is_null() {
            // SAFETY: as in presented().
            unsafe { (*extra).is_settled = true };
        }
        gate::set_presented(number, false);
    }
}

/// Defines the parameters. While the role is locked guc.c refuses to set them, and RESET ALL passes them by.
pub fn define() {
    let flags = GucFlags::NO_RESET_ALL
        | GucFlags::DISALLOW_IN_FILE
        | GucFlags::DISALLOW_IN_AUTO_FILE
        | GucFlags::NOT_WHILE_SEC_REST;
    let details: [&CStr; COUNT] = [
        c"To be set at the start of a transaction, by a member of immuta_impersonation.",
        c"Shows the user who is impersonated by name or for the session, and can be set like immuta.impersonation_userid.",
        c"Another name of immuta.impersonation_userid.",
    ];
    for (at, assign) in
        [assign_name::<0> as AssignHook, assign_name::<1>, assign_name::<2>].into_iter().enumerate()
    {
        // SAFETY: the hooks have the signatures that guc.c expects and live as long as the process.
        unsafe {
            GucRegistry::define_string_guc_with_hooks(
                NAMES[at],
                c"User to impersonate.",
                details[at],
                &VALUES[at],
                GucContext::Userset,
                flags,
                Some(check_name),
                Some(assign),
                None,
            );
        }
        SETTINGS[at].store(guc::find(NAMES[at]), Relaxed);
    }
}

type AssignHook = unsafe extern "C-unwind" fn(*const c_char, *mut c_void);

#[pg_guard]
unsafe extern "C-unwind" fn check_name(
    value: *mut *mut c_char,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: guc.c passes a NUL-terminated value.
    unsafe {
        // A parallel worker is handed the state of its leader.
        if (*value).is_null() || **value == 0 || pg_sys::InitializingParallelWorker || SHOWING.load(Relaxed) {
            return true;
        }
        let is_of_connection = source == pg_sys::GucSource::PGC_S_CLIENT;
        if !is_of_connection && source != pg_sys::GucSource::PGC_S_SESSION {
            return refuse(
                PgSqlErrorCode::ERRCODE_INVALID_TRANSACTION_STATE,
                c"a user to impersonate can only be named by the client",
                c"Use SET LOCAL, or the options of the connection.",
            );
        }
        if presented::is_null_as_text(CStr::from_ptr(*value).to_bytes()) {
            return refuse(
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
                c"'NULL' is no user",
                c"To end an impersonation use RESET, the empty text, or NULL without quotation marks.",
            );
        }
        let kept = compat::setting_alloc(size_of::<NameExtra>()) as *mut NameExtra;
        if kept.is_null() {
            return refuse(PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY, c"out of memory", c"Try again.");
        }
        kept.write(NameExtra { is_of_connection, is_settled: false });
        *extra = kept as *mut c_void;
        inject::point(Point::NameChecked);
        true
    }
}

/// Sets what a refusal says.
fn refuse(sqlstate: PgSqlErrorCode, message: &CStr, hint: &CStr) -> bool {
    // SAFETY: guc.c's variables for check hooks; the strings are palloc'd.
    unsafe {
        pg_sys::GUC_check_errcode(sqlstate as c_int);
        pg_sys::GUC_check_errmsg_string = pg_sys::pstrdup(message.as_ptr());
        pg_sys::GUC_check_errdetail_string = pg_sys::pstrdup(c"IMPERSONATION_NOT_SUPPORTED".as_ptr());
        pg_sys::GUC_check_errhint_string = pg_sys::pstrdup(hint.as_ptr());
    }
    false
}

unsafe extern "C-unwind" fn assign_name<const AT: usize>(_value: *const c_char, extra: *mut c_void) {
    let extra = extra as *mut NameExtra;
    // SAFETY: null, or what check_name() made for this value.
    let waits = !extra.is_null() && unsafe { !(*extra).is_settled };
    WAITING[AT].store(if waits { extra } else { std::ptr::null_mut() }, Relaxed);
    gate::set_presented(FIRST_NUMBER + AT as u32, waits);
}

/// Shows who is impersonated. A name that cannot be written in this database is shown as nobody's.
pub fn show(userid: &str, lasting: Lasting) {
    set(NAMES[SHOWN], Some(&text::to_server(userid).unwrap_or_default()), lasting);
}

/// The session impersonates nobody (any longer): back to what the connection began with.
pub fn reset() {
    for name in NAMES {
        set(name, None, Lasting::ForSession);
    }
}

/// Holds while a value is set that shows what has been decided; also an error ends it.
struct Showing;

impl Showing {
    fn new() -> Showing {
        SHOWING.store(true, Relaxed);
        Showing
    }
}

impl Drop for Showing {
    fn drop(&mut self) {
        SHOWING.store(false, Relaxed);
    }
}

/// Sets or, without a value, resets.
fn set(name: &CStr, value: Option<&CStr>, lasting: Lasting) {
    let _showing = Showing::new();
    option::set(name, value, pg_sys::GucContext::PGC_USERSET, lasting.action(), Unset::Error);
}
