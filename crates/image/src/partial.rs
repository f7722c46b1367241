//! Downloads that did not come to their end, kept so that the next attempt goes on where they
//! stopped, also after the daemon's death or a power cut.
//!
//! ```text
//! <root>/partial/<blob digest, hex>:  one header line, then frames
//! knarr-partial 1 <digest> <size> <first byte>⏎   length u32, crc32 u32 (little endian), bytes
//! ```
//! Nothing is flushed to the device: a frame whose checksum is wrong ends what is believed, and
//! the digest of the whole blob decides in the end. What took only seconds to fetch is fetched
//! again instead of being written: on a fast network no image is ever kept in this form.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use model::Digest;

/// Nobody came back for it.
const EXPIRES_AFTER: Duration = Duration::from_secs(24 * 3600);
const FRAME_BYTES: usize = 256 * 1024;
const HEADER_MAX: u64 = 256;

/// `<root>/partial`.
#[derive(Debug, Clone)]
pub(crate) struct Partials {
    path: PathBuf,
    /// A download younger than this is not kept.
    pub(crate) keep_after: Duration,
}

/// What is there of one blob: bytes from `from` on, `length` of them, sound.
#[derive(Debug)]
pub(crate) struct Partial {
    path: PathBuf,
    file: File,
    blob: (Digest, u64),
    pub(crate) from: u64,
    pub(crate) length: u64,
    /// Taken and not yet written.
    frame: Vec<u8>,
}

impl Partials {
    /// Makes the directory and forgets what nobody came back for. Blocks.
    pub(crate) fn open(root: &Path, keep_after: Duration) -> io::Result<Self> {
        let path = root.join("partial");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        let partials = Self { path, keep_after };
        partials.expire();
        Ok(partials)
    }

    /// Removes what is too old. Blocks.
    pub(crate) fn expire(&self) {
        for (path, metadata) in self.files() {
            let age =
                metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            if age.is_some_and(|age| age > EXPIRES_AFTER) {
                remove(&path);
            }
        }
    }

    /// Bytes and files. Blocks.
    pub(crate) fn usage(&self) -> (u64, u64) {
        self.files().fold((0, 0), |(bytes, files), (_, metadata)| {
            (bytes + metadata.blocks() * 512, files + 1)
        })
    }

    fn files(&self) -> impl Iterator<Item = (PathBuf, std::fs::Metadata)> {
        let entries = std::fs::read_dir(&self.path).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
    }

    fn path(&self, blob: &Digest) -> PathBuf {
        self.path.join(blob.hex())
    }

    /// What is left of an earlier attempt at a blob of `size` bytes. Blocks for as long as
    /// reading it takes.
    pub(crate) fn find(&self, blob: &Digest, size: u64) -> Option<Partial> {
        let path = self.path(blob);
        let file = OpenOptions::new().read(true).write(true).open(&path).ok()?;
        // Another attempt at the same blob, for a layer that claims to be another.
        file.try_lock().ok()?;
        match Partial::read(path.clone(), file, (*blob, size)) {
            Ok(Some(partial)) if partial.length > 0 => Some(partial),
            Ok(_) => {
                remove(&path);
                None
            }
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a kept download is not usable");
                remove(&path);
                None
            }
        }
    }

    /// Begins to keep a download at its byte `from`.
    pub(crate) fn begin(&self, blob: &Digest, size: u64, from: u64) -> io::Result<Partial> {
        let path = self.path(blob);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)?;
        file.try_lock().map_err(|_| io::Error::from(io::ErrorKind::WouldBlock))?;
        file.set_len(0)?;
        writeln!(file, "knarr-partial 1 {blob} {size} {from}")?;
        Ok(Partial { path, file, blob: (*blob, size), from, length: 0, frame: Vec::new() })
    }
}

fn remove(path: &Path) {
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "a kept download cannot be removed");
        }
    }
}

impl Partial {
    /// `None`: of another blob, or no such file at all.
    fn read(path: PathBuf, file: File, blob: (Digest, u64)) -> io::Result<Option<Self>> {
        let mut reader = BufReader::new(&file);
        let Some((from, mut end)) = header(&mut reader, blob)? else { return Ok(None) };
        let (mut length, mut frame) = (0, Vec::new());
        while let Some(bytes) = read_frame(&mut reader, &mut frame)? {
            length += bytes;
            end += bytes + 8;
        }
        if from.checked_add(length).is_none_or(|end| end > blob.1) {
            return Ok(None);
        }
        // What follows is torn; new frames go there.
        file.set_len(end)?;
        Ok(Some(Self { path, file, blob, from, length, frame: Vec::new() }))
    }

    /// The kept bytes as a stream of their own.
    pub(crate) fn replay(&self) -> io::Result<Replay> {
        let mut reader = BufReader::new(File::open(&self.path)?);
        if header(&mut reader, self.blob)?.is_none() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Replay { reader, frame: Vec::new(), at: 0, left: self.length })
    }

    /// Keeps the bytes that follow.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.frame.extend_from_slice(bytes);
        if self.frame.len() >= FRAME_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.frame.is_empty() {
            return Ok(());
        }
        let length = u32::try_from(self.frame.len()).map_err(io::Error::other)?;
        let mut framed = Vec::with_capacity(self.frame.len() + 8);
        framed.extend_from_slice(&length.to_le_bytes());
        framed.extend_from_slice(&crc32fast::hash(&self.frame).to_le_bytes());
        framed.extend_from_slice(&self.frame);
        self.file.seek(SeekFrom::End(0))?;
        self.file.write_all(&framed)?;
        self.length += u64::from(length);
        self.frame.clear();
        Ok(())
    }

    /// The blob is here, or not worth keeping.
    pub(crate) fn remove(mut self) {
        self.frame.clear();
        remove(&self.path);
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // The attempt has ended; what came last is kept too.
        if let Err(error) = self.flush() {
            tracing::warn!(path = %self.path.display(), %error, "the end of a download is not kept");
        }
    }
}

