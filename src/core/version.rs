//! Which of two versions is the older one.

use std::cmp::Ordering;

/// How a version stands to another, number by number. What is none, but a name or a preliminary one, is older than all that are.
pub fn compare(one: &str, another: &str) -> Ordering {
    numbers(one).cmp(&numbers(another))
}

fn numbers(version: &str) -> Option<Vec<u64>> {
    let is_number = |part: &&str| part.bytes().all(|byte| byte.is_ascii_digit());
    version.split('.').map(|part| Some(part).filter(is_number)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_compared_and_not_letters() {
        for (one, another, order) in [
            ("0.1.0", "0.1.0", Ordering::Equal),
            ("0.1.0", "0.1.1", Ordering::Less),
            ("0.10.0", "0.9.0", Ordering::Greater),
            ("0.1.0.1", "0.1.0", Ordering::Greater),
            ("99.0", "0.1.0", Ordering::Greater),
            ("0.0.9", "0.1.0", Ordering::Less),
            ("nonsense", "0.1.0", Ordering::Less),
            ("0.2.0-rc1", "0.2.0", Ordering::Less),
            ("0.2.0-rc1", "0.1.0", Ordering::Less),
            ("0.+1.0", "0.1.0", Ordering::Less),
            ("0.1.0.", "0.1.0", Ordering::Less),
            ("", "0.0.0", Ordering::Less),
            // Beyond 64 bits.
            ("0.18446744073709551616", "0.0", Ordering::Less),
        ] {
            assert_eq!(compare(one, another), order, "{one} {another}");
        }
    }

    /// Else versions that are none would equal it.
    #[test]
    fn that_of_this_library_is_one() {
        assert!(numbers(env!("CARGO_PKG_VERSION")).is_some());
    }
}
