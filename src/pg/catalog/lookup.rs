//! Looking things up in the system catalogs.

use crate::pg::sys::{compat, text};
use pgrx::{IntoDatum, pg_sys};
use std::ffi::{CStr, CString, c_char, c_int};

/// Name and owner of a type.
pub fn type_name_and_owner(oid: u32) -> Option<(String, u32)> {
    // SAFETY: tuples of pg_type begin with their fixed columns, copied before the release.
    unsafe {
        let tuple =
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::TYPEOID as c_int, pg_sys::Oid::from(oid).into());
        if tuple.is_null() {
            return None;
        }
        let form = &*(pg_sys::GETSTRUCT(tuple) as *const pg_sys::FormData_pg_type);
        let name = CStr::from_ptr(form.typname.data.as_ptr()).to_string_lossy().into_owned();
        let owner = form.typowner.to_u32();
        pg_sys::ReleaseSysCache(tuple);
        Some((name, owner))
    }
}

/// The function with which a type of ranges, or of sets of them, measures how far values are apart.
pub fn subtype_difference(oid: u32) -> Option<u32> {
    let cache = pg_sys::SysCacheIdentifier::RANGETYPE as c_int;
    let oid = pg_sys::Oid::from(oid);
    // SAFETY: takes OIDs by value; an OID is copied before the release.
    unsafe {
        let range = pg_sys::get_multirange_range(oid);
        let range = if range == pg_sys::Oid::INVALID { oid } else { range };
        let tuple = pg_sys::SearchSysCache1(cache, range.into());
        if tuple.is_null() {
            return None;
        }
        let mut is_null = false;
        let difference =
            pg_sys::SysCacheGetAttr(cache, tuple, compat::ANUM_PG_RANGE_RNGSUBDIFF, &mut is_null).value() as u32;
        pg_sys::ReleaseSysCache(tuple);
        (difference != 0).then_some(difference)
    }
}

/// Schema and name of a relation; `None` for one that is gone.
pub fn relation(oid: u32) -> Option<(u32, String)> {
    // SAFETY: look-ups by OID; the name is null or a palloc'd, NUL-terminated string.
    unsafe {
        let name = pg_sys::get_rel_name(oid.into());
        if name.is_null() {
            return None;
        }
        let schema = pg_sys::get_rel_namespace(oid.into()).to_u32();
        Some((schema, CStr::from_ptr(name).to_string_lossy().into_owned()))
    }
}

/// Whether a role may make temporary files in a tablespace, as the check of `temp_tablespaces` sees it.
pub fn may_use_tablespace(role: u32, name: &CStr) -> bool {
    // SAFETY: a NUL-terminated string, and a static variable; the look-up raises nothing for a name that is unknown.
    let (tablespace, own) =
        unsafe { (pg_sys::get_tablespace_oid(name.as_ptr(), true), pg_sys::MyDatabaseTableSpace) };
    if tablespace == pg_sys::InvalidOid || tablespace == own {
        return tablespace == own;
    }
    let arguments = [pg_sys::Oid::from(role).into_datum(), tablespace.into_datum(), "CREATE".into_datum()];
    // SAFETY: a function of PostgreSQL's, with arguments of its types.
    unsafe { pgrx::direct_function_call(pg_sys::has_tablespace_privilege_id_id, &arguments) }.unwrap_or(false)
}

/// The table to which a TOAST table, or an index of one, belongs: PostgreSQL names them by its OID.
pub(super) fn table_of_toast(oid: u32) -> Option<u32> {
    if schema_of_relation(oid) != pg_sys::PG_TOAST_NAMESPACE {
        return None;
    }
    let (_, name) = relation(oid)?;
    let name = name.strip_prefix("pg_toast_")?;
    name.strip_suffix("_index").unwrap_or(name).parse().ok()
}

pub fn schema_name(oid: u32) -> Option<String> {
    // SAFETY: as in owned().
    unsafe { owned(pg_sys::get_namespace_name(oid.into())) }
}

pub fn column_name(relation: u32, column: i16) -> Option<String> {
    // SAFETY: as in owned(); missing_ok.
    unsafe { owned(pg_sys::get_attname(relation.into(), column, true)) }
}

/// # Safety
/// `name` is null or a palloc'd, NUL-terminated string in the database encoding.
pub(super) unsafe fn owned(name: *mut c_char) -> Option<String> {
    // SAFETY: by contract.
    (!name.is_null()).then(|| unsafe { text::from_server_anyhow(CStr::from_ptr(name).to_bytes()) })
}

pub fn schema_of_relation(oid: u32) -> u32 {
    // SAFETY: takes an OID by value, searches the system cache.
    unsafe { pg_sys::get_rel_namespace(oid.into()) }.to_u32()
}

