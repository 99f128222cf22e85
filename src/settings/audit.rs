//! Audit records: what is in them, and where they go.

use crate::core::audit::form::Format;
use crate::files;
use crate::pg::guc::{Changes, Choice, Number, Setting, Switch, Text, TextCheck, WordSet, Words};
use crate::pg::shared;
use crate::settings::read::{OneLine, bytes, milliseconds, text};
use crate::settings::settings;
use pgrx::PostgresGucEnum;
use pgrx::guc::{GucFlags, GucSetting};
use std::ffi::CString;
use std::marker::PhantomData;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

/// A place for audit records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    Log,
    File,
    Table,
}

impl Sink {
    pub const fn bit(self) -> u32 {
        1 << self as u32
    }

    pub fn name(self) -> &'static str {
        match self {
            Sink::Log => "server log",
            Sink::File => "audit file",
            Sink::Table => "audit table",
        }
    }
}

/// Values of `bodata.audit_format`.
#[derive(Clone, Copy, PostgresGucEnum)]
enum AuditFormat {
    #[name = c"uam"]
    Uam,
    #[name = c"legacy"]
    Legacy,
}

/// Values of `bodata.audit_query_text`.
#[derive(Clone, Copy, PartialEq, Eq, PostgresGucEnum)]
pub enum QueryText {
    #[name = c"full"]
    Full,
    #[name = c"normalized"]
    Normalized,
    #[name = c"none"]
    None,
}

/// The sinks of audit records, in the order of [`Sink`].
struct SinkNames;

impl WordSet for SinkNames {
    const WORDS: &'static [&'static str] = &["log", "file", "table"];

    fn bits() -> &'static AtomicU32 {
        &SINKS
    }

    fn fault(bits: u32) -> Option<&'static str> {
        let lacks_memory = bits & Sink::Table.bit() != 0 && !shared::will_be_shared();
        lacks_memory.then_some("The table needs immuta_ext in shared_preload_libraries.")
    }
}

/// A file that can be made, or appended to.
struct AuditFile;

impl TextCheck for AuditFile {
    fn check(path: &str) -> Result<(), String> {
        files::fault_of_log(path).map_or(Ok(()), |fault| Err(format!("The file {fault}.")))
    }
}

/// Bits of the sinks that are set.
static SINKS: AtomicU32 = AtomicU32::new(0);

