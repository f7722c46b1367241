//! Several networks for one pod, addresses and hardware addresses that are asked for, and what
//! becomes of the built-in network on hosts that are in its way.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::net::IpAddr;

use cni::{CheckError, NetworkStatus};
use serde_json::{Value, json};
use support::{Means, Node, Pod, chain, is_root};
use sys::netlink::{NewBridge, NewRoute, Rtnetlink};

const ANNOTATION: &str = "k8s.v1.cni.cncf.io/networks";

fn bridged(node: &Node, number: u8) -> Value {
    let name = format!("net-{number}");
    json!({"cniVersion": "1.0.0", "name": name, "plugins": [{
        "type": "bridge", "bridge": format!("br{number}"), "isGateway": true,
        "capabilities": {"mac": true, "ips": true},
        "ipam": {
            "type": "host-local", "dataDir": node.config.data_dir,
            "ranges": [[{"subnet": format!("10.{number}.0.0/24")}]],
        },
    }]})
}

/// A node with the networks net-1, net-2 and net-3.
fn node() -> Node {
    let node = Node::new();
    for number in 1..=3 {
        let file = node.path(&format!("net.d/{number}.conflist"));
        std::fs::write(file, bridged(&node, number).to_string()).unwrap();
    }
    node
}

fn addresses(pod: &Pod, link: &str) -> Vec<String> {
    pod.inside(|| {
        let mut route = Rtnetlink::open().unwrap();
        let index = route.index(link).unwrap();
        let found = route.addresses(index).unwrap();
        found.iter().map(|p| p.address()).filter(IpAddr::is_ipv4).map(|a| a.to_string()).collect()
    })
}

#[test]
fn every_pod_gets_the_networks_of_the_configuration() {
    if !is_root() {
        return;
    }
    let mut node = node();
    node.config.networks = vec!["net-2".to_owned(), "net-1".to_owned()];
    let pod = Pod::new(1);
    let result = node.add(&pod).unwrap();
    assert_eq!(result.ips, ["10.2.0.2".parse::<IpAddr>().unwrap()]);
    assert_eq!(result.others.len(), 1);
    assert_eq!(
        (result.others[0].name.as_str(), result.others[0].interface.as_str()),
        ("net-1", "eth1")
    );
    assert_eq!(addresses(&pod, "eth0"), ["10.2.0.2"]);
    assert_eq!(addresses(&pod, "eth1"), ["10.1.0.2"]);
    assert_eq!(node.cached(), 2);
    node.on_host(|| node.engine().check(&pod.attachment)).unwrap();
    node.del(&pod).unwrap();
    assert_eq!(node.cached(), 0);
    assert!(node.reserved("net-1").is_empty() && node.reserved("net-2").is_empty());
}

#[test]
fn a_network_that_is_configured_by_name_must_exist() {
    let mut node = node();
    node.config.networks = vec!["net-1".to_owned(), "net-9".to_owned()];
    let NetworkStatus::NotReady { message } = node.engine().status() else { panic!("ready") };
    assert!(message.contains("has a network `net-9`"), "{message}");
}

#[test]
fn pods_ask_for_networks_addresses_and_hardware_addresses() {
    if !is_root() {
        return;
    }
    let mut node = node();
    node.config.pod_networks = vec!["net-2".to_owned(), "net-3".to_owned()];
    let mut pod = Pod::new(1);
    let wanted = json!([
        {"name": "net-2", "namespace": "x", "ips": ["10.2.0.77"], "mac": "02:00:00:00:00:77"},
        {"name": "net-3", "interface": "fast0"},
    ]);
    pod.attachment.annotations.insert(ANNOTATION.to_owned(), wanted.to_string());
    node.add(&pod).unwrap();
    assert_eq!(addresses(&pod, "eth0"), ["10.1.0.2"]);
    assert_eq!(addresses(&pod, "net1"), ["10.2.0.77"]);
    assert_eq!(addresses(&pod, "fast0"), ["10.3.0.2"]);
    let mac = pod.inside(|| Rtnetlink::open().unwrap().link("net1").unwrap().unwrap().mac);
    assert_eq!(mac, Some([2, 0, 0, 0, 0, 0x77]));
    // DEL goes by what was recorded, whatever may be asked for today.
    node.config.pod_networks.clear();
    node.del(&pod).unwrap();
    assert_eq!(node.cached(), 0);
    assert!((1..=3).all(|number| node.reserved(&format!("net-{number}")).is_empty()));
}

