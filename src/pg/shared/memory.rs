//! The shared memory itself, and the counters in it.

use crate::pg::shared::answers::WAYS;
use crate::pg::shared::sessions::SessionSlot;
use crate::pg::shared::writers::{WRITERS, Writer};
use crate::pg::shared::{keys, tables};
use crate::pg::sys::{clock, compat, report};
use once_cell::sync::{Lazy, OnceCell};
use pgrx::{pg_guard, pg_sys};
use std::ffi::CStr;
use std::sync::atomic::Ordering::*;
use std::sync::atomic::{AtomicI64, AtomicPtr, AtomicU64};
use std::time::Duration;

const NAME: &CStr = c"immuta_ext";

/// Upper bounds, in milliseconds, of the classes in which the times of provider calls are counted; the last class has
/// none.
pub const LATENCIES: [u64; 10] = [1, 2, 5, 10, 25, 50, 100, 250, 1000, 5000];

/// Codes in DETAIL by which refusals are counted.
pub const REFUSALS: [&str; 8] = [
    "IMPERSONATION_TOKEN_INVALID",
    "IMPERSONATION_NOT_ALLOWED",
    "IMPERSONATION_NOT_MAPPED",
    "IMPERSONATION_NOT_SUPPORTED",
    "IMPERSONATION_REQUIRED",
    "IMPERSONATION_ACTIVE",
    "IMPERSONATION_PROVIDER_UNAVAILABLE",
    "IMPERSONATION_AUDIT_UNAVAILABLE",
];

/// Counters since the server started or they were reset.
#[repr(C)]
pub struct Counters {
    pub switches: AtomicU64,
    pub statements: AtomicU64,
    pub refusals: [AtomicU64; REFUSALS.len()],
    pub cache_hits: AtomicU64,
    pub cache_misses: AtomicU64,
    pub cache_evictions: AtomicU64,
    /// Answers that another session had.
    pub shared_hits: AtomicU64,
    pub provider_calls: AtomicU64,
    pub provider_errors: AtomicU64,
    pub provider_micros: AtomicU64,
    pub provider_latency: [AtomicU64; LATENCIES.len() + 1],
    pub audit_records: AtomicU64,
    /// Records that went to the server's log because their sink could not take them.
    pub audit_fallbacks: AtomicU64,
    pub audit_stored: AtomicU64,
    pub since: AtomicI64,
}

impl Counters {
    fn all(&self) -> impl Iterator<Item = &AtomicU64> {
        [
            &self.switches,
            &self.statements,
            &self.cache_hits,
            &self.cache_misses,
            &self.cache_evictions,
            &self.shared_hits,
            &self.provider_calls,
            &self.provider_errors,
            &self.provider_micros,
            &self.audit_records,
            &self.audit_fallbacks,
            &self.audit_stored,
        ]
        .into_iter()
        .chain(&self.refusals)
        .chain(&self.provider_latency)
    }

    pub fn reset(&self) {
        self.all().for_each(|counter| counter.store(0, Relaxed));
        self.since.store(clock::wall_time(), Relaxed);
    }

    pub fn refused(&self, code: &str) {
        if let Some(at) = REFUSALS.iter().position(|known| *known == code) {
            self.refusals[at].fetch_add(1, Relaxed);
        }
    }

    pub fn provider_called(&self, took: Duration, succeeded: bool) {
        self.provider_calls.fetch_add(1, Relaxed);
        self.provider_errors.fetch_add(u64::from(!succeeded), Relaxed);
        self.provider_micros.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        let class =
            LATENCIES.iter().position(|&bound| took <= Duration::from_millis(bound)).unwrap_or(LATENCIES.len());
        self.provider_latency[class].fetch_add(1, Relaxed);
    }
}

#[repr(C)]
pub(super) struct Shared {
    counters: Counters,
    pub(super) writers: [Writer; WRITERS],
    keys: [keys::KeySlot; keys::SLOTS],
    slots: u32,
    first: [SessionSlot; 0],
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());

/// What a session has that shares nothing.
pub(super) struct Own {
    counters: Counters,
    pub(super) slot: SessionSlot,
}

// SAFETY: all fields are atomic integers, for which all bits zero is a value.
pub(super) static OWN: Lazy<Own> = Lazy::new(|| unsafe { std::mem::zeroed() });

