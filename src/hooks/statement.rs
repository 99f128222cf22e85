//! The executor, utility and function hooks.

use crate::core::guard::{self, Otherwise, Settable, Statement, Verdict};
use crate::core::session::presented::Seen;
use crate::error::Error;
use crate::guard::names::require_usage;
use crate::guard::watch::is_guarded;
use crate::guard::{under_a_token, without_a_token};
use crate::pg::catalog::{self, Fault};
use crate::pg::hook::depth;
use crate::pg::hook::handled::Handled;
use crate::pg::hook::handlers::{Before, Beginning};
use crate::pg::hook::nodes::{Permission, Permissions, Query};
use crate::pg::hook::references::{Found, References};
use crate::pg::hook::statement::Progress;
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::report::{self, Report};
use crate::pg::sys::running;
use crate::pg::{gate, guc, switch};
use crate::rights::login::may_present;
use crate::session::state::{self, Encryption, OfTransaction, Trial};
use crate::session::{begin, by_name, confirm, lasting};
use crate::{audit, settings};
use std::ffi::CString;

/// Before a utility statement.
pub fn before_utility(statement: &Statement, handled: &Handled, depth: u32) -> Result<Before, Report> {
    forget_planned();
    if *statement == Statement::Rollback {
        // It undoes the parameter, too.
        begin::settle();
    }
    refuse_stray_token(depth)?;
    let statement = &*by_name::recognize(statement);
    if gate::is_impersonating() && !lasting::ended_by(statement, depth)? {
        if guard::leaves_no_trace(statement) {
            lasting::lock();
        } else {
            lasting::resume()?;
        }
        guard::while_impersonating(statement, gate::is_lasting()).map_err(Error::from)?;
        under_a_token::check_handled(handled)?;
        under_a_token::check_owners(handled)?;
        if matches!(statement, Statement::Set(_)) {
            state::with(|state| state.transaction.has_set = true);
        }
        if depth == 0
            && !matches!(statement, Statement::TransactionControl | Statement::Savepoint | Statement::Rollback)
        {
            confirm::confirm()?;
        }
        return Ok(Before {
            as_nested: statement.may_commit(),
            reimposes: matches!(statement, Statement::Reset(_) | Statement::ResetAll),
            ..Before::default()
        });
    }
    if gate::is_dry_run() {
        guard::while_impersonating(statement, false).map_err(Error::from)?;
    }
    if is_guarded() && !without_a_token::has_authority() {
        match guard::without_token(statement, depth == 0, settable)
            .map_err(|refused| refusal(statement, refused))?
        {
            Verdict::Runs => {}
            Verdict::RunsIfUnchanged(otherwise) => return Ok(trial(statement, otherwise)),
        }
        if *statement == Statement::Savepoint && running::nest_level() == 1 {
            state::with(|state| state.impersonations.first_savepoint(guc::new_level));
        }
        if *statement == Statement::ExplainQuery {
            state::with(|state| state.statement.lone = None);
            return Ok(without_a_token::undoing_settings(depth));
        }
    }
    Ok(Before::default())
}

/// Whoever mistypes the parameter that takes the token is told so, and not that the token is missing.
fn refusal(statement: &Statement, refused: guard::Reason) -> Error {
    match statement {
        Statement::Set(name) if guard::resembles_ours(name) && guc::is_unknown(name) => {
            Error::NoSuchSetting(name.clone())
        }
        _ => without_a_token::refusal(refused.into()),
    }
}

/// Before a query is planned. The planner calls functions that no other hook sees, on values it found in statistics.
pub fn before_plan(references: &References, depth: u32) -> Result<Before, Report> {
    if gate::is_impersonating() {
        lasting::resume()?;
        return Ok(Before::default());
    }
    let is_held = is_guarded();
    let is_checked = is_held && !without_a_token::has_authority();
    let found = if is_checked || gate::is_dry_run() { references.collect() } else { Found::default() };
    if gate::is_dry_run() {
        found.types.iter().copied().try_for_each(without_a_token::check_type_of_dry_run)?;
    }
    if !is_held {
        return Ok(Before::default());
    }
    let before = without_a_token::undoing_settings(depth);
    if is_checked {
        let reads_encryption = depth == 0 && without_a_token::reads_encryption_only(&found);
        set_encryption(if reads_encryption { Encryption::Planned } else { Encryption::NotRead });
        found.relations.into_iter().try_for_each(without_a_token::check_relation)?;
        found
            .functions
            .into_iter()
            .filter(|&function| !(reads_encryption && function == guard::ACTIVITY_FUNCTION))
            .try_for_each(|function| without_a_token::check_function(function, true))?;
        found.types.into_iter().try_for_each(without_a_token::check_type)?;
    }
    Ok(Before { without_workers: true, ..before })
}

