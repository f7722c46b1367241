//! What a layer leaves to the layers below it, settled for one stack of layers.
//!
//! A layer may bring `tmp/x` without an entry for `tmp` (bazel, jib and kaniko write such
//! layers). Unpacked alone, its `tmp` is a plain directory of mode 0755, and overlayfs shows the
//! attributes of the topmost directory: the sticky `/tmp` of the base image would be lost. And
//! where a lower layer has `lib` as a link to `usr/lib`, the layer's `lib/x` would hide the link
//! behind a real directory. Only the layers below can tell what such directories are, and layers
//! are unpacked before and without them.
//!
//! So a layer remembers which directories it only implies ([`write_implied`]), and once an
//! image's stack is known [`Layers::complete`] makes a thin layer of its own that lies right
//! above: directories with the attributes they should have, links with what was put behind them
//! in the right place (as hard links). It is named after the chain of layers it is for (image-spec:
//! ChainID) and goes with the layer it lies on.

mod attributes;
mod build;
mod find;
mod seal;

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::PoisonError;

use failpoint::Point;
use model::Digest;
use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::ingest::{DIRECTORY, FS, Ingest, IngestError};
use crate::layers::{Layers, MissingLayer, OpenError, sync};
use crate::sealed::LayerUsage;
use crate::view::ViewError;

pub(crate) use seal::{ChainId, Fixup};

const IMPLIED: &str = "implied";

