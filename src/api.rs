//! The functions behind those that `sql/` defines. Text travels as `bytea` in UTF-8, so that databases in other
//! encodings work; `sql/` converts.

// Rows are spelled out where they are returned: that is how pgrx wants them.
#![allow(clippy::type_complexity)]

use crate::core::identity::Identity;
use crate::core::jwt::claims::{self, Claims, Policy, written_attributes, written_groups};
use crate::core::jwt::json::{Json, Path};
use crate::core::jwt::keys::Algorithm;
use crate::core::jwt::token::Token;
use crate::core::presented::Kind;
use crate::core::refusals::Throttle;
use crate::core::rules::Rule;
use crate::core::time::{Timestamp, end_of_life, is_alive};
use crate::core::token::Secret;
use crate::error::Error;
use crate::pg::report::{Report, raise};
use crate::pg::table::UserAccount;
use crate::pg::turn::Turn;
use crate::pg::{catalog, log, nodes, preload, role, shared, table, text, wait, xact};
use crate::{activity, audit, config, hooks, mapping, resolve};
use argon2::Argon2;
use argon2::password_hash::rand_core::{OsRng, RngCore};
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use once_cell::sync::Lazy;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::ffi::CString;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// Failed logins in a row before further attempts are refused unseen.
const FREE_ATTEMPTS: i32 = 5;
/// Longest time for which attempts are refused.
const LONGEST_LOCKOUT: Duration = Duration::from_secs(900);

fn report(error: Error) -> ! {
    raise(Report::from(error))
}

/// Refuses to work half: without the hooks nothing that this extension promises would hold.
#[pg_extern(sql = false)]
fn immuta_require_preload() {
    if !preload::is_preloaded() {
        report(Error::NotPreloaded);
    }
}

/// For functions that take a secret: hides the statement that called them, which may hold it.
#[pg_extern(sql = false)]
fn immuta_conceal_statement() {
    log::conceal_statement();
}

/// A fresh secret: 256 bits of the operating system's random source, in 43 characters.
#[pg_extern(sql = false)]
fn immuta_new_secret() -> String {
    log::hold_back();
    let mut bytes = [0u8; 32];
    if OsRng.try_fill_bytes(&mut bytes).is_err() {
        pgrx::error!("could not generate a random secret");
    }
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Hash of a password: argon2id in PHC string format, with the parameters OWASP recommends (RFC 9106).
#[pg_extern(sql = false)]
fn immuta_hash_password(password: &[u8]) -> String {
    log::conceal_statement();
    hash_password(password).unwrap_or_else(|| pgrx::error!("could not hash a password"))
}

fn hash_password(password: &[u8]) -> Option<String> {
    let salt = SaltString::generate(&mut OsRng);
    Argon2::default().hash_password(password, &salt).ok().map(|hash| hash.to_string())
}

/// The id of the user whose password this is. Takes as long for a user who does not exist or has none. After
/// [`FREE_ATTEMPTS`] failures in a row attempts are refused unseen for a time that doubles with each. An attempt counts as
/// failed, in a transaction of its own, before the password is looked at; where that cannot be written it is refused. The
/// latest state of the user decides, whatever the snapshot of the transaction.
#[pg_extern(sql = false)]
fn immuta_user_by_password(iamid: Option<&[u8]>, userid: Option<&[u8]>, password: &[u8]) -> Option<i64> {
    log::conceal_statement();
    static NOBODY: Lazy<String> = Lazy::new(|| hash_password(b"nobody").unwrap_or_default());
    let installed = hooks::installed().unwrap_or_else(|error| report(error));
    let identity = iamid.zip(userid).map(|(iamid, userid)| identity(userid, iamid));
    let find = || identity.as_ref().and_then(|identity| table::user_by_identity(&installed, identity));
    // Nobody guesses in many sessions at once what each of them would count only afterwards.
    let _turn = find().map(|user| Turn::wait_for(user.id));
    let user = find().filter(|user| !user.is_disabled && !is_locked_out(user));
    // No user has the id 0: an unknown name, or one that is locked out, costs what any other costs.
    let is_counted = activity::record_failed_login(user.as_ref().map_or(0, |user| user.id));
    if !is_counted {
        wait::pause(Duration::from_secs(2));
    }
    let hash = user.as_ref().and_then(|user| table::password_hash(&installed, user.id));
    let matches = PasswordHash::new(hash.as_deref().unwrap_or(&NOBODY))
        .is_ok_and(|parsed| Argon2::default().verify_password(password, &parsed).is_ok());
    let user = user.filter(|_| is_counted && hash.is_some() && matches)?;
    activity::record_login(user.id);
    Some(user.id)
}

fn is_locked_out(user: &UserAccount) -> bool {
    let (failures, Some(last)) = (user.failed_logins, user.last_failed_login) else { return false };
    let Ok(excess) = u32::try_from(failures - FREE_ATTEMPTS) else { return false };
    let lockout = Duration::from_secs(1 << excess.min(16)).min(LONGEST_LOCKOUT);
    is_alive(last, Timestamp(xact::clock()), lockout)
}

/// `(id of the key, id of the user)` of an API key, by its digest, as it is now; no row for any other, or a user who is
/// disabled.
#[pg_extern(sql = false)]
fn immuta_user_by_api_key(digest: &[u8]) -> TableIterator<'static, (name!(key_id, i64), name!(user_id, i64))> {
    immuta_require_preload();
    let installed = hooks::installed().unwrap_or_else(|error| report(error));
    let found = table::api_key(&installed, digest)
        .filter(|&(_, user)| table::user_by_id(&installed, user).is_some_and(|user| !user.is_disabled));
    TableIterator::new(found)
}

