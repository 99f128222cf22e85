//! What may be a mask. Each rule closes a way on which a mask showed what it hides.

use crate::core::guard::FIRST_NORMAL_OBJECT_ID;
use crate::pg::catalog;
use crate::pg::mask::expression::{self, Column, undisturbed};
use crate::pg::mask::fault::MaskFault;
use crate::pg::sys::compat;
use pgrx::tupdesc::PgTupleDesc;
use pgrx::{PgList, is_a, pg_guard, pg_sys};
use std::ffi::{CStr, CString, c_int, c_void};

/// Functions whose bodies are looked into, one inside the other.
const MAX_NESTING: u32 = 16;

/// PostgreSQL's functions that find time zones by name, as settings of the session say: `timezone(text, ...)`, and those named
/// `date_trunc`, `date_add`, `date_subtract` and `generate_series` that take a zone.
const BY_NAME_OF_ZONE: [u32; 7] = [1159, 2037, 2069, 1284, 6222, 6273, 6274];

/// Types whose text is immutable in the catalogs only: `bytea_output` and `extra_float_digits` change it, and the encoding that of xml.
const TEXT_BY_SETTINGS: [pg_sys::Oid; 11] = [
    pg_sys::BYTEAOID,
    pg_sys::FLOAT4OID,
    pg_sys::FLOAT8OID,
    pg_sys::POINTOID,
    pg_sys::LSEGOID,
    pg_sys::PATHOID,
    pg_sys::BOXOID,
    pg_sys::POLYGONOID,
    pg_sys::LINEOID,
    pg_sys::CIRCLEOID,
    pg_sys::XMLOID,
];

/// The text in which a mask (in the database encoding) is stored; an error if it may not be one.
pub fn check(table: u32, number: i16, text: &CStr) -> CString {
    check_or_fault(table, number, text).unwrap_or_else(|fault| fault.raise())
}

fn check_or_fault(table: u32, number: i16, text: &CStr) -> Result<CString, MaskFault> {
    with_column(table, number, |relation, column| {
        // SAFETY: the relation is open and locked.
        unsafe {
            let mask = expression::analysed(relation, column, text, true)?;
            allow(mask)?;
            let written = expression::written((*relation).rd_id, mask);
            let again = expression::analysed(relation, column, written, false).map_err(|_| MaskFault::Unstable)?;
            if expression::written((*relation).rd_id, again) != written {
                return Err(MaskFault::Unstable);
            }
            expression::finish(again)?;
            Ok(written.to_owned())
        }
    })
}

/// Whether an expression over the columns of a table may fail for what they hold, as far as PostgreSQL knows: it passes one to
/// a function that is not LEAKPROOF.
pub fn may_fail(table: u32, number: i16, text: &CStr) -> bool {
    let found = with_column(table, number, |relation, column| {
        // SAFETY: the relation is open and locked.
        unsafe {
            let mask = expression::analysed(relation, column, text, true)?;
            Ok(pg_sys::contain_leaked_vars(mask))
        }
    });
    found.unwrap_or_else(|fault| fault.raise())
}

/// Looks at an expression for a column, undisturbed.
fn with_column<T>(
    table: u32,
    number: i16,
    look: impl FnOnce(pg_sys::Relation, &Column) -> Result<T, MaskFault>,
) -> Result<T, MaskFault> {
    let owner = catalog::presence().ok_or(MaskFault::NoColumn)?.owner;
    // SAFETY: the relation is open and locked while it is used; the lock is kept.
    unsafe {
        let relation = pg_sys::try_relation_open(table.into(), pg_sys::AccessShareLock as c_int);
        if relation.is_null() {
            return Err(MaskFault::NoColumn);
        }
        let column = column(relation, number).filter(|_| {
            let kind = (*(*relation).rd_rel).relkind as u8;
            matches!(kind, b'r' | b'p' | b'f' | b'm' | b'v')
        });
        let checked =
            column.ok_or(MaskFault::NoColumn).and_then(|column| undisturbed(owner, || look(relation, &column)));
        pg_sys::relation_close(relation, pg_sys::NoLock as c_int);
        checked
    }
}

/// A column that a table has.
///
/// # Safety
/// `relation` is open.
pub unsafe fn column(relation: pg_sys::Relation, number: i16) -> Option<Column> {
    let at = usize::try_from(number).ok()?.checked_sub(1)?;
    // SAFETY: by contract; the descriptor is only read.
    let descriptor = unsafe { PgTupleDesc::from_pg_unchecked((*relation).rd_att) };
    descriptor.get(at).filter(|column| !column.attisdropped).map(|column| Column {
        number,
        of_type: column.atttypid,
        modifier: column.atttypmod,
        collation: column.attcollation,
    })
}

