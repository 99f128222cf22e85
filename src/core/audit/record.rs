//! How audit records are written: JSON, one object to a line.
//!
//! Two formats: the universal audit model of Immuta (`uam`), and its older query record (`legacy`). The order of the
//! fields is that of the structures here; `docs/audit-*.schema.json` describe both.
//!
//! Most of a record is the same each time a statement runs. That part is made once and kept as a form with blanks for
//! what is another in each record: times, counts, ids.

use crate::core::audit::{Access, Object, Outcome, Record, SqlState, Values, What};
use crate::core::time::Timestamp;
use foldhash::quality::RandomState;
use lru::LruCache;
use serde::{Serialize, Serializer};
use std::hash::BuildHasher;
use std::num::NonZero;
use std::rc::Rc;

/// So many forms are kept, of so many bytes at most.
const FORMS: NonZero<usize> = NonZero::<usize>::MIN.saturating_add(511);
const MAX_FORM_BYTES: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    Uam,
    Legacy,
}

/// A value that is another in each record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hole {
    Id,
    At,
    Milliseconds,
    Month,
    VirtualTransaction,
    Transaction,
    Begun,
    Ended,
    Active,
    Rows,
    Statements,
}

const HOLES: [Hole; 11] = [
    Hole::Id,
    Hole::At,
    Hole::Milliseconds,
    Hole::Month,
    Hole::VirtualTransaction,
    Hole::Transaction,
    Hole::Begun,
    Hole::Ended,
    Hole::Active,
    Hole::Rows,
    Hole::Statements,
];

/// What stands for a hole while a form is made: nobody outside this process can guess it, so no text of a user can
/// hold it.
struct Blanks(String);

struct Blank(String);

impl Blanks {
    fn of(&self, hole: Hole) -> Blank {
        Blank(format!("{}{}", self.0, char::from(b'a' + hole as u8)))
    }
}

impl Serialize for Blank {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

/// A record with holes: text, hole, text, hole, …, text.
struct Form {
    texts: Vec<Box<[u8]>>,
    holes: Vec<Hole>,
}

/// Writes records.
pub struct Forms {
    blanks: Blanks,
    keys: RandomState,
    known: LruCache<u64, Form>,
    clock: Clock,
}

impl Forms {
    /// `secret` is a number that nobody outside this process can guess.
    pub fn new(secret: u128) -> Forms {
        Forms {
            blanks: Blanks(format!("{secret:032x}")),
            keys: RandomState::default(),
            known: LruCache::new(FORMS),
            clock: Clock::default(),
        }
    }

    /// The record as one line of JSON, without its end.
    pub fn line(&mut self, record: &Record, values: &Values, format: Format) -> Vec<u8> {
        let key = self.keys.hash_one((record, format));
        if let Some(form) = self.known.get(&key) {
            return form.fill(values, &mut self.clock);
        }
        let form = self.form(record, format);
        let line = form.fill(values, &mut self.clock);
        if line.len() <= MAX_FORM_BYTES {
            self.known.put(key, form);
        }
        line
    }

