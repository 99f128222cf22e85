//! The executor, utility and object access hooks, chained so that PostgreSQL's own errors pass untouched.
//!
//! Each hook is a *plain* frame: it owns nothing that would have to be dropped, calls a guarded "before"
//! ([`crate::pg::hook::guarded`]), then the previous hook or PostgreSQL's own function through an unguarded declaration,
//! then a guarded "after". An ERROR in the middle leaves the frame by longjmp with all its fields; cleaning up after it
//! is the business of the transaction callbacks ([`crate::pg::hook::xact`]).

use crate::pg::hook::depth::{DEPTH, SETTINGS_LEVEL, depth};
use crate::pg::hook::guarded::*;
use crate::pg::hook::handlers::{Before, StatementHandlers};
use crate::pg::hook::{cursor, nodes, reported};
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::{compat, raw};
use crate::pg::{gate, mask};
use pgrx::pg_sys;
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::Ordering::Relaxed;

/// What a plain frame keeps across the call.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Frame {
    depth: u32,
    before: Before,
}

/// The same of a query that is planned.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Planning {
    frame: Frame,
    /// What [`mask::planning`] said before.
    outer: u32,
    /// More is asked of whoever runs it, by who that is: [`mask::ask_for_reads`].
    is_asked: bool,
}

/// Installs the hooks. Called once, from `_PG_init`.
pub fn install(handlers: StatementHandlers) {
    if !answer_with(handlers) {
        return;
    }
    // SAFETY: _PG_init runs before any statement of this process, in its only thread.
    unsafe {
        PREVIOUS_UTILITY = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
        PREVIOUS_START = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
        PREVIOUS_ANALYZE = pg_sys::post_parse_analyze_hook;
        pg_sys::post_parse_analyze_hook = Some(post_parse_analyze);
        PREVIOUS_FINISH = pg_sys::ExecutorFinish_hook;
        pg_sys::ExecutorFinish_hook = Some(executor_finish);
        PREVIOUS_END = pg_sys::ExecutorEnd_hook;
        pg_sys::ExecutorEnd_hook = Some(executor_end);
        PREVIOUS_ACCESS = pg_sys::object_access_hook;
        PREVIOUS_LOOK_UP = pg_sys::needs_fmgr_hook;
        pg_sys::object_access_hook = Some(object_access);
        pg_sys::needs_fmgr_hook = Some(needs_fmgr);
        PREVIOUS_STATISTICS = pg_sys::get_relation_stats_hook;
        pg_sys::get_relation_stats_hook = Some(statistics);
    }
    compat::hook_planner::<Ours>();
    compat::hook_relations::<Ours>();
    compat::hook_executor_run::<Ours>();
    compat::hook_executor_check_perms::<Ours>();
}

static mut PREVIOUS_UTILITY: pg_sys::ProcessUtility_hook_type = None;
static mut PREVIOUS_START: pg_sys::ExecutorStart_hook_type = None;
static mut PREVIOUS_ANALYZE: pg_sys::post_parse_analyze_hook_type = None;
static mut PREVIOUS_FINISH: pg_sys::ExecutorFinish_hook_type = None;
static mut PREVIOUS_END: pg_sys::ExecutorEnd_hook_type = None;
static mut PREVIOUS_ACCESS: pg_sys::object_access_hook_type = None;
static mut PREVIOUS_LOOK_UP: pg_sys::needs_fmgr_hook_type = None;
static mut PREVIOUS_STATISTICS: pg_sys::get_relation_stats_hook_type = None;

#[allow(ffi_unwind_calls)]
unsafe extern "C-unwind" fn process_utility(
    pstmt: *mut pg_sys::PlannedStmt,
    query_string: *const c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    query_env: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    qc: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: the arguments are PostgreSQL's, passed on as they came.
    unsafe {
        inject::frame(Point::UtilityBegins);
        if cursor::is_declaration(pstmt) {
            cursor::note(pstmt);
        }
        if gate::is_analysis() {
            refuse_statement();
        }
        let depth = depth();
        let before = if gate::is_idle() { Before::default() } else { before_utility(pstmt, query_string, depth) };
        let frame = enter(depth, before);
        let extension = if nodes::changes_extension(pstmt) { Some(extension_row()) } else { None };
        let pstmt = if mask::may_be_used() && nodes::is_copy(pstmt) { with_masks(pstmt) } else { pstmt };
        let context =
            if before.as_nested { pg_sys::ProcessUtilityContext::PROCESS_UTILITY_QUERY } else { context };
        match PREVIOUS_UTILITY {
            Some(previous) => previous(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc),
            None => raw::standard_ProcessUtility(
                pstmt,
                query_string,
                read_only_tree,
                context,
                params,
                query_env,
                dest,
                qc,
            ),
        }
        inject::frame(Point::UtilityRan);
        if let Some(before) = extension {
            after_extension(before);
        }
        if gate::is_audited() {
            after_utility(qc, depth);
        }
        leave(frame);
        inject::frame(Point::UtilityEnds);
    }
}

