//! Beginning an impersonation, and making sure of it at each statement.

use super::{
    CACHE, KNOWN_PROVIDER, LABELLED, LAST_OUTAGE, REFUSALS, SESSION, THROTTLE, by_name, guarded, may_present,
    session_scope,
};
use crate::core::cache::{Cache, Entry};
use crate::core::guard;
use crate::core::identity::{Identity, Label, Provider, Resolution};
use crate::core::outage::Outage;
use crate::core::presented::Kind;
use crate::core::session::{Due, Impersonation, Scope};
use crate::core::time::{Timestamp, end_of_life, is_in_force, recording_interval};
use crate::core::token::{Digest, Secret};
use crate::error::Error;
use crate::pg::catalog::{self, Installation};
use crate::pg::guc::{self, Lasting, Which};
use crate::pg::nodes::{Handled, Permissions};
use crate::pg::{client, cursor, gate, name_guc, raw, report, role, shared, wait, xact};
use crate::resolve::{self, Failure};
use crate::{activity, audit, config, mapping};
use std::ffi::CString;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

pub const OPENED_BEFORE: &str = "this statement or cursor was opened before the token was set";

pub fn now() -> Timestamp {
    Timestamp(raw::GetCurrentStatementStartTimestamp())
}

/// The impersonation in force, if any.
pub fn active() -> Option<Impersonation> {
    SESSION.with_borrow(|session| session.active.clone())
}

pub fn with_cache<T>(look: impl FnOnce(&mut Cache) -> T) -> T {
    CACHE.with_borrow_mut(look)
}

/// What stands for a user.
#[derive(Clone)]
pub enum Credential {
    Token(Digest),
    Name(Identity),
}

impl Credential {
    pub fn kind(&self) -> Kind {
        match self {
            Credential::Token(_) => Kind::Token,
            Credential::Name(_) => Kind::Name,
        }
    }

    fn digest(&self) -> Digest {
        match self {
            Credential::Token(digest) => *digest,
            Credential::Name(Identity { iamid, userid }) => Digest::of_name(iamid, userid),
        }
    }
}

/// A user who was presented.
#[derive(Clone)]
pub struct Presented {
    pub credential: Credential,
    pub is_well_formed: bool,
    /// For the transaction only.
    pub is_local: bool,
    /// In the options of the connection, not by a statement.
    pub is_of_connection: bool,
}

/// Who waits to be impersonated, if anybody does.
pub fn presented() -> Result<Option<Presented>, Error> {
    let (token, mut names) = (guc::presented(), name_guc::presented());
    if usize::from(token.is_some()) + names.len() > 1 {
        return Err(Error::Together);
    }
    if let Some(token) = token {
        return Ok(Some(Presented {
            credential: Credential::Token(token.digest),
            is_well_formed: token.is_well_formed,
            is_local: token.is_local,
            is_of_connection: token.is_of_connection,
        }));
    }
    if let Some(name) = names.pop() {
        return Ok(Some(Presented {
            credential: Credential::Name(by_name::identity(&name)?),
            is_well_formed: true,
            is_local: name.is_local,
            is_of_connection: name.is_of_connection,
        }));
    }
    Ok(session_scope::of_connection().map(|(presented, _)| presented))
}

/// Nobody waits any longer.
pub fn settle() {
    guc::settle();
    name_guc::settle();
    session_scope::settle();
}

