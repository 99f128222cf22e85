//! The executor, utility and object access hooks, chained so that PostgreSQL's own errors pass untouched.
//!
//! Each hook is a *plain* frame: it owns nothing that would have to be dropped, calls a guarded "before", then the
//! previous hook or PostgreSQL's own function through an unguarded declaration, then a guarded "after". An ERROR in
//! the middle leaves the frame by longjmp with all its fields; cleaning up after it is the business of the
//! transaction callbacks ([`crate::pg::hook::xact`]).

use crate::core::audit::trail::Handle;
use crate::core::guard::Statement;
use crate::core::session::names::LookUp;
use crate::pg::hook::depth::{DEPTH, SETTINGS_LEVEL, depth};
use crate::pg::hook::nodes::{self, Handled, Permissions, Query, References};
use crate::pg::hook::statement::{self, Opening, Progress};
use crate::pg::hook::{cursor, reported};
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::report::{Report, raise};
use crate::pg::sys::{compat, raw};
use crate::pg::{gate, mask};
use once_cell::sync::OnceCell;
use pgrx::{pg_guard, pg_sys};
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::Ordering::Relaxed;

/// What the hooks decide; see `crate::hooks`.
pub struct StatementHandlers {
    /// Before a utility statement: `(statement, what it locks or rebuilds, nesting depth)`.
    pub utility: fn(&Statement, &Handled, u32) -> Result<Before, Report>,
    /// After a statement was parsed, whatever it is.
    pub parsed: fn(),
    /// After the names of a statement were looked up.
    pub looked_up: fn(&LookUp),
    /// Before a query is planned: `(what it refers to, nesting depth)`.
    pub plan: fn(&References, u32) -> Result<Before, Report>,
    /// Before a query starts: `(address of its descriptor, the query, nesting depth)`.
    pub start: fn(usize, &Query, u32) -> Result<Before, Report>,
    /// After a query was planned or started: `(what was decided before it)`.
    pub prepared: fn(Before) -> Result<(), Report>,
    /// Before a query runs (again): `(address of its descriptor, nesting depth)`.
    pub run: fn(usize, u32) -> Result<Before, Report>,
    /// After a statement completed: `(nesting depth, what was decided before it)`.
    pub done: fn(u32, Before) -> Result<(), Report>,
    /// After a query ended: `(address of its descriptor)`.
    pub end: fn(usize) -> Result<(), Report>,
    /// When the permissions of a query or COPY are checked.
    pub permissions: fn(Permissions) -> Result<(), Report>,
    /// The same in a parallel worker, whose leader may be impersonating somebody.
    pub worker_permissions: fn(Permissions) -> Result<(), Report>,
    /// Before a function is executed: `(its OID, nesting depth)`.
    pub function: fn(u32, u32) -> Result<(), Report>,
    /// The same while the system account runs a statement, or one is analysed for it, and in a dry run: `(its OID)`.
    pub function_of_system: fn(u32) -> Result<(), Report>,
    /// A statement begins where a text is only analysed.
    pub statement_of_system: fn() -> Result<(), Report>,
    /// An error of ours is about to be raised.
    pub refused: fn(&Report),
    /// While somebody is impersonated: a statement begins: `(it, nesting depth)`.
    pub begins: fn(&Beginning, u32) -> Result<(), Report>,
    /// While that is audited: a query ran, and came so far: `(address of its descriptor, how far)`.
    pub ran: fn(usize, Progress) -> Result<(), Report>,
    /// Likewise: a utility statement completed: `(nesting depth, rows)`.
    pub utility_ended: fn(u32, u64) -> Result<(), Report>,
    /// Likewise: an object was made or changed, or is about to be dropped: `(what, class, OID)`.
    pub changes: fn(Change, u32, u32),
}

/// A statement that begins.
pub enum Beginning {
    Query(StartedQuery),
    Utility(*mut pg_sys::PlannedStmt, *const c_char),
}

impl Beginning {
    pub fn opening(&self, with_text: bool) -> Opening {
        // SAFETY: made in the hooks only, of what PostgreSQL passed to them.
        unsafe {
            match self {
                Beginning::Query(query) => Opening::of_query(query.0, with_text),
                Beginning::Utility(pstmt, source) => Opening::of_utility(*pstmt, *source, with_text),
            }
        }
    }