/// Groups and attributes of a user, as text in UTF-8, as they are now: policies decide by them, whatever the snapshot of
/// the transaction. What the token of this transaction says of its user counts before what our tables say. No row for a user who has none.
#[pg_extern(sql = false)]
fn immuta_profile(
    iamid: &[u8],
    userid: &[u8],
) -> TableIterator<'static, (name!(groups, Vec<u8>), name!(attributes, Vec<u8>))> {
    immuta_require_preload();
    let installed = hooks::installed().unwrap_or_else(|error| report(error));
    let user = identity(userid, iamid);
    let profile = table::user_by_identity(&installed, &user).and_then(|user| table::profile(&installed, user.id));
    let claims = hooks::active().filter(|active| *active.identity == user).and_then(|active| active.claims);
    let said = |claims: &Claims| {
        (claims.groups.as_deref().map(written_groups), claims.attributes.as_ref().map(written_attributes))
    };
    let profile = match claims.as_deref().map(said) {
        None | Some((None, None)) => profile,
        Some((groups, attributes)) => {
            let (own_groups, own_attributes) = profile.unwrap_or_else(|| ("{}".into(), "{}".into()));
            Some((groups.unwrap_or(own_groups), attributes.unwrap_or(own_attributes)))
        }
    };
    TableIterator::new(profile.map(|(groups, attributes)| (groups.into_bytes(), attributes.into_bytes())))
}

/// `(iamid, userid, expires_at)` of an active token; no row for any other.
#[pg_extern(sql = false)]
fn immuta_check_token(
    token: &[u8],
) -> TableIterator<
    'static,
    (name!(iamid, Vec<u8>), name!(userid, Vec<u8>), name!(expires_at, TimestampWithTimeZone)),
> {
    immuta_require_preload();
    log::conceal_statement();
    let answer = hooks::resolve_for_check(token).unwrap_or_else(|error| report(error));
    let row = answer.map(|(identity, expires)| {
        let (iamid, userid) = utf8(&identity);
        (iamid, userid, expires)
    });
    TableIterator::new(
        row.into_iter().filter_map(|(iamid, userid, expires)| Some((iamid, userid, timestamptz(expires)?))),
    )
}