/// What a walk finds.
struct Findings {
    fault: Option<MaskFault>,
    /// Functions that are not PostgreSQL's, also inside of others.
    functions: Vec<pg_sys::Oid>,
    nesting: u32,
    /// Inside the body of a function, whose arguments are values already.
    is_body: bool,
}

/// The functions on which it depends that this may be a mask, of those that can change.
///
/// # Safety
/// `mask` is an analysed expression.
pub unsafe fn allow(mask: *mut pg_sys::Node) -> Result<Vec<pg_sys::Oid>, MaskFault> {
    let mut found = Findings { fault: None, functions: Vec::new(), nesting: 0, is_body: false };
    // SAFETY: by contract; the walk passes the pointer on as it is.
    unsafe {
        visit(mask, (&raw mut found).cast());
        match found.fault {
            Some(fault) => Err(fault),
            None if pg_sys::contain_mutable_functions(mask) => Err(MaskFault::NotImmutable(None)),
            None => Ok(found.functions),
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: the walkers pass nodes of the expression and the pointer they were given; each cast follows the tag.
    unsafe {
        if node.is_null() {
            return false;
        }
        let found = context as *mut Findings;
        match (*node).type_ {
            T_List => {}
            T_Query => return compat::walk_query(node.cast(), visit, context),
            T_RangeTblEntry => {
                let entry = &*(node as *mut pg_sys::RangeTblEntry);
                if entry.rtekind == pg_sys::RTEKind::RTE_RELATION || entry.relid != pg_sys::InvalidOid {
                    (*found).fault = Some(MaskFault::Table);
                } else if entry.rtekind == pg_sys::RTEKind::RTE_TABLEFUNC {
                    (*found).fault = Some(xml_or_json());
                }
                return (*found).fault.is_some();
            }
            T_Var if !(*found).is_body && (*(node as *mut pg_sys::Var)).varattno <= 0 => {
                (*found).fault = Some(MaskFault::WholeRow);
            }
            _ => {
                pg_sys::check_functions_in_node(node, Some(visit_function), context);
            }
        }
        if (*found).fault.is_none() && !compat::walk_expression(node, visit, context) {
            (*found).fault = fault_of(node);
        }
        (*found).fault.is_some()
    }
}

/// What is wrong with a node by itself.
///
/// # Safety
/// `node` is a node.
unsafe fn fault_of(node: *mut pg_sys::Node) -> Option<MaskFault> {
    use pg_sys::NodeTag::*;
    let aggregate = |oid: pg_sys::Oid| {
        (oid.to_u32() >= FIRST_NORMAL_OBJECT_ID).then(|| MaskFault::Aggregate(function_name(oid)))
    };
    let text_of = |oid| MaskFault::Settings(format!("the text of type {}", expression::type_name(oid)));
    // SAFETY: by contract; each cast follows the tag.
    unsafe {
        match (*node).type_ {
            T_Aggref => aggregate((*(node as *mut pg_sys::Aggref)).aggfnoid),
            T_WindowFunc => aggregate((*(node as *mut pg_sys::WindowFunc)).winfnoid),
            T_CoerceToDomain => {
                let cast = &*(node as *mut pg_sys::CoerceToDomain);
                let sees_values =
                    compat::has_constraints(cast.resulttype) && !expression::is_constant(cast.arg.cast());
                sees_values.then(|| MaskFault::Domain(expression::type_name(cast.resulttype)))
            }
            T_CoerceViaIO => {
                let of_type = pg_sys::exprType((*(node as *mut pg_sys::CoerceViaIO)).arg.cast());
                TEXT_BY_SETTINGS.contains(&pg_sys::getBaseType(of_type)).then(|| text_of(of_type))
            }
            T_FuncExpr if (*(node as *mut pg_sys::FuncExpr)).funcresulttype == pg_sys::CSTRINGOID => {
                Some(text_of(pg_sys::CSTRINGOID))
            }
            tag if tag == T_XmlExpr || compat::is_sql_json(tag) => Some(xml_or_json()),
            _ => None,
        }
    }
}

fn xml_or_json() -> MaskFault {
    MaskFault::Settings("what XML or SQL/JSON makes".into())
}

fn function_name(oid: pg_sys::Oid) -> String {
    catalog::function(oid.to_u32()).map(|function| function.name).unwrap_or_default()
}

#[pg_guard]
unsafe extern "C-unwind" fn visit_function(function: pg_sys::Oid, context: *mut c_void) -> bool {
    // SAFETY: the pointer that visit() passed on.
    let found = unsafe { &mut *(context as *mut Findings) };
    if let Err(fault) = allow_function(function, found) {
        found.fault = Some(fault);
    }
    found.fault.is_some()
}

fn allow_function(oid: pg_sys::Oid, found: &mut Findings) -> Result<(), MaskFault> {
    let name = || function_name(oid);
    if BY_NAME_OF_ZONE.contains(&oid.to_u32()) {
        return Err(MaskFault::Settings(format!("a time zone by its name (function {})", name())));
    }
    // SAFETY: takes an OID by value.
    let (volatility, parallel) = unsafe { (pg_sys::func_volatile(oid), pg_sys::func_parallel(oid)) };
    if volatility as u8 != b'i' && !found.is_body {
        return Err(MaskFault::NotImmutable(Some(name())));
    }
    if parallel as u8 != b's' {
        return Err(MaskFault::NotParallelSafe(name()));
    }
    if oid.to_u32() < FIRST_NORMAL_OBJECT_ID
        || catalog::presence().is_some_and(|p| catalog::is_ours(oid.to_u32(), p.extension))
    {
        return Ok(());
    }
    found.functions.push(oid);
    if catalog::function(oid.to_u32()).is_none_or(|function| function.is_definer) {
        return Err(MaskFault::Definer(name()));
    }
    let Some(names) = catalog::how_names_are_found(oid.to_u32()) else {
        return Err(MaskFault::SearchPath(name()));
    };
    match names {
        catalog::Names::Fixed => Ok(()),
        catalog::Names::ByCaller => Err(MaskFault::SearchPath(name())),
        catalog::Names::Parsed(_) if found.nesting >= MAX_NESTING => Err(MaskFault::SearchPath(name())),
        catalog::Names::Parsed(body) => {
            let functions = std::mem::take(&mut found.functions);
            let mut inside = Findings { fault: None, functions, nesting: found.nesting + 1, is_body: true };
            // SAFETY: the text of a parsed body, which PostgreSQL wrote; the walk passes the pointer on as it is.
            let is_expression = unsafe {
                let body = pg_sys::stringToNode(body.as_ptr()).cast();
                visit(body, (&raw mut inside).cast());
                is_expression(body, pg_sys::get_func_rettype(oid))
            };
            found.functions = inside.functions;
            match inside.fault {
                Some(fault) => Err(fault),
                None if is_expression => Ok(()),
                None => Err(MaskFault::Body(name())),
            }
        }
    }
}

/// Whether a parsed body is one expression of this type, to which PostgreSQL adds no cast when it runs. What is more is planned
/// as a query of its own, with values that settings like `debug_print_plan` show.
///
/// # Safety
/// `body` is what a function's body was parsed to.
unsafe fn is_expression(mut body: *mut pg_sys::Node, of_type: pg_sys::Oid) -> bool {
    // SAFETY: by contract; each cast follows the tag.
    unsafe {
        while !body.is_null() && is_a(body, pg_sys::NodeTag::T_List) {
            let statements = PgList::<pg_sys::Node>::from_pg(body.cast());
            body = statements.get_ptr(0).filter(|_| statements.len() == 1).unwrap_or_default();
        }
        if body.is_null() || !is_a(body, pg_sys::NodeTag::T_Query) {
            return false;
        }
        let query = &*(body as *mut pg_sys::Query);
        let is_plain = query.commandType == pg_sys::CmdType::CMD_SELECT
            && !(query.hasSubLinks || query.hasAggs || query.hasWindowFuncs || query.hasTargetSRFs)
            && [query.rtable, query.cteList, query.groupClause, query.groupingSets, query.sortClause]
                .iter()
                .all(|list| list.is_null())
            && [query.distinctClause, query.rowMarks].iter().all(|list| list.is_null())
            && [query.havingQual, query.limitCount, query.limitOffset, query.setOperations]
                .iter()
                .all(|node| node.is_null())
            && query.jointree.as_ref().is_none_or(|from| from.quals.is_null());
        let targets = PgList::<pg_sys::TargetEntry>::from_pg(query.targetList);
        let target = targets.get_ptr(0).filter(|_| is_plain && targets.len() == 1);
        target.is_some_and(|target| pg_sys::exprType((*target).expr.cast()) == of_type)
    }
}
