//! Where records go: the server's log, a file, a queue for the table `immuta.audit_log`.
//!
//! Nothing is lost: a record that its sink does not take goes to the server's log instead. Where
//! `bodata.audit_required` is on, no impersonated work goes on before the sink takes it after all.

use crate::audit::file::{Appender, Rotation};
use crate::core::audit::form::{Format, Forms, in_ascii};
use crate::core::audit::{Record, Values};
use crate::error::Error;
use crate::pg::job::writer;
use crate::pg::sys::inject::{self, Point};
use crate::pg::sys::{clock, raw, report, text, wait};
use crate::pg::{catalog, log, shared};
use crate::settings::{self, Sink};
use std::cell::RefCell;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Below the data directory, which is where server processes are.
const QUEUES: &str = "immuta_audit_queue";

#[derive(Default)]
struct Sinks {
    forms: Option<Forms>,
    file: Option<Appender>,
    queue: Option<Appender>,
    /// What a sink has not taken, and is to take before anything else is done.
    owed: Option<(Sink, Vec<u8>)>,
    /// When it was last reported that a sink does not work.
    reported: Option<Instant>,
}

thread_local! {
    static SINKS: RefCell<Sinks> = RefCell::default();
}

#[cfg(feature = "inject")]
pub fn state() -> bool {
    SINKS.with_borrow(|sinks| sinks.owed.is_none())
}

/// Refuses impersonated work while a record could not be written that is required to be.
pub fn check() -> Result<(), Error> {
    let _uninterrupted = wait::Uninterrupted::begin();
    SINKS.with_borrow_mut(|sinks| {
        let Some((sink, line)) = sinks.owed.take() else { return Ok(()) };
        if !settings::audit_required() || settings::audit_sinks() & sink.bit() == 0 {
            return Ok(());
        }
        sinks.put(sink, &line, true).map_err(|_| {
            sinks.owed = Some((sink, line));
            Error::AuditUnavailable
        })
    })
}

/// Writes a record to every sink that is set. An error only where `bodata.audit_required` makes it one.
pub fn write(record: &Record, values: &Values) -> Result<(), Error> {
    let wanted = settings::audit_sinks();
    shared::counters().audit_records.fetch_add(1, Relaxed);
    // PostgreSQL serves interrupts whenever it has logged something: a record is in all sinks or in none.
    let _uninterrupted = wait::Uninterrupted::begin();
    inject::point(Point::RecordCounted);
    SINKS.with_borrow_mut(|sinks| {
        let mut owed = None;
        let mut uam = None;
        if wanted & (Sink::Log.bit() | Sink::File.bit()) != 0 {
            let format = settings::audit_format();
            let line = sinks.line(record, values, format);
            if wanted & Sink::Log.bit() != 0 {
                log::audit(&line);
                inject::point(Point::RecordLogged);
            }
            if wanted & Sink::File.bit() != 0 {
                owed = sinks.offer(Sink::File, &line, record);
                inject::point(Point::RecordFiled);
            }
            uam = (format == Format::Uam).then_some(line);
        }
        if wanted & Sink::Table.bit() != 0 {
            let line = uam.unwrap_or_else(|| sinks.line(record, values, Format::Uam));
            owed = sinks.offer(Sink::Table, &line, record).or(owed);
            inject::point(Point::RecordQueued);
        }
        match owed {
            Some(owed) if settings::audit_required() => {
                sinks.owed = Some(owed);
                Err(Error::AuditUnavailable)
            }
            _ => Ok(()),
        }
    })
}

impl Sinks {
    /// A record as a line, with its end.
    fn line(&mut self, record: &Record, values: &Values, format: Format) -> Vec<u8> {
        let secret = || u128::from(clock::random()) << 64 | u128::from(clock::random());
        let mut line = self.forms.get_or_insert_with(|| Forms::new(secret())).line(record, values, format);
        line.push(b'\n');
        line
    }

    /// Gives a line to a sink, or else to the log; what is owed then.
    fn offer(&mut self, sink: Sink, line: &[u8], record: &Record) -> Option<(Sink, Vec<u8>)> {
        // After an error and while a transaction ends there is no waiting.
        let may_wait = record.is_success() && raw::IsTransactionState();
        let error = self.put(sink, line, may_wait).err()?;
        shared::counters().audit_fallbacks.fetch_add(1, Relaxed);
        if settings::audit_sinks() & Sink::Log.bit() == 0 {
            log::audit(line);
        }
        const PAUSE: Duration = Duration::from_secs(60);
        if self.reported.is_none_or(|last| last.elapsed() >= PAUSE) {
            self.reported = Some(Instant::now());
            report::log(
                format!(
                    "audit records go to the server log, because the {} does not take them: {error}",
                    sink.name()
                ),
                "See bodata.audit_sink and bodata.audit_required.",
            );
        }
        Some((sink, line.to_vec()))
    }

