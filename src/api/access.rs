//! Roles, rules and the system account.

use crate::api::convert::{immuta_require_preload, report};
use crate::core::identity::Identity;
use crate::core::provider::jwt::claims::Claims;
use crate::core::provider::jwt::profile::{written_attributes, written_groups};
use crate::core::rights::rules::Rule;
use crate::core::session::presented::Kind;
use crate::error::Error;
use crate::pg::catalog::{self, tables};
use crate::pg::switch;
use crate::pg::sys::expression;
use crate::rights::{login, mapping};
use crate::session::state;
use pgrx::prelude::*;
use std::ffi::CString;

/// Groups and attributes of a user, as text in UTF-8, as they are now: policies decide by them, whatever the snapshot
/// of the transaction. What the token of this transaction says of its user counts before what our tables say. No row
/// for a user who has none.
#[pg_extern(sql = false)]
fn immuta_profile(
    iamid: &[u8],
    userid: &[u8],
) -> TableIterator<'static, (name!(groups, Vec<u8>), name!(attributes, Vec<u8>))> {
    immuta_require_preload();
    let installed = login::installed().unwrap_or_else(|error| report(error));
    let user = Identity::of_bytes(userid, iamid);
    let profile =
        tables::user_by_identity(&installed, &user).and_then(|user| tables::profile(&installed, user.id));
    let claims = state::active().filter(|active| *active.identity == user).and_then(|active| active.claims);
    let said = |claims: &Claims| {
        (claims.groups.as_deref().map(written_groups), claims.attributes.as_ref().map(written_attributes))
    };
    let profile = match claims.as_deref().map(said) {
        None | Some((None, None)) => profile,
        Some((groups, attributes)) => {
            let (own_groups, own_attributes) = profile.unwrap_or_else(|| ("{}".into(), "{}".into()));
            Some((groups.unwrap_or(own_groups), attributes.unwrap_or(own_attributes)))
        }
    };
    TableIterator::new(profile.map(|(groups, attributes)| (groups.into_bytes(), attributes.into_bytes())))
}

/// Raises IMPERSONATION_NOT_ALLOWED for a role that must not be mapped to.
#[pg_extern(sql = false)]
fn immuta_check_target(role: pg_sys::Oid) {
    let Some(installed) = catalog::installation() else { report(Error::NoExtension) };
    if let Err(error) = mapping::check_target(&installed, role.to_u32(), 0) {
        report(error);
    }
}

/// Runs a statement, in the database encoding, as another role: for the system account.
#[pg_extern(sql = false)]
fn immuta_run_as(role: pg_sys::Oid, statement: &[u8]) {
    match CString::new(statement) {
        Ok(statement) => switch::run_as(role.to_u32(), &statement),
        Err(_) => pgrx::error!("a statement cannot hold a zero byte"),
    }
}

/// Looks a statement up, in the database encoding, as another role; 0 is whoever sent the statement that is running.
#[pg_extern(sql = false)]
fn immuta_analyse_as(role: pg_sys::Oid, statement: &[u8]) {
    match CString::new(statement) {
        Ok(statement) => switch::analyse_as(role.to_u32(), &statement),
        Err(_) => pgrx::error!("a statement cannot hold a zero byte"),
    }
}

/// Whether a text, in the database encoding, is one expression and nothing else.
#[pg_extern(sql = false)]
fn immuta_is_expression(text: &[u8]) -> bool {
    CString::new(text).is_ok_and(|text| expression::parsed(&text).is_some())
}

/// Row trigger: every backend looks at our tables again, once this transaction has committed.
#[pg_trigger(sql = false)]
fn immuta_announce_change<'a>(
    trigger: &'a pgrx::PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, impl WhoAllocated>>, PgTriggerError> {
    catalog::announce_change();
    Ok(trigger.old().or(trigger.new()))
}

/// Whether a login may present tokens, or names.
#[pg_extern(sql = false)]
fn immuta_may_impersonate(login: pg_sys::Oid, by_name: bool) -> bool {
    login::holds(if by_name { Kind::Name } else { Kind::Token }, login.to_u32())
}

/// Whether an impersonation rule is about this login and this user.
#[pg_extern(sql = false)]
fn immuta_rule_names(
    impersonator: &[u8],
    users: &[u8],
    iamids: &[u8],
    login: &[u8],
    iamid: &[u8],
    userid: &[u8],
) -> bool {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let rule = Rule {
        id: 0,
        impersonator: text(impersonator),
        iamid: text(iamids),
        users: text(users),
        allow: true,
        networks: None,
        actors: "*".into(),
    };
    rule.names(&text(login), &Identity::of_bytes(userid, iamid))
}

/// The same, for a view: `None` for whoever cannot be impersonated by this login.
#[pg_extern(sql = false)]
fn immuta_impersonated_role(userid: &[u8], iamid: &[u8], impersonator: pg_sys::Oid) -> Option<pg_sys::Oid> {
    let installed = catalog::installation()?;
    let role = mapping::mapped_role(&installed, &Identity::of_bytes(userid, iamid), None, impersonator.to_u32());
    role.ok().map(pg_sys::Oid::from)
}

/// The role of a user outside projects, as far as it is known without a provider.
#[pg_extern(sql = false)]
fn immuta_role_of_user(userid: &[u8], iamid: &[u8]) -> Option<pg_sys::Oid> {
    let installed = catalog::installation()?;
    mapping::role_without_provider(&installed, &Identity::of_bytes(userid, iamid)).map(pg_sys::Oid::from)
}
