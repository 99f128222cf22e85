//! A session that may present tokens and has not: it has no authority of its own.

use crate::config;
use crate::core::guard;
use crate::error::Error;
use crate::pg::chain::Before;
use crate::pg::nodes::Permissions;
use crate::pg::{catalog, chain, guc, role};

/// Whether what runs now runs on somebody else's authority: inside a SECURITY DEFINER function whose owner is a
/// superuser or listed in `bodata.trusted_definers`.
pub fn has_authority() -> bool {
    let (user, is_definer) = role::current_user();
    is_definer && is_trusted(user)
}

fn is_trusted(owner: u32) -> bool {
    role::is_superuser(owner) || {
        let trusted = config::trusted_definers();
        !trusted.is_empty() && role::name(owner).is_some_and(|name| trusted.contains(&name))
    }
}

/// Only the catalogs can be read, and of those nothing that shows values of user tables.
pub fn check_relations(permissions: &Permissions) -> Result<(), Error> {
    for entry in permissions.required() {
        let Some((schema, name)) = catalog::relation(entry.relation) else { continue };
        if !catalog::is_system_schema(schema) || guard::shows_user_data(&name) {
            return Err(Error::TokenRequired(format!("access to \"{name}\"")));
        }
    }
    Ok(())
}

/// Functions may be called as far as everything they do passes the executor again.
pub fn check_function(oid: u32) -> Result<(), Error> {
    let Some(function) = catalog::function(oid) else { return Ok(()) };
    let allowed = if catalog::is_system_schema(function.schema) {
        !guard::is_refused_without_token(&function.name)
            // What set_config() sets is undone with the statement; outside one, it would stay.
            && (function.name != "set_config" || chain::undoes_settings())
    } else if function.is_definer {
        is_trusted(function.owner) || is_ours(oid)
    } else {
        !function.is_unrestricted || is_ours(oid)
    };
    if allowed { Ok(()) } else { Err(Error::TokenRequired(format!("function \"{}\"", function.name))) }
}

fn is_ours(function: u32) -> bool {
    catalog::installation().is_some_and(|installed| catalog::is_ours(function, installed.extension))
}

/// A statement of the client begins: what it sets will be undone.
pub fn undoing_settings(depth: u32) -> Before {
    Before { as_nested: false, settings_level: if depth == 0 { guc::new_level() } else { 0 } }
}
