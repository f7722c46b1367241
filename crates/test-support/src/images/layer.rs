//! Layers: tar archives written entry by entry, compressed as asked.

use std::io::Write;

use anyhow::{Context, Result};

use super::digest;

/// How a layer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// As it is.
    None,
    /// gzip
    Gzip,
    /// zstd
    Zstd,
}

/// Bytes with their digest.
#[derive(Debug, Clone)]
pub struct Blob {
    /// `sha256:<hex>`
    pub digest: String,
    /// Content.
    pub bytes: Vec<u8>,
}

impl Blob {
    /// Names `bytes` by their digest.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self { digest: digest(&bytes), bytes }
    }
}

/// A finished layer.
#[derive(Debug, Clone)]
pub struct Layer {
    /// What the registry stores.
    pub blob: Blob,
    /// OCI media type.
    pub media_type: &'static str,
    /// Digest of the uncompressed archive.
    pub diff_id: String,
}

#[derive(Debug, Clone)]
enum Kind {
    Directory,
    File(Vec<u8>),
    HardLink(String),
    SymLink(String),
}

#[derive(Debug, Clone)]
struct Entry {
    path: String,
    kind: Kind,
    mode: u32,
    owner: (u64, u64),
}

/// Collects the entries of a layer. Paths are relative to the root, without a leading `/`; they
/// are written exactly as given, so that a test can ask for a hostile one.
#[derive(Debug, Clone, Default)]
pub struct LayerBuilder {
    entries: Vec<Entry>,
    owner: (u64, u64),
}

impl LayerBuilder {
    /// No entries; everything added belongs to root.
    pub fn new() -> Self {
        Self::default()
    }

    /// Owner of the entries added from here on.
    #[must_use]
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        self.owner = (uid, gid);
        self
    }

    /// A directory.
    #[must_use]
    pub fn dir(self, path: &str, mode: u32) -> Self {
        self.entry(path, mode, Kind::Directory)
    }

    /// A regular file.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, content: impl Into<Vec<u8>>) -> Self {
        self.entry(path, mode, Kind::File(content.into()))
    }

    /// Another name of the file `target` of this layer.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, 0o755, Kind::HardLink(target.to_owned()))
    }

    /// A symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, 0o777, Kind::SymLink(target.to_owned()))
    }

    /// Removes what lower layers have at `path`.
    #[must_use]
    pub fn whiteout(self, path: &str) -> Self {
        let marked = match path.rsplit_once('/') {
            Some((dir, name)) => format!("{dir}/.wh.{name}"),
            None => format!(".wh.{path}"),
        };
        self.file(&marked, 0o644, "")
    }

    /// Hides what lower layers have in the directory `path`.
    #[must_use]
    pub fn opaque(self, path: &str) -> Self {
        self.file(&format!("{path}/.wh..wh..opq"), 0o644, "")
    }

    fn entry(mut self, path: &str, mode: u32, kind: Kind) -> Self {
        self.entries.push(Entry { path: path.to_owned(), kind, mode, owner: self.owner });
        self
    }

    /// Writes the archive and compresses it.
    ///
    /// # Errors
    /// A path does not fit a tar header.
    pub fn finish(self, compression: Compression) -> Result<Layer> {
        let archive = self.archive()?;
        let diff_id = digest(&archive);
        let (bytes, media_type) = match compression {
            Compression::None => (archive, "application/vnd.oci.image.layer.v1.tar"),
            Compression::Gzip => (gzip(&archive)?, "application/vnd.oci.image.layer.v1.tar+gzip"),
            Compression::Zstd => {
                let bytes = zstd::encode_all(archive.as_slice(), 3).context("compress")?;
                (bytes, "application/vnd.oci.image.layer.v1.tar+zstd")
            }
        };
        Ok(Layer { blob: Blob::new(bytes), media_type, diff_id })
    }

    fn archive(self) -> Result<Vec<u8>> {
        let mut archive = tar::Builder::new(Vec::new());
        for entry in self.entries {
            append(&mut archive, &entry).with_context(|| format!("add {}", entry.path))?;
        }
        archive.into_inner().context("finish the archive")
    }
}

fn append(archive: &mut tar::Builder<Vec<u8>>, entry: &Entry) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    put(&mut header.as_old_mut().name, &entry.path)?;
    header.set_mode(entry.mode);
    header.set_uid(entry.owner.0);
    header.set_gid(entry.owner.1);
    // A fixed time: the same entries are the same layer, whenever they are built.
    header.set_mtime(1_700_000_000);
    let mut content: &[u8] = &[];
    match &entry.kind {
        Kind::Directory => header.set_entry_type(tar::EntryType::Directory),
        Kind::File(bytes) => {
            header.set_entry_type(tar::EntryType::Regular);
            content = bytes;
        }
        Kind::HardLink(target) => {
            header.set_entry_type(tar::EntryType::Link);
            put(&mut header.as_old_mut().linkname, target)?;
        }
        Kind::SymLink(target) => {
            header.set_entry_type(tar::EntryType::Symlink);
            put(&mut header.as_old_mut().linkname, target)?;
        }
    }
    header.set_size(u64::try_from(content.len())?);
    header.set_cksum();
    archive.append(&header, content)?;
    Ok(())
}

/// Writes a name without the checks a well-meaning archiver makes.
fn put(field: &mut [u8; 100], text: &str) -> Result<()> {
    let slot = field.get_mut(..text.len()).context("longer than 100 bytes")?;
    slot.copy_from_slice(text.as_bytes());
    Ok(())
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(bytes).context("compress")?;
    out.finish().context("compress")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_entries_are_the_same_layer_however_it_travels() {
        let builder = LayerBuilder::new().dir("etc", 0o755).file("etc/a", 0o644, "x");
        let gzip = builder.clone().finish(Compression::Gzip).unwrap();
        let zstd = builder.finish(Compression::Zstd).unwrap();
        assert_eq!(gzip.diff_id, zstd.diff_id);
        assert_ne!(gzip.blob.digest, zstd.blob.digest);
    }

    #[test]
    fn hostile_names_are_written_as_given() {
        let layer = LayerBuilder::new().file("../evil", 0o644, "x").archive().unwrap();
        assert!(layer.starts_with(b"../evil\0"));
    }

    #[test]
    fn whiteouts_lie_beside_what_they_remove() {
        let builder = LayerBuilder::new().whiteout("a/b").whiteout("c").opaque("d");
        let paths: Vec<_> = builder.entries.iter().map(|e| e.path.as_str()).collect();
        assert_eq!(paths, ["a/.wh.b", ".wh.c", "d/.wh..wh..opq"]);
    }
}
