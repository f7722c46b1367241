//! Reading a log file that grows and is rotated under the reader.

use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use super::{Joiner, Piece, Record, Selection};

/// Why a log cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The container was created without one.
    #[error("container {container} writes no log file")]
    NoLog {
        /// Its id.
        container: String,
    },
    /// The file cannot be opened.
    #[error("cannot open the log of container {container} at {}", path.display())]
    Open {
        /// Its id.
        container: String,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be read on.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A reader of one log path; after a rotation it goes on with the new file.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    file: File,
    identity: (u64, u64),
    unread: Vec<u8>,
    joiner: Joiner,
}

impl Follower {
    /// Opens the log. Blocks for as long as the file system does.
    ///
    /// # Errors
    /// The error of opening it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let identity = identity(&file.metadata()?);
        Ok(Self {
            path: path.to_owned(),
            file,
            identity,
            unread: Vec::new(),
            joiner: Joiner::default(),
        })
    }

    /// Reads to the present end of the log, over a rotation if there was one, and gives each
    /// wanted piece to `each`.
    ///
    /// # Errors
    /// [`LogError::Read`], or what `each` returns.
    pub fn read_on<E: From<LogError>>(
        &mut self,
        selection: &Selection,
        mut each: impl FnMut(Piece) -> Result<(), E>,
    ) -> Result<(), E> {
        loop {
            self.drain(selection, &mut each)?;
            let Some(next) = self.rotated() else { return Ok(()) };
            // Whoever rotated may have written between our last read and the rename.
            self.drain(selection, &mut each)?;
            self.identity = next.1;
            self.file = next.0;
            self.unread.clear();
        }
    }

    /// Gives up unfinished lines.
    pub fn flush(&mut self) -> impl Iterator<Item = Piece> {
        self.joiner.flush()
    }

    fn drain<E: From<LogError>>(
        &mut self,
        selection: &Selection,
        each: &mut impl FnMut(Piece) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let count = match self.file.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => {
                    return Err(LogError::Read { path: self.path.clone(), source }.into());
                }
            };
            self.unread.extend_from_slice(&chunk[..count]);
            let mut done = 0;
            while let Some(length) = self.unread[done..].iter().position(|&byte| byte == b'\n') {
                let record = Record::parse(&self.unread[done..done + length]);
                done += length + 1;
                let wanted = record.filter(|record| selection.wants(record));
                if let Some(piece) = wanted.and_then(|record| self.joiner.push(&record)) {
                    each(piece)?;
                }
            }
            self.unread.drain(..done);
        }
    }

    /// The file that now lies at the path, if it is another one.
    fn rotated(&self) -> Option<(File, (u64, u64))> {
        let file = File::open(&self.path).ok()?;
        let identity = identity(&file.metadata().ok()?);
        (identity != self.identity).then_some((file, identity))
    }
}

fn identity(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use std::{fs::OpenOptions, io::Write as _};

    use super::*;

    fn read(follower: &mut Follower) -> Vec<String> {
        let mut lines = Vec::new();
        follower
            .read_on::<LogError>(&Selection::default(), |piece| {
                lines.push(String::from_utf8(piece.content).unwrap());
                Ok(())
            })
            .unwrap();
        lines
    }

    #[test]
    fn a_rotation_loses_and_repeats_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "t stdout F one\n").unwrap();
        let mut follower = Follower::open(&path).unwrap();
        assert_eq!(read(&mut follower), ["one"]);

        let mut old = OpenOptions::new().append(true).open(&path).unwrap();
        std::fs::rename(&path, dir.path().join("0.log.old")).unwrap();
        old.write_all(b"t stdout F two\n").unwrap();
        std::fs::write(&path, "t stdout F three\n").unwrap();
        assert_eq!(read(&mut follower), ["two", "three"]);
        assert_eq!(read(&mut follower), Vec::<String>::new());
    }

    #[test]
    fn a_record_written_in_two_parts_is_read_once_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, "t stdout F on").unwrap();
        let mut follower = Follower::open(&path).unwrap();
        assert_eq!(read(&mut follower), Vec::<String>::new());
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"e\n").unwrap();
        assert_eq!(read(&mut follower), ["one"]);
    }

    #[test]
    fn what_is_older_than_wanted_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        let text = "2026-01-01T00:00:00Z stdout F old\n2026-01-03T00:00:00.5Z stdout F new\n";
        std::fs::write(&path, text).unwrap();
        let since = Some("2026-01-02T00:00:00Z".parse().unwrap());
        let selection = Selection { since, timestamps: true, ..Selection::default() };
        let mut printed = Vec::new();
        Follower::open(&path)
            .unwrap()
            .read_on::<LogError>(&selection, |piece| {
                printed.extend(selection.print(&piece));
                Ok(())
            })
            .unwrap();
        assert_eq!(printed, b"2026-01-03T00:00:00.5Z new\n");
    }
}
