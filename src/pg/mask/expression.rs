//! The text of a mask, read and written in the same way whoever does it.

use crate::core::guard::FIRST_NORMAL_OBJECT_ID;
use crate::pg::catalog;
use crate::pg::gate::{Restricted, Restriction};
use crate::pg::mask::fault::MaskFault;
use crate::pg::sys::acting::{Acting, LOCKED};
use crate::pg::sys::option::{self, Unset};
use crate::pg::sys::{compat, expression, raw};
use pgrx::pg_sys::{GucAction, GucContext};
use pgrx::{PgList, is_a, pg_guard, pg_sys};
use std::ffi::{CStr, c_int, c_void};

/// The name of the table in the text, whatever it is called: it appears where a subquery names a column of it.
const ALIAS: &CStr = c"masked";

/// What a text, or the literals in it, may mean something else by.
const FIXED: [(&CStr, &CStr); 11] = [
    (c"search_path", c"pg_catalog, pg_temp"),
    (c"DateStyle", c"ISO"),
    (c"IntervalStyle", c"postgres"),
    (c"TimeZone", c"UTC"),
    (c"extra_float_digits", c"3"),
    (c"standard_conforming_strings", c"on"),
    (c"transform_null_equals", c"off"),
    (c"quote_all_identifiers", c"off"),
    (c"bytea_output", c"hex"),
    (c"array_nulls", c"on"),
    (c"xmloption", c"content"),
];

/// Does something with these settings, as the owner of the extension, who may use all schemas. Nothing but trusted functions
/// that depend on their arguments only runs meanwhile. The settings that an error leaves are undone where it ends the
/// (sub)transaction.
pub fn undisturbed<T>(owner: u32, act: impl FnOnce() -> T) -> T {
    let _restricted = Restricted::to(Restriction::Analysis);
    let level = raw::NewGUCNestLevel();
    for (name, value) in FIXED {
        option::set(name, Some(value), GucContext::PGC_USERSET, GucAction::GUC_ACTION_SAVE, Unset::Error);
    }
    let result = {
        let _as_owner = AsUser::begin(owner);
        act()
    };
    // SAFETY: a level that was begun above.
    unsafe { pg_sys::AtEOXact_GUC(true, level) };
    result
}

/// Somebody else is the current user until it is dropped, also by an error.
struct AsUser(Acting);

impl AsUser {
    fn begin(user: u32) -> AsUser {
        let before = Acting::now();
        before.confined(user, LOCKED).resume();
        AsUser(before)
    }
}

impl Drop for AsUser {
    fn drop(&mut self) {
        self.0.resume();
    }
}

/// A column, as far as its mask has to be like it.
#[derive(Clone, Copy)]
pub struct Column {
    pub number: i16,
    pub of_type: pg_sys::Oid,
    pub modifier: i32,
    pub collation: pg_sys::Oid,
}

/// The expression that a text is, over the columns of a table (its first range table entry), of the type of the column, to which
/// only one that is new is cast. To be called [`undisturbed`]. Errors of PostgreSQL's are its own.
///
/// # Safety
/// `relation` is open and locked.
pub unsafe fn analysed(
    relation: pg_sys::Relation,
    column: &Column,
    text: &CStr,
    is_new: bool,
) -> Result<*mut pg_sys::Node, MaskFault> {
    let parsed = expression::parsed(text).ok_or(MaskFault::NotExpression)?;
    // SAFETY: by contract; the nodes are of this memory context, as the analysis wants them.
    unsafe {
        let state = pg_sys::make_parsestate(std::ptr::null_mut());
        let alias = pg_sys::makeAlias(ALIAS.as_ptr(), std::ptr::null_mut());
        let lock = pg_sys::AccessShareLock as c_int;
        let entry = pg_sys::addRangeTableEntryForRelation(state, relation, lock, alias, false, true);
        pg_sys::addNSItemToQuery(state, entry, false, true, true);
        // Of a policy: no aggregates, no window functions, no sets.
        let found = pg_sys::transformExpr(state, parsed, pg_sys::ParseExprKind::EXPR_KIND_POLICY);
        let of_type = pg_sys::exprType(found);
        let fault = || MaskFault::Type(type_name(of_type), type_name(column.of_type));
        if !is_new && of_type != column.of_type {
            return Err(fault());
        }
        let mut mask = pg_sys::coerce_to_target_type(
            state,
            found,
            of_type,
            column.of_type,
            column.modifier,
            pg_sys::CoercionContext::COERCION_EXPLICIT,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CAST,
            -1,
        );
        if mask.is_null() {
            return Err(fault());
        }
        pg_sys::assign_expr_collations(state, mask);
        if pg_sys::exprTypmod(mask) != column.modifier || pg_sys::exprCollation(mask) != column.collation {
            let implicit = pg_sys::CoercionForm::COERCE_IMPLICIT_CAST;
            mask =
                pg_sys::makeRelabelType(mask.cast(), column.of_type, column.modifier, column.collation, implicit)
                    .cast();
        }
        pg_sys::free_parsestate(state);
        Ok(mask)
    }
}

