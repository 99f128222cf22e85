//! JSON Web Tokens: which are accepted, what they say, and the keys of their issuers.

use crate::core::provider::jwt::cache::Times;
use crate::core::provider::jwt::json::Path;
use crate::core::provider::jwt::keys::Algorithm;
use crate::core::provider::jwt::policy::{Keys, Policy, algorithm_fault};
use crate::files;
use crate::pg::guc::{Changes, Choice, List, ListCheck, Number, Setting, Text, TextCheck};
use crate::settings::read::{list, seconds, text};
use crate::settings::{api_timeout, settings};
use pgrx::PostgresGucEnum;
use pgrx::guc::{GucFlags, GucSetting};
use std::ffi::CString;
use std::marker::PhantomData;
use std::time::Duration;

/// Values of `bodata.jwt_opaque`.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum Opaque {
    #[name = c"refuse"]
    Refuse,
    #[name = c"introspection"]
    Introspection,
}

/// Values of `bodata.jwt_actors`.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum Actors {
    #[name = c"record"]
    Record,
    #[name = c"refuse"]
    Refuse,
}

/// NonEmptyNames that are not empty.
struct NonEmptyNames;

impl ListCheck for NonEmptyNames {
    fn check(list: &[String]) -> Result<(), String> {
        if list.iter().any(String::is_empty) { Err("An element is empty.".into()) } else { Ok(()) }
    }
}

struct Algorithms;

impl ListCheck for Algorithms {
    fn check(list: &[String]) -> Result<(), String> {
        let unknown = list.iter().find(|name| Algorithm::parse(name).is_none());
        unknown.map_or(Ok(()), |name| Err(algorithm_fault(name)))
    }
}

struct ClaimPaths;

impl ListCheck for ClaimPaths {
    fn check(list: &[String]) -> Result<(), String> {
        list.iter().try_for_each(|claim| ClaimPath::check(claim))
    }
}

/// The name of a claim, or where it is.
struct ClaimPath;

impl TextCheck for ClaimPath {
    fn check(claim: &str) -> Result<(), String> {
        let what = "A claim is a name or, beginning with /, a JSON Pointer (RFC 6901).";
        Path::parse(claim).map(drop).ok_or_else(|| what.into())
    }
}

struct KeysFile;

impl TextCheck for KeysFile {
    fn check(path: &str) -> Result<(), String> {
        files::keys(path).map(drop).map_err(|why| format!("The file {why}."))
    }
}

