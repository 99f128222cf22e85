//! The guarded halves of the hooks' frames: what is asked before and after PostgreSQL does its part.
//!
//! Each is an `extern` function of its own, at whose border an error of ours or a panic becomes PostgreSQL's, so that
//! nothing is left undropped when it goes on as a longjmp through the frame that called it.

use crate::pg::catalog::{self, ExtensionRow};
use crate::pg::hook::classify::classify;
use crate::pg::hook::handled::Handled;
use crate::pg::hook::handlers::{Before, Beginning, Change, StartedQuery, StatementHandlers};
use crate::pg::hook::nodes::{self, Permissions, Query};
use crate::pg::hook::references::References;
use crate::pg::hook::statement;
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::raw;
use crate::pg::sys::report::{Report, raise};
use crate::pg::{gate, mask};
use once_cell::sync::OnceCell;
use pgrx::{pg_guard, pg_sys};
use std::ffi::{c_char, c_int, c_void};

static HANDLERS: OnceCell<StatementHandlers> = OnceCell::new();

/// Whether they are the first to be named.
pub fn answer_with(handlers: StatementHandlers) -> bool {
    HANDLERS.set(handlers).is_ok()
}

fn is_worker() -> bool {
    // SAFETY: a static variable.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

/// Hooks do nothing in parallel workers, which run on behalf of a leader that was checked (what functions read there
/// excepted), nor in a transaction that has failed, where catalogs cannot be read and only its end is possible.
fn is_exempt() -> bool {
    is_worker() || !raw::IsTransactionState() || raw::IsAbortedTransactionBlockState()
}

fn decide<T: Default>(decision: impl FnOnce(&StatementHandlers) -> Result<T, Report>) -> T {
    if is_exempt() { T::default() } else { answered(decision) }
}

/// For what is decided in a transaction that has failed, too: the end of that is on record as well.
fn witness<T: Default>(decision: impl FnOnce(&StatementHandlers) -> Result<T, Report>) -> T {
    if is_worker() { T::default() } else { answered(decision) }
}

fn answered<T: Default>(decision: impl FnOnce(&StatementHandlers) -> Result<T, Report>) -> T {
    match HANDLERS.get().map(decision) {
        Some(Ok(decided)) => decided,
        Some(Err(report)) => refuse(report),
        None => T::default(),
    }
}

fn refuse(report: Report) -> ! {
    // A dry run is on record by itself, with what it came to.
    if let Some(handlers) = HANDLERS.get().filter(|_| !gate::is_dry_run()) {
        (handlers.refused)(&report);
    }
    raise(report)
}

#[pg_guard]
pub unsafe extern "C-unwind" fn before_utility(
    pstmt: *mut pg_sys::PlannedStmt,
    query_string: *const c_char,
    depth: u32,
) -> Before {
    if gate::is_impersonating() {
        witness(|handlers| (handlers.begins)(&Beginning::Utility(pstmt, query_string), depth));
    }
    // SAFETY: PostgreSQL passes a planned statement that wraps a utility statement.
    let (statement, handled) = unsafe { (classify(pstmt), Handled::by(pstmt)) };
    decide(|handlers| (handlers.utility)(&statement, &handled, depth))
}

#[pg_guard]
pub unsafe extern "C-unwind" fn before_plan(parse: *mut pg_sys::Query, depth: u32) -> Before {
    // SAFETY: PostgreSQL passes a query that was analyzed and rewritten.
    let references = unsafe { References::of(parse) };
    decide(|handlers| (handlers.plan)(&references, depth))
}

/// Of a login that impersonates nobody it is no refusal to impersonate.
fn refuse_masked(report: Report) -> ! {
    if gate::is_impersonating() { refuse(report) } else { raise(report) }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn ask_for_reads(parse: *mut pg_sys::Query) {
    // SAFETY: PostgreSQL passes a query that was analyzed and rewritten, and which is the planner's to change.
    if let Err(report) = unsafe { mask::ask_for_reads(parse) } {
        refuse_masked(report);
    }
}

/// Puts masks into a query that is about to be planned.
#[pg_guard]
pub unsafe extern "C-unwind" fn mask_query(parse: *mut pg_sys::Query, depth: u32) {
    // SAFETY: PostgreSQL passes a query that was analyzed and rewritten, whose tables are locked, and which is the planner's
    // to change.
    if let Err(report) = unsafe { mask::rewrite(parse) } {
        refuse_masked(report);
    }
    mask::set_planning(if mask::may_be_used() && mask::is_for_subscriber() { depth } else { 0 });
}

/// A plan with masks, or of what has some, is not for another role.
#[pg_guard]
pub unsafe extern "C-unwind" fn bind_plan(plan: *mut pg_sys::PlannedStmt) {
    // SAFETY: the plan was made just now.
    unsafe { (*plan).dependsOnRole |= mask::depends_on_role(plan) };
    inject::point(Point::PlanBound);
}

/// The statement in whose place COPY shows masks, or the same one.
#[pg_guard]
pub unsafe extern "C-unwind" fn with_masks(pstmt: *mut pg_sys::PlannedStmt) -> *mut pg_sys::PlannedStmt {
    if !raw::IsTransactionState() || raw::IsAbortedTransactionBlockState() {
        return pstmt;
    }
    // SAFETY: PostgreSQL passes a planned statement that wraps a utility statement.
    unsafe { mask::as_query(pstmt) }.unwrap_or_else(|report| refuse_masked(report))
}

#[pg_guard]
pub unsafe extern "C-unwind" fn hide_widths(
    root: *mut pg_sys::PlannerInfo,
    oid: pg_sys::Oid,
    relation: *mut pg_sys::RelOptInfo,
) {
    // SAFETY: PostgreSQL has opened and locked the table, and is at work on the rest.
    unsafe { mask::hide_widths(root, oid, relation) };
}

#[pg_guard]
pub unsafe extern "C-unwind" fn is_kept(function: pg_sys::Oid) -> bool {
    mask::keeps_its_frame(function.to_u32())
}

#[pg_guard]
pub unsafe extern "C-unwind" fn before_start(query_desc: *mut pg_sys::QueryDesc, depth: u32) -> Before {
    if gate::is_impersonating() {
        witness(|handlers| (handlers.begins)(&Beginning::Query(StartedQuery(query_desc)), depth));
    }
    // SAFETY: PostgreSQL passes a descriptor with its planned statement.
    let query = unsafe { Query::of(query_desc) };
    decide(|handlers| (handlers.start)(query_desc as usize, &query, depth))
}

#[pg_guard]
pub unsafe extern "C-unwind" fn after_preparation(before: Before) {
    decide(|handlers| (handlers.prepared)(before));
}

#[pg_guard]
pub unsafe extern "C-unwind" fn after_analysis(pstate: *mut pg_sys::ParseState, query: *mut pg_sys::Query) {
    let Some(handlers) = HANDLERS.get() else { return };
    (handlers.parsed)();
    // SAFETY: PostgreSQL passes the state and the result of an analysis that succeeded.
    if let Some(look_up) = unsafe { nodes::analyzed(&*pstate, &*query) } {
        (handlers.looked_up)(&look_up);
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn before_run(execution: usize, depth: u32) -> Before {
    decide(|handlers| (handlers.run)(execution, depth))
}

#[pg_guard]
pub unsafe extern "C-unwind" fn after_run(query_desc: *mut pg_sys::QueryDesc, limit: u64) {
    // SAFETY: the descriptor of the query that ran just now.
    let progress = unsafe { statement::progress(query_desc, limit) };
    witness(|handlers| (handlers.ran)(query_desc as usize, progress));
}

#[pg_guard]
pub unsafe extern "C-unwind" fn after_utility(completion: *mut pg_sys::QueryCompletion, depth: u32) {
    // SAFETY: null, or what the statement filled.
    let rows = unsafe { statement::rows(completion) };
    witness(|handlers| (handlers.utility_ended)(depth, rows));
}

#[pg_guard]
pub unsafe extern "C-unwind" fn extension_row() -> ExtensionRow {
    catalog::extension_row()
}

/// CREATE EXTENSION IF NOT EXISTS is no change where it is, and one that is refused no refusal to impersonate.
#[pg_guard]
pub unsafe extern "C-unwind" fn after_extension(before: ExtensionRow) {
    // SAFETY: a script without a statement does not make its new version visible.
    unsafe { pg_sys::CommandCounterIncrement() };
    if catalog::extension_row() != before
        && let Some(Err(report)) = HANDLERS.get().map(|handlers| (handlers.extension_changed)())
    {
        raise(report);
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn on_change(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: c_int,
    arg: *mut c_void,
) {
    use pg_sys::ObjectAccessType::*;
    // SAFETY: PostgreSQL passes the structure that belongs to the kind of access, or null.
    let (change, is_internal) = unsafe {
        match access {
            OAT_POST_CREATE => (
                Change::Created,
                (arg as *const pg_sys::ObjectAccessPostCreate).as_ref().is_some_and(|post| post.is_internal),
            ),
            OAT_POST_ALTER => (
                Change::Altered,
                (arg as *const pg_sys::ObjectAccessPostAlter).as_ref().is_some_and(|post| post.is_internal),
            ),
            OAT_DROP => (
                Change::Dropped,
                (arg as *const pg_sys::ObjectAccessDrop)
                    .as_ref()
                    .is_some_and(|drop| drop.dropflags & pg_sys::PERFORM_DELETION_INTERNAL as c_int != 0),
            ),
            _ => return,
        }
    };
    // What is made or dropped of a table alters it.
    let change = if sub == 0 { change } else { Change::Altered };
    if !is_internal
        && !is_exempt()
        && let Some(handlers) = HANDLERS.get()
    {
        (handlers.changes)(change, class.to_u32(), object.to_u32());
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn after_statement(depth: u32, before: Before) {
    decide(|handlers| (handlers.done)(depth, before));
}

#[pg_guard]
pub unsafe extern "C-unwind" fn after_end(execution: usize) {
    witness(|handlers| (handlers.end)(execution));
}

#[pg_guard]
pub unsafe extern "C-unwind" fn check_permissions(list: *mut pg_sys::List) {
    // SAFETY: by contract of permitted().
    let permissions = unsafe { Permissions::of_list(list) };
    if is_worker() {
        if let Some(Err(report)) = HANDLERS.get().map(|handlers| (handlers.worker_permissions)(permissions)) {
            raise(report);
        }
    } else {
        decide(|handlers| (handlers.permissions)(permissions));
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn before_function(function: pg_sys::Oid, depth: u32) {
    decide(|handlers| (handlers.function)(function.to_u32(), depth));
}

#[pg_guard]
pub unsafe extern "C-unwind" fn before_function_of_system(function: pg_sys::Oid) {
    if let Some(Err(report)) = HANDLERS.get().map(|handlers| (handlers.function_of_system)(function.to_u32())) {
        raise(report);
    }
}

#[pg_guard]
pub unsafe extern "C-unwind" fn refuse_statement() {
    if let Some(Err(report)) = HANDLERS.get().map(|handlers| (handlers.statement_of_system)()) {
        raise(report);
    }
}
