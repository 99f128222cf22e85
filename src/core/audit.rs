//! Audit records: what they say, and how they are written as JSON, one object to a line.
//!
//! Two formats: the universal audit model of Immuta (`uam`), and its older query record (`legacy`). The order of the
//! fields is that of the structures here; `docs/audit-*.schema.json` describe both.

use super::identity::Identity;
use super::time::Timestamp;
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt::{self, Display, Formatter};
use std::rc::Rc;
use uuid::Uuid;

/// Longest text of a statement in a record, in bytes; what is longer is cut.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;

/// Most objects that are named in one record.
pub const MAX_OBJECTS: usize = 256;

/// Ids of records: unique, and without asking the system for randomness each time (RFC 9562, version 8: 64 random bits
/// of the process, then a counter).
pub struct Ids {
    process: u64,
    count: u64,
}

impl Ids {
    pub fn new(random: u64) -> Ids {
        Ids { process: random, count: 0 }
    }

    pub fn next(&mut self) -> Uuid {
        self.count = self.count.wrapping_add(1);
        let high = self.process.to_be_bytes();
        let low = (self.count ^ self.process.rotate_left(17)).to_be_bytes();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high);
        bytes[8..].copy_from_slice(&low);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }
}

/// What is the same for all records of a session.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// As `%c` in `log_line_prefix`.
    pub id: String,
    pub cluster: String,
    pub database: String,
    pub impersonator: String,
    pub client_address: Option<String>,
}

/// Who is impersonated, and how.
#[derive(Clone, Debug)]
pub struct Actor {
    pub identity: Rc<Identity>,
    pub mapped_role: String,
    pub provider: &'static str,
    pub scope: &'static str,
}

/// Privileges that a statement needs on an object (`acl.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access(pub u32);

impl Access {
    const NAMES: [(u32, &'static str); 11] = [
        (1 << 1, "SELECT"),
        (1 << 0, "INSERT"),
        (1 << 2, "UPDATE"),
        (1 << 3, "DELETE"),
        (1 << 4, "TRUNCATE"),
        (1 << 5, "REFERENCES"),
        (1 << 7, "EXECUTE"),
        (1 << 27, "LOCK"),
        (1 << 28, "CREATE"),
        (1 << 29, "ALTER"),
        (1 << 30, "DROP"),
    ];
    pub const EXECUTE: Access = Access(1 << 7);
    pub const CREATE: Access = Access(1 << 28);
    pub const ALTER: Access = Access(1 << 29);
    pub const DROP: Access = Access(1 << 30);
}

impl Serialize for Access {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(Access::NAMES.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, name)| name))
    }
}

/// An object that a statement accessed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    pub id: u32,
    /// In capitals: TABLE, VIEW, FUNCTION …
    pub kind: Cow<'static, str>,
    /// Qualified by its schema.
    pub name: Rc<str>,
    pub access: Access,
    /// Of a relation: those that are read or written; empty where no column counts.
    pub columns: Vec<Rc<str>>,
}

/// The objects of one statement, each named once.
#[derive(Clone, Debug, Default)]
pub struct Objects(Vec<Object>);

impl Objects {
    pub fn add(&mut self, accessed: Object) {
        let is_full = self.0.len() >= MAX_OBJECTS;
        match self.0.iter_mut().find(|known| known.id == accessed.id && known.kind == accessed.kind) {
            Some(known) => {
                known.access.0 |= accessed.access.0;
                for column in accessed.columns {
                    if !known.columns.contains(&column) {
                        known.columns.push(column);
                    }
                }
            }
            None if is_full => {}
            None => self.0.push(accessed),
        }
    }

    /// Leaves out what comes with a relation: the type of its rows and the arrays of a type.
    pub fn without_companions(&mut self) {
        let relations: Vec<_> = self.0.iter().filter(|o| o.kind != "TYPE").map(|o| Rc::clone(&o.name)).collect();
        self.0.retain(|object| {
            object.kind != "TYPE" || !object.name.ends_with("[]") && !relations.contains(&object.name)
        });
    }

    pub fn list(&self) -> &[Object] {
        &self.0
    }
}

/// How a statement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    /// With this SQLSTATE, where it is known.
    Failure(Option<SqlState>),
}

