//! OAuth token introspection (RFC 7662): POST to `bodata.introspection_url`, authenticated as a client.

use crate::core::provider::answers::{self, Expected};
use crate::core::provider::outage::Outage;
use crate::core::time::Timestamp;
use crate::core::token::Secret;
use crate::provider::{Ruling, endpoint, http};
use crate::{files, settings};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::byte_serialize;
use zeroize::Zeroizing;

const SECRET_FILE: &str = "bodata.introspection_client_secret_file";

fn request(token: &Secret) -> Result<http::Request, Outage> {
    let url = endpoint("bodata.introspection_url", settings::introspection_url())?;
    let client_id = settings::introspection_client_id();
    let secret_file = settings::introspection_client_secret_file();
    if client_id.is_empty() {
        return Err(Outage::NotConfigured("bodata.introspection_client_id"));
    }
    if secret_file.is_empty() {
        return Err(Outage::NotConfigured(SECRET_FILE));
    }
    let secret = files::secret(&secret_file).map_err(|why| Outage::File(SECRET_FILE, why))?;
    Ok(http::Request {
        url,
        authorization: Some(basic(&client_id, &secret)),
        form: Some(Zeroizing::new(format!("token={}&token_type_hint=access_token", *encoded(token.reveal())))),
    })
}

/// RFC 6749, section 2.3.1: both parts form-encoded, then as for HTTP Basic.
fn basic(client_id: &str, secret: &str) -> Zeroizing<String> {
    let pair = Zeroizing::new(format!("{}:{}", *encoded(client_id), *encoded(secret)));
    let packed = Zeroizing::new(STANDARD.encode(pair.as_bytes()));
    Zeroizing::new(format!("Basic {}", *packed))
}

fn encoded(text: &str) -> Zeroizing<String> {
    Zeroizing::new(byte_serialize(text.as_bytes()).collect())
}

pub fn resolve(token: &Secret, now: Timestamp) -> Result<Ruling, Outage> {
    let answer = http::fetch(request(token)?)?;
    let (user_claims, audience) = (settings::introspection_user_claim(), settings::introspection_audience());
    let expected = Expected { user_claims: &user_claims, audience: &audience, now };
    match answer.status {
        200 => answers::introspection(&answer.body, &expected).map(Ruling::Word).map_err(Outage::Nonsense),
        401 | 403 => Err(Outage::ClientRefused),
        status => Err(Outage::Status(status)),
    }
}

/// Shows the server that the token is in use.
pub fn keep_alive(token: &Secret) {
    if let Ok(request) = request(token) {
        http::send(request);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_encoded_twice() {
        assert_eq!(*basic("s6BhdRkqt3", "gX1fBat3bV"), "Basic czZCaGRSa3F0MzpnWDFmQmF0M2JW");
        let packed = STANDARD.encode("a%3Ab:p%25+%2B");
        assert_eq!(*basic("a:b", "p% +"), format!("Basic {packed}"));
    }
}
