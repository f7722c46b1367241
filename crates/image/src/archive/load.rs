//! From an archive into the store.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layer::Compression;
use model::{Digest, Platform, Reference};
use registry::Descriptor;

use super::LoadError;
use super::contents::{Content, list};
use super::members::Members;
use crate::catalog::add_given;
use crate::collect::blocking;
use crate::config;
use crate::error::LayerError;
use crate::image::Image;
use crate::images::{Images, Inner};
use crate::record::{Documents, ImageRecord};
use crate::slots::Hold;

/// One image that is now here.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image.
    pub image: Arc<Image>,
    /// What the archive calls it.
    pub names: Vec<Reference>,
}

impl Images {
    /// Stores all images of the archive at `path`, a tar or a directory. Those before one that
    /// fails stay.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(&self, path: &Path) -> Result<Vec<Loaded>, LoadError> {
        let path = path.to_owned();
        let (members, contents) =
            blocking(&self.inner, move |_| open(path)).await.ok_or(LoadError::ShuttingDown)??;
        let mut loaded = Vec::new();
        for content in contents {
            let names = content.names.clone();
            let image = Box::pin(load_one(&self.inner, &members, content)).await?;
            loaded.push(Loaded { image, names });
        }
        Ok(loaded)
    }
}

fn open(path: PathBuf) -> Result<(Members, Vec<Content>), LoadError> {
    let members = Members::open(&path)?;
    match list(&members)? {
        Some(contents) => Ok((members, contents)),
        None => Err(LoadError::NoImages { path }),
    }
}

async fn load_one(
    inner: &Arc<Inner>,
    members: &Members,
    content: Content,
) -> Result<Arc<Image>, LoadError> {
    let Content { names, config, layers, manifest } = content;
    let id = registry::digest_of(&config);
    let parsed = config::parse(&config)
        .and_then(|parsed| parsed.check(layers.len(), &Platform::host()).map(|()| parsed))
        .map_err(|source| LoadError::Config { id, source })?;
    let hold = Arc::new(inner.slots.hold(&parsed.diff_ids));
    let mut blobs = Vec::new();
    for ((member, told), diff_id) in layers.into_iter().zip(&parsed.diff_ids) {
        let guard = inner.slots.lock(diff_id).await;
        let _permit = inner.room.acquire().await.map_err(|_| LoadError::ShuttingDown)?;
        let (members, diff_id, hold) = (members.clone(), *diff_id, Arc::clone(&hold));
        let stored = blocking(inner, move |inner| {
            let stored = inner.store_member(&members, &member, told, diff_id);
            drop((hold, guard));
            stored
        });
        blobs.push(stored.await.ok_or(LoadError::ShuttingDown)??);
    }
    let manifest = match manifest {
        Some(bytes) => bytes,
        None => make_manifest(id, config.len(), &blobs)?,
    };
    let record = ImageRecord::new(id, registry::digest_of(&manifest), &blobs, config.len());
    let image = Image::new(record, parsed);
    let documents = Documents { manifest, index: None, config };
    publish(inner, image, documents, names, hold).await
}

async fn publish(
    inner: &Arc<Inner>,
    image: Image,
    documents: Documents,
    names: Vec<Reference>,
    hold: Arc<Hold>,
) -> Result<Arc<Image>, LoadError> {
    let id = image.id;
    let published = blocking(inner, move |inner| {
        inner
            .layers
            .complete(&image.diff_ids)
            .map_err(|source| LoadError::Fixup { id, source: Box::new(source) })?;
        let published = inner.publish_as(id, Some((image, documents)), |image| {
            add_given(image, &names);
        });
        drop(hold);
        published.map_err(|source| LoadError::Record { id, source })
    });
    published.await.ok_or(LoadError::ShuttingDown)??.ok_or(LoadError::ShuttingDown)
}

impl Inner {
    /// Makes sure that a layer is in the store; gives what its blob is. Blocks.
    fn store_member(
        &self,
        members: &Members,
        member: &str,
        told: Option<Descriptor>,
        diff_id: Digest,
    ) -> Result<Descriptor, LoadError> {
        let fault = |source| LoadError::Layer { member: member.to_owned(), source };
        let content = members.read(member)?;
        let content = content.ok_or_else(|| LoadError::Missing { member: member.to_owned() })?;
        if self.layers.contains(&diff_id) {
            return match told {
                Some(told) => Ok(told),
                None => measure(content, member),
            };
        }
        let unpack = || -> Result<Descriptor, LayerError> {
            let ingest = self.layers.begin()?;
            let mut inventory = ingest.inventory()?;
            let unpacked = layer::unpack(
                content,
                ingest.root(),
                Compression::Auto,
                &self.unpack,
                Some(&mut inventory),
            )?;
            if let Some(told) = &told
                && told.digest != unpacked.blob_digest
            {
                return Err(LayerError::BlobDigest { found: unpacked.blob_digest });
            }
            if unpacked.diff_id != diff_id {
                return Err(LayerError::DiffId { wanted: diff_id, found: unpacked.diff_id });
            }
            self.layers.commit(ingest, &unpacked)?;
            let (digest, size) = (unpacked.blob_digest, unpacked.blob_bytes);
            Ok(told.clone().unwrap_or_else(|| Descriptor {
                media_type: type_of(&digest, &diff_id),
                digest,
                size,
            }))
        };
        unpack().map_err(fault)
    }
}

/// Digest and length of a layer that is here already.
fn measure(mut content: Box<dyn Read + Send>, member: &str) -> Result<Descriptor, LoadError> {
    let mut hash = layer::Hasher::default();
    let mut buffer = vec![0; 128 * 1024];
    let mut size = 0;
    loop {
        let read = content
            .read(&mut buffer)
            .map_err(|source| LoadError::Read { path: member.into(), source })?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        size += u64::try_from(read).unwrap_or_default();
    }
    let digest = hash.finish();
    Ok(Descriptor { media_type: type_of(&digest, &digest), digest, size })
}

/// `docker save` writes plain tars; what has another digest than its tar is compressed.
fn type_of(blob: &Digest, diff_id: &Digest) -> String {
    let packed = if blob == diff_id { "" } else { "+gzip" };
    format!("application/vnd.oci.image.layer.v1.tar{packed}")
}

fn make_manifest(
    id: Digest,
    config_bytes: usize,
    layers: &[Descriptor],
) -> Result<bytes::Bytes, LoadError> {
    let layer = |layer: &Descriptor| {
        let (media_type, digest, size) = (&layer.media_type, layer.digest.to_string(), layer.size);
        serde_json::json!({ "mediaType": media_type, "digest": digest, "size": size })
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": id.to_string(),
            "size": config_bytes,
        },
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    });
    let bytes = serde_json::to_vec(&manifest)
        .map_err(|source| LoadError::Json { member: "manifest".to_owned(), source })?;
    Ok(bytes.into())
}
