//! What an audit record says of a statement, read from PostgreSQL's structures.

use crate::core::audit::redact;
use crate::core::audit::trail::Part;
use crate::pg::hook::nodes::{self, Permissions};
use crate::pg::sys::{compat, text};
use pgrx::pg_sys;
use std::ffi::{CStr, c_char, c_int};

/// A statement that begins.
pub struct Opening {
    /// Its text, in UTF-8.
    pub text: String,
    /// Name of its command tag.
    pub command: &'static str,
    /// 0 for none.
    pub query_id: i64,
    pub role: Part,
    /// COMMIT, ROLLBACK and their like, which end an impersonation.
    pub ends_transaction: bool,
    /// The statement itself, and not what a rule added to it.
    pub is_original: bool,
    /// Nothing follows it in its message.
    pub is_last: bool,
}

/// How far a query came when it ran.
#[derive(Clone, Copy)]
pub struct Progress {
    pub rows: u64,
    /// A row limit was reached.
    pub is_suspended: bool,
    /// It reads only, so that nothing of it is left to do.
    pub is_done: bool,
}

impl Opening {
    /// Of a function call message, which has no text.
    pub fn of_call() -> Opening {
        Opening { command: "FUNCTION CALL", ..Opening::unseen(String::new()) }
    }

    /// Of a statement of which nothing but a text is known.
    pub fn unseen(text: String) -> Opening {
        Opening {
            text,
            command: "",
            query_id: 0,
            role: Part::Statement,
            ends_transaction: false,
            is_original: true,
            is_last: true,
        }
    }

    /// # Safety
    /// `query_desc` is a descriptor with its planned statement.
    pub unsafe fn of_query(query_desc: *mut pg_sys::QueryDesc, with_text: bool) -> Opening {
        // SAFETY: by contract.
        unsafe {
            let plan = &*(*query_desc).plannedstmt;
            let source = (*query_desc).sourceText;
            Opening {
                text: if with_text { text_of(source, plan.stmt_location, plan.stmt_len) } else { String::new() },
                command: command(plan.commandType),
                query_id: compat::query_id(plan),
                role: Part::Statement,
                ends_transaction: false,
                is_original: plan.canSetTag,
                is_last: is_last(source, plan.stmt_location, plan.stmt_len),
            }
        }
    }

    /// # Safety
    /// `pstmt` is a planned statement that wraps a utility statement, `source` the text it came from.
    pub unsafe fn of_utility(pstmt: *mut pg_sys::PlannedStmt, source: *const c_char, with_text: bool) -> Opening {
        use pg_sys::NodeTag::*;
        use pg_sys::TransactionStmtKind::*;
        // SAFETY: by contract; each cast follows the tag of the node; names of command tags are static.
        unsafe {
            let plan = &*pstmt;
            let node = plan.utilityStmt;
            let tag = (*node).type_;
            let ends_transaction = tag == T_TransactionStmt
                && matches!(
                    (*(node as *mut pg_sys::TransactionStmt)).kind,
                    TRANS_STMT_COMMIT | TRANS_STMT_ROLLBACK
                );
            if ends_transaction {
                return Opening { ends_transaction, ..Opening::unseen(String::new()) };
            }
            Opening {
                text: if with_text { text_of(source, plan.stmt_location, plan.stmt_len) } else { String::new() },
                command: CStr::from_ptr(pg_sys::CreateCommandName(node)).to_str().unwrap_or_default(),
                query_id: compat::query_id(plan),
                role: match tag {
                    T_DeclareCursorStmt => Part::Declare,
                    T_FetchStmt | T_ClosePortalStmt => Part::Fetch,
                    _ => Part::Statement,
                },
                ends_transaction: false,
                is_original: plan.canSetTag,
                is_last: is_last(source, plan.stmt_location, plan.stmt_len),
            }
        }
    }
}

fn command(kind: pg_sys::CmdType::Type) -> &'static str {
    match kind {
        pg_sys::CmdType::CMD_SELECT => "SELECT",
        pg_sys::CmdType::CMD_INSERT => "INSERT",
        pg_sys::CmdType::CMD_UPDATE => "UPDATE",
        pg_sys::CmdType::CMD_DELETE => "DELETE",
        pg_sys::CmdType::CMD_UTILITY => "UTILITY",
        // Since 15.
        _ => "MERGE",
    }
}

/// A statement's text, with the comments before it where it is the first of its message. Since 18 its location is that of
/// its first word; but comments are hints, or tell whence a query comes.
///
/// # Safety
/// As [`nodes::part`]; `source` may be null.
unsafe fn text_of(source: *const c_char, location: c_int, length: c_int) -> String {
    // What is longer than any hint is not looked at, for each statement of a message anew.
    const LONGEST: usize = 4096;
    if source.is_null() {
        return String::new();
    }
    // SAFETY: by contract; what is before a statement is a part of the text.
    let text = unsafe {
        let before = usize::try_from(location).unwrap_or(0).min(LONGEST);
        let is_first = usize::try_from(location).is_ok_and(|location| location == before)
            && redact::is_blank(std::slice::from_raw_parts(source.cast::<u8>(), before));
        let (location, length) = match (is_first, length > 0) {
            (true, true) => (0, location.saturating_add(length)),
            (true, false) => (0, 0),
            (false, _) => (location, length),
        };
        nodes::part(source, location, length).unwrap_or_else(|| CStr::from_ptr(source).to_bytes())
    };
    text::from_server_anyhow(text.trim_ascii())
}

