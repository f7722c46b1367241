//! Working directory, finding the program, executing it. Everything here runs with the container's
//! root as root.

use std::borrow::Cow;
use std::ffi::{CStr, CString};
use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use sys::fs::Symlinks;

use super::{Job, Program};
use crate::error::{At, LaunchError, Step};

/// What is searched when the environment has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A working directory, entered or to be tried again as the container's user.
#[derive(Debug)]
pub(super) enum Cwd<'a> {
    Entered,
    AsUser(&'a str),
}

/// Enters the working directory, making it when missing. Tried before the change of user, because
/// images have working directories (`/root`) that the user they are run as may not enter, and
/// again after it, because a network file system may show root less than the user.
pub(super) fn enter_cwd<'a>(root: BorrowedFd<'_>, path: &'a str) -> Result<Cwd<'a>, LaunchError> {
    let path = if path.is_empty() { "/" } else { path };
    let made = match try_enter(root, path) {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            sys::fs::mkdir_all_in_root(root, path).and_then(|_| try_enter(root, path))
        }
        result => result,
    };
    match made {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(Cwd::AsUser(path)),
        result => result.at(Step::Cwd, path).map(|()| Cwd::Entered),
    }
}

impl Cwd<'_> {
    /// Tries again what was not allowed before the change of user.
    pub(super) fn settle(self, root: BorrowedFd<'_>) -> Result<(), LaunchError> {
        match self {
            Self::Entered => Ok(()),
            Self::AsUser(path) => try_enter(root, path).at(Step::Cwd, path),
        }
    }
}

fn try_enter(root: BorrowedFd<'_>, path: &str) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    // Without magic links `/proc/self/fd/7` cannot name a directory the launcher has open.
    let dir = sys::fs::open_in_root(root, path, flags, Symlinks::Follow)?;
    rustix::process::fchdir(&dir)?;
    // The kernel prefixes a directory outside the root with "(unreachable)".
    let now = rustix::process::getcwd(Vec::new())?;
    if now.as_bytes().starts_with(b"/") {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ENOENT))
    }
}

/// A program that is there.
#[derive(Debug)]
pub(super) enum Found<'a> {
    Path(CString),
    File(BorrowedFd<'a>),
}

impl<'a> Found<'a> {
    /// Finds the program in the container.
    pub(super) fn find(job: &Job<'a>) -> Result<Self, LaunchError> {
        match job.program {
            Program::File(file) => Ok(Self::File(file)),
            Program::InPath => {
                let name = job.words.args.first().map_or(c"", CString::as_c_str);
                let path = job.words.env.iter().rev();
                let path = path.map(|e| e.as_bytes()).find_map(|e| e.strip_prefix(b"PATH="));
                look_up(name, path.unwrap_or(DEFAULT_PATH)).map(Self::Path)
            }
        }
    }

    /// Replaces this process; returns why that failed.
    pub(super) fn execute(&self, job: &Job<'_>, env: &[CString]) -> LaunchError {
        let args = &job.words.args;
        match self {
            Self::Path(path) => {
                let error = sys::process::execve(path, args, env);
                LaunchError::new(Step::Exec, path.to_string_lossy(), error)
            }
            Self::File(file) => {
                let error = sys::process::execve_file(*file, args, env);
                LaunchError::new(Step::Exec, "(built-in program)", error)
            }
        }
    }
}

/// What the program finds in its environment. Who is to have a `HOME` and is given none gets that of
/// its user in the container (as every shell that is logged in to has).
pub(super) fn environment<'a>(job: &Job<'a>, root: BorrowedFd<'_>) -> Cow<'a, [CString]> {
    const HOME: &[u8] = b"HOME=";
    let env = job.words.env.as_slice();
    let given =
        |entry: &CString| entry.as_bytes().strip_prefix(HOME).is_some_and(|h| !h.is_empty());
    if !job.process.find_home || env.iter().any(given) {
        return Cow::Borrowed(env);
    }
    let mut env: Vec<CString> =
        env.iter().filter(|entry| !entry.as_bytes().starts_with(HOME)).cloned().collect();
    let home = home_of(job.process.uid, root).unwrap_or_else(|| b"/".to_vec());
    env.extend(CString::new([HOME, &home].concat()));
    Cow::Owned(env)
}

/// By the container's table of users, if it has one that can be read and is no device or the like.
fn home_of(uid: u32, root: BorrowedFd<'_>) -> Option<Vec<u8>> {
    const MOST: u64 = 1 << 20;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = sys::fs::open_in_root(root, c"/etc/passwd", flags, Symlinks::Follow).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if !FileType::from_raw_mode(stat.st_mode).is_file() {
        return None;
    }
    let mut table = Vec::new();
    std::fs::File::from(file).take(MOST).read_to_end(&mut table).ok()?;
    let uid = uid.to_string();
    let fields = |line: &[u8]| -> Option<Vec<u8>> {
        let mut fields = line.split(|byte| *byte == b':');
        (fields.nth(2) == Some(uid.as_bytes())).then(|| fields.nth(2).map(<[u8]>::to_vec))?
    };
    table.split(|byte| *byte == b'\n').find_map(fields).filter(|home| !home.is_empty())
}

fn look_up(name: &CStr, path: &[u8]) -> Result<CString, LaunchError> {
    let shown = name.to_string_lossy();
    if name.to_bytes().contains(&b'/') {
        return check(name).at(Step::Exec, &shown).map(|()| name.to_owned());
    }
    let mut refused = None;
    for dir in path.split(|byte| *byte == b':').filter(|_| !name.is_empty()) {
        let dir = if dir.is_empty() { b"." } else { dir };
        let Ok(candidate) = CString::new([dir, b"/", name.to_bytes()].concat()) else { continue };
        match check(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                refused = Some((candidate, error));
            }
            Err(_) => {}
        }
    }
    Err(match refused {
        Some((path, error)) => LaunchError::new(Step::Exec, path.to_string_lossy(), error),
        None => LaunchError { step: Step::NotInPath, subject: shown.into_owned(), cause: None },
    })
}

/// Whether somebody may execute this. Magic links are refused: `/proc/self/exe` is still the
/// launcher's own program here.
fn check(path: &CStr) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_MAGICLINKS;
    let file = rustix::fs::openat2(CWD, path, flags, Mode::empty(), resolve)?;
    let stat = rustix::fs::fstat(file.as_fd())?;
    let regular = FileType::from_raw_mode(stat.st_mode).is_file();
    if regular && stat.st_mode & 0o111 != 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EACCES))
    }
}
