//! Every file of a tree that a container may have made, and may be changing.
//!
//! Depth costs neither stack nor descriptors, and only a few bytes of memory: a container can nest
//! directories deeper than any path can name. What is left to do is a list of levels, one for each
//! directory on the way down, with the names in it. The handles of the upper [`KEPT`] levels stay
//! open, so that somebody who moves a directory meanwhile disturbs nothing in trees as people have
//! them. Below, the way up is `..`, and what it leads to has to be the directory we came from.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Dir, FileType, Mode, OFlags};

use super::open;

/// How many directories are held open beside the one that is walked through.
const KEPT: usize = 32;

/// Where a walk ended too early, and why.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

/// Shows `visit` a handle on `top`, called `path`, and on everything below it: directories before
/// what is in them, symbolic links themselves. Ends at the first failure.
pub(super) fn walk(
    top: OwnedFd,
    path: &Path,
    visit: impl FnMut(BorrowedFd<'_>) -> io::Result<()>,
) -> Result<(), Stopped> {
    let mut walk = Walk { visit, here: top, kept: Vec::new(), levels: Vec::new() };
    walk.whole().map_err(|source| Stopped { path: walk.at_work(path), source })
}

struct Walk<V> {
    visit: V,
    /// The last level's directory.
    here: OwnedFd,
    /// Those of the first levels, the last level's not among them.
    kept: Vec<OwnedFd>,
    levels: Vec<Level>,
}

/// A directory on the way down.
struct Level {
    identity: Identity,
    /// What is in it, each name ended by a NUL. All of them are read first: a half-read list would
    /// need its descriptor.
    names: Vec<u8>,
    /// Where in `names` the one at work begins and ends; nothing before the first and after the last.
    begin: usize,
    end: usize,
}

/// What no other directory has as long as this one exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl<V: FnMut(BorrowedFd<'_>) -> io::Result<()>> Walk<V> {
    fn whole(&mut self) -> io::Result<()> {
        (self.visit)(self.here.as_fd())?;
        self.levels.extend(Level::of(&self.here)?);
        while let Some(level) = self.levels.last_mut() {
            let Some(name) = level.advance() else {
                self.leave()?;
                continue;
            };
            match open(&self.here, name) {
                Ok(child) => self.enter(child)?,
                // Gone meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn enter(&mut self, child: OwnedFd) -> io::Result<()> {
        (self.visit)(child.as_fd())?;
        if let Some(level) = Level::of(&child)? {
            let above = std::mem::replace(&mut self.here, child);
            if self.kept.len() < KEPT {
                self.kept.push(above);
            }
            self.levels.push(level);
        }
        Ok(())
    }

    /// Goes up, or ends the walk at the top.
    fn leave(&mut self) -> io::Result<()> {
        if let [.., above, _] = self.levels.as_slice() {
            let kept = if self.levels.len() > KEPT + 1 { None } else { self.kept.pop() };
            self.here = match kept {
                Some(kept) => kept,
                None => parent(&self.here, above.identity)?,
            };
        }
        self.levels.pop();
        Ok(())
    }

    /// The path of what is being done. Only made for errors: for each file, it would take the time
    /// and memory that the walk is to save.
    fn at_work(&self, top: &Path) -> PathBuf {
        let mut path = top.to_owned();
        for name in self.levels.iter().filter_map(Level::at_work) {
            path.push(name.to_string_lossy().as_ref());
        }
        path
    }
}

impl Level {
    /// `None` for what is not a directory.
    fn of(file: &OwnedFd) -> io::Result<Option<Self>> {
        let stat = rustix::fs::fstat(file)?;
        if !FileType::from_raw_mode(stat.st_mode).is_dir() {
            return Ok(None);
        }
        let identity = Identity { device: stat.st_dev, inode: stat.st_ino };
        Ok(Some(Self { identity, names: names(file)?, begin: 0, end: 0 }))
    }

    fn advance(&mut self) -> Option<&CStr> {
        self.begin = self.end;
        let name = CStr::from_bytes_until_nul(&self.names[self.begin..]).ok()?;
        self.end += name.count_bytes() + 1;
        Some(name)
    }

    fn at_work(&self) -> Option<&CStr> {
        CStr::from_bytes_until_nul(&self.names[self.begin..self.end]).ok()
    }
}

fn names(dir: &OwnedFd) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Handles cannot be read.
    let listed = rustix::fs::openat(dir, c".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::new(listed)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            names.extend_from_slice(name.to_bytes_with_nul());
        }
    }
    Ok(names)
}

