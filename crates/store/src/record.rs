//! Reading and replacing one record.

use std::io;
use std::path::{Path, PathBuf};

use failpoint::Point;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::Disk;

/// A stored type. Its JSON form is a contract with the versions before and after this one.
pub trait Record: Serialize + DeserializeOwned {
    /// Written into the header: `sandbox`, `container`, `image`.
    const KIND: &'static str;
    /// The version this build writes. Higher ones are refused without damage.
    const VERSION: u32;
}

/// What a write must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The daemon's death: the kernel holds the data. For what a reboot makes pointless anyway.
    Process,
    /// A power cut: the device holds the data when the write returns.
    Power,
}

/// Why a record could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file system refused.
    #[error("cannot read record {}", path.display())]
    Io {
        /// The record.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Header, length or checksum do not fit: torn by a power cut or edited.
    #[error("record {} is damaged: {what}", path.display())]
    Damaged {
        /// The record.
        path: PathBuf,
        /// What does not fit.
        what: &'static str,
    },
    /// Written by a newer version, or another kind of object.
    #[error("record {} is a {kind} of version {version}, which this build does not read", path.display())]
    Unknown {
        /// The record.
        path: PathBuf,
        /// Its kind.
        kind: String,
        /// Its version.
        version: u32,
    },
    /// The body is whole but does not hold the expected fields.
    #[error("record {} does not hold the expected fields", path.display())]
    Body {
        /// The record.
        path: PathBuf,
        /// Which.
        source: serde_json::Error,
    },
}

