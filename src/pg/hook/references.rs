//! What a query refers to before it is planned.

use crate::core::guard::FIRST_NORMAL_OBJECT_ID;
use crate::pg::hook::nodes::cells;
use crate::pg::sys::{compat, raw};
use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use std::ffi::{c_int, c_void};

/// What a query refers to before it is planned.
pub struct References(*mut pg_sys::Query);

/// Relations, functions (those of operators and casts, too) and the types of values.
#[derive(Default)]
pub struct Found {
    pub relations: Vec<u32>,
    /// Views that were replaced by their queries; before 16 these are among the relations.
    pub views: Vec<u32>,
    pub functions: Vec<u32>,
    pub types: Vec<u32>,
}

impl Found {
    /// PostgreSQL's own types are not worth a place.
    fn add_type(&mut self, oid: pg_sys::Oid) {
        let oid = oid.to_u32();
        if oid >= FIRST_NORMAL_OBJECT_ID && !self.types.contains(&oid) {
            self.types.push(oid);
        }
    }

    /// # Safety
    /// `list` is null or a list of OIDs.
    unsafe fn add_types(&mut self, list: *mut pg_sys::List) {
        // SAFETY: by contract; such a list holds nothing else.
        unsafe { cells(list).iter().for_each(|cell| self.add_type(cell.oid_value)) };
    }
}

impl References {
    /// # Safety
    /// `query` is a query that outlives the value.
    pub unsafe fn of(query: *mut pg_sys::Query) -> References {
        References(query)
    }

    /// However deep in subqueries.
    pub fn collect(&self) -> Found {
        let mut found = Found::default();
        // SAFETY: by contract of the constructor; the walk only reads, and passes `found` on as it is. It owns nothing, so
        // that an error may leave it: one guard is enough for all of it.
        unsafe { pg_guard_ffi_boundary(|| visit(self.0 as *mut pg_sys::Node, &raw mut found as *mut c_void)) };
        found
    }
}

/// Called by PostgreSQL's tree walkers for each node. Plain frame.
#[allow(ffi_unwind_calls)]
unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, found: *mut c_void) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: the walkers pass nodes of the query and the pointer they were given; each cast follows the tag.
    unsafe {
        if node.is_null() {
            return false;
        }
        match (*node).type_ {
            T_Query => {
                let flags = pg_sys::QTW_EXAMINE_RTES_BEFORE as c_int;
                return compat::plain::query_tree_walker(node as *mut pg_sys::Query, visit, found, flags);
            }
            T_RangeTblEntry => {
                let entry = &*(node as *mut pg_sys::RangeTblEntry);
                if entry.rtekind == pg_sys::RTEKind::RTE_RELATION {
                    (*(found as *mut Found)).relations.push(entry.relid.to_u32());
                } else if entry.rtekind == pg_sys::RTEKind::RTE_SUBQUERY && entry.relid != pg_sys::InvalidOid {
                    (*(found as *mut Found)).views.push(entry.relid.to_u32());
                }
                return false;
            }
            // Values of a type come from these; other expressions hand on what they were given.
            T_Const | T_Var | T_Param | T_FuncExpr | T_CoerceViaIO | T_CoerceToDomain | T_RelabelType
            | T_RowExpr | T_ArrayCoerceExpr | T_ConvertRowtypeExpr => {
                (*(found as *mut Found)).add_type(raw::exprType(node));
            }
            T_RangeTblFunction => {
                (*(found as *mut Found)).add_types((*(node as *mut pg_sys::RangeTblFunction)).funccoltypes);
            }
            T_TableFunc => (*(found as *mut Found)).add_types((*(node as *mut pg_sys::TableFunc)).coltypes),
            _ => {}
        }
        raw::check_functions_in_node(node, Some(visit_function), found);
        compat::plain::expression_tree_walker(node, visit, found)
    }
}

unsafe extern "C-unwind" fn visit_function(function: pg_sys::Oid, found: *mut c_void) -> bool {
    // SAFETY: the pointer that visit() passed on.
    unsafe { (*(found as *mut Found)).functions.push(function.to_u32()) };
    false
}
