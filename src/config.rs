//! The settings. Each is private to this file, validated when it is set, and read through a typed getter.

use crate::core::cache::Limits;
use crate::core::identity::{Identity, Provider};
use crate::core::jwt::cache::Times;
use crate::core::jwt::claims::{Keys, Policy, algorithm_fault};
use crate::core::jwt::json::Path;
use crate::core::jwt::keys::Algorithm;
use crate::core::record::Format;
use crate::core::{endpoint, guard, presented, template};
use crate::files;
use crate::pg::guc::{self, AnyList, Counts, ListCheck, TextCheck, UserTextCheck, WordSet};
use crate::pg::{compat, name_guc, shared, text};
use pgrx::PostgresGucEnum;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use std::ffi::CString;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
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

/// Whether a session is for one user only.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum SingleUser {
    #[name = c"off"]
    Off,
    /// For users impersonated by name, where the login itself is the credential.
    #[name = c"names"]
    Names,
    #[name = c"on"]
    On,
}

static SINGLE_IMPERSONATION_USER: GucSetting<SingleUser> = GucSetting::<SingleUser>::new(SingleUser::Names);

/// Whether SET without LOCAL impersonates until the session ends it. Off by default: a pooled connection that an
/// application forgets to reset would go to its next user as the last one.
static ALLOW_SESSION_IMPERSONATION: GucSetting<bool> = GucSetting::<bool>::new(false);

/// Identity manager of a user who is presented by name, and what his user id is made of. Whoever presents the name may
/// set these, too.
static IMPERSONATION_IAMID: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"bim"));
static IMPERSONATION_USERID_TEMPLATE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"{userid}"));

/// Whether what `ALTER ROLE ... SET` says of the mapped role applies to its impersonated transactions. Off by default,
/// because a role that several users share can be set by each of them.
static APPLY_ROLE_SETTINGS: GucSetting<bool> = GucSetting::<bool>::new(false);

/// Parameters that a session may set without a token: what drivers set when they connect. A name that ends in `*`
/// stands for all that begin so.
static SESSION_SETTINGS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(
    c"client_encoding, DateStyle, IntervalStyle, TimeZone, application_name, extra_float_digits, \
      standard_conforming_strings, bytea_output, statement_timeout, lock_timeout, \
      idle_in_transaction_session_timeout, default_transaction_*",
));

/// Those of them that may still be set once the session has impersonated somebody, who may be the one who sets them for
/// the next: what drivers and poolers set between transactions.
static SHARED_SETTINGS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(
    c"client_encoding, DateStyle, IntervalStyle, TimeZone, application_name, extra_float_digits, \
      standard_conforming_strings, default_transaction_*",
));

/// Owners, besides superusers, whose SECURITY DEFINER functions work without a token.
static TRUSTED_DEFINERS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Whether a user without an explicit mapping is mapped to the role of the same name (if that is a member of
/// `immuta_mappable`).
static MAP_BY_USERNAME: GucSetting<bool> = GucSetting::<bool>::new(true);

/// The identity managers for which that holds: whoever can register a user there chooses the name.
static MAP_BY_USERNAME_IAMIDS: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"bim"));

/// Names of the roles that subscriptions make. A prefix keeps them apart from logins and roles of your own.
static ROLE_NAME_TEMPLATE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"user_{userid}"));

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

/// Who resolves tokens. The embedded provider is the default, because it needs nothing else.
static TOKEN_PROVIDER: GucSetting<ProviderName> = GucSetting::<ProviderName>::new(ProviderName::Local);

/// Base URL of the Immuta API.
static API_URL: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Whether tokens may travel unencrypted: only for a provider on this machine, or behind a local TLS proxy.
static API_ALLOW_HTTP: GucSetting<bool> = GucSetting::<bool>::new(false);

/// Longest time, in milliseconds, that one resolution may take in all, a second try included. The transaction waits
/// as long.
static API_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(5000);

