//! A container's log file in the form the kubelet reads:
//! `<RFC3339Nano> <stdout|stderr> <P|F> <content>` and LF, one record a line.
//!
//! Whole records are gathered and written with few `write(2)` calls; the file is opened for
//! appending, so a rotation by rename and [`ContainerLog::reopen`] loses nothing.

mod frame;
mod stamp;

use std::io;
use std::path::PathBuf;

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

pub(crate) use frame::{Framer, Tag};

use crate::journal::Journal;

/// Records are written once this many bytes are gathered; more than one longest record.
const BATCH: usize = 24 << 10;

/// Which of a process's outputs a record came from. A terminal is one stream: stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// The memory records are gathered in; one for the whole shim.
#[derive(Debug, Default)]
pub(crate) struct Batch(Vec<u8>);

/// One container's log.
#[derive(Debug)]
pub(crate) struct ContainerLog {
    path: PathBuf,
    file: OwnedFd,
    /// The last write stopped inside a record: the next one starts with LF, so that only the torn
    /// line is unreadable.
    torn: bool,
    /// Failed writes since the last successful one.
    failures: u64,
}

impl ContainerLog {
    /// Opens or makes the file; call it in the mount namespace where `path` means something.
    ///
    /// # Errors
    /// The kernel's, or `InvalidInput` when the path is no regular file.
    pub(crate) fn open(path: PathBuf) -> io::Result<Self> {
        let file = open(&path)?;
        Ok(Self { path, file, torn: false, failures: 0 })
    }

    /// Opens the path anew (the old file was renamed away). On failure the old file stays in use.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.file = open(&self.path)?;
        self.torn = false;
        Ok(())
    }

    /// Where the log is, for messages.
    pub(crate) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Frames `input`, read from `stream` at `now`, and writes every record it completes.
    pub(crate) fn append(
        &mut self,
        framer: &mut Framer,
        (stream, now): (Stream, i64),
        input: &[u8],
        batch: &mut Batch,
        journal: &Journal,
    ) {
        let mut records = Records::new(self, batch, stream, now, journal);
        framer.push(input, &mut |tag, content| records.add(tag, content));
        records.write();
    }

    /// Writes what `framer` still holds: the stream has ended.
    pub(crate) fn finish(
        &mut self,
        framer: &mut Framer,
        (stream, now): (Stream, i64),
        batch: &mut Batch,
        journal: &Journal,
    ) {
        let mut records = Records::new(self, batch, stream, now, journal);
        framer.finish(&mut |tag, content| records.add(tag, content));
        records.write();
    }

    /// Writes whole records. A failure is counted and told once: the container's output goes on
    /// being read, because a full disk must not block it.
    fn write(&mut self, records: &[u8], journal: &Journal) {
        match self.try_write(records) {
            Ok(()) if self.failures == 0 => {}
            Ok(()) => {
                let (path, failures) = (self.path.display(), self.failures);
                journal.say(format_args!(
                    "log {path} is written again; {failures} writes before this one failed"
                ));
                self.failures = 0;
            }
            Err(error) => {
                if self.failures == 0 {
                    let path = self.path.display();
                    journal.say(format_args!(
                        "log {path} cannot be written, output is lost until it can: {error}"
                    ));
                }
                self.failures += 1;
            }
        }
    }

    fn try_write(&mut self, records: &[u8]) -> Result<(), Errno> {
        if self.torn {
            write_all(&self.file, b"\n").map_err(|(_, error)| error)?;
            self.torn = false;
        }
        write_all(&self.file, records).map_err(|(written, error)| {
            self.torn = written.last().is_some_and(|byte| *byte != b'\n');
            error
        })
    }
}

/// Blocks on a slow disk: that is the back-pressure a container feels through its pipe. On
/// failure says what had been written.
fn write_all<'a>(file: &OwnedFd, bytes: &'a [u8]) -> Result<(), (&'a [u8], Errno)> {
    let mut done = 0;
    while done < bytes.len() {
        match rustix::io::write(file, &bytes[done..]) {
            Ok(0) => return Err((&bytes[..done], Errno::IO)),
            Ok(written) => done += written,
            Err(Errno::INTR) => {}
            Err(error) => return Err((&bytes[..done], error)),
        }
    }
    Ok(())
}

/// `O_NOFOLLOW` and the check of the type: whoever can write to the log directory (a pod with
/// `/var/log` mounted) must not make the shim append to another file or block on a FIFO.
fn open(path: &std::path::Path) -> io::Result<OwnedFd> {
    let flags = OFlags::APPEND
        | OFlags::CREATE
        | OFlags::WRONLY
        | OFlags::CLOEXEC
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::from_raw_mode(0o640))?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    Ok(file)
}

/// Gathers records of one read.
struct Records<'a> {
    log: &'a mut ContainerLog,
    batch: &'a mut Vec<u8>,
    /// Everything before the tag; the same for all records of one read.
    prefix: String,
    journal: &'a Journal,
}

impl<'a> Records<'a> {
    fn new(
        log: &'a mut ContainerLog,
        batch: &'a mut Batch,
        stream: Stream,
        now: i64,
        journal: &'a Journal,
    ) -> Self {
        let prefix = format!("{} {}", stamp::rfc3339_nanos(now), stream.name());
        Self { log, batch: &mut batch.0, prefix, journal }
    }

