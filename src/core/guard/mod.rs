//! Which statements a session may run without a token, and which it may not run under one.

pub mod connecting;
pub mod utility;

use crate::core::guard::connecting::{Row, SEARCH_PATH};
use crate::core::guard::utility::{Allowance, ObjectType, Situation, Utility};
use crate::core::session::presented::{self, Kind, NAME_PARAMETERS, TOKEN_PARAMETER};

/// How a statement says whom to impersonate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// SET without LOCAL
    Session,
    /// SET LOCAL
    Local,
    /// RESET, SET … TO DEFAULT
    Reset,
    /// CALL of the procedure that sets it
    Call,
}

/// A statement, as far as the guard has to tell it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Statement {
    /// BEGIN, COMMIT, RELEASE, ROLLBACK TO …
    TransactionControl,
    Savepoint,
    /// ROLLBACK of the whole transaction, which must always be possible
    Rollback,
    /// PREPARE TRANSACTION, COMMIT PREPARED, ROLLBACK PREPARED
    TwoPhase,
    /// SET TRANSACTION …
    SetTransaction,
    /// SET or RESET of a parameter that says whom to impersonate, or CALL of the procedure that does it
    Impersonate(Kind, How),
    /// SET of any other parameter, by its name
    Set(String),
    /// SET of a parameter, by its name, to a value with which text that was written for another can be misread
    SetMisleading(String),
    /// RESET of any other parameter or SET … TO DEFAULT, by its name
    Reset(String),
    ResetAll,
    DiscardAll,
    /// DISCARD PLANS, SEQUENCES or TEMP
    Discard,
    /// EXPLAIN of a query (not of a utility statement)
    ExplainQuery,
    /// DECLARE … WITH HOLD
    HeldCursor,
    /// CREATE OPERATOR, with the name of its function
    CreateOperator(String),
    /// DO, and CALL of a procedure, which may hold transaction control of their own
    Do,
    CallOther,
    /// CALL of this procedure, if it is not known yet to be ours
    Call(u32),
    /// Any other statement of a kind, about an object of a type if it names that
    Plain(Utility, Option<ObjectType>),
    /// A kind of statement or a type of object that this library does not know
    Unknown,
}

impl Statement {
    /// The row of the list in which it stands.
    fn kind(&self) -> Option<Utility> {
        use Statement::*;
        Some(match self {
            TransactionControl | Savepoint | Rollback | TwoPhase => Utility::T_TransactionStmt,
            SetTransaction
            | Impersonate(_, How::Session | How::Local | How::Reset)
            | Set(_)
            | SetMisleading(_)
            | Reset(_)
            | ResetAll => Utility::T_VariableSetStmt,
            DiscardAll | Discard => Utility::T_DiscardStmt,
            ExplainQuery => Utility::T_ExplainStmt,
            HeldCursor => Utility::T_DeclareCursorStmt,
            CreateOperator(_) => Utility::T_DefineStmt,
            Do => Utility::T_DoStmt,
            CallOther | Call(_) | Impersonate(_, How::Call) => Utility::T_CallStmt,
            Plain(kind, _) => *kind,
            Unknown => return None,
        })
    }

    /// Whether it may hold transaction control of its own.
    pub fn may_commit(&self) -> bool {
        matches!(self, Statement::Do | Statement::CallOther | Statement::Call(_))
    }
}

/// Why a statement is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// It needs an impersonation first.
    TokenRequired,
    /// This parameter may not be set without one.
    Unlisted(String),
    /// This parameter may only be set until the session has its first user.
    BetweenUsers(String),
    /// It would change the identity or leave something behind; what it is, for the message.
    WhileImpersonating(&'static str),
    /// It cannot be combined with impersonation at all.
    NotSupported(&'static str),
}

/// Which parameters a session may set without a token.
pub struct Settable {
    /// `bodata.session_settings`.
    pub session: Vec<String>,
    /// `bodata.shared_settings`, in a session that has impersonated somebody.
    pub shared: Option<Vec<String>>,
}

impl Settable {
    /// Whether a parameter may be set, and to a value that is `misleading` or not.
    pub fn allows(&self, name: &str, is_misleading: bool) -> bool {
        is_session_setting(name, &self.session)
            && self.shared.as_ref().is_none_or(|shared| !is_misleading && is_session_setting(name, shared))
    }
}

/// How far a statement is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Runs,
    /// A SET to the value that is in force; else what is said here.
    RunsIfUnchanged(Otherwise),
}

