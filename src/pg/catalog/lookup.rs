//! Looking things up in the system catalogs, remembered until an invalidation says otherwise.

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

/// Column of the function in pg_range (`pg_range.h`).
const ANUM_PG_RANGE_RNGSUBDIFF: i16 = 7;

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
            pg_sys::SysCacheGetAttr(cache, tuple, ANUM_PG_RANGE_RNGSUBDIFF, &mut is_null).value() as u32;
        pg_sys::ReleaseSysCache(tuple);
        (difference != 0).then_some(difference)
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
    let marker = super::presence().map_or(0, |found| found.marker_of_subscribers);
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

/// A relation as audit records describe it.
pub struct Relation {
    pub kind: &'static str,
    /// Qualified by its schema.
    pub name: String,
}

pub fn described_relation(oid: u32) -> Option<Relation> {
    let (schema, name) = relation(oid)?;
    // SAFETY: takes an OID by value, searches the system cache.
    let kind = unsafe { pg_sys::get_rel_relkind(oid.into()) };
    let kind = match kind as u8 {
        b'r' => "TABLE",
        b'p' => "PARTITIONED_TABLE",
        b'v' => "VIEW",
        b'm' => "MATERIALIZED_VIEW",
        b'f' => "FOREIGN_TABLE",
        b'S' => "SEQUENCE",
        b'i' | b'I' => "INDEX",
        b't' => "TOAST_TABLE",
        b'c' => "COMPOSITE_TYPE",
        _ => "RELATION",
    };
    Some(Relation { kind, name: format!("{}.{name}", schema_name(schema)?) })
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

/// `pg_largeobject`, the class of large objects; PostgreSQL's own list of classes has that of their metadata.
const LARGE_OBJECTS: u32 = 2613;

/// Kind and name of any object, in the words of PostgreSQL; `None` for one that is gone, and for what is no object by
/// itself (an inheritance, a setting of a role), although changes of it are announced as if it were.
pub fn described_object(class: u32, oid: u32) -> Option<(String, String)> {
    if class == LARGE_OBJECTS {
        // It has no name, and one that a query makes is not visible before the query is over.
        return Some(("large object".into(), oid.to_string()));
    }
    let address = address_of(class, oid)?;
    // SAFETY: missing_ok; as in owned().
    unsafe {
        let name = owned(pg_sys::getObjectIdentity(&address, true))?;
        Some((owned(pg_sys::getObjectTypeDescription(&address, true))?, name))
    }
}

/// The same of an object that is about to be dropped: what it consists of may be gone already (the type that a function
/// takes, of a type that is dropped with its functions), and [`described_object`] would raise an error. What this reads
/// is in the object's own row, or may be missing.
pub fn described_dropped_object(class: u32, oid: u32) -> Option<(String, String)> {
    let address = address_of(class, oid)?;
    // SAFETY: missing_ok; as in owned().
    let kind = unsafe { owned(pg_sys::getObjectTypeDescription(&address, true)) }?;
    let name = match address.classId {
        pg_sys::TypeRelationId => type_name(address.objectId, pg_sys::FORMAT_TYPE_INVALID_AS_NULL)?,
        _ if class == LARGE_OBJECTS => oid.to_string(),
        _ => name_in_own_row(address)?,
    };
    Some((kind, name))
}

fn address_of(class: u32, oid: u32) -> Option<pg_sys::ObjectAddress> {
    let address = pg_sys::ObjectAddress { classId: class.into(), objectId: oid.into(), objectSubId: 0 };
    // SAFETY: takes an OID by value.
    let is_known = class == LARGE_OBJECTS || unsafe { pg_sys::is_objectclass_supported(address.classId) };
    is_known.then_some(address)
}

/// A type's name with its schema. The flag says what becomes of one that is gone.
fn type_name(oid: pg_sys::Oid, of_missing: u32) -> Option<String> {
    let flags = of_missing | pg_sys::FORMAT_TYPE_FORCE_QUALIFY;
    // SAFETY: as in owned().
    unsafe { owned(pg_sys::format_type_extended(oid, -1, flags as _)) }
}

/// What an object's row calls it; its OID where that has no name.
fn name_in_own_row(address: pg_sys::ObjectAddress) -> Option<String> {
    // Classes, and the columns of theirs that say to which relation an object belongs.
    const REWRITE: u32 = 2618;
    const POLICY: u32 = 3256;
    const EV_CLASS: c_int = 3;
    const POLRELID: c_int = 3;
    let class = address.classId;
    // SAFETY: the class is a catalog that PostgreSQL knows the columns of; of a copy of the row columns of those types
    // are read: a name, OIDs, for a function its fixed part.
    unsafe {
        let catalog = pg_sys::table_open(class, pg_sys::AccessShareLock as c_int);
        let row =
            pg_sys::get_catalog_object_by_oid(catalog, pg_sys::get_object_attnum_oid(class), address.objectId);
        let name = (!row.is_null()).then(|| {
            // 0 stands for a column that this class does not have.
            let column = |column: c_int| {
                if column == 0 {
                    return None;
                }
                let mut is_null = false;
                let datum = pg_sys::heap_getattr(row, column, (*catalog).rd_att, &mut is_null);
                (!is_null).then_some(datum)
            };
            let oid = |number: c_int| column(number).map(|datum| pg_sys::Oid::from(datum.value() as u32));
            let Some(name) = column(pg_sys::get_object_attnum_name(class).into()) else {
                return address.objectId.to_u32().to_string();
            };
            let schema = oid(pg_sys::get_object_attnum_namespace(class).into())
                .map_or(std::ptr::null_mut(), |schema| pg_sys::get_namespace_name_or_temp(schema));
            let quoted = pg_sys::quote_qualified_identifier(schema, name.cast_mut_ptr());
            let name = owned(quoted).unwrap_or_default();
            let relation = match class.to_u32() {
                REWRITE => oid(EV_CLASS),
                POLICY => oid(POLRELID),
                _ if class == pg_sys::TriggerRelationId => oid(pg_sys::Anum_pg_trigger_tgrelid as c_int),
                _ => None,
            };
            if class == pg_sys::ProcedureRelationId {
                let form = &*(pg_sys::GETSTRUCT(row) as *const pg_sys::FormData_pg_proc);
                let arguments = form.proargtypes.values.as_slice(usize::try_from(form.pronargs).unwrap_or(0));
                let names: Vec<_> = arguments
                    .iter()
                    .filter_map(|&argument| type_name(argument, pg_sys::FORMAT_TYPE_ALLOW_INVALID))
                    .collect();
                return format!("{name}({})", names.join(","));
            }
            match relation.and_then(|relation| described_relation(relation.to_u32())) {
                Some(relation) => format!("{name} on {}", relation.name),
                None => name,
            }
        });
        pg_sys::table_close(catalog, pg_sys::AccessShareLock as c_int);
        name
    }
}

/// # Safety
/// `name` is null or a palloc'd, NUL-terminated string in the database encoding.
unsafe fn owned(name: *mut c_char) -> Option<String> {
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
const ANUM_SETCONFIG: c_int = 3;

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
                let config = pg_sys::heap_getattr(tuple, ANUM_SETCONFIG, (*relation).rd_att, &mut is_null);
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
unsafe fn texts(array: pg_sys::Datum) -> Vec<Vec<u8>> {
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
