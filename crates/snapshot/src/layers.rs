//! The layer store.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;

use failpoint::Point;
use layer::RemoveTreeError;
use model::Digest;
use rustix::fs::{AtFlags, Mode, RenameFlags};
use rustix::io::Errno;

use crate::fixup::{ChainId, Fixup};
use crate::folder::Folder;
use crate::ingest::{DIRECTORY, Ingest, IngestError, SKELETON};
use crate::retired::Retired;
use crate::sealed::{LayerUsage, Seal, Sealing};
use crate::usage::of_tree;

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
    pub(crate) layers: Folder,
    ingest: Folder,
    pub(crate) fixups: Folder,
    pub(crate) retired: Folder,
    known: RwLock<BTreeMap<Digest, Seal>>,
    /// What has to lie above a layer in some images.
    pub(crate) known_fixups: RwLock<BTreeMap<ChainId, Fixup>>,
    /// Names of those that have no valid seal.
    pub(crate) broken_fixups: Mutex<Vec<CString>>,
    pub(crate) known_retired: Mutex<Retired>,
    /// Held while a layer comes or goes, so that `known` and the disk change together.
    changes: Mutex<()>,
    next_ingest: AtomicU64,
    /// What an earlier process left in `ingest`, by name; no name is used a second time.
    leftovers: Vec<CString>,
    /// Deletes it.
    sweeper: Option<JoinHandle<()>>,
}

impl Layers {
    /// Opens `<root>/layers` and its neighbours, making them if need be. Abandoned ingests are deleted
    /// in the background, on a thread that ends with the store. A layer without a valid seal is
    /// retired, for containers may stand on it; one of a newer version is left where it is, and is
    /// not in the store.
    ///
    /// # Errors
    /// The directories cannot be made or read.
    pub fn open(root: &Path) -> Result<Self, OpenError> {
        let mut store = Self {
            layers: Folder::open(root.join("layers"))?,
            ingest: Folder::open(root.join("ingest"))?,
            fixups: Folder::open(root.join("fixups"))?,
            retired: Folder::open(root.join("retired"))?,
            known: RwLock::default(),
            known_fixups: RwLock::default(),
            broken_fixups: Mutex::default(),
            known_retired: Mutex::default(),
            changes: Mutex::default(),
            next_ingest: AtomicU64::new(0),
            leftovers: Vec::new(),
            sweeper: None,
        };
        let mut leftovers = store.ingest.names()?;
        for name in store.layers.names()? {
            leftovers.extend(store.take_in(&name)?);
        }
        leftovers.extend(store.load_fixups()?);
        leftovers.extend(store.load_retired()?);
        let numbers = leftovers.iter().filter_map(|name| name.to_str().ok()?.parse::<u64>().ok());
        let unused = numbers.max().map_or(0, |last| last.saturating_add(1));
        store.next_ingest.fetch_max(unused, Ordering::Relaxed);
        store.leftovers.clone_from(&leftovers);
        store.sweeper = store.sweep(leftovers)?;
        Ok(store)
    }

    /// Puts what is there by this name into the store, if it is a layer; gives the name of what was
    /// moved to the trash.
    fn take_in(&self, name: &CString) -> Result<Option<CString>, OpenError> {
        let diff_id = name.to_str().ok().and_then(Digest::from_hex);
        let dir = rustix::fs::openat(&self.layers.fd, name, DIRECTORY, Mode::empty());
        let sealing = dir.map_or(Sealing::Broken, |dir| Sealing::read(dir.as_fd()));
        match (diff_id, sealing) {
            (Some(diff_id), Sealing::Whole(seal)) if seal.diff_id == diff_id => {
                self.write().insert(diff_id, seal);
                Ok(None)
            }
            (Some(layer), Sealing::Newer) => {
                tracing::warn!(%layer, "it is sealed by a newer version of knarr, and left alone");
                Ok(None)
            }
            (Some(layer), Sealing::Whole(_) | Sealing::Broken) => {
                tracing::warn!(%layer, "it has no valid seal: it stays until no container has it");
                self.retire_broken(layer, name).map(|()| None)
            }
            (None, Sealing::Whole(_) | Sealing::Newer | Sealing::Broken) => {
                self.discard(&self.layers, name).map(Some)
            }
        }
    }

