//! JSON Web Tokens: what they say, their issuers and the keys of those.

use crate::api::convert::{immuta_require_preload, report, timestamptz};
use crate::core::identity::Identity;
use crate::core::provider::jwt::json::{Json, Path};
use crate::core::provider::jwt::keys::Algorithm;
use crate::core::provider::jwt::policy::Policy;
use crate::core::provider::jwt::revocation;
use crate::core::provider::jwt::token::Token;
use crate::core::token::Secret;
use crate::error::Error;
use crate::pg::sys::clock;
use crate::pg::{catalog, log};
use crate::provider::jwt;
use crate::rights::login;
use crate::session::state;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

/// What the token of the impersonation in force says of its use; no row without one that says anything.
#[pg_extern(sql = false)]
fn immuta_token_state() -> TableIterator<
    'static,
    (name!(client_id, Option<Vec<u8>>), name!(token_id, Option<Vec<u8>>), name!(actors, Vec<Vec<u8>>)),
> {
    immuta_require_preload();
    let bearer = state::active().and_then(|active| active.claims).map(|claims| claims.bearer.clone());
    let utf8 = |text: &String| text.clone().into_bytes();
    TableIterator::new(bearer.map(|bearer| {
        let actors = bearer.actors.iter().map(|actor| utf8(&actor.id)).collect();
        (bearer.client.as_ref().map(utf8), bearer.token_id.as_ref().map(utf8), actors)
    }))
}

/// A claim of the token of the impersonation in force, as JSON.
#[pg_extern(sql = false)]
fn immuta_claim_of_token(claim: &[u8]) -> Option<Vec<u8>> {
    immuta_require_preload();
    let path = Path::parse(&String::from_utf8_lossy(claim))?;
    let claims = state::active().and_then(|active| active.claims)?;
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
fn immuta_token_findings(
    token: &[u8],
) -> TableIterator<'static, (name!(check, &'static str), name!(ok, bool), name!(detail, String))> {
    immuta_require_preload();
    log::conceal_statement();
    let installed = login::installed().unwrap_or_else(|error| report(error));
    let findings = match Secret::of(token) {
        Some(token) => jwt::explain(&installed, token.reveal(), clock::statement_time()),
        None => vec![("form", false, "It has no bytes, too many, or some that no token has.".into())],
    };
    TableIterator::new(findings)
}

/// By what a token is revoked: its issuer, the key, when it ends anyway. No row for what is no JWT.
#[pg_extern(sql = false)]
fn immuta_token_revocation_key(
    token: &[u8],
) -> TableIterator<
    'static,
    (name!(issuer, Vec<u8>), name!(key, Vec<u8>), name!(expires_at, Option<TimestampWithTimeZone>)),
> {
    log::conceal_statement();
    let found = std::str::from_utf8(token)
        .ok()
        .and_then(|text| Token::read(text).ok())
        .and_then(|token| revocation::revocation_of(&token));
    TableIterator::new(
        found.map(|(issuer, key, expires)| (issuer.into_bytes(), key.to_vec(), expires.and_then(timestamptz))),
    )
}

/// By what all tokens of a user are revoked.
#[pg_extern(sql = false)]
fn immuta_user_revocation_key(iamid: &[u8], userid: &[u8]) -> Vec<u8> {
    revocation::revocation_of_user(&Identity::of_bytes(userid, iamid)).to_vec()
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
    let installed = login::installed().unwrap_or_else(|error| report(error));
    let known = jwt::keys(&installed, &String::from_utf8_lossy(issuer));
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
        jwt::forget_keys(&installed, &String::from_utf8_lossy(issuer));
    }
}

/// Fetches the keys of an issuer now. `false` if it is not mapped.
#[pg_extern(sql = false)]
fn immuta_fetch_keys(issuer: &[u8]) -> bool {
    immuta_require_preload();
    let installed = login::installed().unwrap_or_else(|error| report(error));
    match jwt::refresh(&installed, &String::from_utf8_lossy(issuer)) {
        None => false,
        Some(Ok(())) => true,
        Some(Err(outage)) => report(Error::ProviderUnavailable(outage)),
    }
}
