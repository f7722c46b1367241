//! Reading one file out of a tree that an image or a container made.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// Why a file was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("cannot open `{path}` in the root")]
    Open { path: String, source: Errno },
    #[error("`{path}` in the root is not a regular file")]
    NotRegular { path: String },
    #[error("`{path}` in the root is larger than {max_bytes} bytes")]
    TooLarge { path: String, max_bytes: u64 },
    #[error("cannot read `{path}` in the root")]
    Read { path: String, source: io::Error },
}

/// The content of `path` inside `root`; `None` if there is no such file. Symbolic links are
/// followed inside the root only, as a process with that root would see them. Only regular files
/// are opened: a fifo could block, and opening a device can have effects.
///
/// # Errors
/// [`ReadError`].
pub fn read_file_in(
    root: BorrowedFd<'_>,
    path: &str,
    max_bytes: u64,
) -> Result<Option<Vec<u8>>, ReadError> {
    let owned = || path.to_owned();
    let fault = |source| ReadError::Open { path: owned(), source };
    let found = match find(root, path) {
        Ok(found) => found,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        Err(errno) => return Err(fault(errno)),
    };
    let stat = rustix::fs::fstat(&found).map_err(fault)?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return Err(ReadError::NotRegular { path: owned() });
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let reopen = format!("/proc/self/fd/{}", found.as_raw_fd());
    let file = File::from(rustix::fs::open(reopen, flags, Mode::empty()).map_err(fault)?);
    let mut content = Vec::new();
    file.take(max_bytes.saturating_add(1))
        .read_to_end(&mut content)
        .map_err(|source| ReadError::Read { path: owned(), source })?;
    if content.len() as u64 > max_bytes {
        return Err(ReadError::TooLarge { path: owned(), max_bytes });
    }
    Ok(Some(content))
}

/// `O_PATH` finds without opening.
fn find(root: BorrowedFd<'_>, path: &str) -> Result<std::os::fd::OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(
            root,
            path,
            OFlags::PATH | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        ) {
            // A rename or mount anywhere on the system raced with a `..` on the way.
            Err(Errno::AGAIN) => {}
            found => return found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsFd;
    use std::os::unix::fs::symlink;

    #[test]
    fn files_are_read_inside_the_root_only() {
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path().join("root");
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(scratch.path().join("secret"), "host").unwrap();
        fs::write(root.join("etc/real"), "image").unwrap();
        symlink("/etc/real", root.join("etc/absolute")).unwrap();
        symlink("../../../../etc/real", root.join("etc/climbing")).unwrap();
        symlink("../secret", root.join("escape")).unwrap();
        symlink("/proc/self/environ", root.join("magic")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let root = fs::File::open(&root).unwrap();
        let read = |path: &str| read_file_in(root.as_fd(), path, 5);
        for path in ["etc/real", "/etc/real", "etc/absolute", "etc/climbing", "../etc/real"] {
            assert_eq!(read(path).unwrap().as_deref(), Some(&b"image"[..]), "{path}");
        }
        for path in ["escape", "magic", "missing", "etc/real/below"] {
            assert_eq!(read(path).unwrap(), None, "{path}");
        }
        assert!(matches!(read("loop"), Err(ReadError::Open { source: Errno::LOOP, .. })));
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let scratch = tempfile::tempdir().unwrap();
        let root = fs::File::open(scratch.path()).unwrap();
        fs::write(scratch.path().join("six"), "123456").unwrap();
        rustix::fs::mkfifoat(&root, "pipe", Mode::RUSR).unwrap();
        let read = |path: &str, max| read_file_in(root.as_fd(), path, max);
        assert!(matches!(read("six", 5), Err(ReadError::TooLarge { max_bytes: 5, .. })));
        assert_eq!(read("six", u64::MAX).unwrap().map(|content| content.len()), Some(6));
        assert!(matches!(read("pipe", 5), Err(ReadError::NotRegular { .. })));
        assert!(matches!(read(".", 5), Err(ReadError::NotRegular { .. })));
    }
}