/// Somebody who moves `dir` decides where its `..` leads, out of the tree as well.
fn parent(dir: &OwnedFd, expected: Identity) -> io::Result<OwnedFd> {
    let above = open(dir, c"..")?;
    let stat = rustix::fs::fstat(&above)?;
    if (Identity { device: stat.st_dev, inode: stat.st_ino }) == expected {
        Ok(above)
    } else {
        Err(io::Error::other("somebody moved this directory elsewhere meanwhile"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::{MetadataExt, symlink};

    use rustix::fs::{AtFlags, CWD};

    fn inode(path: &Path) -> u64 {
        fs::symlink_metadata(path).unwrap().ino()
    }

    fn inode_of(file: BorrowedFd<'_>) -> u64 {
        rustix::fs::fstat(file).unwrap().st_ino
    }

    /// What a walk shows, calling `meanwhile` with each.
    fn walked(top: &Path, mut meanwhile: impl FnMut(u64)) -> (Vec<u64>, Result<(), Stopped>) {
        let mut shown = Vec::new();
        let result = walk(open(CWD, top).unwrap(), top, |file| {
            shown.push(inode_of(file));
            meanwhile(inode_of(file));
            Ok(())
        });
        (shown, result)
    }

    /// Parents before children, in the order of the lists.
    fn expected(path: &Path, into: &mut Vec<u64>) {
        into.push(inode(path));
        if fs::symlink_metadata(path).unwrap().is_dir() {
            for entry in fs::read_dir(path).unwrap() {
                expected(&entry.unwrap().path(), into);
            }
        }
    }

    /// `d/d/d/…` below `top`.
    fn nested(top: &Path, levels: usize) -> PathBuf {
        let mut path = top.to_owned();
        path.extend(std::iter::repeat_n("d", levels));
        path
    }

    #[test]
    fn all_is_shown_once_parents_first_in_the_order_of_the_lists() {
        let scratch = tempfile::tempdir().unwrap();
        let mut dir = scratch.path().join("top");
        for _ in 0..KEPT + 10 {
            fs::create_dir_all(dir.join("b/inner")).unwrap();
            fs::write(dir.join("a"), "").unwrap();
            fs::write(dir.join("z"), "").unwrap();
            symlink("/", dir.join("link")).unwrap();
            dir = dir.join("d");
        }
        let top = scratch.path().join("top");
        let mut all = Vec::new();
        expected(&top, &mut all);
        let (shown, result) = walked(&top, |_| ());
        result.unwrap();
        assert_eq!(shown, all);
        let (shown, result) = walked(&top.join("link"), |_| ());
        result.unwrap();
        assert_eq!(shown, [inode(&top.join("link"))]);
    }

    #[test]
    fn an_error_names_the_file() {
        let scratch = tempfile::tempdir().unwrap();
        let deep = nested(scratch.path(), KEPT + 5);
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("file"), "").unwrap();
        for failing in [scratch.path().to_owned(), deep.join("file"), deep] {
            let wanted = inode(&failing);
            let stopped = walk(open(CWD, scratch.path()).unwrap(), scratch.path(), |file| {
                if inode_of(file) == wanted {
                    Err(io::ErrorKind::ReadOnlyFilesystem.into())
                } else {
                    Ok(())
                }
            })
            .unwrap_err();
            assert_eq!(stopped.path, failing);
            assert_eq!(stopped.source.kind(), io::ErrorKind::ReadOnlyFilesystem);
        }
    }

    #[test]
    fn a_link_that_takes_a_directorys_place_is_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let (top, outside) = (scratch.path().join("top"), scratch.path().join("outside"));
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("file"), "").unwrap();
        let names = ["a", "b"].map(|name| top.join(name));
        names.iter().for_each(|name| fs::create_dir_all(name).unwrap());
        let before = [0, 1].map(|index| inode(&names[index]));
        let mut link = None;
        let (shown, result) = walked(&top, |inode_now| {
            let first = before.iter().position(|it| *it == inode_now);
            if let (Some(first), None) = (first, link) {
                let other = &names[1 - first];
                fs::remove_dir(other).unwrap();
                symlink(&outside, other).unwrap();
                link = Some(inode(other));
            }
        });
        result.unwrap();
        assert_eq!(shown.len(), 3);
        assert_eq!(shown.last().copied(), link);
    }

    #[test]
    fn a_directory_may_be_moved_meanwhile_where_its_parent_is_held() {
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path().join("top");
        let moved = nested(&top, 5);
        fs::create_dir_all(moved.join("d")).unwrap();
        (1..5).for_each(|level| fs::write(nested(&top, level).join("z"), "").unwrap());
        let mut all = Vec::new();
        expected(&top, &mut all);
        let last = inode(&moved.join("d"));
        let (shown, result) = walked(&top, |inode| {
            if inode == last {
                fs::rename(&moved, scratch.path().join("elsewhere")).unwrap();
            }
        });
        result.unwrap();
        assert_eq!(shown, all);
    }

    #[test]
    fn a_directory_that_is_moved_far_below_leads_nobody_astray() {
        let scratch = tempfile::tempdir().unwrap();
        let (top, outside) = (scratch.path().join("top"), scratch.path().join("outside"));
        let moved = nested(&top, KEPT + 3);
        fs::create_dir_all(moved.join("d")).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("z"), "").unwrap();
        // So that its parent has something left to do, whatever its list's order.
        fs::write(moved.parent().unwrap().join("z"), "").unwrap();
        fs::write(moved.parent().unwrap().join("a"), "").unwrap();
        let (last, forbidden) = (inode(&moved.join("d")), inode(&outside.join("z")));
        let (shown, result) = walked(&top, |inode| {
            if inode == last {
                fs::rename(&moved, outside.join("elsewhere")).unwrap();
            }
        });
        let stopped = result.unwrap_err();
        assert_eq!(stopped.path, moved);
        assert!(stopped.source.to_string().contains("moved"), "{}", stopped.source);
        assert!(!shown.contains(&forbidden));
    }

    /// A tree that `std::fs` cannot remove: it holds a descriptor for each level.
    struct Deep {
        scratch: tempfile::TempDir,
        deepest: OwnedFd,
        levels: usize,
    }

    impl Deep {
        fn make(levels: usize) -> Self {
            // In memory: disks take a minute to remove it.
            let scratch = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
            let scratch = scratch.unwrap();
            let deepest = open(CWD, scratch.path()).unwrap();
            let mut deep = Self { scratch, deepest, levels: 0 };
            for _ in 0..levels {
                rustix::fs::mkdirat(&deep.deepest, c"d", Mode::RWXU).unwrap();
                deep.deepest = open(&deep.deepest, c"d").unwrap();
                deep.levels += 1;
            }
            deep
        }
    }

    impl Drop for Deep {
        fn drop(&mut self) {
            for _ in 0..self.levels {
                self.deepest = open(&self.deepest, c"..").unwrap();
                rustix::fs::unlinkat(&self.deepest, c"d", AtFlags::REMOVEDIR).unwrap();
            }
        }
    }

    #[test]
    fn depth_costs_neither_stack_nor_descriptors() {
        const LEVELS: usize = 20_000;
        const STACK: usize = 64 << 10;
        const DESCRIPTORS: i32 = 300;
        let deep = Deep::make(LEVELS);
        let top = deep.scratch.path().to_owned();
        let walked = std::thread::Builder::new().stack_size(STACK).spawn(move || {
            let (mut shown, mut highest) = (0, 0);
            walk(open(CWD, &top).unwrap(), &top, |file| {
                shown += 1;
                highest = highest.max(file.as_raw_fd());
                Ok(())
            })
            .unwrap();
            (shown, highest)
        });
        let (shown, highest) = walked.unwrap().join().unwrap();
        assert_eq!(shown, LEVELS + 1);
        assert!(highest < DESCRIPTORS, "{highest}");
    }
}
