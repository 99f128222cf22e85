//! What CREATE EXTENSION runs, in this order: tables, reads, plans, acts, commands, triggers. A function calls only what stands
//! before it or in its own file (`house/test_sql.py`).

pgrx::extension_sql_file!("../sql/identity/roles.sql", name = "roles", bootstrap);
pgrx::extension_sql_file!("../sql/operations/home.sql", name = "home", requires = ["roles"]);
pgrx::extension_sql_file!("../sql/identity/tables.sql", name = "tables", requires = ["home"]);
pgrx::extension_sql_file!("../sql/identity/users.sql", name = "users", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/identity/issuers.sql", name = "issuers", requires = ["users"]);
pgrx::extension_sql_file!("../sql/identity/tokens.sql", name = "tokens", requires = ["issuers"]);
pgrx::extension_sql_file!("../sql/identity/logins.sql", name = "logins", requires = ["tokens"]);
pgrx::extension_sql_file!("../sql/impersonation/rules.sql", name = "rules", requires = ["logins"]);
pgrx::extension_sql_file!("../sql/impersonation/session.sql", name = "session", requires = ["rules"]);
pgrx::extension_sql_file!("../sql/impersonation/by_name.sql", name = "by_name", requires = ["session"]);
pgrx::extension_sql_file!("../sql/operations/audit.sql", name = "audit", requires = ["by_name"]);
pgrx::extension_sql_file!("../sql/operations/observability.sql", name = "observability", requires = ["audit"]);
pgrx::extension_sql_file!("../sql/access/tables.sql", name = "access_tables", requires = ["observability"]);
pgrx::extension_sql_file!(
    "../sql/access/system_account.sql",
    name = "system_account",
    requires = ["access_tables"]
);
pgrx::extension_sql_file!(
    "../sql/access/masking_tables.sql",
    name = "masking_tables",
    requires = ["system_account"]
);
pgrx::extension_sql_file!("../sql/access/masks.sql", name = "masks", requires = ["masking_tables"]);
pgrx::extension_sql_file!("../sql/access/begin_change.sql", name = "begin_change", requires = ["masks"]);
pgrx::extension_sql_file!("../sql/access/relations.sql", name = "relations", requires = ["begin_change"]);
pgrx::extension_sql_file!("../sql/access/guarded.sql", name = "guarded", requires = ["relations"]);
pgrx::extension_sql_file!("../sql/access/equalise.sql", name = "equalise", requires = ["guarded"]);
pgrx::extension_sql_file!("../sql/access/grants.sql", name = "grants", requires = ["equalise"]);
pgrx::extension_sql_file!("../sql/access/user_roles.sql", name = "user_roles", requires = ["grants"]);
pgrx::extension_sql_file!("../sql/access/policy_classes.sql", name = "policy_classes", requires = ["user_roles"]);
pgrx::extension_sql_file!(
    "../sql/access/masking_methods.sql",
    name = "masking_methods",
    requires = ["policy_classes"]
);
pgrx::extension_sql_file!("../sql/access/masking.sql", name = "masking", requires = ["masking_methods"]);
pgrx::extension_sql_file!("../sql/access/settle.sql", name = "settle", requires = ["masking"]);
pgrx::extension_sql_file!("../sql/access/row_security.sql", name = "row_security", requires = ["settle"]);
pgrx::extension_sql_file!("../sql/access/data_sources.sql", name = "data_sources", requires = ["row_security"]);
pgrx::extension_sql_file!("../sql/access/adoption.sql", name = "adoption", requires = ["data_sources"]);
pgrx::extension_sql_file!("../sql/access/catch_up.sql", name = "catch_up", requires = ["adoption"]);
pgrx::extension_sql_file!("../sql/access/registration.sql", name = "registration", requires = ["catch_up"]);
pgrx::extension_sql_file!("../sql/access/subscriptions.sql", name = "subscriptions", requires = ["registration"]);
pgrx::extension_sql_file!("../sql/access/profiles.sql", name = "profiles", requires = ["subscriptions"]);
pgrx::extension_sql_file!("../sql/access/policies.sql", name = "policies", requires = ["profiles"]);
pgrx::extension_sql_file!("../sql/access/row_policies.sql", name = "row_policies", requires = ["policies"]);
pgrx::extension_sql_file!("../sql/access/mask_warnings.sql", name = "mask_warnings", requires = ["row_policies"]);
pgrx::extension_sql_file!(
    "../sql/access/masking_policies.sql",
    name = "masking_policies",
    requires = ["mask_warnings"]
);
pgrx::extension_sql_file!("../sql/access/why.sql", name = "why", requires = ["masking_policies"]);
pgrx::extension_sql_file!("../sql/access/projects.sql", name = "projects", requires = ["why"]);
pgrx::extension_sql_file!("../sql/access/drift.sql", name = "drift", requires = ["projects"]);
pgrx::extension_sql_file!("../sql/access/sync.sql", name = "sync", requires = ["drift"]);
pgrx::extension_sql_file!("../sql/access/doctor.sql", name = "access_doctor", requires = ["sync"]);
pgrx::extension_sql_file!("../sql/operations/doctor.sql", name = "doctor", requires = ["access_doctor"]);
pgrx::extension_sql_file!("../sql/access/user_triggers.sql", name = "user_triggers", requires = ["doctor"]);
pgrx::extension_sql_file!("../sql/access/ddl_triggers.sql", name = "ddl_triggers", requires = ["user_triggers"]);
pgrx::extension_sql_file!("../sql/access/row_triggers.sql", name = "row_triggers", requires = ["ddl_triggers"]);
pgrx::extension_sql_file!("../sql/access/changes.sql", name = "changes", requires = ["row_triggers"]);
pgrx::extension_sql_file!("../sql/closed.sql", name = "closed", requires = ["changes"]);
