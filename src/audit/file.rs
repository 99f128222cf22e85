//! A file to which all sessions append lines: whole lines, one after the other, never lost to another session's
//! rotation.
//!
//! Each line is one write under a lock of the file. Whoever has the lock looks first whether the file is still the
//! one that the path names: somebody may have rotated it.

use std::fs::{self, File, Metadata, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// How long to wait for the lock: others hold it for one write.
const PATIENCE: Duration = Duration::from_secs(1);

/// When a file is full, or old enough, for the next one. 0 stands for never.
#[derive(Clone, Copy, Default)]
pub struct Rotation {
    pub bytes: u64,
    pub age: Duration,
}

pub struct Appender {
    path: PathBuf,
    open: Option<(File, u64)>,
}

impl Appender {
    pub fn new(path: PathBuf) -> Appender {
        Appender { path, open: None }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a line to the log file, which is renamed first if it is time for that.
    pub fn log(&mut self, line: &[u8], rotation: Rotation) -> io::Result<()> {
        let locked = self.lock()?;
        if rotation.is_due(&locked.about, line.len()) {
            fs::rename(locked.path, unused_name(locked.path)?)?;
            drop(locked);
            return self.lock()?.write(line);
        }
        locked.write(line)
    }

    /// Appends a line to the queue.
    pub fn queue(&mut self, line: &[u8]) -> io::Result<()> {
        self.lock()?.write(line)
    }

    /// Takes all lines out of the queue, by renaming it to `taken`. `false` if it has less than `least` bytes.
    pub fn take(&mut self, taken: &Path, least: u64) -> io::Result<bool> {
        if !fs::metadata(&self.path).is_ok_and(|about| about.len() >= least) {
            return Ok(false);
        }
        let locked = self.lock()?;
        fs::rename(locked.path, taken)?;
        drop(locked);
        self.open = None;
        Ok(true)
    }

    /// The file that the path names, made if it is missing, locked.
    fn lock(&mut self) -> io::Result<Locked<'_>> {
        let begun = Instant::now();
        let about = loop {
            if self.open.is_none() {
                self.open = Some(open(&self.path)?);
            }
            let Some((file, inode)) = &self.open else { continue };
            match file.try_lock() {
                Ok(()) => match fs::metadata(&self.path) {
                    Ok(about) if about.ino() == *inode => break about,
                    // Renamed or removed meanwhile; closing it gives the lock back.
                    _ => self.open = None,
                },
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_micros(50)),
                Err(TryLockError::Error(error)) if error.kind() == ErrorKind::Interrupted => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if begun.elapsed() > PATIENCE {
                return Err(ErrorKind::TimedOut.into());
            }
        };
        match &self.open {
            Some((file, _)) => Ok(Locked { file, path: &self.path, about }),
            None => Err(ErrorKind::NotFound.into()),
        }
    }
}

/// A file whose lock is held until this is dropped.
struct Locked<'a> {
    file: &'a File,
    path: &'a Path,
    /// As it is while nobody else has the lock.
    about: Metadata,
}

impl Locked<'_> {
    /// All of the line or nothing: what a full disk took of it is taken back.
    fn write(&self, line: &[u8]) -> io::Result<()> {
        let mut file = self.file;
        file.write_all(line).inspect_err(|_| {
            let _ = self.file.set_len(self.about.len());
        })
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let _ = self.file.unlock();
    }
}

impl Rotation {
    fn is_due(&self, about: &Metadata, added: usize) -> bool {
        let is_full = self.bytes > 0 && about.len() > 0 && about.len() + added as u64 > self.bytes;
        let is_old = !self.age.is_zero()
            && about.len() > 0
            && about.created().is_ok_and(|created| created.elapsed().is_ok_and(|age| age >= self.age));
        is_full || is_old
    }
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    // Looked at before it is opened: opening a named pipe would wait for its reader.
    if fs::metadata(path).is_ok_and(|about| !about.is_file()) {
        return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
    }
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
    let inode = file.metadata()?.ino();
    Ok((file, inode))
}

