//! Every error of ours: SQLSTATE, a one-line message, the code in DETAIL, the next step in HINT.
//!
//! Nothing here tells an unknown token from an expired or revoked one.

use crate::core::guard;
use crate::core::provider::jwt::fault::Fault as TokenFault;
use crate::core::provider::outage::Outage;
use crate::core::provider::refusals::Refusal;
use crate::core::rights::decision::Denial;
use crate::pg::catalog::Fault;
use crate::pg::sys::report::Report;
use pgrx::PgSqlErrorCode;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The token is malformed, unknown, expired or revoked, or its user is disabled.
    TokenInvalid,
    /// The session user is no member of `bodata_impersonate_user`.
    NotHolder,
    /// The session user is no member of `immuta_impersonation`.
    NotNameHolder,
    /// What was named can be no user.
    NameInvalid,
    /// The user who was named is disabled.
    UserDisabled,
    /// The user has another role now, or the token another user, than when the session began to impersonate.
    Remapped,
    /// The session has not used its impersonation by name for too long.
    IdleTooLong,
    /// A token and a name at once, or two names.
    Together,
    /// The impersonation of the session was to end in the middle of a transaction.
    MidTransaction,
    /// The provider says that the token's user may not use it.
    UserNotAllowed,
    /// No identity manager is mapped to the issuer of the token.
    UnknownIssuer,
    /// The token is valid, but does not suffice; why.
    TokenInsufficient(TokenFault),
    /// The impersonation rules do not allow this login to impersonate this user from here.
    RuleDenies,
    /// The session is for one user, and has impersonated another.
    AnotherUser,
    /// The provider cannot be asked about the token; why.
    ProviderUnavailable(Outage),
    /// The mapped role has privileges that must not be reached by impersonation; why.
    TargetRefused(String),
    /// The user has no mapped role, or the role does not exist.
    NotMapped,
    /// The provider names another role than that with which the user counts in the current project.
    OtherRoleInProject,
    /// A subscription of the user has ended and is not revoked yet.
    SubscriptionEnded,
    /// The token came with SET instead of SET LOCAL.
    NotLocal,
    /// The token came inside a savepoint.
    InSubtransaction,
    /// The token came by a route that no statement follows: a function call message, a procedure that committed.
    OutOfStatement,
    /// The statement that presented a user set the role, too.
    IdentityAlong,
    /// Something that cannot be combined with impersonation.
    NotSupported(&'static str),
    /// The database has no `immuta_ext`.
    NoExtension,
    /// What the database has of it does not fit this library.
    Incomplete(Fault),
    /// The token stood alone in an autocommit transaction.
    Alone,
    /// There is no such parameter, though its name looks like one of ours.
    NoSuchSetting(String),
    /// A session that may present tokens did something that needs one first.
    TokenRequired(String),
    /// Likewise, and the parameter of this name could be set without one if it were in `bodata.session_settings`.
    SettingUnlisted(String),
    /// The parameter of this name is in that list, but not in `bodata.shared_settings`.
    SettingNotShared(String),
    /// The parameter of this name came with the connection, and is not the login's to set.
    SettingOfConnection(String),
    /// Refused while impersonating; what.
    WhileImpersonating(String),
    /// The library was not preloaded.
    NotPreloaded,
    /// The login has a cursor open that outlives transactions.
    CursorHeld,
    /// A record that must be written cannot be.
    AuditUnavailable,
    /// A switch that did not arrive where it should: fail closed.
    Inconsistent,
}

