//! What all sessions of the server share: counters, who impersonates whom now, and who writes the audit table.
//!
//! It lives in shared memory, which only `shared_preload_libraries` can reserve. Without it each session has a copy
//! of its own and sees only itself. Everything is atomic: there is no lock to wait for, or to be left behind.

use super::{catalog, compat, keys};
use crate::core::identity::Identity;
use once_cell::sync::Lazy;
use pgrx::{pg_guard, pg_sys};
use std::cell::Cell;
use std::ffi::{CStr, c_int};
use std::sync::atomic::{AtomicI32, AtomicI64, AtomicPtr, AtomicU32, AtomicU64, Ordering::*};
use std::time::Duration;

const NAME: &CStr = c"immuta_ext";
/// Databases whose audit table can be written at the same time.
const WRITERS: usize = 64;
/// Words for the two names of an identity, 255 bytes each at most.
const NAME_WORDS: usize = 64;

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
        self.since.store(super::xact::clock(), Relaxed);
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

/// What one session does. Readers retry while `changes` is odd or moves.
#[repr(C)]
struct Slot {
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

/// The process that writes the audit table of a database.
#[repr(C)]
struct Writer {
    database: AtomicU32,
    /// 0: none; -1: on its way.
    pid: AtomicI32,
    launched: AtomicI64,
    /// Bytes that wait to be written.
    backlog: AtomicU64,
}

#[repr(C)]
struct Shared {
    counters: Counters,
    writers: [Writer; WRITERS],
    keys: [keys::Slot; keys::SLOTS],
    slots: u32,
    first: [Slot; 0],
}

static SHARED: AtomicPtr<Shared> = AtomicPtr::new(std::ptr::null_mut());

/// What a session has that shares nothing.
struct Own {
    counters: Counters,
    slot: Slot,
}

// SAFETY: all fields are atomic integers, for which all bits zero is a value.
static OWN: Lazy<Own> = Lazy::new(|| unsafe { std::mem::zeroed() });

/// The same for the keys of issuers, which are too many for a stack.
static OWN_KEYS: [keys::Slot; keys::SLOTS] = [const { keys::Slot::new() }; keys::SLOTS];

static mut PREVIOUS_STARTUP: pg_sys::shmem_startup_hook_type = None;

/// Reserves the memory. Called once, from `_PG_init` in the postmaster.
pub fn reserve() {
    // SAFETY: _PG_init runs in a process with one thread.
    unsafe {
        if !pg_sys::process_shared_preload_libraries_in_progress {
            return;
        }
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

fn size() -> usize {
    size_of::<Shared>() + slot_count() * size_of::<Slot>()
}

/// Called when PostgreSQL adds up what extensions want.
#[pg_guard]
unsafe extern "C-unwind" fn request() {
    // SAFETY: called at the time at which requests are taken.
    unsafe { pg_sys::RequestAddinShmemSpace(size()) };
}

/// Plain frame: see [`super::chain`].
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
            (*memory).counters.since.store(super::xact::clock(), Relaxed);
        }
        SHARED.store(memory, Relaxed);
    }
}

fn shared() -> Option<&'static Shared> {
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
pub fn key_slots() -> impl Iterator<Item = &'static [keys::Slot; keys::SLOTS]> {
    shared().map(|shared| &shared.keys).into_iter().chain([&OWN_KEYS])
}

fn slots(shared: &'static Shared) -> &'static [Slot] {
    // SAFETY: attach() reserved as many slots behind the structure.
    unsafe { std::slice::from_raw_parts(shared.first.as_ptr(), shared.slots as usize) }
}

/// The slot of this session, taken at its first impersonation.
fn slot() -> Option<&'static Slot> {
    thread_local! {
        static MINE: Cell<Option<&'static Slot>> = const { Cell::new(None) };
    }
    let Some(shared) = shared() else { return Some(&OWN.slot) };
    MINE.get().or_else(|| {
        // SAFETY: a static variable.
        let pid = unsafe { pg_sys::MyProcPid };
        let free = |slot: &&Slot| slot.pid.compare_exchange(0, pid, AcqRel, Relaxed).is_ok();
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

impl Slot {
    /// Only the session itself changes its slot.
    fn change(&self, change: impl FnOnce()) {
        self.changes.fetch_add(1, AcqRel);
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
        Some(shared) => slots(shared).iter().filter_map(Slot::read).collect(),
        None => OWN.slot.read().into_iter().collect(),
    }
}

/// The entry of a database in the list of writers; `None` if there are too many, or nothing is shared.
fn writer(database: u32) -> Option<&'static Writer> {
    let writers = &shared()?.writers;
    let of = |writer: &&Writer| {
        writer.database.load(Relaxed) == database
            || writer.database.compare_exchange(0, database, AcqRel, Relaxed).is_ok()
            || writer.database.load(Relaxed) == database
    };
    writers.iter().find(of)
}

/// Whether a writer of this database's audit table has to be launched, and it is up to the caller to do so. One that
/// was launched but never came is given up after five seconds, one that failed at once is replaced after one second.
pub fn needs_writer(database: u32) -> bool {
    const PATIENCE: i64 = 5_000_000;
    const PAUSE: i64 = 1_000_000;
    let Some(writer) = writer(database) else { return false };
    let pid = writer.pid.load(Acquire);
    if pid > 0 {
        return false;
    }
    let now = super::xact::clock();
    let pause = if pid < 0 { PATIENCE } else { PAUSE };
    if now.saturating_sub(writer.launched.load(Relaxed)) < pause {
        return false;
    }
    let is_mine = writer.pid.compare_exchange(pid, -1, AcqRel, Relaxed).is_ok();
    if is_mine {
        writer.launched.store(now, Relaxed);
    }
    is_mine
}

/// This process writes the audit table of its database. `false` if another one does.
pub fn become_writer(database: u32) -> bool {
    let Some(writer) = writer(database) else { return false };
    // SAFETY: a static variable.
    let me = unsafe { pg_sys::MyProcPid };
    let pid = writer.pid.load(Acquire);
    if pid > 0 {
        return pid == me;
    }
    let is_writer = writer.pid.compare_exchange(pid, me, AcqRel, Relaxed).is_ok();
    if is_writer {
        // SAFETY: as in slot().
        unsafe { pg_sys::on_shmem_exit(Some(stop_writing), 0.into()) };
    }
    is_writer
}

unsafe extern "C-unwind" fn stop_writing(_code: c_int, _arg: pg_sys::Datum) {
    resign();
}

/// This process writes no more.
pub fn resign() {
    // SAFETY: a static variable.
    let me = unsafe { pg_sys::MyProcPid };
    if let Some(writer) = writer(catalog::database()) {
        let _ = writer.pid.compare_exchange(me, 0, AcqRel, Relaxed);
    }
}

/// Bytes that wait for the writer of this database.
pub fn backlog() -> u64 {
    writer(catalog::database()).map_or(0, |writer| writer.backlog.load(Relaxed))
}

/// So many bytes were added to what waits.
pub fn add_to_backlog(bytes: u64) {
    if let Some(writer) = writer(catalog::database()) {
        writer.backlog.fetch_add(bytes, Relaxed);
    }
}

/// So many bytes wait no more. After a crash the count began anew, so that there may be more than were counted.
pub fn take_from_backlog(bytes: u64) {
    if let Some(writer) = writer(catalog::database()) {
        let less = |backlog: u64| Some(backlog.saturating_sub(bytes));
        let _ = writer.backlog.fetch_update(Relaxed, Relaxed, less);
    }
}
