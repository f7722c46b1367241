//! The file of block IO classes:
//!
//! ```yaml
//! Classes:
//!   Throttled:
//!   - Weight: 80                       # of devices not named below
//!   - Devices: ["/dev/sd[a-z]"]
//!     ThrottleReadBps: 50M
//!     ThrottleWriteIOPS: 5k
//! ```
//!
//! Keys in any case, as the peers' parser takes them. Later rules win device by device.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{LinuxBlockIo, LinuxThrottleDeviceBuilder, LinuxWeightDeviceBuilder};
use serde_json::Value;

use super::glob;

/// Why a class cannot be had from its file.
#[derive(Debug, thiserror::Error)]
pub enum ClassFileError {
    /// The file.
    #[error("the file cannot be read")]
    Read(#[from] io::Error),
    /// Not YAML. The parser's own words.
    #[error("it is not YAML: {0}")]
    Yaml(String),
    /// The OCI type refused its own parts.
    #[error("an OCI type could not be built")]
    Build(#[from] OciSpecError),
    /// Something that has no place there.
    #[error("{place} is `{value}`: want {want}")]
    Invalid {
        /// Where.
        place: String,
        /// As written.
        value: String,
        /// What would be right.
        want: &'static str,
    },
}

/// One rule of a class. Rates are per second.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Rule {
    /// Patterns; none: all devices without a rule of their own.
    devices: Vec<String>,
    weight: Option<u16>,
    read_bps: Option<u64>,
    write_bps: Option<u64>,
    read_iops: Option<u64>,
    write_iops: Option<u64>,
}

pub(super) fn read(file: &Path) -> Result<BTreeMap<String, Vec<Rule>>, ClassFileError> {
    parse(&std::fs::read_to_string(file)?)
}

fn parse(text: &str) -> Result<BTreeMap<String, Vec<Rule>>, ClassFileError> {
    let tree: Value = serde_saphyr::from_str(text)
        .map_err(|error| ClassFileError::Yaml(error.without_snippet().to_string()))?;
    let mut classes = BTreeMap::new();
    for (key, value) in map(&tree, "the file")? {
        if !key.eq_ignore_ascii_case("classes") {
            return refuse("a key of the file", key, "Classes");
        }
        for (name, rules) in map(value, "Classes")? {
            let place = format!("class {name}");
            let rules = list(rules, &place)?;
            let rules = rules.iter().map(|it| rule(it, &place)).collect::<Result<_, _>>()?;
            classes.insert(name.clone(), rules);
        }
    }
    Ok(classes)
}

#[allow(clippy::needless_pass_by_value, reason = "numbers and texts read better at the callers")]
fn refuse<T>(place: &str, value: impl ToString, want: &'static str) -> Result<T, ClassFileError> {
    let value = value.to_string();
    Err(ClassFileError::Invalid { place: place.to_owned(), value, want })
}

fn map<'v>(value: &'v Value, place: &str) -> Result<Vec<(&'v String, &'v Value)>, ClassFileError> {
    match value {
        Value::Object(map) => Ok(map.iter().collect()),
        Value::Null => Ok(Vec::new()),
        other => refuse(place, other, "a map"),
    }
}

fn list<'v>(value: &'v Value, place: &str) -> Result<&'v [Value], ClassFileError> {
    match value {
        Value::Array(items) => Ok(items),
        Value::Null => Ok(&[]),
        other => refuse(place, other, "a list"),
    }
}

fn rule(value: &Value, class: &str) -> Result<Rule, ClassFileError> {
    let mut rule = Rule::default();
    for (key, value) in map(value, class)? {
        let place = format!("{key} of {class}");
        match key.to_ascii_lowercase().as_str() {
            "devices" => {
                for item in list(value, &place)? {
                    match item.as_str().filter(|text| text.starts_with('/')) {
                        Some(pattern) => rule.devices.push(pattern.to_owned()),
                        None => return refuse(&place, item, "absolute paths"),
                    }
                }
            }
            "weight" => {
                let weight = quantity(value, &place)?.map(u16::try_from);
                rule.weight = match weight {
                    None => None,
                    Some(Ok(weight @ 10..=1000)) => Some(weight),
                    Some(_) => return refuse(&place, value, "10 to 1000"),
                };
            }
            "throttlereadbps" => rule.read_bps = quantity(value, &place)?,
            "throttlewritebps" => rule.write_bps = quantity(value, &place)?,
            "throttlereadiops" => rule.read_iops = quantity(value, &place)?,
            "throttlewriteiops" => rule.write_iops = quantity(value, &place)?,
            _ => return refuse(&format!("a key of {class}"), key, "a weight, throttle or Devices"),
        }
    }
    let throttles = [rule.read_bps, rule.write_bps, rule.read_iops, rule.write_iops];
    if rule.devices.is_empty() && throttles.iter().any(Option::is_some) {
        return refuse(&format!("Devices of {class}"), "", "the devices to throttle");
    }
    Ok(rule)
}

