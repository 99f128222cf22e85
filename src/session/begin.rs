//! Beginning an impersonation, and making sure of it at each statement.

use crate::core::identity::{Identity, Provider};
use crate::core::provider::cache::Resolved;
use crate::core::session::phase::Event;
use crate::core::session::presented::{Credential, Kind, Presented};
use crate::core::session::{Impersonation, Savepoint, Scope};
use crate::core::template;
use crate::error::Error;
use crate::guard::watch::is_guarded;
use crate::pg::catalog::{self, roles};
use crate::pg::guc::{self, Lasting, Which, names};
use crate::pg::hook::cursor;
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::{client, clock, running};
use crate::pg::{gate, switch};
use crate::provider::lookup;
use crate::rights::login;
use crate::session::state::{self, active};
use crate::session::{by_name, connection, lasting};
use crate::{audit, settings};
use std::ffi::CString;
use std::rc::Rc;

/// Who waits to be impersonated, if anybody does.
pub fn presented() -> Result<Option<Presented>, Error> {
    let (token, mut names) = (guc::presented(), names::presented());
    if usize::from(token.is_some()) + names.len() > 1 {
        return Err(Error::Together);
    }
    if let Some(token) = token {
        return Ok(Some(Presented {
            credential: Credential::Token(token.digest),
            is_well_formed: token.is_well_formed,
            is_local: token.is_local,
            is_of_connection: token.is_of_connection,
        }));
    }
    if let Some(name) = names.pop() {
        return Ok(Some(Presented {
            credential: Credential::Name(by_name::identity(&name)?),
            is_well_formed: true,
            is_local: name.is_local,
            is_of_connection: name.is_of_connection,
        }));
    }
    Ok(connection::of_connection().map(|(presented, _)| presented))
}

/// Nobody waits any longer.
pub fn settle() {
    guc::settle_token();
    names::settle_names();
    connection::stop_waiting();
}

/// The statement that presented a user is complete: from the next statement on, the session runs as that user.
pub fn establish(presented: &Presented) -> Result<(), Error> {
    // What was revoked since the transaction began is revoked.
    catalog::take_in_changes();
    let installed = login::installed()?;
    let impersonator = switch::session_user();
    let kind = presented.credential.kind();
    let savepoint = check(presented, impersonator)?;
    let now = clock::statement_time();
    let digest = presented.credential.digest();
    let kept = connection::of_connection().and_then(|(_, text)| text);
    let text = guc::take_text(&digest).map(Rc::new).or(kept);
    let user = lookup::resolved(&installed, &presented.credential, text.as_deref(), impersonator, now)?;
    inject::point(Point::Resolved);
    connection::check_login(&user.identity)?;
    by_name::check_single_user(kind, &user.identity)?;
    inject::point(Point::SingleUserSeen);
    settle();
    inject::point(Point::Settled);
    if presented.is_of_connection || connection::is_login() {
        connection::remember_connection(
            &Presented { is_local: false, is_of_connection: true, ..presented.clone() },
            text.clone(),
        );
        // Whatever was set meanwhile, to end the impersonation of another, say.
        names::reset();
    }
    client::forget_credentials();
    let scope = switch_to(&user, presented.is_local, savepoint)?;
    inject::point(Point::Switched);
    let mut begun = Impersonation::new(kind, scope, digest, &user, now);
    match user.answer.provider {
        Provider::Name => {}
        Provider::Local => {
            begun.recorded = lookup::record(&begun.digest, begun.token_id, begun.recorded, now);
            inject::point(Point::UseRecorded);
        }
        Provider::Immuta | Provider::Introspection | Provider::Jwt => {
            begun.shown = text.map(|text| (text, user.answer.validated))
        }
    }
    let started = audit::started(&begun);
    inject::point(Point::Started);
    state::with(|state| state.impersonations.active = Some(begun));
    inject::point(Point::SessionKnows);
    state::enter(Event::Switched { for_session: !presented.is_local })?;
    inject::point(Point::Guarded);
    if kind == Kind::Name && !roles::is_superuser(impersonator) {
        by_name::guard_from_now_on();
    }
    started
}

