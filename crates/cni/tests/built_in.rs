//! The network that is built in, against the real kernel.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::collections::HashSet;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use cni::{NetworkStatus, PluginError};
use serde_json::json;
use support::{Means, Node, Pod, ROUTER, STRANGER, chain, connect, is_root};
use sys::netlink::{NewBridge, Rtnetlink, netns};

#[test]
fn pods_reach_the_host_and_each_other_in_both_families() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let (first, second) = (Pod::new(1), Pod::new(2));
    let one = node.add(&first).unwrap();
    let two = node.add(&second).unwrap();
    assert_eq!(one.ips.len(), 2, "{one:?}");
    assert!(one.ips[0].is_ipv4() && one.ips[1].is_ipv6());
    assert_ne!(one.ips[0], two.ips[0]);
    for at in 0..2 {
        let listener = first.listen(one.ips[at]);
        node.on_host(|| connect(&listener));
        assert_eq!(second.inside(|| connect(&listener)), two.ips[at]);
    }
    let routes = first.routes();
    let v4_default = routes.lines().any(|l| l.starts_with("eth0\t00000000\t0100580A"));
    let v6_default = routes.lines().any(|l| {
        l.starts_with(&format!("{:032} 00 ", 0)) && l.contains("fd6b6e61727200000000000000000001")
    });
    assert!(v4_default && v6_default, "{routes}");
}

#[test]
fn the_result_describes_the_interfaces() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let pod = Pod::new(7);
    let raw = node.add(&pod).unwrap().raw;
    assert_eq!(raw["cniVersion"], "1.1.0");
    assert_eq!(raw["interfaces"][0]["name"], "knarr0");
    assert_eq!(raw["interfaces"][1]["name"], "veth07070707");
    assert_eq!(raw["interfaces"][2]["name"], "eth0");
    assert_eq!(raw["interfaces"][2]["sandbox"], json!(pod.attachment.netns_path));
    assert_eq!(raw["ips"][0]["gateway"], "10.88.0.1");
    assert_eq!(raw["routes"][0], json!({"dst": "0.0.0.0/0", "gw": "10.88.0.1"}));
}

#[test]
fn del_releases_the_address_and_may_be_repeated() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let pod = Pod::new(1);
    let ips = node.add(&pod).unwrap().ips;
    assert_eq!(node.reserved("knarr"), ips.iter().map(IpAddr::to_string).collect::<Vec<_>>());
    assert_eq!(node.cached(), 1);
    for _ in 0..2 {
        node.del(&pod).unwrap();
        assert!(node.reserved("knarr").is_empty());
        assert_eq!(node.cached(), 0);
    }
}

#[test]
fn del_works_when_the_namespace_is_gone() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let mut pod = Pod::new(1);
    node.add(&pod).unwrap();
    pod.lose_netns();
    node.del(&pod).unwrap();
    assert!(node.reserved("knarr").is_empty());
    let left = node.on_host(|| node.iptables(&["-t", "nat", "-S"])).unwrap_or_default();
    assert!(!left.contains("DNAT"), "{left}");
}

#[test]
fn del_of_a_pod_that_was_never_added_is_success() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.del(&Pod::new(1)).unwrap();
    node.configure(&json!({"name": "a", "plugins": [{"type": "nosuch"}]}));
    node.del(&Pod::new(1)).unwrap();
}

#[test]
fn an_exhausted_range_is_named() {
    if !is_root() {
        return;
    }
    let mut node = Node::new();
    node.config.default_subnets = vec!["10.7.0.0/30".parse().unwrap()];
    let (first, second) = (Pod::new(1), Pod::new(2));
    assert_eq!(node.add(&first).unwrap().ips, ["10.7.0.2".parse::<IpAddr>().unwrap()]);
    let error = node.add(&second).unwrap_err();
    let text = chain(&error);
    let want = "network `knarr` has no free address in 10.7.0.1-10.7.0.2: 1 are taken";
    assert!(text.contains(want), "{text}");
    assert!(!second.has_link("eth0"));
    node.del(&first).unwrap();
    node.add(&second).unwrap();
}