/// What becomes of a SET that would change the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Otherwise {
    Refused(Reason),
    /// A WARNING, and no effect.
    Ignored(&'static Row),
}

/// What a session that may present tokens can do before it has presented one: nothing that outlives the statement.
/// `is_clients` tells whether the client sent it as it is; `settable` is asked for only where it matters.
pub fn without_token(
    statement: &Statement,
    is_clients: bool,
    settable: impl FnOnce() -> Settable,
) -> Result<Verdict, Reason> {
    use Statement::*;
    match statement.kind().map(|kind| kind.allowance(Situation::WithoutToken)) {
        Some(Allowance::Allowed) => return Ok(Verdict::Runs),
        Some(Allowance::ByForm) => {}
        Some(Allowance::Refused) | None => return Err(Reason::TokenRequired),
    }
    match statement {
        TransactionControl | Savepoint | Rollback | SetTransaction | Impersonate(..) | Reset(_) | ResetAll
        | ExplainQuery => Ok(Verdict::Runs),
        Set(name) if presented::is_name_option(name) => Ok(Verdict::Runs),
        Set(name) => set_without_token(name, false, is_clients, &settable()),
        SetMisleading(name) => set_without_token(name, true, is_clients, &settable()),
        _ => Err(Reason::TokenRequired),
    }
}

fn set_without_token(
    name: &str,
    is_misleading: bool,
    is_clients: bool,
    settable: &Settable,
) -> Result<Verdict, Reason> {
    if settable.allows(name, is_misleading) {
        return Ok(Verdict::Runs);
    }
    if is_session_setting(name, &settable.session) {
        let refusal = Reason::BetweenUsers(name.into());
        // What misleads is not even tried, nor what may stand for SET SESSION CHARACTERISTICS: that sets more than this.
        return if is_misleading || !is_clients || name.eq_ignore_ascii_case("default_transaction_isolation") {
            Err(refusal)
        } else {
            Ok(Verdict::RunsIfUnchanged(Otherwise::Refused(refusal)))
        };
    }
    match connecting::row_of(name).filter(|_| is_clients) {
        Some(_) if settable.shared.is_none() => Ok(Verdict::Runs),
        Some(row) => Ok(Verdict::RunsIfUnchanged(Otherwise::Ignored(row))),
        None if may_be_listed(name) => Err(Reason::Unlisted(name.into())),
        None => Err(Reason::TokenRequired),
    }
}

/// What an impersonated user cannot do: change the identity, or leave something behind for others or for later.
/// `of_session` tells whether the impersonation is the session's.
pub fn while_impersonating(statement: &Statement, of_session: bool) -> Result<(), Reason> {
    use Statement::*;
    let situation = if of_session { Situation::UnderTokenOfSession } else { Situation::UnderToken };
    if matches!(statement, Impersonate(..)) {
        return Err(Reason::WhileImpersonating("the impersonated user cannot be changed"));
    }
    let Some(kind) = statement.kind() else {
        return Err(Reason::WhileImpersonating("this kind of statement is not known to immuta_ext"));
    };
    match kind.allowance(situation) {
        Allowance::Allowed => {}
        Allowance::Refused => return Err(Reason::WhileImpersonating(kind.reason())),
        Allowance::ByForm => refused_form(statement, kind)?,
    }
    match statement {
        Plain(_, Some(object)) => object.refusal().map_or(Ok(()), |why| Err(Reason::WhileImpersonating(why))),
        _ => Ok(()),
    }
}

