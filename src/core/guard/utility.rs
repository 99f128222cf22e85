//! The allow lists: what a session may run besides queries, by kind of statement and by type of object.
//!
//! What stands in no row is refused. The names are PostgreSQL's (node tags of `nodes.h`, `ObjectType` of
//! `parsenodes.h`), so that a test can hold the lists against the headers of each major.

/// In what situation a statement arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Situation {
    /// The session may present a token, and has not.
    WithoutToken,
    /// A user is impersonated for the transaction.
    UnderToken,
    /// A user is impersonated for the session.
    UnderTokenOfSession,
}

/// What a row says of a situation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    Allowed,
    /// The kind does not tell: [`crate::core::guard`] looks at the form.
    ByForm,
    Refused,
}

macro_rules! allowance {
    (yes) => {
        Allowance::Allowed
    };
    (form) => {
        Allowance::ByForm
    };
    (no) => {
        Allowance::Refused
    };
}

/// Rows of `tag: without a token, under one, under one of the session, "reason"`. `$each` gets the tags.
macro_rules! statements {
    ($($tag:ident: $without:ident $under:ident $session:ident $reason:literal;)*) => {
        /// A kind of utility statement.
        #[allow(non_camel_case_types, clippy::enum_variant_names)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Utility {
            $(#[doc = $reason] $tag,)*
        }

        impl Utility {
            #[cfg(test)]
            pub const ALL: &[Utility] = &[$(Utility::$tag,)*];

            pub fn allowance(self, situation: Situation) -> Allowance {
                let (without, under, session) = match self {
                    $(Utility::$tag => (allowance!($without), allowance!($under), allowance!($session)),)*
                };
                match situation {
                    Situation::WithoutToken => without,
                    Situation::UnderToken => under,
                    Situation::UnderTokenOfSession => session,
                }
            }

            /// Why it is refused under a token, or may run.
            pub fn reason(self) -> &'static str {
                match self {
                    $(Utility::$tag => $reason,)*
                }
            }
        }

        macro_rules! for_each_statement {
            ($each:ident) => {
                $each! { $($tag)* }
            };
        }
        pub(crate) use for_each_statement;
    };
}

