//! The functions behind those that `sql/` defines. Text travels as `bytea` in UTF-8, so that databases in other
//! encodings work; `sql/` converts.

// Rows are spelled out where they are returned: that is how pgrx wants them.
#![allow(clippy::type_complexity)]

use crate::core::identity::Identity;
use crate::core::presented::Kind;
use crate::core::refusals::Throttle;
use crate::core::rules::Rule;
use crate::core::time::{Timestamp, end_of_life, is_alive};
use crate::error::Error;
use crate::pg::report::{Report, raise};
use crate::pg::{catalog, log, preload, table, wait, xact};
use crate::{activity, config, hooks, mapping};
use argon2::Argon2;
use argon2::password_hash::rand_core::{OsRng, RngCore};
use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use once_cell::sync::Lazy;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;
use std::cell::RefCell;
use std::time::Duration;

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

/// Whether the password is the user's. Takes as long for a user who does not exist or has none. After
/// [`FREE_ATTEMPTS`] failures in a row attempts are refused unseen for a time that doubles with each; a failure is
/// recorded in a transaction of its own before the answer, so that a rollback does not hide it.
#[pg_extern(sql = false)]
fn immuta_password_matches(user_id: Option<i64>, hash: Option<&str>, password: &[u8]) -> bool {
    log::conceal_statement();
    static NOBODY: Lazy<String> = Lazy::new(|| hash_password(b"nobody").unwrap_or_default());
    let open_user = user_id.filter(|&user_id| !is_locked_out(user_id));
    let matches = PasswordHash::new(hash.unwrap_or(&NOBODY))
        .is_ok_and(|parsed| Argon2::default().verify_password(password, &parsed).is_ok());
    if open_user.is_some() && hash.is_some() && matches {
        return true;
    }
    // No user has the id 0: an unknown name, or one that is locked out, costs what any other costs.
    if !activity::record_failed_login(open_user.unwrap_or(0)) {
        // Nobody counts the failure: let it cost time instead.
        wait::pause(Duration::from_secs(2));
    }
    false
}

fn is_locked_out(user_id: i64) -> bool {
    let user = catalog::installation().and_then(|installed| table::user_by_id(&installed, user_id));
    let Some((failures, Some(last))) = user.map(|user| (user.failed_logins, user.last_failed_login)) else {
        return false;
    };
    let Ok(excess) = u32::try_from(failures - FREE_ATTEMPTS) else { return false };
    let lockout = Duration::from_secs(1 << excess.min(16)).min(LONGEST_LOCKOUT);
    is_alive(last, Timestamp(xact::clock()), lockout)
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
            timestamptz(end_of_life(active.last_used, active.expires, config::token_idle_ttl())),
        )
    });
    TableIterator::new(row)
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
    let idle_ttl = config::token_idle_ttl();
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
                    timestamptz(end_of_life(entry.last_used, entry.expires, idle_ttl)),
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

/// Makes failures of one connection cost time; see [`Throttle`].
#[pg_extern(sql = false)]
fn immuta_throttle_failures() {
    thread_local! {
        static FAILURES: RefCell<Throttle> = RefCell::default();
    }
    let now = Timestamp(xact::clock());
    wait::pause(FAILURES.with_borrow_mut(|failures| failures.failed(now)));
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
    };
    rule.names(&text(login), &Identity { iamid: text(iamid), userid: text(userid) })
}

/// The role as which a user would be impersonated, whoever impersonates him.
pub fn role_of_user(userid: &[u8], iamid: &[u8]) -> Result<u32, Report> {
    let installed = catalog::installation().ok_or(Error::NoExtension)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let identity = Identity { iamid: text(iamid), userid: text(userid) };
    mapping::mapped_role(&installed, &identity, None, 0).map_err(|error| match error {
        Error::TokenInvalid => Error::UserDisabled.into(),
        other => other.into(),
    })
}
