//! Reading PostgreSQL's parse and plan trees.

use super::compat;
use crate::core::guard::Statement;
use pgrx::{PgList, is_a, pg_sys};
use std::ffi::{CStr, c_char};

/// What kind of utility statement this is.
///
/// # Safety
/// `pstmt` is a planned statement of PostgreSQL that wraps a utility statement.
pub unsafe fn classify(pstmt: *mut pg_sys::PlannedStmt) -> Statement {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract; each cast follows the tag of the node.
    unsafe {
        let node = (*pstmt).utilityStmt;
        match (*node).type_ {
            T_TransactionStmt => {
                use pg_sys::TransactionStmtKind::*;
                match (*(node as *mut pg_sys::TransactionStmt)).kind {
                    TRANS_STMT_PREPARE | TRANS_STMT_COMMIT_PREPARED | TRANS_STMT_ROLLBACK_PREPARED => {
                        Statement::TwoPhase
                    }
                    _ => Statement::TransactionControl,
                }
            }
            T_VariableSetStmt => classify_set(&*(node as *mut pg_sys::VariableSetStmt)),
            T_VariableShowStmt => Statement::Show,
            T_DiscardStmt => Statement::Discard,
            T_DeallocateStmt => Statement::Deallocate,
            T_ClosePortalStmt => Statement::ClosePortal,
            T_ListenStmt => Statement::Listen,
            T_UnlistenStmt => Statement::Unlisten,
            T_PrepareStmt => Statement::Prepare,
            T_LoadStmt => Statement::Load,
            T_CallStmt | T_DoStmt => Statement::CallOrDo,
            T_DeclareCursorStmt => {
                let options = (*(node as *mut pg_sys::DeclareCursorStmt)).options;
                if options & pg_sys::CURSOR_OPT_HOLD as i32 != 0 {
                    Statement::HeldCursor
                } else {
                    Statement::Other
                }
            }
            T_ExplainStmt => {
                let query = (*(node as *mut pg_sys::ExplainStmt)).query;
                let is_query = is_a(query, T_Query)
                    && (*(query as *mut pg_sys::Query)).commandType != pg_sys::CmdType::CMD_UTILITY;
                if is_query { Statement::ExplainQuery } else { Statement::Other }
            }
            _ => Statement::Other,
        }
    }
}

/// `RESET ALL` has no name: a kind, not a name, tells what is set.
fn classify_set(set: &pg_sys::VariableSetStmt) -> Statement {
    use pg_sys::VariableSetKind::*;
    // SAFETY: PostgreSQL's name is null or NUL-terminated.
    let name = || unsafe { name_of(set.name) };
    match set.kind {
        VAR_RESET_ALL => Statement::ResetAll,
        VAR_RESET | VAR_SET_DEFAULT => Statement::Reset(name()),
        VAR_SET_MULTI => match name().as_str() {
            // SET SESSION CHARACTERISTICS sets the default_transaction_* parameters.
            "SESSION CHARACTERISTICS" => Statement::Set("default_transaction_isolation".into()),
            _ => Statement::SetTransaction,
        },
        _ => Statement::Set(name()),
    }
}

/// # Safety
/// `name` is null or NUL-terminated.
unsafe fn name_of(name: *const c_char) -> String {
    if name.is_null() {
        return String::new();
    }
    // SAFETY: by contract.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
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
    /// `query_desc` is a descriptor with its planned statement, which outlives the value.
    pub unsafe fn of_query(query_desc: *mut pg_sys::QueryDesc) -> Permissions {
        // SAFETY: by contract.
        Permissions(unsafe { compat::permissions_of_plan(&*(*query_desc).plannedstmt) })
    }

    /// # Safety
    /// `list` is a list of permission entries that outlives the value.
    pub unsafe fn of_list(list: *mut pg_sys::List) -> Permissions {
        Permissions(list)
    }

    /// The relations on which some privilege is required.
    pub fn required(&self) -> Vec<Permission> {
        // SAFETY: by contract of the constructors; the list holds nodes of the one type.
        unsafe {
            PgList::<compat::PermissionEntry>::from_pg(self.0)
                .iter_ptr()
                .map(|entry| &*entry)
                .filter(|entry| compat::is_relation(entry) && entry.requiredPerms != 0)
                .map(|entry| Permission { relation: entry.relid.to_u32(), checked_as: entry.checkAsUser.to_u32() })
                .collect()
        }
    }
}
