//! The embedded provider: tokens in the extension's own tables, stored as digests.

use crate::core::identity::{Authority, Provider, Subject};
use crate::core::provider::cache::Resolution;
use crate::core::time::{Timestamp, is_alive};
use crate::core::token::Digest;
use crate::pg::catalog::{Installation, tables};
use crate::settings;

/// `None` for a token that is unknown or idle for too long, or whose user is disabled.
pub fn resolve(
    installed: &Installation,
    digest: &Digest,
    known_use: Option<Timestamp>,
    now: Timestamp,
) -> Option<Resolution> {
    let token = tables::token_by_digest(installed, digest)?;
    let user = tables::user_by_id(installed, token.user).filter(|user| !user.is_disabled)?;
    let last_used = known_use.map_or(token.last_used, |known| known.max(token.last_used));
    if !is_alive(last_used, now, settings::token_idle_ttl()) {
        return None;
    }
    let authority = Authority::Iam(user.identity.iamid);
    Some(Resolution {
        provider: Provider::Local,
        subject: Subject { authority, userid: user.identity.userid, role_name: None },
        last_used: token.last_used,
        validated: now,
        expires: None,
        token_id: token.id,
        claims: None,
    })
}
