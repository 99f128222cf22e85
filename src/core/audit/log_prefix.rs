//! What begins each line of the server's log: `log_line_prefix` (PostgreSQL's documentation, "What to log").

use crate::core::audit::blanks::digits;
use crate::core::time::Timestamp;
use std::ffi::CString;

/// What prefixes show of the moment.
#[derive(Clone, Copy)]
pub struct Moment<'a> {
    pub now: Timestamp,
    /// Its second in the log's time zone, and the name of that.
    pub second: &'a [u8],
    pub zone: &'a [u8],
}

/// Appends the prefix. `None` where it shows more than time and process.
pub fn append(line: &mut Vec<u8>, format: &[u8], moment: Moment, pid: i32) -> Option<()> {
    let mut letters = format.iter();
    while let Some(&letter) = letters.next() {
        match letter {
            b'%' => match *letters.next()? {
                b'p' => line.extend_from_slice(itoa::Buffer::new().format(pid).as_bytes()),
                b'%' => line.push(b'%'),
                escape => append_time(line, escape, moment)?,
            },
            _ => line.push(letter),
        }
    }
    Some(())
}

/// The format with the time in place of what asks for it; the rest stays. `None` where a time is to be padded.
pub fn with_time(format: &[u8], moment: Moment) -> Option<CString> {
    let mut filled = Vec::with_capacity(format.len() + 64);
    let mut rest = format;
    while let Some(at) = rest.iter().position(|&letter| letter == b'%') {
        let (before, escape) = rest.split_at(at);
        filled.extend_from_slice(before);
        let is_padding = |letter: &&u8| **letter == b'-' || letter.is_ascii_digit();
        let length = 2 + escape.iter().skip(1).take_while(is_padding).count();
        let letter = *escape.get(length - 1)?;
        if length > 2 && matches!(letter, b'm' | b't' | b'n') {
            return None;
        }
        if append_time(&mut filled, letter, moment).is_none() {
            filled.extend_from_slice(escape.get(..length)?);
        }
        rest = escape.get(length..)?;
    }
    filled.extend_from_slice(rest);
    CString::new(filled).ok()
}

/// `None` for what is no time.
fn append_time(line: &mut Vec<u8>, escape: u8, moment: Moment) -> Option<()> {
    let millis = moment.now.to_unix_millis();
    let fraction = || digits::<3>(millis.rem_euclid(1000));
    let mut extend = |parts: &[&[u8]]| parts.iter().for_each(|part| line.extend_from_slice(part));
    match escape {
        b'm' => extend(&[moment.second, b".", &fraction(), b" ", moment.zone]),
        b't' => extend(&[moment.second, b" ", moment.zone]),
        b'n' => extend(&[itoa::Buffer::new().format(millis.div_euclid(1000)).as_bytes(), b".", &fraction()]),
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOMENT: Moment =
        Moment { now: Timestamp(500_000_000_012_345), second: b"2015-11-05 01:53:20", zone: b"CET" };

    fn filled(format: &str) -> Option<String> {
        with_time(format.as_bytes(), MOMENT)?.into_string().ok()
    }

    fn appended(format: &str) -> Option<String> {
        let mut line = b"> ".to_vec();
        append(&mut line, format.as_bytes(), MOMENT, 42)?;
        String::from_utf8(line).ok()
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
    fn times_and_processes_need_nobody_else() {
        for (format, expected) in [
            ("%m [%p] ", "> 2015-11-05 01:53:20.012 CET [42] "),
            ("%t%%%n é", "> 2015-11-05 01:53:20 CET%1446684800.012 é"),
            ("", "> "),
        ] {
            assert_eq!(appended(format).as_deref(), Some(expected));
        }
        for format in ["%u", "%m %l", "%5p", "%", "%z"] {
            assert_eq!(appended(format), None, "{format}");
        }
    }

    #[test]
    fn what_is_not_as_simple_is_left_to_postgresql() {
        for format in ["%10m", "%-5t", "%3n", "%", "a%", "%12"] {
            assert_eq!(filled(format), None, "{format}");
        }
    }
}
