//! Every key with its type, default and meaning. Reading, checking, printing and the tests of
//! the documentation all go by this table.

use std::{net::SocketAddr, path::Path, time::Duration};

/// One key.
#[derive(Debug)]
pub(crate) struct Key {
    /// Dotted path; `*` stands for a name the operator chooses.
    pub(crate) path: &'static str,
    /// Whether it holds a list.
    pub(crate) list: bool,
    /// The default's texts.
    pub(crate) default: &'static [&'static str],
    /// What it means, for the commented default file.
    pub(crate) help: &'static str,
    /// Says what is wrong with one of its texts.
    pub(crate) check: fn(&str) -> Result<(), String>,
}

impl Key {
    /// Whether its value may be written without quotes.
    pub(crate) fn is_number(&self) -> bool {
        self.default.first().is_some_and(|default| parse_size(default).is_some())
    }
}

impl Key {
    /// Whether its value may be `true` or `false` without quotes.
    pub(crate) fn is_flag(&self) -> bool {
        (self.check)("true").is_ok() && (self.check)("").is_err()
    }
}

/// All keys, in the order in which they are printed.
pub(crate) const KEYS: &[Key] = &[
    Key {
        path: "default_handler",
        list: false,
        default: &["knarr"],
        help: "Handler of pods that name none.",
        check: handler_name,
    },
    Key {
        path: "registry.config_path",
        list: false,
        default: &["/etc/knarr/certs.d"],
        help: "Directory of HOST/hosts.toml files, as containerd reads them.\n\
               If this is not set, /etc/containerd/certs.d is searched after it.",
        check: absolute,
    },
    Key {
        path: "registry.docker_config",
        list: false,
        default: &[""],
        help: "Docker's config.json: its credentials and credential helpers serve pulls that\n\
               bring none of their own. Every pod of the node can then use them. Empty: none.",
        check: |text| if text.is_empty() { Ok(()) } else { absolute(text) },
    },
    Key {
        path: "image.pinned",
        list: true,
        default: &[],
        help: "Images exempt from garbage collection: references, \"start*\" or \"*middle*\".",
        check: |_| Ok(()),
    },
    Key {
        path: "image.parallel_layers",
        list: false,
        default: &["3"],
        help: "Layers of one pull that are fetched and unpacked at once.",
        check: |text| match text.parse() {
            Ok(1..=16_u8) => Ok(()),
            Ok(_) | Err(_) => Err("is not between 1 and 16".to_owned()),
        },
    },
    Key {
        path: "image.max_layer_size",
        list: false,
        default: &["1TiB"],
        help: "A layer that unpacks to more is refused.",
        check: size,
    },
    Key {
        path: "image.max_file_size",
        list: false,
        default: &["1TiB"],
        help: "A layer with a larger file, holes included, is refused.",
        check: size,
    },
    Key {
        path: "image.max_entries",
        list: false,
        default: &["8388608"],
        help: "A layer with more files, links and directories is refused.",
        check: size,
    },
    Key {
        path: "image.max_zstd_window",
        list: false,
        default: &["32MiB"],
        help: "A layer that needs more memory to be decompressed is refused.",
        check: size,
    },
    Key {
        path: "image.verifier_dir",
        list: false,
        default: &[""],
        help: "Directory of programs that all have to consent to each pull, called as containerd\n\
               calls image verifiers. While it is missing or has none, nothing is pulled.\n\
               Empty: nobody is asked.",
        check: |text| if text.is_empty() { Ok(()) } else { absolute(text) },
    },
    Key {
        path: "image.verifier_timeout",
        list: false,
        default: &["10s"],
        help: "How long each verifier may take.",
        check: |text| positive_duration(text).map(drop),
    },
    Key {
        path: "cni.conf_dir",
        list: false,
        default: &["/etc/cni/net.d"],
        help: "Directory of network configurations; the first by name is used.",
        check: absolute,
    },
    Key {
        path: "cni.bin_dirs",
        list: true,
        default: &["/opt/cni/bin", "/usr/lib/cni"],
        help: "Directories of plugins, searched in this order; the second is Debian's. One that is\n\
               not there is passed over.",
        check: absolute,
    },
    Key {
        path: "cni.cache_dir",
        list: false,
        default: &["/var/lib/cni"],
        help: "Where attachments are recorded (in results/), in the form and place that other\n\
               runtimes and CNI tools know.",
        check: absolute,
    },
    Key {
        path: "cni.bridge_name",
        list: false,
        default: &["knarr0"],
        help: "Bridge of the built-in network, used where there is no configuration.",
        check: interface,
    },
    Key {
        path: "cni.subnets",
        list: true,
        default: &["10.88.0.0/16", "fd6b:6e61:7272::/64"],
        help: "Subnets of the built-in network: one, or one of each address family.",
        check: subnet,
    },
    Key {
        path: "cni.pod_ranges",
        list: false,
        default: &["kubelet"],
        help: "Who chooses the subnets of the built-in network: \"kubelet\", once it names the\n\
               node's pod CIDR, or always \"subnets\" above.",
        check: |text| one_of(text, &["kubelet", "subnets"]),
    },
    Key {
        path: "cni.without_configuration",
        list: false,
        default: &["built-in"],
        help: "What pods get while there is no network configuration: the \"built-in\" network, or\n\
               \"none\": the node is NotReady until the network provider has written one.",
        check: |text| one_of(text, &["built-in", "none"]),
    },
    Key {
        path: "cni.networks",
        list: true,
        default: &[],
        help: "Networks of every pod, by their names in conf_dir: the first is eth0, then eth1, ...\n\
               Empty: the network of the first file.",
        check: network,
    },
    Key {
        path: "cni.pod_networks",
        list: true,
        default: &[],
        help: "Networks that pods may ask for by annotation k8s.v1.cni.cncf.io/networks.\n\
               Empty: the annotation is left to plugins.",
        check: network,
    },
    Key {
        path: "cni.host_ports",
        list: false,
        default: &["always"],
        help: "Who serves host ports on networks none of whose plugins declares that it does: knarr\n\
               (\"always\"), or nobody but \"plugins\", which may do it without saying so.",
        check: |text| one_of(text, &["always", "plugins"]),
    },
    Key {
        path: "cni.packet_filter",
        list: false,
        default: &["auto"],
        help: "What built-in plugins masquerade, serve host ports and keep networks apart by:\n\
               \"nftables\", \"iptables\", or \"auto\": iptables only where the kernel lacks nf_tables.",
        check: |text| one_of(text, &["auto", "nftables", "iptables"]),
    },
    Key {
        path: "cni.gc_interval",
        list: false,
        default: &["10m"],
        help: "How often addresses and attachments of pods that are no more are looked for and\n\
               released, and plugins are told who is attached (GC). At the start in any case.",
        check: |text| positive_duration(text).map(drop),
    },
    Key {
        path: "cdi.spec_dirs",
        list: true,
        default: &["/etc/cdi", "/var/run/cdi"],
        help: "Directories of CDI specs; a device of a later one hides that of an earlier one.",
        check: absolute,
    },
    Key {
        path: "blockio.config_file",
        list: false,
        default: &["/etc/knarr/blockio.yaml"],
        help: "Defines the block IO classes that annotations of pods name.",
        check: absolute,
    },
    Key {
        path: "cgroup.driver",
        list: false,
        default: &["auto"],
        help: "Who makes cgroups: \"auto\", \"cgroupfs\" or \"systemd\". It must be kubelet's.",
        check: |text| one_of(text, &["auto", "cgroupfs", "systemd"]),
    },
    Key {
        path: "streaming.address",
        list: false,
        default: &["127.0.0.1:0"],
        help: "Where exec, attach and port-forward are served; port 0 takes any free one.",
        check: |text| match text.parse::<SocketAddr>() {
            Ok(_) => Ok(()),
            Err(_) => Err("is not an address and port such as \"127.0.0.1:0\"".to_owned()),
        },
    },
    Key {
        path: "streaming.tls_cert",
        list: false,
        default: &[""],
        help: "Certificate chain (PEM) of that server; empty: it speaks plain HTTP.\n\
               A file that is replaced is read again.",
        check: absolute_or_none,
    },
    Key {
        path: "streaming.tls_key",
        list: false,
        default: &[""],
        help: "Private key (PEM) of the certificate.",
        check: absolute_or_none,
    },
    Key {
        path: "streaming.client_ca",
        list: false,
        default: &[""],
        help: "Certificates (PEM) of the authorities clients must be known to; empty: any client.",
        check: absolute_or_none,
    },
    Key {
        path: "streaming.idle_timeout",
        list: false,
        default: &["4h"],
        help: "How long a session may move nothing.",
        check: |text| positive_duration(text).map(drop),
    },
    Key {
        path: "streaming.creation_timeout",
        list: false,
        default: &["30s"],
        help: "How long a client may take to open its streams.",
        check: |text| positive_duration(text).map(drop),
    },
    Key {
        path: "exec.drain_timeout",
        list: false,
        default: &["10s"],
        help: "How long the output of a command that has ended is waited for when something it\n\
               started keeps it open.",
        check: |text| duration(text).map(drop),
    },
    Key {
        path: "log.level",
        list: false,
        default: &["info"],
        help: "error, warn, info, debug or trace; single parts by name: \"info,registry=debug\".",
        check: log_level,
    },
    Key {
        path: "log.format",
        list: false,
        default: &["text"],
        help: "\"text\" or \"json\".",
        check: |text| one_of(text, &["text", "json"]),
    },
    Key {
        path: "handlers.*.path",
        list: false,
        default: &[""],
        help: "OCI runtime binary of a handler; empty means the built-in runtime.",
        check: absolute_or_none,
    },
    Key {
        path: "handlers.*.type",
        list: false,
        default: &["oci"],
        help: "\"oci\": the binary has runc's command line (runc, crun, youki). \"gvisor\": it is runsc.",
        check: |text| one_of(text, &["oci", "gvisor"]),
    },
    Key {
        path: "handlers.*.root",
        list: false,
        default: &[""],
        help: "Where the binary keeps what it knows of its containers. It must be empty after a\n\
               reboot. Empty: handlers/NAME in the state directory.",
        check: absolute_or_none,
    },
    Key {
        path: "handlers.*.options",
        list: true,
        default: &[],
        help: "Words that the binary gets before each command, such as \"--platform=systrap\".",
        check: |_| Ok(()),
    },
    Key {
        path: "handlers.*.annotations",
        list: true,
        default: &[],
        help: "Annotations of pods and containers that the binary gets to see: names, or \"start*\".",
        check: |_| Ok(()),
    },
    Key {
        path: "handlers.*.base_spec",
        list: false,
        default: &[""],
        help: "An OCI config.json: what it has and a container has not, the container gets.",
        check: absolute_or_none,
    },
    Key {
        path: "handlers.*.sandbox_container",
        list: false,
        default: &["auto"],
        help: "Whether pods begin with a container that stands for the pod. \"auto\": with gvisor.",
        check: |text| one_of(text, &["auto", "true", "false"]),
    },
];

