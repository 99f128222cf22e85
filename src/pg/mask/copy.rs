//! COPY of a table, which checks its rights before anything is planned.

use crate::pg::mask::cache;
use crate::pg::mask::hidden::{Opened, hidden_from};
use crate::pg::mask::subquery::new_node;
use crate::pg::sys::{compat, raw};
use pgrx::tupdesc::PgTupleDesc;
use pgrx::{PgList, is_a, pg_sys};
use std::ffi::{CStr, CString, c_int};

/// COPY of a query, in the place of COPY of a table that names what whoever runs it may not see; the statement itself in
/// all other cases.
///
/// # Safety
/// `statement` wraps a utility statement; the transaction has not failed.
pub unsafe fn as_query(statement: *mut pg_sys::PlannedStmt) -> *mut pg_sys::PlannedStmt {
    // SAFETY: by contract; the cast follows the tag. What is changed is a copy.
    unsafe {
        let node = (*statement).utilityStmt;
        if !is_a(node, pg_sys::NodeTag::T_CopyStmt) {
            return statement;
        }
        let copy = &*(node as *mut pg_sys::CopyStmt);
        if copy.is_from || copy.relation.is_null() {
            return statement;
        }
        let Some(columns) = masked_columns(copy) else { return statement };
        let changed: *mut pg_sys::PlannedStmt = pg_sys::copyObjectImpl(statement.cast()).cast();
        let copy = &mut *((*changed).utilityStmt as *mut pg_sys::CopyStmt);
        copy.query = select(copy.relation, &columns);
        (copy.relation, copy.attlist) = (std::ptr::null_mut(), std::ptr::null_mut());
        changed
    }
}

/// The columns that are copied, if any is masked.
///
/// # Safety
/// `copy` is of a table.
unsafe fn masked_columns(copy: &pg_sys::CopyStmt) -> Option<Vec<CString>> {
    // SAFETY: by contract; the table is locked as COPY does, and the lock is kept. The list holds strings.
    unsafe {
        let (lock, missing_ok) = (pg_sys::AccessShareLock as c_int, pg_sys::RVROption::RVR_MISSING_OK);
        let oid = pg_sys::RangeVarGetRelidExtended(copy.relation, lock, missing_ok, None, std::ptr::null_mut());
        if oid == pg_sys::InvalidOid || !cache::is_masked(oid.to_u32()) {
            return None;
        }
        let relation = Opened::of(oid);
        if (*(*relation.0).rd_rel).relkind as u8 != b'r' {
            return None;
        }
        let hidden = hidden_from(raw::GetUserId().to_u32(), oid, &*cache::masks(relation.0)?);
        // Generated columns cannot be copied.
        let descriptor = PgTupleDesc::from_pg_unchecked((*relation.0).rd_att);
        let all: Vec<_> = descriptor
            .iter()
            .filter(|column| !column.attisdropped && column.attgenerated == 0)
            .map(|column| {
                (CStr::from_ptr(column.attname.data.as_ptr()).to_owned(), hidden.contains(&column.attnum))
            })
            .collect();
        let copied = if copy.attlist.is_null() {
            all
        } else {
            PgList::<pg_sys::Node>::from_pg(copy.attlist)
                .iter_ptr()
                .map(|name| {
                    let name = CStr::from_ptr(compat::string_value(name));
                    all.iter().find(|(known, _)| known.as_c_str() == name).cloned()
                })
                .collect::<Option<_>>()?
        };
        let is_masked = copied.iter().any(|(_, is_hidden)| *is_hidden);
        is_masked.then(|| copied.into_iter().map(|(name, _)| name).collect())
    }
}

/// `SELECT columns FROM ONLY table`, as the parser makes it.
///
/// # Safety
/// The statement may have `table`.
unsafe fn select(table: *mut pg_sys::RangeVar, columns: &[CString]) -> *mut pg_sys::Node {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract; nodes are made in the current memory context, with copies of names.
    unsafe {
        (*table).inh = false;
        let select = new_node::<pg_sys::SelectStmt>(T_SelectStmt);
        (*select).fromClause = pg_sys::lappend(std::ptr::null_mut(), table.cast());
        for name in columns {
            let column = new_node::<pg_sys::ColumnRef>(T_ColumnRef);
            let name = pg_sys::makeString(pg_sys::pstrdup(name.as_ptr()));
            (*column).fields = pg_sys::lappend(std::ptr::null_mut(), name.cast());
            (*column).location = -1;
            let target = new_node::<pg_sys::ResTarget>(T_ResTarget);
            (*target).val = column.cast();
            (*target).location = -1;
            (*select).targetList = pg_sys::lappend((*select).targetList, target.cast());
        }
        select.cast()
    }
}
