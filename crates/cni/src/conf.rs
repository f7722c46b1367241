//! Network configuration lists: parsing them, and choosing the one in use.
//!
//! The first file by name in the configuration directory is the network, unless networks are
//! asked for by name. If it is broken, that is an error: quietly falling back to the next file
//! would put pods on another network than the operator believes.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use sys::netlink::IpPrefix;

use crate::builtin::BuiltInError;
use crate::version::CniVersion;

/// Why there is no usable network configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfError {
    /// A file or directory cannot be read.
    #[error("cannot read CNI configuration {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// A file is no JSON object.
    #[error("CNI configuration {} is not valid JSON", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A file is JSON, but no network configuration.
    #[error("CNI configuration {}: {what}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// There is no file, and nothing is built in that may stand in for one.
    #[error("no CNI configuration file in {}/. Has your network provider started?", dir.display())]
    None {
        /// The directory.
        dir: PathBuf,
    },
    /// No file has the network that was asked for by name.
    #[error("no CNI configuration file in {}/ has a network `{name}`", dir.display())]
    Unknown {
        /// The network.
        name: String,
        /// The directory.
        dir: PathBuf,
    },
    /// The built-in network has no subnet that this host can use.
    #[error("the built-in network has no usable subnet: {reason}")]
    NoSubnet {
        /// Why.
        reason: String,
    },
    /// A subnet of the built-in network is in use.
    #[error(
        "subnet {subnet} of the built-in network collides with the host's route to {route} \
         ({link}): choose another with `cni.subnets`"
    )]
    Collision {
        /// The subnet.
        subnet: IpPrefix,
        /// The destination of the host's route.
        route: IpPrefix,
        /// Where it leads: a link or a next hop.
        link: String,
    },
    /// It cannot be found out which networks the host uses.
    #[error("cannot look for a collision of the built-in network with the host's routes")]
    Routes(#[source] Box<BuiltInError>),
}

/// One plugin's entry of a list.
#[derive(Debug, Clone)]
pub(crate) struct PluginConf {
    /// `type`: the name of the plugin's binary.
    pub(crate) kind: String,
    /// The capabilities declared `true`.
    pub(crate) capabilities: BTreeSet<String>,
    /// The entry as written.
    pub(crate) object: Map<String, Value>,
}

/// A network: plugins that are called one after the other.
#[derive(Debug, Clone)]
pub(crate) struct NetworkList {
    pub(crate) name: String,
    pub(crate) version: CniVersion,
    pub(crate) disable_check: bool,
    pub(crate) disable_gc: bool,
    /// Only plugins that are part of knarr are used, whatever is installed.
    pub(crate) built_in_only: bool,
    pub(crate) plugins: Vec<PluginConf>,
    /// The list as JSON, for the result cache.
    pub(crate) document: Value,
}

impl NetworkList {
    /// Adds the plugin that serves host ports. It is in the document so that the cached copy,
    /// which DEL works from, has it too.
    pub(crate) fn add_portmap(&mut self) {
        let object = portmap();
        if let Some(plugins) = self.document.get_mut("plugins").and_then(Value::as_array_mut) {
            plugins.push(object.clone());
        }
        self.plugins.extend(parse_plugin(&object));
    }

    /// Whether a plugin of the list takes this capability.
    pub(crate) fn declares(&self, capability: &str) -> bool {
        self.plugins.iter().any(|plugin| plugin.capabilities.contains(capability))
    }
}

/// The network of the first file in `dir`; `None` if there is no file.
pub(crate) fn first(dir: &Path) -> Result<Option<NetworkList>, ConfError> {
    files(dir)?.first().map(|path| load(path, dir)).transpose()
}

/// The network of this name: that of the first file that has it. A broken file is in the way
/// only of what no other file has.
pub(crate) fn named(dir: &Path, name: &str) -> Result<Option<NetworkList>, ConfError> {
    let mut broken = None;
    for path in files(dir)? {
        match load(&path, dir) {
            Ok(list) if list.name == name => return Ok(Some(list)),
            Ok(_) => {}
            Err(error) => {
                broken.get_or_insert(error);
            }
        }
    }
    broken.map_or(Ok(None), Err)
}

/// Parses a list that was stored in the result cache.
pub(crate) fn parse_cached(bytes: &[u8], path: &Path) -> Result<NetworkList, ConfError> {
    let document = serde_json::from_slice(bytes)
        .map_err(|source| ConfError::Json { path: path.to_owned(), source })?;
    parse(document, path)
}

/// The key that keeps a list to built-in plugins. It is in the document so that the cached copy,
/// which DEL works from, says the same.
const BUILT_IN_ONLY: &str = "knarrBuiltInOnly";

/// What the built-in network is called.
pub(crate) const BUILT_IN_NAME: &str = "knarr";

