//! What is accepted, what is refused, and in which words.

use std::{fs, path::PathBuf};

use super::{handlers::Binary, *};

fn parse(text: &str) -> Result<Config, String> {
    let file = PathBuf::from("config.toml");
    merge(vec![(file, text.to_owned())])
        .map(|loaded| loaded.config)
        .map_err(|error| error.to_string())
}

#[test]
fn nothing_configured_means_defaults() {
    let config = parse("").unwrap();
    assert_eq!(config.cni.conf_dir, PathBuf::from("/etc/cni/net.d"));
    assert_eq!(config.cni.bin_dirs, ["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from));
    assert_eq!(config.cni.cache_dir, PathBuf::from("/var/lib/cni"));
    assert_eq!(config.cni.bridge_name, "knarr0");
    let subnets = ["10.88.0.0/16", "fd6b:6e61:7272::/64"].map(|subnet| subnet.parse().unwrap());
    assert_eq!(config.cni.subnets, subnets);
    assert!(config.cni.follow_kubelet && config.cni.built_in_network);
    assert!(config.cni.serve_host_ports);
    assert_eq!(config.cni.packet_filter, cni::PacketFilter::Auto);
    assert_eq!(config.cni.gc_interval, Duration::from_secs(600));
    assert!(config.cni.networks.is_empty() && config.cni.pod_networks.is_empty());
    assert_eq!(config.cdi_dirs, ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from));
    assert_eq!(config.block_io_classes, PathBuf::from("/etc/knarr/blockio.yaml"));
    assert_eq!(config.cgroup.driver, CgroupDriverKey::Auto);
    assert_eq!(config.default_handler, "knarr");
    assert_eq!(config.handlers, BTreeMap::from([("knarr".to_owned(), Handler::default())]));
    assert_eq!(
        config.streaming,
        Streaming {
            address: "127.0.0.1:0".parse().unwrap(),
            tls: None,
            idle_timeout: Duration::from_secs(4 * 3600),
            creation_timeout: Duration::from_secs(30),
        }
    );
    assert_eq!(config.exec.drain_timeout, Duration::from_secs(10));
    assert_eq!(config.log, Log { level: "info".into(), format: LogFormat::Text });
}

#[test]
fn containerds_registry_directory_is_searched_unless_one_is_named() {
    let dirs = parse("").unwrap().image().registry.hosts_dirs;
    assert_eq!(dirs, ["/etc/knarr/certs.d", "/etc/containerd/certs.d"].map(PathBuf::from));
}

#[test]
fn every_key_is_honoured() {
    let config = parse(
        r#"
        default_handler = "runc"
        [registry]
        config_path = "/r"
        [cni]
        conf_dir = "/c"
        bin_dirs = ["/a", "/b"]
        cache_dir = "/n"
        bridge_name = "br9"
        subnets = ["10.1.0.0/24", "fd00::/64"]
        pod_ranges = "subnets"
        without_configuration = "none"
        networks = ["main", "storage"]
        pod_networks = ["backup"]
        host_ports = "plugins"
        packet_filter = "iptables"
        gc_interval = "1m"
        [cdi]
        spec_dirs = ["/v"]
        [blockio]
        config_file = "/b.yaml"
        [cgroup]
        driver = "systemd"
        [streaming]
        address = "[::1]:10010"
        tls_cert = "/t/cert"
        tls_key = "/t/key"
        client_ca = "/t/ca"
        idle_timeout = "1h30m"
        creation_timeout = "500ms"
        [exec]
        drain_timeout = "0s"
        [log]
        level = "warn,registry=trace"
        format = "json"
        [handlers.runc]
        path = "/usr/bin/runc"
        type = "gvisor"
        root = "/runc"
        options = ["--debug"]
        annotations = ["a/*"]
        base_spec = "/base.json"
        sandbox_container = false
        [handlers.plain]
        "#,
    )
    .unwrap();
    assert_eq!(config.image().registry.hosts_dirs, [PathBuf::from("/r")]);
    assert_eq!(config.cni.bin_dirs, [PathBuf::from("/a"), PathBuf::from("/b")]);
    assert_eq!(config.cni.subnets.len(), 2);
    assert_eq!(config.cni.cache_dir, PathBuf::from("/n"));
    assert_eq!(config.cni.bridge_name, "br9");
    assert!(!config.cni.follow_kubelet && !config.cni.built_in_network);
    assert_eq!(config.cni.networks, ["main", "storage"]);
    assert_eq!(config.cni.pod_networks, ["backup"]);
    assert!(!config.cni.serve_host_ports);
    assert_eq!(config.cni.packet_filter, cni::PacketFilter::Iptables);
    assert_eq!(config.cni.gc_interval, Duration::from_secs(60));
    assert_eq!(config.cdi_dirs, [PathBuf::from("/v")]);
    assert_eq!(config.block_io_classes, PathBuf::from("/b.yaml"));
    assert_eq!(config.cgroup.driver, CgroupDriverKey::Systemd);
    let runc = Handler {
        binary: Some(Binary {
            path: "/usr/bin/runc".into(),
            kind: sandbox::RuntimeKind::Sandbox,
            root: Some("/runc".into()),
            options: ["--debug", "--overlay2=none", "--oci-seccomp"].map(Into::into).into(),
            sandbox_container: false,
        }),
        annotations: vec!["a/*".into()],
        base_spec: Some("/base.json".into()),
    };
    assert_eq!(config.handlers["runc"], runc);
    assert_eq!(config.handlers["plain"], Handler::default());
    assert_eq!(config.default_handler, "runc");
    let streaming = config.streaming;
    assert_eq!(streaming.address.port(), 10010);
    let (cert, key) = ("/t/cert".into(), "/t/key".into());
    assert_eq!(streaming.tls, Some(Tls { cert, key, client_ca: Some("/t/ca".into()) }));
    assert_eq!(streaming.idle_timeout, Duration::from_secs(5400));
    assert_eq!(streaming.creation_timeout, Duration::from_millis(500));
    assert_eq!(config.exec.drain_timeout, Duration::ZERO);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn gvisor_applies_profiles_and_leaves_writable_layers_to_us_unless_it_is_told_otherwise() {
    let options = |kind: &str, given: &str| {
        let text = format!("[handlers.x]\npath = \"/x\"\ntype = \"{kind}\"\noptions = [{given}]\n");
        parse(&text).unwrap().handlers.remove("x").unwrap().binary.unwrap().options
    };
    assert_eq!(options("gvisor", ""), ["--overlay2=none", "--oci-seccomp"]);
    let told = ["--overlay2=all:memory", "--oci-seccomp"];
    assert_eq!(options("gvisor", "\"--overlay2=all:memory\""), told);
    let told = ["-oci-seccomp=false", "--overlay2=none"];
    assert_eq!(options("gvisor", "\"-oci-seccomp=false\""), told);
    assert!(options("oci", "").is_empty());
}

#[test]
fn mistakes_are_named_with_their_line() {
    for (text, expected) in [
        ("\n\n[regsitry]\n", "config.toml:3: unknown key `regsitry` — did you mean `registry`?"),
        (
            "[cni]\nbin_dir = []\n",
            "config.toml:2: unknown key `bin_dir` in [cni] — did you mean `bin_dirs`?",
        ),
        (
            "[log]\ncolour = true\n",
            "config.toml:2: unknown key `colour` in [log]; there is level, format",
        ),
        (
            "[handlers.runc]\npaht = \"/x\"\n",
            "config.toml:2: unknown key `paht` in [handlers.runc] — did you mean `path`?",
        ),
        ("cni = 3\n", "config.toml:1: `cni` must be a table, not a number"),
        ("cni.conf_dir = 3\n", "`cni.conf_dir`: must be a text, not a number"),
        ("cni.bin_dirs = \"/x\"\n", "`cni.bin_dirs`: must be a list of texts, not a text"),
        ("cni.bin_dirs = [\"/x\", 1]\n", "`cni.bin_dirs`: must hold only texts, not a number"),
        ("cni.bin_dirs = []\n", "`cni.bin_dirs`: must not be empty"),
        ("cni.conf_dir = \"x\"\n", "`cni.conf_dir`: \"x\" is not an absolute path"),
        ("cni.subnets = [\"10.0.0.1/8\"]\n", "has address bits beyond its prefix"),
        ("cni.subnets = [\"10.0.0.0\"]\n", "is not a subnet"),
        ("cni.subnets = [\"10.0.0.0/31\"]\n", "not between 1 and 30"),
        ("cni.subnets = [\"10.0.0.0/8\", \"11.0.0.0/8\"]\n", "two subnets of one address family"),
        ("cni.networks = [\"../x\"]\n", "is not a network's name"),
        ("cni.pod_ranges = \"me\"\n", "is none of \"kubelet\", \"subnets\""),
        ("cni.packet_filter = \"pf\"\n", "is none of \"auto\", \"nftables\", \"iptables\""),
        ("cni.bridge_name = \"a-name-that-is-too-long\"\n", "at most 15 characters"),
        (
            "cgroup.driver = \"sytemd\"\n",
            "\"sytemd\" is none of \"auto\", \"cgroupfs\", \"systemd\"",
        ),
        ("streaming.address = \"localhost\"\n", "is not an address and port"),
        ("streaming.idle_timeout = \"4\"\n", "\"4\" is not a length of time"),
        ("streaming.idle_timeout = \"\"\n", "\"\" is not a length of time"),
        ("streaming.creation_timeout = \"0s\"\n", "must be more than nothing"),
        ("streaming.tls_cert = \"cert\"\n", "\"cert\" is not an absolute path"),
        ("streaming.tls_cert = \"/c\"\n", "config.toml:1: [streaming] has no tls_key"),
        ("streaming.client_ca = \"/c\"\n", "[streaming] has no tls_cert and no tls_key"),
        ("exec.drain_timeout = \"10 s\"\n", "is not a length of time"),
        ("log.level = \"debg\"\n", "\"debg\" is not a level"),
        ("log.format = \"xml\"\n", "is none of \"text\", \"json\""),
        ("default_handler = \"crun\"\n", "`crun` is not configured; there is knarr"),
        ("[handlers.knarr]\npath = \"/x\"\n", "is the built-in one and has no path"),
        ("[handlers.x]\nroot = \"/r\"\n", "has no path: `root` means nothing for it"),
        ("[handlers.x]\ntype = \"vm\"\n", "is none of \"oci\", \"gvisor\""),
        ("[handlers.Runc]\npath = \"/x\"\n", "`Runc` is not a handler's name"),
        ("[handlers.x]\npath = \"/x\"\noptions = [\"--systemd-cgroup\"]\n", "leave it out"),
        ("[handlers.x]\npath = \"/x\"\noptions = [\"-systemd-cgroup=true\"]\n", "config.toml:3: "),
        ("[cni\n", "config.toml:1: this is not TOML"),
        ("log.level = \"info\"\nlog.level = \"warn\"\n", "config.toml:2: this is not TOML"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(expected), "{text:?} gives\n{error}\nnot\n{expected}");
    }
}

#[test]
fn all_mistakes_are_named_at_once() {
    let error = parse("a = 1\n[cni]\nb = 2\nconf_dir = 3\n").unwrap_err();
    assert_eq!(error.lines().count(), 4, "{error}");
}

#[test]
fn drop_ins_win_in_the_order_of_their_names_key_by_key() {
    let dir = tempfile::tempdir().unwrap();
    let main = dir.path().join("config.toml");
    let drop_ins = dir.path().join("conf.d");
    fs::create_dir(&drop_ins).unwrap();
    fs::write(&main, "[log]\nlevel = \"warn\"\nformat = \"json\"\n").unwrap();
    fs::write(drop_ins.join("20-b.toml"), "[log]\nlevel = \"trace\"\n").unwrap();
    fs::write(drop_ins.join("10-a.toml"), "log.level = \"debug\"\ncni.bin_dirs = [\"/z\"]\n")
        .unwrap();
    fs::write(drop_ins.join("note.txt"), "not read").unwrap();
    let loaded = load(Some(&main)).unwrap();
    assert_eq!(loaded.config.log, Log { level: "trace".into(), format: LogFormat::Json });
    assert_eq!(loaded.config.cni.bin_dirs, [PathBuf::from("/z")]);
    assert_eq!(loaded.files.len(), 3);
    let shown = print::effective(&loaded);
    assert!(shown.contains("20-b.toml:2"), "{shown}");
    assert!(shown.contains("bridge_name = \"knarr0\" # default"), "{shown}");
}

#[test]
fn a_file_that_was_named_must_exist() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.toml");
    assert!(matches!(load(Some(&missing)), Err(ConfigError::Read { .. })));
}

#[test]
fn the_printed_defaults_are_the_defaults() {
    let text = print::default_file();
    let uncommented: String = text
        .lines()
        .map(|line| line.strip_prefix("# ").filter(|line| line.contains(" = ")).unwrap_or(line))
        // The rest is an example.
        .take_while(|line| !line.contains("[handlers."))
        .map(|line| format!("{line}\n"))
        .collect();
    let mut expected = parse("").unwrap();
    expected.registry.config_path.truncate(1);
    assert_eq!(parse(&uncommented), Ok(expected), "{uncommented}");
    assert_eq!(parse(&text), parse(""));
}

#[test]
fn what_is_shown_can_be_read_back() {
    let text = "default_handler = \"runc\"\n[handlers.runc]\npath = \"/usr/bin/runc\"\n\
                [handlers.crun]\npath = \"/usr/bin/crun\"\noptions = [\"-a\", \"-b\"]\n\
                sandbox_container = true\n[handlers.plain]\n";
    let loaded = merge(vec![("x.toml".into(), text.to_owned())]).unwrap();
    let shown = print::effective(&loaded);
    let mut expected = loaded.config;
    // Shown, the default is a setting like others.
    expected.registry.config_path.truncate(1);
    assert_eq!(parse(&shown), Ok(expected), "{shown}");
}

#[test]
fn every_key_is_documented() {
    let page = include_str!("../../../../docs/operate/configuration.md");
    for key in schema::KEYS {
        let path = key.path.replace('*', "NAME");
        assert!(page.contains(&format!("`{path}`")), "{path} is missing in configuration.md");
        for default in key.default.iter().filter(|default| !default.is_empty()) {
            assert!(page.contains(default), "the default {default} of {path} is missing");
        }
    }
}