/// The statement that presented a user is complete: from the next statement on, the session runs as that user.
pub fn establish(presented: &Presented) -> Result<(), Error> {
    // What was revoked since the transaction began is revoked.
    catalog::take_in_changes();
    let installed = super::installed()?;
    let impersonator = role::session_user();
    let kind = presented.credential.kind();
    if !holds(kind, impersonator) {
        return Err(not_holder(kind));
    }
    if !presented.is_local && !config::allow_session_impersonation() {
        return Err(Error::NotLocal);
    }
    if xact::nest_level() != 1 {
        return Err(Error::InSubtransaction);
    }
    if !presented.is_of_connection && !xact::runs_a_statement() {
        return Err(Error::OutOfStatement);
    }
    if gate::is_impersonating() {
        return Err(Error::Inconsistent);
    }
    if cursor::is_any_held() {
        return Err(Error::CursorHeld);
    }
    if !presented.is_well_formed {
        return Err(Error::TokenInvalid);
    }
    let now = now();
    let digest = presented.credential.digest();
    let kept = session_scope::of_connection().and_then(|(_, text)| text);
    let text = guc::take_text(&digest).map(Rc::new).or(kept);
    let entry = resolved(&installed, &presented.credential, text.as_deref(), impersonator, now)?;
    by_name::check_single_user(kind, &entry.identity)?;
    settle();
    if presented.is_of_connection {
        session_scope::remember_connection(presented, text.clone());
        // Whatever was set meanwhile, to end the impersonation of another, say.
        name_guc::reset();
    }
    client::forget_credentials();
    let scope = switch_to(&entry, presented.is_local)?;
    let mut begun = Impersonation::new(kind, scope, digest, &entry, now);
    match entry.provider {
        Provider::Name => {}
        Provider::Local => begun.recorded = activity::record(&begun.digest, begun.token_id, begun.recorded, now),
        Provider::Immuta | Provider::Introspection | Provider::Jwt => {
            begun.shown = text.map(|text| (text, entry.validated))
        }
    }
    let started = audit::started(&begun);
    SESSION.with_borrow_mut(|session| {
        session.active = Some(begun);
        session.is_verified = true;
    });
    gate::set_impersonating(true);
    gate::set_lasting(!presented.is_local);
    if kind == Kind::Name && !role::is_superuser(impersonator) {
        by_name::guard_from_now_on();
    }
    started
}

/// After a RESET: what the administrator wants for this user is in force again, as it would be for a login of that role.
/// PostgreSQL's RESET ALL does not ask who may change a setting.
pub fn impose_again() {
    let Some(active) = active() else { return };
    let lasting = if gate::is_lasting() { Lasting::ForSession } else { Lasting::Locally };
    if config::apply_role_settings() {
        guc::apply_settings_of(active.role, lasting, Which::Reset);
    }
    if LABELLED.get() && guc::is_unlabelled() {
        label(&active.identity, active.role, lasting);
    }
}

/// Names the user in `application_name`, where the administrator wants that: for all that logs it.
fn label(identity: &Identity, role: u32, lasting: Lasting) {
    let Some(template) = config::application_name_template() else { return };
    let role = role::name(role).unwrap_or_default();
    let name = Label { application: &client::application_name(), identity, role: &role };
    if let Ok(name) = CString::new(name.fill(&template)) {
        guc::label_application(&name, lasting);
        LABELLED.set(true);
    }
}

/// The switch itself, for the transaction or for the session.
fn switch_to(entry: &Entry, is_local: bool) -> Result<Scope, Error> {
    let before = (!is_local).then(session_scope::before);
    let lasting = if is_local { Lasting::Locally } else { Lasting::ForSession };
    // For a token and one transaction it would cost more than all of the rest that is ours.
    if entry.provider == Provider::Name || !is_local {
        name_guc::show(&entry.identity.userid, lasting);
    }
    if !role::switch_to(entry.role, lasting) {
        return Err(Error::Inconsistent);
    }
    // As the user: some values are checked against what he may do.
    if config::apply_role_settings() {
        guc::apply_settings_of(entry.role, lasting, Which::All);
    }
    label(&entry.identity, entry.role, lasting);
    let scope = match before {
        Some(before) => Scope::Session { before: Rc::new(before) },
        // What is set from here on is undone before commit. Not the role: that cannot change while it is locked.
        None => Scope::Transaction { settings_level: guc::new_level() },
    };
    Ok(scope)
}

/// Whether this login may present users so.
pub fn holds(kind: Kind, login: u32) -> bool {
    match kind {
        Kind::Token => may_present(login),
        Kind::Name => by_name::may_name(login),
    }
}

pub fn not_holder(kind: Kind) -> Error {
    match kind {
        Kind::Token => Error::NotHolder,
        Kind::Name => Error::NotNameHolder,
    }
}