/// The list for the built-in network.
pub(crate) fn built_in_list(bridge: &str, subnets: &[IpPrefix], masquerade: bool) -> Value {
    let ranges: Vec<Value> =
        subnets.iter().map(|subnet| json!([{ "subnet": subnet.network().to_string() }])).collect();
    json!({
        "cniVersion": "1.1.0",
        "name": BUILT_IN_NAME,
        BUILT_IN_ONLY: true,
        "plugins": [{
            "type": "bridge",
            "bridge": bridge,
            "isDefaultGateway": true,
            "ipMasq": masquerade,
            "hairpinMode": true,
            "ipam": { "type": "host-local", "ranges": ranges },
        }, portmap()],
    })
}

fn portmap() -> Value {
    json!({ "type": "portmap", "capabilities": { "portMappings": true } })
}

/// The configuration files of a directory, by name.
fn files(dir: &Path) -> Result<Vec<PathBuf>, ConfError> {
    let failed = |source| ConfError::Read { path: dir.to_owned(), source };
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        let wanted = path
            .extension()
            .is_some_and(|extension| ["conf", "conflist", "json"].iter().any(|e| extension == *e));
        if wanted && path.is_file() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read_object(path: &Path) -> Result<Value, ConfError> {
    let bytes =
        std::fs::read(path).map_err(|source| ConfError::Read { path: path.to_owned(), source })?;
    serde_json::from_slice(&bytes)
        .map_err(|source| ConfError::Json { path: path.to_owned(), source })
}

fn load(path: &Path, dir: &Path) -> Result<NetworkList, ConfError> {
    let mut document = read_object(path)?;
    let inlined_only = document.get("loadOnlyInlinedPlugins").and_then(Value::as_bool);
    if document.get("plugins").is_none() && document.get("type").is_some() {
        document = wrap(document);
    } else if inlined_only != Some(true) {
        add_plugins_of_directory(&mut document, dir)?;
    }
    parse(document, path)
}

/// Makes a list of a single plugin's configuration.
fn wrap(plugin: Value) -> Value {
    let mut list = Map::new();
    for key in ["cniVersion", "cniVersions", "name"] {
        if let Some(value) = plugin.get(key) {
            list.insert(key.to_owned(), value.clone());
        }
    }
    list.insert("plugins".to_owned(), Value::Array(vec![plugin]));
    Value::Object(list)
}

/// Specification 1.1: files in a directory named like the network add to its plugins.
fn add_plugins_of_directory(document: &mut Value, dir: &Path) -> Result<(), ConfError> {
    let Some(name) = document.get("name").and_then(Value::as_str).filter(|n| is_name(n)) else {
        return Ok(());
    };
    let extra = dir.join(name);
    let mut paths = Vec::new();
    match std::fs::read_dir(&extra) {
        Ok(entries) => {
            for entry in entries {
                let entry =
                    entry.map_err(|source| ConfError::Read { path: extra.clone(), source })?;
                paths.push(entry.path());
            }
        }
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
        Err(source) => return Err(ConfError::Read { path: extra, source }),
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    paths.sort();
    let found = paths.iter().map(|path| read_object(path)).collect::<Result<Vec<_>, _>>()?;
    if let (false, Some(list)) = (found.is_empty(), document.as_object_mut()) {
        let plugins = list.entry("plugins").or_insert_with(|| Value::Array(Vec::new()));
        if let Some(plugins) = plugins.as_array_mut() {
            plugins.extend(found);
        }
    }
    Ok(())
}

pub(crate) fn parse(document: Value, path: &Path) -> Result<NetworkList, ConfError> {
    let invalid = |what: String| ConfError::Invalid { path: path.to_owned(), what };
    let Some(list) = document.as_object() else {
        return Err(invalid("want a JSON object".to_owned()));
    };
    let version = CniVersion::of_configuration(list)
        .map_err(|text| invalid(format!("cniVersion {text} is not supported (0.1.0 to 1.1.0)")))?;
    let name = list.get("name").and_then(Value::as_str).unwrap_or_default();
    if !is_name(name) {
        return Err(invalid(format!("`{name}` is not a network name")));
    }
    let name = name.to_owned();
    let entries = list.get("plugins").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if entries.is_empty() {
        return Err(invalid("it has neither `plugins` nor a `type`".to_owned()));
    }
    let mut plugins = Vec::with_capacity(entries.len());
    for (at, entry) in entries.iter().enumerate() {
        plugins
            .push(parse_plugin(entry).map_err(|what| invalid(format!("plugins[{at}]: {what}")))?);
    }
    let disable_check = list.get("disableCheck").is_some_and(is_true);
    let disable_gc = list.get("disableGC").is_some_and(is_true);
    let built_in_only = list.get(BUILT_IN_ONLY).is_some_and(is_true);
    Ok(NetworkList { name, version, disable_check, disable_gc, built_in_only, plugins, document })
}

fn parse_plugin(entry: &Value) -> Result<PluginConf, String> {
    let object = entry.as_object().ok_or_else(|| "want a JSON object".to_owned())?;
    let kind = object.get("type").and_then(Value::as_str).unwrap_or_default();
    // The type becomes a file name in the plugin directories.
    if !is_name(kind) {
        return Err(format!("`{kind}` is not a plugin type"));
    }
    let declared = object.get("capabilities").and_then(Value::as_object);
    let capabilities = declared
        .into_iter()
        .flatten()
        .filter(|(_, on)| is_true(on))
        .map(|(name, _)| name.clone())
        .collect();
    Ok(PluginConf { kind: kind.to_owned(), capabilities, object: object.clone() })
}

/// Tolerates the string forms that libcni takes for booleans.
fn is_true(value: &Value) -> bool {
    value.as_bool().unwrap_or_else(|| value.as_str() == Some("true"))
}

/// The specification's form of names; it makes them safe as path components.
pub(crate) fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && text.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        dir
    }

    fn load_dir(files: &[(&str, &str)]) -> Result<NetworkList, ConfError> {
        first(dir(files).path()).map(|list| list.expect("there is a file"))
    }

    const LIST: &str = r#"{"cniVersion":"1.0.0","name":"a","plugins":[
        {"type":"bridge"},{"type":"portmap","capabilities":{"portMappings":true,"x":false}}]}"#;

    #[test]
    fn the_first_file_by_name_is_the_network() {
        let other = LIST.replace("\"a\"", "\"b\"");
        let list = load_dir(&[("20-b.conflist", &other), ("10-a.conflist", LIST)]).unwrap();
        assert_eq!((list.name.as_str(), list.version), ("a", CniVersion::V1_0_0));
        assert_eq!(list.plugins[1].kind, "portmap");
        assert_eq!(list.plugins[1].capabilities.iter().collect::<Vec<_>>(), ["portMappings"]);
    }

    #[test]
    fn a_single_plugin_becomes_a_list() {
        let text = r#"{"cniVersion":"0.3.1","name":"one","type":"bridge","mtu":1400}"#;
        let list = load_dir(&[("10.conf", text)]).unwrap();
        assert_eq!((list.name.as_str(), list.plugins.len()), ("one", 1));
        assert_eq!(list.plugins[0].object["mtu"], 1400);
        let again = parse_cached(list.document.to_string().as_bytes(), Path::new("c")).unwrap();
        assert_eq!(again.plugins[0].object, list.plugins[0].object);
    }

    #[test]
    fn other_files_are_no_configuration() {
        for files in [&[][..], &[("README", "text")], &[("10.conflist.tmp", "{")]] {
            assert!(first(dir(files).path()).unwrap().is_none());
        }
        assert!(first(Path::new("/nonexistent/net.d")).unwrap().is_none());
        let built_in = built_in_list("b", &["10.88.0.0/16".parse().unwrap()], true);
        let built_in = parse(built_in, Path::new("b")).unwrap();
        assert_eq!((built_in.name.as_str(), built_in.plugins.len()), ("knarr", 2));
        assert!(built_in.declares("portMappings") && !built_in.declares("bandwidth"));
    }

    #[test]
    fn a_network_is_found_by_name_past_broken_files() {
        let other = LIST.replace("\"a\"", "\"b\"");
        let dir = dir(&[("05.conflist", "{"), ("10.conflist", LIST), ("20.conflist", &other)]);
        assert_eq!(named(dir.path(), "b").unwrap().unwrap().name, "b");
        let error = named(dir.path(), "c").unwrap_err().to_string();
        assert!(error.contains("05.conflist is not valid JSON"), "{error}");
        std::fs::remove_file(dir.path().join("05.conflist")).unwrap();
        assert!(named(dir.path(), "c").unwrap().is_none());
    }

    #[test]
    fn a_broken_first_file_is_an_error_that_names_it() {
        let broken = [
            ("", "not valid JSON"),
            ("{", "not valid JSON"),
            ("[]", "want a JSON object"),
            (r#"{"name":"a"}"#, "neither `plugins`"),
            (r#"{"name":"a","plugins":[]}"#, "neither `plugins`"),
            (r#"{"name":"../a","plugins":[{"type":"x"}]}"#, "`../a` is not a network name"),
            (r#"{"name":"a","plugins":[{"type":"../../bin/sh"}]}"#, "is not a plugin type"),
            (r#"{"name":"a","plugins":[7]}"#, "plugins[0]: want a JSON object"),
            (r#"{"name":"a","cniVersion":"3.0","plugins":[{"type":"x"}]}"#, "cniVersion 3.0"),
        ];
        for (text, want) in broken {
            let error = load_dir(&[("10.conflist", text), ("20.conflist", LIST)]).unwrap_err();
            let message = error.to_string();
            assert!(message.contains(want) && message.contains("10.conflist"), "{message}");
        }
    }

    #[test]
    fn a_directory_named_like_the_network_adds_plugins() {
        let extra = r#"{"type":"tuning"}"#;
        let files = [("10.conflist", LIST), ("a/20.conf", extra), ("a/10.conf", extra)];
        assert_eq!(load_dir(&files).unwrap().plugins.len(), 4);
        let inlined = LIST.replace("{\"cni", "{\"loadOnlyInlinedPlugins\":true,\"cni");
        let files = [("10.conflist", inlined.as_str()), ("a/20.conf", extra)];
        assert_eq!(load_dir(&files).unwrap().plugins.len(), 2);
    }
}
