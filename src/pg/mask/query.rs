//! Changing a query before it is planned, and what its plan has to be told.
//!
//! Only a table of which the query names a masked column is touched. Its entry in the range table becomes a plain subquery,
//! which the planner pulls up again: no barrier (it would protect nothing, and cost indexes), the same column numbers.

use crate::core::guard::FIRST_NORMAL_OBJECT_ID;
use crate::pg::catalog;
use crate::pg::mask::cache::{self, Masks, as_member, is_subscriber};
use crate::pg::mask::fault::MaskFault;
use crate::pg::mask::wrap;
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::report::Report;
use crate::pg::sys::{compat, raw};
use pgrx::tupdesc::PgTupleDesc;
use pgrx::{PgList, pg_guard, pg_sys};
use std::ffi::{c_int, c_void};
use std::rc::Rc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

/// How deep the hooks are nested where a query of a subscriber is being planned; 0 where none is.
static PLANNING: AtomicU32 = AtomicU32::new(0);

/// Puts masks in the place of the columns that whoever runs the query may not see, in it and in all queries inside it.
///
/// # Safety
/// The query was analysed and rewritten, its tables are locked, and it is the caller's to change.
pub unsafe fn rewrite(query: *mut pg_sys::Query) -> Result<(), Report> {
    // What is masked is looked up, if it changed.
    cache::is_masked(0);
    // SAFETY: by contract.
    if !wrap::is_on() && !unsafe { search(query.cast(), std::ptr::null_mut()) } {
        return Ok(());
    }
    let mut fault: Option<MaskFault> = None;
    // SAFETY: by contract; the walk passes the pointer on as it is.
    unsafe { visit(query.cast(), (&raw mut fault).cast()) };
    inject::point(Point::QueryMasked);
    fault.map_or(Ok(()), |fault| Err(fault.into()))
}

