//! Roles and their memberships.

use crate::core::identity::RoleName;
use crate::core::rights::target::RoleFacts;
use crate::pg::sys::{compat, text};
use pgrx::pg_sys;
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_int};

/// Whether membership lets `member` act as `role`, or it is a superuser.
pub fn can_act_as(member: u32, role: u32) -> bool {
    compat::can_act_as(member.into(), role.into())
}

pub fn is_superuser(role: u32) -> bool {
    // SAFETY: takes an OID by value, searches the system cache.
    unsafe { pg_sys::superuser_arg(role.into()) }
}

/// Whether `role` was granted to `member` itself, and not to a role that it is a member of.
pub fn is_direct_member(member: u32, role: u32) -> bool {
    role != 0 && granted_to(member).contains(&role)
}

/// OID of the role of this name (in UTF-8), or `None`. Longer names than an identifier can hold name no role.
pub fn by_name(name: &str) -> Option<u32> {
    let name = text::to_server(name)?;
    if name.as_bytes().is_empty() || name.as_bytes().len() >= pg_sys::NAMEDATALEN as usize {
        return None;
    }
    // SAFETY: a NUL-terminated name; missing_ok.
    let oid = unsafe { pg_sys::get_role_oid(name.as_ptr(), true) };
    (oid != pg_sys::Oid::INVALID).then(|| oid.to_u32())
}

/// Name of a role in the database encoding, or `None` if there is no such role.
fn name_in_server_encoding(role: u32) -> Option<CString> {
    // SAFETY: noerr; the result is null or a palloc'd, NUL-terminated string.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role.into(), true);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_owned())
    }
}

/// Name of a role in UTF-8.
pub fn name(role: u32) -> Option<String> {
    names(role).map(|names| names.in_utf8)
}

pub fn names(role: u32) -> Option<RoleName> {
    let in_server_encoding = name_in_server_encoding(role)?;
    Some(RoleName { in_utf8: text::from_server(in_server_encoding.as_bytes()), in_server_encoding })
}

/// The role and every role it is a member of, directly or not, whatever the options of the membership: what may be
/// granted on by ADMIN counts as held. Empty if there is no such role.
pub fn with_memberships(role: u32) -> Vec<RoleFacts> {
    let mut known = BTreeSet::from([role]);
    let mut queue = vec![role];
    let mut facts = Vec::new();
    while let Some(next) = queue.pop() {
        let Some(found) = describe(next) else { continue };
        facts.push(found);
        for granted in granted_to(next) {
            if known.insert(granted) {
                queue.push(granted);
            }
        }
    }
    facts
}

fn describe(role: u32) -> Option<RoleFacts> {
    // SAFETY: a tuple of pg_authid begins with its fixed columns; it is released after they were copied.
    unsafe {
        let tuple =
            pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::AUTHOID as c_int, pg_sys::Oid::from(role).into());
        if tuple.is_null() {
            return None;
        }
        let form = &*(pg_sys::GETSTRUCT(tuple) as *const pg_sys::FormData_pg_authid);
        let facts = RoleFacts {
            oid: role,
            name: CStr::from_ptr(form.rolname.data.as_ptr()).to_string_lossy().into_owned(),
            is_superuser: form.rolsuper,
            bypasses_row_security: form.rolbypassrls,
            can_replicate: form.rolreplication,
            can_create_roles: form.rolcreaterole,
        };
        pg_sys::ReleaseSysCache(tuple);
        Some(facts)
    }
}

fn granted_to(member: u32) -> Vec<u32> {
    // SAFETY: the list's members are tuples of pg_auth_members; it is released after they were read.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::AUTHMEMMEMROLE as c_int;
        let list = pg_sys::SearchSysCacheList(cache, 1, pg_sys::Oid::from(member).into(), 0.into(), 0.into());
        let count = usize::try_from((*list).n_members).unwrap_or(0);
        let granted = (*list)
            .members
            .as_slice(count)
            .iter()
            .map(|&entry| {
                let mut is_null = false;
                let role = pg_sys::SysCacheGetAttr(
                    cache,
                    &raw mut (*entry).tuple,
                    compat::ANUM_PG_AUTH_MEMBERS_ROLEID,
                    &mut is_null,
                );
                role.value() as u32
            })
            .collect();
        pg_sys::ReleaseCatCacheList(list);
        granted
    }
}

pub fn exists(name: &CStr) -> bool {
    // SAFETY: a NUL-terminated name; missing_ok.
    unsafe { pg_sys::get_role_oid(name.as_ptr(), true) != pg_sys::Oid::INVALID }
}
