//! What the sessions of the server know together of tokens: what a remote provider said, when each token was last used, and
//! who asks just now. In shared memory only (`tables`): without it every session knows what it asked itself.
//!
//! Two tables of sets with a few places each. A token has one set, by its digest; the place that was used least recently
//! gives way. What was refused, or is still being asked, has a table of its own: whoever guesses tokens takes no place from
//! one that is in use.

use crate::core::identity::{Provider, Subject};
use crate::core::provider::flight::{self, Asked, AskedNow, Failed, Next};
use crate::core::provider::refusals::Refusal;
use crate::core::time::Timestamp;
use crate::core::token::Digest;
pub use crate::pg::shared::tables::join;
use crate::pg::shared::tables::{answer_sets, asked_sets};
use crate::pg::shared::versions::{Versions, load, store, words};
use crate::pg::sys::clock;
use pgrx::pg_sys;
use std::cell::Cell;
use std::ffi::c_int;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering::*};
use std::time::Duration;

/// Places of a set.
pub(super) const WAYS: usize = 8;
/// Sets of tokens that are being asked about, or were refused.
pub(super) const ASKED_SETS: usize = 512;
/// Longest description of a user; a longer one is not shared.
const TEXT_WORDS: usize = 80;
const NO_END: i64 = i64::MAX;

/// What a token is known by: its digest, and the database and the provider's settings for which an answer counts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Key([u64; 6]);

/// The database (with the extension in it), and a digest of the provider's settings.
pub type Scope = [u64; 2];

impl Key {
    pub fn new(digest: &Digest, scope: Scope) -> Key {
        let [first, second, third, fourth] = words(&digest.0);
        Key([first, second, third, fourth, scope[0], scope[1]])
    }

    fn set<T>(&self, sets: &'static [T]) -> Option<&'static T> {
        let count = u64::try_from(sets.len()).ok().filter(|count| *count > 0)?;
        sets.get(usize::try_from(self.0[0] % count).ok()?)
    }
}

/// The key of a place; all zero while that is free.
#[repr(transparent)]
struct TokenPlace([AtomicU64; 6]);

impl TokenPlace {
    fn is(&self, key: &Key) -> bool {
        self.0.iter().zip(key.0).all(|(word, wanted)| word.load(Relaxed) == wanted)
    }

    fn is_free(&self) -> bool {
        self.is(&Key([0; 6]))
    }

    fn set(&self, key: &Key) {
        self.0.iter().zip(key.0).for_each(|(word, new)| word.store(new, Relaxed));
    }
}

#[repr(C)]
struct AnswerPlace {
    key: TokenPlace,
    last_used: AtomicI64,
    /// When it was last taken upon a session to record the use.
    recorded: AtomicI64,
    /// When the provider vouched for it; 0 where only uses are known.
    validated: AtomicI64,
    /// When it last did not; what it said before counts no longer, in no session.
    withdrawn: AtomicI64,
    expires: AtomicI64,
    length: AtomicU32,
    text: [AtomicU64; TEXT_WORDS],
}

/// All zero is a value.
#[repr(C)]
pub(super) struct AnswerSet {
    versions: Versions,
    places: [AnswerPlace; WAYS],
}

impl AnswerSet {
    fn find(&self, key: &Key) -> Option<&AnswerPlace> {
        self.places.iter().find(|place| place.key.is(key))
    }

