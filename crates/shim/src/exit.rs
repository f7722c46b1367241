//! Exits: from the kernel's word to the record in `exits/`, which outlives the shim.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use failpoint::Point;
use model::ContainerId;
use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::WaitStatus;
use shim_protocol::Exit;

/// How a reaped process ended; whether the OOM killer chose it is not known here.
pub(crate) fn exit_of(status: WaitStatus, finished_at: i64) -> Exit {
    let signal = status.terminating_signal();
    let code =
        signal.map_or_else(|| status.exit_status().unwrap_or_default(), |number| 128 + number);
    Exit { code, signal, oom_killed: false, finished_at }
}

/// The directory of exit records. Held open, so that it is reached from any mount namespace.
#[derive(Debug)]
pub(crate) struct ExitRecords {
    dir: OwnedFd,
    /// Where that is on the host.
    path: PathBuf,
}

impl ExitRecords {
    /// Opens `exits` in the pod's state directory, making it if it is missing.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn open(state_dir: &Path) -> io::Result<Self> {
        let path = state_dir.join("exits");
        match rustix::fs::mkdirat(CWD, &path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let dir = rustix::fs::openat(CWD, &path, flags, Mode::empty())?;
        Ok(Self { dir, path })
    }

    /// Where a container's record is.
    pub(crate) fn path(&self, container: &ContainerId) -> PathBuf {
        self.path.join(container.as_str())
    }

    /// Makes room for a container's record before it is started: when it ends, the file system may
    /// have none, and nobody but the shim has seen its end.
    ///
    /// # Errors
    /// The kernel's; then nothing is left of it.
    pub(crate) fn reserve(&self, container: &ContainerId) -> io::Result<()> {
        let text = shim_protocol::reserved_exit_file();
        let written = self.open_file(container, OFlags::TRUNC).and_then(|mut file| {
            failpoint::reach(Point::ShimRoom)?;
            io::Write::write_all(&mut file, text.as_bytes())
        });
        written.map_err(|error| match self.remove(container.as_str()) {
            Ok(()) => error,
            Err(undo) => undo,
        })
    }

    /// Writes a container's record over what was reserved for it, in one piece: without its last
    /// line it does not count. The directory is on tmpfs: nothing to sync.
    ///
    /// # Errors
    /// The kernel's; then no record exists that counts.
    pub(crate) fn write(&self, container: &ContainerId, exit: &Exit) -> io::Result<()> {
        let text = exit.to_file();
        let mut file = self.open_file(container, OFlags::empty())?;
        io::Write::write_all(&mut file, text.as_bytes())?;
        file.set_len(text.len() as u64)
    }

    fn open_file(&self, container: &ContainerId, more: OFlags) -> io::Result<File> {
        let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        Ok(rustix::fs::openat(&self.dir, container.as_str(), flags | more, mode)?.into())
    }

    /// Drops a container's record; a missing one is success.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn remove(&self, container: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.dir, container, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_goes_twice() {
        let state = tempfile::tempdir().unwrap();
        let records = ExitRecords::open(state.path()).unwrap();
        let id = ContainerId::from_random([7; 32]);
        let exit = Exit { code: 137, signal: Some(9), oom_killed: true, finished_at: 5 };
        let path = state.path().join("exits").join(id.as_str());
        records.reserve(&id).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(shim_protocol::is_reserved_exit_file(&text), "{text}");
        for _ in 0..2 {
            records.write(&id, &exit).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), exit.to_file());
        assert_eq!(Exit::from_file(&std::fs::read_to_string(&path).unwrap()), Ok(exit));
        assert_eq!(std::fs::read_dir(state.path().join("exits")).unwrap().count(), 1);
        for _ in 0..2 {
            records.remove(id.as_str()).unwrap();
        }
        assert!(!path.exists());
    }
}
