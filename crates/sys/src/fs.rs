//! Files below a root that somebody else controls. Every lookup is `openat2` with
//! `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS`: symlinks, absolute ones too, stay inside.

use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::path::Arg;

/// How deep symlinks to missing targets may point to each other, as in the kernel's lookups.
const MAX_DANGLING: u32 = 40;
/// The kernel answers EAGAIN when something was renamed during a lookup with `..` in it.
const MAX_RACES: u32 = 128;

/// Whether symlinks are followed, within the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Symlinks {
    /// In every component.
    Follow,
    /// Any symlink is an error (`ELOOP`).
    Refuse,
}

/// Opens `path` below `root`.
///
/// # Errors
/// What `openat2(2)` refuses with.
pub fn open_in_root(
    root: BorrowedFd<'_>,
    path: impl Arg + Copy,
    flags: OFlags,
    symlinks: Symlinks,
) -> io::Result<OwnedFd> {
    let mut resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    resolve.set(ResolveFlags::NO_SYMLINKS, symlinks == Symlinks::Refuse);
    open_resolved(root, path, flags, resolve)
}

fn open_resolved(
    root: BorrowedFd<'_>,
    path: impl Arg + Copy,
    flags: OFlags,
    resolve: ResolveFlags,
) -> io::Result<OwnedFd> {
    let mut races = 0;
    loop {
        let flags = flags | OFlags::CLOEXEC;
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) if races < MAX_RACES => races += 1,
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Opens a relative `path` below `root`; a symlink or `..` that leads out of it is an error
/// (`EXDEV`), also where [`open_in_root`] would take the root to be `/`.
///
/// # Errors
/// What `openat2(2)` refuses with.
pub fn open_beneath(
    root: BorrowedFd<'_>,
    path: impl Arg + Copy,
    flags: OFlags,
) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    open_resolved(root, path, flags, resolve)
}

/// The place `path` names below `root`, without opening the file behind it for anything.
///
/// # Errors
/// What `openat2(2)` refuses with.
pub fn find_in_root(root: BorrowedFd<'_>, path: impl Arg + Copy) -> io::Result<OwnedFd> {
    open_in_root(root, path, OFlags::PATH, Symlinks::Follow)
}

/// What to make where nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// A directory.
    Directory,
    /// An empty file.
    File,
}

/// Finds `path` below `root`; what is missing of it is made: directories (0755) above, and at the
/// end what `missing` says. A symlink to nowhere gets its target made, inside the root.
///
/// # Errors
/// What the calls refuse with; `ELOOP` for symlinks that lead round in circles.
pub fn find_or_make_in_root(
    root: BorrowedFd<'_>,
    path: &str,
    missing: Missing,
) -> io::Result<OwnedFd> {
    find_or_make(root, path, missing, 0)
}

/// Finds the directory `path` below `root`, making what is missing of it.
///
/// # Errors
/// As [`find_or_make_in_root`], and `ENOTDIR`.
pub fn mkdir_all_in_root(root: BorrowedFd<'_>, path: &str) -> io::Result<OwnedFd> {
    find_or_make(root, path, Missing::Directory, 0)
}

fn find_or_make(
    root: BorrowedFd<'_>,
    path: &str,
    missing: Missing,
    depth: u32,
) -> io::Result<OwnedFd> {
    match find_in_root(root, path) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
        found => return found,
    }
    if depth == MAX_DANGLING {
        return Err(io::Error::from_raw_os_error(libc::ELOOP));
    }
    let Some((parent, name)) = split(path) else {
        return Err(io::Error::from_raw_os_error(libc::ENOENT));
    };
    let parent_dir = find_or_make(root, parent, Missing::Directory, depth)?;
    if name == ".." {
        // The kernel resolves it, once what comes before exists.
        return find_in_root(root, path);
    }
    let made = match missing {
        Missing::Directory => rustix::fs::mkdirat(&parent_dir, name, Mode::from_raw_mode(0o755)),
        Missing::File => {
            let mode = Mode::from_raw_mode(0o644);
            rustix::fs::mknodat(&parent_dir, name, FileType::RegularFile, mode, 0)
        }
    };
    match made {
        Ok(()) => {}
        Err(Errno::EXIST) => {
            if let Some(target) = dangling(&parent_dir, parent, name)? {
                return find_or_make(root, &target, missing, depth + 1);
            }
        }
        Err(errno) => return Err(errno.into()),
    }
    find_in_root(root, path)
}

