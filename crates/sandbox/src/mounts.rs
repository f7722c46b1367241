//! What of a requested mount only the host's file system can tell. Blocking: a dead network
//! mount holds up the one pod that asks for it.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::files::FileError;

/// A host path, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostPath {
    /// Without symlinks.
    pub(crate) path: String,
    pub(crate) is_dir: bool,
    pub(crate) peers: Peers,
}

/// How the mount that holds a path propagates on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Peers {
    pub(crate) shared: bool,
    pub(crate) slave: bool,
}

/// Resolves a bind source. A missing one becomes a directory, as both peers do and pods rely on.
pub(crate) fn resolve(requested: &str, wants_peers: bool) -> Result<HostPath, FileError> {
    let requested = Path::new(requested);
    if !requested.is_absolute() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "it is not an absolute path");
        return Err(FileError::at("resolve", requested)(error));
    }
    let path = match requested.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_missing(requested)?;
            requested.canonicalize().map_err(FileError::at("resolve", requested))?
        }
        result => result.map_err(FileError::at("resolve", requested))?,
    };
    let is_dir = path.is_dir();
    let peers = if wants_peers { peers_of(&path)? } else { Peers::default() };
    let text = path.to_str().ok_or_else(|| {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "it is not UTF-8");
        FileError::at("resolve", &path)(error)
    })?;
    Ok(HostPath { path: text.to_owned(), is_dir, peers })
}

/// Makes a directory (0755) with parents. Symlinks to nowhere, on the way too, get their target.
fn make_missing(path: &Path) -> Result<(), FileError> {
    let made = sys::fs::open_dir(c"/").and_then(|root| {
        let path = path.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
        sys::fs::mkdir_all_in_root(root.as_fd(), path)
    });
    made.map(drop).map_err(FileError::at("create directory", path))
}

fn peers_of(path: &Path) -> Result<Peers, FileError> {
    let table = Path::new("/proc/self/mountinfo");
    let text = std::fs::read_to_string(table).map_err(FileError::at("read", table))?;
    Ok(holding_mount(&text, path))
}

/// proc_pid_mountinfo(5): `36 35 98:0 /root /mount/point options shared:1 master:2 - …`. The
/// holding mount has the longest mount point; of several at one point the last is on top.
fn holding_mount(table: &str, path: &Path) -> Peers {
    let mut best: (usize, Peers) = (0, Peers::default());
    for line in table.lines() {
        let mut fields = line.split(' ');
        let Some(point) = fields.nth(4).map(unescape) else { continue };
        if !path.starts_with(&point) {
            continue;
        }
        let mut peers = Peers::default();
        for tag in fields.skip(1).take_while(|field| *field != "-") {
            peers.shared |= tag.starts_with("shared:");
            peers.slave |= tag.starts_with("master:");
        }
        let length = point.as_os_str().len();
        if length >= best.0 {
            best = (length, peers);
        }
    }
    best.1
}

/// Space, tab, newline and backslash are written as `\040` and so on.
fn unescape(field: &str) -> PathBuf {
    let mut text = field.to_owned();
    for (code, character) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        text = text.replace(code, character);
    }
    PathBuf::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_and_last_mount_point_decides() {
        let table = "\
            1 0 8:1 / / rw shared:1 - ext4 /dev/a rw\n\
            2 1 8:2 / /data rw - ext4 /dev/b rw\n\
            3 1 8:3 / /data\\040b rw master:4 - ext4 /dev/c rw\n\
            4 2 8:4 / /data rw shared:5 master:6 - ext4 /dev/d rw\n";
        let of = |path: &str| holding_mount(table, Path::new(path));
        assert_eq!(of("/etc"), Peers { shared: true, slave: false });
        assert_eq!(of("/data/x"), Peers { shared: true, slave: true });
        assert_eq!(of("/data b/x"), Peers { shared: false, slave: true });
        assert_eq!(of("/database"), Peers { shared: true, slave: false });
    }

    #[test]
    fn missing_sources_and_dangling_links_become_directories() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let missing = dir.join("a/b");
        let found = resolve(missing.to_str().unwrap(), true).unwrap();
        assert!(found.is_dir && missing.is_dir());
        std::os::unix::fs::symlink("target/deep", dir.join("link")).unwrap();
        let found = resolve(dir.join("link").to_str().unwrap(), false).unwrap();
        assert_eq!(found.path, dir.join("target/deep").to_str().unwrap());
        std::os::unix::fs::symlink(dir.join("nowhere"), dir.join("up")).unwrap();
        let found = resolve(dir.join("up/x/../y").to_str().unwrap(), false).unwrap();
        assert_eq!(found.path, dir.join("nowhere/y").to_str().unwrap());
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &dir.join("nowhere").metadata().unwrap().permissions(),
        );
        assert_eq!(mode & 0o7777, 0o755);
        assert!(resolve("relative", false).is_err());
    }
}
