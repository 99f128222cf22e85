//! The impersonation itself on record: begin, refusal, end, and the transactions in between.

use crate::audit::record::Figures;
use crate::audit::{AuditState, STATE, is_on, sinks, wall_time};
use crate::core::audit::{Impersonated, Objects, Outcome, SqlState, What};
use crate::core::identity::Identity;
use crate::core::session::Impersonation;
use crate::core::time::Timestamp;
use crate::error::Error;
use crate::pg::catalog::roles;
use crate::pg::hook::statement::Opening;
use crate::pg::sys::exit;
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::report::Report;
use crate::pg::{gate, shared};
use std::rc::Rc;

/// A token is presented for this user.
pub fn presented_for(identity: &Identity) {
    STATE.with_borrow_mut(|state| state.candidate = Some(identity.clone()));
}

/// An impersonation begins.
pub fn started(begun: &Impersonation) -> Result<(), Error> {
    STATE.with_borrow_mut(|state| state.start(begun))
}

/// An error of ours is about to be raised. While somebody is impersonated it is that of their statement.
pub fn refused(report: &Report) {
    shared::counters().refused(report.detail);
    if !is_on() {
        return;
    }
    STATE.with(|state| {
        if let Ok(mut state) = state.try_borrow_mut() {
            if gate::is_impersonating() {
                state.reason = Some(report.detail);
                return;
            }
            let sqlstate = SqlState::unpacked(report.sqlstate as i32);
            // The client gets the error in any case.
            let _ = state.write(wall_time(), What::Refused(report.detail, sqlstate));
            state.candidate = None;
        }
    });
}

/// An administrator asked what a statement would do as a user; the SQLSTATE with which it would fail.
pub fn tested(identity: Identity, role: u32, statement: String, code: Option<[u8; 5]>) -> Result<(), Error> {
    if !is_on() {
        return Ok(());
    }
    STATE.with_borrow_mut(|state| {
        let actor = Impersonated {
            identity: Rc::new(identity),
            mapped_role: Rc::new(roles::names(role).unwrap_or_default()),
            provider: "none",
            scope: "dry run",
            bearer: None,
        };
        let outcome = code.map_or(Outcome::Success, |code| Outcome::Failure(Some(SqlState(code))));
        let opening = Opening { command: "EXPLAIN", ..Opening::unseen(statement) };
        let now = wall_time();
        let figures = Figures { begun: now, active: 0, rows: 0 };
        let written = OnBehalf::of(state, actor).0.conclude(opening, Objects::default(), 0, outcome, figures, now);
        inject::point(Point::DryRunRecorded);
        written
    })
}

/// While it lives, records are of another user; also an error ends it.
struct OnBehalf<'a>(&'a mut AuditState, Option<Impersonated>, u64);

impl OnBehalf<'_> {
    fn of(state: &mut AuditState, actor: Impersonated) -> OnBehalf<'_> {
        let (before, statements) = (state.actor.replace(actor), state.statements);
        OnBehalf(state, before, statements)
    }
}

impl Drop for OnBehalf<'_> {
    fn drop(&mut self) {
        (self.0.actor, self.0.statements) = (self.1.take(), self.2);
    }
}

/// The session ends its impersonation. The statement that does so is still the user's.
pub fn left() {
    shared::exit();
    STATE.with_borrow_mut(|state| {
        state.is_leaving = gate::is_audited();
        if !state.is_leaving {
            state.go();
        }
    });
}

/// The session is over, and with it its impersonation.
fn disconnected() {
    STATE.with(|state| {
        if let Ok(mut state) = state.try_borrow_mut() {
            // There is nobody left to tell.
            let _ = state.leave(wall_time());
        }
    });
}