/// Longest time, in milliseconds, to find the host and, again, to connect to it.
static API_CONNECT_TIMEOUT: GucSetting<i32> = GucSetting::<i32>::new(2000);

/// Certificates to trust instead of the usual public ones; read again at each reload.
static API_CA_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// The only way to a proxy: the environment of the server does not count.
static API_PROXY: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Key in `profile.externalUserIds` of an Immuta user that names the role. Immuta documents none for PostgreSQL.
static USER_MAPPING_ATTRIBUTE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"postgresqlUser"));

/// Endpoint of token introspection, and this server's credentials there. The secret stays in its file: everybody
/// may see a setting.
static INTROSPECTION_URL: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static INTROSPECTION_CLIENT_ID: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static INTROSPECTION_CLIENT_SECRET_FILE: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c""));

/// Claims that may hold the user id; the first that a response has counts. One only, as long as nobody says that others
/// are of the same name space: the `sub` of a client may be what somebody's `username` is.
static INTROSPECTION_USER_CLAIM: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"username"));

/// Whom a token must be meant for. Not looked at by default: not every server says it.
static INTROSPECTION_AUDIENCE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Whom a JWT must be meant for: one of these. Mandatory, as an issuer's tokens for other services are as good as ours.
static JWT_AUDIENCE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Accepted types. Only access tokens have that of RFC 9068; many servers do not use it yet.
static JWT_TYPES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"at+jwt"));

/// Accepted signatures, the best first: a key that does not say counts for the first that it can be for.
static JWT_ALGORITHMS: GucSetting<Option<CString>> =
    GucSetting::<Option<CString>>::new(Some(c"RS256, PS256, ES256, ES384, EdDSA"));

/// Claims that may hold the user id; the first that is there counts. A name that users can choose is none for this.
static JWT_USER_CLAIM: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"sub"));

/// Claims with the groups and the attributes of the user, for row policies. Empty: our own tables have them.
static JWT_GROUPS_CLAIM: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static JWT_ATTRIBUTES_CLAIM: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Scopes that a token must have, all of them.
static JWT_REQUIRED_SCOPE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// How far, in seconds, the clocks of issuers may be off.
static JWT_CLOCK_SKEW: GucSetting<i32> = GucSetting::<i32>::new(30);

/// Longest life, in seconds, of a token; 0: any. Bounds how long a token that leaked can be used.
static JWT_MAX_LIFETIME: GucSetting<i32> = GucSetting::<i32>::new(24 * 3600);

/// Keys of issuers that are not asked for theirs.
static JWT_KEYS_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// How long, in seconds, keys serve after their time while their issuer is down. A key that was withdrawn because it
/// leaked serves as long.
static JWT_KEYS_GRACE: GucSetting<i32> = GucSetting::<i32>::new(24 * 3600);

/// Shortest time, in seconds, between two attempts to fetch an issuer's keys, whatever came of the first.
static JWT_KEYS_COOLDOWN: GucSetting<i32> = GucSetting::<i32>::new(30);

/// Values of `bodata.jwt_opaque`.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum Opaque {
    #[name = c"refuse"]
    Refuse,
    #[name = c"introspection"]
    Introspection,
}

/// What becomes of tokens that do not look like a JWT.
static JWT_OPAQUE: GucSetting<Opaque> = GucSetting::<Opaque>::new(Opaque::Refuse);

/// Values of `bodata.jwt_actors`.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
enum Actors {
    #[name = c"record"]
    Record,
    #[name = c"refuse"]
    Refuse,
}

/// What becomes of tokens that somebody else uses on behalf of their user.
static JWT_ACTORS: GucSetting<Actors> = GucSetting::<Actors>::new(Actors::Record);

/// How long, in seconds, the last good answer serves after it should have been renewed, if the provider cannot be
/// reached. By default not at all: an outage must not prolong what may have been revoked.
static PROVIDER_GRACE: GucSetting<i32> = GucSetting::<i32>::new(0);

