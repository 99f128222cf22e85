//! What audit records say. How they are written: [`crate::core::audit::form`].

mod blanks;
pub mod changes;
pub mod form;
pub mod label;
mod legacy;
pub mod log_prefix;
pub mod redact;
pub mod trail;
mod uam;

use crate::core::audit::changes::AccessChange;
use crate::core::identity::{Bearer, Identity, RoleName};
use crate::core::time::Timestamp;
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt::{self, Formatter};
use std::hash::{Hash, Hasher};
use std::rc::Rc;
use uuid::Uuid;

/// Longest text of a statement in a record, in bytes; what is longer is cut.
pub const MAX_TEXT_BYTES: usize = 64 * 1024;

/// Most objects that are named in one record.
pub const MAX_OBJECTS: usize = 256;

/// Ids of records: unique, and without asking the system for randomness each time (RFC 9562, version 8: 64 random bits
/// of the process, then a counter).
pub struct Ids {
    process: u64,
    count: u64,
}

impl Ids {
    pub fn new(random: u64) -> Ids {
        Ids { process: random, count: 0 }
    }

    pub fn next(&mut self) -> Uuid {
        self.count = self.count.wrapping_add(1);
        let high = self.process.to_be_bytes();
        let low = (self.count ^ self.process.rotate_left(17)).to_be_bytes();
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high);
        bytes[8..].copy_from_slice(&low);
        uuid::Builder::from_custom_bytes(bytes).into_uuid()
    }
}

/// What is the same for all records of a session, until roles or databases change.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// Tells it from others that the session had before.
    pub number: u64,
    /// As `%c` in `log_line_prefix`.
    pub id: String,
    pub cluster: String,
    pub database: String,
    pub impersonator: String,
    pub client_address: Option<String>,
}

impl Hash for Session {
    fn hash<H: Hasher>(&self, to: &mut H) {
        self.number.hash(to);
    }
}

/// Who is impersonated, and how.
#[derive(Clone, Debug, Hash)]
pub struct Impersonated {
    pub identity: Rc<Identity>,
    pub mapped_role: Rc<RoleName>,
    pub provider: &'static str,
    pub scope: &'static str,
    /// Who uses the token, where that says so.
    pub bearer: Option<Rc<Bearer>>,
}

/// Privileges that a statement needs on an object (`acl.h`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Access(pub u32);

impl Access {
    const NAMES: [(u32, &'static str); 11] = [
        (1 << 1, "SELECT"),
        (1 << 0, "INSERT"),
        (1 << 2, "UPDATE"),
        (1 << 3, "DELETE"),
        (1 << 4, "TRUNCATE"),
        (1 << 5, "REFERENCES"),
        (1 << 7, "EXECUTE"),
        (1 << 27, "LOCK"),
        (1 << 28, "CREATE"),
        (1 << 29, "ALTER"),
        (1 << 30, "DROP"),
    ];
    pub const EXECUTE: Access = Access(1 << 7);
    pub const CREATE: Access = Access(1 << 28);
    pub const ALTER: Access = Access(1 << 29);
    pub const DROP: Access = Access(1 << 30);
}

impl Serialize for Access {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(Access::NAMES.iter().filter(|(bit, _)| self.0 & bit != 0).map(|(_, name)| name))
    }
}

/// An object that a statement accessed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Object {
    pub id: u32,
    /// In capitals: TABLE, VIEW, FUNCTION …
    pub kind: Cow<'static, str>,
    /// Qualified by its schema.
    pub name: Rc<str>,
    pub access: Access,
    /// Of a relation: those that are read or written; empty where no column counts.
    pub columns: Vec<Rc<str>>,
    /// Those of them of which the user sees masks.
    pub masked: Vec<Rc<str>>,
}

impl Object {
    /// Relations are data sources; what else a statement accessed is not.
    fn is_data_source(&self) -> bool {
        matches!(&*self.kind, "TABLE" | "PARTITIONED_TABLE" | "VIEW" | "MATERIALIZED_VIEW" | "FOREIGN_TABLE")
    }
}

/// The objects of one statement, each named once.
#[derive(Clone, Debug, Default, Hash)]
pub struct Objects {
    named: Vec<Object>,
    is_cut: bool,
}

impl Objects {
    pub const fn new() -> Objects {
        Objects { named: Vec::new(), is_cut: false }
    }

