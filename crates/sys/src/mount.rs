//! The mount API that works on descriptors: make a file system or a copy of a mount detached, set
//! its attributes, put it somewhere. Nothing is visible anywhere until [`attach`].

use std::ffi::{CStr, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::CWD;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use rustix::path::Arg;

use crate::process::checked;

/// `MOUNT_ATTR_RDONLY`.
pub const ATTR_RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`.
pub const ATTR_NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`.
pub const ATTR_NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`.
pub const ATTR_NOEXEC: u64 = 0x8;
/// `MOUNT_ATTR__ATIME`: the three access time modes are one field, cleared as a whole.
const ATTR_ATIME: u64 = 0x70;

/// Mount propagation, in the kernel's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Propagation {
    /// Neither way, and no bind mount of it.
    Unbindable = 1 << 17,
    /// Neither way.
    Private = 1 << 18,
    /// From the peers only.
    Slave = 1 << 19,
    /// Both ways.
    Shared = 1 << 20,
}

/// Change of a mount's attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Change {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// New propagation.
    pub propagation: Option<Propagation>,
}

/// `struct mount_attr`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

fn set_attr(at: c_int, path: &CStr, recursive: bool, change: Change) -> io::Result<()> {
    // The kernel wants the whole access time field cleared when any of it is set.
    let atime = if (change.set | change.clear) & ATTR_ATIME == 0 { 0 } else { ATTR_ATIME };
    let attr = MountAttr {
        set: change.set,
        clear: change.clear | atime,
        propagation: change.propagation.map_or(0, |p| p as u64),
        userns: 0,
    };
    mount_setattr(at, path, recursive, &attr)
}

fn mount_setattr(at: c_int, path: &CStr, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: `path` is NUL-terminated and `attr` is a `mount_attr` of the size given; both
    // outlive the call.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            at,
            path.as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })
}

/// Changes attributes of the mount whose root `mount` is, detached or not.
///
/// # Errors
/// What `mount_setattr(2)` refuses with.
pub fn change(mount: impl AsFd, recursive: bool, change: Change) -> io::Result<()> {
    if change == Change::default() {
        return Ok(());
    }
    set_attr(mount.as_fd().as_raw_fd(), c"", recursive, change)
}

/// Changes attributes of the mount at an absolute path and, if asked, of all below.
///
/// # Errors
/// What `mount_setattr(2)` refuses with.
pub fn change_at(path: &CStr, recursive: bool, change: Change) -> io::Result<()> {
    set_attr(libc::AT_FDCWD, path, recursive, change)
}

/// Makes a detached mount show the ids of its files as `userns` maps them, and take ids the other
/// way round: what belongs to user 0 on disk belongs to the namespace's root here. With
/// `recursive`, those below it too.
///
/// # Errors
/// What `mount_setattr(2)` refuses with: `EINVAL` for a file system that cannot do it.
pub fn map_ids(mount: impl AsFd, recursive: bool, userns: BorrowedFd<'_>) -> io::Result<()> {
    const ATTR_IDMAP: u64 = 0x0010_0000;
    let userns = u64::from(userns.as_raw_fd().unsigned_abs());
    let attr = MountAttr { set: ATTR_IDMAP, clear: 0, propagation: 0, userns };
    mount_setattr(mount.as_fd().as_raw_fd(), c"", recursive, &attr)
}

/// A file system being configured.
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// Starts with a type: `overlay`, `tmpfs`, `proc`.
    ///
    /// # Errors
    /// `ENODEV` for a type this kernel does not have.
    pub fn open(fstype: &str) -> io::Result<Self> {
        Ok(Self(rustix::mount::fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC)?))
    }

    /// Sets an option without a value.
    ///
    /// # Errors
    /// What `fsconfig(2)` refuses with.
    pub fn flag(&self, key: &str) -> io::Result<()> {
        Ok(rustix::mount::fsconfig_set_flag(self.0.as_fd(), key)?)
    }

    /// Sets an option.
    ///
    /// # Errors
    /// What `fsconfig(2)` refuses with.
    pub fn set(&self, key: &str, value: &str) -> io::Result<()> {
        Ok(rustix::mount::fsconfig_set_string(self.0.as_fd(), key, value)?)
    }

    /// Sets an option whose value is an open file.
    ///
    /// # Errors
    /// What `fsconfig(2)` refuses with.
    pub fn set_file(&self, key: &str, file: BorrowedFd<'_>) -> io::Result<()> {
        Ok(rustix::mount::fsconfig_set_fd(self.0.as_fd(), key, file)?)
    }

    /// Gives every file an SELinux label, if there is one. Only file systems that store none of
    /// their own take it.
    ///
    /// # Errors
    /// The kernel's: without SELinux it knows no such option.
    pub fn label(&self, label: Option<&str>) -> io::Result<()> {
        label.map_or(Ok(()), |label| self.set("context", label))
    }

    /// Makes the file system and one detached mount of it.
    ///
    /// # Errors
    /// What `fsconfig(2)` and `fsmount(2)` refuse with.
    pub fn mount(&self, attributes: u64) -> io::Result<OwnedFd> {
        rustix::mount::fsconfig_create(self.0.as_fd())?;
        let attributes =
            u32::try_from(attributes).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        Ok(rustix::mount::fsmount(
            self.0.as_fd(),
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::from_bits_retain(attributes),
        )?)
    }

    /// What the file system says about the last failure, in its own words.
    pub fn complaint(&self) -> Option<String> {
        let mut text = [0; 512];
        let length = rustix::io::read(&self.0, &mut text).ok()?;
        let text = String::from_utf8_lossy(text.get(..length)?).into_owned();
        // "e " marks errors, "w " warnings.
        Some(text.trim_end().trim_start_matches("e ").trim_start_matches("w ").to_owned())
    }
}

/// A detached copy of the mount at `path` below `at`; with `recursive`, of those below it too.
/// Symlinks in `path` are followed without bounds: never pass a container's path here.
///
/// # Errors
/// What `open_tree(2)` refuses with.
pub fn clone_tree(at: impl AsFd, path: impl Arg, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    Ok(rustix::mount::open_tree(at, path, flags)?)
}

/// A detached copy of the mount at an absolute path.
///
/// # Errors
/// What `open_tree(2)` refuses with.
pub fn clone_path(path: impl Arg, recursive: bool) -> io::Result<OwnedFd> {
    clone_tree(CWD, path, recursive)
}

/// A file on a read-only mount that is in no mount table, to execute by `/proc/self/fd/<n>`: a
/// process that gets hold of `/proc/<pid>/exe` of what runs from it cannot open it for writing,
/// whatever its privileges are in its own namespaces.
///
/// # Errors
/// What `open_tree(2)` and `mount_setattr(2)` refuse with.
pub fn read_only_file(path: impl Arg) -> io::Result<OwnedFd> {
    let file = clone_path(path, false)?;
    change(&file, false, Change { set: ATTR_RDONLY, ..Change::default() })?;
    Ok(file)
}

/// Puts a detached mount on an open file or directory.
///
/// # Errors
/// What `move_mount(2)` refuses with.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(rustix::mount::move_mount(mount, c"", target, c"", flags)?)
}

/// Puts a detached mount at an absolute path, following symlinks there.
///
/// # Errors
/// What `move_mount(2)` refuses with.
pub fn attach_at(mount: BorrowedFd<'_>, path: impl Arg) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    Ok(rustix::mount::move_mount(mount, c"", CWD, path, flags)?)
}

/// Takes the mount at `path` out of the tree, with all below it, even while in use.
///
/// # Errors
/// What `umount2(2)` refuses with.
pub fn detach(path: impl Arg) -> io::Result<()> {
    Ok(rustix::mount::unmount(path, UnmountFlags::DETACH)?)
}

/// Takes the mount whose root `mount` is out of the tree, by way of the caller's `/proc`.
///
/// # Errors
/// What `umount2(2)` refuses with.
pub fn detach_root(mount: BorrowedFd<'_>) -> io::Result<()> {
    detach(format!("/proc/thread-self/fd/{}", mount.as_raw_fd()))
}

/// Whether this kernel can change attributes of mounts with all below them (`mount_setattr(2)`,
/// Linux 5.12): asked without changing anything.
pub fn can_change_recursively() -> bool {
    // SAFETY: the size of 0 keeps the kernel from reading through the null pointer.
    let asked = checked(unsafe {
        libc::syscall(libc::SYS_mount_setattr, -1, c"".as_ptr(), 0, std::ptr::null::<u8>(), 0)
    });
    // A kernel that has the call finds fault with the size; a filter may answer EPERM.
    asked.is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

/// Swaps the current directory, which must be a mount point, in as root and lets go of the old
/// root.
///
/// # Errors
/// What `pivot_root(2)` and `umount2(2)` refuse with.
pub fn pivot_to_current_dir() -> io::Result<()> {
    // The old root ends up on top of the new one at the same place, so no directory is needed in
    // the new root to hold it.
    rustix::process::pivot_root(c".", c".")?;
    detach(c".")?;
    Ok(rustix::process::chdir(c"/")?)
}

/// As [`pivot_to_current_dir`] where the root cannot be moved away because it is the kernel's first
/// (a ramdisk): the mount, whose root is the current directory, is moved on top of it. `/proc` and
/// `/sys` are taken away first: what can be reached beneath must not be kernel files.
///
/// # Errors
/// What `umount2(2)`, `move_mount(2)` and `chroot(2)` refuse with.
pub fn cover_root_with(mount: BorrowedFd<'_>) -> io::Result<()> {
    for place in [c"/proc", c"/sys"] {
        match detach(place) {
            // Nothing is mounted there.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {}
            result => result?,
        }
    }
    let root = crate::fs::open_dir(c"/")?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    rustix::mount::move_mount(mount, c"", &root, c"", flags)?;
    rustix::process::chroot(c".")?;
    Ok(rustix::process::chdir(c"/")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn recursive_changes_are_known_since_5_12() {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap());
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        assert_eq!(can_change_recursively(), version >= (5, 12));
    }

    #[test]
    fn a_program_on_a_read_only_mount_cannot_be_opened_for_writing() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: mounting needs root");
            return;
        }
        // Its own: while anybody else runs it, the answer is ETXTBSY.
        let dir = tempfile::tempdir().unwrap();
        let cat = dir.path().join("cat");
        std::fs::copy("/bin/cat", &cat).unwrap();
        let program = read_only_file(&cat).unwrap();
        let mut child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let exe = format!("/proc/{}/exe", child.id());
        let held = rustix::fs::open(
            exe.as_str(),
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        // Not even once nothing runs from it any more, which would be ETXTBSY.
        let again = format!("/proc/self/fd/{}", held.as_raw_fd());
        let error = std::fs::File::options().write(true).open(again).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
    }
}
