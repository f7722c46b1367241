//! What an image says of itself besides what a node needs to run it.

use std::collections::BTreeMap;

use model::{ImageConfig, ImageDescription};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::config::ConfigError;

#[derive(Deserialize)]
struct Raw {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
    #[serde(rename = "os.features")]
    os_features: Option<Vec<String>>,
    author: Option<String>,
    created: Option<String>,
    config: Option<RawConfig>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawConfig {
    exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
    stop_signal: Option<String>,
}

pub(super) fn describe(bytes: &[u8], config: ImageConfig) -> Result<ImageDescription, ConfigError> {
    let raw: Raw = serde_json::from_slice(bytes)?;
    let more = raw.config.unwrap_or_default();
    Ok(ImageDescription {
        config,
        os: raw.os.unwrap_or_default(),
        architecture: raw.architecture.unwrap_or_default(),
        variant: raw.variant.unwrap_or_default(),
        os_version: raw.os_version.unwrap_or_default(),
        os_features: raw.os_features.unwrap_or_default(),
        author: raw.author.unwrap_or_default(),
        created: raw.created.unwrap_or_default(),
        exposed_ports: more.exposed_ports.unwrap_or_default().into_keys().collect(),
        stop_signal: more.stop_signal.unwrap_or_default(),
    })
}
