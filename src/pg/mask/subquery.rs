//! The subquery that takes the place of a table.

use crate::pg::mask::cache::{as_member, as_read};
use crate::pg::mask::fault::MaskFault;
use crate::pg::mask::hidden::{Hidden, authority, entry_of, may};
use crate::pg::mask::renaming::{Renaming, rename};
use crate::pg::mask::wrap;
use crate::pg::sys::compat;
use pgrx::pg_sys;
use pgrx::tupdesc::PgTupleDesc;
use std::ffi::c_int;

impl Hidden {
    /// Puts a subquery in the place of the table.
    ///
    /// # Safety
    /// As [`Hidden::of`], with which this was made for the same entry.
    pub unsafe fn replace(&self, query: *mut pg_sys::Query, index: c_int) -> Result<(), MaskFault> {
        // SAFETY: by contract; nodes are made in the memory of the query, and none is in two places.
        unsafe {
            let outer = &mut *entry_of(query, index);
            let inner = new_node::<pg_sys::Query>(pg_sys::NodeTag::T_Query);
            let entry = new_node::<pg_sys::RangeTblEntry>(pg_sys::NodeTag::T_RangeTblEntry);
            *entry = *outer;
            (*entry).inFromCl = true;
            (*entry).lateral = false;
            outer.eref = copy(outer.eref);

            // What was done to the table is done inside. It must be off the outer entry before its columns are renamed.
            (outer.securityQuals, outer.tablesample) = (std::ptr::null_mut(), std::ptr::null_mut());
            pg_sys::ChangeVarNodes((*entry).securityQuals.cast(), index, 1, 0);
            let sample: *mut pg_sys::Node = (*entry).tablesample.cast();
            outer.lateral = pg_sys::contain_vars_of_level(sample, 0);
            pg_sys::IncrementVarSublevelsUp(sample, 1, 0);

            let reference = new_node::<pg_sys::RangeTblRef>(pg_sys::NodeTag::T_RangeTblRef);
            (*reference).rtindex = 1;
            (*inner).commandType = pg_sys::CmdType::CMD_SELECT;
            (*inner).canSetTag = true;
            (*inner).hasRowSecurity = (*query).hasRowSecurity;
            (*inner).rtable = pg_sys::lappend(std::ptr::null_mut(), entry.cast());
            let from = pg_sys::lappend(std::ptr::null_mut(), reference.cast());
            (*inner).jointree = pg_sys::makeFromExpr(from, std::ptr::null_mut());
            (*inner).targetList = self.targets()?;
            self.ask_for_the_rest(query, outer, inner, entry);

            let mut renaming = Renaming { index, level: 0, inner, outer, relation: self.relation.0 };
            compat::walk_query(query, rename, (&raw mut renaming).cast());
            (*inner).hasSubLinks = [(*inner).targetList.cast(), (*entry).securityQuals.cast(), sample]
                .into_iter()
                .any(|part| pg_sys::checkExprHasSubLink(part));
            let mark = pg_sys::get_parse_rowmark(query, index as pg_sys::Index).as_ref();
            if let Some(mark) = mark {
                pg_sys::applyLockingClause(inner, 1, mark.strength, mark.waitPolicy, true);
            }

            outer.rtekind = pg_sys::RTEKind::RTE_SUBQUERY;
            outer.subquery = inner;
            outer.security_barrier = false;
            (outer.relid, outer.relkind, outer.rellockmode, outer.inh) = (pg_sys::InvalidOid, 0, 0, false);
            compat::clear_permissions(outer);
        }
        Ok(())
    }

    /// What the subquery shows: each column of the table under its own number.
    ///
    /// # Safety
    /// As [`Hidden::replace`].
    unsafe fn targets(&self) -> Result<*mut pg_sys::List, MaskFault> {
        let mut targets = std::ptr::null_mut();
        // SAFETY: by contract; the descriptor is of the open table.
        unsafe {
            for column in PgTupleDesc::from_pg_unchecked((*self.relation.0).rd_att).iter() {
                let number = column.attnum;
                let shown: *mut pg_sys::Expr = if column.attisdropped {
                    pg_sys::makeNullConst(pg_sys::INT4OID, -1, pg_sys::InvalidOid).cast()
                } else if let Some(masks) = self.masks.as_ref().filter(|_| self.named.contains(&number)) {
                    masks.mask(self.relation.0, number)?.cast()
                } else if self.unnamed.contains(&number) {
                    pg_sys::makeNullConst(column.atttypid, column.atttypmod, column.attcollation).cast()
                } else {
                    let (modifier, collation) = (column.atttypmod, column.attcollation);
                    wrap::shown(pg_sys::makeVar(1, number, column.atttypid, modifier, collation, 0))
                };
                let name = pg_sys::pstrdup(column.attname.data.as_ptr());
                targets = pg_sys::lappend(targets, pg_sys::makeTargetEntry(shown, number, name, false).cast());
            }
        }
        Ok(targets)
    }

