//! What is another in each record: blanks in a form, and how they are filled.

use crate::core::audit::{Record, Values, label};
use crate::core::time::Timestamp;
use serde::{Serialize, Serializer};

/// A value that is another in each record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hole {
    Id,
    At,
    Milliseconds,
    Month,
    VirtualTransaction,
    Transaction,
    Begun,
    Ended,
    Active,
    Rows,
    Statements,
    Query,
    QueryId,
}

pub(super) const HOLES: [Hole; 13] = [
    Hole::Id,
    Hole::At,
    Hole::Milliseconds,
    Hole::Month,
    Hole::VirtualTransaction,
    Hole::Transaction,
    Hole::Begun,
    Hole::Ended,
    Hole::Active,
    Hole::Rows,
    Hole::Statements,
    Hole::Query,
    Hole::QueryId,
];

/// What stands for a hole while a form is made: nobody outside this process can guess it, so no text of a user can
/// hold it.
pub(super) struct Blanks(pub(super) String);

pub(super) struct Blank(String);

impl Blanks {
    pub(super) fn of(&self, hole: Hole) -> Blank {
        Blank(format!("{}{}", self.0, char::from(b'a' + hole as u8)))
    }
}

impl Serialize for Blank {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl Hole {
    /// Nothing is written that could be taken for a record: see [`label`].
    pub(super) fn fill(self, record: &Record, values: &Values, clock: &mut Clock, line: &mut Vec<u8>) {
        match self {
            Hole::Id => quoted(line, values.id.hyphenated().encode_lower(&mut [0; 36]).as_bytes()),
            Hole::At => quoted(line, clock.iso(values.at)),
            Hole::Milliseconds => quoted(line, itoa::Buffer::new().format(values.at.to_unix_millis()).as_bytes()),
            Hole::Month => number(line, month_since_1900(values.at)),
            Hole::VirtualTransaction => {
                line.push(b'"');
                number(line, values.virtual_transaction.0);
                line.push(b'/');
                number(line, values.virtual_transaction.1);
                line.push(b'"');
            }
            Hole::Transaction if values.transaction == 0 => line.extend_from_slice(b"null"),
            Hole::Transaction => number(line, values.transaction),
            Hole::Begun => quoted(line, clock.iso(values.begun)),
            Hole::Ended => quoted(line, clock.iso(values.ended)),
            // Milliseconds, of which the last three digits are parts.
            Hole::Active => {
                number(line, values.active / 1000);
                line.push(b'.');
                line.extend_from_slice(&digits::<3>(values.active % 1000));
            }
            Hole::Rows => number(line, values.rows),
            Hole::Statements => number(line, values.statements),
            Hole::Query => {
                let begin = line.len();
                // A Vec takes everything.
                let _ = serde_json::to_writer(&mut *line, record.text());
                if label::is_in(&line[begin..]) {
                    let escaped = label::escaped(&line[begin..]);
                    line.truncate(begin);
                    line.extend_from_slice(&escaped);
                }
            }
            Hole::QueryId => quoted(line, itoa::Buffer::new().format(record.query_id()).as_bytes()),
        }
    }
}

pub(super) fn quoted(line: &mut Vec<u8>, text: &[u8]) {
    line.push(b'"');
    line.extend_from_slice(text);
    line.push(b'"');
}

pub(super) fn number(line: &mut Vec<u8>, number: impl itoa::Integer) {
    line.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// The last `N` digits of a number that is not negative.
pub fn digits<const N: usize>(mut number: i64) -> [u8; N] {
    let mut digits = [b'0'; N];
    for digit in digits.iter_mut().rev() {
        *digit += (number % 10) as u8;
        number /= 10;
    }
    digits
}

/// Dates and times in UTC, to the microsecond (RFC 3339).
#[derive(Default)]
pub(super) struct Clock {
    /// The second since 1970 that was written last, with its fraction.
    second: i64,
    iso: Vec<u8>,
}

impl Clock {
    /// Most times that are written are of the second of the one before.
    pub(super) fn iso(&mut self, at: Timestamp) -> &[u8] {
        const SECONDS: usize = "2000-01-01T00:00:00".len();
        let micros = at.to_unix_micros();
        let second = micros.div_euclid(1_000_000);
        if self.iso.is_empty() || self.second != second {
            let civil = jiff::Timestamp::from_second(second).unwrap_or_default();
            self.second = second;
            self.iso = civil.strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string().into_bytes();
        }
        if let Some(fraction) = self.iso.get_mut(SECONDS + 1..SECONDS + 7) {
            fraction.copy_from_slice(&digits::<6>(micros.rem_euclid(1_000_000)));
        }
        &self.iso
    }
}

pub(super) fn month_since_1900(at: Timestamp) -> i64 {
    let civil = jiff::Timestamp::from_microsecond(at.to_unix_micros()).unwrap_or_default();
    let date = civil.to_zoned(jiff::tz::TimeZone::UTC).date();
    (i64::from(date.year()) - 1900) * 12 + i64::from(date.month())
}
