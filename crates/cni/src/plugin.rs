//! Being a CNI plugin: answering a runtime that runs this program by CNI's rules.
//!
//! The protocol (specification, section "Execution protocol"): the verb and what it is about in
//! variables, the configuration on standard input, a result or an error object on standard
//! output, the exit code. The plugin is chosen by the name the program is called by, as links to
//! it in a plugin directory have; called `knarr`, by `"plugin"` in the configuration.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::builtin::{self, BuiltIn, BuiltInError, PacketFilter};
use crate::engine::{EngineConfig, chain};
use crate::invoke::{Call, Plugins, Verb};
use crate::result;
use crate::version::CniVersion;

/// Where the reference host-local plugin keeps its reservations.
const DATA_DIR: &str = "/var/lib/cni/networks";
/// The runtime has limits of its own for what it runs; this one is for delegates that hang.
const LIMIT: Duration = Duration::from_secs(300);

// The specification's error codes.
const INCOMPATIBLE_VERSION: u32 = 1;
const INVALID_VARIABLE: u32 = 4;
const IO_FAILURE: u32 = 5;
const UNDECODABLE: u32 = 6;
const INVALID_CONFIGURATION: u32 = 7;
const NOT_AVAILABLE: u32 = 50;
/// The reference plugins' code for whatever has none.
const INTERNAL: u32 = 999;

/// What a runtime is answered: standard output, and whether the exit code is 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginAnswer {
    /// A JSON object, or nothing.
    pub stdout: String,
    /// Whether it succeeded.
    pub success: bool,
}

/// Whether a program called like this is meant to be a plugin.
pub fn is_plugin_name(name: &str) -> bool {
    BuiltIn::named(name).is_some()
}

/// What a person is told who calls the plugin without a runtime's variables.
pub fn about_plugin(name: &str) -> String {
    let versions = CniVersion::all().map(CniVersion::as_str).collect::<Vec<_>>().join(", ");
    format!("CNI {name} plugin of knarr\nCNI protocol versions supported: {versions}\n")
}

/// Does what the variables and the input ask for, in the namespaces of the calling thread.
/// Blocks. `name` is what the program was called by.
pub fn run_plugin(
    name: &str,
    variable: impl Fn(&str) -> Option<String>,
    input: &mut dyn Read,
) -> PluginAnswer {
    let mut version = CniVersion::V1_1_0;
    match answer(name, &variable, input, &mut version) {
        Ok(stdout) => PluginAnswer { stdout, success: true },
        Err(Refusal { code, message }) => {
            let error = json!({
                "cniVersion": version.as_str(),
                "code": code,
                "msg": message,
            });
            PluginAnswer { stdout: format!("{error}\n"), success: false }
        }
    }
}

/// An error object.
struct Refusal {
    code: u32,
    message: String,
}

impl Refusal {
    fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

fn answer(
    name: &str,
    variable: &dyn Fn(&str) -> Option<String>,
    input: &mut dyn Read,
    version: &mut CniVersion,
) -> Result<String, Refusal> {
    let command = variable("CNI_COMMAND").unwrap_or_default();
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).map_err(|error| {
        Refusal::new(IO_FAILURE, format!("cannot read standard input: {error}"))
    })?;
    let mut conf: Value = serde_json::from_slice(&bytes).map_err(|error| {
        Refusal::new(UNDECODABLE, format!("standard input is not a configuration: {error}"))
    })?;
    for capability in ["portMappings", "bandwidth", "ipRanges"] {
        if let Some(value) = conf.pointer_mut(&format!("/runtimeConfig/{capability}")) {
            small_initials(value);
        }
    }
    if command == "VERSION" {
        return Ok(supported(&conf));
    }
    let verb = Verb::named(&command).ok_or_else(|| {
        Refusal::new(INVALID_VARIABLE, format!("CNI_COMMAND `{command}` is unknown"))
    })?;
    let object = conf
        .as_object()
        .ok_or_else(|| Refusal::new(UNDECODABLE, "standard input is not a JSON object"))?;
    *version = spoken(object)?;
    let built_in = chosen(name, object)?;
    let environment = Environment::read(verb, variable)?;
    let plugins = Plugins {
        bin_dirs: environment.path.clone(),
        data_dir: DATA_DIR.into(),
        add_limit: LIMIT,
        other_limit: LIMIT,
        status_limit: LIMIT,
        packet_filter: PacketFilter::Auto,
        tool_dirs: EngineConfig::default().tool_dirs,
        standalone: true,
    };
    let call = Call {
        verb,
        container: &environment.container,
        netns: environment.netns.as_deref(),
        ifname: &environment.ifname,
        arguments: &environment.arguments,
        built_in_only: false,
        half_made: None,
    };
    let done = builtin::run(built_in, &plugins, &call, &conf);
    let result = done.map_err(|error| refusal(verb, &error))?;
    if verb == Verb::Add {
        Ok(format!("{}\n", result::of_version(result, *version)))
    } else {
        Ok(String::new())
    }
}

