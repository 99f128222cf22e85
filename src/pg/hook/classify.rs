//! What kind of utility statement this is.

use crate::core::guard::utility::Utility;
use crate::core::guard::{How, Statement};
use crate::core::session::presented;
use crate::pg::guc;
use crate::pg::hook::nodes::name_of;
use crate::pg::sys::compat;
use pgrx::{PgList, is_a, pg_sys};
use std::ffi::CStr;

/// What kind of utility statement this is.
///
/// # Safety
/// `pstmt` is a planned statement of PostgreSQL that wraps a utility statement.
pub unsafe fn classify(pstmt: *mut pg_sys::PlannedStmt) -> Statement {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract; each cast follows the tag of the node.
    unsafe {
        let node = (*pstmt).utilityStmt;
        let Some(kind) = compat::utility((*node).type_) else { return Statement::Unknown };
        match (*node).type_ {
            T_TransactionStmt => {
                use pg_sys::TransactionStmtKind::*;
                match (*(node as *mut pg_sys::TransactionStmt)).kind {
                    TRANS_STMT_PREPARE | TRANS_STMT_COMMIT_PREPARED | TRANS_STMT_ROLLBACK_PREPARED => {
                        Statement::TwoPhase
                    }
                    TRANS_STMT_ROLLBACK => Statement::Rollback,
                    TRANS_STMT_SAVEPOINT => Statement::Savepoint,
                    _ => Statement::TransactionControl,
                }
            }
            T_VariableSetStmt => classify_set(&*(node as *mut pg_sys::VariableSetStmt)),
            T_DiscardStmt => match (*(node as *mut pg_sys::DiscardStmt)).target {
                pg_sys::DiscardMode::DISCARD_ALL => Statement::DiscardAll,
                _ => Statement::Discard,
            },
            _ if executes_prepared(node) => Statement::Plain(Utility::T_ExecuteStmt, None),
            T_CallStmt => {
                let call = (*(node as *mut pg_sys::CallStmt)).funcexpr;
                if call.is_null() { Statement::CallOther } else { Statement::Call((*call).funcid.to_u32()) }
            }
            T_DoStmt => Statement::Do,
            T_DeclareCursorStmt
                if (*(node as *mut pg_sys::DeclareCursorStmt)).options & pg_sys::CURSOR_OPT_HOLD as i32 != 0 =>
            {
                Statement::HeldCursor
            }
            T_ExplainStmt if is_plain_query((*(node as *mut pg_sys::ExplainStmt)).query) => {
                Statement::ExplainQuery
            }
            T_DefineStmt if let Some(operator) = created_operator(&*(node as *mut pg_sys::DefineStmt)) => operator,
            _ => match object_type(node).map(compat::object) {
                Some(None) => Statement::Unknown,
                Some(object) => Statement::Plain(kind, object),
                None => Statement::Plain(kind, None),
            },
        }
    }
}

/// The type of object that a statement names.
///
/// # Safety
/// `node` is a node of PostgreSQL.
unsafe fn object_type(node: *mut pg_sys::Node) -> Option<pg_sys::ObjectType::Type> {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract; each cast follows the tag of the node.
    unsafe {
        Some(match (*node).type_ {
            T_AlterObjectDependsStmt => (*(node as *mut pg_sys::AlterObjectDependsStmt)).objectType,
            T_AlterObjectSchemaStmt => (*(node as *mut pg_sys::AlterObjectSchemaStmt)).objectType,
            T_AlterOwnerStmt => (*(node as *mut pg_sys::AlterOwnerStmt)).objectType,
            T_AlterTableStmt => (*(node as *mut pg_sys::AlterTableStmt)).objtype,
            T_AlterExtensionContentsStmt => (*(node as *mut pg_sys::AlterExtensionContentsStmt)).objtype,
            T_CommentStmt => (*(node as *mut pg_sys::CommentStmt)).objtype,
            T_DefineStmt => (*(node as *mut pg_sys::DefineStmt)).kind,
            T_DropStmt => (*(node as *mut pg_sys::DropStmt)).removeType,
            T_GrantStmt => (*(node as *mut pg_sys::GrantStmt)).objtype,
            T_RenameStmt => (*(node as *mut pg_sys::RenameStmt)).renameType,
            T_SecLabelStmt => (*(node as *mut pg_sys::SecLabelStmt)).objtype,
            _ => return None,
        })
    }
}

