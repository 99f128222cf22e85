//! What a login may do without a token.

use crate::core::guard;
use crate::pg::guc::{AnyList, Changes, List, ListCheck, Setting, Switch};
use crate::settings::read::list;
use crate::settings::settings;
use pgrx::guc::GucSetting;
use std::ffi::CString;
use std::marker::PhantomData;

/// Session settings that would undo the guard are refused.
struct SessionSettings;

impl ListCheck for SessionSettings {
    fn check(list: &[String]) -> Result<(), String> {
        guard::session_settings_fault(list).map_or(Ok(()), Err)
    }
}

settings! {
    /// Whether a login that may present tokens is kept from doing anything before it has presented one. To be switched
    /// off for single roles only (`ALTER ROLE … SET`), for example a login that runs migrations.
    REQUIRE_TOKEN: Switch = Setting {
        name: c"bodata.require_token",
        value: GucSetting::<bool>::new(true),
        kind: Switch,
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Whether logins that may impersonate can do nothing before they present a token.",
        details: c"Switch it off for single roles only.",
    };

    /// Parameters that a session may set without a token: what drivers set when they connect. A name that ends in `*`
    /// stands for all that begin so.
    SESSION_SETTINGS: List<SessionSettings> = Setting {
        name: c"bodata.session_settings",
        value: GucSetting::<Option<CString>>::new(Some(
    c"client_encoding, DateStyle, IntervalStyle, TimeZone, application_name, extra_float_digits, \
      standard_conforming_strings, bytea_output, statement_timeout, lock_timeout, \
      idle_in_transaction_session_timeout, default_transaction_*",
)),
        kind: List(PhantomData),
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Parameters that a session may set without an impersonation token.",
        details: c"A list of names, separated by commas.",
    };

    /// Those of them that may still be set once the session has impersonated somebody, who may be the one who sets them for
    /// the next: what drivers and poolers set between transactions.
    SHARED_SETTINGS: List<AnyList> = Setting {
        name: c"bodata.shared_settings",
        value: GucSetting::<Option<CString>>::new(Some(
    c"client_encoding, DateStyle, IntervalStyle, TimeZone, application_name, extra_float_digits, \
      standard_conforming_strings, default_transaction_*",
)),
        kind: List(PhantomData),
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Those of bodata.session_settings that may still be set once the session has impersonated somebody.",
        details: c"A list of names, separated by commas.",
    };

    /// Whether a pooler hands connections over between transactions: who has ended their transaction may then be the
    /// first on another connection.
    SHARED_CONNECTIONS: Switch = Setting {
        name: c"bodata.shared_connections",
        value: GucSetting::<bool>::new(false),
        kind: Switch,
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Whether a pooler in transaction mode shares the connections of this login.",
        details: c"Every session then counts as one that has impersonated somebody, from its start.",
    };

    /// Owners, besides superusers, whose SECURITY DEFINER functions work without a token.
    TRUSTED_DEFINERS: List<AnyList> = Setting {
        name: c"bodata.trusted_definers",
        value: GucSetting::<Option<CString>>::new(Some(c"")),
        kind: List(PhantomData),
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Owners, besides superusers, whose SECURITY DEFINER functions work without a token.",
        details: c"A list of names, separated by commas.",
    };
}

pub fn require_token() -> bool {
    REQUIRE_TOKEN.get()
}

pub fn session_settings() -> Vec<String> {
    list(&SESSION_SETTINGS)
}

/// Whether that may name settings that are not PostgreSQL's own.
pub fn session_settings_name_custom() -> bool {
    SESSION_SETTINGS.contains(b'.')
}

pub fn shared_settings() -> Vec<String> {
    list(&SHARED_SETTINGS)
}

pub fn shared_connections() -> bool {
    SHARED_CONNECTIONS.get()
}

pub fn trusted_definers() -> Vec<String> {
    list(&TRUSTED_DEFINERS)
}
