//! The stored form: `images/<id>.json`, with `.manifest`, `.index` and `.config` byte for byte.
//!
//! The three documents are written before the record and never change while it exists, so a
//! record that is there has them. Everything here blocks on the disk.

use std::collections::{BTreeSet, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use failpoint::Point;
use model::{Digest, Reference, chain};
use registry::Descriptor;
use serde::{Deserialize, Serialize};
use store::{Disk, Durability, ReadError, RealDisk, Record, RecordFile, WriteError};

use crate::config;
use crate::error::OpenError;
use crate::image::Image;
use crate::unusable::{Shelf, Unusable};

/// Version 1 of the stored image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    pub(crate) id: Digest,
    pub(crate) manifest_digest: Digest,
    pub(crate) size_bytes: u64,
    pub(crate) tags: BTreeSet<Reference>,
    pub(crate) digests: BTreeSet<Reference>,
    pub(crate) generation: u64,
}

impl ImageRecord {
    /// A new image's, without names.
    pub(crate) fn new(
        id: Digest,
        manifest_digest: Digest,
        layers: &[Descriptor],
        other_bytes: usize,
    ) -> Self {
        let blobs: u64 = layers.iter().map(|layer| layer.size).sum();
        Self {
            id,
            manifest_digest,
            size_bytes: blobs.saturating_add(u64::try_from(other_bytes).unwrap_or_default()),
            tags: BTreeSet::new(),
            digests: BTreeSet::new(),
            generation: 0,
        }
    }
}

impl Record for ImageRecord {
    const KIND: &'static str = "image";
    const VERSION: u32 = 1;
}

/// The bytes an image is described by.
#[derive(Debug, Clone)]
pub(crate) struct Documents {
    pub(crate) manifest: bytes::Bytes,
    pub(crate) index: Option<bytes::Bytes>,
    pub(crate) config: bytes::Bytes,
}

/// `<root>/images`.
#[derive(Debug, Clone)]
pub(crate) struct Directory {
    path: PathBuf,
    unusable: Shelf,
}

