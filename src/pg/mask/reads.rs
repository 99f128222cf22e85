//! Reading by changing: a view of one's own that names columns which one may not read, and rows that are changed through it.
//!
//! PostgreSQL asks the owner of an updatable view for the right to change its table, not for that to read what the view names
//! (its WHERE is evaluated all the same). For subscribers, from whom columns are kept, that is asked for as well.

use crate::pg::mask::cache::is_subscriber;
use crate::pg::mask::hidden::authority;
use crate::pg::sys::compat::{self, PermissionEntry};
use pgrx::pg_sys;

/// Whether a query changes what its plan would not be checked for to be read. Raises nothing.
///
/// # Safety
/// `query` was analysed and rewritten.
pub unsafe fn are_unasked(query: *mut pg_sys::Query) -> bool {
    // SAFETY: by contract.
    unsafe { changing(query).any(|query| unasked(query).next().is_some()) }
}

/// Has PostgreSQL check that.
///
/// # Safety
/// As [`are_unasked`]; the query is the caller's to change.
#[allow(clippy::unnecessary_cast)]
pub unsafe fn ask(query: *mut pg_sys::Query) {
    // SAFETY: by contract.
    unsafe {
        for entry in changing(query).flat_map(|query| unasked(query)) {
            if is_subscriber(authority(&*entry)) {
                // Wider since 16.
                (*entry).requiredPerms |= pg_sys::ACL_SELECT as pg_sys::AclMode;
            }
        }
    }
}

/// The query and those in its WITH, if they change rows: elsewhere none can.
///
/// # Safety
/// As [`are_unasked`].
unsafe fn changing(query: *mut pg_sys::Query) -> impl Iterator<Item = *mut pg_sys::Query> {
    // SAFETY: by contract; the list holds such nodes, and they queries.
    unsafe {
        let list = if (*query).hasModifyingCTE { (*query).cteList } else { std::ptr::null_mut() };
        let inner = elements::<pg_sys::CommonTableExpr>(list).map(|part| (*part).ctequery.cast::<pg_sys::Query>());
        std::iter::once(query).chain(inner).filter(|&query| (*query).commandType != pg_sys::CmdType::CMD_SELECT)
    }
}

/// What is changed through a view that names columns, and not asked to be read.
///
/// # Safety
/// As [`are_unasked`].
unsafe fn unasked(query: *mut pg_sys::Query) -> impl Iterator<Item = *mut PermissionEntry> {
    // SAFETY: by contract; the list holds such nodes.
    unsafe {
        elements::<PermissionEntry>(compat::permissions_of_query(&*query)).filter(|&entry| {
            let asked = compat::privileges(&*entry);
            asked & (pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE) != 0
                && asked & pg_sys::ACL_SELECT == 0
                && !(*entry).selectedCols.is_null()
                && compat::is_relation(&*entry)
        })
    }
}

/// # Safety
/// `list` is null or a list of such nodes.
unsafe fn elements<T>(list: *const pg_sys::List) -> impl Iterator<Item = *mut T> {
    // SAFETY: by contract; null stands beyond its end.
    (0..).map_while(move |at| unsafe { compat::element::<T>(list, at).as_mut() }.map(std::ptr::from_mut))
}