/// Five characters.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    /// PostgreSQL packs the five characters six bits each (`MAKE_SQLSTATE`).
    pub fn unpacked(packed: i32) -> SqlState {
        let mut state = [b'0'; 5];
        for (at, character) in state.iter_mut().enumerate() {
            *character = b'0' + ((packed >> (6 * at)) & 0x3f) as u8;
        }
        SqlState(state)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }

    /// Whether it says that somebody lacks a right: class 28, 42501.
    fn is_denial(&self) -> bool {
        self.0.starts_with(b"28") || self.0 == *b"42501"
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, to: &mut Formatter) -> fmt::Result {
        to.write_str(self.text())
    }
}

impl Serialize for SqlState {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.text())
    }
}

/// A statement that is over.
#[derive(Debug)]
pub struct Statement {
    /// None where `bodata.audit_query_text` says so.
    pub text: Option<String>,
    pub is_cut: bool,
    /// Command tag; empty where only the error was seen.
    pub command: &'static str,
    /// 0 for none.
    pub query_id: i64,
    pub objects: Objects,
    pub rows: u64,
    pub begun: Timestamp,
    pub ended: Timestamp,
    /// Microseconds for which it was busy.
    pub active: i64,
    pub depth: u32,
    pub outcome: Outcome,
    /// Code in DETAIL, where an error of ours ended it.
    pub reason: Option<&'static str>,
}

/// What a record is about.
#[derive(Debug)]
pub enum What<'a> {
    Statement(&'a Statement),
    Started,
    /// Code in DETAIL, SQLSTATE.
    Refused(&'a str, SqlState),
    Ended {
        committed: bool,
        statements: u64,
        outcome: Outcome,
    },
}

/// Number of the process and of its transaction.
#[derive(Clone, Copy)]
pub struct VirtualTransaction(pub i32, pub u32);

impl Display for VirtualTransaction {
    fn fmt(&self, to: &mut Formatter) -> fmt::Result {
        write!(to, "{}/{}", self.0, self.1)
    }
}

/// One record.
pub struct Record<'a> {
    pub id: Uuid,
    pub at: Timestamp,
    pub session: &'a Session,
    /// None where nobody is impersonated, because that was refused.
    pub actor: Option<&'a Actor>,
    /// Whom a refused token was for, where that is known.
    pub candidate: Option<&'a Identity>,
    pub application: &'a str,
    /// As `%v` in `log_line_prefix`.
    pub virtual_transaction: VirtualTransaction,
    /// 0 for none.
    pub transaction: u32,
    pub what: What<'a>,
}

/// A line of JSON with every letter beyond ASCII escaped, so that it is the same in all encodings.
pub fn in_ascii(line: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(line.len());
    for letter in String::from_utf8_lossy(line).chars() {
        if letter.is_ascii() {
            plain.push(letter as u8);
        } else {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                plain.extend(format!("\\u{unit:04x}").into_bytes());
            }
        }
    }
    plain
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Uam,
    Legacy,
}

impl Record<'_> {
    /// The record as one line of JSON, without its end.
    pub fn line(&self, format: Format) -> Vec<u8> {
        let mut line = Vec::with_capacity(1200);
        let written = match format {
            Format::Uam => serde_json::to_writer(&mut line, &self.uam()),
            Format::Legacy => serde_json::to_writer(&mut line, &self.legacy()),
        };
        // Nothing here can fail: all keys are texts, and a Vec takes everything.
        debug_assert!(written.is_ok());
        line
    }

    /// Whether it says that something went well.
    pub fn is_success(&self) -> bool {
        self.outcome() == Outcome::Success
    }

    fn identity(&self) -> Option<&Identity> {
        self.actor.map(|actor| &*actor.identity).or(self.candidate)
    }

    fn outcome(&self) -> Outcome {
        match &self.what {
            What::Statement(statement) => statement.outcome,
            What::Started => Outcome::Success,
            What::Refused(_, state) => Outcome::Failure(Some(*state)),
            What::Ended { outcome, .. } => *outcome,
        }
    }

    fn objects(&self) -> &[Object] {
        match &self.what {
            What::Statement(statement) => statement.objects.list(),
            _ => &[],
        }
    }
}

// ---- universal audit model

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Uam<'a> {
    id: Uuid,
    action: &'static str,
    action_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    action_status_reason: Option<&'a str>,
    event_timestamp: Iso,
    tenant_id: &'a str,
    session_id: &'a str,
    actor: UamActor<'a>,
    target_type: &'static str,
    targets: Targets<'a>,
    related_resources: [(); 0],
    audit_payload: UamPayload<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UamActor<'a> {
    r#type: &'static str,
    id: Option<&'a str>,
    name: Option<&'a str>,
    identity_provider: Option<&'a str>,
    impersonated_by: &'a str,
}