/// The default of a key that is in the table.
pub(crate) fn default_of(path: &str) -> Vec<String> {
    let key = KEYS.iter().find(|key| key.path == path);
    key.map_or(&[] as &[&str], |key| key.default).iter().map(|&text| text.to_owned()).collect()
}

/// A subnet, given by its network address.
pub(crate) fn parse_subnet(text: &str) -> Result<cni::IpPrefix, String> {
    let subnet: cni::IpPrefix =
        text.parse().map_err(|_| "is not a subnet such as \"10.88.0.0/16\"".to_owned())?;
    // Room for the gateway and one pod at least.
    let longest = if subnet.address().is_ipv4() { 30 } else { 126 };
    if !(1..=longest).contains(&subnet.len()) {
        return Err(format!("has a prefix that is not between 1 and {longest}"));
    }
    if subnet.network() != subnet {
        return Err("has address bits beyond its prefix".to_owned());
    }
    Ok(subnet)
}

/// What is wrong with a list as a whole.
pub(crate) fn check_list(key: &Key, values: &[String]) -> Result<(), String> {
    if values.is_empty() && !key.default.is_empty() {
        return Err("must not be empty".to_owned());
    }
    if key.path == "cni.subnets" {
        let subnets = values.iter().filter_map(|value| parse_subnet(value).ok());
        let (v4, v6): (Vec<_>, Vec<_>) = subnets.partition(|subnet| subnet.address().is_ipv4());
        if v4.len() > 1 || v6.len() > 1 {
            return Err("has two subnets of one address family".to_owned());
        }
    }
    Ok(())
}