/// A Kubernetes quantity: `5000`, `5k`, `64Mi`, `1.5G`. Empty is not set.
fn quantity(value: &Value, place: &str) -> Result<Option<u64>, ClassFileError> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        Value::Null => String::new(),
        other => return refuse(place, other, "a quantity such as 50M"),
    };
    if text.is_empty() {
        return Ok(None);
    }
    match parse_quantity(&text) {
        Some(number) => Ok(Some(number)),
        None => refuse(place, text, "a quantity such as 50M"),
    }
}

fn parse_quantity(text: &str) -> Option<u64> {
    const UNITS: [(&str, u128); 13] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("Pi", 1 << 50),
        ("Ei", 1 << 60),
        ("k", 1000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("P", 1_000_000_000_000_000),
        ("E", 1_000_000_000_000_000_000),
        ("", 1),
    ];
    let (digits, unit) = UNITS.iter().find_map(|(suffix, unit)| {
        let digits = text.strip_suffix(suffix)?;
        digits.ends_with(|c: char| c.is_ascii_digit()).then_some((digits, *unit))
    })?;
    let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
    let only_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if !only_digits(whole) || !only_digits(part) || part.len() > 18 {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let scale = 10u128.checked_pow(u32::try_from(part.len()).ok()?)?;
    let part: u128 = if part.is_empty() { 0 } else { part.parse().ok()? };
    let scaled = whole.checked_mul(scale)?.checked_add(part)?.checked_mul(unit)?;
    u64::try_from(scaled.div_ceil(scale)).ok()
}

/// What a class means for the block devices there are now.
pub(super) fn limits(rules: &[Rule]) -> Result<LinuxBlockIo, ClassFileError> {
    let mut limits = Limits::default();
    for rule in rules {
        if rule.devices.is_empty() {
            limits.weight = rule.weight.or(limits.weight);
            continue;
        }
        for device in devices(&rule.devices)? {
            let values = [rule.read_bps, rule.write_bps, rule.read_iops, rule.write_iops];
            limits.add(device, rule.weight, values);
        }
    }
    Ok(limits.to_oci()?)
}

#[derive(Debug, Default)]
struct Limits {
    weight: Option<u16>,
    weights: BTreeMap<(u32, u32), u16>,
    /// Bytes read and written, operations read and written.
    rates: [BTreeMap<(u32, u32), u64>; 4],
}

impl Limits {
    fn add(&mut self, device: (u32, u32), weight: Option<u16>, values: [Option<u64>; 4]) {
        if let Some(weight) = weight {
            self.weights.insert(device, weight);
        }
        for (rates, value) in self.rates.iter_mut().zip(values) {
            if let Some(value) = value {
                rates.insert(device, value);
            }
        }
    }

    fn to_oci(&self) -> Result<LinuxBlockIo, OciSpecError> {
        let weigh = |(&(major, minor), &weight): (&(u32, u32), &u16)| {
            LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(weight).build()
        };
        let throttle = |(&(major, minor), &rate): (&(u32, u32), &u64)| {
            LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(rate).build()
        };
        let list = |rates: &BTreeMap<(u32, u32), u64>| -> Result<Option<Vec<_>>, OciSpecError> {
            if rates.is_empty() {
                Ok(None)
            } else {
                rates.iter().map(throttle).collect::<Result<_, _>>().map(Some)
            }
        };
        let [read_bps, write_bps, read_iops, write_iops] = &self.rates;
        let weights = self.weights.iter().map(weigh).collect::<Result<Vec<_>, _>>()?;
        let mut block_io = LinuxBlockIo::default();
        block_io
            .set_weight(self.weight)
            .set_weight_device(Some(weights).filter(|list| !list.is_empty()))
            .set_throttle_read_bps_device(list(read_bps)?)
            .set_throttle_write_bps_device(list(write_bps)?)
            .set_throttle_read_iops_device(list(read_iops)?)
            .set_throttle_write_iops_device(list(write_iops)?);
        Ok(block_io)
    }
}

/// Numbers of the block devices that patterns name, by way of links too. The kernel limits whole
/// devices, so partitions are passed over like everything else that is none.
fn devices(patterns: &[String]) -> io::Result<Vec<(u32, u32)>> {
    let mut found = Vec::new();
    for pattern in patterns {
        let before = found.len();
        for path in glob::expand(pattern) {
            let meta = match std::fs::metadata(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                result => result?,
            };
            let number = (rustix::fs::major(meta.rdev()), rustix::fs::minor(meta.rdev()));
            let partition = format!("/sys/dev/block/{}:{}/partition", number.0, number.1);
            if meta.file_type().is_block_device() && !Path::new(&partition).exists() {
                found.push(number);
            }
        }
        if found.len() == before {
            tracing::warn!(pattern, "no block device fits this pattern of a block IO class");
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
Classes:
  LowPrio:
  - Weight: 80
  - Devices:
    - /dev/sd[a-z]
    ThrottleReadBps: 50M
    throttleWriteBps: 10Mi
    ThrottleReadIOPS: 10k
    ThrottleWriteIOPS: 5000
    Weight: '50'
  Empty: []
";

    #[test]
    fn classes_are_read_as_the_peers_read_them() {
        let classes = parse(FILE).unwrap();
        let rules = &classes["LowPrio"];
        assert_eq!(rules[0], Rule { weight: Some(80), ..Rule::default() });
        assert_eq!(
            rules[1],
            Rule {
                devices: vec!["/dev/sd[a-z]".into()],
                weight: Some(50),
                read_bps: Some(50_000_000),
                write_bps: Some(10 << 20),
                read_iops: Some(10_000),
                write_iops: Some(5000),
            }
        );
        assert_eq!(classes["Empty"], []);
    }

    #[test]
    fn what_has_no_place_in_the_file_is_named() {
        for (text, word) in [
            ("Clases: {}", "Clases"),
            ("Classes: {a: [{Wieght: 80}]}", "Wieght"),
            ("Classes: {a: [{Weight: 5}]}", "10 to 1000"),
            ("Classes: {a: [{Weight: much}]}", "much"),
            ("Classes: {a: [{ThrottleReadBps: 5M}]}", "Devices of class a"),
            ("Classes: {a: [{Devices: [sda]}]}", "absolute"),
            ("Classes: [", "YAML"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
    }

    #[test]
    fn quantities_are_kubernetes_own() {
        for (text, want) in [
            ("0", Some(0)),
            ("1.5k", Some(1500)),
            ("1.5Ki", Some(1536)),
            (".5M", Some(500_000)),
            ("7E", Some(7_000_000_000_000_000_000)),
            ("20E", None),
            ("1m", None),
            ("-1", None),
            ("k", None),
            ("1 k", None),
        ] {
            assert_eq!(parse_quantity(text), want, "{text}");
        }
    }

    #[test]
    fn later_rules_win_for_each_device() {
        let mut limits = Limits { weight: Some(80), ..Limits::default() };
        limits.add((8, 0), Some(50), [Some(1), None, None, Some(4)]);
        limits.add((8, 16), None, [Some(2), None, None, None]);
        limits.add((8, 0), None, [Some(3), None, None, None]);
        let json = serde_json::to_value(limits.to_oci().unwrap()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "weight": 80,
                "weightDevice": [{"major": 8, "minor": 0, "weight": 50}],
                "throttleReadBpsDevice": [
                    {"major": 8, "minor": 0, "rate": 3}, {"major": 8, "minor": 16, "rate": 2}
                ],
                "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 4}]
            })
        );
    }

    #[test]
    fn what_is_no_block_device_has_no_limits() {
        let rule = Rule {
            devices: vec!["/dev/null".into(), "/dev/no-such-*".into()],
            read_bps: Some(1),
            ..Rule::default()
        };
        assert_eq!(limits(&[rule]).unwrap(), LinuxBlockIo::default());
    }
}
