//! What a utility statement locks, empties, rebuilds or gives away.

use crate::pg::hook::nodes::name_of;
use crate::pg::hook::references::References;
use crate::pg::sys::compat;
use pgrx::{PgList, pg_sys};
use std::ffi::c_int;

/// The relations that a utility statement locks, empties or rebuilds, read only when somebody asks.
pub struct Handled(*mut pg_sys::Node);

impl Handled {
    /// # Safety
    /// `pstmt` is a planned statement of PostgreSQL that wraps a utility statement, and outlives the value.
    pub unsafe fn by(pstmt: *mut pg_sys::PlannedStmt) -> Handled {
        // SAFETY: by contract.
        Handled(unsafe { (*pstmt).utilityStmt })
    }

    /// Those that it names, and what views among them show, however deep: LOCK reaches that as well.
    pub fn collect(&self) -> Vec<u32> {
        let mut found = self.named();
        let mut at = 0;
        while let Some(&relation) = found.get(at) {
            let shown = shown_by_view(relation);
            let new: Vec<u32> = shown.into_iter().filter(|relation| !found.contains(relation)).collect();
            found.extend(new);
            at += 1;
        }
        found
    }

    /// The roles that are to own something, in whose name something is dropped, or for which default privileges are set.
    pub fn owners(&self) -> Vec<u32> {
        use pg_sys::NodeTag::*;
        let node = self.0;
        // SAFETY: by contract of the constructor; each cast follows the tag of the node, and the lists hold nodes of
        // one type.
        unsafe {
            let named: Vec<*mut pg_sys::RoleSpec> = match (*node).type_ {
                T_AlterOwnerStmt => vec![(*(node as *mut pg_sys::AlterOwnerStmt)).newowner],
                T_CreateSchemaStmt => vec![(*(node as *mut pg_sys::CreateSchemaStmt)).authrole],
                T_DropOwnedStmt => {
                    PgList::from_pg((*(node as *mut pg_sys::DropOwnedStmt)).roles).iter_ptr().collect()
                }
                T_ReassignOwnedStmt => {
                    let reassign = &*(node as *mut pg_sys::ReassignOwnedStmt);
                    let roles = PgList::<pg_sys::RoleSpec>::from_pg(reassign.roles);
                    roles.iter_ptr().chain([reassign.newrole]).collect()
                }
                T_AlterTableStmt => {
                    PgList::<pg_sys::AlterTableCmd>::from_pg((*(node as *mut pg_sys::AlterTableStmt)).cmds)
                        .iter_ptr()
                        .map(|command| (*command).newowner)
                        .collect()
                }
                T_AlterDefaultPrivilegesStmt => {
                    let options = (*(node as *mut pg_sys::AlterDefaultPrivilegesStmt)).options;
                    PgList::<pg_sys::DefElem>::from_pg(options)
                        .iter_ptr()
                        .filter(|option| name_of((**option).defname) == "roles")
                        .flat_map(|option| {
                            let roles = PgList::<pg_sys::RoleSpec>::from_pg((*option).arg.cast());
                            roles.iter_ptr().collect::<Vec<_>>()
                        })
                        .collect()
                }
                _ => Vec::new(),
            };
            let named = named.into_iter().filter(|role| !role.is_null());
            named.map(|role| pg_sys::get_rolespec_oid(role, true).to_u32()).filter(|&role| role != 0).collect()
        }
    }

    fn named(&self) -> Vec<u32> {
        use pg_sys::NodeTag::*;
        let node = self.0;
        // SAFETY: by contract of the constructor; each cast follows the tag of the node, and the lists hold nodes of
        // one type.
        unsafe {
            let ranges: Vec<*mut pg_sys::RangeVar> = match (*node).type_ {
                T_LockStmt => PgList::from_pg((*(node as *mut pg_sys::LockStmt)).relations).iter_ptr().collect(),
                T_TruncateStmt => {
                    PgList::from_pg((*(node as *mut pg_sys::TruncateStmt)).relations).iter_ptr().collect()
                }
                T_VacuumStmt => {
                    PgList::<pg_sys::VacuumRelation>::from_pg((*(node as *mut pg_sys::VacuumStmt)).rels)
                        .iter_ptr()
                        .map(|named| (*named).relation)
                        .collect()
                }
                T_ReindexStmt => vec![(*(node as *mut pg_sys::ReindexStmt)).relation],
                _ => vec![compat::reordered(node)],
            };
            ranges
                .into_iter()
                .filter(|range| !range.is_null())
                .map(|range| {
                    let missing_ok = pg_sys::RVROption::RVR_MISSING_OK;
                    let (no_lock, no_callback) = (pg_sys::NoLock as i32, std::ptr::null_mut());
                    pg_sys::RangeVarGetRelidExtended(range, no_lock, missing_ok, None, no_callback).to_u32()
                })
                .filter(|&relation| relation != 0)
                .collect()
        }
    }
}

/// The relations that a view shows; none for what is no view. It stays as it is until the transaction ends.
fn shown_by_view(oid: u32) -> Vec<u32> {
    // SAFETY: takes an OID by value; the view is opened with a lock, which is kept, before its rule is read, and the
    // query belongs to it while it is open.
    unsafe {
        if pg_sys::get_rel_relkind(oid.into()) as u8 != b'v' {
            return Vec::new();
        }
        let view = pg_sys::try_relation_open(oid.into(), pg_sys::AccessShareLock as c_int);
        if view.is_null() {
            return Vec::new();
        }
        let relations = References::of(pg_sys::get_view_query(view)).collect().relations;
        pg_sys::relation_close(view, pg_sys::NoLock as c_int);
        relations
    }
}
