//! Roles: looking at them, and the switch itself.

use super::gate::{Restricted, Restriction};
use super::guc::Lasting;
use super::inject::{self, Point};
use super::{compat, raw, text};
use crate::core::target::RoleFacts;
use pgrx::{PgLogLevel, PgSqlErrorCode, PgTryBuilder, pg_sys};
use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_int};

const LOCK: c_int = pg_sys::SECURITY_LOCAL_USERID_CHANGE as c_int;

pub fn session_user() -> u32 {
    raw::GetSessionUserId().to_u32()
}

/// The current user and whether the role is locked (by us, or by a SECURITY DEFINER function).
pub fn current_user() -> (u32, bool) {
    let mut user = pg_sys::Oid::INVALID;
    let mut context: c_int = 0;
    // SAFETY: writes the two variables.
    unsafe { raw::GetUserIdAndSecContext(&mut user, &mut context) };
    (user.to_u32(), context & LOCK != 0)
}

/// Whether membership lets `member` act as `role`, or it is a superuser.
pub fn can_act_as(member: u32, role: u32) -> bool {
    compat::can_act_as(member.into(), role.into())
}

/// Whether the role is locked, and not by a SECURITY DEFINER function of another role's.
pub fn is_locked_outside_definers() -> bool {
    let (user, is_locked) = current_user();
    is_locked && user == raw::GetOuterUserId().to_u32()
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
pub fn name_in_server_encoding(role: u32) -> Option<CString> {
    // SAFETY: noerr; the result is null or a palloc'd, NUL-terminated string.
    unsafe {
        let name = pg_sys::GetUserNameFromId(role.into(), true);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_owned())
    }
}

/// Name of a role in UTF-8.
pub fn name(role: u32) -> Option<String> {
    name_in_server_encoding(role).map(|name| text::from_server(name.as_bytes()))
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

/// Does the effect of `SET [LOCAL] ROLE` and locks the role: until the transaction ends, or for the session anew in each
/// of its transactions.
///
/// The role GUC checks that the *session* user is a member of the role, which the service login must not be: around
/// the one call the session user is the bootstrap superuser. Must be called at nesting level 1 of the transaction,
/// outside any SECURITY DEFINER function. Returns whether the role is in effect afterwards.
pub fn switch_to(role: u32, lasting: Lasting) -> bool {
    let Some(name) = name_in_server_encoding(role) else { return false };
    let session_user = session_user();
    set_role(&name, lasting);
    inject::point(Point::RoleSet);
    lock();
    inject::point(Point::Locked);
    is_in_effect(role, session_user)
}

/// Ends a switch that was made for the session: back to the role (or "none") that the session had chosen before.
pub fn switch_back(before: &CStr) {
    unlock();
    let is_known = before == c"none" || exists(before);
    set_role(if is_known { before } else { c"none" }, Lasting::ForSession);
}

fn exists(name: &CStr) -> bool {
    // SAFETY: a NUL-terminated name; missing_ok.
    unsafe { pg_sys::get_role_oid(name.as_ptr(), true) != pg_sys::Oid::INVALID }
}

fn set_role(name: &CStr, lasting: Lasting) {
    let session_user = session_user();
    let session_is_superuser = is_superuser(session_user);
    PgTryBuilder::new(|| {
        // SAFETY: raises errors only, which are caught below; `name` outlives the call.
        unsafe {
            pg_sys::SetSessionAuthorization(pg_sys::BOOTSTRAP_SUPERUSERID.into(), true);
            inject::point(Point::SessionUserRaised);
            pg_sys::set_config_option(
                c"role".as_ptr(),
                name.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_SESSION,
                lasting.action(),
                true,
                0,
                false,
            );
        }
    })
    .finally(|| restore_session_user(session_user, session_is_superuser))
    .execute();
}

/// A session that stayed the bootstrap superuser would be worse than none: if the way back fails, end it.
fn restore_session_user(user: u32, is_superuser: bool) {
    PgTryBuilder::new(|| {
        // SAFETY: raises errors only, which are caught below.
        unsafe { pg_sys::SetSessionAuthorization(user.into(), is_superuser) }
    })
    .catch_others(|_| {
        pgrx::ereport!(
            PgLogLevel::FATAL,
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            "could not restore the session user"
        );
    })
    .execute();
}

/// Runs a statement (in the database encoding) as `role`, which the statement cannot leave again. An error restores
/// the user where it ends the (sub)transaction.
pub fn run_as(role: u32, statement: &CStr) {
    let _restricted = Restricted::to(Restriction::Trusted);
    let result = acting_as(role, || {
        // SAFETY: connected; SPI copies what it keeps of the statement.
        unsafe { pg_sys::SPI_execute(statement.as_ptr(), false, 0) }
    });
    if result < 0 {
        pgrx::error!("a statement of the system account was not executed (SPI result {result})");
    }
}

/// Looks the names and types of a statement (in the database encoding) up as `role`, 0 for whoever sent the statement
/// that is running. Literals are read meanwhile, and with them constraints of domains run.
pub fn analyse_as(role: u32, statement: &CStr) {
    let role = if role == 0 { raw::GetOuterUserId().to_u32() } else { role };
    let _restricted = Restricted::to(Restriction::Analysis);
    acting_as(role, || {
        // SAFETY: connected; the plan goes with SPI_finish().
        unsafe { pg_sys::SPI_prepare(statement.as_ptr(), 0, std::ptr::null_mut()) };
    });
}

/// Does something connected to SPI.
fn acting_as<T>(role: u32, act: impl FnOnce() -> T) -> T {
    let mut user = pg_sys::Oid::INVALID;
    let mut context: c_int = 0;
    // SAFETY: assigns the two static variables and back.
    unsafe {
        raw::GetUserIdAndSecContext(&mut user, &mut context);
        raw::SetUserIdAndSecContext(role.into(), context | LOCK);
        pg_sys::SPI_connect();
        inject::point(Point::ActingBegins);
        let result = act();
        inject::point(Point::ActingEnds);
        pg_sys::SPI_finish();
        raw::SetUserIdAndSecContext(user, context);
        result
    }
}

/// Whether the lock is on, or something that refuses as much.
pub fn is_locked() -> bool {
    current_user().1
}

/// From now on PostgreSQL refuses every change of role and session authorization, by any route.
pub fn lock() {
    let mut user = pg_sys::Oid::INVALID;
    let mut context: c_int = 0;
    // SAFETY: reads and assigns the two static variables.
    unsafe {
        raw::GetUserIdAndSecContext(&mut user, &mut context);
        raw::SetUserIdAndSecContext(user, context | LOCK);
    }
}

/// Lifts the lock, before the role itself is undone at the end of the transaction. Cannot fail.
pub fn unlock() {
    let mut user = pg_sys::Oid::INVALID;
    let mut context: c_int = 0;
    // SAFETY: reads and assigns the two static variables.
    unsafe {
        raw::GetUserIdAndSecContext(&mut user, &mut context);
        raw::SetUserIdAndSecContext(user, context & !LOCK);
    }
}

/// Whether the session runs as `role` on behalf of `session_user`, locked.
pub fn is_in_effect(role: u32, impersonator: u32) -> bool {
    raw::GetOuterUserId().to_u32() == role && session_user() == impersonator && current_user().1
}
