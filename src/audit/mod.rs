//! Both identities on record: one audit record for each statement of an impersonated user, and for the begin, refusal
//! and end of each impersonation; and for each change of who has access to what.
//!
//! `core::trail` knows which statements are on their way, `core::audit` what a record says; here is decided when one
//! is written. A record is written before the client is told that its statement is done.

mod file;
mod objects;
mod sinks;

pub use sinks::{Store, queue_bytes, wake_writer};

use crate::core::audit::changes::{AccessChange, Waiting};
use crate::core::audit::trail::{Handle, Open, Part, Trail};
use crate::core::audit::{
    CompletedStatement, Ids, Impersonated, MAX_TEXT_BYTES, Objects, Outcome, Record, Session, SqlState, Text,
    Values, What, redact,
};
use crate::core::identity::Identity;
use crate::core::session::Impersonation;
use crate::core::time::Timestamp;
use crate::error::Error;
use crate::pg::catalog::{self, roles};
use crate::pg::hook::handlers::{Beginning, Change};
use crate::pg::hook::nodes::Permissions;
use crate::pg::hook::statement::{self, Opening, Progress};
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::report::Report;
use crate::pg::sys::{client, clock, compat, exit, raw, running};
use crate::pg::{gate, shared, switch};
use crate::settings::{self, QueryText};
use std::cell::RefCell;
use std::rc::Rc;

/// What is remembered of a statement on its way.
struct Remembered {
    opening: Opening,
    objects: Objects,
    /// Objects that it made, which have no name before it is done: class and OID.
    created: Vec<(u32, u32)>,
}

/// What is measured of a statement: when it began, microseconds it was busy, rows.
struct Figures {
    begun: Timestamp,
    active: i64,
    rows: u64,
}

struct AuditState {
    trail: Trail<Remembered>,
    /// Of a session also while nothing is recorded: that may change.
    actor: Option<Impersonated>,
    /// Whom the session impersonated before its transaction, should that be rolled back.
    former: Option<Impersonated>,
    /// Whom the token that is being presented is for, as far as that is known.
    candidate: Option<Identity>,
    session: Option<(u64, u32, Rc<Session>)>,
    /// How many of those there were.
    sessions: u64,
    ids: Option<Ids>,
    statements: u64,
    /// When the message came that called a function last.
    call_message: i64,
    /// When the message came whose last statement is on its way or over: an error is that statement's.
    last_message: i64,
    /// What was accessed while no statement was open: by functions that the planner calls, by deferred triggers. It
    /// goes to the next record of a statement.
    pending: Objects,
    /// The user has sent COMMIT or ROLLBACK.
    is_ending: bool,
    /// The running statement ends the impersonation of the session.
    is_leaving: bool,
    /// Code in DETAIL of the error of ours that is being raised.
    reason: Option<&'static str>,
    /// The error that made a COMMIT fail.
    failed_with: Option<SqlState>,
    /// What this transaction changes of who has access to what.
    changes: Waiting,
}

thread_local! {
    static STATE: RefCell<AuditState> = const {
        RefCell::new(AuditState {
            trail: Trail::new(),
            actor: None,
            former: None,
            candidate: None,
            session: None,
            sessions: 0,
            ids: None,
            statements: 0,
            call_message: i64::MIN,
            last_message: i64::MIN,
            pending: Objects::new(),
            is_ending: false,
            is_leaving: false,
            reason: None,
            failed_with: None,
            changes: Waiting::new(),
        })
    };
}

#[cfg(feature = "inject")]
pub fn state() -> String {
    STATE.with_borrow(|state| {
        format!(
            "audit {} {:?} {:?} {} {} {} {} {:?} {:?} {} {}",
            state.trail.is_empty(),
            state.actor.as_ref().map(|actor| &actor.identity),
            state.former.as_ref().map(|actor| &actor.identity),
            state.candidate.is_none(),
            state.pending.list().len(),
            state.is_ending,
            state.is_leaving,
            state.reason,
            state.failed_with,
            state.changes.len(),
            sinks::state(),
        )
    })
}