    /// The place of a token, taken for it if need be. To be called alone.
    fn take(&self, key: &Key, now: Timestamp) -> Option<&AnswerPlace> {
        self.find(key).or_else(|| {
            let oldest = self.places.iter().min_by_key(|place| place.last_used.load(Relaxed))?;
            oldest.key.set(key);
            oldest.last_used.store(now.0, Relaxed);
            for number in [&oldest.recorded, &oldest.validated, &oldest.withdrawn] {
                number.store(0, Relaxed);
            }
            oldest.length.store(0, Relaxed);
            Some(oldest)
        })
    }
}

/// What is known of a token.
pub struct Known {
    pub provider: Provider,
    pub subject: Subject,
    pub validated: Timestamp,
    pub expires: Option<Timestamp>,
    pub last_used: Timestamp,
}

/// What a provider last said of a token, whichever session asked.
pub fn known(key: &Key) -> Option<Known> {
    let set = key.set(answer_sets())?;
    let (found, _) = set.versions.read(|| {
        set.find(key).filter(|place| place.validated.load(Relaxed) != 0).map(|place| {
            let number = |number: &AtomicI64| Timestamp(number.load(Relaxed));
            let times = (number(&place.validated), number(&place.expires), number(&place.last_used));
            (load(&place.text, &place.length), times)
        })
    });
    let (text, (validated, expires, last_used)) = found?;
    let (provider, subject) = flight::decode(&text)?;
    Some(Known { provider, subject, validated, expires: (expires.0 != NO_END).then_some(expires), last_used })
}

/// Whether sessions share anything.
pub fn are_shared() -> bool {
    !answer_sets().is_empty()
}

/// Tells all sessions what a provider said.
fn keep(key: &Key, known: &Known, text: &[u8]) {
    let Some(set) = key.set(answer_sets()) else { return };
    set.versions.change(|| {
        let is_newer = |place: &&AnswerPlace| known.validated.0 > place.withdrawn.load(Relaxed);
        if let Some(place) = set.take(key, known.last_used).filter(is_newer) {
            store(&place.text, &place.length, text);
            place.last_used.fetch_max(known.last_used.0, Relaxed);
            place.expires.store(known.expires.map_or(NO_END, |end| end.0), Relaxed);
            place.validated.store(known.validated.0, Relaxed);
        }
    });
}

/// A provider no longer vouches for a token.
pub fn withdraw(key: &Key) {
    let Some(set) = key.set(answer_sets()) else { return };
    let now = clock::wall_time();
    set.versions.change(|| {
        if let Some(place) = set.find(key) {
            place.validated.store(0, Relaxed);
            place.withdrawn.store(now, Relaxed);
        }
    });
}

/// When a provider last did not vouch for a token, as far as that is known.
pub fn withdrawn(key: &Key) -> Option<Timestamp> {
    let set = key.set(answer_sets())?;
    let at = set.versions.read(|| set.find(key).map_or(0, |place| place.withdrawn.load(Relaxed))).0;
    (at != 0).then_some(Timestamp(at))
}

/// When a token was last used, in whichever session.
pub fn last_use(key: &Key) -> Option<Timestamp> {
    let set = key.set(answer_sets())?;
    set.versions.read(|| set.find(key).map(|place| Timestamp(place.last_used.load(Relaxed)))).0
}

/// A token was used. Cannot fail; to the second, so that sessions that share a token do not queue for its place.
pub fn note_use(key: &Key, at: Timestamp) {
    const SECOND: i64 = 1_000_000;
    let Some(set) = key.set(answer_sets()) else { return };
    if last_use(key).is_some_and(|known| known.0.saturating_add(SECOND) > at.0) {
        return;
    }
    set.versions.change(|| {
        if let Some(place) = set.take(key, at) {
            place.last_used.fetch_max(at.0, Relaxed);
        }
    });
}

/// Takes it upon this session to record the use of a token, unless another one did and that is not due again; when it did. The time
/// is told as in [`ask`].
pub fn take_recording(key: &Key, is_due: impl Fn(Timestamp, Timestamp) -> bool) -> Result<(), Timestamp> {
    let Some(set) = key.set(answer_sets()) else { return Ok(()) };
    set.versions.change(|| {
        let now = Timestamp(clock::wall_time());
        let Some(place) = set.take(key, now) else { return Ok(()) };
        let recorded = Timestamp(place.recorded.load(Relaxed));
        if recorded.0 != 0 && !is_due(recorded, now) {
            return Err(recorded);
        }
        place.recorded.store(now.0, Relaxed);
        Ok(())
    })
}

/// It could not be recorded: the next session may try.
pub fn give_recording_back(key: &Key) {
    let Some(set) = key.set(answer_sets()) else { return };
    set.versions.change(|| {
        if let Some(place) = set.find(key) {
            place.recorded.store(0, Relaxed);
        }
    });
}

#[repr(C)]
struct AskedPlace {
    key: TokenPlace,
    at: AtomicI64,
    /// When an attempt failed, and for how many milliseconds it might have taken.
    failed: AtomicI64,
    timeout: AtomicU32,
    is_silence: AtomicU32,
    what: AtomicU32,
}

const RUNNING: u32 = 1;
const UNSHARED: u32 = 2;
const INVALID: u32 = 3;
const NOT_ALLOWED: u32 = 4;

impl AskedPlace {
    fn asked(&self) -> Asked {
        let at = Timestamp(self.at.load(Relaxed));
        let now = match self.what.load(Relaxed) {
            RUNNING => AskedNow::Running(at),
            UNSHARED => AskedNow::Unshared,
            INVALID => AskedNow::Refused(Refusal::Invalid, at),
            NOT_ALLOWED => AskedNow::Refused(Refusal::NotAllowed, at),
            _ => AskedNow::Never,
        };
        let failed = Timestamp(self.failed.load(Relaxed));
        let is_silence = self.is_silence.load(Relaxed) != 0;
        let timeout = Duration::from_millis(self.timeout.load(Relaxed).into());
        Asked { now, failed: (failed.0 != 0).then_some(Failed { at: failed, is_silence, timeout }) }
    }

    fn take(&self, key: &Key) {
        if !self.key.is(key) {
            self.key.set(key);
            self.failed.store(0, Relaxed);
        }
    }

