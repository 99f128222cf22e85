//! Kinds of settings: how they are defined and checked.

use crate::pg::sys::compat;
use crate::pg::{gate, shared};
use pgrx::guc::{GucContext, GucEnum, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::pgrx_extern_c_guard;
use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// A setting: one row of the tables in `crate::settings`.
pub struct Setting<K: Kind> {
    pub name: &'static CStr,
    pub value: K::Stored,
    pub kind: K,
    pub changes: Changes,
    /// Not only to superusers and members of `pg_read_all_settings`.
    pub is_shown: bool,
    pub what: &'static CStr,
    pub details: &'static CStr,
}

impl<K: Kind> Setting<K> {
    pub fn get(&self) -> K::Value {
        K::get(&self.value)
    }

    fn flags(&self) -> GucFlags {
        if self.is_shown { GucFlags::default() } else { GucFlags::SUPERUSER_ONLY }
    }
}

impl<K: Kind<Value = Option<CString>>> Setting<K> {
    /// Whether the value has this byte in it.
    pub fn contains(&self, byte: u8) -> bool {
        self.get().is_some_and(|text| text.as_bytes().contains(&byte))
    }

    pub fn is_empty(&self) -> bool {
        self.get().is_none_or(|text| text.is_empty())
    }
}

/// What can be defined, whatever its kind.
pub trait SettingRow: Sync {
    fn define(&'static self);

    fn name(&self) -> &'static CStr;

    fn changes(&self) -> Changes;
}

impl<K: Kind> SettingRow for Setting<K>
where
    Setting<K>: Sync,
{
    fn define(&'static self) {
        K::define(self);
    }

    fn name(&self) -> &'static CStr {
        self.name
    }

    fn changes(&self) -> Changes {
        self.changes
    }
}

/// What a change of a setting makes stale.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    Nothing,
    /// Mappings that were found are to be found again.
    Mapping,
    /// What the provider said counts no longer.
    Provider,
}

pub trait Kind: Sized + 'static {
    type Value: 'static;
    /// Where guc.c keeps the value.
    type Stored: 'static;
    fn get(stored: &Self::Stored) -> Self::Value;
    fn define(setting: &'static Setting<Self>);
}

/// The assign hook for a setting of any type. It runs at every change, undone ones too.
macro_rules! assign_hook {
    ($setting:expr) => {
        match $setting.changes {
            Changes::Nothing => None,
            Changes::Mapping => Some(mapping_changed),
            Changes::Provider => Some(provider_changed),
        }
    };
}

/// Defines a setting of any type, with what belongs between its value and its context.
macro_rules! define {
    ($function:ident, $setting:expr, [$($limit:expr),*], $context:ident, $flags:expr, $check:expr, $assign:expr) => {{
        let Setting { name, what, details, value, .. } = $setting;
        let (context, flags) = (GucContext::$context, $flags);
        // SAFETY: the hooks have the signatures that guc.c expects and live as long as the process.
        unsafe {
            GucRegistry::$function(name, what, details, value, $($limit,)* context, flags, $check, $assign, None);
        }
    }};
}

/// A number that only superusers may set.
pub struct Number {
    pub least: i32,
    pub most: i32,
    pub unit: GucFlags,
}

impl Kind for Number {
    type Value = i32;
    type Stored = GucSetting<i32>;

    fn get(stored: &GucSetting<i32>) -> i32 {
        stored.get()
    }

    fn define(setting: &'static Setting<Number>) {
        let Number { least, most, unit } = setting.kind;
        let flags = unit | setting.flags();
        define!(define_int_guc_with_hooks, setting, [least, most], Suset, flags, None, assign_hook!(setting));
    }
}

/// A number that is fixed once the server starts. Where only sessions load the library it says nothing.
pub struct NumberAtStart {
    pub least: i32,
    pub most: i32,
}

impl Kind for NumberAtStart {
    type Value = i32;
    type Stored = GucSetting<i32>;