fn subnet(text: &str) -> Result<(), String> {
    parse_subnet(text).map(drop)
}

/// A length of time: `10s`, `1h30m`, `250ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "is not a length of time such as \"30s\", \"1h30m\" or \"250ms\"".to_owned();
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, after) = rest.split_at(digits);
        let unit = after.len() - after.trim_start_matches(|c: char| c.is_ascii_lowercase()).len();
        let (unit, after) = after.split_at(unit);
        let number: u32 = number.parse().map_err(|_| wrong())?;
        let one = match unit {
            "h" => Duration::from_secs(3600),
            "m" => Duration::from_secs(60),
            "s" => Duration::from_secs(1),
            "ms" => Duration::from_millis(1),
            _ => return Err(wrong()),
        };
        let part = one.checked_mul(number).ok_or_else(wrong)?;
        total = total.checked_add(part).ok_or_else(wrong)?;
        rest = after;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(total) }
}

fn positive_duration(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Err("must be more than nothing".to_owned()),
        length => Ok(length),
    }
}

fn absolute_or_none(text: &str) -> Result<(), String> {
    if text.is_empty() { Ok(()) } else { absolute(text) }
}

fn absolute(text: &str) -> Result<(), String> {
    if Path::new(text).is_absolute() { Ok(()) } else { Err("is not an absolute path".to_owned()) }
}

