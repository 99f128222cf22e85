//! What the hooks ask, and in which words; `crate::hooks` answers.

use crate::core::audit::trail::Handle;
use crate::core::guard::Statement;
use crate::core::session::names::LookUp;
use crate::pg::hook::handled::Handled;
use crate::pg::hook::nodes::{Permissions, Query};
use crate::pg::hook::references::References;
use crate::pg::hook::statement::{Opening, Progress};
use crate::pg::sys::report::Report;
use pgrx::pg_sys;
use std::ffi::c_char;

/// What the hooks decide.
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
    /// This extension was made or updated.
    pub extension_changed: fn() -> Result<(), Report>,
    /// While somebody is impersonated and audited: an object was made or changed, or is about to be dropped: `(what, class, OID)`.
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
pub struct StartedQuery(pub(super) *mut pg_sys::QueryDesc);

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
