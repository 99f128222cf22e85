//! The control roles, whatever they are called by now: each is the one that may execute a function of ours that is there for
//! nothing else (`sql/identity/roles.sql`).

use crate::core::session::presented::Kind;
use crate::pg::catalog::installation::extension;
use crate::pg::catalog::roles::is_superuser;
use crate::pg::gate;
use pgrx::{pg_guard, pg_sys};
use std::ffi::{CStr, c_int};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// What tells a control role: by its place in [`WATCHED`], the function that it may execute, and what it is called at first.
pub(super) type Marker = (usize, &'static CStr, &'static CStr);

pub(super) const PRESENTERS: Marker = (0, c"is_bodata_impersonate_user", c"bodata_impersonate_user");
pub(super) const NAMERS: Marker = (1, c"is_immuta_impersonation", c"immuta_impersonation");
pub(super) const ADMINISTRATORS: Marker = (2, c"is_immuta_admin", c"immuta_admin");
pub(super) const MAPPABLE: Marker = (3, c"is_immuta_mappable", c"immuta_mappable");

const CACHE: c_int = pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as c_int;

/// Which changes of functions count: none before it was looked for, all where it was not found in its place, else those with
/// its hash.
static WATCHED: [AtomicU64; 4] = [const { AtomicU64::new(NONE) }; 4];
const NONE: u64 = u64::MAX;
const ALL: u64 = u64::MAX - 1;

/// The members of which role present users by token, and by name (OIDs); 0 for one that is not there. This is what every
/// session asks of its login.
pub fn holders(kind: Kind) -> u32 {
    role_of(match kind {
        Kind::Token => PRESENTERS,
        Kind::Name => NAMERS,
    })
}

/// Of those who may execute the function, besides its owner, the one that is called as it was at first; else the first who was
/// given that. Where the function is not to be found, the role of that name.
pub(super) fn role_of((place, function, name): Marker) -> u32 {
    let grantees = grantees(place, function).unwrap_or_default();
    match grantees[..] {
        // In every session: the name is not looked up.
        [role] => role,
        [first, ..] => Some(by_name(name)).filter(|named| grantees.contains(named)).unwrap_or(first),
        [] => by_name(name),
    }
}

pub(super) fn by_name(name: &CStr) -> u32 {
    // SAFETY: a NUL-terminated name; missing_ok.
    unsafe { pg_sys::get_role_oid(name.as_ptr(), true) }.to_u32()
}

/// The schema of this name, if it is a superuser's: those of the extension are, and nobody else leaves anything there. 0 if
/// there is none.
pub(super) fn schema(name: &CStr) -> u32 {
    // SAFETY: looked up by a NUL-terminated name; the tuple is read before the release.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::NAMESPACENAME as c_int;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(name.as_ptr()));
        if tuple.is_null() {
            return 0;
        }
        let row = *(pg_sys::GETSTRUCT(tuple) as *const pg_sys::FormData_pg_namespace);
        pg_sys::ReleaseSysCache(tuple);
        if is_trusted(row.nspowner) { row.oid.to_u32() } else { 0 }
    }
}

/// Asked in every session: the first superuser is not looked up.
fn is_trusted(owner: pg_sys::Oid) -> bool {
    owner.to_u32() == pg_sys::BOOTSTRAP_SUPERUSERID || is_superuser(owner.to_u32())
}

/// Who may execute the function of this name, in the order in which they were given that; `None` if it is not there. One that
/// was moved, with its schema or without, is the one that a superuser owns.
fn grantees(place: usize, function: &CStr) -> Option<Vec<u32>> {
    // SAFETY: looked up by a NUL-terminated name, no arguments and a schema; tuples are read before they are released.
    unsafe {
        let key = pg_sys::Datum::from(function.as_ptr());
        let arguments = pg_sys::Datum::from(pg_sys::buildoidvector(std::ptr::null(), 0));
        let schema = pg_sys::Datum::from(pg_sys::Oid::from(schema(c"immuta_internal")));
        let tuple = pg_sys::SearchSysCache3(CACHE, key, arguments, schema);
        if !tuple.is_null() {
            let hash = pg_sys::GetSysCacheHashValue(CACHE, key, arguments, schema, 0.into());
            WATCHED[place].store(hash.into(), Relaxed);
            let found = grantees_of(tuple);
            pg_sys::ReleaseSysCache(tuple);
            return Some(found);
        }
        WATCHED[place].store(ALL, Relaxed);
        if extension() == 0 {
            return None;
        }
        let list = pg_sys::SearchSysCacheList(CACHE, 1, key, 0.into(), 0.into());
        let count = usize::try_from((*list).n_members).unwrap_or(0);
        let found = (*list).members.as_slice(count).iter().map(|&entry| &raw mut (*entry).tuple).find(|&tuple| {
            let row = &*(pg_sys::GETSTRUCT(tuple) as *const pg_sys::FormData_pg_proc);
            row.pronargs == 0 && is_trusted(row.proowner)
        });
        let found = found.map(|tuple| grantees_of(tuple));
        pg_sys::ReleaseCatCacheList(list);
        found
    }
}

/// # Safety
/// The tuple is of pg_proc, and held.
unsafe fn grantees_of(tuple: pg_sys::HeapTuple) -> Vec<u32> {
    // SAFETY: by contract; an access list is an array of one dimension without nulls (`ACL_NUM`, `ACL_DAT`).
    unsafe {
        let owner = (*(pg_sys::GETSTRUCT(tuple) as *const pg_sys::FormData_pg_proc)).proowner;
        let mut is_null = false;
        let list = pg_sys::SysCacheGetAttr(CACHE, tuple, pg_sys::Anum_pg_proc_proacl as i16, &mut is_null);
        if is_null {
            return Vec::new();
        }
        let list = pg_sys::pg_detoast_datum(list.cast_mut_ptr()) as *const pg_sys::ArrayType;
        let count = usize::try_from(*(list.add(1) as *const c_int)).unwrap_or(0);
        let head = (size_of::<pg_sys::ArrayType>() + 2 * size_of::<c_int>()).next_multiple_of(align_of::<u64>());
        let entries = std::slice::from_raw_parts(list.byte_add(head) as *const pg_sys::AclItem, count);
        let grantees = entries.iter().map(|entry| entry.ai_grantee);
        grantees
            .filter(|&grantee| grantee != owner && grantee != pg_sys::Oid::INVALID)
            .map(|role| role.to_u32())
            .collect()
    }
}

/// Asks to be told of changes of these functions. Called once, from `_PG_init`.
pub(super) fn watch() {
    // SAFETY: the callback stays valid for the life of the process and only counts.
    unsafe { pg_sys::CacheRegisterSyscacheCallback(CACHE, Some(function_changed), 0.into()) };
}

#[pg_guard]
unsafe extern "C-unwind" fn function_changed(_arg: pg_sys::Datum, _cache: c_int, hash: u32) {
    let counts = |watched: u64| watched == ALL || watched != NONE && (hash == 0 || watched == u64::from(hash));
    if WATCHED.iter().any(|watched| counts(watched.load(Relaxed))) {
        gate::next_generation();
    }
}
