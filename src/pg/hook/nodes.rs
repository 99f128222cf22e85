//! Reading PostgreSQL's parse and plan trees.

use crate::core::audit::redact;
use crate::core::session::names::LookUp;
use crate::pg::switch;
use crate::pg::sys::{compat, text};
use pgrx::{is_a, pg_sys};
use std::ffi::{CStr, c_char};

/// Whether this is a utility statement whose text may hold a secret: those are kept as they came, literals and all,
/// where others are normalized. Raises nothing and allocates nothing: for use in a plain frame.
///
/// # Safety
/// `pstate` and `query` are what PostgreSQL passed to the hook.
pub unsafe fn is_sensitive_utility(pstate: *const pg_sys::ParseState, query: *const pg_sys::Query) -> bool {
    // SAFETY: by contract; the source text is null or NUL-terminated.
    unsafe {
        if (*query).utilityStmt.is_null() || pstate.is_null() || (*pstate).p_sourcetext.is_null() {
            return false;
        }
        let text = part((*pstate).p_sourcetext, (*query).stmt_location, (*query).stmt_len);
        redact::is_sensitive(text.unwrap_or_else(|| CStr::from_ptr((*pstate).p_sourcetext).to_bytes()))
    }
}

/// The part of a source text that is one statement, as `CleanQuerytext()` finds it: the rest of the text is not looked at.
/// `None` where it is not known, as for what a rule adds.
///
/// # Safety
/// `source` is NUL-terminated and outlives the result; location and length are PostgreSQL's, of a statement in it.
pub unsafe fn part<'a>(source: *const c_char, location: i32, length: i32) -> Option<&'a [u8]> {
    let location = usize::try_from(location).ok()?;
    // SAFETY: by contract.
    unsafe {
        let begin = source.add(location);
        Some(match usize::try_from(length) {
            Ok(length) if length > 0 => std::slice::from_raw_parts(begin.cast(), length),
            _ => CStr::from_ptr(begin).to_bytes(),
        })
    }
}

/// # Safety
/// `name` is null or NUL-terminated.
pub(super) unsafe fn name_of(name: *const c_char) -> String {
    if name.is_null() {
        return String::new();
    }
    // SAFETY: by contract.
    text::utf8(unsafe { CStr::from_ptr(name) }.to_bytes())
}

/// What a list holds.
///
/// # Safety
/// `list` is null or a list that outlives the result and does not change meanwhile.
pub(super) unsafe fn cells<'a>(list: *const pg_sys::List) -> &'a [pg_sys::ListCell] {
    // SAFETY: by contract.
    unsafe {
        match list.as_ref() {
            Some(list) => std::slice::from_raw_parts(list.elements, usize::try_from(list.length).unwrap_or(0)),
            None => &[],
        }
    }
}

/// A relation whose permissions are checked.
#[derive(Clone, Copy)]
pub struct Permission {
    pub relation: u32,
    /// The role it is checked for where that is not the current user (owner of a view), else 0.
    pub checked_as: u32,
}

/// The permission entries of a query, read only when somebody asks.
pub struct Permissions(*mut pg_sys::List);

impl Permissions {
    /// # Safety
    /// `list` is a list of permission entries that outlives the value.
    pub unsafe fn of_list(list: *mut pg_sys::List) -> Permissions {
        Permissions(list)
    }

    /// Those of relations on which some privilege is required.
    pub(super) fn entries(&self) -> impl Iterator<Item = &compat::PermissionEntry> {
        // SAFETY: by contract of the constructor; the list holds nodes of the one type.
        unsafe { cells(self.0).iter().map(|cell| &*(cell.ptr_value as *const compat::PermissionEntry)) }
            .filter(|entry| compat::is_relation(entry) && entry.requiredPerms != 0)
    }

    /// On whose rights any of these relations is read or written: 0 for the current user's, else the owner of a view.
    pub fn checked_as(&self, is_meant: impl Fn(u32) -> bool) -> Vec<u32> {
        let meant = self.entries().filter(|entry| is_meant(entry.relid.to_u32()));
        meant.map(|entry| entry.checkAsUser.to_u32()).collect()
    }

    /// The relations on which some privilege is required.
    pub fn required(&self) -> Vec<Permission> {
        let permission = |entry: &compat::PermissionEntry| Permission {
            relation: entry.relid.to_u32(),
            checked_as: entry.checkAsUser.to_u32(),
        };
        self.entries().map(permission).collect()
    }
}

/// A query that is about to start.
pub struct Query {
    pub permissions: Permissions,
    /// Whether functions or constraints of domains may run in parallel workers, other than PostgreSQL's own: what the plan
    /// depends on besides relations.
    pub may_read_in_workers: bool,
    /// Whether each expression of it is evaluated once at most.
    pub has_one_row: bool,
    source: *const c_char,
    location: i32,
    length: i32,
}