/// A transaction ended; who is impersonated from now on, if anybody is. Must not fail.
pub fn transaction_ended(committed: bool, active: Option<&Impersonation>) {
    STATE.with(|state| {
        let Ok(mut state) = state.try_borrow_mut() else { return };
        if gate::is_audited() {
            state.end_transaction(committed, active);
        }
        let former = state.former.take();
        match active {
            None => {
                shared::exit();
                state.actor = None;
            }
            // It was ended in a transaction that was rolled back.
            Some(active) if state.actor.as_ref().is_none_or(|actor| actor.identity != active.identity) => {
                state.actor = former;
                let _ = state.enter(active);
            }
            Some(_) => {}
        }
        (state.is_leaving, state.candidate) = (false, None);
    });
}

/// Before a commit, while errors are still possible: the calls that no hook completes.
pub fn before_commit() -> Result<(), Error> {
    if !gate::is_audited() {
        return Ok(());
    }
    sinks::check()?;
    STATE.with_borrow_mut(AuditState::end_call)
}

impl AuditState {
    fn start(&mut self, begun: &Impersonation) -> Result<(), Error> {
        if is_on() || begun.is_for_session() {
            self.actor = Some(Impersonated {
                identity: Rc::clone(&begun.identity),
                mapped_role: Rc::clone(&begun.role_name),
                provider: begun.provider.name(),
                scope: begun.scope.name(),
                bearer: begun.claims.as_ref().map(|claims| Rc::clone(&claims.bearer)),
            });
        }
        if begun.is_for_session() {
            exit::on_exit(disconnected);
        }
        self.enter(begun)
    }

    fn enter(&mut self, begun: &Impersonation) -> Result<(), Error> {
        shared::enter(&begun.identity, begun.role, begun.impersonator, begun.established.0);
        inject::point(Point::SlotTaken);
        (self.candidate, self.statements, self.is_leaving) = (None, 0, false);
        (self.is_ending, self.failed_with) = (false, None);
        self.pending = Objects::default();
        gate::set_audited(false);
        if is_on() { self.record_start() } else { Ok(()) }
    }

    pub(super) fn record_start(&mut self) -> Result<(), Error> {
        gate::set_audited(true);
        inject::point(Point::Audited);
        sinks::check()?;
        self.write(wall_time(), What::Started)
    }

    fn end_transaction(&mut self, committed: bool, active: Option<&Impersonation>) {
        let now = wall_time();
        for open in self.trail.close() {
            let outcome = if open.is_running() { Outcome::Failure(None) } else { Outcome::Success };
            // The client has its answer already.
            let _ = self.complete(open, outcome, now);
        }
        let outcome = match self.failed_with.take() {
            Some(sqlstate) => Outcome::Failure(Some(sqlstate)),
            None => Outcome::Success,
        };
        let pending = std::mem::take(&mut self.pending);
        if !pending.list().is_empty() {
            // No statement is left to say so: deferred triggers and constraints read them.
            let figures = Figures { begun: now, active: 0, rows: 0 };
            let opening = Opening { command: "COMMIT", ..Opening::unseen("COMMIT".into()) };
            let _ = self.conclude(opening, pending, 0, outcome, figures, now);
        }
        let goes_on = active.is_some_and(|active| {
            self.actor.as_ref().is_some_and(|actor| actor.identity == active.identity) && !self.is_leaving
        });
        if !goes_on {
            let _ = self.write(now, What::Ended(committed, outcome));
            self.go();
        } else if self.statements > 0 || outcome != Outcome::Success {
            let _ = self.write(now, What::Transaction(committed, outcome));
        }
        (self.statements, self.is_ending) = (0, false);
    }

    /// The statement is over that ended the impersonation of the session.
    pub(super) fn leave(&mut self, now: Timestamp) -> Result<(), Error> {
        self.is_leaving = false;
        let written = if gate::is_audited() { self.write(now, What::Left) } else { Ok(()) };
        self.go();
        written
    }

    fn go(&mut self) {
        let actor = self.actor.take();
        self.former = self.former.take().or(actor);
        gate::set_audited(false);
    }
}
