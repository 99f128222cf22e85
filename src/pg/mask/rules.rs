//! What may be a mask. Each rule closes a way on which a mask showed what it hides.

use crate::core::guard::FIRST_NORMAL_OBJECT_ID;
use crate::pg::catalog;
use crate::pg::mask::expression::{self, Column, undisturbed};
use crate::pg::mask::fault::MaskFault;
use crate::pg::sys::compat;
use pgrx::tupdesc::PgTupleDesc;
use pgrx::{pg_guard, pg_sys};
use std::ffi::{CStr, CString, c_int, c_void};

/// Functions whose bodies are looked into, one inside the other.
const MAX_NESTING: u32 = 16;

/// The text in which a mask (in the database encoding) is stored; an error if it may not be one.
pub fn check(table: u32, number: i16, text: &CStr) -> CString {
    check_or_fault(table, number, text).unwrap_or_else(|fault| fault.raise())
}

fn check_or_fault(table: u32, number: i16, text: &CStr) -> Result<CString, MaskFault> {
    with_column(table, number, |relation, column| {
        // SAFETY: the relation is open and locked.
        unsafe {
            let mask = expression::analysed(relation, column, text, true)?;
            allow(mask)?;
            let written = expression::written((*relation).rd_id, mask);
            let again = expression::analysed(relation, column, written, false).map_err(|_| MaskFault::Unstable)?;
            if expression::written((*relation).rd_id, again) != written {
                return Err(MaskFault::Unstable);
            }
            expression::finish(again)?;
            Ok(written.to_owned())
        }
    })
}

/// Whether an expression over the columns of a table may fail for what they hold, as far as PostgreSQL knows: it passes one to
/// a function that is not LEAKPROOF.
pub fn may_fail(table: u32, number: i16, text: &CStr) -> bool {
    let found = with_column(table, number, |relation, column| {
        // SAFETY: the relation is open and locked.
        unsafe {
            let mask = expression::analysed(relation, column, text, true)?;
            Ok(pg_sys::contain_leaked_vars(mask))
        }
    });
    found.unwrap_or_else(|fault| fault.raise())
}

/// Looks at an expression for a column, undisturbed.
fn with_column<T>(
    table: u32,
    number: i16,
    look: impl FnOnce(pg_sys::Relation, &Column) -> Result<T, MaskFault>,
) -> Result<T, MaskFault> {
    let owner = catalog::presence().ok_or(MaskFault::NoColumn)?.owner;
    // SAFETY: the relation is open and locked while it is used; the lock is kept.
    unsafe {
        let relation = pg_sys::try_relation_open(table.into(), pg_sys::AccessShareLock as c_int);
        if relation.is_null() {
            return Err(MaskFault::NoColumn);
        }
        let column = column(relation, number).filter(|_| {
            let kind = (*(*relation).rd_rel).relkind as u8;
            matches!(kind, b'r' | b'p' | b'f' | b'm' | b'v')
        });
        let checked =
            column.ok_or(MaskFault::NoColumn).and_then(|column| undisturbed(owner, || look(relation, &column)));
        pg_sys::relation_close(relation, pg_sys::NoLock as c_int);
        checked
    }
}

/// A column that a table has.
///
/// # Safety
/// `relation` is open.
pub unsafe fn column(relation: pg_sys::Relation, number: i16) -> Option<Column> {
    let at = usize::try_from(number).ok()?.checked_sub(1)?;
    // SAFETY: by contract; the descriptor is only read.
    let descriptor = unsafe { PgTupleDesc::from_pg_unchecked((*relation).rd_att) };
    descriptor.get(at).filter(|column| !column.attisdropped).map(|column| Column {
        number,
        of_type: column.atttypid,
        modifier: column.atttypmod,
        collation: column.attcollation,
    })
}

/// What a walk finds.
struct Findings {
    fault: Option<MaskFault>,
    nesting: u32,
    /// Inside the body of a function, whose arguments are values already.
    is_body: bool,
}

/// # Safety
/// `mask` is an analysed expression.
unsafe fn allow(mask: *mut pg_sys::Node) -> Result<(), MaskFault> {
    let mut found = Findings { fault: None, nesting: 0, is_body: false };
    // SAFETY: by contract; the walk passes the pointer on as it is.
    unsafe {
        visit(mask, (&raw mut found).cast());
        match found.fault {
            Some(fault) => Err(fault),
            None if pg_sys::contain_mutable_functions(mask) => Err(MaskFault::NotImmutable(None)),
            None => Ok(()),
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: the walkers pass nodes of the expression and the pointer they were given; each cast follows the tag.
    unsafe {
        if node.is_null() {
            return false;
        }
        let found = &mut *(context as *mut Findings);
        match (*node).type_ {
            T_List => {}
            T_Query => return compat::walk_query(node.cast(), visit, context),
            T_RangeTblEntry => {
                let entry = &*(node as *mut pg_sys::RangeTblEntry);
                if entry.rtekind == pg_sys::RTEKind::RTE_RELATION || entry.relid != pg_sys::InvalidOid {
                    found.fault = Some(MaskFault::Table);
                }
                return found.fault.is_some();
            }
            T_Var if !found.is_body && (*(node as *mut pg_sys::Var)).varattno <= 0 => {
                found.fault = Some(MaskFault::WholeRow);
            }
            _ => {
                pg_sys::check_functions_in_node(node, Some(visit_function), context);
            }
        }
        (*(context as *mut Findings)).fault.is_some() || compat::walk_expression(node, visit, context)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn visit_function(function: pg_sys::Oid, context: *mut c_void) -> bool {
    // SAFETY: the pointer that visit() passed on.
    let found = unsafe { &mut *(context as *mut Findings) };
    if let Err(fault) = allow_function(function, found) {
        found.fault = Some(fault);
    }
    found.fault.is_some()
}

fn allow_function(oid: pg_sys::Oid, found: &mut Findings) -> Result<(), MaskFault> {
    let name = || catalog::function(oid.to_u32()).map(|function| function.name).unwrap_or_default();
    // SAFETY: takes an OID by value.
    let (volatility, parallel) = unsafe { (pg_sys::func_volatile(oid), pg_sys::func_parallel(oid)) };
    if volatility as u8 != b'i' && !found.is_body {
        return Err(MaskFault::NotImmutable(Some(name())));
    }
    if parallel as u8 != b's' {
        return Err(MaskFault::NotParallelSafe(name()));
    }
    if oid.to_u32() < FIRST_NORMAL_OBJECT_ID
        || catalog::presence().is_some_and(|p| catalog::is_ours(oid.to_u32(), p.extension))
    {
        return Ok(());
    }
    let Some(names) = catalog::how_names_are_found(oid.to_u32()) else {
        return Err(MaskFault::SearchPath(name()));
    };
    match names {
        catalog::Names::Fixed => Ok(()),
        catalog::Names::ByCaller => Err(MaskFault::SearchPath(name())),
        catalog::Names::Parsed(_) if found.nesting >= MAX_NESTING => Err(MaskFault::SearchPath(name())),
        catalog::Names::Parsed(body) => {
            let mut inside = Findings { fault: None, nesting: found.nesting + 1, is_body: true };
            // SAFETY: the text of a parsed body, which PostgreSQL wrote; the walk passes the pointer on as it is.
            unsafe { visit(pg_sys::stringToNode(body.as_ptr()).cast(), (&raw mut inside).cast()) };
            inside.fault.map_or(Ok(()), Err)
        }
    }
}
