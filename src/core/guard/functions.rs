//! Which of PostgreSQL's functions and system relations are refused, without a token and under one.

/// Whether a function of this name may work as an operator: none that has been reviewed for its effects does.
pub(super) fn may_be_operator(function: &str) -> bool {
    let acts = ["set_config", "currval", "lastval", "nextval", "setval", "loread", "lowrite"].contains(&function)
        || ["lo_", "pg_"].iter().any(|prefix| function.starts_with(prefix));
    !acts && !is_refused_without_token(function, false)
}

/// Whether a built-in function is refused without a token: it acts past the executor's permission checks, shows what
/// others do, or outlives the statement. Volatile ones are allowed by name, the others refused by name.
pub fn is_refused_without_token(function: &str, is_volatile: bool) -> bool {
    if is_volatile { !is_harmless(function) } else { shows_others(function) }
}

/// Volatile functions that read the clock, the state of the server or the size of a relation, draw a number, set what
/// is undone, or take a lock that ends with the transaction. Releasing locks of the session is what poolers do to be
/// sure: without a token there are none.
const HARMLESS: [&str; 59] = [
    "array_sample",
    "array_shuffle",
    "clock_timestamp",
    "current_query",
    "gen_random_uuid",
    "pg_advisory_unlock",
    "pg_advisory_unlock_all",
    "pg_advisory_unlock_shared",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_blocking_pids",
    "pg_collation_actual_version",
    "pg_current_wal_flush_lsn",
    "pg_current_wal_insert_lsn",
    "pg_current_wal_lsn",
    "pg_database_collation_actual_version",
    "pg_database_size",
    "pg_get_wait_events",
    "pg_get_wal_replay_pause_state",
    "pg_indexes_size",
    "pg_is_in_backup",
    "pg_is_in_recovery",
    "pg_is_wal_replay_paused",
    "pg_jit_available",
    "pg_last_committed_xact",
    "pg_last_wal_receive_lsn",
    "pg_last_wal_replay_lsn",
    "pg_last_xact_replay_timestamp",
    "pg_lock_status",
    "pg_notification_queue_usage",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_prepared_xact",
    "pg_relation_size",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "pg_stat_clear_snapshot",
    "pg_stat_get_io",
    "pg_stat_get_lock",
    "pg_stat_get_recovery_prefetch",
    "pg_stat_have_stats",
    "pg_table_size",
    "pg_tablespace_size",
    "pg_total_relation_size",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
    "pg_xact_commit_timestamp",
    "pg_xact_commit_timestamp_origin",
    "pg_xact_status",
    "random",
    "random_normal",
    "set_config",
    "setseed",
    "timeofday",
    "timezone",
    "txid_status",
    "uuidv4",
    "uuidv7",
];

fn is_harmless(function: &str) -> bool {
    HARMLESS.binary_search(&function).is_ok() || function.starts_with("pg_stat_get_xact_")
}

/// Functions that are not volatile and show a row by its place, or statements and sessions of others.
fn shows_others(function: &str) -> bool {
    const NAMES: [&str; 5] = ["currtid", "currtid2", "pg_cursor", "pg_prepared_statement", "pg_stat_get_activity"];
    const PREFIXES: [&str; 2] = ["lo_", "pg_stat_get_backend_"];
    NAMES.contains(&function) || PREFIXES.iter().any(|prefix| function.starts_with(prefix))
}

/// `pg_stat_get_activity`, which shows statements of other sessions; system views show parts of what it tells.
pub const ACTIVITY_FUNCTION: u32 = 2022;

/// System views that show of that function only how connections are encrypted: clients ask about their own.
pub fn shows_encryption_only(system_relation: &str) -> bool {
    ["pg_stat_ssl", "pg_stat_gssapi"].contains(&system_relation)
}

/// Why a built-in function is refused under a token, if it is. Object ids are fixed for built-in functions.
pub fn function_refused_while_impersonating(function: u32) -> Option<&'static str> {
    match function {
        // pg_advisory_lock to pg_advisory_unlock_all: releasing all at the end would release the application's own.
        2880..=2892 => Some("session-level advisory locks would outlive the transaction"),
        // pg_prepared_statement and pg_cursor show the texts of other users' statements, tokens included.
        2510 | 2511 => Some("the statements of this connection may be other users'"),
        _ => None,
    }
}

/// Why a function in C is refused under a token, if it is, by the name of its code: functions are known by it whatever
/// they are called.
pub fn code_refused_while_impersonating(symbol: &[u8]) -> Option<&'static str> {
    (symbol == b"dblink_connect").then_some("a connection of dblink would outlive the transaction")
}

/// The first object id that is not PostgreSQL's own.
pub const FIRST_NORMAL_OBJECT_ID: u32 = 16384;

/// Functions that may change a setting or seed `random()`, by object id: `setseed`, `set_config`, and whatever is not built
/// in (it may have a SET clause).
pub fn may_set(function: u32) -> bool {
    matches!(function, 1599 | 2078) || function >= FIRST_NORMAL_OBJECT_ID
}

/// System relations that show values of user tables to whoever may read the table, PUBLIC included; or the passwords
/// with which the login itself goes to other servers.
pub fn shows_user_data(system_relation: &str) -> bool {
    ["pg_stats", "pg_stats_ext", "pg_stats_ext_exprs", "pg_user_mappings", "user_mapping_options"]
        .contains(&system_relation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmless_functions_are_in_order() {
        assert!(HARMLESS.is_sorted());
    }

    #[test]
    fn functions_past_the_executor_are_refused() {
        for volatile in ["lo_get", "nextval", "pg_advisory_lock", "pg_try_advisory_lock", "not_known_yet", "lower"]
        {
            assert!(is_refused_without_token(volatile, true), "{volatile}");
        }
        for stable in ["pg_stat_get_activity", "pg_stat_get_backend_activity", "pg_cursor"] {
            assert!(is_refused_without_token(stable, false), "{stable}");
        }
        for fine in
            ["pg_advisory_unlock_all", "set_config", "pg_try_advisory_xact_lock", "pg_stat_get_xact_numscans"]
        {
            assert!(!is_refused_without_token(fine, true), "{fine}");
        }
        for fine in ["version", "lower", "log"] {
            assert!(!is_refused_without_token(fine, false), "{fine}");
        }
    }
}
