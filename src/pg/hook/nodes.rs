//! Reading PostgreSQL's parse and plan trees.

use crate::core::audit::redact;
use crate::core::guard::utility::Utility;
use crate::core::guard::{FIRST_NORMAL_OBJECT_ID, How, Statement};
use crate::core::session::names::LookUp;
use crate::core::session::presented;
use crate::pg::sys::{compat, raw, text};
use crate::pg::{guc, switch};
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::{PgList, is_a, pg_sys};
use std::ffi::{CStr, c_char, c_int, c_void};

/// What kind of utility statement this is.
///
/// # Safety
/// `pstmt` is a planned statement of PostgreSQL that wraps a utility statement.
pub unsafe fn classify(pstmt: *mut pg_sys::PlannedStmt) -> Statement {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract; each cast follows the tag of the node.
    unsafe {
        let node = (*pstmt).utilityStmt;
        let Some(kind) = compat::utility((*node).type_) else { return Statement::Unknown };
        match (*node).type_ {
            T_TransactionStmt => {
                use pg_sys::TransactionStmtKind::*;
                match (*(node as *mut pg_sys::TransactionStmt)).kind {
                    TRANS_STMT_PREPARE | TRANS_STMT_COMMIT_PREPARED | TRANS_STMT_ROLLBACK_PREPARED => {
                        Statement::TwoPhase
                    }
                    TRANS_STMT_ROLLBACK => Statement::Rollback,
                    TRANS_STMT_SAVEPOINT => Statement::Savepoint,
                    _ => Statement::TransactionControl,
                }
            }
            T_VariableSetStmt => classify_set(&*(node as *mut pg_sys::VariableSetStmt)),
            T_DiscardStmt => match (*(node as *mut pg_sys::DiscardStmt)).target {
                pg_sys::DiscardMode::DISCARD_ALL => Statement::DiscardAll,
                _ => Statement::Discard,
            },
            _ if executes_prepared(node) => Statement::Plain(Utility::T_ExecuteStmt, None),
            T_CallStmt => {
                let call = (*(node as *mut pg_sys::CallStmt)).funcexpr;
                if call.is_null() { Statement::CallOther } else { Statement::Call((*call).funcid.to_u32()) }
            }
            T_DoStmt => Statement::Do,
            T_DeclareCursorStmt
                if (*(node as *mut pg_sys::DeclareCursorStmt)).options & pg_sys::CURSOR_OPT_HOLD as i32 != 0 =>
            {
                Statement::HeldCursor
            }
            T_ExplainStmt if is_plain_query((*(node as *mut pg_sys::ExplainStmt)).query) => {
                Statement::ExplainQuery
            }
            T_DefineStmt if let Some(operator) = created_operator(&*(node as *mut pg_sys::DefineStmt)) => operator,
            _ => match object_type(node).map(compat::object) {
                Some(None) => Statement::Unknown,
                Some(object) => Statement::Plain(kind, object),
                None => Statement::Plain(kind, None),
            },
        }
    }
}

/// The type of object that a statement names.
///
/// # Safety
/// `node` is a node of PostgreSQL.
unsafe fn object_type(node: *mut pg_sys::Node) -> Option<pg_sys::ObjectType::Type> {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract; each cast follows the tag of the node.
    unsafe {
        Some(match (*node).type_ {
            T_AlterObjectDependsStmt => (*(node as *mut pg_sys::AlterObjectDependsStmt)).objectType,
            T_AlterObjectSchemaStmt => (*(node as *mut pg_sys::AlterObjectSchemaStmt)).objectType,
            T_AlterOwnerStmt => (*(node as *mut pg_sys::AlterOwnerStmt)).objectType,
            T_AlterTableStmt => (*(node as *mut pg_sys::AlterTableStmt)).objtype,
            T_AlterExtensionContentsStmt => (*(node as *mut pg_sys::AlterExtensionContentsStmt)).objtype,
            T_CommentStmt => (*(node as *mut pg_sys::CommentStmt)).objtype,
            T_DefineStmt => (*(node as *mut pg_sys::DefineStmt)).kind,
            T_DropStmt => (*(node as *mut pg_sys::DropStmt)).removeType,
            T_GrantStmt => (*(node as *mut pg_sys::GrantStmt)).objtype,
            T_RenameStmt => (*(node as *mut pg_sys::RenameStmt)).renameType,
            T_SecLabelStmt => (*(node as *mut pg_sys::SecLabelStmt)).objtype,
            _ => return None,
        })
    }
}

