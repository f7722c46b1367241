//! The engine: attaches pods to the configured network and detaches them.
//!
//! ADD runs the plugins of the list in order, each with the result of the one before, and then
//! writes the cache entry. Whatever fails, DEL of the whole list follows. DEL runs the plugins
//! backwards with the configuration and the result of the cache entry and then removes it.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Map, Value};
use sys::netlink::{IpPrefix, netns};

use crate::attachment::Attachment;
use crate::builtin::{Owner, Reservations, has_ipv6};
use crate::cache::{Cache, Entry};
use crate::conf::{self, ConfError, NetworkList, PluginConf};
use crate::errors::{AddError, DelError};
use crate::invoke::{Call, PluginError, Plugins, Verb};
use crate::result;

/// The pod's interface.
pub(crate) const IFNAME: &str = "eth0";

/// Where the engine finds and keeps things. Every field has a default.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Network configurations; `/etc/cni/net.d`.
    pub conf_dir: PathBuf,
    /// Plugin binaries, searched in order; `/opt/cni/bin` and Debian's `/usr/lib/cni`.
    pub bin_dirs: Vec<PathBuf>,
    /// libcni's cache directory; entries are in `results` below it. `/var/lib/cni`.
    pub cache_dir: PathBuf,
    /// Address reservations of configurations that name no `dataDir`. Must be knarr's alone:
    /// [`Engine::gc`] empties what it holds of unknown pods.
    pub data_dir: PathBuf,
    /// Subnets of the built-in network, one address from each for every pod; 10.88.0.0/16 and
    /// fd6b:6e61:7272::/64. IPv6 ones are left out on a kernel without IPv6.
    pub default_subnets: Vec<IpPrefix>,
    /// Bridge of the built-in network; `knarr0`.
    pub bridge_name: String,
    /// Whether the built-in network masquerades (needs nf_tables); true.
    pub masquerade: bool,
    /// How long one plugin may take to attach; 2 minutes.
    pub add_limit: Duration,
    /// How long one plugin may take for anything else; 1 minute.
    pub other_limit: Duration,
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
            default_subnets: ipv4.into_iter().chain(ipv6).collect(),
            bridge_name: "knarr0".to_owned(),
            masquerade: true,
            add_limit: Duration::from_secs(120),
            other_limit: Duration::from_secs(60),
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
    /// The pod's addresses; the first is the primary one: IPv4 if there is one.
    pub ips: Vec<IpAddr>,
    /// The result as the last plugin gave it.
    pub raw: Value,
}

/// Attaches pods to networks and detaches them. Every call blocks, and works in the network
/// namespace of the calling thread, which it never changes.
#[derive(Debug, Clone)]
pub struct Engine {
    config: EngineConfig,
    pub(crate) plugins: Plugins,
    pub(crate) cache: Cache,
}

impl Engine {
    /// An engine; does no IO.
    pub fn new(config: EngineConfig) -> Self {
        let plugins = Plugins {
            bin_dirs: config.bin_dirs.clone(),
            data_dir: config.data_dir.clone(),
            add_limit: config.add_limit,
            other_limit: config.other_limit,
        };
        Self { cache: Cache::new(&config.cache_dir), plugins, config }
    }

    /// Whether pods can be attached: the configuration is usable and its plugins are installed.
    /// Cheap: reads one directory and one file and runs nothing; [`Self::probe`] asks plugins.
    pub fn status(&self) -> NetworkStatus {
        match self.current() {
            Ok(list) => self.installed(&list),
            Err(error) => not_ready(&error),
        }
    }

    /// As [`Self::status`], and asks the plugins themselves (STATUS) if the configuration is of
    /// a version that has the verb. Blocks as long as they take.
    pub fn probe(&self) -> NetworkStatus {
        let list = match self.current() {
            Ok(list) => list,
            Err(error) => return not_ready(&error),
        };
        let installed = self.installed(&list);
        if installed != NetworkStatus::Ready || !list.version.has_status_and_gc() {
            return installed;
        }
        let call = Call::of_node(Verb::Status, list.built_in_only);
        for plugin in &list.plugins {
            let conf = stdin(&list, plugin, None, &Map::new());
            if let Err(error) = self.plugins.call(&plugin.kind, &call, &conf) {
                return not_ready(&error);
            }
        }
        NetworkStatus::Ready
    }

