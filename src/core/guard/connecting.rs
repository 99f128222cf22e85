//! What applications set when they connect, besides what `bodata.session_settings` names.
//!
//! Before a session's first user nobody but the application has sent anything: it may set these, as it may in the options
//! of the connection, by a SET of its own (not in a function or with `set_config()`). From then on whoever sets one may
//! be the user who ended their transaction, and the next one would meet it: a SET that changes nothing is fine, any other
//! has no effect but a WARNING. Where a pooler hands connections over between transactions (`bodata.shared_connections`),
//! that user may be the first on another connection, and it holds from the start.

/// A setting that is let through until the session has its first user.
#[derive(Debug, PartialEq, Eq)]
pub struct Row {
    pub name: &'static str,
    /// What the next user would meet.
    pub harm: &'static str,
    /// Whether an administrator can leave it to everybody with `bodata.session_settings` and `bodata.shared_settings`.
    pub may_be_listed: bool,
}

const fn row(name: &'static str, may_be_listed: bool, harm: &'static str) -> Row {
    Row { name, harm, may_be_listed }
}

const ROWS: [Row; 5] = [
    // Knex, Laravel, Prisma, Rails and pgjdbc's setSchema(). Nothing can be read before a token, and under it names are
    // to resolve as the connection asked.
    row(SEARCH_PATH, false, "The next user would find other objects under the names that their statements use."),
    // Sequelize, Rails, pgAdmin.
    row("client_min_messages", true, "The next user could miss warnings."),
    // Laravel.
    row("synchronous_commit", true, "The next user could lose what they committed."),
    // As the timeouts of bodata.session_settings, which are older.
    row("transaction_timeout", true, "The transactions of the next user could be ended."),
    row("idle_session_timeout", true, "The connection could end for the next user."),
];

pub const SEARCH_PATH: &str = "search_path";

pub fn row_of(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case() {
        assert_eq!(row_of("Search_Path").map(|row| row.name), Some(SEARCH_PATH));
        assert_eq!(row_of("work_mem"), None);
    }

    #[test]
    fn each_row_is_documented() {
        let model = include_str!("../../../docs/security-model.md");
        for Row { name, .. } in &ROWS {
            assert!(model.contains(&format!("| `{name}` |")), "{name}");
        }
    }
}
