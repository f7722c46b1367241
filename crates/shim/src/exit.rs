//! Exits: from the kernel's word to the record in `exits/`, which outlives the shim.

use std::io;
use std::path::Path;

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
        Ok(Self { dir: rustix::fs::openat(CWD, &path, flags, Mode::empty())? })
    }

    /// Writes a container's record whole or not at all. The directory is on tmpfs: nothing to
    /// sync.
    ///
    /// # Errors
    /// The kernel's; then no record exists.
    pub(crate) fn write(&self, container: &ContainerId, exit: &Exit) -> io::Result<()> {
        let temporary = format!(".{container}");
        let flags =
            OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = rustix::fs::openat(&self.dir, &temporary, flags, mode)?;
        io::Write::write_all(&mut std::fs::File::from(file), exit.to_file().as_bytes())?;
        rustix::fs::renameat(&self.dir, &temporary, &self.dir, container.as_str())?;
        Ok(())
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
        for _ in 0..2 {
            records.write(&id, &exit).unwrap();
        }
        let path = state.path().join("exits").join(id.as_str());
        assert_eq!(Exit::from_file(&std::fs::read_to_string(&path).unwrap()), Ok(exit));
        assert_eq!(std::fs::read_dir(state.path().join("exits")).unwrap().count(), 1);
        for _ in 0..2 {
            records.remove(id.as_str()).unwrap();
        }
        assert!(!path.exists());
    }
}
