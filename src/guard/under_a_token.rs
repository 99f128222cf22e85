//! What a user may not do under a token, and the executor itself does not stop.

use crate::core::guard;
use crate::error::Error;
use crate::guard::without_a_token;
use crate::pg::catalog;
use crate::pg::hook::handled::Handled;
use crate::pg::hook::nodes::Permissions;
use crate::rights::{login, mapping};

/// What the executor itself does not stop.
pub fn check_function(oid: u32) -> Result<(), Error> {
    let refused = if oid < guard::FIRST_NORMAL_OBJECT_ID {
        guard::function_refused_while_impersonating(oid)
    } else {
        catalog::c_symbol(oid).and_then(|symbol| guard::code_refused_while_impersonating(&symbol))
    };
    match refused {
        Some(what) => Err(Error::WhileImpersonating(what.into())),
        None => Ok(()),
    }
}

/// The extension's own tables decide who is who: nobody reads or writes them under a token on their own rights, however
/// far those go (`pg_write_all_data`, say), or through a view of somebody who is not trusted.
pub fn check_relations(permissions: &Permissions) -> Result<(), Error> {
    let Some(installed) = catalog::presence() else { return Ok(()) };
    let may = |checked_as| {
        if checked_as == 0 { without_a_token::has_authority() } else { without_a_token::is_trusted(checked_as) }
    };
    if permissions.checked_as(|relation| installed.owns(relation)).into_iter().all(may) {
        Ok(())
    } else {
        Err(closed())
    }
}

/// What roles of the extension own would run with rights that its user had once, and DROP OWNED in their name would take off
/// everybody's row policies and grants. PostgreSQL leaves that to members.
pub fn check_owners(handled: &Handled) -> Result<(), Error> {
    let owners = handled.owners();
    if owners.is_empty() || without_a_token::has_authority() {
        return Ok(());
    }
    let installed = login::installed()?;
    if owners.into_iter().any(|role| mapping::is_shared(&installed, role)) {
        Err(Error::WhileImpersonating("nobody acts in the name of roles of immuta_ext".into()))
    } else {
        Ok(())
    }
}

/// Locking, emptying or rebuilding them is no better.
pub fn check_handled(handled: &Handled) -> Result<(), Error> {
    let handled = handled.collect();
    if handled.is_empty() || without_a_token::has_authority() {
        return Ok(());
    }
    let Some(installed) = catalog::presence() else { return Ok(()) };
    if handled.into_iter().any(|relation| installed.owns(relation)) { Err(closed()) } else { Ok(()) }
}

fn closed() -> Error {
    Error::WhileImpersonating("the tables of immuta_ext are closed".into())
}
