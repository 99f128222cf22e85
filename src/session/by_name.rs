//! Users who are presented by name, by a login that may do that.

use crate::core::guard::{How, Statement};
use crate::core::identity::{self, Identity};
use crate::core::session::presented::Kind;
use crate::error::Error;
use crate::pg::guc::names;
use crate::pg::{catalog, gate};
use crate::session::state;
use crate::settings::{self, SingleUser};
use std::borrow::Cow;
use std::rc::Rc;

/// The procedure that other platforms end and begin an impersonation with.
const PROCEDURE: &str = "impersonate_user";

/// Tells a CALL of our procedure from others.
pub fn recognize(statement: &Statement) -> Cow<'_, Statement> {
    match statement {
        Statement::Call(procedure) if is_our_procedure(*procedure) => {
            Cow::Owned(Statement::Impersonate(Kind::Name, How::Call))
        }
        Statement::Call(_) => Cow::Owned(Statement::CallOther),
        other => Cow::Borrowed(other),
    }
}

fn is_our_procedure(procedure: u32) -> bool {
    catalog::presence().is_some_and(|installed| {
        catalog::function(procedure).is_some_and(|function| function.name == PROCEDURE)
            && catalog::is_ours(procedure, installed.extension)
    })
}

/// The user that a presented name stands for.
pub fn identity(presented: &names::PresentedName) -> Result<Identity, Error> {
    let (iamid, template) = (settings::impersonation_iamid(), settings::impersonation_userid_template());
    identity::of_template(&presented.name, &iamid, &template).ok_or(Error::NameInvalid)
}

/// Where a session is for one user only, it is that of the first. A name is no secret: unless that was switched off, it
/// is accepted only in a session that has impersonated nobody else, by whatever means.
pub fn check_single_user(kind: Kind, identity: &Rc<Identity>) -> Result<(), Error> {
    let is_single = match settings::single_impersonation_user() {
        SingleUser::Off => false,
        SingleUser::Names => kind == Kind::Name,
        SingleUser::On => true,
    };
    state::with(|state| {
        let seen = &mut state.session.seen;
        if is_single && !seen.allows(identity) {
            return Err(Error::AnotherUser);
        }
        seen.note(Rc::clone(identity));
        Ok(())
    })
}

/// From now on there may be a user in this session who sends what they like: without an impersonation it gets no
/// further than one that has to present tokens.
pub fn guard_from_now_on() {
    if !gate::has_named() {
        gate::set_has_named();
    }
}
