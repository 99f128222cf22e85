//! Which sessions are held.

use crate::pg::catalog::roles;
use crate::pg::{gate, switch};
use crate::rights::login;
use crate::settings;

/// Whether this session must present a token before it may do anything: its user is no superuser, may present tokens
/// (or has impersonated by name, or counts as one who has), and no exception was made for it. Remembered until roles,
/// memberships, our tables or `bodata.shared_connections` change.
pub fn is_guarded() -> bool {
    if !gate::is_current() {
        // The generation is read first: an invalidation that arrives during the look-ups makes the answer stale.
        let generation = gate::generation();
        let user = switch::session_user();
        let has_named = || gate::has_named() || settings::shared_connections() && login::may_name(user);
        let holder = (login::may_present(user) || has_named()) && !roles::is_superuser(user);
        gate::remember(generation, user, !holder);
    }
    !gate::is_ordinary() && settings::require_token()
}

/// Whether the log gets none of the literals of what this session sends: without a token that can be a secret, and
/// hardly anything else. Looks nothing up, as it is asked in the middle of errors: that is done at the end of the
/// transaction in which PostgreSQL makes the session.
pub fn holds_back() -> bool {
    gate::may_be_holder() && !gate::is_impersonating()
}
