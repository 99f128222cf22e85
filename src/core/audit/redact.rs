//! Taking secrets out of texts that are about to be shown or logged.
//!
//! SQL is read with the lexical rules of PostgreSQL (documentation, section 4.1): every literal becomes a mask, the
//! rest stays. Where the rules leave a doubt, all that follows is masked.

use memchr::{memchr2_iter, memchr3_iter};
use std::ops::Range;

pub const MASK: &str = "********";

/// Words that announce a secret: the parameter that carries the token, and our functions that take a token, an API
/// key or a password.
const MARKERS: [&str; 7] = [
    "impersonation_token",
    "authenticate",
    "set_password",
    "check_token",
    "revoke_token",
    "active_token",
    "explain_token",
];

/// Whether statements of a command hold passwords, of roles or for other servers.
pub fn takes_password(command: &str) -> bool {
    matches!(
        command,
        "CREATE ROLE"
            | "ALTER ROLE"
            | "CREATE USER MAPPING"
            | "ALTER USER MAPPING"
            | "CREATE SUBSCRIPTION"
            | "ALTER SUBSCRIPTION"
    )
}

/// Whether a text speaks of a password, as a statement that sets one does wherever it stands: in the body of a function, in
/// a text that one executes, in options and connection strings.
pub fn speaks_of_password(text: &[u8]) -> bool {
    const WORD: &str = "password";
    // Its rarest letter, which a library finds faster than all of the word.
    const RARE: usize = 4;
    memchr2_iter(b'w', b'W', text).any(|at| {
        let begin = at.wrapping_sub(RARE);
        is_at(text, begin, WORD) && !text.get(begin + WORD.len()).is_some_and(|&after| is_word(after))
    })
}

/// Whether there is nothing in a text but blanks and comments.
pub fn is_blank(text: &[u8]) -> bool {
    let mut rest = text.trim_ascii_start();
    while !rest.is_empty() {
        let mut comment = Redaction { text: rest, at: 0, shown: Vec::new() };
        let is_whole = match rest {
            [b'-', b'-', ..] => comment.line_comment(),
            [b'/', b'*', ..] => comment.block_comment(),
            _ => None,
        };
        if is_whole.is_none() {
            return false;
        }
        rest = rest[comment.at..].trim_ascii_start();
    }
    true
}

/// Whether a text may hold a secret.
pub fn is_sensitive(text: &[u8]) -> bool {
    // BEGIN and COMMIT are half of many transactions.
    if text.len() < SHORTEST {
        return false;
    }
    // One pass, as fast as a library is, to the few places where a marker may be.
    memchr3_iter(b'_', b'h', b'H', text).any(|at| {
        matches!(text.get(at + 1), Some(b't' | b'T' | b'p' | b'P' | b'e' | b'E'))
            && MARKERS.iter().any(|marker| is_at(text, at.wrapping_sub(rare(marker)), marker))
    })
}

/// The length of the shortest marker.
const SHORTEST: usize = {
    let (mut shortest, mut at) = (usize::MAX, 0);
    while at < MARKERS.len() {
        if MARKERS[at].len() < shortest {
            shortest = MARKERS[at].len();
        }
        at += 1;
    }
    shortest
};

/// The place in a marker of the letter that [`is_sensitive`] looks for.
const fn rare(marker: &str) -> usize {
    let mut at = 0;
    while !matches!(marker.as_bytes()[at], b'_' | b'h') {
        at += 1;
    }
    at
}

/// Whether a word is at this place of a text, or of none.
fn is_at(text: &[u8], at: usize, word: &str) -> bool {
    text.get(at..)
        .and_then(|text| text.get(..word.len()))
        .is_some_and(|found| found.eq_ignore_ascii_case(word.as_bytes()))
}

/// An SQL text without its literals and quoted names, and without the value that is given to the token parameter.
pub fn statement(text: &[u8]) -> Vec<u8> {
    normalized(text).0
}

