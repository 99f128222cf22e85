//! What a statement would do as another role: it is parsed, planned and its permissions are checked, but it does not
//! run.

use super::{raw, text};
use pgrx::pg_sys::panic::CaughtError;
use pgrx::{PgList, PgSqlErrorCode, PgTryBuilder, pg_sys};
use std::ffi::{CStr, c_int};

pub enum Outcome {
    /// It would run, so.
    Plan(String),
    Error {
        sqlstate: String,
        message: String,
    },
}

/// EXPLAINs the statement as `role`, in a subtransaction that is rolled back: what functions do that the planner calls
/// is undone, and what would outlive the transaction is refused, as in a maintenance command.
pub fn explain_as(role: u32, statement: &str) -> Outcome {
    // Options in parentheses: whatever the text begins with, it can add none.
    let texts = [text::to_server(statement), text::to_server(&format!("EXPLAIN (FORMAT TEXT) {statement}"))];
    let [Some(statement), Some(explain)] = texts else {
        return untestable("the statement cannot be written in this database");
    };
    // SAFETY: the subtransaction is rolled back on success and on error alike, which puts the user, the security
    // context and the settings back; memory context and resource owner are put back as every procedural language does.
    let outcome = unsafe {
        let (context, owner) = (pg_sys::CurrentMemoryContext, pg_sys::CurrentResourceOwner);
        pg_sys::BeginInternalSubTransaction(std::ptr::null());
        let outcome = PgTryBuilder::new(|| Ok(run(role, &statement, &explain)))
            .catch_others(|error| Err(Box::new(error)))
            .execute();
        pg_sys::RollbackAndReleaseCurrentSubTransaction();
        pg_sys::CurrentMemoryContext = context;
        pg_sys::CurrentResourceOwner = owner;
        outcome
    };
    match outcome {
        Ok(outcome) => outcome,
        Err(caught) => match *caught {
            CaughtError::PostgresError(error) if !ends_the_statement(error.sql_error_code()) => {
                let sqlstate = five_characters(error.sql_error_code());
                Outcome::Error { sqlstate, message: error.message().into() }
            }
            other => other.rethrow(),
        },
    }
}

/// Errors that are not about the statement that is tested.
fn ends_the_statement(code: PgSqlErrorCode) -> bool {
    use PgSqlErrorCode::*;
    matches!(
        code,
        ERRCODE_QUERY_CANCELED | ERRCODE_ADMIN_SHUTDOWN | ERRCODE_CRASH_SHUTDOWN | ERRCODE_OUT_OF_MEMORY
    )
}

/// PostgreSQL packs the five characters of an SQLSTATE six bits each (`MAKE_SQLSTATE`).
fn five_characters(code: PgSqlErrorCode) -> String {
    let packed = code as i32;
    (0..5).map(|at| char::from(b'0' + ((packed >> (6 * at)) & 0x3f) as u8)).collect()
}

fn untestable(message: &str) -> Outcome {
    let sqlstate = five_characters(PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED);
    Outcome::Error { sqlstate, message: message.into() }
}

/// # Safety
/// Called in a subtransaction that will be rolled back.
unsafe fn run(role: u32, statement: &CStr, explain: &CStr) -> Outcome {
    let sandbox = (pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION) as c_int;
    // SAFETY: by contract; NUL-terminated strings; the plan and its rows live until SPI_finish().
    unsafe {
        // What was refused is read from the message; functions that the planner calls write nothing.
        for (name, value) in [(c"lc_messages", c"C"), (c"transaction_read_only", c"on")] {
            pg_sys::set_config_option(
                name.as_ptr(),
                value.as_ptr(),
                pg_sys::GucContext::PGC_SUSET,
                pg_sys::GucSource::PGC_S_SESSION,
                pg_sys::GucAction::GUC_ACTION_LOCAL,
                true,
                0,
                false,
            );
        }
        let (mut user, mut security) = (pg_sys::Oid::INVALID, 0);
        raw::GetUserIdAndSecContext(&mut user, &mut security);
        raw::SetUserIdAndSecContext(role.into(), security | sandbox);
        pg_sys::SPI_connect();
        let plan = pg_sys::SPI_prepare(statement.as_ptr(), 0, std::ptr::null_mut());
        if plan.is_null() || !is_one_query(plan) {
            pg_sys::SPI_finish();
            return untestable("only single queries can be tested: SELECT, INSERT, UPDATE, DELETE and their like");
        }
        pg_sys::SPI_execute(explain.as_ptr(), false, 0);
        let rows = pg_sys::SPI_tuptable;
        let lines: Vec<String> = (0..pg_sys::SPI_processed as usize)
            .map(|at| pg_sys::SPI_getvalue(*(*rows).vals.add(at), (*rows).tupdesc, 1))
            .filter(|line| !line.is_null())
            .map(|line| text::from_server(CStr::from_ptr(line).to_bytes()))
            .collect();
        pg_sys::SPI_finish();
        Outcome::Plan(lines.join("\n"))
    }
}

/// Whether this is one statement, and no utility statement: of those EXPLAIN does not check what they may do.
///
/// # Safety
/// `plan` is a plan of SPI_prepare().
unsafe fn is_one_query(plan: pg_sys::SPIPlanPtr) -> bool {
    // SAFETY: by contract; the list holds plan sources, each with its list of queries.
    unsafe {
        let sources = PgList::<pg_sys::CachedPlanSource>::from_pg(pg_sys::SPI_plan_get_plan_sources(plan));
        let mut sources = sources.iter_ptr();
        let (Some(source), None) = (sources.next(), sources.next()) else { return false };
        PgList::<pg_sys::Query>::from_pg((*source).query_list)
            .iter_ptr()
            .all(|query| (*query).commandType != pg_sys::CmdType::CMD_UTILITY)
    }
}
