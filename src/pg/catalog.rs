//! Looking things up in the system catalogs, remembered until an invalidation says otherwise.

use super::{compat, gate, table, text};
use foldhash::fast::RandomState;
use pgrx::{FromDatum, pg_guard, pg_sys};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What `CREATE EXTENSION immuta_ext` left in this database (OIDs).
#[derive(Clone, Copy)]
pub struct Installation {
    pub schema: u32,
    pub extension: u32,
    pub owner: u32,
    pub user_account: u32,
    pub user_account_by_id: u32,
    pub user_account_by_identity: u32,
    pub token: u32,
    pub token_by_digest: u32,
    pub token_issuer: u32,
    pub token_issuer_by_issuer: u32,
    pub impersonation_rule: u32,
    pub subscription: u32,
    pub subscription_by_user: u32,
    pub subscriber: u32,
    pub subscriber_by_role: u32,
    pub project: u32,
    pub project_by_id: u32,
    pub project_member: u32,
    pub project_member_current: u32,
    /// Whether the OIDs of roles in these tables hold in this cluster.
    pub knows_roles: bool,
    /// `bodata_impersonate_user`, `immuta_impersonation`, `immuta_admin`; 0 for one that was dropped.
    pub control_roles: [u32; 3],
    pub mappable: u32,
    /// `immuta_subscriber`.
    pub marker_of_subscribers: u32,
}

impl Installation {
    /// Whether this is a table or a sequence of ours, or a partition of one: what only our functions, and superusers,
    /// read and write.
    pub fn owns(&self, relation: u32) -> bool {
        OWNED.with_borrow_mut(|(generation, known)| {
            let current = gate::relations();
            if *generation != current {
                known.clear();
                *generation = current;
            }
            *known.entry(relation).or_insert_with(|| {
                // SAFETY: takes an OID by value, searches the system cache.
                let kind = unsafe { pg_sys::get_rel_relkind(relation.into()) };
                schema_of_relation(relation) == self.schema && matches!(kind as u8, b'r' | b'p' | b'S')
            })
        })
    }
}

thread_local! {
    static FOUND: Cell<(u64, Option<Installation>)> = const { Cell::new((0, None)) };
    /// What [`Installation::owns`] found.
    static OWNED: RefCell<(u64, HashMap<u32, bool, RandomState>)> = RefCell::default();
}

/// The tables whose changes count; 0 while the extension is not installed.
static TABLES: [AtomicU32; 2] = [AtomicU32::new(0), AtomicU32::new(0)];

/// The installation in this database, if there is one.
pub fn installation() -> Option<Installation> {
    let generation = gate::generation();
    let (seen, found) = FOUND.get();
    if seen == generation {
        return found;
    }
    let found = find_installation();
    TABLES[0].store(found.map_or(0, |i| i.user_account), Relaxed);
    TABLES[1].store(found.map_or(0, |i| i.token), Relaxed);
    FOUND.set((generation, found));
    found
}

fn find_installation() -> Option<Installation> {
    let oid = |oid: pg_sys::Oid| (oid != pg_sys::Oid::INVALID).then(|| oid.to_u32());
    // SAFETY: look-ups by NUL-terminated names, missing_ok; they raise errors only.
    unsafe {
        let schema = oid(pg_sys::get_namespace_oid(c"immuta".as_ptr(), true))?;
        let relation = |name: &CStr| oid(pg_sys::get_relname_relid(name.as_ptr(), schema.into()));
        let user_account = relation(c"user_account")?;
        let extension = oid(pg_sys::get_extension_oid(c"immuta_ext".as_ptr(), true))?;
        let role = |name: &CStr| pg_sys::get_role_oid(name.as_ptr(), true).to_u32();
        Some(Installation {
            schema,
            extension,
            owner: extension_owner(extension),
            user_account,
            user_account_by_id: relation(c"user_account_id_key")?,
            user_account_by_identity: relation(c"user_account_pkey")?,
            token: relation(c"token")?,
            token_by_digest: relation(c"token_pkey")?,
            token_issuer: relation(c"token_issuer")?,
            token_issuer_by_issuer: relation(c"token_issuer_pkey")?,
            impersonation_rule: relation(c"impersonation_rule")?,
            subscription: relation(c"subscription")?,
            subscription_by_user: relation(c"subscription_pkey")?,
            subscriber: relation(c"subscriber")?,
            subscriber_by_role: relation(c"subscriber_role_key")?,
            project: relation(c"project")?,
            project_by_id: relation(c"project_pkey")?,
            project_member: relation(c"project_member")?,
            project_member_current: relation(c"project_member_current_key")?,
            knows_roles: table::knows_roles(relation(c"home")?),
            control_roles: [
                role(c"bodata_impersonate_user"),
                role(c"immuta_impersonation"),
                role(c"immuta_admin"),
            ],
            mappable: role(c"immuta_mappable"),
            marker_of_subscribers: role(c"immuta_subscriber"),
        })
    }
}