/// How what other libraries log of a statement begins: pgAudit, auto_explain.
const PGAUDIT: &[u8] = b"AUDIT: ";
const AUTO_EXPLAIN: &[u8] = b"duration: ";

/// Whether a message of whatever level reports a statement, and is no user's text.
pub fn is_report(message: &[u8]) -> bool {
    message.starts_with(PGAUDIT) || message.starts_with(AUTO_EXPLAIN)
}

/// A logged message as [`statement`] masks it. pgAudit's is comma-separated, values of parameters stand in it without any
/// quote: of its fields all are masked from the name of the object on.
pub fn logged(message: &[u8]) -> Vec<u8> {
    // Kind, number of the statement and within it, class, command.
    const SHOWN: usize = 5;
    if !message.starts_with(PGAUDIT) {
        return statement(message);
    }
    let mut commas = message.iter().enumerate().filter(|&(_, &byte)| byte == b',');
    let end = commas.nth(SHOWN - 1).map_or(PGAUDIT.len(), |(at, _)| at + 1);
    [&message[..end], MASK.as_bytes()].concat()
}

/// The same as [`statement`], and whether a doubt masked more than that: all that followed.
pub fn normalized(text: &[u8]) -> (Vec<u8>, bool) {
    Redaction { text, at: 0, shown: Vec::with_capacity(text.len()) }.run()
}

/// Which statements of a text may hold a secret, as ranges of positions. Those count characters from 1, as positions
/// of errors do; where characters are longer than bytes, all of the text counts.
pub fn sensitive_ranges(text: &[u8]) -> Vec<Range<usize>> {
    if !text.is_ascii() {
        return is_sensitive(text).then_some(0..usize::MAX).into_iter().collect();
    }
    let mut begin = 1;
    let mut ranges = Vec::new();
    for statement in text.split(|&byte| byte == b';') {
        let end = begin + statement.len() + 1;
        if is_sensitive(statement) {
            ranges.push(begin..end);
        }
        begin = end;
    }
    ranges
}

/// A message that quotes SQL, or words of it: everything from the first apostrophe to the last is masked, with
/// `words` also everything between the first quotation mark and the last.
pub fn message(text: &[u8], words: bool) -> Vec<u8> {
    let masked = between(text, b'\'');
    if words { between(&masked, b'"') } else { masked }
}

fn between(text: &[u8], quote: u8) -> Vec<u8> {
    let first = text.iter().position(|&byte| byte == quote);
    let last = text.iter().rposition(|&byte| byte == quote);
    match (first, last) {
        // Whose function is missing in this database is no secret.
        (Some(first), Some(last)) if text.get(first + 1..last) != Some(b"immuta") => {
            let end = if last > first { &text[last..] } else { &[] };
            [&text[..=first], MASK.as_bytes(), end].concat()
        }
        _ => text.to_vec(),
    }
}

struct Redaction<'a> {
    text: &'a [u8],
    at: usize,
    shown: Vec<u8>,
}