#[test]
fn twenty_pods_at_once_get_distinct_addresses() {
    if is_root() {
        Means::ALL.into_iter().filter_map(Node::by).for_each(|node| twenty_pods(&node));
    }
}

fn twenty_pods(node: &Node) {
    let published = |number: u8| {
        let mut pod = Pod::new(number);
        pod.attachment.port_mappings.push(model::PortMapping {
            protocol: model::PortProtocol::Tcp,
            container_port: 80,
            host_port: 12_000 + i32::from(number),
            host_ip: String::new(),
        });
        pod
    };
    let pods: Vec<Pod> = (1..=20).map(published).collect();
    let ips: HashSet<IpAddr> = std::thread::scope(|scope| {
        let add = |pod| scope.spawn(move || node.add(pod).unwrap().ips);
        let threads: Vec<_> = pods.iter().map(add).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(ips.len(), 40);
    assert_eq!(node.reserved("knarr").len(), 40);
    std::thread::scope(|scope| {
        for pod in &pods {
            scope.spawn(|| node.del(pod).unwrap());
        }
    });
    assert!(node.reserved("knarr").is_empty());
}

#[test]
fn a_failed_add_leaves_nothing_and_can_be_repeated() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let pod = Pod::new(1);
    let bridge =
        NewBridge { name: "eth0", mac: [2, 0, 0, 0, 0, 9], mtu: None, vlan_filtering: false };
    pod.inside(|| Rtnetlink::open().unwrap().create_bridge(&bridge).unwrap());
    let text = chain(&node.add(&pod).unwrap_err());
    assert!(text.contains("cannot make veth veth01010101 with its peer eth0"), "{text}");
    assert!(node.reserved("knarr").is_empty());
    assert_eq!(node.cached(), 0);
    pod.inside(|| Rtnetlink::open().unwrap().delete_link("eth0").unwrap());
    node.add(&pod).unwrap();
}

#[test]
fn a_missing_namespace_is_an_error_that_names_the_path() {
    let node = Node::new();
    let mut pod = Pod::new(1);
    pod.lose_netns();
    let text = node.add(&pod).unwrap_err().to_string();
    assert!(text.contains("no network namespace at /nonexistent/netns"), "{text}");
}

#[test]
fn traffic_that_leaves_the_node_is_masqueraded_and_other_traffic_is_not() {
    if is_root() {
        Means::ALL.into_iter().filter_map(Node::by).for_each(|node| leaving_traffic(&node));
    }
}

fn leaving_traffic(node: &Node) {
    let pod = Pod::new(1);
    node.add(&pod).unwrap();
    let listener = node.stranger().listen(STRANGER.parse().unwrap());
    let seen = pod.inside(|| connect(&listener));
    assert_eq!(seen.to_string(), ROUTER);
}

#[test]
fn gc_forgets_pods_that_are_gone_and_nobody_elses() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let (kept, lost) = (Pod::new(1), Pod::new(2));
    let ips = node.add(&kept).unwrap().ips;
    node.add(&lost).unwrap();
    let results = node.config.cache_dir.join("results");
    let foreign = json!({"kind": "cniCacheV1", "containerId": "c", "config": "e30=",
        "ifName": "eth0", "networkName": "n", "result": {}});
    std::fs::write(results.join("n-c-eth0"), foreign.to_string()).unwrap();
    // Reserved by an ADD that the daemon did not survive.
    std::fs::write(node.config.data_dir.join("knarr/10.88.0.77"), "").unwrap();
    let live = HashSet::from([kept.attachment.sandbox.clone()]);
    let report = node.on_host(|| node.engine().gc(&live).unwrap());
    assert_eq!((report.detached, report.released), (1, 1), "{report:?}");
    assert!(report.failures.is_empty(), "{report:?}");
    assert_eq!(node.reserved("knarr"), ips.iter().map(IpAddr::to_string).collect::<Vec<_>>());
    assert_eq!(node.cached(), 2);
}

