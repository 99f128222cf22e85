//! What each hook decides. No unsafe code: `crate::pg` asks, and acts on the answer.

mod by_name;
mod guarded;
mod impersonation;
mod session_scope;
mod statement;
mod transaction;

use crate::audit;
use crate::core::cache::Cache;
use crate::core::identity::Identity;
use crate::core::names::LookedUp;
use crate::core::presented::Seen;
use crate::core::refusals::{Refusals, Throttle};
use crate::core::session::Session;
use crate::core::time::Timestamp;
use crate::core::token::Secret;
use crate::error::Error;
use crate::pg::catalog::Installation;
use crate::pg::{catalog, chain, client, dry_run, gate, log, report, role, writer, xact};
use std::cell::{Cell, RefCell};
use std::rc::Rc;

thread_local! {
    static SESSION: RefCell<Session> = const { RefCell::new(Session::new()) };
    /// Whether `random()` may have been seeded in this transaction, which no undoing of settings takes back.
    static SEEDED: Cell<bool> = const { Cell::new(false) };
    /// Whether `application_name` names the user in this transaction.
    static LABELLED: Cell<bool> = const { Cell::new(false) };
    static NAMES: RefCell<LookedUp> = RefCell::default();
    static CACHE: RefCell<Cache> = RefCell::default();
    static REFUSALS: RefCell<Refusals> = RefCell::default();
    static THROTTLE: RefCell<Throttle> = RefCell::default();
    /// The count of changes of the provider for which the cache and the refusals hold.
    static KNOWN_PROVIDER: Cell<u64> = const { Cell::new(0) };
    /// Whom this session has impersonated so far.
    static SEEN_USERS: RefCell<Seen<Rc<Identity>>> = const { RefCell::new(Seen::Nobody) };
    /// Whether this session has impersonated by name, and its login is no superuser.
    static NAMED: Cell<bool> = const { Cell::new(false) };
    /// The user in whose name the connection was made.
    static CONNECTION: RefCell<Option<(Presented, Option<Rc<Secret>>)>> = const { RefCell::new(None) };
    /// When a provider could last not be reached.
    static LAST_OUTAGE: Cell<Option<Timestamp>> = const { Cell::new(None) };
}

use impersonation::Presented;
pub use impersonation::{active, holds, now, provider_fault, resolve_for_check, with_cache};

/// Installs everything. Called once, from `_PG_init`.
pub fn install() {
    catalog::watch();
    log::install(holds_back, audit::failed);
    writer::install(store_audit);
    dry_run::install(crate::api::role_of_user);
    chain::install(chain::Handlers {
        utility: statement::before_utility,
        parsed: statement::parsed,
        looked_up: statement::looked_up,
        plan: statement::before_plan,
        start: statement::before_start,
        prepared: statement::prepared,
        run: statement::before_run,
        done: statement::done,
        end: statement::ended,
        permissions: statement::permissions,
        worker_permissions: statement::worker_permissions,
        function: statement::before_function,
        function_of_system: guarded::check_function_of_system,
        statement_of_system: guarded::refuse_statement_of_system,
        refused: audit::refused,
        begins: statement::begins,
        ran: statement::ran,
        utility_ended: statement::utility_ended,
        changes: audit::changes,
    });
    xact::register(xact::Handlers {
        unknown_user: transaction::unknown_user,
        pre_commit: transaction::pre_commit,
        prepare: transaction::prepare,
        end: transaction::end,
        subtransaction_started: transaction::subtransaction_started,
        subtransaction_committed: transaction::subtransaction_committed,
        subtransaction_aborted: transaction::subtransaction_aborted,
    });
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
    if client::is_served() && !xact::is_in_progress() {
        xact::run_empty();
    }
}

/// Whether this session must present a token before it may do anything: its user is no superuser, may present
/// tokens (or has impersonated by name), and no exception was made for it. Remembered until roles, memberships or our tables change.
fn is_guarded() -> bool {
    if !gate::is_current() {
        // The generation is read first: an invalidation that arrives during the look-ups makes the answer stale.
        let generation = gate::generation();
        let user = role::session_user();
        let holder = (NAMED.get() || may_present(user)) && !role::is_superuser(user);
        gate::remember(generation, user, !holder);
    }
    !gate::is_ordinary() && crate::config::require_token()
}

/// Whether the log gets none of the literals of what this session sends: without a token that can be a secret, and
/// hardly anything else. Looks nothing up, as it is asked in the middle of errors: that is done at the end of the
/// transaction in which PostgreSQL makes the session.
fn holds_back() -> bool {
    gate::may_be_holder() && !gate::is_impersonating()
}

/// What is installed, if the library can work with it.
pub fn installed() -> Result<Installation, Error> {
    catalog::installation().ok_or_else(|| match catalog::presence().and_then(|present| present.fault) {
        Some(fault) => Error::Incomplete(fault),
        None => Error::NoExtension,
    })
}

/// Whether this user is a holder of `bodata_impersonate_user` (superusers are), in a database with the extension.
fn may_present(user: u32) -> bool {
    catalog::presence().is_some_and(|installed| {
        let [holders, ..] = installed.control_roles;
        holders != 0 && role::can_act_as(user, holders)
    })
}
