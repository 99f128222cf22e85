//! Settings: the parameter that carries the token, lists that are checked when set, and nesting levels.

use super::{catalog, compat, gate, log, raw, report};
use crate::core::guard::{self, Settable};
use crate::core::presented;
use crate::core::token::{self, Digest, Secret};
use once_cell::sync::OnceCell;
use pgrx::guc::{GucContext, GucEnum, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys::panic::pgrx_extern_c_guard;
use pgrx::{PgSqlErrorCode, pg_guard, pg_sys};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering::Relaxed};
use zeroize::Zeroize;

const TOKEN: &CStr = c"bodata.impersonation_token";
const MASK: &CStr = c"********";

/// The value of the token parameter is only ever the mask.
static TOKEN_VALUE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// What the check hook keeps of a token, in memory that guc.c owns (the value's `extra`).
#[repr(C)]
struct Extra {
    digest: Digest,
    is_well_formed: bool,
    /// It came with the connection.
    is_of_connection: bool,
    /// Acted upon: presenting it again (a stacked value that comes back) means nothing.
    is_settled: bool,
}

/// The extra of the current value, while it waits to be acted upon. The assign hook runs at every change of the
/// value, so it never outlives the memory it points to.
static PRESENTED: AtomicPtr<Extra> = AtomicPtr::new(std::ptr::null_mut());

/// The parameter in guc.c's table.
static TOKEN_SETTING: AtomicPtr<pg_sys::config_generic> = AtomicPtr::new(std::ptr::null_mut());

/// Whether the text of a token is kept until it is acted upon.
static KEEPS_TEXT: OnceCell<fn() -> bool> = OnceCell::new();

thread_local! {
    /// The text of the token that was presented last, for a provider that must be sent it.
    static TEXT: RefCell<Option<(Digest, Secret)>> = const { RefCell::new(None) };
}

/// A token that was presented.
pub struct Presented {
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
pub fn presented() -> Option<Presented> {
    let extra = PRESENTED.load(Relaxed);
    if extra.is_null() {
        return None;
    }
    // SAFETY: not null, so it is the live extra of the current value (see PRESENTED).
    let extra = unsafe { &*extra };
    Some(Presented {
        digest: extra.digest,
        is_well_formed: extra.is_well_formed,
        is_local: is_local(TOKEN_SETTING.load(Relaxed)),
        is_of_connection: extra.is_of_connection,
    })
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
pub fn settle() {
    forget_text();
    let extra = PRESENTED.swap(std::ptr::null_mut(), Relaxed);
    if !extra.is_null() {
        // SAFETY: as in presented().
        unsafe { (*extra).is_settled = true };
    }
    gate::set_presented(TOKEN_NUMBER, false);
}

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

/// Defines the token parameter. `keeps_text` tells whether the provider in use needs the token itself. SHOW gives the mask; `pg_settings` does not list it; while the role is locked guc.c
/// refuses to set it (`GUC_NOT_WHILE_SEC_REST`).
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
    TOKEN_SETTING.store(find(TOKEN), Relaxed);
}

/// A parameter in guc.c's table; null if there is none of this name.
pub fn find(name: &CStr) -> *mut pg_sys::config_generic {
    compat::setting(name)
}

/// Takes the token out of the value: keeps its digest, wipes the text, leaves the mask.
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
        // The state handed to a parallel worker holds the mask, and means nothing there.
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
        hide_statement();

        // Only a client can present a token: not a file, a role's or database's settings, or a function's SET
        // clause (which is tested first).
        if !is_of_connection && !is_of_session {
            refuse(c"an impersonation token can only be set by SET LOCAL in a transaction");
            return false;
        }
        let mask = compat::setting_alloc(MASK.count_bytes() + 1) as *mut c_char;
        let kept = compat::setting_alloc(size_of::<Extra>()) as *mut Extra;
        if mask.is_null() || kept.is_null() {
            refuse(c"out of memory");
            return false;
        }
        std::ptr::copy_nonoverlapping(MASK.as_ptr(), mask, MASK.count_bytes() + 1);
        kept.write(Extra { digest, is_well_formed, is_of_connection, is_settled: false });
        compat::setting_free(*value as *mut c_void);
        *value = mask;
        *extra = kept as *mut c_void;
        true
    }
}

