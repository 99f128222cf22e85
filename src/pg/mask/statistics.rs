//! Statistics of masked columns, of which estimates would tell: how many values there are is in the plan of `GROUP BY`.

use crate::pg::mask::cache::as_member;
use crate::pg::sys::compat;
use pgrx::pg_sys;

/// Whether a column is masked in the query that is being planned, also as one of a partition or child. Raises nothing.
///
/// # Safety
/// The planner is at work on `root`, whose range table has the entry.
pub unsafe fn are_hidden(
    root: *mut pg_sys::PlannerInfo,
    entry: *mut pg_sys::RangeTblEntry,
    mut number: i16,
) -> bool {
    // SAFETY: by contract; the arrays are as long as the planner says.
    unsafe {
        let Some(mut index) = index_of(root, entry) else { return is_masked(root, entry, number) };
        loop {
            if is_masked(root, *(*root).simple_rte_array.add(index), number) {
                return true;
            }
            let Some(parent) = parent_of(root, index) else { return false };
            let at = usize::try_from(number).unwrap_or(0).wrapping_sub(1);
            if at >= usize::try_from(parent.num_child_cols).unwrap_or(0) {
                return false;
            }
            number = *parent.parent_colnos.add(at);
            index = parent.parent_relid as usize;
        }
    }
}

/// Has the planner know no statistics of several columns of a table that is masked in the query. Raises nothing.
///
/// # Safety
/// The planner is at work on `root`, and has made `relation` for it.
pub unsafe fn hide_extended(root: *mut pg_sys::PlannerInfo, relation: *mut pg_sys::RelOptInfo) {
    // SAFETY: by contract; the arrays are as long as the planner says.
    unsafe {
        let mut index = (*relation).relid as usize;
        loop {
            let entry = *(*root).simple_rte_array.add(index);
            let permissions = compat::permissions_of((*root).parse, entry).as_ref();
            if permissions.is_some_and(|permissions| !compat::masked_columns(permissions).is_null()) {
                (*relation).statlist = std::ptr::null_mut();
                return;
            }
            let Some(parent) = parent_of(root, index) else { return };
            index = parent.parent_relid as usize;
        }
    }
}

unsafe fn is_masked(root: *mut pg_sys::PlannerInfo, entry: *mut pg_sys::RangeTblEntry, number: i16) -> bool {
    // SAFETY: as of the callers; the permissions are null or belong to the entry.
    unsafe {
        (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
            && compat::permissions_of((*root).parse, entry)
                .as_ref()
                .is_some_and(|asked| compat::is_member(as_member(number), compat::masked_columns(asked)))
    }
}

unsafe fn index_of(root: *mut pg_sys::PlannerInfo, entry: *mut pg_sys::RangeTblEntry) -> Option<usize> {
    // SAFETY: as of the callers.
    unsafe {
        let entries = (*root).simple_rte_array;
        let known =
            if entries.is_null() { 0 } else { usize::try_from((*root).simple_rel_array_size).unwrap_or(0) };
        (1..known).find(|&at| *entries.add(at) == entry)
    }
}

unsafe fn parent_of<'a>(root: *mut pg_sys::PlannerInfo, index: usize) -> Option<&'a pg_sys::AppendRelInfo> {
    // SAFETY: as of the callers.
    unsafe {
        if (*root).append_rel_array.is_null() { None } else { (*(*root).append_rel_array.add(index)).as_ref() }
    }
}
