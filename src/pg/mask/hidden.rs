//! Which masked columns of a table a query names, and whoever runs it may not see.

use crate::core::guard::FIRST_NORMAL_OBJECT_ID;
use crate::pg::mask::cache::{self, Masks, as_member, is_subscriber};
use crate::pg::sys::{compat, raw};
use pgrx::pg_sys;
use std::ffi::c_int;
use std::rc::Rc;

/// Masked columns of a table, which whoever reads it may not see.
pub struct Hidden {
    pub relation: Opened,
    pub masks: Option<Rc<Masks>>,
    /// Those that the query names.
    pub named: Vec<i16>,
    /// The others.
    pub unnamed: Vec<i16>,
}

/// A table that is open, and locked by whoever asked.
pub struct Opened(pub pg_sys::Relation);

impl Opened {
    /// # Safety
    /// The table is locked.
    pub unsafe fn of(oid: pg_sys::Oid) -> Opened {
        // SAFETY: by contract.
        Opened(unsafe { pg_sys::table_open(oid, pg_sys::NoLock as c_int) })
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // While an error unwinds, the end of the transaction closes it.
        if !std::thread::panicking() {
            // SAFETY: opened by of().
            unsafe { pg_sys::table_close(self.0, pg_sys::NoLock as c_int) };
        }
    }
}

impl Hidden {
    /// `None` for what is no table, or one of which the query names nothing that is hidden.
    ///
    /// # Safety
    /// As [`crate::pg::mask::rewrite`]; the query has an entry with this index.
    pub unsafe fn of(query: *mut pg_sys::Query, index: c_int) -> Option<Hidden> {
        // SAFETY: by contract; the permissions are null or belong to the entry.
        unsafe {
            let entry = entry_of(query, index);
            // A view was replaced by its query; its OID stays.
            let is_relation =
                matches!((*entry).rtekind, pg_sys::RTEKind::RTE_RELATION | pg_sys::RTEKind::RTE_SUBQUERY);
            if !is_relation || (*entry).relid == pg_sys::InvalidOid || !cache::is_masked((*entry).relid.to_u32()) {
                return None;
            }
            let permissions = compat::permissions_of(query, entry).as_ref()?;
            let relation = Opened::of((*entry).relid);
            let masks = cache::masks(relation.0)?;
            let reads = permissions.selectedCols;
            if !masks.are_named_in(reads) {
                return None;
            }
            let is_named = |number| [0, number].iter().any(|&of| compat::is_member(as_member(of), reads));
            let hidden = hidden_from(authority(permissions), (*entry).relid, &masks);
            let (named, unnamed): (Vec<_>, Vec<_>) = hidden.into_iter().partition(|&number| is_named(number));
            (!named.is_empty()).then_some(Hidden { relation, masks: Some(masks), named, unnamed })
        }
    }

    /// No columns of a user's table: it is replaced all the same. For tests.
    ///
    /// # Safety
    /// As [`Hidden::of`].
    pub unsafe fn nothing(query: *mut pg_sys::Query, index: c_int) -> Option<Hidden> {
        // SAFETY: by contract.
        unsafe {
            let entry = entry_of(query, index);
            let is_users = (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
                && (*entry).relid.to_u32() >= FIRST_NORMAL_OBJECT_ID
                && !compat::permissions_of(query, entry).is_null();
            is_users.then(|| Hidden {
                relation: Opened::of((*entry).relid),
                masks: None,
                named: Vec::new(),
                unnamed: Vec::new(),
            })
        }
    }

    pub fn relation(&self) -> u32 {
        // SAFETY: open as long as this value lives.
        unsafe { (*self.relation.0).rd_id }.to_u32()
    }
}

/// The entry of a range table with this index.
///
/// # Safety
/// The query has one.
pub unsafe fn entry_of(query: *mut pg_sys::Query, index: c_int) -> *mut pg_sys::RangeTblEntry {
    // SAFETY: by contract.
    unsafe { pg_sys::list_nth((*query).rtable, index - 1).cast() }
}

/// A masked column of what is changed, for which PostgreSQL would refuse the statement: `(table, column)`.
///
/// # Safety
/// As [`Hidden::of`]; the query has an entry with this index.
pub unsafe fn refused_of(query: *mut pg_sys::Query, index: c_int) -> Option<(u32, i16)> {
    // SAFETY: by contract; the permissions are null or belong to the entry.
    unsafe {
        if let Some(hidden) = Hidden::of(query, index) {
            return hidden.named.first().map(|&column| (hidden.relation(), column));
        }
        let entry = entry_of(query, index);
        let permissions = compat::permissions_of(query, entry).as_ref()?;
        if (*entry).relid == pg_sys::InvalidOid || !cache::is_masked((*entry).relid.to_u32()) {
            return None;
        }
        let masks = cache::masks(Opened::of((*entry).relid).0)?;
        let role = authority(permissions);
        let writes = compat::written_columns(permissions);
        let is_refused = |&number: &i16| {
            writes.iter().any(|&(columns, privilege)| {
                compat::is_member(as_member(number), columns) && !may((*entry).relid, number, role, privilege)
            })
        };
        hidden_from(role, (*entry).relid, &masks)
            .into_iter()
            .find(is_refused)
            .map(|column| ((*entry).relid.to_u32(), column))
    }
}

/// In whose name a table is read: the owner of the view in which it stands, or the current user.
pub fn authority(permissions: &compat::PermissionEntry) -> u32 {
    match permissions.checkAsUser.to_u32() {
        0 => raw::GetUserId().to_u32(),
        owner => owner,
    }
}

/// The masked columns that a role may not see. For what is no subscriber's PostgreSQL refuses them.
pub fn hidden_from(role: u32, relation: pg_sys::Oid, masks: &Masks) -> Vec<i16> {
    if !is_subscriber(role) || may_on_table(relation, role, pg_sys::ACL_SELECT) {
        return Vec::new();
    }
    masks.columns().filter(|&number| !may_on_column(relation, number, role, pg_sys::ACL_SELECT)).collect()
}

/// Whether a role has a privilege on a column, by itself or with its table.
pub fn may(relation: pg_sys::Oid, number: i16, role: u32, privilege: u32) -> bool {
    may_on_table(relation, role, privilege) || may_on_column(relation, number, role, privilege)
}

fn may_on_table(relation: pg_sys::Oid, role: u32, privilege: u32) -> bool {
    // SAFETY: takes OIDs by value, searches the system caches.
    unsafe { pg_sys::pg_class_aclcheck(relation, role.into(), privilege as _) == pg_sys::AclResult::ACLCHECK_OK }
}

fn may_on_column(relation: pg_sys::Oid, number: i16, role: u32, privilege: u32) -> bool {
    // SAFETY: as above.
    let result = unsafe { pg_sys::pg_attribute_aclcheck(relation, number, role.into(), privilege as _) };
    result == pg_sys::AclResult::ACLCHECK_OK
}
