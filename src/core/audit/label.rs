//! How audit records begin in the server's log. Nothing else that is logged may hold that, wherever: a reader needs to
//! know neither `log_line_prefix` nor how the log goes on after a line feed to tell a record from a user's text.

use memchr::memmem::Finder;
use std::ffi::CStr;
use std::sync::LazyLock;

pub const LABEL: &CStr = c"AUDIT: ";

/// How one begins. pgAudit has the same label, but no brace after it.
const BEGINNING: &[u8] = b"AUDIT: {";

/// Where in a text a record seems to begin: the places of the braces. All that is logged is searched.
fn places(text: &[u8]) -> impl Iterator<Item = usize> {
    static FINDER: LazyLock<Finder> = LazyLock::new(|| Finder::new(BEGINNING));
    FINDER.find_iter(text).map(|at| at + BEGINNING.len() - 1)
}

/// Whether a text could be taken for a record, or for a line with one.
pub fn is_in(text: &[u8]) -> bool {
    places(text).next().is_some()
}

/// A text in which nothing can be taken for a record: `AUDIT; {` is left of it.
pub fn without(text: &[u8]) -> Vec<u8> {
    let mut without = text.to_vec();
    remove(&mut without);
    without
}

/// The same in place.
pub fn remove(text: &mut [u8]) {
    let places: Vec<usize> = places(text).collect();
    for brace in places {
        text[brace - 2] = b';';
    }
}

/// A record that quotes what could be taken for another: JSON has two ways to write a brace in a string.
pub fn escaped(record: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(record.len());
    let mut begin = 0;
    for brace in places(record) {
        escaped.extend_from_slice(&record[begin..brace]);
        escaped.extend_from_slice(b"\\u007b");
        begin = brace + 1;
    }
    escaped.extend_from_slice(&record[begin..]);
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_begins_with_the_label() {
        assert_eq!(BEGINNING, [LABEL.to_bytes(), b"{"].concat());
    }

    #[test]
    fn a_text_holds_no_label_afterwards() {
        for (text, left) in [
            ("AUDIT: {\"a\": 1}", "AUDIT; {\"a\": 1}"),
            ("x\nAUDIT: {AUDIT: {", "x\nAUDIT; {AUDIT; {"),
            ("AUDIT: AUDIT: {", "AUDIT: AUDIT; {"),
            ("AUDIT: SESSION,1,1,READ", "AUDIT: SESSION,1,1,READ"),
            ("AUDIT:{", "AUDIT:{"),
            ("{", "{"),
            ("", ""),
        ] {
            assert_eq!(String::from_utf8_lossy(&without(text.as_bytes())), left);
            assert_eq!(is_in(text.as_bytes()), text != left);
            assert!(!is_in(left.as_bytes()));
        }
    }

    #[test]
    fn a_record_says_the_same_without_it() {
        let record = serde_json::json!({ "query": "RAISE LOG 'AUDIT: {}AUDIT: {'", "n": { "x": 1 } });
        let escaped = escaped(record.to_string().as_bytes());
        assert!(!is_in(&escaped));
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&escaped).ok(), Some(record));
    }
}
