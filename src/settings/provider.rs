//! Token providers, and the way to them.

use crate::core::identity::Provider;
use crate::core::provider::endpoint;
use crate::files;
use crate::pg::guc::{AnyList, Changes, Choice, List, Number, Setting, Switch, Text, TextCheck};
use crate::settings::read::{OneLine, list, milliseconds, text};
use crate::settings::settings;
use pgrx::PostgresGucEnum;
use pgrx::guc::{GucFlags, GucSetting};
use std::ffi::CString;
use std::marker::PhantomData;
use std::time::Duration;

/// Values of `bodata.token_provider`.
#[derive(Clone, Copy, PostgresGucEnum)]
enum ProviderName {
    #[name = c"local"]
    Local,
    #[name = c"immuta"]
    Immuta,
    #[name = c"introspection"]
    Introspection,
    #[name = c"jwt"]
    Jwt,
}

/// The URL of a service.
struct Url;

impl TextCheck for Url {
    fn check(url: &str) -> Result<(), String> {
        if let Some(fault) = endpoint::fault(url) {
            return Err(fault.into());
        }
        if endpoint::is_plain_http(url) && !api_allow_http() {
            return Err("Only https is allowed while bodata.api_allow_http is off.".into());
        }
        Ok(())
    }
}

struct ProxyUrl;

impl TextCheck for ProxyUrl {
    fn check(url: &str) -> Result<(), String> {
        endpoint::proxy_fault(url).map_or(Ok(()), |fault| Err(fault.into()))
    }
}

struct CertificateFile;

impl TextCheck for CertificateFile {
    fn check(path: &str) -> Result<(), String> {
        files::certificates(path).map(drop).map_err(|why| format!("The file {why}."))
    }
}

struct SecretFile;

impl TextCheck for SecretFile {
    fn check(path: &str) -> Result<(), String> {
        files::secret(path).map(drop).map_err(|why| format!("The file {why}."))
    }
}

