//! The layer store.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

use layer::RemoveTreeError;
use model::Digest;
use rustix::fs::{Dir, Mode, RenameFlags};
use rustix::io::Errno;

use crate::ingest::{DIRECTORY, FS, Ingest, IngestError};
use crate::sealed::{LayerUsage, Seal};

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {} of the layer store", path.display())]
pub struct OpenError {
    pub action: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

/// Why a layer was not committed. The ingest is gone.
#[derive(Debug, thiserror::Error)]
#[error("cannot commit layer {diff_id}: {action} failed")]
pub struct CommitError {
    pub diff_id: Digest,
    pub action: &'static str,
    #[source]
    pub source: io::Error,
}

/// An image needs a layer that the store does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("layer {diff_id} is not in the layer store")]
pub struct MissingLayer {
    pub diff_id: Digest,
}

/// Why a layer was not removed, or not wholly.
#[derive(Debug, thiserror::Error)]
pub enum RemoveError {
    /// It is still there.
    #[error("cannot take layer {diff_id} out of the layer store")]
    Take { diff_id: Digest, source: Errno },
    /// It is no layer any more, but takes space until the next start.
    #[error("layer {diff_id} is removed, but not all of its files")]
    Delete { diff_id: Digest, source: RemoveTreeError },
}

/// All layers below one root. One process at a time may have it open.
#[derive(Debug)]
pub struct Layers {
    layers: Folder,
    ingest: Folder,
    known: RwLock<BTreeMap<Digest, LayerUsage>>,
    /// Held while a layer comes or goes, so that `known` and the disk change together.
    changes: Mutex<()>,
    next_ingest: AtomicU64,
    /// Deletes what an earlier process left.
    sweeper: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    fd: OwnedFd,
}

impl Folder {
    fn open(path: PathBuf) -> Result<Self, OpenError> {
        let fault = |action| {
            let path = path.clone();
            move |source: io::Error| OpenError { action, path, source }
        };
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(fault("make"))?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700))
            .map_err(fault("set the mode of"))?;
        let fd = rustix::fs::open(&path, DIRECTORY, Mode::empty())
            .map_err(|errno| fault("open")(errno.into()))?;
        Ok(Self { path, fd })
    }

    fn names(&self) -> Result<Vec<CString>, OpenError> {
        let fault = |errno: Errno| OpenError {
            action: "list",
            path: self.path.clone(),
            source: errno.into(),
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.fd).map_err(fault)? {
            let entry = entry.map_err(fault)?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        Ok(names)
    }
}

