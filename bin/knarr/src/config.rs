//! The daemon's configuration: `config.toml`, then `conf.d/*.toml` beside it in the order of
//! their names; later settings win one by one. A key that does not exist, or a value that cannot
//! be, is refused with its file and line: a misspelt limit must not silently be none.

mod file;
mod handlers;
mod parts;
mod print;
mod schema;
mod verbs;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

pub(crate) use verbs::ConfigVerb;

use file::Settings;
use handlers::Handler;
use image::Verifiers;

/// Where the configuration is looked for.
pub(crate) const DEFAULT_FILE: &str = "/etc/knarr/config.toml";
/// The name of the built-in handler.
pub(crate) const BUILT_IN: &str = "knarr";
/// Searched after the default registry directory.
const CONTAINERD_REGISTRY: &str = "/etc/containerd/certs.d";

/// Everything that can be configured, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    /// Registries.
    pub(crate) registry: Registry,
    /// Images.
    pub(crate) image: Image,
    /// Pod networks.
    pub(crate) cni: Cni,
    /// Directories of CDI specs.
    pub(crate) cdi_dirs: Vec<PathBuf>,
    /// The file of block IO classes.
    pub(crate) block_io_classes: PathBuf,
    /// Cgroups.
    pub(crate) cgroup: Cgroup,
    /// OCI runtimes by the name a RuntimeClass gives; the built-in one is always among them.
    pub(crate) handlers: BTreeMap<String, Handler>,
    /// The handler of pods that name none.
    pub(crate) default_handler: String,
    /// Exec, attach and port-forward.
    pub(crate) streaming: Streaming,
    /// Commands run for probes and hooks.
    pub(crate) exec: Exec,
    /// The daemon's own log.
    pub(crate) log: Log,
}

/// `[registry]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registry {
    /// Directories of `HOST/hosts.toml` files; the first that knows a host decides.
    pub(crate) config_path: Vec<PathBuf>,
    /// Docker's `config.json`, for pulls without credentials.
    pub(crate) docker_config: Option<PathBuf>,
}

/// `[image]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    /// Patterns of images exempt from garbage collection.
    pub(crate) pinned: Vec<String>,
    /// Layers of one pull that are fetched at once.
    pub(crate) parallel_layers: usize,
    /// Bytes of an unpacked layer.
    pub(crate) max_layer_bytes: u64,
    /// Bytes of one file.
    pub(crate) max_file_bytes: u64,
    /// Entries of one layer.
    pub(crate) max_entries: u64,
    /// Bytes a decompressor may need.
    pub(crate) max_zstd_window_bytes: u64,
    /// Whose consent each pull needs.
    pub(crate) verifiers: Option<Verifiers>,
}

/// `[cni]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cni {
    /// Where network configurations are.
    pub(crate) conf_dir: PathBuf,
    /// Where plugins are looked for, in this order.
    pub(crate) bin_dirs: Vec<PathBuf>,
    /// Where attachments are recorded.
    pub(crate) cache_dir: PathBuf,
    /// Bridge of the network that is used when there is no configuration.
    pub(crate) bridge_name: String,
    /// Subnets of that network: one, or one of each address family.
    pub(crate) subnets: Vec<cni::IpPrefix>,
    /// Whether kubelet's pod CIDR replaces them.
    pub(crate) follow_kubelet: bool,
    /// Whether pods get that network while there is no configuration.
    pub(crate) built_in_network: bool,
    /// Networks of every pod; empty: the first file's.
    pub(crate) networks: Vec<String>,
    /// Networks that pods may ask for.
    pub(crate) pod_networks: Vec<String>,
    /// Whether host ports that no plugin serves are served all the same.
    pub(crate) serve_host_ports: bool,
    /// What the built-in plugins filter and rewrite packets by.
    pub(crate) packet_filter: cni::PacketFilter,
    /// How often what pods that are no more have left is looked for.
    pub(crate) gc_interval: Duration,
}

/// `[cgroup]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cgroup {
    /// Who makes them.
    pub(crate) driver: CgroupDriverKey,
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CgroupDriverKey {
    /// Systemd where it runs the host, else the file system.
    Auto,
    /// Directories in the cgroup file system.
    Cgroupfs,
    /// Slices and scopes asked of systemd.
    Systemd,
}

/// `[streaming]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Streaming {
    /// Where they are served; port 0: any free one.
    pub(crate) address: SocketAddr,
    /// None: plain HTTP.
    pub(crate) tls: Option<Tls>,
    /// How long a session may move nothing.
    pub(crate) idle_timeout: Duration,
    /// How long a client may take to open its streams.
    pub(crate) creation_timeout: Duration,
}

