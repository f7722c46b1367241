//! From the store into an archive: a tar that is an OCI layout and what `docker load` reads at once.
//!
//! Layers are kept unpacked. Their tars can be put together again byte for byte, but how they were
//! compressed nobody knows: an archive from the store has plain layers and a manifest that says
//! so, of the same image. What shall be as it was pulled comes from the registry.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use layer::RepackError;
use model::{Digest, Reference};
use registry::{Credentials, Descriptor, Manifest, ManifestError, Session};
use snapshot::LayerTar;
use tokio::sync::mpsc;

use super::SaveError;
use super::manifest::{self, PLAIN_LAYER};
use crate::collect::blocking;
use crate::error::PullError;
use crate::image::Image;
use crate::images::{Images, Inner};
use crate::slots::Hold;

/// Pieces of the tar in order; an error ends them.
pub type ArchiveStream = mpsc::Receiver<Result<Bytes, SaveError>>;

const PIECES_IN_FLIGHT: usize = 8;
const PIECE_BYTES: usize = 256 * 1024;
const BLOCK: usize = 512;

/// Where the layers of an archive come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerSource {
    /// The store. Layers that it cannot pack again come from the registry.
    Store,
    /// The registry the image came from: manifest and layers are those that were pulled.
    Registry,
}

impl Images {
    /// Streams `images` as one archive. Dropping the stream stops the work. `credentials` are for
    /// the registry, if it has to be asked.
    pub fn save(
        &self,
        images: Vec<Arc<Image>>,
        from: LayerSource,
        credentials: Credentials,
    ) -> ArchiveStream {
        let (sender, stream) = mpsc::channel(PIECES_IN_FLIGHT);
        let inner = Arc::clone(&self.inner);
        // Ends with the stream: a closed channel is found out by the next piece.
        tokio::spawn(async move {
            let writer = Writer { sender: sender.clone(), written: BTreeSet::new() };
            let mut save = Save { inner, from, credentials, writer };
            if let Err(Stop::Failed(error)) = Box::pin(save.all(&images)).await {
                // Nobody listens any more: then nobody asked.
                drop(sender.send(Err(*error)).await);
            }
        });
        stream
    }
}

/// Why writing ended early.
enum Stop {
    Failed(Box<SaveError>),
    NobodyListens,
}

impl From<SaveError> for Stop {
    fn from(error: SaveError) -> Self {
        Self::Failed(Box::new(error))
    }
}

/// One layer on its way into the archive.
enum Source {
    Store(LayerTar),
    Registry,
}

struct Save {
    inner: Arc<Inner>,
    from: LayerSource,
    credentials: Credentials,
    writer: Writer,
}

impl Save {
    async fn all(&mut self, images: &[Arc<Image>]) -> Result<(), Stop> {
        self.writer.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).await?;
        let (mut entries, mut list) = (Vec::new(), Vec::new());
        for image in images {
            let (manifest, layers) = Box::pin(self.image(image)).await?;
            entries.extend(index_entries(image, &manifest));
            list.push(serde_json::json!({
                "Config": path(&image.id), "RepoTags": image.repo_tags, "Layers": layers,
            }));
        }
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": entries,
        });
        self.writer.file("index.json", index.to_string().as_bytes()).await?;
        let list = serde_json::Value::from(list).to_string();
        self.writer.file("manifest.json", list.as_bytes()).await?;
        self.writer.send(Bytes::from_static(&[0; 2 * BLOCK])).await
    }

    /// Writes one image; gives its manifest and the paths of its layers.
    async fn image(&mut self, image: &Arc<Image>) -> Result<(Bytes, Vec<String>), Stop> {
        let hold = Arc::new(self.inner.slots.hold(&image.diff_ids));
        let (stored, from) = (Arc::clone(image), self.from);
        let opened = blocking(&self.inner, move |inner| open(inner, &stored, from)).await;
        let Opened { manifest, config, layers } = opened.ok_or(Stop::NobodyListens)??;
        self.writer.blob(&image.id, &config).await?;
        let as_pulled = layers.iter().all(|(_, source)| matches!(source, Source::Registry));
        let descriptors: Vec<_> = layers.iter().map(|(blob, _)| blob.clone()).collect();
        let mut session = None;
        for ((blob, source), diff_id) in layers.into_iter().zip(&image.diff_ids) {
            match source {
                Source::Store(tar) => {
                    self.writer.packed(&self.inner, &blob, tar, Arc::clone(&hold)).await?;
                }
                Source::Registry => {
                    let no_source = SaveError::NoSource { id: image.id, layer: *diff_id };
                    let place = image.digests.first().ok_or(no_source)?;
                    let session = match &session {
                        Some(session) => session,
                        None => session.insert(self.session(place).await?),
                    };
                    self.writer.fetched(session, place, &blob).await?;
                }
            }
        }
        let manifest = match as_pulled {
            true => manifest,
            false => manifest::make(image.id, config.len(), &descriptors),
        };
        self.writer.blob(&registry::digest_of(&manifest), &manifest).await?;
        Ok((manifest, descriptors.iter().map(|blob| path(&blob.digest)).collect()))
    }

    async fn session(&self, place: &Reference) -> Result<Session, SaveError> {
        let session = self.inner.registry.session(place, self.credentials.clone()).await;
        session.map_err(|error| SaveError::Fetch {
            reference: place.clone(),
            source: Box::new(PullError::registry(place, error)),
        })
    }
}

struct Opened {
    manifest: Bytes,
    config: Bytes,
    layers: Vec<(Descriptor, Source)>,
}