    fn add(&mut self, tag: Tag, content: &[u8]) {
        if self.batch.len() + self.prefix.len() + content.len() + 4 > BATCH {
            self.write();
        }
        self.batch.extend_from_slice(self.prefix.as_bytes());
        self.batch.extend_from_slice(match tag {
            Tag::Partial => b" P ",
            Tag::Full => b" F ",
        });
        self.batch.extend_from_slice(content);
        self.batch.push(b'\n');
    }

    fn write(&mut self) {
        if !self.batch.is_empty() {
            self.log.write(self.batch, self.journal);
            self.batch.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(log: &[u8], drop_stamp: bool) -> Vec<String> {
        let text = String::from_utf8(log.to_vec()).unwrap();
        text.lines()
            .map(|line| {
                if drop_stamp {
                    line.split_once(' ').unwrap().1.to_owned()
                } else {
                    line.to_owned()
                }
            })
            .collect()
    }

    #[test]
    fn records_have_stamp_stream_tag_and_content() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = ContainerLog::open(path.clone()).unwrap();
        let (mut framer, mut batch, journal) =
            (Framer::default(), Batch::default(), Journal::new("test"));
        log.append(&mut framer, (Stream::Stdout, 1), b"one\ntwo\r\n\nrest", &mut batch, &journal);
        log.finish(&mut framer, (Stream::Stdout, 2), &mut batch, &journal);
        log.append(&mut framer, (Stream::Stderr, 3), b"e\n", &mut batch, &journal);
        let stamp = "1970-01-01T00:00:00.00000000";
        assert_eq!(
            lines(&std::fs::read(&path).unwrap(), false),
            [
                format!("{stamp}1Z stdout F one"),
                format!("{stamp}1Z stdout F two"),
                format!("{stamp}1Z stdout F "),
                format!("{stamp}2Z stdout P rest"),
                format!("{stamp}3Z stderr F e"),
            ]
        );
    }

    #[test]
    fn many_short_lines_are_all_written() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = ContainerLog::open(path.clone()).unwrap();
        let (mut framer, mut batch) = (Framer::default(), Batch::default());
        let input = "x\n".repeat(16 << 10);
        log.append(
            &mut framer,
            (Stream::Stdout, 0),
            input.as_bytes(),
            &mut batch,
            &Journal::new("test"),
        );
        let written = lines(&std::fs::read(&path).unwrap(), true);
        assert_eq!(written.len(), 16 << 10);
        assert!(written.iter().all(|line| line == "stdout F x"));
        assert!(batch.0.capacity() <= 2 * BATCH);
    }

    #[test]
    fn after_a_rename_and_reopen_both_files_hold_their_part() {
        let dir = tempfile::tempdir().unwrap();
        let (path, rotated) = (dir.path().join("0.log"), dir.path().join("0.log.1"));
        let mut log = ContainerLog::open(path.clone()).unwrap();
        let (mut framer, mut batch, journal) =
            (Framer::default(), Batch::default(), Journal::new("test"));
        log.append(&mut framer, (Stream::Stdout, 0), b"old\nha", &mut batch, &journal);
        std::fs::rename(&path, &rotated).unwrap();
        log.reopen().unwrap();
        log.append(&mut framer, (Stream::Stdout, 0), b"lf\n", &mut batch, &journal);
        assert_eq!(lines(&std::fs::read(&rotated).unwrap(), true), ["stdout F old"]);
        assert_eq!(lines(&std::fs::read(&path).unwrap(), true), ["stdout F half"]);
    }

    #[test]
    fn a_failed_reopen_keeps_the_old_file_and_makes_none() {
        let dir = tempfile::tempdir().unwrap();
        let (inner, moved) = (dir.path().join("logs"), dir.path().join("moved"));
        std::fs::create_dir(&inner).unwrap();
        let mut log = ContainerLog::open(inner.join("0.log")).unwrap();
        std::fs::rename(&inner, &moved).unwrap();
        assert!(log.reopen().is_err());
        let (mut framer, mut batch) = (Framer::default(), Batch::default());
        log.append(&mut framer, (Stream::Stdout, 0), b"a\n", &mut batch, &Journal::new("test"));
        assert_eq!(lines(&std::fs::read(moved.join("0.log")).unwrap(), true), ["stdout F a"]);
        assert!(!inner.exists());
    }

    #[test]
    fn a_link_or_fifo_in_place_of_the_log_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link, fifo) =
            (dir.path().join("target"), dir.path().join("link"), dir.path().join("fifo"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(ContainerLog::open(link).is_err());
        assert!(!target.exists());
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .unwrap();
        assert!(ContainerLog::open(fifo).is_err());
    }

    #[test]
    fn a_full_disk_loses_output_but_later_records_are_whole() {
        let Ok(full) = rustix::fs::open("/dev/full", OFlags::WRONLY, Mode::empty()) else {
            return println!("skipped: no /dev/full here");
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let mut log = ContainerLog::open(path.clone()).unwrap();
        let (mut framer, mut batch, journal) =
            (Framer::default(), Batch::default(), Journal::new("test"));
        let good = std::mem::replace(&mut log.file, full);
        log.append(&mut framer, (Stream::Stdout, 0), b"lost\n", &mut batch, &journal);
        assert_eq!((log.failures, log.torn), (1, false));
        log.file = good;
        log.torn = true;
        log.append(&mut framer, (Stream::Stdout, 0), b"kept\n", &mut batch, &journal);
        assert_eq!((log.failures, log.torn), (0, false));
        assert_eq!(std::fs::read(&path).unwrap()[0], b'\n');
        assert!(std::fs::read_to_string(&path).unwrap().ends_with("stdout F kept\n"));
    }
}