    fn form(&self, record: &Record, format: Format) -> Form {
        let made = match format {
            Format::Uam => serde_json::to_string(&Uam::of(record, &self.blanks)),
            Format::Legacy => serde_json::to_string(&Legacy::of(record, &self.blanks)),
        };
        // Nothing here can fail: all keys are texts, and a String takes everything.
        debug_assert!(made.is_ok());
        let made = made.unwrap_or_default();
        let mut form = Form { texts: Vec::new(), holes: Vec::new() };
        let mut from = 0;
        for (at, blank) in made.match_indices(&self.blanks.0) {
            let letter = made.as_bytes().get(at + blank.len()).map(|letter| letter.wrapping_sub(b'a'));
            if let Some(hole) = letter.and_then(|letter| HOLES.get(usize::from(letter))) {
                // Without the quotation marks: not every value is a text.
                form.texts.push(made.as_bytes()[from..at - 1].into());
                form.holes.push(*hole);
                from = at + blank.len() + 2;
            }
        }
        form.texts.push(made.as_bytes()[from..].into());
        form
    }
}

impl Form {
    fn fill(&self, values: &Values, clock: &mut Clock) -> Vec<u8> {
        let length = self.texts.iter().map(|text| text.len()).sum::<usize>() + 40 * self.holes.len();
        let mut line = Vec::with_capacity(length);
        let mut holes = self.holes.iter();
        for text in &self.texts {
            line.extend_from_slice(text);
            if let Some(hole) = holes.next() {
                hole.fill(values, clock, &mut line);
            }
        }
        line
    }
}

impl Hole {
    fn fill(self, values: &Values, clock: &mut Clock, line: &mut Vec<u8>) {
        match self {
            Hole::Id => quoted(line, values.id.hyphenated().encode_lower(&mut [0; 36]).as_bytes()),
            Hole::At => quoted(line, clock.iso(values.at)),
            Hole::Milliseconds => quoted(line, itoa::Buffer::new().format(values.at.to_unix_millis()).as_bytes()),
            Hole::Month => number(line, month_since_1900(values.at)),
            Hole::VirtualTransaction => {
                line.push(b'"');
                number(line, values.virtual_transaction.0);
                line.push(b'/');
                number(line, values.virtual_transaction.1);
                line.push(b'"');
            }
            Hole::Transaction if values.transaction == 0 => line.extend_from_slice(b"null"),
            Hole::Transaction => number(line, values.transaction),
            Hole::Begun => quoted(line, clock.iso(values.begun)),
            Hole::Ended => quoted(line, clock.iso(values.ended)),
            // Milliseconds, of which the last three digits are parts.
            Hole::Active => {
                number(line, values.active / 1000);
                line.push(b'.');
                line.extend_from_slice(&digits::<3>(values.active % 1000));
            }
            Hole::Rows => number(line, values.rows),
            Hole::Statements => number(line, values.statements),
        }
    }
}

fn quoted(line: &mut Vec<u8>, text: &[u8]) {
    line.push(b'"');
    line.extend_from_slice(text);
    line.push(b'"');
}

fn number(line: &mut Vec<u8>, number: impl itoa::Integer) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// The last `N` digits of a number that is not negative.
pub fn digits<const N: usize>(mut number: i64) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    digits
}

// ---- universal audit model

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Uam<'a> {
    id: Blank,
    action: &'static str,
    action_status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    action_status_reason: Option<&'a str>,
    event_timestamp: Blank,
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
    #[serde(flatten)]
    bearer: UsedBy<'a>,
}

/// Who uses the user's token.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UsedBy<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    acting_party: Option<ActingParty<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<&'a str>,
}

#[derive(Serialize)]
struct ActingParty<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<&'a str>,
    /// For whom it acts in turn.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    chain: Vec<&'a str>,
}

