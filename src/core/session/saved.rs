//! Settings of a session as they were when an impersonation began, to go back to when it ends.

use std::ffi::CString;

pub struct Saved {
    pub name: CString,
    /// The value that the session had set.
    pub value: CString,
    /// With whose rights it was set (PostgreSQL's `GucContext`).
    pub context: u32,
}

/// A setting that outlasts the undoing of what was set.
pub struct Kept {
    pub name: CString,
    pub value: CString,
    pub is_local: bool,
}
