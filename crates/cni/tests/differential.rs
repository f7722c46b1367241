//! The same configuration through the reference plugins (Debian: containernetworking-plugins) and
//! through those that are built in: what is left in the kernel must be the same, seen by `ip`.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    clippy::needless_pass_by_value,
    reason = "helpers of tests"
)]

mod support;

use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;

use model::{PortMapping, PortProtocol};
use serde_json::{Map, Value, json};
use support::{Node, Pod, is_root};
use sys::netlink::Rtnetlink;

const DEBIAN: &str = "/usr/lib/cni";

/// What cannot be the same twice, or is about time.
const PASSING: &[&str] = &[
    "ifindex",
    "link_index",
    "link_netnsid",
    "parentbus",
    "parentdev",
    "preferred_life_time",
    "stable-privacy",
    "valid_life_time",
    "bridge_id",
    "root_id",
    "gc_timer",
    "hello_timer",
    "tcn_timer",
    "topology_change_timer",
    "port_id",
    "port_no",
    "hold_timer",
    "message_age_timer",
    "forward_delay_timer",
    "designated_bridge",
    "designated_port",
    "hashsize",
    "mac",
    "sandbox",
    "handle",
    "operstate",
    "flags",
    "state",
    // Ours are made without the kernel's own step in between, and say who made them.
    "protocol",
    "noprefixroute",
    "nodad",
    "tentative",
    "pref",
    // The reference plugins of this version leave it to the kernel.
    "qdisc",
    "num_tx_queues",
    "num_rx_queues",
    "tso_max_size",
    "txqlen",
];

fn installed() -> bool {
    if !is_root() {
        return false;
    }
    let missing = [&format!("{DEBIAN}/bridge"), "/usr/sbin/iptables", "/usr/sbin/ip"]
        .into_iter()
        .find(|path| !Path::new(path).exists())
        .map(ToString::to_string);
    if let Some(missing) = &missing {
        println!("skipped: no {missing}");
    }
    missing.is_none()
}

/// `ip -j …` in the calling thread's network namespace.
fn ip(arguments: &[&str]) -> Value {
    let output = Command::new("/usr/sbin/ip").arg("-j").args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    if text.trim().is_empty() { json!([]) } else { serde_json::from_str(&text).unwrap() }
}

/// Links with their addresses, routes, neighbours and rules of the calling thread's namespace.
fn seen() -> Value {
    let mut links = ip(&["-d", "addr"]);
    for link in links.as_array_mut().unwrap() {
        let up = link["flags"].as_array().unwrap().contains(&json!("UP"));
        let promiscuous = link["promiscuity"].as_u64().unwrap_or(0) > 0;
        link["up"] = up.into();
        for key in ["promiscuity", "address", "broadcast"] {
            link.as_object_mut().unwrap().remove(key);
        }
        link["takes_all"] = (promiscuous && link["linkinfo"]["info_kind"] == "bridge").into();
        let addresses = link["addr_info"].as_array_mut().unwrap();
        addresses.retain(|address| address["scope"] != "link");
    }
    let setting = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    normal(json!({
        "links": links,
        "routes": ip(&["route"]),
        "routes6": ip(&["-6", "route"]),
        "rules": ip(&["rule"]),
        "neighbours": neighbours(),
        "forwarding": forwarding(),
        "forward": setting("/proc/sys/net/ipv4/ip_forward"),
        "forward6": setting("/proc/sys/net/ipv6/conf/all/forwarding"),
    }))
}

/// Those that somebody has put there: the others come and go with packets.
fn neighbours() -> Value {
    let all = ip(&["neigh", "show", "nud", "permanent"]);
    all.as_array().unwrap().iter().filter(|one| one["dst"] != "ff02::16").cloned().collect()
}

/// What `iptables` lets pass.
fn forwarding() -> Vec<String> {
    let mut out = Vec::new();
    for program in ["/usr/sbin/iptables", "/usr/sbin/ip6tables"] {
        let output = Command::new(program).args(["-t", "filter", "-S"]).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        out.extend(text.lines().map(str::to_owned));
    }
    out
}

/// Without what passes, and in an order of its own.
fn normal(value: Value) -> Value {
    match value {
        Value::Object(object) => {
            let kept = object.into_iter().filter(|(key, _)| !PASSING.contains(&key.as_str()));
            Value::Object(kept.map(|(key, value)| (key, normal(value))).collect::<Map<_, _>>())
        }
        Value::Array(items) => {
            let mut items: Vec<Value> = items.into_iter().map(normal).collect();
            items.retain(|item| {
                let dst = item["dst"].as_str().unwrap_or_default();
                !dst.starts_with("fe80") && !dst.starts_with("ff00") && dst != "multicast"
            });
            items.sort_by_key(ToString::to_string);
            Value::Array(items)
        }
        Value::String(text) if text.starts_with("veth") => "VETH".into(),
        Value::String(text) if text.starts_with("bwp") => "IFB".into(),
        other => other,
    }
}