impl<'a> UsedBy<'a> {
    fn of(record: &'a Record) -> UsedBy<'a> {
        let bearer = record.actor.and_then(|actor| actor.bearer.as_deref());
        UsedBy {
            acting_party: bearer.and_then(|bearer| bearer.actors.split_first()).map(|(acting, chain)| {
                ActingParty {
                    id: &acting.id,
                    issuer: acting.issuer.as_deref(),
                    chain: chain.iter().map(|actor| actor.id.as_str()).collect(),
                }
            }),
            client_id: bearer.and_then(|bearer| bearer.client.as_deref()),
            token_id: bearer.and_then(|bearer| bearer.token_id.as_deref()),
        }
    }
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
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        query_masked: bool,
        start_time: Blank,
        end_time: Blank,
        /// Milliseconds.
        duration: Blank,
        error_code: Option<SqlState>,
        rows: Blank,
        objects_accessed: Accessed<'a>,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        objects_truncated: bool,
        access_controls: AccessControls<'a>,
        technology_context: TechnologyContext<'a>,
    },
    #[serde(rename_all = "camelCase")]
    ImpersonationAuditPayload {
        event: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        transaction_outcome: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        statements: Option<Blank>,
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
    virtual_transaction_id: Blank,
    transaction_id: Blank,
    client_address: Option<&'a str>,
    application_name: &'a str,
}

#[derive(Serialize)]
struct Target<'a> {
    r#type: &'static str,
    id: String,
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
            id: object.id.to_string(),
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

impl<'a> Uam<'a> {
    fn of(record: &'a Record, blanks: &Blanks) -> Uam<'a> {
        let identity = record.identity();
        let userid = identity.map(|identity| identity.userid.as_str());
        Uam {
            id: blanks.of(Hole::Id),
            action: if matches!(record.what, What::Statement(_)) { "QUERY" } else { "IMPERSONATE" },
            action_status: match record.outcome() {
                Outcome::Success => "SUCCESS",
                Outcome::Failure(Some(state)) if state.is_denial() => "UNAUTHORIZED",
                Outcome::Failure(_) => "FAILURE",
            },
            action_status_reason: record.reason(),
            event_timestamp: blanks.of(Hole::At),
            tenant_id: &record.session.cluster,
            session_id: &record.session.id,
            actor: UamActor {
                r#type: "USER_ACTOR",
                id: userid,
                name: userid,
                identity_provider: identity.map(|identity| identity.iamid.as_str()),
                impersonated_by: &record.session.impersonator,
                bearer: UsedBy::of(record),
            },
            target_type: "DATASOURCE",
            targets: Targets(record.objects()),
            related_resources: [],
            audit_payload: UamPayload::of(record, blanks),
        }
    }
}

impl<'a> UamPayload<'a> {
    fn of(record: &'a Record, blanks: &Blanks) -> UamPayload<'a> {
        let error_code = record.error_code();
        let access_controls = AccessControls {
            mapped_role: record.actor.map(|actor| actor.mapped_role.as_str()),
            token_provider: record.actor.map(|actor| actor.provider),
            scope: record.actor.map(|actor| actor.scope),
        };
        let technology_context = TechnologyContext {
            r#type: "PostgreSQLContext",
            database: &record.session.database,
            command: None,
            nesting_depth: None,
            virtual_transaction_id: blanks.of(Hole::VirtualTransaction),
            transaction_id: blanks.of(Hole::Transaction),
            client_address: record.session.client_address.as_deref(),
            application_name: record.application,
        };
        let (event, transaction_outcome, statements) = match &record.what {
            What::Statement(statement) => {
                return UamPayload::QueryAuditPayload {
                    query_id: (statement.query_id != 0).then(|| statement.query_id.to_string()),
                    query: statement.text.as_ref().map(|text| text.shown.as_str()),
                    query_truncated: statement.text.as_ref().is_some_and(|text| text.is_cut),
                    query_masked: statement.text.as_ref().is_some_and(|text| text.is_masked),
                    start_time: blanks.of(Hole::Begun),
                    end_time: blanks.of(Hole::Ended),
                    duration: blanks.of(Hole::Active),
                    error_code,
                    rows: blanks.of(Hole::Rows),
                    objects_accessed: Accessed(statement.objects.list()),
                    objects_truncated: statement.objects.is_cut(),
                    access_controls,
                    technology_context: TechnologyContext {
                        command: Some(statement.command),
                        nesting_depth: Some(statement.depth),
                        ..technology_context
                    },
                };
            }
            What::Started => ("STARTED", None, None),
            What::Refused(..) => ("REFUSED", None, None),
            What::Ended(committed, _) => {
                ("ENDED", Some(outcome_of(*committed)), Some(blanks.of(Hole::Statements)))
            }
            What::Transaction(committed, _) => {
                ("TRANSACTION_ENDED", Some(outcome_of(*committed)), Some(blanks.of(Hole::Statements)))
            }
            What::Left => ("ENDED", None, None),
        };
        UamPayload::ImpersonationAuditPayload {
            event,
            transaction_outcome,
            statements,
            error_code,
            access_controls,
            technology_context,
        }
    }
}

fn outcome_of(committed: bool) -> &'static str {
    if committed { "COMMIT" } else { "ROLLBACK" }
}

// ---- the older record

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Legacy<'a> {
    id: Blank,
    /// Milliseconds since 1970, as text.
    date_time: Blank,
    /// Months since January 1900, counted from 1.
    month: Blank,
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
    created_at: Blank,
    updated_at: Blank,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LegacyExtra<'a> {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    query_text: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    query_truncated: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    query_masked: bool,
    query_language: &'static str,
    impersonation_user: &'a str,
    #[serde(flatten)]
    bearer: UsedBy<'a>,
    iamid: Option<&'a str>,
    mapped_role: Option<&'a str>,
    database: &'a str,
    session_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    virtual_transaction_id: Blank,
    transaction_id: Blank,
    client_address: Option<&'a str>,
    application_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    query_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<Blank>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<Blank>,
    /// Milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<Blank>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rows: Option<Blank>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nesting_depth: Option<u32>,
    error_code: Option<SqlState>,
    objects_accessed: Accessed<'a>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    objects_truncated: bool,
}

impl<'a> Legacy<'a> {
    fn of(record: &'a Record, blanks: &Blanks) -> Legacy<'a> {
        let statement = match &record.what {
            What::Statement(statement) => Some(*statement),
            _ => None,
        };
        let identity = record.identity();
        let sources = || record.objects().iter().filter(|object| is_data_source(&object.kind));
        let source_name = sources().next().map(|object| &*object.name);
        let text = statement.and_then(|statement| statement.text.as_ref());
        let shown = text.map(|text| text.shown.as_str());
        let of_statement = |hole| statement.map(|_| blanks.of(hole));
        Legacy {
            id: blanks.of(Hole::Id),
            date_time: blanks.of(Hole::Milliseconds),
            month: blanks.of(Hole::Month),
            profile_id: None,
            user_id: identity.map(|identity| identity.userid.as_str()),
            data_source_id: sources().next().map(|object| object.id),
            data_source_name: source_name,
            count: sources().count(),
            record_type: if statement.is_some() { "nativeQuery" } else { "impersonation" },
            success: record.is_success(),
            component: "nativeSql",
            access_type: "query",
            query: shown,
            extra: LegacyExtra {
                event: match &record.what {
                    What::Statement(_) => "query",
                    What::Started => "impersonationStarted",
                    What::Refused(..) => "impersonationRefused",
                    What::Ended(true, _) => "impersonationCommitted",
                    What::Ended(false, _) => "impersonationRolledBack",
                    What::Transaction(true, _) => "transactionCommitted",
                    What::Transaction(false, _) => "transactionRolledBack",
                    What::Left => "impersonationEnded",
                },
                reason: record.reason(),
                query_text: shown,
                query_truncated: text.is_some_and(|text| text.is_cut),
                query_masked: text.is_some_and(|text| text.is_masked),
                query_language: "postgresql",
                impersonation_user: &record.session.impersonator,
                bearer: UsedBy::of(record),
                iamid: identity.map(|identity| identity.iamid.as_str()),
                mapped_role: record.actor.map(|actor| actor.mapped_role.as_str()),
                database: &record.session.database,
                session_id: &record.session.id,
                command: statement.map(|statement| statement.command),
                virtual_transaction_id: blanks.of(Hole::VirtualTransaction),
                transaction_id: blanks.of(Hole::Transaction),
                client_address: record.session.client_address.as_deref(),
                application_name: record.application,
                query_id: statement.filter(|s| s.query_id != 0).map(|s| s.query_id.to_string()),
                start_time: of_statement(Hole::Begun),
                end_time: of_statement(Hole::Ended),
                duration: of_statement(Hole::Active),
                rows: of_statement(Hole::Rows),
                nesting_depth: statement.map(|s| s.depth),
                error_code: record.error_code(),
                objects_accessed: Accessed(record.objects()),
                objects_truncated: statement.is_some_and(|statement| statement.objects.is_cut()),
            },
            data_source_table_name: source_name,
            created_at: blanks.of(Hole::At),
            updated_at: blanks.of(Hole::At),
        }
    }
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

/// Dates and times in UTC, to the microsecond (RFC 3339).
#[derive(Default)]
struct Clock {
    /// The second since 1970 that was written last, with its fraction.
    second: i64,
    iso: Vec<u8>,
}

impl Clock {
    /// Most times that are written are of the second of the one before.
    fn iso(&mut self, at: Timestamp) -> &[u8] {
        const SECONDS: usize = "2000-01-01T00:00:00".len();
        let micros = at.to_unix_micros();
        let second = micros.div_euclid(1_000_000);
        if self.iso.is_empty() || self.second != second {
            let civil = jiff::Timestamp::from_second(second).unwrap_or_default();
            self.second = second;
            self.iso = civil.strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string().into_bytes();
        }
        if let Some(fraction) = self.iso.get_mut(SECONDS + 1..SECONDS + 7) {
            fraction.copy_from_slice(&digits::<6>(micros.rem_euclid(1_000_000)));
        }
        &self.iso
    }
}

fn month_since_1900(at: Timestamp) -> i64 {
    let civil = jiff::Timestamp::from_microsecond(at.to_unix_micros()).unwrap_or_default();
    let date = civil.to_zoned(jiff::tz::TimeZone::UTC).date();
    (i64::from(date.year()) - 1900) * 12 + i64::from(date.month())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::audit::{Actor, Ids, Objects, Session, Statement, Text};
    use crate::core::identity::Identity;
    use crate::core::identity::{Actor as Acting, Bearer};

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
        Actor {
            identity: Rc::new(identity),
            mapped_role: "alice".into(),
            provider: "local",
            scope: "transaction",
            bearer: None,
        }
    }

    fn table(name: &str, access: Access, columns: &[&str]) -> Object {
        let columns = columns.iter().map(|&name| name.into()).collect();
        Object { id: 42, kind: "TABLE".into(), name: name.into(), access, columns }
    }

    fn values() -> Values {
        Values {
            id: Ids::new(7).next(),
            at: Timestamp(500_000_000_000_001),
            virtual_transaction: (3, 7),
            transaction: 0,
            begun: Timestamp(500_000_000_000_000),
            ended: Timestamp(500_000_000_001_500),
            active: 1500,
            rows: 2,
            statements: 3,
        }
    }

    fn record<'a>(session: &'a Session, actor: &'a Actor, what: What<'a>) -> Record<'a> {
        let is_refused = matches!(what, What::Refused(..));
        Record { session, actor: (!is_refused).then_some(actor), candidate: None, application: "app", what }
    }

