//! Which of two versions is the older one.

use std::cmp::Ordering;

/// How a version stands to another, number by number.
pub fn compare(one: &str, another: &str) -> Ordering {
    numbers(one).cmp(numbers(another))
}

fn numbers(version: &str) -> impl Iterator<Item = u64> {
    version.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0))
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
        ] {
            assert_eq!(compare(one, another), order, "{one} {another}");
        }
    }
}
