//! Which parameters the guard knows by name, and which a session may set without a token.

use crate::core::guard::connecting::SEARCH_PATH;
use crate::core::session::presented::{NAME_PARAMETERS, TOKEN_PARAMETER};

/// Which parameters a session may set without a token.
pub struct Settable {
    /// `bodata.session_settings`.
    pub session: Vec<String>,
    /// `bodata.shared_settings`, in a session that has impersonated somebody.
    pub shared: Option<Vec<String>>,
}

impl Settable {
    /// Whether a parameter may be set, and to a value that is `misleading` or not.
    pub fn allows(&self, name: &str, is_misleading: bool) -> bool {
        is_session_setting(name, &self.session)
            && self.shared.as_ref().is_none_or(|shared| !is_misleading && is_session_setting(name, shared))
    }
}

/// Whether a parameter says who the session is.
pub fn is_identity_parameter(name: &str) -> bool {
    ["role", "session_authorization"].iter().any(|p| name.eq_ignore_ascii_case(p))
}

/// Whether a parameter says that, or what this extension does.
pub fn is_of_identity(name: &str) -> bool {
    is_identity_parameter(name) || is_ours(name)
}

/// Whether a parameter is this extension's.
pub fn is_ours(name: &str) -> bool {
    begins(name, "bodata.") || begins(name, "immuta.")
}

/// Whether somebody may have meant one of this extension's parameters by this name.
pub fn resembles_ours(name: &str) -> bool {
    is_ours(name) || name.to_ascii_lowercase().contains("impersonat")
}

fn begins(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Whether `name` is in the list; an entry that ends in `*` stands for every name that begins so. Without a dot it does
/// not stand for names that have one: PostgreSQL's own settings have none, those of modules and applications do.
pub fn is_session_setting(name: &str, list: &[String]) -> bool {
    list.iter().any(|entry| match entry.strip_suffix('*') {
        Some(prefix) => begins(name, prefix) && (prefix.contains('.') || !name.contains('.')),
        None => name.eq_ignore_ascii_case(entry),
    })
}

/// What no list can leave to a session without a token: who it is and how names are looked up. The application may set
/// the latter all the same, but not in every way (see [`connecting`]).
const NEVER_LISTED: [&str; 5] = ["role", "session_authorization", SEARCH_PATH, TOKEN_PARAMETER, "row_security"];

/// Why a list of session settings is unacceptable.
pub fn session_settings_fault(list: &[String]) -> Option<String> {
    list.iter().find_map(|entry| {
        let hit = NEVER_LISTED
            .iter()
            .chain(&NAME_PARAMETERS)
            .find(|never| is_session_setting(never, std::slice::from_ref(entry)))?;
        Some(match *hit {
            SEARCH_PATH => {
                format!("\"{hit}\" need not be listed: it can be SET until the session has its first user")
            }
            _ => format!("\"{hit}\" cannot be left to sessions without a token"),
        })
    })
}

/// Whether a list of session settings may name this parameter.
pub(super) fn may_be_listed(name: &str) -> bool {
    !is_ours(name) && !NEVER_LISTED.iter().any(|never| name.eq_ignore_ascii_case(never))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| s.to_string()).collect()
    }

    #[test]
    fn patterns_match_prefixes_without_regard_to_case() {
        let list = names(&["default_transaction_*", "timezone"]);
        assert!(is_session_setting("Default_Transaction_isolation", &list));
        assert!(is_session_setting("TimeZone", &list));
        assert!(!is_session_setting("default_t", &list));
        assert!(!is_session_setting("default_transaction_my.own", &list));
        assert!(
            is_session_setting("my.own", &names(&["my.*"])) && !is_session_setting("my.own", &names(&["my*"]))
        );
        assert!(!is_session_setting("timezone2", &list));
        assert!(!is_session_setting("dé", &names(&["d\u{e9}x*"])));
    }

    #[test]
    fn a_list_that_would_undo_the_guard_is_refused() {
        assert_eq!(session_settings_fault(&names(&["datestyle", "myapp.*"])), None);
        for bad in ["role", "*", "ses*", "Search_Path", "bodata.*", "row_security", "immuta.*"] {
            assert!(session_settings_fault(&names(&[bad])).is_some(), "{bad}");
        }
    }
}
