//! VLANs of the built-in bridge. They take a kernel whose bridges know VLANs: `cargo xtask vm`.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests")]

mod support;

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};
use support::{Node, Pod, chain, connect, is_root};
use sys::netlink::{NewBridge, Rtnetlink};

fn node() -> Option<Node> {
    if !is_root() {
        return None;
    }
    let node = Node::new();
    let filters = node.on_host(|| {
        let mut host = Rtnetlink::open().unwrap();
        let mac = [2, 0, 0, 0, 0, 1];
        let probe = NewBridge { name: "probe0", mac, mtu: None, vlan_filtering: true };
        if let Err(error) = host.create_bridge(&probe) {
            assert_eq!(error.errno(), Some(95), "{error}");
            return false;
        }
        let link = host.link("probe0").unwrap().unwrap();
        host.delete_link("probe0").unwrap();
        link.default_vlan.is_some()
    });
    if !filters {
        println!("skipped: this kernel's bridges know no VLANs");
    }
    filters.then_some(node)
}

/// One bridge and one subnet for all, so that only the VLAN tells pods apart.
fn configure(node: &Node, options: &Value) {
    let mut bridge = json!({
        "type": "bridge", "bridge": "br0",
        "ipam": {"type": "host-local", "dataDir": node.config.data_dir, "subnet": "10.70.0.0/24"},
    });
    for (key, value) in options.as_object().unwrap() {
        bridge[key] = value.clone();
    }
    node.configure(&json!({"cniVersion": "1.0.0", "name": "net", "plugins": [bridge]}));
}

#[test]
fn pods_reach_those_of_their_vlan_and_nobody_else() {
    let Some(node) = node() else { return };
    let (first, second, other) = (Pod::new(1), Pod::new(2), Pod::new(3));
    configure(&node, &json!({"vlan": 10}));
    let ip = node.add(&first).unwrap().ips[0];
    node.add(&second).unwrap();
    configure(&node, &json!({"vlan": 20}));
    node.add(&other).unwrap();
    let listener = first.listen(ip);
    second.inside(|| connect(&listener));
    let address: SocketAddr = listener.local_addr().unwrap();
    let tried = other.inside(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)));
    assert!(tried.is_err(), "VLAN 20 reaches VLAN 10");
    for pod in [&first, &second, &other] {
        node.on_host(|| node.engine().check(&pod.attachment)).unwrap();
        node.del(pod).unwrap();
    }
}

#[test]
fn the_gateway_of_a_vlan_has_a_link_of_its_own() {
    let Some(node) = node() else { return };
    configure(&node, &json!({"vlan": 10, "isDefaultGateway": true}));
    let (first, second) = (Pod::new(1), Pod::new(2));
    let result = node.add(&first).unwrap();
    node.add(&second).unwrap();
    assert_eq!(result.raw["interfaces"][3]["name"], "br0.10");
    let listener = first.listen(result.ips[0]);
    assert_eq!(node.on_host(|| connect(&listener)), "10.70.0.1".parse::<IpAddr>().unwrap());
    let addresses = node.on_host(|| {
        let mut host = Rtnetlink::open().unwrap();
        let (bridge, gateway) = (host.index("br0").unwrap(), host.index("br0.10").unwrap());
        let v4 = |index| {
            let mut found = host.addresses(index).unwrap();
            found.retain(|prefix| prefix.address().is_ipv4());
            found.len()
        };
        [bridge, gateway].map(v4)
    });
    assert_eq!(addresses, [0, 1]);
}

#[test]
fn a_trunk_carries_its_vlans_and_the_native_one() {
    let Some(node) = node() else { return };
    configure(&node, &json!({"vlanTrunk": [{"minID": 10, "maxID": 12}]}));
    let (first, second) = (Pod::new(1), Pod::new(2));
    let ip = node.add(&first).unwrap().ips[0];
    node.add(&second).unwrap();
    let listener = first.listen(ip);
    second.inside(|| connect(&listener));
}

/// Which VLANs the bridge's ports are in, in the words of iproute2's `bridge`.
fn memberships(reference: bool, options: &Value) -> Option<Value> {
    const DEBIAN: &str = "/usr/lib/cni";
    let mut node = node()?;
    if !std::path::Path::new(DEBIAN).join("bridge").exists() {
        println!("skipped: no reference plugins in {DEBIAN}");
        return None;
    }
    if reference {
        node.config.bin_dirs = vec![DEBIAN.into()];
    }
    configure(&node, options);
    let pod = Pod::new(1);
    let result = node.add(&pod).unwrap();
    let output = node.on_host(|| {
        std::process::Command::new("/usr/sbin/bridge").args(["-j", "vlan", "show"]).output()
    });
    let mut ports: Vec<Value> = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    for port in &mut ports {
        let name = port["ifname"].as_str().unwrap();
        port["ifname"] = name.trim_end_matches(|c: char| c.is_ascii_hexdigit()).into();
    }
    ports.sort_by_key(ToString::to_string);
    node.del(&pod).unwrap();
    Some(json!({"ports": ports, "links": result.raw["interfaces"].as_array().unwrap().len()}))
}

#[test]
fn ports_are_in_the_vlans_in_which_the_reference_plugin_puts_them() {
    for options in [json!({"vlan": 10}), json!({"vlan": 20, "isDefaultGateway": true})] {
        let theirs = memberships(true, &options);
        assert_eq!(memberships(false, &options), theirs, "{options}");
    }
}

#[test]
fn a_port_leaves_the_bridges_own_vlan_where_it_is_not_preserved() {
    let Some(node) = node() else { return };
    configure(&node, &json!({"vlanTrunk": [{"id": 10}], "preserveDefaultVlan": false}));
    let (first, second) = (Pod::new(1), Pod::new(2));
    let ip = node.add(&first).unwrap().ips[0];
    node.add(&second).unwrap();
    let listener = first.listen(ip);
    let address: SocketAddr = listener.local_addr().unwrap();
    // What has no tag is in no VLAN at all now.
    let tried = second.inside(|| TcpStream::connect_timeout(&address, Duration::from_secs(2)));
    assert!(tried.is_err());
}

#[test]
fn a_bridge_that_does_not_filter_is_refused() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.on_host(|| {
        let mac = [2, 0, 0, 0, 0, 1];
        let plain = NewBridge { name: "br0", mac, mtu: None, vlan_filtering: false };
        Rtnetlink::open().unwrap().create_bridge(&plain).unwrap();
    });
    configure(&node, &json!({"vlan": 10}));
    let text = chain(&node.add(&Pod::new(1)).unwrap_err());
    assert!(text.contains("bridge br0 does not filter by VLAN"), "{text}");
    assert!(node.reserved("net").is_empty());
}