fn wall_time() -> Timestamp {
    Timestamp(clock::wall_time())
}

/// Whether there is a place for records.
fn is_on() -> bool {
    settings::audit_sinks() != 0
}

// ---- the impersonation itself

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

// The session ends its impersonation. The statement that does so is still the user's.
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

// ---- changes of who has access to what, whoever makes them

/// Somebody's access is being changed. It is on record when that is committed.
pub fn access_changes(change: AccessChange) -> Result<(), Error> {
    if !is_on() {
        return Ok(());
    }
    gate::set_changing(true);
    STATE.with_borrow_mut(|state| match state.changes.add(running::nest_level(), change) {
        None => Ok(()),
        Some(change) => state.write(wall_time(), What::Changed(&change)),
    })
}

/// Before a commit, while errors are still possible.
pub fn access_changed() -> Result<(), Error> {
    if is_on() {
        sinks::check()?;
        STATE.with_borrow_mut(|state| {
            let now = wall_time();
            state.changes.take().try_for_each(|change| state.write(now, What::Changed(&change)))
        })?;
    }
    inject::point(Point::ChangesRecorded);
    Ok(())
}

/// A subtransaction of this level ended.
pub fn subtransaction_changed(level: i32, has_committed: bool) {
    STATE.with(|state| {
        if let Ok(mut state) = state.try_borrow_mut() {
            if has_committed { state.changes.commit(level) } else { state.changes.abort(level) }
        }
    });
}

/// The transaction is over. Must not fail.
pub fn forget_changes() {
    STATE.with(|state| {
        if let Ok(mut state) = state.try_borrow_mut() {
            state.changes.clear();
        }
    });
    gate::set_changing(false);
}

// ---- statements

/// A statement or query begins, `depth` hooks deep.
pub fn begins(beginning: &Beginning, depth: u32) -> Result<(), Error> {
    let is_top = depth == 0 && running::runs_a_statement();
    STATE.with_borrow_mut(|state| {
        if !gate::is_audited() {
            if state.actor.is_none() || !is_on() || !raw::IsTransactionState() {
                if is_top {
                    shared::count_statement();
                }
                return Ok(());
            }
            // Switched on while the session impersonates.
            state.record_start()?;
        }
        if !is_top {
            if let Beginning::Query(query) = beginning
                && state.trail.start_inside(query.execution(), depth)
            {
                state.note_relations(&query.permissions());
                return Ok(());
            }
            if !settings::audit_nested() {
                if let Beginning::Query(query) = beginning {
                    state.note_relations(&query.permissions());
                }
                return Ok(());
            }
        }
        let opening = beginning.opening(settings::audit_query_text() != QueryText::None);
        let ended = state.end_call();
        if opening.ends_transaction {
            state.is_ending |= is_top;
            return Ok(());
        }
        if is_top {
            // A COMMIT that was refused in a savepoint did not end anything.
            (state.is_ending, state.failed_with) = (false, None);
        }
        // A transaction that has failed can be ended in any case, and so can its savepoints.
        if raw::IsTransactionState() {
            ended?;
            sinks::check()?;
        }
        // Deferred triggers run queries at depth 0, too, when no statement is running any more.
        let depth = if is_top { 0 } else { depth.max(1) };
        let key = beginning.key(depth);
        if is_top && opening.is_last {
            state.last_message = raw::GetCurrentStatementStartTimestamp();
        }
        if let Some(open) = state.trail.go_on(key, depth) {
            if opening.is_original {
                open.statement.opening.command = opening.command;
            }
        } else {
            if is_top && opening.role != Part::Fetch {
                shared::count_statement();
            }
            let role = opening.role;
            let parts = if is_top { running::statements_of_portal() } else { 1 };
            let objects = std::mem::take(&mut state.pending);
            let remembered = Remembered { opening, objects, created: Vec::new() };
            state.trail.begin(key, role, parts, depth, wall_time(), remembered);
            inject::point(Point::StatementOpened);
        }
        if let Beginning::Query(query) = beginning {
            state.note_relations(&query.permissions());
        }
        Ok(())
    })
}