/// Owner of the extension: the owner of its schema's tables, as pg_extension has no syscache before 18.
fn extension_owner(extension: u32) -> u32 {
    // SAFETY: scans pg_extension by its OID with a catalog snapshot; the tuple is read before the scan ends.
    unsafe {
        let relation = pg_sys::table_open(pg_sys::ExtensionRelationId, pg_sys::AccessShareLock as c_int);
        let mut key = pg_sys::ScanKeyData::default();
        pg_sys::ScanKeyInit(
            &mut key,
            pg_sys::Anum_pg_extension_oid as i16,
            pg_sys::BTEqualStrategyNumber as u16,
            pg_sys::F_OIDEQ.into(),
            pg_sys::Oid::from(extension).into(),
        );
        let scan = pg_sys::systable_beginscan(
            relation,
            pg_sys::ExtensionOidIndexId.into(),
            true,
            std::ptr::null_mut(),
            1,
            &mut key,
        );
        let tuple = pg_sys::systable_getnext(scan);
        let owner = if tuple.is_null() {
            0
        } else {
            (*(pg_sys::GETSTRUCT(tuple) as *const pg_sys::FormData_pg_extension)).extowner.to_u32()
        };
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as c_int);
        owner
    }
}

/// Asks to be told of every change that may matter. Called once, from `_PG_init`.
pub fn watch() {
    use pg_sys::SysCacheIdentifier::*;
    // SAFETY: the callbacks stay valid for the life of the process and only count.
    unsafe {
        for cache in [AUTHOID, AUTHMEMMEMROLE, NAMESPACEOID] {
            pg_sys::CacheRegisterSyscacheCallback(cache as c_int, Some(catalog_changed), 0.into());
        }
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), 0.into());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn catalog_changed(_arg: pg_sys::Datum, _cache: c_int, _hash: u32) {
    gate::next_generation();
    gate::next_relations();
}

#[pg_guard]
unsafe extern "C-unwind" fn relation_changed(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    gate::next_relations();
    let relation = relation.to_u32();
    let tables = [TABLES[0].load(Relaxed), TABLES[1].load(Relaxed)];
    // Invalid: all relations. Not installed so far: any relation may be ours.
    if relation == 0 || tables[0] == 0 || tables.contains(&relation) {
        gate::next_generation();
    }
}

/// Takes in what other sessions have committed so far, which a transaction otherwise does where it takes a lock.
pub fn take_in_changes() {
    // SAFETY: calls the invalidation callbacks; in a transaction only, as look-ups are.
    unsafe { pg_sys::AcceptInvalidationMessages() }
}

/// Makes every backend look at our tables again, once this transaction has committed.
pub fn announce_change() {
    if let Some(found) = installation() {
        // SAFETY: takes an OID by value.
        unsafe { pg_sys::CacheInvalidateRelcacheByRelid(found.user_account.into()) };
    }
}

/// What the guard wants to know of a function.
pub struct Function {
    pub name: String,
    pub schema: u32,
    pub owner: u32,
    pub is_definer: bool,
    /// Its code runs in the server without a sandbox: C, internal or an untrusted language.
    pub is_unrestricted: bool,
    /// Declared to depend on nothing but its arguments.
    pub is_immutable: bool,
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
            name: CStr::from_ptr(form.proname.data.as_ptr()).to_string_lossy().into_owned(),
            schema: form.pronamespace.to_u32(),
            owner: form.proowner.to_u32(),
            is_definer: form.prosecdef,
            is_unrestricted: !is_trusted_language(form.prolang),
            is_immutable: form.provolatile as u8 == b'i',
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

/// `pg_language.h` and `pg_language.dat`.
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

pub fn schema_name(oid: u32) -> Option<String> {
    // SAFETY: as in owned().
    unsafe { owned(pg_sys::get_namespace_name(oid.into())) }
}

pub fn column_name(relation: u32, column: i16) -> Option<String> {
    // SAFETY: as in owned(); missing_ok.
    unsafe { owned(pg_sys::get_attname(relation.into(), column, true)) }
}

/// Kind and name of any object, in the words of PostgreSQL; `None` for one that is gone, and for what is no object by
/// itself (an inheritance, a setting of a role), although changes of it are announced as if it were.
pub fn described_object(class: u32, oid: u32) -> Option<(String, String)> {
    // `pg_largeobject`, the class of large objects; PostgreSQL's own list has that of their metadata.
    const LARGE_OBJECTS: u32 = 2613;
    let address = pg_sys::ObjectAddress { classId: class.into(), objectId: oid.into(), objectSubId: 0 };
    // SAFETY: missing_ok; as in owned().
    unsafe {
        if class != LARGE_OBJECTS && !pg_sys::is_objectclass_supported(address.classId) {
            return None;
        }
        let name = owned(pg_sys::getObjectIdentity(&address, true))?;
        Some((owned(pg_sys::getObjectTypeDescription(&address, true))?, name))
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

pub fn is_system_schema(schema: u32) -> bool {
    thread_local! {
        static INFORMATION_SCHEMA: Cell<(u64, u32)> = const { Cell::new((0, 0)) };
    }
    if schema == pg_sys::PG_CATALOG_NAMESPACE {
        return true;
    }
    let generation = gate::generation();
    let (seen, mut information_schema) = INFORMATION_SCHEMA.get();
    if seen != generation {
        // SAFETY: a NUL-terminated name; missing_ok.
        information_schema = unsafe { pg_sys::get_namespace_oid(c"information_schema".as_ptr(), true) }.to_u32();
        INFORMATION_SCHEMA.set((generation, information_schema));
    }
    schema != 0 && schema == information_schema
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
