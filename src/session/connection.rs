//! The user in whose name the connection was made.

use crate::core::identity::Identity;
use crate::core::session::presented::{Credential, Presented};
use crate::core::token::{Digest, Secret};
use crate::error::Error;
use crate::pg::gate;
use crate::provider::{jwt, lookup};
use crate::session::state;
use std::rc::Rc;

/// Number of the connection's own user among what may wait to be presented.
const OF_CONNECTION: u32 = 31;

/// Notes the user in whose name the connection was made: they come back whenever another one goes.
pub fn remember_connection(presented: &Presented, token: Option<Rc<Secret>>) {
    if let (true, Credential::Token(digest)) = (is_login(), &presented.credential) {
        jwt::opens_session(*digest);
    }
    state::with(|state| {
        let former = state.connection.user.replace((presented.clone(), token));
        state.connection.former.get_or_insert(former);
    });
}

/// The transaction is over: if it aborted, a token that took the place of another gives it back. What is known of the one
/// that is gone is forgotten, since it held for the session's own token. Must not fail.
pub fn end_transaction(has_committed: bool) {
    let ended = state::try_with(|state| {
        let connection = &mut state.connection;
        let mut gone = connection.former.take()?;
        if !has_committed {
            std::mem::swap(&mut connection.user, &mut gone);
        }
        let (kept, gone) = (token_of(&connection.user)?, token_of(&gone)?);
        (connection.is_login && kept != gone).then_some((kept, gone))
    });
    if let Some((kept, gone)) = ended.flatten() {
        jwt::opens_session(kept);
        lookup::forget(&gone);
    }
}

fn token_of(user: &Option<(Presented, Option<Rc<Secret>>)>) -> Option<Digest> {
    match &user.as_ref()?.0.credential {
        Credential::Token(digest) => Some(*digest),
        Credential::Name(_) => None,
    }
}

/// Notes the token with which somebody logs in. Who they are cannot be looked up yet: it is presented when the connection
/// is made.
pub fn remember_login(token: Secret) {
    let digest = Digest::of(token.reveal().as_bytes());
    jwt::opens_session(digest);
    let presented = Presented {
        credential: Credential::Token(digest),
        is_well_formed: true,
        is_local: false,
        is_of_connection: true,
    };
    state::with(|state| {
        state.connection.user = Some((presented, Some(Rc::new(token))));
        state.connection.is_login = true;
    });
    come_back();
}

/// Whether the connection was made with a token, and not with the secret of a service login.
pub fn is_login() -> bool {
    state::with(|state| state.connection.is_login)
}

/// Such a connection stays its user's: only they can present another token, a fresh one.
pub fn check_login(user: &Rc<Identity>) -> Result<(), Error> {
    state::with(|state| {
        let connection = &mut state.connection;
        if !connection.is_login || connection.login_user.get_or_insert_with(|| Rc::clone(user)) == user {
            Ok(())
        } else {
            Err(Error::AnotherUser)
        }
    })
}

/// The user of the connection, if they are to come back now.
pub fn of_connection() -> Option<(Presented, Option<Rc<Secret>>)> {
    gate::is_presented(OF_CONNECTION).then(|| state::with(|state| state.connection.user.clone())).flatten()
}

/// Another one has gone: the user of the connection waits again, if there is one.
pub fn come_back() {
    gate::set_presented(OF_CONNECTION, state::with(|state| state.connection.user.is_some()));
}

pub fn stop_waiting() {
    gate::set_presented(OF_CONNECTION, false);
}