statements! {
    // The transaction, and what is read or ends with it.
    T_TransactionStmt: form form form "two-phase commit would leave the user's transaction to others";
    T_VariableSetStmt: form form form "the parameter decides";
    T_VariableShowStmt: yes yes yes "shows what the session has set";
    T_ConstraintsSetStmt: no yes yes "ends with the transaction";
    T_DeclareCursorStmt: no form form "a cursor WITH HOLD would outlive the transaction";
    T_FetchStmt: no yes yes "cursors of another user do not run";
    T_ClosePortalStmt: yes yes yes "ends what ends with the transaction anyway";
    T_ExplainStmt: form form form "as what it explains";

    // What is kept on the connection.
    T_PrepareStmt: no no no "PREPARE would outlive the transaction";
    T_ExecuteStmt: no no no "EXECUTE would run a statement of another user";
    T_DeallocateStmt: yes yes yes "drivers send it when a savepoint is rolled back, and could send it after COMMIT";
    T_DiscardStmt: yes no form "DISCARD would drop what belongs to the application";
    T_ListenStmt: no no no "LISTEN and UNLISTEN would outlive the transaction";
    T_UnlistenStmt: yes no no "LISTEN and UNLISTEN would outlive the transaction";
    T_NotifyStmt: no yes yes "sent with the commit, to whoever listens";
    T_LoadStmt: no no no "LOAD would outlive the transaction";

    // Data. Permissions of each relation are checked where it is read or written.
    T_CopyStmt: no yes yes "checked as the query it is";
    T_CallStmt: form yes yes "what it runs is checked, and it cannot commit";
    T_DoStmt: no yes yes "what it runs is checked, and it cannot commit";
    T_LockStmt: no yes yes "ends with the transaction; this extension's tables are closed";
    T_TruncateStmt: no yes yes "needs its own privilege; this extension's tables are closed";
    T_RefreshMatViewStmt: no yes yes "runs as the owner of the view";
    T_VacuumStmt: no yes yes "needs its own privilege; this extension's tables are closed";
    T_ClusterStmt: no yes yes "needs its own privilege; this extension's tables are closed";
    T_RepackStmt: no yes yes "needs its own privilege; this extension's tables are closed";
    T_ReindexStmt: no yes yes "needs its own privilege; this extension's tables are closed";
    T_CheckPointStmt: no yes yes "leaves nothing behind";
    T_WaitStmt: no yes yes "waits until what was written has arrived, and reads nothing";

    // Objects of this database. They are the user's own, as they would be a login's.
    T_AlterCollationStmt: no yes yes "changes what the user owns";
    T_AlterDefaultPrivilegesStmt: no yes yes "concerns what the user will own in this database";
    T_AlterDomainStmt: no yes yes "changes what the user owns";
    T_AlterEnumStmt: no yes yes "changes what the user owns";
    T_AlterExtensionContentsStmt: no yes yes "changes what the user owns";
    T_AlterExtensionStmt: no yes yes "changes what the user owns";
    T_AlterFdwStmt: no yes yes "changes what the user owns";
    T_AlterForeignServerStmt: no yes yes "changes what the user owns";
    T_AlterFunctionStmt: no yes yes "changes what the user owns";
    T_AlterObjectDependsStmt: no yes yes "the type of object decides";
    T_AlterObjectSchemaStmt: no yes yes "the type of object decides";
    T_AlterOpFamilyStmt: no yes yes "changes what the user owns";
    T_AlterOperatorStmt: no yes yes "changes what the user owns";
    T_AlterOwnerStmt: no yes yes "the type of object decides";
    T_AlterPolicyStmt: no yes yes "changes what the user owns";
    T_AlterPublicationStmt: no yes yes "changes what the user owns";
    T_AlterSeqStmt: no yes yes "changes what the user owns";
    T_AlterStatsStmt: no yes yes "changes what the user owns";
    T_AlterTSConfigurationStmt: no yes yes "changes what the user owns";
    T_AlterTSDictionaryStmt: no yes yes "changes what the user owns";
    T_AlterTableMoveAllStmt: no yes yes "moves what the user owns in this database";
    T_AlterTableStmt: no yes yes "the type of object decides";
    T_AlterTypeStmt: no yes yes "changes what the user owns";
    T_AlterUserMappingStmt: no yes yes "PostgreSQL checks the server's owner; secrets of the login are out of reach";
    T_CommentStmt: no yes yes "the type of object decides";
    T_CompositeTypeStmt: no yes yes "makes what the user owns";
    T_CreateAmStmt: no yes yes "PostgreSQL leaves it to superusers";
    T_CreateCastStmt: no yes yes "runs as whoever casts, and only under a token";
    T_CreateConversionStmt: no yes yes "its function is PostgreSQL's or a superuser's";
    T_CreateDomainStmt: no yes yes "makes what the user owns";
    T_CreateEnumStmt: no yes yes "makes what the user owns";
    T_CreateExtensionStmt: no yes yes "PostgreSQL checks that the extension is trusted";
    T_CreateFdwStmt: no yes yes "PostgreSQL leaves it to superusers";
    T_CreateForeignServerStmt: no yes yes "needs USAGE of the wrapper";
    T_CreateForeignTableStmt: no yes yes "needs USAGE of the server";
    T_CreateFunctionStmt: no yes yes "makes what the user owns";
    T_CreateOpClassStmt: no yes yes "PostgreSQL leaves it to superusers";
    T_CreateOpFamilyStmt: no yes yes "PostgreSQL leaves it to superusers";
    T_CreatePLangStmt: no yes yes "PostgreSQL leaves it to superusers";
    T_CreatePolicyStmt: no yes yes "changes what the user owns";
    T_CreatePublicationStmt: no yes yes "publishes what the user owns";
    T_CreateRangeStmt: no yes yes "makes what the user owns";
    T_CreateSchemaStmt: no yes yes "needs CREATE on the database; the statements in it are checked one by one";
    T_CreateSeqStmt: no yes yes "makes what the user owns";
    T_CreateStatsStmt: no yes yes "makes what the user owns";
    T_CreateStmt: no yes yes "makes what the user owns";
    T_CreateTableAsStmt: no form form "as what it runs";
    T_CreateTransformStmt: no yes yes "needs the type and the language";
    T_CreateTrigStmt: no yes yes "needs its own privilege";
    T_CreateUserMappingStmt: no yes yes "PostgreSQL checks the server's owner; secrets of the login are out of reach";
    T_DefineStmt: no form form "an operator cannot work by this function";
    T_DropOwnedStmt: no yes yes "drops what the user owns in this database; not in the name of this extension's roles";
    T_DropStmt: no yes yes "the type of object decides";
    T_DropUserMappingStmt: no yes yes "PostgreSQL checks the server's owner";
    T_GrantStmt: no yes yes "the type of object decides";
    T_ImportForeignSchemaStmt: no yes yes "needs USAGE of the server";
    T_IndexStmt: no yes yes "changes what the user owns";
    T_ReassignOwnedStmt: no yes yes "needs the rights of both roles; not those of this extension";
    T_RenameStmt: no yes yes "the type of object decides";
    T_ReplicaIdentityStmt: no yes yes "changes what the user owns";
    T_RuleStmt: no yes yes "changes what the user owns";
    T_SecLabelStmt: no yes yes "the type of object decides";
    T_ViewStmt: no yes yes "makes what the user owns";

    // Roles and logins: a password, a membership or a setting would outlive the token, and its revocation.
    T_AlterDatabaseSetStmt: no no no "attributes of roles and databases would outlive the token";
    T_AlterRoleSetStmt: no no no "attributes of roles and databases would outlive the token";
    T_AlterRoleStmt: no no no "attributes of roles and databases would outlive the token";
    T_CreateRoleStmt: no no no "a role would outlive the token";
    T_DropRoleStmt: no no no "roles belong to all databases";
    T_GrantRoleStmt: no no no "a membership would outlive the token";

    // What belongs to the server, acts later or in every session.
    T_AlterDatabaseRefreshCollStmt: no no no "databases belong to their administrators";
    T_AlterDatabaseStmt: no no no "databases belong to their administrators";
    T_CreatedbStmt: no no no "databases belong to their administrators";
    T_DropdbStmt: no no no "databases belong to their administrators";
    T_AlterTableSpaceOptionsStmt: no no no "tablespaces belong to all databases";
    T_CreateTableSpaceStmt: no no no "tablespaces belong to all databases";
    T_DropTableSpaceStmt: no no no "tablespaces belong to all databases";
    T_AlterSystemStmt: no no no "settings of the server would outlive the token";
    T_AlterSubscriptionStmt: no no no "a subscription of the server would go on without a token";
    T_CreateSubscriptionStmt: no no no "a subscription of the server would go on without a token";
    T_DropSubscriptionStmt: no no no "a subscription of the server would go on without a token";
    T_AlterEventTrigStmt: no no no "an event trigger would run in the sessions of others";
    T_CreateEventTrigStmt: no no no "an event trigger would run in the sessions of others";
}

