//! When the keys of an issuer are asked for, and how long they serve.

use super::json::Json;
use super::keys::KeySet;
use crate::core::time::Timestamp;
use std::time::Duration;

const SHORTEST: Duration = Duration::from_secs(5 * 60);
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Where nothing is said, or that nothing is to be kept: servers say so of keys that live for months.
const USUAL: Duration = Duration::from_secs(15 * 60);

/// How long an answer with this `Cache-Control` counts (RFC 9111, `max-age`).
pub fn lifetime(cache_control: Option<&str>) -> Duration {
    let mut seconds = None;
    for directive in cache_control.unwrap_or_default().split(',') {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        match name.trim().to_ascii_lowercase().as_str() {
            "no-cache" | "no-store" => return USUAL,
            "max-age" => seconds = value.trim().trim_matches('"').parse::<u64>().ok().or(seconds),
            _ => {}
        }
    }
    seconds.map_or(USUAL, |seconds| Duration::from_secs(seconds).clamp(SHORTEST, LONGEST))
}

/// The last attempt to fetch: when it began, and what came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    Never,
    Running(Timestamp),
    Good(Timestamp),
    Failed(Timestamp),
}

/// What is known of the keys of one issuer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    pub attempt: Attempt,
    /// When the keys that are there were fetched, and how long they count.
    pub good: Option<(Timestamp, Timestamp)>,
}

pub struct Times {
    /// Between two attempts, whatever comes of them: made-up key ids must not drive requests.
    pub cooldown: Duration,
    /// After which an attempt that has not ended is given up.
    pub timeout: Duration,
    /// How long keys serve after their time, while the issuer cannot be asked.
    pub grace: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Use the keys that are there.
    Use,
    /// The same, but let somebody fetch them anew meanwhile.
    UseAndRefresh,
    /// Fetch, and look again.
    Fetch,
    /// Somebody is fetching: look again.
    Wait,
    /// The issuer has no such key.
    NoSuchKey,
    /// The issuer could not be asked a moment ago.
    Down,
}

impl State {
    /// What to do for a token whose key is there, or is not.
    pub fn step(&self, has_key: bool, now: Timestamp, times: &Times) -> Step {
        // A clock that was set back says nothing about the age of what is there.
        let known = self.good.filter(|(fetched, _)| *fetched <= now);
        let is_fresh = known.is_some_and(|(_, end)| now < end);
        let may_serve = known.is_some_and(|(_, end)| now < end.plus(times.grace));
        let (may_try, is_running) = match self.attempt {
            Attempt::Never => (true, false),
            Attempt::Running(begun) => (now.is_past(begun, times.timeout), true),
            Attempt::Good(begun) | Attempt::Failed(begun) => (now.is_past(begun, times.cooldown), false),
        };
        let is_old = known.is_some_and(|(fetched, end)| now.0 - fetched.0 > (end.0 - fetched.0) / 5 * 4);
        match (has_key && may_serve, may_try) {
            (true, true) if is_fresh && is_old => Step::UseAndRefresh,
            (true, true) if !is_fresh => Step::Fetch,
            (true, _) => Step::Use,
            (false, true) => Step::Fetch,
            (false, false) if is_running => Step::Wait,
            (false, false) if matches!(self.attempt, Attempt::Good(_)) && may_serve => Step::NoSuchKey,
            (false, false) => Step::Down,
        }
    }

    /// The same once the fetch that it asked for has failed.
    pub fn may_serve_anyway(&self, has_key: bool, now: Timestamp, times: &Times) -> bool {
        has_key && self.good.is_some_and(|(fetched, end)| fetched <= now && now < end.plus(times.grace))
    }
}

/// Where an issuer's metadata may be: OpenID Connect Discovery, section 4; RFC 8414, section 3.1.
pub fn metadata_urls(issuer: &str) -> [String; 2] {
    let base = issuer.trim_end_matches('/');
    let host_end = base.find("://").map_or(0, |at| at + 3);
    let path = base[host_end..].find('/').map_or(base.len(), |at| host_end + at);
    [
        format!("{base}/.well-known/openid-configuration"),
        format!("{}/.well-known/oauth-authorization-server{}", &base[..path], &base[path..]),
    ]
}

/// The issuer that a line of pg_hba.conf names, by itself or by the URL of its metadata.
pub fn issuer_of_line(named: &str) -> String {
    let Some((base, rest)) = named.split_once("/.well-known/") else { return named.to_owned() };
    format!("{base}{}", rest.find('/').map_or("", |at| &rest[at..]))
}

/// What is wrong with metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metadata {
    Unreadable,
    OtherIssuer,
}

/// The URL of the keys, by the metadata of this issuer.
pub fn jwks_uri(metadata: &[u8], issuer: &str) -> Result<String, Metadata> {
    let metadata = Json::read(metadata).ok_or(Metadata::Unreadable)?;
    let text = |name: &str| metadata.member(name).and_then(Json::text).ok_or(Metadata::Unreadable);
    if text("issuer")? != issuer {
        return Err(Metadata::OtherIssuer);
    }
    text("jwks_uri").map(str::to_owned)
}

