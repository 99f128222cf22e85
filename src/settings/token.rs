//! Tokens: how long what is known of them counts.

use crate::core::identity::Provider;
use crate::core::provider::cache::Limits;
use crate::pg::guc::{Changes, Number, NumberAtStart, Setting};
use crate::settings::read::seconds;
use crate::settings::settings;
use pgrx::guc::{GucFlags, GucSetting};
use std::time::Duration;

settings! {
    /// Idle time to live of a token, in seconds. Bounds how long a token that leaked, or was forgotten, can be used.
    /// One hour is what Immuta's own tokens have.
    TOKEN_IDLE_TTL: Number = Setting {
        name: c"bodata.token_idle_ttl",
        value: GucSetting::<i32>::new(3600),
        kind: Number { least: 1, most: 30 * 24 * 3600, unit: GucFlags::UNIT_S },
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Idle time to live of an impersonation token.",
        details: c"A token dies this long after its last impersonated query.",
    };

    /// How long, in seconds, a backend uses a token without asking the provider again; 0 asks in every transaction.
    /// Bounds how late activity of other backends and an outside revocation are noticed.
    TOKEN_REVALIDATE_INTERVAL: Number = Setting {
        name: c"bodata.token_revalidate_interval",
        value: GucSetting::<i32>::new(300),
        kind: Number { least: 0, most: 24 * 3600, unit: GucFlags::UNIT_S },
        changes: Changes::Nothing,
        is_shown: true,
        what: c"How long a token is used without asking its provider again.",
        details: c"Zero asks in every transaction.",
    };

    /// Entries of the token cache of one backend (about 300 bytes each).
    TOKEN_CACHE_SIZE: Number = Setting {
        name: c"bodata.token_cache_size",
        value: GucSetting::<i32>::new(10_000),
        kind: Number { least: 1, most: 10_000_000, unit: GucFlags::empty() },
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Number of tokens remembered in one backend.",
        details: c"The least recently used ones go first.",
    };

    /// Tokens that all sessions of the server know together (about 750 bytes each), where they share memory: one session asks a
    /// provider, and all know the answer. 0 turns that off.
    SHARED_TOKEN_CACHE_SIZE: NumberAtStart = Setting {
        name: c"bodata.shared_token_cache_size",
        value: GucSetting::<i32>::new(10_000),
        kind: NumberAtStart { least: 0, most: 1_000_000 },
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Number of tokens that all sessions of the server know together.",
        details: c"The least recently used ones go first. Zero: each session asks for itself.",
    };

    /// How long, in seconds, a session remembers that a provider refused a token, so that a client that retries does not
    /// flood it.
    NEGATIVE_CACHE_TTL: Number = Setting {
        name: c"bodata.negative_cache_ttl",
        value: GucSetting::<i32>::new(5),
        kind: Number { least: 0, most: 3600, unit: GucFlags::UNIT_S },
        changes: Changes::Nothing,
        is_shown: true,
        what: c"How long a session remembers that a token provider refused a token.",
        details: c"Zero asks again at each attempt.",
    };

    /// How long, in seconds, the last good answer serves after it should have been renewed, if the provider cannot be
    /// reached. By default not at all: an outage must not prolong what may have been revoked.
    PROVIDER_GRACE: Number = Setting {
        name: c"bodata.provider_grace",
        value: GucSetting::<i32>::new(0),
        kind: Number { least: 0, most: 24 * 3600, unit: GucFlags::UNIT_S },
        changes: Changes::Nothing,
        is_shown: true,
        what: c"How long the last good answer serves if the token provider cannot be reached.",
        details: c"Counted from the time at which it would have been asked again; zero: not at all.",
    };
}

/// How long a provider's word counts.
pub fn limits() -> Limits {
    Limits {
        idle_ttl: token_idle_ttl(),
        revalidate: seconds(&TOKEN_REVALIDATE_INTERVAL),
        grace: seconds(&PROVIDER_GRACE),
    }
}

pub fn token_idle_ttl() -> Duration {
    seconds(&TOKEN_IDLE_TTL)
}

/// How long a token may go unused. A JWT says itself when it ends.
pub fn idle_ttl_of(provider: Provider) -> Duration {
    if provider == Provider::Jwt { Duration::MAX } else { token_idle_ttl() }
}

pub fn token_cache_size() -> usize {
    usize::try_from(TOKEN_CACHE_SIZE.get()).unwrap_or(1)
}

pub fn shared_token_cache_size() -> usize {
    usize::try_from(SHARED_TOKEN_CACHE_SIZE.get()).unwrap_or(0)
}

pub fn negative_cache_ttl() -> Duration {
    seconds(&NEGATIVE_CACHE_TTL)
}
