//! From a token to a user: the providers.

mod http;
mod immuta;
mod introspection;
pub mod jwt;
mod keys;
mod local;
pub mod lookup;
mod together;

use crate::core::identity::Provider;
use crate::core::provider::answers::{Unfit, Word};
use crate::core::provider::cache::Resolution;
use crate::core::provider::endpoint::is_plain_http;
use crate::core::provider::jwt::token::has_shape;
use crate::core::provider::outage::Outage;
use crate::core::provider::refusals::Refusal;
use crate::core::time::Timestamp;
use crate::core::token::{Digest, Secret};
use crate::pg::catalog::Installation;
use crate::pg::sys::report;
use crate::settings;
use std::cell::Cell;

/// Why there is no user for a token.
pub enum Failure {
    /// The provider refuses the token.
    Refused(Refusal),
    /// The provider cannot be asked.
    Outage(Outage),
}

/// What a remote provider said.
enum Ruling {
    Word(Word),
    Refused(Refusal),
}

/// Asks the provider about a token. `known_use` is the last use that this backend knows of, which the provider may
/// not have been told yet. A remote provider needs the token itself.
pub fn resolve(
    installed: &Installation,
    digest: &Digest,
    token: Option<&Secret>,
    known_use: Option<Timestamp>,
    now: Timestamp,
) -> Result<Resolution, Failure> {
    let invalid = Failure::Refused(Refusal::Invalid);
    let provider = settings::token_provider();
    let ruling = match (provider, token) {
        (Provider::Name, _) => return Err(invalid),
        (Provider::Local, _) => return local::resolve(installed, digest, known_use, now).ok_or(invalid),
        (_, None) => return Err(invalid),
        (Provider::Immuta, Some(token)) => immuta::resolve(token),
        (Provider::Introspection, Some(token)) => introspection::resolve(token, now),
        // By its shape only: what failed to verify is asked about nowhere.
        (Provider::Jwt, Some(token)) if has_shape(token.reveal()) => return jwt::resolve(installed, token, now),
        (Provider::Jwt, Some(token)) if settings::jwt_introspects_opaque() => introspection::resolve(token, now),
        (Provider::Jwt, Some(_)) => return Err(invalid),
    };
    match ruling.map_err(Failure::Outage)? {
        Ruling::Word(Word::Active(subject, expires)) if expires.is_none_or(|end| now < end) => {
            let provider = if provider == Provider::Jwt { Provider::Introspection } else { provider };
            Ok(Resolution {
                provider,
                subject,
                last_used: now,
                validated: now,
                expires,
                token_id: 0,
                claims: None,
            })
        }
        Ruling::Word(Word::Unfit(unfit)) => {
            report_unfit(unfit);
            Err(invalid)
        }
        Ruling::Word(_) => Err(invalid),
        Ruling::Refused(refusal) => Err(Failure::Refused(refusal)),
    }
}

/// Whether another server is asked about this token.
fn is_remote_for(token: Option<&Secret>) -> bool {
    match settings::token_provider() {
        Provider::Immuta | Provider::Introspection => true,
        Provider::Jwt => {
            settings::jwt_introspects_opaque() && token.is_some_and(|token| !has_shape(token.reveal()))
        }
        Provider::Local | Provider::Name => false,
    }
}

/// Shows a remote provider that a token is in use, without waiting for the answer.
pub fn keep_alive(provider: Provider, token: &Secret) {
    match provider {
        Provider::Local | Provider::Name | Provider::Jwt => {}
        Provider::Immuta => immuta::keep_alive(token),
        Provider::Introspection => introspection::keep_alive(token),
    }
}

/// The URL of a setting, if it may be used.
fn endpoint(setting: &'static str, url: String) -> Result<String, Outage> {
    if url.is_empty() {
        Err(Outage::NotConfigured(setting))
    } else if is_plain_http(&url) && !settings::api_allow_http() {
        Err(Outage::PlainHttp(setting))
    } else {
        Ok(url)
    }
}

/// To the client this is a token like any other that is not valid; the administrator may want to know. Once per
/// session and reason is enough.
fn report_unfit(unfit: Unfit) {
    thread_local! {
        static REPORTED: Cell<[bool; Unfit::COUNT]> = const { Cell::new([false; Unfit::COUNT]) };
    }
    let mut reported = REPORTED.get();
    if !std::mem::replace(&mut reported[unfit as usize], true) {
        REPORTED.set(reported);
        let why = unfit.why();
        report::log(format!("an active token was refused because the introspection response {why}"), unfit.hint());
    }
}