/// The statement that is running holds a token: `pg_stat_activity` shows this instead of its text.
fn hide_statement() {
    log::hold_back();
    let instead = c"SET LOCAL bodata.impersonation_token = '********'";
    // SAFETY: writes this backend's entry; the text is copied.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, instead.as_ptr()) };
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
    let extra = extra as *mut Extra;
    // SAFETY: null, or what check_token() made for this value.
    let waits = !extra.is_null() && unsafe { !(*extra).is_settled };
    PRESENTED.store(if waits { extra } else { std::ptr::null_mut() }, Relaxed);
    gate::set_presented(TOKEN_NUMBER, waits);
}

#[pg_guard]
unsafe extern "C-unwind" fn show_token() -> *const c_char {
    if gate::wants_attention() { MASK.as_ptr() } else { c"".as_ptr() }
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

/// What is counted when the value of a setting changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    Nothing,
    /// Mappings that were found are to be found again.
    Mapping,
    /// What the provider said counts no longer.
    Provider,
}

// Assign hooks, for values of any type. They run at every change, undone ones too.

unsafe extern "C-unwind" fn provider_changed<T>(_: T, _: *mut c_void) {
    gate::next_provider();
}

unsafe extern "C-unwind" fn mapping_changed<T>(_: T, _: *mut c_void) {
    gate::next_generation();
}

fn assign_text(counts: Counts) -> pg_sys::GucStringAssignHook {
    match counts {
        Counts::Nothing => None,
        Counts::Mapping => Some(mapping_changed),
        Counts::Provider => Some(provider_changed),
    }
}

/// Defines a switch that only superusers may turn.
pub fn define_switch(
    name: &'static CStr,
    description: &'static CStr,
    details: &'static CStr,
    setting: &'static GucSetting<bool>,
    counts: Counts,
) {
    let assign: pg_sys::GucBoolAssignHook = match counts {
        Counts::Nothing => None,
        Counts::Mapping => Some(mapping_changed),
        Counts::Provider => Some(provider_changed),
    };
    let (context, flags) = (GucContext::Suset, GucFlags::default());
    // SAFETY: the hook has the signature that guc.c expects and lives as long as the process.
    unsafe {
        GucRegistry::define_bool_guc_with_hooks(
            name,
            description,
            details,
            setting,
            context,
            flags,
            None,
            assign,
            None,
        );
    }
}

/// Defines a number of seconds that only superusers may set, and that counts for what the provider said.
pub fn define_seconds(
    name: &'static CStr,
    description: &'static CStr,
    details: &'static CStr,
    setting: &'static GucSetting<i32>,
    most: i32,
) {
    let (context, flags) = (GucContext::Suset, GucFlags::UNIT_S);
    // SAFETY: as in define_switch().
    unsafe {
        GucRegistry::define_int_guc_with_hooks(
            name,
            description,
            details,
            setting,
            0,
            most,
            context,
            flags,
            None,
            Some(provider_changed),
            None,
        );
    }
}

/// Defines a choice that only superusers may make.
pub fn define_choice<T: GucEnum>(
    name: &'static CStr,
    description: &'static CStr,
    details: &'static CStr,
    setting: &'static GucSetting<T>,
    counts: Counts,
) {
    let assign: pg_sys::GucEnumAssignHook = match counts {
        Counts::Nothing => None,
        Counts::Mapping => Some(mapping_changed),
        Counts::Provider => Some(provider_changed),
    };
    let (context, flags) = (GucContext::Suset, GucFlags::default());
    // SAFETY: as in define_switch().
    unsafe {
        GucRegistry::define_enum_guc_with_hooks(
            name,
            description,
            details,
            setting,
            context,
            flags,
            None,
            assign,
            None,
        );
    }
}

/// What a text setting may hold; the error says what is wrong with it.
pub trait TextCheck {
    fn check(text: &str) -> Result<(), String>;
}