/// Where the bytes begin in the blob, and the length of the header.
fn header(reader: &mut impl BufRead, blob: (Digest, u64)) -> io::Result<Option<(u64, u64)>> {
    let mut line = Vec::new();
    let read = reader.take(HEADER_MAX).read_until(b'\n', &mut line)?;
    let start = format!("knarr-partial 1 {} {} ", blob.0, blob.1);
    let from = line.strip_prefix(start.as_bytes()).and_then(|rest| rest.strip_suffix(b"\n"));
    let from = from.and_then(|text| str::from_utf8(text).ok()?.parse().ok());
    Ok(from.map(|from| (from, u64::try_from(read).unwrap_or_default())))
}

/// The next sound frame into `frame`, and its length; `None` at the end of what is sound.
fn read_frame(reader: &mut impl Read, frame: &mut Vec<u8>) -> io::Result<Option<u64>> {
    let mut word = || -> io::Result<Option<u32>> {
        let mut bytes = [0; 4];
        match reader.read_exact(&mut bytes) {
            Ok(()) => Ok(Some(u32::from_le_bytes(bytes))),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    };
    let (Some(length), Some(crc)) = (word()?, word()?) else { return Ok(None) };
    // No chunk is larger than the feed's room.
    if length == 0 || length > 8 << 20 {
        return Ok(None);
    }
    frame.clear();
    let read = reader.take(u64::from(length)).read_to_end(frame)?;
    let whole = u32::try_from(read) == Ok(length) && crc32fast::hash(frame) == crc;
    Ok(whole.then_some(u64::from(length)))
}

/// Reads what was kept.
#[derive(Debug)]
pub(crate) struct Replay {
    reader: BufReader<File>,
    frame: Vec<u8>,
    at: usize,
    left: u64,
}

impl BufRead for Replay {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.frame.len() && self.left > 0 {
            self.at = 0;
            if read_frame(&mut self.reader, &mut self.frame)?.is_none() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(&self.frame[self.at..])
    }

    fn consume(&mut self, count: usize) {
        let count = count.min(self.frame.len() - self.at);
        self.at += count;
        self.left = self.left.saturating_sub(u64::try_from(count).unwrap_or_default());
    }
}

impl Read for Replay {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blob() -> Digest {
        Digest::from_sha256([7; 32])
    }

    fn kept(bytes: &[&[u8]]) -> (tempfile::TempDir, Partials) {
        let root = tempfile::tempdir().unwrap();
        let partials = Partials::open(root.path(), Duration::ZERO).unwrap();
        let mut partial = partials.begin(&blob(), 1000, 10).unwrap();
        for bytes in bytes {
            partial.append(bytes).unwrap();
            partial.flush().unwrap();
        }
        drop(partial);
        (root, partials)
    }

    fn replay(partial: &Partial) -> Vec<u8> {
        let mut bytes = Vec::new();
        partial.replay().unwrap().read_to_end(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_was_kept_comes_back_and_can_be_continued() {
        let (_root, partials) = kept(&[b"one", b"two"]);
        let mut partial = partials.find(&blob(), 1000).unwrap();
        assert_eq!((partial.from, partial.length), (10, 6));
        assert_eq!(replay(&partial), b"onetwo");
        assert!(partials.find(&blob(), 1000).is_none(), "one attempt at a time");
        partial.append(b"three").unwrap();
        drop(partial);
        assert_eq!(replay(&partials.find(&blob(), 1000).unwrap()), b"onetwothree");
        assert!(partials.find(&blob(), 999).is_none(), "of another length");
        assert!(partials.find(&blob(), 1000).is_none(), "and then it is no more");
    }

    #[test]
    fn a_clock_that_was_set_back_expires_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let partials = Partials::open(dir.path(), Duration::ZERO).unwrap();
        let day = Duration::from_secs(86_400);
        let now = SystemTime::now();
        for (name, at) in [("ahead", now + 400 * day), ("fresh", now), ("old", now - 2 * day)] {
            let file = std::fs::File::create(dir.path().join("partial").join(name)).unwrap();
            file.set_modified(at).unwrap();
        }
        partials.expire();
        let left = |name: &str| dir.path().join("partial").join(name).exists();
        assert!(left("ahead") && left("fresh") && !left("old"));
    }

    #[test]
    fn a_torn_or_altered_end_is_not_believed() {
        let (_root, partials) = kept(&[b"one", b"two"]);
        let path = partials.path(&blob());
        let whole = std::fs::read(&path).unwrap();
        for cut in 1..=10 {
            std::fs::write(&path, &whole[..whole.len() - cut]).unwrap();
            assert_eq!(replay(&partials.find(&blob(), 1000).unwrap()), b"one", "{cut}");
        }
        let mut altered = whole.clone();
        *altered.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &altered).unwrap();
        assert_eq!(replay(&partials.find(&blob(), 1000).unwrap()), b"one");
        std::fs::write(&path, b"knarr-partial 1 nonsense\n").unwrap();
        assert!(partials.find(&blob(), 1000).is_none());
        assert_eq!(partials.usage().1, 0);
    }
}