pub fn type_name(oid: pg_sys::Oid) -> String {
    // SAFETY: a palloc'd, NUL-terminated string, also for a type that is gone.
    unsafe { CStr::from_ptr(pg_sys::format_type_be(oid)) }.to_string_lossy().into_owned()
}

/// The text of a mask. To be called [`undisturbed`].
///
/// # Safety
/// `mask` is an expression over the columns of the table.
pub unsafe fn written<'a>(table: pg_sys::Oid, mask: *mut pg_sys::Node) -> &'a CStr {
    // SAFETY: by contract; the result is a palloc'd, NUL-terminated string.
    unsafe {
        let context = pg_sys::deparse_context_for(ALIAS.as_ptr(), table);
        CStr::from_ptr(pg_sys::deparse_expression(mask, context, false, false))
    }
}

/// Makes an analysed mask one that can be planned: nulls pass domains, and references are made.
///
/// # Safety
/// `mask` is an expression that [`analysed`] made.
pub unsafe fn finish(mask: *mut pg_sys::Node) -> Result<(), MaskFault> {
    let mut has_stray_reference = false;
    // SAFETY: by contract; the walk passes the pointer on as it is.
    unsafe { finish_node(mask, (&raw mut has_stray_reference).cast()) };
    if has_stray_reference { Err(MaskFault::Reference) } else { Ok(()) }
}

#[pg_guard]
unsafe extern "C-unwind" fn finish_node(node: *mut pg_sys::Node, stray: *mut c_void) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: the walkers pass nodes of the expression, and the pointer they were given; each cast follows the tag.
    unsafe {
        if node.is_null() {
            return false;
        }
        match (*node).type_ {
            T_Query => return compat::walk_query(node.cast(), finish_node, stray),
            T_RangeTblEntry => return false,
            T_CoerceToDomain if is_null((*(node as *mut pg_sys::CoerceToDomain)).arg.cast()) => {
                // Both nodes have the same fields; this one checks no constraint.
                const { assert!(size_of::<pg_sys::CoerceToDomain>() == size_of::<pg_sys::RelabelType>()) };
                (*node).type_ = T_RelabelType;
            }
            T_FuncExpr => {
                let call = &*(node as *mut pg_sys::FuncExpr);
                match what_of_references(call.funcid) {
                    OfReferences::TakesReference => make_references(call.args),
                    OfReferences::MakesReference => *(stray as *mut bool) = true,
                    OfReferences::Other => {}
                }
            }
            _ => {}
        }
        compat::walk_expression(node, finish_node, stray)
    }
}

/// Whether this is made of constants only.
///
/// # Safety
/// `node` is null or a node.
pub unsafe fn is_constant(node: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract; each cast follows the tag.
    unsafe {
        if node.is_null() {
            return false;
        }
        match (*node).type_ {
            T_Const => true,
            T_RelabelType => is_constant((*(node as *mut pg_sys::RelabelType)).arg.cast()),
            T_CoerceToDomain => is_constant((*(node as *mut pg_sys::CoerceToDomain)).arg.cast()),
            T_FuncExpr => PgList::<pg_sys::Node>::from_pg((*(node as *mut pg_sys::FuncExpr)).args)
                .iter_ptr()
                .all(|argument| is_constant(argument)),
            _ => false,
        }
    }
}

/// Whether this is a null, perhaps of another type.
///
/// # Safety
/// `node` is null or a node.
unsafe fn is_null(node: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract; each cast follows the tag.
    unsafe {
        if node.is_null() {
            return false;
        }
        match (*node).type_ {
            T_Const => (*(node as *mut pg_sys::Const)).constisnull,
            T_RelabelType => is_null((*(node as *mut pg_sys::RelabelType)).arg.cast()),
            _ => false,
        }
    }
}

