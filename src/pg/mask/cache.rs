//! The masks of tables, as they are now: remembered until an invalidation says otherwise.

use crate::pg::catalog::{self, MaskTables, tables};
use crate::pg::gate;
use crate::pg::mask::expression::{self, Column, undisturbed};
use crate::pg::mask::fault::MaskFault;
use crate::pg::mask::{rules, wrap};
use crate::pg::sys::compat;
use crate::pg::sys::inject::{self, Point};
use foldhash::fast::RandomState;
use pgrx::tupdesc::PgTupleDesc;
use pgrx::{PgTryBuilder, pg_guard, pg_sys};
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ffi::{CString, c_int};
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// Counts changes of the tables of masks, of functions and operators that masks use, and of what else may say what a mask is.
static CHANGES: AtomicU64 = AtomicU64::new(1);
/// The count at which there were no masks in this database.
static NONE_AT: AtomicU64 = AtomicU64::new(0);
/// `immuta.masks` and `immuta.mask_parameters`; 0 while they are not known, when any relation may be one.
static TABLES: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
/// Counts changes of relations.
static RELATIONS: AtomicU64 = AtomicU64::new(1);

#[derive(Default)]
struct KnownMasks {
    changes: u64,
    /// The tables that have masks.
    masked: HashSet<u32, RandomState>,
    tables: HashMap<u32, Rc<Masks>, RandomState>,
    /// Hashes in the system caches of functions, operators and types that masks use, of those that can change.
    used: HashSet<(c_int, u32)>,
}

thread_local! {
    static KNOWN: RefCell<KnownMasks> = RefCell::default();
    /// Who is a subscriber, and the generation in which that was found.
    static SUBSCRIBERS: RefCell<(u64, HashMap<u32, bool, RandomState>)> = RefCell::default();
}