/// # Safety
/// `query` is null or a node of PostgreSQL.
unsafe fn is_plain_query(query: *mut pg_sys::Node) -> bool {
    // SAFETY: by contract; the cast follows the tag of the node.
    unsafe {
        is_a(query, pg_sys::NodeTag::T_Query)
            && (*(query as *mut pg_sys::Query)).commandType != pg_sys::CmdType::CMD_UTILITY
    }
}

/// Whether this is EXECUTE, or EXPLAIN or CREATE TABLE AS of it, however deep: those run it without its own hook.
///
/// # Safety
/// `node` is null or a node of PostgreSQL.
unsafe fn executes_prepared(node: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract; each cast follows the tag of the node.
    unsafe {
        if node.is_null() {
            return false;
        }
        let inner = match (*node).type_ {
            T_ExecuteStmt => return true,
            T_ExplainStmt => (*(node as *mut pg_sys::ExplainStmt)).query,
            T_CreateTableAsStmt => (*(node as *mut pg_sys::CreateTableAsStmt)).query,
            T_Query => (*(node as *mut pg_sys::Query)).utilityStmt,
            _ => return false,
        };
        executes_prepared(inner)
    }
}

/// CREATE OPERATOR tells the function by which it works.
fn created_operator(define: &pg_sys::DefineStmt) -> Option<Statement> {
    if define.kind != pg_sys::ObjectType::OBJECT_OPERATOR {
        return None;
    }
    // SAFETY: the definition is a list of DefElem; `function` and `procedure` hold a name as a TypeName, whose names
    // are a list of strings.
    unsafe {
        PgList::<pg_sys::DefElem>::from_pg(define.definition)
            .iter_ptr()
            .filter(|&element| matches!(name_of((*element).defname).as_str(), "function" | "procedure"))
            .filter(|&element| is_a((*element).arg, pg_sys::NodeTag::T_TypeName))
            .filter_map(|element| {
                let names = (*((*element).arg as *mut pg_sys::TypeName)).names;
                PgList::<pg_sys::Node>::from_pg(names).iter_ptr().last()
            })
            .map(|last| Statement::CreateOperator(name_of(compat::string_value(last))))
            .last()
    }
}

/// `RESET ALL` has no name: a kind, not a name, tells what is set.
fn classify_set(set: &pg_sys::VariableSetStmt) -> Statement {
    use pg_sys::VariableSetKind::*;
    // SAFETY: PostgreSQL's name is null or NUL-terminated.
    let name = || unsafe { name_of(set.name) };
    match set.kind {
        VAR_RESET_ALL => return Statement::ResetAll,
        VAR_SET_MULTI => {}
        kind => {
            if let Some(what) = presented::kind_of(&name()) {
                let how = match kind {
                    VAR_RESET | VAR_SET_DEFAULT if !set.is_local => How::Reset,
                    _ if set.is_local => How::Local,
                    _ => How::Session,
                };
                return Statement::Impersonate(what, how);
            }
        }
    }
    match set.kind {
        VAR_RESET | VAR_SET_DEFAULT => Statement::Reset(name()),
        VAR_SET_MULTI => match name().as_str() {
            // SET SESSION CHARACTERISTICS sets the default_transaction_* parameters.
            "SESSION CHARACTERISTICS" => Statement::Set("default_transaction_isolation".into()),
            _ => Statement::SetTransaction,
        },
        // SAFETY: a SET statement of a parameter; PostgreSQL's own errors about its values pass.
        _ if unsafe { sets_misleading(set) } => Statement::SetMisleading(name()),
        _ => Statement::Set(name()),
    }
}

/// Whether a setting gets a value with which text can be misread.
///
/// # Safety
/// `set` names a parameter; not RESET ALL.
unsafe fn sets_misleading(set: &pg_sys::VariableSetStmt) -> bool {
    // SAFETY: by contract; the value is null or a palloc'd string.
    unsafe {
        let name = CStr::from_ptr(set.name);
        if !guc::may_mislead(name) {
            return false;
        }
        let value = pg_sys::ExtractSetVariableArgs(std::ptr::from_ref(set).cast_mut());
        !value.is_null() && guc::is_misleading(name, CStr::from_ptr(value))
    }
}