#[derive(Serialize)]
#[serde(tag = "type")]
enum UamPayload<'a> {
    #[serde(rename_all = "camelCase")]
    QueryAuditPayload {
        query_id: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        query: Option<&'a str>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        query_truncated: bool,
        start_time: Iso,
        end_time: Iso,
        /// Milliseconds.
        duration: f64,
        error_code: Option<SqlState>,
        rows: u64,
        objects_accessed: Accessed<'a>,
        access_controls: AccessControls<'a>,
        technology_context: TechnologyContext<'a>,
    },
    #[serde(rename_all = "camelCase")]
    ImpersonationAuditPayload {
        event: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        transaction_outcome: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        statements: Option<u64>,
        error_code: Option<SqlState>,
        access_controls: AccessControls<'a>,
        technology_context: TechnologyContext<'a>,
    },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AccessControls<'a> {
    mapped_role: Option<&'a str>,
    token_provider: Option<&'a str>,
    scope: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TechnologyContext<'a> {
    r#type: &'static str,
    database: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nesting_depth: Option<u32>,
    virtual_transaction_id: Shown<VirtualTransaction>,
    transaction_id: Option<u32>,
    client_address: Option<&'a str>,
    application_name: &'a str,
}

#[derive(Serialize)]
struct Target<'a> {
    r#type: &'static str,
    id: Shown<u32>,
    name: &'a str,
    technology: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AccessedObject<'a> {
    name: &'a str,
    object_type: &'a str,
    access_type: Access,
    columns: Columns<'a>,
}

#[derive(Serialize)]
struct Column<'a> {
    name: &'a str,
}

/// Relations are data sources; what else a statement accessed is not.
struct Targets<'a>(&'a [Object]);

impl Serialize for Targets<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let sources = self.0.iter().filter(|object| is_data_source(&object.kind));
        to.collect_seq(sources.map(|object| Target {
            r#type: "DATASOURCE",
            id: Shown(object.id),
            name: &object.name,
            technology: "POSTGRESQL",
        }))
    }
}

struct Accessed<'a>(&'a [Object]);

impl Serialize for Accessed<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(|object| AccessedObject {
            name: &object.name,
            object_type: &object.kind,
            access_type: object.access,
            columns: Columns(&object.columns),
        }))
    }
}

struct Columns<'a>(&'a [Rc<str>]);

impl Serialize for Columns<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(|name| Column { name }))
    }
}

fn is_data_source(kind: &str) -> bool {
    matches!(kind, "TABLE" | "PARTITIONED_TABLE" | "VIEW" | "MATERIALIZED_VIEW" | "FOREIGN_TABLE")
}

impl<'a> Record<'a> {
    fn uam(&'a self) -> Uam<'a> {
        let identity = self.identity();
        let error_code = match self.outcome() {
            Outcome::Success => None,
            Outcome::Failure(state) => state,
        };
        let (action, audit_payload) = match &self.what {
            What::Statement(statement) => ("QUERY", self.query(statement, error_code)),
            What::Started => ("IMPERSONATE", self.event("STARTED", None, None, None)),
            What::Refused(..) => ("IMPERSONATE", self.event("REFUSED", None, None, error_code)),
            What::Ended { committed, statements, .. } => {
                let outcome = if *committed { "COMMIT" } else { "ROLLBACK" };
                ("IMPERSONATE", self.event("ENDED", Some(outcome), Some(*statements), error_code))
            }
        };
        Uam {
            id: self.id,
            action,
            action_status: match self.outcome() {
                Outcome::Success => "SUCCESS",
                Outcome::Failure(Some(state)) if state.is_denial() => "UNAUTHORIZED",
                Outcome::Failure(_) => "FAILURE",
            },
            action_status_reason: match &self.what {
                What::Refused(code, _) => Some(code),
                What::Statement(statement) => statement.reason,
                _ => None,
            },
            event_timestamp: Iso(self.at),
            tenant_id: &self.session.cluster,
            session_id: &self.session.id,
            actor: UamActor {
                r#type: "USER_ACTOR",
                id: identity.map(|identity| identity.userid.as_str()),
                name: identity.map(|identity| identity.userid.as_str()),
                identity_provider: identity.map(|identity| identity.iamid.as_str()),
                impersonated_by: &self.session.impersonator,
            },
            target_type: "DATASOURCE",
            targets: Targets(self.objects()),
            related_resources: [],
            audit_payload,
        }
    }

    fn query(&'a self, statement: &'a Statement, error_code: Option<SqlState>) -> UamPayload<'a> {
        UamPayload::QueryAuditPayload {
            query_id: (statement.query_id != 0).then(|| statement.query_id.to_string()),
            query: statement.text.as_deref(),
            query_truncated: statement.is_cut,
            start_time: Iso(statement.begun),
            end_time: Iso(statement.ended),
            duration: milliseconds(statement.active),
            error_code,
            rows: statement.rows,
            objects_accessed: Accessed(statement.objects.list()),
            access_controls: self.access_controls(),
            technology_context: TechnologyContext {
                command: Some(statement.command),
                nesting_depth: Some(statement.depth),
                ..self.technology_context()
            },
        }
    }