    /// By what its hooks recognize it again.
    pub fn key(&self, depth: u32) -> Handle {
        match self {
            Beginning::Query(query) => Handle::Execution(query.execution()),
            Beginning::Utility(..) => Handle::Utility(depth),
        }
    }
}

/// A query that is about to start.
pub struct StartedQuery(*mut pg_sys::QueryDesc);

impl StartedQuery {
    pub fn execution(&self) -> usize {
        self.0 as usize
    }

    pub fn permissions(&self) -> Permissions {
        // SAFETY: as in Beginning::opening().
        unsafe { Query::of(self.0).permissions }
    }
}

/// What is done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Created,
    Altered,
    Dropped,
}

static HANDLERS: OnceCell<StatementHandlers> = OnceCell::new();

/// What a handler wants done with the statement it was asked about.
#[derive(Clone, Copy, Default)]
#[repr(C)]
pub struct Before {
    /// Pass a utility statement on as if it came from inside a function, so that PostgreSQL refuses to commit in it.
    pub as_nested: bool,
    /// Plan or run a query without parallel workers, in which these hooks decide nothing.
    pub without_workers: bool,
    /// A SET that may change nothing.
    pub is_trial: bool,
    /// What a RESET took off that was set for the user comes back when the statement is done.
    pub reimposes: bool,
    /// Nesting level of settings to go back to when the statement is done; 0 for none.
    pub settings_level: i32,
}

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
}

/// Installs the hooks. Called once, from `_PG_init`.
pub fn install(handlers: StatementHandlers) {
    if HANDLERS.set(handlers).is_err() {
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
    }
    compat::hook_planner::<Ours>();
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
        let planning = Planning { frame: enter(depth, before), outer: mask::planning() };
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
        mask::set_planning(planning.outer);
        // SAFETY: by contract.
        unsafe { leave_preparation(planning.frame) };
        inject::frame(Point::PlanEnds);
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
        unsafe { after_statement(frame) };
    }
    if frame.depth == 0 {
        reported::ends();
    }
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
    if is_exempt() {
        return T::default();
    }
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

