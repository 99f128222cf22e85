//! Masks.

use crate::api::convert::immuta_require_preload;
use crate::pg::mask;
use pgrx::prelude::*;
use std::ffi::{CStr, CString};

/// A mask in the form in which it is stored; both in the database encoding.
#[pg_extern(sql = false)]
fn immuta_check_mask(table: pg_sys::Oid, column: i16, expression: &[u8]) -> Vec<u8> {
    immuta_require_preload();
    match CString::new(expression) {
        Ok(expression) => mask::check(table.to_u32(), column, &expression).into_bytes(),
        Err(_) => pgrx::error!("an expression cannot hold a zero byte"),
    }
}

/// Whether nothing says that an expression fails for no value.
#[pg_extern(sql = false)]
fn immuta_mask_may_fail(table: pg_sys::Oid, column: i16, expression: &[u8]) -> bool {
    immuta_require_preload();
    CString::new(expression).is_ok_and(|expression| mask::may_fail(table.to_u32(), column, &expression))
}

/// Row trigger of the tables of masks: plans are made anew.
#[pg_trigger(sql = false)]
fn immuta_masks_changed<'a>(
    trigger: &'a pgrx::PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, impl WhoAllocated>>, PgTriggerError> {
    let of_row = |row: Option<PgHeapTuple<'a, _>>| {
        row.and_then(|row| row.get_by_name::<pg_sys::Oid>("table_oid").ok().flatten())
    };
    for table in [of_row(trigger.old()), of_row(trigger.new())].into_iter().flatten() {
        mask::changed(table.to_u32());
    }
    mask::changed(trigger.relid()?.to_u32());
    Ok(trigger.old().or(trigger.new()))
}

/// Input of the type `mask_ref`.
#[pg_extern(sql = false)]
fn immuta_mask_ref_in(_text: &CStr) -> i32 {
    mask::refuse_reference()
}

#[pg_extern(sql = false)]
fn immuta_mask_ref_out(reference: i32) -> CString {
    CString::new(mask::show_reference(reference)).unwrap_or_default()
}

#[pg_extern(sql = false)]
fn immuta_mask_ref(_id: i32) -> i32 {
    mask::refuse_reference()
}

/// Text in the database encoding.
#[pg_extern(sql = false)]
fn immuta_mask_hash(value: &[u8], reference: i32) -> Vec<u8> {
    mask::hash(value, reference)
}

/// Text in the database encoding.
#[pg_extern(sql = false)]
fn immuta_mask_regex(value: &[u8], reference: i32) -> Vec<u8> {
    mask::regex(value, reference)
}