/// Raises PostgreSQL's own error for a schema the user may not use.
pub fn require_usage(schema: u32, user: u32) {
    if schema == 0 || compat::has_usage(schema.into(), user.into()) {
        return;
    }
    // SAFETY: raises the error; the name is null or a palloc'd string.
    unsafe {
        pg_sys::aclcheck_error(
            pg_sys::AclResult::ACLCHECK_NO_PRIV,
            pg_sys::ObjectType::OBJECT_SCHEMA,
            pg_sys::get_namespace_name(schema.into()),
        );
    }
}

/// `pg_db_role_setting.h`: the table, its index, and the column with the settings.
const DB_ROLE_SETTING: u32 = 2964;

const DB_ROLE_SETTING_INDEX: u32 = 2965;

const ANUM_PG_DB_ROLE_SETTING_SETCONFIG: c_int = 3;

/// What `ALTER ROLE ... SET` says of a role in this database: name and value, those that count more later.
pub fn settings_of_role(role: u32) -> Vec<(CString, CString)> {
    let mut settings = Vec::new();
    for database in [0, database()] {
        let keys = [database, role];
        // SAFETY: as in extension_owner(); an array of text, each `name=value`.
        unsafe {
            let relation = pg_sys::table_open(DB_ROLE_SETTING.into(), pg_sys::AccessShareLock as c_int);
            let mut scan_keys: [pg_sys::ScanKeyData; 2] = Default::default();
            for (column, (key, value)) in (1..).zip(scan_keys.iter_mut().zip(keys)) {
                let value = pg_sys::Oid::from(value).into();
                pg_sys::ScanKeyInit(
                    key,
                    column,
                    pg_sys::BTEqualStrategyNumber as u16,
                    pg_sys::F_OIDEQ.into(),
                    value,
                );
            }
            let no_snapshot = std::ptr::null_mut();
            let keys = scan_keys.as_mut_ptr();
            let scan =
                pg_sys::systable_beginscan(relation, DB_ROLE_SETTING_INDEX.into(), true, no_snapshot, 2, keys);
            let tuple = pg_sys::systable_getnext(scan);
            if !tuple.is_null() {
                let mut is_null = false;
                let config = pg_sys::heap_getattr(
                    tuple,
                    ANUM_PG_DB_ROLE_SETTING_SETCONFIG,
                    (*relation).rd_att,
                    &mut is_null,
                );
                if !is_null {
                    settings.extend(texts(config).iter().filter_map(|text| split_setting(text)));
                }
            }
            pg_sys::systable_endscan(scan);
            pg_sys::table_close(relation, pg_sys::AccessShareLock as c_int);
        }
    }
    settings
}

/// The elements of an array of text.
///
/// # Safety
/// The datum is one.
pub(super) unsafe fn texts(array: pg_sys::Datum) -> Vec<Vec<u8>> {
    // SAFETY: by contract; elements that are not null are text, detoasted with all their bytes in place.
    unsafe {
        let array = pg_sys::pg_detoast_datum(array.cast_mut_ptr()) as *mut pg_sys::ArrayType;
        let (mut elements, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        let align = pg_sys::TYPALIGN_INT as c_char;
        pg_sys::deconstruct_array(array, pg_sys::TEXTOID, -1, false, align, &mut elements, &mut nulls, &mut count);
        (0..usize::try_from(count).unwrap_or(0))
            .filter(|&at| !*nulls.add(at))
            .map(|at| {
                let text = pg_sys::pg_detoast_datum_packed((*elements.add(at)).cast_mut_ptr());
                pgrx::varlena_to_byte_slice(text).to_vec()
            })
            .collect()
    }
}

fn split_setting(text: &[u8]) -> Option<(CString, CString)> {
    let at = text.iter().position(|&byte| byte == b'=')?;
    Some((CString::new(&text[..at]).ok()?, CString::new(&text[at + 1..]).ok()?))
}

/// Name of the current database, for messages and workers.
pub fn database() -> u32 {
    // SAFETY: a static variable.
    unsafe { pg_sys::MyDatabaseId }.to_u32()
}

pub fn database_name() -> String {
    // SAFETY: as in owned().
    unsafe { owned(pg_sys::get_database_name(pg_sys::MyDatabaseId)) }.unwrap_or_default()
}

/// Value of a setting as text, or `None` if there is no such setting.
pub fn setting(name: &CStr) -> Option<CString> {
    // SAFETY: missing_ok; the result is null or valid until the next call.
    unsafe {
        let value = pg_sys::GetConfigOption(name.as_ptr(), true, false);
        (!value.is_null()).then(|| CStr::from_ptr(value).to_owned())
    }
}