/// The path below the root that the symlink `name` in `parent` means, or none if it is none.
fn dangling(parent_dir: &OwnedFd, parent: &str, name: &str) -> io::Result<Option<String>> {
    let target = match rustix::fs::readlinkat(parent_dir, name, Vec::new()) {
        Ok(target) => target,
        Err(Errno::INVAL) => return Ok(None),
        Err(errno) => return Err(errno.into()),
    };
    let target = target.into_string().map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let absolute = target.starts_with('/');
    Ok(Some(if absolute { target } else { format!("{parent}/{target}") }))
}

/// Parent and last component, or none when nothing is left to make.
fn split(path: &str) -> Option<(&str, &str)> {
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return None;
    }
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = if parent.is_empty() { "/" } else { parent };
    if name == "." { split(parent) } else { Some((parent, name)) }
}

/// Whether an open file is a directory.
///
/// # Errors
/// What `fstat(2)` refuses with.
pub fn is_dir(file: BorrowedFd<'_>) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode).is_dir())
}

/// Opens a directory by an absolute path, for lookups below it.
///
/// # Errors
/// What `open(2)` refuses with.
pub fn open_dir(path: impl Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(CWD, path, flags, Mode::empty())?)
}

/// Writes a value to an existing kernel file (`/proc`, cgroupfs) in one `write`.
///
/// # Errors
/// What `openat(2)` and `write(2)` refuse with; `WriteZero` when the kernel took only a part.
pub fn write_value(dir: impl AsFd, file: impl Arg, value: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(dir, file, flags, Mode::empty())?;
    write_once(file.as_fd(), value)
}

/// Writes a value to an open kernel file in one `write`.
///
/// # Errors
/// What `write(2)` refuses with; `WriteZero` when the kernel took only a part.
pub fn write_once(file: BorrowedFd<'_>, value: &[u8]) -> io::Result<()> {
    let written = rustix::io::retry_on_intr(|| rustix::io::write(file, value))?;
    if written == value.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

/// Reads a small kernel file as text.
///
/// # Errors
/// What `openat(2)` and `read(2)` refuse with, `InvalidData` when it is not UTF-8.
pub fn read_value(dir: impl AsFd, file: impl Arg) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat(dir, file, flags, Mode::empty())?;
    // Its size is not known, and nearly always fits: no asking, and no feeling one's way up.
    let mut text = Vec::with_capacity(VALUE);
    while rustix::io::read(&file, rustix::buffer::spare_capacity(&mut text))? > 0 {
        text.reserve(VALUE / 4);
    }
    String::from_utf8(text).map_err(|_not_text| io::ErrorKind::InvalidData.into())
}

/// Longer than what one is usually read for: `/proc/<pid>/status` has 1.5 KiB.
const VALUE: usize = 4 << 10;

/// Gives a file an SELinux label; `file` may be a mere handle (`O_PATH`).
///
/// # Errors
/// The kernel's.
pub fn set_selinux_label(file: BorrowedFd<'_>, label: &str) -> io::Result<()> {
    let (name, value) = (c"security.selinux", [label.as_bytes(), &[0]].concat());
    let flags = rustix::fs::XattrFlags::empty();
    match rustix::fs::fsetxattr(file, name, &value, flags) {
        // It is a handle: the descriptor's own link leads to just this file.
        Err(Errno::BADF) => {
            let path = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
            Ok(rustix::fs::setxattr(path, name, &value, flags)?)
        }
        result => Ok(result?),
    }
}

