//! Host ports of the built-in network, with real connections.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::net::{IpAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use model::{PortMapping, PortProtocol};
use support::{Node, Pod, chain, is_root};
use sys::netlink::{NewRoute, Rtnetlink};

const PORT: u16 = 12_000;

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
    if !is_root() {
        return;
    }
    let node = Node::new();
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
    node.del(&pod).unwrap();
    assert!(node.on_host(|| reaches(&v4, "127.0.0.1")).is_none());
    node.del(&pod).unwrap();
}

#[test]
fn a_host_port_of_one_address_is_on_no_other() {
    if !is_root() {
        return;
    }
    let node = Node::new();
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
    if !is_root() {
        return;
    }
    let node = Node::new();
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
