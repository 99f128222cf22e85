//! Every difference between the supported PostgreSQL versions. The newest is what is left when no older one is named, so
//! that the next takes its way.

use crate::core::guard::utility::{ObjectType, Utility, for_each_object, for_each_statement};
use pgrx::pg_sys;
use std::ffi::{CStr, c_char, c_int, c_void};
#[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17")))]
use zeroize::Zeroize;

/// What goes on around those hooks whose signatures differ.
///
/// # Safety
/// Of all functions: they are called from a plain frame of that hook, with what PostgreSQL passed to it.
pub trait Frames {
    type Frame: Copy;
    type Planning: Copy;
    /// With the options to plan with.
    unsafe fn enter_plan(parse: *mut pg_sys::Query, cursor_options: c_int) -> (Self::Planning, c_int);
    unsafe fn leave_plan(planning: Self::Planning, plan: *mut pg_sys::PlannedStmt);
    unsafe fn enter_run(query_desc: *mut pg_sys::QueryDesc) -> Self::Frame;
    /// `limit` is the number of rows it ran for, 0 for all.
    unsafe fn leave_run(frame: Self::Frame, query_desc: *mut pg_sys::QueryDesc, limit: u64);
    /// The planner has learned about a table, which is locked.
    unsafe fn learned(root: *mut pg_sys::PlannerInfo, table: pg_sys::Oid, relation: *mut pg_sys::RelOptInfo);
    /// Whether what PostgreSQL allowed is permitted; an error if not.
    unsafe fn permitted(entries: *mut pg_sys::List) -> bool;
}

// The planner is told what EXPLAIN wants of it since 19.

macro_rules! planning {
    ($($explain:ident: $state:ty)?) => {
        mod planning {
            use super::*;

            unsafe extern "C-unwind" {
                fn standard_planner(
                    parse: *mut pg_sys::Query,
                    query_string: *const c_char,
                    cursor_options: c_int,
                    bound_params: pg_sys::ParamListInfo,
                    $($explain: $state)?
                ) -> *mut pg_sys::PlannedStmt;
            }

            /// Plain frame: see `pg::hook::frames`.
            #[allow(ffi_unwind_calls)]
            pub(super) unsafe extern "C-unwind" fn planner<F: Frames>(
                parse: *mut pg_sys::Query,
                query_string: *const c_char,
                cursor_options: c_int,
                bound_params: pg_sys::ParamListInfo,
                $($explain: $state)?
            ) -> *mut pg_sys::PlannedStmt {
                // SAFETY: our own frame of planner_hook, with the arguments PostgreSQL passed.
                unsafe {
                    let (planning, options) = F::enter_plan(parse, cursor_options);
                    let plan = match PREVIOUS {
                        Some(previous) => previous(parse, query_string, options, bound_params $(, $explain)?),
                        None => standard_planner(parse, query_string, options, bound_params $(, $explain)?),
                    };
                    F::leave_plan(planning, plan);
                    plan
                }
            }

            pub(super) static mut PREVIOUS: pg_sys::planner_hook_type = None;
        }
    };
}

#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18"))]
planning!();
#[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")))]
planning!(explain: *mut pg_sys::ExplainState);

pub fn hook_planner<F: Frames>() {
    // SAFETY: hooks are installed from _PG_init, before anything else runs in this process.
    unsafe {
        planning::PREVIOUS = pg_sys::planner_hook;
        pg_sys::planner_hook = Some(planning::planner::<F>);
    }
}

// When the planner has learned about a table, another hook is called since 19.

macro_rules! relations {
    ($hook:ident: $signature:ident, $relation:ident of ($($argument:ident: $type:ty),*), $table:expr) => {
        mod relations {
            use super::*;

            /// Plain frame: see `pg::hook::frames`.
            #[allow(ffi_unwind_calls)]
            pub(super) unsafe extern "C-unwind" fn learned<F: Frames>(root: *mut pg_sys::PlannerInfo, $($argument: $type),*) {
                // SAFETY: our own frame of that hook, with the arguments PostgreSQL passed.
                unsafe {
                    if let Some(previous) = PREVIOUS {
                        previous(root, $($argument),*);
                    }
                    if let Some(table) = $table {
                        F::learned(root, table, $relation);
                    }
                }
            }

            pub(super) static mut PREVIOUS: pg_sys::$signature = None;
        }

        pub fn hook_relations<F: Frames>() {
            // SAFETY: as in hook_planner().
            unsafe {
                relations::PREVIOUS = pg_sys::$hook;
                pg_sys::$hook = Some(relations::learned::<F>);
            }
        }
    };
}

#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18"))]
relations!(get_relation_info_hook: get_relation_info_hook_type,
    relation of (oid: pg_sys::Oid, with_children: bool, relation: *mut pg_sys::RelOptInfo),
    Some(oid));
#[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")))]
relations!(build_simple_rel_hook: build_simple_rel_hook_type,
    relation of (relation: *mut pg_sys::RelOptInfo, entry: *mut pg_sys::RangeTblEntry),
    ((*entry).rtekind == pg_sys::RTEKind::RTE_RELATION).then_some((*entry).relid));

