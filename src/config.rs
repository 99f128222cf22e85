//! The settings. Each is private to this file, validated when it is set, and read through a typed getter.

use crate::core::guard;
use crate::pg::{
    compat,
    guc::{self, AnyList, ListCheck},
};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::CString;
use std::time::Duration;

/// Idle time to live of a token, in seconds. Bounds how long a token that leaked, or was forgotten, can be used.
/// One hour is what Immuta's own tokens have.
static TOKEN_IDLE_TTL: GucSetting<i32> = GucSetting::<i32>::new(3600);

/// How long, in seconds, a backend uses a token without asking the provider again; 0 asks in every transaction.
/// Bounds how late activity of other backends and an outside revocation are noticed.
static TOKEN_REVALIDATE_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(300);

/// Entries of the token cache of one backend (about 300 bytes each).
static TOKEN_CACHE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(10_000);

/// Whether a login that may present tokens is kept from doing anything before it has presented one. To be switched
/// off for single roles only (`ALTER ROLE … SET`), for example a login that runs migrations.
static REQUIRE_TOKEN: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Parameters that a session may set without a token: what drivers set when they connect. A name that ends in `*`
/// stands for all that begin so.
static SESSION_SETTINGS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(
    c"client_encoding, DateStyle, IntervalStyle, TimeZone, application_name, extra_float_digits, \
      standard_conforming_strings, bytea_output, statement_timeout, lock_timeout, \
      idle_in_transaction_session_timeout, default_transaction_*",
));

/// Owners, besides superusers, whose SECURITY DEFINER functions work without a token.
static TRUSTED_DEFINERS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Whether a user without an explicit mapping is mapped to the role of the same name (if that is a member of
/// `immuta_mappable`).
static MAP_BY_USERNAME: GucSetting<bool> = GucSetting::<bool>::new(true);

/// The identity managers for which that holds: whoever can register a user there chooses the name.
static MAP_BY_USERNAME_IAMIDS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"bim"));

pub fn token_idle_ttl() -> Duration {
    seconds(&TOKEN_IDLE_TTL)
}

pub fn token_revalidate_interval() -> Duration {
    seconds(&TOKEN_REVALIDATE_INTERVAL)
}

pub fn token_cache_size() -> usize {
    usize::try_from(TOKEN_CACHE_SIZE.get()).unwrap_or(1)
}

pub fn require_token() -> bool {
    REQUIRE_TOKEN.get()
}

pub fn session_settings() -> Vec<String> {
    list(&SESSION_SETTINGS)
}

pub fn trusted_definers() -> Vec<String> {
    list(&TRUSTED_DEFINERS)
}

/// Whether users of this identity manager may be mapped by their name.
pub fn maps_by_username(iamid: &str) -> bool {
    MAP_BY_USERNAME.get() && list(&MAP_BY_USERNAME_IAMIDS).iter().any(|id| id == iamid)
}

fn seconds(setting: &GucSetting<i32>) -> Duration {
    Duration::from_secs(u64::try_from(setting.get()).unwrap_or(0))
}

fn list(setting: &GucSetting<Option<CString>>) -> Vec<String> {
    setting.get().and_then(|raw| guc::split_names(&raw)).unwrap_or_default()
}

/// Session settings that would undo the guard are refused.
struct SessionSettings;

impl ListCheck for SessionSettings {
    fn check(list: &[String]) -> Result<(), String> {
        guard::session_settings_fault(list).map_or(Ok(()), Err)
    }
}

/// Defines all settings. Called once, from `_PG_init`.
pub fn init() {
    let seconds = GucFlags::UNIT_S;
    GucRegistry::define_int_guc(
        c"bodata.token_idle_ttl",
        c"Idle time to live of an impersonation token.",
        c"A token dies this long after its last impersonated query.",
        &TOKEN_IDLE_TTL,
        1,
        30 * 24 * 3600,
        GucContext::Suset,
        seconds,
    );
    GucRegistry::define_int_guc(
        c"bodata.token_revalidate_interval",
        c"How long a token is used without asking its provider again.",
        c"Zero asks in every transaction.",
        &TOKEN_REVALIDATE_INTERVAL,
        0,
        24 * 3600,
        GucContext::Suset,
        seconds,
    );
    GucRegistry::define_int_guc(
        c"bodata.token_cache_size",
        c"Number of tokens remembered in one backend.",
        c"The least recently used ones go first.",
        &TOKEN_CACHE_SIZE,
        1,
        10_000_000,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"bodata.require_token",
        c"Whether logins that may impersonate can do nothing before they present a token.",
        c"Switch it off for single roles only.",
        &REQUIRE_TOKEN,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"bodata.map_by_username",
        c"Whether users without an explicit mapping are mapped to the role of the same name.",
        c"Only roles that are members of immuta_mappable are reached.",
        &MAP_BY_USERNAME,
        GucContext::Suset,
        GucFlags::default(),
    );
    guc::define_list::<AnyList>(
        c"bodata.map_by_username_iamids",
        c"Identity managers whose users are mapped by name.",
        &MAP_BY_USERNAME_IAMIDS,
    );
    guc::define_list::<SessionSettings>(
        c"bodata.session_settings",
        c"Parameters that a session may set without an impersonation token.",
        &SESSION_SETTINGS,
    );
    guc::define_list::<AnyList>(
        c"bodata.trusted_definers",
        c"Owners, besides superusers, whose SECURITY DEFINER functions work without a token.",
        &TRUSTED_DEFINERS,
    );
    guc::define_token();
    compat::reserve_prefix(c"bodata");
}
