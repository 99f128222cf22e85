//! Changes of who has access to what, on record when they are committed, whoever makes them.

use crate::audit::{STATE, is_on, sinks, wall_time};
use crate::core::audit::What;
use crate::core::audit::changes::AccessChange;
use crate::error::Error;
use crate::pg::gate;
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::running;

/// Somebody's access is being changed. It is on record when that is committed.
pub fn access_changes(change: AccessChange) -> Result<(), Error> {
    if !is_on() {
        return Ok(());
    }
    gate::set_changing(true);
    STATE.with_borrow_mut(|state| match state.changes.add(running::nest_level(), change) {
        None => Ok(()),
        Some(change) => state.write(wall_time(), What::Changed(&change)),
    })
}

/// Before a commit, while errors are still possible.
pub fn access_changed() -> Result<(), Error> {
    if is_on() {
        sinks::check()?;
        STATE.with_borrow_mut(|state| {
            let now = wall_time();
            state.changes.take().try_for_each(|change| state.write(now, What::Changed(&change)))
        })?;
    }
    inject::point(Point::ChangesRecorded);
    Ok(())
}

/// A subtransaction of this level ended.
pub fn subtransaction_changed(level: i32, has_committed: bool) {
    STATE.with(|state| {
        if let Ok(mut state) = state.try_borrow_mut() {
            if has_committed { state.changes.commit(level) } else { state.changes.abort(level) }
        }
    });
}

/// The transaction is over. Must not fail.
pub fn forget_changes() {
    STATE.with(|state| {
        if let Ok(mut state) = state.try_borrow_mut() {
            state.changes.clear();
        }
    });
    gate::set_changing(false);
}