    fn put(&mut self, sink: Sink, line: &[u8], may_wait: bool) -> io::Result<()> {
        match sink {
            Sink::Log => {
                log::audit(line);
                Ok(())
            }
            Sink::File => self.put_in_file(line),
            Sink::Table => self.put_in_queue(line, may_wait),
        }
    }

    fn put_in_file(&mut self, line: &[u8]) -> io::Result<()> {
        let path = PathBuf::from(settings::audit_file());
        if self.file.as_ref().is_none_or(|file| file.path() != path) {
            self.file = Some(Appender::new(path));
        }
        let rotation = Rotation { bytes: settings::audit_file_max_size(), age: settings::audit_file_max_age() };
        match &mut self.file {
            Some(file) => file.log(line, rotation),
            None => Err(ErrorKind::NotFound.into()),
        }
    }

    /// Waits for room in the queue up to `bodata.audit_queue_wait`, where that is possible.
    fn put_in_queue(&mut self, line: &[u8], may_wait: bool) -> io::Result<()> {
        if self.queue.is_none() {
            if clock::is_standby() {
                return Err(io::Error::other("a standby writes no table"));
            }
            let store = Store::of(catalog::database());
            store.create()?;
            self.queue = Some(Appender::new(store.queue()));
        }
        let Some(queue) = &mut self.queue else { return Err(ErrorKind::NotFound.into()) };
        let plain = if text::is_utf8() { None } else { Some(in_ascii(line)) };
        let line = plain.as_deref().unwrap_or(line);
        let mut waited_since = None;
        // An empty queue takes a line of any length: one that is longer than the queue would never fit.
        while shared::backlog() > 0 && shared::backlog() + line.len() as u64 > settings::audit_queue_size() {
            wake_writer();
            let since = *waited_since.get_or_insert_with(Instant::now);
            let goes_on = may_wait && since.elapsed() < settings::audit_queue_wait();
            if !goes_on || !wait::nap(Duration::from_millis(5)) {
                return Err(io::Error::other("its queue is full"));
            }
        }
        queue.queue(line)?;
        shared::add_to_backlog(line.len() as u64);
        wake_writer();
        Ok(())
    }
}

/// The queue of one database: a file that sessions append to, and files that its writer took for storing.
pub struct Store {
    folder: PathBuf,
}

impl Store {
    pub fn of(database: u32) -> Store {
        Store { folder: PathBuf::from(QUEUES).join(database.to_string()) }
    }

    fn create(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)
    }

    fn queue(&self) -> PathBuf {
        self.folder.join("queue")
    }

    /// Puts what is in the queue with the files that are to be stored, unless it has less than `least` bytes.
    fn take(&self, least: u64) -> io::Result<bool> {
        // Names are times in digits, all of the same length.
        let path = self.folder.join(format!("{:020}.taken", clock::wall_time()));
        Appender::new(self.queue()).take(&path, least)
    }

    /// The files that are to be stored, oldest first.
    fn taken(&self) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "taken") {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }

    /// Stores what waits, in transactions of so many records. Whether there was anything. A file is removed once all
    /// of it is stored; after a crash it is stored once more, and the ids of its records tell what is there already.
    pub fn store_some(&self) -> io::Result<bool> {
        const BATCH: usize = 500;
        // While one file is stored the next is taken in time: the smaller they are, the sooner there is room again.
        const ENOUGH: u64 = 1024 * 1024;
        if !self.folder.is_dir() {
            return Ok(false);
        }
        let mut files = self.taken()?;
        if files.is_empty() && self.take(1)? {
            files = self.taken()?;
        }
        for path in &files {
            let content = fs::read(path)?;
            let lines: Vec<&[u8]> = content.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
            for batch in lines.chunks(BATCH) {
                let whole: Vec<String> = batch.iter().filter_map(|line| record_in(line)).collect();
                if whole.len() < batch.len() {
                    report::log(
                        format!("{} damaged audit records could not be stored", batch.len() - whole.len()),
                        "The disk may have been full, or the server have crashed with its machine.",
                    );
                }
                writer::store(&whole);
                shared::counters().audit_stored.fetch_add(whole.len() as u64, Relaxed);
                self.take(ENOUGH)?;
            }
            fs::remove_file(path)?;
            shared::take_from_backlog(content.len() as u64);
        }
        Ok(!files.is_empty())
    }

    fn bytes(&self) -> u64 {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|about| about.len()).sum()
    }
}

/// A line that is a whole record.
fn record_in(line: &[u8]) -> Option<String> {
    serde_json::from_slice::<serde::de::IgnoredAny>(line).ok()?;
    String::from_utf8(line.to_vec()).ok()
}

/// Bytes that wait to be stored in the table of this database.
pub fn queue_bytes() -> u64 {
    Store::of(catalog::database()).bytes()
}

/// Launches the writer of this database, if it is not there.
pub fn wake_writer() {
    let database = catalog::database();
    if shared::needs_writer(database) {
        // If there is no free slot now, somebody tries again later.
        let _ = writer::launch(database);
    }
}