/// Defines a text that only superusers may set. The empty text stands for none and is not checked.
pub fn define_text<C: TextCheck>(
    name: &'static CStr,
    description: &'static CStr,
    details: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    flags: GucFlags,
    counts: Counts,
) {
    // SAFETY: as in define_switch().
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            description,
            details,
            setting,
            GucContext::Suset,
            flags,
            Some(check_text::<C>),
            assign_text(counts),
            None,
        );
    }
}

unsafe extern "C-unwind" fn check_text<C: TextCheck>(
    value: *mut *mut c_char,
    _: *mut *mut c_void,
    _: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: guc.c passes a NUL-terminated value; the guard keeps panics from crossing into C.
    unsafe {
        pgrx_extern_c_guard(|| {
            // Parallel workers have the values of a leader that checked them.
            if (*value).is_null() || **value == 0 || pg_sys::InitializingParallelWorker {
                return true;
            }
            let fault = match CStr::from_ptr(*value).to_str() {
                Ok(text) => C::check(text).err(),
                Err(_) => Some("The value is not in UTF-8.".into()),
            };
            accept(fault)
        })
    }
}

/// What a text may hold that every user may set.
pub trait UserTextCheck {
    fn fault(text: &str) -> Option<&'static str>;
}

/// Defines a text that every user may set, in the encoding of the database.
pub fn define_user_text<C: UserTextCheck>(
    name: &'static CStr,
    description: &'static CStr,
    details: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
) {
    // SAFETY: as in define_switch().
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            description,
            details,
            setting,
            GucContext::Userset,
            GucFlags::default(),
            Some(check_user_text::<C>),
            None,
            None,
        );
    }
}

unsafe extern "C-unwind" fn check_user_text<C: UserTextCheck>(
    value: *mut *mut c_char,
    _: *mut *mut c_void,
    _: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: as in check_text(). What is not UTF-8 counts as what is left of it.
    unsafe {
        pgrx_extern_c_guard(|| {
            if (*value).is_null() || pg_sys::InitializingParallelWorker {
                return true;
            }
            accept(C::fault(&CStr::from_ptr(*value).to_string_lossy()).map(Into::into))
        })
    }
}

/// Ends a check hook: `true` without a fault, else the fault as DETAIL.
///
/// # Safety
/// Called from a check hook.
unsafe fn accept(fault: Option<String>) -> bool {
    let Some(fault) = fault.map(|fault| CString::new(fault).unwrap_or_default()) else { return true };
    // SAFETY: guc.c's variable for check hooks; the string is palloc'd.
    unsafe { pg_sys::GUC_check_errdetail_string = pg_sys::pstrdup(fault.as_ptr()) };
    false
}

/// A set of words, each of which stands for a bit.
pub trait WordSet {
    const WORDS: &'static [&'static str];
    /// Where the bits are kept.
    fn bits() -> &'static AtomicU32;
    /// Why this set cannot be had here and now.
    fn fault(bits: u32) -> Option<&'static str>;
}

/// Bits of a list of words; `None` for a word that is none of them.
fn bits_of<W: WordSet>(list: &CStr) -> Option<u32> {
    split_names(list)?.iter().try_fold(0, |bits, word| {
        let at = W::WORDS.iter().position(|known| known.eq_ignore_ascii_case(word))?;
        Some(bits | 1 << at)
    })
}

/// Defines a setting that is a set of words, which only superusers may set.
pub fn define_words<W: WordSet>(
    name: &'static CStr,
    description: &'static CStr,
    details: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
) {
    // SAFETY: as in define_switch().
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            description,
            details,
            setting,
            GucContext::Suset,
            GucFlags::default(),
            Some(check_words::<W>),
            Some(assign_words::<W>),
            None,
        );
    }
}