    /// The rights that the subquery asks for are those on the columns that are not masked.
    ///
    /// # Safety
    /// As [`Hidden::replace`].
    unsafe fn ask_for_the_rest(
        &self,
        query: *mut pg_sys::Query,
        outer: *mut pg_sys::RangeTblEntry,
        inner: *mut pg_sys::Query,
        entry: *mut pg_sys::RangeTblEntry,
    ) {
        // SAFETY: by contract; sets are copied before they are changed.
        unsafe {
            let asked = compat::permissions_of(query, outer);
            let asks = &mut *compat::move_permissions(inner, entry, asked);
            let mut reads = pg_sys::bms_copy((*asked).selectedCols);
            let of_row = as_member(0);
            if pg_sys::bms_is_member(of_row, reads) {
                reads = pg_sys::bms_del_member(reads, of_row);
                for column in PgTupleDesc::from_pg_unchecked((*self.relation.0).rd_att).iter() {
                    if !column.attisdropped {
                        reads = pg_sys::bms_add_member(reads, as_member(column.attnum));
                    }
                }
            }
            let mut masked = std::ptr::null_mut();
            for &number in &self.named {
                reads = pg_sys::bms_del_member(reads, as_member(number));
                masked = pg_sys::bms_add_member(masked, as_member(number));
            }
            for &number in &self.unnamed {
                reads = pg_sys::bms_del_member(reads, as_member(number));
            }
            asks.selectedCols = reads;
            let role = authority(asks);
            for number in self.read_by((*inner).targetList) {
                if !may((*self.relation.0).rd_id, number, role, pg_sys::ACL_SELECT) {
                    masked = pg_sys::bms_add_member(masked, as_read(number));
                }
            }
            compat::set_masked_columns(asks, masked);
        }
    }

    /// The columns that masks read, and those from which these are generated.
    ///
    /// # Safety
    /// As [`Hidden::replace`], with what [`Hidden::targets`] made.
    unsafe fn read_by(&self, targets: *mut pg_sys::List) -> Vec<i16> {
        // SAFETY: by contract; the list has an element for each column of the table, in their order.
        unsafe {
            let mut read = std::ptr::null_mut();
            for target in self.named.iter().filter_map(|&number| usize::try_from(number - 1).ok()) {
                let target: *mut pg_sys::TargetEntry = compat::element(targets, target);
                pg_sys::pull_varattnos((*target).expr.cast(), 1, &mut read);
            }
            let columns = PgTupleDesc::from_pg_unchecked((*self.relation.0).rd_att);
            for column in columns.iter().filter(|column| column.attgenerated != 0) {
                if compat::is_member(as_member(column.attnum), read) {
                    let of = pg_sys::build_column_default(self.relation.0, column.attnum.into());
                    pg_sys::pull_varattnos(of, 1, &mut read);
                }
            }
            let numbers = columns.iter().map(|column| column.attnum);
            numbers.filter(|&number| compat::is_member(as_member(number), read)).collect()
        }
    }
}

/// # Safety
/// `T` is the structure of the tag.
pub unsafe fn new_node<T>(tag: pg_sys::NodeTag) -> *mut T {
    // SAFETY: by contract; all zeros is a node without anything in it.
    unsafe {
        let node = pg_sys::palloc0(size_of::<T>());
        (*(node as *mut pg_sys::Node)).type_ = tag;
        node.cast()
    }
}

/// # Safety
/// `node` is null or a node.
pub unsafe fn copy<T>(node: *const T) -> *mut T {
    // SAFETY: by contract.
    unsafe { pg_sys::copyObjectImpl(node.cast()).cast() }
}