    pub fn add(&mut self, accessed: Object) {
        let is_full = self.named.len() >= MAX_OBJECTS;
        match self.named.iter_mut().find(|known| known.id == accessed.id && known.kind == accessed.kind) {
            Some(known) => {
                known.access.0 |= accessed.access.0;
                for (columns, more) in
                    [(&mut known.columns, accessed.columns), (&mut known.masked, accessed.masked)]
                {
                    for column in more {
                        if !columns.contains(&column) {
                            columns.push(column);
                        }
                    }
                }
            }
            None if is_full => self.is_cut = true,
            None => self.named.push(accessed),
        }
    }

    /// Leaves out what comes with a relation: the type of its rows and the arrays of a type.
    pub fn without_companions(&mut self) {
        let relations: Vec<_> =
            self.named.iter().filter(|o| o.kind != "TYPE").map(|o| Rc::clone(&o.name)).collect();
        self.named.retain(|object| {
            object.kind != "TYPE" || !object.name.ends_with("[]") && !relations.contains(&object.name)
        });
    }

    pub fn list(&self) -> &[Object] {
        &self.named
    }

    /// Whether there were more than [`MAX_OBJECTS`].
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }
}

/// How a statement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    Success,
    /// With this SQLSTATE, where it is known.
    Failure(Option<SqlState>),
}

/// Five characters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    /// PostgreSQL packs the five characters six bits each (`MAKE_SQLSTATE`).
    pub fn unpacked(packed: i32) -> SqlState {
        let mut state = [b'0'; 5];
        for (at, character) in state.iter_mut().enumerate() {
            *character = b'0' + ((packed >> (6 * at)) & 0x3f) as u8;
        }
        SqlState(state)
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }

    /// Whether it says that somebody lacks a right: class 28, 42501.
    pub fn is_denial(&self) -> bool {
        self.0.starts_with(b"28") || self.0 == *b"42501"
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, to: &mut Formatter) -> fmt::Result {
        to.write_str(self.text())
    }
}

impl Serialize for SqlState {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.text())
    }
}

/// The text of a statement, as a record shows it.
#[derive(Debug)]
pub struct Text {
    pub shown: String,
    /// At [`MAX_TEXT_BYTES`].
    pub is_cut: bool,
    /// More of it than `bodata.audit_query_text` asks for, because it may hold a secret.
    pub is_masked: bool,
}

/// A statement that is over.
#[derive(Debug)]
pub struct CompletedStatement {
    /// None where `bodata.audit_query_text` says so.
    pub text: Option<Text>,
    /// Command tag; empty where only the error was seen.
    pub command: &'static str,
    /// 0 for none.
    pub query_id: i64,
    pub objects: Objects,
    pub depth: u32,
    pub outcome: Outcome,
    /// Code in DETAIL, where an error of ours ended it.
    pub reason: Option<&'static str>,
}

/// Its text and the id of its query are another in each record.
impl Hash for CompletedStatement {
    fn hash<H: Hasher>(&self, to: &mut H) {
        let text = self.text.as_ref().map(|text| (text.is_cut, text.is_masked));
        (text, self.query_id != 0, self.command, self.depth, self.outcome, self.reason).hash(to);
        self.objects.hash(to);
    }
}

