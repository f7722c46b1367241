//! Host ports of the built-in network, with real connections.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use model::{PortMapping, PortProtocol};
use serde_json::json;
use support::{Means, Node, Pod, ROUTER, STRANGER, chain, is_root};
use sys::netlink::{NewRoute, Rtnetlink};

const PORT: u16 = 12_000;
/// Nobody has it; it is not in the pods' networks.
const SERVICE: &str = "198.51.100.7";

fn publish(pod: &mut Pod, protocol: PortProtocol, host_ip: &str) {
    pod.attachment.port_mappings.push(PortMapping {
        protocol,
        container_port: 80,
        host_port: PORT.into(),
        host_ip: host_ip.to_owned(),
    });
}

fn serve(pod: &Pod, ip: IpAddr) -> TcpListener {
    pod.inside(|| TcpListener::bind((ip, 80)).unwrap())
}

/// Whether a connection from the calling thread's namespace arrives at the listener.
fn reaches(listener: &TcpListener, to: &str) -> Option<IpAddr> {
    let address = (to.parse::<IpAddr>().unwrap(), PORT).into();
    let client = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
    let (_, peer) = listener.accept().unwrap();
    drop(client);
    Some(peer.ip())
}

#[test]
fn a_host_port_leads_to_the_pod_from_everywhere() {
    if is_root() {
        Means::ALL
            .into_iter()
            .filter_map(Node::by)
            .for_each(|node| host_port_leads_to_the_pod_from_everywhere(&node));
    }
}

fn host_port_leads_to_the_pod_from_everywhere(node: &Node) {
    node.on_host(|| sys::netlink::set_link_up("lo").unwrap());
    let (mut pod, other) = (Pod::new(1), Pod::new(2));
    publish(&mut pod, PortProtocol::Tcp, "");
    let ips = node.add(&pod).unwrap().ips;
    node.add(&other).unwrap();
    let v4 = serve(&pod, ips[0]);
    let v6 = serve(&pod, ips[1]);
    // From the host: its loopback, and an address of its own.
    for to in ["127.0.0.1", "127.0.0.7", "10.88.0.1"] {
        assert!(node.on_host(|| reaches(&v4, to)).is_some(), "{to}");
    }
    let gateway = "fd6b:6e61:7272::1";
    assert!(node.on_host(|| reaches(&v6, gateway)).is_some());
    // From another pod, and from the pod itself.
    for from in [&other, &pod] {
        assert!(from.inside(|| reaches(&v4, "10.88.0.1")).is_some());
        assert!(from.inside(|| reaches(&v6, gateway)).is_some());
    }
    // Those that the pod could not answer come from the host, the others from where they do.
    let gateway = "10.88.0.1";
    assert_eq!(node.on_host(|| reaches(&v4, "127.0.0.1")), gateway.parse().ok());
    assert_eq!(other.inside(|| reaches(&v4, gateway)), gateway.parse().ok());
    // It has a route to the host's other networks, but is in none of the pods'.
    let stranger = node.stranger();
    assert_eq!(stranger.inside(|| reaches(&v4, ROUTER)), STRANGER.parse().ok());
    node.del(&pod).unwrap();
    assert!(node.on_host(|| reaches(&v4, "127.0.0.1")).is_none());
    node.del(&pod).unwrap();
}

/// What others rewrite keeps its source: as of a service whose port a pod has as a host port too.
#[test]
fn a_services_clients_are_not_masqueraded() {
    if is_root() {
        Means::ALL.into_iter().filter_map(Node::by).for_each(|node| services_clients(&node));
    }
}

fn services_clients(node: &Node) {
    configure(node, false, &json!({}));
    let mut pod = Pod::new(1);
    publish(&mut pod, PortProtocol::Tcp, "");
    let source = node.add(&pod).unwrap().ips[0];
    let stranger = node.stranger();
    let listener = serve(&stranger, STRANGER.parse().unwrap());
    let to = format!(
        "add rule ip services pre ip daddr {SERVICE} tcp dport {PORT} dnat to {STRANGER}:80"
    );
    for rule in [
        "add table ip services",
        "add chain ip services pre { type nat hook prerouting priority -100 ; }",
        &to,
    ] {
        if node.on_host(|| nft(&[rule])).is_none() {
            println!("skipped: no nft");
            return;
        }
    }
    assert_eq!(pod.inside(|| reaches(&listener, SERVICE)), Some(source));
}

