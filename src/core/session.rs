//! The state of one session: whom it impersonates in the current transaction.

use super::cache::Entry;
use super::identity::{Identity, Provider};
use super::nesting::{Mark, Marks};
use super::time::Timestamp;
use super::token::{Digest, Secret};
use std::rc::Rc;
use std::time::Duration;

/// An impersonation in force. It belongs to the transaction: it begins with the switch and ends with it.
#[derive(Clone)]
pub struct Impersonation {
    pub identity: Rc<Identity>,
    pub provider: Provider,
    pub digest: Digest,
    pub token_id: i64,
    /// OID of the mapped role.
    pub role: u32,
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
    /// Nesting level of settings pushed at the switch; what was set above it is undone before commit.
    pub settings_level: i32,
}

impl Impersonation {
    pub fn new(digest: Digest, entry: &Entry, now: Timestamp, settings_level: i32) -> Impersonation {
        Impersonation {
            identity: Rc::clone(&entry.identity),
            provider: entry.provider,
            digest,
            token_id: entry.token_id,
            role: entry.role,
            impersonator: entry.impersonator,
            established: now,
            last_used: now,
            recorded: entry.recorded,
            expires: entry.expires,
            shown: None,
            used: false,
            settings_level,
        }
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
pub struct Session {
    pub active: Option<Impersonation>,
    /// Executions (addresses of their descriptors) that began under the impersonation: nothing else may run in it.
    begun: Vec<usize>,
    marks: Marks,
}

impl Session {
    pub const fn new() -> Session {
        Session { active: None, begun: Vec::new(), marks: Marks::new() }
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

    pub fn commit_subtransaction(&mut self, subxact: u32) {
        self.marks.commit(subxact);
    }

    /// Returns the nesting depth to go back to.
    pub fn abort_subtransaction(&mut self, subxact: u32) -> Option<u32> {
        let mark = self.marks.abort(subxact)?;
        self.begun.truncate(mark.begun);
        Some(mark.depth)
    }

    /// The transaction is over: nothing of it remains.
    pub fn end_transaction(&mut self) -> Option<Impersonation> {
        self.begun.clear();
        self.marks.clear();
        self.active.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_began_under_the_impersonation_is_known() {
        let mut session = Session::new();
        session.begin_execution(1);
        session.begin_execution(2);
        assert!(session.has_begun(1) && session.has_begun(2) && !session.has_begun(3));
        session.end_execution(1);
        session.end_execution(3);
        assert!(!session.has_begun(1) && session.has_begun(2));
    }

    #[test]
    fn executions_of_an_aborted_subtransaction_are_forgotten() {
        let mut session = Session::new();
        session.begin_execution(1);
        session.start_subtransaction(7, 2);
        session.begin_execution(2);
        assert_eq!(session.abort_subtransaction(7), Some(2));
        assert!(session.has_begun(1) && !session.has_begun(2));
        session.start_subtransaction(8, 3);
        session.begin_execution(4);
        session.commit_subtransaction(8);
        assert_eq!(session.abort_subtransaction(8), None);
        assert!(session.has_begun(4));
    }

    #[test]
    fn nothing_outlives_the_transaction() {
        let mut session = Session::new();
        session.begin_execution(1);
        session.start_subtransaction(7, 2);
        assert!(session.end_transaction().is_none());
        assert!(!session.has_begun(1));
        assert_eq!(session.abort_subtransaction(7), None);
    }
}