impl Layers {
    /// Opens `<root>/layers` and `<root>/ingest`, making them if need be. Abandoned ingests and
    /// layers without a valid seal are taken out at once and deleted in the background, on a
    /// thread that ends with the store.
    ///
    /// # Errors
    /// The directories cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let mut store = Self {
            layers: Folder::open(root.join("layers"))?,
            ingest: Folder::open(root.join("ingest"))?,
            known: RwLock::default(),
            changes: Mutex::default(),
            next_ingest: AtomicU64::new(0),
            sweeper: None,
        };
        let mut leftovers = store.ingest.names()?;
        for name in store.layers.names()? {
            match store.sealed(&name) {
                Some(seal) => drop(store.write().insert(seal.diff_id, seal.usage)),
                None => leftovers.push(store.discard(&name)?),
            }
        }
        store.sweeper = store.sweep(leftovers)?;
        Ok(store)
    }

    /// The seal of a layer, if it is one and says that it is this one.
    fn sealed(&self, name: &CString) -> Option<Seal> {
        let dir = rustix::fs::openat(&self.layers.fd, name, DIRECTORY, Mode::empty()).ok()?;
        let seal = Seal::read(dir.as_fd())?;
        (seal.diff_id.hex().as_bytes() == name.as_bytes()).then_some(seal)
    }

    /// Moves what is no layer out of the way.
    fn discard(&self, name: &CString) -> Result<CString, OpenError> {
        let path = self.layers.path.join(name.to_string_lossy().as_ref());
        tracing::warn!(layer = %path.display(), "removing a layer without a valid seal");
        self.move_to_trash(name).map_err(|errno| OpenError {
            action: "take out",
            path,
            source: errno.into(),
        })
    }

    fn sweep(&self, leftovers: Vec<CString>) -> Result<Option<JoinHandle<()>>, OpenError> {
        if leftovers.is_empty() {
            return Ok(None);
        }
        let path = self.ingest.path.clone();
        let fault = |source| OpenError { action: "sweep", path: path.clone(), source };
        let dir = self.ingest.fd.try_clone().map_err(fault)?;
        let swept = path.clone();
        let thread = std::thread::Builder::new().name("layer-sweep".to_owned());
        let spawned = thread.spawn(move || {
            for name in leftovers {
                let path = swept.join(name.to_string_lossy().as_ref());
                match layer::remove_tree(dir.as_fd(), &name) {
                    Ok(files) => {
                        tracing::info!(path = %path.display(), files, "removed an abandoned ingest");
                    }
                    Err(error) => {
                        let cause = error.source;
                        tracing::warn!(path = %path.display(), %error, %cause, "an abandoned ingest stays");
                    }
                }
            }
        });
        spawned.map(Some).map_err(fault)
    }

    /// Whether the layer is there, whole and durable. Does not block on the disk.
    pub fn contains(&self, diff_id: &Digest) -> bool {
        self.read().contains_key(diff_id)
    }

    /// What the layer takes on disk. Does not block on the disk.
    pub fn usage(&self, diff_id: &Digest) -> Option<LayerUsage> {
        self.read().get(diff_id).copied()
    }

    /// All layers, in the order of their digests. Does not block on the disk.
    pub fn list(&self) -> Vec<Digest> {
        self.read().keys().copied().collect()
    }

    /// A fresh directory to unpack a layer into.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn begin(&self) -> Result<Ingest, IngestError> {
        let path = &self.ingest.path;
        self.unique(|name| Ingest::make(self.ingest.fd.as_fd(), path, name))
            .map_err(|source| IngestError { path: path.clone(), source })
    }

    /// Makes an unpacked layer durable and visible. If it is there already, by an earlier or a
    /// concurrent commit, that is success and the ingest is dropped.
    ///
    /// The order is what a power cut tests: content and directories reach the disk (one `syncfs`),
    /// then the seal, then the rename that gives the layer its name, then that name.
    ///
    /// # Errors
    /// A step failed; the layer is not visible.
    pub fn commit(&self, ingest: Ingest, unpacked: &layer::Unpacked) -> Result<(), CommitError> {
        let diff_id = unpacked.diff_id;
        if self.contains(&diff_id) {
            return Ok(());
        }
        let fault = |action| move |source: io::Error| CommitError { diff_id, action, source };
        let usage = LayerUsage { bytes: unpacked.unpacked_bytes, inodes: unpacked.inodes };
        let seal = Seal { diff_id, usage, entries: unpacked.entries };
        rustix::fs::syncfs(ingest.root()).map_err(|errno| fault("syncfs")(errno.into()))?;
        seal.write(ingest.dir()).map_err(fault("writing the seal"))?;
        rustix::fs::fsync(ingest.dir()).map_err(|errno| fault("fsync")(errno.into()))?;

        let _changes = self.changes();
        let (from, to) = (self.ingest.fd.as_fd(), self.layers.fd.as_fd());
        match rustix::fs::renameat_with(
            from,
            ingest.name(),
            to,
            diff_id.hex(),
            RenameFlags::NOREPLACE,
        ) {
            Ok(()) => ingest.committed(),
            // Another commit of the same layer; only its name may not be durable yet.
            Err(Errno::EXIST | Errno::NOTEMPTY) => {}
            Err(errno) => return Err(fault("rename")(errno.into())),
        }
        rustix::fs::fsync(to).map_err(|errno| fault("fsync of the store")(errno.into()))?;
        self.write().insert(diff_id, usage);
        Ok(())
    }

    /// The directories to stack for an image, topmost first, as overlayfs wants its lower ones.
    /// `diff_ids` are in the image's order, base first.
    ///
    /// Overlayfs refuses a directory that is listed twice, and ignores an opaque marker on a
    /// layer's root: so a repeated layer counts where it is topmost, and nothing is listed that
    /// lies below an opaque root. Both leave the merged tree as it should be.
    ///
    /// # Errors
    /// The first layer that is missing.
    pub fn lower_dirs(&self, diff_ids: &[Digest]) -> Result<Vec<PathBuf>, MissingLayer> {
        if let Some(missing) = diff_ids.iter().find(|diff_id| !self.contains(diff_id)) {
            return Err(MissingLayer { diff_id: *missing });
        }
        let mut seen = BTreeSet::new();
        let mut lower = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids.iter().rev().filter(|diff_id| seen.insert(**diff_id)) {
            let dir = self.layers.path.join(diff_id.hex()).join(FS);
            let opaque = is_opaque(&dir);
            lower.push(dir);
            if opaque {
                break;
            }
        }
        Ok(lower)
    }

    /// Removes a layer. Success if it is not there. The caller knows that no image and no
    /// container uses it.
    ///
    /// # Errors
    /// [`RemoveError`] says whether the layer is still there.
    pub fn remove(&self, diff_id: &Digest) -> Result<(), RemoveError> {
        let diff_id = *diff_id;
        let trash = {
            let _changes = self.changes();
            let usage = self.write().remove(&diff_id);
            let name = CString::new(diff_id.hex()).map_err(|_| Errno::INVAL);
            match name.and_then(|name| self.move_to_trash(&name)) {
                Ok(trash) => trash,
                Err(Errno::NOENT) => return Ok(()),
                Err(source) => {
                    self.write().extend(usage.map(|usage| (diff_id, usage)));
                    return Err(RemoveError::Take { diff_id, source });
                }
            }
        };
        layer::remove_tree(self.ingest.fd.as_fd(), &trash)
            .map(drop)
            .map_err(|source| RemoveError::Delete { diff_id, source })
    }

    /// Out of `layers/` in one step; from there on it is an abandoned ingest.
    fn move_to_trash(&self, name: &CString) -> Result<CString, Errno> {
        self.unique(|trash| {
            let (from, to) = (self.layers.fd.as_fd(), self.ingest.fd.as_fd());
            rustix::fs::renameat_with(from, name, to, trash, RenameFlags::NOREPLACE)?;
            CString::new(trash).map_err(|_| Errno::INVAL)
        })
    }

    /// Tries names below `ingest/` until one is free: an earlier process may have left some.
    fn unique<T>(&self, make: impl Fn(&str) -> Result<T, Errno>) -> Result<T, Errno> {
        loop {
            let name = self.next_ingest.fetch_add(1, Ordering::Relaxed).to_string();
            match make(&name) {
                Err(Errno::EXIST) => {}
                made => return made,
            }
        }
    }

    // None of these guards anything that a panic could leave half-changed.
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Digest, LayerUsage>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Digest, LayerUsage>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn changes(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Layers {
    fn drop(&mut self) {
        if let Some(sweeper) = self.sweeper.take() {
            // A panic in the sweeper has been printed; what it left is swept next time.
            drop(sweeper.join());
        }
    }
}

fn is_opaque(dir: &Path) -> bool {
    let mut value = [0; 1];
    rustix::fs::lgetxattr(dir, "trusted.overlay.opaque", &mut value)
        .is_ok_and(|length| length == 1 && value == *b"y")
}

/// Opened without following a link.
pub(crate) fn open_path(dir: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(dir, DIRECTORY, Mode::empty())
}
