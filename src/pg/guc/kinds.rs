//! Kinds of settings: how they are defined and checked.

use crate::pg::gate;
use crate::pg::sys::compat;
use pgrx::guc::{GucContext, GucEnum, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys;
use pgrx::pg_sys::panic::pgrx_extern_c_guard;
use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// What is counted when the value of a setting changes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Counts {
    Nothing,
    /// Mappings that were found are to be found again.
    Mapping,
    /// What the provider said counts no longer.
    Provider,
}

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
