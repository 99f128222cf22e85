//! What begins each line of the server's log: `log_line_prefix` (PostgreSQL's documentation, "What to log").

use super::record::digits;
use super::time::Timestamp;
use std::ffi::{CStr, CString};

/// The format with the time in place of what asks for it; the rest stays. `second` is the one of `now` in the log's
/// time zone, `zone` the name of that. `None` where a time is to be padded.
pub fn with_time(format: &CStr, now: Timestamp, second: &[u8], zone: &[u8]) -> Option<CString> {
    let millis = now.to_unix_millis();
    let fraction = || digits::<3>(millis.rem_euclid(1000));
    // With room for a time, and for the NUL that CString adds.
    let mut filled = Vec::with_capacity(format.count_bytes() + 48);
    let mut rest = format.to_bytes();
    while let Some(at) = rest.iter().position(|&letter| letter == b'%') {
        let (before, escape) = rest.split_at(at);
        filled.extend_from_slice(before);
        let is_padding = |letter: &&u8| **letter == b'-' || letter.is_ascii_digit();
        let padding = escape.iter().skip(1).take_while(is_padding).count();
        match *escape.get(1 + padding)? {
            b'm' | b't' | b'n' if padding > 0 => return None,
            b'm' => extend(&mut filled, [second, b".", &fraction(), b" ", zone]),
            b't' => extend(&mut filled, [second, b" ", zone]),
            b'n' => {
                let seconds = millis.div_euclid(1000);
                extend(&mut filled, [itoa::Buffer::new().format(seconds).as_bytes(), b".", &fraction()]);
            }
            _ => filled.extend_from_slice(escape.get(..2 + padding)?),
        }
        rest = escape.get(2 + padding..)?;
    }
    filled.extend_from_slice(rest);
    CString::new(filled).ok()
}

fn extend<const N: usize>(filled: &mut Vec<u8>, parts: [&[u8]; N]) {
    parts.into_iter().for_each(|part| filled.extend_from_slice(part));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(format: &str) -> Option<String> {
        let (now, format) = (Timestamp(500_000_000_012_345), CString::new(format).ok()?);
        with_time(&format, now, b"2015-11-05 01:53:20", b"CET")?.into_string().ok()
    }

    #[test]
    fn times_are_filled_in_and_the_rest_stays() {
        for (format, expected) in [
            ("%m [%p] %q%u@%d ", "2015-11-05 01:53:20.012 CET [%p] %q%u@%d "),
            ("%t %n %%m", "2015-11-05 01:53:20 CET 1446684800.012 %%m"),
            ("%-10u|%5p", "%-10u|%5p"),
            ("é", "é"),
            ("", ""),
        ] {
            assert_eq!(filled(format).as_deref(), Some(expected));
        }
    }

    #[test]
    fn what_is_not_as_simple_is_left_to_postgresql() {
        for format in ["%10m", "%-5t", "%3n", "%", "a%", "%12"] {
            assert_eq!(filled(format), None, "{format}");
        }
    }
}
