//! Who a token or a name stands for: remembered, asked and mapped.

use crate::core::identity::{Authority, Identity, Provider, Subject};
use crate::core::provider::cache::{Answer, Cache, Resolution, Resolved};
use crate::core::provider::outage::Outage;
use crate::core::provider::refusals::{Refusals, Throttle};
use crate::core::session::Impersonation;
use crate::core::session::presented::{Credential, Kind};
use crate::core::time::{Timestamp, end_of_life, recording_interval};
use crate::core::token::{Digest, Secret};
use crate::error::Error;
use crate::pg::catalog::{self, Installation, roles};
use crate::pg::shared::answers;
use crate::pg::sys::clock::statement_time;
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::{report, wait};
use crate::pg::{gate, shared};
use crate::provider::{self, Failure, together};
use crate::rights::mapping;
use crate::{audit, jobs, settings};
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
    static REFUSALS: RefCell<Refusals> = RefCell::default();
    static THROTTLE: RefCell<Throttle> = RefCell::default();
    /// The count of changes of the provider for which the cache and the refusals hold.
    static KNOWN_PROVIDER: Cell<u64> = const { Cell::new(0) };
    /// When a provider could last not be reached.
    static LAST_OUTAGE: Cell<Option<Timestamp>> = const { Cell::new(None) };
}

pub fn with_cache<T>(look: impl FnOnce(&mut Cache) -> T) -> T {
    CACHE.with_borrow_mut(look)
}

/// Who a credential stands for, and which role they have: what is remembered if it still holds, else the provider's
/// answer.
pub fn resolved(
    installed: &Installation,
    credential: &Credential,
    text: Option<&Secret>,
    impersonator: u32,
    now: Timestamp,
) -> Result<Resolved, Error> {
    forget_other_providers();
    let digest = &credential.digest();
    // Read first: an invalidation that arrives meanwhile makes what is found now stale.
    let generation = gate::generation();
    let known = match with_cache(|cache| cache.get(digest).cloned()) {
        Some(known)
            if known.answer.is_fresh(now, &settings::limits())
                && known.is_current(generation, impersonator, now) =>
        {
            shared::counters().cache_hits.fetch_add(1, Relaxed);
            return Ok(known);
        }
        known => known.map(|known| known.answer),
    };
    let (answer, is_new) = answer(installed, credential, text, known, now)?;
    let is_costly = is_new && is_remote(answer.provider);
    let found = mapped(installed, answer, impersonator, generation, now).inspect_err(|_| {
        with_cache(|cache| cache.remove(digest));
        if is_costly {
            hold_back(now);
        }
    });
    let resolved = found.map_err(|error| match error {
        Error::TokenInvalid if credential.kind() == Kind::Name => Error::UserDisabled,
        other => other,
    })?;
    let capacity = settings::token_cache_size();
    let evicted = with_cache(|cache| cache.insert(*digest, resolved.clone(), capacity));
    shared::counters().cache_evictions.fetch_add(evicted, Relaxed);
    inject::point(Point::Cached);
    Ok(resolved)
}

/// What is known of a credential, as far as it may serve, else what its provider says; and whether that is new.
fn answer(
    installed: &Installation,
    credential: &Credential,
    text: Option<&Secret>,
    known: Option<Answer>,
    now: Timestamp,
) -> Result<(Answer, bool), Error> {
    if let Credential::Name(identity) = credential {
        return Ok((named(identity, now), true));
    }
    let limits = settings::limits();
    let key = together::key(installed, &credential.digest());
    let others = || together::known(&key, now).map(|known| Answer::of(known, now));
    // What any session has heard since counts.
    let serves = |known: &Answer| {
        known.may_serve(now, &limits) && answers::withdrawn(&key).is_none_or(|at| known.validated > at)
    };
    let known_use = known.as_ref().map(|known| known.last_used);
    match known {
        // What changed in this database says nothing about a token that another server vouches for.
        Some(known) if known.is_fresh(now, &limits) && is_remote(known.provider) => Ok((known, false)),
        Some(known) if serves(&known) && is_down(now) => Ok((known, false)),
        known => match ask(installed, &credential.digest(), text, known_use, now, now) {
            Ok(resolution) => Ok((Answer::of(resolution, now), true)),
            Err(Failure::Refused(refusal)) => Err(refusal.into()),
            Err(Failure::Outage(outage)) => match known.or_else(others).filter(serves) {
                Some(known) if outage.is_silence() => {
                    report_outage(&outage, now);
                    Ok((known, false))
                }
                _ => Err(Error::ProviderUnavailable(outage)),
            },
        },
    }
}

