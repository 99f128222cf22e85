//! Every read of every user's table is rewritten, as if it had masks: for tests to compare what comes of it.

/// What is put in the place of columns.
#[derive(Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(feature = "inject"), allow(dead_code))]
pub enum Wrap {
    /// Nothing: no query is touched without need.
    Off,
    /// The columns themselves.
    Columns,
    /// Masks with `rows`, which hold for none.
    Cases,
}

#[cfg(not(feature = "inject"))]
pub const fn wrap() -> Wrap {
    Wrap::Off
}

#[cfg(feature = "inject")]
pub fn wrap() -> Wrap {
    static WRAP: std::sync::OnceLock<Wrap> = std::sync::OnceLock::new();
    *WRAP.get_or_init(|| match std::env::var("IMMUTA_WRAP").as_deref() {
        Ok("columns") => Wrap::Columns,
        Ok("cases") => Wrap::Cases,
        _ => Wrap::Off,
    })
}

pub fn is_on() -> bool {
    wrap() != Wrap::Off
}

/// What stands for a column: `CASE WHEN ((SELECT false) OR (b IS NULL AND b IS NOT NULL)) IS FALSE THEN b END`, or `b`.
///
/// # Safety
/// `column` is a column of the first range table entry.
pub unsafe fn shown(column: *mut pgrx::pg_sys::Var) -> *mut pgrx::pg_sys::Expr {
    match wrap() {
        #[cfg(feature = "inject")]
        // SAFETY: by contract.
        Wrap::Cases => unsafe { cases::case(column) },
        _ => column.cast(),
    }
}

#[cfg(feature = "inject")]
mod cases {
    use crate::pg::mask::subquery::new_node;
    use pgrx::pg_sys::{self, BoolExprType::*, Expr, NodeTag::*};
    use std::ptr::null_mut;

    /// # Safety
    /// As [`super::shown`].
    pub unsafe fn case(column: *mut pg_sys::Var) -> *mut Expr {
        let column = column.cast();
        // SAFETY: by contract; nodes are made in the current memory context, and none is in two places.
        unsafe {
            let is_null = null_test(column, pg_sys::NullTestType::IS_NULL);
            let both = both(AND_EXPR, is_null, null_test(column, pg_sys::NullTestType::IS_NOT_NULL));
            let test = new_node::<pg_sys::BooleanTest>(T_BooleanTest);
            (*test).arg = self::both(OR_EXPR, no(), both);
            (*test).booltesttype = pg_sys::BoolTestType::IS_FALSE;
            let when = new_node::<pg_sys::CaseWhen>(T_CaseWhen);
            (*when).expr = test.cast();
            (*when).result = copy(column);
            let case = new_node::<pg_sys::CaseExpr>(T_CaseExpr);
            (*case).casetype = pg_sys::exprType(column.cast());
            (*case).casecollid = pg_sys::exprCollation(column.cast());
            (*case).args = pg_sys::lappend(null_mut(), when.cast());
            let modifier = pg_sys::exprTypmod(column.cast());
            (*case).defresult = pg_sys::makeNullConst((*case).casetype, modifier, (*case).casecollid).cast();
            case.cast()
        }
    }

    unsafe fn copy(column: *mut Expr) -> *mut Expr {
        // SAFETY: a node.
        unsafe { pg_sys::copyObjectImpl(column.cast()).cast() }
    }

    unsafe fn null_test(column: *mut Expr, kind: pg_sys::NullTestType::Type) -> *mut Expr {
        // SAFETY: a node.
        unsafe {
            let test = new_node::<pg_sys::NullTest>(T_NullTest);
            (*test).arg = copy(column);
            (*test).nulltesttype = kind;
            test.cast()
        }
    }

    unsafe fn both(operator: pg_sys::BoolExprType::Type, one: *mut Expr, other: *mut Expr) -> *mut Expr {
        // SAFETY: nodes.
        unsafe {
            let arguments = pg_sys::lappend(pg_sys::lappend(null_mut(), one.cast()), other.cast());
            pg_sys::makeBoolExpr(operator, arguments, -1)
        }
    }

    /// `(SELECT false)`
    unsafe fn no() -> *mut Expr {
        // SAFETY: nodes that are made here.
        unsafe {
            let query = new_node::<pg_sys::Query>(T_Query);
            (*query).commandType = pg_sys::CmdType::CMD_SELECT;
            (*query).canSetTag = true;
            (*query).jointree = pg_sys::makeFromExpr(null_mut(), null_mut());
            let shown = pg_sys::makeTargetEntry(pg_sys::makeBoolConst(false, false).cast(), 1, null_mut(), false);
            (*query).targetList = pg_sys::lappend(null_mut(), shown.cast());
            let link = new_node::<pg_sys::SubLink>(T_SubLink);
            (*link).subLinkType = pg_sys::SubLinkType::EXPR_SUBLINK;
            (*link).subselect = query.cast();
            link.cast()
        }
    }
}