enum OfReferences {
    /// `mask_ref()`
    MakesReference,
    /// `mask_hash()` and its like
    TakesReference,
    Other,
}

fn what_of_references(function: pg_sys::Oid) -> OfReferences {
    let function = function.to_u32();
    let name = catalog::presence()
        .filter(|found| catalog::is_ours(function, found.extension))
        .and_then(|_| catalog::function(function))
        .map(|found| found.name);
    match name.as_deref() {
        Some("mask_ref") => OfReferences::MakesReference,
        Some("mask_hash" | "mask_regex") => OfReferences::TakesReference,
        _ => OfReferences::Other,
    }
}

/// Puts a value in the place of each `mask_ref(7)` among these arguments.
///
/// # Safety
/// `arguments` is a list of expressions.
unsafe fn make_references(arguments: *mut pg_sys::List) {
    // SAFETY: by contract; each cast follows the tag. A mask_ref is an int4 in all but name.
    unsafe {
        let mut arguments = PgList::<pg_sys::Node>::from_pg(arguments);
        for at in 0..arguments.len() {
            let Some(argument) = arguments.get_ptr(at).filter(|&node| is_a(node, pg_sys::NodeTag::T_FuncExpr))
            else {
                continue;
            };
            let call = &*(argument as *mut pg_sys::FuncExpr);
            if !matches!(what_of_references(call.funcid), OfReferences::MakesReference) {
                continue;
            }
            let id = PgList::<pg_sys::Node>::from_pg(call.args)
                .get_ptr(0)
                .filter(|&id| is_a(id, pg_sys::NodeTag::T_Const))
                .map(|id| &*(id as *mut pg_sys::Const));
            if let Some(id) = id.filter(|id| !id.constisnull && id.consttype == pg_sys::INT4OID) {
                let (no_modifier, no_collation) = (-1, pg_sys::InvalidOid);
                let value = id.constvalue;
                let reference =
                    pg_sys::makeConst(call.funcresulttype, no_modifier, no_collation, 4, value, false, true);
                arguments.replace_ptr(at, reference.cast());
            }
        }
    }
}

/// The functions, operators and types that a mask uses and that can change: their system cache, and OID.
///
/// # Safety
/// `mask` is an analysed expression.
pub unsafe fn used(mask: *mut pg_sys::Node, used: &mut Vec<(c_int, pg_sys::Oid)>) {
    // SAFETY: by contract; the walk passes the pointer on as it is.
    unsafe { visit_used(mask, std::ptr::from_mut(used).cast()) };
}

#[pg_guard]
unsafe extern "C-unwind" fn visit_used(node: *mut pg_sys::Node, used: *mut c_void) -> bool {
    use pg_sys::NodeTag::*;
    use pg_sys::SysCacheIdentifier::{OPEROID, TYPEOID};
    // SAFETY: the walkers pass nodes of the expression, and the pointer they were given; each cast follows the tag.
    unsafe {
        if node.is_null() {
            return false;
        }
        let add = |cache, oid: pg_sys::Oid| {
            if oid.to_u32() >= FIRST_NORMAL_OBJECT_ID {
                (*(used as *mut Vec<(c_int, pg_sys::Oid)>)).push((cache as c_int, oid));
            }
        };
        match (*node).type_ {
            T_Query => return compat::walk_query(node.cast(), visit_used, used),
            T_RangeTblEntry => return false,
            T_List => {}
            T_Const | T_Var | T_FuncExpr | T_CoerceViaIO | T_CoerceToDomain | T_RelabelType | T_RowExpr
            | T_ArrayCoerceExpr => add(TYPEOID, pg_sys::exprType(node)),
            T_OpExpr | T_DistinctExpr | T_NullIfExpr => add(OPEROID, (*(node as *mut pg_sys::OpExpr)).opno),
            T_ScalarArrayOpExpr => add(OPEROID, (*(node as *mut pg_sys::ScalarArrayOpExpr)).opno),
            _ => {}
        }
        pg_sys::check_functions_in_node(node, Some(visit_used_function), used);
        compat::walk_expression(node, visit_used, used)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn visit_used_function(function: pg_sys::Oid, used: *mut c_void) -> bool {
    if function.to_u32() >= FIRST_NORMAL_OBJECT_ID {
        let cache = pg_sys::SysCacheIdentifier::PROCOID as c_int;
        // SAFETY: the pointer that visit_used() passed on.
        unsafe { (*(used as *mut Vec<(c_int, pg_sys::Oid)>)).push((cache, function)) };
    }
    false
}