#[test]
fn what_pods_may_not_have_is_refused_and_nothing_is_left() {
    if !is_root() {
        return;
    }
    let mut node = node();
    node.config.pod_networks = vec!["net-2".to_owned(), "gone".to_owned()];
    let table = [
        ("net-3", "pods may not ask for network `net-3`"),
        ("gone", "has a network `gone`"),
        ("net-2@eth0", "`eth0` cannot be the name of one more interface"),
        (r#"[{"name":"net-2","ips":["10.9.9.9"]}]"#, "10.9.9.9 is in none of its ranges"),
    ];
    for (annotation, want) in table {
        let mut pod = Pod::new(1);
        pod.attachment.annotations.insert(ANNOTATION.to_owned(), annotation.to_owned());
        let text = chain(&node.add(&pod).unwrap_err());
        assert!(text.contains(want), "{annotation}: {text}");
        assert!(!pod.has_link("eth0"), "{annotation}");
        assert_eq!(node.cached(), 0);
        assert!(node.reserved("net-1").is_empty() && node.reserved("net-2").is_empty());
    }
    // Not allowed to anybody: the annotation is somebody else's business.
    node.config.pod_networks.clear();
    let mut pod = Pod::new(1);
    pod.attachment.annotations.insert(ANNOTATION.to_owned(), "net-3".to_owned());
    assert!(node.add(&pod).unwrap().others.is_empty());
}

#[test]
fn a_subnet_that_the_host_uses_is_refused_with_the_route() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.on_host(|| {
        let mut host = Rtnetlink::open().unwrap();
        let bridge =
            NewBridge { name: "lan0", mac: [2, 0, 0, 0, 0, 1], mtu: None, vlan_filtering: false };
        host.create_bridge(&bridge).unwrap();
        let index = host.index("lan0").unwrap();
        host.add_address(index, "10.88.7.1/24".parse().unwrap()).unwrap();
    });
    let want = "subnet 10.88.0.0/16 of the built-in network collides with the host's route to \
                10.88.7.0/24 (on lan0)";
    let text = chain(&node.add(&Pod::new(1)).unwrap_err());
    assert!(text.contains(want), "{text}");
    let NetworkStatus::NotReady { message } = node.on_host(|| node.engine().status()) else {
        panic!("ready")
    };
    assert!(message.contains(want), "{message}");
    node.on_host(|| Rtnetlink::open().unwrap().delete_link("lan0").unwrap());
    let (first, second) = (Pod::new(1), Pod::new(2));
    node.add(&first).unwrap();
    // The bridge's own route is in nobody's way, nor is a default route.
    node.on_host(|| {
        let mut host = Rtnetlink::open().unwrap();
        let index = host.index("knarr0").unwrap();
        host.add_route(index, &NewRoute::to("0.0.0.0/0".parse().unwrap())).unwrap();
    });
    node.add(&second).unwrap();
}

#[test]
fn pods_get_addresses_of_the_range_that_kubelet_names() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let (first, second) = (Pod::new(1), Pod::new(2));
    node.add(&first).unwrap();
    node.engine().set_pod_ranges("10.244.3.0/24,fd00:3::/64").unwrap();
    let ips = node.add(&second).unwrap().ips;
    let want = ["10.244.3.2", "fd00:3::2"].map(|ip| ip.parse::<IpAddr>().unwrap());
    assert_eq!(ips, want);
    node.del(&first).unwrap();
    node.del(&second).unwrap();
    assert!(node.reserved("knarr").is_empty());
}

#[test]
fn without_ipv6_pods_get_ipv4_addresses() {
    if !is_root() {
        return;
    }
    let mut node = Node::new();
    let switch = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
    // A kernel that was told so at boot has no switch.
    let absent = !std::path::Path::new(switch).exists();
    if !absent {
        node.on_host(|| std::fs::write(switch, "1").unwrap());
    }
    let pod = Pod::new(1);
    let ips = node.add(&pod).unwrap().ips;
    assert_eq!(ips, ["10.88.0.2".parse::<IpAddr>().unwrap()]);
    node.config.default_subnets.retain(|subnet| subnet.address().is_ipv6());
    let text = chain(&node.add(&Pod::new(2)).unwrap_err());
    let reason =
        if absent { "the kernel has no IPv6" } else { "net.ipv6.conf.all.disable_ipv6 is 1" };
    assert!(text.contains(&format!("no usable subnet: {reason}")), "{text}");
    // A configuration that wants IPv6 where the kernel has none says which address.
    let mut wanted = bridged(&node, 1);
    wanted["plugins"][0]["ipam"]["ranges"] = json!([[{"subnet": "fd00:5::/64"}]]);
    node.configure(&wanted);
    let pod = Pod::new(3);
    match node.add(&pod) {
        Ok(result) => assert!(!absent && result.ips[0].is_ipv6(), "{result:?}"),
        Err(error) => {
            let text = chain(&error);
            assert!(absent && text.contains("no IPv6, which address fd00:5::2/64"), "{text}");
            assert!(node.reserved("net-1").is_empty());
        }
    }
}

