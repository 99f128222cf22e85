//! The state of one session: whom it impersonates in the current transaction.

pub mod names;
pub mod nesting;
pub mod phase;
pub mod presented;
pub mod saved;

use crate::core::identity::{Identity, Provider, RoleName};
use crate::core::provider::cache::Resolved;
use crate::core::provider::jwt::claims::Claims;
use crate::core::session::nesting::{Mark, Marks};
use crate::core::session::presented::Kind;
use crate::core::session::saved::{Kept, Saved};
use crate::core::time::Timestamp;
use crate::core::token::{Digest, Secret};
use std::ffi::CString;
use std::rc::Rc;
use std::time::Duration;

/// What a session goes back to when it impersonates no longer.
pub struct Before {
    pub settings: Vec<Saved>,
    /// Value of the parameter `role`.
    pub role: CString,
}

/// The savepoint in which an impersonation began.
#[derive(Clone)]
pub struct Savepoint {
    /// Nesting level of transactions: when one of this level or further out is rolled back, the impersonation is gone.
    pub level: i32,
    /// What the login had set for the session before.
    pub settings: Rc<Vec<Kept>>,
}

/// How long an impersonation lasts.
#[derive(Clone)]
pub enum Scope {
    /// It begins with the switch and ends with the transaction. What was set above the nesting level of settings that
    /// was pushed at the switch is undone before commit.
    Transaction { settings_level: i32, savepoint: Option<Savepoint> },
    /// Until the session ends it.
    Session { before: Rc<Before> },
}

impl Scope {
    pub fn name(&self) -> &'static str {
        match self {
            Scope::Transaction { .. } => "transaction",
            Scope::Session { .. } => "session",
        }
    }
}

/// An impersonation in force.
#[derive(Clone)]
pub struct Impersonation {
    pub kind: Kind,
    pub scope: Scope,
    pub identity: Rc<Identity>,
    pub provider: Provider,
    /// What the token says of its user.
    pub claims: Option<Rc<Claims>>,
    pub digest: Digest,
    pub token_id: i64,
    /// OID of the mapped role.
    pub role: u32,
    pub role_name: Rc<RoleName>,
    /// OID of the session user.
    pub impersonator: u32,
    pub established: Timestamp,
    pub last_used: Timestamp,
    pub recorded: Timestamp,
    /// When the token ends whatever its use.
    pub expires: Option<Timestamp>,
    /// The token itself and when it was last shown to a remote provider; none for the embedded one.
    pub shown: Option<(Rc<Secret>, Timestamp)>,
    /// Whether a statement has run under it yet.
    pub used: bool,
}

impl Impersonation {
    pub fn new(kind: Kind, scope: Scope, digest: Digest, resolved: &Resolved, now: Timestamp) -> Impersonation {
        let answer = &resolved.answer;
        Impersonation {
            kind,
            scope,
            identity: Rc::clone(&resolved.identity),
            provider: answer.provider,
            claims: answer.claims.clone(),
            digest,
            token_id: answer.token_id,
            role: resolved.role,
            role_name: Rc::clone(&resolved.role_name),
            impersonator: resolved.impersonator,
            established: now,
            last_used: now,
            recorded: answer.recorded,
            expires: answer.expires,
            shown: None,
            used: false,
        }
    }

    pub fn is_for_session(&self) -> bool {
        matches!(self.scope, Scope::Session { .. })
    }
}

/// What is to be done about the use of a token.
pub enum Due {
    Nothing,
    /// Write it down in the token table.
    Record {
        digest: Digest,
        token_id: i64,
        recorded: Timestamp,
    },
    /// Show it to the provider, which counts what it sees as activity.
    Show {
        provider: Provider,
        token: Rc<Secret>,
    },
}

impl Impersonation {
    /// What is due at `now`, the use being recorded every `recording` and shown every `showing` (but not more often
    /// than every ten seconds).
    pub fn due(&mut self, now: Timestamp, recording: Duration, showing: Duration) -> Due {
        const SHORTEST: Duration = Duration::from_secs(10);
        // Nobody is told of the use of a token that says all by itself.
        if matches!(self.provider, Provider::Name | Provider::Jwt) {
            return Due::Nothing;
        }
        if self.provider == Provider::Local {
            return if now.is_past(self.recorded, recording) {
                Due::Record { digest: self.digest, token_id: self.token_id, recorded: self.recorded }
            } else {
                Due::Nothing
            };
        }
        match &mut self.shown {
            Some((token, last)) if now.is_past(*last, showing.max(SHORTEST)) => {
                *last = now;
                Due::Show { provider: self.provider, token: Rc::clone(token) }
            }
            _ => Due::Nothing,
        }
    }
}