/// Under a token, of the kinds whose row says that the form decides.
fn refused_form(statement: &Statement, kind: Utility) -> Result<(), Reason> {
    use Statement::*;
    match statement {
        TransactionControl | Savepoint | Rollback | SetTransaction | ResetAll | ExplainQuery | Plain(..) => Ok(()),
        Set(name) | Reset(name) if is_identity_parameter(name) => {
            Err(Reason::WhileImpersonating("the role or session authorization cannot be changed"))
        }
        Set(_) | SetMisleading(_) | Reset(_) => Ok(()),
        TwoPhase => Err(Reason::NotSupported("two-phase commit")),
        // The planner calls the functions of operators behind every check.
        CreateOperator(function) if may_be_operator(function) => Ok(()),
        _ => Err(Reason::WhileImpersonating(kind.reason())),
    }
}

/// Whether a statement leaves nothing in its transaction that the next user could meet in it.
pub fn leaves_no_trace(statement: &Statement) -> bool {
    use Statement::*;
    match statement {
        TransactionControl | Savepoint | Rollback | SetTransaction | Impersonate(..) => true,
        Plain(Utility::T_VariableShowStmt, _) => true,
        Set(name) => presented::is_name_option(name),
        _ => false,
    }
}

/// Whether a function of this name may work as an operator: none that has been reviewed for its effects does.
fn may_be_operator(function: &str) -> bool {
    let acts = ["set_config", "currval", "lastval", "nextval", "setval", "loread", "lowrite"].contains(&function)
        || ["lo_", "pg_"].iter().any(|prefix| function.starts_with(prefix));
    !acts && !is_refused_without_token(function, false)
}

/// Whether a parameter says who the session is.
pub fn is_identity_parameter(name: &str) -> bool {
    ["role", "session_authorization"].iter().any(|p| name.eq_ignore_ascii_case(p))
}

/// Whether a parameter says that, or what this extension does.
pub fn is_of_identity(name: &str) -> bool {
    is_identity_parameter(name) || is_ours(name)
}

/// Whether a parameter is this extension's.
pub fn is_ours(name: &str) -> bool {
    begins(name, "bodata.") || begins(name, "immuta.")
}

/// Whether somebody may have meant one of this extension's parameters by this name.
pub fn resembles_ours(name: &str) -> bool {
    is_ours(name) || name.to_ascii_lowercase().contains("impersonat")
}

