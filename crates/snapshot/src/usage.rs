//! What a tree takes on disk, counted while a container may be changing it.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

/// Where a path relative to its anchor becomes too long to go on with: half of what the kernel
/// takes, so that a name still fits behind it.
const ANCHOR_BYTES: usize = 2048;

/// A directory to be counted. A container can nest deeper than any path can name, to hide what it
/// takes: so below every [`ANCHOR_BYTES`] of path a directory is kept open to go on from.
struct Todo {
    anchor: Rc<OwnedFd>,
    path: Vec<u8>,
}

#[derive(Default)]
struct Count {
    bytes: u64,
    inodes: u64,
    /// Inodes with several names, each counted once.
    linked: BTreeSet<(u64, u64)>,
}

/// Bytes (allocated, not apparent) and inodes of a directory and everything below it. Never
/// follows a link or enters another mount. What vanishes meanwhile is not counted.
pub(crate) fn of_tree(root: OwnedFd) -> Result<(u64, u64), Errno> {
    let mut count = Count::default();
    count.add(&rustix::fs::fstat(&root)?);
    let mut todo = vec![Todo { anchor: Rc::new(root), path: b".".to_vec() }];
    while let Some(next) = todo.pop() {
        match count_directory(&next, &mut count, &mut todo) {
            Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok((count.bytes, count.inodes))
}

fn count_directory(next: &Todo, count: &mut Count, todo: &mut Vec<Todo>) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let dir = rustix::fs::openat2(&next.anchor, &*next.path, flags, Mode::empty(), resolve)?;
    let dir = Rc::new(dir);
    for entry in Dir::read_from(dir.as_fd())? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = match rustix::fs::statat(dir.as_fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        count.add(&stat);
        if FileType::from_raw_mode(stat.st_mode).is_dir() {
            todo.push(next.child(&dir, name.to_bytes()));
        }
    }
    Ok(())
}

impl Todo {
    fn child(&self, dir: &Rc<OwnedFd>, name: &[u8]) -> Self {
        if self.path.len() > ANCHOR_BYTES {
            return Self { anchor: Rc::clone(dir), path: name.to_vec() };
        }
        Self { anchor: Rc::clone(&self.anchor), path: [&*self.path, b"/", name].concat() }
    }
}

impl Count {
    fn add(&mut self, stat: &Stat) {
        let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
        if stat.st_nlink > 1 && !is_dir && !self.linked.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        self.inodes += 1;
        // Blocks are 512 bytes here whatever the filesystem's are.
        self.bytes += u64::try_from(stat.st_blocks).unwrap_or_default() * 512;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn count(path: &std::path::Path) -> (u64, u64) {
        of_tree(fs::File::open(path).unwrap().into()).unwrap()
    }

    #[test]
    fn links_count_once_and_holes_not_at_all() {
        let scratch = tempfile::tempdir().unwrap();
        let (empty, _) = count(scratch.path());
        fs::write(scratch.path().join("a"), vec![1; 100_000]).unwrap();
        fs::hard_link(scratch.path().join("a"), scratch.path().join("b")).unwrap();
        fs::File::create(scratch.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink("/", scratch.path().join("slash")).unwrap();
        let (bytes, inodes) = count(scratch.path());
        assert_eq!(inodes, 4);
        assert!((100_000..200_000).contains(&(bytes - empty)), "{bytes}");
    }

    #[test]
    fn depth_hides_nothing() {
        let scratch = tempfile::tempdir().unwrap();
        let mut dir: OwnedFd = fs::File::open(scratch.path()).unwrap().into();
        for _ in 0..5000 {
            rustix::fs::mkdirat(&dir, "d", Mode::RWXU).unwrap();
            dir = rustix::fs::openat(&dir, "d", OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        assert_eq!(count(scratch.path()).1, 5001);
    }
}
