//! The one owner of what a session remembers of whom it impersonates, grouped by how long it counts.

use crate::core::guard::Otherwise;
use crate::core::identity::Identity;
use crate::core::session::phase::{Event, Phase};
use crate::core::session::presented::{Presented, Seen};
use crate::core::session::{Impersonation, Impersonations};
use crate::core::token::Secret;
use crate::error::Error;
use crate::pg::gate;
use std::cell::RefCell;
use std::ffi::CString;
use std::rc::Rc;

#[derive(Default)]
pub struct State {
    /// Changes by [`enter`] only.
    phase: Phase,
    /// Of the transaction and, where the session's impersonation goes on, the next one. Reset by
    /// `hooks::transaction::end()` and the callbacks of subtransactions.
    pub impersonations: Impersonations,
    pub statement: OfStatement,
    pub transaction: OfTransaction,
    pub session: OfSession,
    pub connection: OfConnection,
}

/// Reset when the next statement of the client's starts.
#[derive(Default)]
pub struct OfStatement {
    /// The query that started last, if it evaluates everything once at most, and how many functions of it may set
    /// something.
    pub lone: Option<(usize, u32)>,
    pub encryption: Encryption,
    /// A SET that is about to run and may change nothing.
    pub trial: Option<Trial>,
}

/// How far a query of the client's has come that reads how connections are encrypted (see
/// `guard::without_a_token::reads_encryption_only`): only as it starts, right after it was planned, may it call the
/// function for that, once.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Encryption {
    #[default]
    NotRead,
    Planned,
    Starting,
}

/// A SET that is about to run and may change nothing.
pub struct Trial {
    pub name: CString,
    pub value: Option<CString>,
    pub otherwise: Otherwise,
}

/// Reset by `hooks::transaction::end()`, unless the session's impersonation goes on.
#[derive(Default)]
pub struct OfTransaction {
    /// Whether something ran that may have set something: also have seeded `random()`, which no undoing of settings takes
    /// back.
    pub has_set: bool,
    /// Whether that was a function that is not built in: it may have run while a query was planned or started.
    pub has_called: bool,
    /// Whether `application_name` names the user.
    pub is_labelled: bool,
}

/// Never reset: it only restricts.
#[derive(Default)]
pub struct OfSession {
    /// Whom this session has impersonated so far.
    pub seen: Seen<Rc<Identity>>,
}

/// Never reset.
#[derive(Default)]
pub struct OfConnection {
    /// The user in whose name the connection was made.
    pub user: Option<(Presented, Option<Rc<Secret>>)>,
    /// What that was when the transaction began, if it was noted anew since.
    pub former: Option<Option<(Presented, Option<Rc<Secret>>)>>,
    /// Whether their token is that of the login itself, and who they are: nobody else can have such a connection.
    pub is_login: bool,
    pub login_user: Option<Rc<Identity>>,
}

thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

#[cfg(feature = "inject")]
pub fn state() -> String {
    with(|state| {
        let statement = (state.statement.encryption == Encryption::NotRead, state.statement.trial.is_none());
        let transaction = (state.transaction.has_set, state.transaction.is_labelled);
        let connection = (state.connection.user.is_none(), state.connection.former.is_none());
        format!(
            "session {:?} {} {statement:?} {transaction:?} {connection:?}",
            state.phase,
            state.impersonations.state()
        )
    })
}

/// Looks at the state, or changes it. What is passed must not ask for it again.
pub fn with<T>(act: impl FnOnce(&mut State) -> T) -> T {
    STATE.with_borrow_mut(act)
}

/// The same where an error must not be: `None` if an error broke off a look at the state.
pub fn try_with<T>(act: impl FnOnce(&mut State) -> T) -> Option<T> {
    STATE.with(|state| state.try_borrow_mut().ok().map(|mut state| act(&mut state)))
}

/// Moves on to what follows an event, and tells the gate.
pub fn enter(event: Event) -> Result<(), Error> {
    let next = try_with(|state| {
        state.phase = state.phase.after(event)?;
        Some(state.phase)
    });
    gate::publish(next.flatten().ok_or(Error::Inconsistent)?);
    Ok(())
}

/// The impersonation in force, if any.
pub fn active() -> Option<Impersonation> {
    with(|state| state.impersonations.active.clone())
}
