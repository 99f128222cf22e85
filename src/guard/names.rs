//! USAGE of schemas whose names were looked up in another user's time.

use crate::core::session::names::{LookUp, LookedUp};
use crate::pg::hook::nodes::Query;
use crate::pg::sys::inject::{self, Point};
use crate::pg::{catalog, gate};
use std::cell::RefCell;

thread_local! {
    static NAMES: RefCell<LookedUp> = RefCell::default();
}

/// PostgreSQL checks USAGE of a schema when it looks names up, which for a cached plan was in another user's time.
pub fn require_usage(query: &Query) {
    let Some(look_up) = query.look_up() else { return };
    if NAMES.with_borrow(|names| names.knows(&look_up, gate::generation())) {
        return;
    }
    for entry in query.permissions.required().iter().filter(|entry| entry.checked_as == 0) {
        catalog::require_usage(catalog::schema_of_relation(entry.relation), look_up.role);
    }
}

/// After the names of a statement were looked up.
pub fn looked_up(look_up: &LookUp) {
    NAMES.with_borrow_mut(|names| names.remember(look_up, gate::generation()));
    inject::point(Point::NamesRemembered);
}