/// Why a record could not be written; the old one is untouched.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The value has no JSON form.
    #[error("cannot encode record {}", path.display())]
    Encode {
        /// The record.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The file system refused.
    #[error("cannot {step} record {}", path.display())]
    Io {
        /// The record.
        path: PathBuf,
        /// `write`, `rename`, `sync`, `remove`.
        step: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl WriteError {
    /// Whether the file system takes no writes at all.
    pub fn is_read_only(&self) -> bool {
        match self {
            Self::Io { source, .. } => source.kind() == io::ErrorKind::ReadOnlyFilesystem,
            Self::Encode { .. } => false,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    knarr: String,
    version: u32,
    crc32: String,
    bytes: usize,
}

/// One record's place.
#[derive(Debug, Clone)]
pub struct RecordFile {
    path: PathBuf,
}

impl RecordFile {
    /// The record at `path`; nothing is read yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A place before the record is written.
    ///
    /// # Errors
    /// A test's.
    pub fn reach(&self, point: Point) -> Result<(), WriteError> {
        failpoint::reach(point).map_err(|source| WriteError::Io {
            path: self.path.clone(),
            step: "write",
            source,
        })
    }

    /// Replaces the record.
    ///
    /// # Errors
    /// [`WriteError`]; the old record, if any, is still there whole.
    pub fn write<R: Record>(
        &self,
        disk: &dyn Disk,
        record: &R,
        durability: Durability,
    ) -> Result<(), WriteError> {
        let bytes = encode(record)
            .map_err(|source| WriteError::Encode { path: self.path.clone(), source })?;
        let fail = |step: &'static str| {
            move |source: io::Error| WriteError::Io { path: self.path.clone(), step, source }
        };
        let temporary = self.path.with_extension("tmp");
        let sync = durability == Durability::Power;
        disk.write(&temporary, &bytes, sync).map_err(fail("write"))?;
        failpoint::reach(Point::RecordReplace).map_err(fail("rename"))?;
        disk.rename(&temporary, &self.path).map_err(fail("rename"))?;
        match (sync, self.path.parent()) {
            (true, Some(dir)) => disk.sync_dir(dir).map_err(fail("sync")),
            (true, None) | (false, _) => Ok(()),
        }
    }

    /// Reads the record; `None` when there is none.
    ///
    /// # Errors
    /// [`ReadError`] tells a damaged record from an unreadable one.
    pub fn read<R: Record>(&self, disk: &dyn Disk) -> Result<Option<R>, ReadError> {
        match disk.read(&self.path) {
            Ok(bytes) => decode(&self.path, &bytes).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ReadError::Io { path: self.path.clone(), source }),
        }
    }

    /// Removes the record; absent already is success.
    ///
    /// # Errors
    /// The file system's.
    pub fn remove(&self, disk: &dyn Disk) -> Result<(), WriteError> {
        disk.remove(&self.path).map_err(|source| WriteError::Io {
            path: self.path.clone(),
            step: "remove",
            source,
        })
    }
}

fn encode<R: Record>(record: &R) -> Result<Vec<u8>, serde_json::Error> {
    let mut body = serde_json::to_vec_pretty(record)?;
    body.push(b'\n');
    let header = Header {
        knarr: R::KIND.to_owned(),
        version: R::VERSION,
        crc32: format!("{:08x}", crc32fast::hash(&body)),
        bytes: body.len(),
    };
    let mut file = serde_json::to_vec(&header)?;
    file.push(b'\n');
    file.append(&mut body);
    Ok(file)
}

fn decode<R: Record>(path: &Path, bytes: &[u8]) -> Result<R, ReadError> {
    let damaged = |what| ReadError::Damaged { path: path.to_owned(), what };
    let line =
        bytes.iter().position(|byte| *byte == b'\n').ok_or_else(|| damaged("no header line"))?;
    let (header, rest) = bytes.split_at(line);
    let body = rest.get(1..).unwrap_or_default();
    let header: Header =
        serde_json::from_slice(header).map_err(|_| damaged("the header line is not JSON"))?;
    if header.knarr != R::KIND || header.version > R::VERSION {
        return Err(ReadError::Unknown {
            path: path.to_owned(),
            kind: header.knarr,
            version: header.version,
        });
    }
    if header.bytes != body.len() {
        return Err(damaged("its length is not the one in the header"));
    }
    if header.crc32 != format!("{:08x}", crc32fast::hash(body)) {
        return Err(damaged("its checksum is not the one in the header"));
    }
    serde_json::from_slice(body).map_err(|source| ReadError::Body { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RealDisk;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Thing {
        name: String,
    }

    impl Record for Thing {
        const KIND: &'static str = "thing";
        const VERSION: u32 = 2;
    }

    fn thing(name: &str) -> Thing {
        Thing { name: name.into() }
    }

    #[test]
    fn a_record_reads_back_and_an_absent_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = RecordFile::new(dir.path().join("thing.json"));
        assert_eq!(file.read::<Thing>(&RealDisk).unwrap(), None);
        file.write(&RealDisk, &thing("a"), Durability::Power).unwrap();
        assert_eq!(file.read(&RealDisk).unwrap(), Some(thing("a")));
        file.remove(&RealDisk).unwrap();
        file.remove(&RealDisk).unwrap();
        assert_eq!(file.read::<Thing>(&RealDisk).unwrap(), None);
    }

    #[test]
    fn every_torn_or_flipped_file_is_told_from_a_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thing.json");
        let file = RecordFile::new(&path);
        file.write(&RealDisk, &thing("abc"), Durability::Process).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for end in 0..whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            assert!(file.read::<Thing>(&RealDisk).is_err(), "cut at {end}");
        }
        let body = whole.iter().position(|b| *b == b'\n').unwrap() + 1;
        for at in body..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            assert!(file.read::<Thing>(&RealDisk).is_err(), "flipped at {at}");
        }
    }

    #[test]
    fn a_newer_version_is_refused_by_its_number_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("thing.json");
        let file = RecordFile::new(&path);
        file.write(&RealDisk, &thing("abc"), Durability::Process).unwrap();
        let text =
            std::fs::read_to_string(&path).unwrap().replace("\"version\":2", "\"version\":3");
        std::fs::write(&path, &text).unwrap();
        let error = file.read::<Thing>(&RealDisk).unwrap_err();
        assert!(matches!(error, ReadError::Unknown { version: 3, .. }), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }

    /// Fails the Nth operation and every one after it, as a full disk or a crash would.
    struct Countdown {
        left: AtomicUsize,
    }

    impl Countdown {
        fn tick(&self) -> io::Result<()> {
            let out = |_| io::Error::from(io::ErrorKind::StorageFull);
            self.left
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
                .map(|_| ())
                .map_err(out)
        }
    }

    impl Disk for Countdown {
        fn write(&self, path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
            if let Err(error) = self.tick() {
                RealDisk.write(path, &bytes[..bytes.len() / 2], false)?;
                return Err(error);
            }
            RealDisk.write(path, bytes, sync)
        }
        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.tick()?;
            RealDisk.rename(from, to)
        }
        fn sync_dir(&self, dir: &Path) -> io::Result<()> {
            self.tick()?;
            RealDisk.sync_dir(dir)
        }
        fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
            RealDisk.read(path)
        }
        fn remove(&self, path: &Path) -> io::Result<()> {
            RealDisk.remove(path)
        }
    }

    #[test]
    fn a_write_that_fails_at_any_step_leaves_the_old_or_the_new_record() {
        for steps in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            let file = RecordFile::new(dir.path().join("thing.json"));
            file.write(&RealDisk, &thing("old"), Durability::Power).unwrap();
            let disk = Countdown { left: AtomicUsize::new(steps) };
            file.write(&disk, &thing("new"), Durability::Power).unwrap_err();
            let kept = file.read::<Thing>(&RealDisk).unwrap().unwrap();
            let expected = if steps < 2 { "old" } else { "new" };
            assert_eq!(kept, thing(expected), "after {steps} steps");
        }
    }
}