/// How the streaming server proves who it is, and who it lets in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Chain, PEM.
    pub(crate) cert: PathBuf,
    /// Private key, PEM.
    pub(crate) key: PathBuf,
    /// Authorities clients must be known to.
    pub(crate) client_ca: Option<PathBuf>,
}

/// `[exec]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Exec {
    /// How long the output of an ended command is waited for.
    pub(crate) drain_timeout: Duration,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Log {
    /// A level, and levels of single parts: `info,registry=debug`.
    pub(crate) level: String,
    /// Form.
    pub(crate) format: LogFormat,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Where a setting was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The file.
    pub(crate) file: PathBuf,
    /// The line, from 1.
    pub(crate) line: usize,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// One thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Where.
    pub(crate) origin: Origin,
    /// What.
    pub(crate) text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.origin, self.text)
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// A file cannot be read.
    #[error("cannot read the configuration {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The files say something that cannot be.
    #[error("the configuration is not accepted:\n  {}", lines(problems))]
    Invalid {
        /// All that is wrong.
        problems: Vec<Problem>,
    },
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n  ")
}

/// A configuration with the files it came from.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// What holds.
    pub(crate) config: Config,
    /// The files that were read, in order.
    pub(crate) files: Vec<PathBuf>,
    settings: Settings,
}