/// What the hook of parse analysis gets of the query's fingerprint; not to be changed since 19.
#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18"))]
pub type Jumble = *mut pg_sys::JumbleState;
#[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")))]
pub type Jumble = *const pg_sys::JumbleState;

// ExecutorRun lost `execute_once` in 18.

#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17"))]
mod run {
    use super::*;

    unsafe extern "C-unwind" {
        fn standard_ExecutorRun(
            query_desc: *mut pg_sys::QueryDesc,
            direction: pg_sys::ScanDirection::Type,
            count: u64,
            execute_once: bool,
        );
    }

    /// Plain frame: see `pg::hook::frames`.
    #[allow(ffi_unwind_calls)]
    pub(super) unsafe extern "C-unwind" fn executor_run<F: Frames>(
        query_desc: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
        execute_once: bool,
    ) {
        // SAFETY: our own frame of ExecutorRun_hook, with the arguments PostgreSQL passed.
        unsafe {
            let frame = F::enter_run(query_desc);
            match PREVIOUS {
                Some(previous) => previous(query_desc, direction, count, execute_once),
                None => standard_ExecutorRun(query_desc, direction, count, execute_once),
            }
            F::leave_run(frame, query_desc, count);
        }
    }

    pub(super) static mut PREVIOUS: pg_sys::ExecutorRun_hook_type = None;
}

#[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17")))]
mod run {
    use super::*;

    unsafe extern "C-unwind" {
        fn standard_ExecutorRun(
            query_desc: *mut pg_sys::QueryDesc,
            direction: pg_sys::ScanDirection::Type,
            count: u64,
        );
    }

    /// Plain frame: see `pg::hook::frames`.
    #[allow(ffi_unwind_calls)]
    pub(super) unsafe extern "C-unwind" fn executor_run<F: Frames>(
        query_desc: *mut pg_sys::QueryDesc,
        direction: pg_sys::ScanDirection::Type,
        count: u64,
    ) {
        // SAFETY: our own frame of ExecutorRun_hook, with the arguments PostgreSQL passed.
        unsafe {
            let frame = F::enter_run(query_desc);
            match PREVIOUS {
                Some(previous) => previous(query_desc, direction, count),
                None => standard_ExecutorRun(query_desc, direction, count),
            }
            F::leave_run(frame, query_desc, count);
        }
    }

    pub(super) static mut PREVIOUS: pg_sys::ExecutorRun_hook_type = None;
}

pub fn hook_executor_run<F: Frames>() {
    // SAFETY: as in hook_planner().
    unsafe {
        run::PREVIOUS = pg_sys::ExecutorRun_hook;
        pg_sys::ExecutorRun_hook = Some(run::executor_run::<F>);
    }
}

// Permission checks moved from range table entries to a list of their own in 16.

#[cfg(any(feature = "pg14", feature = "pg15"))]
mod permissions {
    use super::*;

    /// Plain frame: see `pg::hook::frames`.
    #[allow(ffi_unwind_calls)]
    pub(super) unsafe extern "C-unwind" fn check<F: Frames>(range_table: *mut pg_sys::List, raise: bool) -> bool {
        // SAFETY: our own frame of ExecutorCheckPerms_hook, with the arguments PostgreSQL passed.
        unsafe {
            let allowed = match PREVIOUS {
                Some(previous) => previous(range_table, raise),
                None => true,
            };
            allowed && F::permitted(range_table)
        }
    }

    pub(super) static mut PREVIOUS: pg_sys::ExecutorCheckPerms_hook_type = None;

    pub type Entry = pg_sys::RangeTblEntry;

    /// `ACL_SELECT` and its like; wider since 16.
    pub fn privileges(entry: &Entry) -> u32 {
        entry.requiredPerms
    }

    pub fn is_relation(entry: &Entry) -> bool {
        entry.rtekind == pg_sys::RTEKind::RTE_RELATION
    }

    /// The list of a query whose entries say what is to be checked.
    pub fn of_query(query: &pg_sys::Query) -> *mut pg_sys::List {
        query.rtable
    }

    /// The list of a planned statement whose entries say what is to be checked.
    pub fn of_plan(plan: &pg_sys::PlannedStmt) -> *mut pg_sys::List {
        plan.rtable
    }
}

#[cfg(not(any(feature = "pg14", feature = "pg15")))]
mod permissions {
    use super::*;

    /// Plain frame: see `pg::hook::frames`.
    #[allow(ffi_unwind_calls)]
    pub(super) unsafe extern "C-unwind" fn check<F: Frames>(
        range_table: *mut pg_sys::List,
        entries: *mut pg_sys::List,
        raise: bool,
    ) -> bool {
        // SAFETY: our own frame of ExecutorCheckPerms_hook, with the arguments PostgreSQL passed.
        unsafe {
            let allowed = match PREVIOUS {
                Some(previous) => previous(range_table, entries, raise),
                None => true,
            };
            allowed && F::permitted(entries)
        }
    }

    pub(super) static mut PREVIOUS: pg_sys::ExecutorCheckPerms_hook_type = None;

    pub type Entry = pg_sys::RTEPermissionInfo;

    /// `ACL_SELECT` and its like; none has a bit beyond the 32nd.
    pub fn privileges(entry: &Entry) -> u32 {
        entry.requiredPerms as u32
    }