/// Why a stack of layers could not be completed. It is as it was.
#[derive(Debug, thiserror::Error)]
pub enum FixupError {
    #[error(transparent)]
    Missing(#[from] MissingLayer),
    #[error("cannot look at the layers below layer {diff_id}")]
    View { diff_id: Digest, source: ViewError },
    #[error("there is no place for what layer {diff_id} leaves open")]
    Begin { diff_id: Digest, source: IngestError },
    #[error("cannot read what layer {diff_id} leaves open")]
    Read { diff_id: Digest, source: io::Error },
    #[error("cannot {action} `{path}`, which layer {diff_id} leaves open")]
    Build { diff_id: Digest, action: &'static str, path: String, source: Errno },
    #[error("cannot make durable what layer {diff_id} leaves open: {action} failed")]
    Commit { diff_id: Digest, action: &'static str, source: io::Error },
}

/// Writes the list into a layer's directory; the caller syncs.
pub(crate) fn write_implied(dir: BorrowedFd<'_>, paths: &[&Vec<u8>]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(dir, IMPLIED, flags, Mode::RUSR | Mode::WUSR)?);
    let mut out = io::BufWriter::new(file);
    for path in paths {
        out.write_all(path)?;
        // No name contains it.
        out.write_all(&[0])?;
    }
    out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
}

fn read_implied(dir: BorrowedFd<'_>) -> io::Result<BTreeSet<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(dir, IMPLIED, flags, Mode::empty())?);
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let paths = bytes.split(|byte| *byte == 0).filter(|path| !path.is_empty());
    Ok(paths.map(<[u8]>::to_vec).collect())
}

impl Layers {
    /// Makes what has to lie between the layers of this stack, if anything. To be called once all
    /// layers are there and before the stack is used; calling it again costs little. Blocks on
    /// the disk.
    ///
    /// # Errors
    /// [`FixupError`].
    pub fn complete(&self, diff_ids: &[Digest]) -> Result<(), FixupError> {
        let chains = ChainId::all(diff_ids);
        if let Some(diff_id) = diff_ids.last().copied() {
            failpoint::reach(Point::LayerFixup)
                .map_err(|source| FixupError::Read { diff_id, source })?;
        }
        for (at, (diff_id, chain)) in diff_ids.iter().zip(&chains).enumerate().skip(1) {
            let seal = self.seal(diff_id).ok_or(MissingLayer { diff_id: *diff_id })?;
            let again = diff_ids[..at].contains(diff_id);
            if seal.implied > 0 && !again && !self.fixups().contains_key(chain) {
                self.settle(&diff_ids[..at], *diff_id, chain)?;
            }
        }
        Ok(())
    }

    fn settle(&self, below: &[Digest], diff_id: Digest, chain: &ChainId) -> Result<(), FixupError> {
        let read = |source: io::Error| FixupError::Read { diff_id, source };
        let dir = rustix::fs::openat(&self.layers.fd, diff_id.hex(), DIRECTORY, Mode::empty())
            .map_err(|errno| read(errno.into()))?;
        let implied = read_implied(dir.as_fd()).map_err(read)?;
        let own = rustix::fs::openat(&dir, FS, DIRECTORY, Mode::empty())
            .map_err(|errno| read(errno.into()))?;
        let view =
            self.open_merged(below).map_err(|source| FixupError::View { diff_id, source })?;
        let trees = find::Trees { own: own.as_fd(), below: view.as_fd() };
        let fault = |fault: build::Fault| FixupError::Build {
            diff_id,
            action: fault.action,
            path: String::from_utf8_lossy(&fault.path).escape_debug().collect(),
            source: fault.errno,
        };
        let plan = find::plan(&trees, implied).map_err(fault)?;
        if plan.is_empty() {
            return Ok(());
        }
        let ingest = self.begin().map_err(|source| FixupError::Begin { diff_id, source })?;
        let inodes = build::build(&trees, &plan, ingest.root()).map_err(fault)?;
        self.commit_fixup(ingest, Fixup { layer: diff_id, inodes }, chain)
    }

    fn commit_fixup(
        &self,
        ingest: Ingest,
        fixup: Fixup,
        chain: &ChainId,
    ) -> Result<(), FixupError> {
        let diff_id = fixup.layer;
        let fault =
            |action| move |source: io::Error| FixupError::Commit { diff_id, action, source };
        rustix::fs::syncfs(ingest.root()).map_err(|errno| fault("syncfs")(errno.into()))?;
        fixup.write(chain, ingest.dir()).map_err(fault("writing the seal"))?;
        sync(ingest.dir()).map_err(fault("fsync"))?;
        let _changes = self.changes();
        match self.name(&self.fixups, &ingest, &chain.hex(), RenameFlags::NOREPLACE) {
            Ok(()) => ingest.committed(),
            Err(Errno::EXIST | Errno::NOTEMPTY) if self.fixups().contains_key(chain) => {}
            Err(Errno::EXIST | Errno::NOTEMPTY) => {
                self.replace_broken(ingest, &fixup, chain).map_err(fault("replacing it"))?;
            }
            Err(errno) => return Err(fault("rename")(errno.into())),
        }
        sync(self.fixups.fd.as_fd()).map_err(fault("fsync of the store"))?;
        let mut known = self.known_fixups.write().unwrap_or_else(PoisonError::into_inner);
        known.insert(*chain, fixup);
        Ok(())
    }

    /// A fresh fixup takes the place of one without a valid seal, which is retired under a seal of
    /// its own: containers may have it. Called with the lock on changes.
    fn replace_broken(&self, ingest: Ingest, fixup: &Fixup, chain: &ChainId) -> io::Result<()> {
        let retired = self.unique(|number| {
            let name = format!("{}.{number}", chain.hex());
            self.name(&self.retired, &ingest, &name, RenameFlags::NOREPLACE)?;
            CString::new(name).map_err(|_| Errno::INVAL)
        })?;
        ingest.committed();
        let (from, to) = (self.retired.fd.as_fd(), self.fixups.fd.as_fd());
        rustix::fs::renameat_with(from, &retired, to, chain.hex(), RenameFlags::EXCHANGE)?;
        let old = rustix::fs::openat(from, &retired, DIRECTORY, Mode::empty())?;
        crate::sealed::remove(old.as_fd())?;
        fixup.write(chain, old.as_fd())?;
        let usage = LayerUsage { bytes: 0, inodes: fixup.inodes };
        self.known_retired().insert(retired, (fixup.layer, usage));
        Ok(())
    }

    /// Whether some have no valid seal. Which images need them is not known: for each of these
    /// [`Self::complete`] is to be called before it is used.
    pub fn has_broken_fixups(&self) -> bool {
        !self.broken_fixups().is_empty()
    }

    /// Removes those that nothing has been put in the place of: no image needs them.
    pub fn discard_broken_fixups(&self) {
        for name in std::mem::take(&mut *self.broken_fixups()) {
            let known = |chain: &ChainId| chain.hex().as_bytes() == name.as_bytes();
            if self.fixups().keys().any(known) {
                continue;
            }
            let removed = self.move_to_trash(&self.fixups, &name).map_err(io::Error::from);
            let removed =
                removed.and_then(|trash| self.delete(&trash).map_err(|error| error.source.into()));
            if let Err(cause) = removed {
                tracing::warn!(fixup = %name.to_string_lossy(), %cause, "a broken fixup stays");
            }
        }
    }

    fn broken_fixups(&self) -> std::sync::MutexGuard<'_, Vec<CString>> {
        self.broken_fixups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads which there are; gives the names of what was moved to the trash.
    pub(crate) fn load_fixups(&self) -> Result<Vec<CString>, OpenError> {
        let mut trash = Vec::new();
        for name in self.fixups.names()? {
            let dir = rustix::fs::openat(&self.fixups.fd, &name, DIRECTORY, Mode::empty());
            let sealed = dir.ok().and_then(|dir| Fixup::read(dir.as_fd()));
            match sealed {
                Some((chain, fixup))
                    if chain.hex().as_bytes() == name.as_bytes() && self.contains(&fixup.layer) =>
                {
                    let mut known =
                        self.known_fixups.write().unwrap_or_else(PoisonError::into_inner);
                    known.insert(chain, fixup);
                }
                // Its layer is gone, and with it whoever used this.
                Some((chain, _)) if chain.hex().as_bytes() == name.as_bytes() => {
                    trash.push(self.discard(&self.fixups, &name)?);
                }
                Some(_) | None => {
                    tracing::warn!(fixup = %name.to_string_lossy(), "it has no valid seal");
                    self.broken_fixups().push(name);
                }
            }
        }
        Ok(trash)
    }

    /// They hold hard links to its files, and nobody stacks on a layer that is gone. Called with
    /// the lock on changes.
    pub(crate) fn remove_fixups_of(&self, layer: &Digest) {
        for (chain, _) in self.take_fixups_of(layer) {
            let removed = CString::new(chain.hex())
                .map_err(|_| Errno::INVAL)
                .and_then(|name| self.move_to_trash(&self.fixups, &name));
            let failed = match removed {
                Ok(trash) => self.delete(&trash).err().map(|error| error.source),
                Err(errno) => Some(errno),
            };
            if let Some(cause) = failed {
                tracing::warn!(%layer, %cause, "a fixup of a removed layer stays until the next start");
            }
        }
    }

    /// Forgets what lies on a layer; it is still on the disk.
    pub(crate) fn take_fixups_of(&self, layer: &Digest) -> Vec<(ChainId, Fixup)> {
        let mut known = self.known_fixups.write().unwrap_or_else(PoisonError::into_inner);
        let of_layer = known.extract_if(.., |_, fixup| fixup.layer == *layer);
        of_layer.collect()
    }
}
