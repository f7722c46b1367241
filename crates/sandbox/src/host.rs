//! What is asked of this host, once at start. Blocking.

use std::io;
use std::path::{Path, PathBuf};

use bundle::{DeviceKind, HostDevice, HostFacts};
use model::CgroupLayout;
use rustix::process::Pid;

use crate::files::FileError;

/// Why this host cannot run containers.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No control groups.
    #[error(transparent)]
    Cgroup(#[from] sys::cgroup::DetectError),
    /// A kernel file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A kernel file that does not say what it should.
    #[error("{} does not tell {what}", path.display())]
    Unclear {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
    },
}

/// Looks at cgroups, kernel, security modules and this process's own limits.
///
/// # Errors
/// [`HostError`] when containers cannot be run here at all.
pub fn host_facts() -> Result<HostFacts, HostError> {
    let cgroup = sys::cgroup::detect()?;
    let kernel = kernel_version()?;
    let apparmor = crate::confinement::apparmor_at_start();
    // Where a kernel has both, AppArmor is used.
    let selinux = if apparmor.is_none() { crate::confinement::selinux_at_start() } else { None };
    Ok(HostFacts {
        swap_limit: has_swap_limit(&cgroup),
        cgroup,
        apparmor,
        selinux,
        bounding_caps: bounding_set()?,
        devices: Vec::new(),
        kernel,
        recursive_read_only: sys::mount::can_change_recursively(),
    })
}

/// Whether this process is root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Tries whether pods can have user namespaces; why not, if not. `dir` is made for it and removed
/// again.
pub(crate) fn user_namespaces(dir: &Path) -> Result<(), String> {
    // On older kernels the thread changes mount namespaces: it is not one that others use again.
    let tried =
        std::thread::scope(|scope| scope.spawn(|| launch::probe_user_namespaces(dir)).join());
    match tried {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => {
            let reason = error.sentence();
            tracing::warn!(reason, "pods cannot have user namespaces on this node");
            Err(reason)
        }
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn kernel_version() -> Result<(u32, u32), HostError> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        _unreadable => Err(HostError::Unclear {
            path: "/proc/sys/kernel/osrelease".into(),
            what: "the kernel version",
        }),
    }
}

fn has_swap_limit(layout: &CgroupLayout) -> bool {
    let Some(memory) = layout.controller("memory") else { return false };
    if layout.is_v2() {
        // The top of the v2 hierarchy has no limits to look at and may have no groups below it yet.
        // What limits memory there limits swap too, where the kernel knows swap at all.
        return Path::new("/proc/swaps").exists();
    }
    Path::new(&memory.mountpoint).join("memory.memsw.limit_in_bytes").exists()
}

fn bounding_set() -> Result<u64, HostError> {
    let path = Path::new("/proc/self/status");
    let text = std::fs::read_to_string(path).map_err(FileError::at("read", path))?;
    text.lines()
        .find_map(|line| line.strip_prefix("CapBnd:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .ok_or_else(|| HostError::Unclear { path: path.into(), what: "the bounding set" })
}

/// When a process started, in clock ticks since boot; `None` when there is no such process.
pub(crate) fn start_ticks(pid: i32) -> Option<u64> {
    sys::process::start_time(Pid::from_raw(pid)?).ok()
}

/// Directories below `/dev` that every container gets its own of, like the console.
const OWN: &[&str] = &["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd"];

/// Every device node of the host, for privileged containers. CRI: not terminals, shared memory,
/// queues and the console.
pub(crate) fn all_devices() -> Result<Vec<HostDevice>, FileError> {
    let mut found = Vec::new();
    walk(Path::new("/dev"), &mut |path, device| {
        found.push(HostDevice { path: path.to_owned(), ..device });
    })?;
    Ok(found)
}

/// The nodes of one requested device: itself, or all below a directory; symlinks are followed.
pub(crate) fn device_nodes(path: &str) -> Result<Vec<HostDevice>, FileError> {
    let requested = Path::new(path);
    let resolved = requested.canonicalize().map_err(FileError::at("resolve", requested))?;
    let mut found = Vec::new();
    if resolved.is_dir() {
        walk(&resolved, &mut |node, device| {
            let below = Path::new(node).strip_prefix(&resolved).unwrap_or_else(|_| Path::new(""));
            let path = requested.join(below).to_string_lossy().into_owned();
            found.push(HostDevice { path, ..device });
        })?;
    } else {
        match device_of(&resolved)? {
            Some(device) => found.push(HostDevice { path: path.to_owned(), ..device }),
            None => {
                let error = io::Error::new(io::ErrorKind::InvalidInput, "it is not a device node");
                return Err(FileError::at("use device", requested)(error));
            }
        }
    }
    Ok(found)
}

fn walk(dir: &Path, found: &mut impl FnMut(&str, HostDevice)) -> Result<(), FileError> {
    let entries = std::fs::read_dir(dir).map_err(FileError::at("list", dir))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let Some(text) = path.to_str() else { continue };
        // A node or directory that vanishes while it is looked at is not there.
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            if !OWN.contains(&text) {
                walk(&path, found)?;
            }
        } else if !kind.is_symlink()
            && text != "/dev/console"
            && let Ok(Some(device)) = device_of(&path)
        {
            found(text, device);
        }
    }
    Ok(())
}

fn device_of(path: &Path) -> Result<Option<HostDevice>, FileError> {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let meta = std::fs::symlink_metadata(path).map_err(FileError::at("look at", path))?;
    let kind = if meta.file_type().is_char_device() {
        DeviceKind::Char
    } else if meta.file_type().is_block_device() {
        DeviceKind::Block
    } else {
        return Ok(None);
    };
    Ok(Some(HostDevice {
        path: path.to_string_lossy().into_owned(),
        kind,
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_has_a_start_time_and_an_absent_one_has_none() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(start_ticks(own).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_ticks(i32::MAX), None);
    }

    #[test]
    fn the_null_device_is_found_and_a_file_is_refused() {
        let nodes = device_nodes("/dev/null").unwrap();
        assert_eq!((nodes[0].major, nodes[0].minor), (1, 3));
        assert!(all_devices().unwrap().iter().any(|device| device.path == "/dev/null"));
        assert!(device_nodes("/etc/passwd").is_err());
        assert!(device_nodes("/dev/no-such-device").is_err());
    }
}
