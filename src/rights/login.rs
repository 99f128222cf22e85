//! Which logins may present whom.

use crate::core::session::presented::Kind;
use crate::error::Error;
use crate::pg::catalog::{self, Installation, roles};
use crate::pg::gate;
use crate::rights::login;
use std::cell::Cell;

/// Whether this login may present users so.
pub fn holds(kind: Kind, login: u32) -> bool {
    match kind {
        Kind::Token => may_present(login),
        Kind::Name => login::may_name(login),
    }
}

pub fn not_holder(kind: Kind) -> Error {
    match kind {
        Kind::Token => Error::NotHolder,
        Kind::Name => Error::NotNameHolder,
    }
}

/// Whether this user holds `immuta_impersonation` (superusers do), in a database with the extension.
pub fn may_name(user: u32) -> bool {
    catalog::presence().is_some_and(|installed| {
        let [_, holders, _] = installed.control_roles;
        holders != 0 && roles::can_act_as(user, holders)
    })
}

/// Whether this user is a holder of `bodata_impersonate_user` (superusers are), in a database with the extension. Remembered
/// until roles, memberships or our tables change.
pub fn may_present(user: u32) -> bool {
    // Read first: an invalidation that arrives during the look-ups makes the answer stale.
    let generation = gate::generation();
    let (seen, of, may) = PRESENTER.get();
    if (seen, of) == (generation, user) {
        return may;
    }
    let may = catalog::presence().is_some_and(|installed| {
        let [holders, ..] = installed.control_roles;
        holders != 0 && roles::can_act_as(user, holders)
    });
    PRESENTER.set((generation, user, may));
    may
}

thread_local! {
    /// What [`may_present`] found, of whom, in which generation of changes.
    static PRESENTER: Cell<(u64, u32, bool)> = const { Cell::new((0, 0, false)) };
}

/// What is installed, if the library can work with it.
pub fn installed() -> Result<Installation, Error> {
    catalog::installation().ok_or_else(|| match catalog::presence().and_then(|present| present.fault) {
        Some(fault) => Error::Incomplete(fault),
        None => Error::NoExtension,
    })
}