/// Whether this is a utility statement whose text may hold a secret: those are kept as they came, literals and all,
/// where others are normalized. Raises nothing and allocates nothing: for use in a plain frame.
///
/// # Safety
/// `pstate` and `query` are what PostgreSQL passed to the hook.
pub unsafe fn is_sensitive_utility(pstate: *const pg_sys::ParseState, query: *const pg_sys::Query) -> bool {
    // SAFETY: by contract; the source text is null or NUL-terminated.
    unsafe {
        if (*query).utilityStmt.is_null() || pstate.is_null() || (*pstate).p_sourcetext.is_null() {
            return false;
        }
        let text = part((*pstate).p_sourcetext, (*query).stmt_location, (*query).stmt_len);
        redact::is_sensitive(text.unwrap_or_else(|| CStr::from_ptr((*pstate).p_sourcetext).to_bytes()))
    }
}

/// The part of a source text that is one statement, as `CleanQuerytext()` finds it: the rest of the text is not looked at.
/// `None` where it is not known, as for what a rule adds.
///
/// # Safety
/// `source` is NUL-terminated and outlives the result; location and length are PostgreSQL's, of a statement in it.
pub unsafe fn part<'a>(source: *const c_char, location: i32, length: i32) -> Option<&'a [u8]> {
    let location = usize::try_from(location).ok()?;
    // SAFETY: by contract.
    unsafe {
        let begin = source.add(location);
        Some(match usize::try_from(length) {
            Ok(length) if length > 0 => std::slice::from_raw_parts(begin.cast(), length),
            _ => CStr::from_ptr(begin).to_bytes(),
        })
    }
}

/// # Safety
/// `name` is null or NUL-terminated.
unsafe fn name_of(name: *const c_char) -> String {
    if name.is_null() {
        return String::new();
    }
    // SAFETY: by contract.
    text::utf8(unsafe { CStr::from_ptr(name) }.to_bytes())
}

/// What a list holds.
///
/// # Safety
/// `list` is null or a list that outlives the result and does not change meanwhile.
unsafe fn cells<'a>(list: *const pg_sys::List) -> &'a [pg_sys::ListCell] {
    // SAFETY: by contract.
    unsafe {
        match list.as_ref() {
            Some(list) => std::slice::from_raw_parts(list.elements, usize::try_from(list.length).unwrap_or(0)),
            None => &[],
        }
    }
}

/// A relation whose permissions are checked.
#[derive(Clone, Copy)]
pub struct Permission {
    pub relation: u32,
    /// The role it is checked for where that is not the current user (owner of a view), else 0.
    pub checked_as: u32,
}

/// The permission entries of a query, read only when somebody asks.
pub struct Permissions(*mut pg_sys::List);

impl Permissions {
    /// # Safety
    /// `list` is a list of permission entries that outlives the value.
    pub unsafe fn of_list(list: *mut pg_sys::List) -> Permissions {
        Permissions(list)
    }

    /// Those of relations on which some privilege is required.
    pub(super) fn entries(&self) -> impl Iterator<Item = &compat::PermissionEntry> {
        // SAFETY: by contract of the constructor; the list holds nodes of the one type.
        unsafe { cells(self.0).iter().map(|cell| &*(cell.ptr_value as *const compat::PermissionEntry)) }
            .filter(|entry| compat::is_relation(entry) && entry.requiredPerms != 0)
    }

    /// On whose rights any of these relations is read or written: 0 for the current user's, else the owner of a view.
    pub fn checked_as(&self, is_meant: impl Fn(u32) -> bool) -> Vec<u32> {
        let meant = self.entries().filter(|entry| is_meant(entry.relid.to_u32()));
        meant.map(|entry| entry.checkAsUser.to_u32()).collect()
    }

    /// The relations on which some privilege is required.
    pub fn required(&self) -> Vec<Permission> {
        let permission = |entry: &compat::PermissionEntry| Permission {
            relation: entry.relid.to_u32(),
            checked_as: entry.checkAsUser.to_u32(),
        };
        self.entries().map(permission).collect()
    }
}

/// A query that is about to start.
pub struct Query {
    pub permissions: Permissions,
    /// Whether functions or constraints of domains may run in parallel workers, other than PostgreSQL's own: what the plan
    /// depends on besides relations.
    pub may_read_in_workers: bool,
    /// Whether each expression of it is evaluated once at most.
    pub has_one_row: bool,
    source: *const c_char,
    location: i32,
    length: i32,
}

impl Query {
    /// # Safety
    /// `query_desc` is a descriptor with its planned statement, which outlives the value.
    pub unsafe fn of(query_desc: *mut pg_sys::QueryDesc) -> Query {
        // SAFETY: by contract.
        unsafe {
            let plan = &*(*query_desc).plannedstmt;
            Query {
                permissions: Permissions::of_list(compat::permissions_of_plan(plan)),
                has_one_row: plan.subplans.is_null() && is_lone_result(plan.planTree),
                may_read_in_workers: plan.parallelModeNeeded && !plan.invalItems.is_null(),
                source: (*query_desc).sourceText,
                location: plan.stmt_location,
                length: plan.stmt_len,
            }
        }
    }

