//! Users who are presented by name, by a login that may do that.

use super::{NAMED, SEEN_USERS};
use crate::config::{self, SingleUser};
use crate::core::cache::Entry;
use crate::core::guard::{How, Statement};
use crate::core::identity::{Authority, Identity, Provider, Resolution, Subject};
use crate::core::presented::{self, Kind};
use crate::core::time::Timestamp;
use crate::error::Error;
use crate::pg::{catalog, gate, name_guc, role};
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
pub fn identity(presented: &name_guc::Presented) -> Result<Identity, Error> {
    let (iamid, template) = (config::impersonation_iamid(), config::impersonation_userid_template());
    presented::identity(&presented.name, &iamid, &template).ok_or(Error::NameInvalid)
}

/// Whether this user holds `immuta_impersonation` (superusers do), in a database with the extension.
pub fn may_name(user: u32) -> bool {
    catalog::presence().is_some_and(|installed| {
        let [_, holders, _] = installed.control_roles;
        holders != 0 && role::can_act_as(user, holders)
    })
}

/// What a name says, in the form of what a provider answers.
pub fn entry(identity: &Identity, now: Timestamp) -> Entry {
    let subject = Subject {
        authority: Authority::Iam(identity.iamid.clone()),
        userid: identity.userid.clone(),
        role_name: None,
    };
    let answer =
        Resolution { provider: Provider::Name, subject, last_used: now, expires: None, token_id: 0, claims: None };
    Entry::of(answer, now)
}

/// Where a session is for one user only, it is that of the first. A name is no secret: unless that was switched off, it
/// is accepted only in a session that has impersonated nobody else, by whatever means.
pub fn check_single_user(kind: Kind, identity: &Rc<Identity>) -> Result<(), Error> {
    let is_single = match config::single_impersonation_user() {
        SingleUser::Off => false,
        SingleUser::Names => kind == Kind::Name,
        SingleUser::On => true,
    };
    SEEN_USERS.with_borrow_mut(|seen| {
        if is_single && !seen.allows(identity) {
            return Err(Error::AnotherUser);
        }
        seen.note(Rc::clone(identity));
        Ok(())
    })
}

/// From now on there may be a user in this session who sends what he likes: without an impersonation it gets no
/// further than one that has to present tokens.
pub fn guard_from_now_on() {
    if !NAMED.replace(true) {
        gate::forget_user();
    }
}
