//! Errors about masks.

use crate::pg::sys::report::{Report, raise};
use pgrx::PgSqlErrorCode;

pub enum MaskFault {
    /// A masked column is named where rows are changed: `(column, table)`.
    Target(String, String),
    /// The mask does not fit its column any more: `(column, table)`.
    Broken(String, String),
    /// MERGE would read rows of a table that policies hide.
    Unread(String),
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
    /// What gives something else by settings of whoever reads, although PostgreSQL calls it immutable.
    Settings(String),
    /// An aggregate, or window function, made by somebody.
    Aggregate(String),
    /// A domain that checks values.
    Domain(String),
    /// A function that acts as its owner.
    Definer(String),
    /// A function whose body is more than one expression.
    Body(String),
    Table,
    WholeRow,
    /// Written down, it does not come to the same.
    Unstable,
}

impl MaskFault {
    fn is_refusal(&self) -> bool {
        matches!(
            self,
            MaskFault::Target(..)
                | MaskFault::Broken(..)
                | MaskFault::Unread(_)
                | MaskFault::NoParameters(_)
                | MaskFault::Reference
        )
    }

    fn sqlstate(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode::*;
        match self {
            fault if fault.is_refusal() => ERRCODE_INSUFFICIENT_PRIVILEGE,
            MaskFault::NotImmutable(_)
            | MaskFault::SearchPath(_)
            | MaskFault::NotParallelSafe(_)
            | MaskFault::Settings(_)
            | MaskFault::Definer(_) => ERRCODE_INVALID_OBJECT_DEFINITION,
            MaskFault::Table
            | MaskFault::WholeRow
            | MaskFault::Aggregate(_)
            | MaskFault::Domain(_)
            | MaskFault::Body(_) => ERRCODE_FEATURE_NOT_SUPPORTED,
            _ => ERRCODE_INVALID_PARAMETER_VALUE,
        }
    }

    fn message(&self) -> String {
        match self {
            MaskFault::Target(column, table) => format!("column \"{column}\" of table \"{table}\" is masked"),
            MaskFault::Broken(column, table) => {
                format!("the mask of column \"{column}\" of table \"{table}\" does not fit it any more")
            }
            MaskFault::Unread(table) => {
                format!("MERGE names no column of table \"{table}\", which has row level security")
            }
            MaskFault::NoParameters(id) => format!("the parameters {id} of a mask are missing"),
            MaskFault::Reference => "values of type immuta.mask_ref cannot be made".into(),
            MaskFault::NoColumn => "a mask is for a column of a table or a view".into(),
            MaskFault::NotExpression => "a mask is one expression".into(),
            MaskFault::Type(mask, column) => {
                format!("a mask of type {mask} does not fit a column of type {column}")
            }
            MaskFault::NotImmutable(None) => "a mask must depend on nothing but the row".into(),
            MaskFault::NotImmutable(Some(name)) => {
                format!("a mask must depend on nothing but the row: function {name} is not IMMUTABLE")
            }
            MaskFault::SearchPath(name) => {
                format!("function {name} in a mask looks names up by the search path of whoever calls it")
            }
            MaskFault::NotParallelSafe(name) => format!("function {name} in a mask is not PARALLEL SAFE"),
            MaskFault::Settings(what) => format!("{what} in a mask depends on settings of whoever reads it"),
            MaskFault::Aggregate(name) => format!("aggregate {name} in a mask is not one of PostgreSQL's"),
            MaskFault::Domain(name) => format!("domain {name} in a mask has constraints, which see the value"),
            MaskFault::Definer(name) => format!("function {name} in a mask is SECURITY DEFINER"),
            MaskFault::Body(name) => format!("function {name} in a mask is more than one expression"),
            MaskFault::Table => "a mask must not read tables".into(),
            MaskFault::WholeRow => "a mask must not name the row as a whole, or its system columns".into(),
            MaskFault::Unstable => "the mask comes to something else when it is read again".into(),
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            MaskFault::Target(..) => {
                "Leave it out of what is written, and of WHERE, SET and RETURNING of the table that is changed; a subquery \
                 may read its mask."
            }
            MaskFault::Broken(..) => {
                "The other columns can be read. An administrator can replace the masking policy; see immuta.drift()."
            }
            MaskFault::Unread(_) => "Name a column of it in ON, such as ON id IS NOT NULL.",
            MaskFault::NoParameters(_) => "An administrator can replace the masking policy; see immuta.drift().",
            MaskFault::Reference => "Only masks name one; see immuta.create_masking_policy().",
            MaskFault::NoColumn => "Name one by its table and number.",
            MaskFault::NotExpression => {
                "Write an expression over the columns of the table, such as left(name, 1)."
            }
            MaskFault::Type(..) => "Cast it to the type of the column.",
            MaskFault::NotImmutable(_) => {
                "Use IMMUTABLE functions: for example date_trunc('day', at AT TIME ZONE INTERVAL '0') \
                 AT TIME ZONE INTERVAL '0', not date_trunc('day', at)."
            }
            MaskFault::SearchPath(_) => {
                "Give it a body of RETURN, or a search path that ends with pg_temp, of schemas in which subscribers make \
                 nothing: ALTER FUNCTION ... SET search_path = pg_catalog, pg_temp."
            }
            MaskFault::Settings(_) => {
                "Use AT TIME ZONE INTERVAL '0' instead of a zone's name, and numeric or encode() instead of the text of \
                 other types."
            }
            MaskFault::Aggregate(_) => "Use one of PostgreSQL's own.",
            MaskFault::Domain(_) => "Cast to the type that the domain is of.",
            MaskFault::Definer(_) => "ALTER FUNCTION ... SECURITY INVOKER.",
            MaskFault::Body(_) => {
                "Let it RETURN one expression, cast to the type that it returns, without queries and aggregates."
            }
            MaskFault::NotParallelSafe(_) => "ALTER FUNCTION ... PARALLEL SAFE, if it is.",
            MaskFault::Table => "Make what it needs a column of the table.",
            MaskFault::WholeRow => "Name the columns that it needs.",
            MaskFault::Unstable => "Write it with explicit casts.",
        }
    }

    pub fn raise(self) -> ! {
        raise(self.into())
    }
}

impl From<MaskFault> for Report {
    fn from(fault: MaskFault) -> Report {
        Report {
            sqlstate: fault.sqlstate(),
            message: fault.message(),
            detail: match fault {
                MaskFault::Unread(_) => "MERGE_READS_NOTHING",
                _ if fault.is_refusal() => "MASKED_COLUMN",
                _ => "MASK_NOT_ALLOWED",
            },
            hint: fault.hint(),
        }
    }
}
