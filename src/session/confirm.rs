//! Making sure of the impersonation at each statement.

use crate::core::session::Due;
use crate::core::time::{is_in_force, recording_interval};
use crate::error::Error;
use crate::pg::switch;
use crate::pg::sys::{clock, running};
use crate::provider::lookup;
use crate::session::{lasting, state};
use crate::{provider, settings};

pub const OPENED_BEFORE: &str = "this statement or cursor was opened before the token was set";

/// At each statement: the impersonation is still what it was, and its token still alive; the statement counts as use.
pub fn confirm() -> Result<(), Error> {
    let now = clock::statement_time();
    let due = state::with(|state| {
        let active = state.impersonations.active.as_mut().ok_or(Error::Inconsistent)?;
        if !switch::is_in_effect(active.role, active.impersonator) {
            return Err(Error::Inconsistent);
        }
        if running::portal_dates_from(active.established) {
            return Err(Error::WhileImpersonating(OPENED_BEFORE.into()));
        }
        let idle_ttl = settings::idle_ttl_of(active.provider);
        if !is_in_force(active.last_used, active.expires, now, idle_ttl) {
            return Err(lasting::expired(active.kind));
        }
        active.used = true;
        active.last_used = now;
        Ok(active.due(now, recording_interval(idle_ttl), settings::limits().revalidate))
    })?;
    // Outside the borrow: recording reads a table.
    match due {
        Due::Nothing => {}
        Due::Record { digest, token_id, recorded } => {
            let recorded = lookup::record(&digest, token_id, recorded, now);
            state::with(|state| {
                if let Some(active) = state.impersonations.active.as_mut() {
                    active.recorded = recorded;
                }
            });
        }
        Due::Show { provider, token } => provider::keep_alive(provider, &token),
    }
    Ok(())
}
