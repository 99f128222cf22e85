//! PostgreSQL functions declared without pgrx's guard.
//!
//! The guard turns an ERROR into a Rust panic and back and drops CONTEXT, cursor position, constraint and column
//! names on the way. In a plain frame that owns nothing, an ERROR may pass by longjmp instead, untouched; and the
//! getters below cannot raise one at all.

use pgrx::pg_sys;
use std::ffi::{c_char, c_int, c_void};

unsafe extern "C-unwind" {
    pub fn standard_ProcessUtility(
        pstmt: *mut pg_sys::PlannedStmt,
        query_string: *const c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        params: pg_sys::ParamListInfo,
        query_env: *mut pg_sys::QueryEnvironment,
        dest: *mut pg_sys::DestReceiver,
        qc: *mut pg_sys::QueryCompletion,
    );
    pub fn standard_ExecutorStart(query_desc: *mut pg_sys::QueryDesc, eflags: c_int);
    pub fn standard_ExecutorFinish(query_desc: *mut pg_sys::QueryDesc);
    pub fn SPI_prepare(src: *const c_char, nargs: c_int, argtypes: *mut pg_sys::Oid) -> pg_sys::SPIPlanPtr;
    pub fn SPI_execute(src: *const c_char, read_only: bool, tcount: std::ffi::c_long) -> c_int;
    pub fn standard_ExecutorEnd(query_desc: *mut pg_sys::QueryDesc);
    pub fn SetSessionAuthorization(userid: pg_sys::Oid, is_superuser: bool);
    pub fn set_config_option(
        name: *const c_char,
        value: *const c_char,
        context: pg_sys::GucContext::Type,
        source: pg_sys::GucSource::Type,
        action: pg_sys::GucAction::Type,
        change_val: bool,
        elevel: c_int,
        is_reload: bool,
    ) -> c_int;
    pub fn exprType(expr: *const pg_sys::Node) -> pg_sys::Oid;
    pub fn check_functions_in_node(
        node: *mut pg_sys::Node,
        checker: Option<unsafe extern "C-unwind" fn(pg_sys::Oid, *mut c_void) -> bool>,
        context: *mut c_void,
    ) -> bool;
}

// These raise nothing, so that nothing unwinds out of them.
unsafe extern "C" {
    /// `miscinit.c`: returns a static variable.
    pub safe fn GetSessionUserId() -> pg_sys::Oid;
    /// `miscinit.c`: returns a static variable.
    pub safe fn GetOuterUserId() -> pg_sys::Oid;
    /// `miscinit.c`: returns a static variable.
    pub safe fn GetUserId() -> pg_sys::Oid;
    /// `miscinit.c`: copies two static variables.
    pub fn GetUserIdAndSecContext(userid: *mut pg_sys::Oid, sec_context: *mut c_int);
    /// `miscinit.c`: assigns two static variables.
    pub fn SetUserIdAndSecContext(userid: pg_sys::Oid, sec_context: c_int);
    /// `xact.c`: reads the transaction state.
    pub safe fn IsTransactionState() -> bool;
    /// `xact.c`: reads the transaction state.
    pub safe fn IsAbortedTransactionBlockState() -> bool;
    /// `xact.c`: reads the transaction state.
    pub safe fn IsTransactionBlock() -> bool;
    /// `xact.c`: reads the transaction state.
    pub safe fn GetCurrentTransactionNestLevel() -> c_int;
    /// `xact.c`: returns the id of the transaction, 0 if it has none.
    pub safe fn GetTopTransactionIdIfAny() -> u32;
    /// `sequence.c`: forgets what `currval()` and `lastval()` know.
    pub safe fn ResetSequenceCaches();
    /// `guc.c`: counts a static variable up.
    pub safe fn NewGUCNestLevel() -> c_int;
    /// `namespace.c`: copies two static variables.
    pub fn GetTempNamespaceState(schema: *mut pg_sys::Oid, toast_schema: *mut pg_sys::Oid);
    /// `backend_status.c`: writes this backend's entry; the text is copied.
    pub fn pgstat_report_activity(state: pg_sys::BackendState::Type, text: *const c_char);
    /// `timestamp.c`: reads the clock.
    pub safe fn GetCurrentTimestamp() -> pg_sys::TimestampTz;
    /// `mbutils.c`: returns a static variable.
    pub safe fn GetDatabaseEncoding() -> c_int;
    /// `xact.c`: returns a static variable.
    pub safe fn GetCurrentStatementStartTimestamp() -> pg_sys::TimestampTz;
}