/// What this database makes of an answer: the identity, the rules, the role.
fn mapped(
    installed: &Installation,
    answer: Answer,
    impersonator: u32,
    generation: u64,
    now: Timestamp,
) -> Result<Resolved, Error> {
    let identity = mapping::identity(installed, &answer.subject)?;
    audit::presented_for(&identity);
    let actor = answer.claims.as_ref().and_then(|claims| claims.bearer.actors.first());
    let actor = actor.map_or("", |actor| actor.id.as_str());
    mapping::check_rules(installed, &identity, actor, impersonator)?;
    let role = mapping::mapped_role(installed, &identity, answer.subject.role_name.as_deref(), impersonator)?;
    let subscriptions_end = jobs::end_subscriptions(installed, &identity, now)?;
    Ok(Resolved {
        answer,
        identity: Rc::new(identity),
        role,
        role_name: Rc::new(roles::names(role).ok_or(Error::Inconsistent)?),
        subscriptions_end,
        generation,
        impersonator,
    })
}

/// What was learned from another provider, or from the same one elsewhere, counts no longer.
fn forget_other_providers() {
    let provider = gate::provider();
    if KNOWN_PROVIDER.replace(provider) != provider {
        with_cache(|cache| cache.clear());
        REFUSALS.with_borrow_mut(|refusals| refusals.clear());
        LAST_OUTAGE.set(None);
    }
}

/// Asks the provider. What a remote one refused it is not asked again for a while, and who presents many such tokens
/// has to wait for each answer.
fn ask(
    installed: &Installation,
    digest: &Digest,
    text: Option<&Secret>,
    known_use: Option<Timestamp>,
    used: Timestamp,
    now: Timestamp,
) -> Result<Resolution, Failure> {
    let refused = REFUSALS.with_borrow(|refusals| refusals.find(digest, now, settings::negative_cache_ttl()));
    if let Some(refusal) = refused {
        return Err(Failure::Refused(refusal));
    }
    shared::counters().cache_misses.fetch_add(1, Relaxed);
    let key = together::key(installed, digest);
    let known_use = known_use.max(answers::last_use(&key));
    let resolve = || provider::resolve(installed, digest, text, known_use, now);
    let is_remote = provider::is_remote_for(text);
    let answer = if is_remote { together::ask(&key, &settings::limits(), now, used, resolve) } else { resolve() };
    if let Err(Failure::Outage(outage)) = &answer
        && !outage.is_silence()
    {
        with_cache(|cache| cache.remove(digest));
    }
    if let Err(Failure::Refused(refusal)) = &answer {
        with_cache(|cache| cache.remove(digest));
        // Guesses cost nobody but this session where nobody is asked.
        if is_remote {
            REFUSALS.with_borrow_mut(|refusals| refusals.remember(*digest, *refusal, now));
            hold_back(now);
        }
    }
    answer
}

/// Whether another server is asked about each token.
fn is_remote(provider: Provider) -> bool {
    matches!(provider, Provider::Immuta | Provider::Introspection)
}

fn hold_back(now: Timestamp) {
    let pause = THROTTLE.with_borrow_mut(|throttle| throttle.failed(now));
    wait::pause(pause);
}

/// Whether the provider could not be reached a moment ago: while its last answers serve, it is not asked in every
/// transaction.
fn is_down(now: Timestamp) -> bool {
    const PAUSE: Duration = Duration::from_secs(5);
    LAST_OUTAGE.get().is_some_and(|last| !now.is_past(last, PAUSE))
}

fn report_outage(outage: &Outage, now: Timestamp) {
    LAST_OUTAGE.set(Some(now));
    report::log(
        format!("the token provider cannot be asked: {}; its last answers serve meanwhile", outage.why()),
        "See bodata.provider_grace.",
    );
}