#[test]
fn check_finds_what_is_missing() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let pod = Pod::new(1);
    let check = || node.on_host(|| node.engine().check(&pod.attachment));
    assert!(matches!(check().unwrap_err(), CheckError::NotAttached { .. }));
    let ip = node.add(&pod).unwrap().ips[0];
    check().unwrap();
    pod.inside(|| {
        let mut route = Rtnetlink::open().unwrap();
        let index = route.index("eth0").unwrap();
        route.delete_address(index, format!("{ip}/16").parse().unwrap()).unwrap();
    });
    let text = chain(&check().unwrap_err());
    assert!(text.contains(&format!("link eth0 has no address {ip}/16")), "{text}");
    std::fs::remove_file(node.config.data_dir.join("knarr").join(ip.to_string())).unwrap();
    for address in node.reserved("knarr") {
        std::fs::remove_file(node.config.data_dir.join("knarr").join(address)).unwrap();
    }
    let text = chain(&check().unwrap_err());
    assert!(text.contains("no address of network `knarr` is reserved for it"), "{text}");
    pod.inside(|| Rtnetlink::open().unwrap().delete_link("eth0").unwrap());
    assert!(check().is_err());
    node.del(&pod).unwrap();
}

/// By whatever an ADD that failed, or whose daemon died, had come to.
#[test]
fn no_rule_is_left_of_an_add_that_was_not_completed() {
    if !is_root() {
        return;
    }
    let by_iptables = Means::ALL.into_iter().filter(|means| *means != Means::Nftables);
    for node in by_iptables.filter_map(Node::by) {
        let mut list = bridged(&node, 1);
        let plugins = list["plugins"].as_array_mut().unwrap();
        plugins.push(json!({"type": "firewall"}));
        plugins.push(json!({"type": "last"}));
        node.configure(&list);
        let bad = node.path("bad");
        let answer = r#"{"cniVersion":"1.0.0","ips":[{"address":"10.1.0.2/24"}]}"#;
        let body = format!("[ $CNI_COMMAND = ADD ] || exit 0; echo '{answer}'; ! [ -e {bad:?} ]");
        node.plugin("last", &body);
        let rules = || node.on_host(|| node.iptables(&["-S"])).unwrap();
        let pod = Pod::new(1);
        std::fs::write(&bad, "").unwrap();
        node.add(&pod).unwrap_err();
        assert!(!rules().contains("10.1.0.2"), "{}", rules());
        std::fs::remove_file(&bad).unwrap();
        node.add(&pod).unwrap();
        assert!(rules().contains("-s 10.1.0."), "{}", rules());
        // The daemon died before it could record the attachment.
        std::fs::remove_dir_all(node.config.cache_dir.join("results")).unwrap();
        node.del(&pod).unwrap();
        assert!(!rules().contains("10.1.0."), "{}", rules());
        assert!(node.reserved("net-1").is_empty());
    }
}

#[test]
fn networks_with_a_policy_are_kept_apart() {
    if is_root() {
        Means::ALL.into_iter().filter_map(Node::by).for_each(|node| kept_apart(&node));
    }
}

fn kept_apart(node: &Node) {
    node.on_host(|| {
        let mut host = Rtnetlink::open().unwrap();
        let lo = host.index("lo").unwrap();
        host.set_up(lo, false).unwrap();
    });
    let add = |number: u8, policy: &str| {
        let mut list = bridged(node, number);
        list["plugins"][0]["isDefaultGateway"] = true.into();
        let firewall = json!({"type": "firewall", "ingressPolicy": policy});
        list["plugins"].as_array_mut().unwrap().push(firewall);
        node.configure(&list);
        let pod = Pod::new(number);
        let ip = node.add(&pod).unwrap().ips[0];
        (pod, ip)
    };
    let (open, open_ip) = add(1, "open");
    let (first, first_ip) = add(2, "same-bridge");
    let (second, _) = add(3, "same-bridge");
    let listener = first.listen(first_ip);
    let limit = std::time::Duration::from_secs(1);
    let reaches = |from: &Pod, to: std::net::SocketAddr| {
        from.inside(|| std::net::TcpStream::connect_timeout(&to, limit).is_ok())
    };
    let address = listener.local_addr().unwrap();
    assert!(!reaches(&second, address), "two bridges with a policy");
    assert!(reaches(&open, address), "one bridge without");
    node.on_host(|| support::connect(&listener));
    let other = open.listen(open_ip);
    assert!(reaches(&first, other.local_addr().unwrap()), "the way out is open");
    for pod in [&open, &first, &second] {
        node.on_host(|| node.engine().check(&pod.attachment)).unwrap();
        node.del(pod).unwrap();
    }
}
