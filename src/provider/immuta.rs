//! The Immuta HTTP API: `GET {bodata.api_url}/bim/rpc/user/current` with the token as bearer (RFC 6750).

use crate::core::provider::answers;
use crate::core::provider::outage::Outage;
use crate::core::provider::refusals::Refusal;
use crate::core::token::Secret;
use crate::provider::{Ruling, endpoint, http};
use crate::settings;
use zeroize::Zeroizing;

fn request(token: &Secret) -> Result<http::Request, Outage> {
    let base = endpoint("bodata.api_url", settings::api_url())?;
    Ok(http::Request {
        url: format!("{}/bim/rpc/user/current", base.trim_end_matches('/')),
        authorization: Some(Zeroizing::new(format!("Bearer {}", token.reveal()))),
        form: None,
    })
}

pub fn resolve(token: &Secret) -> Result<Ruling, Outage> {
    let answer = http::fetch(request(token)?)?;
    match answer.status {
        200 => answers::immuta_user(&answer.body, &settings::user_mapping_attribute())
            .map(Ruling::Word)
            .map_err(Outage::Nonsense),
        401 => Ok(Ruling::Refused(Refusal::Invalid)),
        403 => Ok(Ruling::Refused(Refusal::NotAllowed)),
        status => Err(Outage::Status(status)),
    }
}

/// Shows the API that the token is in use.
pub fn keep_alive(token: &Secret) {
    if let Ok(request) = request(token) {
        http::send(request);
    }
}
