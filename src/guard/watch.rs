//! Which sessions are held.

use crate::pg::catalog::roles;
use crate::pg::{gate, switch};
use crate::rights::login;

/// Whether this session must present a token before it may do anything: its user is no superuser, may present tokens
/// (or has impersonated by name), and no exception was made for it. Remembered until roles, memberships or our tables
/// change.
pub fn is_guarded() -> bool {
    if !gate::is_current() {
        // The generation is read first: an invalidation that arrives during the look-ups makes the answer stale.
        let generation = gate::generation();
        let user = switch::session_user();
        let holder = (gate::has_named() || login::may_present(user)) && !roles::is_superuser(user);
        gate::remember(generation, user, !holder);
    }
    !gate::is_ordinary() && crate::settings::require_token()
}

/// Whether the log gets none of the literals of what this session sends: without a token that can be a secret, and
/// hardly anything else. Looks nothing up, as it is asked in the middle of errors: that is done at the end of the
/// transaction in which PostgreSQL makes the session.
pub fn holds_back() -> bool {
    gate::may_be_holder() && !gate::is_impersonating()
}