    pub fn is_relation(_: &Entry) -> bool {
        true
    }

    /// The list of a query whose entries say what is to be checked.
    pub fn of_query(query: &pg_sys::Query) -> *mut pg_sys::List {
        query.rteperminfos
    }

    /// The list of a planned statement whose entries say what is to be checked.
    pub fn of_plan(plan: &pg_sys::PlannedStmt) -> *mut pg_sys::List {
        plan.permInfos
    }
}

/// What is checked of a range table entry is in the entry before 16.
#[cfg(any(feature = "pg14", feature = "pg15"))]
mod of_entry {
    use super::pg_sys;

    /// The permissions that are checked for an entry of the query's range table; null for none.
    ///
    /// # Safety
    /// `entry` is of the range table of `query`.
    pub unsafe fn permissions_of(
        _query: *mut pg_sys::Query,
        entry: *mut pg_sys::RangeTblEntry,
    ) -> *mut super::PermissionEntry {
        // SAFETY: by contract. Those of a view that was replaced by its query are with the entry that stands for it in there.
        unsafe {
            if (*entry).rtekind != pg_sys::RTEKind::RTE_SUBQUERY {
                return entry;
            }
            let first: *mut pg_sys::RangeTblEntry = super::element((*(*entry).subquery).rtable, 0);
            if !first.is_null() && (*first).relid == (*entry).relid { first } else { std::ptr::null_mut() }
        }
    }

    /// Has the same checked for a copy of the entry, the first of another query.
    ///
    /// # Safety
    /// `copy` is in no other query.
    pub unsafe fn move_permissions(
        to: *mut pg_sys::Query,
        copy: *mut pg_sys::RangeTblEntry,
        _like: *const super::PermissionEntry,
    ) -> *mut super::PermissionEntry {
        // SAFETY: by contract.
        unsafe { permissions_of(to, copy) }
    }

    /// Has nothing checked any more.
    ///
    /// # Safety
    /// As [`permissions_of`].
    pub unsafe fn clear_permissions(entry: &mut pg_sys::RangeTblEntry) {
        entry.requiredPerms = 0;
        entry.checkAsUser = pg_sys::InvalidOid;
        entry.selectedCols = std::ptr::null_mut();
        entry.insertedCols = std::ptr::null_mut();
        entry.updatedCols = std::ptr::null_mut();
        entry.extraUpdatedCols = std::ptr::null_mut();
    }
}

#[cfg(not(any(feature = "pg14", feature = "pg15")))]
mod of_entry {
    use super::pg_sys;

    /// The permissions that are checked for an entry of the query's range table; null for none.
    ///
    /// # Safety
    /// `entry` is of the range table of `query`.
    pub unsafe fn permissions_of(
        query: *mut pg_sys::Query,
        entry: *mut pg_sys::RangeTblEntry,
    ) -> *mut super::PermissionEntry {
        // SAFETY: by contract.
        unsafe {
            match usize::try_from((*entry).perminfoindex).unwrap_or(0).checked_sub(1) {
                Some(at) => super::element((*query).rteperminfos, at),
                None => std::ptr::null_mut(),
            }
        }
    }

    /// Has the same checked for a copy of the entry, the first of another query.
    ///
    /// # Safety
    /// `copy` is in no other query.
    pub unsafe fn move_permissions(
        to: *mut pg_sys::Query,
        copy: *mut pg_sys::RangeTblEntry,
        like: *const super::PermissionEntry,
    ) -> *mut super::PermissionEntry {
        // SAFETY: by contract; the sets are shared, and never changed in place.
        unsafe {
            (*copy).perminfoindex = 0;
            let entry = pg_sys::addRTEPermissionInfo(&mut (*to).rteperminfos, copy);
            *entry = *like;
            entry
        }
    }

    /// Has nothing checked any more.
    ///
    /// # Safety
    /// As [`permissions_of`].
    pub unsafe fn clear_permissions(entry: &mut pg_sys::RangeTblEntry) {
        entry.perminfoindex = 0;
    }
}

/// `bms_is_member()`. Raises nothing.
///
/// # Safety
/// `set` is null or a live set.
pub unsafe fn is_member(member: i32, set: *const pg_sys::Bitmapset) -> bool {
    let bits = pg_sys::bitmapword::BITS;
    let (Ok(member), false) = (u32::try_from(member), set.is_null()) else { return false };
    // SAFETY: by contract; a set has as many words as it says.
    let words = unsafe { (*set).words.as_slice(usize::try_from((*set).nwords).unwrap_or(0)) };
    usize::try_from(member / bits)
        .ok()
        .and_then(|at| words.get(at))
        .is_some_and(|word| word >> (member % bits) & 1 == 1)
}

/// An element of a list of nodes; null beyond its end. Raises nothing.
///
/// # Safety
/// `list` is null or a list of nodes of this type.
pub unsafe fn element<T>(list: *const pg_sys::List, at: usize) -> *mut T {
    // SAFETY: by contract; a list has as many elements as it says.
    unsafe {
        if list.is_null() || at >= usize::try_from((*list).length).unwrap_or(0) {
            return std::ptr::null_mut();
        }
        (*(*list).elements.add(at)).ptr_value.cast()
    }
}

