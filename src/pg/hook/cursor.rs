//! Cursors that outlive the transaction in which they were declared. Their rows are the login's: no hook sees them being
//! fetched, so nobody may be impersonated while there is one.

use crate::pg::sys::inject::{self, Point};
use pgrx::{is_a, pg_guard, pg_sys};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_int};

thread_local! {
    /// Names that were declared so.
    static HELD: RefCell<Vec<CString>> = const { RefCell::new(Vec::new()) };
}

/// Whether a utility statement declares such a cursor. For use in a plain frame.
///
/// # Safety
/// `pstmt` is a planned statement that wraps a utility statement.
#[inline]
pub unsafe fn is_declaration(pstmt: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: by contract; the cast follows the tag.
    unsafe {
        let node = (*pstmt).utilityStmt;
        is_a(node, pg_sys::NodeTag::T_DeclareCursorStmt)
            && (*(node as *const pg_sys::DeclareCursorStmt)).options & pg_sys::CURSOR_OPT_HOLD as c_int != 0
    }
}

/// Remembers the name.
///
/// # Safety
/// As [`is_declaration`], which said yes.
#[pg_guard]
pub unsafe extern "C-unwind" fn note(pstmt: *const pg_sys::PlannedStmt) {
    // SAFETY: by contract; a cursor has a NUL-terminated name.
    let name = unsafe {
        let declaration = (*pstmt).utilityStmt as *const pg_sys::DeclareCursorStmt;
        CStr::from_ptr((*declaration).portalname).to_owned()
    };
    HELD.with_borrow_mut(|held| {
        held.retain(|known| is_open(known));
        held.push(name);
    });
    inject::point(Point::CursorNoted);
}

/// Whether there is one.
pub fn is_any_held() -> bool {
    HELD.with_borrow_mut(|held| {
        held.retain(|name| is_open(name));
        !held.is_empty()
    })
}

fn is_open(name: &CStr) -> bool {
    // SAFETY: a NUL-terminated name; the result is null or a live portal.
    unsafe {
        let portal = pg_sys::GetPortalByName(name.as_ptr());
        !portal.is_null() && (*portal).cursorOptions & pg_sys::CURSOR_OPT_HOLD as c_int != 0
    }
}
