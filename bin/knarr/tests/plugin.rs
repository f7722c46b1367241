//! The program as a CNI plugin, run by an engine and by hand, as other runtimes would run it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

#[path = "../../../crates/cni/tests/support/mod.rs"]
mod support;

use std::collections::HashSet;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};

use cni::NetworkStatus;
use model::{PortMapping, PortProtocol};
use serde_json::{Value, json};
use support::{Node, Pod, chain, is_root};
use sys::netlink::Rtnetlink;

const PROGRAM: &str = env!("CARGO_BIN_EXE_knarr");
const NAMES: [&str; 8] =
    ["bandwidth", "bridge", "firewall", "host-local", "loopback", "portmap", "ptp", "tuning"];

/// A node whose plugins are links to the program.
fn node() -> Node {
    let node = Node::new();
    for name in NAMES {
        symlink(PROGRAM, node.path("bin").join(name)).unwrap();
    }
    // Without it a refused connection is not refused but unanswered.
    node.on_host(|| {
        let mut host = Rtnetlink::open().unwrap();
        let lo = host.index("lo").unwrap();
        host.set_up(lo, false).unwrap();
    });
    node
}

fn host_local(node: &Node) -> Value {
    json!({"type": "host-local", "dataDir": node.config.data_dir, "ranges": [[{"subnet": "10.60.0.0/24"}]]})
}

#[test]
fn an_engine_that_runs_the_program_gets_what_the_built_ins_give() {
    if !is_root() {
        return;
    }
    let node = node();
    node.configure(&json!({"cniVersion": "1.1.0", "name": "net", "plugins": [
        {"type": "bridge", "bridge": "br0", "isDefaultGateway": true, "ipMasq": true,
         "hairpinMode": true, "ipam": host_local(&node)},
        {"type": "tuning", "mtu": 1400},
        {"type": "portmap", "capabilities": {"portMappings": true}},
        {"type": "bandwidth", "egressRate": 8_000_000, "egressBurst": 800_000},
    ]}));
    let probed = node.on_host(|| node.engine().probe());
    assert_eq!(probed, NetworkStatus::Ready);
    let mut pod = Pod::new(1);
    pod.attachment.port_mappings = vec![PortMapping {
        protocol: PortProtocol::Tcp,
        container_port: 8080,
        host_port: 18080,
        host_ip: String::new(),
    }];
    let ip = node.add(&pod).unwrap().ips[0];
    let listener = pod.inside(|| TcpListener::bind((ip, 8080)).unwrap());
    node.on_host(|| TcpStream::connect("10.60.0.1:18080").unwrap());
    listener.accept().unwrap();
    node.on_host(|| node.engine().check(&pod.attachment)).unwrap();

    let kept = HashSet::from([pod.attachment.sandbox.clone()]);
    std::fs::write(node.config.data_dir.join("net/10.60.0.99"), "gone\r\neth0").unwrap();
    let report = node.on_host(|| node.engine().gc(&kept).unwrap());
    assert!(report.failures.is_empty(), "{report:?}");
    assert_eq!(node.reserved("net"), [ip.to_string()]);

    node.del(&pod).unwrap();
    // Unlike within the daemon, nobody promises that the namespace goes now.
    assert!(!pod.has_link("eth0"));
    assert!(node.reserved("net").is_empty());
    node.on_host(|| assert!(TcpStream::connect("10.60.0.1:18080").is_err()));
    node.add(&pod).unwrap();
    node.del(&pod).unwrap();
}

/// One call by hand: what it printed, and whether it succeeded.
fn call(node: &Node, name: &str, variables: &[(&str, &str)], conf: &Value) -> (Value, bool) {
    let program = node.path("bin").join(name);
    node.on_host(|| {
        let mut child = Command::new(&program)
            .env_clear()
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        serde_json::to_writer(child.stdin.take().unwrap(), conf).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let value =
            if text.is_empty() { Value::Null } else { serde_json::from_str(&text).unwrap() };
        (value, output.status.success())
    })
}

#[test]
fn the_protocol_is_kept_call_by_call() {
    if !is_root() {
        return;
    }
    let node = node();
    symlink(PROGRAM, node.path("bin/knarr")).unwrap();
    let pod = Pod::new(1);
    let netns = pod.attachment.netns_path.display().to_string();
    let bin = node.path("bin").display().to_string();
    let with = |command: &'static str| {
        vec![
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", "by-hand"),
            ("CNI_NETNS", netns.as_str()),
            ("CNI_IFNAME", "eth0"),
            ("CNI_PATH", bin.as_str()),
        ]
    };
    let conf =
        json!({"cniVersion": "0.4.0", "name": "net", "type": "ptp", "ipam": host_local(&node)});
    let (version, success) =
        call(&node, "ptp", &[("CNI_COMMAND", "VERSION")], &json!({"cniVersion": "1.0.0"}));
    assert!(success && version["supportedVersions"].as_array().unwrap().contains(&json!("1.1.0")));

    let (result, success) = call(&node, "ptp", &with("ADD"), &conf);
    assert!(success, "{result}");
    assert_eq!(
        (&result["cniVersion"], &result["ips"][0]["version"]),
        (&json!("0.4.0"), &json!("4"))
    );
    assert_eq!(result["ips"][0]["address"], "10.60.0.2/24");
    let mut checked = conf.clone();
    checked["prevResult"] = result;
    assert_eq!(call(&node, "ptp", &with("CHECK"), &checked), (Value::Null, true));
    let (error, success) = call(&node, "ptp", &with("ADD"), &conf);
    assert!(
        !success && error["msg"].as_str().unwrap().contains("has 10.60.0.2 already"),
        "{error}"
    );
    assert!(pod.has_link("eth0"));

    // The same by the program's own name.
    let mut named = conf.clone();
    named["plugin"] = "ptp".into();
    for _ in 0..2 {
        assert_eq!(call(&node, "knarr", &with("DEL"), &named), (Value::Null, true));
        assert!(!pod.has_link("eth0") && node.reserved("net").is_empty());
    }
    let (result, _) = call(&node, "knarr", &with("ADD"), &named);
    assert_eq!(result["ips"][0]["address"], "10.60.0.3/24");
    let mut gone = with("DEL");
    gone.retain(|(key, _)| *key != "CNI_NETNS");
    assert_eq!(call(&node, "ptp", &gone, &conf), (Value::Null, true));
    assert!(node.reserved("net").is_empty());
}

#[test]
fn errors_are_objects_that_engines_quote() {
    if !is_root() {
        return;
    }
    let node = node();
    node.configure(&json!({"cniVersion": "1.0.0", "name": "net", "plugins": [
        {"type": "bridge", "bridge": "br0", "enabledad": true, "ipam": host_local(&node)},
    ]}));
    let text = chain(&node.add(&Pod::new(1)).unwrap_err());
    assert!(text.contains("CNI plugin `bridge` failed: its configuration is unusable"), "{text}");
    assert!(text.ends_with("(code 7)"), "{text}");
}

#[test]
fn called_by_a_plugins_name_without_a_runtime_it_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("host-local");
    symlink(PROGRAM, &link).unwrap();
    let output = Command::new(&link).env_remove("CNI_COMMAND").output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.starts_with("CNI host-local plugin of knarr"), "{text}");
    assert!(Path::new(PROGRAM).exists());
}