/// # Safety
/// `query` is null or a node of PostgreSQL.
unsafe fn is_plain_query(query: *mut pg_sys::Node) -> bool {
    // SAFETY: by contract; the cast follows the tag of the node.
    unsafe {
        is_a(query, pg_sys::NodeTag::T_Query)
            && (*(query as *mut pg_sys::Query)).commandType != pg_sys::CmdType::CMD_UTILITY
    }
}

/// Whether this is EXECUTE, or EXPLAIN or CREATE TABLE AS of it, however deep: those run it without its own hook.
///
/// # Safety
/// `node` is null or a node of PostgreSQL.
unsafe fn executes_prepared(node: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract; each cast follows the tag of the node.
    unsafe {
        if node.is_null() {
            return false;
        }
        let inner = match (*node).type_ {
            T_ExecuteStmt => return true,
            T_ExplainStmt => (*(node as *mut pg_sys::ExplainStmt)).query,
            T_CreateTableAsStmt => (*(node as *mut pg_sys::CreateTableAsStmt)).query,
            T_Query => (*(node as *mut pg_sys::Query)).utilityStmt,
            _ => return false,
        };
        executes_prepared(inner)
    }
}

/// CREATE OPERATOR tells the function by which it works.
fn created_operator(define: &pg_sys::DefineStmt) -> Option<Statement> {
    if define.kind != pg_sys::ObjectType::OBJECT_OPERATOR {
        return None;
    }
    // SAFETY: the definition is a list of DefElem; `function` and `procedure` hold a name as a TypeName, whose names
    // are a list of strings.
    unsafe {
        PgList::<pg_sys::DefElem>::from_pg(define.definition)
            .iter_ptr()
            .filter(|&element| matches!(name_of((*element).defname).as_str(), "function" | "procedure"))
            .filter(|&element| is_a((*element).arg, pg_sys::NodeTag::T_TypeName))
            .filter_map(|element| {
                let names = (*((*element).arg as *mut pg_sys::TypeName)).names;
                PgList::<pg_sys::Node>::from_pg(names).iter_ptr().last()
            })
            .map(|last| Statement::CreateOperator(name_of(compat::string_value(last))))
            .last()
    }
}

/// `RESET ALL` has no name: a kind, not a name, tells what is set.
fn classify_set(set: &pg_sys::VariableSetStmt) -> Statement {
    use pg_sys::VariableSetKind::*;
    // SAFETY: PostgreSQL's name is null or NUL-terminated.
    let name = || unsafe { name_of(set.name) };
    match set.kind {
        VAR_RESET_ALL => return Statement::ResetAll,
        VAR_SET_MULTI => {}
        kind => {
            if let Some(what) = presented::kind_of(&name()) {
                let how = match kind {
                    VAR_RESET | VAR_SET_DEFAULT if !set.is_local => How::Reset,
                    _ if set.is_local => How::Local,
                    _ => How::Session,
                };
                return Statement::Impersonate(what, how);
            }
        }
    }
    match set.kind {
        VAR_RESET | VAR_SET_DEFAULT => Statement::Reset(name()),
        VAR_SET_MULTI => match name().as_str() {
            // SET SESSION CHARACTERISTICS sets the default_transaction_* parameters.
            "SESSION CHARACTERISTICS" => Statement::Set("default_transaction_isolation".into()),
            _ => Statement::SetTransaction,
        },
        // SAFETY: a SET statement of a parameter; PostgreSQL's own errors about its values pass.
        _ if unsafe { sets_misleading(set) } => Statement::SetMisleading(name()),
        _ => Statement::Set(name()),
    }
}

/// Whether a setting gets a value with which text can be misread.
///
/// # Safety
/// `set` names a parameter; not RESET ALL.
unsafe fn sets_misleading(set: &pg_sys::VariableSetStmt) -> bool {
    // SAFETY: by contract; the value is null or a palloc'd string.
    unsafe {
        let name = CStr::from_ptr(set.name);
        if !guc::may_mislead(name) {
            return false;
        }
        let value = pg_sys::ExtractSetVariableArgs(std::ptr::from_ref(set).cast_mut());
        !value.is_null() && guc::is_misleading(name, CStr::from_ptr(value))
    }
}
