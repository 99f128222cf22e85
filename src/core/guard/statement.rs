//! Statements, as far as the guard has to tell them from each other.

use crate::core::guard::utility::{ObjectType, Utility};
use crate::core::session::presented::Kind;

/// How a statement says whom to impersonate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// SET without LOCAL
    Session,
    /// SET LOCAL
    Local,
    /// RESET, SET … TO DEFAULT
    Reset,
    /// CALL of the procedure that sets it
    Call,
}

/// A statement, as far as the guard has to tell it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// BEGIN, COMMIT, RELEASE, ROLLBACK TO …
    TransactionControl,
    Savepoint,
    /// ROLLBACK of the whole transaction, which must always be possible
    Rollback,
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED
    TwoPhase,
    /// SET TRANSACTION …
    SetTransaction,
    /// SET or RESET of a parameter that says whom to impersonate, or CALL of the procedure that does it
    Impersonate(Kind, How),
    /// SET of any other parameter, by its name
    Set(String),
    /// SET of a parameter, by its name, to a value with which text that was written for another can be misread
    SetMisleading(String),
    /// RESET of any other parameter or SET … TO DEFAULT, by its name
    Reset(String),
    ResetAll,
    DiscardAll,
    /// DISCARD PLANS, SEQUENCES or TEMP
    Discard,
    /// EXPLAIN of a query (not of a utility statement)
    ExplainQuery,
    /// DECLARE … WITH HOLD
    HeldCursor,
    /// CREATE OPERATOR, with the name of its function
    CreateOperator(String),
    /// DO, and CALL of a procedure, which may hold transaction control of their own
    Do,
    CallOther,
    /// CALL of this procedure, if it is not known yet to be ours
    Call(u32),
    /// Any other statement of a kind, about an object of a type if it names that
    Plain(Utility, Option<ObjectType>),
    /// A kind of statement or a type of object that this library does not know
    Unknown,
}

impl Statement {
    /// The row of the list in which it stands.
    pub(super) fn kind(&self) -> Option<Utility> {
        use Statement::*;
        Some(match self {
            TransactionControl | Savepoint | Rollback | TwoPhase => Utility::T_TransactionStmt,
            SetTransaction
            | Impersonate(_, How::Session | How::Local | How::Reset)
            | Set(_)
            | SetMisleading(_)
            | Reset(_)
            | ResetAll => Utility::T_VariableSetStmt,
            DiscardAll | Discard => Utility::T_DiscardStmt,
            ExplainQuery => Utility::T_ExplainStmt,
            HeldCursor => Utility::T_DeclareCursorStmt,
            CreateOperator(_) => Utility::T_DefineStmt,
            Do => Utility::T_DoStmt,
            CallOther | Call(_) | Impersonate(_, How::Call) => Utility::T_CallStmt,
            Plain(kind, _) => *kind,
            Unknown => return None,
        })
    }

    /// Whether it may hold transaction control of its own.
    pub fn may_commit(&self) -> bool {
        matches!(self, Statement::Do | Statement::CallOther | Statement::Call(_))
    }
}