/// What can be said of an impersonation before anybody asks who it is; the savepoint in which it is to begin.
fn check(presented: &Presented, impersonator: u32) -> Result<Option<(i32, Savepoint)>, Error> {
    let kind = presented.credential.kind();
    if !login::holds(kind, impersonator) {
        return Err(login::not_holder(kind));
    }
    if !presented.is_local && !settings::allow_session_impersonation() && !connection::is_login() {
        return Err(Error::NotLocal);
    }
    let savepoint = savepoint(presented)?;
    if !presented.is_of_connection && !running::runs_a_statement() {
        return Err(Error::OutOfStatement);
    }
    if gate::is_impersonating() {
        return Err(Error::Inconsistent);
    }
    if cursor::is_any_held() {
        return Err(Error::CursorHeld);
    }
    if !presented.is_well_formed {
        return Err(Error::TokenInvalid);
    }
    Ok(savepoint)
}

/// The savepoint in which a user is presented, if it is one. When that is rolled back, nobody is impersonated any more: so
/// only those sessions may do it that can do nothing then, and could do nothing before.
fn savepoint(presented: &Presented) -> Result<Option<(i32, Savepoint)>, Error> {
    let level = running::nest_level();
    if level == 1 {
        return Ok(None);
    }
    let settings_level =
        state::with(|state| state.impersonations.settings_level()).ok_or(Error::InSubtransaction)?;
    if !presented.is_local || presented.credential.kind() != Kind::Token || !is_guarded() {
        return Err(Error::InSubtransaction);
    }
    let settings = guc::set_for_session_since(settings_level, &settings::session_settings());
    Ok(Some((settings_level, Savepoint { level, settings: Rc::new(settings) })))
}

/// After a RESET: what the administrator wants for this user is in force again, as it would be for a login of that role.
/// PostgreSQL's RESET ALL does not ask who may change a setting.
pub fn impose_again() {
    let Some(active) = active() else { return };
    let lasting = if gate::is_lasting() { Lasting::ForSession } else { Lasting::Locally };
    if settings::apply_role_settings() {
        guc::apply_settings_of(active.role, lasting, Which::Reset);
    }
    if state::with(|state| state.transaction.is_labelled) && guc::is_unlabelled() {
        label(&active.identity, active.role, lasting);
    }
}

/// Names the user in `application_name`, where the administrator wants that: for all that logs it.
fn label(identity: &Identity, role: u32, lasting: Lasting) {
    let Some(template) = settings::application_name_template() else { return };
    let role = roles::name(role).unwrap_or_default();
    let known = [
        ("{application_name}", &*client::application_name()),
        ("{userid}", &identity.userid),
        ("{iamid}", &identity.iamid),
        ("{role}", &role),
    ];
    if let Ok(name) = CString::new(template::fill(&template, &known)) {
        guc::label_application(&name, lasting);
        state::with(|state| state.transaction.is_labelled = true);
        inject::point(Point::Labelled);
    }
}

/// The switch itself, for the transaction or for the session.
fn switch_to(user: &Resolved, is_local: bool, savepoint: Option<(i32, Savepoint)>) -> Result<Scope, Error> {
    let before = (!is_local).then(lasting::before);
    let lasting = if is_local { Lasting::Locally } else { Lasting::ForSession };
    // For a token and one transaction it would cost more than all of the rest that is ours.
    if user.answer.provider == Provider::Name || !is_local {
        names::show(&user.identity.userid, lasting);
        inject::point(Point::NameShown);
    }
    if !switch::switch_to(user.role, &user.role_name.in_server_encoding, lasting) {
        return Err(Error::Inconsistent);
    }
    // As the user: some values are checked against what they may do.
    if settings::apply_role_settings() {
        guc::apply_settings_of(user.role, lasting, Which::All);
        // One of them may be the seed of random().
        state::with(|state| state.transaction.has_set = true);
        inject::point(Point::SettingsApplied);
    }
    label(&user.identity, user.role, lasting);
    Ok(match (before, savepoint) {
        (Some(before), _) => Scope::Session { before: Rc::new(before) },
        // What is set from here on is undone before commit. Not the role: that cannot change while it is locked.
        (None, None) => Scope::Transaction { settings_level: guc::new_level(), savepoint: None },
        // What was set in savepoints is undone altogether.
        (None, Some((settings_level, savepoint))) => {
            Scope::Transaction { settings_level, savepoint: Some(savepoint) }
        }
    })
}