/// Rows of `type: under a token, "reason"`.
macro_rules! objects {
    ($($name:ident: $under:ident $reason:literal;)*) => {
        /// A type of object that ALTER, DROP, COMMENT, SECURITY LABEL, GRANT and their like name.
        #[allow(non_camel_case_types, clippy::enum_variant_names)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ObjectType {
            $(#[doc = $reason] $name,)*
        }

        impl ObjectType {
            /// Why statements about it are refused under a token; `None` if the kind of statement decides.
            pub fn refusal(self) -> Option<&'static str> {
                let (rule, reason) = match self {
                    $(ObjectType::$name => (allowance!($under), $reason),)*
                };
                (rule != Allowance::Allowed).then_some(reason)
            }
        }

        macro_rules! for_each_object {
            ($each:ident) => {
                $each! { $($name)* }
            };
        }
        pub(crate) use for_each_object;
    };
}

objects! {
    OBJECT_ACCESS_METHOD: yes "of this database";
    OBJECT_AGGREGATE: yes "of this database";
    OBJECT_AMOP: yes "of this database";
    OBJECT_AMPROC: yes "of this database";
    OBJECT_ATTRIBUTE: yes "of this database";
    OBJECT_CAST: yes "of this database";
    OBJECT_COLUMN: yes "of this database";
    OBJECT_COLLATION: yes "of this database";
    OBJECT_CONVERSION: yes "of this database";
    OBJECT_DATABASE: no "databases belong to their administrators";
    OBJECT_DEFAULT: yes "of this database";
    OBJECT_DEFACL: yes "of this database";
    OBJECT_DOMAIN: yes "of this database";
    OBJECT_DOMCONSTRAINT: yes "of this database";
    OBJECT_EVENT_TRIGGER: no "an event trigger would run in the sessions of others";
    OBJECT_EXTENSION: yes "of this database";
    OBJECT_FDW: yes "of this database";
    OBJECT_FOREIGN_SERVER: yes "of this database";
    OBJECT_FOREIGN_TABLE: yes "of this database";
    OBJECT_FUNCTION: yes "of this database";
    OBJECT_INDEX: yes "of this database";
    OBJECT_LANGUAGE: yes "of this database";
    OBJECT_LARGEOBJECT: yes "of this database";
    OBJECT_MATVIEW: yes "of this database";
    OBJECT_OPCLASS: yes "of this database";
    OBJECT_OPERATOR: yes "of this database";
    OBJECT_OPFAMILY: yes "of this database";
    OBJECT_PARAMETER_ACL: no "settings of the server would outlive the token";
    OBJECT_POLICY: yes "of this database";
    OBJECT_PROCEDURE: yes "of this database";
    OBJECT_PUBLICATION: yes "of this database";
    OBJECT_PUBLICATION_EXCLUDED_REL: yes "of this database";
    OBJECT_PUBLICATION_NAMESPACE: yes "of this database";
    OBJECT_PUBLICATION_REL: yes "of this database";
    OBJECT_ROLE: no "roles belong to all databases";
    OBJECT_ROUTINE: yes "of this database";
    OBJECT_RULE: yes "of this database";
    OBJECT_SCHEMA: yes "of this database";
    OBJECT_SEQUENCE: yes "of this database";
    OBJECT_SUBSCRIPTION: no "a subscription of the server would go on without a token";
    OBJECT_STATISTIC_EXT: yes "of this database";
    OBJECT_TABCONSTRAINT: yes "of this database";
    OBJECT_TABLE: yes "of this database";
    OBJECT_TABLESPACE: no "tablespaces belong to all databases";
    OBJECT_TRANSFORM: yes "of this database";
    OBJECT_TRIGGER: yes "of this database";
    OBJECT_TSCONFIGURATION: yes "of this database";
    OBJECT_TSDICTIONARY: yes "of this database";
    OBJECT_TSPARSER: yes "of this database";
    OBJECT_TSTEMPLATE: yes "of this database";
    OBJECT_TYPE: yes "of this database";
    OBJECT_USER_MAPPING: yes "of this database";
    OBJECT_VIEW: yes "of this database";
}

#[cfg(test)]
mod tests {
    use super::*;
    use Situation::*;

    #[test]
    fn without_a_token_only_housekeeping_is_allowed() {
        let allowed: Vec<_> =
            Utility::ALL.iter().filter(|kind| kind.allowance(WithoutToken) == Allowance::Allowed).collect();
        let housekeeping = [
            Utility::T_VariableShowStmt,
            Utility::T_ClosePortalStmt,
            Utility::T_DeallocateStmt,
            Utility::T_DiscardStmt,
            Utility::T_UnlistenStmt,
        ];
        assert_eq!(allowed, housekeeping.iter().collect::<Vec<_>>());
    }

    #[test]
    fn a_token_of_the_session_allows_no_more_than_one_of_the_transaction() {
        for kind in Utility::ALL.iter().filter(|kind| kind.allowance(UnderToken) == Allowance::Refused) {
            assert_ne!(kind.allowance(UnderTokenOfSession), Allowance::Allowed, "{kind:?}");
        }
    }
}
