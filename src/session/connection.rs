//! The user in whose name the connection was made.

use crate::core::session::presented::Presented;
use crate::core::token::Secret;
use crate::pg::gate;
use crate::session::state;
use std::rc::Rc;

/// Number of the connection's own user among what may wait to be presented.
const OF_CONNECTION: u32 = 31;

/// Notes the user in whose name the connection was made: they come back whenever another one goes.
pub fn remember_connection(presented: &Presented, token: Option<Rc<Secret>>) {
    state::with(|state| state.connection.user = Some((presented.clone(), token)));
}

/// The user of the connection, if they are to come back now.
pub fn of_connection() -> Option<(Presented, Option<Rc<Secret>>)> {
    gate::is_presented(OF_CONNECTION).then(|| state::with(|state| state.connection.user.clone())).flatten()
}

/// Another one has gone: the user of the connection waits again, if there is one.
pub fn come_back() {
    gate::set_presented(OF_CONNECTION, state::with(|state| state.connection.user.is_some()));
}

pub fn settle() {
    gate::set_presented(OF_CONNECTION, false);
}
