//! immuta_ext: one service login, every transaction as its end user. Contents:
//!
//! * [`error`] every error, its SQLSTATE, code and hint
//! * [`config`] the settings
//! * [`core`] what can be decided without PostgreSQL
//! * [`files`] files that settings name
//! * [`resolve`] from a token to a user
//! * [`mapping`] from a user to a role
//! * [`hooks`] what each hook decides
//! * [`audit`] both identities on record
//! * [`activity`] recording the use of tokens
//! * [`api`] the functions that `sql/` gives names to
//! * [`pg`] the unsafe layer

mod api;
mod audit;
mod core;
mod error;
mod files;
mod guard;
mod hooks;
mod jobs;
mod pg;
mod provider;
mod rights;
mod session;
mod settings;
#[cfg(any(test, feature = "pg_test"))]
mod tests;
#[cfg(test)]
pub use tests::pg_test;

pgrx::pg_module_magic!(name = c"immuta_ext", version = c"0.1.0");

pgrx::extension_sql_file!("../sql/identity/roles.sql", name = "roles", bootstrap);
pgrx::extension_sql_file!("../sql/operations/home.sql", name = "home", requires = ["roles"]);
pgrx::extension_sql_file!("../sql/identity/tables.sql", name = "tables", requires = ["home"]);
pgrx::extension_sql_file!("../sql/identity/users.sql", name = "users", requires = ["tables"]);
pgrx::extension_sql_file!("../sql/identity/tokens.sql", name = "tokens", requires = ["users"]);
pgrx::extension_sql_file!("../sql/identity/issuers.sql", name = "issuers", requires = ["tokens"]);
pgrx::extension_sql_file!("../sql/identity/logins.sql", name = "logins", requires = ["issuers"]);
pgrx::extension_sql_file!("../sql/impersonation/rules.sql", name = "rules", requires = ["logins"]);
pgrx::extension_sql_file!("../sql/impersonation/session.sql", name = "session", requires = ["rules"]);
pgrx::extension_sql_file!("../sql/impersonation/by_name.sql", name = "by_name", requires = ["session"]);
pgrx::extension_sql_file!("../sql/access/projects.sql", name = "projects", requires = ["by_name"]);
pgrx::extension_sql_file!("../sql/operations/doctor.sql", name = "doctor", requires = ["projects"]);
pgrx::extension_sql_file!("../sql/operations/audit.sql", name = "audit", requires = ["doctor"]);
pgrx::extension_sql_file!("../sql/operations/observability.sql", name = "observability", requires = ["audit"]);
pgrx::extension_sql_file!("../sql/access/tables.sql", name = "connection", requires = ["observability"]);
pgrx::extension_sql_file!("../sql/access/grants.sql", name = "grants", requires = ["connection"]);
pgrx::extension_sql_file!("../sql/access/data_sources.sql", name = "data_sources", requires = ["grants"]);
pgrx::extension_sql_file!("../sql/access/subscriptions.sql", name = "subscriptions", requires = ["data_sources"]);
pgrx::extension_sql_file!("../sql/access/policies.sql", name = "policies", requires = ["subscriptions"]);
pgrx::extension_sql_file!("../sql/access/row_policies.sql", name = "row_policies", requires = ["policies"]);
pgrx::extension_sql_file!("../sql/access/adoption.sql", name = "adoption", requires = ["row_policies"]);
pgrx::extension_sql_file!("../sql/access/sync.sql", name = "sync", requires = ["adoption"]);

/// Called when the library is loaded. Loaded in the middle of a session it does nothing: see [`api`].
#[pgrx::pg_guard]
extern "C-unwind" fn _PG_init() {
    hooks::answer();
    if pg::preload::is_preloading() {
        pg::sys::report::disable_backtraces();
        pg::shared::reserve();
        settings::init();
        hooks::install();
        hooks::catch_up();
    }
}