/// The path with the time appended, and a number if there is such a file already.
fn unused_name(path: &Path) -> io::Result<PathBuf> {
    let now = jiff::Timestamp::try_from(SystemTime::now()).unwrap_or_default();
    let stamp = now.strftime("%Y%m%dT%H%M%S");
    for number in 0..10_000 {
        let mut name = path.as_os_str().to_owned();
        name.push(if number == 0 { format!(".{stamp}") } else { format!(".{stamp}-{number}") });
        let candidate = PathBuf::from(name);
        if !candidate.exists() {
            return Ok(candidate);
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A folder of this test, removed with it.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Folder {
            let path = std::env::temp_dir().join(format!("immuta_ext-{}-{name}", std::process::id()));
            assert!(fs::create_dir_all(&path).is_ok());
            Folder(path)
        }

        fn files(&self) -> Vec<PathBuf> {
            let entries = fs::read_dir(&self.0).into_iter().flatten();
            entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect()
        }

        fn lines(&self) -> usize {
            self.files().iter().map(|path| fs::read_to_string(path).unwrap_or_default().lines().count()).sum()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn only_the_server_may_read_it() {
        let folder = Folder::new("mode");
        let path = folder.0.join("audit");
        assert!(Appender::new(path.clone()).log(b"a\n", Rotation::default()).is_ok());
        assert_eq!(fs::metadata(&path).map(|about| about.permissions().mode() & 0o777).ok(), Some(0o600));
    }

    #[test]
    fn a_full_file_makes_place_for_the_next() {
        let folder = Folder::new("rotation");
        let path = folder.0.join("audit");
        let (mut one, mut other) = (Appender::new(path.clone()), Appender::new(path));
        let rotation = Rotation { bytes: 100, age: Duration::ZERO };
        for _ in 0..50 {
            assert!(one.log(b"0123456789\n", rotation).is_ok() && other.log(b"0123456789\n", rotation).is_ok());
        }
        assert_eq!(folder.lines(), 100);
        assert!(folder.files().len() >= 10);
        assert!(folder.files().iter().all(|path| fs::metadata(path).is_ok_and(|about| about.len() <= 100)));
    }

    #[test]
    fn an_old_file_makes_place_for_the_next() {
        let folder = Folder::new("age");
        let path = folder.0.join("audit");
        let mut appender = Appender::new(path);
        let rotation = Rotation { bytes: 0, age: Duration::from_millis(20) };
        assert!(appender.log(b"a\n", rotation).is_ok());
        std::thread::sleep(Duration::from_millis(40));
        assert!(appender.log(b"b\n", rotation).is_ok());
        assert_eq!((folder.files().len(), folder.lines()), (2, 2));
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let folder = Folder::new("moved");
        let path = folder.0.join("audit");
        let mut appender = Appender::new(path.clone());
        assert!(appender.log(b"a\n", Rotation::default()).is_ok());
        assert!(fs::rename(&path, folder.0.join("old")).is_ok());
        assert!(appender.log(b"b\n", Rotation::default()).is_ok());
        assert_eq!(fs::read_to_string(&path).ok().as_deref(), Some("b\n"));
    }

    #[test]
    fn nothing_is_lost_or_torn_between_many_writers_and_a_taker() {
        let folder = Folder::new("many");
        let path = folder.0.join("queue");
        let line = [&[b'x'; 999][..], b"\n"].concat();
        let writers: Vec<_> = (0..4)
            .map(|_| {
                let (path, line) = (path.clone(), line.clone());
                std::thread::spawn(move || {
                    let mut appender = Appender::new(path);
                    (0..250).filter(|_| appender.queue(&line).is_ok()).count()
                })
            })
            .collect();
        let mut taker = Appender::new(path.clone());
        let mut number = 0;
        while writers.iter().any(|writer| !writer.is_finished()) {
            number += 1;
            assert!(taker.take(&folder.0.join(format!("taken-{number}")), 1).is_ok());
        }
        let written: usize = writers.into_iter().map(|writer| writer.join().unwrap_or(0)).sum();
        assert_eq!((written, folder.lines()), (1000, 1000));
        let whole = |path: &PathBuf| fs::read_to_string(path).unwrap_or_default().lines().all(|l| l.len() == 999);
        assert!(folder.files().iter().all(whole));
    }

    #[test]
    fn a_path_that_is_no_file_is_an_error() {
        assert!(Appender::new("/".into()).log(b"a\n", Rotation::default()).is_err());
        assert!(Appender::new("/nonexistent/audit".into()).log(b"a\n", Rotation::default()).is_err());
    }
}
