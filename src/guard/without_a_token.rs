//! A session that may present tokens and has not: it has no authority of its own.

use crate::core::guard;
use crate::error::Error;
use crate::pg::catalog::{self, roles};
use crate::pg::hook::handlers::Before;
use crate::pg::hook::nodes::Permissions;
use crate::pg::hook::references::Found;
use crate::pg::sys::report::Report;
use crate::pg::{gate, guc, switch};
use crate::settings;
use pgrx::PgSqlErrorCode;

/// Whether what runs now runs on somebody else's authority: inside a SECURITY DEFINER function whose owner is a
/// superuser or listed in `bodata.trusted_definers`.
pub fn has_authority() -> bool {
    let (user, is_definer) = switch::current_user();
    is_definer && is_trusted(user)
}

/// Whether this owner's definers and views may do what others may not.
pub fn is_trusted(owner: u32) -> bool {
    roles::is_superuser(owner) || {
        let trusted = settings::trusted_definers();
        !trusted.is_empty() && roles::name(owner).is_some_and(|name| trusted.contains(&name))
    }
}

/// Only the catalogs of PostgreSQL can be read, and of those nothing that shows values of user tables.
pub fn check_relations(permissions: &Permissions) -> Result<(), Error> {
    permissions.required().iter().try_for_each(|entry| check_relation(entry.relation))
}

/// Where no token can help, the error says so.
pub fn refusal(error: Error) -> Error {
    match (error, catalog::fault()) {
        (Error::TokenRequired(_) | Error::SettingUnlisted(_) | Error::SettingNotShared(_), Some(fault)) => {
            Error::Incomplete(fault)
        }
        (error, _) => error,
    }
}

pub fn check_relation(oid: u32) -> Result<(), Error> {
    match catalog::relation(oid) {
        Some((_, name)) if oid >= guard::FIRST_NORMAL_OBJECT_ID || guard::shows_user_data(&name) => {
            Err(refusal(Error::TokenRequired(format!("access to \"{name}\""))))
        }
        _ => Ok(()),
    }
}

/// Whether the activity of sessions is read by a view that shows only how they are encrypted. Each use of such a view
/// brings one call of the function behind it: where there is one call in all, it is the view's.
pub fn reads_encryption_only(found: &Found) -> bool {
    found.functions.iter().filter(|&&function| function == guard::ACTIVITY_FUNCTION).count() == 1
        && found.relations.iter().chain(&found.views).any(|&relation| is_of_encryption(relation))
}

pub fn is_of_encryption(relation: u32) -> bool {
    relation < guard::FIRST_NORMAL_OBJECT_ID
        && catalog::relation(relation).is_some_and(|(_, name)| guard::shows_encryption_only(&name))
}

/// Functions may be called as far as everything they do passes the executor again, and what they set is undone
/// (`in_statement` tells whether it will be). Of those that did not come with PostgreSQL or with this extension, only
/// functions of superusers and trusted definers: whoever can create a function could plant it under the name of
/// another, or behind an operator, a cast or a domain.
pub fn check_function(oid: u32, in_statement: bool) -> Result<(), Error> {
    let Some(function) = catalog::function(oid) else { return Ok(()) };
    let allowed = if oid < guard::FIRST_NORMAL_OBJECT_ID {
        !guard::is_refused_without_token(&function.name, function.is_volatile)
            && (in_statement || function.name != "set_config")
    } else if is_ours(oid) {
        true
    } else {
        is_trusted(function.owner) && (function.is_definer || in_statement && !function.is_unrestricted())
    };
    if allowed { Ok(()) } else { Err(refusal(Error::TokenRequired(format!("function \"{}\"", function.name)))) }
}

/// Types bring functions along that are called behind every check: casts to json, say, which functions of JSON look up
/// by themselves. Besides PostgreSQL's, which were not noted, only types of superusers and of trusted definers.
pub fn check_type(oid: u32) -> Result<(), Error> {
    match catalog::type_name_and_owner(oid) {
        Some((name, owner)) if !is_trusted(owner) => {
            Err(refusal(Error::TokenRequired(format!("type \"{name}\""))))
        }
        _ => Ok(()),
    }
}

/// While the system account runs a statement, or one is analysed for it, and while the planner looks at a query for a dry
/// run: nothing else may run with its rights, or the user's.
pub fn check_function_of_system(oid: u32) -> Result<(), Report> {
    let is_analysis = gate::is_analysis();
    if oid < guard::FIRST_NORMAL_OBJECT_ID && !is_analysis {
        return Ok(());
    }
    let Some(function) = catalog::function(oid) else { return Ok(()) };
    let is_trusted = oid < guard::FIRST_NORMAL_OBJECT_ID || roles::is_superuser(function.owner) || is_ours(oid);
    if is_trusted && (function.is_immutable || !is_analysis) {
        return Ok(());
    }
    let schema = catalog::schema_name(function.schema).unwrap_or_default();
    if !gate::is_restricted() {
        return Err(refused_in_dry_run(format!("function \"{schema}.{}\"", function.name)));
    }
    Err(Report {
        sqlstate: PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        message: format!("function \"{schema}.{}\" must not run for the system account", function.name),
        detail: "",
        hint: "Constraints of domains run when values of them are read. Leave out such types, or let a superuser own the \
               function and declare it IMMUTABLE.",
    })
}

/// Range types bring a function along that the planner calls on values from statistics, and that PostgreSQL may have
/// looked up before, so that nothing is asked about it any more.
pub fn check_type_of_dry_run(oid: u32) -> Result<(), Report> {
    let difference = catalog::subtype_difference(oid).and_then(catalog::function);
    match (difference, catalog::type_name_and_owner(oid)) {
        (Some(function), Some((name, _))) if !roles::is_superuser(function.owner) => {
            Err(refused_in_dry_run(format!("type \"{name}\", of which function \"{}\"", function.name)))
        }
        _ => Ok(()),
    }
}

/// Not 42501, which would say that the user may not do it.
fn refused_in_dry_run(what: String) -> Report {
    Report {
        sqlstate: PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
        message: format!("{what} could run while the query is planned: it cannot be tested"),
        detail: "",
        hint: "A dry run calls only functions that a superuser owns. Let one own it, or test the query without it.",
    }
}

pub fn refuse_statement_of_system() -> Result<(), Report> {
    Err(Report {
        sqlstate: PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
        message: "no statement must run while an expression is analysed".into(),
        detail: "",
        hint: "Leave out types and casts with functions that run statements.",
    })
}

fn is_ours(function: u32) -> bool {
    catalog::presence().is_some_and(|installed| catalog::is_ours(function, installed.extension))
}

/// A statement of the client begins: what it sets will be undone.
pub fn undoing_settings(depth: u32) -> Before {
    Before { settings_level: if depth == 0 { guc::new_level() } else { 0 }, ..Before::default() }
}
