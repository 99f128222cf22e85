//! That a statement made or updated the extension, and that other sessions hear of it.

use crate::pg::catalog::installation::{extension, presence};
use pgrx::pg_sys;
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
        let row = pg_sys::systable_getnext(scan).as_ref().map_or_else(ExtensionRow::default, |tuple| {
            let (block, offset) = pgrx::itemptr::item_pointer_get_both(tuple.t_self);
            ExtensionRow { extension, block, offset }
        });
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(relation, pg_sys::AccessShareLock as c_int);
        row
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