#[allow(ffi_unwind_calls)]
unsafe extern "C-unwind" fn post_parse_analyze(
    pstate: *mut pg_sys::ParseState,
    query: *mut pg_sys::Query,
    jumble: compat::Jumble,
) {
    // SAFETY: as in process_utility().
    unsafe {
        inject::frame(Point::AnalysisBegins);
        if let Some(previous) = PREVIOUS_ANALYZE {
            previous(pstate, query, jumble);
        }
        if nodes::is_sensitive_utility(pstate, query) {
            // Statistics of statements have no place for it.
            (*query).queryId = 0;
        }
        if gate::is_impersonating() && !nodes::has_no_names(query) {
            after_analysis(pstate, query);
        }
        inject::frame(Point::AnalysisEnds);
    }
}

/// The second half of a frame in which a query was planned or started, but no statement completed.
///
/// # Safety
/// Called from a plain frame, which an error may leave by longjmp.
unsafe fn leave_preparation(frame: Frame) {
    DEPTH.store(frame.depth, Relaxed);
    if frame.depth == 0 {
        reported::ends();
    }
    if frame.before.settings_level > 0 {
        SETTINGS_LEVEL.store(0, Relaxed);
        // SAFETY: by contract.
        unsafe { after_preparation(frame.before) };
    }
}

#[allow(ffi_unwind_calls)]
unsafe extern "C-unwind" fn executor_start(query_desc: *mut pg_sys::QueryDesc, eflags: c_int) {
    // SAFETY: as in process_utility().
    unsafe {
        inject::frame(Point::StartBegins);
        if gate::is_analysis() {
            refuse_statement();
        }
        let depth = depth();
        let before = if gate::is_idle() { Before::default() } else { before_start(query_desc, depth) };
        if before.without_workers {
            // A plan from the cache may be of another time. Without the flag the leader runs all of it.
            (*(*query_desc).plannedstmt).parallelModeNeeded = false;
        }
        let frame = enter(depth, before);
        match PREVIOUS_START {
            Some(previous) => previous(query_desc, eflags),
            None => raw::standard_ExecutorStart(query_desc, eflags),
        }
        inject::frame(Point::StartRan);
        leave_preparation(frame);
        inject::frame(Point::StartEnds);
    }
}

#[allow(ffi_unwind_calls)]
unsafe extern "C-unwind" fn executor_finish(query_desc: *mut pg_sys::QueryDesc) {
    // SAFETY: as in process_utility().
    unsafe {
        // Triggers run in here: what they do is not top-level.
        let depth = depth();
        DEPTH.store(depth + 1, Relaxed);
        inject::frame(Point::FinishBegins);
        match PREVIOUS_FINISH {
            Some(previous) => previous(query_desc),
            None => raw::standard_ExecutorFinish(query_desc),
        }
        inject::frame(Point::FinishEnds);
        DEPTH.store(depth, Relaxed);
    }
}

#[allow(ffi_unwind_calls)]
unsafe extern "C-unwind" fn executor_end(query_desc: *mut pg_sys::QueryDesc) {
    // SAFETY: as in process_utility().
    unsafe {
        inject::frame(Point::EndBegins);
        match PREVIOUS_END {
            Some(previous) => previous(query_desc),
            None => raw::standard_ExecutorEnd(query_desc),
        }
        inject::frame(Point::EndRan);
        if gate::is_confined() {
            after_end(query_desc as usize);
        }
        inject::frame(Point::EndEnds);
    }
}

#[allow(ffi_unwind_calls)]
unsafe extern "C-unwind" fn object_access(
    access: pg_sys::ObjectAccessType::Type,
    class: pg_sys::Oid,
    object: pg_sys::Oid,
    sub: c_int,
    arg: *mut c_void,
) {
    // SAFETY: as in process_utility().
    unsafe {
        if let Some(previous) = PREVIOUS_ACCESS {
            previous(access, class, object, sub, arg);
        }
        if access == pg_sys::ObjectAccessType::OAT_FUNCTION_EXECUTE {
            inject::frame(Point::FunctionBegins);
            if gate::is_restricted() || gate::is_dry_run() {
                before_function_of_system(object);
            }
            reported::begins();
            if !gate::is_idle() {
                before_function(object, depth());
            }
            inject::frame(Point::FunctionAllowed);
        } else if gate::is_audited() {
            on_change(access, class, object, sub, arg);
            inject::frame(Point::ObjectChanged);
        }
    }
}

/// PostgreSQL is about to call a function, whatever found it: the planner calls those of operators on values from
/// statistics, and functions of JSON those of casts, without a look at who may call them.
#[allow(ffi_unwind_calls)]
unsafe extern "C-unwind" fn needs_fmgr(function: pg_sys::Oid) -> bool {
    // SAFETY: as in process_utility().
    unsafe {
        if gate::is_restricted() || gate::is_dry_run() {
            before_function_of_system(function);
        }
        // Directly by the planner, not by something that it runs.
        let is_planned = mask::planning() != 0 && mask::planning() == depth();
        PREVIOUS_LOOK_UP.is_some_and(|previous| previous(function)) || is_planned && is_kept(function)
    }
}

