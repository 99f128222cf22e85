//! The exit that every hook takes first: five loads and three comparisons for a session that has nothing to do
//! with impersonation. What it says of the session is published by `session::state`.

use crate::core::session::phase::Phase;
use crate::pg::sys::{client, raw, running};
use std::ffi::c_int;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64};

/// Counts everything that may change who may impersonate whom: roles, memberships, schemas, our tables.
static GENERATION: AtomicU64 = AtomicU64::new(1);
/// The generation and session user for which [`ORDINARY`] was found.
static SEEN_GENERATION: AtomicU64 = AtomicU64::new(0);
static SEEN_USER: AtomicU32 = AtomicU32::new(0);
/// Whether the session user is nobody the guard has to watch.
static ORDINARY: AtomicBool = AtomicBool::new(false);
/// The phase that `session::state` published last; see [`Phase`].
static PHASE: AtomicU32 = AtomicU32::new(Phase::Nobody as u32);
/// Whether the login has impersonated by name, and is no superuser: then it is held whatever it may present.
static HAS_NAMED: AtomicBool = AtomicBool::new(false);
/// Whether statements of that impersonation are on record.
static AUDITED: AtomicBool = AtomicBool::new(false);
/// What was presented and waits for its statement to complete: a bit for each parameter that can carry it.
static PRESENTED: AtomicU32 = AtomicU32::new(0);
/// Whether this transaction has changed who has access to what, which is to be recorded.
static CHANGING: AtomicBool = AtomicBool::new(false);
/// Nesting level of the transaction in which a dry run began; 0 outside of one.
static DRY_RUN: AtomicI32 = AtomicI32::new(0);

/// Whose code may run now: everybody's, or what [`Restriction`] says.
static RESTRICTION: AtomicU32 = AtomicU32::new(0);

/// What may run while the system account runs a statement.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Restriction {
    /// Nothing but functions of PostgreSQL, of this extension and of superusers.
    Trusted = 1,
    /// Of those only what depends on nothing but its arguments, and no statements at all: a text is analysed.
    Analysis = 2,
}

#[inline]
pub fn is_restricted() -> bool {
    RESTRICTION.load(Relaxed) != 0
}

#[inline]
pub fn is_analysis() -> bool {
    RESTRICTION.load(Relaxed) == Restriction::Analysis as u32
}

/// Restricts what runs until it is dropped, also by an error. One restriction does not loosen another.
pub struct Restricted(u32);

impl Restricted {
    pub fn to(restriction: Restriction) -> Restricted {
        Restricted(RESTRICTION.fetch_max(restriction as u32, Relaxed))
    }
}

impl Drop for Restricted {
    fn drop(&mut self) {
        RESTRICTION.store(self.0, Relaxed);
    }
}

/// Counts changes of all relations and schemas, whoever owns them.
static RELATIONS: AtomicU64 = AtomicU64::new(1);

/// Counts changes of the settings that say which provider is asked, and how.
static PROVIDER: AtomicU64 = AtomicU64::new(1);

pub fn provider() -> u64 {
    PROVIDER.load(Relaxed)
}

/// What was learned from the provider so far counts no longer.
pub fn next_provider() {
    PROVIDER.fetch_add(1, Relaxed);
}

pub fn relations() -> u64 {
    RELATIONS.load(Relaxed)
}

/// Called from invalidation callbacks, which must not do more.
pub fn next_relations() {
    RELATIONS.fetch_add(1, Relaxed);
}

pub fn generation() -> u64 {
    GENERATION.load(Relaxed)
}

/// Called from invalidation callbacks, which must not do more.
pub fn next_generation() {
    GENERATION.fetch_add(1, Relaxed);
}

#[cfg(feature = "inject")]
pub fn state() -> String {
    let phase = (PHASE.load(Relaxed), is_audited());
    format!("gate {phase:?} {} {} {}", PRESENTED.load(Relaxed), dry_run(), RESTRICTION.load(Relaxed))
}

/// Whether there is nothing to do for the hooks.
#[inline]
pub fn is_idle() -> bool {
    ORDINARY.load(Relaxed) && !wants_attention() && is_current()
}

/// Whether what is remembered of the session user still holds.
#[inline]
pub fn is_current() -> bool {
    SEEN_GENERATION.load(Relaxed) == GENERATION.load(Relaxed) && has_seen_user()
}