#[test]
fn all_clients_are_masqueraded_where_the_network_wants_it() {
    if is_root() {
        Means::ALL.into_iter().filter_map(Node::by).for_each(|node| {
            configure(&node, true, &json!({"masqAll": true}));
            let mut pod = Pod::new(1);
            publish(&mut pod, PortProtocol::Tcp, "");
            let ips = node.add(&pod).unwrap().ips;
            let listener = serve(&pod, ips[0]);
            let stranger = node.stranger();
            let seen = stranger.inside(|| reaches(&listener, ROUTER));
            assert_eq!(seen, "10.50.0.1".parse().ok());
            node.on_host(|| node.engine().check(&pod.attachment)).unwrap();
            node.del(&pod).unwrap();
        });
    }
}

/// A bridge with `portmap` behind it, which has these options besides.
fn configure(node: &Node, masquerade: bool, options: &serde_json::Value) {
    let mut portmap = json!({"type": "portmap", "capabilities": {"portMappings": true}});
    for (key, value) in options.as_object().unwrap() {
        portmap[key] = value.clone();
    }
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.50.0.0/24"}]]});
    let bridge = json!({
        "type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true,
        "ipMasq": masquerade, "ipam": ipam,
    });
    node.configure(&json!({"cniVersion": "1.0.0", "name": "net", "plugins": [bridge, portmap]}));
}

#[test]
fn a_port_with_conditions_leads_to_the_pod_only_under_them() {
    if !is_root() {
        return;
    }
    let by_iptables = Means::ALL.into_iter().filter(|means| *means != Means::Nftables);
    for mut node in by_iptables.filter_map(Node::by) {
        // Whatever holds for the node: conditions are in the words of iptables.
        node.config.packet_filter = cni::PacketFilter::Auto;
        configure(&node, true, &json!({"conditionsV4": ["!", "-s", STRANGER]}));
        let (mut pod, other) = (Pod::new(1), Pod::new(2));
        publish(&mut pod, PortProtocol::Tcp, "");
        let ips = node.add(&pod).unwrap().ips;
        node.add(&other).unwrap();
        let listener = serve(&pod, ips[0]);
        assert!(other.inside(|| reaches(&listener, "10.50.0.1")).is_some());
        let stranger = node.stranger();
        assert!(stranger.inside(|| reaches(&listener, ROUTER)).is_none());
        node.on_host(|| node.engine().check(&pod.attachment)).unwrap();
        let rules = || node.on_host(|| node.iptables(&["-t", "nat", "-S"])).unwrap();
        let id = pod.attachment.sandbox.to_string();
        assert!(rules().contains(&id), "{}", rules());
        node.del(&pod).unwrap();
        let left = rules();
        assert!(!left.contains(&id) && left.matches("-N KNARR-").count() == 2, "{left}");
    }
}

#[test]
fn conditions_that_cannot_be_served_are_refused() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    for options in [
        json!({"conditionsV4": ["ip", "saddr", "10.0.0.0/8"]}),
        json!({"conditionsV4": ["-s", "10.0.0.0/8"], "backend": "nftables"}),
        json!({"markMasqBit": 5}),
        json!({"backend": "pf"}),
    ] {
        configure(&node, true, &options);
        let mut pod = Pod::new(1);
        publish(&mut pod, PortProtocol::Tcp, "");
        let text = chain(&node.add(&pod).unwrap_err());
        assert!(text.contains("its configuration is unusable"), "{text}");
        assert!(node.reserved("net").is_empty());
    }
}

/// What was there before, and what others put there, is there afterwards.
#[test]
fn rules_of_others_are_left_alone() {
    if !is_root() {
        return;
    }
    let by_iptables = Means::ALL.into_iter().filter(|means| *means != Means::Nftables);
    for node in by_iptables.filter_map(Node::by) {
        let run = |arguments: &[&str]| node.on_host(|| node.iptables(arguments)).unwrap();
        run(&["-t", "nat", "-N", "OTHERS"]);
        run(&["-t", "nat", "-A", "POSTROUTING", "-j", "OTHERS"]);
        let theirs = || {
            let rules = run(&["-t", "nat", "-S"]);
            rules.lines().filter(|line| !line.contains("KNARR-")).collect::<Vec<_>>().join("\n")
        };
        let before = theirs();
        let mut pod = Pod::new(1);
        publish(&mut pod, PortProtocol::Tcp, "");
        node.add(&pod).unwrap();
        node.add(&Pod::new(2)).unwrap();
        let rules = run(&["-t", "nat", "-S"]);
        assert_eq!(rules.matches("-j KNARR-MASQ").count(), 1, "{rules}");
        assert_eq!(rules.matches("-j KNARR-PORTS\n").count(), 2, "{rules}");
        run(&["-t", "nat", "-A", "OTHERS", "-j", "RETURN"]);
        node.del(&pod).unwrap();
        let left = run(&["-t", "nat", "-S", "KNARR-PORTS"]);
        assert_eq!(left.trim(), "-N KNARR-PORTS");
        assert_eq!(theirs().replace("\n-A OTHERS -j RETURN", ""), before);
    }
}

