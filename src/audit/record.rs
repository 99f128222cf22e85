//! One record: what it says of its statement, its session and its moment.

use crate::audit::{AuditState, sinks};
use crate::core::audit::{
    CompletedStatement, Ids, MAX_TEXT_BYTES, Objects, Outcome, Record, Session, Text, Values, What, redact,
};
use crate::core::time::Timestamp;
use crate::error::Error;
use crate::pg::catalog::{self, roles};
use crate::pg::hook::statement::Opening;
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::{client, clock, compat, raw};
use crate::pg::{gate, switch};
use crate::settings::{self, QueryText};
use std::rc::Rc;

/// What is measured of a statement: when it began, microseconds it was busy, rows.
pub(super) struct Figures {
    pub begun: Timestamp,
    pub active: i64,
    pub rows: u64,
}

impl AuditState {
    pub(super) fn conclude(
        &mut self,
        opening: Opening,
        objects: Objects,
        depth: u32,
        outcome: Outcome,
        figures: Figures,
        now: Timestamp,
    ) -> Result<(), Error> {
        self.statements += u64::from(depth == 0);
        let statement = CompletedStatement {
            text: shown(opening.text, opening.command),
            command: opening.command,
            query_id: opening.query_id,
            objects,
            depth,
            outcome,
            reason: self.reason.filter(|_| outcome != Outcome::Success),
        };
        self.record(now, What::Statement(&statement), figures)?;
        inject::point(Point::StatementClosed);
        Ok(())
    }

    /// Writes a record of an event.
    pub(super) fn write(&mut self, at: Timestamp, what: What) -> Result<(), Error> {
        self.record(at, what, Figures { begun: at, active: 0, rows: 0 })
    }

    /// Writes a record to all sinks. An error only where `bodata.audit_required` makes it one.
    fn record(&mut self, at: Timestamp, what: What, figures: Figures) -> Result<(), Error> {
        let session = self.session();
        let ids = self.ids.get_or_insert_with(|| Ids::new(clock::random()));
        let values = Values {
            id: ids.next(),
            at,
            virtual_transaction: compat::virtual_transaction(),
            transaction: raw::GetTopTransactionIdIfAny(),
            begun: figures.begun,
            ended: at,
            active: figures.active,
            rows: figures.rows,
            statements: self.statements,
        };
        let record = Record {
            session: &session,
            actor: self.actor.as_ref(),
            candidate: self.candidate.as_ref(),
            application: &client::application_name(),
            what,
        };
        sinks::write(&record, &values)
    }

    /// What all records of the session have in common, looked up again when roles or databases may have changed. In
    /// a transaction that failed nothing can be looked up.
    fn session(&mut self) -> Rc<Session> {
        let (generation, user) = (gate::generation(), switch::session_user());
        match &self.session {
            Some((seen, of, session)) if *of == user && (*seen == generation || !raw::IsTransactionState()) => {
                Rc::clone(session)
            }
            _ => {
                let known = raw::IsTransactionState();
                self.sessions += 1;
                let session = Rc::new(Session {
                    number: self.sessions,
                    id: client::session_id(),
                    cluster: client::cluster_name(),
                    database: if known { catalog::database_name() } else { String::new() },
                    impersonator: if known { roles::name(user).unwrap_or_default() } else { String::new() },
                    client_address: client::address().map(|address| address.to_string()),
                });
                if known {
                    self.session = Some((generation, user, Rc::clone(&session)));
                }
                session
            }
        }
    }
}

/// The text of a statement as a record may show it.
fn shown(text: String, command: &str) -> Option<Text> {
    let without_literals = |text: &str| {
        let (shown, is_masked) = redact::normalized(text.as_bytes());
        (String::from_utf8_lossy(&shown).into_owned(), is_masked)
    };
    let (mut shown, is_masked) = match settings::audit_query_text() {
        QueryText::None => return None,
        QueryText::Full
            if redact::takes_password(command)
                || redact::is_sensitive(text.as_bytes())
                || redact::speaks_of_password(text.as_bytes()) =>
        {
            (without_literals(&text).0, true)
        }
        QueryText::Full => (text, false),
        QueryText::Normalized => without_literals(&text),
    };
    let is_cut = shown.len() > MAX_TEXT_BYTES;
    if is_cut {
        let end = (0..=MAX_TEXT_BYTES).rev().find(|&at| shown.is_char_boundary(at)).unwrap_or(0);
        shown.truncate(end);
    }
    Some(Text { shown, is_cut, is_masked })
}