/// containerd writes `HostPort` for `hostPort` and so on, which plugins in Go do not mind.
fn small_initials(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(small_initials),
        Value::Object(object) => {
            let written = std::mem::take(object);
            object.extend(written.into_iter().map(|(mut key, mut value)| {
                if let Some(first) = key.get_mut(..1) {
                    first.make_ascii_lowercase();
                }
                small_initials(&mut value);
                (key, value)
            }));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn supported(conf: &Value) -> String {
    let versions: Vec<&str> = CniVersion::all().map(CniVersion::as_str).collect();
    let asked = conf.get("cniVersion").and_then(Value::as_str);
    let newest = CniVersion::V1_1_0.as_str();
    let answer = json!({
        "cniVersion": asked.filter(|asked| versions.contains(asked)).unwrap_or(newest),
        "supportedVersions": versions,
    });
    format!("{answer}\n")
}

/// A configuration without a version is one of the first.
fn spoken(conf: &Map<String, Value>) -> Result<CniVersion, Refusal> {
    match conf.get("cniVersion").and_then(Value::as_str).filter(|text| !text.is_empty()) {
        None => Ok(CniVersion::V0_1_0),
        Some(text) => CniVersion::parse(text).ok_or_else(|| {
            let known = CniVersion::all().map(CniVersion::as_str).collect::<Vec<_>>().join(", ");
            let message = format!("configuration of version {text}; supported are {known}");
            Refusal::new(INCOMPATIBLE_VERSION, message)
        }),
    }
}

fn chosen(name: &str, conf: &Map<String, Value>) -> Result<BuiltIn, Refusal> {
    let asked = conf.get("plugin").and_then(Value::as_str).unwrap_or_default();
    BuiltIn::named(name).or_else(|| BuiltIn::named(asked)).ok_or_else(|| {
        let names: Vec<&str> = BuiltIn::ALL.into_iter().map(BuiltIn::name).collect();
        let message = format!(
            "no plugin `{asked}`: link this program to the name of a plugin, or set `plugin` in \
             the configuration, to one of {}",
            names.join(", ")
        );
        Refusal::new(INVALID_CONFIGURATION, message)
    })
}

/// What the variables say.
struct Environment {
    container: String,
    netns: Option<PathBuf>,
    ifname: String,
    arguments: Vec<(String, String)>,
    path: Vec<PathBuf>,
}

impl Environment {
    fn read(verb: Verb, variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Refusal> {
        let text = |key: &str| variable(key).unwrap_or_default();
        let required: &[&str] = match verb {
            Verb::Add | Verb::Check => &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH"],
            Verb::Del => &["CNI_CONTAINERID", "CNI_IFNAME", "CNI_PATH"],
            Verb::Status | Verb::Gc => &["CNI_PATH"],
        };
        let missing: Vec<&str> =
            required.iter().copied().filter(|key| text(key).is_empty()).collect();
        if !missing.is_empty() {
            let message = format!("required variables are not set: {}", missing.join(", "));
            return Err(Refusal::new(INVALID_VARIABLE, message));
        }
        let about_container = !matches!(verb, Verb::Status | Verb::Gc);
        let (container, ifname) = (text("CNI_CONTAINERID"), text("CNI_IFNAME"));
        if about_container && !crate::conf::is_name(&container) {
            let message = format!("CNI_CONTAINERID `{container}` is not a container's id");
            return Err(Refusal::new(INVALID_VARIABLE, message));
        }
        if about_container && !crate::networks::is_interface(&ifname) {
            let message = format!("CNI_IFNAME `{ifname}` is not an interface's name");
            return Err(Refusal::new(INVALID_VARIABLE, message));
        }
        let arguments = arguments(&text("CNI_ARGS"))?;
        let netns = Some(text("CNI_NETNS")).filter(|path| !path.is_empty()).map(PathBuf::from);
        let path = text("CNI_PATH").split(':').map(PathBuf::from).collect();
        Ok(Self { container, netns, ifname, arguments, path })
    }
}

/// `KEY=VALUE;KEY=VALUE`
fn arguments(text: &str) -> Result<Vec<(String, String)>, Refusal> {
    let pair = |part: &str| {
        let (key, value) = part.split_once('=').ok_or_else(|| {
            let message = format!("CNI_ARGS: `{part}` is not KEY=VALUE");
            Refusal::new(INVALID_VARIABLE, message)
        })?;
        Ok((key.to_owned(), value.to_owned()))
    };
    text.split(';').filter(|part| !part.is_empty()).map(pair).collect()
}

fn refusal(verb: Verb, error: &BuiltInError) -> Refusal {
    let code = match error {
        BuiltInError::Configuration { .. } => INVALID_CONFIGURATION,
        _other if verb == Verb::Status => NOT_AVAILABLE,
        _other => INTERNAL,
    };
    Refusal::new(code, chain(error))
}

/// Whether a file is this very program, under whatever name.
pub(crate) fn is_itself(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let file = |path: &Path| std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()));
    file(path).is_some_and(|found| file(Path::new("/proc/self/exe")) == Some(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(name: &str, variables: &[(&str, &str)], conf: &Value) -> (Value, bool) {
        let variable = |key: &str| {
            variables.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned())
        };
        let input = conf.to_string();
        let answer = run_plugin(name, variable, &mut input.as_bytes());
        let stdout = answer.stdout.trim();
        let value =
            if stdout.is_empty() { Value::Null } else { serde_json::from_str(stdout).unwrap() };
        (value, answer.success)
    }

    #[test]
    fn capabilities_are_read_as_containerd_writes_them() {
        let mut value = json!([
            {"HostPort": 80, "ContainerPort": 8080, "Protocol": "tcp", "HostIP": ""},
            [{"Subnet": "10.0.0.0/24", "RangeStart": "", "\u{e9}": 1}],
        ]);
        small_initials(&mut value);
        let want = json!([
            {"hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": ""},
            [{"subnet": "10.0.0.0/24", "rangeStart": "", "\u{e9}": 1}],
        ]);
        assert_eq!(value, want);
    }

    #[test]
    fn versions_are_told() {
        let (answer, success) =
            ask("bridge", &[("CNI_COMMAND", "VERSION")], &json!({"cniVersion": "0.4.0"}));
        assert!(success);
        assert_eq!(answer["cniVersion"], "0.4.0");
        assert_eq!(answer["supportedVersions"].as_array().unwrap().len(), 7);
        let (answer, _) =
            ask("knarr", &[("CNI_COMMAND", "VERSION")], &json!({"cniVersion": "9.0.0"}));
        assert_eq!(answer["cniVersion"], "1.1.0");
    }

    #[test]
    fn wrong_calls_get_error_objects_with_the_specifications_codes() {
        let good = [
            ("CNI_COMMAND", "ADD"),
            ("CNI_CONTAINERID", "c"),
            ("CNI_NETNS", "/nonexistent"),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", "/nonexistent"),
        ];
        let with = |key: &'static str, value: &'static str| {
            good.map(|(name, old)| (name, if name == key { value } else { old }))
        };
        let conf = json!({"cniVersion": "1.0.0", "name": "n", "type": "x"});
        let bridge = json!({"cniVersion": "1.0.0", "name": "n", "plugin": "bridge"});
        let table = [
            (with("CNI_COMMAND", "FIX"), &conf, 4, "CNI_COMMAND `FIX` is unknown"),
            (with("CNI_CONTAINERID", ""), &bridge, 4, "not set: CNI_CONTAINERID"),
            (with("CNI_CONTAINERID", "../x"), &bridge, 4, "not a container's id"),
            (with("CNI_IFNAME", "a/b"), &bridge, 4, "not an interface's name"),
            (good, &conf, 7, "no plugin ``"),
            (good, &bridge, 999, "there is no network namespace at /nonexistent"),
        ];
        for (variables, conf, code, text) in table {
            let (answer, success) = ask("knarr", &variables, conf);
            let message = answer["msg"].as_str().unwrap();
            assert!(!success && answer["code"] == code && message.contains(text), "{answer}");
            assert!(answer["cniVersion"].is_string());
        }
        let old = json!({"cniVersion": "7.0.0", "name": "n", "type": "bridge"});
        assert_eq!(ask("bridge", &good, &old).0["code"], 1);
        assert_eq!(ask("bridge", &good, &json!([])).0["code"], 6);
    }
}