/// The cached entry if it still holds, else the provider's answer.
pub fn resolved(
    installed: &Installation,
    credential: &Credential,
    text: Option<&Secret>,
    impersonator: u32,
    now: Timestamp,
) -> Result<Entry, Error> {
    forget_other_providers();
    let digest = &credential.digest();
    // Read first: an invalidation that arrives meanwhile makes what is found now stale.
    let generation = gate::generation();
    let is_current = |entry: &Entry| {
        entry.generation == generation
            && entry.impersonator == impersonator
            && entry.subscriptions_end.is_none_or(|end| now < end)
    };
    let map = |entry: Entry| {
        locate(installed, &entry, impersonator)
            .and_then(|(identity, role)| {
                let subscriptions_end = activity::end_subscriptions(installed, &identity, now)?;
                let identity = Rc::new(identity);
                Ok(Entry { identity, role, subscriptions_end, generation, impersonator, ..entry })
            })
            .map_err(|error| match error {
                Error::TokenInvalid if credential.kind() == Kind::Name => Error::UserDisabled,
                other => other,
            })
            .inspect_err(|_| with_cache(|cache| cache.remove(digest)))
    };
    let limits = config::limits();

    let known = with_cache(|cache| cache.get(digest).cloned());
    let known_use = known.as_ref().map(|entry| entry.last_used);
    let entry = match (credential, known) {
        (_, Some(entry)) if entry.is_fresh(now, &limits) && is_current(&entry) => {
            shared::counters().cache_hits.fetch_add(1, Relaxed);
            return Ok(entry);
        }
        (Credential::Name(identity), _) => map(by_name::entry(identity, now))?,
        // What changed in this database says nothing about a token that another server vouches for.
        (_, Some(entry)) if entry.is_fresh(now, &limits) && is_remote(entry.provider) => map(entry)?,
        (_, Some(entry)) if entry.may_serve(now, &limits) && is_down(now) => map(entry)?,
        (_, known) => match ask(installed, digest, text, known_use, now) {
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
                Some(entry) if outage.is_silence() => {
                    report_outage(&outage, now);
                    map(entry)?
                }
                _ => return Err(Error::ProviderUnavailable(outage)),
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
fn locate(installed: &Installation, entry: &Entry, impersonator: u32) -> Result<(Identity, u32), Error> {
    let identity = mapping::identity(installed, &entry.subject)?;
    audit::presented_for(&identity);
    let actor = entry.claims.as_ref().and_then(|claims| claims.bearer.actors.first());
    let actor = actor.map_or("", |actor| actor.id.as_str());
    mapping::check_rules(installed, &identity, actor, impersonator)?;
    let role = mapping::mapped_role(installed, &identity, entry.subject.role_name.as_deref(), impersonator)?;
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
    if let Err(Failure::Outage(outage)) = &answer
        && !outage.is_silence()
    {
        with_cache(|cache| cache.remove(digest));
    }
    if let Err(Failure::Refused(refusal)) = &answer {
        with_cache(|cache| cache.remove(digest));
        let provider = config::token_provider();
        if is_remote(provider) {
            REFUSALS.with_borrow_mut(|refusals| refusals.remember(*digest, *refusal, now));
        }
        if provider != Provider::Local {
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
    let (now, limits, digest) = (now(), config::limits(), Digest::of(token));
    let known = with_cache(|cache| cache.peek(&digest).cloned());
    let known_use = known.as_ref().map(|entry| entry.last_used);
    let answered = match known {
        Some(entry) if is_remote(entry.provider) && entry.is_fresh(now, &limits) => {
            Ok((entry.subject, entry.provider, entry.last_used, entry.expires))
        }
        _ => ask(&installed, &digest, Some(&text), known_use, now)
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
    Ok(Some((identity, end_of_life(last_used, expires, config::idle_ttl_of(provider)))))
}

/// Whether the provider can be asked at all: about a token that nobody has.
pub fn provider_fault() -> Option<Outage> {
    const NOBODYS: &[u8] = b"immuta_ext-doctor";
    let installed = catalog::installation()?;
    if config::token_provider() == Provider::Jwt {
        return resolve::jwt::fault(&installed);
    }
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
        let idle_ttl = config::idle_ttl_of(active.provider);
        if !is_in_force(active.last_used, active.expires, now, idle_ttl) {
            return Err(session_scope::expired(active.kind));
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
    let Some(installed) = catalog::presence() else { return Ok(()) };
    let may =
        |checked_as| if checked_as == 0 { guarded::has_authority() } else { guarded::is_trusted(checked_as) };
    if permissions.checked_as(|relation| installed.owns(relation)).into_iter().all(may) {
        Ok(())
    } else {
        Err(closed())
    }
}

/// Locking, emptying or rebuilding them is no better.
pub fn check_handled(handled: &Handled) -> Result<(), Error> {
    let handled = handled.collect();
    if handled.is_empty() || guarded::has_authority() {
        return Ok(());
    }
    let Some(installed) = catalog::presence() else { return Ok(()) };
    if handled.into_iter().any(|relation| installed.owns(relation)) { Err(closed()) } else { Ok(()) }
}

fn closed() -> Error {
    Error::WhileImpersonating("the tables of immuta_ext are closed".into())
}
