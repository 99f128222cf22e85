//! Functions: whose they are, what they may do, and how they find what they name.

use crate::pg::catalog::lookup::texts;
use crate::pg::catalog::presence;
use crate::pg::sys::{compat, text};
use pgrx::{FromDatum, IntoDatum, pg_sys};
use std::ffi::{CStr, CString, c_char, c_int};

/// What the guard wants to know of a function.
pub struct Function {
    pub name: String,
    pub schema: u32,
    pub owner: u32,
    pub is_definer: bool,
    language: pg_sys::Oid,
    /// Declared to depend on nothing but its arguments.
    pub is_immutable: bool,
    pub is_volatile: bool,
}

impl Function {
    /// Its code runs in the server without a sandbox: C, internal or an untrusted language.
    pub fn is_unrestricted(&self) -> bool {
        !is_trusted_language(self.language)
    }
}

pub fn function(oid: u32) -> Option<Function> {
    // SAFETY: tuples of pg_proc and pg_language begin with their fixed columns, copied before the release.
    unsafe {
        let tuple =
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::PROCOID as c_int, pg_sys::Oid::from(oid).into());
        if tuple.is_null() {
            return None;
        }
        let form = &*(pg_sys::GETSTRUCT(tuple) as *const pg_sys::FormData_pg_proc);
        let function = Function {
            name: text::utf8(CStr::from_ptr(form.proname.data.as_ptr()).to_bytes()),
            schema: form.pronamespace.to_u32(),
            owner: form.proowner.to_u32(),
            is_definer: form.prosecdef,
            language: form.prolang,
            is_immutable: form.provolatile as u8 == b'i',
            is_volatile: form.provolatile as u8 == b'v',
        };
        pg_sys::ReleaseSysCache(tuple);
        Some(function)
    }
}

/// The code of a function in C, by its name in the library; `None` for functions in other languages.
pub fn c_symbol(function: u32) -> Option<Vec<u8>> {
    // SAFETY: as in function(); prosrc is text, detoasted with all its bytes in place.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::PROCOID as c_int;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Oid::from(function).into());
        if tuple.is_null() {
            return None;
        }
        let form = &*(pg_sys::GETSTRUCT(tuple) as *const pg_sys::FormData_pg_proc);
        let symbol = (form.prolang.to_u32() == C_LANGUAGE).then(|| {
            let mut is_null = false;
            let source = pg_sys::SysCacheGetAttr(cache, tuple, pg_sys::Anum_pg_proc_prosrc as i16, &mut is_null);
            let source = pg_sys::pg_detoast_datum_packed(source.cast_mut_ptr());
            pgrx::varlena_to_byte_slice(source).to_vec()
        });
        pg_sys::ReleaseSysCache(tuple);
        symbol
    }
}

/// By what path a function finds what it names.
pub enum Names {
    /// It names nothing, or says by which path, in which nobody else puts anything.
    Fixed,
    /// Its body was parsed when it was made: a node as text.
    Parsed(CString),
    /// By that of whoever calls it.
    ByCaller,
}

pub fn how_names_are_found(function: u32) -> Option<Names> {
    // SAFETY: as in function(); settings are an array of text, a parsed body is a text without a zero byte.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::PROCOID as c_int;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Oid::from(function).into());
        if tuple.is_null() {
            return None;
        }
        let language = (*(pg_sys::GETSTRUCT(tuple) as *const pg_sys::FormData_pg_proc)).prolang.to_u32();
        let column = |number: u32| {
            let mut is_null = false;
            let value = pg_sys::SysCacheGetAttr(cache, tuple, number as i16, &mut is_null);
            (!is_null).then_some(value)
        };
        let sets_path = column(pg_sys::Anum_pg_proc_proconfig)
            .is_some_and(|settings| texts(settings).iter().any(|text| is_fixed_path(text)));
        let names = if matches!(language, INTERNAL_LANGUAGE | C_LANGUAGE) || sets_path {
            Names::Fixed
        } else if let Some(body) = column(pg_sys::Anum_pg_proc_prosqlbody) {
            let body = pg_sys::pg_detoast_datum_packed(body.cast_mut_ptr());
            CString::new(pgrx::varlena_to_byte_slice(body)).map_or(Names::ByCaller, Names::Parsed)
        } else {
            Names::ByCaller
        };
        pg_sys::ReleaseSysCache(tuple);
        Some(names)
    }
}

