//! What a query would do as another role: it is parsed and planned and its permissions are checked, but it does not
//! run. Errors are PostgreSQL's own, with all their fields: see [`crate::pg::hook::frames`].

use crate::pg::sys::acting::{Acting, LOCKED};
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::option::{self, Unset};
use crate::pg::sys::report::{Report, raise};
use crate::pg::sys::{raw, running};
use crate::pg::{gate, guc, residue};
use once_cell::sync::OnceCell;
use pgrx::pg_sys::{GucAction, GucContext};
use pgrx::{PgList, pg_guard, pg_sys};
use std::ffi::{CStr, CString, c_char, c_int};

/// Finds the role of a user, by `userid` and `iamid` in UTF-8, or says why there can be no dry run as that user now.
type FindRole = fn(&[u8], &[u8]) -> Result<u32, Report>;

static FIND_ROLE: OnceCell<FindRole> = OnceCell::new();

/// Called once, from `_PG_init`.
pub fn install(find_role: FindRole) {
    // A second call would bring the same.
    let _ = FIND_ROLE.set(find_role);
}

/// What a plain frame keeps while the query is looked at.
#[derive(Clone, Copy)]
#[repr(C)]
struct Sandbox {
    statement: *const c_char,
    explain: *const c_char,
    settings_level: c_int,
    before: Acting,
}

#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_immuta_explained() -> *const pg_sys::Pg_finfo_record {
    static RECORD: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &RECORD
}

/// SQL function `immuta_internal.explained(userid bytea, iamid bytea, statement text, search_path text) RETURNS text`,
/// not strict. Plain frame: it owns nothing, and an error leaves it by longjmp; the (sub)transaction that it aborts
/// puts everything back.
#[allow(ffi_unwind_calls)]
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn immuta_explained(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: called by PostgreSQL with the arguments of the SQL function.
    unsafe {
        let sandbox = enter(fcinfo);
        let plan = raw::SPI_prepare(sandbox.statement, 0, std::ptr::null_mut());
        require_one_query(plan);
        raw::SPI_execute(sandbox.explain, false, 0);
        inject::frame(Point::DryRunLooked);
        leave(sandbox)
    }
}

/// Becomes the user's role, with the search path of whoever asks. The planner calls functions: only those of
/// PostgreSQL, of this extension and of superusers, which write nothing, and do nothing that would outlive the
/// transaction, as in a maintenance command; what is refused under an impersonation the hooks refuse here, too. What
/// is refused is said in English.
#[pg_guard]
unsafe extern "C-unwind" fn enter(fcinfo: pg_sys::FunctionCallInfo) -> Sandbox {
    // SAFETY: two arguments of type bytea and two of type text, in the encoding of the database; the copies are palloc'd
    // and live as long as the call.
    unsafe {
        let argument = |at| {
            let value = pgrx::fcinfo::pg_getarg_datum(fcinfo, at)?;
            let value = pg_sys::pg_detoast_datum_packed(value.cast_mut_ptr());
            Some(pgrx::varlena_to_byte_slice(value).to_vec())
        };
        let (Some(userid), Some(iamid), Some(statement), Some(search_path)) =
            (argument(0), argument(1), argument(2), argument(3))
        else {
            raise(Report {
                sqlstate: pgrx::PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
                message: "userid, iamid, statement and search_path must not be null".into(),
                detail: "IMPERSONATION_NOT_SUPPORTED",
                hint: "Name a user, and give the text of a query.",
            });
        };
        let Some(find_role) = FIND_ROLE.get() else { pgrx::error!("immuta_ext was not initialized") };
        let role = find_role(&userid, &iamid).unwrap_or_else(|report| raise(report));
        // Options in parentheses: whatever the text begins with, it can add none.
        let explain = [b"EXPLAIN (FORMAT TEXT) ".as_slice(), &statement].concat();
        let copy = |text: Vec<u8>| pg_sys::pstrdup(CString::new(text).unwrap_or_default().as_ptr()).cast_const();
        let (statement, explain, search_path) = (copy(statement), copy(explain), copy(search_path));

        inject::point(Point::DryRunBegins);
        let settings_level = guc::new_level();
        for (name, value) in [
            (c"search_path", CStr::from_ptr(search_path)),
            (c"lc_messages", c"C"),
            (c"transaction_read_only", c"on"),
        ] {
            option::set(name, Some(value), GucContext::PGC_SUSET, GucAction::GUC_ACTION_LOCAL, Unset::Error);
        }
        let before = Acting::now();
        before.confined(role, LOCKED | pg_sys::SECURITY_RESTRICTED_OPERATION).resume();
        pg_sys::SPI_connect();
        gate::set_dry_run(running::nest_level());
        inject::point(Point::DryRunBegun);
        Sandbox { statement, explain, settings_level, before }
    }
}

/// Refuses utility statements, of which EXPLAIN does not check what they may do, and several statements at once.
#[pg_guard]
unsafe extern "C-unwind" fn require_one_query(plan: pg_sys::SPIPlanPtr) {
    // SAFETY: a plan of SPI_prepare(), or null: a list of plan sources, each with its list of queries.
    let is_one_query = !plan.is_null()
        && unsafe {
            let sources = PgList::<pg_sys::CachedPlanSource>::from_pg(pg_sys::SPI_plan_get_plan_sources(plan));
            let mut sources = sources.iter_ptr();
            matches!((sources.next(), sources.next()), (Some(source), None)
                if PgList::<pg_sys::Query>::from_pg((*source).query_list)
                    .iter_ptr()
                    .all(|query| (*query).commandType != pg_sys::CmdType::CMD_UTILITY))
        };
    if !is_one_query {
        raise(Report {
            sqlstate: pgrx::PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
            message: "only single queries can be tested: SELECT, INSERT, UPDATE, DELETE and their like".into(),
            detail: "",
            hint: "Leave out EXPLAIN, and test one statement at a time.",
        });
    }
}

/// Back to the caller, with the plan.
#[pg_guard]
unsafe extern "C-unwind" fn leave(sandbox: Sandbox) -> pg_sys::Datum {
    // SAFETY: the rows of EXPLAIN, one column of text each, live until SPI_finish(), which goes back to the memory of the
    // caller; the settings level was pushed in enter().
    unsafe {
        let rows = pg_sys::SPI_tuptable;
        let mut plan: Vec<u8> = Vec::new();
        for at in 0..pg_sys::SPI_processed as usize {
            let line = pg_sys::SPI_getvalue(*(*rows).vals.add(at), (*rows).tupdesc, 1);
            if !line.is_null() {
                if !plan.is_empty() {
                    plan.push(b'\n');
                }
                plan.extend(CStr::from_ptr(line).to_bytes());
            }
        }
        pg_sys::SPI_finish();
        end();
        sandbox.before.resume();
        guc::undo_settings(sandbox.settings_level);
        inject::point(Point::DryRunEnds);
        let text = pg_sys::cstring_to_text_with_len(plan.as_ptr() as *const c_char, plan.len() as c_int);
        pg_sys::Datum::from(text)
    }
}

fn end() {
    gate::set_dry_run(0);
    // No undoing of settings takes back what seeds random().
    residue::reseed();
}

/// A (sub)transaction aborts, and the dry run with it that began there. Must not fail.
pub fn abort() {
    if gate::is_dry_run() && gate::dry_run() >= running::nest_level() {
        end();
    }
}