impl Redaction<'_> {
    fn run(mut self) -> (Vec<u8>, bool) {
        while let Some(&byte) = self.text.get(self.at) {
            let whole = match byte {
                b'\'' => self.literal(),
                b'"' => self.identifier(),
                b'$' => self.dollar_quoted(),
                b'-' if self.rest().starts_with(b"--") => self.line_comment(),
                b'/' if self.rest().starts_with(b"/*") => self.block_comment(),
                _ if is_word(byte) => self.word(),
                _ => self.show(1),
            };
            if whole.is_none() {
                self.shown.extend(MASK.as_bytes());
                return (self.shown, true);
            }
        }
        (self.shown, false)
    }

    fn rest(&self) -> &[u8] {
        &self.text[self.at..]
    }

    fn show(&mut self, count: usize) -> Option<()> {
        let end = self.at.saturating_add(count).min(self.text.len());
        self.shown.extend(&self.text[self.at..end]);
        self.at = end;
        Some(())
    }

    /// A literal; `None` if where it ends depends on settings, or nowhere. Its prefix was shown as a word.
    fn literal(&mut self) -> Option<()> {
        let is_escaped = matches!(self.shown.as_slice(), [.., b'e' | b'E'])
            && !matches!(self.shown.as_slice(), [.., before, _] if is_word(*before));
        self.shown.push(b'\'');
        let mut at = self.at + 1;
        loop {
            match self.text.get(at)? {
                b'\\' if is_escaped => at += 2,
                b'\\' if self.text.get(at + 1) == Some(&b'\'') => return None,
                b'\'' if self.text.get(at + 1) == Some(&b'\'') => at += 2,
                b'\'' => break,
                _ => at += 1,
            }
        }
        self.shown.extend(MASK.as_bytes());
        self.shown.push(b'\'');
        self.at = at + 1;
        Some(())
    }

    /// A quoted name: an application that quotes in the wrong way puts a secret there.
    fn identifier(&mut self) -> Option<()> {
        let end = self.rest().iter().skip(1).position(|&byte| byte == b'"')?;
        self.shown.extend([b"\"", MASK.as_bytes(), b"\""].concat());
        self.at += end + 2;
        Some(())
    }

    /// `$tag$ … $tag$`, or a parameter like `$1`.
    fn dollar_quoted(&mut self) -> Option<()> {
        let rest = self.rest();
        let Some(tag_end) = rest.iter().skip(1).position(|&byte| byte == b'$') else { return self.show(1) };
        let tag = &rest[..tag_end + 2];
        let inner = &tag[1..tag.len() - 1];
        if !inner.iter().all(|&byte| is_word(byte)) || inner.first().is_some_and(u8::is_ascii_digit) {
            return self.show(1);
        }
        let body = &rest[tag.len()..];
        let end = body.windows(tag.len()).position(|part| part == tag)?;
        let shown = [tag, MASK.as_bytes(), tag].concat();
        self.at += end + 2 * tag.len();
        self.shown.extend(shown);
        Some(())
    }

    fn line_comment(&mut self) -> Option<()> {
        let end = self.rest().iter().position(|&byte| byte == b'\n').unwrap_or(self.rest().len());
        self.shown.extend(b"--");
        self.at += end;
        Some(())
    }

    /// Block comments nest.
    fn block_comment(&mut self) -> Option<()> {
        let (mut depth, mut at) = (0u32, self.at);
        loop {
            let rest = self.text.get(at..).filter(|rest| !rest.is_empty())?;
            if rest.starts_with(b"/*") {
                (depth, at) = (depth + 1, at + 2);
            } else if rest.starts_with(b"*/") {
                (depth, at) = (depth - 1, at + 2);
            } else {
                at += 1;
            }
            if depth == 0 {
                break;
            }
        }
        self.shown.extend(b"/**/");
        self.at = at;
        Some(())
    }

    /// A word; if it is the token parameter that is given a value, that is masked up to the end of the statement.
    fn word(&mut self) -> Option<()> {
        let length = self.rest().iter().position(|&byte| !is_word(byte)).unwrap_or(self.rest().len());
        let is_parameter = self.rest()[..length].eq_ignore_ascii_case(MARKERS[0].as_bytes());
        self.show(length)?;
        if is_parameter { self.value() } else { Some(()) }
    }

    fn value(&mut self) -> Option<()> {
        let Some(blank) = self.rest().iter().position(|byte| !byte.is_ascii_whitespace()) else { return Some(()) };
        let given = &self.rest()[blank..];
        let operator = match given {
            [b'=', ..] => 1,
            [b't' | b'T', b'o' | b'O', after, ..] if !is_word(*after) => 2,
            _ => return Some(()),
        };
        self.show(blank + operator)?;
        self.shown.push(b' ');
        if self.rest().trim_ascii_start().first() == Some(&b'\'') {
            self.at += self.rest().iter().position(|&byte| byte == b'\'')?;
            return self.literal();
        }
        // Anything else: a name, a number, a mistake.
        self.shown.extend(MASK.as_bytes());
        let end = self.rest().iter().position(|&byte| byte == b';').unwrap_or(self.rest().len());
        self.at += end;
        Some(())
    }
}