/// What a record is about.
#[derive(Debug, Hash)]
pub enum What<'a> {
    Statement(&'a CompletedStatement),
    Started,
    /// Code in DETAIL, SQLSTATE.
    Refused(&'static str, SqlState),
    /// With a transaction: whether that was committed, and what made that fail.
    Ended(bool, Outcome),
    /// A transaction of an impersonation that outlasts it ended, likewise.
    Transaction(bool, Outcome),
    /// The session ended its impersonation.
    Left,
    /// Somebody's access changes as the transaction commits.
    Changed(&'a AccessChange),
}

/// One record, without what is another in each.
#[derive(Hash)]
pub struct Record<'a> {
    pub session: &'a Session,
    /// None where nobody is impersonated, because that was refused.
    pub actor: Option<&'a Impersonated>,
    /// Whom a refused token was for, where that is known.
    pub candidate: Option<&'a Identity>,
    pub application: &'a str,
    pub what: What<'a>,
}

/// What is another in each record.
#[derive(Clone, Copy)]
pub struct Values {
    pub id: Uuid,
    pub at: Timestamp,
    /// As `%v` in `log_line_prefix`: numbers of the process and of its transaction.
    pub virtual_transaction: (i32, u32),
    /// 0 for none.
    pub transaction: u32,
    /// Of a statement; when it began, ended, and the microseconds for which it was busy.
    pub begun: Timestamp,
    pub ended: Timestamp,
    pub active: i64,
    pub rows: u64,
    /// Of an impersonation that ended: how many there were.
    pub statements: u64,
}

impl Record<'_> {
    pub fn identity(&self) -> Option<&Identity> {
        self.actor.map(|actor| &*actor.identity).or(self.candidate)
    }

    pub fn outcome(&self) -> Outcome {
        match &self.what {
            What::Statement(statement) => statement.outcome,
            What::Started | What::Left | What::Changed(_) => Outcome::Success,
            What::Refused(_, state) => Outcome::Failure(Some(*state)),
            What::Ended(_, outcome) | What::Transaction(_, outcome) => *outcome,
        }
    }

    /// Whether it says that something went well.
    pub fn is_success(&self) -> bool {
        self.outcome() == Outcome::Success
    }

    /// SQLSTATE of what went wrong.
    pub fn error_code(&self) -> Option<SqlState> {
        match self.outcome() {
            Outcome::Success => None,
            Outcome::Failure(state) => state,
        }
    }

    /// Code in DETAIL of an error of ours.
    pub fn reason(&self) -> Option<&'static str> {
        match &self.what {
            What::Statement(statement) => statement.reason,
            What::Refused(code, _) => Some(code),
            _ => None,
        }
    }

    /// Of a statement, as far as it is shown.
    pub fn text(&self) -> &str {
        match &self.what {
            What::Statement(CompletedStatement { text: Some(text), .. }) => &text.shown,
            _ => "",
        }
    }

    pub fn query_id(&self) -> i64 {
        match &self.what {
            What::Statement(statement) => statement.query_id,
            _ => 0,
        }
    }

    /// What a statement accessed.
    pub fn objects(&self) -> &[Object] {
        match &self.what {
            What::Statement(statement) => statement.objects.list(),
            _ => &[],
        }
    }

    /// Those that it is about.
    pub fn sources(&self) -> impl Iterator<Item = &Object> {
        let changed = match &self.what {
            What::Changed(change) => change.source.as_ref(),
            _ => None,
        };
        self.objects().iter().filter(|object| object.is_data_source()).chain(changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SELECT: Access = Access(1 << 1);

    fn table(name: &str, access: Access, columns: &[&str]) -> Object {
        let columns = columns.iter().map(|&name| name.into()).collect();
        Object { id: 42, kind: "TABLE".into(), name: name.into(), access, columns, masked: Vec::new() }
    }

    #[test]
    fn ids_differ() {
        let mut ids = Ids::new(u64::MAX);
        let mut other = Ids::new(1);
        let made: std::collections::HashSet<_> = (0..1000).flat_map(|_| [ids.next(), other.next()]).collect();
        assert_eq!(made.len(), 2000);
    }

    #[test]
    fn sqlstates_are_unpacked() {
        // MAKE_SQLSTATE('4','2','5','0','1')
        let packed = b"42501".iter().rev().fold(0, |packed, c| packed << 6 | i32::from(c - b'0'));
        assert_eq!(SqlState::unpacked(packed), SqlState(*b"42501"));
    }

    #[test]
    fn what_comes_with_a_relation_goes_without_saying() {
        let mut objects = Objects::default();
        let object =
            |id, kind: &'static str, name| Object { id, kind: kind.into(), ..table(name, Access::CREATE, &[]) };
        for made in [
            object(1, "TYPE", "a.t"),
            object(2, "TYPE", "a.t[]"),
            object(3, "TABLE", "a.t"),
            object(4, "TYPE", "a.u"),
        ] {
            objects.add(made);
        }
        objects.without_companions();
        assert_eq!(objects.list().iter().map(|o| o.id).collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn objects_are_limited() {
        let mut objects = Objects::default();
        for id in 0..1000 {
            objects.add(Object { id, ..table("t", SELECT, &[]) });
        }
        assert_eq!(objects.list().len(), MAX_OBJECTS);
        assert!(objects.is_cut() && !Objects::default().is_cut());
    }
}
