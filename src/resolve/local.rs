//! The embedded provider: tokens in the extension's own tables, stored as digests.

use crate::config;
use crate::core::identity::{Provider, Resolution};
use crate::core::time::{Timestamp, is_alive};
use crate::core::token::Digest;
use crate::error::Error;
use crate::pg::catalog::Installation;
use crate::pg::table;

pub fn resolve(
    installed: &Installation,
    digest: &Digest,
    known_use: Option<Timestamp>,
    now: Timestamp,
) -> Result<Resolution, Error> {
    let token = table::token_by_digest(installed, digest).ok_or(Error::TokenInvalid)?;
    let user = table::user_by_id(installed, token.user).ok_or(Error::TokenInvalid)?;
    let last_used = known_use.map_or(token.last_used, |known| known.max(token.last_used));
    if user.is_disabled || !is_alive(last_used, now, config::token_idle_ttl()) {
        return Err(Error::TokenInvalid);
    }
    Ok(Resolution {
        provider: Provider::Local,
        identity: user.identity,
        mapping: user.mapping,
        last_used: token.last_used,
        token_id: token.id,
    })
}