unsafe extern "C-unwind" fn check_words<W: WordSet>(
    value: *mut *mut c_char,
    extra: *mut *mut c_void,
    _: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: guc.c passes a NUL-terminated value; the extra is in memory that guc.c may free.
    unsafe {
        pgrx_extern_c_guard(|| {
            let bits = if (*value).is_null() { Some(0) } else { bits_of::<W>(CStr::from_ptr(*value)) };
            let fault = match bits {
                None => Some(format!("Available words: {}.", W::WORDS.join(", "))),
                Some(_) if pg_sys::InitializingParallelWorker => None,
                Some(bits) => W::fault(bits).map(str::to_owned),
            };
            let kept = compat::setting_alloc(size_of::<u32>()) as *mut u32;
            if kept.is_null() {
                return false;
            }
            kept.write(bits.unwrap_or(0));
            *extra = kept as *mut c_void;
            accept(fault)
        })
    }
}

unsafe extern "C-unwind" fn assign_words<W: WordSet>(_: *const c_char, extra: *mut c_void) {
    // SAFETY: null, or what check_words() made for this value.
    let bits = if extra.is_null() { 0 } else { unsafe { *(extra as *const u32) } };
    W::bits().store(bits, Relaxed);
}

/// What a list setting may hold; the text says what is wrong with it.
pub trait ListCheck {
    fn check(list: &[String]) -> Result<(), String>;
}

/// Any list of names.
pub struct AnyList;

impl ListCheck for AnyList {
    fn check(_: &[String]) -> Result<(), String> {
        Ok(())
    }
}

/// Defines a setting whose value is a list of names.
pub fn define_list<C: ListCheck>(
    name: &'static CStr,
    description: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    counts: Counts,
) {
    // SAFETY: the hook has the signature that guc.c expects and lives as long as the process.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            description,
            c"A list of names, separated by commas.",
            setting,
            GucContext::Suset,
            GucFlags::default(),
            Some(check_list::<C>),
            assign_text(counts),
            None,
        );
    }
}

unsafe extern "C-unwind" fn check_list<C: ListCheck>(
    value: *mut *mut c_char,
    _: *mut *mut c_void,
    _: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: guc.c passes a NUL-terminated value; the guard keeps panics from crossing into C.
    unsafe {
        pgrx_extern_c_guard(|| {
            if (*value).is_null() {
                return true;
            }
            let fault = match split_names(CStr::from_ptr(*value)) {
                Some(list) => C::check(&list).err(),
                None => Some("List syntax is invalid.".into()),
            };
            accept(fault)
        })
    }
}

/// Whether a text setting has this character (of ASCII); cheaper than a look at a copy of it.
pub fn contains(setting: &GucSetting<Option<CString>>, character: u8) -> bool {
    // SAFETY: guc.c's variable, null or NUL-terminated.
    unsafe {
        let value = *setting.as_ptr();
        !value.is_null() && CStr::from_ptr(value).to_bytes().contains(&character)
    }
}

/// Whether a text setting is empty; cheaper than a look at a copy of it.
pub fn is_empty(setting: &GucSetting<Option<CString>>) -> bool {
    // SAFETY: guc.c's variable, null or NUL-terminated.
    unsafe {
        let value = *setting.as_ptr();
        value.is_null() || *value == 0
    }
}

/// Splits a list of names, quoted or not, without folding their case (`SplitGUCList`). `None` if it cannot.
pub fn split_names(list: &CStr) -> Option<Vec<String>> {
    // SAFETY: the function works on a copy; the names it returns point into that copy.
    unsafe {
        let copy = pg_sys::pstrdup(list.as_ptr());
        let mut names: *mut pg_sys::List = std::ptr::null_mut();
        pg_sys::SplitGUCList(copy, b',' as c_char, &mut names).then(|| {
            pgrx::PgList::<c_char>::from_pg(names)
                .iter_ptr()
                .map(|name| CStr::from_ptr(name).to_string_lossy().into_owned())
                .collect()
        })
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

/// From here on changes of settings can be undone together (`NewGUCNestLevel`).
pub fn new_level() -> i32 {
    raw::NewGUCNestLevel()
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

/// Sets what `ALTER ROLE ... [IN DATABASE ...] SET` says of a role, with the rights that such settings have at a login. What cannot be set in a running session is left out, and so is who
/// the session is and what this extension does; what is not valid (any longer) is a WARNING, as at a login.
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
        // SAFETY: NUL-terminated strings.
        unsafe {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_SESSION,
                lasting.action(),
                true,
                pg_sys::WARNING as c_int,
                false,
            );
        }
    }
}