fn begins(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Whether `name` is in the list; an entry that ends in `*` stands for every name that begins so. Without a dot it does
/// not stand for names that have one: PostgreSQL's own settings have none, those of modules and applications do.
pub fn is_session_setting(name: &str, list: &[String]) -> bool {
    list.iter().any(|entry| match entry.strip_suffix('*') {
        Some(prefix) => begins(name, prefix) && (prefix.contains('.') || !name.contains('.')),
        None => name.eq_ignore_ascii_case(entry),
    })
}

/// What no list can leave to a session without a token: who it is and how names are looked up. The application may set
/// the latter all the same, but not in every way (see [`connecting`]).
const NEVER_LISTED: [&str; 5] = ["role", "session_authorization", SEARCH_PATH, TOKEN_PARAMETER, "row_security"];

/// Why a list of session settings is unacceptable.
pub fn session_settings_fault(list: &[String]) -> Option<String> {
    list.iter().find_map(|entry| {
        let hit = NEVER_LISTED
            .iter()
            .chain(&NAME_PARAMETERS)
            .find(|never| is_session_setting(never, std::slice::from_ref(entry)))?;
        Some(match *hit {
            SEARCH_PATH => {
                format!("\"{hit}\" need not be listed: it can be SET until the session has its first user")
            }
            _ => format!("\"{hit}\" cannot be left to sessions without a token"),
        })
    })
}

/// Whether a list of session settings may name this parameter.
fn may_be_listed(name: &str) -> bool {
    !is_ours(name) && !NEVER_LISTED.iter().any(|never| name.eq_ignore_ascii_case(never))
}

/// Whether a built-in function is refused without a token: it acts past the executor's permission checks, shows what
/// others do, or outlives the statement. Volatile ones are allowed by name, the others refused by name.
pub fn is_refused_without_token(function: &str, is_volatile: bool) -> bool {
    if is_volatile { !is_harmless(function) } else { shows_others(function) }
}

/// Volatile functions that read the clock, the state of the server or the size of a relation, draw a number, set what
/// is undone, or take a lock that ends with the transaction. Releasing locks of the session is what poolers do to be
/// sure: without a token there are none.
const HARMLESS: [&str; 59] = [
    "array_sample",
    "array_shuffle",
    "clock_timestamp",
    "current_query",
    "gen_random_uuid",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_blocking_pids",
    "pg_collation_actual_version",
    "pg_current_wal_flush_lsn",
    "pg_current_wal_insert_lsn",
    "pg_current_wal_lsn",
    "pg_database_collation_actual_version",
    "pg_database_size",
    "pg_get_wait_events",
    "pg_get_wal_replay_pause_state",
    "pg_indexes_size",
    "pg_is_in_backup",
    "pg_is_in_recovery",
    "pg_is_wal_replay_paused",
    "pg_jit_available",
    "pg_last_committed_xact",
    "pg_last_wal_receive_lsn",
    "pg_last_wal_replay_lsn",
    "pg_last_xact_replay_timestamp",
    "pg_lock_status",
    "pg_notification_queue_usage",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_prepared_xact",
    "pg_relation_size",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_stat_clear_snapshot",
    "pg_stat_get_io",
    "pg_stat_get_lock",
    "pg_stat_get_recovery_prefetch",
    "pg_stat_have_stats",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
    "pg_xact_commit_timestamp",
    "pg_xact_commit_timestamp_origin",
    "pg_xact_status",
    "random",
    "random_normal",
    "set_config",
    "setseed",
    "timeofday",
    "timezone",
    "txid_status",
    "uuidv4",
    "uuidv7",
];

fn is_harmless(function: &str) -> bool {
    HARMLESS.binary_search(&function).is_ok() || function.starts_with("pg_stat_get_xact_")
}

/// Functions that are not volatile and show a row by its place, or statements and sessions of others.
fn shows_others(function: &str) -> bool {
    const NAMES: [&str; 5] = ["currtid", "currtid2", "pg_cursor", "pg_prepared_statement", "pg_stat_get_activity"];
    const PREFIXES: [&str; 2] = ["lo_", "pg_stat_get_backend_"];
    NAMES.contains(&function) || PREFIXES.iter().any(|prefix| function.starts_with(prefix))
}

/// `pg_stat_get_activity`, which shows statements of other sessions; system views show parts of what it tells.
pub const ACTIVITY_FUNCTION: u32 = 2022;

/// System views that show of that function only how connections are encrypted: clients ask about their own.
pub fn shows_encryption_only(system_relation: &str) -> bool {
    ["pg_stat_ssl", "pg_stat_gssapi"].contains(&system_relation)
}

/// Why a built-in function is refused under a token, if it is. Object ids are fixed for built-in functions.
pub fn function_refused_while_impersonating(function: u32) -> Option<&'static str> {
    match function {
        // pg_advisory_lock to pg_advisory_unlock_all: releasing all at the end would release the application's own.
        2880..=2892 => Some("session-level advisory locks would outlive the transaction"),
        // pg_prepared_statement and pg_cursor show the texts of other users' statements, tokens included.
        2510 | 2511 => Some("the statements of this connection may be other users'"),
        _ => None,
    }
}

/// Why a function in C is refused under a token, if it is, by the name of its code: functions are known by it whatever
/// they are called.
pub fn code_refused_while_impersonating(symbol: &[u8]) -> Option<&'static str> {
    (symbol == b"dblink_connect").then_some("a connection of dblink would outlive the transaction")
}

/// The first object id that is not PostgreSQL's own.
pub const FIRST_NORMAL_OBJECT_ID: u32 = 16384;

/// Functions that may change a setting or seed `random()`, by object id: `setseed`, `set_config`, and whatever is not built
/// in (it may have a SET clause).
pub fn may_set(function: u32) -> bool {
    matches!(function, 1599 | 2078) || function >= FIRST_NORMAL_OBJECT_ID
}

