//! Texts that are expressions.

use pgrx::{PgList, is_a, pg_sys};
use std::ffi::CStr;

/// What a text (in the database encoding) is, if it is one expression, and nothing that could end it and go on with
/// something else. Raises PostgreSQL's error for what cannot be parsed.
pub fn parsed(text: &CStr) -> Option<*mut pg_sys::Node> {
    // SAFETY: the parser returns a list of statements, for an expression a SelectStmt whose target is a ResTarget.
    unsafe {
        let mode = pg_sys::RawParseMode::RAW_PARSE_PLPGSQL_EXPR;
        let statements = PgList::<pg_sys::RawStmt>::from_pg(pg_sys::raw_parser(text.as_ptr(), mode));
        let statement = statements.get_ptr(0).filter(|_| statements.len() == 1)?;
        if !is_a((*statement).stmt, pg_sys::NodeTag::T_SelectStmt) {
            return None;
        }
        let select = &*((*statement).stmt as *mut pg_sys::SelectStmt);
        let targets = PgList::<pg_sys::ResTarget>::from_pg(select.targetList);
        let is_bare = select.distinctClause.is_null()
            && select.fromClause.is_null()
            && select.whereClause.is_null()
            && select.groupClause.is_null()
            && select.havingClause.is_null()
            && select.windowClause.is_null()
            && select.sortClause.is_null()
            && select.limitOffset.is_null()
            && select.limitCount.is_null()
            && select.lockingClause.is_null();
        let target = targets.get_ptr(0).filter(|_| is_bare && targets.len() == 1)?;
        (*target).name.is_null().then_some((*target).val)
    }
}