/// Whether nothing but blanks and comments follows a statement in its text. Looks at no more than it has to: there may be
/// thousands of statements.
///
/// # Safety
/// As [`nodes::part`]; `source` may be null.
unsafe fn is_last(source: *const c_char, location: c_int, length: c_int) -> bool {
    let (Ok(location), Ok(length)) = (usize::try_from(location), usize::try_from(length)) else { return true };
    if source.is_null() || length == 0 {
        return true;
    }
    // SAFETY: by contract the statement lies in the text, which ends with a NUL.
    unsafe {
        let mut rest = source.add(location + length).cast::<u8>();
        while matches!(*rest, b';') || (*rest).is_ascii_whitespace() {
            rest = rest.add(1);
        }
        *rest == 0 || matches!(*rest, b'-' | b'/') && redact::is_blank(CStr::from_ptr(rest.cast()).to_bytes())
    }
}

/// The text of the message that the client sent last.
pub fn message_text() -> String {
    // SAFETY: null or NUL-terminated.
    unsafe {
        if pg_sys::debug_query_string.is_null() {
            return String::new();
        }
        text::from_server_anyhow(CStr::from_ptr(pg_sys::debug_query_string).to_bytes().trim_ascii())
    }
}

/// How far a query came in the run that ended just now. `limit` is the number of rows it was run for, 0 for all.
///
/// # Safety
/// `query_desc` is the descriptor of a query that was started and run.
pub unsafe fn progress(query_desc: *mut pg_sys::QueryDesc, limit: u64) -> Progress {
    // SAFETY: by contract.
    unsafe {
        let rows = if (*query_desc).estate.is_null() { 0 } else { (*(*query_desc).estate).es_processed };
        let plan = &*(*query_desc).plannedstmt;
        let reads_only = plan.commandType == pg_sys::CmdType::CMD_SELECT && !plan.hasModifyingCTE;
        let is_suspended = limit > 0 && rows >= limit;
        Progress { rows, is_suspended, is_done: reads_only && !is_suspended }
    }
}

/// Rows that a utility statement processed.
///
/// # Safety
/// `completion` is null or what the statement filled.
pub unsafe fn rows(completion: *const pg_sys::QueryCompletion) -> u64 {
    // SAFETY: by contract.
    unsafe {
        if completion.is_null() || (*completion).commandTag == pg_sys::CommandTag::CMDTAG_UNKNOWN {
            0
        } else {
            (*completion).nprocessed
        }
    }
}

/// A relation that a query accesses.
pub struct Accessed {
    pub relation: u32,
    /// `ACL_SELECT` and its like.
    pub privileges: u32,
    /// Numbers of the columns; 0 stands for all. Empty where no column counts.
    pub columns: Vec<i16>,
    /// Those of them in whose place a mask is shown.
    pub masked: Vec<i16>,
}

impl Permissions {
    /// The relations that a query accesses, with what it does to which columns.
    pub fn accessed(&self) -> Vec<Accessed> {
        // SAFETY: by contract of the constructor; the list holds nodes of the one type, the sets are null or live.
        unsafe {
            self.entries()
                .map(|entry| {
                    let mut columns = Vec::new();
                    for set in [entry.selectedCols, entry.insertedCols, entry.updatedCols] {
                        add_columns(set, &mut columns);
                    }
                    let mut masked = Vec::new();
                    add_columns(compat::masked_columns(entry), &mut masked);
                    let privileges = compat::privileges(entry);
                    Accessed { relation: entry.relid.to_u32(), privileges, columns, masked }
                })
                .collect()
        }
    }
}

/// Adds the members of a set of columns, which counts from the lowest system column. Reads the words of the set: a
/// call for each member would cost more than all the rest.
///
/// # Safety
/// `set` is null or a live set.
unsafe fn add_columns(set: *const pg_sys::Bitmapset, columns: &mut Vec<i16>) {
    // SAFETY: by contract; a set has as many words as it says.
    let words = unsafe {
        if set.is_null() {
            return;
        }
        (*set).words.as_slice(usize::try_from((*set).nwords).unwrap_or(0))
    };
    for (at, &word) in (0i64..).zip(words) {
        let mut left = word;
        while left != 0 {
            let member = at * i64::from(pg_sys::bitmapword::BITS) + i64::from(left.trailing_zeros());
            left &= left - 1;
            let column = member + i64::from(pg_sys::FirstLowInvalidHeapAttributeNumber);
            // What is beyond is of masks: pg::mask::cache::as_read.
            if let Ok(column) = i16::try_from(column)
                && (0..=pg_sys::MaxHeapAttributeNumber as i16).contains(&column)
                && !columns.contains(&column)
            {
                columns.push(column);
            }
        }
    }
}