impl Error {
    pub fn sqlstate(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode::*;
        match self {
            Error::TokenInvalid | Error::IdleTooLong => ERRCODE_INVALID_AUTHORIZATION_SPECIFICATION,
            Error::NameInvalid => ERRCODE_INVALID_PARAMETER_VALUE,
            Error::NotHolder
            | Error::NotNameHolder
            | Error::UserDisabled
            | Error::Remapped
            | Error::UserNotAllowed
            | Error::UnknownIssuer
            | Error::TokenInsufficient(_)
            | Error::RuleDenies
            | Error::AnotherUser
            | Error::TargetRefused(_)
            | Error::OtherRoleInProject
            | Error::TokenRequired(_)
            | Error::SettingUnlisted(_)
            | Error::SettingNotShared(_)
            | Error::SettingOfConnection(_)
            | Error::WhileImpersonating(_)
            | Error::Inconsistent => ERRCODE_INSUFFICIENT_PRIVILEGE,
            Error::NotMapped | Error::NoSuchSetting(_) => ERRCODE_UNDEFINED_OBJECT,
            Error::ProviderUnavailable(_) | Error::AuditUnavailable => ERRCODE_IO_ERROR,
            Error::NotLocal
            | Error::InSubtransaction
            | Error::OutOfStatement
            | Error::IdentityAlong
            | Error::NotSupported(_)
            | Error::Together
            | Error::CursorHeld
            | Error::MidTransaction => ERRCODE_INVALID_TRANSACTION_STATE,
            Error::Alone => ERRCODE_NO_ACTIVE_SQL_TRANSACTION,
            Error::NoExtension | Error::Incomplete(_) | Error::NotPreloaded | Error::SubscriptionEnded => {
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
        }
    }

    /// The code that applications may match on.
    pub fn detail(&self) -> &'static str {
        match self {
            Error::TokenInvalid | Error::IdleTooLong => "IMPERSONATION_TOKEN_INVALID",
            Error::NotHolder
            | Error::NotNameHolder
            | Error::UserDisabled
            | Error::Remapped
            | Error::UserNotAllowed
            | Error::UnknownIssuer
            | Error::TokenInsufficient(_)
            | Error::RuleDenies
            | Error::AnotherUser
            | Error::TargetRefused(_)
            | Error::OtherRoleInProject
            | Error::SubscriptionEnded
            | Error::SettingOfConnection(_)
            | Error::Inconsistent => "IMPERSONATION_NOT_ALLOWED",
            Error::ProviderUnavailable(_) => "IMPERSONATION_PROVIDER_UNAVAILABLE",
            Error::AuditUnavailable => "IMPERSONATION_AUDIT_UNAVAILABLE",
            Error::NotMapped => "IMPERSONATION_NOT_MAPPED",
            Error::NotLocal
            | Error::InSubtransaction
            | Error::OutOfStatement
            | Error::IdentityAlong
            | Error::NotSupported(_)
            | Error::NameInvalid
            | Error::Together
            | Error::CursorHeld
            | Error::MidTransaction
            | Error::NoExtension
            | Error::Incomplete(_)
            | Error::Alone
            | Error::NoSuchSetting(_)
            | Error::NotPreloaded => "IMPERSONATION_NOT_SUPPORTED",
            Error::TokenRequired(_) | Error::SettingUnlisted(_) | Error::SettingNotShared(_) => {
                "IMPERSONATION_REQUIRED"
            }
            Error::WhileImpersonating(_) => "IMPERSONATION_ACTIVE",
        }
    }

    pub fn message(&self) -> String {
        match self {
            Error::TokenInvalid => "impersonation token is not valid".into(),
            Error::NotHolder => "this login may not impersonate".into(),
            Error::NotNameHolder => "this login may not impersonate by name".into(),
            Error::NameInvalid => "a user id has 1 to 255 bytes, without control characters".into(),
            Error::UserDisabled => "the user is disabled".into(),
            Error::Remapped => "the user that this session impersonates has another role now".into(),
            Error::IdleTooLong => "the impersonation of this session was not used for too long".into(),
            Error::Together => "a user is presented by one token or by one name, not by two".into(),
            Error::MidTransaction => {
                "the user of the session can only be changed at the start of a transaction".into()
            }
            Error::UserNotAllowed => "the token provider does not allow this user".into(),
            Error::UnknownIssuer => "tokens of this issuer are not accepted".into(),
            Error::TokenInsufficient(fault) => format!("the token is valid, but {}", fault.why()),
            Error::RuleDenies => "the impersonation rules do not allow this login to impersonate this user".into(),
            Error::AnotherUser => "this session is for the user that it has impersonated before".into(),
            Error::ProviderUnavailable(outage) => {
                format!("the impersonation token could not be checked: {}", outage.why())
            }
            Error::TargetRefused(why) => format!("the mapped role may not be impersonated: {why}"),
            Error::NotMapped => "the user has no PostgreSQL role".into(),
            Error::OtherRoleInProject => {
                "the user's project does not know the role that the token provider names".into()
            }
            Error::SubscriptionEnded => {
                "a subscription of this user has ended and could not be revoked yet".into()
            }
            Error::NotLocal => "a user to impersonate must be set with SET LOCAL".into(),
            Error::InSubtransaction => "a user to impersonate cannot be set inside a savepoint".into(),
            Error::OutOfStatement => "a user to impersonate cannot be set this way".into(),
            Error::IdentityAlong => {
                "the role or session authorization cannot be set with a user to impersonate".into()
            }
            Error::NotSupported(what) => format!("{what} is not possible while impersonating"),
            Error::NoExtension => "impersonation is not available in this database".into(),
            Error::Incomplete(Fault::Missing(name)) => {
                format!("immuta_ext is incomplete in this database: \"{name}\" is missing")
            }
            Error::Incomplete(Fault::Older) => "immuta_ext in this database is older than its library".into(),
            Error::Incomplete(Fault::Newer) => {
                "immuta_ext in this database is newer than the library of this session".into()
            }
            Error::Alone => "a user to impersonate has no effect in a transaction of its own".into(),
            Error::NoSuchSetting(name) => format!("there is no setting \"{name}\""),
            Error::TokenRequired(what) => format!("{what} requires an impersonation token"),
            Error::SettingUnlisted(name) => format!("setting \"{name}\" requires an impersonation token"),
            Error::SettingNotShared(name) => {
                format!(
                    "changing \"{name}\" in a session that may have had a user requires an impersonation token"
                )
            }
            Error::SettingOfConnection(name) => format!("permission denied to set parameter \"{name}\""),
            Error::WhileImpersonating(what) => format!("not allowed while impersonating: {what}"),
            Error::NotPreloaded => "immuta_ext is not preloaded in this session".into(),
            Error::CursorHeld => "a cursor WITH HOLD is open in this session".into(),
            Error::AuditUnavailable => "the audit record of an impersonated statement could not be written".into(),
            Error::Inconsistent => "the impersonated role is not in effect".into(),
        }
    }

