//! The directories of containers.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::record::{FORMAT, Record};
use crate::error::{At as _, OciError};

const RECORD: &str = "state.json";
const SPEC: &str = "config.json";
const GATE: &str = "gate";
const LOCK: &str = "lock";
const STAGING: &str = "root";

/// The directory that has a directory for each container.
#[derive(Debug)]
pub(crate) struct Store {
    root: PathBuf,
}

impl Store {
    pub(crate) fn new(root: &Path) -> Result<Self, OciError> {
        // A container's directory is named by links in /proc and in messages.
        Ok(Self { root: std::path::absolute(root).at("find", root)? })
    }

    /// Takes an id. What it is for is not on record yet.
    pub(crate) fn create(&self, id: &str) -> Result<(Container, Lock), OciError> {
        check_id(id)?;
        make_private(&self.root).at("make", &self.root)?;
        self.sweep()?;
        let path = self.root.join(id);
        match rustix::fs::mkdir(&path, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Err(OciError::Exists { id: id.to_owned() }),
            Err(errno) => return Err(errno).at("make", &path),
        }
        let made = Container::open(id, path.clone()).and_then(|container| {
            let lock = container.lock()?;
            rustix::fs::mkdirat(&container.dir, STAGING, Mode::RWXU).at("make", &path)?;
            Ok((container, lock))
        });
        made.inspect_err(|_| {
            // The error that made this necessary is the one to report.
            std::fs::remove_dir_all(&path).ok();
        })
    }

    pub(crate) fn open(&self, id: &str) -> Result<Container, OciError> {
        check_id(id)?;
        Container::open(id, self.root.join(id))
    }

    /// Removes what a killed `delete` has left of containers that are no more.
    fn sweep(&self) -> Result<(), OciError> {
        for entry in std::fs::read_dir(&self.root).at("read", &self.root)? {
            let path = entry.at("read", &self.root)?.path();
            let remover = path.file_name().and_then(OsStr::to_str).and_then(remover);
            if remover.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
                remove_tree(&path)?;
            }
        }
        Ok(())
    }

    /// The ids of all containers, sorted.
    pub(crate) fn ids(&self) -> Result<Vec<String>, OciError> {
        let entries = match std::fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.at("read", &self.root)?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry.at("read", &self.root)?.file_name();
            ids.extend(name.to_str().filter(|name| check_id(name).is_ok()).map(str::to_owned));
        }
        ids.sort();
        Ok(ids)
    }
}

/// Whoever can enter it could start containers.
fn make_private(root: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(root)
}

/// Where a container's directory goes to be removed: a name that is no id.
fn doomed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("~{}", std::process::id()));
    name.into()
}

/// The process that removes a directory of such a name.
fn remover(name: &str) -> Option<&str> {
    let (_id, pid) = name.rsplit_once('~')?;
    pid.bytes().all(|byte| byte.is_ascii_digit()).then_some(pid)
}

fn remove_tree(path: &Path) -> Result<(), OciError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

fn check_id(id: &str) -> Result<(), OciError> {
    let letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    let good = !id.is_empty() && id.len() <= 1024 && id.chars().all(letter);
    if good && id != "." && id != ".." {
        Ok(())
    } else {
        Err(OciError::BadId { id: id.to_owned() })
    }
}

/// Held by whoever changes a container; given up when dropped, or when the process ends. It is
/// the process's alone: children do not have it.
#[derive(Debug)]
pub(crate) struct Lock(#[allow(dead_code, reason = "closing it gives the lock up")] File);

/// A container's directory.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: String,
    path: PathBuf,
    dir: OwnedFd,
}

