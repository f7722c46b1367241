//! The engine: which networks there are, and whether pods can be attached to them. Attaching is
//! in `attach`, detaching in `detach`, looking after what is attached in `check` and `gc`.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

pub(crate) use model::chain;
use serde_json::{Map, Value, json};
use sys::netlink::IpPrefix;

use crate::builtin::PacketFilter;
use crate::cache::Cache;
use crate::conf::{self, ConfError, NetworkList, PluginConf};
use crate::default_network::{self, Said};
use crate::invoke::{Call, Plugins, Verb};
use crate::leftover::LeavingLink;

/// The pod's interface on its first network.
pub(crate) const IFNAME: &str = "eth0";

/// Where the engine finds and keeps things. Every field has a default.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Network configurations; `/etc/cni/net.d`.
    pub conf_dir: PathBuf,
    /// Plugin binaries, searched in order; `/opt/cni/bin` and Debian's `/usr/lib/cni`.
    pub bin_dirs: Vec<PathBuf>,
    /// libcni's cache directory; entries are in `results` below it. May be shared with other
    /// daemons and runtimes. `/var/lib/cni`.
    pub cache_dir: PathBuf,
    /// Address reservations of configurations that name no `dataDir`. Must be knarr's alone:
    /// [`Engine::gc`] empties what it holds of unknown pods.
    pub data_dir: PathBuf,
    /// Networks that every pod is attached to, by name, the first as `eth0`, the next as `eth1`;
    /// empty: the one of the first file.
    pub networks: Vec<String>,
    /// Networks that pods may ask for by annotation; empty: nobody looks at the annotations.
    pub pod_networks: Vec<String>,
    /// Whether pods get the built-in network where there is no configuration; true.
    pub built_in_network: bool,
    /// Subnets of the built-in network, one address from each for every pod; 10.88.0.0/16 and
    /// fd6b:6e61:7272::/64. IPv6 ones are left out on a host without IPv6.
    pub default_subnets: Vec<IpPrefix>,
    /// Whether the ranges that kubelet names replace `default_subnets`; true.
    pub follow_pod_ranges: bool,
    /// Bridge of the built-in network; `knarr0`.
    pub bridge_name: String,
    /// Whether the built-in network masquerades; true.
    pub masquerade: bool,
    /// By what means the built-in plugins masquerade, serve host ports and keep networks apart.
    pub packet_filter: PacketFilter,
    /// Where `iptables` and `ip6tables` are; the directories of system programs.
    pub tool_dirs: Vec<PathBuf>,
    /// Whether host ports are served on networks none of whose plugins serves them; true.
    pub serve_host_ports: bool,
    /// How long one plugin may take to attach; 2 minutes.
    pub add_limit: Duration,
    /// How long one plugin may take for anything else; 1 minute.
    pub other_limit: Duration,
    /// How long one plugin may take to say whether it is ready; 10 seconds.
    pub status_limit: Duration,
    /// How long the link of a detached pod may outlive it before it is deleted; 30 seconds.
    pub links_linger: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        let ipv4 = IpPrefix::new(IpAddr::from([10, 88, 0, 0]), 16);
        let ipv6 = IpPrefix::new(IpAddr::from([0xfd6b, 0x6e61, 0x7272, 0, 0, 0, 0, 0]), 64);
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            cache_dir: "/var/lib/cni".into(),
            data_dir: "/var/lib/knarr/networks".into(),
            networks: Vec::new(),
            pod_networks: Vec::new(),
            built_in_network: true,
            default_subnets: ipv4.into_iter().chain(ipv6).collect(),
            follow_pod_ranges: true,
            bridge_name: "knarr0".to_owned(),
            masquerade: true,
            packet_filter: PacketFilter::Auto,
            tool_dirs: ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from).to_vec(),
            serve_host_ports: true,
            add_limit: Duration::from_secs(120),
            other_limit: Duration::from_secs(60),
            status_limit: Duration::from_secs(10),
            links_linger: Duration::from_secs(30),
        }
    }
}

/// Whether pods can be attached now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkStatus {
    /// They can.
    Ready,
    /// They cannot.
    NotReady {
        /// Why, for the node's NetworkReady condition.
        message: String,
    },
}

/// What attaching a pod gave.
#[derive(Debug, Clone, PartialEq)]
pub struct NetworkResult {
    /// The pod's addresses on its first network; the first is the primary one: IPv4 if there is
    /// one.
    pub ips: Vec<IpAddr>,
    /// The first network's result as its last plugin gave it.
    pub raw: Value,
    /// The pod's further networks, in order.
    pub others: Vec<OtherNetwork>,
}

/// A network of a pod besides the first.
#[derive(Debug, Clone, PartialEq)]
pub struct OtherNetwork {
    /// Its name.
    pub name: String,
    /// The pod's interface on it.
    pub interface: String,
    /// The pod's addresses on it, if it gives any.
    pub ips: Vec<IpAddr>,
}

/// Attaches pods to networks and detaches them. Every call blocks, and works in the network
/// namespace of the calling thread, which it never changes. Clones share their locks.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) config: EngineConfig,
    pub(crate) plugins: Plugins,
    pub(crate) cache: Cache,
    /// Read by ADD and DEL, written by GC of plugins: CNI forbids the two at once.
    pub(crate) in_use: Arc<RwLock<()>>,
    /// Links of pods that were detached, which go by themselves.
    pub(crate) leaving: Arc<Mutex<Vec<LeavingLink>>>,
    said: Arc<Said>,
}

