//! Beginning an impersonation, and making sure of it at each statement.

use super::{
    CACHE, FIRST_USER, KNOWN_PROVIDER, LABELLED, LAST_OUTAGE, REFUSALS, SESSION, THROTTLE, guarded, may_present,
};
use crate::config::SingleUser;
use crate::core::cache::{Cache, Entry};
use crate::core::guard;
use crate::core::identity::{Identity, Label, Provider, Resolution, Subject};
use crate::core::outage::Outage;
use crate::core::session::{Due, Impersonation};
use crate::core::time::{Timestamp, end_of_life, is_in_force, recording_interval};
use crate::core::token::{Digest, Secret};
use crate::error::Error;
use crate::pg::catalog::{self, Installation};
use crate::pg::guc::{self, Presented};
use crate::pg::nodes::Permissions;
use crate::pg::{client, gate, raw, report, role, shared, wait, xact};
use crate::resolve::{self, Failure};
use crate::{activity, audit, config, mapping};
use std::ffi::CString;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

pub const OPENED_BEFORE: &str = "this statement or cursor was opened before the token was set";

fn now() -> Timestamp {
    Timestamp(raw::GetCurrentStatementStartTimestamp())
}

/// The impersonation in force, if any.
pub fn active() -> Option<Impersonation> {
    SESSION.with_borrow(|session| session.active.clone())
}

pub fn with_cache<T>(look: impl FnOnce(&mut Cache) -> T) -> T {
    CACHE.with_borrow_mut(look)
}

/// The statement that presented a token is complete: from the next statement on, the session runs as its user.
pub fn establish(token: Presented) -> Result<(), Error> {
    let installed = catalog::installation().ok_or(Error::NoExtension)?;
    let impersonator = role::session_user();
    if !may_present(impersonator) {
        return Err(Error::NotHolder);
    }
    if !token.is_local {
        return Err(Error::NotLocal);
    }
    if xact::nest_level() != 1 {
        return Err(Error::InSubtransaction);
    }
    if !xact::runs_a_statement() {
        return Err(Error::OutOfStatement);
    }
    if gate::is_impersonating() {
        return Err(Error::Inconsistent);
    }
    if !token.is_well_formed {
        return Err(Error::TokenInvalid);
    }
    let now = now();
    let text = guc::take_text(&token.digest);
    let entry = resolved(&installed, &token.digest, text.as_ref(), impersonator, now)?;
    check_single_user(&entry.identity)?;
    guc::settle();
    if config::apply_role_settings() {
        guc::apply_settings_of(entry.role);
    }
    label(&entry);
    if !role::switch_to(entry.role) {
        return Err(Error::Inconsistent);
    }
    // What is set from here on is undone before commit. Not the role: that cannot change while it is locked.
    let settings_level = guc::new_level();
    let mut begun = Impersonation::new(token.digest, &entry, now, settings_level);
    if entry.provider == Provider::Local {
        begun.recorded = activity::record(&begun.digest, begun.token_id, begun.recorded, now);
    } else {
        begun.shown = text.map(|text| (Rc::new(text), entry.validated));
    }
    let started = audit::started(&begun);
    SESSION.with_borrow_mut(|session| session.active = Some(begun));
    gate::set_impersonating(true);
    started
}

/// Names the user in `application_name`, where the administrator wants that: for all that logs it.
fn label(entry: &Entry) {
    let Some(template) = config::application_name_template() else { return };
    let role = role::name(entry.role).unwrap_or_default();
    let name = Label { application: &client::application_name(), identity: &entry.identity, role: &role };
    if let Ok(name) = CString::new(name.fill(&template)) {
        guc::label_application(&name);
        LABELLED.set(true);
    }
}

/// Where a session is for one user only, it is that of the first.
fn check_single_user(identity: &Rc<Identity>) -> Result<(), Error> {
    FIRST_USER.with_borrow_mut(|first| {
        let first = first.get_or_insert_with(|| Rc::clone(identity));
        if first == identity || config::single_impersonation_user() != SingleUser::On {
            Ok(())
        } else {
            Err(Error::AnotherUser)
        }
    })
}