/// Keys in a file: `{"<issuer>": {"keys": […]}, …}`. `None` for a file that is something else.
pub fn keys_by_issuer(file: &[u8]) -> Option<Vec<(String, KeySet)>> {
    let issuers = Json::read(file)?;
    issuers.members()?.iter().map(|(issuer, set)| Some((issuer.clone(), KeySet::of(set)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;
    const TIMES: Times = Times {
        cooldown: Duration::from_secs(30),
        timeout: Duration::from_secs(5),
        grace: Duration::from_secs(3600),
    };

    fn at(second: i64) -> Timestamp {
        Timestamp(second * SECOND)
    }

    /// Fetched at 0 for 1000 seconds.
    fn known(attempt: Attempt) -> State {
        State { attempt, good: Some((at(0), at(1000))) }
    }

    #[test]
    fn answers_count_for_a_reasonable_time() {
        for (header, seconds) in [
            (None, 900),
            (Some(""), 900),
            (Some("max-age=0"), 300),
            (Some("public, Max-Age=\"600\""), 600),
            (Some("max-age=99999999999"), 86_400),
            (Some("max-age=-1"), 900),
            (Some("max-age=x, max-age=700"), 700),
            (Some("max-age=600, no-store"), 900),
            (Some("no-cache"), 900),
        ] {
            assert_eq!(lifetime(header).as_secs(), seconds, "{header:?}");
        }
    }

    #[test]
    fn keys_are_used_and_renewed_in_time() {
        let state = known(Attempt::Good(at(0)));
        assert_eq!(state.step(true, at(1), &TIMES), Step::Use);
        assert_eq!(state.step(true, at(801), &TIMES), Step::UseAndRefresh);
        assert_eq!(known(Attempt::Running(at(801))).step(true, at(802), &TIMES), Step::Use);
        assert_eq!(state.step(true, at(1000), &TIMES), Step::Fetch);
        assert_eq!(state.step(true, at(99_999), &TIMES), Step::Fetch);
        assert_eq!(state.step(true, at(-1), &TIMES), Step::Fetch, "a clock set back");
    }

    #[test]
    fn unknown_keys_are_asked_for_once_in_a_while() {
        let state = known(Attempt::Good(at(0)));
        assert_eq!(state.step(false, at(29), &TIMES), Step::NoSuchKey);
        assert_eq!(state.step(false, at(30), &TIMES), Step::Fetch);
        assert_eq!(known(Attempt::Running(at(30))).step(false, at(31), &TIMES), Step::Wait);
        assert_eq!(known(Attempt::Running(at(30))).step(false, at(35), &TIMES), Step::Fetch, "taken over");
        assert_eq!(known(Attempt::Failed(at(30))).step(false, at(31), &TIMES), Step::Down);
        assert_eq!(known(Attempt::Failed(at(30))).step(true, at(31), &TIMES), Step::Use, "nothing is lost");
        let empty = |attempt| State { attempt, good: None };
        assert_eq!(empty(Attempt::Never).step(false, at(0), &TIMES), Step::Fetch);
        assert_eq!(empty(Attempt::Running(at(0))).step(false, at(1), &TIMES), Step::Wait);
        assert_eq!(empty(Attempt::Failed(at(0))).step(false, at(29), &TIMES), Step::Down);
        assert_eq!(empty(Attempt::Failed(at(0))).step(false, at(30), &TIMES), Step::Fetch);
    }

    #[test]
    fn old_keys_serve_for_their_grace_and_no_longer() {
        let state = known(Attempt::Failed(at(1000)));
        assert_eq!(state.step(true, at(1001), &TIMES), Step::Use);
        assert_eq!(state.step(true, at(1030), &TIMES), Step::Fetch);
        assert!(state.may_serve_anyway(true, at(4599), &TIMES) && !state.may_serve_anyway(true, at(4600), &TIMES));
        assert!(!state.may_serve_anyway(false, at(1), &TIMES));
        assert_eq!(known(Attempt::Failed(at(4599))).step(true, at(4600), &TIMES), Step::Down);
        let none = Times { grace: Duration::ZERO, ..TIMES };
        assert_eq!(known(Attempt::Failed(at(999))).step(true, at(1000), &none), Step::Down);
    }

    #[test]
    fn metadata_are_the_issuers_own() {
        assert_eq!(
            metadata_urls("https://id.example.com/tenant/"),
            [
                "https://id.example.com/tenant/.well-known/openid-configuration",
                "https://id.example.com/.well-known/oauth-authorization-server/tenant"
            ]
        );
        assert_eq!(metadata_urls("https://id")[1], "https://id/.well-known/oauth-authorization-server");
        for issuer in ["https://id", "https://id.example.com/tenant"] {
            assert_eq!(issuer_of_line(issuer), issuer);
            assert!(metadata_urls(issuer).iter().all(|url| issuer_of_line(url) == issuer));
        }
        let find = |text: &str| jwks_uri(text.as_bytes(), "https://id");
        assert_eq!(find(r#"{"issuer":"https://id","jwks_uri":"https://k"}"#), Ok("https://k".into()));
        assert_eq!(find(r#"{"issuer":"https://id/","jwks_uri":"https://k"}"#), Err(Metadata::OtherIssuer));
        for bad in [
            "",
            "[]",
            r#"{"issuer":"https://id"}"#,
            r#"{"issuer":"https://id","jwks_uri":7}"#,
            r#"{"issuer":["https://id"]}"#,
        ] {
            assert_eq!(find(bad), Err(Metadata::Unreadable), "{bad}");
        }
    }

    #[test]
    fn a_file_has_keys_by_issuer() {
        let ed = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
        let file = format!(r#"{{"https://a":{{"keys":[{ed}]}},"https://b":{{"keys":[{ed},{ed}]}}}}"#);
        let found = keys_by_issuer(file.as_bytes()).unwrap_or_default();
        let counts: Vec<_> = found.iter().map(|(issuer, set)| (issuer.as_str(), set.keys().len())).collect();
        assert_eq!(counts, [("https://a", 1), ("https://b", 2)]);
        for bad in ["", "[]", r#"{"https://a":{}}"#, r#"{"https://a":{"keys":[]}}"#] {
            assert_eq!(keys_by_issuer(bad.as_bytes()), None, "{bad}");
        }
    }
}