impl Engine {
    /// An engine; does no IO.
    pub fn new(config: EngineConfig) -> Self {
        let plugins = Plugins {
            bin_dirs: config.bin_dirs.clone(),
            data_dir: config.data_dir.clone(),
            add_limit: config.add_limit,
            other_limit: config.other_limit,
            status_limit: config.status_limit,
            packet_filter: config.packet_filter,
            tool_dirs: config.tool_dirs.clone(),
            standalone: false,
        };
        Self {
            cache: Cache::new(&config.cache_dir, &config.data_dir),
            leaving: Arc::default(),
            plugins,
            config,
            in_use: Arc::default(),
            said: Arc::default(),
        }
    }

    /// Whether pods can be attached: the configuration is usable and its plugins are installed.
    /// Reads files and runs nothing; [`Self::probe`] asks plugins.
    pub fn status(&self) -> NetworkStatus {
        let lists = match self.lists() {
            Ok(lists) => lists,
            Err(error) => return not_ready(&error),
        };
        let missing = lists.iter().flat_map(|list| {
            list.plugins.iter().filter_map(|p| self.plugins.find(&p.kind, list.built_in_only).err())
        });
        missing.map(|error| not_ready(&error)).next().unwrap_or(NetworkStatus::Ready)
    }

    /// As [`Self::status`], and asks the plugins themselves (STATUS) if the configuration is of
    /// a version that has the verb. Blocks as long as they take.
    pub fn probe(&self) -> NetworkStatus {
        let status = self.status();
        if status != NetworkStatus::Ready {
            return status;
        }
        let lists = match self.lists() {
            Ok(lists) => lists,
            Err(error) => return not_ready(&error),
        };
        for list in lists.iter().filter(|list| list.version.has_status_and_gc()) {
            let call = Call::of_node(Verb::Status, list.built_in_only);
            for plugin in &list.plugins {
                let conf = self.stdin(list, plugin, None, &Map::new());
                if let Err(error) = self.plugins.call(&plugin.kind, &call, &conf) {
                    return not_ready(&error);
                }
            }
        }
        NetworkStatus::Ready
    }

    /// The configuration in use, in the words of containerd's `cniconfig`, which node tools read.
    /// Blocks: reads the configuration.
    pub fn describe(&self) -> Value {
        // What is wrong with it is said by `status`.
        let lists = self.lists().unwrap_or_default();
        let networks = lists.iter().enumerate().map(
            |(number, list)| json!({ "Config": described(list), "IFName": format!("eth{number}") }),
        );
        json!({
            "PluginDirs": self.config.bin_dirs,
            "PluginConfDir": self.config.conf_dir,
            "PluginMaxConfNum": 1,
            "Prefix": "eth",
            "Networks": networks.collect::<Vec<_>>(),
        })
    }

    /// The networks of every pod, in order; at least one.
    pub(crate) fn lists(&self) -> Result<Vec<NetworkList>, ConfError> {
        if self.config.networks.is_empty() {
            return match conf::first(&self.config.conf_dir)? {
                Some(list) => Ok(vec![list]),
                None if self.config.built_in_network => Ok(vec![self.built_in()?]),
                None => Err(ConfError::None { dir: self.config.conf_dir.clone() }),
            };
        }
        self.config.networks.iter().map(|name| self.list_named(name)).collect()
    }

    /// The network of this name.
    pub(crate) fn list_named(&self, name: &str) -> Result<NetworkList, ConfError> {
        match conf::named(&self.config.conf_dir, name)? {
            Some(list) => Ok(list),
            None if name == conf::BUILT_IN_NAME && self.config.built_in_network => self.built_in(),
            None => {
                Err(ConfError::Unknown { name: name.to_owned(), dir: self.config.conf_dir.clone() })
            }
        }
    }

    fn built_in(&self) -> Result<NetworkList, ConfError> {
        let subnets = default_network::subnets(&self.config, &self.said)?;
        let list = conf::built_in_list(&self.config.bridge_name, &subnets, self.config.masquerade);
        conf::parse(list, Path::new("(built in)"))
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.config.data_dir
    }

    /// What a plugin reads: its entry, the list's name and version, the previous result, and the
    /// values of the capabilities it declares.
    pub(crate) fn stdin(
        &self,
        list: &NetworkList,
        plugin: &PluginConf,
        previous: Option<&Value>,
        capabilities: &Map<String, Value>,
    ) -> Value {
        let mut out = plugin.object.clone();
        out.insert("name".to_owned(), list.name.clone().into());
        out.insert("cniVersion".to_owned(), list.version.as_str().into());
        if let Some(previous) = previous {
            out.insert("prevResult".to_owned(), previous.clone());
        }
        let declared = capabilities.iter().filter(|(name, _)| plugin.capabilities.contains(*name));
        let runtime: Map<String, Value> =
            declared.map(|(name, value)| (name.clone(), value.clone())).collect();
        if !runtime.is_empty() {
            out.insert("runtimeConfig".to_owned(), Value::Object(runtime));
        }
        Value::Object(out)
    }
}

fn described(list: &NetworkList) -> Value {
    let plugins = list.plugins.iter().map(|plugin| {
        json!({
            "Network": plugin.object,
            "Source": Value::Object(plugin.object.clone()).to_string(),
        })
    });
    json!({
        "Name": list.name,
        "CNIVersion": list.version.as_str(),
        "Plugins": plugins.collect::<Vec<_>>(),
        "Source": list.document.to_string(),
    })
}

/// Operators grep for the opening words.
fn not_ready(error: &dyn std::error::Error) -> NetworkStatus {
    NetworkStatus::NotReady { message: format!("cni plugin not initialized: {}", chain(error)) }
}
