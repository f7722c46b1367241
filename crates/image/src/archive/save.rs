//! From the store, and the registry that has the packed layers, into an archive: a tar that is an
//! OCI layout and what `docker load` reads at once.
//!
//! Layers are kept unpacked, and no packing of them again would have their digest: so their bytes
//! come from where they came from.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use model::{Digest, Reference};
use registry::{Credentials, Descriptor, Manifest, ManifestError, Session};
use tokio::sync::mpsc;

use super::SaveError;
use crate::collect::blocking;
use crate::error::PullError;
use crate::image::Image;
use crate::images::{Images, Inner};

/// Pieces of the tar in order; an error ends them.
pub type ArchiveStream = mpsc::Receiver<Result<Bytes, SaveError>>;

const PIECES_IN_FLIGHT: usize = 8;
const BLOCK: usize = 512;

impl Images {
    /// Streams `images` as one archive. Dropping the stream stops the work.
    pub fn save(&self, images: Vec<Arc<Image>>, credentials: Credentials) -> ArchiveStream {
        let (sender, stream) = mpsc::channel(PIECES_IN_FLIGHT);
        let inner = Arc::clone(&self.inner);
        // Ends with the stream: a closed channel is found out by the next piece.
        tokio::spawn(async move {
            let mut writer = Writer { sender: sender.clone(), written: BTreeSet::new() };
            let saved = Box::pin(write_all(&inner, &images, &credentials, &mut writer)).await;
            if let Err(Stop::Failed(error)) = saved {
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

async fn write_all(
    inner: &Arc<Inner>,
    images: &[Arc<Image>],
    credentials: &Credentials,
    writer: &mut Writer,
) -> Result<(), Stop> {
    writer.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#).await?;
    let (mut entries, mut list) = (Vec::new(), Vec::new());
    for image in images {
        let stored = image.clone();
        let documents = blocking(inner, move |inner| documents(inner, &stored)).await;
        let (manifest_bytes, manifest, config) = documents
            .ok_or(Stop::NobodyListens)?
            .map_err(|source| SaveError::Stored { id: image.id, source })?;
        writer.blob(&image.id, &config).await?;
        writer.blob(&image.manifest_digest, &manifest_bytes).await?;
        layers(inner, image, &manifest, credentials, writer).await?;
        entries.extend(index_entries(image, manifest_bytes.len()));
        let paths: Vec<_> = manifest.layers.iter().map(|layer| path(&layer.digest)).collect();
        list.push(serde_json::json!({
            "Config": path(&image.id), "RepoTags": image.repo_tags, "Layers": paths,
        }));
    }
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": entries,
    });
    writer.file("index.json", index.to_string().as_bytes()).await?;
    writer.file("manifest.json", serde_json::Value::from(list).to_string().as_bytes()).await?;
    writer.send(Bytes::from_static(&[0; 2 * BLOCK])).await
}

/// Blocks on the disk.
fn documents(inner: &Inner, image: &Image) -> Result<(Bytes, Manifest, Bytes), ManifestError> {
    let bytes = std::fs::read(inner.directory.manifest(&image.id))?;
    let config = std::fs::read(inner.directory.config(&image.id))?;
    let manifest = Manifest::parse(&bytes)?;
    Ok((bytes.into(), manifest, config.into()))
}

async fn layers(
    inner: &Arc<Inner>,
    image: &Image,
    manifest: &Manifest,
    credentials: &Credentials,
    writer: &mut Writer,
) -> Result<(), Stop> {
    let source = image.digests.first().ok_or(SaveError::NoSource { id: image.id })?;
    let fail = |error| SaveError::Fetch {
        reference: source.clone(),
        source: Box::new(PullError::registry(source, error)),
    };
    let session = inner.registry.session(source, credentials.clone()).await.map_err(fail)?;
    for layer in &manifest.layers {
        writer.layer(&session, source, layer).await?;
    }
    Ok(())
}

fn index_entries(image: &Image, manifest_bytes: usize) -> Vec<serde_json::Value> {
    let entry = |name: Option<&Reference>| {
        let mut entry = serde_json::json!({
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image.manifest_digest.to_string(),
            "size": manifest_bytes,
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

    async fn layer(
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