    fn free(&self) {
        self.key.set(&Key([0; 6]));
        self.what.store(0, Relaxed);
        self.failed.store(0, Relaxed);
    }
}

/// All zero is a value.
#[repr(C)]
pub(super) struct AskedSet {
    versions: Versions,
    places: [AskedPlace; WAYS],
}

/// The right to ask, which ends with it. None of the places need be free: then a session asks for itself alone.
pub struct AskingTurn {
    key: Key,
    begun: i64,
}

/// What became of an attempt.
pub enum Outcome<'a> {
    Known(&'a Known),
    Refused(Refusal),
    Failed { is_silence: bool, timeout: Duration },
}

thread_local! {
    /// The turn of this session, to be given back if the process ends.
    static MINE: Cell<Option<(Key, i64)>> = const { Cell::new(None) };
    /// Whether the end of the process is watched for that.
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

/// Decides, alone, what this session does about a token; if it is to ask, the turn is its own. The time is told once nobody else
/// can take a turn: a turn that began after it would look like one of a clock that was set back.
pub fn ask(key: &Key, decide: impl Fn(Asked, Timestamp) -> Next) -> (Next, Option<AskingTurn>) {
    let Some(set) = key.set(asked_sets()) else { return (Next::Ask, None) };
    let (next, mine) = set.versions.change(|| {
        let now = Timestamp(clock::wall_time());
        let place = set.places.iter().find(|place| place.key.is(key));
        let next = place.map_or(Next::Ask, |place| decide(place.asked(), now));
        if next != Next::Ask {
            return (next, None);
        }
        // Those that are being asked keep their places while that takes no longer than it may.
        let may_give_way = |place: &&AskedPlace| {
            place.key.is_free()
                || place.what.load(Relaxed) != RUNNING
                || decide(Asked { failed: None, ..place.asked() }, now) == Next::Ask
        };
        let place =
            place.or_else(|| set.places.iter().filter(may_give_way).min_by_key(|place| place.at.load(Relaxed)));
        if let Some(place) = place {
            place.take(key);
            place.at.store(now.0, Relaxed);
            place.what.store(RUNNING, Relaxed);
        }
        (next, place.map(|_| now.0))
    });
    let Some(begun) = mine else { return (next, None) };
    MINE.set(Some((*key, begun)));
    if !WATCHED.replace(true) {
        // SAFETY: the callback stays valid and only stores to shared memory.
        unsafe { pg_sys::before_shmem_exit(Some(give_back), 0.into()) };
    }
    (next, Some(AskingTurn { key: *key, begun }))
}

impl AskingTurn {
    /// Says what came of it, unless another session has taken over or all was forgotten meanwhile: then it is out of date.
    pub fn finish(self, outcome: Outcome) {
        let now = clock::wall_time();
        match outcome {
            Outcome::Known(known) => {
                let text = flight::encode(known.provider, &known.subject);
                let text = text.filter(|text| text.len() <= 8 * TEXT_WORDS);
                self.end(|place| match &text {
                    Some(text) => {
                        keep(&self.key, known, text);
                        place.free();
                    }
                    None => place.what.store(UNSHARED, Relaxed),
                });
            }
            Outcome::Refused(refusal) => {
                withdraw(&self.key);
                self.end(|place| {
                    place.at.store(now, Relaxed);
                    match refusal {
                        Refusal::Invalid => place.what.store(INVALID, Relaxed),
                        Refusal::NotAllowed => place.what.store(NOT_ALLOWED, Relaxed),
                        Refusal::Insufficient(_) => place.free(),
                    }
                });
            }
            Outcome::Failed { is_silence, timeout } => self.end(|place| {
                place.what.store(0, Relaxed);
                place.failed.store(now, Relaxed);
                place.is_silence.store(is_silence.into(), Relaxed);
                place.timeout.store(u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX), Relaxed);
            }),
        }
    }

    fn end(&self, change: impl FnOnce(&AskedPlace)) {
        end(&self.key, self.begun, change);
    }
}

/// Whoever leaves without an outcome (an error, a cancel) lets the next one ask.
impl Drop for AskingTurn {
    fn drop(&mut self) {
        MINE.set(None);
        self.end(AskedPlace::free);
    }
}

/// The end of a session that is terminated runs no destructors.
unsafe extern "C-unwind" fn give_back(_code: c_int, _arg: pg_sys::Datum) {
    if let Some((key, begun)) = MINE.take() {
        end(&key, begun, AskedPlace::free);
    }
}

/// Ends an attempt, unless another session has taken it over, or it has ended.
fn end(key: &Key, begun: i64, change: impl FnOnce(&AskedPlace)) {
    let Some(set) = key.set(asked_sets()) else { return };
    set.versions.change(|| {
        let mine = |place: &&AskedPlace| {
            place.key.is(key) && place.what.load(Relaxed) == RUNNING && place.at.load(Relaxed) == begun
        };
        if let Some(place) = set.places.iter().find(mine) {
            change(place);
        }
    });
}

/// Forgets what any provider said for the database of this scope, what it refused, and when tokens were used there. Who is
/// asking loses the turn first: what comes of it counts for nobody else.
pub fn forget([database, _]: Scope) {
    let is_of_scope = |place: &TokenPlace| place.0[4].load(Relaxed) == database;
    for set in asked_sets() {
        set.versions.change(|| {
            set.places.iter().filter(|place| is_of_scope(&place.key)).for_each(AskedPlace::free);
        });
    }
    for set in answer_sets() {
        set.versions.change(|| {
            set.places
                .iter()
                .filter(|place| is_of_scope(&place.key))
                .for_each(|place| place.key.set(&Key([0; 6])));
        });
    }
}