#[test]
fn a_configuration_that_names_missing_binaries_uses_the_built_in_ones() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let data = node.path("own-data");
    node.configure(&json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {"type": "loopback"},
            {
                "type": "bridge", "bridge": "br1", "isGateway": true, "mtu": 1400,
                "ipam": {
                    "type": "host-local", "dataDir": data, "subnet": "10.9.0.0/24",
                    "rangeStart": "10.9.0.50", "rangeEnd": "10.9.0.60", "gateway": "10.9.0.254",
                    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.200.0.0/16", "gw": "10.9.0.253"}],
                },
            },
        ],
    }));
    assert_eq!(node.engine().status(), NetworkStatus::Ready);
    let pod = Pod::new(1);
    let result = node.add(&pod).unwrap();
    assert_eq!(result.ips, ["10.9.0.50".parse::<IpAddr>().unwrap()]);
    assert_eq!(result.raw["ips"][0]["version"], "4");
    assert!(data.join("pods/10.9.0.50").exists());
    let mtu =
        |fd: &Pod| fd.inside(|| Rtnetlink::open().unwrap().link("eth0").unwrap().unwrap().mtu);
    assert_eq!(mtu(&pod), 1400);
    let routes = pod.routes();
    assert!(routes.contains("eth0\t00000000\tFE00090A"), "{routes}");
    assert!(routes.contains("eth0\t0000C80A\tFD00090A"), "{routes}");
    node.del(&pod).unwrap();
    assert!(!data.join("pods/10.9.0.50").exists());
}

#[test]
fn a_link_in_the_place_of_the_bridge_is_an_error() {
    if !is_root() {
        return;
    }
    let mut node = Node::new();
    node.config.bridge_name = "lo".to_owned();
    let text = chain(&node.add(&Pod::new(1)).unwrap_err());
    assert!(text.contains("link lo is a ``, not a bridge"), "{text}");
    assert!(node.reserved("knarr").is_empty());
}

#[test]
fn options_that_are_not_built_in_are_refused() {
    let node = Node::new();
    node.configure(&json!({"cniVersion": "1.0.0", "name": "a",
        "plugins": [{"type": "bridge", "enabledad": true}]}));
    let error = node.add(&Pod::new(1)).unwrap_err();
    let text = chain(&error);
    assert!(text.contains("`enabledad` needs the reference bridge plugin"), "{text}");
    let cni::AddError::Plugin { source, .. } = error else { panic!("{error:?}") };
    assert!(matches!(*source, PluginError::BuiltIn { plugin: "bridge", .. }));
}

#[test]
fn a_pod_that_is_checked_sends_from_its_own_hardware_address_only() {
    if !is_root() {
        return;
    }
    for checked in [true, false] {
        let node = Node::new();
        node.configure(&json!({"cniVersion": "1.0.0", "name": "net", "plugins": [{
            "type": "bridge", "bridge": "br0", "isGateway": true, "macspoofchk": checked,
            "ipam": {"type": "host-local", "subnet": "10.9.0.0/24"},
        }]}));
        let (pod, other) = (Pod::new(1), Pod::new(2));
        node.add(&pod).unwrap();
        let ip = node.add(&other).unwrap().ips[0];
        let socket = other.inside(|| UdpSocket::bind((ip, 0)).unwrap());
        let address = socket.local_addr().unwrap();
        let send =
            |text: &[u8]| pod.inside(|| UdpSocket::bind("0.0.0.0:0")?.send_to(text, address));
        let arrived = |limit: u64| {
            socket.set_read_timeout(Some(Duration::from_secs(limit))).unwrap();
            let mut buffer = [0; 16];
            socket.recv(&mut buffer).ok().map(|len| buffer[..len].to_vec())
        };
        send(b"own").unwrap();
        assert_eq!(arrived(10).as_deref(), Some(&b"own"[..]));
        node.on_host(|| node.engine().check(&pod.attachment)).unwrap();
        let change = sys::netlink::LinkChange {
            mac: Some([2, 0, 0, 0, 0, 0x66]),
            ..sys::netlink::LinkChange::default()
        };
        pod.inside(|| {
            let mut link = Rtnetlink::open().unwrap();
            let index = link.index("eth0").unwrap();
            link.change(index, &change).unwrap();
        });
        send(b"other").unwrap();
        let arrived = arrived(if checked { 1 } else { 10 });
        assert_eq!(arrived.is_none(), checked, "{arrived:?}");
        node.del(&pod).unwrap();
        node.del(&other).unwrap();
        let left = node.on_host(|| {
            let mut nft = sys::netlink::nftables::Nftables::open().unwrap();
            let bridge = sys::netlink::nftables::TableFamily::Bridge;
            nft.elements(bridge, "knarr", "senders").unwrap().len()
        });
        assert_eq!(left, 0);
    }
}

