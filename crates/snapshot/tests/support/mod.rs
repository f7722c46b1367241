//! Layers by hand, and what the kernel makes of them.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use layer::{Beside, Compression, UnpackOptions, Unpacked, unpack};
use model::Digest;
use snapshot::Layers;

pub(crate) fn not_root() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !root {
        eprintln!("skipped: needs root to make whiteouts and to mount");
    }
    !root
}

pub(crate) enum Made {
    Dir(u32),
    File(&'static str),
    Link(&'static str),
    Same(&'static str),
}

pub(crate) use Made::{Dir, File, Link, Same};

pub(crate) fn tar(entries: &[(&str, Made)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, made) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_000_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_mode(0o644);
        let (kind, data) = match made {
            Dir(mode) => {
                header.set_mode(*mode);
                (tar::EntryType::Directory, "")
            }
            File(data) => (tar::EntryType::Regular, *data),
            Link(target) => {
                header.set_link_name(target).unwrap();
                (tar::EntryType::Symlink, "")
            }
            Same(target) => {
                header.set_link_name(target).unwrap();
                (tar::EntryType::Link, "")
            }
        };
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        builder.append_data(&mut header, path, data.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

pub(crate) fn unpack_into(root: BorrowedFd<'_>, blob: &[u8]) -> Unpacked {
    unpack(blob, root, Compression::Auto, &UnpackOptions::default(), Beside::default()).unwrap()
}

pub(crate) fn add(layers: &Layers, entries: &[(&str, Made)]) -> Digest {
    let ingest = layers.begin().unwrap();
    let unpacked = unpack_into(ingest.root(), &tar(entries));
    layers.commit(ingest, &unpacked).unwrap();
    unpacked.diff_id
}

pub(crate) fn ingests(root: &Path) -> usize {
    fs::read_dir(root.join("ingest")).unwrap().count()
}

/// Every path of a view with its content, link target or kind.
pub(crate) fn tree(view: &OwnedFd) -> BTreeMap<String, String> {
    let top = PathBuf::from(format!("/proc/self/fd/{}/.", view.as_raw_fd()));
    let mut tree = BTreeMap::new();
    let mut todo = vec![top.clone()];
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(&top).unwrap().to_str().unwrap().to_owned();
            let Ok(stat) = fs::symlink_metadata(&path) else {
                tree.insert(name, "unusable".to_owned());
                continue;
            };
            let what = if stat.is_dir() {
                todo.push(path);
                format!("dir {:o}", stat.mode() & 0o7777)
            } else if stat.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if stat.is_file() {
                fs::read_to_string(&path).unwrap()
            } else {
                "device".to_owned()
            };
            tree.insert(name, what);
        }
    }
    tree
}

pub(crate) fn want(lines: &[(&str, &str)]) -> BTreeMap<String, String> {
    lines.iter().map(|(path, what)| ((*path).to_owned(), (*what).to_owned())).collect()
}