pub fn remember(generation: u64, user: u32, ordinary: bool) {
    SEEN_GENERATION.store(generation, Relaxed);
    SEEN_USER.store(user, Relaxed);
    ORDINARY.store(ordinary, Relaxed);
}

/// What [`remember`] was told.
pub fn is_ordinary() -> bool {
    ORDINARY.load(Relaxed)
}

/// Whether the session user may be one that the guard has to watch, for all that was found so far. Also asked in
/// processes that have no session user, of which nothing was found.
pub fn may_be_holder() -> bool {
    if SEEN_USER.load(Relaxed) == 0 {
        return client::is_served() && running::has_message_text();
    }
    !ORDINARY.load(Relaxed) || !has_seen_user()
}

/// Whether something was found of the session user, if it may have changed since. Only where there is one.
pub fn has_seen_user() -> bool {
    SEEN_USER.load(Relaxed) == raw::GetSessionUserId().to_u32()
}

/// Whether nothing of ours can have happened in this session's transaction.
#[inline]
pub fn is_ordinary_session() -> bool {
    ORDINARY.load(Relaxed) && !wants_attention()
}

/// Whether the session may present tokens, and impersonates nobody.
#[inline]
pub fn is_waiting_for_user() -> bool {
    !ORDINARY.load(Relaxed) && SEEN_USER.load(Relaxed) != 0 && !is_impersonating()
}

#[inline]
pub fn wants_attention() -> bool {
    !is_in(Phase::Nobody) || PRESENTED.load(Relaxed) != 0 || DRY_RUN.load(Relaxed) != 0
}

/// Tells every hook where the session stands. Called by `session::state` only.
pub fn publish(phase: Phase) {
    PHASE.store(phase as u32, Relaxed);
}

#[inline]
fn is_in(phase: Phase) -> bool {
    PHASE.load(Relaxed) == phase as u32
}

/// Whether an impersonation is in force.
#[inline]
pub fn is_impersonating() -> bool {
    !is_in(Phase::Nobody) && !is_in(Phase::Ended)
}

/// Whether that is the session's, and not only the transaction's.
pub fn is_lasting() -> bool {
    is_in(Phase::ForSession) || resumes()
}

/// Whether it goes on in a new transaction and has not been verified there.
pub fn resumes() -> bool {
    is_in(Phase::Resuming)
}

pub fn has_named() -> bool {
    HAS_NAMED.load(Relaxed)
}

/// From now on the login is held whatever it may present.
pub fn set_has_named() {
    HAS_NAMED.store(true, Relaxed);
    forget_user();
}

pub fn is_audited() -> bool {
    AUDITED.load(Relaxed)
}

pub fn set_audited(on: bool) {
    AUDITED.store(on, Relaxed);
}

/// Not part of [`wants_attention`]: only the ends of transactions ask.
pub fn is_changing() -> bool {
    CHANGING.load(Relaxed)
}

pub fn set_changing(on: bool) {
    CHANGING.store(on, Relaxed);
}

pub fn has_presented() -> bool {
    PRESENTED.load(Relaxed) != 0
}

/// Notes whether something waits in the parameter with this number.
pub fn set_presented(parameter: u32, waits: bool) {
    if waits {
        PRESENTED.fetch_or(1 << parameter, Relaxed);
    } else {
        PRESENTED.fetch_and(!(1 << parameter), Relaxed);
    }
}

pub fn is_presented(parameter: u32) -> bool {
    PRESENTED.load(Relaxed) & (1 << parameter) != 0
}

/// Whether whatever runs now is called by the planner in a dry run.
pub fn is_dry_run() -> bool {
    dry_run() != 0
}

/// Whether whatever runs now is a user's.
pub fn is_confined() -> bool {
    is_impersonating() || is_dry_run()
}

pub fn dry_run() -> c_int {
    DRY_RUN.load(Relaxed)
}

/// Notes the nesting level of the transaction in which a dry run begins, or 0.
pub fn set_dry_run(level: c_int) {
    DRY_RUN.store(level, Relaxed);
}

/// What was found of the session user is to be found again.
pub fn forget_user() {
    SEEN_GENERATION.store(0, Relaxed);
}
