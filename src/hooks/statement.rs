//! The executor, utility and function hooks.

use super::{SESSION, guarded, impersonation, is_guarded};
use crate::core::guard::{self, Statement};
use crate::error::Error;
use crate::pg::chain::Before;
use crate::pg::nodes::Permissions;
use crate::pg::report::Report;
use crate::pg::{catalog, gate, guc, role};

/// Before a utility statement.
pub fn before_utility(statement: &Statement, depth: u32) -> Result<Before, Report> {
    refuse_stray_token(depth)?;
    if gate::is_impersonating() {
        guard::while_impersonating(statement).map_err(Error::from)?;
        if depth == 0 && *statement != Statement::TransactionControl {
            impersonation::confirm()?;
        }
        return Ok(Before { as_nested: *statement == Statement::CallOrDo, settings_level: 0 });
    }
    if is_guarded() && !guarded::has_authority() {
        guard::without_token(statement, crate::config::session_settings).map_err(Error::from)?;
        if *statement == Statement::ExplainQuery && depth == 0 {
            return Ok(Before { as_nested: false, settings_level: guc::new_level() });
        }
    }
    Ok(Before::default())
}

/// Before a query starts.
pub fn before_start(execution: usize, permissions: Permissions, depth: u32) -> Result<(), Report> {
    refuse_stray_token(depth)?;
    if gate::is_impersonating() {
        if depth == 0 {
            impersonation::confirm()?;
        }
        SESSION.with_borrow_mut(|session| session.begin_execution(execution));
    } else if is_guarded() && !guarded::has_authority() {
        // Before PostgreSQL's own check, so that the answer is "a token is required" and not "permission denied".
        guarded::check_relations(&permissions)?;
    }
    Ok(())
}

/// Before a query runs, for the first time or again.
pub fn before_run(execution: usize, depth: u32) -> Result<Before, Report> {
    if gate::is_impersonating() {
        if !SESSION.with_borrow(|session| session.has_begun(execution)) {
            let what = "this query or cursor was opened before the token was set";
            return Err(Error::WhileImpersonating(what.into()).into());
        }
        if depth == 0 {
            impersonation::confirm()?;
        }
        return Ok(Before::default());
    }
    let settings_level = if depth == 0 && is_guarded() { guc::new_level() } else { 0 };
    Ok(Before { as_nested: false, settings_level })
}

/// After a statement completed without an error.
pub fn done(depth: u32, before: Before) -> Result<(), Report> {
    let presented = guc::presented();
    if before.settings_level > 0 {
        guc::undo_settings_except(before.settings_level, &crate::config::session_settings());
    }
    match presented {
        Some(token) if depth == 0 => {
            impersonation::establish(token)?;
            Ok(())
        }
        _ => Ok(()),
    }
}

pub fn ended(execution: usize) {
    SESSION.with_borrow_mut(|session| session.end_execution(execution));
}

/// When permissions are checked, after PostgreSQL found nothing to object.
pub fn permissions(permissions: Permissions) -> Result<(), Report> {
    if gate::is_impersonating() {
        require_usage(&permissions);
    } else if is_guarded() && !guarded::has_authority() {
        guarded::check_relations(&permissions)?;
    }
    Ok(())
}

/// Before a function is executed.
pub fn before_function(function: u32, _depth: u32) -> Result<(), Report> {
    if gate::is_impersonating() {
        return impersonation::check_function(function).map_err(Report::from);
    }
    if is_guarded() && !guarded::has_authority() {
        guarded::check_function(function)?;
    }
    Ok(())
}

/// A token that waits when a new statement begins came by a route that no statement of its own completed.
fn refuse_stray_token(depth: u32) -> Result<(), Error> {
    if depth == 0 && gate::has_presented() { Err(Error::OutOfStatement) } else { Ok(()) }
}

/// PostgreSQL checks USAGE of a schema when names are looked up, which for a cached plan was in another user's time.
/// A view that checks as its invoker brings in relations nobody named: then names cannot be told from the rest.
fn require_usage(permissions: &Permissions) {
    let (user, _) = role::current_user();
    let required = permissions.required();
    let unchecked: Vec<u32> = required
        .iter()
        .filter(|entry| entry.checked_as == 0)
        .map(|entry| catalog::schema_of_relation(entry.relation))
        .filter(|&schema| schema != 0 && !catalog::is_known_usable(schema, user))
        .collect();
    if unchecked.is_empty() || required.iter().any(|entry| catalog::is_invoker_view(entry.relation)) {
        return;
    }
    for schema in unchecked {
        catalog::require_usage(schema, user);
    }
}
