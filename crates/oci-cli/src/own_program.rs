//! This program as containers may come to see it.
//!
//! Before it becomes the container's program, the first process (or one that is exec'd) is this
//! program in the container's namespaces, and a script whose interpreter is `/proc/self/exe` makes
//! it run there for good. Whoever gets hold of its `/proc/<pid>/exe` as root could write to the
//! host's file once nothing runs from it (CVE-2019-5736). So it runs from a read-only mount that is
//! in no mount table: it cannot be written through that, nor be made writable.

use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use rustix::fs::{Access, StatVfsMountFlags};

use crate::error::OciError;

const OWN: &str = "/proc/self/exe";

/// Goes on from a read-only mount, with the same arguments, unless it does already.
///
/// # Errors
/// [`OciError::OwnProgram`] when that cannot be done and the program can be written to.
pub(crate) fn protect(arguments: &[OsString]) -> Result<(), OciError> {
    let failed = |source| OciError::OwnProgram { source };
    let stat = rustix::fs::statvfs(OWN).map_err(|errno| failed(errno.into()))?;
    if stat.f_flag.contains(StatVfsMountFlags::RDONLY) {
        // Executed by descriptor, it would be called by that descriptor's number in process lists.
        return rustix::thread::set_name(c"knarr-oci").map_err(|errno| failed(errno.into()));
    }
    let program = match sys::mount::read_only_file(OWN) {
        Ok(program) => program,
        // An ordinary user may not mount, and need not if the file is somebody else's.
        Err(_) if rustix::fs::access(OWN, Access::WRITE_OK).is_err() => return Ok(()),
        Err(source) => return Err(failed(source)),
    };
    execute(program.as_fd(), arguments).map_err(failed)
}

/// As [`protect`] for root, before the command line is understood: understanding it twice would take
/// longer than anything else here. Words that only look like a verb do no harm, and what fails here
/// fails again where it can be told.
pub(crate) fn protect_early(arguments: &[OsString]) {
    let enters = |word: &OsString| matches!(word.to_str(), Some("create" | "run" | "exec"));
    if rustix::process::geteuid().is_root() && arguments.iter().skip(1).any(enters) {
        protect(arguments).ok();
    }
}

/// Goes on with other arguments, from a read-only mount where that can be had.
///
/// # Errors
/// [`OciError::OwnProgram`]: it does not return otherwise.
pub(crate) fn execute_again(arguments: &[OsString]) -> Result<(), OciError> {
    let failed = |source| OciError::OwnProgram { source };
    let program = match sys::mount::read_only_file(OWN) {
        Ok(program) => program,
        Err(_) => std::fs::File::open(OWN).map_err(failed)?.into(),
    };
    execute(program.as_fd(), arguments).map_err(failed)
}

/// Returns only on failure.
fn execute(program: BorrowedFd<'_>, arguments: &[OsString]) -> io::Result<()> {
    let words: Result<Vec<CString>, _> =
        arguments.iter().map(|word| CString::new(word.clone().into_vec())).collect();
    let environment: Result<Vec<CString>, _> = std::env::vars_os()
        .map(|(key, value)| CString::new([key.as_bytes(), b"=", value.as_bytes()].concat()))
        .collect();
    // The kernel hands over no words with a NUL.
    Err(sys::process::execve_file(program, &words?, &environment?))
}
