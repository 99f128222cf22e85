//! Records of Immuta's universal audit model. Fields in the order of `docs/audit-uam.schema.json`.

use crate::core::audit::blanks::{Blank, Blanks, Hole};
use crate::core::audit::changes::{AccessChange, Said};
use crate::core::audit::{Access, Object, Outcome, Record, SqlState, What};
use serde::{Serialize, Serializer};
use std::rc::Rc;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Uam<'a> {
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
pub(super) struct UamActor<'a> {
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
pub(super) struct UsedBy<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    acting_party: Option<ActingParty<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<&'a str>,
}

#[derive(Serialize)]
pub(super) struct ActingParty<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    issuer: Option<&'a str>,
    /// For whom it acts in turn.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    chain: Vec<&'a str>,
}

impl<'a> UsedBy<'a> {
    pub(super) fn of(record: &'a Record) -> UsedBy<'a> {
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
pub(super) enum UamPayload<'a> {
    #[serde(rename = "QueryAuditPayload", rename_all = "camelCase")]
    Query {
        query_id: Option<Blank>,
        #[serde(skip_serializing_if = "Option::is_none")]
        query: Option<Blank>,
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
    #[serde(rename = "ImpersonationAuditPayload", rename_all = "camelCase")]
    Impersonation {
        event: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        transaction_outcome: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        statements: Option<Blank>,
        error_code: Option<SqlState>,
        access_controls: AccessControls<'a>,
        technology_context: TechnologyContext<'a>,
    },
    #[serde(rename = "AccessAuditPayload", rename_all = "camelCase")]
    Access {
        #[serde(flatten)]
        changed: Changed<'a>,
        technology_context: TechnologyContext<'a>,
    },
}

/// What becomes of somebody's access.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Changed<'a> {
    changed: &'a str,
    user: Option<UserOf<'a>>,
    before: &'a Said,
    after: &'a Said,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    change_truncated: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct UserOf<'a> {
    id: &'a str,
    identity_provider: &'a str,
}

impl<'a> Changed<'a> {
    pub(super) fn of(change: &'a AccessChange) -> Changed<'a> {
        Changed {
            changed: &change.subject,
            user: change.user.as_ref().map(|user| UserOf { id: &user.userid, identity_provider: &user.iamid }),
            before: &change.before,
            after: &change.after,
            change_truncated: change.before.is_too_long() || change.after.is_too_long(),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AccessControls<'a> {
    mapped_role: Option<&'a str>,
    token_provider: Option<&'a str>,
    scope: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct TechnologyContext<'a> {
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
pub(super) struct Target<'a> {
    r#type: &'static str,
    id: String,
    name: &'a str,
    technology: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AccessedObject<'a> {
    name: &'a str,
    object_type: &'a str,
    access_type: Access,
    columns: Columns<'a>,
    #[serde(skip_serializing_if = "Columns::is_empty")]
    masked_columns: Columns<'a>,
}

#[derive(Serialize)]
pub(super) struct Column<'a> {
    name: &'a str,
}

pub(super) struct Targets<'a>(Vec<&'a Object>);

impl Serialize for Targets<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(|object| Target {
            r#type: "DATASOURCE",
            id: object.id.to_string(),
            name: &object.name,
            technology: "POSTGRESQL",
        }))
    }
}

pub(super) struct Accessed<'a>(pub(super) &'a [Object]);

impl Serialize for Accessed<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(|object| AccessedObject {
            name: &object.name,
            object_type: &object.kind,
            access_type: object.access,
            columns: Columns(&object.columns),
            masked_columns: Columns(&object.masked),
        }))
    }
}

pub(super) struct Columns<'a>(pub(super) &'a [Rc<str>]);

impl Columns<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Columns<'_> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.0.iter().map(|name| Column { name }))
    }
}

impl<'a> Uam<'a> {
    pub(super) fn of(record: &'a Record, blanks: &Blanks) -> Uam<'a> {
        let identity = record.identity();
        let userid = identity.map(|identity| identity.userid.as_str());
        Uam {
            id: blanks.of(Hole::Id),
            action: match record.what {
                What::Statement(_) => "QUERY",
                What::Changed(change) => change.action.name(),
                _ => "IMPERSONATE",
            },
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
            targets: Targets(record.sources().collect()),
            related_resources: [],
            audit_payload: UamPayload::of(record, blanks),
        }
    }
}

impl<'a> UamPayload<'a> {
    pub(super) fn of(record: &'a Record, blanks: &Blanks) -> UamPayload<'a> {
        let error_code = record.error_code();
        let access_controls = AccessControls {
            mapped_role: record.actor.map(|actor| actor.mapped_role.in_utf8.as_str()),
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
                return UamPayload::Query {
                    query_id: (statement.query_id != 0).then(|| blanks.of(Hole::QueryId)),
                    query: statement.text.as_ref().map(|_| blanks.of(Hole::Query)),
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
            What::Changed(change) => {
                return UamPayload::Access { changed: Changed::of(change), technology_context };
            }
        };
        UamPayload::Impersonation {
            event,
            transaction_outcome,
            statements,
            error_code,
            access_controls,
            technology_context,
        }
    }
}

pub(super) fn outcome_of(committed: bool) -> &'static str {
    if committed { "COMMIT" } else { "ROLLBACK" }
}
