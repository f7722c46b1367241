//! The files a pod's containers find in `/etc`, generated into the pod's state directory.
//! CRI: `hostname`, `hosts`, `resolv.conf`, mode 0644. Blocking.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use failpoint::Point;
use model::{DnsConfig, PodConfig, SandboxId};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::paths::Paths;

/// A path that could not be prepared.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
pub struct FileError {
    /// `create`, `write`, …
    pub step: &'static str,
    /// The path.
    pub path: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

impl FileError {
    pub(crate) fn at<'p>(
        step: &'static str,
        path: &'p Path,
    ) -> impl FnOnce(io::Error) -> Self + use<'p> {
        move |source| Self { step, path: path.to_owned(), source }
    }
}

/// A place before a step that takes a path.
pub(crate) fn reach(point: Point, step: &'static str, path: &Path) -> Result<(), FileError> {
    failpoint::reach(point).map_err(FileError::at(step, path))
}

/// Makes a private directory and its parents; one that exists is fine.
pub(crate) fn make_dir(path: &Path) -> Result<(), FileError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(FileError::at("create directory", path))
}

/// Lets a pod's own root pass through its state directory, and nobody read there. Other runtimes find a
/// container's root by its path, and do so as that user (user_namespaces(7): the host's root is nobody to them).
/// The directories above are passed by everybody; what else is in them stays private by itself.
pub(crate) fn let_pass(paths: &Paths, sandbox: &SandboxId, group: u32) -> Result<(), FileError> {
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
            .map_err(FileError::at("change the mode of", path))
    };
    for above in [paths.state().to_owned(), paths.pod_states()] {
        let meta = std::fs::metadata(&above).map_err(FileError::at("look at", &above))?;
        mode(&above, meta.permissions().mode() & 0o7777 | 0o001)?;
    }
    let own = paths.pod_state(sandbox);
    std::os::unix::fs::chown(&own, None, Some(group)).map_err(FileError::at("give away", &own))?;
    mode(&own, 0o710)
}

/// Removes a directory tree; one that is absent already is fine. Containers write below some of them, and can
/// nest directories as deep as they like: depth costs nothing here, as std's own way would have it.
pub(crate) fn remove_tree(path: &Path) -> Result<(), FileError> {
    let no_name = || FileError::at("remove", path)(io::ErrorKind::InvalidInput.into());
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(no_name());
    };
    let name = CString::new(name.as_bytes()).map_err(|_nul| no_name())?;
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let parent = match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(FileError::at("open", parent)(errno.into())),
    };
    snapshot::remove_tree(parent.as_fd(), &name).map(drop).map_err(|error| {
        let is_top = error.name.as_bytes() == name.as_bytes();
        let path = if is_top { path.to_owned() } else { path.join(&error.name) };
        FileError { step: error.action, path, source: error.source.into() }
    })
}

/// Removes a directory in which, most likely, are these files and nothing else, in this order.
pub(crate) fn remove_small_tree(dir: &Path, files: &[&Path]) -> Result<(), FileError> {
    for file in files {
        match rustix::fs::unlink(*file) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(FileError::at("remove", file)(errno.into())),
        }
    }
    match rustix::fs::rmdir(dir) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        // Whatever is wrong is told by who looks more closely.
        Err(_more_than_that) => remove_tree(dir),
    }
}

/// Makes a directory of logs, as kubelet expects it to exist (0755).
pub(crate) fn make_log_dir(path: &Path) -> Result<(), FileError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(FileError::at("create log directory", path))
}

/// Writes the pod's files. They belong to the pod's root.
pub(crate) fn write_pod_files(dir: &Path, config: &PodConfig) -> Result<(), FileError> {
    let users = config.security.namespaces.own_users();
    let owner = users.and_then(|users| users.host_uid(0).zip(users.host_gid(0)));
    let write = |path: &Path, text: &str| write(path, text, owner);
    write(&dir.join("hostname"), &format!("{}\n", hostname(config)))?;
    write(&dir.join("hosts"), &read_host_file("/etc/hosts")?)?;
    let resolver = match &config.dns {
        Some(dns) => resolv_conf(dns),
        None => read_host_file("/etc/resolv.conf")?,
    };
    write(&dir.join("resolv.conf"), &resolver)
}

/// The pod's host name: the requested one, else the host's.
pub(crate) fn hostname(config: &PodConfig) -> String {
    if config.hostname.is_empty() {
        rustix::system::uname().nodename().to_string_lossy().into_owned()
    } else {
        config.hostname.clone()
    }
}

fn write(path: &Path, text: &str, owner: Option<(u32, u32)>) -> Result<(), FileError> {
    std::fs::write(path, text).map_err(FileError::at("write", path))?;
    if let Some((uid, gid)) = owner {
        std::os::unix::fs::chown(path, Some(uid), Some(gid))
            .map_err(FileError::at("change the owner of", path))?;
    }
    // The umask of a service manager must not hide these from a non-root container.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
        .map_err(FileError::at("change the mode of", path))
}

/// A host without the file (minimal images have no `/etc/hosts`) is no error.
fn read_host_file(path: &str) -> Result<String, FileError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(FileError::at("read", Path::new(path))(error)),
    }
}

/// CRI: `search` line, a `nameserver` line each, `options` line.
fn resolv_conf(dns: &DnsConfig) -> String {
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        text += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        text += &format!("options {}\n", dns.options.join(" "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a container may leave it in a volume of its image.
    #[test]
    fn a_tree_is_removed_however_deep_it_is() {
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path().join("volumes");
        std::fs::create_dir(&top).unwrap();
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut dir = rustix::fs::open(&top, flags, Mode::empty()).unwrap();
        for _ in 0..10_000 {
            rustix::fs::mkdirat(&dir, "a", Mode::RWXU).unwrap();
            dir = rustix::fs::openat(&dir, "a", flags, Mode::empty()).unwrap();
        }
        drop(dir);
        let small = std::thread::Builder::new().stack_size(256 << 10);
        let removed = small.spawn(move || remove_tree(&top)).unwrap().join().unwrap();
        removed.unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
        remove_tree(&scratch.path().join("absent")).unwrap();
        remove_tree(&scratch.path().join("absent/below")).unwrap();
    }

    #[test]
    fn the_resolver_file_lists_searches_servers_and_options_on_lines_of_their_own() {
        let dns = DnsConfig {
            servers: vec!["10.0.0.1".into(), "fd00::1".into()],
            searches: vec!["a".into(), "b".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(
            resolv_conf(&dns),
            "search a b\nnameserver 10.0.0.1\nnameserver fd00::1\noptions ndots:5\n"
        );
        assert_eq!(resolv_conf(&DnsConfig::default()), "");
    }
}