/// Whether a function's setting is a path on which it finds the same whoever calls it. What is temporary comes first (for types
/// and relations) unless it is named.
fn is_fixed_path(setting: &[u8]) -> bool {
    let Some(path) = setting.strip_prefix(b"search_path=").and_then(|path| CString::new(path).ok()) else {
        return false;
    };
    let mut path = path.into_bytes_with_nul();
    let mut list = std::ptr::null_mut();
    // SAFETY: a NUL-terminated string that is changed in place, in which the names of the list lie.
    let names: Vec<&CStr> = unsafe {
        if !pg_sys::SplitIdentifierString(path.as_mut_ptr().cast(), b',' as c_char, &mut list) {
            return false;
        }
        (0..)
            .map(|at| compat::element::<c_char>(list, at))
            .take_while(|name| !name.is_null())
            .map(|name| CStr::from_ptr(name))
            .collect()
    };
    names
        .split_last()
        .is_some_and(|(last, before)| *last == c"pg_temp" && before.iter().all(|name| is_closed_schema(name)))
}

/// Whether there is such a schema, and subscribers as such make nothing in it.
fn is_closed_schema(name: &CStr) -> bool {
    if name == c"pg_catalog" {
        return true;
    }
    // SAFETY: missing_ok; tuples of pg_namespace begin with their fixed columns, copied before the release.
    let (schema, owner) = unsafe {
        let schema = pg_sys::get_namespace_oid(name.as_ptr(), true);
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::NAMESPACEOID as c_int, schema.into());
        if tuple.is_null() {
            return false;
        }
        let owner = (*(pg_sys::GETSTRUCT(tuple) as *const pg_sys::FormData_pg_namespace)).nspowner;
        pg_sys::ReleaseSysCache(tuple);
        (schema, owner)
    };
    let marker = presence().map_or(0, |found| found.marker_of_subscribers);
    if marker == 0 || name.to_bytes().starts_with(b"pg_temp_") {
        return false;
    }
    let arguments = [pg_sys::Oid::from(marker).into_datum(), schema.into_datum(), "CREATE".into_datum()];
    // SAFETY: a function of PostgreSQL's, with arguments of its types; OIDs by value.
    unsafe {
        !pg_sys::is_member_of_role_nosuper(owner, marker.into())
            && pgrx::direct_function_call(pg_sys::has_schema_privilege_id_id, &arguments) == Some(false)
    }
}

/// Whether this is a function in SQL that returns sets: the planner may put its query in its place.
pub fn is_set_of_sql(function: u32) -> bool {
    // SAFETY: as in function().
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::PROCOID as c_int;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Oid::from(function).into());
        if tuple.is_null() {
            return false;
        }
        let form = &*(pg_sys::GETSTRUCT(tuple) as *const pg_sys::FormData_pg_proc);
        let found = form.proretset && form.prolang.to_u32() == SQL_LANGUAGE;
        pg_sys::ReleaseSysCache(tuple);
        found
    }
}

/// `pg_language.h` and `pg_language.dat`.
const INTERNAL_LANGUAGE: u32 = 12;

const C_LANGUAGE: u32 = 13;

const ANUM_PG_LANGUAGE_LANPLTRUSTED: i16 = 5;

const SQL_LANGUAGE: u32 = 14;

fn is_trusted_language(language: pg_sys::Oid) -> bool {
    // SAFETY: as in function().
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::LANGOID as c_int, language.into());
        if tuple.is_null() {
            return false;
        }
        let mut is_null = false;
        let cache = pg_sys::SysCacheIdentifier::LANGOID as c_int;
        let trusted = pg_sys::SysCacheGetAttr(cache, tuple, ANUM_PG_LANGUAGE_LANPLTRUSTED, &mut is_null);
        let trusted = bool::from_datum(trusted, is_null).unwrap_or(false);
        pg_sys::ReleaseSysCache(tuple);
        // SQL is no procedural language and not marked trusted, but runs through the executor.
        trusted || language.to_u32() == SQL_LANGUAGE
    }
}

/// Whether this function came with the extension.
pub fn is_ours(function: u32, extension: u32) -> bool {
    // SAFETY: takes OIDs by value, scans pg_depend.
    unsafe {
        pg_sys::getExtensionOfObject(pg_sys::ProcedureRelationId, function.into()) == pg_sys::Oid::from(extension)
    }
}