    fn event(
        &'a self,
        event: &'static str,
        transaction_outcome: Option<&'static str>,
        statements: Option<u64>,
        error_code: Option<SqlState>,
    ) -> UamPayload<'a> {
        UamPayload::ImpersonationAuditPayload {
            event,
            transaction_outcome,
            statements,
            error_code,
            access_controls: self.access_controls(),
            technology_context: self.technology_context(),
        }
    }

    fn access_controls(&'a self) -> AccessControls<'a> {
        AccessControls {
            mapped_role: self.actor.map(|actor| actor.mapped_role.as_str()),
            token_provider: self.actor.map(|actor| actor.provider),
            scope: self.actor.map(|actor| actor.scope),
        }
    }

    fn technology_context(&'a self) -> TechnologyContext<'a> {
        TechnologyContext {
            r#type: "PostgreSQLContext",
            database: &self.session.database,
            command: None,
            nesting_depth: None,
            virtual_transaction_id: Shown(self.virtual_transaction),
            transaction_id: (self.transaction != 0).then_some(self.transaction),
            client_address: self.session.client_address.as_deref(),
            application_name: self.application,
        }
    }
}

// ---- the older record

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Legacy<'a> {
    id: Uuid,
    /// Milliseconds since 1970, as text.
    date_time: Shown<i64>,
    /// Months since January 1900, counted from 1.
    month: i64,
    profile_id: Option<u32>,
    user_id: Option<&'a str>,
    data_source_id: Option<u32>,
    data_source_name: Option<&'a str>,
    count: usize,
    record_type: &'static str,
    success: bool,
    component: &'static str,
    access_type: &'static str,
    query: Option<&'a str>,
    extra: LegacyExtra<'a>,
    data_source_table_name: Option<&'a str>,
    created_at: Iso,
    updated_at: Iso,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LegacyExtra<'a> {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    query_text: Option<&'a str>,
    query_language: &'static str,
    impersonation_user: &'a str,
    iamid: Option<&'a str>,
    mapped_role: Option<&'a str>,
    database: &'a str,
    session_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    virtual_transaction_id: Shown<VirtualTransaction>,
    transaction_id: Option<u32>,
    client_address: Option<&'a str>,
    application_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<Iso>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<Iso>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nesting_depth: Option<u32>,
    error_code: Option<SqlState>,
    objects_accessed: Accessed<'a>,
}