pub use of_entry::{clear_permissions, move_permissions, permissions_of};

/// Whether a node makes JSON of values, or values of JSON, in the ways of SQL/JSON.
pub fn is_sql_json(tag: pg_sys::NodeTag) -> bool {
    #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
    if tag == pg_sys::NodeTag::T_JsonExpr {
        return true;
    }
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    if tag == pg_sys::NodeTag::T_JsonConstructorExpr {
        return true;
    }
    let _ = tag;
    false
}

/// The columns in whose place `pg::mask` shows masks; null for none. Where nothing is inserted the set of columns that are is
/// checked by nobody, and it goes with the plan wherever that goes. Of children 15 has it as well, and that of their parent.
pub fn masked_columns(entry: &PermissionEntry) -> *mut pg_sys::Bitmapset {
    let asked = privileges(entry) & (pg_sys::ACL_SELECT | pg_sys::ACL_INSERT);
    if asked == pg_sys::ACL_SELECT { entry.insertedCols } else { std::ptr::null_mut() }
}

/// The other way about.
pub fn set_masked_columns(entry: &mut PermissionEntry, columns: *mut pg_sys::Bitmapset) {
    entry.insertedCols = columns;
}

/// The columns that are written by what is checked, and the privilege that takes.
pub fn written_columns(entry: &PermissionEntry) -> [(*mut pg_sys::Bitmapset, u32); 2] {
    [(entry.insertedCols, pg_sys::ACL_INSERT), (entry.updatedCols, pg_sys::ACL_UPDATE)]
}

/// Whether a query is MERGE, which 14 does not have.
#[cfg_attr(feature = "pg14", allow(unused_variables))]
pub fn is_merge(query: &pg_sys::Query) -> bool {
    #[cfg(feature = "pg14")]
    return false;
    #[cfg(not(feature = "pg14"))]
    return query.commandType == pg_sys::CmdType::CMD_MERGE;
}

/// Where MERGE finds the rows that it changes, as a range table index; 0 where that goes without saying.
#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
pub fn merge_target(_query: &pg_sys::Query) -> i32 {
    0
}

#[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
pub fn merge_target(query: &pg_sys::Query) -> i32 {
    query.mergeTargetRelation
}

/// Whether a variable is of the table with this index of the range table.
#[allow(clippy::unnecessary_cast)]
pub fn is_of_table(variable: &pg_sys::Var, index: i32) -> bool {
    // Unsigned in 14.
    variable.varno as i32 == index
}

/// Puts the expressions of a target list in the place of columns of the first range table entry, which have their numbers.
///
/// # Safety
/// `node` is an expression, and `targets` a target list.
pub unsafe fn replace_columns(node: *mut pg_sys::Node, targets: *mut pg_sys::List) -> *mut pg_sys::Node {
    let others = pg_sys::ReplaceVarsNoMatchOption::REPLACEVARS_CHANGE_VARNO;
    // SAFETY: by contract; the entry is only looked at for rows as a whole, of which there are none in what is computed of
    // columns.
    unsafe {
        let mut has_sublinks = false;
        let mut entry = pg_sys::RangeTblEntry { type_: pg_sys::NodeTag::T_RangeTblEntry, ..Default::default() };
        #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17"))]
        return pg_sys::ReplaceVarsFromTargetList(node, 1, 0, &mut entry, targets, others, 1, &mut has_sublinks);
        #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17")))]
        return pg_sys::ReplaceVarsFromTargetList(
            node,
            1,
            0,
            &mut entry,
            targets,
            0,
            others,
            1,
            &mut has_sublinks,
        );
    }
}

pub use permissions::{
    Entry as PermissionEntry, is_relation, of_plan as permissions_of_plan, of_query as permissions_of_query,
    privileges,
};

pub fn hook_executor_check_perms<F: Frames>() {
    // SAFETY: as in hook_planner().
    unsafe {
        permissions::PREVIOUS = pg_sys::ExecutorCheckPerms_hook;
        pg_sys::ExecutorCheckPerms_hook = Some(permissions::check::<F>);
    }
}

/// Whether values of a domain are checked.
pub fn has_constraints(domain: pg_sys::Oid) -> bool {
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18"))]
    // SAFETY: takes an OID by value, searches the cache of types.
    return unsafe { pg_sys::DomainHasConstraints(domain) };
    #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")))]
    // SAFETY: as above; tells as well whether a check is volatile.
    return unsafe { pg_sys::DomainHasConstraints(domain, &mut false) };
}

/// Whether `user` may use the schema (`pg_namespace_aclcheck`, since 16 `object_aclcheck`).
pub fn has_usage(schema: pg_sys::Oid, user: pg_sys::Oid) -> bool {
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    // SAFETY: takes OIDs by value; raises an error for an unknown one.
    let result = unsafe { pg_sys::pg_namespace_aclcheck(schema, user, pg_sys::ACL_USAGE as _) };
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    // SAFETY: as above.
    let result =
        unsafe { pg_sys::object_aclcheck(pg_sys::NamespaceRelationId, schema, user, pg_sys::ACL_USAGE as _) };
    result == pg_sys::AclResult::ACLCHECK_OK
}