/// For what is decided in a transaction that has failed, too: the end of that is on record as well.
fn witness<T: Default>(decision: impl FnOnce(&StatementHandlers) -> Result<T, Report>) -> T {
    // SAFETY: a static variable.
    if unsafe { pg_sys::ParallelWorkerNumber >= 0 } {
        return T::default();
    }
    match HANDLERS.get().map(decision) {
        Some(Ok(decided)) => decided,
        Some(Err(report)) => refuse(report),
        None => T::default(),
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn before_utility(
    pstmt: *mut pg_sys::PlannedStmt,
    query_string: *const c_char,
    depth: u32,
) -> Before {
    if gate::is_impersonating() {
        witness(|handlers| (handlers.begins)(&Beginning::Utility(pstmt, query_string), depth));
    }
    // SAFETY: PostgreSQL passes a planned statement that wraps a utility statement.
    let (statement, handled) = unsafe { (nodes::classify(pstmt), Handled::by(pstmt)) };
    decide(|handlers| (handlers.utility)(&statement, &handled, depth))
}

#[pg_guard]
unsafe extern "C-unwind" fn before_plan(parse: *mut pg_sys::Query, depth: u32) -> Before {
    // SAFETY: PostgreSQL passes a query that was analyzed and rewritten.
    let references = unsafe { References::of(parse) };
    decide(|handlers| (handlers.plan)(&references, depth))
}

/// Puts masks into a query that is about to be planned.
#[pg_guard]
unsafe extern "C-unwind" fn mask_query(parse: *mut pg_sys::Query, depth: u32) {
    // SAFETY: PostgreSQL passes a query that was analyzed and rewritten, whose tables are locked, and which is the planner's
    // to change.
    if let Err(report) = unsafe { mask::rewrite(parse) } {
        // Of a login that impersonates nobody it is no refusal to impersonate.
        if gate::is_impersonating() { refuse(report) } else { raise(report) }
    }
    mask::set_planning(if mask::may_be_used() && mask::is_for_subscriber() { depth } else { 0 });
}

/// A plan with masks, or of what has some, is not for another role.
#[pg_guard]
unsafe extern "C-unwind" fn bind_plan(plan: *mut pg_sys::PlannedStmt) {
    // SAFETY: the plan was made just now.
    unsafe { (*plan).dependsOnRole |= mask::depends_on_role(plan) };
}

/// The statement in whose place COPY shows masks, or the same one.
#[pg_guard]
unsafe extern "C-unwind" fn with_masks(pstmt: *mut pg_sys::PlannedStmt) -> *mut pg_sys::PlannedStmt {
    if !raw::IsTransactionState() || raw::IsAbortedTransactionBlockState() {
        return pstmt;
    }
    // SAFETY: PostgreSQL passes a planned statement that wraps a utility statement.
    unsafe { mask::as_query(pstmt) }
}

#[pg_guard]
unsafe extern "C-unwind" fn is_kept(function: pg_sys::Oid) -> bool {
    mask::keeps_its_frame(function.to_u32())
}

#[pg_guard]
unsafe extern "C-unwind" fn before_start(query_desc: *mut pg_sys::QueryDesc, depth: u32) -> Before {
    if gate::is_impersonating() {
        witness(|handlers| (handlers.begins)(&Beginning::Query(StartedQuery(query_desc)), depth));
    }
    // SAFETY: PostgreSQL passes a descriptor with its planned statement.
    let query = unsafe { Query::of(query_desc) };
    decide(|handlers| (handlers.start)(query_desc as usize, &query, depth))
}

#[pg_guard]
unsafe extern "C-unwind" fn after_preparation(before: Before) {
    decide(|handlers| (handlers.prepared)(before));
}

#[pg_guard]
unsafe extern "C-unwind" fn after_analysis(pstate: *mut pg_sys::ParseState, query: *mut pg_sys::Query) {
    let Some(handlers) = HANDLERS.get() else { return };
    (handlers.parsed)();
    // SAFETY: PostgreSQL passes the state and the result of an analysis that succeeded.
    if let Some(look_up) = unsafe { nodes::analyzed(&*pstate, &*query) } {
        (handlers.looked_up)(&look_up);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn before_run(execution: usize, depth: u32) -> Before {
    decide(|handlers| (handlers.run)(execution, depth))
}

#[pg_guard]
unsafe extern "C-unwind" fn after_run(query_desc: *mut pg_sys::QueryDesc, limit: u64) {
    // SAFETY: the descriptor of the query that ran just now.
    let progress = unsafe { statement::progress(query_desc, limit) };
    witness(|handlers| (handlers.ran)(query_desc as usize, progress));
}

#[pg_guard]
unsafe extern "C-unwind" fn after_utility(completion: *mut pg_sys::QueryCompletion, depth: u32) {
    // SAFETY: null, or what the statement filled.
    let rows = unsafe { statement::rows(completion) };
    witness(|handlers| (handlers.utility_ended)(depth, rows));
}

#[pg_guard]
unsafe extern "C-unwind" fn on_change(
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
unsafe extern "C-unwind" fn after_statement(frame: Frame) {
    decide(|handlers| (handlers.done)(frame.depth, frame.before));
}

#[pg_guard]
unsafe extern "C-unwind" fn after_end(execution: usize) {
    witness(|handlers| (handlers.end)(execution));
}

#[pg_guard]
unsafe extern "C-unwind" fn check_permissions(list: *mut pg_sys::List) {
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
unsafe extern "C-unwind" fn before_function(function: pg_sys::Oid, depth: u32) {
    decide(|handlers| (handlers.function)(function.to_u32(), depth));
}

#[pg_guard]
unsafe extern "C-unwind" fn before_function_of_system(function: pg_sys::Oid) {
    if let Some(Err(report)) = HANDLERS.get().map(|handlers| (handlers.function_of_system)(function.to_u32())) {
        raise(report);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn refuse_statement() {
    if let Some(Err(report)) = HANDLERS.get().map(|handlers| (handlers.statement_of_system)()) {
        raise(report);
    }
}