/// Before a query starts.
pub fn before_start(execution: usize, query: &Query, depth: u32) -> Result<Before, Report> {
    refuse_stray_token(depth)?;
    if gate::is_impersonating() {
        lasting::resume()?;
        if depth == 0 {
            confirm::confirm()?;
        }
        require_usage(query);
    }
    if gate::is_confined() {
        state::with(|state| state.impersonations.begin_execution(execution));
        inject::point(Point::ExecutionBegun);
        // What they read in a worker would be on no record.
        let without_workers = gate::is_audited() && query.may_read_in_workers;
        return Ok(Before { without_workers, ..Before::default() });
    } else if is_guarded() {
        if depth == 0 {
            state::with(|state| state.statement.lone = query.has_one_row.then_some((execution, 0)));
        }
        if !without_a_token::has_authority() {
            // Before PostgreSQL's own check, so that the answer is "a token is required" and not "permission denied".
            without_a_token::check_relations(&query.permissions)?;
            let is_planned = depth == 0 && encryption() == Encryption::Planned;
            let reads = |entry: &Permission| without_a_token::is_of_encryption(entry.relation);
            let reads_encryption = is_planned && query.permissions.required().iter().any(reads);
            set_encryption(if reads_encryption { Encryption::Starting } else { Encryption::NotRead });
        }
        return Ok(Before { without_workers: true, ..without_a_token::undoing_settings(depth) });
    }
    Ok(Before::default())
}

/// After a query was planned or started. What ran so far (a function that could be folded, a domain's check) is no
/// statement that could present a token.
pub fn prepared(before: Before) -> Result<(), Report> {
    if encryption() == Encryption::Starting {
        set_encryption(Encryption::NotRead);
    }
    let presented = gate::has_presented();
    undo_settings(before.settings_level, |transaction| transaction.has_called);
    if presented { Err(Error::OutOfStatement.into()) } else { Ok(()) }
}

/// Before a query runs, for the first time or again.
pub fn before_run(execution: usize, depth: u32) -> Result<Before, Report> {
    lasting::resume()?;
    if gate::is_confined() && !state::with(|state| state.impersonations.has_begun(execution)) {
        return Err(Error::WhileImpersonating(confirm::OPENED_BEFORE.into()).into());
    }
    if gate::is_impersonating() {
        audit::runs(execution);
        if depth == 0 {
            confirm::confirm()?;
        }
        return Ok(Before::default());
    }
    if depth == 0 {
        state::with(|state| state.statement.lone.take_if(|(started, _)| *started != execution));
    }
    Ok(if is_guarded() { without_a_token::undoing_settings(depth) } else { Before::default() })
}

/// After a statement completed without an error.
pub fn done(depth: u32, before: Before) -> Result<(), Report> {
    if before.is_trial {
        return end_trial(before.settings_level);
    }
    let presented = if depth == 0 && gate::has_presented() { begin::presented()? } else { None };
    let is_alone = presented.is_some() && sets_only_one();
    // What the application sets in the statement that presents a user is meant for that user: it is set again with their
    // rights.
    let set_along = match presented {
        Some(_) if before.settings_level > 0 && !is_alone => {
            guc::set_since(before.settings_level, &settable()).ok_or(Error::IdentityAlong)?
        }
        _ => Vec::new(),
    };
    if before.settings_level > 0 {
        undo_settings(before.settings_level, |transaction| transaction.has_set && !is_alone);
    }
    if before.reimposes {
        begin::impose_again();
    }
    if let Some(presented) = presented {
        begin::establish(&presented)?;
        guc::set_again(&set_along);
        inject::point(Point::SetAgain);
    }
    Ok(())
}

pub fn ended(execution: usize) -> Result<(), Report> {
    state::with(|state| state.impersonations.end_execution(execution));
    Ok(audit::query_ended(execution)?)
}

/// For the audit only: a statement begins.
pub fn begins(beginning: &Beginning, depth: u32) -> Result<(), Report> {
    Ok(audit::begins(beginning, depth)?)
}

/// For the audit only: a query ran, and came so far.
pub fn ran(execution: usize, progress: Progress) -> Result<(), Report> {
    Ok(audit::ran(execution, progress)?)
}

/// For the audit only: a utility statement completed.
pub fn utility_ended(depth: u32, rows: u64) -> Result<(), Report> {
    Ok(audit::utility_ended(depth, rows)?)
}

/// SQL that this library cannot work with would hold back every service login, and where it is shared those of other databases
/// have the same library: better not to have it at all.
pub fn extension_changed() -> Result<(), Report> {
    gate::next_generation();
    match catalog::fault() {
        // The latter is on its way from one version to the next.
        None | Some(Fault::Older) => catalog::announce_version(),
        Some(fault) => {
            gate::next_generation();
            return Err(Error::Incomplete(fault).into());
        }
    }
    Ok(())
}

/// When permissions are checked, after PostgreSQL found nothing to object.
pub fn permissions(permissions: Permissions) -> Result<(), Report> {
    if gate::is_confined() {
        audit::accesses(&permissions);
        under_a_token::check_relations(&permissions)?;
    } else if is_guarded() && !without_a_token::has_authority() {
        without_a_token::check_relations(&permissions)?;
    }
    Ok(())
}