/// A query runs, perhaps not for the first time.
pub fn runs(execution: usize) {
    if !gate::is_audited() {
        return;
    }
    STATE.with_borrow_mut(|state| {
        // By another message than that which began it.
        if let Some(open) = state.trail.run(execution, wall_time)
            && open.depth == 0
            && open.statement.opening.is_last
        {
            state.last_message = raw::GetCurrentStatementStartTimestamp();
        }
    });
}

/// A query ran, and came so far.
pub fn ran(execution: usize, progress: Progress) -> Result<(), Error> {
    STATE.with_borrow_mut(|state| {
        if state.trail.is_empty() {
            return Ok(());
        }
        let now = wall_time();
        state.trail.ran(execution, progress.rows, now);
        if progress.is_suspended {
            state.trail.suspend(execution, now);
        } else if progress.is_done && state.trail.has(Handle::Execution(execution)) {
            return state.query_ended(execution, now);
        }
        Ok(())
    })
}

/// A query is over.
pub fn query_ended(execution: usize) -> Result<(), Error> {
    if !gate::is_audited() {
        return Ok(());
    }
    STATE.with_borrow_mut(
        |state| if state.trail.is_empty() { Ok(()) } else { state.query_ended(execution, wall_time()) },
    )
}

/// A utility statement is over.
pub fn utility_ended(depth: u32, rows: u64) -> Result<(), Error> {
    STATE.with_borrow_mut(|state| {
        let now = wall_time();
        if let Some(mut open) = state.trail.end_utility(depth, now) {
            open.rows = open.rows.max(rows);
            if !open.statement.created.is_empty() {
                running::make_changes_visible();
            }
            state.name_created(&mut open);
            state.complete(open, Outcome::Success, now)?;
        }
        if depth == 0 && state.is_leaving { state.leave(now) } else { Ok(()) }
    })
}

/// An error is about to be reported to the client: what was running failed with it.
pub fn failed(sqlstate: i32) {
    if !gate::is_audited() {
        return;
    }
    STATE.with(|state| {
        let Ok(mut state) = state.try_borrow_mut() else { return };
        let (now, sqlstate) = (wall_time(), SqlState::unpacked(sqlstate));
        let failed = state.trail.fail(0);
        if failed.is_empty() {
            let at_end = state.is_ending || state.statements > 0 && !running::is_block();
            if at_end || !running::has_message_text() {
                state.failed_with = Some(sqlstate);
            } else if state.last_message != raw::GetCurrentStatementStartTimestamp() {
                // It failed before any hook saw it: while it was read, or its names were looked up.
                let _ = state.unseen(now, sqlstate);
            }
        }
        for open in failed {
            let _ = state.complete(open, Outcome::Failure(Some(sqlstate)), now);
        }
        state.reason = None;
    });
}

/// A subtransaction that began at this depth was rolled back.
pub fn subtransaction_aborted(depth: u32) {
    STATE.with(|state| {
        let Ok(mut state) = state.try_borrow_mut() else { return };
        if state.trail.is_empty() {
            return;
        }
        let now = wall_time();
        for open in state.trail.fail(depth) {
            let _ = state.complete(open, Outcome::Failure(None), now);
        }
    });
}

// ---- what a statement accesses

/// Permissions are checked; those of queries were noted when they began.
pub fn accesses(permissions: &Permissions) {
    if gate::is_audited() {
        STATE.with_borrow_mut(|state| {
            if state.trail.current().is_some_and(|open| open.statement.opening.command == "COPY") {
                state.note_relations(permissions);
            }
        });
    }
}