/// A node whose plugins are the reference ones, or none.
fn node(reference: bool, conf: &dyn Fn(&Node) -> Value) -> Node {
    let mut node = Node::new();
    if reference {
        node.config.bin_dirs = vec![DEBIAN.into()];
    }
    node.on_host(|| {
        let mut host = Rtnetlink::open().unwrap();
        let lo = host.index("lo").unwrap();
        host.set_up(lo, false).unwrap();
    });
    node.configure(&conf(&node));
    node
}

#[derive(Debug, PartialEq)]
struct Outcome {
    result: Value,
    pod: Value,
    host: Value,
    host_after: Value,
    reserved: Vec<String>,
    reserved_after: Vec<String>,
}

fn outcome(reference: bool, conf: &dyn Fn(&Node) -> Value, prepare: &dyn Fn(&mut Pod)) -> Outcome {
    let node = node(reference, conf);
    let mut pod = Pod::new(1);
    prepare(&mut pod);
    let result = match node.add(&pod) {
        Ok(result) => normal(result.raw),
        Err(error) => panic!("reference {reference}: {}", support::chain(&error)),
    };
    let (inside, host) = (pod.inside(seen), node.on_host(seen));
    let reserved = node.reserved("net");
    node.on_host(|| node.engine().check(&pod.attachment))
        .unwrap_or_else(|error| panic!("reference {reference}: {}", support::chain(&error)));
    node.del(&pod).unwrap();
    pod.lose_netns();
    // The pod's links go with its namespace, a moment later.
    node.on_host(|| {
        while ip(&["link"])
            .as_array()
            .unwrap()
            .iter()
            .any(|link| link["ifname"].as_str().unwrap_or_default().starts_with("veth"))
        {
            std::thread::yield_now();
        }
    });
    Outcome {
        result,
        pod: inside,
        host,
        host_after: node.on_host(seen),
        reserved,
        reserved_after: node.reserved("net"),
    }
}

/// The lines that only one side has, each behind the lines that lead to it.
fn difference(ours: &Value, theirs: &Value) -> String {
    let lines = |value: &Value| -> Vec<String> {
        let mut out = Vec::new();
        flatten("", value, &mut out);
        out
    };
    let (ours, theirs) = (lines(ours), lines(theirs));
    let only = |these: &[String], those: &[String], mark: &str| -> String {
        let lone = these.iter().filter(|line| !those.contains(line));
        lone.map(|line| format!("  {mark}{line}\n")).collect()
    };
    only(&ours, &theirs, "ours   ") + &only(&theirs, &ours, "theirs ")
}

fn flatten(path: &str, value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            let name = |key: &str| value[key].as_str().map(str::to_owned);
            let own = name("ifname").or_else(|| name("dst")).unwrap_or_default();
            for (key, value) in object {
                flatten(&format!("{path}{own}.{key}"), value, out);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                flatten(path, item, out);
            }
        }
        other => out.push(format!("{path}={other}")),
    }
}

#[track_caller]
fn same(conf: impl Fn(&Node) -> Value, prepare: impl Fn(&mut Pod)) {
    if !installed() {
        return;
    }
    let theirs = outcome(true, &conf, &prepare);
    let ours = outcome(false, &conf, &prepare);
    let parts = [
        ("result", &ours.result, &theirs.result),
        ("pod", &ours.pod, &theirs.pod),
        ("host", &ours.host, &theirs.host),
        ("host after DEL", &ours.host_after, &theirs.host_after),
    ];
    let differences: Vec<String> = parts
        .iter()
        .filter(|(_, ours, theirs)| ours != theirs)
        .map(|(what, ours, theirs)| format!("{what}\n{}", difference(ours, theirs)))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(ours.reserved, theirs.reserved);
    assert_eq!(ours.reserved_after, theirs.reserved_after);
    assert!(ours.reserved_after.is_empty());
}

fn list(plugins: Value) -> Value {
    json!({"cniVersion": "1.0.0", "name": "net", "plugins": plugins})
}

fn host_local(node: &Node, ranges: &Value, routes: &Value) -> Value {
    json!({"type": "host-local", "dataDir": node.config.data_dir, "ranges": ranges, "routes": routes})
}

#[test]
fn a_bridge_with_a_gateway_and_routes() {
    same(
        |node| {
            let ranges = json!([[{"subnet": "10.50.0.0/24", "rangeStart": "10.50.0.20"}]]);
            let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "10.99.0.0/16", "gw": "10.50.0.9"}]);
            list(json!([{
                "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
                "ipam": host_local(node, &ranges, &routes),
            }]))
        },
        |_| {},
    );
}