    fn installed(&self, list: &NetworkList) -> NetworkStatus {
        let missing =
            list.plugins.iter().find_map(|p| self.plugins.find(&p.kind, list.built_in_only).err());
        missing.map_or(NetworkStatus::Ready, |error| not_ready(&error))
    }

    pub(crate) fn current(&self) -> Result<NetworkList, ConfError> {
        conf::current(&self.config.conf_dir, || {
            let ipv6 = has_ipv6();
            let usable = |subnet: &IpPrefix| subnet.address().is_ipv4() || ipv6;
            let subnets: Vec<_> =
                self.config.default_subnets.iter().copied().filter(usable).collect();
            conf::built_in_list(&self.config.bridge_name, &subnets, self.config.masquerade)
        })
    }

    pub(crate) fn data_dir(&self) -> &Path {
        &self.config.data_dir
    }

    /// Attaches a pod. On failure everything that was made is undone.
    ///
    /// # Errors
    /// See [`AddError`]; its source names the plugin and quotes what it said.
    pub fn add(&self, attachment: &Attachment) -> Result<NetworkResult, AddError> {
        let sandbox = || attachment.sandbox.clone();
        let list = self
            .current()
            .map_err(|source| AddError::Configuration { sandbox: sandbox(), source })?;
        let refused = |source| AddError::Request { sandbox: sandbox(), source };
        let arguments = attachment.arguments().map_err(refused)?;
        let capabilities = attachment.capabilities().map_err(refused)?;
        let path = &attachment.netns_path;
        let absent =
            |source| AddError::NoNamespace { sandbox: sandbox(), path: path.clone(), source };
        netns::open(path).map_err(|error| absent(Some(error)))?.ok_or_else(|| absent(None))?;

        let id = attachment.sandbox.as_str();
        let mut entry = Entry::new(&list.name, &list.document, id, IFNAME);
        entry.cni_args = arguments;
        entry.capability_args = capabilities;
        let outcome = self.attach(attachment, &list, &mut entry);
        if outcome.is_err() {
            self.undo(&list, &entry, path);
        }
        outcome
    }

    fn attach(
        &self,
        attachment: &Attachment,
        list: &NetworkList,
        entry: &mut Entry,
    ) -> Result<NetworkResult, AddError> {
        let sandbox = || attachment.sandbox.clone();
        let call = Call {
            verb: Verb::Add,
            container: attachment.sandbox.as_str(),
            netns: Some(&attachment.netns_path),
            ifname: IFNAME,
            arguments: &entry.cni_args,
            built_in_only: list.built_in_only,
        };
        let mut raw: Option<Value> = None;
        for plugin in &list.plugins {
            let conf = stdin(list, plugin, raw.as_ref(), &entry.capability_args);
            let result = self.plugins.call(&plugin.kind, &call, &conf).map_err(|source| {
                let source = Box::new(source);
                AddError::Plugin { sandbox: sandbox(), network: list.name.clone(), source }
            })?;
            let object = result.as_object().cloned().unwrap_or_default();
            raw = Some(result::normalise(object, list.version));
        }
        let raw = raw.unwrap_or_else(result::empty);
        let ips = result::pod_addresses(&raw, IFNAME);
        if ips.is_empty() {
            let network = list.name.clone();
            return Err(AddError::NoAddress { sandbox: sandbox(), network });
        }
        entry.result = raw.clone();
        self.cache.write(entry).map_err(|source| AddError::Cache { sandbox: sandbox(), source })?;
        Ok(NetworkResult { ips, raw })
    }

    /// Runs DEL of the whole list after a failed ADD. The ADD's error is the one to report.
    fn undo(&self, list: &NetworkList, entry: &Entry, netns: &Path) {
        if let Err(error) = self.detach(list, entry, Some(netns), None) {
            tracing::warn!(sandbox = entry.container_id, network = list.name, %error,
                "cannot undo a failed network attachment completely");
        }
        if let Err(error) = self.cache.remove(entry) {
            tracing::warn!(sandbox = entry.container_id, %error, "stale CNI cache entry");
        }
    }