    /// How the names of this query would be looked up now. `None` for one whose names were looked up when a function
    /// with a parsed body was created, and are never looked up again.
    pub fn look_up(&self) -> Option<LookUp<'_>> {
        // SAFETY: by contract of the constructor.
        unsafe { look_up(self.source, self.location, self.length) }
    }
}

/// # Safety
/// `plan` is null or the node of a plan.
unsafe fn is_lone_result(plan: *const pg_sys::Plan) -> bool {
    // SAFETY: by contract; every node of a plan begins with its tag and these fields.
    unsafe { !plan.is_null() && (*plan).type_ == pg_sys::NodeTag::T_Result && (*plan).lefttree.is_null() }
}

/// Whether this is a COPY.
///
/// # Safety
/// `pstmt` is a planned statement of PostgreSQL that wraps a utility statement.
pub unsafe fn is_copy(pstmt: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: by contract.
    unsafe { (*(*pstmt).utilityStmt).type_ == pg_sys::NodeTag::T_CopyStmt }
}

/// Whether a statement is one of those that are in every transaction and name no objects: nothing runs and nothing is
/// looked up before its own hook sees it.
///
/// # Safety
/// `query` is a query that was analyzed.
pub unsafe fn has_no_names(query: *const pg_sys::Query) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract.
    unsafe {
        let utility = (*query).utilityStmt;
        !utility.is_null() && matches!((*utility).type_, T_TransactionStmt | T_VariableSetStmt)
    }
}

/// The look-up that an analysis was. EXPLAIN, CREATE TABLE AS and DECLARE CURSOR report the query inside them once
/// more when they run; its names were looked up with their own, and its range table is not that of the report's state.
///
/// # Safety
/// `pstate` and `query` are what PostgreSQL passed to the hook.
pub unsafe fn analyzed<'a>(pstate: &'a pg_sys::ParseState, query: &pg_sys::Query) -> Option<LookUp<'a>> {
    use pg_sys::NodeTag::*;
    // SAFETY: by contract; each cast follows the tag of the node.
    unsafe {
        let utility = query.utilityStmt;
        let inner = match (utility.is_null(), utility) {
            (true, _) => std::ptr::null_mut(),
            (false, node) => match (*node).type_ {
                T_ExplainStmt => (*(node as *mut pg_sys::ExplainStmt)).query,
                T_CreateTableAsStmt => (*(node as *mut pg_sys::CreateTableAsStmt)).query,
                T_DeclareCursorStmt => (*(node as *mut pg_sys::DeclareCursorStmt)).query,
                _ => std::ptr::null_mut(),
            },
        };
        if is_a(inner, T_Query) {
            let inner = &*(inner as *mut pg_sys::Query);
            look_up(pstate.p_sourcetext, inner.stmt_location, inner.stmt_len)
        } else if query.rtable == pstate.p_rtable {
            look_up(pstate.p_sourcetext, query.stmt_location, query.stmt_len)
        } else {
            None
        }
    }
}

/// # Safety
/// As [`part`]; `source` may be null.
unsafe fn look_up<'a>(source: *const c_char, location: i32, length: i32) -> Option<LookUp<'a>> {
    // SAFETY: by contract; search_path is a string setting, never null.
    let (statement, search_path) = unsafe {
        if source.is_null() || *source == 0 {
            return None;
        }
        let statement = part(source, location, length).unwrap_or_default();
        (statement, CStr::from_ptr(pg_sys::namespace_search_path).to_bytes())
    };
    let (role, _) = switch::current_user();
    Some(LookUp { statement, search_path, role })
}

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

/// The relations that a utility statement locks, empties or rebuilds, read only when somebody asks.
pub struct Handled(*mut pg_sys::Node);

impl Handled {
    /// # Safety
    /// `pstmt` is a planned statement of PostgreSQL that wraps a utility statement, and outlives the value.
    pub unsafe fn by(pstmt: *mut pg_sys::PlannedStmt) -> Handled {
        // SAFETY: by contract.
        Handled(unsafe { (*pstmt).utilityStmt })
    }

    /// Those that it names, and what views among them show, however deep: LOCK reaches that as well.
    pub fn collect(&self) -> Vec<u32> {
        let mut found = self.named();
        let mut at = 0;
        while let Some(&relation) = found.get(at) {
            let shown = shown_by_view(relation);
            let new: Vec<u32> = shown.into_iter().filter(|relation| !found.contains(relation)).collect();
            found.extend(new);
            at += 1;
        }
        found
    }