/// The impersonation in force; no row without one.
#[pg_extern(sql = false)]
fn immuta_session() -> TableIterator<
    'static,
    (
        name!(iamid, Vec<u8>),
        name!(userid, Vec<u8>),
        name!(mapped_role, pg_sys::Oid),
        name!(provider, &'static str),
        name!(scope, &'static str),
        name!(established_at, Option<TimestampWithTimeZone>),
        name!(expires_at, Option<TimestampWithTimeZone>),
    ),
> {
    immuta_require_preload();
    let row = hooks::active().map(|active| {
        let (iamid, userid) = utf8(&active.identity);
        (
            iamid,
            userid,
            pg_sys::Oid::from(active.role),
            active.provider.name(),
            active.scope.name(),
            timestamptz(active.established),
            timestamptz(end_of_life(active.last_used, active.expires, config::idle_ttl_of(active.provider))),
        )
    });
    TableIterator::new(row)
}

/// What the token of the impersonation in force says of its use; no row without one that says anything.
#[pg_extern(sql = false)]
fn immuta_token_state() -> TableIterator<
    'static,
    (name!(client_id, Option<Vec<u8>>), name!(token_id, Option<Vec<u8>>), name!(actors, Vec<Vec<u8>>)),
> {
    immuta_require_preload();
    let bearer = hooks::active().and_then(|active| active.claims).map(|claims| claims.bearer.clone());
    let utf8 = |text: &String| text.clone().into_bytes();
    TableIterator::new(bearer.map(|bearer| {
        let actors = bearer.actors.iter().map(|actor| utf8(&actor.id)).collect();
        (bearer.client.as_ref().map(utf8), bearer.token_id.as_ref().map(utf8), actors)
    }))
}

/// A claim of the token of the impersonation in force, as JSON.
#[pg_extern(sql = false)]
fn immuta_token_claim(claim: &[u8]) -> Option<Vec<u8>> {
    immuta_require_preload();
    let path = Path::parse(&String::from_utf8_lossy(claim))?;
    let claims = hooks::active().and_then(|active| active.claims)?;
    serde_json::to_vec(path.of(&claims.all)?).ok()
}

/// What is wrong with what is to be accepted of an issuer, or `None`.
#[pg_extern(sql = false)]
fn immuta_issuer_fault(row: &[u8]) -> Option<String> {
    let Some(row) = Json::read(row) else { return Some("It is not JSON that can be read.".into()) };
    Policy::default().change(&row).err()
}

/// Every check of a token, and what it found.
#[pg_extern(sql = false)]
fn immuta_explain_token(
    token: &[u8],
) -> TableIterator<'static, (name!(check, &'static str), name!(ok, bool), name!(detail, String))> {
    immuta_require_preload();
    log::conceal_statement();
    let installed = hooks::installed().unwrap_or_else(|error| report(error));
    let findings = match Secret::of(token) {
        Some(token) => resolve::jwt::explain(&installed, token.reveal(), hooks::now()),
        None => vec![("form", false, "It has no bytes, too many, or some that no token has.".into())],
    };
    TableIterator::new(findings)
}

/// By what a token is revoked: its issuer, the key, when it ends anyway. No row for what is no JWT.
#[pg_extern(sql = false)]
fn immuta_token_revocation(
    token: &[u8],
) -> TableIterator<
    'static,
    (name!(issuer, Vec<u8>), name!(key, Vec<u8>), name!(expires_at, Option<TimestampWithTimeZone>)),
> {
    log::conceal_statement();
    let found = std::str::from_utf8(token)
        .ok()
        .and_then(|text| Token::read(text).ok())
        .and_then(|token| claims::revocation_of(&token));
    TableIterator::new(
        found.map(|(issuer, key, expires)| (issuer.into_bytes(), key.to_vec(), expires.and_then(timestamptz))),
    )
}

/// By what all tokens of a user are revoked.
#[pg_extern(sql = false)]
fn immuta_user_revocation(iamid: &[u8], userid: &[u8]) -> Vec<u8> {
    claims::revocation_of_user(&identity(userid, iamid)).to_vec()
}