#[derive(Default)]
pub struct Impersonations {
    pub active: Option<Impersonation>,
    /// The impersonation that goes on if the transaction aborts: that of the session when it began.
    lasting: Option<Impersonation>,
    /// Whether something ran in this transaction that a change of the user would have to reckon with.
    pub is_touched: bool,
    /// Executions (addresses of their descriptors) that began under the impersonation: nothing else may run in it.
    begun: Vec<usize>,
    marks: Marks,
    /// The nesting level of settings that was pushed before the first savepoint of the transaction: what is set in
    /// savepoints can be undone together, whatever becomes of those.
    settings_level: Option<i32>,
}

impl Impersonations {
    #[cfg(feature = "inject")]
    pub fn state(&self) -> String {
        let impersonations = (self.active.is_none(), self.lasting.is_none(), self.is_touched, self.settings_level);
        format!("{impersonations:?} {} {}", self.begun.len(), self.marks.len())
    }

    pub fn begin_execution(&mut self, execution: usize) {
        self.begun.push(execution);
    }

    pub fn end_execution(&mut self, execution: usize) {
        if let Some(at) = self.begun.iter().rposition(|&e| e == execution) {
            self.begun.remove(at);
        }
    }

    /// Whether an execution began under the impersonation (and not before the switch).
    pub fn has_begun(&self, execution: usize) -> bool {
        self.begun.iter().rev().any(|&e| e == execution)
    }

    pub fn start_subtransaction(&mut self, subxact: u32, depth: u32) {
        self.marks.start(Mark { subxact, depth, begun: self.begun.len() });
    }

    /// A subtransaction, at this nesting level, becomes a part of that around it.
    pub fn commit_subtransaction(&mut self, subxact: u32, level: i32) {
        self.marks.commit(subxact);
        if let Some(savepoint) = self.savepoint()
            && savepoint.level == level
        {
            savepoint.level -= 1;
        }
    }

    /// Returns the nesting depth to go back to.
    pub fn abort_subtransaction(&mut self, subxact: u32) -> Option<u32> {
        let mark = self.marks.abort(subxact)?;
        self.begun.truncate(mark.begun);
        Some(mark.depth)
    }

    /// The impersonation, if it goes with the subtransaction at this nesting level, which is rolled back.
    pub fn roll_back(&mut self, level: i32) -> Option<Impersonation> {
        self.savepoint().is_some_and(|savepoint| savepoint.level >= level).then(|| self.active.take()).flatten()
    }

    fn savepoint(&mut self) -> Option<&mut Savepoint> {
        match &mut self.active.as_mut()?.scope {
            Scope::Transaction { savepoint, .. } => savepoint.as_mut(),
            Scope::Session { .. } => None,
        }
    }

    /// Before the first savepoint of the transaction; `push` gives its nesting level of settings.
    pub fn first_savepoint(&mut self, push: impl FnOnce() -> i32) {
        self.settings_level.get_or_insert_with(push);
    }

    pub fn settings_level(&self) -> Option<i32> {
        self.settings_level
    }

