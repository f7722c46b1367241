//! Which images an archive says it holds.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::{Digest, Platform, Reference};
use registry::{Descriptor, Manifest, Picked};
use serde::Deserialize;

use super::LoadError;
use super::members::Members;

/// Descriptions are small.
const DOCUMENT_MAX: u64 = 8 << 20;
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// An index of indexes is the most anybody writes.
const DEPTH_MAX: usize = 4;

/// One image of an archive, its layers not yet looked at.
#[derive(Debug)]
pub(super) struct Content {
    pub(super) names: Vec<Reference>,
    /// The word by which an OCI layout knows it.
    pub(super) tag: Option<String>,
    pub(super) config: Bytes,
    /// Members, lowest first, with what the manifest says of them.
    pub(super) layers: Vec<(String, Option<Descriptor>)>,
    /// Byte for byte, if the archive has one.
    pub(super) manifest: Option<Bytes>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<IndexEntry>,
}

#[derive(Deserialize)]
struct IndexEntry {
    #[serde(flatten)]
    descriptor: Descriptor,
    annotations: Option<BTreeMap<String, String>>,
}

/// Docker's own list comes first: it has the names in full. `None`: there is no list at all.
pub(super) fn list(members: &Members) -> Result<Option<Vec<Content>>, LoadError> {
    if let Some(bytes) = members.read_all("manifest.json", DOCUMENT_MAX)? {
        let images: Vec<DockerImage> = parse("manifest.json", &bytes)?;
        let images = images.into_iter().map(|image| of_docker(members, image));
        return images.collect::<Result<_, _>>().map(Some);
    }
    let Some(bytes) = members.read_all("index.json", DOCUMENT_MAX)? else { return Ok(None) };
    let index: Index = parse("index.json", &bytes)?;
    let images = index.manifests.into_iter().map(|entry| of_layout(members, &entry));
    images.collect::<Result<_, _>>().map(Some)
}

fn of_docker(members: &Members, image: DockerImage) -> Result<Content, LoadError> {
    let names = image.repo_tags.unwrap_or_default();
    let names: Vec<_> = names.iter().map(|name| reference(name)).collect::<Result<_, _>>()?;
    if let Some(name) = names.iter().find(|name| name.digest().is_some()) {
        // Its manifest is not in the archive: nothing bears the digest out.
        return Err(LoadError::ForeignName { name: name.to_string() });
    }
    let config = required(members, &image.config)?;
    let layers = image.layers.into_iter().map(|member| (member, None)).collect();
    Ok(Content { names, tag: None, config, layers, manifest: None })
}

fn of_layout(members: &Members, entry: &IndexEntry) -> Result<Content, LoadError> {
    let (bytes, manifest) = follow(members, entry.descriptor.clone())?;
    let names = names(entry)?;
    // A name with a digest is not anybody's to give: a later pull would take this image for that.
    let own = [entry.descriptor.digest, registry::digest_of(&bytes)];
    if let Some(name) = names.iter().find(|it| it.digest().is_some_and(|it| !own.contains(it))) {
        return Err(LoadError::ForeignName { name: name.to_string() });
    }
    let config = blob(members, &manifest.config.digest)?;
    let layers = manifest.layers.into_iter();
    Ok(Content {
        names,
        tag: entry.annotations.as_ref().and_then(|all| all.get(REF_NAME)).cloned(),
        config,
        layers: layers.map(|layer| (blob_name(&layer.digest), Some(layer))).collect(),
        manifest: Some(bytes),
    })
}

/// The manifest for this machine that a descriptor leads to.
fn follow(members: &Members, mut to: Descriptor) -> Result<(Bytes, Manifest), LoadError> {
    for _ in 0..DEPTH_MAX {
        let bytes = blob(members, &to.digest)?;
        let member = blob_name(&to.digest);
        let picked = registry::pick(&bytes, &to.media_type, &Platform::host(), &member);
        match picked.map_err(LoadError::Manifest)? {
            Picked::Image(manifest) => return Ok((bytes, manifest)),
            Picked::Follow(descriptor) => to = descriptor,
        }
    }
    Err(LoadError::Missing { member: "manifest behind so many indexes".to_owned() })
}

/// containerd's annotation has the whole name; the OCI one is often a tag alone.
fn names(entry: &IndexEntry) -> Result<Vec<Reference>, LoadError> {
    let annotation = |key: &str| entry.annotations.as_ref().and_then(|all| all.get(key));
    let whole = annotation("io.containerd.image.name");
    let short = annotation(REF_NAME);
    let name = whole.or_else(|| short.filter(|name| name.contains(['/', ':'])));
    name.map(|name| reference(name)).into_iter().collect()
}

fn reference(name: &str) -> Result<Reference, LoadError> {
    Reference::parse(name).map_err(|source| LoadError::Name { name: name.to_owned(), source })
}

fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn blob(members: &Members, digest: &Digest) -> Result<Bytes, LoadError> {
    let member = blob_name(digest);
    let bytes = required(members, &member)?;
    let found = registry::digest_of(&bytes);
    if found == *digest { Ok(bytes) } else { Err(LoadError::Digest { member, found }) }
}

fn required(members: &Members, member: &str) -> Result<Bytes, LoadError> {
    let bytes = members.read_all(member, DOCUMENT_MAX)?;
    bytes.map(Bytes::from).ok_or_else(|| LoadError::Missing { member: member.to_owned() })
}

fn parse<'a, T: Deserialize<'a>>(member: &str, bytes: &'a [u8]) -> Result<T, LoadError> {
    serde_json::from_slice(bytes)
        .map_err(|source| LoadError::Json { member: member.to_owned(), source })
}
