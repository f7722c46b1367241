//! SELinux: what the policy calls containers, and giving files labels.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, XattrFlags};

use self::walk::Stopped;

mod walk;

const ENFORCE: &str = "/sys/fs/selinux/enforce";
const CONFIG: &str = "/etc/selinux/config";
const ATTRIBUTE: &str = "security.selinux";

/// What policies without a word about containers are taken to mean.
const PROCESS: &str = "system_u:system_r:container_t:s0";
const FILE: &str = "system_u:object_r:container_file_t:s0";
const SHARED_FILE: &str = "system_u:object_r:container_ro_file_t:s0";

/// What must keep its label: given to one container, the host's own programs could not use it.
const NEVER: &[&str] = &[
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/lib32",
    "/lib64",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/run",
    "/var/spool",
    "/var/tmp",
];

/// Below these nothing at all may be relabelled.
const NEVER_BELOW: &[&str] = &[
    "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/sbin", "/sys", "/usr",
];

/// Why a tree was not relabelled.
#[derive(Debug, thiserror::Error)]
pub enum RelabelError {
    /// The host needs it as it is.
    #[error("{} may not be relabelled: the host's own programs need its SELinux label", path.display())]
    Refused {
        /// The path.
        path: PathBuf,
    },
    /// A file in it.
    #[error("cannot give {} the SELinux label `{label}`", path.display())]
    Label {
        /// The file.
        path: PathBuf,
        /// The label.
        label: String,
        /// Why.
        source: io::Error,
    },
}

/// Base labels of containers' processes and files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseLabels {
    /// Of processes.
    pub process: String,
    /// Of files.
    pub file: String,
    /// Of files that all containers may read and execute, but not write: what images bring.
    pub shared_file: String,
}

/// The base labels of the policy in force; `None` on a host without SELinux. Blocking.
pub fn detect() -> Option<BaseLabels> {
    if !Path::new(ENFORCE).exists() {
        return None;
    }
    let config = std::fs::read_to_string(CONFIG).unwrap_or_default();
    let policy = setting(&config, "SELINUXTYPE").unwrap_or("targeted");
    let path = format!("/etc/selinux/{policy}/contexts/lxc_contexts");
    Some(base_labels(&std::fs::read_to_string(path).unwrap_or_default()))
}

fn base_labels(text: &str) -> BaseLabels {
    let label = |key, or: &str| setting(text, key).unwrap_or(or).to_owned();
    BaseLabels {
        process: label("process", PROCESS),
        file: label("file", FILE),
        shared_file: label("ro_file", SHARED_FILE),
    }
}

/// `key = value` or `key = "value"`.
fn setting<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (name.trim() == key && !value.is_empty()).then_some(value)
    })
}

/// Labels one file of knarr's own. File systems without labels are left alone. Blocking.
///
/// # Errors
/// [`RelabelError::Label`].
pub fn label_file(path: &Path, label: &str) -> Result<(), RelabelError> {
    open(CWD, path)
        .and_then(|file| set(file.as_fd(), label))
        .map_err(|source| failed(path, label, source))
}

/// Labels a volume with everything in it, symbolic links themselves instead of what they name.
/// Whoever uses the volume may be changing it meanwhile: nothing is looked up by path. However deep
/// a container has nested its directories, the stack, descriptors and memory suffice. Blocking.
///
/// # Errors
/// [`RelabelError`]; what came before the failing file has the new label.
pub fn relabel(path: &Path, label: &str) -> Result<(), RelabelError> {
    refuse_the_hosts(path)?;
    let top = open(CWD, path).map_err(|source| failed(path, label, source))?;
    walk::walk(top, path, |file| set(file, label))
        .map_err(|Stopped { path, source }| failed(&path, label, source))
}

fn refuse_the_hosts(path: &Path) -> Result<(), RelabelError> {
    let fixed = NEVER.iter().any(|fixed| path == Path::new(fixed))
        || NEVER_BELOW.iter().any(|fixed| path.starts_with(fixed));
    if fixed { Err(RelabelError::Refused { path: path.to_owned() }) } else { Ok(()) }
}

fn failed(path: &Path, label: &str, source: io::Error) -> RelabelError {
    RelabelError::Label { path: path.to_owned(), label: label.to_owned(), source }
}

/// A handle on a file itself, whatever it is.
fn open(dir: impl AsFd, name: impl rustix::path::Arg) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, name, flags, Mode::empty())?)
}

/// `fsetxattr(2)` refuses handles; the descriptor's own link leads to just this file.
fn set(file: BorrowedFd<'_>, label: &str) -> io::Result<()> {
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // The kernel counts the terminating NUL in, as all tools write it.
    let value = [label.as_bytes(), &[0]].concat();
    match rustix::fs::setxattr(path, ATTRIBUTE, &value, XattrFlags::empty()) {
        Err(rustix::io::Errno::NOTSUP) => Ok(()),
        result => Ok(result?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_labels_come_from_the_policy_or_are_the_usual_ones() {
        let text = "process = \"a:b:c:s0\"\nsandbox_kvm_process = \"x\"\nfile = \"d:e:f:s0\"\n\
                    ro_file=\"g:h:i:s0\"\n";
        let labels = base_labels(text);
        assert_eq!((labels.process.as_str(), labels.file.as_str()), ("a:b:c:s0", "d:e:f:s0"));
        assert_eq!(labels.shared_file, "g:h:i:s0");
        assert_eq!(base_labels("").process, PROCESS);
        assert_eq!(base_labels("").shared_file, SHARED_FILE);
        assert_eq!(
            setting("# SELINUXTYPE=a\nSELINUXTYPE=default\n", "SELINUXTYPE"),
            Some("default")
        );
    }

    #[test]
    fn the_hosts_own_directories_keep_their_labels() {
        for path in ["/", "/etc", "/etc/shadow", "/usr/lib/x", "/var/lib", "/home", "/tmp"] {
            let refused = relabel(Path::new(path), "l");
            assert!(matches!(refused, Err(RelabelError::Refused { .. })), "{path}");
        }
        refuse_the_hosts(Path::new("/var/lib/kubelet/pods/x/volumes/y")).unwrap();
        refuse_the_hosts(Path::new("/home/a/b")).unwrap();
    }
}