/// Column of the granted role in pg_auth_members (`pg_auth_members.h`), which gained an OID in 16.
pub const ANUM_PG_AUTH_MEMBERS_ROLEID: i16 = if cfg!(any(feature = "pg14", feature = "pg15")) { 1 } else { 2 };

/// Column of the function that measures how far values are apart in pg_range (`pg_range.h`), before which 19 put others.
pub const ANUM_PG_RANGE_RNGSUBDIFF: i16 =
    if cfg!(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")) {
        7
    } else {
        12
    };

/// Whether membership lets `member` act as `role`: any membership before 16; since then one with INHERIT or SET,
/// not one with ADMIN alone. Superusers are members of everything.
pub fn can_act_as(member: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    // SAFETY: takes OIDs by value, searches the system caches.
    return unsafe { pg_sys::is_member_of_role(member, role) };
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    // SAFETY: as above.
    return unsafe { pg_sys::has_privs_of_role(member, role) || pg_sys::member_can_set_role(member, role) };
}

/// All settings of this server process. Since 16 this sorts them: nothing to be done at every statement.
pub fn all_settings() -> Vec<*mut pg_sys::config_generic> {
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    // SAFETY: guc.c's array holds GetNumConfigOptions() pointers; it is copied before anything can change it.
    return unsafe {
        let count = usize::try_from(pg_sys::GetNumConfigOptions()).unwrap_or(0);
        std::slice::from_raw_parts(pg_sys::get_guc_variables(), count).to_vec()
    };
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    // SAFETY: returns a palloc'd array of `count` pointers.
    return unsafe {
        let mut count: c_int = 0;
        let settings = pg_sys::get_guc_variables(&mut count);
        std::slice::from_raw_parts(settings, usize::try_from(count).unwrap_or(0)).to_vec()
    };
}

/// The setting of this name; null if there is none.
pub fn setting(name: &CStr) -> *mut pg_sys::config_generic {
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    return all_settings()
        .into_iter()
        .find(|&setting| {
            // SAFETY: guc.c's parameters have NUL-terminated names.
            let its_name = unsafe { CStr::from_ptr((*setting).name) };
            its_name.to_bytes().eq_ignore_ascii_case(name.to_bytes())
        })
        .unwrap_or(std::ptr::null_mut());
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    // SAFETY: a NUL-terminated string; makes nothing, raises nothing.
    return unsafe { pg_sys::find_option(name.as_ptr(), false, true, 0) };
}

/// Memory that guc.c may free: `malloc` up to 15, `guc_malloc` since. Null when there is none left.
pub fn setting_alloc(size: usize) -> *mut c_void {
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    // SAFETY: malloc of C's library, which guc.c frees with free().
    return unsafe { libc_malloc(size) };
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    // SAFETY: at LOG level guc_malloc() returns null instead of raising.
    return unsafe { pg_sys::guc_malloc(pg_sys::LOG as c_int, size) };
}

#[cfg(any(feature = "pg14", feature = "pg15"))]
unsafe extern "C" {
    #[link_name = "malloc"]
    fn libc_malloc(size: usize) -> *mut c_void;
}

/// Takes the names that begin with `prefix.` for this library: others become errors (since 15) or warnings.
pub fn reserve_prefix(prefix: &CStr) {
    #[cfg(feature = "pg14")]
    // SAFETY: a NUL-terminated name.
    unsafe {
        pg_sys::EmitWarningsOnPlaceholders(prefix.as_ptr())
    };
    #[cfg(not(feature = "pg14"))]
    // SAFETY: as above.
    unsafe {
        pg_sys::MarkGUCPrefixReserved(prefix.as_ptr())
    };
}

/// What `pg_stat_activity` shows of a session that waits for a token provider. Before 17 PostgreSQL has one name for
/// the waits of all extensions.
pub fn provider_wait_event() -> u32 {
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
    return pg_sys::PG_WAIT_EXTENSION;
    #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
    {
        use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
        static EVENT: AtomicU32 = AtomicU32::new(0);
        if EVENT.load(Relaxed) == 0 {
            // SAFETY: a NUL-terminated name; makes the entry, or finds the one that another session made.
            EVENT.store(unsafe { pg_sys::WaitEventExtensionNew(c"ImmutaTokenProvider".as_ptr()) }, Relaxed);
        }
        EVENT.load(Relaxed)
    }
}

unsafe extern "C" {
    /// Installs a signal handler; the backend's function has another name since 18. Since 19 handlers are passed who sent the signal
    /// as well, at which ours do not look.
    #[cfg_attr(
        not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17")),
        link_name = "pqsignal_be"
    )]
    pub fn pqsignal(signal: c_int, handler: Option<unsafe extern "C-unwind" fn(c_int)>) -> *mut c_void;
}

type Visitor = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool;

/// `query_tree_walker()` over expressions, range table entries and subqueries.
///
/// # Safety
/// `query` is a query, and `visit` can do with `context`.
#[allow(ffi_unwind_calls)]
pub unsafe fn walk_query(query: *mut pg_sys::Query, visit: Visitor, context: *mut c_void) -> bool {
    let flags = pg_sys::QTW_EXAMINE_RTES_BEFORE as c_int;
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    // SAFETY: by contract; the guard turns an error into a panic that unwinds our frames.
    return unsafe { pg_guard_ffi_boundary(|| plain::query_tree_walker(query, visit, context, flags)) };
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    // SAFETY: by contract.
    return unsafe { pg_sys::query_tree_walker_impl(query, Some(visit), context, flags) };
}