    fn get(stored: &GucSetting<i32>) -> i32 {
        stored.get()
    }

    fn define(setting: &'static Setting<NumberAtStart>) {
        let NumberAtStart { least, most } = setting.kind;
        let flags = setting.flags();
        // guc.c takes the other one only while the server starts.
        if shared::will_be_shared() {
            define!(
                define_int_guc_with_hooks,
                setting,
                [least, most],
                Postmaster,
                flags,
                None,
                assign_hook!(setting)
            );
        } else {
            define!(define_int_guc_with_hooks, setting, [least, most], Sighup, flags, None, assign_hook!(setting));
        }
    }
}

/// A switch that only superusers may turn.
pub struct Switch;

impl Kind for Switch {
    type Value = bool;
    type Stored = GucSetting<bool>;

    fn get(stored: &GucSetting<bool>) -> bool {
        stored.get()
    }

    fn define(setting: &'static Setting<Switch>) {
        let flags = setting.flags();
        define!(define_bool_guc_with_hooks, setting, [], Suset, flags, None, assign_hook!(setting));
    }
}

/// One of several words, which only superusers may choose.
pub struct Choice<T>(pub PhantomData<T>);

impl<T: GucEnum + Copy + 'static> Kind for Choice<T> {
    type Value = T;
    type Stored = GucSetting<T>;

    fn get(stored: &GucSetting<T>) -> T {
        stored.get()
    }

    fn define(setting: &'static Setting<Choice<T>>) {
        let flags = setting.flags();
        define!(define_enum_guc_with_hooks, setting, [], Suset, flags, None, assign_hook!(setting));
    }
}

/// `GucStringCheckHook` of guc.c.
type CheckHook = unsafe extern "C-unwind" fn(*mut *mut c_char, *mut *mut c_void, pg_sys::GucSource::Type) -> bool;

/// Kinds whose value is a text: who may set it, and the hooks that check and assign it.
macro_rules! text_kind {
    ($(#[$doc:meta])* $kind:ident<$check:ident: $trait:ident>, $context:ident, $checked:ident, $assigned:expr) => {
        $(#[$doc])*
        pub struct $kind<$check>(pub PhantomData<$check>);

        impl<$check: $trait + 'static> Kind for $kind<$check> {
            type Value = Option<CString>;
            type Stored = GucSetting<Option<CString>>;

            fn get(stored: &GucSetting<Option<CString>>) -> Option<CString> {
                stored.get()
            }

            fn define(setting: &'static Setting<$kind<$check>>) {
                let assigned: fn(&Setting<$kind<$check>>) -> pg_sys::GucStringAssignHook = $assigned;
                let (check, flags) = (Some($checked::<$check> as CheckHook), setting.flags());
                define!(define_string_guc_with_hooks, setting, [], $context, flags, check, assigned(setting));
            }
        }
    };
}

text_kind! {
    /// A text that only superusers may set. The empty text stands for none and is not checked.
    Text<C: TextCheck>, Suset, check_text, |setting| assign_hook!(setting)
}
text_kind! {
    /// A text that every user may set, in the encoding of the database.
    UserText<C: UserTextCheck>, Userset, check_user_text, |_| None
}
text_kind! {
    /// A list of names that only superusers may set.
    List<C: ListCheck>, Suset, check_list, |setting| assign_hook!(setting)
}
text_kind! {
    /// A set of words that only superusers may set.
    Words<W: WordSet>, Suset, check_words, |_| Some(assign_words::<W>)
}

unsafe extern "C-unwind" fn provider_changed<T>(_: T, _: *mut c_void) {
    gate::next_provider();
}

unsafe extern "C-unwind" fn mapping_changed<T>(_: T, _: *mut c_void) {
    gate::next_generation();
}

/// What a text setting may hold; the error says what is wrong with it.
pub trait TextCheck {
    fn check(text: &str) -> Result<(), String>;
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