settings! {
    /// Whom a JWT must be meant for: one of these. Mandatory, as an issuer's tokens for other services are as good as ours.
    JWT_AUDIENCE: List<NonEmptyNames> = Setting {
        name: c"bodata.jwt_audience",
        value: GucSetting::<Option<CString>>::new(Some(c"")),
        kind: List(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"Audiences (aud), of which a JWT must be meant for one.",
        details: c"A list of names, separated by commas.",
    };

    /// Accepted types. Only access tokens have that of RFC 9068; many servers do not use it yet.
    JWT_TYPES: List<NonEmptyNames> = Setting {
        name: c"bodata.jwt_types",
        value: GucSetting::<Option<CString>>::new(Some(c"at+jwt")),
        kind: List(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"Types (typ) of JWTs that are accepted.",
        details: c"A list of names, separated by commas.",
    };

    /// Accepted signatures, the best first: a key that does not say counts for the first that it can be for.
    JWT_ALGORITHMS: List<Algorithms> = Setting {
        name: c"bodata.jwt_algorithms",
        value: GucSetting::<Option<CString>>::new(Some(c"RS256, PS256, ES256, ES384, EdDSA")),
        kind: List(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"Signature algorithms that are accepted.",
        details: c"A list of names, separated by commas.",
    };

    /// Claims that may hold the user id; the first that is there counts. A name that users can choose is none for this.
    JWT_USER_CLAIM: List<ClaimPaths> = Setting {
        name: c"bodata.jwt_user_claim",
        value: GucSetting::<Option<CString>>::new(Some(c"sub")),
        kind: List(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"Claims of a JWT that may hold the user id.",
        details: c"A list of names, separated by commas.",
    };

    /// Claims with the groups and the attributes of the user, for row policies. Empty: our own tables have them.
    JWT_GROUPS_CLAIM: Text<ClaimPath> = Setting {
        name: c"bodata.jwt_groups_claim",
        value: GucSetting::<Option<CString>>::new(Some(c"")),
        kind: Text(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"Claim of a JWT with the groups of its user.",
        details: c"Empty: the extension's own tables have them.",
    };

    JWT_ATTRIBUTES_CLAIM: Text<ClaimPath> = Setting {
        name: c"bodata.jwt_attributes_claim",
        value: GucSetting::<Option<CString>>::new(Some(c"")),
        kind: Text(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"Claim of a JWT with the attributes of its user.",
        details: c"An object. Empty: the extension's own tables have them.",
    };

    /// Scopes that a token must have, all of them.
    JWT_REQUIRED_SCOPE: List<NonEmptyNames> = Setting {
        name: c"bodata.jwt_required_scope",
        value: GucSetting::<Option<CString>>::new(Some(c"")),
        kind: List(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"Scopes that a JWT must have, all of them.",
        details: c"A list of names, separated by commas.",
    };

    /// How far, in seconds, the clocks of issuers may be off.
    JWT_CLOCK_SKEW: Number = Setting {
        name: c"bodata.jwt_clock_skew",
        value: GucSetting::<i32>::new(30),
        kind: Number { least: 0, most: 300, unit: GucFlags::UNIT_S },
        changes: Changes::Provider,
        is_shown: true,
        what: c"How far the clocks of issuers may be off.",
        details: c"",
    };

    /// Longest life, in seconds, of a token; 0: any. Bounds how long a token that leaked can be used.
    JWT_MAX_LIFETIME: Number = Setting {
        name: c"bodata.jwt_max_lifetime",
        value: GucSetting::<i32>::new(24 * 3600),
        kind: Number { least: 0, most: 366 * 24 * 3600, unit: GucFlags::UNIT_S },
        changes: Changes::Provider,
        is_shown: true,
        what: c"Longest time between issue (iat) and end (exp) of a JWT.",
        details: c"Zero: any.",
    };

    /// Keys of issuers that are not asked for theirs.
    JWT_KEYS_FILE: Text<KeysFile> = Setting {
        name: c"bodata.jwt_keys_file",
        value: GucSetting::<Option<CString>>::new(Some(c"")),
        kind: Text(PhantomData),
        changes: Changes::Provider,
        is_shown: false,
        what: c"File with the keys of issuers that are not asked for theirs.",
        details: c"JSON. Read again at each reload.",
    };

    /// How long, in seconds, keys serve after their time while their issuer is down. A key that was withdrawn because it
    /// leaked serves as long.
    JWT_KEYS_GRACE: Number = Setting {
        name: c"bodata.jwt_keys_grace",
        value: GucSetting::<i32>::new(24 * 3600),
        kind: Number { least: 0, most: 30 * 24 * 3600, unit: GucFlags::UNIT_S },
        changes: Changes::Provider,
        is_shown: true,
        what: c"How long the last good keys of an issuer serve while it cannot be asked.",
        details: c"Counted from the time at which they should have been renewed; zero: not at all.",
    };

    /// Shortest time, in seconds, between two attempts to fetch an issuer's keys, whatever came of the first.
    JWT_KEYS_COOLDOWN: Number = Setting {
        name: c"bodata.jwt_keys_cooldown",
        value: GucSetting::<i32>::new(30),
        kind: Number { least: 1, most: 3600, unit: GucFlags::UNIT_S },
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Shortest time between two attempts to fetch the keys of an issuer.",
        details: c"Tokens that name unknown keys do not make more.",
    };

    /// How long, in seconds, a connection that was made with a token may outlive it: programs that cannot present a fresh one
    /// stay connected. Revoked tokens, disabled users and withdrawn keys end it as ever.
    OAUTH_SESSION_LIFETIME: Number = Setting {
        name: c"bodata.oauth_session_lifetime",
        value: GucSetting::<i32>::new(0),
        kind: Number { least: 0, most: 86_400, unit: GucFlags::UNIT_S },
        changes: Changes::Provider,
        is_shown: true,
        what: c"How long a connection that was made with a token (PostgreSQL 18) may outlive it.",
        details: c"Zero: the connection's user ends with the token.",
    };

    /// What becomes of tokens that do not look like a JWT.
    JWT_OPAQUE: Choice<Opaque> = Setting {
        name: c"bodata.jwt_opaque",
        value: GucSetting::<Opaque>::new(Opaque::Refuse),
        kind: Choice(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"What becomes of tokens that do not look like a JWT.",
        details: c"refuse; introspection: bodata.introspection_url is asked.",
    };

    /// What becomes of tokens that somebody else uses on behalf of their user.
    JWT_ACTORS: Choice<Actors> = Setting {
        name: c"bodata.jwt_actors",
        value: GucSetting::<Actors>::new(Actors::Record),
        kind: Choice(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"What becomes of JWTs that somebody uses on behalf of their user (act).",
        details: c"record; refuse.",
    };
}

/// How much longer than its token a session lasts that was opened with it.
pub fn oauth_session_lifetime() -> Duration {
    seconds(&OAUTH_SESSION_LIFETIME)
}

/// What is accepted of issuers whose rows say nothing else. All values were checked when they were set.
pub fn jwt_policy() -> Policy {
    Policy {
        audiences: list(&JWT_AUDIENCE),
        types: list(&JWT_TYPES),
        algorithms: list(&JWT_ALGORITHMS).iter().filter_map(|name| Algorithm::parse(name)).collect(),
        user_claims: list(&JWT_USER_CLAIM).iter().filter_map(|claim| Path::parse(claim)).collect(),
        user_template: String::new(),
        groups: Path::parse(&text(&JWT_GROUPS_CLAIM)),
        attributes: Path::parse(&text(&JWT_ATTRIBUTES_CLAIM)),
        attribute_claims: Vec::new(),
        scopes: list(&JWT_REQUIRED_SCOPE),
        required: Vec::new(),
        skew: seconds(&JWT_CLOCK_SKEW),
        outlives: Duration::ZERO,
        max_lifetime: Some(seconds(&JWT_MAX_LIFETIME)).filter(|most| !most.is_zero()),
        refuses_actors: JWT_ACTORS.get() == Actors::Refuse,
        keys: Keys::Discovery,
    }
}

pub fn jwt_keys_file() -> String {
    text(&JWT_KEYS_FILE)
}

pub fn jwt_key_times() -> Times {
    Times { cooldown: seconds(&JWT_KEYS_COOLDOWN), timeout: api_timeout(), grace: seconds(&JWT_KEYS_GRACE) }
}

/// Whether tokens that do not look like a JWT are introspected.
pub fn jwt_introspects_opaque() -> bool {
    JWT_OPAQUE.get() == Opaque::Introspection
}