/// Blocks on the disk.
fn open(inner: &Inner, image: &Image, from: LayerSource) -> Result<Opened, SaveError> {
    let id = image.id;
    let (manifest, config, blobs) =
        documents(inner, image).map_err(|source| SaveError::Stored { id, source })?;
    let source = |(blob, diff_id): (Descriptor, &Digest)| {
        let tar = match from {
            LayerSource::Store => {
                inner.layers.tar(diff_id).map_err(|source| SaveError::Layer { id, source })?
            }
            LayerSource::Registry => None,
        };
        Ok(match tar {
            Some(tar) => (plain(*diff_id, tar.bytes()), Source::Store(tar)),
            None => (blob, Source::Registry),
        })
    };
    let layers = blobs.into_iter().zip(&image.diff_ids).map(source).collect::<Result<_, _>>()?;
    Ok(Opened { manifest, config, layers })
}

fn plain(digest: Digest, size: u64) -> Descriptor {
    Descriptor { media_type: PLAIN_LAYER.to_owned(), digest, size }
}

/// Manifest and configuration, byte for byte, and the layers of the manifest.
fn documents(
    inner: &Inner,
    image: &Image,
) -> Result<(Bytes, Bytes, Vec<Descriptor>), ManifestError> {
    let manifest = std::fs::read(inner.directory.manifest(&image.id))?;
    let config = std::fs::read(inner.directory.config(&image.id))?;
    let layers = Manifest::parse(&manifest)?.layers;
    Ok((manifest.into(), config.into(), layers))
}

fn index_entries(image: &Image, manifest: &[u8]) -> Vec<serde_json::Value> {
    let entry = |name: Option<&Reference>| {
        let mut entry = serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": registry::digest_of(manifest).to_string(),
            "size": manifest.len(),
        });
        if let Some(name) = name {
            entry["annotations"] = serde_json::json!({
                "io.containerd.image.name": name.to_string(),
                "org.opencontainers.image.ref.name": name.tag().unwrap_or("latest"),
            });
        }
        entry
    };
    if image.tags.is_empty() {
        return vec![entry(None)];
    }
    image.tags.iter().map(|name| entry(Some(name))).collect()
}

fn path(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

struct Writer {
    sender: mpsc::Sender<Result<Bytes, SaveError>>,
    /// Images share blobs.
    written: BTreeSet<Digest>,
}

impl Writer {
    async fn send(&mut self, bytes: Bytes) -> Result<(), Stop> {
        if bytes.is_empty() {
            return Ok(());
        }
        self.sender.send(Ok(bytes)).await.map_err(|_| Stop::NobodyListens)
    }

    async fn file(&mut self, name: &str, content: &[u8]) -> Result<(), Stop> {
        let length = u64::try_from(content.len()).unwrap_or(u64::MAX);
        self.send(header(name, length).to_vec().into()).await?;
        self.send(Bytes::copy_from_slice(content)).await?;
        self.pad(length).await
    }

    async fn blob(&mut self, digest: &Digest, content: &[u8]) -> Result<(), Stop> {
        if self.written.insert(*digest) { self.file(&path(digest), content).await } else { Ok(()) }
    }

    /// A layer out of the store.
    async fn packed(
        &mut self,
        inner: &Arc<Inner>,
        blob: &Descriptor,
        tar: LayerTar,
        hold: Arc<Hold>,
    ) -> Result<(), Stop> {
        if !self.written.insert(blob.digest) {
            return Ok(());
        }
        self.send(header(&path(&blob.digest), blob.size).to_vec().into()).await?;
        let pieces = Pieces { sender: self.sender.clone(), piece: BytesMut::new() };
        let written = blocking(inner, move |_| {
            let written = tar.write(pieces);
            drop(hold);
            written
        });
        match written.await.ok_or(Stop::NobodyListens)? {
            Ok(found) if found == blob.digest => self.pad(blob.size).await,
            Ok(found) => Err(SaveError::Digest { wanted: blob.digest, found }.into()),
            Err(RepackError::Write { .. }) => Err(Stop::NobodyListens),
            Err(source) => Err(SaveError::Pack { layer: blob.digest, source }.into()),
        }
    }

    /// A layer out of a registry.
    async fn fetched(
        &mut self,
        session: &Session,
        source: &Reference,
        layer: &Descriptor,
    ) -> Result<(), Stop> {
        if !self.written.insert(layer.digest) {
            return Ok(());
        }
        let fail = |error| SaveError::Fetch {
            reference: source.clone(),
            source: Box::new(PullError::registry(source, error)),
        };
        let mut stream = session.blob(layer).await.map_err(fail)?;
        self.send(header(&path(&layer.digest), layer.size).to_vec().into()).await?;
        let mut hash = layer::Hasher::default();
        while let Some(chunk) = stream.chunk().await.map_err(fail)? {
            hash.update(&chunk);
            self.send(chunk).await?;
        }
        let found = hash.finish();
        if found != layer.digest {
            return Err(SaveError::Digest { wanted: layer.digest, found }.into());
        }
        self.pad(layer.size).await
    }

    async fn pad(&mut self, length: u64) -> Result<(), Stop> {
        let over = usize::try_from(length % 512).unwrap_or_default();
        let padding = if over == 0 { 0 } else { BLOCK - over };
        self.send(Bytes::from_static(&[0; BLOCK]).slice(..padding)).await
    }
}

/// The blocking side's end of the stream.
struct Pieces {
    sender: mpsc::Sender<Result<Bytes, SaveError>>,
    piece: BytesMut,
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = self.piece.split().freeze();
        self.sender.blocking_send(Ok(piece)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A ustar header; names here are short.
fn header(name: &str, size: u64) -> [u8; BLOCK] {
    let mut header = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    if size < 1 << 33 {
        put(124, format!("{size:011o}\0").as_bytes());
    } else {
        // GNU: more than eleven octal digits as a binary number.
        put(124, &[0x80, 0, 0, 0]);
        put(128, &size.to_be_bytes());
    }
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