    /// The roles that are to own something, in whose name something is dropped, or for which default privileges are set.
    pub fn owners(&self) -> Vec<u32> {
        use pg_sys::NodeTag::*;
        let node = self.0;
        // SAFETY: by contract of the constructor; each cast follows the tag of the node, and the lists hold nodes of
        // one type.
        unsafe {
            let named: Vec<*mut pg_sys::RoleSpec> = match (*node).type_ {
                T_AlterOwnerStmt => vec![(*(node as *mut pg_sys::AlterOwnerStmt)).newowner],
                T_CreateSchemaStmt => vec![(*(node as *mut pg_sys::CreateSchemaStmt)).authrole],
                T_DropOwnedStmt => {
                    PgList::from_pg((*(node as *mut pg_sys::DropOwnedStmt)).roles).iter_ptr().collect()
                }
                T_ReassignOwnedStmt => {
                    let reassign = &*(node as *mut pg_sys::ReassignOwnedStmt);
                    let roles = PgList::<pg_sys::RoleSpec>::from_pg(reassign.roles);
                    roles.iter_ptr().chain([reassign.newrole]).collect()
                }
                T_AlterTableStmt => {
                    PgList::<pg_sys::AlterTableCmd>::from_pg((*(node as *mut pg_sys::AlterTableStmt)).cmds)
                        .iter_ptr()
                        .map(|command| (*command).newowner)
                        .collect()
                }
                T_AlterDefaultPrivilegesStmt => {
                    let options = (*(node as *mut pg_sys::AlterDefaultPrivilegesStmt)).options;
                    PgList::<pg_sys::DefElem>::from_pg(options)
                        .iter_ptr()
                        .filter(|option| name_of((**option).defname) == "roles")
                        .flat_map(|option| {
                            let roles = PgList::<pg_sys::RoleSpec>::from_pg((*option).arg.cast());
                            roles.iter_ptr().collect::<Vec<_>>()
                        })
                        .collect()
                }
                _ => Vec::new(),
            };
            let named = named.into_iter().filter(|role| !role.is_null());
            named.map(|role| pg_sys::get_rolespec_oid(role, true).to_u32()).filter(|&role| role != 0).collect()
        }
    }

    fn named(&self) -> Vec<u32> {
        use pg_sys::NodeTag::*;
        let node = self.0;
        // SAFETY: by contract of the constructor; each cast follows the tag of the node, and the lists hold nodes of
        // one type.
        unsafe {
            let ranges: Vec<*mut pg_sys::RangeVar> = match (*node).type_ {
                T_LockStmt => PgList::from_pg((*(node as *mut pg_sys::LockStmt)).relations).iter_ptr().collect(),
                T_TruncateStmt => {
                    PgList::from_pg((*(node as *mut pg_sys::TruncateStmt)).relations).iter_ptr().collect()
                }
                T_VacuumStmt => {
                    PgList::<pg_sys::VacuumRelation>::from_pg((*(node as *mut pg_sys::VacuumStmt)).rels)
                        .iter_ptr()
                        .map(|named| (*named).relation)
                        .collect()
                }
                T_ReindexStmt => vec![(*(node as *mut pg_sys::ReindexStmt)).relation],
                _ => vec![compat::reordered(node)],
            };
            ranges
                .into_iter()
                .filter(|range| !range.is_null())
                .map(|range| {
                    let missing_ok = pg_sys::RVROption::RVR_MISSING_OK;
                    let (no_lock, no_callback) = (pg_sys::NoLock as i32, std::ptr::null_mut());
                    pg_sys::RangeVarGetRelidExtended(range, no_lock, missing_ok, None, no_callback).to_u32()
                })
                .filter(|&relation| relation != 0)
                .collect()
        }
    }
}

/// The relations that a view shows; none for what is no view. It stays as it is until the transaction ends.
fn shown_by_view(oid: u32) -> Vec<u32> {
    // SAFETY: takes an OID by value; the view is opened with a lock, which is kept, before its rule is read, and the
    // query belongs to it while it is open.
    unsafe {
        if pg_sys::get_rel_relkind(oid.into()) as u8 != b'v' {
            return Vec::new();
        }
        let view = pg_sys::try_relation_open(oid.into(), pg_sys::AccessShareLock as c_int);
        if view.is_null() {
            return Vec::new();
        }
        let relations = References::of(pg_sys::get_view_query(view)).collect().relations;
        pg_sys::relation_close(view, pg_sys::NoLock as c_int);
        relations
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
