//! How audit records are written: JSON, one object to a line.
//!
//! Two formats: the universal audit model of Immuta (`uam`), and its older query record (`legacy`). The order of the
//! fields is that of the structures here; `docs/audit-*.schema.json` describe both.
//!
//! Most of a record is the same each time a user accesses the same objects. That part is made once and kept as a form with
//! blanks for what is another in each record: times, counts, ids, the text of the statement. No line holds what could be
//! taken for the beginning of another ([`label`]).

use crate::core::audit::blanks::{Blanks, Clock, HOLES, Hole};
use crate::core::audit::label;
use crate::core::audit::legacy::Legacy;
use crate::core::audit::uam::Uam;
use crate::core::audit::{Record, Values};
use foldhash::quality::RandomState;
use lru::LruCache;
use memchr::memmem;
use std::hash::BuildHasher;
use std::num::NonZero;

/// Most forms that are kept, and most bytes of one.
const FORMS: NonZero<usize> = NonZero::<usize>::MIN.saturating_add(511);
const MAX_FORM_BYTES: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    Uam,
    Legacy,
}

/// A record with holes: text, hole, text, hole, …, text.
struct Form {
    texts: Vec<Box<[u8]>>,
    holes: Vec<Hole>,
    /// Of all texts together, and of what stood for the holes: no hole needs more but the text of a statement.
    length: usize,
}

/// Writes records.
pub struct Forms {
    blanks: Blanks,
    keys: RandomState,
    known: LruCache<u64, Form>,
    clock: Clock,
}

impl Forms {
    /// `secret` is a number that nobody outside this process can guess.
    pub fn new(secret: u128) -> Forms {
        Forms {
            blanks: Blanks(format!("{secret:032x}")),
            keys: RandomState::default(),
            known: LruCache::new(FORMS),
            clock: Clock::default(),
        }
    }

    /// The record as one line of JSON, without its end.
    pub fn line(&mut self, record: &Record, values: &Values, format: Format) -> Vec<u8> {
        let key = self.keys.hash_one((record, format));
        if let Some(form) = self.known.get(&key) {
            return form.fill(record, values, &mut self.clock);
        }
        let form = self.form(record, format);
        let line = form.fill(record, values, &mut self.clock);
        if form.length <= MAX_FORM_BYTES {
            self.known.put(key, form);
        }
        line
    }

    fn form(&self, record: &Record, format: Format) -> Form {
        let made = match format {
            Format::Uam => serde_json::to_string(&Uam::of(record, &self.blanks)),
            Format::Legacy => serde_json::to_string(&Legacy::of(record, &self.blanks)),
        };
        // Nothing here can fail: all keys are texts, and a String takes everything.
        debug_assert!(made.is_ok());
        let made = label::escaped(made.unwrap_or_default().as_bytes());
        let mut form = Form { texts: Vec::new(), holes: Vec::new(), length: made.len() };
        let mut from = 0;
        for at in memmem::find_iter(&made, &self.blanks.0) {
            let letter = made.get(at + self.blanks.0.len()).map(|letter| letter.wrapping_sub(b'a'));
            if let Some(hole) = letter.and_then(|letter| HOLES.get(usize::from(letter))) {
                // Without the quotation marks: not every value is a text.
                form.texts.push(made[from..at - 1].into());
                form.holes.push(*hole);
                from = at + self.blanks.0.len() + 2;
            }
        }
        form.texts.push(made[from..].into());
        form
    }
}

impl Form {
    fn fill(&self, record: &Record, values: &Values, clock: &mut Clock) -> Vec<u8> {
        // A little more than the text: quotes in it, and the end of the line.
        let length = self.length + record.text().len() * 9 / 8;
        let mut line = Vec::with_capacity(length);
        let mut holes = self.holes.iter();
        for text in &self.texts {
            line.extend_from_slice(text);
            if let Some(hole) = holes.next() {
                hole.fill(record, values, clock, &mut line);
            }
        }
        line
    }
}