    fn json(what: What, format: Format) -> serde_json::Value {
        let (session, actor) = (session(), actor());
        let line = Forms::new(1).line(&record(&session, &actor, what), &values(), format);
        serde_json::from_slice(&line).unwrap_or_default()
    }

    fn statement(outcome: Outcome) -> Statement {
        let mut objects = Objects::default();
        objects.add(table("app.flights", SELECT, &["id"]));
        objects.add(table("app.flights", Access(1 << 2), &["id", "delay"]));
        Statement {
            text: Some(Text {
                shown: "UPDATE app.flights SET delay = 0 RETURNING id".into(),
                is_cut: false,
                is_masked: false,
            }),
            command: "UPDATE",
            query_id: -5,
            objects,
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
        let payload = &json(What::Ended(false, Outcome::Success), Format::Uam)["auditPayload"];
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
    fn a_form_serves_again_with_other_values() {
        let (session, actor, statement) = (session(), actor(), statement(Outcome::Success));
        let mut forms = Forms::new(1);
        let first_record = record(&session, &actor, What::Statement(&statement));
        for format in [Format::Uam, Format::Legacy] {
            let first = forms.line(&first_record, &values(), format);
            assert_eq!(forms.line(&first_record, &values(), format), first);
            let later = Values { rows: 77, transaction: 5, at: Timestamp(1), begun: Timestamp(-1), ..values() };
            let parse = |line: &[u8]| serde_json::from_slice::<serde_json::Value>(line).unwrap_or_default();
            let (again, anew) =
                (forms.line(&first_record, &later, format), Forms::new(2).line(&first_record, &later, format));
            assert_eq!(parse(&again), parse(&anew));
            assert_ne!(parse(&again), parse(&first));
            assert_ne!(parse(&again), serde_json::Value::Null);
        }
        assert_eq!(forms.known.len(), 2);
        let other = Actor { mapped_role: "bob".into(), ..actor.clone() };
        forms.line(&record(&session, &other, What::Statement(&statement)), &values(), Format::Uam);
        assert_eq!(forms.known.len(), 3);
    }

    #[test]
    fn who_uses_a_token_is_on_record() {
        let named = |id: &str| Acting { id: id.into(), issuer: (id == "agent").then(|| "https://id".into()) };
        let bearer = Bearer {
            token_id: Some("t-1".into()),
            client: Some("app".into()),
            actors: vec![named("agent"), named("service")],
        };
        let (session, actor) = (session(), Actor { bearer: Some(Rc::new(bearer)), ..actor() });
        let written = |format| {
            let line = Forms::new(1).line(&record(&session, &actor, What::Started), &values(), format);
            serde_json::from_slice::<serde_json::Value>(&line).unwrap_or_default()
        };
        let expected = serde_json::json!({"id": "agent", "issuer": "https://id", "chain": ["service"]});
        for part in [&written(Format::Uam)["actor"], &written(Format::Legacy)["extra"]] {
            assert_eq!(part["actingParty"], expected);
            assert_eq!((&part["clientId"], &part["tokenId"]), (&"app".into(), &"t-1".into()));
        }
    }

    #[test]
    fn times_are_written_to_the_microsecond() {
        let mut clock = Clock::default();
        for (at, shown) in [
            (0, "2000-01-01T00:00:00.000000Z"),
            (1, "2000-01-01T00:00:00.000001Z"),
            (-1, "1999-12-31T23:59:59.999999Z"),
            (999_999, "2000-01-01T00:00:00.999999Z"),
            (86_400_000_000, "2000-01-02T00:00:00.000000Z"),
        ] {
            assert_eq!(clock.iso(Timestamp(at)), shown.as_bytes());
        }
        assert_eq!(month_since_1900(Timestamp(0)), 1201);
    }
}