/// Whether something exists at `name` in `dir`; a symlink counts as itself.
///
/// # Errors
/// What `fstatat(2)` refuses with, other than that it is missing.
pub fn exists(dir: impl AsFd, name: impl Arg) -> io::Result<bool> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// A file in memory that can never change again, ready to be executed.
///
/// # Errors
/// What `memfd_create(2)`, `write(2)` and `fcntl(2)` refuse with.
pub fn sealed_program(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels with `vm.memfd_noexec` want the wish to execute said, older ones do not know it.
    let file = match rustix::fs::memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => rustix::fs::memfd_create(name, flags),
        result => result,
    }?;
    let mut file = std::fs::File::from(file);
    file.write_all(bytes)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        let fd = open_dir(dir.path()).unwrap();
        (dir, fd)
    }

    #[test]
    fn missing_directories_and_files_are_made_inside() {
        let (dir, fd) = root();
        find_or_make_in_root(fd.as_fd(), "/a/b/c", Missing::File).unwrap();
        assert!(dir.path().join("a/b/c").is_file());
        mkdir_all_in_root(fd.as_fd(), "/a/x/./y/").unwrap();
        assert!(dir.path().join("a/x/y").is_dir());
    }

    #[test]
    fn symlinks_and_dots_never_lead_out() {
        let (dir, fd) = root();
        symlink("/", dir.path().join("abs")).unwrap();
        symlink("../../../..", dir.path().join("up")).unwrap();
        mkdir_all_in_root(fd.as_fd(), "/abs/one").unwrap();
        mkdir_all_in_root(fd.as_fd(), "/up/two").unwrap();
        mkdir_all_in_root(fd.as_fd(), "/../../three").unwrap();
        for name in ["one", "two", "three"] {
            assert!(dir.path().join(name).is_dir(), "{name}");
        }
    }

    #[test]
    fn a_symlink_to_nowhere_gets_its_target_made_inside() {
        let (dir, fd) = root();
        symlink("/var/run/x", dir.path().join("abs")).unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        symlink("../rel/y", dir.path().join("d/rel")).unwrap();
        find_or_make_in_root(fd.as_fd(), "/abs", Missing::File).unwrap();
        mkdir_all_in_root(fd.as_fd(), "/d/rel").unwrap();
        assert!(dir.path().join("var/run/x").is_file());
        assert!(dir.path().join("rel/y").is_dir());
    }

    #[test]
    fn circles_end() {
        let (dir, fd) = root();
        symlink("b", dir.path().join("a")).unwrap();
        symlink("a", dir.path().join("b")).unwrap();
        let error = mkdir_all_in_root(fd.as_fd(), "/a/x").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn symlinks_can_be_refused() {
        let (dir, fd) = root();
        symlink("/", dir.path().join("proc")).unwrap();
        let error = open_in_root(fd.as_fd(), "/proc", OFlags::PATH, Symlinks::Refuse).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }

    #[test]
    fn what_leads_out_from_beneath_is_an_error() {
        let (dir, fd) = root();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        symlink("d", dir.path().join("in")).unwrap();
        symlink("/d", dir.path().join("abs")).unwrap();
        symlink("../..", dir.path().join("d/up")).unwrap();
        let open = |path| open_beneath(fd.as_fd(), path, OFlags::PATH | OFlags::DIRECTORY);
        open("in/.").unwrap();
        open("d/../d").unwrap();
        for path in ["abs", "d/up", "..", "/d"] {
            assert_eq!(open(path).unwrap_err().raw_os_error(), Some(libc::EXDEV), "{path}");
        }
    }

    #[test]
    fn a_sealed_program_cannot_be_written() {
        let file = sealed_program("t", b"#!/bin/true\n").unwrap();
        assert!(rustix::io::write(&file, b"x").is_err());
    }

    /// A path of a few short components, some of them symlinks of the same tree.
    fn any_path() -> impl proptest::strategy::Strategy<Value = String> {
        use proptest::prelude::*;
        let part = prop_oneof![
            4 => "[abc]",
            2 => Just("..".to_owned()),
            1 => Just(".".to_owned()),
            1 => Just(String::new()),
        ];
        (any::<bool>(), proptest::collection::vec(part, 1..6)).prop_map(|(absolute, parts)| {
            format!("{}{}", if absolute { "/" } else { "" }, parts.join("/"))
        })
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_tree_holds_nothing_is_made_outside(
            links in proptest::collection::vec((any_path(), any_path()), 0..6),
            wanted in proptest::collection::vec((any_path(), proptest::bool::ANY), 1..6),
        ) {
            let (dir, _) = root();
            let jail = dir.path().join("jail");
            std::fs::create_dir(&jail).unwrap();
            let fd = open_dir(jail.as_path()).unwrap();
            for (at, target) in links {
                // Only to place links; the tree is ours until the first wanted path.
                let (parent, name) = at.rsplit_once('/').unwrap_or(("", &at));
                if let Ok(parent) = mkdir_all_in_root(fd.as_fd(), &format!("{parent}/")) {
                    rustix::fs::symlinkat(target.as_str(), &parent, name).ok();
                }
            }
            for (path, directory) in wanted {
                let missing = if directory { Missing::Directory } else { Missing::File };
                if let Ok(found) = find_or_make_in_root(fd.as_fd(), &path, missing) {
                    let place = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
                    let place = std::fs::read_link(place).unwrap();
                    proptest::prop_assert!(place.starts_with(&jail), "{place:?}");
                }
            }
            proptest::prop_assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        }
    }
}