/// A function is about to be executed.
pub fn calls(function: u32) {
    if !gate::is_audited() {
        return;
    }
    STATE.with_borrow_mut(|state| {
        if !running::has_message_text() {
            let message = raw::GetCurrentStatementStartTimestamp();
            if state.call_message != message {
                // What is owed to a sink is asked for by the next statement.
                let _ = state.end_call();
            }
            if state.trail.current().is_none() {
                state.call_message = message;
                let opening = Opening::of_call();
                let remembered = Remembered { opening, objects: Objects::default(), created: Vec::new() };
                state.trail.begin(Handle::Call, Part::Statement, 1, 0, wall_time(), remembered);
            }
        }
        if let Some(object) = objects::function(function) {
            state.objects().add(object);
        }
    });
}

/// An object was made, changed or is about to be dropped.
pub fn changes(change: Change, class: u32, object: u32) {
    STATE.with_borrow_mut(|state| {
        let Some(open) = state.trail.current() else { return };
        match change {
            Change::Created => open.statement.created.push((class, object)),
            Change::Altered | Change::Dropped => {
                if let Some(object) = objects::any(change, class, object) {
                    open.statement.objects.add(object);
                }
            }
        }
    });
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

    fn record_start(&mut self) -> Result<(), Error> {
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
    fn leave(&mut self, now: Timestamp) -> Result<(), Error> {
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

    fn note_relations(&mut self, permissions: &Permissions) {
        for accessed in permissions.accessed() {
            if let Some(object) = objects::relation(&accessed) {
                self.objects().add(object);
            }
        }
    }

    /// Where to note what is accessed now.
    fn objects(&mut self) -> &mut Objects {
        match self.trail.current() {
            Some(open) => &mut open.statement.objects,
            None => &mut self.pending,
        }
    }

    /// What a statement made can be looked up now, if it is visible.
    fn name_created(&self, open: &mut Open<Remembered>) {
        for (class, object) in std::mem::take(&mut open.statement.created) {
            if let Some(object) = objects::any(Change::Created, class, object) {
                open.statement.objects.add(object);
            }
        }
        open.statement.objects.without_companions();
    }

    fn end_call(&mut self) -> Result<(), Error> {
        match self.trail.end_call() {
            Some(open) => self.complete(open, Outcome::Success, wall_time()),
            None => Ok(()),
        }
    }

    fn query_ended(&mut self, execution: usize, now: Timestamp) -> Result<(), Error> {
        match self.trail.end(execution) {
            Some(mut open) => {
                if !open.statement.created.is_empty() {
                    // By functions, whose statements made it visible.
                    self.name_created(&mut open);
                }
                self.complete(open, Outcome::Success, now)
            }
            None => Ok(()),
        }
    }

    fn complete(&mut self, open: Open<Remembered>, outcome: Outcome, now: Timestamp) -> Result<(), Error> {
        let figures = Figures { begun: open.begun, active: open.active(now), rows: open.rows };
        let depth = open.depth;
        let Remembered { opening, objects, .. } = open.statement;
        self.conclude(opening, objects, depth, outcome, figures, now)
    }

    /// A statement of which only the error was seen.
    fn unseen(&mut self, now: Timestamp, sqlstate: SqlState) -> Result<(), Error> {
        shared::count_statement();
        let begun = Timestamp(raw::GetCurrentStatementStartTimestamp());
        let figures = Figures { begun, active: now.0.saturating_sub(begun.0).max(0), rows: 0 };
        let outcome = Outcome::Failure(Some(sqlstate));
        let objects = std::mem::take(&mut self.pending);
        self.conclude(Opening::unseen(statement::message_text()), objects, 0, outcome, figures, now)
    }

    fn conclude(
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
    fn write(&mut self, at: Timestamp, what: What) -> Result<(), Error> {
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
