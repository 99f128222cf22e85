//! Reading by changing: a view of one's own that names columns which one may not read, and rows that are changed through it.
//!
//! PostgreSQL asks the owner of an updatable view for the right to change its table, not for that to read what the view names
//! (its WHERE is evaluated all the same). For subscribers, from whom columns are kept, that is asked for as well.

use crate::pg::mask::cache::is_subscriber;
use crate::pg::mask::query::authority;
use crate::pg::sys::compat;
use pgrx::{PgList, pg_guard, pg_sys};
use std::ffi::c_void;

/// Whether a query changes rows; nothing else needs a look. Raises nothing.
///
/// # Safety
/// `query` is a query.
#[inline]
pub unsafe fn changes_rows(query: *const pg_sys::Query) -> bool {
    // SAFETY: by contract.
    unsafe { (*query).commandType != pg_sys::CmdType::CMD_SELECT || (*query).hasModifyingCTE }
}

/// Has PostgreSQL check that what is changed through views may be read, as far as the views name it.
///
/// # Safety
/// The query was analysed and rewritten, and is the caller's to change.
pub unsafe fn require_reads(query: *mut pg_sys::Query) {
    // SAFETY: by contract; the walk needs no context.
    unsafe { visit(query.cast(), std::ptr::null_mut()) };
}

// Privileges are wider since 16.
#[allow(clippy::unnecessary_cast)]
#[pg_guard]
unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: the walkers pass nodes of the query; the cast follows the tag.
    unsafe {
        if node.is_null() {
            return false;
        }
        match (*node).type_ {
            pg_sys::NodeTag::T_Query => {}
            pg_sys::NodeTag::T_RangeTblEntry => return false,
            _ => return compat::walk_expression(node, visit, context),
        }
        let query = node as *mut pg_sys::Query;
        for entry in PgList::<compat::PermissionEntry>::from_pg(compat::permissions_of_query(&*query)).iter_ptr() {
            let asks = compat::privileges(&*entry);
            let is_read = asks & pg_sys::ACL_SELECT != 0 || (*entry).selectedCols.is_null();
            let is_changed = asks & (pg_sys::ACL_UPDATE | pg_sys::ACL_DELETE) != 0;
            if compat::is_relation(&*entry) && is_changed && !is_read && is_subscriber(authority(&*entry)) {
                (*entry).requiredPerms |= pg_sys::ACL_SELECT as pg_sys::AclMode;
            }
        }
        compat::walk_query(query, visit, context)
    }
}