impl Container {
    fn open(id: &str, path: PathBuf) -> Result<Self, OciError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::open(&path, flags, Mode::empty()) {
            Ok(dir) => Ok(Self { id: id.to_owned(), path, dir }),
            Err(Errno::NOENT) => Err(OciError::NotFound { id: id.to_owned() }),
            Err(errno) => Err(errno).at("open", &path),
        }
    }

    /// Waits until nobody else changes the container. Take it once: closing any file of the lock
    /// gives it up.
    ///
    /// # Errors
    /// [`OciError::NotFound`] where somebody has deleted it meanwhile, even if the id was taken anew.
    pub(crate) fn lock(&self) -> Result<Lock, OciError> {
        let file = self.lock_file()?;
        let lock = || rustix::fs::fcntl_lock(&file, FlockOperation::LockExclusive);
        rustix::io::retry_on_intr(lock).at("lock", &self.path)?;
        if self.is_in_place()? {
            Ok(Lock(file))
        } else {
            Err(OciError::NotFound { id: self.id.clone() })
        }
    }

    /// Whether the id still names this very directory.
    fn is_in_place(&self) -> Result<bool, OciError> {
        let ours = rustix::fs::fstat(&self.dir).at("look at", &self.path)?;
        match rustix::fs::lstat(&self.path) {
            Ok(found) => Ok((found.st_dev, found.st_ino) == (ours.st_dev, ours.st_ino)),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(errno).at("look at", &self.path),
        }
    }

    /// Whether somebody else changes the container now.
    pub(crate) fn is_locked(&self) -> Result<bool, OciError> {
        let file = self.lock_file()?;
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(false),
            Err(Errno::AGAIN | Errno::ACCESS) => Ok(true),
            Err(errno) => Err(errno).at("lock", &self.path),
        }
    }

    fn lock_file(&self) -> Result<File, OciError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        match rustix::fs::openat(&self.dir, LOCK, flags, Mode::RUSR | Mode::WUSR) {
            Ok(file) => Ok(file.into()),
            // The directory has been removed since it was opened.
            Err(Errno::NOENT) => Err(OciError::NotFound { id: self.id.clone() }),
            Err(errno) => Err(errno).at("lock", &self.path),
        }
    }

    pub(crate) fn record(&self) -> Result<Record, OciError> {
        let path = self.path.join(RECORD);
        let text = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OciError::NotFound { id: self.id.clone() });
            }
            text => text.at("read", &path)?,
        };
        let not = |source| OciError::NotJson {
            path: path.clone(),
            what: "the record of a container",
            source,
        };
        let record: Record = serde_json::from_slice(&text).map_err(not)?;
        if record.format == FORMAT {
            Ok(record)
        } else {
            Err(OciError::Format { path, found: record.format, known: FORMAT })
        }
    }

    /// Replaces the record: a reader finds the old one or the new one.
    pub(crate) fn write_record(&self, record: &Record) -> Result<(), OciError> {
        let path = self.path.join(RECORD);
        let text = serde_json::to_vec(record).map_err(|source| OciError::NotJson {
            path: path.clone(),
            what: "a record",
            source,
        })?;
        self.replace(RECORD, &text)
    }

    pub(crate) fn write_spec(&self, text: &[u8]) -> Result<(), OciError> {
        self.replace(SPEC, text)
    }

    fn replace(&self, name: &str, text: &[u8]) -> Result<(), OciError> {
        let path = self.path.join(name);
        let new = path.with_extension("new");
        std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path)).at("write", &path)
    }

    /// The specification it was created from.
    pub(crate) fn spec(&self) -> Result<Spec, OciError> {
        let path = self.path.join(SPEC);
        let text = std::fs::read(&path).at("read", &path)?;
        // What is passed over was told when it was created.
        parse_spec(&path, &text).map(|(spec, _)| spec)
    }

    pub(crate) fn staging(&self) -> PathBuf {
        self.path.join(STAGING)
    }

    /// The socket behind which its first process waits.
    pub(crate) fn listen(&self) -> Result<OwnedFd, OciError> {
        let path = self.path.join(GATE);
        sys::fdpass::listen_at(self.dir.as_fd(), GATE).at("make", path)
    }

    pub(crate) fn connect(&self) -> io::Result<OwnedFd> {
        sys::fdpass::connect_at(self.dir.as_fd(), GATE)
    }

    /// Nobody waits behind it any more.
    pub(crate) fn remove_gate(&self) -> Result<(), OciError> {
        match rustix::fs::unlinkat(&self.dir, GATE, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).at("remove", self.path.join(GATE)),
        }
    }

    /// Gives the id free. Nothing is mounted below the directory. Whoever waits for the lock finds
    /// the container whole or gone, never half removed.
    pub(crate) fn remove(&self, _lock: &Lock) -> Result<(), OciError> {
        let doomed = doomed(&self.path);
        match rustix::fs::rename(&self.path, &doomed) {
            Ok(()) => remove_tree(&doomed),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).at("remove", &self.path),
        }
    }
}

/// Reads a specification of a version that is known; says what of it was passed over.
pub(crate) fn parse_spec(path: &Path, text: &[u8]) -> Result<(Spec, Vec<String>), OciError> {
    let not = |source| OciError::NotJson { path: path.to_owned(), what: "an OCI spec", source };
    let (spec, passed) = crate::tolerant::spec(text).map_err(not)?;
    let version = spec.version();
    // Later minor versions only add; what is added is refused by name where it is known.
    if version.split('.').next() == Some("1") && version.split('.').count() >= 3 {
        Ok((spec, passed))
    } else {
        Err(OciError::SpecVersion { path: path.to_owned(), version: version.clone() })
    }
}