/// The planner looks for statistics of a column: what is masked is as if it had none.
#[allow(ffi_unwind_calls)]
unsafe extern "C-unwind" fn statistics(
    root: *mut pg_sys::PlannerInfo,
    entry: *mut pg_sys::RangeTblEntry,
    number: pg_sys::AttrNumber,
    found: *mut pg_sys::VariableStatData,
) -> bool {
    // SAFETY: as in process_utility().
    unsafe {
        mask::may_be_used() && mask::are_statistics_hidden(root, entry, number)
            || PREVIOUS_STATISTICS.is_some_and(|previous| previous(root, entry, number, found))
    }
}

/// The frames of hooks whose signatures differ between versions.
struct Ours;

impl compat::Frames for Ours {
    type Frame = Frame;
    type Planning = Planning;

    unsafe fn enter_plan(parse: *mut pg_sys::Query, cursor_options: c_int) -> (Planning, c_int) {
        inject::frame(Point::PlanBegins);
        let depth = depth();
        let is_checked = if gate::is_impersonating() { !gate::resumes() } else { gate::is_idle() };
        // SAFETY: by contract.
        let before = if is_checked { Before::default() } else { unsafe { before_plan(parse, depth) } };
        let cursor_options = if before.without_workers {
            cursor_options & !(pg_sys::CURSOR_OPT_PARALLEL_OK as c_int)
        } else {
            cursor_options
        };
        // Functions may run in here, too: what they do is not top-level.
        // SAFETY: by contract.
        let is_asked = unsafe { mask::are_reads_unasked(parse) };
        let planning = Planning { frame: enter(depth, before), outer: mask::planning(), is_asked };
        if is_asked {
            // SAFETY: by contract.
            unsafe { ask_for_reads(parse) };
        }
        if mask::may_be_used() {
            // SAFETY: by contract.
            unsafe { mask_query(parse, depth + 1) };
        }
        (planning, cursor_options)
    }

    unsafe fn leave_plan(planning: Planning, plan: *mut pg_sys::PlannedStmt) {
        inject::frame(Point::PlanRan);
        if mask::may_be_used() {
            // SAFETY: the plan was made just now.
            unsafe { bind_plan(plan) };
        }
        if planning.is_asked {
            // SAFETY: as above.
            unsafe { (*plan).dependsOnRole = true };
        }
        mask::set_planning(planning.outer);
        // SAFETY: by contract.
        unsafe { leave_preparation(planning.frame) };
        inject::frame(Point::PlanEnds);
    }

    unsafe fn learned(root: *mut pg_sys::PlannerInfo, table: pg_sys::Oid, relation: *mut pg_sys::RelOptInfo) {
        // SAFETY: by contract.
        unsafe {
            if mask::may_be_used() && mask::has_hidden(root) {
                mask::hide_extended_statistics(root, relation);
                hide_widths(root, table, relation);
            }
        }
    }

    unsafe fn enter_run(query_desc: *mut pg_sys::QueryDesc) -> Frame {
        inject::frame(Point::RunBegins);
        let depth = depth();
        let before = if gate::is_idle() {
            Before::default()
        } else {
            // SAFETY: by contract.
            unsafe { before_run(query_desc as usize, depth) }
        };
        enter(depth, before)
    }

    unsafe fn leave_run(frame: Frame, query_desc: *mut pg_sys::QueryDesc, limit: u64) {
        // SAFETY: by contract.
        unsafe {
            inject::frame(Point::RunRan);
            if gate::is_audited() {
                after_run(query_desc, limit);
            }
            leave(frame);
            inject::frame(Point::RunEnds);
        }
    }

    unsafe fn permitted(entries: *mut pg_sys::List) -> bool {
        if !gate::is_idle() {
            // SAFETY: by contract.
            unsafe { check_permissions(entries) };
        }
        inject::frame(Point::PermissionsChecked);
        true
    }
}

fn enter(depth: u32, before: Before) -> Frame {
    if before.settings_level > 0 {
        SETTINGS_LEVEL.store(before.settings_level, Relaxed);
    }
    DEPTH.store(depth + 1, Relaxed);
    reported::begins();
    Frame { depth, before }
}

/// The second half of a frame that completed.
///
/// # Safety
/// Called from a plain frame, which an error may leave by longjmp.
unsafe fn leave(frame: Frame) {
    DEPTH.store(frame.depth, Relaxed);
    if frame.before.settings_level > 0 {
        SETTINGS_LEVEL.store(0, Relaxed);
    }
    if frame.before.settings_level > 0 || frame.before.reimposes || gate::has_presented() {
        // SAFETY: by contract.
        unsafe { after_statement(frame.depth, frame.before) };
    }
    if frame.depth == 0 {
        reported::ends();
    }
}
