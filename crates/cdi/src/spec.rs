//! One spec file.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};

/// How a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `*.json`
    Json,
    /// `*.yaml`
    Yaml,
}

/// Why a file is no spec.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// Not JSON, or not in the form of a spec.
    #[error("it is not a CDI spec")]
    Json(#[from] serde_json::Error),
    /// Not YAML, or not in the form of a spec. The parser's own words.
    #[error("it is not a CDI spec: {0}")]
    Yaml(String),
    /// A version that does not exist.
    #[error("cdiVersion `{version}` is unknown: want 0.3.0 to 1.1.0")]
    UnknownVersion {
        /// As written.
        version: String,
    },
    /// A version before something the spec uses.
    #[error("cdiVersion {version} is too low: {uses} needs {needed}")]
    VersionTooLow {
        /// As written.
        version: String,
        /// What is used.
        uses: &'static str,
        /// The version that has it.
        needed: &'static str,
    },
    /// A value nothing can be made of.
    #[error("{field} is `{value}`: want {want}")]
    Invalid {
        /// Which.
        field: String,
        /// As written.
        value: String,
        /// What would be right.
        want: &'static str,
    },
}

/// Generators write `null` for what is empty.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    input: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(input)?.unwrap_or_default())
}

/// One file: devices of one kind.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Spec {
    pub(crate) cdi_version: String,
    pub(crate) kind: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) devices: Vec<Device>,
    /// For whoever uses any of the devices.
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) container_edits: Edits,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Device {
    pub(crate) name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) container_edits: Edits,
}

/// Changes of an OCI spec.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Edits {
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) env: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) device_nodes: Vec<DeviceNode>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) net_devices: Vec<NetDevice>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) hooks: Vec<Hook>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) mounts: Vec<Mount>,
    pub(crate) intel_rdt: Option<IntelRdt>,
    /// The specification's prose says `additionalGids`, its schema `additionalGIDs`.
    #[serde(
        default,
        deserialize_with = "or_default",
        rename = "additionalGids",
        alias = "additionalGIDs"
    )]
    pub(crate) additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct DeviceNode {
    pub(crate) path: String,
    pub(crate) host_path: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    pub(crate) major: Option<i64>,
    pub(crate) minor: Option<i64>,
    pub(crate) file_mode: Option<u32>,
    pub(crate) permissions: Option<String>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct NetDevice {
    pub(crate) host_interface_name: String,
    pub(crate) name: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Hook {
    pub(crate) hook_name: String,
    pub(crate) path: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) args: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) env: Vec<String>,
    /// Seconds.
    pub(crate) timeout: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Mount {
    pub(crate) host_path: String,
    pub(crate) container_path: String,
    #[serde(rename = "type")]
    pub(crate) kind: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) options: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct IntelRdt {
    #[serde(rename = "closID")]
    pub(crate) clos_id: Option<String>,
    pub(crate) l3_cache_schema: Option<String>,
    pub(crate) mem_bw_schema: Option<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) schemata: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(crate) enable_monitoring: bool,
    /// Of versions 0.7 to 1.0.
    #[serde(default, deserialize_with = "or_default", rename = "enableCMT")]
    pub(crate) enable_cmt: bool,
    #[serde(default, deserialize_with = "or_default", rename = "enableMBM")]
    pub(crate) enable_mbm: bool,
}

impl Spec {
    /// Reads and checks a spec. Fields that do not exist are refused: they may be edits a newer
    /// version knows.
    ///
    /// # Errors
    /// [`SpecError`] names the field.
    pub fn parse(text: &str, format: Format) -> Result<Self, SpecError> {
        let spec: Self = match format {
            Format::Json => serde_json::from_str(text)?,
            Format::Yaml => serde_saphyr::from_str(text)
                .map_err(|error| SpecError::Yaml(error.without_snippet().to_string()))?,
        };
        crate::version::check(&spec)?;
        crate::validate::check(&spec)?;
        Ok(spec)
    }

    /// `vendor.com/class`
    pub fn kind(&self) -> &str {
        &self.kind
    }

    /// Every edit, the common ones first.
    pub(crate) fn all_edits(&self) -> impl Iterator<Item = &Edits> {
        let own = self.devices.iter().map(|device| &device.container_edits);
        std::iter::once(&self.container_edits).chain(own)
    }
}