    pub fn hint(&self) -> &'static str {
        match self {
            Error::TokenInvalid => {
                "Authenticate the user again and retry the transaction with a fresh token: the token alone, without \"Bearer\"."
            }
            Error::NotHolder => "An administrator can GRANT bodata_impersonate_user TO this login.",
            Error::NotNameHolder => "An administrator can GRANT immuta_impersonation TO this login.",
            Error::NameInvalid => "See immuta.impersonation_userid_template.",
            Error::UserDisabled => {
                "An administrator can enable the user with immuta.disable_user(..., disabled => false)."
            }
            Error::Remapped | Error::IdleTooLong => "Set the user again, or RESET.",
            Error::Together => "RESET one of them first.",
            Error::MidTransaction => "COMMIT or ROLLBACK first.",
            Error::UserNotAllowed => "Ask the administrator of the token provider.",
            Error::UnknownIssuer => "An administrator can accept the issuer with immuta.map_issuer().",
            Error::TokenInsufficient(fault) => fault.hint(),
            Error::RuleDenies => "An administrator can see the rules with immuta.impersonation_rules().",
            Error::AnotherUser => "Connect again for another user; see bodata.single_impersonation_user.",
            Error::ProviderUnavailable(Outage::NotConfigured(_) | Outage::PlainHttp(_) | Outage::File(..)) => {
                "An administrator sets it; see docs/providers.md and immuta.doctor()."
            }
            Error::ProviderUnavailable(_) => "Retry the transaction; tell the administrator if it happens again.",
            Error::TargetRefused(_) => "Map the user to a role that only has privileges on data.",
            Error::NotMapped => {
                "Map the user with immuta.map_user(), or make the role of that name a member of immuta_mappable."
            }
            Error::OtherRoleInProject => {
                "Map the user to a role with immuta.map_user(), or end the project for them: \
                 immuta.set_current_project(NULL, userid)."
            }
            Error::SubscriptionEnded => "Retry the transaction; tell the administrator if it happens again.",
            Error::NotLocal => {
                "Use BEGIN; SET LOCAL ...; or set_config(..., true); see bodata.allow_session_impersonation."
            }
            Error::InSubtransaction => {
                "Do it before any SAVEPOINT, which drivers set by options: autosave (pgjdbc), ON_ERROR_ROLLBACK (psql), \
                 Protocol (psqlODBC)."
            }
            Error::OutOfStatement => "Use SET LOCAL or SELECT set_config() as a statement of its own.",
            Error::IdentityAlong => "Leave it out: the role is the one that the user is mapped to.",
            Error::NotSupported(_) => "Do this in a transaction without an impersonation token.",
            Error::NoExtension => "Connect to the database in which CREATE EXTENSION immuta_ext was run.",
            Error::Incomplete(Fault::Newer) => {
                "Connect again; if shared_preload_libraries loads the library, an administrator has to restart the server first."
            }
            Error::Incomplete(_) => {
                "An administrator can ALTER EXTENSION immuta_ext UPDATE, or put back what is missing; see immuta.doctor()."
            }
            Error::Alone => "Send BEGIN first, then the token or name, the queries and COMMIT.",
            Error::NoSuchSetting(_) => {
                "A token is set as bodata.impersonation_token, a name as immuta.immuta_user; docs/reference.md lists them all."
            }
            Error::TokenRequired(_) => {
                "Start the transaction with BEGIN; SET LOCAL bodata.impersonation_token = '...'; or its user's name."
            }
            Error::SettingUnlisted(_) => {
                "Set it after the token, in the options of the connection or with ALTER ROLE ... SET, or add it to \
                 bodata.session_settings (to bodata.shared_settings, too, if it is to be set between two users)."
            }
            Error::SettingNotShared(_) => {
                "Set it after the token, in the options of the connection or with ALTER ROLE ... SET, or add it to \
                 bodata.shared_settings if a user may set it for the next one."
            }
            Error::SettingOfConnection(_) => {
                "Leave it out of the options of the connection: administrators set it."
            }
            Error::WhileImpersonating(_) => {
                "End the transaction first or, where the session impersonates, RESET immuta.immuta_user."
            }
            Error::NotPreloaded => {
                "Add immuta_ext to shared_preload_libraries, or to session_preload_libraries of this database \
                 (ALTER DATABASE ... SET), and connect again."
            }
            Error::CursorHeld => "CLOSE it before a user is impersonated.",
            Error::AuditUnavailable => {
                "The administrator finds the cause in the server log; see bodata.audit_required."
            }
            Error::Inconsistent => "Roll back and retry; tell the administrator if it happens again.",
        }
    }
}