settings! {
    /// Who resolves tokens. The embedded provider is the default, because it needs nothing else.
    TOKEN_PROVIDER: Choice<ProviderName> = Setting {
        name: c"bodata.token_provider",
        value: GucSetting::<ProviderName>::new(ProviderName::Local),
        kind: Choice(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"Who resolves impersonation tokens.",
        details: c"local: the extension's own tables; immuta: the Immuta API; introspection: an OAuth server (RFC 7662); jwt: the published keys of OAuth servers (RFC 9068).",
    };

    /// Whether tokens may travel unencrypted: only for a provider on this machine, or behind a local TLS proxy.
    API_ALLOW_HTTP: Switch = Setting {
        name: c"bodata.api_allow_http",
        value: GucSetting::<bool>::new(false),
        kind: Switch,
        changes: Changes::Provider,
        is_shown: true,
        what: c"Whether a token provider may be asked over plain http.",
        details: c"Tokens travel in the clear then.",
    };

    /// Longest time, in milliseconds, that one resolution may take in all, a second try included. The transaction waits
    /// as long.
    API_TIMEOUT: Number = Setting {
        name: c"bodata.api_timeout",
        value: GucSetting::<i32>::new(5000),
        kind: Number { least: 10, most: 600_000, unit: GucFlags::UNIT_MS },
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Longest time for which a token provider is asked about a token.",
        details: c"",
    };

    /// Longest time, in milliseconds, to find the host and, again, to connect to it.
    API_CONNECT_TIMEOUT: Number = Setting {
        name: c"bodata.api_connect_timeout",
        value: GucSetting::<i32>::new(2000),
        kind: Number { least: 10, most: 600_000, unit: GucFlags::UNIT_MS },
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Longest time to connect to a token provider.",
        details: c"",
    };

    /// Base URL of the Immuta API.
    API_URL: Text<Url> = Setting {
        name: c"bodata.api_url",
        value: GucSetting::<Option<CString>>::new(Some(c"")),
        kind: Text(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"Base URL of the Immuta API.",
        details: c"Without the path of a call.",
    };

    /// Key in `profile.externalUserIds` of an Immuta user that names the role. Immuta documents none for PostgreSQL.
    USER_MAPPING_ATTRIBUTE: Text<OneLine> = Setting {
        name: c"bodata.user_mapping_attribute",
        value: GucSetting::<Option<CString>>::new(Some(c"postgresqlUser")),
        kind: Text(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"Key in profile.externalUserIds of an Immuta user that names the role.",
        details: c"",
    };

    /// Certificates to trust instead of the usual public ones; read again at each reload.
    API_CA_FILE: Text<CertificateFile> = Setting {
        name: c"bodata.api_ca_file",
        value: GucSetting::<Option<CString>>::new(Some(c"")),
        kind: Text(PhantomData),
        changes: Changes::Provider,
        is_shown: false,
        what: c"PEM file with the certificate authorities to trust for token providers.",
        details: c"Empty: the usual public ones. Read again at each reload.",
    };

    /// The only way to a proxy: the environment of the server does not count.
    API_PROXY: Text<ProxyUrl> = Setting {
        name: c"bodata.api_proxy",
        value: GucSetting::<Option<CString>>::new(Some(c"")),
        kind: Text(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"URL of the HTTP proxy on the way to token providers.",
        details: c"Empty: none, whatever the environment says.",
    };

    /// Endpoint of token introspection, and this server's credentials there. The secret stays in its file: everybody
    /// may see a setting.
    INTROSPECTION_URL: Text<Url> = Setting {
        name: c"bodata.introspection_url",
        value: GucSetting::<Option<CString>>::new(Some(c"")),
        kind: Text(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"URL of the token introspection endpoint.",
        details: c"RFC 7662.",
    };

    INTROSPECTION_CLIENT_ID: Text<OneLine> = Setting {
        name: c"bodata.introspection_client_id",
        value: GucSetting::<Option<CString>>::new(Some(c"")),
        kind: Text(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"Client id of this server at the introspection endpoint.",
        details: c"",
    };

    INTROSPECTION_CLIENT_SECRET_FILE: Text<SecretFile> = Setting {
        name: c"bodata.introspection_client_secret_file",
        value: GucSetting::<Option<CString>>::new(Some(c"")),
        kind: Text(PhantomData),
        changes: Changes::Provider,
        is_shown: false,
        what: c"File with the client secret of this server at the introspection endpoint.",
        details: c"Readable by the server only. Read at each request.",
    };

    /// Claims that may hold the user id; the first that a response has counts. One only, as long as nobody says that others
    /// are of the same name space: the `sub` of a client may be what somebody's `username` is.
    INTROSPECTION_USER_CLAIM: List<AnyList> = Setting {
        name: c"bodata.introspection_user_claim",
        value: GucSetting::<Option<CString>>::new(Some(c"username")),
        kind: List(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"Claims of an introspection response that may hold the user id.",
        details: c"A list of names, separated by commas.",
    };

    /// Whom a token must be meant for. Not looked at by default: not every server says it.
    INTROSPECTION_AUDIENCE: Text<OneLine> = Setting {
        name: c"bodata.introspection_audience",
        value: GucSetting::<Option<CString>>::new(Some(c"")),
        kind: Text(PhantomData),
        changes: Changes::Provider,
        is_shown: true,
        what: c"What the audience (aud) of a token must contain.",
        details: c"Empty: the audience is not looked at.",
    };
}

pub fn token_provider() -> Provider {
    match TOKEN_PROVIDER.get() {
        ProviderName::Local => Provider::Local,
        ProviderName::Immuta => Provider::Immuta,
        ProviderName::Introspection => Provider::Introspection,
        ProviderName::Jwt => Provider::Jwt,
    }
}

pub fn api_url() -> String {
    text(&API_URL)
}

pub fn api_allow_http() -> bool {
    API_ALLOW_HTTP.get()
}

pub fn api_timeout() -> Duration {
    milliseconds(&API_TIMEOUT)
}

pub fn api_connect_timeout() -> Duration {
    milliseconds(&API_CONNECT_TIMEOUT)
}

pub fn api_ca_file() -> String {
    text(&API_CA_FILE)
}

pub fn api_proxy() -> String {
    text(&API_PROXY)
}

pub fn user_mapping_attribute() -> String {
    text(&USER_MAPPING_ATTRIBUTE)
}

pub fn introspection_url() -> String {
    text(&INTROSPECTION_URL)
}

pub fn introspection_client_id() -> String {
    text(&INTROSPECTION_CLIENT_ID)
}

pub fn introspection_client_secret_file() -> String {
    text(&INTROSPECTION_CLIENT_SECRET_FILE)
}

pub fn introspection_user_claim() -> Vec<String> {
    list(&INTROSPECTION_USER_CLAIM)
}

pub fn introspection_audience() -> String {
    text(&INTROSPECTION_AUDIENCE)
}