/// `expression_tree_walker()`.
///
/// # Safety
/// `node` is a node of a query, and `visit` can do with `context`.
#[allow(ffi_unwind_calls)]
pub unsafe fn walk_expression(node: *mut pg_sys::Node, visit: Visitor, context: *mut c_void) -> bool {
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    // SAFETY: as in walk_query().
    return unsafe { pg_guard_ffi_boundary(|| plain::expression_tree_walker(node, visit, context)) };
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    // SAFETY: by contract.
    return unsafe { pg_sys::expression_tree_walker_impl(node, Some(visit), context) };
}

/// What an expression is made of, as it was parsed: as [`walk_expression`].
///
/// # Safety
/// `node` is null or was made by the parser, and `visit` can do with `context`.
#[allow(ffi_unwind_calls)]
pub unsafe fn walk_parsed(node: *mut pg_sys::Node, visit: Visitor, context: *mut c_void) -> bool {
    #[cfg(any(feature = "pg14", feature = "pg15"))]
    // SAFETY: by contract.
    return unsafe { pg_guard_ffi_boundary(|| plain::raw_expression_tree_walker(node, visit, context)) };
    #[cfg(not(any(feature = "pg14", feature = "pg15")))]
    // SAFETY: by contract.
    return unsafe { pg_sys::raw_expression_tree_walker_impl(node, Some(visit), context) };
}

/// The same walks without the guards, which cost more than the rest, for plain frames that only look.
pub mod plain {
    use super::{Visitor, c_int, c_void, pg_sys};

    unsafe extern "C-unwind" {
        #[cfg_attr(not(any(feature = "pg14", feature = "pg15")), link_name = "query_tree_walker_impl")]
        pub fn query_tree_walker(
            query: *mut pg_sys::Query,
            visit: Visitor,
            context: *mut c_void,
            flags: c_int,
        ) -> bool;
        #[cfg_attr(not(any(feature = "pg14", feature = "pg15")), link_name = "expression_tree_walker_impl")]
        pub fn expression_tree_walker(node: *mut pg_sys::Node, visit: Visitor, context: *mut c_void) -> bool;
        #[cfg(any(feature = "pg14", feature = "pg15"))]
        pub fn raw_expression_tree_walker(node: *mut pg_sys::Node, visit: Visitor, context: *mut c_void) -> bool;
    }
}

#[cfg(any(feature = "pg14", feature = "pg15"))]
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;

/// The text of a string node, which was a general value node before 15; null for any other node.
///
/// # Safety
/// `node` is a node.
pub unsafe fn string_value(node: *mut pg_sys::Node) -> *const c_char {
    // SAFETY: by contract; the cast follows the tag.
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_String {
            return std::ptr::null();
        }
        #[cfg(feature = "pg14")]
        return (*(node as *mut pg_sys::Value)).val.str_;
        #[cfg(not(feature = "pg14"))]
        return (*(node as *mut pg_sys::String)).sval;
    }
}

/// Has `request` called when shared memory is reserved: at once in 14, by a hook since.
///
/// # Safety
/// Called from `_PG_init` in the postmaster.
#[cfg_attr(feature = "pg14", allow(ffi_unwind_calls))]
pub unsafe fn request_shared_memory(request: unsafe extern "C-unwind" fn()) {
    #[cfg(feature = "pg14")]
    // SAFETY: by contract.
    unsafe {
        request()
    };
    #[cfg(not(feature = "pg14"))]
    // SAFETY: by contract.
    unsafe {
        shared_memory::REQUEST = Some(request);
        shared_memory::PREVIOUS = pg_sys::shmem_request_hook;
        pg_sys::shmem_request_hook = Some(shared_memory::hook);
    }
}

/// Memory that sessions share although nobody reserved it when the server started (`GetNamedDSMSegment`): found by its name, or
/// made and set up by whoever asks first. `None` before 17, which has none. Where it cannot be had this raises an error, which
/// leaves locks of PostgreSQL's own (LWLocks) behind, as errors do.
///
/// # Safety
/// `set_up` makes something of as many bytes, and cannot fail; all that ask for this name agree on both.
#[cfg_attr(any(feature = "pg14", feature = "pg15", feature = "pg16"), allow(unused_variables))]
pub unsafe fn named_memory(
    name: &CStr,
    size: usize,
    set_up: unsafe extern "C-unwind" fn(*mut c_void),
) -> Option<*mut c_void> {
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
    return None;
    #[cfg(any(feature = "pg17", feature = "pg18"))]
    // SAFETY: by contract; the name is copied.
    return Some(unsafe { pg_sys::GetNamedDSMSegment(name.as_ptr(), size, Some(set_up), &mut false) });
    #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")))]
    // SAFETY: as above; the last argument is for `call()`.
    return Some(unsafe {
        pg_sys::GetNamedDSMSegment(name.as_ptr(), size, Some(call), &mut false, set_up as *mut c_void)
    });
}

