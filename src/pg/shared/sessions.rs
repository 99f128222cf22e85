//! Who impersonates whom now.

use crate::core::identity::Identity;
use crate::pg::catalog;
use crate::pg::shared::memory::{OWN, counters, shared, slots};
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::c_int;
use std::sync::atomic::Ordering::*;
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicU32, AtomicU64};

/// Words for the two names of an identity, 255 bytes each at most.
const NAME_WORDS: usize = 64;

/// A session that impersonates somebody.
pub struct Impersonating {
    pub pid: i32,
    pub database: u32,
    pub impersonator: u32,
    pub role: u32,
    pub identity: Identity,
    pub since: i64,
    pub statements: u64,
}

/// This session impersonates somebody.
pub fn enter(identity: &Identity, role: u32, impersonator: u32, since: i64) {
    let Some(slot) = slot() else { return };
    slot.change(|| {
        let (iamid, userid) = (identity.iamid.as_bytes(), identity.userid.as_bytes());
        slot.lengths.store((iamid.len() as u32) << 16 | userid.len() as u32, Relaxed);
        let mut names = iamid.iter().chain(userid).copied();
        for word in &slot.names {
            let mut bytes = [0; 8];
            let mut filled = 0;
            for (to, from) in bytes.iter_mut().zip(names.by_ref()) {
                *to = from;
                filled += 1;
            }
            word.store(u64::from_ne_bytes(bytes), Relaxed);
            if filled < bytes.len() {
                break;
            }
        }
        // SAFETY: a static variable.
        slot.pid.store(unsafe { pg_sys::MyProcPid }, Relaxed);
        slot.database.store(catalog::database(), Relaxed);
        slot.impersonator.store(impersonator, Relaxed);
        slot.since.store(since, Relaxed);
        slot.statements.store(0, Relaxed);
        slot.role.store(role, Relaxed);
    });
    counters().switches.fetch_add(1, Relaxed);
}

/// This session runs a statement for the user it impersonates.
pub fn count_statement() {
    if let Some(slot) = slot() {
        slot.statements.fetch_add(1, Relaxed);
    }
    counters().statements.fetch_add(1, Relaxed);
}

/// This session impersonates nobody any more. Cannot fail.
pub fn exit() {
    if let Some(slot) = slot() {
        slot.change(|| slot.role.store(0, Relaxed));
    }
}

/// All sessions that impersonate somebody; without shared memory only this one.
pub fn impersonating() -> Vec<Impersonating> {
    match shared() {
        Some(shared) => slots(shared).iter().filter_map(SessionSlot::read).collect(),
        None => OWN.slot.read().into_iter().collect(),
    }
}

/// What one session does. Readers retry while `changes` is odd or moves.
#[repr(C)]
pub(super) struct SessionSlot {
    changes: AtomicU32,
    pid: AtomicI32,
    /// 0 while the session impersonates nobody.
    role: AtomicU32,
    database: AtomicU32,
    impersonator: AtomicU32,
    /// Lengths of the names: of the iamid in the upper half.
    lengths: AtomicU32,
    since: AtomicI64,
    statements: AtomicU64,
    names: [AtomicU64; NAME_WORDS],
}

impl SessionSlot {
    /// Only the session itself changes its slot.
    fn change(&self, change: impl FnOnce()) {
        self.changes.fetch_add(1, AcqRel);
        std::sync::atomic::fence(Release);
        change();
        self.changes.fetch_add(1, Release);
    }

    /// What the slot says; `None` if its session impersonates nobody, or does not keep still.
    fn read(&self) -> Option<Impersonating> {
        for _ in 0..1000 {
            let before = self.changes.load(Acquire);
            let role = self.role.load(Relaxed);
            if role == 0 {
                return None;
            }
            let lengths = self.lengths.load(Relaxed);
            let bytes: Vec<u8> = self.names.iter().flat_map(|word| word.load(Relaxed).to_ne_bytes()).collect();
            let (iamid, userid) = ((lengths >> 16) as usize, (lengths & 0xffff) as usize);
            let name = |from: usize, length: usize| {
                String::from_utf8_lossy(bytes.get(from..from + length).unwrap_or_default()).into_owned()
            };
            let seen = Impersonating {
                pid: self.pid.load(Relaxed),
                database: self.database.load(Relaxed),
                impersonator: self.impersonator.load(Relaxed),
                role,
                identity: Identity { iamid: name(0, iamid), userid: name(iamid, userid) },
                since: self.since.load(Relaxed),
                statements: self.statements.load(Relaxed),
            };
            std::sync::atomic::fence(Acquire);
            if before.is_multiple_of(2) && self.changes.load(Relaxed) == before {
                return Some(seen);
            }
            std::hint::spin_loop();
        }
        None
    }
}

/// The slot of this session, taken at its first impersonation.
fn slot() -> Option<&'static SessionSlot> {
    thread_local! {
        static MINE: Cell<Option<&'static SessionSlot>> = const { Cell::new(None) };
    }
    let Some(shared) = shared() else { return Some(&OWN.slot) };
    MINE.get().or_else(|| {
        // SAFETY: a static variable.
        let pid = unsafe { pg_sys::MyProcPid };
        let free = |slot: &&SessionSlot| slot.pid.compare_exchange(0, pid, AcqRel, Relaxed).is_ok();
        let mine = slots(shared).iter().find(free);
        if mine.is_some() {
            // SAFETY: the callback stays valid and only stores to shared memory.
            unsafe { pg_sys::on_shmem_exit(Some(leave), 0.into()) };
            MINE.set(mine);
        }
        mine
    })
}

unsafe extern "C-unwind" fn leave(_code: c_int, _arg: pg_sys::Datum) {
    if let Some(slot) = slot() {
        slot.change(|| slot.role.store(0, Relaxed));
        slot.pid.store(0, Release);
    }
}
