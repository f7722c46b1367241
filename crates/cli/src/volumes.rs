//! The directories behind a pod's volumes.
//!
//! A pod's own volumes lie in one directory named after the pod's uid, with a marker file in it.
//! The directory's path comes back from the runtime as an annotation, which whoever creates pods
//! can forge; so nothing is removed that does not have that name and that marker, or that has a
//! file system mounted below it.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{CWD, Mode, OFlags, openat};

use crate::pod::{HostPathKind, VolumeStep};

/// Says that a directory was made by `knarr run` and may go.
const MARKER: &str = ".knarr-run";

/// Why a volume cannot be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// It cannot be made.
    #[error("cannot make the volume directory {}", path.display())]
    Make {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A path of the host is not there, or cannot be looked at.
    #[error("cannot use the hostPath {}", path.display())]
    HostPath {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A path of the host is something else.
    #[error("the hostPath {} is not {expected}", path.display())]
    Kind {
        /// The path.
        path: PathBuf,
        /// What it must be.
        expected: &'static str,
    },
    /// The annotation names something `knarr run` did not make.
    #[error("the pod is gone, but {} is left: it was not made by knarr run for this pod", path.display())]
    Foreign {
        /// The directory.
        path: PathBuf,
    },
    /// Something is mounted in the volumes.
    #[error("the pod is gone, but {} is left: {mount} is mounted in it", path.display())]
    Mounted {
        /// The directory.
        path: PathBuf,
        /// The mount point.
        mount: String,
    },
    /// It cannot be removed.
    #[error("the pod is gone, but its volumes in {} cannot be removed", path.display())]
    Remove {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Makes and checks a pod's volumes. Blocks.
///
/// # Errors
/// [`VolumeError`]; what was made stays, for [`remove`] to undo.
pub fn make(dir: Option<&Path>, steps: &[VolumeStep]) -> Result<(), VolumeError> {
    if let Some(dir) = dir {
        let failed = |source| VolumeError::Make { path: dir.to_owned(), source };
        if let Some(root) = dir.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(failed)?;
        }
        // Not over an existing one: two pods must not share their volumes.
        fs::DirBuilder::new().mode(0o700).create(dir).map_err(failed)?;
        fs::write(dir.join(MARKER), "").map_err(failed)?;
    }
    for step in steps {
        match step {
            VolumeStep::EmptyDir { path, group } => {
                let failed = |source| VolumeError::Make { path: path.clone(), source };
                empty_dir(path, *group).map_err(failed)?;
            }
            VolumeStep::HostPath { path, kind } => host_path(path, *kind)?,
        }
    }
    Ok(())
}

/// Any user of the pod may write; with a group, new files belong to it.
fn empty_dir(path: &Path, group: Option<u32>) -> io::Result<()> {
    fs::create_dir(path)?;
    if group.is_some() {
        std::os::unix::fs::chown(path, None, group)?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    // After the chown, which clears the set-group bit; and the umask has no say in it.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn host_path(path: &Path, kind: HostPathKind) -> Result<(), VolumeError> {
    let failed = |source| VolumeError::HostPath { path: path.to_owned(), source };
    let missing = match fs::metadata(path) {
        Ok(_) => false,
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        Err(error) => return Err(failed(error)),
    };
    match kind {
        // The runtime has its own rule for a source that is not there.
        HostPathKind::Any => return Ok(()),
        HostPathKind::DirectoryOrCreate if missing => {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o755).create(path).map_err(failed)?;
        }
        HostPathKind::FileOrCreate if missing => {
            let file = fs::OpenOptions::new().write(true).create_new(true).open(path);
            drop(file.map_err(failed)?);
        }
        HostPathKind::DirectoryOrCreate
        | HostPathKind::Directory
        | HostPathKind::FileOrCreate
        | HostPathKind::File
        | HostPathKind::Socket
        | HostPathKind::CharDevice
        | HostPathKind::BlockDevice => {}
    }
    let found = fs::metadata(path).map_err(failed)?.file_type();
    let (fits, expected) = match kind {
        HostPathKind::Any => (true, "anything"),
        HostPathKind::DirectoryOrCreate | HostPathKind::Directory => {
            (found.is_dir(), "a directory")
        }
        HostPathKind::FileOrCreate | HostPathKind::File => (found.is_file(), "a file"),
        HostPathKind::Socket => (found.is_socket(), "a socket"),
        HostPathKind::CharDevice => (found.is_char_device(), "a character device"),
        HostPathKind::BlockDevice => (found.is_block_device(), "a block device"),
    };
    if fits { Ok(()) } else { Err(VolumeError::Kind { path: path.to_owned(), expected }) }
}

/// Removes the volumes of the pod `uid`. One that is not there is removed already. Blocks.
///
/// # Errors
/// [`VolumeError`]; a directory of doubtful origin stays.
pub fn remove(dir: &Path, uid: &str) -> Result<(), VolumeError> {
    match is_ours(dir, uid) {
        Ok(true) => {}
        Ok(false) => return Err(VolumeError::Foreign { path: dir.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(VolumeError::Remove { path: dir.to_owned(), source }),
    }
    let failed = |source| VolumeError::Remove { path: dir.to_owned(), source };
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(failed)?;
    let real = fs::canonicalize(dir).map_err(failed)?;
    if let Some(mount) = mount_below(&mounts, &real) {
        return Err(VolumeError::Mounted { path: dir.to_owned(), mount });
    }
    fs::remove_dir_all(dir).map_err(failed)
}

/// Named after the pod, a real directory, and marked. Containers see only directories inside it
/// and cannot have put the marker there.
fn is_ours(dir: &Path, uid: &str) -> io::Result<bool> {
    if uid.is_empty() || !dir.is_absolute() || dir.file_name() != Some(uid.as_ref()) {
        return Ok(false);
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(CWD, dir, flags | OFlags::RDONLY, Mode::empty())?;
    let marker = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&opened, MARKER, marker, Mode::empty()) {
        Ok(marker) => {
            let mode = rustix::fs::fstat(&marker)?.st_mode;
            Ok(rustix::fs::FileType::from_raw_mode(mode).is_file())
        }
        Err(rustix::io::Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// A mount point at or below `dir`, from the text of a mountinfo.
fn mount_below(mountinfo: &str, dir: &Path) -> Option<String> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .find(|point| Path::new(&unescape(point)).starts_with(dir))
        .map(str::to_owned)
}

/// The kernel writes white space and backslashes in octal.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(dir: &Path, host: &Path, kind: HostPathKind) -> [VolumeStep; 2] {
        [
            VolumeStep::EmptyDir { path: dir.join("cache"), group: None },
            VolumeStep::HostPath { path: host.to_owned(), kind },
        ]
    }

    #[test]
    fn volumes_are_made_and_removed_with_what_is_in_them() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("run").join("uid-1");
        let host = root.path().join("data").join("deep");
        make(Some(&dir), &steps(&dir, &host, HostPathKind::DirectoryOrCreate)).unwrap();
        assert!(host.is_dir());
        let mode = fs::metadata(dir.join("cache")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o777);
        fs::write(dir.join("cache/file"), "x").unwrap();
        assert!(make(Some(&dir), &[]).is_err(), "a second pod of this uid");
        remove(&dir, "uid-1").unwrap();
        assert!(!dir.exists());
        assert!(host.is_dir(), "the host's own directory stays");
        remove(&dir, "uid-1").unwrap();
    }

    #[test]
    fn a_forged_annotation_removes_nothing() {
        let root = tempfile::tempdir().unwrap();
        let plain = root.path().join("uid-1");
        fs::create_dir(&plain).unwrap();
        let marked = root.path().join("other");
        fs::create_dir(&marked).unwrap();
        fs::write(marked.join(MARKER), "").unwrap();
        let link = root.path().join("uid-2");
        std::os::unix::fs::symlink(&marked, &link).unwrap();
        for (dir, uid) in [(&plain, "uid-1"), (&marked, "uid-1"), (&plain, ""), (&link, "uid-2")] {
            assert!(remove(dir, uid).is_err(), "{}", dir.display());
            assert!(dir.exists());
        }
        assert!(matches!(remove(Path::new("uid-1"), "uid-1"), Err(VolumeError::Foreign { .. })));
    }

    #[test]
    fn a_host_path_must_be_what_was_said() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        make(
            None,
            &[VolumeStep::HostPath { path: file.clone(), kind: HostPathKind::FileOrCreate }],
        )
        .unwrap();
        for (kind, word) in [
            (HostPathKind::Directory, "directory"),
            (HostPathKind::Socket, "socket"),
            (HostPathKind::BlockDevice, "block device"),
        ] {
            let error = host_path(&file, kind).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        assert!(host_path(&root.path().join("none"), HostPathKind::File).is_err());
    }

    #[test]
    fn mounts_below_a_directory_are_seen() {
        let text =
            "36 35 98:0 / /v/uid/a\\040b rw - ext4 /dev/x rw\n37 35 0:1 / /v/uid2 rw - x x x\n";
        assert_eq!(mount_below(text, Path::new("/v/uid")), Some("/v/uid/a\\040b".into()));
        assert_eq!(mount_below(text, Path::new("/v/uid/c")), None);
    }
}