/// Asks about a token without counting that as a use: the user, and when the token expires. `None` for a token that is
/// not active.
pub fn resolve_for_check(token: &[u8]) -> Result<Option<(Identity, Timestamp)>, Error> {
    let (Some(installed), Some(text)) = (catalog::installation(), Secret::of(token)) else { return Ok(None) };
    forget_other_providers();
    let (now, limits, digest) = (statement_time(), settings::limits(), Digest::of(token));
    let known = with_cache(|cache| cache.peek(&digest).cloned());
    let known_use = known.as_ref().map(|known| known.answer.last_used);
    let answered = match known {
        Some(Resolved { answer, .. }) if is_remote(answer.provider) && answer.is_fresh(now, &limits) => {
            Ok((answer.subject, answer.provider, answer.last_used, answer.expires))
        }
        _ => ask(&installed, &digest, Some(&text), known_use, known_use.unwrap_or(now), now)
            .map(|answer| (Rc::new(answer.subject), answer.provider, answer.last_used, answer.expires)),
    };
    let (subject, provider, last_used, expires) = match answered {
        Ok(answered) => answered,
        Err(Failure::Refused(_)) => return Ok(None),
        Err(Failure::Outage(outage)) => return Err(Error::ProviderUnavailable(outage)),
    };
    let Ok(identity) = mapping::identity(&installed, &subject) else { return Ok(None) };
    if mapping::is_disabled(&installed, &identity) {
        return Ok(None);
    }
    let last_used = known_use.map_or(last_used, |known| known.max(last_used));
    Ok(Some((identity, end_of_life(last_used, expires, settings::idle_ttl_of(provider)))))
}

/// Whether the provider can be asked at all: about a token that nobody has.
pub fn provider_fault() -> Option<Outage> {
    const NOBODYS: &[u8] = b"immuta_ext-doctor";
    let installed = catalog::installation()?;
    if settings::token_provider() == Provider::Jwt {
        return provider::jwt::fault(&installed);
    }
    let text = Secret::of(NOBODYS);
    match provider::resolve(&installed, &Digest::of(NOBODYS), text.as_ref(), None, statement_time()) {
        Err(Failure::Outage(outage)) => Some(outage),
        Ok(_) | Err(Failure::Refused(_)) => None,
    }
}

/// What a name says, in the form of what a provider answers.
fn named(identity: &Identity, now: Timestamp) -> Answer {
    let subject = Subject {
        authority: Authority::Iam(identity.iamid.clone()),
        userid: identity.userid.clone(),
        role_name: None,
    };
    let (provider, last_used, validated) = (Provider::Name, now, now);
    let resolution =
        Resolution { provider, subject, last_used, validated, expires: None, token_id: 0, claims: None };
    Answer::of(resolution, now)
}

/// Forgets what is known of tokens, also what all sessions with this provider know together; how many this session knew.
pub fn flush() -> usize {
    if let Some(installed) = catalog::installation() {
        answers::forget(together::scope(&installed));
    }
    REFUSALS.with_borrow_mut(|refusals| refusals.clear());
    with_cache(|cache| cache.clear())
}

/// Records the use of a token of ours, unless another session does or did; the use that stands in the table then.
pub fn record(digest: &Digest, token_id: i64, recorded: Timestamp, now: Timestamp) -> Timestamp {
    let interval = recording_interval(settings::token_idle_ttl());
    let Some(installed) = catalog::installation().filter(|_| now.is_past(recorded, interval)) else {
        return recorded;
    };
    let key = together::key(&installed, digest);
    if let Err(since) = answers::take_recording(&key, |since, now| now.is_past(since, interval)) {
        return since.min(now);
    }
    let stands = jobs::record(digest, token_id, recorded, now);
    if now.is_past(stands, interval) {
        answers::give_recording_back(&key);
    }
    stands
}

/// What is known of a token counts no longer. Must not fail.
pub fn forget(digest: &Digest) {
    CACHE.with(|cache| {
        if let Ok(mut cache) = cache.try_borrow_mut() {
            cache.remove(digest);
        }
    });
}

/// Uses count whatever becomes of the transaction. Must not fail.
pub fn touch(ended: &Impersonation) {
    if let Some(key) = together::known_key(&ended.digest)
        && !matches!(ended.provider, Provider::Name | Provider::Jwt)
    {
        answers::note_use(&key, ended.last_used);
    }
    CACHE.with(|cache| {
        if let Ok(mut cache) = cache.try_borrow_mut() {
            cache.touch(&ended.digest, ended.last_used, ended.recorded);
        }
    });
}