/// COPY TO takes a partitioned table since 19.
pub const COPIES_PARTITIONED: bool =
    !cfg!(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18"));

/// What sets memory up gets an argument since 19.
#[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")))]
#[allow(ffi_unwind_calls)]
unsafe extern "C-unwind" fn call(memory: *mut c_void, set_up: *mut c_void) {
    // SAFETY: the argument of `named_memory()`.
    unsafe { std::mem::transmute::<*mut c_void, unsafe extern "C-unwind" fn(*mut c_void)>(set_up)(memory) }
}

#[cfg(not(feature = "pg14"))]
mod shared_memory {
    use super::pg_sys;

    pub(super) static mut REQUEST: Option<unsafe extern "C-unwind" fn()> = None;
    pub(super) static mut PREVIOUS: pg_sys::shmem_request_hook_type = None;

    /// Plain frame: see `pg::hook::frames`.
    #[allow(ffi_unwind_calls)]
    pub(super) unsafe extern "C-unwind" fn hook() {
        // SAFETY: set before the hook was; called in the postmaster.
        unsafe {
            if let Some(previous) = PREVIOUS {
                previous();
            }
            if let Some(request) = REQUEST {
                request();
            }
        }
    }
}

/// The two numbers of the virtual transaction id (`%v` in `log_line_prefix`).
pub fn virtual_transaction() -> (i32, u32) {
    // SAFETY: static variables; the process's entry lives as long as it does, and is null in those that have none.
    unsafe {
        if pg_sys::MyProc.is_null() {
            return (0, 0);
        }
        #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16"))]
        return ((*pg_sys::MyProc).backendId, (*pg_sys::MyProc).lxid);
        #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16")))]
        return ((*pg_sys::MyProc).vxid.procNumber, (*pg_sys::MyProc).vxid.lxid);
    }
}

/// The query id as `pg_stat_statements` shows it; signed since 18.
pub fn query_id(plan: &pg_sys::PlannedStmt) -> i64 {
    #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17")))]
    return plan.queryId;
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17"))]
    return plan.queryId.cast_signed();
}

// Of writing to the server's log PostgreSQL lends nothing in 14, and not the prefix in 15.

/// How a line at level LOG begins after its prefix, in the language of the log. `None` if that is not to be had.
pub fn severity_of_log() -> Option<&'static CStr> {
    #[cfg(feature = "pg14")]
    return None;
    // SAFETY: returns a constant, or its translation, which stays.
    #[cfg(not(feature = "pg14"))]
    return Some(unsafe { CStr::from_ptr(pg_sys::error_severity(pg_sys::LOG_SERVER_ONLY as c_int)) });
}

/// To the logging collector, whose pipe standard error is then.
#[cfg_attr(feature = "pg14", allow(unused_variables, clippy::needless_pass_by_ref_mut))]
pub fn write_to_collector(line: &mut [u8]) {
    #[cfg(not(feature = "pg14"))]
    if let Ok(length) = c_int::try_from(line.len()) {
        // SAFETY: only reads the line.
        unsafe {
            pg_sys::write_pipe_chunks(line.as_mut_ptr().cast(), length, pg_sys::LOG_DESTINATION_STDERR as c_int);
        }
    }
}

/// Appends a line's prefix by its format (`log_line_prefix`), which does not ask for the current time: that would be the
/// one of the line before. `None` where that is not to be had.
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
pub fn append_log_prefix(line: &mut Vec<u8>, format: &CStr) -> Option<()> {
    // SAFETY: all zeros are an error at no level with no texts; the buffer is initialized before it is filled, and
    // freed after it is copied.
    unsafe {
        let mut buffer = pg_sys::StringInfoData::default();
        let mut about = pg_sys::ErrorData::default();
        pg_sys::initStringInfo(&mut buffer);
        pg_sys::log_status_format(&mut buffer, format.as_ptr(), &mut about);
        let length = usize::try_from(buffer.len).unwrap_or(0);
        line.extend_from_slice(std::slice::from_raw_parts(buffer.data.cast(), length));
        pg_sys::pfree(buffer.data.cast());
    }
    Some(())
}

#[cfg(any(feature = "pg14", feature = "pg15"))]
pub fn append_log_prefix(_line: &mut Vec<u8>, _format: &CStr) -> Option<()> {
    None
}

/// The least level of what goes to the server's log from this process: a setting of its own for each kind of process since 19.
pub fn log_min_messages() -> c_int {
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18"))]
    // SAFETY: a setting of this process.
    return unsafe { pg_sys::log_min_messages };
    #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")))]
    // SAFETY: settings of this process, one for each kind of process, of which this is one.
    return unsafe {
        let settings = (&raw const pg_sys::log_min_messages).cast::<c_int>();
        *settings.add(pg_sys::MyBackendType as usize)
    };
}

