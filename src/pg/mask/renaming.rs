//! What a query says of a table whose place a subquery takes: system columns and rows as a whole are columns there.

use crate::pg::mask::subquery::{copy, new_node};
use crate::pg::sys::compat;
use pgrx::tupdesc::PgTupleDesc;
use pgrx::{PgList, pg_guard, pg_sys};
use std::ffi::{c_int, c_void};

/// System columns and rows as a whole, which a subquery does not have, become columns of it.
pub struct Renaming {
    pub index: c_int,
    /// How deep the walk is in queries inside the one with the table.
    pub level: pg_sys::Index,
    pub inner: *mut pg_sys::Query,
    pub outer: *mut pg_sys::RangeTblEntry,
    pub relation: pg_sys::Relation,
}

#[pg_guard]
pub unsafe extern "C-unwind" fn rename(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: the walkers pass nodes of the query and the pointer they were given; the casts follow the tag.
    unsafe {
        if node.is_null() {
            return false;
        }
        match (*node).type_ {
            T_Query => {
                (*(context as *mut Renaming)).level += 1;
                compat::walk_query(node.cast(), rename, context);
                (*(context as *mut Renaming)).level -= 1;
                false
            }
            T_RangeTblEntry => false,
            T_Var => {
                let (variable, renaming) = (&mut *(node as *mut pg_sys::Var), &mut *(context as *mut Renaming));
                if compat::is_of_table(variable, renaming.index)
                    && variable.varlevelsup == renaming.level
                    && variable.varattno <= 0
                {
                    let number = renaming.column(variable);
                    if variable.varnosyn == renaming.index as pg_sys::Index {
                        variable.varattnosyn = number;
                    }
                    variable.varattno = number;
                }
                false
            }
            _ => compat::walk_expression(node, rename, context),
        }
    }
}

impl Renaming {
    /// The number of the column that stands for this variable.
    ///
    /// # Safety
    /// The variable is one of the table.
    unsafe fn column(&mut self, variable: &pg_sys::Var) -> i16 {
        // SAFETY: by contract; target lists hold target entries.
        unsafe {
            let shown = self.shown(variable);
            let targets = PgList::<pg_sys::TargetEntry>::from_pg((*self.inner).targetList);
            let known = targets.iter_ptr().find(|&target| pg_sys::equal((*target).expr.cast(), shown.cast()));
            // A mask may look like that, too, but only further up.
            let natts = (*(*self.relation).rd_att).natts;
            if let Some(known) = known.filter(|&known| c_int::from((*known).resno) > natts) {
                return (*known).resno;
            }
            let number = targets.len() as i16 + 1;
            let name = match variable.varattno {
                0 => pg_sys::pstrdup((*(*self.relation).rd_rel).relname.data.as_ptr()),
                system => pg_sys::get_attname((*self.relation).rd_id, system, false),
            };
            // Not as junk, which the planner keeps apart.
            let target = pg_sys::makeTargetEntry(shown, number, name, false);
            (*self.inner).targetList = pg_sys::lappend((*self.inner).targetList, target.cast());
            let names = (*(*self.outer).eref).colnames;
            (*(*self.outer).eref).colnames =
                pg_sys::lappend(names, pg_sys::makeString(pg_sys::pstrdup(name)).cast());
            number
        }
    }

    /// What a variable shows, inside.
    ///
    /// # Safety
    /// As [`Renaming::column`].
    unsafe fn shown(&self, variable: &pg_sys::Var) -> *mut pg_sys::Expr {
        // SAFETY: by contract; the first targets are the columns of the table, in their order.
        unsafe {
            let (number, of_type) = (variable.varattno, variable.vartype);
            if number < 0 {
                let (modifier, collation) = (variable.vartypmod, variable.varcollid);
                return pg_sys::makeVar(1, number, of_type, modifier, collation, 0).cast();
            }
            let row = new_node::<pg_sys::RowExpr>(pg_sys::NodeTag::T_RowExpr);
            let targets = PgList::<pg_sys::TargetEntry>::from_pg((*self.inner).targetList);
            let columns = PgTupleDesc::from_pg_unchecked((*self.relation).rd_att);
            // Nobody reads what stands for a dropped column, but IS [NOT] NULL looks at it: it says what another column says.
            let live = columns.iter().position(|column| !column.attisdropped);
            for (at, column) in columns.iter().enumerate() {
                let shown = if column.attisdropped { live.unwrap_or(at) } else { at };
                let (Some(target), Some(shown)) = (targets.get_ptr(at), targets.get_ptr(shown)) else { continue };
                (*row).args = pg_sys::lappend((*row).args, copy((*shown).expr).cast());
                let name = pg_sys::makeString(pg_sys::pstrdup((*target).resname));
                (*row).colnames = pg_sys::lappend((*row).colnames, name.cast());
            }
            (*row).row_typeid = of_type;
            (*row).row_format = pg_sys::CoercionForm::COERCE_IMPLICIT_CAST;
            (*row).location = -1;
            row.cast()
        }
    }
}
