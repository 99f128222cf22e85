//! The keys of issuers: pinned, in a file, or fetched from the issuer by a helper thread, once for all sessions.

use crate::core::provider::endpoint::{document_fault, is_plain_http};
use crate::core::provider::jwt::cache::{self, Attempt, Metadata, State, Step};
use crate::core::provider::jwt::json::Json;
use crate::core::provider::jwt::keys::KeySet;
use crate::core::provider::jwt::policy::Keys;
use crate::core::provider::outage::Outage;
use crate::core::time::Timestamp;
use crate::core::token::Digest;
use crate::pg::guc;
use crate::pg::shared::keys::{self as shared_keys, FetchRight, KeySlot, MAX_BYTES, Owner};
use crate::pg::sys::{clock, wait};
use crate::provider::http::{self, Reply, Request};
use crate::{files, settings};
use std::cell::RefCell;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Longest document of an issuer.
const MAX_DOCUMENT_BYTES: usize = 256 * 1024;
/// Copies of the last good keys, below the data directory: they bridge a restart while the issuer is down.
const COPIES: &str = "immuta_jwt_keys";

/// Waits between two looks at what another thread does: longer each time, so that many sessions that wait leave it the time.
struct Looks(Duration);

impl Looks {
    const FIRST: Duration = Duration::from_millis(1);
    const LONGEST: Duration = Duration::from_millis(64);

    fn pause(&mut self) {
        wait::pause(self.0);
        self.0 = (self.0 * 2).min(Self::LONGEST);
    }
}

const FILE: &str = "bodata.jwt_keys_file";

/// What is known of an issuer's keys, for administrators.
pub struct KnownKeys {
    pub source: &'static str,
    pub keys: Rc<KeySet>,
    pub fetched: Option<Timestamp>,
    pub fresh_until: Option<Timestamp>,
    pub error: Option<String>,
}

/// The way to the keys of one issuer.
pub struct Source<'a> {
    pub issuer: &'a str,
    pub keys: &'a Keys,
}

/// The keys of an issuer as they are at `now`. That is told last: an attempt of another session that began after it would look
/// like one of a clock that was set back.
struct Looked {
    slot: &'static KeySlot,
    state: State,
    keys: Option<Rc<KeySet>>,
    now: Timestamp,
}

