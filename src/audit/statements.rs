//! Statements on record: which are on their way, what they access, and when one is over.

use crate::audit::record::Figures;
use crate::audit::{AuditState, STATE, is_on, objects, sinks, wall_time};
use crate::core::audit::trail::{Handle, Open, Part};
use crate::core::audit::{Objects, Outcome, SqlState};
use crate::core::time::Timestamp;
use crate::error::Error;
use crate::pg::hook::handlers::{Beginning, Change};
use crate::pg::hook::nodes::Permissions;
use crate::pg::hook::statement::{self, Opening, Progress};
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::{raw, running};
use crate::pg::{gate, shared};
use crate::settings::{self, QueryText};

/// What is remembered of a statement on its way.
pub(super) struct Remembered {
    opening: Opening,
    objects: Objects,
    /// Objects that it made, which have no name before it is done: class and OID.
    created: Vec<(u32, u32)>,
}

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
        if !is_top && state.is_part(beginning, depth) {
            return Ok(());
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
        state.open(beginning, opening, depth, is_top);
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
    /// Whether what begins inside a statement is on record with that one only.
    fn is_part(&mut self, beginning: &Beginning, depth: u32) -> bool {
        let goes_on =
            matches!(beginning, Beginning::Query(query) if self.trail.start_inside(query.execution(), depth));
        if !goes_on && settings::audit_nested() {
            return false;
        }
        if let Beginning::Query(query) = beginning {
            self.note_relations(&query.permissions());
        }
        true
    }

    /// From now on what is accessed is this statement's.
    fn open(&mut self, beginning: &Beginning, opening: Opening, depth: u32, is_top: bool) {
        // Deferred triggers run queries at depth 0, too, when no statement is running any more.
        let depth = if is_top { 0 } else { depth.max(1) };
        let key = beginning.key(depth);
        if is_top && opening.is_last {
            self.last_message = raw::GetCurrentStatementStartTimestamp();
        }
        if let Some(open) = self.trail.go_on(key, depth) {
            if opening.is_original {
                open.statement.opening.command = opening.command;
            }
        } else {
            if is_top && opening.role != Part::Fetch {
                shared::count_statement();
            }
            let role = opening.role;
            let parts = if is_top { running::statements_of_portal() } else { 1 };
            let objects = std::mem::take(&mut self.pending);
            let remembered = Remembered { opening, objects, created: Vec::new() };
            self.trail.begin(key, role, parts, depth, wall_time(), remembered);
            inject::point(Point::StatementOpened);
        }
        if let Beginning::Query(query) = beginning {
            self.note_relations(&query.permissions());
        }
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

    pub(super) fn end_call(&mut self) -> Result<(), Error> {
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

    pub(super) fn complete(
        &mut self,
        open: Open<Remembered>,
        outcome: Outcome,
        now: Timestamp,
    ) -> Result<(), Error> {
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
}