/// The tablespaces that a value of `temp_tablespaces` names; an empty name stands for the database's own.
fn tablespaces(value: &CStr) -> Vec<CString> {
    let names = split_names(value).unwrap_or_default();
    names.into_iter().filter(|name| !name.is_empty()).filter_map(|name| CString::new(name).ok()).collect()
}

/// The setting `application_name` in guc.c's table.
fn application_name_setting() -> Option<*mut pg_sys::config_generic> {
    static SETTING: AtomicPtr<pg_sys::config_generic> = AtomicPtr::new(std::ptr::null_mut());
    if SETTING.load(Relaxed).is_null() {
        SETTING.store(compat::setting(c"application_name"), Relaxed);
    }
    Some(SETTING.load(Relaxed)).filter(|setting| !setting.is_null())
}

/// Sets `application_name` until the end of the current nesting level. While the role is locked nobody can change it.
pub fn label_application(name: &CStr, lasting: Lasting) {
    unlabel_application();
    // SAFETY: NUL-terminated strings; a live parameter of guc.c, which tests its flags at each change.
    unsafe {
        pg_sys::set_config_option(
            c"application_name".as_ptr(),
            name.as_ptr(),
            pg_sys::GucContext::PGC_SUSET,
            pg_sys::GucSource::PGC_S_SESSION,
            lasting.action(),
            true,
            pg_sys::WARNING as c_int,
            false,
        );
        if let Some(setting) = application_name_setting() {
            (*setting).flags |= pg_sys::GUC_NOT_WHILE_SEC_REST as c_int;
        }
    }
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

/// A setting that outlasts [`undo_settings`].
pub struct Kept {
    name: CString,
    value: CString,
    is_local: bool,
}

/// As [`undo_settings`], but what the session may set stays as it was set. `names_custom`: whether that may be settings
/// with a dot in their names.
pub fn undo_settings_except(level: i32, names_custom: bool, settable: impl FnOnce() -> Settable) {
    let mut changed: Vec<_> =
        lasting_settings(|all| all.iter().copied().filter(|&one| is_changed_at(one, level)).collect());
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
    set_again(kept);
}

/// Sets what was set before, with the rights of the current user, as he could himself: raises an error where he could not.
pub fn set_again(settings: Vec<Kept>) {
    for setting in settings {
        let action =
            if setting.is_local { pg_sys::GucAction::GUC_ACTION_LOCAL } else { pg_sys::GucAction::GUC_ACTION_SET };
        // SAFETY: NUL-terminated strings; the user's own rights apply.
        unsafe {
            pg_sys::set_config_option(
                setting.name.as_ptr(),
                setting.value.as_ptr(),
                pg_sys::GucContext::PGC_USERSET,
                pg_sys::GucSource::PGC_S_SESSION,
                action,
                true,
                0,
                false,
            );
        }
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

thread_local! {
    /// See [`lasting_settings`].
    static LASTING_SETTINGS: std::cell::OnceCell<Vec<*mut pg_sys::config_generic>> = const { std::cell::OnceCell::new() };
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

pub fn name_of(setting: *mut pg_sys::config_generic) -> String {
    // SAFETY: guc.c's parameters have NUL-terminated names.
    unsafe { CStr::from_ptr((*setting).name) }.to_string_lossy().into_owned()
}

fn kept(setting: *mut pg_sys::config_generic) -> Option<Kept> {
    // SAFETY: a live parameter of guc.c with a stack.
    let (name, is_local) = unsafe {
        (CStr::from_ptr((*setting).name).to_owned(), (*(*setting).stack).state == pg_sys::GucStackState::GUC_LOCAL)
    };
    let value = shown(&name)?;
    Some(Kept { name, value, is_local })
}