/// In a parallel worker: what a function reads there. Of the leader's state only who it is came along.
pub fn worker_permissions(permissions: Permissions) -> Result<(), Report> {
    if switch::is_locked_outside_definers() && may_present(switch::session_user()) {
        under_a_token::check_relations(&permissions)?;
    }
    Ok(())
}

/// Before a function is executed.
pub fn before_function(function: u32, depth: u32) -> Result<(), Report> {
    if guard::may_set(function) {
        state::with(|state| {
            state.transaction.has_set = true;
            state.transaction.has_called |= function >= guard::FIRST_NORMAL_OBJECT_ID;
            if let Some((_, calls)) = &mut state.statement.lone {
                *calls += 1;
            }
        });
    }
    if gate::is_impersonating() {
        audit::calls(function);
        lasting::resume()?;
    }
    if gate::is_confined() {
        return under_a_token::check_function(function).map_err(Report::from);
    }
    if function == guard::ACTIVITY_FUNCTION && encryption() == Encryption::Starting {
        set_encryption(Encryption::NotRead);
        return Ok(());
    }
    if is_guarded() && !without_a_token::has_authority() {
        // Outside any statement (a function call message, input of a parameter) nothing would be undone.
        without_a_token::check_function(function, depth > 0 || depth::undoes_settings())?;
    }
    Ok(())
}

/// Whether the statement that ran can have set one thing only, as the usual one that presents a user: then there is
/// nothing to be looked for among all settings, which takes its time.
fn sets_only_one() -> bool {
    state::with(|state| state.statement.lone.is_some_and(|(_, calls)| calls == 1))
}

fn encryption() -> Encryption {
    state::with(|state| state.statement.encryption)
}

fn set_encryption(to: Encryption) {
    state::with(|state| state.statement.encryption = to);
}

/// What was planned, or tried, and came to no end because of an error, makes nothing possible for the next statement.
pub fn forget_planned() {
    state::try_with(|state| {
        state.statement.encryption = Encryption::NotRead;
        state.statement.trial = None;
    });
}

/// Lets a SET run, so that PostgreSQL compares and checks values; what comes of it is undone in any case.
fn trial(statement: &Statement, otherwise: Otherwise) -> Before {
    let name = match statement {
        Statement::Set(name) => CString::new(name.as_str()).unwrap_or_default(),
        _ => CString::default(),
    };
    let value = guc::shown(&name);
    state::with(|state| state.statement.trial = Some(Trial { name, value, otherwise }));
    let before = Before { is_trial: true, settings_level: guc::new_level(), ..Before::default() };
    inject::point(Point::TrialBegun);
    before
}

fn end_trial(settings_level: i32) -> Result<(), Report> {
    let Some(Trial { name, value, otherwise }) = state::with(|state| state.statement.trial.take()) else {
        return Err(Error::Inconsistent.into());
    };
    let is_changed = guc::shown(&name) != value;
    guc::undo_settings(settings_level);
    inject::point(Point::TrialUndone);
    match otherwise {
        _ if !is_changed => {}
        Otherwise::Refused(refusal) => return Err(without_a_token::refusal(refusal.into()).into()),
        Otherwise::Ignored(row) => report::warn(
            format!("setting \"{}\" was not changed, because this session has had a user", row.name),
            row.harm,
            if row.may_be_listed {
                "Set it when you connect, after the token or with ALTER ROLE ... SET, or add it to \
                 bodata.session_settings and bodata.shared_settings if a user may set it for the next one."
            } else {
                "Set it when you connect, after the token or with ALTER ROLE ... SET."
            },
        ),
    }
    Ok(())
}

/// Undoes what a statement has set, except what this session may set. All settings are looked at only where something
/// `may_have` set one: else all is undone.
fn undo_settings(level: i32, may_have: impl FnOnce(&OfTransaction) -> bool) {
    if state::with(|state| may_have(&state.transaction)) {
        guc::undo_settings_except(level, settings::session_settings_name_custom(), settable);
    } else {
        guc::undo_settings(level);
        inject::point(Point::StatementUndone);
    }
}

/// What this session may set without a token.
fn settable() -> Settable {
    let has_had_a_user = settings::shared_connections() || state::with(|state| state.session.seen != Seen::Nobody);
    Settable { session: settings::session_settings(), shared: has_had_a_user.then(settings::shared_settings) }
}

/// A token that waits when a new statement begins came by a route that no statement of its own completed.
fn refuse_stray_token(depth: u32) -> Result<(), Error> {
    if depth == 0 && gate::has_presented() { Err(Error::OutOfStatement) } else { Ok(()) }
}

/// After a statement was parsed: in a new transaction of a session that impersonates, the first thing that we see.
pub fn parsed() {
    lasting::lock();
}