impl Source<'_> {
    /// The keys, in which that of the token is, if the issuer has it.
    pub fn find(&self, has_key: impl Fn(&KeySet) -> bool) -> Result<Rc<KeySet>, Outage> {
        if let Some((_, keys)) = self.at_hand()? {
            return Ok(keys);
        }
        let (owner, times) = (self.owner(), settings::jwt_key_times());
        // As exact as the time of an attempt.
        let called = Timestamp(clock::wall_time() & !3);
        let deadline = Instant::now() + times.timeout;
        let mut looks = Looks(Looks::FIRST);
        loop {
            let Looked { slot, state, keys, now } = self.look(&owner).ok_or(Outage::NoResources)?;
            let has_key = keys.as_ref().is_some_and(|keys| has_key(keys));
            let may_serve = || state.may_serve_anyway(has_key, now, &times);
            match state.attempt {
                // What was fetched since is the answer, however short the cool-down.
                Attempt::Good(begun) if begun >= called => return keys.ok_or(Outage::KeysUnusable),
                Attempt::Failed(begun) if begun >= called && !may_serve() => {
                    return Err(Outage::KeysMissing(slot.why()));
                }
                _ => {}
            }
            match state.step(has_key, now, &times) {
                Step::Use | Step::NoSuchKey => return keys.ok_or(Outage::KeysUnusable),
                Step::UseAndRefresh => {
                    // Whatever comes of it, the keys that are there serve.
                    self.begin(slot, owner, &state, now);
                    return keys.ok_or(Outage::KeysUnusable);
                }
                Step::Fetch => self.begin(slot, owner, &state, now),
                Step::Wait => {}
                Step::Down => return Err(Outage::KeysMissing(slot.why())),
            }
            if Instant::now() >= deadline {
                return keys.filter(|_| may_serve()).ok_or(Outage::Timeout);
            }
            looks.pause();
        }
    }

    /// Begins to fetch, unless another session was faster.
    fn begin(&self, slot: &'static KeySlot, owner: Owner, state: &State, now: Timestamp) {
        let Some(turn) = slot.take_turn(state, now) else { return };
        if let Err(outage) = self.fetch(slot, owner, turn, now) {
            slot.fail(&owner, &outage.why());
            slot.finish(turn, false);
        }
    }

    /// The keys that need not be fetched, and where they come from.
    fn at_hand(&self) -> Result<Option<(&'static str, Rc<KeySet>)>, Outage> {
        if let Keys::Pinned(keys) = self.keys {
            return Ok(Some(("pinned", Rc::new(keys.clone()))));
        }
        let in_file = of_file()?.iter().find(|(issuer, _)| issuer == self.issuer).map(|(_, keys)| Rc::clone(keys));
        Ok(in_file.map(|keys| ("file", keys)))
    }

    /// Other ways to the keys of the same issuer are other keys: each database has settings and administrators of its own.
    fn owner(&self) -> Owner {
        let way = match self.keys {
            Keys::Url(url) => url.as_str(),
            _ => "",
        };
        let plain = if settings::api_allow_http() { "http" } else { "https" };
        let parts = [self.issuer, way, &settings::api_ca_file(), &settings::api_proxy(), plain];
        Digest::of(parts.join("\0").as_bytes()).0
    }

    /// What is there, after a restart from the copy; `None` where no slot is free.
    fn look(&self, owner: &Owner) -> Option<Looked> {
        const GONE: State = State { attempt: Attempt::Never, good: None };
        let came = Timestamp(clock::wall_time());
        let slot = shared_keys::slot(owner, came)?;
        let (mut state, mut changes) = slot.state(owner).unwrap_or((GONE, 0));
        if state == GONE
            && let Some((text, fetched, end)) = read_copy(owner, came)
        {
            slot.put(owner, text.as_bytes(), fetched, end);
            (state, changes) = slot.state(owner).unwrap_or((GONE, changes));
        }
        let keys = state.good.and_then(|_| parsed(slot, owner, changes));
        Some(Looked { slot, state, keys, now: Timestamp(clock::wall_time()) })
    }

    /// Has a helper thread fetch the keys into the slot. Nobody's leaving ends that.
    fn fetch(&self, slot: &'static KeySlot, owner: Owner, turn: FetchRight, now: Timestamp) -> Result<(), Outage> {
        let (issuer, allows_http) = (self.issuer.to_owned(), settings::api_allow_http());
        let url = match self.keys {
            Keys::Url(url) => Some(url.clone()),
            _ => None,
        };
        http::detach(move |ask| {
            let fetched = download(ask, &issuer, url, allows_http);
            match &fetched {
                Ok((keys, lifetime)) => {
                    let text = keys.written(MAX_BYTES);
                    let end = now.plus(*lifetime);
                    slot.put(&owner, text.as_bytes(), now, end);
                    // Without it a restart costs a request.
                    let _ = write_copy(&owner, &text, now, end);
                }
                Err(outage) => slot.fail(&owner, &outage.why()),
            }
            slot.finish(turn, fetched.is_ok());
        })
    }

    /// Fetches the keys now, unless somebody is doing so: the cool-down is for others than administrators.
    pub fn refresh(&self) -> Result<(), Outage> {
        if self.at_hand()?.is_some() {
            return Ok(());
        }
        let owner = self.owner();
        let Looked { slot, state, now, .. } = self.look(&owner).ok_or(Outage::NoResources)?;
        if !matches!(state.attempt, Attempt::Running(_)) {
            self.begin(slot, owner, &state, now);
        }
        let deadline = Instant::now() + settings::api_timeout();
        let mut looks = Looks(Looks::FIRST);
        while Instant::now() < deadline {
            match slot.state(&owner).map(|(state, _)| state.attempt) {
                Some(Attempt::Good(_)) => return Ok(()),
                Some(Attempt::Failed(_)) => return Err(Outage::KeysMissing(slot.why())),
                _ => looks.pause(),
            }
        }
        Err(Outage::Timeout)
    }

    /// Nobody needs them any more.
    pub fn forget(&self) {
        shared_keys::forget(&self.owner());
    }

    /// What is there, without asking anybody.
    pub fn known(&self) -> KnownKeys {
        let source = if matches!(self.keys, Keys::Url(_)) { "url" } else { "discovery" };
        let none = |error| KnownKeys { source, keys: Rc::default(), fetched: None, fresh_until: None, error };
        match self.at_hand() {
            Err(outage) => return none(Some(outage.why().into_owned())),
            Ok(Some((source, keys))) => {
                return KnownKeys { source, keys, fetched: None, fresh_until: None, error: None };
            }
            Ok(None) => {}
        }
        let Some(Looked { slot, state, keys, .. }) = self.look(&self.owner()) else { return none(None) };
        let error = Some(slot.why()).filter(|why| !why.is_empty());
        let (fetched, fresh_until) = state.good.unzip();
        KnownKeys { source, keys: keys.unwrap_or_default(), fetched, fresh_until, error }
    }
}

/// What this session has read from slots, until they change.
type Parsed = Vec<(Owner, u32, Rc<KeySet>)>;