    /// Detaches a pod and releases its addresses. Idempotent; the network namespace may be gone.
    ///
    /// Works from what was recorded when the pod was attached. Without a record (never attached
    /// completely, or detached already) the current configuration is tried, and a failure is
    /// only logged: there is nothing that could succeed later.
    ///
    /// # Errors
    /// See [`DelError`].
    pub fn del(&self, attachment: &Attachment) -> Result<(), DelError> {
        let container = attachment.sandbox.as_str();
        let failed = |source| DelError::Cache { container: container.to_owned(), source };
        match self.cache.find(container, IFNAME).map_err(failed)? {
            Some(entry) => self.del_recorded(&entry, Some(&attachment.netns_path)),
            None => {
                self.del_unrecorded(attachment);
                Ok(())
            }
        }
    }

    pub(crate) fn del_recorded(
        &self,
        entry: &Entry,
        netns_path: Option<&Path>,
    ) -> Result<(), DelError> {
        let container = || entry.container_id.clone();
        let path = self.cache.path(&entry.network_name, &entry.container_id, &entry.if_name);
        let bytes = entry.config().unwrap_or_default();
        let list = conf::parse_cached(&bytes, &path)
            .map_err(|source| DelError::Recorded { container: container(), source })?;
        let netns = match netns_path {
            Some(path) => netns::open(path)
                .map_err(|source| DelError::Namespace {
                    container: container(),
                    path: path.to_owned(),
                    source,
                })?
                .and(Some(path)),
            None => None,
        };
        let previous = list.version.passes_result_to_del().then_some(&entry.result);
        self.detach(&list, entry, netns, previous).map_err(|source| DelError::Plugin {
            container: container(),
            network: list.name.clone(),
            source: Box::new(source),
        })?;
        self.release_own(&list.name, entry)?;
        self.cache
            .remove(entry)
            .map_err(|source| DelError::Cache { container: container(), source })
    }

    /// Attached by a built-in, detached by a binary installed since: that one knows nothing of
    /// the address in our directory.
    fn release_own(&self, network: &str, entry: &Entry) -> Result<(), DelError> {
        let owner = Owner { container: &entry.container_id, ifname: &entry.if_name };
        let addresses: Vec<IpAddr> =
            result::all_addresses(&entry.result).iter().map(IpPrefix::address).collect();
        let release = || match Reservations::lock_existing(&self.config.data_dir, network)? {
            Some(held) => held.release(&addresses, &owner),
            None => Ok(()),
        };
        release().map_err(|source| DelError::Release {
            container: entry.container_id.clone(),
            network: network.to_owned(),
            source,
        })
    }

    fn del_unrecorded(&self, attachment: &Attachment) {
        let sandbox = &attachment.sandbox;
        let list = match self.current() {
            Ok(list) => list,
            Err(error) => {
                tracing::warn!(%sandbox, %error, "no configuration to detach a pod with");
                return;
            }
        };
        let mut entry = Entry::new(&list.name, &list.document, sandbox.as_str(), IFNAME);
        entry.cni_args = attachment.arguments().unwrap_or_default();
        entry.capability_args = attachment.capabilities().unwrap_or_default();
        let netns = netns::open(&attachment.netns_path).ok().flatten();
        let path = netns.as_ref().map(|_| attachment.netns_path.as_path());
        if let Err(error) = self.detach(&list, &entry, path, None) {
            tracing::warn!(%sandbox, network = list.name, %error,
                "cannot detach a pod that was never attached completely");
        }
    }

    /// DEL, last plugin first. Stops at the first failure: an earlier plugin's address must not
    /// be given to the next pod while a later one's forwarded ports still lead to it.
    fn detach(
        &self,
        list: &NetworkList,
        entry: &Entry,
        netns: Option<&Path>,
        previous: Option<&Value>,
    ) -> Result<(), PluginError> {
        let call = Call {
            verb: Verb::Del,
            container: &entry.container_id,
            netns,
            ifname: &entry.if_name,
            arguments: &entry.cni_args,
            built_in_only: list.built_in_only,
        };
        for plugin in list.plugins.iter().rev() {
            let conf = stdin(list, plugin, previous, &entry.capability_args);
            self.plugins.call(&plugin.kind, &call, &conf)?;
        }
        Ok(())
    }
}

/// What a plugin reads: its entry, the list's name and version, the previous result, and the
/// values of the capabilities it declares.
pub(crate) fn stdin(
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

/// Operators grep for the opening words.
fn not_ready(error: &dyn std::error::Error) -> NetworkStatus {
    let mut message = format!("cni plugin not initialized: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        message.push_str(": ");
        message.push_str(&error.to_string());
        cause = error.source();
    }
    NetworkStatus::NotReady { message }
}