/// No rule of `iptables` survives a pod that was attached before another means was chosen.
#[test]
fn a_pod_is_detached_by_the_means_it_was_attached_by() {
    if !is_root() {
        return;
    }
    for mut node in Means::ALL.into_iter().filter_map(Node::by) {
        let mut pod = Pod::new(1);
        publish(&mut pod, PortProtocol::Tcp, "");
        node.add(&pod).unwrap();
        node.config.packet_filter = match node.config.packet_filter {
            cni::PacketFilter::Iptables => cni::PacketFilter::Nftables,
            cni::PacketFilter::Auto | cni::PacketFilter::Nftables => cni::PacketFilter::Iptables,
        };
        node.del(&pod).unwrap();
        let id = pod.attachment.sandbox.to_string();
        let left = node.on_host(|| node.iptables(&["-t", "nat", "-S"])).unwrap_or_default();
        assert!(!left.contains(&id), "{left}");
        let left = node.on_host(|| nft(&["list", "ruleset"])).unwrap_or_default();
        assert!(!left.contains(&id), "{left}");
    }
}

#[test]
fn host_ports_are_served_where_no_plugin_does_unless_that_is_left_to_plugins() {
    if !is_root() {
        return;
    }
    let mut node = Node::new();
    node.on_host(|| sys::netlink::set_link_up("lo").unwrap());
    let ipam = json!({"type": "host-local", "ranges": [[{"subnet": "10.50.0.0/24"}]]});
    let bridge = json!({"type": "bridge", "isDefaultGateway": true, "ipam": ipam});
    node.configure(&json!({"cniVersion": "0.3.1", "name": "net", "plugins": [bridge]}));
    for serve_host_ports in [true, false] {
        node.config.serve_host_ports = serve_host_ports;
        let mut pod = Pod::new(1);
        publish(&mut pod, PortProtocol::Tcp, "");
        let ips = node.add(&pod).unwrap().ips;
        let listener = serve(&pod, ips[0]);
        let reached = node.on_host(|| reaches(&listener, "10.50.0.1")).is_some();
        assert_eq!(reached, serve_host_ports);
        // By what was recorded, whatever holds by then.
        node.config.serve_host_ports = false;
        node.del(&pod).unwrap();
        assert!(node.on_host(|| reaches(&listener, "10.50.0.1")).is_none());
    }
    node.config.serve_host_ports = true;
    let (mut first, mut second) = (Pod::new(1), Pod::new(2));
    publish(&mut first, PortProtocol::Tcp, "");
    publish(&mut second, PortProtocol::Tcp, "");
    node.add(&first).unwrap();
    let text = chain(&node.add(&second).unwrap_err());
    assert!(text.contains("host port 12000/tcp already leads to sandbox"), "{text}");
}

/// A client that goes on sending from one port has one connection with UDP, whoever answers.
#[test]
fn udp_clients_from_before_reach_the_pod_and_the_next_one() {
    if is_root() {
        Means::ALL.into_iter().filter_map(Node::by).for_each(|node| udp_clients(&node));
    }
}

fn udp_clients(node: &Node) {
    node.on_host(|| sys::netlink::set_link_up("lo").unwrap());
    // Its rules are there, so connections are tracked from now on.
    let mut earlier = Pod::new(9);
    publish(&mut earlier, PortProtocol::Tcp, "");
    node.add(&earlier).unwrap();
    let stranger = node.stranger();
    let clients = [
        (stranger.inside(|| UdpSocket::bind("0.0.0.0:0").unwrap()), ROUTER),
        (node.on_host(|| UdpSocket::bind("127.0.0.1:0").unwrap()), "127.0.0.1"),
    ];
    let send = |(client, to): &(UdpSocket, &str), text: &str| {
        client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        // Refused the first time: nobody listens there yet.
        client.send_to(text.as_bytes(), (*to, PORT)).ok();
    };
    clients.iter().for_each(|client| send(client, "early"));
    for number in 1..=2 {
        let mut pod = Pod::new(number);
        publish(&mut pod, PortProtocol::Udp, "");
        let ip = node.add(&pod).unwrap().ips[0];
        let server = pod.inside(|| UdpSocket::bind((ip, 80)).unwrap());
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        for client in &clients {
            // The refusal of the first time is told now.
            client.0.take_error().unwrap();
            let asked = format!("{number} by {}", client.1);
            send(client, &asked);
            let mut buffer = [0; 64];
            // An early one may have waited for the router's hardware address, and come late.
            let from = loop {
                let (len, from) = server.recv_from(&mut buffer).unwrap();
                if &buffer[..len] == asked.as_bytes() {
                    break from;
                }
            };
            server.send_to(b"told", from).unwrap();
            let (len, from) = client.0.recv_from(&mut buffer).unwrap();
            let asked = (client.1.parse::<IpAddr>().unwrap(), PORT).into();
            assert_eq!((&buffer[..len], from), (&b"told"[..], asked));
        }
        node.del(&pod).unwrap();
    }
}

