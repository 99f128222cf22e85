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
    is_holder(Kind::Name, user)
}

fn is_holder(kind: Kind, user: u32) -> bool {
    let holders = catalog::holders(kind);
    holders != 0 && roles::can_act_as(user, holders) && catalog::is_here()
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
    let may = is_holder(Kind::Token, user);
    PRESENTER.set((generation, user, may));
    may
}

thread_local! {
    /// What [`may_present`] found, of whom, in which generation of changes.
    static PRESENTER: Cell<(u64, u32, bool)> = const { Cell::new((0, 0, false)) };
}

/// What is installed, if the library can work with it.
pub fn installed() -> Result<Installation, Error> {
    catalog::installation().ok_or_else(|| catalog::fault().map_or(Error::NoExtension, Error::Incomplete))
}
