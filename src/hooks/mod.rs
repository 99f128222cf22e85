//! What each hook decides. No unsafe code: `crate::pg` asks, and acts on the answer.

mod statement;
mod transaction;

use crate::audit;
use crate::core::identity::Identity;
use crate::core::token::Secret;
use crate::error::Error;
use crate::guard::watch::holds_back;
use crate::guard::{names, without_a_token};
use crate::pg::hook::handlers::StatementHandlers;
use crate::pg::hook::{cursor, dry_run, frames, login, xact};
use crate::pg::job::writer;
use crate::pg::sys::{client, report, running};
use crate::pg::{catalog, gate, log, mask, preload};
use crate::provider::jwt;
use crate::rights::mapping;
use crate::session::connection;

/// What a session remembers, for tests to compare.
#[cfg(feature = "inject")]
fn state() -> String {
    use crate::pg::{guc, hook, switch};
    let (user, is_locked) = switch::current_user();
    [
        format!("user {user} {is_locked} {}", switch::session_user()),
        gate::state(),
        hook::depth::state(),
        log::state(),
        guc::state_of_token(),
        guc::state_of_label(),
        guc::names::state(),
        crate::session::state::state(),
        audit::state(),
    ]
    .join("; ")
}

/// Installs everything. Called once, from `_PG_init`.
pub fn install() {
    #[cfg(feature = "inject")]
    crate::pg::sys::inject::install(state);
    catalog::watch();
    mask::watch();
    log::install(holds_back, audit::failed);
    writer::install(store_audit);
    frames::install(StatementHandlers {
        utility: statement::before_utility,
        parsed: statement::parsed,
        looked_up: names::looked_up,
        plan: statement::before_plan,
        start: statement::before_start,
        prepared: statement::prepared,
        run: statement::before_run,
        done: statement::done,
        end: statement::ended,
        permissions: statement::permissions,
        worker_permissions: statement::worker_permissions,
        function: statement::before_function,
        function_of_system: without_a_token::check_function_of_system,
        statement_of_system: without_a_token::refuse_statement_of_system,
        refused: audit::refused,
        begins: statement::begins,
        ran: statement::ran,
        utility_ended: statement::utility_ended,
        extension_changed: statement::extension_changed,
        changes: audit::changes,
    });
    login::install(accepts_login);
    xact::register(xact::TransactionHandlers {
        unknown_user: transaction::unknown_user,
        pre_commit: transaction::pre_commit,
        prepare: transaction::prepare,
        changed: || Ok(audit::access_changed()?),
        changes_end: audit::forget_changes,
        end: transaction::end,
        subtransaction_started: transaction::subtransaction_started,
        subtransaction_committed: transaction::subtransaction_committed,
        subtransaction_aborted: transaction::subtransaction_aborted,
    });
}

/// Somebody logs in with a token. The user is established when the connection is made: only then our tables can be read.
fn accepts_login(login: &login::Login) -> Result<String, String> {
    let token = Secret::of(login.token.as_bytes()).ok_or("its token is too long, or none")?;
    let user = jwt::accept_login(&token, login.issuer, login.scope)?;
    connection::remember_login(token);
    Ok(user)
}

/// What is answered whether or not the hooks are in place. Called once, from `_PG_init`.
pub fn answer() {
    dry_run::install(|userid, iamid| Ok(role_of_dry_run(&Identity::of_bytes(userid, iamid))?));
}

fn role_of_dry_run(identity: &Identity) -> Result<u32, Error> {
    if !preload::is_preloaded() {
        return Err(Error::NotPreloaded);
    }
    let role = mapping::role_of_user(identity)?;
    if gate::is_dry_run() {
        return Err(Error::WhileImpersonating("a dry run is no place for another".into()));
    }
    if cursor::is_any_held() {
        return Err(Error::CursorHeld);
    }
    Ok(role)
}

/// In the background worker: stores audit records that wait. Whether there were any.
fn store_audit() -> bool {
    audit::Store::of(catalog::database()).store_some().unwrap_or_else(|error| {
        report::log(format!("audit records could not be stored: {error}"), "They stay in their queue.");
        false
    })
}

/// Who the session user is, and whoever was presented with the connection, is established when the transaction commits
/// in which PostgreSQL makes it. Before 15 that was over when it loaded this library for the session.
pub fn catch_up() {
    if client::is_served() && !running::is_in_progress() {
        xact::run_empty();
    }
}
