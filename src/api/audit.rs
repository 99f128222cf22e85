//! Audit and counters.

use crate::api::convert::{immuta_require_preload, report, timestamptz, utf8};
use crate::audit;
use crate::core::audit::changes::{AccessChange, Action, Said};
use crate::core::audit::{Access, Object};
use crate::core::identity::Identity;
use crate::core::time::Timestamp;
use crate::pg::sys::{text, wait};
use crate::pg::{preload, shared};
use crate::rights::mapping;
use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Sessions that impersonate somebody now; this one only where nothing is shared.
#[pg_extern(sql = false)]
fn immuta_impersonating_sessions() -> TableIterator<
    'static,
    (
        name!(pid, i32),
        name!(database, pg_sys::Oid),
        name!(impersonator, pg_sys::Oid),
        name!(iamid, Vec<u8>),
        name!(userid, Vec<u8>),
        name!(mapped_role, pg_sys::Oid),
        name!(established_at, Option<TimestampWithTimeZone>),
        name!(statements, i64),
    ),
> {
    immuta_require_preload();
    let rows: Vec<_> = shared::impersonating()
        .into_iter()
        .map(|session| {
            let (iamid, userid) = utf8(&session.identity);
            (
                session.pid,
                pg_sys::Oid::from(session.database),
                pg_sys::Oid::from(session.impersonator),
                iamid,
                userid,
                pg_sys::Oid::from(session.role),
                timestamptz(Timestamp(session.since)),
                i64::try_from(session.statements).unwrap_or(i64::MAX),
            )
        })
        .collect();
    TableIterator::new(rows)
}

#[pg_extern(sql = false)]
fn immuta_sees_all_sessions() -> bool {
    immuta_require_preload();
    shared::is_shared()
}

/// Counters under the names that Prometheus gives them: totals end in `_total`, times are in seconds, classes of a
/// histogram are cumulative.
#[pg_extern(sql = false)]
fn immuta_counters()
-> TableIterator<'static, (name!(name, String), name!(label, Option<String>), name!(value, f64))> {
    immuta_require_preload();
    let counters = shared::counters();
    let mut rows = Vec::new();
    let mut add =
        |name: &str, label: Option<String>, value: f64| rows.push((format!("immuta_{name}"), label, value));
    let count = |counter: &AtomicU64| counter.load(Relaxed) as f64;
    for (name, counter) in [
        ("impersonation_switches_total", &counters.switches),
        ("impersonation_statements_total", &counters.statements),
        ("token_cache_hits_total", &counters.cache_hits),
        ("token_cache_misses_total", &counters.cache_misses),
        ("token_cache_evictions_total", &counters.cache_evictions),
        ("token_cache_shared_hits_total", &counters.shared_hits),
        ("provider_requests_total", &counters.provider_calls),
        ("provider_errors_total", &counters.provider_errors),
        ("audit_records_total", &counters.audit_records),
        ("audit_fallbacks_total", &counters.audit_fallbacks),
        ("audit_stored_total", &counters.audit_stored),
    ] {
        add(name, None, count(counter));
    }
    for (code, counter) in shared::REFUSALS.iter().zip(&counters.refusals) {
        let reason = code.trim_start_matches("IMPERSONATION_").to_lowercase();
        add("impersonation_refusals_total", Some(reason), count(counter));
    }
    let mut below = 0.0;
    let bounds = shared::LATENCIES.iter().map(|&bound| (bound as f64 / 1000.0).to_string());
    for (bound, counter) in bounds.chain(["+Inf".into()]).zip(&counters.provider_latency) {
        below += count(counter);
        add("provider_request_duration_seconds_bucket", Some(bound), below);
    }
    add("provider_request_duration_seconds_sum", None, count(&counters.provider_micros) / 1e6);
    add("provider_request_duration_seconds_count", None, below);
    add("audit_queue_bytes", None, audit::queue_bytes() as f64);
    let since = Timestamp(counters.since.load(Relaxed));
    add("stats_reset_timestamp_seconds", None, since.to_unix_micros() as f64 / 1e6);
    TableIterator::new(rows)
}

#[pg_extern(sql = false)]
fn immuta_reset_impersonation_stats() {
    immuta_require_preload();
    shared::counters().reset();
}

/// Waits until all that waits in the queue of this database is in its audit table; whether it is.
#[pg_extern(sql = false)]
fn immuta_flush_audit(patience: pgrx::datum::Interval) -> bool {
    immuta_require_preload();
    let micros = patience.as_micros();
    let patience = Duration::from_micros(u64::try_from(micros.clamp(0, 3_600_000_000)).unwrap_or(0));
    let deadline = Instant::now() + patience;
    while audit::queue_bytes() > 0 {
        audit::wake_writer();
        if Instant::now() >= deadline {
            return false;
        }
        wait::pause(Duration::from_millis(20));
    }
    true
}

/// Somebody's access is being changed: by which operation, what of ours says so, whose access to which data source, and
/// what was said before and is said now.
#[pg_extern(sql = false)]
#[allow(clippy::too_many_arguments)]
fn immuta_record_change(
    operation: &str,
    subject: &str,
    userid: Option<&[u8]>,
    iamid: Option<&[u8]>,
    source: Option<pg_sys::Oid>,
    source_name: Option<&[u8]>,
    before: Option<&[u8]>,
    after: Option<&[u8]>,
) {
    // A restore may come before the library is preloaded. Where it is not, nothing is on record.
    if !preload::is_preloaded() {
        return;
    }
    let text = text::from_server_anyhow;
    let change = AccessChange {
        action: Action::of(operation),
        subject: subject.to_uppercase(),
        user: userid.zip(iamid).map(|(userid, iamid)| Identity { iamid: text(iamid), userid: text(userid) }),
        source: source_name.map(|name| Object {
            id: source.map_or(0, pg_sys::Oid::to_u32),
            kind: "TABLE".into(),
            name: text(name).into(),
            access: Access::default(),
            columns: Vec::new(),
            masked: Vec::new(),
        }),
        before: Said::of(before.map(text)),
        after: Said::of(after.map(text)),
    };
    audit::access_changes(change).unwrap_or_else(|error| report(error));
}

/// Puts a dry run on record: the user, the statement, and the SQLSTATE with which it would fail.
#[pg_extern(sql = false)]
fn immuta_record_dry_run(userid: &[u8], iamid: &[u8], statement: &[u8], code: Option<&str>) {
    immuta_require_preload();
    let identity = Identity::of_bytes(userid, iamid);
    let role = mapping::role_of_user(&identity).unwrap_or_else(|error| report(error));
    let code = code.and_then(|code| <[u8; 5]>::try_from(code.as_bytes()).ok());
    let statement = text::from_server_anyhow(statement);
    audit::tested(identity, role, statement, code).unwrap_or_else(|error| report(error));
}
