//! Errors about masks.

use crate::pg::sys::report::{Report, raise};
use pgrx::PgSqlErrorCode;

pub enum Fault {
    /// A masked column is named where rows are changed: `(column, table)`.
    Target(String, String),
    /// The mask does not fit its column any more: `(column, table)`.
    Broken(String, String),
    /// What a mask names by this number is missing.
    NoParameters(i32),
    /// Somebody tried to make a `mask_ref`.
    Reference,
    /// There is no such table or column, or it cannot have a mask.
    NoColumn,
    NotExpression,
    /// The type of the mask, and that of the column.
    Type(String, String),
    /// It depends on more than the row: by this function, or something else.
    NotImmutable(Option<String>),
    /// A function whose meaning depends on the search path of whoever calls it.
    SearchPath(String),
    NotParallelSafe(String),
    Table,
    WholeRow,
    /// Written down, it does not come to the same.
    Unstable,
}

impl Fault {
    fn is_refusal(&self) -> bool {
        matches!(self, Fault::Target(..) | Fault::Broken(..) | Fault::NoParameters(_) | Fault::Reference)
    }

    fn sqlstate(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode::*;
        match self {
            fault if fault.is_refusal() => ERRCODE_INSUFFICIENT_PRIVILEGE,
            Fault::NotImmutable(_) | Fault::SearchPath(_) | Fault::NotParallelSafe(_) => {
                ERRCODE_INVALID_OBJECT_DEFINITION
            }
            Fault::Table | Fault::WholeRow => ERRCODE_FEATURE_NOT_SUPPORTED,
            _ => ERRCODE_INVALID_PARAMETER_VALUE,
        }
    }

    fn message(&self) -> String {
        match self {
            Fault::Target(column, table) => format!("column \"{column}\" of table \"{table}\" is masked"),
            Fault::Broken(column, table) => {
                format!("the mask of column \"{column}\" of table \"{table}\" does not fit it any more")
            }
            Fault::NoParameters(id) => format!("the parameters {id} of a mask are missing"),
            Fault::Reference => "values of type immuta.mask_ref cannot be made".into(),
            Fault::NoColumn => "a mask is for a column of a table or a view".into(),
            Fault::NotExpression => "a mask is one expression".into(),
            Fault::Type(mask, column) => {
                format!("a mask of type {mask} does not fit a column of type {column}")
            }
            Fault::NotImmutable(None) => "a mask must depend on nothing but the row".into(),
            Fault::NotImmutable(Some(name)) => {
                format!("a mask must depend on nothing but the row: function {name} is not IMMUTABLE")
            }
            Fault::SearchPath(name) => {
                format!("function {name} in a mask looks names up by the search path of whoever calls it")
            }
            Fault::NotParallelSafe(name) => format!("function {name} in a mask is not PARALLEL SAFE"),
            Fault::Table => "a mask must not read tables".into(),
            Fault::WholeRow => "a mask must not name the row as a whole, or its system columns".into(),
            Fault::Unstable => "the mask comes to something else when it is read again".into(),
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Fault::Target(..) => {
                "Leave it out of WHERE, SET and RETURNING of the table that is changed, and of ON CONFLICT; a subquery may \
                 read its mask."
            }
            Fault::Broken(..) => {
                "The other columns can be read. An administrator can replace the masking policy; see immuta.drift()."
            }
            Fault::NoParameters(_) => "An administrator can replace the masking policy; see immuta.drift().",
            Fault::Reference => "Only masks name one; see immuta.create_masking_policy().",
            Fault::NoColumn => "Name one by its table and number.",
            Fault::NotExpression => "Write an expression over the columns of the table, such as left(name, 1).",
            Fault::Type(..) => "Cast it to the type of the column.",
            Fault::NotImmutable(_) => {
                "Use IMMUTABLE functions: for example date_trunc('day', at AT TIME ZONE 'UTC') AT TIME ZONE 'UTC', \
                 not date_trunc('day', at)."
            }
            Fault::SearchPath(_) => {
                "Give it a body of BEGIN ATOMIC, or a search path: ALTER FUNCTION ... SET search_path."
            }
            Fault::NotParallelSafe(_) => "ALTER FUNCTION ... PARALLEL SAFE, if it is.",
            Fault::Table => "Make what it needs a column of the table.",
            Fault::WholeRow => "Name the columns that it needs.",
            Fault::Unstable => "Write it with explicit casts.",
        }
    }

    pub fn raise(self) -> ! {
        raise(self.into())
    }
}

impl From<Fault> for Report {
    fn from(fault: Fault) -> Report {
        Report {
            sqlstate: fault.sqlstate(),
            message: fault.message(),
            detail: if fault.is_refusal() { "MASKED_COLUMN" } else { "MASK_NOT_ALLOWED" },
            hint: fault.hint(),
        }
    }
}