impl<'a> Record<'a> {
    fn legacy(&'a self) -> Legacy<'a> {
        let statement = match &self.what {
            What::Statement(statement) => Some(*statement),
            _ => None,
        };
        let identity = self.identity();
        let source = self.objects().iter().find(|object| is_data_source(&object.kind));
        let source_name = source.map(|object| &*object.name);
        let text = statement.and_then(|statement| statement.text.as_deref());
        Legacy {
            id: self.id,
            date_time: Shown(self.at.to_unix_millis()),
            month: Iso(self.at).month_since_1900(),
            profile_id: None,
            user_id: identity.map(|identity| identity.userid.as_str()),
            data_source_id: source.map(|object| object.id),
            data_source_name: source_name,
            count: self.objects().iter().filter(|object| is_data_source(&object.kind)).count(),
            record_type: if statement.is_some() { "nativeQuery" } else { "impersonation" },
            success: self.is_success(),
            component: "nativeSql",
            access_type: "query",
            query: text,
            extra: LegacyExtra {
                event: match &self.what {
                    What::Statement(_) => "query",
                    What::Started => "impersonationStarted",
                    What::Refused(..) => "impersonationRefused",
                    What::Ended { committed: true, .. } => "impersonationCommitted",
                    What::Ended { committed: false, .. } => "impersonationRolledBack",
                },
                reason: match &self.what {
                    What::Refused(code, _) => Some(code),
                    What::Statement(statement) => statement.reason,
                    _ => None,
                },
                query_text: text,
                query_language: "postgresql",
                impersonation_user: &self.session.impersonator,
                iamid: identity.map(|identity| identity.iamid.as_str()),
                mapped_role: self.actor.map(|actor| actor.mapped_role.as_str()),
                database: &self.session.database,
                session_id: &self.session.id,
                command: statement.map(|statement| statement.command),
                virtual_transaction_id: Shown(self.virtual_transaction),
                transaction_id: (self.transaction != 0).then_some(self.transaction),
                client_address: self.session.client_address.as_deref(),
                application_name: self.application,
                query_id: statement.filter(|s| s.query_id != 0).map(|s| s.query_id.to_string()),
                start_time: statement.map(|s| Iso(s.begun)),
                end_time: statement.map(|s| Iso(s.ended)),
                duration: statement.map(|s| milliseconds(s.active)),
                rows: statement.map(|s| s.rows),
                nesting_depth: statement.map(|s| s.depth),
                error_code: match self.outcome() {
                    Outcome::Success => None,
                    Outcome::Failure(state) => state,
                },
                objects_accessed: Accessed(self.objects()),
            },
            data_source_table_name: source_name,
            created_at: Iso(self.at),
            updated_at: Iso(self.at),
        }
    }
}

fn milliseconds(microseconds: i64) -> f64 {
    microseconds as f64 / 1000.0
}

/// Written as text.
struct Shown<T>(T);

impl<T: Display> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

/// Date and time in UTC, to the microsecond (RFC 3339).
struct Iso(Timestamp);

impl Iso {
    fn civil(&self) -> jiff::Timestamp {
        jiff::Timestamp::from_microsecond(self.0.to_unix_micros()).unwrap_or_default()
    }

    fn month_since_1900(&self) -> i64 {
        let date = self.civil().to_zoned(jiff::tz::TimeZone::UTC).date();
        (i64::from(date.year()) - 1900) * 12 + i64::from(date.month())
    }
}

impl Serialize for Iso {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{:.6}", self.civil()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SELECT: Access = Access(1 << 1);

    fn session() -> Session {
        Session {
            id: "65a1.2b".into(),
            cluster: "main".into(),
            database: "immuta".into(),
            impersonator: "svc".into(),
            client_address: None,
        }
    }

    fn actor() -> Actor {
        let identity = Identity { iamid: "bim".into(), userid: "ali\"ce".into() };
        Actor { identity: Rc::new(identity), mapped_role: "alice".into(), provider: "local", scope: "transaction" }
    }

    fn table(name: &str, access: Access, columns: &[&str]) -> Object {
        let columns = columns.iter().map(|&name| name.into()).collect();
        Object { id: 42, kind: "TABLE".into(), name: name.into(), access, columns }
    }

    fn json(what: What, format: Format) -> serde_json::Value {
        let (session, actor) = (session(), actor());
        let is_refused = matches!(what, What::Refused(..));
        let record = Record {
            id: Ids::new(7).next(),
            at: Timestamp(500_000_000_000_001),
            session: &session,
            actor: (!is_refused).then_some(&actor),
            candidate: None,
            application: "app",
            virtual_transaction: VirtualTransaction(3, 7),
            transaction: 0,
            what,
        };
        serde_json::from_slice(&record.line(format)).unwrap_or_default()
    }

    fn statement(outcome: Outcome) -> Statement {
        let mut objects = Objects::default();
        objects.add(table("app.flights", SELECT, &["id"]));
        objects.add(table("app.flights", Access(1 << 2), &["id", "delay"]));
        Statement {
            text: Some("UPDATE app.flights SET delay = 0 RETURNING id".into()),
            is_cut: false,
            command: "UPDATE",
            query_id: -5,
            objects,
            rows: 2,
            begun: Timestamp(500_000_000_000_000),
            ended: Timestamp(500_000_000_001_500),
            active: 1500,
            depth: 0,
            outcome,
            reason: None,
        }
    }

