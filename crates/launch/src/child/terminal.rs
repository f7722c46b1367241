//! A terminal of the container's own `devpts`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, OutputModes, Winsize};

use super::{Job, session};
use crate::error::{At, LaunchError, Step};

/// `DEVPTS_SUPER_MAGIC`.
const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Both ends of a new terminal.
#[derive(Debug)]
pub(super) struct Terminal {
    master: OwnedFd,
    slave: OwnedFd,
}

/// The `devpts` of a root that was not made here just now.
pub(super) fn find_devpts(root: BorrowedFd<'_>) -> Result<OwnedFd, LaunchError> {
    let find = || {
        let dir = sys::fs::find_in_root(root, c"/dev/pts")?;
        if rustix::fs::fstatfs(&dir)?.f_type == DEVPTS_MAGIC {
            Ok(dir)
        } else {
            Err(io::Error::from_raw_os_error(libc::ENODEV))
        }
    };
    find().at(Step::Terminal, "/dev/pts")
}

impl Terminal {
    pub(super) fn open(devpts: BorrowedFd<'_>) -> Result<Self, LaunchError> {
        let open = || {
            let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let master = rustix::fs::openat(devpts, c"ptmx", flags, Mode::empty())?;
            rustix::pty::unlockpt(&master)?;
            let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
            // By descriptor: no path of the container is involved.
            let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
            io::Result::Ok(Self { master, slave })
        };
        open().at(Step::Terminal, "ptmx")
    }

    /// Sends the master to the parent and makes the slave stdio and controlling terminal.
    pub(super) fn take_over(self, job: &Job<'_>) -> Result<(), LaunchError> {
        if let Some(size) = job.process.terminal_size {
            let size =
                Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
            rustix::termios::tcsetwinsize(&self.slave, size).at(Step::Terminal, "size")?;
        }
        if job.launcher.options.own_line_ends {
            self.keep_line_ends().at(Step::Terminal, "line ends")?;
        }
        job.reporter.console(self.master.as_fd()).at(Step::Terminal, "hand over")?;
        let user = Some(Uid::from_raw(job.process.uid));
        rustix::fs::fchown(&self.slave, user, None::<Gid>).at(Step::Terminal, "owner")?;
        rustix::process::ioctl_tiocsctty(&self.slave).at(Step::Terminal, "control")?;
        let slave = self.slave.as_fd();
        session::use_files([slave, slave, slave], job.process.uid)
    }

    fn keep_line_ends(&self) -> io::Result<()> {
        let mut settings = rustix::termios::tcgetattr(&self.slave)?;
        settings.output_modes.remove(OutputModes::ONLCR);
        Ok(rustix::termios::tcsetattr(&self.slave, OptionalActions::Now, &settings)?)
    }

    /// A detached bind of the slave, for `/dev/console`.
    pub(super) fn clone_slave(&self, devpts: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        let name = rustix::pty::ptsname(&self.master, Vec::new())?;
        let number = name.to_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        sys::mount::clone_tree(devpts, number, false)
    }
}