/// Replaces a file in a directory that may be anybody's, such as `/tmp`: what lies there under the name
/// the text is first written to is not written through, whatever it leads to.
pub(crate) fn write_atomically(path: &Path, text: &str) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let new = path.with_file_name(format!(".{name}"));
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _gone => {}
    }
    let mut file = File::create_new(&new)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str) -> Record {
        Record {
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2026-01-01T00:00:00Z".into(),
            ..Record::unknown(id)
        }
    }

    #[test]
    fn ids_that_are_paths_or_nothing_are_refused() {
        let long = "x".repeat(1025);
        for id in ["", ".", "..", "a/b", "a b", "é", "a\n", long.as_str()] {
            assert!(check_id(id).is_err(), "{id:?}");
        }
        for id in ["a", "A_b+c-d.e", "..."] {
            assert!(check_id(id).is_ok(), "{id:?}");
        }
    }

    #[test]
    fn an_id_is_taken_once_and_free_again_when_removed() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::new(&top.path().join("deep/root")).unwrap();
        assert!(matches!(store.open("a"), Err(OciError::NotFound { .. })));
        assert_eq!(store.ids().unwrap(), Vec::<String>::new());
        let (container, lock) = store.create("a").unwrap();
        assert!(matches!(store.create("a"), Err(OciError::Exists { .. })));
        assert!(matches!(container.record(), Err(OciError::NotFound { .. })));
        container.write_record(&record("a")).unwrap();
        assert_eq!(store.open("a").unwrap().record().unwrap(), record("a"));
        assert_eq!(store.ids().unwrap(), ["a"]);
        let stale = store.open("a").unwrap();
        container.remove(&lock).unwrap();
        container.remove(&lock).unwrap();
        assert_eq!(std::fs::read_dir(&store.root).unwrap().count(), 0);
        assert!(matches!(stale.lock(), Err(OciError::NotFound { .. })));
        store.create("a").unwrap();
        assert!(matches!(stale.lock(), Err(OciError::NotFound { .. })));
    }

    #[test]
    fn what_a_killed_delete_has_left_goes_with_the_next_create() {
        let top = tempfile::tempdir().unwrap();
        let store = Store::new(top.path()).unwrap();
        let left = top.path().join(format!("a~{}", i32::MAX));
        let others = top.path().join(format!("b~{}", std::process::id()));
        for path in [&left, &others] {
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join(RECORD), "{}").unwrap();
        }
        assert_eq!(store.ids().unwrap(), Vec::<String>::new());
        store.create("c").unwrap();
        assert!(!left.exists() && others.exists());
    }

    #[test]
    fn a_damaged_record_is_named() {
        let top = tempfile::tempdir().unwrap();
        let (container, _lock) = Store::new(top.path()).unwrap().create("a").unwrap();
        std::fs::write(container.path.join(RECORD), "{\"format\":").unwrap();
        let error = container.record().unwrap_err().to_string();
        assert!(error.contains("a/state.json"), "{error}");
        container.write_record(&Record { format: 2, ..record("a") }).unwrap();
        let error = container.record().unwrap_err().to_string();
        assert!(error.contains("format 2"), "{error}");
    }

    #[test]
    fn a_link_that_lies_in_the_way_of_a_file_is_not_followed() {
        let top = tempfile::tempdir().unwrap();
        let (victim, file) = (top.path().join("victim"), top.path().join("pid"));
        std::fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, top.path().join(".pid")).unwrap();
        write_atomically(&file, "7").unwrap();
        assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
        assert!(std::fs::symlink_metadata(&file).unwrap().is_file());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "7");
    }

    #[test]
    fn a_lock_is_the_processs_alone() {
        let top = tempfile::tempdir().unwrap();
        let (container, lock) = Store::new(top.path()).unwrap().create("a").unwrap();
        // To be seen by another process only.
        let held = |path: &Path| {
            let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
            let locks = std::fs::read_to_string("/proc/locks").unwrap();
            locks.lines().any(|line| line.contains("POSIX") && line.contains(&format!(":{inode} ")))
        };
        let path = container.path.join(LOCK);
        assert!(held(&path));
        drop(lock);
        assert!(!held(&path));
    }

    #[test]
    fn specifications_of_other_major_versions_are_refused() {
        let parse = |text: &str| parse_spec(Path::new("/x/config.json"), text.as_bytes());
        for version in ["1.0.0", "1.0.2-dev", "1.99.0"] {
            parse(&format!("{{\"ociVersion\":\"{version}\"}}")).unwrap();
        }
        for text in ["{}", "{\"ociVersion\":\"2.0.0\"}", "{\"ociVersion\":\"1\"}"] {
            assert!(matches!(parse(text), Err(OciError::SpecVersion { .. })), "{text}");
        }
        let error = parse("[").unwrap_err();
        assert!(model::chain(&error).starts_with("/x/config.json is not an OCI spec: "));
    }
}