    /// The transaction is over: nothing of it remains but the impersonation of the session, as it is now or, after an
    /// abort, as it was before. Returns the impersonation that was in force at the end.
    pub fn end_transaction(&mut self, has_committed: bool) -> Option<Impersonation> {
        self.begun.clear();
        self.marks.clear();
        (self.is_touched, self.settings_level) = (false, None);
        let ended = self.active.take();
        if has_committed {
            self.lasting = ended.as_ref().filter(|ended| ended.is_for_session()).cloned();
        } else if let (Some(lasting), Some(ended)) = (&mut self.lasting, &ended)
            && lasting.digest == ended.digest
        {
            // Uses count whatever becomes of the transaction.
            lasting.last_used = ended.last_used;
            lasting.recorded = ended.recorded;
            lasting.shown.clone_from(&ended.shown);
        }
        if self.lasting.is_some() {
            self.active.clone_from(&self.lasting);
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::identity::{Authority, Subject};
    use crate::core::provider::cache::Answer;

    fn impersonation(scope: Scope) -> Impersonation {
        let answer = Answer {
            provider: Provider::Name,
            subject: Rc::new(Subject {
                authority: Authority::Iam("bim".into()),
                userid: "u".into(),
                role_name: None,
            }),
            claims: None,
            token_id: 0,
            last_used: Timestamp(0),
            recorded: Timestamp(0),
            validated: Timestamp(0),
            expires: None,
        };
        let resolved = Resolved {
            answer,
            identity: Rc::default(),
            role: 0,
            role_name: Rc::default(),
            subscriptions_end: None,
            generation: 0,
            impersonator: 0,
        };
        Impersonation::new(Kind::Name, scope, Digest::of(b"u"), &resolved, Timestamp(0))
    }

    fn for_session() -> Impersonation {
        let before = Before { settings: Vec::new(), role: CString::default() };
        impersonation(Scope::Session { before: Rc::new(before) })
    }

    #[test]
    fn an_impersonation_of_the_session_follows_its_transactions() {
        let mut session = Impersonations { active: Some(for_session()), ..Impersonations::default() };
        session.end_transaction(false);
        assert!(session.active.is_none(), "it began in a transaction that aborted");
        session.active = Some(for_session());
        session.end_transaction(true);
        assert!(session.active.is_some());
        session.active.iter_mut().for_each(|active| active.last_used = Timestamp(7));
        session.end_transaction(false);
        assert_eq!(session.active.as_ref().map(|active| active.last_used), Some(Timestamp(7)));
        session.active = None;
        session.end_transaction(false);
        assert!(session.active.is_some(), "it ended in a transaction that aborted");
        session.active = None;
        session.end_transaction(true);
        assert!(session.active.is_none());
        session.active = Some(impersonation(Scope::Transaction { settings_level: 2, savepoint: None }));
        session.end_transaction(true);
        assert!(session.active.is_none());
    }

    #[test]
    fn only_what_began_under_the_impersonation_is_known() {
        let mut session = Impersonations::default();
        session.begin_execution(1);
        session.begin_execution(2);
        assert!(session.has_begun(1) && session.has_begun(2) && !session.has_begun(3));
        session.end_execution(1);
        session.end_execution(3);
        assert!(!session.has_begun(1) && session.has_begun(2));
    }

    #[test]
    fn executions_of_an_aborted_subtransaction_are_forgotten() {
        let mut session = Impersonations::default();
        session.begin_execution(1);
        session.start_subtransaction(7, 2);
        session.begin_execution(2);
        assert_eq!(session.abort_subtransaction(7), Some(2));
        assert!(session.has_begun(1) && !session.has_begun(2));
        session.start_subtransaction(8, 3);
        session.begin_execution(4);
        session.commit_subtransaction(8, 2);
        assert_eq!(session.abort_subtransaction(8), None);
        assert!(session.has_begun(4));
    }

    fn began_at(level: i32) -> Impersonations {
        let savepoint = Some(Savepoint { level, settings: Rc::default() });
        let active = Some(impersonation(Scope::Transaction { settings_level: 2, savepoint }));
        Impersonations { active, ..Impersonations::default() }
    }

    #[test]
    fn an_impersonation_goes_with_its_savepoint() {
        let mut session = began_at(3);
        assert!(session.roll_back(4).is_none(), "a savepoint inside");
        assert!(session.roll_back(3).is_some() && session.active.is_none());
        assert!(session.roll_back(3).is_none());
        assert!(began_at(3).roll_back(2).is_some(), "one around it");
        let mut session = began_at(3);
        session.commit_subtransaction(9, 4);
        session.commit_subtransaction(8, 3);
        assert!(
            session.roll_back(3).is_none() && session.roll_back(2).is_some(),
            "released, it belongs to that around"
        );
        session = began_at(2);
        session.commit_subtransaction(7, 2);
        assert!(session.roll_back(2).is_none(), "released, it belongs to the transaction");
        session.active = Some(impersonation(Scope::Transaction { settings_level: 2, savepoint: None }));
        assert!(session.roll_back(2).is_none());
    }

    #[test]
    fn one_level_of_settings_for_all_savepoints() {
        let mut session = Impersonations::default();
        session.first_savepoint(|| 2);
        session.first_savepoint(|| 3);
        assert_eq!(session.settings_level(), Some(2));
        session.end_transaction(true);
        assert_eq!(session.settings_level(), None);
    }

    #[test]
    fn nothing_outlives_the_transaction() {
        let mut session = Impersonations::default();
        session.begin_execution(1);
        session.start_subtransaction(7, 2);
        assert!(session.end_transaction(true).is_none());
        assert!(!session.has_begun(1));
        assert_eq!(session.abort_subtransaction(7), None);
    }
}