#[test]
fn after_a_reboot_pods_are_detached_by_what_was_recorded() {
    if !is_root() {
        return;
    }
    let mut node = Node::new();
    let (mut pod, next) = (Pod::new(1), Pod::new(2));
    pod.attachment.port_mappings = vec![model::PortMapping {
        protocol: model::PortProtocol::Tcp,
        container_port: 80,
        host_port: 8080,
        host_ip: String::new(),
    }];
    node.add(&pod).unwrap();
    // Links, rules and namespaces are gone; files are not.
    pod.lose_netns();
    node.host = netns::create().unwrap();
    node.del(&pod).unwrap();
    node.del(&pod).unwrap();
    assert!(node.reserved("knarr").is_empty());
    assert_eq!(node.cached(), 0);
    node.add(&next).unwrap();
}

/// A connection whose peer has vanished keeps a namespace for minutes, longer than its address.
#[test]
fn a_namespace_that_outlives_its_pod_keeps_no_address() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let pod = Pod::new(1);
    let ips = node.add(&pod).unwrap().ips;
    node.del(&pod).unwrap();
    let left = pod.inside(|| {
        let mut pod = Rtnetlink::open().unwrap();
        let index = pod.index("eth0").unwrap();
        pod.addresses(index).unwrap()
    });
    let left: Vec<IpAddr> = left.iter().map(sys::netlink::IpPrefix::address).collect();
    assert!(ips.iter().all(|ip| !left.contains(ip)), "{left:?}");
}

#[test]
fn the_link_of_a_namespace_that_somebody_holds_is_deleted_after_a_while() {
    if !is_root() {
        return;
    }
    let mut node = Node::new();
    let (gone, other) = (Pod::new(1), Pod::new(2));
    node.add(&gone).unwrap();
    node.add(&other).unwrap();
    // Not at once: most namespaces end by themselves, and their links with them.
    let patient = node.engine();
    node.on_host(|| patient.del(&gone.attachment)).unwrap();
    node.on_host(|| patient.delete_leftover_links());
    assert!(gone.has_link("eth0"));
    node.config.links_linger = Duration::ZERO;
    let engine = node.engine();
    let held = Pod::new(3);
    node.add(&held).unwrap();
    node.on_host(|| engine.del(&held.attachment)).unwrap();
    node.on_host(|| engine.delete_leftover_links());
    assert!(!held.has_link("eth0") && other.has_link("eth0"));
}

#[test]
fn the_link_of_a_namespace_that_nobody_can_find_is_deleted() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let (mut pod, other) = (Pod::new(1), Pod::new(2));
    node.add(&pod).unwrap();
    node.add(&other).unwrap();
    pod.attachment.netns_path = "/nonexistent/netns".into();
    node.del(&pod).unwrap();
    assert!(!pod.has_link("eth0"));
    assert!(other.has_link("eth0"));
}
