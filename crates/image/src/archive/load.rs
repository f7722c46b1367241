//! From an archive into the store.

use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use layer::Compression;
use model::{Digest, Platform, Reference};
use registry::Descriptor;

use super::LoadError;
use super::contents::{Content, list};
use super::manifest::{self, PLAIN_LAYER};
use super::members::Members;
use crate::catalog::add_given;
use crate::collect::blocking;
use crate::config;
use crate::image::Image;
use crate::images::{Images, Inner};
use crate::record::{Documents, ImageRecord};
use crate::slots::Hold;
use crate::unpack::{READ_BYTES, Wanted, unpack};

/// One image that is now here.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image.
    pub image: Arc<Image>,
    /// What the archive calls it.
    pub names: Vec<Reference>,
}

impl Images {
    /// Stores all images of the archive at `path`: a tar, compressed or not, or a directory. Those
    /// before one that fails stay.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(&self, path: &Path) -> Result<Vec<Loaded>, LoadError> {
        let path = path.to_owned();
        let (members, contents) = blocking(&self.inner, move |inner| open(inner, path))
            .await
            .ok_or(LoadError::ShuttingDown)??;
        let mut loaded = Vec::new();
        for content in contents {
            let names = content.names.clone();
            let image = Box::pin(load_one(&self.inner, &members, content)).await?;
            loaded.push(Loaded { image, names });
        }
        Ok(loaded)
    }
}

fn open(inner: &Inner, path: PathBuf) -> Result<(Members, Vec<Content>), LoadError> {
    let members = Members::open(&path, &inner.root, &inner.unpack)?;
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
    let Content { names, tag: _, config, layers, manifest } = content;
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
        None => manifest::make(id, config.len(), &blobs),
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
        let content = BufReader::with_capacity(READ_BYTES, content);
        let wanted = Wanted { blob: told.as_ref().map(|told| told.digest), diff_id };
        let (ingest, unpacked) =
            unpack(&self.layers, content, Compression::Auto, &self.unpack, wanted)
                .map_err(fault)?;
        self.layers.commit(ingest, &unpacked).map_err(|error| fault(error.into()))?;
        Ok(told.unwrap_or_else(|| Descriptor {
            media_type: type_of(unpacked.compression).to_owned(),
            digest: unpacked.blob_digest,
            size: unpacked.blob_bytes,
        }))
    }
}

/// What the blob of a layer is that is here already.
fn measure(mut content: Box<dyn Read + Send>, member: &str) -> Result<Descriptor, LoadError> {
    let mut hash = layer::Hasher::default();
    let mut buffer = vec![0; READ_BYTES];
    let (mut size, mut compression) = (0, None);
    loop {
        let read = content
            .read(&mut buffer)
            .map_err(|source| LoadError::Read { path: member.into(), source })?;
        if read == 0 {
            break;
        }
        compression.get_or_insert_with(|| Compression::of(&buffer[..read]));
        hash.update(&buffer[..read]);
        size += u64::try_from(read).unwrap_or_default();
    }
    let media_type = type_of(compression.unwrap_or_default()).to_owned();
    Ok(Descriptor { media_type, digest: hash.finish(), size })
}

fn type_of(compression: Compression) -> &'static str {
    match compression {
        Compression::Auto | Compression::None => PLAIN_LAYER,
        Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
        Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
    }
}