#[test]
fn a_dual_stack_bridge_as_default_gateway_with_hairpin_and_mtu() {
    same(
        |node| {
            let ranges = json!([[{"subnet": "10.50.0.0/24"}], [{"subnet": "fd50::/64"}]]);
            list(json!([{
                "type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
                "hairpinMode": true, "mtu": 1400,
                "ipam": host_local(node, &ranges, &json!([])),
            }]))
        },
        |_| {},
    );
}

#[test]
fn a_promiscuous_bridge_without_a_gateway() {
    same(
        |node| {
            let ranges = json!([[{"subnet": "10.50.0.0/24"}]]);
            list(json!([{
                "type": "bridge", "bridge": "cni0", "promiscMode": true,
                "ipam": host_local(node, &ranges, &json!([])),
            }]))
        },
        |_| {},
    );
}

#[test]
fn a_point_to_point_link_of_both_families() {
    same(
        |node| {
            let ranges = json!([[{"subnet": "10.50.0.0/24"}], [{"subnet": "fd50::/64"}]]);
            let routes = json!([{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]);
            list(json!([{
                "type": "ptp", "ipMasq": true, "mtu": 1450,
                "ipam": host_local(node, &ranges, &routes),
            }]))
        },
        |_| {},
    );
}

#[test]
fn tuned_links_and_settings() {
    same(
        |node| {
            let ranges = json!([[{"subnet": "10.50.0.0/24"}]]);
            list(json!([
                {"type": "bridge", "bridge": "cni0",
                 "ipam": host_local(node, &ranges, &json!([]))},
                {"type": "tuning", "mtu": 1300, "promisc": true, "allmulti": true,
                 "sysctl": {"net.ipv4.conf.eth0.arp_filter": "1"}},
            ]))
        },
        |_| {},
    );
}

#[test]
fn limited_links() {
    same(
        |node| {
            let ranges = json!([[{"subnet": "10.50.0.0/24"}]]);
            list(json!([
                {"type": "bridge", "bridge": "cni0",
                 "ipam": host_local(node, &ranges, &json!([]))},
                {"type": "bandwidth", "capabilities": {"bandwidth": true},
                 "ingressRate": 8_000_000, "ingressBurst": 800_000,
                 "egressRate": 4_000_000, "egressBurst": 400_000},
            ]))
        },
        |_| {},
    );
}

#[test]
fn what_the_firewall_lets_pass() {
    same(
        |node| {
            let ranges = json!([[{"subnet": "10.50.0.0/24"}], [{"subnet": "fd50::/64"}]]);
            list(json!([
                {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
                 "ipam": host_local(node, &ranges, &json!([]))},
                {"type": "firewall"},
            ]))
        },
        |_| {},
    );
}

#[test]
fn addresses_that_are_asked_for_and_a_gateway_that_is_forced() {
    same(
        |node| {
            let ranges = json!([[{"subnet": "10.50.0.0/24"}], [{"subnet": "10.60.0.0/24"}]]);
            list(json!([
                {"type": "bridge", "bridge": "cni0", "isGateway": true, "forceAddress": true,
                 "args": {"cni": {"ips": ["10.60.0.77"], "mac": "02:00:00:00:00:77"}},
                 "ipam": host_local(node, &ranges, &json!([]))},
            ]))
        },
        |_| {},
    );
}

/// The rules differ (iptables there, nftables here); what they do must not.
#[test]
fn masquerading_and_host_ports_have_the_same_effect() {
    if !installed() {
        return;
    }
    let conf = |node: &Node| {
        let ranges = json!([[{"subnet": "10.50.0.0/24"}]]);
        list(json!([
            {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "ipMasq": true,
             "hairpinMode": true, "ipam": host_local(node, &ranges, &json!([]))},
            {"type": "portmap", "capabilities": {"portMappings": true}},
            {"type": "firewall"},
        ]))
    };
    let effect = |reference| {
        let node = node(reference, &conf);
        let (mut server, client) = (Pod::new(1), Pod::new(2));
        server.attachment.port_mappings = vec![PortMapping {
            protocol: PortProtocol::Tcp,
            container_port: 8080,
            host_port: 18080,
            host_ip: String::new(),
        }];
        let ip = node.add(&server).unwrap().ips[0];
        node.add(&client).unwrap();
        let listener = server.inside(|| TcpListener::bind((ip, 8080)).unwrap());
        let connect = |to: &str| {
            let _client = TcpStream::connect(to).unwrap();
            listener.accept().unwrap().1.ip()
        };
        let seen: Vec<IpAddr> = vec![
            client.inside(|| connect("10.50.0.2:8080")),
            client.inside(|| connect("10.50.0.1:18080")),
            server.inside(|| connect("10.50.0.1:18080")),
            node.on_host(|| connect("10.50.0.1:18080")),
            node.on_host(|| connect("127.0.0.1:18080")),
        ];
        node.del(&server).unwrap();
        node.del(&client).unwrap();
        let refused = node.on_host(|| TcpStream::connect("10.50.0.1:18080").is_err());
        (seen, refused)
    };
    assert_eq!(effect(false), effect(true));
}