#[test]
fn sctp_ports_are_published_like_the_others() {
    if !is_root() {
        return;
    }
    for node in Means::ALL.into_iter().filter_map(Node::by) {
        let mut pod = Pod::new(1);
        publish(&mut pod, PortProtocol::Sctp, "");
        publish(&mut pod, PortProtocol::Tcp, "");
        let rules = || {
            let by_nft = node.on_host(|| nft(&["list", "ruleset"])).unwrap_or_default();
            by_nft + &node.on_host(|| node.iptables(&["-t", "nat", "-S"])).unwrap_or_default()
        };
        node.add(&pod).unwrap();
        node.on_host(|| node.engine().check(&pod.attachment)).unwrap();
        let text = rules().replace("132 . 12000", "sctp . 12000");
        let found = text.contains("sctp . 12000") || text.contains("-p sctp -m sctp --dport 12000");
        assert!(found, "{text}");
        node.del(&pod).unwrap();
        assert!(!rules().contains(&pod.attachment.sandbox.to_string()), "{}", rules());
    }
}

#[test]
fn a_host_port_of_one_address_is_on_no_other() {
    if is_root() {
        Means::ALL
            .into_iter()
            .filter_map(Node::by)
            .for_each(|node| host_port_of_one_address_is_on_no_other(&node));
    }
}

fn host_port_of_one_address_is_on_no_other(node: &Node) {
    node.on_host(|| sys::netlink::set_link_up("lo").unwrap());
    let mut pod = Pod::new(1);
    publish(&mut pod, PortProtocol::Tcp, "127.0.0.1");
    let ips = node.add(&pod).unwrap().ips;
    let listener = serve(&pod, ips[0]);
    assert!(node.on_host(|| reaches(&listener, "127.0.0.1")).is_some());
    assert!(node.on_host(|| reaches(&listener, "10.88.0.1")).is_none());
}

#[test]
fn the_ruleset_reads_as_meant() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    let mut pod = Pod::new(1);
    publish(&mut pod, PortProtocol::Tcp, "");
    node.add(&pod).unwrap();
    let Some(text) = node.on_host(|| nft(&["list", "ruleset"])) else {
        println!("skipped: no nft");
        return;
    };
    // Versions of nft differ in how they print a `dnat`, not in what is mapped.
    let mapped = "ip daddr . meta l4proto . th dport map @ports_on comment";
    assert_eq!(text.matches(mapped).count(), 2, "{text}");
    let guard = "iifname != \"lo\" ip daddr 127.0.0.0/8 drop";
    assert_eq!(text.matches(guard).count(), 1, "{text}");
    // Without /etc/protocols it is a number.
    let ports = text.replace("{ 6 . 12000", "{ tcp . 12000");
    assert_eq!(ports.matches("tcp . 12000 comment").count(), 2, "{text}");
    let comment = format!("comment \"{}\"", pod.attachment.sandbox);
    assert_eq!(text.matches(&comment).count(), 2, "{text}");
}