/// A line of JSON with every letter beyond ASCII escaped, so that it is the same in all encodings.
pub fn in_ascii(line: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(line.len());
    for letter in String::from_utf8_lossy(line).chars() {
        if letter.is_ascii() {
            plain.push(letter as u8);
        } else {
            let mut units = [0; 2];
            for unit in letter.encode_utf16(&mut units) {
                plain.extend(format!("\\u{unit:04x}").into_bytes());
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::audit::blanks::month_since_1900;
    use crate::core::audit::{Access, Object, Outcome, SqlState, What};
    use crate::core::audit::{CompletedStatement, Ids, Impersonated, Objects, Session, Text};
    use crate::core::identity::{Actor, Bearer, Identity, RoleName};
    use crate::core::time::Timestamp;
    use std::rc::Rc;

    const SELECT: Access = Access(1 << 1);

    fn session() -> Session {
        Session {
            number: 1,
            id: "65a1.2b".into(),
            cluster: "main".into(),
            database: "immuta".into(),
            impersonator: "svc".into(),
            client_address: None,
        }
    }

    fn named(role: &str) -> Rc<RoleName> {
        Rc::new(RoleName { in_utf8: role.into(), ..RoleName::default() })
    }

    fn actor() -> Impersonated {
        let identity = Identity { iamid: "bim".into(), userid: "ali\"ce".into() };
        Impersonated {
            identity: Rc::new(identity),
            mapped_role: named("alice"),
            provider: "local",
            scope: "transaction",
            bearer: None,
        }
    }

    fn table(name: &str, access: Access, columns: &[&str]) -> Object {
        let columns = columns.iter().map(|&name| name.into()).collect();
        Object { id: 42, kind: "TABLE".into(), name: name.into(), access, columns, masked: Vec::new() }
    }

    fn values() -> Values {
        Values {
            id: Ids::new(7).next(),
            at: Timestamp(500_000_000_000_001),
            virtual_transaction: (3, 7),
            transaction: 0,
            begun: Timestamp(500_000_000_000_000),
            ended: Timestamp(500_000_000_001_500),
            active: 1500,
            rows: 2,
            statements: 3,
        }
    }

    fn record<'a>(session: &'a Session, actor: &'a Impersonated, what: What<'a>) -> Record<'a> {
        let is_refused = matches!(what, What::Refused(..));
        Record { session, actor: (!is_refused).then_some(actor), candidate: None, application: "app", what }
    }

    fn json(what: What, format: Format) -> serde_json::Value {
        let (session, actor) = (session(), actor());
        let line = Forms::new(1).line(&record(&session, &actor, what), &values(), format);
        serde_json::from_slice(&line).unwrap_or_default()
    }

    fn statement(outcome: Outcome) -> CompletedStatement {
        let mut objects = Objects::default();
        objects.add(table("app.flights", SELECT, &["id"]));
        let masked = vec!["delay".into()];
        objects.add(Object { masked, ..table("app.flights", Access(1 << 2), &["id", "delay"]) });
        CompletedStatement {
            text: Some(Text {
                shown: "UPDATE app.flights SET delay = 0 RETURNING id".into(),
                is_cut: false,
                is_masked: false,
            }),
            command: "UPDATE",
            query_id: -5,
            objects,
            depth: 0,
            outcome,
            reason: None,
        }
    }

    #[test]
    fn a_query_in_the_universal_model() {
        let shown = json(What::Statement(&statement(Outcome::Success)), Format::Uam);
        assert_eq!(shown["action"], "QUERY");
        assert_eq!(shown["actionStatus"], "SUCCESS");
        assert_eq!(shown["eventTimestamp"], "2015-11-05T00:53:20.000001Z");
        assert_eq!(shown["actor"]["id"], "ali\"ce");
        assert_eq!(shown["actor"]["impersonatedBy"], "svc");
        assert_eq!(shown["targets"][0]["name"], "app.flights");
        let payload = &shown["auditPayload"];
        assert_eq!(payload["type"], "QueryAuditPayload");
        assert_eq!(payload["queryId"], "-5");
        assert_eq!(payload["duration"], 1.5);
        let accessed = &payload["objectsAccessed"][0];
        assert_eq!(accessed["accessType"], serde_json::json!(["SELECT", "UPDATE"]));
        assert_eq!(accessed["columns"], serde_json::json!([{"name": "id"}, {"name": "delay"}]));
        assert_eq!(accessed["maskedColumns"], serde_json::json!([{"name": "delay"}]));
    }

    #[test]
    fn denials_are_told_from_failures() {
        let of = |state: &[u8; 5]| {
            json(What::Statement(&statement(Outcome::Failure(Some(SqlState(*state))))), Format::Uam)
        };
        assert_eq!(of(b"42501")["actionStatus"], "UNAUTHORIZED");
        assert_eq!(of(b"28000")["actionStatus"], "UNAUTHORIZED");
        assert_eq!(of(b"22012")["actionStatus"], "FAILURE");
        assert_eq!(of(b"22012")["auditPayload"]["errorCode"], "22012");
    }

    #[test]
    fn events_of_the_impersonation_itself() {
        let shown = json(What::Refused("IMPERSONATION_TOKEN_INVALID", SqlState(*b"28000")), Format::Uam);
        assert_eq!(shown["actionStatusReason"], "IMPERSONATION_TOKEN_INVALID");
        assert_eq!(shown["actor"]["id"], serde_json::Value::Null);
        let payload = &json(What::Ended(false, Outcome::Success), Format::Uam)["auditPayload"];
        assert_eq!(payload["event"], "ENDED");
        assert_eq!(payload["transactionOutcome"], "ROLLBACK");
        assert_eq!(payload["statements"], 3);
    }

    #[test]
    fn the_older_record() {
        let shown = json(What::Statement(&statement(Outcome::Success)), Format::Legacy);
        assert_eq!(shown["dateTime"], "1446684800000");
        assert_eq!(shown["month"], (2015 - 1900) * 12 + 11);
        assert_eq!(shown["userId"], "ali\"ce");
        assert_eq!(shown["extra"]["impersonationUser"], "svc");
        assert_eq!(shown["dataSourceTableName"], "app.flights");
        assert_eq!(shown["recordType"], "nativeQuery");
        assert_eq!(json(What::Started, Format::Legacy)["extra"]["event"], "impersonationStarted");
    }

    #[test]
    fn a_line_in_ascii_says_the_same() {
        let line = "{\"name\":\"José 💾 \\n\"}".as_bytes();
        let plain = in_ascii(line);
        assert!(plain.is_ascii());
        let parsed = |text: &[u8]| serde_json::from_slice::<serde_json::Value>(text).ok();
        assert_eq!(parsed(&plain), parsed(line));
        assert!(parsed(line).is_some());
    }

    #[test]
    fn a_form_serves_again_with_other_values() {
        let (session, actor, statement) = (session(), actor(), statement(Outcome::Success));
        let mut forms = Forms::new(1);
        let first_record = record(&session, &actor, What::Statement(&statement));
        for format in [Format::Uam, Format::Legacy] {
            let first = forms.line(&first_record, &values(), format);
            assert_eq!(forms.line(&first_record, &values(), format), first);
            let later = Values { rows: 77, transaction: 5, at: Timestamp(1), begun: Timestamp(-1), ..values() };
            let parse = |line: &[u8]| serde_json::from_slice::<serde_json::Value>(line).unwrap_or_default();
            let (again, anew) =
                (forms.line(&first_record, &later, format), Forms::new(2).line(&first_record, &later, format));
            assert_eq!(parse(&again), parse(&anew));
            assert_ne!(parse(&again), parse(&first));
            assert_ne!(parse(&again), serde_json::Value::Null);
        }
        assert_eq!(forms.known.len(), 2);
        let texts = ["SELECT \"1\"", "AUDIT: {AUDIT: {", ""];
        for text in texts {
            let text = Some(Text { shown: text.into(), is_cut: false, is_masked: false });
            let other = CompletedStatement { text, query_id: 7, ..self::statement(Outcome::Success) };
            let line = forms.line(&record(&session, &actor, What::Statement(&other)), &values(), Format::Uam);
            let shown = serde_json::from_slice::<serde_json::Value>(&line).unwrap_or_default();
            assert_eq!(shown["auditPayload"]["query"], other.text.map(|text| text.shown).unwrap_or_default());
            assert_eq!(shown["auditPayload"]["queryId"], "7");
            assert!(!label::is_in(&line));
        }
        assert_eq!(forms.known.len(), 2, "texts and ids of queries are no matter of a form");
        let other = Impersonated { mapped_role: named("bob"), ..actor.clone() };
        forms.line(&record(&session, &other, What::Statement(&statement)), &values(), Format::Uam);
        assert_eq!(forms.known.len(), 3);
    }

    #[test]
    fn who_uses_a_token_is_on_record() {
        let named = |id: &str| Actor { id: id.into(), issuer: (id == "agent").then(|| "https://id".into()) };
        let bearer = Bearer {
            token_id: Some("t-1".into()),
            client: Some("app".into()),
            actors: vec![named("agent"), named("service")],
        };
        let (session, actor) = (session(), Impersonated { bearer: Some(Rc::new(bearer)), ..actor() });
        let written = |format| {
            let line = Forms::new(1).line(&record(&session, &actor, What::Started), &values(), format);
            serde_json::from_slice::<serde_json::Value>(&line).unwrap_or_default()
        };
        let expected = serde_json::json!({"id": "agent", "issuer": "https://id", "chain": ["service"]});
        for part in [&written(Format::Uam)["actor"], &written(Format::Legacy)["extra"]] {
            assert_eq!(part["actingParty"], expected);
            assert_eq!((&part["clientId"], &part["tokenId"]), (&"app".into(), &"t-1".into()));
        }
    }

    #[test]
    fn times_are_written_to_the_microsecond() {
        let mut clock = Clock::default();
        for (at, shown) in [
            (0, "2000-01-01T00:00:00.000000Z"),
            (1, "2000-01-01T00:00:00.000001Z"),
            (-1, "1999-12-31T23:59:59.999999Z"),
            (999_999, "2000-01-01T00:00:00.999999Z"),
            (86_400_000_000, "2000-01-02T00:00:00.000000Z"),
        ] {
            assert_eq!(clock.iso(Timestamp(at)), shown.as_bytes());
        }
        assert_eq!(month_since_1900(Timestamp(0)), 1201);
    }
}
