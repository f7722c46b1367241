//! The `sealed` file: its presence says that a layer is complete. Text, for operators.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::BorrowedFd;

use model::Digest;
use rustix::fs::{Mode, OFlags};

const NAME: &str = "sealed";
const VERSION: &str = "knarr-layer 2";
/// Its number, and what stands before it.
const NUMBER: u32 = 2;
const KIND: &str = "knarr-layer ";
/// Without what an image needs to know about directories that no entry names.
const FIRST_VERSION: &str = "knarr-layer 1";
/// No seal is near this long.
const MAX_BYTES: u64 = 4096;

/// What a layer takes on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LayerUsage {
    /// Bytes the filesystem has allocated for it.
    pub bytes: u64,
    pub inodes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) diff_id: Digest,
    pub(crate) usage: LayerUsage,
    pub(crate) entries: u64,
    /// Whether the layer says who owns `/`.
    pub(crate) root_named: bool,
    /// How many other directories it makes without naming them.
    pub(crate) implied: u64,
    /// Checksum of the list of its files.
    pub(crate) inventory: Option<String>,
}

/// What says of a directory whether it is a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sealing {
    /// It is one.
    Whole(Seal),
    /// It is one of a version that this build does not know.
    Newer,
    /// There is no seal, or it is damaged.
    Broken,
}

impl Sealing {
    pub(crate) fn read(dir: BorrowedFd<'_>) -> Self {
        let text = read_text(dir).unwrap_or_default();
        let version: Option<u32> =
            text.lines().next().and_then(|line| line.strip_prefix(KIND)?.parse().ok());
        match (Seal::parse(&text), version) {
            (Some(seal), _) => Self::Whole(seal),
            (None, Some(version)) if version > NUMBER => Self::Newer,
            (None, _) => Self::Broken,
        }
    }
}

impl Seal {
    fn text(&self) -> String {
        let Self { diff_id, usage: LayerUsage { bytes, inodes }, entries, .. } = self;
        let root = if self.root_named { "named" } else { "implied" };
        let (implied, inventory) = (self.implied, self.inventory.as_deref().unwrap_or("none"));
        format!(
            "{VERSION}\ndiff-id {diff_id}\nbytes {bytes}\ninodes {inodes}\nentries {entries}\n\
             root {root}\nimplied {implied}\ninventory {inventory}\nend\n"
        )
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.strip_suffix("\nend\n")?.split('\n');
        let version = lines.next()?;
        let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ');
        let mut seal = Self {
            diff_id: Digest::parse(value("diff-id")?).ok()?,
            usage: LayerUsage {
                bytes: value("bytes")?.parse().ok()?,
                inodes: value("inodes")?.parse().ok()?,
            },
            entries: value("entries")?.parse().ok()?,
            root_named: true,
            implied: 0,
            inventory: None,
        };
        match version {
            FIRST_VERSION => {}
            VERSION => {
                seal.root_named = match value("root")? {
                    "named" => true,
                    "implied" => false,
                    _ => return None,
                };
                seal.implied = value("implied")?.parse().ok()?;
                let inventory = value("inventory")?;
                seal.inventory = (inventory != "none").then(|| inventory.to_owned());
            }
            _ => return None,
        }
        lines.next().is_none().then_some(seal)
    }

    /// Writes and fsyncs the file in the layer's directory.
    pub(crate) fn write(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        write_text(dir, &self.text())
    }

    /// The seal in a layer's directory; `None` if there is none or it is not one.
    pub(crate) fn read(dir: BorrowedFd<'_>) -> Option<Self> {
        Self::parse(&read_text(dir)?)
    }
}

/// Writes a fresh seal and fsyncs it.
pub(crate) fn write_text(dir: BorrowedFd<'_>, text: &str) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::openat(dir, NAME, flags, Mode::RUSR | Mode::WUSR)?);
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Takes a seal away; success if there is none.
pub(crate) fn remove(dir: BorrowedFd<'_>) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, NAME, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// What a seal says; `None` if there is none that could be one.
pub(crate) fn read_text(dir: BorrowedFd<'_>) -> Option<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::openat(dir, NAME, flags, Mode::empty()).ok()?);
    let mut text = String::new();
    file.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal() -> Seal {
        Seal {
            diff_id: Digest::from_sha256([0xab; 32]),
            usage: LayerUsage { bytes: 12, inodes: 3 },
            entries: 4,
            root_named: false,
            implied: 7,
            inventory: Some("ab".into()),
        }
    }

    #[test]
    fn a_seal_is_read_as_it_was_written() {
        assert_eq!(Seal::parse(&seal().text()), Some(seal()));
    }

    #[test]
    fn layers_sealed_by_the_first_version_stay() {
        let digest = Digest::from_sha256([0xab; 32]);
        let text = format!("knarr-layer 1\ndiff-id {digest}\nbytes 12\ninodes 3\nentries 4\nend\n");
        let want = Seal { root_named: true, implied: 0, inventory: None, ..seal() };
        assert_eq!(Seal::parse(&text), Some(want));
    }

    #[test]
    fn a_torn_or_altered_seal_is_none() {
        let text = seal().text();
        for length in 0..text.len() {
            assert_eq!(Seal::parse(&text[..length]), None, "{length}");
        }
        assert_eq!(Seal::parse(&text.replace("bytes 12", "bytes -12")), None);
        assert_eq!(Seal::parse(&text.replace("layer 2", "layer 3")), None);
        assert_eq!(Seal::parse(&text.replace("end", "extra 1\nend")), None);
    }
}
