//! Manifests and indexes: tolerant reading of what matters for a pull.

use bytes::Bytes;
use model::{Digest, Platform};
use serde::Deserialize;

use crate::error::{Malformed, RegistryError, Subject};
use crate::platform;

/// `Accept` of manifest requests. `*/*` makes old registries answer with what they have, so that
/// the refusal can say what it is.
pub(crate) const ACCEPT_MANIFEST: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json, */*";

/// Kinds of manifest documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    /// One manifest per platform.
    Index,
    /// One image.
    Manifest,
}

impl MediaType {
    /// `None` for anything that is not an image knarr can run.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => Some(Self::Index),
            "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json" => Some(Self::Manifest),
            _ => None,
        }
    }
}

/// How a layer's bytes are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerFormat {
    /// A plain tar stream.
    Tar,
    /// gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// Names content: OCI image-spec `descriptor`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type as written; may be empty in answers to `HEAD`.
    #[serde(default)]
    pub media_type: String,
    /// Digest of the content.
    pub digest: Digest,
    /// Length of the content, bytes.
    pub size: u64,
}

impl Descriptor {
    /// The packing of a layer of this type; `None` if it is no file system layer.
    pub fn layer_format(&self) -> Option<LayerFormat> {
        match self.media_type.as_str() {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Some(LayerFormat::Tar),
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip" => Some(LayerFormat::Gzip),
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Some(LayerFormat::Zstd),
            _ => None,
        }
    }

    fn is_image_config(&self) -> bool {
        matches!(
            self.media_type.as_str(),
            "application/vnd.oci.image.config.v1+json"
                | "application/vnd.docker.container.image.v1+json"
        )
    }
}

/// The manifest of one image.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Manifest {
    /// The image configuration.
    pub config: Descriptor,
    /// File system layers, lowest first.
    pub layers: Vec<Descriptor>,
}

/// Why stored bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// They cannot be read.
    #[error("it cannot be read")]
    Read(#[from] std::io::Error),
    /// They are not what is expected.
    #[error("it is not an image's manifest")]
    Json(#[from] serde_json::Error),
}

/// What a document of an archive is.
#[derive(Debug)]
pub enum Picked {
    /// The manifest of one image.
    Image(Manifest),
    /// An index, and its entry for the platform.
    Follow(Descriptor),
}

/// Reads a manifest or index that lies in an archive; `what` names it in errors, `media_type`
/// counts where it does not name its own.
///
/// # Errors
/// Those that the same document would make in a registry.
pub fn pick(
    bytes: &[u8],
    media_type: &str,
    platform: &Platform,
    what: &str,
) -> Result<Picked, RegistryError> {
    let subject = Subject::Manifest(what.to_owned());
    match read(bytes, media_type, &subject, "the archive")? {
        Document::Image(manifest) => Ok(Picked::Image(manifest)),
        Document::Index(entries) => Ok(Picked::Follow(choose(entries, platform, &subject)?)),
    }
}

impl Manifest {
    /// Reads a manifest that was accepted before and stored since.
    ///
    /// # Errors
    /// [`ManifestError::Json`].
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        Ok(serde_json::from_slice(bytes)?)
    }
}

/// A fetched and verified manifest with the bytes it was read from.
#[derive(Debug, Clone)]
pub struct ImageManifest {
    /// Digest of the manifest of the chosen platform.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: Bytes,
    /// What they say.
    pub manifest: Manifest,
    /// The index it was chosen from: its bytes.
    pub index: Option<Bytes>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: String,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<RawEntry>>,
    // Schema 1.
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct RawEntry {
    #[serde(flatten)]
    descriptor: Descriptor,
    platform: Option<RawPlatform>,
}

#[derive(Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// What a verified document is.
#[derive(Debug)]
pub(crate) enum Document {
    Image(Manifest),
    Index(Vec<(Platform, Descriptor)>),
}

/// Reads a document; `content_type` counts only where it does not name its own type.
pub(crate) fn read(
    bytes: &[u8],
    content_type: &str,
    what: &Subject,
    host: &str,
) -> Result<Document, RegistryError> {
    let malformed =
        |source| RegistryError::Malformed { what: what.clone(), host: host.to_owned(), source };
    let unsupported = |media_type: &str| RegistryError::UnsupportedMediaType {
        what: what.clone(),
        media_type: media_type.to_owned(),
    };
    let raw: RawDocument =
        serde_json::from_slice(bytes).map_err(|source| malformed(source.into()))?;
    if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
        return Err(unsupported("application/vnd.docker.distribution.manifest.v1+json"));
    }
    if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
        return Err(malformed(Malformed::Ambiguous));
    }
    let named = if raw.media_type.is_empty() { content_type } else { &raw.media_type };
    let kind = MediaType::parse(named);
    match (kind, raw.manifests, raw.config, raw.layers) {
        (Some(MediaType::Index), Some(entries), None, None) => Ok(Document::Index(index(entries))),
        (Some(MediaType::Manifest), None, Some(config), Some(layers)) => {
            if !config.is_image_config() {
                return Err(unsupported(&config.media_type));
            }
            if let Some(odd) = layers.iter().find(|layer| layer.layer_format().is_none()) {
                return Err(unsupported(&odd.media_type));
            }
            Ok(Document::Image(Manifest { config, layers }))
        }
        (Some(_) | None, ..) => Err(unsupported(named)),
    }
}

fn index(entries: Vec<RawEntry>) -> Vec<(Platform, Descriptor)> {
    let of = |entry: RawEntry| {
        let platform = entry.platform?;
        let RawPlatform { os, architecture, variant } = platform;
        Some((Platform { os, architecture, variant }, entry.descriptor))
    };
    entries.into_iter().filter_map(of).collect()
}

/// The first entry for exactly `wanted`.
pub(crate) fn choose(
    entries: Vec<(Platform, Descriptor)>,
    wanted: &Platform,
    what: &Subject,
) -> Result<Descriptor, RegistryError> {
    match entries.iter().find(|(offered, _)| platform::fits(wanted, offered)) {
        Some((_, descriptor)) => Ok(descriptor.clone()),
        None => Err(RegistryError::UnsupportedPlatform {
            what: what.clone(),
            wanted: Box::new(wanted.clone()),
            // Attestations hide behind a platform that is none.
            offered: entries
                .into_iter()
                .map(|(offered, _)| offered)
                .filter(|offered| offered.os != "unknown")
                .collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"mediaType":"application/vnd.oci.image.config.v1+json","size":2,
        "digest":"sha256:0000000000000000000000000000000000000000000000000000000000000000"}"#;
    const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

    fn check(json: &str, content_type: &str) -> Result<Document, RegistryError> {
        read(json.as_bytes(), content_type, &Subject::Manifest("m".into()), "h")
    }

    fn entry(platform: &str, digit: char) -> String {
        let digits = digit.to_string().repeat(64);
        format!(r#"{{"mediaType":"{OCI_MANIFEST}","digest":"sha256:{digits}","size":7{platform}}}"#)
    }

    #[test]
    fn a_manifest_without_its_own_type_is_known_by_the_header() {
        let json = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[]}}"#);
        assert!(matches!(check(&json, OCI_MANIFEST), Ok(Document::Image(_))));
        assert!(matches!(
            check(&json, "text/plain"),
            Err(RegistryError::UnsupportedMediaType { .. })
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_document_makes_the_reader_panic(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            json in "\\{(\"(schemaVersion|config|layers|manifests|mediaType)\":[ -~]{0,20},?){0,4}\\}",
        ) {
            let refused = |bytes: &[u8]| pick(bytes, OCI_INDEX, &Platform::host(), "m").is_err();
            proptest::prop_assert!(refused(&bytes));
            refused(json.as_bytes());
        }
    }

    #[test]
    fn a_layer_that_the_registry_does_not_hold_is_refused_by_what_it_is() {
        for kind in [
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        ] {
            let layer = entry("", '1').replace(OCI_MANIFEST, kind);
            let json = format!(r#"{{"schemaVersion":2,"config":{CONFIG},"layers":[{layer}]}}"#);
            let refused = check(&json, OCI_MANIFEST).unwrap_err().to_string();
            assert!(refused.contains(kind) && refused.contains("foreign layer"), "{refused}");
        }
    }

    #[test]
    fn schema_1_and_artifacts_are_refused_by_name() {
        let old = check(r#"{"schemaVersion":1,"fsLayers":[]}"#, "application/json").unwrap_err();
        assert!(old.to_string().contains("schema 1"), "{old}");
        let helm = CONFIG.replace("oci.image.config", "cncf.helm.config");
        let json = format!(r#"{{"schemaVersion":2,"config":{helm},"layers":[]}}"#);
        let refused = check(&json, OCI_MANIFEST).unwrap_err();
        assert!(refused.to_string().contains("helm"), "{refused}");
    }

    #[test]
    fn a_document_of_two_meanings_is_refused() {
        let json = format!(r#"{{"config":{CONFIG},"layers":[],"manifests":[]}}"#);
        for content_type in [OCI_MANIFEST, OCI_INDEX] {
            assert!(matches!(
                check(&json, content_type),
                Err(RegistryError::Malformed { source: Malformed::Ambiguous, .. })
            ));
        }
    }

    #[test]
    fn the_entry_of_the_platform_is_chosen_and_a_miss_lists_the_others() {
        let json = format!(
            r#"{{"mediaType":"{OCI_INDEX}","manifests":[{},{},{},{}]}}"#,
            entry("", '0'),
            entry(r#","platform":{"os":"linux","architecture":"arm64"}"#, '1'),
            entry(r#","platform":{"os":"unknown","architecture":"unknown"}"#, '2'),
            entry(r#","platform":{"os":"linux","architecture":"amd64"}"#, '3'),
        );
        let Ok(Document::Index(entries)) = check(&json, "") else { panic!("no index") };
        let wanted = |architecture: &str| Platform {
            os: "linux".into(),
            architecture: architecture.into(),
            variant: String::new(),
        };
        let what = Subject::Manifest("m".into());
        let chosen = choose(entries.clone(), &wanted("amd64"), &what).unwrap();
        assert_eq!(chosen.digest.hex(), "3".repeat(64));
        let missed = choose(entries, &wanted("s390x"), &what).unwrap_err().to_string();
        assert!(missed.ends_with("only for: linux/arm64, linux/amd64"), "{missed}");
    }
}