/// Bytes, or a count: a whole number, perhaps with KiB, MiB, GiB or TiB.
pub(crate) fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start() {
        "" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        "TiB" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn size(text: &str) -> Result<(), String> {
    match parse_size(text) {
        Some(1..) => Ok(()),
        Some(0) | None => Err("is not a positive number or size such as \"64MiB\"".to_owned()),
    }
}

fn one_of(text: &str, words: &[&str]) -> Result<(), String> {
    if words.contains(&text) {
        return Ok(());
    }
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    Err(format!("is none of {}", quoted.join(", ")))
}

/// A handler's name comes from a RuntimeClass, where it is a DNS label.
pub(crate) fn handler_name(text: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if (1..=63).contains(&text.len()) && text.bytes().all(fits) {
        Ok(())
    } else {
        Err("is not a handler's name: lower-case letters, digits and `-`".to_owned())
    }
}

/// The kernel's rule for names of network interfaces.
fn interface(text: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    if (1..=15).contains(&text.len()) && text.bytes().all(fits) && text != "." && text != ".." {
        Ok(())
    } else {
        Err("is not an interface's name of at most 15 characters".to_owned())
    }
}

/// CNI's rule for names of networks.
fn network(text: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    if text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) && text.bytes().all(fits) {
        Ok(())
    } else {
        Err("is not a network's name: letters, digits, `_`, `.` and `-`".to_owned())
    }
}

fn log_level(text: &str) -> Result<(), String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let known = |part: &str| {
        let level = part.split_once('=').map_or(part, |(_, level)| level);
        LEVELS.contains(&level)
    };
    if text.split(',').all(known) {
        Ok(())
    } else {
        Err(format!("is not a level ({}) or PART=LEVEL, with commas between", LEVELS.join(", ")))
    }
}
