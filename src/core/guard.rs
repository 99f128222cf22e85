//! Which statements a session may run without a token, and which it may not run under one.

use super::presented::{self, Kind, NAME_PARAMETERS, TOKEN_PARAMETER};

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
    /// BEGIN, COMMIT, ROLLBACK, SAVEPOINT …
    TransactionControl,
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
    Show,
    DiscardAll,
    /// DISCARD PLANS, SEQUENCES or TEMP
    Discard,
    Deallocate,
    ClosePortal,
    Unlisten,
    Listen,
    /// EXPLAIN of a query (not of a utility statement)
    ExplainQuery,
    Prepare,
    /// EXECUTE of a statement that was prepared by name, whatever wraps it
    Execute,
    /// ALTER ROLE, and what ALTER ROLE or ALTER DATABASE sets for later sessions
    LoginAttributes,
    /// DECLARE … WITH HOLD
    HeldCursor,
    Load,
    /// CREATE OPERATOR, with the name of its function
    CreateOperator(String),
    /// CALL and DO, which may hold transaction control of their own
    CallOrDo,
    /// CALL of this procedure, if it is not known yet to be ours
    Call(u32),
    Other,
}

/// Why a statement is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It needs an impersonation first.
    TokenRequired,
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

/// What a session that may present tokens can do before it has presented one: nothing that outlives the statement.
/// `settable` is asked for only where it matters.
pub fn without_token(statement: &Statement, settable: impl FnOnce() -> Settable) -> Result<(), Refusal> {
    use Statement::*;
    match statement {
        TransactionControl | Rollback | SetTransaction | Impersonate(..) | Reset(_) | ResetAll | Show
        | DiscardAll | Discard | Deallocate | ClosePortal | Unlisten | ExplainQuery => Ok(()),
        Set(name) if presented::is_name_option(name) => Ok(()),
        Set(name) | SetMisleading(name) => {
            let settable = settable();
            if settable.allows(name, matches!(statement, SetMisleading(_))) {
                Ok(())
            } else if is_session_setting(name, &settable.session) {
                Err(Refusal::BetweenUsers(name.clone()))
            } else {
                Err(Refusal::TokenRequired)
            }
        }
        TwoPhase | Listen | Prepare | Execute | LoginAttributes | HeldCursor | Load | CreateOperator(_)
        | CallOrDo | Call(_) | Other => Err(Refusal::TokenRequired),
    }
}

/// What an impersonated user cannot do: change who he is, or leave something on the connection for the next one.
/// DEALLOCATE is allowed: drivers send it when a savepoint is rolled back, and anybody could send it after COMMIT.
pub fn while_impersonating(statement: &Statement) -> Result<(), Refusal> {
    use Statement::*;
    match statement {
        Set(name) | Reset(name) if is_identity_parameter(name) => {
            Err(Refusal::WhileImpersonating("the role or session authorization cannot be changed"))
        }
        Impersonate(..) => Err(Refusal::WhileImpersonating("the impersonated user cannot be changed")),
        TwoPhase => Err(Refusal::NotSupported("two-phase commit")),
        Prepare => Err(Refusal::WhileImpersonating("PREPARE would outlive the transaction")),
        // Under a token nothing is prepared by name: what there is was prepared for another user, by the driver, say.
        Execute => Err(Refusal::WhileImpersonating("EXECUTE would run a statement of another user")),
        // A password or a setting would outlive the token, and its revocation.
        LoginAttributes => {
            Err(Refusal::WhileImpersonating("attributes of roles and databases would outlive the token"))
        }
        HeldCursor => Err(Refusal::WhileImpersonating("a cursor WITH HOLD would outlive the transaction")),
        Listen | Unlisten => Err(Refusal::WhileImpersonating("LISTEN and UNLISTEN would outlive the transaction")),
        // The planner calls the functions of operators behind every check.
        CreateOperator(function) if function == "set_config" || is_refused_without_token(function) => {
            Err(Refusal::WhileImpersonating("an operator cannot work by this function"))
        }
        Load => Err(Refusal::WhileImpersonating("LOAD would outlive the transaction")),
        DiscardAll | Discard => {
            Err(Refusal::WhileImpersonating("DISCARD would drop what belongs to the application"))
        }
        TransactionControl | Rollback | SetTransaction | Set(_) | SetMisleading(_) | Reset(_) | ResetAll
        | Show | ClosePortal | ExplainQuery | Deallocate | CreateOperator(_) | CallOrDo | Call(_) | Other => {
            Ok(())
        }
    }
}

/// Whether a statement leaves nothing in its transaction that the next user could meet in it.
pub fn leaves_no_trace(statement: &Statement) -> bool {
    use Statement::*;
    match statement {
        TransactionControl | Rollback | SetTransaction | Show | Impersonate(..) => true,
        Set(name) => presented::is_name_option(name),
        _ => false,
    }
}

fn is_identity_parameter(name: &str) -> bool {
    ["role", "session_authorization"].iter().any(|p| name.eq_ignore_ascii_case(p))
}

/// Whether a parameter says who the session is, or what this extension does.
pub fn is_of_identity(name: &str) -> bool {
    is_identity_parameter(name) || is_ours(name)
}