/// How long, in seconds, a session remembers that a provider refused a token, so that a client that retries does not
/// flood it.
static NEGATIVE_CACHE_TTL: GucSetting<i32> = GucSetting::<i32>::new(5);

/// Where audit records go; bits of [`Sink`].
static AUDIT_SINK: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"log"));
static AUDIT_SINKS: AtomicU32 = AtomicU32::new(0);

/// A place for audit records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    Log,
    File,
    Table,
}

impl Sink {
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }

    pub fn name(self) -> &'static str {
        match self {
            Sink::Log => "server log",
            Sink::File => "audit file",
            Sink::Table => "audit table",
        }
    }
}

/// Values of `bodata.audit_format`.
#[derive(Clone, Copy, PostgresGucEnum)]
enum AuditFormat {
    #[name = c"uam"]
    Uam,
    #[name = c"legacy"]
    Legacy,
}

/// How records are written to the log and to the file; the table always has the universal audit model.
static AUDIT_FORMAT: GucSetting<AuditFormat> = GucSetting::<AuditFormat>::new(AuditFormat::Uam);

/// Values of `bodata.audit_query_text`.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum QueryText {
    #[name = c"full"]
    Full,
    #[name = c"normalized"]
    Normalized,
    #[name = c"none"]
    None,
}

/// How much of a statement's text is on record: all, without its literals, nothing.
static AUDIT_QUERY_TEXT: GucSetting<QueryText> = GucSetting::<QueryText>::new(QueryText::Full);

/// Whether statements inside functions have records of their own.
static AUDIT_NESTED: GucSetting<bool> = GucSetting::<bool>::new(false);

/// Whether impersonated work stops when a record cannot be written where it should go. By default it goes on, and the
/// record goes to the server's log.
static AUDIT_REQUIRED: GucSetting<bool> = GucSetting::<bool>::new(false);

/// The file, below the data directory unless its path is absolute.
static AUDIT_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"immuta_audit.jsonl"));

/// When the next file is begun: kilobytes and minutes; 0 for never.
static AUDIT_FILE_MAX_SIZE: GucSetting<i32> = GucSetting::<i32>::new(100 * 1024);
static AUDIT_FILE_MAX_AGE: GucSetting<i32> = GucSetting::<i32>::new(24 * 60);

/// Kilobytes that may wait to be written to the table, in each database.
static AUDIT_QUEUE_SIZE: GucSetting<i32> = GucSetting::<i32>::new(64 * 1024);

/// How long, in milliseconds, a statement waits for room in the queue before its record goes to the log.
static AUDIT_QUEUE_WAIT: GucSetting<i32> = GucSetting::<i32>::new(1000);

/// Days for which the table keeps records; 0 for ever.
static AUDIT_RETENTION: GucSetting<i32> = GucSetting::<i32>::new(90);

/// What `application_name` becomes while a user is impersonated, so that ordinary log lines (`%a`) and
/// `pg_stat_activity` name him. Empty: it stays as it is.
static APPLICATION_NAME_TEMPLATE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Bits of the sinks that are set.
pub fn audit_sinks() -> u32 {
    AUDIT_SINKS.load(Relaxed)
}

pub fn audit_format() -> Format {
    match AUDIT_FORMAT.get() {
        AuditFormat::Uam => Format::Uam,
        AuditFormat::Legacy => Format::Legacy,
    }
}

pub fn audit_query_text() -> QueryText {
    AUDIT_QUERY_TEXT.get()
}

pub fn audit_nested() -> bool {
    AUDIT_NESTED.get()
}

pub fn audit_required() -> bool {
    AUDIT_REQUIRED.get()
}

pub fn audit_file() -> String {
    text(&AUDIT_FILE)
}

/// In bytes.
pub fn audit_file_max_size() -> u64 {
    bytes(&AUDIT_FILE_MAX_SIZE)
}

pub fn audit_file_max_age() -> Duration {
    Duration::from_secs(60 * u64::try_from(AUDIT_FILE_MAX_AGE.get()).unwrap_or(0))
}