/// The same for the keys of issuers, which are too many for a stack.
static OWN_KEYS: [keys::KeySlot; keys::SLOTS] = [const { keys::KeySlot::new() }; keys::SLOTS];

static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// How many tokens are to be known to all sessions.
static TOKENS: OnceCell<fn() -> usize> = OnceCell::new();

/// Reserves the memory, with room for so many tokens. Called once, from `_PG_init` in the postmaster.
pub fn reserve(tokens: fn() -> usize) {
    // SAFETY: _PG_init runs in a process with one thread.
    unsafe {
        if !pg_sys::process_shared_preload_libraries_in_progress {
            return;
        }
        let _ = TOKENS.set(tokens);
        compat::request_shared_memory(request);
        PREVIOUS_STARTUP = pg_sys::shmem_startup_hook;
        pg_sys::shmem_startup_hook = Some(startup);
    }
}

fn slot_count() -> usize {
    // SAFETY: settings that are fixed once the server starts.
    let processes = unsafe { pg_sys::MaxConnections + pg_sys::max_worker_processes };
    usize::try_from(processes).unwrap_or(0)
}

fn tokens() -> usize {
    TOKENS.get().map_or(0, |tokens| tokens())
}

fn size() -> usize {
    size_of::<Shared>() + slot_count() * size_of::<SessionSlot>()
}

/// Called when PostgreSQL adds up what extensions want.
#[pg_guard]
unsafe extern "C-unwind" fn request() {
    let (wanted, sets) = (tokens(), tables::sets_for(tokens()));
    let room = sets * WAYS;
    if room < wanted {
        report::warn(
            format!("the sessions share what they know of {room} tokens, not of {wanted}"),
            "An eighth of the machine's memory is the most that is taken for it.",
            "Set bodata.shared_token_cache_size to less.",
        );
    }
    // SAFETY: called at the time at which requests are taken.
    unsafe { pg_sys::RequestAddinShmemSpace(size() + tables::size(sets)) };
}

/// Plain frame: see [`crate::pg::hook::frames`].
#[allow(ffi_unwind_calls)]
unsafe extern "C-unwind" fn startup() {
    // SAFETY: the hook that was there, then ours.
    unsafe {
        if let Some(previous) = PREVIOUS_STARTUP {
            previous();
        }
        attach();
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn attach() {
    // SAFETY: called while shared memory is set up, in one process; the memory holds `size()` bytes, and all zero is
    // a value of everything in it.
    unsafe {
        let mut found = false;
        let memory = pg_sys::ShmemInitStruct(NAME.as_ptr(), size(), &mut found) as *mut Shared;
        if !found {
            std::ptr::write_bytes(memory as *mut u8, 0, size());
            (*memory).slots = u32::try_from(slot_count()).unwrap_or(0);
            (*memory).counters.since.store(clock::wall_time(), Relaxed);
        }
        SHARED.store(memory, Relaxed);
        tables::attach(tables::sets_for(tokens()));
    }
}

pub(super) fn shared() -> Option<&'static Shared> {
    let memory = SHARED.load(Relaxed);
    // SAFETY: null, or memory that was set up above and stays as long as the process.
    (!memory.is_null()).then(|| unsafe { &*memory })
}

/// Whether all sessions are seen, and not only this one.
pub fn is_shared() -> bool {
    !SHARED.load(Relaxed).is_null()
}

/// The same, asked while the server starts.
pub fn will_be_shared() -> bool {
    // SAFETY: a static variable.
    is_shared() || unsafe { pg_sys::process_shared_preload_libraries_in_progress }
}

pub fn counters() -> &'static Counters {
    shared().map_or_else(|| &OWN.counters, |shared| &shared.counters)
}

/// Where the keys of issuers are kept: with all sessions, then in this one.
pub(super) fn key_slots() -> impl Iterator<Item = &'static [keys::KeySlot; keys::SLOTS]> {
    shared().map(|shared| &shared.keys).into_iter().chain([&OWN_KEYS])
}

pub(super) fn slots(shared: &'static Shared) -> &'static [SessionSlot] {
    // SAFETY: attach() reserved as many slots behind the structure.
    unsafe { std::slice::from_raw_parts(shared.first.as_ptr(), shared.slots as usize) }
}