/// Whether a parameter is this extension's.
pub fn is_ours(name: &str) -> bool {
    begins(name, "bodata.") || begins(name, "immuta.")
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

/// Why a list of session settings is unacceptable: a name in it would let a session without a token change who it
/// is, or how names are looked up.
pub fn session_settings_fault(list: &[String]) -> Option<String> {
    const NEVER: [&str; 5] = ["role", "session_authorization", "search_path", TOKEN_PARAMETER, "row_security"];
    list.iter().find_map(|entry| {
        let hit = NEVER
            .iter()
            .chain(&NAME_PARAMETERS)
            .find(|never| is_session_setting(never, std::slice::from_ref(entry)))?;
        Some(format!("\"{hit}\" cannot be left to sessions without a token"))
    })
}

/// Built-in functions (schema pg_catalog) that act past the executor's permission checks, or outlive the statement,
/// and are therefore refused without a token.
pub fn is_refused_without_token(function: &str) -> bool {
    const NAMES: [&str; 18] = [
        "currtid",
        "currtid2",
        "currval",
        "lastval",
        "loread",
        "lowrite",
        "nextval",
        "pg_cancel_backend",
        "pg_cursor",
        "pg_export_snapshot",
        "pg_get_sequence_data",
        "pg_logical_emit_message",
        "pg_notify",
        "pg_prepared_statement",
        "pg_sequence_last_value",
        "pg_stat_get_activity",
        "pg_terminate_backend",
        "setval",
    ];
    const PREFIXES: [&str; 4] = ["lo_", "pg_stat_get_backend_", "pg_restore_", "pg_clear_"];
    NAMES.contains(&function)
        || PREFIXES.iter().any(|prefix| function.starts_with(prefix))
        || takes_session_lock(function)
}

/// Locks that outlive the transaction. Unlocking is fine: without a token there is none, and poolers do it to be sure.
fn takes_session_lock(function: &str) -> bool {
    let function = function.strip_prefix("pg_try_").or_else(|| function.strip_prefix("pg_"));
    function.is_some_and(|rest| rest.starts_with("advisory_lock"))
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

/// Functions that may seed `random()`, by object id: `setseed`, `set_config`, and whatever is not built in (it may have
/// a SET clause).
pub fn may_seed(function: u32) -> bool {
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

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    fn set(name: &str) -> Statement {
        Statement::Set(name.into())
    }

    fn fresh() -> Settable {
        Settable { session: names(&["datestyle", "timezone", "default_transaction_*"]), shared: None }
    }

    #[test]
    fn without_a_token_everything_but_housekeeping_is_refused() {
        use Statement::*;
        for fine in [
            TransactionControl,
            Rollback,
            SetTransaction,
            ResetAll,
            Show,
            DiscardAll,
            Discard,
            Deallocate,
            ClosePortal,
            Unlisten,
            Impersonate(Kind::Name, How::Session),
        ] {
            assert_eq!(without_token(&fine, fresh), Ok(()), "{fine:?}");
        }
        for fine in [set("DateStyle"), set("default_transaction_read_only"), set("immuta.impersonation_iamid")] {
            assert_eq!(without_token(&fine, fresh), Ok(()), "{fine:?}");
        }
        for refused in [
            TwoPhase,
            Listen,
            Prepare,
            Execute,
            LoginAttributes,
            HeldCursor,
            Load,
            CallOrDo,
            Call(1),
            Other,
            set("search_path"),
            set("role"),
        ] {
            assert_eq!(without_token(&refused, fresh), Err(Refusal::TokenRequired), "{refused:?}");
        }
    }

    #[test]
    fn after_its_first_user_a_session_may_set_less() {
        let used = || Settable { shared: Some(names(&["time*"])), ..fresh() };
        let misleading = Statement::SetMisleading("timezone".into());
        assert_eq!(without_token(&misleading, fresh), Ok(()));
        assert_eq!(without_token(&set("TimeZone"), used), Ok(()));
        for name in ["DateStyle", "default_transaction_read_only"] {
            assert_eq!(without_token(&set(name), used), Err(Refusal::BetweenUsers(name.into())));
        }
        assert_eq!(without_token(&misleading, used), Err(Refusal::BetweenUsers("timezone".into())));
        assert_eq!(without_token(&set("role"), used), Err(Refusal::TokenRequired));
        assert_eq!(without_token(&Statement::Impersonate(Kind::Token, How::Local), used), Ok(()));
    }

    #[test]
    fn under_a_token_identity_and_residue_are_refused() {
        use Statement::*;
        for fine in [
            TransactionControl,
            Rollback,
            SetTransaction,
            ResetAll,
            Show,
            ClosePortal,
            ExplainQuery,
            CallOrDo,
            Other,
        ] {
            assert_eq!(while_impersonating(&fine), Ok(()), "{fine:?}");
        }
        assert_eq!(while_impersonating(&set("search_path")), Ok(()));
        for refused in [
            Listen,
            Unlisten,
            Prepare,
            Execute,
            LoginAttributes,
            HeldCursor,
            Load,
            Discard,
            DiscardAll,
            set("Role"),
        ] {
            assert!(matches!(while_impersonating(&refused), Err(Refusal::WhileImpersonating(_))), "{refused:?}");
        }
        for refused in [
            Reset("role".into()),
            Reset("session_authorization".into()),
            Impersonate(Kind::Token, How::Local),
            Impersonate(Kind::Name, How::Reset),
        ] {
            assert!(matches!(while_impersonating(&refused), Err(Refusal::WhileImpersonating(_))), "{refused:?}");
        }
        assert!(matches!(while_impersonating(&TwoPhase), Err(Refusal::NotSupported(_))));
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
    fn functions_past_the_executor_are_known() {
        for refused in [
            "lo_get",
            "nextval",
            "pg_stat_get_activity",
            "pg_stat_get_backend_activity",
            "pg_advisory_lock",
            "pg_try_advisory_lock_shared",
            "pg_try_advisory_lock",
        ] {
            assert!(is_refused_without_token(refused), "{refused}");
        }
        for fine in [
            "pg_advisory_unlock_all",
            "version",
            "set_config",
            "pg_advisory_xact_lock",
            "pg_try_advisory_xact_lock",
            "log",
            "lower",
        ] {
            assert!(!is_refused_without_token(fine), "{fine}");
        }
    }
}
