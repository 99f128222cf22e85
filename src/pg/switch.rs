//! Roles: looking at them, and the switch itself.

use crate::pg::catalog::roles::{exists, is_superuser};
use crate::pg::gate::{Restricted, Restriction};
use crate::pg::guc::Lasting;
use crate::pg::sys::acting::{Acting, LOCKED};
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::raw;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{PgLogLevel, PgSqlErrorCode, PgTryBuilder, pg_sys};
use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

pub fn session_user() -> u32 {
    raw::GetSessionUserId().to_u32()
}

/// The current user and whether the role is locked (by us, or by a SECURITY DEFINER function).
pub fn current_user() -> (u32, bool) {
    let acting = Acting::now();
    (acting.user(), acting.is_locked())
}

/// Whether the role is locked, and not by a SECURITY DEFINER function of another role's.
pub fn is_locked_outside_definers() -> bool {
    let (user, is_locked) = current_user();
    is_locked && user == raw::GetOuterUserId().to_u32()
}

/// Does the effect of `SET [LOCAL] ROLE` and locks the role: until the transaction ends, or for the session anew in each
/// of its transactions.
///
/// The role GUC checks that the *session* user is a member of the role, which the service login must not be: around
/// the one call the session user is the bootstrap superuser. Must be called at nesting level 1 of the transaction,
/// outside any SECURITY DEFINER function. `name` is the role's. Returns whether the role is in effect afterwards.
pub fn switch_to(role: u32, name: &CStr, lasting: Lasting) -> bool {
    let session_user = session_user();
    set_role(name, lasting);
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

#[allow(ffi_unwind_calls)]
fn set_role(name: &CStr, lasting: Lasting) {
    let session_user = session_user();
    let session_is_superuser = is_superuser(session_user);
    // One guard for all three. It owns nothing, so that an error may leave it.
    let switched = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: raises errors only, which the guard turns into panics; `name` outlives the call.
        unsafe {
            pg_guard_ffi_boundary(|| {
                raw::SetSessionAuthorization(pg_sys::BOOTSTRAP_SUPERUSERID.into(), true);
                inject::frame(Point::SessionUserRaised);
                raw::set_config_option(
                    c"role".as_ptr(),
                    name.as_ptr(),
                    pg_sys::GucContext::PGC_SUSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    lasting.action(),
                    true,
                    0,
                    false,
                );
                raw::SetSessionAuthorization(session_user.into(), session_is_superuser);
            })
        }
    }));
    if let Err(error) = switched {
        restore_session_user(session_user, session_is_superuser);
        resume_unwind(error);
    }
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
    let before = Acting::now();
    before.confined(role, LOCKED).resume();
    // SAFETY: connects, and what was done is over when it disconnects.
    unsafe { pg_sys::SPI_connect() };
    inject::point(Point::ActingBegins);
    let result = act();
    inject::point(Point::ActingEnds);
    // SAFETY: connected above.
    unsafe { pg_sys::SPI_finish() };
    before.resume();
    result
}

/// Whether the lock is on, or something that refuses as much.
pub fn is_locked() -> bool {
    Acting::now().is_locked()
}

/// From now on PostgreSQL refuses every change of role and session authorization, by any route.
pub fn lock() {
    let now = Acting::now();
    now.confined(now.user(), LOCKED).resume();
}

/// Lifts the lock, before the role itself is undone at the end of the transaction. Cannot fail.
pub fn unlock() {
    Acting::now().unlocked().resume();
}

/// Whether the session runs as `role` on behalf of `session_user`, locked.
pub fn is_in_effect(role: u32, impersonator: u32) -> bool {
    raw::GetOuterUserId().to_u32() == role && session_user() == impersonator && is_locked()
}