impl Query {
    /// # Safety
    /// `query_desc` is a descriptor with its planned statement, which outlives the value.
    pub unsafe fn of(query_desc: *mut pg_sys::QueryDesc) -> Query {
        // SAFETY: by contract.
        unsafe {
            let plan = &*(*query_desc).plannedstmt;
            Query {
                permissions: Permissions::of_list(compat::permissions_of_plan(plan)),
                has_one_row: plan.subplans.is_null() && is_lone_result(plan.planTree),
                may_read_in_workers: plan.parallelModeNeeded && !plan.invalItems.is_null(),
                source: (*query_desc).sourceText,
                location: plan.stmt_location,
                length: plan.stmt_len,
            }
        }
    }

    /// How the names of this query would be looked up now. `None` for one whose names were looked up when a function
    /// with a parsed body was created, and are never looked up again.
    pub fn look_up(&self) -> Option<LookUp<'_>> {
        // SAFETY: by contract of the constructor.
        unsafe { look_up(self.source, self.location, self.length) }
    }
}

/// # Safety
/// `plan` is null or the node of a plan.
unsafe fn is_lone_result(plan: *const pg_sys::Plan) -> bool {
    // SAFETY: by contract; every node of a plan begins with its tag and these fields.
    unsafe { !plan.is_null() && (*plan).type_ == pg_sys::NodeTag::T_Result && (*plan).lefttree.is_null() }
}

/// Whether this is a COPY.
///
/// # Safety
/// `pstmt` is a planned statement of PostgreSQL that wraps a utility statement.
pub unsafe fn is_copy(pstmt: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: by contract.
    unsafe { (*(*pstmt).utilityStmt).type_ == pg_sys::NodeTag::T_CopyStmt }
}

/// Whether a statement makes or updates this extension.
///
/// # Safety
/// `pstmt` wraps a utility statement.
pub unsafe fn changes_extension(pstmt: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: by contract; the node is what its tag says, and its name NUL-terminated.
    unsafe {
        let node = (*pstmt).utilityStmt;
        let name = match (*node).type_ {
            pg_sys::NodeTag::T_CreateExtensionStmt => (*(node as *const pg_sys::CreateExtensionStmt)).extname,
            pg_sys::NodeTag::T_AlterExtensionStmt => (*(node as *const pg_sys::AlterExtensionStmt)).extname,
            _ => return false,
        };
        CStr::from_ptr(name) == c"immuta_ext"
    }
}

/// Whether a statement is one of those that are in every transaction and name no objects: nothing runs and nothing is
/// looked up before its own hook sees it.
///
/// # Safety
/// `query` is a query that was analyzed.
pub unsafe fn has_no_names(query: *const pg_sys::Query) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract.
    unsafe {
        let utility = (*query).utilityStmt;
        !utility.is_null() && matches!((*utility).type_, T_TransactionStmt | T_VariableSetStmt)
    }
}

/// The look-up that an analysis was. EXPLAIN, CREATE TABLE AS and DECLARE CURSOR report the query inside them once
/// more when they run; its names were looked up with their own, and its range table is not that of the report's state.
///
/// # Safety
/// `pstate` and `query` are what PostgreSQL passed to the hook.
pub unsafe fn analyzed<'a>(pstate: &'a pg_sys::ParseState, query: &pg_sys::Query) -> Option<LookUp<'a>> {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract; each cast follows the tag of the node.
    unsafe {
        let utility = query.utilityStmt;
        let inner = match (utility.is_null(), utility) {
            (true, _) => std::ptr::null_mut(),
            (false, node) => match (*node).type_ {
                T_ExplainStmt => (*(node as *mut pg_sys::ExplainStmt)).query,
                T_CreateTableAsStmt => (*(node as *mut pg_sys::CreateTableAsStmt)).query,
                T_DeclareCursorStmt => (*(node as *mut pg_sys::DeclareCursorStmt)).query,
                _ => std::ptr::null_mut(),
            },
        };
        if is_a(inner, T_Query) {
            let inner = &*(inner as *mut pg_sys::Query);
            look_up(pstate.p_sourcetext, inner.stmt_location, inner.stmt_len)
        } else if query.rtable == pstate.p_rtable {
            look_up(pstate.p_sourcetext, query.stmt_location, query.stmt_len)
        } else {
            None
        }
    }
}

/// # Safety
/// As [`part`]; `source` may be null.
unsafe fn look_up<'a>(source: *const c_char, location: i32, length: i32) -> Option<LookUp<'a>> {
    // SAFETY: by contract; search_path is a string setting, never null.
    let (statement, search_path) = unsafe {
        if source.is_null() || *source == 0 {
            return None;
        }
        let statement = part(source, location, length).unwrap_or_default();
        (statement, CStr::from_ptr(pg_sys::namespace_search_path).to_bytes())
    };
    let (role, _) = switch::current_user();
    Some(LookUp { statement, search_path, role })
}
