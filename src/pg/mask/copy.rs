//! COPY of a table, which checks its rights before anything is planned.

use crate::pg::mask::cache;
use crate::pg::mask::fault::MaskFault;
use crate::pg::mask::hidden::{Opened, hidden_from, may};
use crate::pg::mask::subquery::new_node;
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::report::Report;
use crate::pg::sys::{compat, raw};
use pgrx::tupdesc::PgTupleDesc;
use pgrx::{PgList, is_a, pg_guard, pg_sys};
use std::ffi::{CStr, CString, c_int, c_void};

/// COPY of a query, in the place of COPY of a table that names what whoever runs it may not see; the statement itself in
/// all other cases. What they may not see and not write is refused.
///
/// # Safety
/// `statement` wraps a utility statement; the transaction has not failed.
pub unsafe fn as_query(statement: *mut pg_sys::PlannedStmt) -> Result<*mut pg_sys::PlannedStmt, Report> {
    // SAFETY: by contract; the cast follows the tag. What is changed is a copy.
    unsafe {
        let node = (*statement).utilityStmt;
        if !is_a(node, pg_sys::NodeTag::T_CopyStmt) {
            return Ok(statement);
        }
        let copy = &*(node as *mut pg_sys::CopyStmt);
        if copy.relation.is_null() {
            return Ok(statement);
        }
        let Some((relation, all, columns)) = columns_of(copy) else { return Ok(statement) };
        let mut masked = columns.iter().filter(|column| column.is_hidden);
        if copy.is_from {
            let oid = (*relation.0).rd_id;
            let role = raw::GetUserId().to_u32();
            let mut read: Vec<&CStr> = Vec::new();
            note_names(copy.whereClause, (&raw mut read).cast());
            let is_read = |column: &&Copied| column.is_hidden && read.contains(&column.name.as_c_str());
            let unwritten = masked.find(|column| !may(oid, column.number, role, pg_sys::ACL_INSERT));
            return match unwritten.or_else(|| all.iter().find(is_read)) {
                Some(column) => {
                    let (column, table) = cache::names(oid.to_u32(), column.number);
                    Err(MaskFault::Target(column, table).into())
                }
                None => Ok(statement),
            };
        }
        let kind = (*(*relation.0).rd_rel).relkind as u8;
        let partitioned = kind == b'p' && compat::COPIES_PARTITIONED;
        if !(kind == b'r' || partitioned) || masked.next().is_none() {
            return Ok(statement);
        }
        let changed: *mut pg_sys::PlannedStmt = pg_sys::copyObjectImpl(statement.cast()).cast();
        let copy = &mut *((*changed).utilityStmt as *mut pg_sys::CopyStmt);
        // Of a partitioned table COPY takes the partitions, of another no children.
        (*copy.relation).inh = partitioned;
        copy.query = select(copy.relation, &columns);
        (copy.relation, copy.attlist) = (std::ptr::null_mut(), std::ptr::null_mut());
        inject::point(Point::CopyMasked);
        Ok(changed)
    }
}

/// The last parts of the names in an expression, which are columns, if anything.
#[pg_guard]
unsafe extern "C-unwind" fn note_names(node: *mut pg_sys::Node, names: *mut c_void) -> bool {
    // SAFETY: the walker passes nodes that the parser made, and the pointer it was given; the cast follows the tag.
    unsafe {
        if node.is_null() {
            return false;
        }
        if is_a(node, pg_sys::NodeTag::T_ColumnRef) {
            let fields = (*(node as *mut pg_sys::ColumnRef)).fields;
            let last = PgList::<pg_sys::Node>::from_pg(fields).iter_ptr().last();
            let name = last.map_or(std::ptr::null(), |last| compat::string_value(last));
            if !name.is_null() {
                (*(names as *mut Vec<&CStr>)).push(CStr::from_ptr(name));
            }
            return false;
        }
        compat::walk_parsed(node, note_names, names)
    }
}

/// A column that is copied.
#[derive(Clone)]
struct Copied {
    name: CString,
    number: i16,
    is_hidden: bool,
}

/// The table that is copied, if it has masks, its columns, and those of them that are copied.
///
/// # Safety
/// `copy` is of a table.
unsafe fn columns_of(copy: &pg_sys::CopyStmt) -> Option<(Opened, Vec<Copied>, Vec<Copied>)> {
    // SAFETY: by contract; the table is locked as COPY does, and the lock is kept. The list holds strings.
    unsafe {
        let lock = if copy.is_from { pg_sys::RowExclusiveLock } else { pg_sys::AccessShareLock } as c_int;
        let missing_ok = pg_sys::RVROption::RVR_MISSING_OK;
        let oid = pg_sys::RangeVarGetRelidExtended(copy.relation, lock, missing_ok, None, std::ptr::null_mut());
        if oid == pg_sys::InvalidOid || !cache::is_masked(oid.to_u32()) {
            return None;
        }
        let relation = Opened::of(oid);
        let hidden = hidden_from(raw::GetUserId().to_u32(), oid, &*cache::masks(relation.0)?);
        // Generated columns cannot be copied.
        let descriptor = PgTupleDesc::from_pg_unchecked((*relation.0).rd_att);
        let all: Vec<_> = descriptor
            .iter()
            .filter(|column| !column.attisdropped && column.attgenerated == 0)
            .map(|column| Copied {
                name: CStr::from_ptr(column.attname.data.as_ptr()).to_owned(),
                number: column.attnum,
                is_hidden: hidden.contains(&column.attnum),
            })
            .collect();
        drop(descriptor);
        let copied = if copy.attlist.is_null() {
            all.clone()
        } else {
            PgList::<pg_sys::Node>::from_pg(copy.attlist)
                .iter_ptr()
                .map(|name| {
                    let name = CStr::from_ptr(compat::string_value(name));
                    all.iter().find(|known| known.name.as_c_str() == name).cloned()
                })
                .collect::<Option<_>>()?
        };
        Some((relation, all, copied))
    }
}

/// `SELECT columns FROM table`, as the parser makes it.
///
/// # Safety
/// The statement may have `table`.
unsafe fn select(table: *mut pg_sys::RangeVar, columns: &[Copied]) -> *mut pg_sys::Node {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract; nodes are made in the current memory context, with copies of names.
    unsafe {
        let select = new_node::<pg_sys::SelectStmt>(T_SelectStmt);
        (*select).fromClause = pg_sys::lappend(std::ptr::null_mut(), table.cast());
        for Copied { name, .. } in columns {
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