/// The keys of an issuer, as they are known; one row without a key where none is.
#[pg_extern(sql = false)]
fn immuta_known_keys(
    issuer: &[u8],
) -> TableIterator<
    'static,
    (
        name!(kid, Option<Vec<u8>>),
        name!(kty, Option<&'static str>),
        name!(alg, Option<&'static str>),
        name!(source, &'static str),
        name!(fetched_at, Option<TimestampWithTimeZone>),
        name!(fresh_until, Option<TimestampWithTimeZone>),
        name!(last_error, Option<String>),
    ),
> {
    immuta_require_preload();
    let installed = hooks::installed().unwrap_or_else(|error| report(error));
    let known = resolve::jwt::keys(&installed, &String::from_utf8_lossy(issuer));
    let rows = known.into_iter().flat_map(|known| {
        let times = (known.fetched.and_then(timestamptz), known.fresh_until.and_then(timestamptz));
        let row = move |kid, kty, alg| (kid, kty, alg, known.source, times.0, times.1, known.error.clone());
        let mut rows: Vec<_> = known
            .keys
            .keys()
            .iter()
            .map(|key| {
                let kid = key.kid.clone().map(String::into_bytes);
                row(kid, Some(key.kty()), key.algorithm.map(Algorithm::name))
            })
            .collect();
        if rows.is_empty() {
            rows.push(row(None, None, None));
        }
        rows
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

/// The keys of an issuer are needed no longer.
#[pg_extern(sql = false)]
fn immuta_forget_keys(issuer: &[u8]) {
    if let Some(installed) = catalog::installation() {
        resolve::jwt::forget_keys(&installed, &String::from_utf8_lossy(issuer));
    }
}

/// Fetches the keys of an issuer now. `false` if it is not mapped.
#[pg_extern(sql = false)]
fn immuta_refresh_keys(issuer: &[u8]) -> bool {
    immuta_require_preload();
    let installed = hooks::installed().unwrap_or_else(|error| report(error));
    match resolve::jwt::refresh(&installed, &String::from_utf8_lossy(issuer)) {
        None => false,
        Some(Ok(())) => true,
        Some(Err(outage)) => report(Error::ProviderUnavailable(outage)),
    }
}

/// The tokens this backend remembers, most recently used first, without the tokens.
#[pg_extern(sql = false)]
fn immuta_token_cache() -> TableIterator<
    'static,
    (
        name!(iamid, Vec<u8>),
        name!(userid, Vec<u8>),
        name!(mapped_role, pg_sys::Oid),
        name!(provider, &'static str),
        name!(last_used_at, Option<TimestampWithTimeZone>),
        name!(validated_at, Option<TimestampWithTimeZone>),
        name!(expires_at, Option<TimestampWithTimeZone>),
    ),
> {
    immuta_require_preload();
    let rows: Vec<_> = hooks::with_cache(|cache| {
        cache
            .entries()
            .map(|entry| {
                let (iamid, userid) = utf8(&entry.identity);
                (
                    iamid,
                    userid,
                    pg_sys::Oid::from(entry.role),
                    entry.provider.name(),
                    timestamptz(entry.last_used),
                    timestamptz(entry.validated),
                    timestamptz(end_of_life(entry.last_used, entry.expires, config::idle_ttl_of(entry.provider))),
                )
            })
            .collect()
    });
    TableIterator::new(rows)
}

/// Forgets all of them; how many there were.
#[pg_extern(sql = false)]
fn immuta_flush_token_cache() -> i64 {
    immuta_require_preload();
    i64::try_from(hooks::with_cache(|cache| cache.clear())).unwrap_or(i64::MAX)
}

/// Raises IMPERSONATION_NOT_ALLOWED for a role that must not be mapped to.
#[pg_extern(sql = false)]
fn immuta_check_target(role: pg_sys::Oid) {
    let Some(installed) = catalog::installation() else { report(Error::NoExtension) };
    if let Err(error) = mapping::check_target(&installed, role.to_u32(), 0) {
        report(error);
    }
}

/// Runs a statement, in the database encoding, as another role: for the system account.
#[pg_extern(sql = false)]
fn immuta_run_as(role: pg_sys::Oid, statement: &[u8]) {
    match CString::new(statement) {
        Ok(statement) => role::run_as(role.to_u32(), &statement),
        Err(_) => pgrx::error!("a statement cannot hold a zero byte"),
    }
}

/// Looks a statement up, in the database encoding, as another role; 0 is whoever sent the statement that is running.
#[pg_extern(sql = false)]
fn immuta_analyse_as(role: pg_sys::Oid, statement: &[u8]) {
    match CString::new(statement) {
        Ok(statement) => role::analyse_as(role.to_u32(), &statement),
        Err(_) => pgrx::error!("a statement cannot hold a zero byte"),
    }
}

/// Whether a text, in the database encoding, is one expression and nothing else.
#[pg_extern(sql = false)]
fn immuta_is_expression(text: &[u8]) -> bool {
    CString::new(text).is_ok_and(|text| nodes::is_expression(&text))
}

/// Row trigger: every backend looks at our tables again, once this transaction has committed.
#[pg_trigger(sql = false)]
fn immuta_announce_change<'a>(
    trigger: &'a pgrx::PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, impl WhoAllocated>>, PgTriggerError> {
    catalog::announce_change();
    Ok(trigger.old().or(trigger.new()))
}

fn utf8(identity: &Identity) -> (Vec<u8>, Vec<u8>) {
    (identity.iamid.clone().into_bytes(), identity.userid.clone().into_bytes())
}

fn timestamptz(at: Timestamp) -> Option<TimestampWithTimeZone> {
    TimestampWithTimeZone::try_from(at.0).ok()
}

/// Asks the provider about a token that nobody has: why it cannot be asked, or `None`.
#[pg_extern(sql = false)]
fn immuta_provider_fault() -> Option<String> {
    immuta_require_preload();
    hooks::provider_fault().map(|outage| outage.why().into_owned())
}

/// Why the library cannot work with what is installed in this database, or `None`.
#[pg_extern(sql = false)]
fn immuta_installation_fault() -> Option<String> {
    immuta_require_preload();
    hooks::installed().err().map(|error| error.message())
}

/// Makes failures of one connection cost time; see [`Throttle`].
#[pg_extern(sql = false)]
fn immuta_throttle_failures() {
    thread_local! {
        static FAILURES: RefCell<Throttle> = RefCell::default();
    }
    let now = Timestamp(xact::clock());
    wait::pause(FAILURES.with_borrow_mut(|failures| failures.failed(now)));
}

/// Sessions that impersonate somebody now; this one only where nothing is shared.
#[pg_extern(sql = false)]
fn immuta_impersonating() -> TableIterator<
    'static,
    (
        name!(pid, i32),
        name!(database, pg_sys::Oid),
        name!(impersonator, pg_sys::Oid),
        name!(iamid, Vec<u8>),
        name!(userid, Vec<u8>),
        name!(mapped_role, pg_sys::Oid),
        name!(established_at, Option<TimestampWithTimeZone>),
        name!(statements, i64),
    ),
> {
    immuta_require_preload();
    let rows: Vec<_> = shared::impersonating()
        .into_iter()
        .map(|session| {
            let (iamid, userid) = utf8(&session.identity);
            (
                session.pid,
                pg_sys::Oid::from(session.database),
                pg_sys::Oid::from(session.impersonator),
                iamid,
                userid,
                pg_sys::Oid::from(session.role),
                timestamptz(Timestamp(session.since)),
                i64::try_from(session.statements).unwrap_or(i64::MAX),
            )
        })
        .collect();
    TableIterator::new(rows)
}

#[pg_extern(sql = false)]
fn immuta_sees_all_sessions() -> bool {
    immuta_require_preload();
    shared::is_shared()
}

/// Counters under the names that Prometheus gives them: totals end in `_total`, times are in seconds, classes of a
/// histogram are cumulative.
#[pg_extern(sql = false)]
fn immuta_counters()
-> TableIterator<'static, (name!(name, String), name!(label, Option<String>), name!(value, f64))> {
    immuta_require_preload();
    let counters = shared::counters();
    let mut rows = Vec::new();
    let mut add =
        |name: &str, label: Option<String>, value: f64| rows.push((format!("immuta_{name}"), label, value));
    let count = |counter: &AtomicU64| counter.load(Relaxed) as f64;
    for (name, counter) in [
        ("impersonation_switches_total", &counters.switches),
        ("impersonation_statements_total", &counters.statements),
        ("token_cache_hits_total", &counters.cache_hits),
        ("token_cache_misses_total", &counters.cache_misses),
        ("token_cache_evictions_total", &counters.cache_evictions),
        ("provider_requests_total", &counters.provider_calls),
        ("provider_errors_total", &counters.provider_errors),
        ("audit_records_total", &counters.audit_records),
        ("audit_fallbacks_total", &counters.audit_fallbacks),
        ("audit_stored_total", &counters.audit_stored),
    ] {
        add(name, None, count(counter));
    }
    for (code, counter) in shared::REFUSALS.iter().zip(&counters.refusals) {
        let reason = code.trim_start_matches("IMPERSONATION_").to_lowercase();
        add("impersonation_refusals_total", Some(reason), count(counter));
    }
    let mut below = 0.0;
    let bounds = shared::LATENCIES.iter().map(|&bound| (bound as f64 / 1000.0).to_string());
    for (bound, counter) in bounds.chain(["+Inf".into()]).zip(&counters.provider_latency) {
        below += count(counter);
        add("provider_request_duration_seconds_bucket", Some(bound), below);
    }
    add("provider_request_duration_seconds_sum", None, count(&counters.provider_micros) / 1e6);
    add("provider_request_duration_seconds_count", None, below);
    add("audit_queue_bytes", None, audit::queue_bytes() as f64);
    let since = Timestamp(counters.since.load(Relaxed));
    add("stats_reset_timestamp_seconds", None, since.to_unix_micros() as f64 / 1e6);
    TableIterator::new(rows)
}

#[pg_extern(sql = false)]
fn immuta_reset_counters() {
    immuta_require_preload();
    shared::counters().reset();
}

/// Waits until all that waits in the queue of this database is in its audit table; whether it is.
#[pg_extern(sql = false)]
fn immuta_flush_audit(patience: pgrx::datum::Interval) -> bool {
    immuta_require_preload();
    let micros = patience.as_micros();
    let patience = Duration::from_micros(u64::try_from(micros.clamp(0, 3_600_000_000)).unwrap_or(0));
    let deadline = Instant::now() + patience;
    while audit::queue_bytes() > 0 {
        audit::wake_writer();
        if Instant::now() >= deadline {
            return false;
        }
        wait::pause(Duration::from_millis(20));
    }
    true
}

/// Whether a login may present tokens, or names.
#[pg_extern(sql = false)]
fn immuta_may_impersonate(login: pg_sys::Oid, by_name: bool) -> bool {
    hooks::holds(if by_name { Kind::Name } else { Kind::Token }, login.to_u32())
}

/// Whether an impersonation rule is about this login and this user.
#[pg_extern(sql = false)]
fn immuta_rule_names(
    impersonator: &[u8],
    users: &[u8],
    iamids: &[u8],
    login: &[u8],
    iamid: &[u8],
    userid: &[u8],
) -> bool {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let rule = Rule {
        id: 0,
        impersonator: text(impersonator),
        iamid: text(iamids),
        users: text(users),
        allow: true,
        networks: None,
        actors: "*".into(),
    };
    rule.names(&text(login), &identity(userid, iamid))
}

/// The role as which a user would be impersonated, whoever impersonates him.
pub fn role_of_user(userid: &[u8], iamid: &[u8]) -> Result<u32, Report> {
    let installed = catalog::installation().ok_or(Error::NoExtension)?;
    mapping::mapped_role(&installed, &identity(userid, iamid), None, 0).map_err(|error| match error {
        Error::TokenInvalid => Error::UserDisabled.into(),
        other => other.into(),
    })
}

/// The same, for a view: `None` for whoever cannot be impersonated by this login.
#[pg_extern(sql = false)]
fn immuta_impersonated_role(userid: &[u8], iamid: &[u8], impersonator: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let installed = catalog::installation()?;
    let role = mapping::mapped_role(&installed, &identity(userid, iamid), None, impersonator.to_u32());
    role.ok().map(pg_sys::Oid::from)
}

/// The role of a user outside projects, as far as it is known without a provider.
#[pg_extern(sql = false)]
fn immuta_role_of_user(userid: &[u8], iamid: &[u8]) -> Option<pg_sys::Oid> {
    let installed = catalog::installation()?;
    mapping::role_without_provider(&installed, &identity(userid, iamid)).map(pg_sys::Oid::from)
}

fn identity(userid: &[u8], iamid: &[u8]) -> Identity {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Identity { iamid: text(iamid), userid: text(userid) }
}

/// Puts a dry run on record: the user, the statement, and the SQLSTATE with which it would fail.
#[pg_extern(sql = false)]
fn immuta_record_dry_run(userid: &[u8], iamid: &[u8], statement: &[u8], code: Option<&str>) {
    immuta_require_preload();
    let role = role_of_user(userid, iamid).unwrap_or_else(|error| raise(error));
    let code = code.and_then(|code| <[u8; 5]>::try_from(code.as_bytes()).ok());
    let statement = text::from_server_anyhow(statement);
    audit::tested(identity(userid, iamid), role, statement, code).unwrap_or_else(|error| report(error));
}
