//! Making the thin layer that a plan asks for.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, XattrFlags};
use rustix::io::Errno;

use super::attributes::{Attributes, give_to_link};
use super::find::{Plan, Trees, is_opaque, kind_of, open_in, real_directory};

/// A step that failed, and on what.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) action: &'static str,
    pub(super) path: Vec<u8>,
    pub(super) errno: Errno,
}

/// Fills the empty directory `into`; gives the number of inodes made.
pub(super) fn build(trees: &Trees<'_>, plan: &Plan, into: BorrowedFd<'_>) -> Result<u64, Fault> {
    let mut builder = Builder { trees, plan, into, made: BTreeMap::new(), others: 0 };
    for path in plan.settled.keys() {
        builder.directory(path).map_err(|errno| fault("settle", path, errno))?;
    }
    for (path, real) in &plan.links {
        builder.link(path).map_err(|errno| fault("bring back", path, errno))?;
        builder.carry(path, real)?;
    }
    builder.finish()
}

fn fault(action: &'static str, path: &[u8], errno: Errno) -> Fault {
    Fault { action, path: path.to_vec(), errno }
}

struct Builder<'a> {
    trees: &'a Trees<'a>,
    plan: &'a Plan,
    into: BorrowedFd<'a>,
    /// Directories made, with what they get in the end.
    made: BTreeMap<Vec<u8>, Attributes>,
    others: u64,
}

impl Builder<'_> {
    /// The directory `path`, made with all above it if need be.
    fn directory(&mut self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let prefix = &path[..end];
            if prefix.is_empty() || self.made.contains_key(prefix) {
                continue;
            }
            rustix::fs::mkdirat(self.into, prefix, Mode::RWXU)?;
            let attributes = self.attributes(prefix)?;
            attributes.give(open_in(self.into, prefix)?.as_fd())?;
            self.made.insert(prefix.to_vec(), attributes);
        }
        open_in(self.into, path)
    }

    /// What a directory has in the merged tree up to this layer.
    fn attributes(&self, path: &[u8]) -> Result<Attributes, Errno> {
        if let Some(settled) = self.plan.settled.get(path) {
            return Ok(settled.clone());
        }
        let own = open_in(self.trees.own, path);
        let named = !self.plan.implied.contains(path);
        match (own, open_in(self.trees.below, path)) {
            (Ok(own), _) if named => Attributes::of(own.as_fd()),
            (_, Ok(below)) => Attributes::of(below.as_fd()),
            (Ok(own), Err(_)) => Attributes::of(own.as_fd()),
            (Err(errno), Err(_)) => Err(errno),
        }
    }

    /// The link that the layers below have at `path`.
    fn link(&mut self, path: &[u8]) -> Result<(), Errno> {
        let (above, name) = split(path);
        let from = open_in(self.trees.below, above)?;
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let stat = rustix::fs::statat(&from, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        let target = rustix::fs::readlinkat(&from, &name, Vec::new())?;
        let to = self.directory(above)?;
        rustix::fs::symlinkat(&target, &to, &name)?;
        self.others += 1;
        give_to_link(&stat, to.as_fd(), &name)
    }

    /// Puts everything the layer has in its directory `from` into the directory `to`.
    fn carry(&mut self, from: &[u8], to: &[u8]) -> Result<(), Fault> {
        let mut todo = vec![(from.to_vec(), to.to_vec())];
        while let Some((from, to)) = todo.pop() {
            let carried = self.carry_one(&from, &to, &mut todo);
            carried.map_err(|errno| fault("carry along", &from, errno))?;
        }
        Ok(())
    }

    fn carry_one(
        &mut self,
        from: &[u8],
        to: &[u8],
        todo: &mut Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<(), Errno> {
        let source = open_in(self.trees.own, from)?;
        let target = self.carried_directory(from, to, source.as_fd())?;
        for entry in Dir::read_from(&source)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            let stat = rustix::fs::statat(&source, name, AtFlags::SYMLINK_NOFOLLOW)?;
            if kind_of(stat.st_mode).is_dir() {
                let below = join(from, name.to_bytes());
                let goal = self.goal(&below, join(to, name.to_bytes()));
                todo.push((below, goal));
                continue;
            }
            match rustix::fs::linkat(&source, name, &target, name, AtFlags::empty()) {
                Ok(()) => self.others += 1,
                // Two of the layer's directories are one below: the first to come stays.
                Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Where a carried directory goes: through a link below, if it is one that nobody named.
    fn goal(&self, own: &[u8], to: Vec<u8>) -> Vec<u8> {
        if !self.plan.implied.contains(own) || open_in(self.trees.below, &to).is_ok() {
            return to;
        }
        real_directory(self.trees.below, &to).unwrap_or(to)
    }

    fn carried_directory(
        &mut self,
        from: &[u8],
        to: &[u8],
        source: BorrowedFd<'_>,
    ) -> Result<OwnedFd, Errno> {
        let (above, _) = split(to);
        if !to.is_empty() {
            self.directory(above)?;
        }
        if !to.is_empty() && !self.made.contains_key(to) {
            rustix::fs::mkdirat(self.into, to, Mode::RWXU)?;
            let named = !self.plan.implied.contains(from);
            let attributes = match open_in(self.trees.below, to) {
                Ok(below) if !named => Attributes::of(below.as_fd())?,
                Ok(_) | Err(_) => Attributes::of(source)?,
            };
            attributes.give(open_in(self.into, to)?.as_fd())?;
            self.made.insert(to.to_vec(), attributes);
        }
        let target = open_in(self.into, to)?;
        if is_opaque(source)? {
            let key = "trusted.overlay.opaque";
            rustix::fs::fsetxattr(&target, key, b"y", XattrFlags::empty())?;
        }
        Ok(target)
    }

    /// Gives all directories their times, the innermost first.
    fn finish(self) -> Result<u64, Fault> {
        for (path, attributes) in self.made.iter().rev() {
            open_in(self.into, path)
                .and_then(|dir| attributes.give_mtime(dir.as_fd()))
                .map_err(|errno| fault("set the time of", path, errno))?;
        }
        Ok(self.others + self.made.len() as u64 + 1)
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}