/// In bytes.
pub fn audit_queue_size() -> u64 {
    bytes(&AUDIT_QUEUE_SIZE)
}

pub fn audit_queue_wait() -> Duration {
    milliseconds(&AUDIT_QUEUE_WAIT)
}

/// None if `application_name` stays as it is.
pub fn application_name_template() -> Option<String> {
    (!guc::is_empty(&APPLICATION_NAME_TEMPLATE)).then(|| text(&APPLICATION_NAME_TEMPLATE))
}

fn bytes(setting: &GucSetting<i32>) -> u64 {
    1024 * u64::try_from(setting.get()).unwrap_or(0)
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

/// What is accepted of issuers whose rows say nothing else. All values were checked when they were set.
pub fn jwt_policy() -> Policy {
    let path = |setting| Path::parse(&text(setting));
    Policy {
        audiences: list(&JWT_AUDIENCE),
        types: list(&JWT_TYPES),
        algorithms: list(&JWT_ALGORITHMS).iter().filter_map(|name| Algorithm::parse(name)).collect(),
        user_claims: list(&JWT_USER_CLAIM).iter().filter_map(|claim| Path::parse(claim)).collect(),
        user_template: String::new(),
        groups: path(&JWT_GROUPS_CLAIM),
        attributes: path(&JWT_ATTRIBUTES_CLAIM),
        attribute_claims: Vec::new(),
        scopes: list(&JWT_REQUIRED_SCOPE),
        required: Vec::new(),
        skew: seconds(&JWT_CLOCK_SKEW),
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

pub fn negative_cache_ttl() -> Duration {
    seconds(&NEGATIVE_CACHE_TTL)
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

pub fn require_token() -> bool {
    REQUIRE_TOKEN.get()
}

pub fn single_impersonation_user() -> SingleUser {
    SINGLE_IMPERSONATION_USER.get()
}

pub fn allow_session_impersonation() -> bool {
    ALLOW_SESSION_IMPERSONATION.get()
}

pub fn impersonation_iamid() -> String {
    server_text(&IMPERSONATION_IAMID)
}

pub fn impersonation_userid_template() -> String {
    server_text(&IMPERSONATION_USERID_TEMPLATE)
}

pub fn apply_role_settings() -> bool {
    APPLY_ROLE_SETTINGS.get()
}

pub fn session_settings() -> Vec<String> {
    list(&SESSION_SETTINGS)
}

/// Whether that may name settings that are not PostgreSQL's own.
pub fn session_settings_name_custom() -> bool {
    guc::contains(&SESSION_SETTINGS, b'.')
}

pub fn shared_settings() -> Vec<String> {
    list(&SHARED_SETTINGS)
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

fn milliseconds(setting: &GucSetting<i32>) -> Duration {
    Duration::from_millis(u64::try_from(setting.get()).unwrap_or(0))
}

fn text(setting: &GucSetting<Option<CString>>) -> String {
    setting.get().and_then(|raw| raw.into_string().ok()).unwrap_or_default()
}

/// A text that users wrote, in the encoding of the database.
fn server_text(setting: &GucSetting<Option<CString>>) -> String {
    setting.get().map(|raw| text::from_server(raw.as_bytes())).unwrap_or_default()
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

/// A template that gives each user a name of his own, as far as names can.
struct RoleName;

impl TextCheck for RoleName {
    fn check(text: &str) -> Result<(), String> {
        template::fault(text).map_or(Ok(()), |fault| Err(fault.into()))
    }
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

/// Names that are not empty.
struct Names;

impl ListCheck for Names {
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

/// The sinks of audit records, in the order of [`Sink`].
struct Sinks;

impl WordSet for Sinks {
    const WORDS: &'static [&'static str] = &["log", "file", "table"];

    fn bits() -> &'static AtomicU32 {
        &AUDIT_SINKS
    }

    fn fault(bits: u32) -> Option<&'static str> {
        let lacks_memory = bits & Sink::Table.bit() != 0 && !shared::will_be_shared();
        lacks_memory.then_some("The table needs immuta_ext in shared_preload_libraries.")
    }
}

/// A file that can be made, or appended to.
struct AuditFile;

impl TextCheck for AuditFile {
    fn check(path: &str) -> Result<(), String> {
        files::fault_of_log(path).map_or(Ok(()), |fault| Err(format!("The file {fault}.")))
    }
}

/// Any text that fits on one line.
struct Line;

impl TextCheck for Line {
    fn check(text: &str) -> Result<(), String> {
        if text.contains(char::is_control) { Err("Control characters are not allowed.".into()) } else { Ok(()) }
    }
}

/// What can be an identity manager. It is read in the encoding of the database.
struct AnyLine;

impl UserTextCheck for AnyLine {
    fn fault(text: &str) -> Option<&'static str> {
        (!Identity::is_well_formed(text)).then_some("It must have 1 to 255 bytes, without control characters.")
    }
}

struct Template;

impl UserTextCheck for Template {
    fn fault(text: &str) -> Option<&'static str> {
        presented::template_fault(text)
    }
}

/// Defines all settings. Called once, from `_PG_init`.
pub fn init() {
    define_tokens();
    define_guard_and_mapping();
    define_providers();
    define_jwt();
    define_audit();
    guc::define_token(|| token_provider() != Provider::Local);
    compat::reserve_prefix(c"bodata");
    define_names();
    compat::reserve_prefix(c"immuta");
}

fn define_tokens() {
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
    GucRegistry::define_int_guc(
        c"bodata.negative_cache_ttl",
        c"How long a session remembers that a token provider refused a token.",
        c"Zero asks again at each attempt.",
        &NEGATIVE_CACHE_TTL,
        0,
        3600,
        GucContext::Suset,
        seconds,
    );
    GucRegistry::define_int_guc(
        c"bodata.provider_grace",
        c"How long the last good answer serves if the token provider cannot be reached.",
        c"Counted from the time at which it would have been asked again; zero: not at all.",
        &PROVIDER_GRACE,
        0,
        24 * 3600,
        GucContext::Suset,
        seconds,
    );
}

fn define_guard_and_mapping() {
    guc::define_switch(
        c"bodata.require_token",
        c"Whether logins that may impersonate can do nothing before they present a token.",
        c"Switch it off for single roles only.",
        &REQUIRE_TOKEN,
        Counts::Nothing,
    );
    guc::define_choice(
        c"bodata.single_impersonation_user",
        c"Whether a session may impersonate one user only.",
        c"off: no; on: the first one; names: for users impersonated by name.",
        &SINGLE_IMPERSONATION_USER,
        Counts::Nothing,
    );
    guc::define_switch(
        c"bodata.allow_session_impersonation",
        c"Whether a session may impersonate beyond its transaction.",
        c"By SET without LOCAL, and in the options of a connection.",
        &ALLOW_SESSION_IMPERSONATION,
        Counts::Nothing,
    );
    guc::define_switch(
        c"bodata.apply_role_settings",
        c"Whether the settings of the mapped role apply to its impersonated transactions.",
        c"Those of ALTER ROLE ... SET, as at a login of that role.",
        &APPLY_ROLE_SETTINGS,
        Counts::Nothing,
    );
    guc::define_switch(
        c"bodata.map_by_username",
        c"Whether users without an explicit mapping are mapped to the role of the same name.",
        c"Only roles that are members of immuta_mappable are reached.",
        &MAP_BY_USERNAME,
        Counts::Mapping,
    );
    guc::define_list::<AnyList>(
        c"bodata.map_by_username_iamids",
        c"Identity managers whose users are mapped by name.",
        &MAP_BY_USERNAME_IAMIDS,
        Counts::Mapping,
    );
    guc::define_text::<RoleName>(
        c"bodata.role_name_template",
        c"Names of the roles that are made for subscribers.",
        c"{userid} and {iamid} stand for the user's.",
        &ROLE_NAME_TEMPLATE,
        GucFlags::default(),
        Counts::Nothing,
    );
    guc::define_list::<SessionSettings>(
        c"bodata.session_settings",
        c"Parameters that a session may set without an impersonation token.",
        &SESSION_SETTINGS,
        Counts::Nothing,
    );
    guc::define_list::<AnyList>(
        c"bodata.shared_settings",
        c"Those of bodata.session_settings that may still be set once the session has impersonated somebody.",
        &SHARED_SETTINGS,
        Counts::Nothing,
    );
    guc::define_list::<AnyList>(
        c"bodata.trusted_definers",
        c"Owners, besides superusers, whose SECURITY DEFINER functions work without a token.",
        &TRUSTED_DEFINERS,
        Counts::Nothing,
    );
}

/// The settings of impersonation by name, which are called as in Immuta's products.
fn define_names() {
    name_guc::define();
    guc::define_user_text::<AnyLine>(
        c"immuta.impersonation_iamid",
        c"Identity manager of the user who is named next.",
        c"To be set before immuta.impersonation_userid.",
        &IMPERSONATION_IAMID,
    );
    guc::define_user_text::<Template>(
        c"immuta.impersonation_userid_template",
        c"What the user id is made of that is looked up: {userid} stands for the name that is set.",
        c"To be set before immuta.impersonation_userid.",
        &IMPERSONATION_USERID_TEMPLATE,
    );
}

fn define_providers() {
    guc::define_choice(
        c"bodata.token_provider",
        c"Who resolves impersonation tokens.",
        c"local: the extension's own tables; immuta: the Immuta API; introspection: an OAuth server (RFC 7662); \
          jwt: the published keys of OAuth servers (RFC 9068).",
        &TOKEN_PROVIDER,
        Counts::Provider,
    );
    // Before the URLs, which are checked against it.
    guc::define_switch(
        c"bodata.api_allow_http",
        c"Whether a token provider may be asked over plain http.",
        c"Tokens travel in the clear then.",
        &API_ALLOW_HTTP,
        Counts::Provider,
    );
    for (name, description, setting) in [
        (c"bodata.api_timeout", c"Longest time for which a token provider is asked about a token.", &API_TIMEOUT),
        (c"bodata.api_connect_timeout", c"Longest time to connect to a token provider.", &API_CONNECT_TIMEOUT),
    ] {
        let context = GucContext::Suset;
        GucRegistry::define_int_guc(name, description, c"", setting, 10, 600_000, context, GucFlags::UNIT_MS);
    }
    let shown = GucFlags::default();
    let hidden = GucFlags::SUPERUSER_ONLY;
    guc::define_text::<Url>(
        c"bodata.api_url",
        c"Base URL of the Immuta API.",
        c"Without the path of a call.",
        &API_URL,
        shown,
        Counts::Provider,
    );
    guc::define_text::<Line>(
        c"bodata.user_mapping_attribute",
        c"Key in profile.externalUserIds of an Immuta user that names the role.",
        c"",
        &USER_MAPPING_ATTRIBUTE,
        shown,
        Counts::Provider,
    );
    guc::define_text::<CertificateFile>(
        c"bodata.api_ca_file",
        c"PEM file with the certificate authorities to trust for token providers.",
        c"Empty: the usual public ones. Read again at each reload.",
        &API_CA_FILE,
        hidden,
        Counts::Provider,
    );
    guc::define_text::<ProxyUrl>(
        c"bodata.api_proxy",
        c"URL of the HTTP proxy on the way to token providers.",
        c"Empty: none, whatever the environment says.",
        &API_PROXY,
        shown,
        Counts::Provider,
    );
    guc::define_text::<Url>(
        c"bodata.introspection_url",
        c"URL of the token introspection endpoint.",
        c"RFC 7662.",
        &INTROSPECTION_URL,
        shown,
        Counts::Provider,
    );
    guc::define_text::<Line>(
        c"bodata.introspection_client_id",
        c"Client id of this server at the introspection endpoint.",
        c"",
        &INTROSPECTION_CLIENT_ID,
        shown,
        Counts::Provider,
    );
    guc::define_text::<SecretFile>(
        c"bodata.introspection_client_secret_file",
        c"File with the client secret of this server at the introspection endpoint.",
        c"Readable by the server only. Read at each request.",
        &INTROSPECTION_CLIENT_SECRET_FILE,
        hidden,
        Counts::Provider,
    );
    guc::define_list::<AnyList>(
        c"bodata.introspection_user_claim",
        c"Claims of an introspection response that may hold the user id.",
        &INTROSPECTION_USER_CLAIM,
        Counts::Provider,
    );
    guc::define_text::<Line>(
        c"bodata.introspection_audience",
        c"What the audience (aud) of a token must contain.",
        c"Empty: the audience is not looked at.",
        &INTROSPECTION_AUDIENCE,
        shown,
        Counts::Provider,
    );
}

fn define_jwt() {
    let (shown, counts) = (GucFlags::default(), Counts::Provider);
    guc::define_list::<Names>(
        c"bodata.jwt_audience",
        c"Audiences (aud), of which a JWT must be meant for one.",
        &JWT_AUDIENCE,
        counts,
    );
    guc::define_list::<Names>(c"bodata.jwt_types", c"Types (typ) of JWTs that are accepted.", &JWT_TYPES, counts);
    guc::define_list::<Algorithms>(
        c"bodata.jwt_algorithms",
        c"Signature algorithms that are accepted.",
        &JWT_ALGORITHMS,
        counts,
    );
    guc::define_list::<ClaimPaths>(
        c"bodata.jwt_user_claim",
        c"Claims of a JWT that may hold the user id.",
        &JWT_USER_CLAIM,
        counts,
    );
    guc::define_text::<ClaimPath>(
        c"bodata.jwt_groups_claim",
        c"Claim of a JWT with the groups of its user.",
        c"Empty: the extension's own tables have them.",
        &JWT_GROUPS_CLAIM,
        shown,
        counts,
    );
    guc::define_text::<ClaimPath>(
        c"bodata.jwt_attributes_claim",
        c"Claim of a JWT with the attributes of its user.",
        c"An object. Empty: the extension's own tables have them.",
        &JWT_ATTRIBUTES_CLAIM,
        shown,
        counts,
    );
    guc::define_list::<Names>(
        c"bodata.jwt_required_scope",
        c"Scopes that a JWT must have, all of them.",
        &JWT_REQUIRED_SCOPE,
        counts,
    );
    guc::define_text::<KeysFile>(
        c"bodata.jwt_keys_file",
        c"File with the keys of issuers that are not asked for theirs.",
        c"JSON. Read again at each reload.",
        &JWT_KEYS_FILE,
        GucFlags::SUPERUSER_ONLY,
        counts,
    );
    guc::define_choice(
        c"bodata.jwt_opaque",
        c"What becomes of tokens that do not look like a JWT.",
        c"refuse; introspection: bodata.introspection_url is asked.",
        &JWT_OPAQUE,
        counts,
    );
    guc::define_choice(
        c"bodata.jwt_actors",
        c"What becomes of JWTs that somebody uses on behalf of their user (act).",
        c"record; refuse.",
        &JWT_ACTORS,
        counts,
    );
    for (name, description, details, setting, most) in [
        (c"bodata.jwt_clock_skew", c"How far the clocks of issuers may be off.", c"", &JWT_CLOCK_SKEW, 300),
        (
            c"bodata.jwt_max_lifetime",
            c"Longest time between issue (iat) and end (exp) of a JWT.",
            c"Zero: any.",
            &JWT_MAX_LIFETIME,
            366 * 24 * 3600,
        ),
        (
            c"bodata.jwt_keys_grace",
            c"How long the last good keys of an issuer serve while it cannot be asked.",
            c"Counted from the time at which they should have been renewed; zero: not at all.",
            &JWT_KEYS_GRACE,
            30 * 24 * 3600,
        ),
    ] {
        guc::define_seconds(name, description, details, setting, most);
    }
    GucRegistry::define_int_guc(
        c"bodata.jwt_keys_cooldown",
        c"Shortest time between two attempts to fetch the keys of an issuer.",
        c"Tokens that name unknown keys do not make more.",
        &JWT_KEYS_COOLDOWN,
        1,
        3600,
        GucContext::Suset,
        GucFlags::UNIT_S,
    );
}

fn define_audit() {
    guc::define_words::<Sinks>(
        c"bodata.audit_sink",
        c"Where audit records go: log, file, table, or several of them.",
        c"Empty: there are none.",
        &AUDIT_SINK,
    );
    guc::define_choice(
        c"bodata.audit_format",
        c"Format of audit records in the log and in the file.",
        c"uam: Immuta's universal audit model; legacy: its older query record.",
        &AUDIT_FORMAT,
        Counts::Nothing,
    );
    guc::define_choice(
        c"bodata.audit_query_text",
        c"How much of a statement's text an audit record holds.",
        c"full; normalized: without literals; none.",
        &AUDIT_QUERY_TEXT,
        Counts::Nothing,
    );
    guc::define_switch(
        c"bodata.audit_nested",
        c"Whether statements inside functions have audit records of their own.",
        c"",
        &AUDIT_NESTED,
        Counts::Nothing,
    );
    guc::define_switch(
        c"bodata.audit_required",
        c"Whether impersonated work stops when an audit record cannot be written.",
        c"Off: the record goes to the server log instead.",
        &AUDIT_REQUIRED,
        Counts::Nothing,
    );
    guc::define_text::<AuditFile>(
        c"bodata.audit_file",
        c"File for audit records.",
        c"Below the data directory unless the path is absolute.",
        &AUDIT_FILE,
        GucFlags::SUPERUSER_ONLY,
        Counts::Nothing,
    );
    guc::define_text::<Line>(
        c"bodata.application_name_template",
        c"What application_name becomes while a user is impersonated.",
        c"{application_name}, {userid}, {iamid} and {role} are replaced. Empty: it stays as it is.",
        &APPLICATION_NAME_TEMPLATE,
        GucFlags::default(),
        Counts::Nothing,
    );
    let (kilobytes, minutes, milliseconds) = (GucFlags::UNIT_KB, GucFlags::UNIT_MIN, GucFlags::UNIT_MS);
    for (name, description, setting, least, most, unit) in [
        (
            c"bodata.audit_file_max_size",
            c"Size at which the next audit file is begun; 0: never.",
            &AUDIT_FILE_MAX_SIZE,
            0,
            i32::MAX,
            kilobytes,
        ),
        (
            c"bodata.audit_file_max_age",
            c"Age at which the next audit file is begun; 0: never.",
            &AUDIT_FILE_MAX_AGE,
            0,
            366 * 24 * 60,
            minutes,
        ),
        (
            c"bodata.audit_queue_size",
            c"Audit records that may wait to be written to the table.",
            &AUDIT_QUEUE_SIZE,
            64,
            1024 * 1024,
            kilobytes,
        ),
        (
            c"bodata.audit_queue_wait",
            c"How long a statement waits for room in the queue of audit records.",
            &AUDIT_QUEUE_WAIT,
            0,
            60_000,
            milliseconds,
        ),
        (
            c"bodata.audit_retention",
            c"Days for which the audit table keeps records; 0: for ever.",
            &AUDIT_RETENTION,
            0,
            36_500,
            GucFlags::default(),
        ),
    ] {
        GucRegistry::define_int_guc(name, description, c"", setting, least, most, GucContext::Suset, unit);
    }
}
