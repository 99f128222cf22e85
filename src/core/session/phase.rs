//! Where a session stands between its login and a user, as one state machine. Drawn in ARCHITECTURE.md.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Nobody is impersonated.
    #[default]
    Nobody = 0,
    /// Somebody is, until the transaction ends.
    ForTransaction = 1,
    /// Somebody is, until the session ends it.
    ForSession = 2,
    /// The same in a new transaction, in which it was not verified yet.
    Resuming = 3,
    /// Nobody is any longer, in a transaction that may yet abort.
    Ended = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A user's role was switched to, for the transaction or for the session.
    Switched { for_session: bool },
    /// What goes on in a new transaction was found to hold.
    Verified,
    /// The session ended its impersonation.
    Left,
    /// The savepoint was rolled back in which a user was switched to.
    RolledBack,
    /// The transaction committed or aborted; the session's impersonation goes on, or there is none.
    TransactionEnded { goes_on: bool },
}

impl Phase {
    /// What follows; `None` where the event cannot be.
    pub fn after(self, event: Event) -> Option<Phase> {
        use Phase::*;
        match (self, event) {
            (_, Event::TransactionEnded { goes_on: true }) => Some(Resuming),
            (_, Event::TransactionEnded { goes_on: false }) => Some(Nobody),
            (Nobody | Ended, Event::Switched { for_session: false }) => Some(ForTransaction),
            (Nobody | Ended, Event::Switched { for_session: true }) => Some(ForSession),
            (ForTransaction, Event::RolledBack) => Some(Nobody),
            (Resuming, Event::Verified) => Some(ForSession),
            (ForSession | Resuming, Event::Left) => Some(Ended),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Event::*;
    use super::Phase::*;

    #[test]
    fn every_phase_and_event() {
        let for_transaction = Switched { for_session: false };
        let for_session = Switched { for_session: true };
        let goes_on = TransactionEnded { goes_on: true };
        let ends = TransactionEnded { goes_on: false };
        let table = [
            // phase, then what follows a switch for the transaction, for the session, a verification, leaving, a rollback to
            // a savepoint, the end of a transaction in which the session's impersonation goes on, and of any other
            (Nobody, [Some(ForTransaction), Some(ForSession), None, None, None, Some(Resuming), Some(Nobody)]),
            (ForTransaction, [None, None, None, None, Some(Nobody), Some(Resuming), Some(Nobody)]),
            (ForSession, [None, None, None, Some(Ended), None, Some(Resuming), Some(Nobody)]),
            (Resuming, [None, None, Some(ForSession), Some(Ended), None, Some(Resuming), Some(Nobody)]),
            (Ended, [Some(ForTransaction), Some(ForSession), None, None, None, Some(Resuming), Some(Nobody)]),
        ];
        for (phase, expected) in table {
            let events = [for_transaction, for_session, Verified, Left, RolledBack, goes_on, ends];
            assert_eq!(events.map(|event| phase.after(event)), expected, "{phase:?}");
        }
    }
}
