//! Immuta's older query record. Fields in the order of `docs/audit-legacy.schema.json`.

use crate::core::audit::blanks::{Blank, Blanks, Hole};
use crate::core::audit::changes::Action;
use crate::core::audit::uam::{Accessed, Changed, UsedBy};
use crate::core::audit::{CompletedStatement, Record, SqlState, What};
use serde::Serialize;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Legacy<'a> {
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
    query: Option<Blank>,
    extra: LegacyExtra<'a>,
    data_source_table_name: Option<&'a str>,
    created_at: Blank,
    updated_at: Blank,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LegacyExtra<'a> {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    query_text: Option<Blank>,
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
    query_id: Option<Blank>,
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
    #[serde(flatten)]
    changed: Option<Changed<'a>>,
}

impl<'a> Legacy<'a> {
    pub(super) fn of(record: &'a Record, blanks: &Blanks) -> Legacy<'a> {
        let statement = match &record.what {
            What::Statement(statement) => Some(*statement),
            _ => None,
        };
        let identity = record.identity();
        let source = record.sources().next();
        let source_name = source.map(|object| &*object.name);
        let text = statement.and_then(|statement| statement.text.as_ref());
        Legacy {
            id: blanks.of(Hole::Id),
            date_time: blanks.of(Hole::Milliseconds),
            month: blanks.of(Hole::Month),
            profile_id: None,
            user_id: identity.map(|identity| identity.userid.as_str()),
            data_source_id: source.map(|object| object.id),
            data_source_name: source_name,
            count: record.sources().count(),
            record_type: match record.what {
                What::Statement(_) => "nativeQuery",
                What::Changed(_) => "accessChange",
                _ => "impersonation",
            },
            success: record.is_success(),
            component: "nativeSql",
            access_type: "query",
            query: text.map(|_| blanks.of(Hole::Query)),
            extra: LegacyExtra::of(record, statement, blanks),
            data_source_table_name: source_name,
            created_at: blanks.of(Hole::At),
            updated_at: blanks.of(Hole::At),
        }
    }
}

impl<'a> LegacyExtra<'a> {
    fn of(record: &'a Record, statement: Option<&'a CompletedStatement>, blanks: &Blanks) -> LegacyExtra<'a> {
        let text = statement.and_then(|statement| statement.text.as_ref());
        let of_statement = |hole| statement.map(|_| blanks.of(hole));
        LegacyExtra {
            event: event(&record.what),
            reason: record.reason(),
            query_text: text.map(|_| blanks.of(Hole::Query)),
            query_truncated: text.is_some_and(|text| text.is_cut),
            query_masked: text.is_some_and(|text| text.is_masked),
            query_language: "postgresql",
            impersonation_user: &record.session.impersonator,
            bearer: UsedBy::of(record),
            iamid: record.identity().map(|identity| identity.iamid.as_str()),
            mapped_role: record.actor.map(|actor| actor.mapped_role.in_utf8.as_str()),
            database: &record.session.database,
            session_id: &record.session.id,
            command: statement.map(|statement| statement.command),
            virtual_transaction_id: blanks.of(Hole::VirtualTransaction),
            transaction_id: blanks.of(Hole::Transaction),
            client_address: record.session.client_address.as_deref(),
            application_name: record.application,
            query_id: statement.filter(|s| s.query_id != 0).map(|_| blanks.of(Hole::QueryId)),
            start_time: of_statement(Hole::Begun),
            end_time: of_statement(Hole::Ended),
            duration: of_statement(Hole::Active),
            rows: of_statement(Hole::Rows),
            nesting_depth: statement.map(|s| s.depth),
            error_code: record.error_code(),
            objects_accessed: Accessed(record.objects()),
            objects_truncated: statement.is_some_and(|statement| statement.objects.is_cut()),
            changed: match record.what {
                What::Changed(change) => Some(Changed::of(change)),
                _ => None,
            },
        }
    }
}

fn event(what: &What) -> &'static str {
    match what {
        What::Statement(_) => "query",
        What::Started => "impersonationStarted",
        What::Refused(..) => "impersonationRefused",
        What::Ended(true, _) => "impersonationCommitted",
        What::Ended(false, _) => "impersonationRolledBack",
        What::Transaction(true, _) => "transactionCommitted",
        What::Transaction(false, _) => "transactionRolledBack",
        What::Left => "impersonationEnded",
        What::Changed(change) => match change.action {
            Action::Create => "accessCreated",
            Action::Update => "accessUpdated",
            Action::Delete => "accessDeleted",
        },
    }
}
