//! Reading by changing: a view of one's own that names columns which one may not read, and rows that are changed through it.
//!
//! PostgreSQL asks the owner of an updatable view for the right to change its table, not for that to read what the view names
//! (its WHERE is evaluated all the same). For subscribers, from whom columns are kept, that is asked for as well.
//!
//! What MERGE names no column of, of that it asks nothing to be read, although it reads each row, and row policies for SELECT
//! are not put in either: they are at rewriting, so here it is too late for them.

use crate::pg::gate;
use crate::pg::mask::cache::{is_subscriber, table_name};
use crate::pg::mask::fault::MaskFault;
use crate::pg::mask::hidden::authority;
use crate::pg::sys::compat::{self, PermissionEntry};
use crate::pg::sys::report::Report;
use pgrx::pg_sys;
use std::ffi::c_int;

/// Whether a query changes what its plan would not be checked for to be read. Raises nothing.
///
/// # Safety
/// `query` was analysed and rewritten.
pub unsafe fn are_unasked(query: *mut pg_sys::Query) -> bool {
    // SAFETY: by contract.
    unsafe { changing(query).any(|query| unasked(query).next().is_some() || merged_unread(query).is_some()) }
}

/// Has PostgreSQL check that, and refuses what would read rows that policies hide.
///
/// # Safety
/// As [`are_unasked`]; the query is the caller's to change.
#[allow(clippy::unnecessary_cast)]
pub unsafe fn ask(query: *mut pg_sys::Query) -> Result<(), Report> {
    // SAFETY: by contract.
    unsafe {
        for query in changing(query) {
            if let Some(target) = merged_unread(query).map(|target| &*target) {
                let role = authority(target);
                if (gate::is_impersonating() || is_subscriber(role)) && has_row_policies(target.relid, role) {
                    return Err(MaskFault::Unread(table_name(target.relid.to_u32())).into());
                }
            }
            for entry in unasked(query) {
                if is_subscriber(authority(&*entry)) {
                    // Wider since 16.
                    (*entry).requiredPerms |= pg_sys::ACL_SELECT as pg_sys::AclMode;
                }
            }
        }
    }
    Ok(())
}

fn has_row_policies(relation: pg_sys::Oid, role: u32) -> bool {
    // SAFETY: takes OIDs by value, searches the system caches.
    let enabled = unsafe { pg_sys::check_enable_rls(relation, role.into(), true) };
    enabled == pg_sys::CheckEnableRlsResult::RLS_ENABLED as c_int
}

/// What a MERGE changes without asking for it to be read.
///
/// # Safety
/// As [`are_unasked`].
unsafe fn merged_unread(query: *mut pg_sys::Query) -> Option<*mut PermissionEntry> {
    // SAFETY: by contract; the query has an entry for what it changes, and that its permissions.
    unsafe {
        if !compat::is_merge(&*query) {
            return None;
        }
        let at = usize::try_from((*query).resultRelation).ok()?.checked_sub(1)?;
        let entry = compat::element::<pg_sys::RangeTblEntry>((*query).rtable, at).as_mut()?;
        let target = compat::permissions_of(query, entry);
        target.as_ref().is_some_and(|target| !asks_to_read(target)).then_some(target)
    }
}

fn asks_to_read(entry: &PermissionEntry) -> bool {
    compat::privileges(entry) & pg_sys::ACL_SELECT != 0
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

/// What is changed through a view that names columns, and not asked to be read. What is only inserted is not read, but by MERGE
/// and WITH CHECK OPTION.
///
/// # Safety
/// As [`are_unasked`].
unsafe fn unasked(query: *mut pg_sys::Query) -> impl Iterator<Item = *mut PermissionEntry> {
    // SAFETY: by contract; the list holds such nodes.
    unsafe {
        let is_checked = elements::<pg_sys::WithCheckOption>((*query).withCheckOptions)
            .any(|check| (*check).kind == pg_sys::WCOKind::WCO_VIEW_CHECK);
        let reads_all = is_checked || compat::is_merge(&*query);
        elements::<PermissionEntry>(compat::permissions_of_query(&*query)).filter(move |&entry| {
            let changes = compat::privileges(&*entry) & (pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE) != 0;
            (changes || reads_all)
                && !asks_to_read(&*entry)
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
