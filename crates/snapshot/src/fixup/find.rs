//! Finding out what the layers below say about the directories a layer only implies.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::attributes::{Attributes, path_of};
use super::build::Fault;
use crate::ingest::DIRECTORY;

/// A layer alone, and the merged layers below it.
pub(super) struct Trees<'a> {
    pub(super) own: BorrowedFd<'a>,
    pub(super) below: BorrowedFd<'a>,
}

/// What is to be done about a layer.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// All directories it only implies.
    pub(super) implied: BTreeSet<Vec<u8>>,
    /// Those whose attributes the layers below have, where they are others.
    pub(super) settled: BTreeMap<Vec<u8>, Attributes>,
    /// Those that are links to directories below, and where these really are.
    pub(super) links: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Plan {
    pub(super) fn is_empty(&self) -> bool {
        self.settled.is_empty() && self.links.is_empty()
    }
}

/// What the layers below have by a name.
enum Below {
    Directory(OwnedFd),
    /// A link to a directory, and that directory's real path.
    Link(Vec<u8>),
    /// Nothing that concerns us.
    Other,
}

pub(super) fn plan(trees: &Trees<'_>, implied: BTreeSet<Vec<u8>>) -> Result<Plan, Fault> {
    let mut plan = Plan::default();
    // Below these the layer owes nothing to others: they hide what is there, or are no directories.
    let mut cut = BTreeSet::new();
    let mut hiding = BTreeMap::new();
    // A directory comes before what is in it.
    for path in &implied {
        let fault = |action| move |errno| Fault { action, path: path.clone(), errno };
        if ancestors(path).any(|above| cut.contains(above)) {
            continue;
        }
        if hides(trees, &mut hiding, parent(path)).map_err(fault("look above"))? {
            cut.insert(path.clone());
            continue;
        }
        match look(trees.below, path).map_err(fault("look below"))? {
            Below::Directory(dir) => {
                let attributes = Attributes::of(dir.as_fd()).map_err(fault("read"))?;
                let own = open_in(trees.own, path).map_err(fault("open"))?;
                let own = Attributes::of(own.as_fd()).map_err(fault("read"))?;
                if own != attributes {
                    plan.settled.insert(path.clone(), attributes);
                }
            }
            Below::Link(real) => {
                plan.links.insert(path.clone(), real);
                cut.insert(path.clone());
            }
            Below::Other => drop(cut.insert(path.clone())),
        }
    }
    plan.implied = implied;
    Ok(plan)
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|byte| *byte == b'/').map_or(&[], |at| &path[..at])
}

/// All directories above a path, nearest first, without the root.
fn ancestors(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::successors(Some(path), |path| Some(parent(path)))
        .skip(1)
        .take_while(|above| !above.is_empty())
}

/// Whether the layer's directory hides what lower layers have in it, by itself or from above.
fn hides(
    trees: &Trees<'_>,
    known: &mut BTreeMap<Vec<u8>, bool>,
    path: &[u8],
) -> Result<bool, Errno> {
    let mut todo = vec![path];
    todo.extend(ancestors(path));
    if !path.is_empty() {
        todo.push(&[]);
    }
    let mut hidden = false;
    for path in todo.into_iter().rev() {
        hidden = match known.get(path) {
            Some(known) => *known,
            None => {
                let hidden = hidden || is_opaque(open_in(trees.own, path)?.as_fd())?;
                known.insert(path.to_vec(), hidden);
                hidden
            }
        };
    }
    Ok(hidden)
}

pub(super) fn is_opaque(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut value = [0; 1];
    match rustix::fs::fgetxattr(dir, "trusted.overlay.opaque", &mut value) {
        Ok(length) => Ok(length == 1 && value == *b"y"),
        Err(Errno::NODATA | Errno::NOTSUP | Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn look(below: BorrowedFd<'_>, path: &[u8]) -> Result<Below, Errno> {
    let absent = |errno| matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::LOOP);
    match open_in(below, path) {
        Ok(dir) => return Ok(Below::Directory(dir)),
        Err(errno) if absent(errno) => {}
        Err(errno) => return Err(errno),
    }
    // A link that leads nowhere, or to a file, is replaced by the directory, as by `tar`.
    match real_directory(below, path) {
        Ok(real) => Ok(Below::Link(real)),
        Err(errno) if absent(errno) => Ok(Below::Other),
        Err(errno) => Err(errno),
    }
}

/// The path without links of a directory below `root`, found as a process would that has it as
/// its root.
pub(super) fn real_directory(root: BorrowedFd<'_>, path: &[u8]) -> Result<Vec<u8>, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = loop {
        match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
            // A rename or mount anywhere on the system raced with a `..` on the way.
            Err(Errno::AGAIN) => {}
            found => break found?,
        }
    };
    let (root, full) = (path_of(root)?, path_of(found.as_fd())?);
    let root = root.strip_suffix(b"/").unwrap_or(&root);
    let real = full.strip_prefix(root).ok_or(Errno::XDEV)?;
    Ok(real.strip_prefix(b"/").unwrap_or(real).to_vec())
}

/// Opens a directory by a path that leads through no link.
pub(super) fn open_in(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(root, path, DIRECTORY, Mode::empty(), resolve)
}

/// What a name is, without following it.
pub(super) fn kind_of(mode: u32) -> FileType {
    FileType::from_raw_mode(mode)
}
