//! Work inside another network namespace, without ever moving the calling thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

/// Runs `work` on a thread that joins the network namespace `netns`, then ends.
///
/// Only the network namespace changes: paths still mean the caller's mount namespace. Blocks
/// until `work` is done. A panic in `work` goes on in the caller.
///
/// # Errors
/// The errno of `setns` (`EINVAL`: not a network namespace), or of starting the thread.
pub fn run_in<T: Send>(netns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(
            scope,
            move || -> io::Result<T> {
                move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))?;
                Ok(work())
            },
        )?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Makes a fresh network namespace and returns the handle that keeps it alive.
///
/// # Errors
/// The errno of `unshare` (`EPERM` without `CAP_SYS_ADMIN`) or of opening the handle.
pub fn create() -> io::Result<OwnedFd> {
    let thread = std::thread::Builder::new().name("new-netns".to_owned()).spawn(|| {
        // SAFETY: NEWNET leaves the file descriptor table shared, and the thread ends here.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }?;
        Ok(std::fs::File::open("/proc/thread-self/ns/net")?.into())
    })?;
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Opens a pinned network namespace. `None` when nothing is at `path`, or what is there is no
/// namespace (the plain file that is left when the pin was unmounted).
///
/// # Errors
/// Any other errno of opening it.
pub fn open(path: &std::path::Path) -> io::Result<Option<OwnedFd>> {
    let file = match std::fs::File::open(path) {
        Ok(file) => OwnedFd::from(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    Ok(is_namespace(file.as_fd())?.then_some(file))
}

fn is_namespace(file: BorrowedFd<'_>) -> io::Result<bool> {
    const NSFS_MAGIC: i128 = 0x6e73_6673;
    Ok(i128::from(rustix::fs::fstatfs(file)?.f_type) == NSFS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn own() -> std::path::PathBuf {
        std::fs::read_link("/proc/thread-self/ns/net").unwrap()
    }

    #[test]
    fn work_runs_inside_and_the_caller_stays_outside() {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let before = own();
        let netns = create().unwrap();
        let inside = run_in(netns.as_fd(), own).unwrap();
        assert_ne!(inside, before);
        assert_eq!(own(), before);
        assert_eq!(run_in(netns.as_fd(), own).unwrap(), inside);
    }

    #[test]
    fn plain_files_and_nothing_are_no_namespace() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(open(file.path()).unwrap().is_none());
        assert!(open(Path::new("/nonexistent/netns")).unwrap().is_none());
        assert!(open(Path::new("/proc/self/ns/net")).unwrap().is_some());
    }
}
