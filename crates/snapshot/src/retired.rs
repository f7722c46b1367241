//! Layers that were replaced by fresh ones while containers had them. Overlayfs does not define what it
//! shows when a layer below it changes, so the old files stay, out of the way, until no container has
//! the layer any more: those that run go on with what they have, new ones get the fresh one.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::sync::PoisonError;

use model::Digest;
use rustix::fs::{Mode, RenameFlags};
use rustix::io::Errno;

use crate::fixup::Fixup;
use crate::ingest::{DIRECTORY, Ingest};
use crate::layers::{CommitError, Layers, OpenError, RemoveError, sync};
use crate::sealed::{LayerUsage, Seal};

/// What lies in `<root>/retired`, by name: of which layer it is or lay on, and what it takes.
pub(crate) type Retired = BTreeMap<CString, (Digest, LayerUsage)>;

impl Layers {
    /// Puts a newly unpacked layer in the place of the one that is there, which is retired.
    ///
    /// # Errors
    /// A step failed; the old layer is in its place or, after the last step, the new one.
    pub fn replace(&self, ingest: Ingest, unpacked: &layer::Unpacked) -> Result<(), CommitError> {
        let diff_id = unpacked.diff_id;
        if !self.contains(&diff_id) {
            return self.commit(ingest, unpacked);
        }
        let fault = |action| move |source: io::Error| CommitError { diff_id, action, source };
        let seal = self.make_durable(&ingest, unpacked)?;
        let _changes = self.changes();
        self.change_places(ingest, &diff_id)?;
        self.retire_fixups_of(&diff_id);
        sync(self.layers.fd.as_fd()).map_err(fault("fsync of the store"))?;
        self.write().insert(diff_id, seal);
        Ok(())
    }

    /// A durable ingest becomes the layer of its name, and what has that name is retired. Called
    /// with the lock on changes.
    pub(crate) fn change_places(
        &self,
        ingest: Ingest,
        diff_id: &Digest,
    ) -> Result<(), CommitError> {
        let diff_id = *diff_id;
        let fault = |action| move |source: io::Error| CommitError { diff_id, action, source };
        // The fresh one goes where the old one will be, and then they change places: at no moment
        // the old one lies where the next start sweeps.
        let retired = self
            .unique(|number| {
                let name = format!("{}.{number}", diff_id.hex());
                self.name(&self.retired, &ingest, &name, RenameFlags::NOREPLACE)?;
                CString::new(name).map_err(|_| Errno::INVAL)
            })
            .map_err(|errno| fault("rename")(errno.into()))?;
        ingest.committed();
        let (from, to) = (self.retired.fd.as_fd(), self.layers.fd.as_fd());
        let exchanged =
            rustix::fs::renameat_with(from, &retired, to, diff_id.hex(), RenameFlags::EXCHANGE);
        let old = self.seal(&diff_id).map(|seal| seal.usage).unwrap_or_default();
        self.known_retired().insert(retired, (diff_id, old));
        if let Err(errno) = exchanged {
            // Nobody uses the fresh one.
            return match self.free_retired(&diff_id) {
                Ok(()) => Err(fault("rename")(errno.into())),
                Err(error) => Err(fault("removing the fresh layer")(io::Error::other(error))),
            };
        }
        Ok(())
    }

    /// Moves a layer that the store cannot use to where it stays until no container has it.
    pub(crate) fn retire_broken(&self, layer: Digest, name: &CString) -> Result<(), OpenError> {
        let moved = self.unique(|number| {
            let (from, to) = (self.layers.fd.as_fd(), self.retired.fd.as_fd());
            let retired = format!("{}.{number}", layer.hex());
            rustix::fs::renameat_with(from, name, to, retired, RenameFlags::NOREPLACE)
        });
        moved.map_err(|errno| OpenError {
            action: "retire",
            path: self.layers.path.join(layer.hex()),
            source: errno.into(),
        })
    }

    /// Layers of which there are old copies.
    pub fn retired(&self) -> Vec<Digest> {
        let layers: BTreeSet<_> = self.known_retired().values().map(|(layer, _)| *layer).collect();
        layers.into_iter().collect()
    }

    /// Removes the old copies of a layer. The caller knows that no container uses them.
    ///
    /// # Errors
    /// [`RemoveError`] for the first that stays; all are tried.
    pub fn free_retired(&self, layer: &Digest) -> Result<(), RemoveError> {
        let diff_id = *layer;
        let mut first = Ok(());
        let copies = self.known_retired().clone();
        for (name, _) in copies.into_iter().filter(|(_, of)| of.0 == diff_id) {
            let freed = match self.move_to_trash(&self.retired, &name) {
                Ok(trash) => {
                    self.known_retired().remove(&name);
                    let deleted = self.delete(&trash);
                    deleted.map_err(|source| RemoveError::Delete { diff_id, source })
                }
                Err(source) => Err(RemoveError::Take { diff_id, source }),
            };
            first = first.and(freed);
        }
        first
    }

    /// What lies on a layer holds links to its files, which its containers go on using. Called with
    /// the lock on changes.
    fn retire_fixups_of(&self, layer: &Digest) {
        for (chain, fixup) in self.take_fixups_of(layer) {
            let renamed = self.unique(|number| {
                let name = format!("{}.{number}", chain.hex());
                let (from, to) = (self.fixups.fd.as_fd(), self.retired.fd.as_fd());
                rustix::fs::renameat_with(from, chain.hex(), to, &name, RenameFlags::NOREPLACE)?;
                CString::new(name).map_err(|_| Errno::INVAL)
            });
            match renamed {
                Ok(name) => {
                    let usage = LayerUsage { bytes: 0, inodes: fixup.inodes };
                    self.known_retired().insert(name, (*layer, usage));
                }
                Err(cause) => {
                    tracing::warn!(%layer, %cause, "what lay on a replaced layer stays in its place");
                }
            }
        }
    }

    /// Reads what there is; gives the names of what was moved to the trash.
    pub(crate) fn load_retired(&self) -> Result<Vec<CString>, OpenError> {
        let mut trash = Vec::new();
        for name in self.retired.names()? {
            let dir = rustix::fs::openat(&self.retired.fd, &name, DIRECTORY, Mode::empty()).ok();
            let layer = dir.as_ref().and_then(|dir| Seal::read(dir.as_fd()));
            let fixup = dir.as_ref().and_then(|dir| Fixup::read(dir.as_fd()));
            let of = match (layer, fixup) {
                // A seal may be another layer's: it was retired for that.
                (Some(seal), _) => (layer_named(&name).unwrap_or(seal.diff_id), seal.usage),
                (None, Some((_, Fixup { layer, inodes }))) => {
                    (layer, LayerUsage { bytes: 0, inodes })
                }
                // It was retired because it has no valid seal.
                (None, None) => match layer_named(&name) {
                    Some(layer) => (layer, LayerUsage::default()),
                    None => {
                        trash.push(self.discard(&self.retired, &name)?);
                        continue;
                    }
                },
            };
            self.known_retired().insert(name, of);
        }
        Ok(trash)
    }

    pub(crate) fn known_retired(&self) -> std::sync::MutexGuard<'_, Retired> {
        self.known_retired.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of which layer a retired one is, by its name.
fn layer_named(name: &CString) -> Option<Digest> {
    Digest::from_hex(name.to_str().ok()?.split_once('.')?.0)
}
