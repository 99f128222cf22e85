//! The session and its tokens.

use crate::api::convert::{immuta_require_preload, report, timestamptz, utf8};
use crate::core::time::end_of_life;
use crate::pg::log;
use crate::provider::lookup;
use crate::rights::login;
use crate::session::state;
use crate::settings;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;

/// `(iamid, userid, expires_at)` of an active token; no row for any other.
#[pg_extern(sql = false)]
fn immuta_active_token(
    token: &[u8],
) -> TableIterator<
    'static,
    (name!(iamid, Vec<u8>), name!(userid, Vec<u8>), name!(expires_at, TimestampWithTimeZone)),
> {
    immuta_require_preload();
    log::conceal_statement();
    let answer = lookup::resolve_for_check(token).unwrap_or_else(|error| report(error));
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
fn immuta_session_state() -> TableIterator<
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
    let row = state::active().map(|active| {
        let (iamid, userid) = utf8(&active.identity);
        (
            iamid,
            userid,
            pg_sys::Oid::from(active.role),
            active.provider.name(),
            active.scope.name(),
            timestamptz(active.established),
            timestamptz(end_of_life(active.last_used, active.expires, settings::idle_ttl_of(active.provider))),
        )
    });
    TableIterator::new(row)
}

/// The tokens this backend remembers, most recently used first, without the tokens.
#[pg_extern(sql = false)]
fn immuta_cached_tokens() -> TableIterator<
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
    let rows: Vec<_> = lookup::with_cache(|cache| {
        cache
            .entries()
            .map(|entry| {
                let (iamid, userid) = utf8(&entry.identity);
                (
                    iamid,
                    userid,
                    pg_sys::Oid::from(entry.role),
                    entry.answer.provider.name(),
                    timestamptz(entry.answer.last_used),
                    timestamptz(entry.answer.validated),
                    timestamptz(end_of_life(
                        entry.answer.last_used,
                        entry.answer.expires,
                        settings::idle_ttl_of(entry.answer.provider),
                    )),
                )
            })
            .collect()
    });
    TableIterator::new(rows)
}

/// Forgets all of them, and what the sessions of this database with the same provider know together; how many this session
/// remembered.
#[pg_extern(sql = false)]
fn immuta_flush_token_cache() -> i64 {
    immuta_require_preload();
    i64::try_from(lookup::flush()).unwrap_or(i64::MAX)
}

/// Asks the provider about a token that nobody has: why it cannot be asked, or `None`.
#[pg_extern(sql = false)]
fn immuta_provider_fault() -> Option<String> {
    immuta_require_preload();
    lookup::provider_fault().map(|outage| outage.why().into_owned())
}

/// Why the library cannot work with what is installed in this database, and what to do; no row where it can.
#[pg_extern(sql = false)]
fn immuta_installation_fault() -> TableIterator<'static, (name!(fault, String), name!(hint, &'static str))> {
    immuta_require_preload();
    TableIterator::new(login::installed().err().map(|error| (error.message(), error.hint())))
}