/// The relation that a statement rebuilds in another order: CLUSTER, a form of REPACK since 19. Null for any other statement, and
/// where it names none.
///
/// # Safety
/// `node` is a node of PostgreSQL.
pub unsafe fn reordered(node: *mut pg_sys::Node) -> *mut pg_sys::RangeVar {
    // SAFETY: by contract; the casts follow the tag.
    unsafe {
        #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18"))]
        if (*node).type_ == pg_sys::NodeTag::T_ClusterStmt {
            return (*(node as *mut pg_sys::ClusterStmt)).relation;
        }
        #[cfg(not(any(
            feature = "pg14",
            feature = "pg15",
            feature = "pg16",
            feature = "pg17",
            feature = "pg18"
        )))]
        if (*node).type_ == pg_sys::NodeTag::T_RepackStmt
            && let Some(named) = (*(node as *mut pg_sys::RepackStmt)).relation.as_ref()
        {
            return named.relation;
        }
    }
    std::ptr::null_mut()
}

/// Node tags of all majors. Those that this one does not have stand for a tag that no statement has.
#[allow(non_upper_case_globals)]
mod tags {
    use pgrx::pg_sys::NodeTag;
    #[cfg(feature = "pg14")]
    pub const T_AlterDatabaseRefreshCollStmt: NodeTag = NodeTag::T_Invalid;
    #[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18")))]
    pub const T_ClusterStmt: NodeTag = NodeTag::T_Invalid;
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18"))]
    pub const T_RepackStmt: NodeTag = NodeTag::T_Invalid;
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18"))]
    pub const T_WaitStmt: NodeTag = NodeTag::T_Invalid;
    pub use pgrx::pg_sys::NodeTag::*;
}

/// The row of a utility statement in the allow list; `None` for one that has none.
#[allow(unreachable_patterns)]
pub fn utility(tag: pg_sys::NodeTag) -> Option<Utility> {
    macro_rules! row {
        ($($tag:ident)*) => {
            match tag {
                $(tags::$tag => Some(Utility::$tag),)*
                _ => None,
            }
        };
    }
    for_each_statement!(row)
}

/// Types of objects of all majors. Those that this one does not have stand for numbers that it does not use.
mod object_types {
    #[cfg(feature = "pg14")]
    pub const OBJECT_PARAMETER_ACL: pgrx::pg_sys::ObjectType::Type = u32::MAX;
    #[cfg(feature = "pg14")]
    pub const OBJECT_PUBLICATION_NAMESPACE: pgrx::pg_sys::ObjectType::Type = u32::MAX - 1;
    #[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17", feature = "pg18"))]
    pub const OBJECT_PUBLICATION_EXCLUDED_REL: pgrx::pg_sys::ObjectType::Type = u32::MAX - 2;
    pub use pgrx::pg_sys::ObjectType::*;
}

/// The row of a type of object in the allow list; `None` for one that has none.
pub fn object(object: pg_sys::ObjectType::Type) -> Option<ObjectType> {
    macro_rules! row {
        ($($name:ident)*) => {
            match object {
                $(object_types::$name => Some(ObjectType::$name),)*
                _ => None,
            }
        };
    }
    for_each_object!(row)
}

/// Since 18 a session keeps the keys of a SCRAM login, for foreign servers with `use_scram_passthrough`. Wipes them.
#[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17")))]
pub fn forget_scram_keys() {
    // SAFETY: null in processes without a client, else a live `Port` of this layout, which does not change within a major:
    // its fields keep their offsets on purpose, for extensions (libpq-be.h).
    unsafe {
        let Some(port) = (pg_sys::MyProcPort as *mut port::Port).as_mut() else { return };
        if port.has_scram_keys == 0 {
            return;
        }
        port.client_key.zeroize();
        port.server_key.zeroize();
        port.has_scram_keys = 0;
    }
}

#[cfg(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17"))]
pub fn forget_scram_keys() {}

/// What comes before the SCRAM keys in `Port` (libpq-be.h), which pgrx does not know.
#[cfg(not(any(feature = "pg14", feature = "pg15", feature = "pg16", feature = "pg17")))]
mod port {
    use std::ffi::{c_char, c_int, c_void};

    /// `struct sockaddr_storage` and its length.
    #[repr(C)]
    struct SockAddr {
        storage: [u64; 16],
        length: u32,
    }

    #[repr(C)]
    pub struct Port {
        sock: c_int,
        noblock: bool,
        proto: u32,
        addresses: [SockAddr; 2],
        remote_host: *mut c_char,
        remote_hostname: *mut c_char,
        remote_hostname_resolved: [c_int; 2],
        remote_port: *mut c_char,
        local_host: [c_char; 64],
        /// database_name, user_name, cmdline_options, guc_options, application_name, hba
        startup: [*mut c_void; 6],
        keepalives: [c_int; 8],
        pub client_key: [u8; 32],
        pub server_key: [u8; 32],
        pub has_scram_keys: u8,
    }
}

/// Whether clients may hand credentials on to this server (`gss_accept_delegation`, since 16).
#[cfg(not(any(feature = "pg14", feature = "pg15")))]
pub fn accepts_delegation() -> bool {
    unsafe extern "C" {
        /// `libpq/auth.h`
        static pg_gss_accept_delegation: bool;
    }
    // SAFETY: a setting's static variable.
    unsafe { pg_gss_accept_delegation }
}

#[cfg(any(feature = "pg14", feature = "pg15"))]
pub fn accepts_delegation() -> bool {
    false
}
