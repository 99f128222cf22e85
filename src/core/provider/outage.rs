//! Why there is no answer of a token provider, or none that can be used. Nothing here quotes what it sent: that may hold
//! anything.

use std::borrow::Cow;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outage {
    /// A setting without which nobody can be asked is empty.
    NotConfigured(&'static str),
    /// The setting's URL is `http`, which `bodata.api_allow_http` does not (any longer) allow.
    PlainHttp(&'static str),
    /// A file that a setting names cannot be used (any longer); which, and why.
    File(&'static str, String),
    NameNotFound,
    Unreachable,
    Tls,
    Proxy,
    Timeout,
    /// The connection ended before the answer did.
    ConnectionLost,
    /// An answer that breaks HTTP.
    NotHttp,
    TooLarge,
    Status(u16),
    /// The provider does not accept the credentials of this server (RFC 6749, `invalid_client`).
    ClientRefused,
    /// An answer that is not what it should be.
    Nonsense(&'static str),
    /// The keys of an issuer, in which none can be used.
    KeysUnusable,
    /// Metadata that are another issuer's.
    OtherIssuer,
    /// No keys could be had a moment ago, and they are not asked for again yet; why, where that is known.
    KeysMissing(String),
    /// Too many earlier requests of this session still hang.
    Busy,
    /// Another session has just failed to get an answer, for which this one waited.
    OfOthers {
        is_silence: bool,
    },
    /// The request could not be made for lack of a thread or a descriptor.
    NoResources,
}

impl Outage {
    /// Whether the provider said nothing, or only that it is out of order, so that its last answers may serve
    /// (`bodata.provider_grace`). Whatever else it said in time may mean that the token counts no longer; and what is
    /// set up wrongly here is to be seen.
    pub fn is_silence(&self) -> bool {
        match self {
            Outage::NameNotFound
            | Outage::Unreachable
            | Outage::Tls
            | Outage::Proxy
            | Outage::Timeout
            | Outage::ConnectionLost
            | Outage::KeysMissing(_)
            | Outage::Busy
            | Outage::NoResources => true,
            Outage::Status(status) => (500..600).contains(status),
            Outage::OfOthers { is_silence } => *is_silence,
            Outage::NotConfigured(_)
            | Outage::PlainHttp(_)
            | Outage::File(..)
            | Outage::NotHttp
            | Outage::TooLarge
            | Outage::ClientRefused
            | Outage::KeysUnusable
            | Outage::OtherIssuer
            | Outage::Nonsense(_) => false,
        }
    }

    pub fn why(&self) -> Cow<'static, str> {
        match self {
            Outage::NotConfigured(setting) => format!("{setting} is not set").into(),
            Outage::PlainHttp(setting) => {
                format!("{setting} is no https URL and bodata.api_allow_http is off").into()
            }
            Outage::File(setting, why) => format!("the file of {setting} {why}").into(),
            Outage::NameNotFound => "the name of its host cannot be resolved".into(),
            Outage::Unreachable => "it cannot be connected to".into(),
            Outage::Tls => "no trusted TLS connection could be made".into(),
            Outage::Proxy => "the proxy does not let the connection through".into(),
            Outage::Timeout => "it did not answer in time".into(),
            Outage::ConnectionLost => "the connection broke".into(),
            Outage::NotHttp => "its answer is not HTTP".into(),
            Outage::TooLarge => "its answer is too large".into(),
            Outage::Status(status) => format!("it answered with status {status}").into(),
            Outage::ClientRefused => "it refuses the client credentials of this server".into(),
            Outage::Nonsense(what) => format!("its answer {what}").into(),
            Outage::KeysUnusable => "there is no key of its issuer that can be used".into(),
            Outage::OtherIssuer => "the metadata of its issuer name another issuer".into(),
            Outage::KeysMissing(why) => format!("the keys of its issuer could not be fetched: {why}").into(),
            Outage::Busy => "too many requests of this session hang".into(),
            Outage::OfOthers { .. } => "another session has just failed to ask it".into(),
            Outage::NoResources => "no request could be made".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_silence_and_server_errors_leave_the_last_answer_in_force() {
        for status in [500, 502, 503, 504, 599] {
            assert!(Outage::Status(status).is_silence(), "{status}");
        }
        for status in [100, 201, 204, 302, 400, 401, 404, 408, 410, 425, 429, 451, 499, 600, 999] {
            assert!(!Outage::Status(status).is_silence(), "{status}");
        }
        assert!(Outage::Timeout.is_silence() && Outage::ConnectionLost.is_silence());
        assert!(
            !Outage::Nonsense("").is_silence() && !Outage::TooLarge.is_silence() && !Outage::NotHttp.is_silence()
        );
    }
}