    #[test]
    fn a_query_in_the_universal_model() {
        let shown = json(What::Statement(&statement(Outcome::Success)), Format::Uam);
        assert_eq!(shown["action"], "QUERY");
        assert_eq!(shown["actionStatus"], "SUCCESS");
        assert_eq!(shown["eventTimestamp"], "2015-11-05T00:53:20.000001Z");
        assert_eq!(shown["actor"]["id"], "ali\"ce");
        assert_eq!(shown["actor"]["impersonatedBy"], "svc");
        assert_eq!(shown["targets"][0]["name"], "app.flights");
        let payload = &shown["auditPayload"];
        assert_eq!(payload["type"], "QueryAuditPayload");
        assert_eq!(payload["queryId"], "-5");
        assert_eq!(payload["duration"], 1.5);
        let accessed = &payload["objectsAccessed"][0];
        assert_eq!(accessed["accessType"], serde_json::json!(["SELECT", "UPDATE"]));
        assert_eq!(accessed["columns"], serde_json::json!([{"name": "id"}, {"name": "delay"}]));
    }

    #[test]
    fn denials_are_told_from_failures() {
        let of = |state: &[u8; 5]| {
            json(What::Statement(&statement(Outcome::Failure(Some(SqlState(*state))))), Format::Uam)
        };
        assert_eq!(of(b"42501")["actionStatus"], "UNAUTHORIZED");
        assert_eq!(of(b"28000")["actionStatus"], "UNAUTHORIZED");
        assert_eq!(of(b"22012")["actionStatus"], "FAILURE");
        assert_eq!(of(b"22012")["auditPayload"]["errorCode"], "22012");
    }

    #[test]
    fn events_of_the_impersonation_itself() {
        let shown = json(What::Refused("IMPERSONATION_TOKEN_INVALID", SqlState(*b"28000")), Format::Uam);
        assert_eq!(shown["actionStatusReason"], "IMPERSONATION_TOKEN_INVALID");
        assert_eq!(shown["actor"]["id"], serde_json::Value::Null);
        let ended = What::Ended { committed: false, statements: 3, outcome: Outcome::Success };
        let payload = &json(ended, Format::Uam)["auditPayload"];
        assert_eq!(payload["event"], "ENDED");
        assert_eq!(payload["transactionOutcome"], "ROLLBACK");
        assert_eq!(payload["statements"], 3);
    }

    #[test]
    fn the_older_record() {
        let shown = json(What::Statement(&statement(Outcome::Success)), Format::Legacy);
        assert_eq!(shown["dateTime"], "1446684800000");
        assert_eq!(shown["month"], (2015 - 1900) * 12 + 11);
        assert_eq!(shown["userId"], "ali\"ce");
        assert_eq!(shown["extra"]["impersonationUser"], "svc");
        assert_eq!(shown["dataSourceTableName"], "app.flights");
        assert_eq!(shown["recordType"], "nativeQuery");
        assert_eq!(json(What::Started, Format::Legacy)["extra"]["event"], "impersonationStarted");
    }

    #[test]
    fn a_line_in_ascii_says_the_same() {
        let line = "{\"name\":\"José 💾 \\n\"}".as_bytes();
        let plain = in_ascii(line);
        assert!(plain.is_ascii());
        let parsed = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).ok();
        assert_eq!(parsed(&plain), parsed(line));
        assert!(parsed(line).is_some());
    }

    #[test]
    fn ids_differ() {
        let mut ids = Ids::new(u64::MAX);
        let mut other = Ids::new(1);
        let made: std::collections::HashSet<_> = (0..1000).flat_map(|_| [ids.next(), other.next()]).collect();
        assert_eq!(made.len(), 2000);
    }

    #[test]
    fn sqlstates_are_unpacked() {
        // MAKE_SQLSTATE('4','2','5','0','1')
        let packed = b"42501".iter().rev().fold(0, |packed, c| packed << 6 | i32::from(c - b'0'));
        assert_eq!(SqlState::unpacked(packed), SqlState(*b"42501"));
    }

    #[test]
    fn what_comes_with_a_relation_goes_without_saying() {
        let mut objects = Objects::default();
        let object =
            |id, kind: &'static str, name| Object { id, kind: kind.into(), ..table(name, Access::CREATE, &[]) };
        for made in [
            object(1, "TYPE", "a.t"),
            object(2, "TYPE", "a.t[]"),
            object(3, "TABLE", "a.t"),
            object(4, "TYPE", "a.u"),
        ] {
            objects.add(made);
        }
        objects.without_companions();
        assert_eq!(objects.list().iter().map(|o| o.id).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn objects_are_limited() {
        let mut objects = Objects::default();
        for id in 0..1000 {
            objects.add(Object { id, ..table("t", SELECT, &[]) });
        }
        assert_eq!(objects.list().len(), MAX_OBJECTS);
    }
}
