//! From a token to a user: the providers.

mod local;

use crate::core::identity::Resolution;
use crate::core::time::Timestamp;
use crate::core::token::Digest;
use crate::error::Error;
use crate::pg::catalog::Installation;

/// Asks the provider about a token. `known_use` is the last use that this backend knows of, which the provider may
/// not have been told yet.
pub fn resolve(
    installed: &Installation,
    digest: &Digest,
    known_use: Option<Timestamp>,
    now: Timestamp,
) -> Result<Resolution, Error> {
    local::resolve(installed, digest, known_use, now)
}