settings! {
    /// Where audit records go; bits of [`Sink`].
    AUDIT_SINK: Words<SinkNames> = Setting {
        name: c"bodata.audit_sink",
        value: GucSetting::<Option<CString>>::new(Some(c"log")),
        kind: Words(PhantomData),
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Where audit records go: log, file, table, or several of them.",
        details: c"Empty: there are none.",
    };

    /// How records are written to the log and to the file; the table always has the universal audit model.
    AUDIT_FORMAT: Choice<AuditFormat> = Setting {
        name: c"bodata.audit_format",
        value: GucSetting::<AuditFormat>::new(AuditFormat::Uam),
        kind: Choice(PhantomData),
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Format of audit records in the log and in the file.",
        details: c"uam: Immuta's universal audit model; legacy: its older query record.",
    };

    /// How much of a statement's text is on record: all, without its literals, nothing.
    AUDIT_QUERY_TEXT: Choice<QueryText> = Setting {
        name: c"bodata.audit_query_text",
        value: GucSetting::<QueryText>::new(QueryText::Full),
        kind: Choice(PhantomData),
        changes: Changes::Nothing,
        is_shown: true,
        what: c"How much of a statement's text an audit record holds.",
        details: c"full; normalized: without literals; none.",
    };

    /// Whether statements inside functions have records of their own.
    AUDIT_NESTED: Switch = Setting {
        name: c"bodata.audit_nested",
        value: GucSetting::<bool>::new(false),
        kind: Switch,
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Whether statements inside functions have audit records of their own.",
        details: c"",
    };

    /// Whether impersonated work stops when a record cannot be written where it should go. By default it goes on, and the
    /// record goes to the server's log.
    AUDIT_REQUIRED: Switch = Setting {
        name: c"bodata.audit_required",
        value: GucSetting::<bool>::new(false),
        kind: Switch,
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Whether impersonated work stops when an audit record cannot be written.",
        details: c"Off: the record goes to the server log instead.",
    };

    /// The file, below the data directory unless its path is absolute.
    AUDIT_FILE: Text<AuditFile> = Setting {
        name: c"bodata.audit_file",
        value: GucSetting::<Option<CString>>::new(Some(c"immuta_audit.jsonl")),
        kind: Text(PhantomData),
        changes: Changes::Nothing,
        is_shown: false,
        what: c"File for audit records.",
        details: c"Below the data directory unless the path is absolute.",
    };

    /// What `application_name` becomes while a user is impersonated, so that ordinary log lines (`%a`) and
    /// `pg_stat_activity` name them. Empty: it stays as it is.
    APPLICATION_NAME_TEMPLATE: Text<OneLine> = Setting {
        name: c"bodata.application_name_template",
        value: GucSetting::<Option<CString>>::new(Some(c"")),
        kind: Text(PhantomData),
        changes: Changes::Nothing,
        is_shown: true,
        what: c"What application_name becomes while a user is impersonated.",
        details: c"{application_name}, {userid}, {iamid} and {role} are replaced. Empty: it stays as it is.",
    };

    /// When the next file is begun: kilobytes and minutes; 0 for never.
    AUDIT_FILE_MAX_SIZE: Number = Setting {
        name: c"bodata.audit_file_max_size",
        value: GucSetting::<i32>::new(100 * 1024),
        kind: Number { least: 0, most: i32::MAX, unit: GucFlags::UNIT_KB },
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Size at which the next audit file is begun; 0: never.",
        details: c"",
    };

    AUDIT_FILE_MAX_AGE: Number = Setting {
        name: c"bodata.audit_file_max_age",
        value: GucSetting::<i32>::new(24 * 60),
        kind: Number { least: 0, most: 366 * 24 * 60, unit: GucFlags::UNIT_MIN },
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Age at which the next audit file is begun; 0: never.",
        details: c"",
    };

    /// Kilobytes that may wait to be written to the table, in each database.
    AUDIT_QUEUE_SIZE: Number = Setting {
        name: c"bodata.audit_queue_size",
        value: GucSetting::<i32>::new(64 * 1024),
        kind: Number { least: 64, most: 1024 * 1024, unit: GucFlags::UNIT_KB },
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Audit records that may wait to be written to the table.",
        details: c"",
    };

    /// How long, in milliseconds, a statement waits for room in the queue before its record goes to the log.
    AUDIT_QUEUE_WAIT: Number = Setting {
        name: c"bodata.audit_queue_wait",
        value: GucSetting::<i32>::new(1000),
        kind: Number { least: 0, most: 60_000, unit: GucFlags::UNIT_MS },
        changes: Changes::Nothing,
        is_shown: true,
        what: c"How long a statement waits for room in the queue of audit records.",
        details: c"",
    };

    /// Days for which the table keeps records; 0 for ever.
    AUDIT_RETENTION: Number = Setting {
        name: c"bodata.audit_retention",
        value: GucSetting::<i32>::new(90),
        kind: Number { least: 0, most: 36_500, unit: GucFlags::empty() },
        changes: Changes::Nothing,
        is_shown: true,
        what: c"Days for which the audit table keeps records; 0: for ever.",
        details: c"",
    };
}

/// Bits of the sinks that are set.
pub fn audit_sinks() -> u32 {
    SINKS.load(Relaxed)
}

pub fn audit_format() -> Format {
    match AUDIT_FORMAT.get() {
        AuditFormat::Uam => Format::Uam,
        AuditFormat::Legacy => Format::Legacy,
    }
}

pub fn audit_query_text() -> QueryText {
    AUDIT_QUERY_TEXT.get()
}

pub fn audit_nested() -> bool {
    AUDIT_NESTED.get()
}

pub fn audit_required() -> bool {
    AUDIT_REQUIRED.get()
}

pub fn audit_file() -> String {
    text(&AUDIT_FILE)
}

/// In bytes.
pub fn audit_file_max_size() -> u64 {
    bytes(&AUDIT_FILE_MAX_SIZE)
}

pub fn audit_file_max_age() -> Duration {
    Duration::from_secs(60 * u64::try_from(AUDIT_FILE_MAX_AGE.get()).unwrap_or(0))
}

/// In bytes.
pub fn audit_queue_size() -> u64 {
    bytes(&AUDIT_QUEUE_SIZE)
}

pub fn audit_queue_wait() -> Duration {
    milliseconds(&AUDIT_QUEUE_WAIT)
}

/// None if `application_name` stays as it is.
pub fn application_name_template() -> Option<String> {
    (!APPLICATION_NAME_TEMPLATE.is_empty()).then(|| text(&APPLICATION_NAME_TEMPLATE))
}