impl Directory {
    pub(crate) fn create(root: &Path) -> Result<Self, OpenError> {
        let path = root.join("images");
        match fs::create_dir_all(&path) {
            Ok(()) => Ok(Self { path, unusable: Shelf::default() }),
            Err(source) => Err(OpenError::Directory { path, source }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What was found to be unusable and has not been replaced.
    pub(crate) fn unusable(&self) -> Vec<Unusable> {
        self.unusable.all()
    }

    /// An image whose record is good cannot be used all the same.
    pub(crate) fn tell_unusable(&self, id: &Digest, reason: String) {
        let mut all = self.unusable.all();
        all.push(Unusable { id: *id, path: self.file(id, "json"), reason });
        self.unusable.put(all);
    }

    pub(crate) fn config(&self, id: &Digest) -> PathBuf {
        self.file(id, "config")
    }

    pub(crate) fn manifest(&self, id: &Digest) -> PathBuf {
        self.file(id, "manifest")
    }

    fn file(&self, id: &Digest, extension: &str) -> PathBuf {
        self.path.join(format!("{}.{extension}", id.hex()))
    }

    /// Writes the documents of an image that has no record yet.
    pub(crate) fn write_documents(
        &self,
        id: &Digest,
        documents: &Documents,
    ) -> Result<(), WriteError> {
        let write = |extension: &str, bytes: &[u8]| {
            let path = self.file(id, extension);
            let reached = failpoint::reach(Point::ImageDocuments);
            reached
                .and_then(|()| RealDisk.write(&path, bytes, true))
                .map_err(|source| WriteError::Io { path, step: "write", source })
        };
        write("config", &documents.config)?;
        write("manifest", &documents.manifest)?;
        match &documents.index {
            Some(index) => write("index", index),
            None => Ok(()),
        }
    }

    /// Returns when the record is on the device, and with it the names of the documents.
    pub(crate) fn write_record(&self, record: &ImageRecord) -> Result<(), WriteError> {
        let file = RecordFile::new(self.file(&record.id, "json"));
        file.reach(Point::ImageRecord)?;
        file.write(&RealDisk, record, Durability::Power)?;
        if self.unusable.take(&record.id).is_some() {
            discard(&self.file(&record.id, "bad"));
        }
        Ok(())
    }

    /// Removes an image: its record for good, then what it described.
    pub(crate) fn remove(&self, id: &Digest) -> Result<(), WriteError> {
        let record = RecordFile::new(self.file(id, "json"));
        record.reach(Point::ImageUnrecord)?;
        record.remove(&RealDisk)?;
        record.reach(Point::ImageUndocument)?;
        RealDisk.sync_dir(&self.path).map_err(|source| WriteError::Io {
            path: self.path.clone(),
            step: "sync",
            source,
        })?;
        for extension in ["manifest", "index", "config", "bad"] {
            let path = self.file(id, extension);
            RealDisk.remove(&path).map_err(|source| WriteError::Io {
                path,
                step: "remove",
                source,
            })?;
        }
        drop(self.unusable.take(id));
        Ok(())
    }

    /// Every image that is whole. What is not is set aside and logged: one torn file costs one
    /// image, which the next pull brings back.
    pub(crate) fn load(
        &self,
        has_layer: impl Fn(&Digest) -> bool,
    ) -> Result<Vec<Image>, OpenError> {
        let mut images = Vec::new();
        let mut recorded = HashSet::new();
        let mut others = Vec::new();
        let mut unusable = Vec::new();
        for path in self.files()? {
            let id = path.file_stem().and_then(OsStr::to_str).and_then(Digest::from_hex);
            match (id, path.extension().and_then(OsStr::to_str)) {
                (Some(id), Some("json")) => {
                    recorded.insert(id);
                    match self.load_one(id, &has_layer) {
                        Ok(image) => images.push(image),
                        Err(problem) => {
                            let reason = chain(&problem);
                            let path = set_aside(&path, &problem);
                            unusable.push(Unusable { id, path, reason });
                        }
                    }
                }
                (Some(id), Some("manifest" | "index" | "config")) => others.push((id, path)),
                (Some(_), Some("tmp")) => discard(&path),
                (Some(id), Some("bad")) => {
                    let reason = "an earlier start set its record aside".to_owned();
                    unusable.push(Unusable { id, path, reason });
                }
                (Some(_) | None, _) => {}
            }
        }
        for (_, path) in others.iter().filter(|(id, _)| !recorded.contains(id)) {
            discard(path);
        }
        // One that was pulled since, and one that was found twice: by its record and what that became.
        unusable.retain(|it| images.iter().all(|image| image.id != it.id));
        unusable.sort_by(|a, b| (a.id, &a.path).cmp(&(b.id, &b.path)));
        unusable.dedup_by(|later, first| later.id == first.id);
        self.unusable.put(unusable);
        settle_tags(&mut images);
        images.sort_by_key(|image| image.id);
        Ok(images)
    }

    /// What the records say of layers, for who only looks: nothing is set aside.
    ///
    /// # Errors
    /// The directory is there and cannot be listed.
    pub(crate) fn look(
        root: &Path,
        has_layer: impl Fn(&Digest) -> bool,
    ) -> Result<(HashSet<Digest>, Vec<Unusable>), OpenError> {
        let directory = Self { path: root.join("images"), unusable: Shelf::default() };
        let (mut layers, mut unusable) = (HashSet::new(), Vec::new());
        let paths = if directory.path.exists() { directory.files()? } else { Vec::new() };
        for path in paths {
            let id = path.file_stem().and_then(OsStr::to_str).and_then(Digest::from_hex);
            let is_record = path.extension().is_some_and(|it| it == "json" || it == "bad");
            let Some(id) = id.filter(|_| is_record) else { continue };
            match directory.load_one(id, &has_layer) {
                Ok(image) => layers.extend(image.diff_ids.iter().copied()),
                Err(problem) => unusable.push(Unusable { id, path, reason: chain(&problem) }),
            }
        }
        Ok((layers, unusable))
    }

    fn files(&self) -> Result<Vec<PathBuf>, OpenError> {
        let fail = |source| OpenError::Directory { path: self.path.clone(), source };
        let entries = fs::read_dir(&self.path).map_err(fail)?;
        entries.map(|entry| entry.map(|entry| entry.path()).map_err(fail)).collect()
    }

    fn load_one(
        &self,
        id: Digest,
        has_layer: impl Fn(&Digest) -> bool,
    ) -> Result<Image, LoadProblem> {
        let file = RecordFile::new(self.file(&id, "json"));
        let record: ImageRecord = file.read(&RealDisk)?.ok_or(LoadProblem::Foreign)?;
        if record.id != id {
            return Err(LoadProblem::Foreign);
        }
        let config = fs::read(self.config(&id)).map_err(LoadProblem::Config)?;
        if registry::digest_of(&config) != id {
            return Err(LoadProblem::ConfigDigest);
        }
        let parsed = config::parse(&config)?;
        if let Some(layer) = parsed.diff_ids.iter().find(|layer| !has_layer(layer)) {
            return Err(LoadProblem::Layer(*layer));
        }
        Ok(Image::new(record, parsed))
    }
}

/// A crash between two writes can leave a tag with two images: the later claim counts.
fn settle_tags(images: &mut [Image]) {
    images.sort_by_key(|image| std::cmp::Reverse(image.generation));
    let mut claimed = HashSet::new();
    for image in images {
        image.tags.retain(|tag| claimed.insert(tag.clone()));
        image.refresh_names();
    }
}

#[derive(Debug, thiserror::Error)]
enum LoadProblem {
    #[error(transparent)]
    Record(#[from] ReadError),
    #[error("the record is not of this image")]
    Foreign,
    #[error("its configuration cannot be read")]
    Config(#[source] io::Error),
    #[error("its configuration has another digest")]
    ConfigDigest,
    #[error(transparent)]
    Parse(#[from] config::ConfigError),
    #[error("its layer {0} is not there")]
    Layer(Digest),
}

/// Returns where it lies then.
fn set_aside(path: &Path, problem: &LoadProblem) -> PathBuf {
    let error: &dyn std::error::Error = problem;
    // A newer knarr wrote it and may come back to it.
    if matches!(problem, LoadProblem::Record(ReadError::Unknown { .. })) {
        tracing::warn!(path = %path.display(), error, "an image is ignored");
        return path.to_owned();
    }
    tracing::warn!(path = %path.display(), error, "an image is unusable; its record is set aside");
    let aside = path.with_extension("bad");
    match fs::rename(path, &aside) {
        Ok(()) => aside,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "cannot set the record aside");
            path.to_owned()
        }
    }
}

/// Leftovers of a pull or removal that a crash cut short; keeping one does no harm.
fn discard(path: &Path) {
    if let Err(error) = RealDisk.remove(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove a leftover");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &[u8] = br#"{"os":"linux","rootfs":{"diff_ids":[]}}"#;

    fn documents() -> Documents {
        Documents {
            manifest: "manifest".into(),
            index: Some("index".into()),
            config: CONFIG.into(),
        }
    }

    fn record(generation: u64, tag: &str) -> ImageRecord {
        ImageRecord {
            id: registry::digest_of(CONFIG),
            manifest_digest: registry::digest_of(b"manifest"),
            size_bytes: 5,
            tags: BTreeSet::from([Reference::parse(tag).unwrap()]),
            digests: BTreeSet::new(),
            generation,
        }
    }

    fn directory() -> (tempfile::TempDir, Directory) {
        let dir = tempfile::tempdir().unwrap();
        let images = Directory::create(dir.path()).unwrap();
        (dir, images)
    }

    fn load(images: &Directory) -> Vec<Image> {
        images.load(|_| true).unwrap()
    }

    #[test]
    fn who_only_looks_sees_the_same_and_changes_nothing() {
        let (dir, images) = directory();
        assert_eq!(Directory::look(&dir.path().join("none"), |_| true).unwrap().1, []);
        let record = record(3, "a:1");
        images.write_documents(&record.id, &documents()).unwrap();
        images.write_record(&record).unwrap();
        assert_eq!(Directory::look(dir.path(), |_| true).unwrap(), (HashSet::new(), Vec::new()));
        let path = images.file(&record.id, "json");
        fs::write(&path, "torn").unwrap();
        let (_, unusable) = Directory::look(dir.path(), |_| true).unwrap();
        assert_eq!(unusable.len(), 1, "{unusable:?}");
        assert_eq!((unusable[0].id, &unusable[0].path), (record.id, &path));
        assert!(path.exists());
    }

    #[test]
    fn what_was_written_is_loaded() {
        let (_dir, images) = directory();
        let record = record(3, "a:1");
        images.write_documents(&record.id, &documents()).unwrap();
        images.write_record(&record).unwrap();
        let loaded = load(&images);
        assert_eq!(loaded.len(), 1);
        assert_eq!(loaded[0].record(), record);
        assert_eq!(fs::read(images.config(&record.id)).unwrap(), CONFIG);
        images.remove(&record.id).unwrap();
        images.remove(&record.id).unwrap();
        assert_eq!(fs::read_dir(images.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_torn_file_costs_its_image_and_is_set_aside() {
        let record = record(3, "a:1");
        for spoil in ["json", "config"] {
            let (_dir, images) = directory();
            images.write_documents(&record.id, &documents()).unwrap();
            images.write_record(&record).unwrap();
            let path = images.file(&record.id, spoil);
            let whole = fs::read(&path).unwrap();
            fs::write(&path, &whole[..whole.len() / 2]).unwrap();
            assert!(load(&images).is_empty(), "{spoil}");
            let aside = images.file(&record.id, "bad");
            assert!(aside.exists(), "{spoil}");
            for _ in 0..2 {
                let told = images.unusable();
                assert_eq!(told.len(), 1, "{told:?}");
                assert_eq!((told[0].id, &told[0].path), (record.id, &aside));
                // A later start tells it too.
                assert!(load(&images).is_empty(), "{spoil}");
            }
            images.write_documents(&record.id, &documents()).unwrap();
            images.write_record(&record).unwrap();
            assert!(images.unusable().is_empty() && !aside.exists(), "{spoil}");
            assert_eq!(load(&images).len(), 1);
        }
    }

    #[test]
    fn an_image_without_its_layer_is_no_image() {
        let (_dir, images) = directory();
        let layer = Digest::from_sha256([4; 32]);
        let config = format!(r#"{{"rootfs":{{"diff_ids":["{layer}"]}}}}"#);
        let record = ImageRecord { id: registry::digest_of(config.as_bytes()), ..record(1, "a:1") };
        let documents = Documents { config: config.into(), ..documents() };
        images.write_documents(&record.id, &documents).unwrap();
        images.write_record(&record).unwrap();
        assert_eq!(images.load(|have| *have == layer).unwrap().len(), 1);
        assert_eq!(images.load(|_| false).unwrap().len(), 0);
    }

    #[test]
    fn leftovers_without_a_record_are_removed() {
        let (_dir, images) = directory();
        images.write_documents(&Digest::from_sha256([1; 32]), &documents()).unwrap();
        fs::write(images.path().join("note.txt"), "an operator's").unwrap();
        assert!(load(&images).is_empty());
        let left: Vec<_> = images.files().unwrap();
        assert_eq!(left, [images.path().join("note.txt")]);
    }

    #[test]
    fn the_later_claim_to_a_tag_counts() {
        let parsed = config::parse(CONFIG).unwrap();
        let image = |byte: u8, generation| {
            let mut image = Image::new(record(generation, "a:1"), parsed.clone());
            image.id = Digest::from_sha256([byte; 32]);
            image
        };
        let mut images = vec![image(1, 4), image(2, 9), image(3, 6)];
        settle_tags(&mut images);
        for image in images {
            assert_eq!(image.repo_tags.len(), usize::from(image.generation == 9));
        }
    }
}