impl From<guard::Reason> for Error {
    fn from(refusal: guard::Reason) -> Error {
        match refusal {
            guard::Reason::TokenRequired => Error::TokenRequired("this statement".into()),
            guard::Reason::Unlisted(name) => Error::SettingUnlisted(name),
            guard::Reason::BetweenUsers(name) => Error::SettingNotShared(name),
            guard::Reason::WhileImpersonating(what) => Error::WhileImpersonating(what.into()),
            guard::Reason::NotSupported(what) => Error::NotSupported(what),
        }
    }
}

impl From<Denial> for Error {
    fn from(denial: Denial) -> Error {
        match denial {
            Denial::Disabled => Error::TokenInvalid,
            Denial::NotMapped => Error::NotMapped,
            Denial::OtherRoleInProject => Error::OtherRoleInProject,
        }
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Error {
        match refusal {
            Refusal::Invalid => Error::TokenInvalid,
            Refusal::NotAllowed => Error::UserNotAllowed,
            Refusal::Insufficient(TokenFault::Issuer) => Error::UnknownIssuer,
            Refusal::Insufficient(fault) => Error::TokenInsufficient(fault),
        }
    }
}

impl From<Error> for Report {
    fn from(error: Error) -> Report {
        Report { sqlstate: error.sqlstate(), message: error.message(), detail: error.detail(), hint: error.hint() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PostgreSQL packs the five characters of an SQLSTATE six bits each (`MAKE_SQLSTATE`).
    fn text(sqlstate: PgSqlErrorCode) -> String {
        let packed = sqlstate as i32;
        (0..5).map(|i| char::from(b'0' + ((packed >> (6 * i)) & 0x3f) as u8)).collect()
    }

    /// Applications match on these: a change here is a change of the contract.
    #[test]
    fn errors_are_as_documented() {
        let all = [
            Error::TokenInvalid,
            Error::NotHolder,
            Error::NotNameHolder,
            Error::NameInvalid,
            Error::UserDisabled,
            Error::Remapped,
            Error::IdleTooLong,
            Error::Together,
            Error::MidTransaction,
            Error::CursorHeld,
            Error::AuditUnavailable,
            Error::UserNotAllowed,
            Error::UnknownIssuer,
            Error::TokenInsufficient(TokenFault::Scope),
            Error::TokenInsufficient(TokenFault::Claims),
            Error::TokenInsufficient(TokenFault::Groups),
            Error::TokenInsufficient(TokenFault::Actor),
            Error::RuleDenies,
            Error::AnotherUser,
            Error::ProviderUnavailable(Outage::Timeout),
            Error::TargetRefused("it is a superuser".into()),
            Error::NotMapped,
            Error::OtherRoleInProject,
            Error::SubscriptionEnded,
            Error::NotLocal,
            Error::InSubtransaction,
            Error::OutOfStatement,
            Error::IdentityAlong,
            Error::NotSupported("two-phase commit"),
            Error::NoExtension,
            Error::Incomplete(Fault::Missing("token")),
            Error::Incomplete(Fault::Older),
            Error::Incomplete(Fault::Newer),
            Error::Alone,
            Error::ProviderUnavailable(Outage::NotConfigured("bodata.api_url")),
            Error::NoSuchSetting("bodata.impersonation_tokn".into()),
            Error::TokenRequired("access to \"t\"".into()),
            Error::SettingUnlisted("work_mem".into()),
            Error::SettingNotShared("lock_timeout".into()),
            Error::SettingOfConnection("bodata.audit_sink".into()),
            Error::WhileImpersonating("PREPARE would outlive the transaction".into()),
            Error::NotPreloaded,
            Error::Inconsistent,
        ];
        let shown: Vec<String> = all
            .iter()
            .map(|error| {
                let (state, message) = (text(error.sqlstate()), error.message());
                format!("{state} {message}\n      DETAIL: {}\n      HINT: {}\n", error.detail(), error.hint())
            })
            .collect();
        assert_eq!(shown.concat(), include_str!("../tests/golden/errors.txt"));
    }
}
