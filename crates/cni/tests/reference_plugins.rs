//! The reference plugins (Debian: containernetworking-plugins) through the engine.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "helpers of tests")]

mod support;

use std::path::Path;

use model::{PortMapping, PortProtocol};
use serde_json::json;
use support::{Node, Pod, connect, is_root};

const DEBIAN: &str = "/usr/lib/cni";

fn node(masquerade: bool) -> Option<Node> {
    if !is_root() {
        return None;
    }
    if !Path::new(DEBIAN).join("bridge").exists() {
        println!("skipped: no reference plugins in {DEBIAN}");
        return None;
    }
    let mut node = Node::new();
    node.config.bin_dirs = vec![node.path("bin"), DEBIAN.into()];
    node.configure(&json!({
        "cniVersion": "1.0.0",
        "name": "ref",
        "plugins": [
            {
                "type": "bridge", "bridge": "cni0", "isDefaultGateway": true,
                "ipMasq": masquerade, "hairpinMode": true,
                "ipam": {
                    "type": "host-local", "dataDir": node.config.data_dir,
                    "ranges": [[{"subnet": "10.50.0.0/24"}]],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": masquerade},
        ],
    }));
    Some(node)
}

#[test]
fn bridge_host_local_and_portmap_attach_and_detach_a_pod() {
    let Some(node) = node(true) else { return };
    if !Path::new("/usr/sbin/iptables").exists() {
        println!("skipped: portmap needs iptables");
        return;
    }
    let (mut pod, other) = (Pod::new(1), Pod::new(2));
    pod.attachment.port_mappings = vec![PortMapping {
        protocol: PortProtocol::Tcp,
        container_port: 0,
        host_port: 18080,
        host_ip: String::new(),
    }];
    pod.attachment.port_mappings[0].container_port = 8080;
    let ip = node.add(&pod).unwrap().ips[0];
    node.add(&other).unwrap();
    assert_eq!(ip.to_string(), "10.50.0.2");
    assert_eq!(node.reserved("ref"), ["10.50.0.2", "10.50.0.3"]);
    let listener = pod.inside(|| std::net::TcpListener::bind((ip, 8080)).unwrap());
    node.on_host(|| connect(&listener));
    other.inside(|| connect(&listener));
    let through_host_port = other.inside(|| {
        let client = std::net::TcpStream::connect(("10.50.0.1", 18080)).unwrap();
        let (_, peer) = listener.accept().unwrap();
        (client.peer_addr().unwrap().to_string(), peer.ip().to_string())
    });
    assert_eq!(through_host_port.0, "10.50.0.1:18080");
    node.del(&pod).unwrap();
    assert_eq!(node.reserved("ref"), ["10.50.0.3"]);
    node.del(&pod).unwrap();
}

#[test]
fn detaching_works_when_the_namespace_is_gone() {
    let Some(node) = node(false) else { return };
    let mut pod = Pod::new(1);
    node.add(&pod).unwrap();
    pod.lose_netns();
    node.del(&pod).unwrap();
    assert!(node.reserved("ref").is_empty());
    assert_eq!(node.cached(), 0);
}

/// One implementation goes on where the other stopped.
#[test]
fn the_built_in_plugins_share_the_reference_plugins_files() {
    let Some(mut node) = node(false) else { return };
    let (first, second, third) = (Pod::new(1), Pod::new(2), Pod::new(3));
    let conf = std::fs::read_to_string(node.path("net.d/10-test.conflist")).unwrap();
    let mut conf: serde_json::Value = serde_json::from_str(&conf).unwrap();
    conf["plugins"].as_array_mut().unwrap().pop();
    node.configure(&conf);
    let reference = node.config.bin_dirs.clone();
    assert_eq!(node.add(&first).unwrap().ips[0].to_string(), "10.50.0.2");
    node.config.bin_dirs = vec![node.path("bin")];
    assert_eq!(node.add(&second).unwrap().ips[0].to_string(), "10.50.0.3");
    node.del(&first).unwrap();
    node.config.bin_dirs = reference;
    node.del(&second).unwrap();
    assert!(node.reserved("ref").is_empty());
    assert_eq!(node.add(&third).unwrap().ips[0].to_string(), "10.50.0.4");
}

/// From the first version on, by the reference plugins and by those that are built in.
#[test]
fn configurations_of_every_version_attach_and_detach_pods() {
    let Some(mut node) = node(false) else { return };
    let reference = node.config.bin_dirs.clone();
    let mut numbers = 1..;
    for version in ["", "0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        for bin_dirs in [&reference, &vec![node.path("bin")]] {
            // Debian's plugins are older than the newest version.
            if version == "1.1.0" && bin_dirs == &reference {
                continue;
            }
            let mut conf = json!({
                "name": "ref", "type": "bridge", "bridge": "cni0", "isGateway": true,
                "ipam": {"type": "host-local", "dataDir": node.config.data_dir,
                         "subnet": "10.50.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]},
            });
            if !version.is_empty() {
                conf["cniVersion"] = version.into();
            }
            node.config.bin_dirs.clone_from(bin_dirs);
            node.configure(&conf);
            let pod = Pod::new(numbers.next().unwrap());
            let ips = match node.add(&pod) {
                Ok(result) => result.ips,
                Err(error) => panic!("{version} {bin_dirs:?}: {}", support::chain(&error)),
            };
            assert_eq!(ips.len(), 1, "{version}");
            assert_eq!(node.cached(), 1, "{version}");
            node.on_host(|| node.engine().check(&pod.attachment)).unwrap();
            node.del(&pod).unwrap();
            assert!(node.reserved("ref").is_empty() && node.cached() == 0, "{version}");
        }
    }
}
