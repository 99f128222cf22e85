//! Statistics of masked columns, of which estimates would tell: how many values there are is in the plan of `GROUP BY`, and
//! how long they are in each `width`.

use crate::pg::mask::cache::{as_member, as_read};
use crate::pg::mask::hidden::Opened;
use crate::pg::sys::compat;
use pgrx::pg_sys;
use pgrx::tupdesc::PgTupleDesc;

/// Whether a column is masked in the query that is being planned, or read by a mask, also as one of a partition or child.
/// Raises nothing.
///
/// # Safety
/// The planner is at work on `root`, whose range table has the entry.
pub unsafe fn are_hidden(root: *mut pg_sys::PlannerInfo, entry: *mut pg_sys::RangeTblEntry, number: i16) -> bool {
    // SAFETY: by contract.
    unsafe {
        // Most often there is nothing to look for.
        has_hidden(root)
            && match index_of(root, entry) {
                Some(index) => is_hidden_at(root, index, number),
                None => is_masked(root, entry, number),
            }
    }
}

/// Has the planner know no statistics of several columns of which one is masked in the query, or read by a mask, and none of
/// expressions over a table that is. Raises nothing.
///
/// # Safety
/// The planner is at work on `root`, and has made `relation` for it.
pub unsafe fn hide_extended(root: *mut pg_sys::PlannerInfo, relation: *mut pg_sys::RelOptInfo) {
    // SAFETY: by contract; the list holds such nodes, and has as many as it says.
    unsafe {
        let index = (*relation).relid as usize;
        let Some(list) = (*relation).statlist.as_mut() else { return };
        let known = list.length;
        list.length = 0;
        for at in 0..usize::try_from(known).unwrap_or(0) {
            let element = *list.elements.add(at);
            let of = &*element.ptr_value.cast::<pg_sys::StatisticExtInfo>();
            let is_known = if of.exprs.is_null() {
                !members(of.keys).any(|number| is_hidden_at(root, index, number))
            } else {
                !is_of_masked(root, index)
            };
            if is_known {
                *list.elements.add(usize::try_from(list.length).unwrap_or(0)) = element;
                list.length += 1;
            }
        }
        if list.length == 0 {
            (*relation).statlist = std::ptr::null_mut();
        }
    }
}

/// Has the planner take widths of types for those of such columns: it would look them up in statistics without asking.
///
/// # Safety
/// As [`hide_extended`]; the table is `oid`, and locked.
pub unsafe fn hide_widths(root: *mut pg_sys::PlannerInfo, oid: pg_sys::Oid, relation: *mut pg_sys::RelOptInfo) {
    // SAFETY: by contract; there is a width for each column from the first system column on.
    unsafe {
        let table = Opened::of(oid);
        for column in PgTupleDesc::from_pg_unchecked((*table.0).rd_att).iter() {
            if is_hidden_at(root, (*relation).relid as usize, column.attnum) {
                let width = pg_sys::get_typavgwidth(column.atttypid, column.atttypmod);
                *(*relation).attr_widths.offset(isize::from(column.attnum - (*relation).min_attr)) = width;
            }
        }
    }
}

/// # Safety
/// As of the callers; the arrays are as long as the planner says.
unsafe fn is_hidden_at(root: *mut pg_sys::PlannerInfo, mut index: usize, mut number: i16) -> bool {
    // SAFETY: by contract.
    unsafe {
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

/// Whether a table is masked in the query, or one of which it is a partition or child.
unsafe fn is_of_masked(root: *mut pg_sys::PlannerInfo, mut index: usize) -> bool {
    // SAFETY: as of the callers; the permissions are null or belong to the entry.
    unsafe {
        loop {
            let entry = *(*root).simple_rte_array.add(index);
            let asked = compat::permissions_of((*root).parse, entry).as_ref();
            if asked.is_some_and(|asked| !compat::masked_columns(asked).is_null()) {
                return true;
            }
            let Some(parent) = parent_of(root, index) else { return false };
            index = parent.parent_relid as usize;
        }
    }
}

/// Whether anything is masked in the query. Raises nothing.
///
/// # Safety
/// The planner is at work on `root`.
pub unsafe fn has_hidden(root: *mut pg_sys::PlannerInfo) -> bool {
    // SAFETY: by contract; the list holds such nodes.
    unsafe {
        let list = compat::permissions_of_query(&*(*root).parse);
        (0..)
            .map_while(|at| compat::element::<compat::PermissionEntry>(list, at).as_ref())
            .any(|entry| compat::is_relation(entry) && !compat::masked_columns(entry).is_null())
    }
}

/// Numbers of columns.
unsafe fn members(set: *const pg_sys::Bitmapset) -> impl Iterator<Item = i16> {
    // SAFETY: null, or a live set.
    (1..=pg_sys::MaxHeapAttributeNumber as i16)
        .filter(move |&number| unsafe { compat::is_member(number.into(), set) })
}

unsafe fn is_masked(root: *mut pg_sys::PlannerInfo, entry: *mut pg_sys::RangeTblEntry, number: i16) -> bool {
    // SAFETY: as of the callers; the permissions are null or belong to the entry.
    unsafe {
        (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
            && compat::permissions_of((*root).parse, entry).as_ref().is_some_and(|asked| {
                let masked = compat::masked_columns(asked);
                [as_member(number), as_read(number)].into_iter().any(|of| compat::is_member(of, masked))
            })
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