/// Bytes of words, of other encodings' letters, too.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redacted(text: &str) -> String {
        String::from_utf8_lossy(&statement(text.as_bytes())).into_owned()
    }

    #[test]
    fn secrets_announce_themselves() {
        for text in [
            "SET LOCAL bodata.Impersonation_Token = 'x'",
            "SELECT immuta.authenticate('u', 'p')",
            "SELECT immuta.authenticate_api_key('k')",
            "select immuta.SET_PASSWORD('u', 'p')",
            "parameters: $1 = 'bodata.impersonation_token', $2 = 'x'",
        ] {
            assert!(is_sensitive(text.as_bytes()), "{text}");
        }
        assert!(!is_sensitive(b"SELECT 'token' FROM t") && !is_sensitive(b""));
    }

    #[test]
    fn markers_are_found_wherever_they_are() {
        for marker in MARKERS {
            for text in [marker.to_owned(), marker.to_uppercase(), format!("x_h{marker}_h")] {
                assert!(is_sensitive(text.as_bytes()), "{text}");
            }
            for part in [&marker[1..], &marker[..marker.len() - 1]] {
                assert!(!is_sensitive(part.as_bytes()), "{part}");
            }
        }
    }

    #[test]
    fn literals_go_and_the_rest_stays() {
        for (text, shown) in [
            (
                "SET LOCAL bodata.impersonation_token = 's3cret'",
                "SET LOCAL bodata.impersonation_token = '********'",
            ),
            (
                "SET LOCAL bodata.impersonation_token TO 's3cret'; SELECT a",
                "SET LOCAL bodata.impersonation_token TO '********'; SELECT a",
            ),
            (
                "SET bodata.impersonation_token=s3cret; SELECT a",
                "SET bodata.impersonation_token= ********; SELECT a",
            ),
            ("SET bodata.impersonation_token = \"s3cret\"", "SET bodata.impersonation_token = ********"),
            ("SET bodata.impersonation_token = abc-s3cret", "SET bodata.impersonation_token = ********"),
            ("SHOW bodata.impersonation_token", "SHOW bodata.impersonation_token"),
            (
                "SELECT set_config('a', E's3\\'cret', true), \"b'\" FROM c",
                "SELECT set_config('********', E'********', true), \"********\" FROM c",
            ),
            (
                "SELECT 'a''s3cret', $$s3cret$$, $x$s3'$$cret$x$, $1, a$b",
                "SELECT '********', $$********$$, $x$********$x$, $1, a$b",
            ),
            ("SELECT 1 -- s3cret\n, 2 /* s3cret /* x */ s3cret */ + 3", "SELECT 1 --\n, 2 /**/ + 3"),
            ("SELECT type 's3cret', date's3cret'", "SELECT type '********', date'********'"),
        ] {
            assert_eq!(redacted(text), shown);
            assert!(!normalized(text.as_bytes()).1, "{text}");
        }
    }

    #[test]
    fn passwords_are_spoken_of_by_their_name() {
        for text in
            ["ALTER ROLE a Password 'x'", "DO $$ ... PASSWORD %L $$", "'host=a password=x'", "(sslpassword 'x')"]
        {
            assert!(speaks_of_password(text.as_bytes()), "{text}");
        }
        for text in ["SELECT password_hash FROM t", "SELECT passwords", "p", ""] {
            assert!(!speaks_of_password(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn comments_are_blank() {
        for text in ["", " \n", "/* a */", "-- a; b\n", " /* a /* b */ c */ -- d\n /**/ "] {
            assert!(is_blank(text.as_bytes()), "{text}");
        }
        for text in ["SELECT 1;", "/* a */ SELECT 1; /* b */", "/* a", ";"] {
            assert!(!is_blank(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn what_pgaudit_says_ends_with_the_command() {
        for (message, shown) in [
            (
                "AUDIT: SESSION,1,1,READ,SELECT,TABLE,a.b,SELECT $1,s3cret",
                "AUDIT: SESSION,1,1,READ,SELECT,********",
            ),
            ("AUDIT: OBJECT,1,1,MISC,SET,,,\"SET a = 's3cret'\",<none>", "AUDIT: OBJECT,1,1,MISC,SET,********"),
            ("AUDIT: s3cret", "AUDIT: ********"),
            ("statement: SELECT 's3cret'", "statement: SELECT '********'"),
        ] {
            assert_eq!(String::from_utf8_lossy(&logged(message.as_bytes())), shown);
        }
        assert!(is_report(b"AUDIT: SESSION,1") && is_report(b"duration: 1 ms  plan:") && !is_report(b"x AUDIT: "));
    }

    #[test]
    fn where_there_is_doubt_all_that_follows_goes() {
        for text in [
            "SELECT 's3cret",
            "SELECT 'a\\'s3cret' s3cret",
            "SELECT E'a\\'s3cret",
            "SELECT $x$s3cret",
            "SELECT /* s3cret",
            "SELECT \"s3cret",
            "SET bodata.impersonation_token = 's3cret",
            "SET bodata.impersonation_token = s3cret",
            "SET bodata.impersonation_token = $$s3cret$$",
        ] {
            assert!(!redacted(text).contains("cret"), "{}", redacted(text));
            assert!(normalized(text.as_bytes()).1 || text.starts_with("SET"), "{text}");
        }
    }

    #[test]
    fn messages_lose_what_they_quote() {
        let show = |text: &str, words| String::from_utf8_lossy(&message(text.as_bytes(), words)).into_owned();
        assert_eq!(show("SQL statement \"SELECT f('a', 'b')\"", false), "SQL statement \"SELECT f('********')\"");
        assert_eq!(show("at or near \"s3cret\"", true), "at or near \"********\"");
        assert_eq!(show("column \"a\" does not exist", false), "column \"a\" does not exist");
        assert_eq!(show("schema \"immuta\" does not exist", true), "schema \"immuta\" does not exist");
        assert_eq!(show("it's3cret", false), "it'********");
        assert_eq!(show("", true), "");
    }

    #[test]
    fn an_error_elsewhere_in_the_message_is_no_secret() {
        let text = b"BEGIN; SET LOCAL bodata.impersonation_token = abc; SELECT nothing";
        let ranges =
            |text: &[u8]| sensitive_ranges(text).into_iter().map(|range| (range.start, range.end)).next_back();
        assert_eq!(ranges(text), Some((7, 51)));
        assert_eq!(&text[7 - 1..51 - 1], b" SET LOCAL bodata.impersonation_token = abc;");
        assert_eq!(ranges("SET impersonation_token = é; SELECT x".as_bytes()), Some((0, usize::MAX)));
        assert!(sensitive_ranges(b"SELECT 1").is_empty() && sensitive_ranges("SELECT é".as_bytes()).is_empty());
    }

    #[test]
    fn no_text_of_whatever_bytes_makes_it_stumble() {
        let alphabet = b"'\"$-/*\\eE;=ab1 \xff_\n";
        let mut state = 1u32;
        for _ in 0..20_000 {
            let text: Vec<u8> = (0..state % 24)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    alphabet[(state >> 16) as usize % alphabet.len()]
                })
                .collect();
            state = state.wrapping_add(1);
            let _ = (statement(&text), message(&text, true), is_sensitive(&text));
        }
    }
}