/// A pod that routes loopback addresses to the host, as only an attacker would.
#[test]
fn pods_do_not_reach_the_hosts_loopback() {
    if !is_root() {
        return;
    }
    let node = Node::new();
    node.on_host(|| sys::netlink::set_link_up("lo").unwrap());
    let mut pod = Pod::new(1);
    publish(&mut pod, PortProtocol::Tcp, "");
    node.add(&pod).unwrap();
    let secret = node.on_host(|| UdpSocket::bind("127.0.0.1:9999").unwrap());
    let attacker = pod.inside(|| {
        let mut route = Rtnetlink::open().unwrap();
        let to_host = NewRoute {
            gateway: Some("10.88.0.1".parse().unwrap()),
            ..NewRoute::to("127.0.0.1/32".parse().unwrap())
        };
        let index = route.index("eth0").unwrap();
        route.configure(index, &[], true, &[to_host]).unwrap();
        UdpSocket::bind("0.0.0.0:0").unwrap()
    });
    // Counted in front of the guard, so that it is known to have come this far.
    let count = ["insert", "rule", "ip", "knarr", "ports_guard", "udp", "dport", "9999", "counter"];
    if node.on_host(|| nft(&count)).is_none() {
        println!("skipped: no nft");
        return;
    }
    attacker.send_to(b"guarded", "127.0.0.1:9999").unwrap();
    let counted = || {
        let text = node.on_host(|| nft(&["list", "chain", "ip", "knarr", "ports_guard"]));
        text.is_some_and(|text| text.contains("counter packets 1"))
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while !counted() {
        assert!(Instant::now() < deadline, "the packet never came");
        std::thread::yield_now();
    }
    // Without the guard the next one arrives: it is the guard that kept the first one out.
    node.on_host(|| nft(&["flush", "chain", "ip", "knarr", "ports_guard"]));
    attacker.send_to(b"open", "127.0.0.1:9999").unwrap();
    let mut buffer = [0; 16];
    secret.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let len = secret.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"open");
}

/// `None` when `nft` is not installed.
fn nft(arguments: &[&str]) -> Option<String> {
    let output = std::process::Command::new("/usr/sbin/nft").args(arguments).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn a_port_that_is_taken_names_its_holder_and_undoes_the_rest() {
    if is_root() {
        Means::ALL
            .into_iter()
            .filter_map(Node::by)
            .for_each(|node| port_that_is_taken_names_its_holder_and_undoes_the_rest(&node));
    }
}

fn port_that_is_taken_names_its_holder_and_undoes_the_rest(node: &Node) {
    let (mut first, mut second) = (Pod::new(1), Pod::new(2));
    publish(&mut first, PortProtocol::Tcp, "");
    publish(&mut second, PortProtocol::Tcp, "");
    let ips = node.add(&first).unwrap().ips;
    let text = chain(&node.add(&second).unwrap_err());
    let want = format!("host port 12000/tcp already leads to sandbox {}", first.attachment.sandbox);
    assert!(text.contains(&want), "{text}");
    assert_eq!(node.reserved("knarr").len(), ips.len());
    // Another protocol is another port.
    let mut third = Pod::new(3);
    publish(&mut third, PortProtocol::Udp, "");
    node.add(&third).unwrap();
    node.del(&first).unwrap();
    // The failed attempt left no link in the pod either.
    node.add(&second).unwrap();
}

/// Who asks knows no pod.
struct Nobody;

impl cni::Live for Nobody {
    fn is_live(&self, _container: &str) -> bool {
        false
    }

    fn all(&self) -> Vec<model::SandboxId> {
        Vec::new()
    }
}

#[test]
fn host_ports_of_pods_that_are_no_more_are_found_and_removed() {
    if is_root() {
        let nodes = Means::ALL.into_iter().filter_map(Node::by);
        nodes.for_each(|node| stray_host_ports_are_found_and_removed(&node));
    }
}

fn stray_host_ports_are_found_and_removed(node: &Node) {
    let mut pod = Pod::new(1);
    publish(&mut pod, PortProtocol::Tcp, "");
    let ips = node.add(&pod).unwrap().ips;
    let strays = || {
        let all = node.on_host(|| node.engine().strays(&Nobody)).unwrap();
        let ports = all.into_iter().filter(|it| matches!(it, cni::Stray::Ports { .. }));
        ports.collect::<Vec<_>>()
    };
    let found = strays();
    let container = pod.attachment.sandbox.to_string();
    for ip in ips {
        let wanted = cni::Stray::Ports { container: container.clone(), address: ip };
        assert!(found.contains(&wanted), "{wanted:?} is not among {found:?}");
    }
    // Those of another runtime are its own affair.
    let results = std::fs::read_dir(node.config.cache_dir.join("results")).unwrap();
    for path in results.map(|entry| entry.unwrap().path()) {
        let ours = std::fs::read_to_string(&path).unwrap();
        let mut theirs: serde_json::Value = serde_json::from_str(&ours).unwrap();
        theirs.as_object_mut().unwrap().remove("owner").unwrap();
        std::fs::write(&path, theirs.to_string()).unwrap();
        assert_eq!(strays(), []);
        std::fs::write(&path, ours).unwrap();
    }
    for stray in &found {
        node.on_host(|| node.engine().remove_stray(stray)).unwrap();
    }
    assert!(strays().is_empty(), "{:?}", strays());
    node.del(&pod).unwrap();
}