fn parsed(slot: &KeySlot, owner: &Owner, changes: u32) -> Option<Rc<KeySet>> {
    thread_local! {
        static PARSED: RefCell<Parsed> = const { RefCell::new(Vec::new()) };
    }
    PARSED.with_borrow_mut(|parsed| {
        if let Some((_, _, keys)) = parsed.iter().find(|(of, at, _)| of == owner && *at == changes) {
            return Some(Rc::clone(keys));
        }
        let keys = Rc::new(KeySet::read(&slot.text())?);
        // Read in the meantime, it may be of a later change: then it is read again the next time.
        parsed.retain(|(of, ..)| of != owner);
        parsed.truncate(shared_keys::SLOTS);
        parsed.push((*owner, changes, Rc::clone(&keys)));
        Some(keys)
    })
}

type Issuers = Rc<[(String, Rc<KeySet>)]>;

/// The keys in `bodata.jwt_keys_file`, read again after each reload.
fn of_file() -> Result<Issuers, Outage> {
    thread_local! {
        static READ: RefCell<Option<(String, i64, Issuers)>> = const { RefCell::new(None) };
    }
    let (path, loaded) = (settings::jwt_keys_file(), guc::reload_time());
    if path.is_empty() {
        return Ok(Rc::from([]));
    }
    READ.with_borrow_mut(|read| {
        if let Some((_, _, issuers)) = read.as_ref().filter(|(of, at, _)| *of == path && *at == loaded) {
            return Ok(Rc::clone(issuers));
        }
        let found = files::keys(&path).map_err(|why| Outage::File(FILE, why))?;
        let issuers: Issuers = found.into_iter().map(|(issuer, keys)| (issuer, Rc::new(keys))).collect();
        *read = Some((path, loaded, Rc::clone(&issuers)));
        Ok(issuers)
    })
}

type Ask<'a> = &'a dyn Fn(&Request) -> Result<Reply, Outage>;

/// The keys that an issuer publishes, and for how long they count. Runs on a helper thread.
fn download(ask: Ask, issuer: &str, url: Option<String>, allows_http: bool) -> Result<(KeySet, Duration), Outage> {
    let get = |url: String| {
        if document_fault(&url).is_some() || is_plain_http(&url) && !allows_http {
            return Err(Outage::Nonsense("names no https URL for its keys"));
        }
        let answer = ask(&Request { url, authorization: None, form: None })?;
        match answer.status {
            200 if answer.body.len() > MAX_DOCUMENT_BYTES => Err(Outage::TooLarge),
            200 => Ok(answer),
            status => Err(Outage::Status(status)),
        }
    };
    let url = match url {
        Some(url) => url,
        None => {
            let [first, second] = cache::metadata_urls(issuer);
            let metadata = match get(first) {
                Err(Outage::Status(404)) => get(second)?,
                answer => answer?,
            };
            cache::jwks_uri(&metadata.body, issuer).map_err(|fault| match fault {
                Metadata::OtherIssuer => Outage::OtherIssuer,
                Metadata::Unreadable => Outage::Nonsense("is not the metadata of an issuer"),
            })?
        }
    };
    let answer = get(url)?;
    let keys = KeySet::read(&answer.body).ok_or(Outage::KeysUnusable)?;
    Ok((keys, cache::lifetime(answer.cache_control.as_deref())))
}

fn copy_of(owner: &Owner) -> String {
    let name: String = owner.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{COPIES}/{name}.json")
}

/// Keeps a copy of good keys. They are no secret, but nobody else's either.
fn write_copy(owner: &Owner, keys: &str, fetched: Timestamp, end: Timestamp) -> std::io::Result<()> {
    if !fs::exists(COPIES)? {
        DirBuilder::new().mode(0o700).create(COPIES).or_else(|error| {
            if error.kind() == std::io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
        })?;
    }
    let (path, new) = (copy_of(owner), format!("{}.{}", copy_of(owner), std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    write!(file, r#"{{"fetched":{},"fresh_until":{},"jwks":{keys}}}"#, fetched.0, end.0)?;
    drop(file);
    fs::rename(new, path)
}

fn read_copy(owner: &Owner, now: Timestamp) -> Option<(String, Timestamp, Timestamp)> {
    let path = copy_of(owner);
    let about = fs::metadata(&path).ok().filter(|about| about.is_file())?;
    if about.len() > 2 * MAX_BYTES as u64 {
        return None;
    }
    let copy = Json::read(&fs::read(path).ok()?)?;
    let time = |name| copy.member(name).and_then(Json::number).map(|micros| Timestamp(micros as i64));
    let (fetched, end) = (time("fetched")?, time("fresh_until")?);
    let keys = KeySet::of(copy.member("jwks")?)?;
    let is_plausible = fetched <= now && fetched < end && end <= fetched.plus(Duration::from_secs(24 * 3600));
    is_plausible.then(|| (keys.written(MAX_BYTES), fetched, end))
}
