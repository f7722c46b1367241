//! An archive's members by name, whether it is a tar or a directory. Names come out of the
//! archive itself: in a directory they are opened below it only.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use layer::{Compression, Place, UnpackOptions};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::LoadError;
use crate::unpack::READ_BYTES;

/// No archive of images has more.
const MEMBERS_MAX: u64 = 1 << 20;
/// Links of links.
const LINKS_MAX: usize = 8;

#[derive(Debug, Clone)]
pub(super) enum Members {
    Directory(Arc<OwnedFd>),
    Tar { file: Arc<File>, places: Arc<HashMap<Vec<u8>, Place>> },
}

impl Members {
    /// Blocks on the disk. What is compressed is inflated into a file without a name below
    /// `scratch`, for its members are read in another order than they lie in.
    pub(super) fn open(
        path: &Path,
        scratch: &Path,
        options: &UnpackOptions,
    ) -> Result<Self, LoadError> {
        let read = |source| LoadError::Read { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(read)?;
        let metadata = file.metadata().map_err(read)?;
        if metadata.is_dir() {
            return Ok(Self::Directory(Arc::new(file.into())));
        }
        if !metadata.is_file() {
            let error = io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file");
            return Err(read(error));
        }
        let mut magic = [0; 4];
        let length = file.read_at(&mut magic, 0).map_err(read)?;
        if Compression::of(&magic[..length]) != Compression::None {
            file = inflate(path, file, scratch, options)?;
        }
        let members = layer::members(&file, MEMBERS_MAX)
            .map_err(|source| LoadError::NotATar { path: path.to_owned(), source })?;
        let places = members.into_iter().map(|member| (clean(&member.name), member.place));
        Ok(Self::Tar { file: Arc::new(file), places: Arc::new(places.collect()) })
    }

    /// A member's content; `None` if there is no such file. Blocks on the disk.
    pub(super) fn read(&self, name: &str) -> Result<Option<Box<dyn Read + Send>>, LoadError> {
        match self {
            Self::Directory(dir) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
                    Ok(file) => {
                        let file = File::from(file);
                        let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
                        Ok(is_file.then(|| Box::new(file) as Box<dyn Read + Send>))
                    }
                    Err(Errno::NOENT | Errno::NOTDIR | Errno::XDEV | Errno::LOOP) => Ok(None),
                    Err(errno) => Err(LoadError::Read { path: name.into(), source: errno.into() }),
                }
            }
            Self::Tar { file, places } => {
                let mut name = clean(name.as_bytes());
                for _ in 0..LINKS_MAX {
                    match places.get(&name) {
                        Some(Place::Here { offset, length }) => {
                            let file = Arc::clone(file);
                            let (at, left) = (*offset, *length);
                            return Ok(Some(Box::new(Piece { file, at, left })));
                        }
                        Some(Place::At { target, hard: true }) => name = clean(target),
                        Some(Place::At { target, hard: false }) => name = beside(&name, target),
                        None => return Ok(None),
                    }
                }
                Ok(None)
            }
        }
    }

    /// A short member, whole.
    pub(super) fn read_all(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>, LoadError> {
        let Some(content) = self.read(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        content
            .take(limit.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|source| LoadError::Read { path: name.into(), source })?;
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > limit {
            return Err(LoadError::TooLarge { member: name.to_owned(), limit });
        }
        Ok(Some(bytes))
    }
}

fn inflate(
    path: &Path,
    packed: File,
    scratch: &Path,
    options: &UnpackOptions,
) -> Result<File, LoadError> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let plain = rustix::fs::open(scratch, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|errno| LoadError::Scratch { path: scratch.to_owned(), source: errno.into() })?;
    let plain = File::from(plain);
    layer::inflate(BufReader::with_capacity(READ_BYTES, packed), &plain, options)
        .map_err(|source| LoadError::Inflate { path: path.to_owned(), source })?;
    Ok(plain)
}

/// Without `./` and other noise; `..` stops at the top.
fn clean(name: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

fn beside(name: &[u8], target: &[u8]) -> Vec<u8> {
    let dir = name.iter().rposition(|byte| *byte == b'/').map_or(&[][..], |at| &name[..at]);
    clean(&[dir, b"/", target].concat())
}

/// A part of a file, read without moving its position.
struct Piece {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Piece {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        if read == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = u64::try_from(read).unwrap_or_default();
        self.at += length;
        self.left -= length;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_archive() {
        for (name, want) in [("./a//b/", "a/b"), ("../../a", "a"), ("a/../b", "b"), ("", "")] {
            assert_eq!(clean(name.as_bytes()), want.as_bytes(), "{name}");
        }
        assert_eq!(beside(b"abc/layer.tar", b"../def/layer.tar"), b"def/layer.tar");
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("archive");
        std::fs::create_dir(&root).unwrap();
        std::fs::write(dir.path().join("secret"), "host").unwrap();
        std::fs::write(root.join("own"), "own").unwrap();
        std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
        let members = Members::open(&root, dir.path(), &UnpackOptions::default()).unwrap();
        assert_eq!(members.read_all("own", 10).unwrap().as_deref(), Some(&b"own"[..]));
        for name in ["../secret", "link", "/etc/passwd", "absent", "."] {
            assert!(members.read_all(name, 10).unwrap().is_none(), "{name}");
        }
        assert!(matches!(members.read_all("own", 2), Err(LoadError::TooLarge { .. })));
    }
}