/// The cached entry if it still holds, else the provider's answer.
fn resolved(
    installed: &Installation,
    digest: &Digest,
    text: Option<&Secret>,
    impersonator: u32,
    now: Timestamp,
) -> Result<Entry, Error> {
    forget_other_providers();
    // Read first: an invalidation that arrives meanwhile makes what is found now stale.
    let generation = gate::generation();
    let is_current = |entry: &Entry| {
        entry.generation == generation
            && entry.impersonator == impersonator
            && entry.subscriptions_end.is_none_or(|end| now < end)
    };
    let map = |entry: Entry| {
        locate(installed, &entry.subject, impersonator)
            .and_then(|(identity, role)| {
                let subscriptions_end = activity::end_subscriptions(installed, &identity, now)?;
                let identity = Rc::new(identity);
                Ok(Entry { identity, role, subscriptions_end, generation, impersonator, ..entry })
            })
            .inspect_err(|_| with_cache(|cache| cache.remove(digest)))
    };
    let limits = config::limits();

    let known = with_cache(|cache| cache.get(digest).cloned());
    let known_use = known.as_ref().map(|entry| entry.last_used);
    let entry = match known {
        Some(entry) if entry.is_fresh(now, &limits) && is_current(&entry) => {
            shared::counters().cache_hits.fetch_add(1, Relaxed);
            return Ok(entry);
        }
        // What changed in this database says nothing about a token that another server vouches for.
        Some(entry) if entry.is_fresh(now, &limits) && entry.provider != Provider::Local => map(entry)?,
        Some(entry) if entry.may_serve(now, &limits) && is_down(now) => map(entry)?,
        known => match ask(installed, digest, text, known_use, now) {
            Ok(answer) => {
                let provider = answer.provider;
                map(Entry::of(answer, now)).inspect_err(|_| {
                    if provider != Provider::Local {
                        hold_back(now);
                    }
                })?
            }
            Err(Failure::Refused(refusal)) => return Err(refusal.into()),
            Err(Failure::Outage(outage)) => match known.filter(|entry| entry.may_serve(now, &limits)) {
                Some(entry) => {
                    report_outage(&outage, now);
                    map(entry)?
                }
                None => return Err(Error::ProviderUnavailable(outage)),
            },
        },
    };
    let capacity = config::token_cache_size();
    let evicted = with_cache(|cache| cache.insert(*digest, entry.clone(), capacity));
    shared::counters().cache_evictions.fetch_add(evicted, Relaxed);
    Ok(entry)
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

/// The identity and role of a subject, as this database has them now.
fn locate(installed: &Installation, subject: &Subject, impersonator: u32) -> Result<(Identity, u32), Error> {
    let identity = mapping::identity(installed, subject)?;
    audit::presented_for(&identity);
    mapping::check_rules(installed, &identity, impersonator)?;
    let role = mapping::mapped_role(installed, &identity, subject.role_name.as_deref(), impersonator)?;
    Ok((identity, role))
}

/// Asks the provider. What a remote one refused it is not asked again for a while, and who presents many such tokens
/// has to wait for each answer.
fn ask(
    installed: &Installation,
    digest: &Digest,
    text: Option<&Secret>,
    known_use: Option<Timestamp>,
    now: Timestamp,
) -> Result<Resolution, Failure> {
    let refused = REFUSALS.with_borrow(|refusals| refusals.find(digest, now, config::negative_cache_ttl()));
    if let Some(refusal) = refused {
        return Err(Failure::Refused(refusal));
    }
    shared::counters().cache_misses.fetch_add(1, Relaxed);
    let answer = resolve::resolve(installed, digest, text, known_use, now);
    if let Err(Failure::Refused(refusal)) = &answer {
        with_cache(|cache| cache.remove(digest));
        if config::token_provider() != Provider::Local {
            REFUSALS.with_borrow_mut(|refusals| refusals.remember(*digest, *refusal, now));
            hold_back(now);
        }
    }
    answer
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
    let (now, limits, digest) = (now(), config::limits(), Digest::of(token));
    let known = with_cache(|cache| cache.peek(&digest).cloned());
    let known_use = known.as_ref().map(|entry| entry.last_used);
    let answered = match known {
        Some(entry) if entry.provider != Provider::Local && entry.is_fresh(now, &limits) => {
            Ok((entry.subject, entry.last_used, entry.expires))
        }
        _ => ask(&installed, &digest, Some(&text), known_use, now)
            .map(|answer| (Rc::new(answer.subject), answer.last_used, answer.expires)),
    };
    let (subject, last_used, expires) = match answered {
        Ok(answered) => answered,
        Err(Failure::Refused(_)) => return Ok(None),
        Err(Failure::Outage(outage)) => return Err(Error::ProviderUnavailable(outage)),
    };
    let Ok(identity) = mapping::identity(&installed, &subject) else { return Ok(None) };
    if mapping::is_disabled(&installed, &identity) {
        return Ok(None);
    }
    let last_used = known_use.map_or(last_used, |known| known.max(last_used));
    Ok(Some((identity, end_of_life(last_used, expires, limits.idle_ttl))))
}

/// Whether the provider can be asked at all: about a token that nobody has.
pub fn provider_fault() -> Option<Outage> {
    const NOBODYS: &[u8] = b"immuta_ext-doctor";
    let installed = catalog::installation()?;
    let text = Secret::of(NOBODYS);
    match resolve::resolve(&installed, &Digest::of(NOBODYS), text.as_ref(), None, now()) {
        Err(Failure::Outage(outage)) => Some(outage),
        Ok(_) | Err(Failure::Refused(_)) => None,
    }
}

/// At each statement: the impersonation is still what it was, and its token still alive; the statement counts as use.
pub fn confirm() -> Result<(), Error> {
    let now = now();
    let due = SESSION.with_borrow_mut(|session| {
        let active = session.active.as_mut().ok_or(Error::Inconsistent)?;
        if !role::is_in_effect(active.role, active.impersonator) {
            return Err(Error::Inconsistent);
        }
        if xact::portal_dates_from(active.established) {
            return Err(Error::WhileImpersonating(OPENED_BEFORE.into()));
        }
        let idle_ttl = config::token_idle_ttl();
        if !is_in_force(active.last_used, active.expires, now, idle_ttl) {
            return Err(Error::TokenInvalid);
        }
        active.used = true;
        active.last_used = now;
        Ok(active.due(now, recording_interval(idle_ttl), config::limits().revalidate))
    })?;
    // Outside the borrow: recording reads a table.
    match due {
        Due::Nothing => {}
        Due::Record { digest, token_id, recorded } => {
            let recorded = activity::record(&digest, token_id, recorded, now);
            SESSION.with_borrow_mut(|session| {
                if let Some(active) = session.active.as_mut() {
                    active.recorded = recorded;
                }
            });
        }
        Due::Show { provider, token } => resolve::keep_alive(provider, &token),
    }
    Ok(())
}

/// What the executor itself does not stop.
pub fn check_function(oid: u32) -> Result<(), Error> {
    let refused = if oid < guard::FIRST_NORMAL_OBJECT_ID {
        guard::function_refused_while_impersonating(oid)
    } else {
        catalog::c_symbol(oid).and_then(|symbol| guard::code_refused_while_impersonating(&symbol))
    };
    match refused {
        Some(what) => Err(Error::WhileImpersonating(what.into())),
        None => Ok(()),
    }
}

/// The extension's own tables decide who is who: nobody reads or writes them under a token on his own rights, however
/// far those go (`pg_write_all_data`, say), or through a view of somebody who is not trusted.
pub fn check_relations(permissions: &Permissions) -> Result<(), Error> {
    let Some(installed) = catalog::installation() else { return Ok(()) };
    let may =
        |checked_as| if checked_as == 0 { guarded::has_authority() } else { guarded::is_trusted(checked_as) };
    if permissions.checked_as(|relation| installed.owns(relation)).into_iter().all(may) {
        Ok(())
    } else {
        Err(Error::WhileImpersonating("the tables of immuta_ext are closed".into()))
    }
}