/// Whether there is anything to do: a plain frame, as most queries have nothing to do with masks.
#[allow(ffi_unwind_calls)]
unsafe extern "C-unwind" fn search(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    // SAFETY: the walkers pass nodes of the query; the cast follows the tag.
    unsafe {
        if node.is_null() {
            return false;
        }
        match (*node).type_ {
            pg_sys::NodeTag::T_Query => {
                let query = node as *mut pg_sys::Query;
                cache::is_named_in(query) || compat::plain::query_tree_walker(query, search, context, 0)
            }
            _ => compat::plain::expression_tree_walker(node, search, context),
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, fault: *mut c_void) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: the walkers pass nodes of the query and the pointer they were given; the cast follows the tag.
    unsafe {
        if node.is_null() {
            return false;
        }
        match (*node).type_ {
            // Those inside it first: what is put in is not looked at again.
            T_Query => {
                let query = node as *mut pg_sys::Query;
                if compat::walk_query(query, visit, fault) {
                    return true;
                }
                let masked = mask_tables(query);
                masked.map_err(|found| *(fault as *mut Option<MaskFault>) = Some(found)).is_err()
            }
            T_RangeTblEntry => false,
            _ => compat::walk_expression(node, visit, fault),
        }
    }
}

/// # Safety
/// As [`rewrite`], for this query only.
unsafe fn mask_tables(query: *mut pg_sys::Query) -> Result<(), MaskFault> {
    // SAFETY: by contract; indexes of the range table are those of its entries.
    unsafe {
        if (*query).commandType == pg_sys::CmdType::CMD_UTILITY {
            return Ok(());
        }
        let targets = [(*query).resultRelation, compat::merge_target(&*query)];
        let mut read = Vec::new();
        named_in((*query).jointree.cast(), &mut read);
        read.retain(|index| !targets.contains(index));
        // What is in the range table only is what is changed, also by a view, or OLD, NEW, EXCLUDED.
        if (*query).commandType != pg_sys::CmdType::CMD_SELECT {
            let all = PgList::<pg_sys::RangeTblEntry>::from_pg((*query).rtable).len() as c_int;
            for target in (1..=all).filter(|index| !read.contains(index)) {
                if let Some((table, column)) = refused_of(query, target) {
                    let (column, table) = cache::names(table, column);
                    return Err(MaskFault::Target(column, table));
                }
            }
        }
        for index in read {
            let hidden = if wrap::is_on() { Hidden::nothing(query, index) } else { Hidden::of(query, index) };
            if let Some(hidden) = hidden {
                hidden.replace(query, index)?;
                inject::point(Point::TableMasked);
            }
        }
    }
    Ok(())
}

/// Indexes of what the FROM clause names.
///
/// # Safety
/// `node` is null or a node of a join tree.
unsafe fn named_in(node: *mut pg_sys::Node, found: &mut Vec<c_int>) {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract; each cast follows the tag.
    unsafe {
        if node.is_null() {
            return;
        }
        match (*node).type_ {
            T_RangeTblRef => found.push((*(node as *mut pg_sys::RangeTblRef)).rtindex),
            T_FromExpr => {
                let list = (*(node as *mut pg_sys::FromExpr)).fromlist;
                PgList::<pg_sys::Node>::from_pg(list).iter_ptr().for_each(|part| named_in(part, found));
            }
            T_JoinExpr => {
                named_in((*(node as *mut pg_sys::JoinExpr)).larg, found);
                named_in((*(node as *mut pg_sys::JoinExpr)).rarg, found);
            }
            _ => {}
        }
    }
}

/// The entry of a range table with this index.
///
/// # Safety
/// The query has one.
unsafe fn entry_of(query: *mut pg_sys::Query, index: c_int) -> *mut pg_sys::RangeTblEntry {
    // SAFETY: by contract.
    unsafe { pg_sys::list_nth((*query).rtable, index - 1).cast() }
}

/// A masked column of what is changed, for which PostgreSQL would refuse the statement: `(table, column)`.
///
/// # Safety
/// As [`rewrite`]; the query has an entry with this index.
unsafe fn refused_of(query: *mut pg_sys::Query, index: c_int) -> Option<(u32, i16)> {
    // SAFETY: by contract; the permissions are null or belong to the entry.
    unsafe {
        if let Some(hidden) = Hidden::of(query, index) {
            return hidden.named.first().map(|&column| (hidden.relation(), column));
        }
        let entry = entry_of(query, index);
        let permissions = compat::permissions_of(query, entry).as_ref()?;
        if (*entry).relid == pg_sys::InvalidOid || !cache::is_masked((*entry).relid.to_u32()) {
            return None;
        }
        let masks = cache::masks(Opened::of((*entry).relid).0)?;
        let role = authority(permissions);
        let writes = compat::written_columns(permissions);
        let is_refused = |&number: &i16| {
            writes.iter().any(|&(columns, privilege)| {
                compat::is_member(as_member(number), columns) && !may((*entry).relid, number, role, privilege)
            })
        };
        hidden_from(role, (*entry).relid, &masks)
            .into_iter()
            .find(is_refused)
            .map(|column| ((*entry).relid.to_u32(), column))
    }
}

/// Masked columns of a table, which whoever reads it may not see.
struct Hidden {
    relation: Opened,
    masks: Option<Rc<Masks>>,
    /// Those that the query names.
    named: Vec<i16>,
    /// The others.
    unnamed: Vec<i16>,
}

/// A table that is open, and locked by whoever asked.
pub struct Opened(pub pg_sys::Relation);

impl Opened {
    /// # Safety
    /// The table is locked.
    pub unsafe fn of(oid: pg_sys::Oid) -> Opened {
        // SAFETY: by contract.
        Opened(unsafe { pg_sys::table_open(oid, pg_sys::NoLock as c_int) })
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        // While an error unwinds, the end of the transaction closes it.
        if !std::thread::panicking() {
            // SAFETY: opened by of().
            unsafe { pg_sys::table_close(self.0, pg_sys::NoLock as c_int) };
        }
    }
}

impl Hidden {
    /// `None` for what is no table, or one of which the query names nothing that is hidden.
    ///
    /// # Safety
    /// As [`rewrite`]; the query has an entry with this index.
    unsafe fn of(query: *mut pg_sys::Query, index: c_int) -> Option<Hidden> {
        // SAFETY: by contract; the permissions are null or belong to the entry.
        unsafe {
            let entry = entry_of(query, index);
            // A view was replaced by its query; its OID stays.
            let is_relation =
                matches!((*entry).rtekind, pg_sys::RTEKind::RTE_RELATION | pg_sys::RTEKind::RTE_SUBQUERY);
            if !is_relation || (*entry).relid == pg_sys::InvalidOid || !cache::is_masked((*entry).relid.to_u32()) {
                return None;
            }
            let permissions = compat::permissions_of(query, entry).as_ref()?;
            let relation = Opened::of((*entry).relid);
            let masks = cache::masks(relation.0)?;
            let reads = permissions.selectedCols;
            if !masks.are_named_in(reads) {
                return None;
            }
            let is_named = |number| [0, number].iter().any(|&of| compat::is_member(as_member(of), reads));
            let hidden = hidden_from(authority(permissions), (*entry).relid, &masks);
            let (named, unnamed): (Vec<_>, Vec<_>) = hidden.into_iter().partition(|&number| is_named(number));
            (!named.is_empty()).then_some(Hidden { relation, masks: Some(masks), named, unnamed })
        }
    }

    /// No columns of a user's table: it is replaced all the same. For tests.
    ///
    /// # Safety
    /// As [`Hidden::of`].
    unsafe fn nothing(query: *mut pg_sys::Query, index: c_int) -> Option<Hidden> {
        // SAFETY: by contract.
        unsafe {
            let entry = entry_of(query, index);
            let is_users = (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
                && (*entry).relid.to_u32() >= FIRST_NORMAL_OBJECT_ID
                && !compat::permissions_of(query, entry).is_null();
            is_users.then(|| Hidden {
                relation: Opened::of((*entry).relid),
                masks: None,
                named: Vec::new(),
                unnamed: Vec::new(),
            })
        }
    }

    fn relation(&self) -> u32 {
        // SAFETY: open as long as this value lives.
        unsafe { (*self.relation.0).rd_id }.to_u32()
    }

    /// Puts a subquery in the place of the table.
    ///
    /// # Safety
    /// As [`Hidden::of`], with which this was made for the same entry.
    unsafe fn replace(&self, query: *mut pg_sys::Query, index: c_int) -> Result<(), MaskFault> {
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
            compat::set_masked_columns(asks, masked);
        }
    }
}

/// In whose name a table is read: the owner of the view in which it stands, or the current user.
pub fn authority(permissions: &compat::PermissionEntry) -> u32 {
    match permissions.checkAsUser.to_u32() {
        0 => raw::GetUserId().to_u32(),
        owner => owner,
    }
}

/// The masked columns that a role may not see. For what is no subscriber's PostgreSQL refuses them.
pub fn hidden_from(role: u32, relation: pg_sys::Oid, masks: &Masks) -> Vec<i16> {
    if !is_subscriber(role) || may_on_table(relation, role, pg_sys::ACL_SELECT) {
        return Vec::new();
    }
    masks.columns().filter(|&number| !may_on_column(relation, number, role, pg_sys::ACL_SELECT)).collect()
}

/// Whether a role has a privilege on a column, by itself or with its table.
pub fn may(relation: pg_sys::Oid, number: i16, role: u32, privilege: u32) -> bool {
    may_on_table(relation, role, privilege) || may_on_column(relation, number, role, privilege)
}

fn may_on_table(relation: pg_sys::Oid, role: u32, privilege: u32) -> bool {
    // SAFETY: takes OIDs by value, searches the system caches.
    unsafe { pg_sys::pg_class_aclcheck(relation, role.into(), privilege as _) == pg_sys::AclResult::ACLCHECK_OK }
}

fn may_on_column(relation: pg_sys::Oid, number: i16, role: u32, privilege: u32) -> bool {
    // SAFETY: as above.
    let result = unsafe { pg_sys::pg_attribute_aclcheck(relation, number, role.into(), privilege as _) };
    result == pg_sys::AclResult::ACLCHECK_OK
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
unsafe fn copy<T>(node: *const T) -> *mut T {
    // SAFETY: by contract.
    unsafe { pg_sys::copyObjectImpl(node.cast()).cast() }
}

/// System columns and rows as a whole, which a subquery does not have, become columns of it.
struct Renaming {
    index: c_int,
    /// How deep the walk is in queries inside the one with the table.
    level: pg_sys::Index,
    inner: *mut pg_sys::Query,
    outer: *mut pg_sys::RangeTblEntry,
    relation: pg_sys::Relation,
}

#[pg_guard]
unsafe extern "C-unwind" fn rename(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
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

/// Whether a plan depends on whose rights it was made with: it reads a column that has a mask, or shows a mask.
///
/// # Safety
/// The plan was made just now, its tables are locked.
pub unsafe fn depends_on_role(plan: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: by contract; the list holds nodes of the one type.
    unsafe {
        PgList::<compat::PermissionEntry>::from_pg(compat::permissions_of_plan(&*plan))
            .iter_ptr()
            .map(|entry| &*entry)
            .filter(|entry| compat::is_relation(entry) && cache::is_masked(entry.relid.to_u32()))
            .any(|entry| {
                let masks = cache::masks(Opened::of(entry.relid).0);
                masks.is_some_and(|masks| {
                    masks.are_named_in(entry.selectedCols) || masks.are_named_in(compat::masked_columns(entry))
                })
            })
    }
}

/// How deep the hooks are nested where a query of a subscriber is being planned.
pub fn planning() -> u32 {
    PLANNING.load(Relaxed)
}

/// A query is planned, at this depth, or it is no more: back to what [`planning`] said before.
pub fn set_planning(depth: u32) {
    PLANNING.store(depth, Relaxed);
}

/// Whether whoever runs a query that is planned now sees masks.
pub fn is_for_subscriber() -> bool {
    is_subscriber(raw::GetUserId().to_u32())
}

/// Whether the planner must not put the query of this function in the place of a call: it would come after us.
pub fn keeps_its_frame(function: u32) -> bool {
    catalog::is_set_of_sql(function)
}
