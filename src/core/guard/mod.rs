//! Which statements a session may run without a token, and which it may not run under one.

pub mod connecting;
mod functions;
mod parameters;
mod statement;
pub mod utility;

pub use functions::*;
pub use parameters::*;
pub use statement::{How, Statement};

use crate::core::guard::connecting::Row;
use crate::core::guard::utility::{Allowance, Situation, Utility};
use crate::core::session::presented;

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::guard::utility::ObjectType;
    use crate::core::session::presented::Kind;

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
}