/// Reads the configuration: from `file` and its `conf.d`, or from the default place, where a
/// missing file means defaults. Blocks.
///
/// # Errors
/// [`ConfigError`] with everything that is wrong.
pub(crate) fn load(file: Option<&Path>) -> Result<Loaded, ConfigError> {
    let main = file.unwrap_or_else(|| Path::new(DEFAULT_FILE));
    let mut files = Vec::new();
    match fs::read_to_string(main) {
        Ok(text) => files.push((main.to_owned(), text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => {}
        Err(source) => return Err(ConfigError::Read { path: main.to_owned(), source }),
    }
    for path in drop_ins(main)? {
        let text = fs::read_to_string(&path)
            .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
        files.push((path, text));
    }
    merge(files)
}

/// `conf.d/*.toml` beside the main file, sorted by name.
fn drop_ins(main: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let dir = main.with_file_name("conf.d");
    let failed = |source| ConfigError::Read { path: dir.clone(), source };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(failed(error)),
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Reads the texts of files and lets later settings win.
fn merge(texts: Vec<(PathBuf, String)>) -> Result<Loaded, ConfigError> {
    let mut settings = Settings::new();
    let mut problems = Vec::new();
    let mut files = Vec::new();
    for (path, text) in texts {
        settings.extend(file::read(&path, &text, &mut problems));
        files.push(path);
    }
    let config = build(&settings, &mut problems);
    match config {
        Some(config) if problems.is_empty() => Ok(Loaded { config, files, settings }),
        _ => Err(ConfigError::Invalid { problems }),
    }
}

/// The configuration the settings make over the defaults. `None` if some value cannot be read;
/// the problem is then among `problems`.
fn build(settings: &Settings, problems: &mut Vec<Problem>) -> Option<Config> {
    let values = Values { settings };
    let handlers = handlers::handlers(settings, problems);
    let default_handler = values.text("default_handler");
    if !handlers.contains_key(&default_handler)
        && let Some(setting) = settings.get("default_handler")
    {
        let known: Vec<&str> = handlers.keys().map(String::as_str).collect();
        let text = format!(
            "default_handler `{default_handler}` is not configured; there is {}",
            known.join(", ")
        );
        problems.push(Problem { origin: setting.origin.clone(), text });
    }
    Some(Config {
        registry: Registry {
            config_path: registry_path(&values),
            docker_config: Some(PathBuf::from(values.text("registry.docker_config")))
                .filter(|path| !path.as_os_str().is_empty()),
        },
        image: Image {
            pinned: values.list("image.pinned"),
            parallel_layers: values.text("image.parallel_layers").parse().ok()?,
            max_layer_bytes: values.size("image.max_layer_size")?,
            max_file_bytes: values.size("image.max_file_size")?,
            max_entries: values.size("image.max_entries")?,
            max_zstd_window_bytes: values.size("image.max_zstd_window")?,
            verifiers: verifiers(&values)?,
        },
        cni: Cni {
            conf_dir: values.text("cni.conf_dir").into(),
            bin_dirs: values.list("cni.bin_dirs").into_iter().map(PathBuf::from).collect(),
            cache_dir: values.text("cni.cache_dir").into(),
            bridge_name: values.text("cni.bridge_name"),
            subnets: values
                .list("cni.subnets")
                .iter()
                .map(|subnet| schema::parse_subnet(subnet).ok())
                .collect::<Option<_>>()?,
            follow_kubelet: values.text("cni.pod_ranges") == "kubelet",
            built_in_network: values.text("cni.without_configuration") == "built-in",
            networks: values.list("cni.networks"),
            pod_networks: values.list("cni.pod_networks"),
            serve_host_ports: values.text("cni.host_ports") == "always",
            packet_filter: match values.text("cni.packet_filter").as_str() {
                "nftables" => cni::PacketFilter::Nftables,
                "iptables" => cni::PacketFilter::Iptables,
                _ => cni::PacketFilter::Auto,
            },
            gc_interval: values.duration("cni.gc_interval")?,
        },
        cdi_dirs: values.list("cdi.spec_dirs").into_iter().map(PathBuf::from).collect(),
        block_io_classes: values.text("blockio.config_file").into(),
        cgroup: Cgroup {
            driver: match values.text("cgroup.driver").as_str() {
                "cgroupfs" => CgroupDriverKey::Cgroupfs,
                "systemd" => CgroupDriverKey::Systemd,
                _ => CgroupDriverKey::Auto,
            },
        },
        handlers,
        default_handler,
        streaming: streaming(&values, problems)?,
        exec: Exec { drain_timeout: values.duration("exec.drain_timeout")? },
        log: Log {
            level: values.text("log.level"),
            format: match values.text("log.format").as_str() {
                "json" => LogFormat::Json,
                _ => LogFormat::Text,
            },
        },
    })
}

/// Settings over defaults, by key.
struct Values<'s> {
    settings: &'s Settings,
}

impl Values<'_> {
    fn list(&self, key: &str) -> Vec<String> {
        match self.settings.get(key) {
            Some(setting) => setting.value.clone(),
            None => schema::default_of(key),
        }
    }

    fn size(&self, key: &str) -> Option<u64> {
        schema::parse_size(&self.text(key))
    }

    fn text(&self, key: &str) -> String {
        self.list(key).into_iter().next().unwrap_or_default()
    }

    fn duration(&self, key: &str) -> Option<Duration> {
        schema::duration(&self.text(key)).ok()
    }

    /// An optional path; empty means none.
    fn path(&self, key: &str) -> Option<PathBuf> {
        Some(self.text(key)).filter(|text| !text.is_empty()).map(PathBuf::from)
    }
}

fn streaming(values: &Values<'_>, problems: &mut Vec<Problem>) -> Option<Streaming> {
    let (cert, key, client_ca) = (
        values.path("streaming.tls_cert"),
        values.path("streaming.tls_key"),
        values.path("streaming.client_ca"),
    );
    let tls = match (cert, key) {
        (Some(cert), Some(key)) => Some(Tls { cert, key, client_ca }),
        (None, None) if client_ca.is_none() => None,
        // Half a configuration must not mean plain HTTP.
        (cert, key) => {
            let missing = [("tls_cert", cert.is_none()), ("tls_key", key.is_none())];
            let missing: Vec<&str> =
                missing.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
            let keys = ["streaming.tls_cert", "streaming.tls_key", "streaming.client_ca"];
            if let Some(setting) = keys.iter().find_map(|key| values.settings.get(*key)) {
                let text =
                    format!("[streaming] has no {}: TLS needs both", missing.join(" and no "));
                problems.push(Problem { origin: setting.origin.clone(), text });
            }
            None
        }
    };
    Some(Streaming {
        address: values.text("streaming.address").parse().ok()?,
        tls,
        idle_timeout: values.duration("streaming.idle_timeout")?,
        creation_timeout: values.duration("streaming.creation_timeout")?,
    })
}

/// A node that came from containerd keeps its registry configuration without a word.
fn registry_path(values: &Values<'_>) -> Vec<PathBuf> {
    let path = PathBuf::from(values.text("registry.config_path"));
    if values.settings.contains_key("registry.config_path") {
        vec![path]
    } else {
        vec![path, CONTAINERD_REGISTRY.into()]
    }
}

/// `None`: a value that cannot be. Without a directory nobody is asked.
fn verifiers(values: &Values<'_>) -> Option<Option<Verifiers>> {
    let limit = values.duration("image.verifier_timeout")?;
    let dir = PathBuf::from(values.text("image.verifier_dir"));
    Some((!dir.as_os_str().is_empty()).then_some(Verifiers { dir, limit }))
}