    /// Moves what is no layer out of the way.
    pub(crate) fn discard(&self, from: &Folder, name: &CString) -> Result<CString, OpenError> {
        let path = from.path.join(name.to_string_lossy().as_ref());
        tracing::warn!(path = %path.display(), "removing a layer without a valid seal");
        self.move_to_trash(from, name).map_err(|errno| OpenError {
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
        self.read().get(diff_id).map(|seal| seal.usage)
    }

    /// What all layers take together: bytes on disk and inodes. Does not block on the disk.
    pub fn total_usage(&self) -> LayerUsage {
        let fixups: u64 = self.fixups().values().map(|fixup| fixup.inodes).sum();
        let none = LayerUsage { bytes: 0, inodes: fixups };
        let add = |sum: LayerUsage, usage: LayerUsage| LayerUsage {
            bytes: sum.bytes.saturating_add(usage.bytes),
            inodes: sum.inodes.saturating_add(usage.inodes),
        };
        let retired = self.known_retired().values().fold(none, |sum, (_, usage)| add(sum, *usage));
        self.read().values().fold(retired, |sum, seal| add(sum, seal.usage))
    }

    pub(crate) fn seal(&self, diff_id: &Digest) -> Option<Seal> {
        self.read().get(diff_id).cloned()
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
        failpoint::reach(Point::LayerBegin)
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
            .and_then(|()| self.unique(|name| Ingest::make(self.ingest.fd.as_fd(), path, name)))
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
        let seal = self.make_durable(&ingest, unpacked)?;
        let _changes = self.changes();
        failpoint::reach(Point::LayerName).map_err(fault("rename"))?;
        match self.name(&self.layers, &ingest, &diff_id.hex(), RenameFlags::NOREPLACE) {
            Ok(()) => ingest.committed(),
            // Another commit of the same layer; only its name may not be durable yet.
            Err(Errno::EXIST | Errno::NOTEMPTY) if self.contains(&diff_id) => {}
            // A layer of a newer version, which whoever pulls it now no longer has.
            Err(Errno::EXIST | Errno::NOTEMPTY) => self.change_places(ingest, &diff_id)?,
            Err(errno) => return Err(fault("rename")(errno.into())),
        }
        sync(self.layers.fd.as_fd()).map_err(fault("fsync of the store"))?;
        self.write().insert(diff_id, seal);
        Ok(())
    }

    /// Everything in the ingest reaches the disk, then its seal.
    pub(crate) fn make_durable(
        &self,
        ingest: &Ingest,
        unpacked: &layer::Unpacked,
    ) -> Result<Seal, CommitError> {
        let diff_id = unpacked.diff_id;
        let fault = |action| move |source: io::Error| CommitError { diff_id, action, source };
        let implied: Vec<_> = unpacked.implied.iter().filter(|path| !path.is_empty()).collect();
        if !implied.is_empty() {
            crate::fixup::write_implied(ingest.dir(), &implied)
                .map_err(fault("writing its implied directories"))?;
        }
        if !unpacked.skeleton {
            match rustix::fs::unlinkat(ingest.dir(), SKELETON, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(fault("removing its useless skeleton")(errno.into())),
            }
        }
        failpoint::reach(Point::LayerSync).map_err(fault("syncfs"))?;
        rustix::fs::syncfs(ingest.root()).map_err(|errno| fault("syncfs")(errno.into()))?;
        // Only now filesystems that allocate late know what it takes, the lists beside the tree
        // included; the seal, one block, is still to come.
        let (bytes, inodes) = ingest
            .dir()
            .try_clone_to_owned()
            .and_then(|root| Ok(of_tree(root)?))
            .map_err(fault("measuring"))?;
        let seal = Seal {
            diff_id,
            usage: LayerUsage { bytes, inodes },
            entries: unpacked.entries,
            root_named: unpacked.implied.len() == implied.len(),
            implied: implied.len() as u64,
            inventory: unpacked.inventory.clone(),
        };
        failpoint::reach(Point::LayerSeal).map_err(fault("writing the seal"))?;
        seal.write(ingest.dir()).map_err(fault("writing the seal"))?;
        sync(ingest.dir()).map_err(fault("fsync"))?;
        Ok(seal)
    }

    /// Moves an ingest into `folder`.
    pub(crate) fn name(
        &self,
        folder: &Folder,
        ingest: &Ingest,
        name: &str,
        how: RenameFlags,
    ) -> Result<(), Errno> {
        let (from, to) = (self.ingest.fd.as_fd(), folder.fd.as_fd());
        rustix::fs::renameat_with(from, ingest.name(), to, name, how)
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
            self.remove_fixups_of(&diff_id);
            let seal = self.write().remove(&diff_id);
            let name = CString::new(diff_id.hex()).map_err(|_| Errno::INVAL);
            let reached = failpoint::reach(Point::LayerTake).map_err(|_| Errno::IO);
            match reached.and(name).and_then(|name| self.move_to_trash(&self.layers, &name)) {
                Ok(trash) => trash,
                Err(Errno::NOENT) => return Ok(()),
                Err(source) => {
                    self.write().extend(seal.map(|seal| (diff_id, seal)));
                    return Err(RemoveError::Take { diff_id, source });
                }
            }
        };
        self.delete(&trash).map_err(|source| RemoveError::Delete { diff_id, source })
    }

    /// Ingests that nobody works on: they were there when the store was opened, and should have
    /// been swept since. Their names, and where they are.
    pub fn abandoned(&self) -> Vec<(String, PathBuf)> {
        let found = self.leftovers.iter().filter_map(|name| name.to_str().ok());
        let path = |name: &str| self.ingest.path.join(name);
        found.map(|name| (name.to_owned(), path(name))).filter(|(_, path)| path.exists()).collect()
    }

    /// Removes an abandoned ingest; gone already is success. Blocks on the disk.
    ///
    /// # Errors
    /// [`RemoveTreeError`].
    pub fn remove_abandoned(&self, name: &str) -> Result<(), RemoveTreeError> {
        match self.leftovers.iter().find(|leftover| leftover.to_bytes() == name.as_bytes()) {
            Some(leftover) => self.delete(leftover),
            None => Ok(()),
        }
    }

    /// Deletes what was moved to the trash.
    pub(crate) fn delete(&self, trash: &CString) -> Result<(), RemoveTreeError> {
        failpoint::reach(Point::LayerDelete).map_err(|_| RemoveTreeError {
            action: "delete",
            name: trash.to_string_lossy().into_owned(),
            source: Errno::IO,
        })?;
        layer::remove_tree(self.ingest.fd.as_fd(), trash).map(drop)
    }

    /// Out of its folder in one step; from there on it is an abandoned ingest.
    pub(crate) fn move_to_trash(&self, from: &Folder, name: &CString) -> Result<CString, Errno> {
        self.unique(|trash| {
            let (from, to) = (from.fd.as_fd(), self.ingest.fd.as_fd());
            rustix::fs::renameat_with(from, name, to, trash, RenameFlags::NOREPLACE)?;
            CString::new(trash).map_err(|_| Errno::INVAL)
        })
    }

    /// Tries names below `ingest/` until one is free: an earlier process may have left some.
    pub(crate) fn unique<T>(&self, make: impl Fn(&str) -> Result<T, Errno>) -> Result<T, Errno> {
        loop {
            let name = self.next_ingest.fetch_add(1, Ordering::Relaxed).to_string();
            match make(&name) {
                Err(Errno::EXIST) => {}
                made => return made,
            }
        }
    }

    // None of these guards anything that a panic could leave half-changed.
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<Digest, Seal>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<Digest, Seal>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn fixups(&self) -> RwLockReadGuard<'_, BTreeMap<ChainId, Fixup>> {
        self.known_fixups.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn changes(&self) -> MutexGuard<'_, ()> {
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

pub(crate) fn sync(dir: BorrowedFd<'_>) -> io::Result<()> {
    Ok(rustix::fs::fsync(dir)?)
}

/// Opened without following a link.
pub(crate) fn open_path(dir: &Path) -> Result<OwnedFd, Errno> {
    rustix::fs::open(dir, DIRECTORY, Mode::empty())
}
