//! The extension's row in pg_extension: whose it is, which version, and that a statement changed it.

use crate::pg::catalog::installation::{extension, presence};
use pgrx::{FromDatum, pg_sys};
use std::ffi::c_int;

/// Where the row of the extension lies in pg_extension, which every change of it moves; zeros if there is none.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
#[repr(C)]
pub struct ExtensionRow {
    extension: u32,
    block: u32,
    offset: u16,
}

pub fn extension_row() -> ExtensionRow {
    let extension = extension();
    let found = look_at_row(extension, |_, tuple| {
        let (block, offset) = pgrx::itemptr::item_pointer_get_both(tuple.t_self);
        ExtensionRow { extension, block, offset }
    });
    found.unwrap_or_default()
}

/// The owner and the version.
pub(super) fn owner_and_version(extension: u32) -> Option<(u32, String)> {
    look_at_row(extension, |relation, tuple| {
        // SAFETY: the tuple is of this relation, and the version is text.
        unsafe {
            let tuple = &raw const *tuple as pg_sys::HeapTuple;
            let owner = (*(pg_sys::GETSTRUCT(tuple) as *const pg_sys::FormData_pg_extension)).extowner.to_u32();
            let mut is_null = false;
            let column = pg_sys::Anum_pg_extension_extversion as c_int;
            let version = pg_sys::heap_getattr(tuple, column, (*relation).rd_att, &mut is_null);
            (owner, String::from_datum(version, is_null).unwrap_or_default())
        }
    })
}

/// Of a row of pg_extension, which has no syscache before 18.
fn look_at_row<T>(extension: u32, look: impl FnOnce(pg_sys::Relation, &pg_sys::HeapTupleData) -> T) -> Option<T> {
    // SAFETY: scans pg_extension by its OID with a catalog snapshot; the tuple is looked at before the scan ends.
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
        let index = pg_sys::ExtensionOidIndexId.into();
        let scan = pg_sys::systable_beginscan(relation, index, true, std::ptr::null_mut(), 1, &mut key);
        let found = pg_sys::systable_getnext(scan).as_ref().map(|tuple| look(relation, tuple));
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as c_int);
        found
    }
}

/// Makes every backend look at the extension again, once this transaction has committed, also if this library cannot work with
/// it: another's may.
pub fn announce_version() {
    let Some(found) = presence() else { return };
    // SAFETY: a NUL-terminated name and OIDs by value, the second of a relation that is there.
    unsafe {
        let table = pg_sys::get_relname_relid(c"user_account".as_ptr(), found.schema.into());
        if table != pg_sys::InvalidOid {
            pg_sys::CacheInvalidateRelcacheByRelid(table);
        }
    }
}
