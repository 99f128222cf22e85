//! The keys of issuers, as all sessions of the server have them: in shared memory, where that was reserved, else in each
//! session's own. Everything is atomic; verifying a token waits for nobody.

use crate::core::provider::jwt::cache::{Attempt, State};
use crate::core::time::Timestamp;
use crate::pg::shared::memory::key_slots;
use crate::pg::shared::versions::{Versions, load, store, words};
use crate::pg::sys::exit;
use parking_lot::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::*};

/// Issuers whose keys are kept at the same time.
pub const SLOTS: usize = 16;
/// Longest set of keys, with what stands beside it.
pub const MAX_BYTES: usize = 64 * 1024;
const WORDS: usize = MAX_BYTES / 8;
const WHY_WORDS: usize = 32;

/// Keys that nobody asked for in this time may give way, in microseconds.
const IDLE: i64 = 3_600_000_000;

/// The keys of one issuer.
#[repr(C)]
pub struct KeySlot {
    versions: Versions,
    length: AtomicU32,
    /// Of the reason why the last attempt failed; 0 if it did not.
    why_length: AtomicU32,
    owner: [AtomicU64; 4],
    /// When the last attempt began, in microseconds; its last two bits tell what came of it.
    attempt: AtomicI64,
    fetched: AtomicI64,
    fresh_until: AtomicI64,
    asked: AtomicI64,
    why: [AtomicU64; WHY_WORDS],
    words: [AtomicU64; WORDS],
}

const RUNNING: i64 = 0;
const GOOD: i64 = 1;
const FAILED: i64 = 2;
const OUTCOME: i64 = 3;

/// Whoever of this process changes a slot holds this. A thread must not end in the middle, as it would with the process: the
/// others would wait for ever.
static CHANGING: Mutex<()> = Mutex::new(());

/// The process ends: no thread of it changes anything any more.
fn change_no_more() {
    std::mem::forget(CHANGING.lock());
}

/// What identifies an issuer and the way to its keys.
pub type Owner = [u8; 32];

impl KeySlot {
    pub const fn new() -> KeySlot {
        KeySlot {
            versions: Versions::new(),
            length: AtomicU32::new(0),
            why_length: AtomicU32::new(0),
            owner: [const { AtomicU64::new(0) }; 4],
            attempt: AtomicI64::new(0),
            fetched: AtomicI64::new(0),
            fresh_until: AtomicI64::new(0),
            asked: AtomicI64::new(0),
            why: [const { AtomicU64::new(0) }; WHY_WORDS],
            words: [const { AtomicU64::new(0) }; WORDS],
        }
    }

    fn owner(&self) -> [u64; 4] {
        std::array::from_fn(|at| self.owner[at].load(Relaxed))
    }

    /// Takes a slot that is free, or that nobody needs any more; whether it is that of the issuer then.
    fn take(&self, wanted: &[u64; 4], now: Timestamp) -> bool {
        self.change(|| {
            let is_idle = now.0.saturating_sub(self.asked.load(Relaxed)) > IDLE;
            if self.owner() != *wanted && (self.owner() == [0; 4] || is_idle) {
                self.owner.iter().zip(wanted).for_each(|(word, new)| word.store(*new, Relaxed));
                for number in [&self.attempt, &self.fetched, &self.fresh_until] {
                    number.store(0, Relaxed);
                }
                self.length.store(0, Relaxed);
                self.why_length.store(0, Relaxed);
                self.asked.store(now.0, Relaxed);
            }
            self.owner() == *wanted
        })
    }

    fn change<T>(&self, change: impl FnOnce() -> T) -> T {
        let _alone = CHANGING.lock();
        self.versions.change(change)
    }