/// Asks to be told of every change that may matter. Called once, from `_PG_init`.
pub fn watch() {
    use pg_sys::SysCacheIdentifier::*;
    // SAFETY: the callbacks stay valid for the life of the process and only count.
    unsafe {
        for cache in [PROCOID, OPEROID, TYPEOID, NAMESPACEOID] {
            pg_sys::CacheRegisterSyscacheCallback(cache as c_int, Some(catalog_changed), 0.into());
        }
        pg_sys::CacheRegisterRelcacheCallback(Some(relation_changed), 0.into());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn catalog_changed(_arg: pg_sys::Datum, cache: c_int, hash: u32) {
    if !may_be_used() {
        // A name may make an installation complete.
        if cache == pg_sys::SysCacheIdentifier::NAMESPACEOID as c_int {
            CHANGES.fetch_add(1, Relaxed);
        }
        return;
    }
    let is_of_nothing = KNOWN
        .try_with(|known| known.try_borrow().is_ok_and(|known| hash != 0 && !known.used.contains(&(cache, hash))));
    if is_of_nothing != Ok(true) || cache == pg_sys::SysCacheIdentifier::NAMESPACEOID as c_int {
        CHANGES.fetch_add(1, Relaxed);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn relation_changed(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    let relation = relation.to_u32();
    RELATIONS.fetch_add(1, Relaxed);
    let is_of_masks =
        || TABLES.iter().any(|table| matches!(table.load(Relaxed), 0) || table.load(Relaxed) == relation);
    if relation == 0 || is_of_masks() {
        CHANGES.fetch_add(1, Relaxed);
    } else if may_be_used() {
        let is_marked = KNOWN.try_with(|known| {
            known.try_borrow().map(|known| {
                if let Some(masks) = known.tables.get(&relation) {
                    masks.is_stale.set(true);
                }
            })
        });
        if !matches!(is_marked, Ok(Ok(()))) {
            CHANGES.fetch_add(1, Relaxed);
        }
    }
}

pub fn changes() -> u64 {
    CHANGES.load(Relaxed)
}

/// Whether there may be masks in this database: two loads where there are none.
#[inline]
pub fn may_be_used() -> bool {
    wrap::is_on() || NONE_AT.load(Relaxed) != CHANGES.load(Relaxed)
}

/// A table's masks were changed, or all of a kind: all sessions plan its queries anew, once this transaction has committed.
pub fn changed(relation: u32) {
    // SAFETY: takes an OID by value; raises an error for a relation that is gone, which is looked for before.
    unsafe {
        if pg_sys::get_rel_relkind(relation.into()) != 0 {
            pg_sys::CacheInvalidateRelcacheByRelid(relation.into());
        }
    }
}

/// A masked column.
struct MaskedColumn {
    column: Column,
    /// In the database encoding. Without one it is a generated column, computed from masks.
    text: Option<CString>,
    /// In the memory of [`Masks`]; null before it is needed.
    mask: Cell<*mut pg_sys::Node>,
}

/// The masks of a table.
pub struct Masks {
    relation: u32,
    columns: Vec<MaskedColumn>,
    is_stale: Cell<bool>,
    memory: pg_sys::MemoryContext,
}

impl Drop for Masks {
    fn drop(&mut self) {
        // SAFETY: a context of our own, made with this value; nothing refers to it any more. A process that ends frees nothing.
        unsafe {
            if !pg_sys::proc_exit_inprogress {
                pg_sys::MemoryContextDelete(self.memory);
            }
        }
    }
}

impl Masks {
    /// Whether a set of columns has one of these, or the row as a whole. Raises nothing.
    ///
    /// # Safety
    /// `columns` is null or a live set.
    pub unsafe fn are_named_in(&self, columns: *const pg_sys::Bitmapset) -> bool {
        // SAFETY: by contract.
        let has = |number| unsafe { compat::is_member(as_member(number), columns) };
        has(0) || self.columns().any(has)
    }

    pub fn columns(&self) -> impl Iterator<Item = i16> {
        self.columns.iter().map(|masked| masked.column.number)
    }

    /// The mask of a column, over the columns of the first range table entry, in the current memory context.
    ///
    /// # Safety
    /// `relation` is the table, open and locked.
    pub unsafe fn mask(&self, relation: pg_sys::Relation, number: i16) -> Result<*mut pg_sys::Node, MaskFault> {
        let broken = || {
            let (column, table) = names(self.relation, number);
            MaskFault::Broken(column, table)
        };
        let masked = self.columns.iter().find(|masked| masked.column.number == number).ok_or_else(broken)?;
        // SAFETY: by contract; what is made is copied to memory that lives as long as this value, and from it.
        unsafe {
            if masked.mask.get().is_null() {
                let (mask, functions) = self.made(relation, masked).map_err(|_| broken())?;
                remember_used(mask, functions);
                let caller = pg_sys::MemoryContextSwitchTo(self.memory);
                masked.mask.set(pg_sys::copyObjectImpl(mask.cast()).cast());
                pg_sys::MemoryContextSwitchTo(caller);
                inject::point(Point::MaskKept);
            }
            Ok(pg_sys::copyObjectImpl(masked.mask.get().cast()).cast())
        }
    }

    /// With the functions on which it depends that it may be a mask: what was allowed when it was written need not be still.
    ///
    /// # Safety
    /// As [`Masks::mask`].
    unsafe fn made(
        &self,
        relation: pg_sys::Relation,
        masked: &MaskedColumn,
    ) -> Result<(*mut pg_sys::Node, Vec<pg_sys::Oid>), MaskFault> {
        let Some(text) = &masked.text else {
            // SAFETY: by contract.
            return Ok((unsafe { self.generated(relation, masked) }?, Vec::new()));
        };
        let owner = catalog::presence().ok_or(MaskFault::NoColumn)?.owner;
        // Whatever is wrong with it, an error is raised in any case: nothing is caught to go on.
        PgTryBuilder::new(AssertUnwindSafe(|| {
            undisturbed(owner, || {
                inject::point(Point::MaskBegins);
                // SAFETY: by contract.
                unsafe {
                    let mask = expression::analysed(relation, &masked.column, text, false)?;
                    let functions = rules::allow(mask)?;
                    expression::finish(mask)?;
                    inject::point(Point::MaskRead);
                    Ok((mask, functions))
                }
            })
        }))
        .catch_when(pgrx::PgSqlErrorCode::ERRCODE_QUERY_CANCELED, |error| error.rethrow())
        .catch_others(|_| Err(MaskFault::NotExpression))
        .execute()
    }

    /// What a generated column comes to when it is computed from masks.
    ///
    /// # Safety
    /// As [`Masks::mask`].
    unsafe fn generated(
        &self,
        relation: pg_sys::Relation,
        masked: &MaskedColumn,
    ) -> Result<*mut pg_sys::Node, MaskFault> {
        // SAFETY: by contract; the list holds nodes that were made just now.
        unsafe {
            let mut replaced = std::ptr::null_mut();
            for other in self.columns.iter().filter(|other| other.text.is_some()) {
                let number = other.column.number;
                let mask = self.mask(relation, number)?;
                let entry = pg_sys::makeTargetEntry(mask.cast(), number, std::ptr::null_mut(), false);
                replaced = pg_sys::lappend(replaced, entry.cast());
            }
            let expression = pg_sys::build_column_default(relation, masked.column.number.into());
            if expression.is_null() {
                return Err(MaskFault::NoColumn);
            }
            Ok(compat::replace_columns(expression, replaced))
        }
    }
}

/// Which masks a table has; `None` for none.
///
/// # Safety
/// `relation` is open and locked.
pub unsafe fn masks(relation: pg_sys::Relation) -> Option<Rc<Masks>> {
    // SAFETY: by contract.
    let oid = unsafe { (*relation).rd_id }.to_u32();
    if !is_masked(oid) {
        return None;
    }
    let known = KNOWN.with_borrow(|known| known.tables.get(&oid).filter(|masks| !masks.is_stale.get()).cloned());
    if known.is_some() {
        return known.filter(|masks| !masks.columns.is_empty());
    }
    let tables = catalog::mask_tables()?;
    let (changes, relations) = (CHANGES.load(Relaxed), RELATIONS.load(Relaxed));
    // SAFETY: by contract.
    let masks = Rc::new(unsafe { load(&tables, relation) });
    inject::point(Point::MasksLoaded);
    masks.is_stale.set(RELATIONS.load(Relaxed) != relations);
    KNOWN.with_borrow_mut(|known| {
        if known.changes == changes {
            // The old one, and its memory, goes after the borrow.
            known.tables.insert(oid, Rc::clone(&masks))
        } else {
            None
        }
    });
    (!masks.columns.is_empty()).then_some(masks)
}

/// Whether a table has masks.
pub fn is_masked(relation: u32) -> bool {
    let changes = CHANGES.load(Relaxed);
    if NONE_AT.load(Relaxed) == changes {
        return false;
    }
    let known = KNOWN.with_borrow(|known| (known.changes == changes).then(|| known.masked.contains(&relation)));
    if let Some(is_masked) = known {
        return is_masked;
    }
    let tables = catalog::mask_tables();
    let read = tables.map_or([0, 0], |tables| [tables.masks, tables.parameters]);
    for (known, table) in TABLES.iter().zip(read) {
        known.store(table, Relaxed);
    }
    let masked = tables.map(|tables| tables::masked_tables(&tables)).unwrap_or_default();
    let is_masked = masked.contains(&relation);
    if masked.is_empty() {
        NONE_AT.store(changes, Relaxed);
    }
    inject::point(Point::MaskedTablesKnown);
    let before = KNOWN.with_borrow_mut(|known| {
        std::mem::replace(known, KnownMasks { changes, masked, ..KnownMasks::default() })
    });
    drop(before);
    is_masked
}

/// Whether a query names a masked column of a table of its own, or may: if what masks the table has is not known. Raises nothing:
/// what [`is_masked`] looked up must be fresh.
///
/// # Safety
/// `query` is a query that was analysed and rewritten.
pub unsafe fn is_named_in(query: *mut pg_sys::Query) -> bool {
    let is_named = |known: &KnownMasks| {
        (0..)
            .map_while(|at| {
                // SAFETY: by contract.
                let entry = unsafe { compat::element::<pg_sys::RangeTblEntry>((*query).rtable, at) };
                (!entry.is_null()).then_some(entry)
            })
            .any(|entry| {
                // SAFETY: by contract; the permissions are null or belong to the entry.
                unsafe {
                    let relation = (*entry).relid.to_u32();
                    if relation == 0 || !known.masked.contains(&relation) {
                        return false;
                    }
                    let Some(permissions) = compat::permissions_of(query, entry).as_ref() else { return false };
                    match known.tables.get(&relation) {
                        Some(masks) if !masks.is_stale.get() => {
                            let [(inserted, _), (updated, _)] = compat::written_columns(permissions);
                            [permissions.selectedCols, inserted, updated]
                                .iter()
                                .any(|&set| masks.are_named_in(set))
                        }
                        _ => true,
                    }
                }
            })
    };
    KNOWN.with(|known| known.try_borrow().map_or(true, |known| is_named(&known)))
}

/// # Safety
/// `relation` is open and locked.
unsafe fn load(tables: &MaskTables, relation: pg_sys::Relation) -> Masks {
    // SAFETY: by contract; the context belongs to the value that is returned, and goes with it. The set of columns is
    // null or of this memory context.
    unsafe {
        let oid = (*relation).rd_id.to_u32();
        let mut columns: Vec<MaskedColumn> = tables::masks(tables, oid)
            .into_iter()
            .filter_map(|(number, text)| {
                let column = rules::column(relation, number)?;
                Some(MaskedColumn { column, text: Some(text), mask: Cell::new(std::ptr::null_mut()) })
            })
            .collect();
        let descriptor = PgTupleDesc::from_pg_unchecked((*relation).rd_att);
        for column in descriptor.iter().filter(|column| column.attgenerated != 0 && !column.attisdropped) {
            let number = column.attnum;
            if columns.iter().any(|masked| masked.column.number == number) {
                continue;
            }
            let mut named = std::ptr::null_mut();
            pg_sys::pull_varattnos(pg_sys::build_column_default(relation, number.into()), 1, &mut named);
            let is_named = |number: i16| pg_sys::bms_is_member(as_member(number), named);
            if columns.iter().any(|masked| masked.text.is_some() && is_named(masked.column.number))
                && let Some(column) = rules::column(relation, number)
            {
                columns.push(MaskedColumn { column, text: None, mask: Cell::new(std::ptr::null_mut()) });
            }
        }
        let memory = pg_sys::AllocSetContextCreateExtended(
            pg_sys::CacheMemoryContext,
            c"immuta masks".as_ptr(),
            pg_sys::ALLOCSET_SMALL_MINSIZE as usize,
            pg_sys::ALLOCSET_SMALL_INITSIZE as usize,
            pg_sys::ALLOCSET_SMALL_MAXSIZE as usize,
        );
        Masks { relation: oid, columns, is_stale: Cell::new(false), memory }
    }
}

/// Of a column and its table.
pub fn names(relation: u32, column: i16) -> (String, String) {
    (catalog::column_name(relation, column).unwrap_or_default(), table_name(relation))
}

pub fn table_name(relation: u32) -> String {
    catalog::relation(relation).map(|(_, name)| name).unwrap_or_default()
}

/// As sets of columns count.
pub fn as_member(column: i16) -> c_int {
    c_int::from(column) - pg_sys::FirstLowInvalidHeapAttributeNumber
}

/// In the set of masked columns of an entry: one that is not shown itself, but read by a mask. Numbers of columns end at 1600.
pub fn as_read(column: i16) -> c_int {
    2048 + as_member(column)
}

/// A mask is read in again when something changes that it uses.
///
/// # Safety
/// `mask` is an analysed expression.
unsafe fn remember_used(mask: *mut pg_sys::Node, functions: Vec<pg_sys::Oid>) {
    let cache = pg_sys::SysCacheIdentifier::PROCOID as c_int;
    let mut used: Vec<_> = functions.into_iter().map(|function| (cache, function)).collect();
    // SAFETY: by contract; look-ups of hashes by OIDs.
    unsafe {
        expression::used(mask, &mut used);
        let hashes: Vec<_> = used
            .into_iter()
            .map(|(cache, oid)| {
                (cache, pg_sys::GetSysCacheHashValue(cache, oid.into(), 0.into(), 0.into(), 0.into()))
            })
            .collect();
        KNOWN.with_borrow_mut(|known| known.used.extend(hashes));
    }
}

/// Whether what a role may not see is masked for it, instead of refused.
pub fn is_subscriber(role: u32) -> bool {
    let generation = gate::generation();
    let known = SUBSCRIBERS
        .with_borrow(|(seen, known)| (*seen == generation).then(|| known.get(&role).copied()))
        .flatten();
    known.unwrap_or_else(|| {
        let marker = catalog::presence().map_or(0, |found| found.marker_of_subscribers);
        // SAFETY: takes OIDs by value, searches the system caches.
        let is_member = marker != 0 && unsafe { pg_sys::is_member_of_role_nosuper(role.into(), marker.into()) };
        SUBSCRIBERS.with_borrow_mut(|(seen, known)| {
            if *seen != generation {
                known.clear();
                *seen = generation;
            }
            known.insert(role, is_member);
        });
        is_member
    })
}
