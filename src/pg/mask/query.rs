//! Changing a query before it is planned, and what its plan has to be told.
//!
//! Only a table of which the query names a masked column is touched. Its entry in the range table becomes a plain subquery,
//! which the planner pulls up again: no barrier (it would protect nothing, and cost indexes), the same column numbers.

use crate::pg::catalog;
use crate::pg::mask::cache::{self, is_subscriber};
use crate::pg::mask::fault::MaskFault;
use crate::pg::mask::hidden::{Hidden, Opened, refused_of};
use crate::pg::mask::wrap;
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::report::Report;
use crate::pg::sys::{compat, raw};
use pgrx::{PgList, pg_guard, pg_sys};
use std::ffi::{c_int, c_void};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// How deep the hooks are nested where a query of a subscriber is being planned; 0 where none is.
static PLANNING: AtomicU32 = AtomicU32::new(0);

/// Puts masks in the place of the columns that whoever runs the query may not see, in it and in all queries inside it.
///
/// # Safety
/// The query was analysed and rewritten, its tables are locked, and it is the caller's to change.
pub unsafe fn rewrite(query: *mut pg_sys::Query) -> Result<(), Report> {
    // What is masked is looked up, if it changed.
    cache::is_masked(0);
    // SAFETY: by contract.
    if !wrap::is_on() && !unsafe { search(query.cast(), std::ptr::null_mut()) } {
        return Ok(());
    }
    let mut fault: Option<MaskFault> = None;
    // SAFETY: by contract; the walk passes the pointer on as it is.
    unsafe { visit(query.cast(), (&raw mut fault).cast()) };
    inject::point(Point::QueryMasked);
    fault.map_or(Ok(()), |fault| Err(fault.into()))
}

/// Whether there is anything to do: a plain frame, as most queries have nothing to do with masks.
#[allow(ffi_unwind_calls)]
unsafe extern "C-unwind" fn search(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: the walkers pass nodes of the query; the cast follows the tag.
    unsafe {
        if node.is_null() {
            return false;
        }
        match (*node).type_ {
            pg_sys::NodeTag::T_Query => {
                let query = node as *mut pg_sys::Query;
                cache::is_named_in(query) || compat::plain::query_tree_walker(query, search, context, 0)
            }
            _ => compat::plain::expression_tree_walker(node, search, context),
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, fault: *mut c_void) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: the walkers pass nodes of the query and the pointer they were given; the cast follows the tag.
    unsafe {
        if node.is_null() {
            return false;
        }
        match (*node).type_ {
            // Those inside it first: what is put in is not looked at again.
            T_Query => {
                let query = node as *mut pg_sys::Query;
                if compat::walk_query(query, visit, fault) {
                    return true;
                }
                let masked = mask_tables(query);
                masked.map_err(|found| *(fault as *mut Option<MaskFault>) = Some(found)).is_err()
            }
            T_RangeTblEntry => false,
            _ => compat::walk_expression(node, visit, fault),
        }
    }
}

/// # Safety
/// As [`rewrite`], for this query only.
unsafe fn mask_tables(query: *mut pg_sys::Query) -> Result<(), MaskFault> {
    // SAFETY: by contract; indexes of the range table are those of its entries.
    unsafe {
        if (*query).commandType == pg_sys::CmdType::CMD_UTILITY {
            return Ok(());
        }
        let targets = [(*query).resultRelation, compat::merge_target(&*query)];
        let mut read = Vec::new();
        named_in((*query).jointree.cast(), &mut read);
        read.retain(|index| !targets.contains(index));
        // What is in the range table only is what is changed, also by a view, or OLD, NEW, EXCLUDED.
        if (*query).commandType != pg_sys::CmdType::CMD_SELECT {
            let all = PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).len() as c_int;
            for target in (1..=all).filter(|index| !read.contains(index)) {
                if let Some((table, column)) = refused_of(query, target) {
                    let (column, table) = cache::names(table, column);
                    return Err(MaskFault::Target(column, table));
                }
            }
        }
        for index in read {
            let hidden = if wrap::is_on() { Hidden::nothing(query, index) } else { Hidden::of(query, index) };
            if let Some(hidden) = hidden {
                hidden.replace(query, index)?;
                inject::point(Point::TableMasked);
            }
        }
    }
    Ok(())
}

/// Indexes of what the FROM clause names.
///
/// # Safety
/// `node` is null or a node of a join tree.
unsafe fn named_in(node: *mut pg_sys::Node, found: &mut Vec<c_int>) {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract; each cast follows the tag.
    unsafe {
        if node.is_null() {
            return;
        }
        match (*node).type_ {
            T_RangeTblRef => found.push((*(node as *mut pg_sys::RangeTblRef)).rtindex),
            T_FromExpr => {
                let list = (*(node as *mut pg_sys::FromExpr)).fromlist;
                PgList::<pg_sys::Node>::from_pg(list).iter_ptr().for_each(|part| named_in(part, found));
            }
            T_JoinExpr => {
                named_in((*(node as *mut pg_sys::JoinExpr)).larg, found);
                named_in((*(node as *mut pg_sys::JoinExpr)).rarg, found);
            }
            _ => {}
        }
    }
}

/// Whether a plan depends on whose rights it was made with: it reads a column that has a mask, or shows a mask.
///
/// # Safety
/// The plan was made just now, its tables are locked.
pub unsafe fn depends_on_role(plan: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: by contract; the list holds nodes of the one type.
    unsafe {
        PgList::<compat::PermissionEntry>::from_pg(compat::permissions_of_plan(&*plan))
            .iter_ptr()
            .map(|entry| &*entry)
            .filter(|entry| compat::is_relation(entry) && cache::is_masked(entry.relid.to_u32()))
            .any(|entry| {
                let masks = cache::masks(Opened::of(entry.relid).0);
                masks.is_some_and(|masks| {
                    masks.are_named_in(entry.selectedCols) || masks.are_named_in(compat::masked_columns(entry))
                })
            })
    }
}

/// How deep the hooks are nested where a query of a subscriber is being planned.
pub fn planning() -> u32 {
    PLANNING.load(Relaxed)
}

/// A query is planned, at this depth, or it is no more: back to what [`planning`] said before.
pub fn set_planning(depth: u32) {
    PLANNING.store(depth, Relaxed);
}

/// Whether whoever runs a query that is planned now sees masks.
pub fn is_for_subscriber() -> bool {
    is_subscriber(raw::GetUserId().to_u32())
}

/// Whether the planner must not put the query of this function in the place of a call: it would come after us.
pub fn keeps_its_frame(function: u32) -> bool {
    catalog::is_set_of_sql(function)
}