    /// What is known, and the number of changes for which that holds; `None` if the slot went to another issuer.
    pub fn state(&self, owner: &Owner) -> Option<(State, u32)> {
        let ((seen, attempt, fetched, end), changes) = self.versions.read(|| {
            (self.owner(), self.attempt.load(Acquire), self.fetched.load(Relaxed), self.fresh_until.load(Relaxed))
        });
        let begun = Timestamp(attempt & !OUTCOME);
        let attempt = match (attempt, attempt & OUTCOME) {
            (0, _) => Attempt::Never,
            (_, RUNNING) => Attempt::Running(begun),
            (_, GOOD) => Attempt::Good(begun),
            _ => Attempt::Failed(begun),
        };
        let good = (end != 0).then_some((Timestamp(fetched), Timestamp(end)));
        (seen == words(owner)).then_some((State { attempt, good }, changes))
    }

    /// The keys, as [`KeySlot::put`] left them.
    pub fn text(&self) -> Vec<u8> {
        self.versions.read(|| load(&self.words, &self.length)).0
    }

    /// Why the last attempt failed; empty if it did not.
    pub fn why(&self) -> String {
        String::from_utf8_lossy(&self.versions.read(|| load(&self.why, &self.why_length)).0).into_owned()
    }

    /// Takes it upon this session to fetch; `None` if another one was faster.
    pub fn take_turn(&self, state: &State, now: Timestamp) -> Option<FetchRight> {
        let known = match state.attempt {
            Attempt::Never => 0,
            Attempt::Running(begun) => begun.0 | RUNNING,
            Attempt::Good(begun) => begun.0 | GOOD,
            Attempt::Failed(begun) => begun.0 | FAILED,
        };
        let running = (now.0 & !OUTCOME) | RUNNING;
        let is_mine = known != running && self.attempt.compare_exchange(known, running, AcqRel, Relaxed).is_ok();
        // Before there is a thread.
        exit::at_last(change_no_more);
        is_mine.then_some(FetchRight(running))
    }

    /// Keeps keys that were fetched. May be called by a helper thread.
    pub fn put(&self, owner: &Owner, text: &[u8], fetched: Timestamp, fresh_until: Timestamp) {
        self.change(|| {
            if self.owner() == words(owner) {
                store(&self.words, &self.length, text);
                store(&self.why, &self.why_length, &[]);
                self.fetched.store(fetched.0, Relaxed);
                self.fresh_until.store(fresh_until.0, Relaxed);
            }
        });
    }

    /// Keeps the reason why there are no new keys, beside the old ones. May be called by a helper thread.
    pub fn fail(&self, owner: &Owner, why: &str) {
        self.change(|| {
            if self.owner() == words(owner) {
                store(&self.why, &self.why_length, why.as_bytes());
            }
        });
    }

    /// The fetch is over, unless another session has taken it over.
    pub fn finish(&self, turn: FetchRight, is_good: bool) {
        let outcome = if is_good { GOOD } else { FAILED };
        let _ = self.attempt.compare_exchange(turn.0, (turn.0 & !OUTCOME) | outcome, Release, Relaxed);
    }
}

/// The right to fetch.
#[derive(Clone, Copy)]
pub struct FetchRight(i64);

/// The slot of an issuer, taken for it if need be: this session's own where all that are shared are in use.
pub fn slot(owner: &Owner, now: Timestamp) -> Option<&'static KeySlot> {
    let found = key_slots().find_map(|slots| slot_among(slots, &words(owner), now));
    found.inspect(|slot| slot.asked.store(now.0, Relaxed))
}

fn slot_among(slots: &'static [KeySlot; SLOTS], wanted: &[u64; 4], now: Timestamp) -> Option<&'static KeySlot> {
    if let Some(known) = slots.iter().find(|slot| slot.owner() == *wanted) {
        return Some(known);
    }
    // Everybody begins at the same place, so that an issuer gets one slot.
    let first = wanted[0] as usize % SLOTS;
    (0..SLOTS).map(|step| &slots[(first + step) % SLOTS]).find(|slot| slot.take(wanted, now))
}

/// Gives the slot of an issuer back.
pub fn forget(owner: &Owner) {
    let wanted = words(owner);
    for slot in key_slots().flatten().filter(|slot| slot.owner() == wanted) {
        slot.change(|| slot.owner.iter().for_each(|word| word.store(0, Relaxed)));
    }
}
