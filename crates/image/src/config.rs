//! Reading image configurations: tolerant of what builders leave out, strict about layers.

use model::{Digest, ImageConfig, Platform, Signal, StringMap};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;

/// Why an image configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not the expected JSON.
    #[error("the image configuration cannot be understood")]
    Json(#[from] serde_json::Error),
    /// Manifest and configuration contradict each other.
    #[error("the manifest has {layers} layers, the configuration {diff_ids}")]
    LayerCount {
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// The image is built for other machines.
    #[error("the image is built for {offered}, this node is {wanted}")]
    Platform {
        /// What the image says.
        offered: Box<Platform>,
        /// This machine.
        wanted: Box<Platform>,
    },
}

/// The parts of an image configuration that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) config: ImageConfig,
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) platform: Platform,
    pub(crate) created: Option<String>,
}

#[derive(Deserialize)]
struct Raw {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    created: Option<String>,
    config: Option<RawConfig>,
    rootfs: RawRootfs,
}

#[derive(Deserialize)]
struct RawRootfs {
    diff_ids: Option<Vec<Digest>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawConfig {
    user: Option<String>,
    env: Option<Vec<String>>,
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    working_dir: Option<String>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    stop_signal: Option<String>,
    labels: Option<BTreeMap<String, Option<String>>>,
}

pub(crate) fn parse(bytes: &[u8]) -> Result<Parsed, ConfigError> {
    let raw: Raw = serde_json::from_slice(bytes)?;
    let config = raw.config.unwrap_or_default();
    let labels: StringMap = config
        .labels
        .unwrap_or_default()
        .into_iter()
        .map(|(key, value)| (key, value.unwrap_or_default()))
        .collect();
    Ok(Parsed {
        config: ImageConfig {
            user: config.user.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            volumes: config.volumes.unwrap_or_default().into_keys().collect(),
            // A signal nobody knows cannot be sent; the default ends the process as well.
            stop_signal: config.stop_signal.and_then(|text| Signal::parse(&text).ok()),
            labels,
        },
        diff_ids: raw.rootfs.diff_ids.unwrap_or_default(),
        platform: Platform {
            os: raw.os.unwrap_or_default(),
            architecture: raw.architecture.unwrap_or_default(),
            variant: raw.variant.unwrap_or_default(),
        },
        created: raw.created,
    })
}

impl Parsed {
    /// Refuses what a manifest without an index lets through: an image for other machines. A
    /// configuration that does not say is taken at its word.
    pub(crate) fn check(&self, layers: usize, wanted: &Platform) -> Result<(), ConfigError> {
        if layers != self.diff_ids.len() {
            return Err(ConfigError::LayerCount { layers, diff_ids: self.diff_ids.len() });
        }
        let differs = |offered: &str, wanted: &str| !offered.is_empty() && offered != wanted;
        if differs(&self.platform.os, &wanted.os)
            || differs(&self.platform.architecture, &wanted.architecture)
        {
            return Err(ConfigError::Platform {
                offered: Box::new(self.platform.clone()),
                wanted: Box::new(wanted.clone()),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_configuration_is_read() {
        let diff_id = Digest::from_sha256([1; 32]);
        let json = format!(
            r#"{{"os":"linux","architecture":"amd64","created":"2024-01-01T00:00:00Z","x":1,
            "config":{{"User":"1000:50","Env":["A=b"],"Entrypoint":["/e"],"Cmd":["c"],
            "WorkingDir":"/w","Volumes":{{"/v":{{}}}},"StopSignal":"SIGQUIT",
            "Labels":{{"k":"v","n":null}},"Healthcheck":{{}}}},
            "rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}},"history":[]}}"#
        );
        let parsed = parse(json.as_bytes()).unwrap();
        assert_eq!(parsed.config.user, "1000:50");
        assert_eq!(parsed.config.volumes, ["/v"]);
        assert_eq!(parsed.config.stop_signal.unwrap().number(), 3);
        assert_eq!(parsed.config.labels.len(), 2);
        assert_eq!(parsed.diff_ids, [diff_id]);
        assert_eq!(parsed.platform.to_string(), "linux/amd64");
    }

    #[test]
    fn null_and_absent_are_the_same() {
        for json in [
            r#"{"rootfs":{}}"#,
            r#"{"config":null,"rootfs":{"diff_ids":null}}"#,
            r#"{"config":{"Entrypoint":null,"Cmd":null,"Env":null,"Volumes":null,"Labels":null,
                "StopSignal":"SIGNONSENSE"},"rootfs":{"diff_ids":[]}}"#,
        ] {
            let parsed = parse(json.as_bytes()).unwrap();
            assert_eq!(parsed.config, ImageConfig::default(), "{json}");
            assert!(parsed.diff_ids.is_empty());
        }
    }

    #[test]
    fn other_machines_and_missing_layers_are_refused() {
        let platform = |os: &str, architecture: &str| Platform {
            os: os.into(),
            architecture: architecture.into(),
            variant: String::new(),
        };
        let mut parsed = parse(br#"{"rootfs":{}}"#).unwrap();
        let wanted = platform("linux", "amd64");
        assert!(parsed.check(0, &wanted).is_ok());
        assert!(matches!(parsed.check(1, &wanted), Err(ConfigError::LayerCount { .. })));
        for other in [platform("linux", "arm64"), platform("windows", "amd64")] {
            parsed.platform = other;
            assert!(matches!(parsed.check(0, &wanted), Err(ConfigError::Platform { .. })));
        }
    }
}