/// System relations that show values of user tables to whoever may read the table, PUBLIC included; or the passwords
/// with which the login itself goes to other servers.
pub fn shows_user_data(system_relation: &str) -> bool {
    ["pg_stats", "pg_stats_ext", "pg_stats_ext_exprs", "pg_user_mappings", "user_mapping_options"]
        .contains(&system_relation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_functions_are_in_order() {
        assert!(HARMLESS.is_sorted());
    }

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    fn set(name: &str) -> Statement {
        Statement::Set(name.into())
    }

    fn fresh() -> Settable {
        Settable { session: names(&["datestyle", "timezone", "default_transaction_*"]), shared: None }
    }

    fn plain(kind: Utility) -> Statement {
        Statement::Plain(kind, None)
    }

    #[test]
    fn without_a_token_everything_but_housekeeping_is_refused() {
        use Statement::*;
        for fine in [
            TransactionControl,
            Rollback,
            SetTransaction,
            ResetAll,
            plain(Utility::T_VariableShowStmt),
            DiscardAll,
            Discard,
            plain(Utility::T_DeallocateStmt),
            plain(Utility::T_ClosePortalStmt),
            plain(Utility::T_UnlistenStmt),
            ExplainQuery,
            Impersonate(Kind::Name, How::Session),
            Impersonate(Kind::Name, How::Call),
        ] {
            assert_eq!(without_token(&fine, false, fresh), Ok(Verdict::Runs), "{fine:?}");
        }
        for fine in [set("DateStyle"), set("default_transaction_read_only"), set("immuta.impersonation_iamid")] {
            assert_eq!(without_token(&fine, false, fresh), Ok(Verdict::Runs), "{fine:?}");
        }
        let plain_ones = Utility::ALL
            .iter()
            .filter(|kind| kind.allowance(Situation::WithoutToken) != Allowance::Allowed)
            .map(|&kind| plain(kind));
        let others = [
            TwoPhase,
            HeldCursor,
            Do,
            CallOther,
            Call(1),
            Unknown,
            set("role"),
            set("row_security"),
            set("bodata.require_token"),
        ];
        for refused in plain_ones.chain(others) {
            assert_eq!(without_token(&refused, true, fresh), Err(Reason::TokenRequired), "{refused:?}");
        }
        for name in ["work_mem", "myapp.tenant"] {
            assert_eq!(without_token(&set(name), true, fresh), Err(Reason::Unlisted(name.into())));
        }
    }

    #[test]
    fn after_its_first_user_a_session_may_set_less() {
        let used = || Settable { shared: Some(names(&["time*"])), ..fresh() };
        let misleading = Statement::SetMisleading("timezone".into());
        let between = |name: &str| Reason::BetweenUsers(name.into());
        assert_eq!(without_token(&misleading, true, fresh), Ok(Verdict::Runs));
        assert_eq!(without_token(&set("TimeZone"), true, used), Ok(Verdict::Runs));
        let isolation = "default_transaction_isolation";
        assert_eq!(without_token(&set(isolation), true, used), Err(between(isolation)));
        for name in ["DateStyle", "default_transaction_read_only"] {
            let tried = Verdict::RunsIfUnchanged(Otherwise::Refused(between(name)));
            assert_eq!(without_token(&set(name), true, used), Ok(tried));
            assert_eq!(without_token(&set(name), false, used), Err(between(name)));
        }
        assert_eq!(without_token(&misleading, true, used), Err(between("timezone")));
        assert_eq!(without_token(&set("role"), true, used), Err(Reason::TokenRequired));
        let impersonate = Statement::Impersonate(Kind::Token, How::Local);
        assert_eq!(without_token(&impersonate, true, used), Ok(Verdict::Runs));
    }

    #[test]
    fn what_applications_set_when_they_connect() {
        let used =
            |shared: &[&str]| Settable { session: names(&["client_min_messages"]), shared: Some(names(shared)) };
        for name in ["search_path", "Client_Min_Messages", "synchronous_commit"] {
            assert_eq!(without_token(&set(name), true, fresh), Ok(Verdict::Runs), "{name}");
            assert!(without_token(&set(name), false, fresh).is_err(), "{name}");
        }
        for name in ["search_path", "synchronous_commit"] {
            let verdict = without_token(&set(name), true, || used(&["*"]));
            assert!(matches!(verdict, Ok(Verdict::RunsIfUnchanged(Otherwise::Ignored(_)))), "{name}");
            assert!(without_token(&set(name), false, || used(&["*"])).is_err(), "{name}");
        }
        let listed = set("client_min_messages");
        assert_eq!(without_token(&listed, true, || used(&["*"])), Ok(Verdict::Runs));
    }

    #[test]
    fn under_a_token_identity_and_residue_are_refused() {
        use Statement::*;
        for of_session in [false, true] {
            let verdict = |statement: &Statement| while_impersonating(statement, of_session);
            for fine in [
                TransactionControl,
                Rollback,
                SetTransaction,
                ResetAll,
                set("search_path"),
                plain(Utility::T_VariableShowStmt),
                plain(Utility::T_DeclareCursorStmt),
                ExplainQuery,
                CallOther,
                Do,
                CreateOperator("int4eq".into()),
                plain(Utility::T_CreateStmt),
                Plain(Utility::T_GrantStmt, Some(ObjectType::OBJECT_TABLE)),
            ] {
                assert_eq!(verdict(&fine), Ok(()), "{fine:?}");
            }
            for refused in [
                plain(Utility::T_ListenStmt),
                plain(Utility::T_PrepareStmt),
                plain(Utility::T_ExecuteStmt),
                plain(Utility::T_AlterRoleStmt),
                HeldCursor,
                CreateOperator("set_config".into()),
                Discard,
                DiscardAll,
                set("Role"),
                Reset("role".into()),
                Reset("session_authorization".into()),
                Impersonate(Kind::Token, How::Local),
                Impersonate(Kind::Name, How::Reset),
                Impersonate(Kind::Name, How::Call),
                Plain(Utility::T_GrantStmt, Some(ObjectType::OBJECT_DATABASE)),
                Plain(Utility::T_CommentStmt, Some(ObjectType::OBJECT_ROLE)),
                Unknown,
            ] {
                assert!(matches!(verdict(&refused), Err(Reason::WhileImpersonating(_))), "{refused:?}");
            }
            assert!(matches!(verdict(&TwoPhase), Err(Reason::NotSupported(_))));
        }
    }

    #[test]
    fn patterns_match_prefixes_without_regard_to_case() {
        let list = names(&["default_transaction_*", "timezone"]);
        assert!(is_session_setting("Default_Transaction_isolation", &list));
        assert!(is_session_setting("TimeZone", &list));
        assert!(!is_session_setting("default_t", &list));
        assert!(!is_session_setting("default_transaction_my.own", &list));
        assert!(
            is_session_setting("my.own", &names(&["my.*"])) && !is_session_setting("my.own", &names(&["my*"]))
        );
        assert!(!is_session_setting("timezone2", &list));
        assert!(!is_session_setting("dé", &names(&["d\u{e9}x*"])));
    }

    #[test]
    fn a_list_that_would_undo_the_guard_is_refused() {
        assert_eq!(session_settings_fault(&names(&["datestyle", "myapp.*"])), None);
        for bad in ["role", "*", "ses*", "Search_Path", "bodata.*", "row_security", "immuta.*"] {
            assert!(session_settings_fault(&names(&[bad])).is_some(), "{bad}");
        }
    }

    #[test]
    fn functions_past_the_executor_are_refused() {
        for volatile in ["lo_get", "nextval", "pg_advisory_lock", "pg_try_advisory_lock", "not_known_yet", "lower"]
        {
            assert!(is_refused_without_token(volatile, true), "{volatile}");
        }
        for stable in ["pg_stat_get_activity", "pg_stat_get_backend_activity", "pg_cursor"] {
            assert!(is_refused_without_token(stable, false), "{stable}");
        }
        for fine in
            ["pg_advisory_unlock_all", "set_config", "pg_try_advisory_xact_lock", "pg_stat_get_xact_numscans"]
        {
            assert!(!is_refused_without_token(fine, true), "{fine}");
        }
        for fine in ["version", "lower", "log"] {
            assert!(!is_refused_without_token(fine, false), "{fine}");
        }
    }
}
