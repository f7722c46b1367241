//! A private "node": a network namespace that stands for the host, directories of its own, and
//! pods that are further network namespaces. Everything is gone when it is dropped.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    dead_code,
    reason = "test support: a failure here is a failed test, and no test uses everything"
)]

use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use cni::{Attachment, Engine, EngineConfig, NetworkResult, PacketFilter};
use model::{PodName, SandboxId, StringMap};
use sys::netlink::{NewBridge, NewRoute, NewVeth, Rtnetlink, netns};

pub(crate) struct Node {
    pub(crate) host: OwnedFd,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: EngineConfig,
}

/// The address of [`Node::stranger`], and that of the host there.
pub(crate) const STRANGER: &str = "192.0.2.2";
pub(crate) const ROUTER: &str = "192.0.2.1";

/// By what packets are rewritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    Nftables,
    Iptables,
    LegacyIptables,
}

impl Means {
    pub(crate) const ALL: [Self; 3] = [Self::Nftables, Self::Iptables, Self::LegacyIptables];
}

pub(crate) fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: needs root");
    }
    root
}

impl Node {
    /// A node without configuration and without plugins.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::create_dir(at("net.d")).unwrap();
        std::fs::create_dir(at("bin")).unwrap();
        let config = EngineConfig {
            conf_dir: at("net.d"),
            bin_dirs: vec![at("bin")],
            cache_dir: at("cache"),
            data_dir: at("data"),
            ..EngineConfig::default()
        };
        Self { host: netns::create().unwrap(), dir, config }
    }

    /// A node on which packets are rewritten by these means; `None` (and says so) without them.
    pub(crate) fn by(means: Means) -> Option<Self> {
        let mut node = Self::new();
        let program = match means {
            Means::Nftables => {
                node.config.packet_filter = PacketFilter::Nftables;
                return Some(node);
            }
            Means::Iptables => "/usr/sbin/xtables-nft-multi",
            Means::LegacyIptables => "/usr/sbin/xtables-legacy-multi",
        };
        node.config.packet_filter = PacketFilter::Iptables;
        node.config.tool_dirs = vec![node.path("sbin")];
        std::fs::create_dir(node.path("sbin")).unwrap();
        for name in ["iptables", "ip6tables", "iptables-restore", "ip6tables-restore"] {
            std::os::unix::fs::symlink(program, node.path("sbin").join(name)).unwrap();
        }
        let works = node.on_host(|| node.iptables(&["-t", "nat", "-S"]));
        if works.is_none() {
            println!("skipped: {program} cannot be used here");
        }
        works.map(|_| node)
    }

    /// A machine behind a second bridge of the host, which is its router.
    pub(crate) fn stranger(&self) -> Pod {
        let stranger = Pod::new(99);
        self.on_host(|| {
            let mut host = Rtnetlink::open().unwrap();
            let mac = [2, 0, 0, 0, 0, 1];
            let bridge = NewBridge { name: "out0", mac, mtu: None, vlan_filtering: false };
            host.create_bridge(&bridge).unwrap();
            let master = host.link("out0").unwrap().unwrap().index;
            host.add_address(master, format!("{ROUTER}/24").parse().unwrap()).unwrap();
            host.create_veth(&NewVeth {
                host_name: "vethout",
                host_mac: [2, 0, 0, 0, 0, 2],
                master: Some(master),
                hairpin: false,
                isolated: false,
                peer_name: "eth0",
                peer_mac: [2, 0, 0, 0, 0, 3],
                peer_netns: stranger.netns.as_ref().unwrap().as_fd(),
                mtu: None,
            })
            .unwrap();
        });
        stranger.inside(|| {
            let mut route = Rtnetlink::open().unwrap();
            let index = route.index("eth0").unwrap();
            let gateway = Some(ROUTER.parse().unwrap());
            let back = NewRoute { gateway, ..NewRoute::to("0.0.0.0/0".parse().unwrap()) };
            let own = format!("{STRANGER}/24").parse().unwrap();
            route.configure(index, &[own], true, &[back]).unwrap();
        });
        stranger
    }

    /// What `iptables` prints; `None` if it fails. Call it on the host.
    pub(crate) fn iptables(&self, arguments: &[&str]) -> Option<String> {
        let path = self.path("sbin/iptables");
        let output = std::process::Command::new(path).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn engine(&self) -> Engine {
        Engine::new(self.config.clone())
    }

    /// Runs `work` on the host.
    pub(crate) fn on_host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(self.host.as_fd(), work).unwrap()
    }

    pub(crate) fn add(&self, pod: &Pod) -> Result<NetworkResult, cni::AddError> {
        self.on_host(|| self.engine().add(&pod.attachment))
    }

    pub(crate) fn del(&self, pod: &Pod) -> Result<(), cni::DelError> {
        self.on_host(|| self.engine().del(&pod.attachment))
    }

    /// Makes `conf` the network.
    pub(crate) fn configure(&self, conf: &serde_json::Value) {
        std::fs::write(self.path("net.d/10-test.conflist"), conf.to_string()).unwrap();
    }

    /// Installs a plugin that runs this shell text.
    pub(crate) fn plugin(&self, name: &str, body: &str) {
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/plugin");
        let path = self.path("bin").join(name);
        std::os::unix::fs::symlink(fixture, &path).unwrap();
        std::fs::write(self.path("bin").join(format!("{name}.body")), body).unwrap();
    }

    /// The addresses reserved in `network`.
    pub(crate) fn reserved(&self, network: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.config.data_dir.join(network)) else {
            return Vec::new();
        };
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut found: Vec<String> = names.filter(|n| n.parse::<IpAddr>().is_ok()).collect();
        found.sort();
        found
    }

    pub(crate) fn cached(&self) -> usize {
        std::fs::read_dir(self.config.cache_dir.join("results")).map_or(0, Iterator::count)
    }
}

pub(crate) struct Pod {
    netns: Option<OwnedFd>,
    pub(crate) attachment: Attachment,
}

impl Pod {
    pub(crate) fn new(number: u8) -> Self {
        let netns = netns::create().unwrap();
        let netns_path = Path::new("/proc")
            .join(std::process::id().to_string())
            .join("fd")
            .join(netns.as_raw_fd().to_string());
        let attachment = Attachment {
            sandbox: SandboxId::from_random([number; 32]),
            pod: PodName {
                name: format!("pod-{number}"),
                namespace: "default".to_owned(),
                uid: format!("uid-{number}"),
                attempt: 0,
            },
            netns_path,
            port_mappings: Vec::new(),
            dns: None,
            annotations: StringMap::new(),
            cgroup_parent: String::new(),
        };
        Self { netns: Some(netns), attachment }
    }

    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::run_in(self.netns.as_ref().unwrap().as_fd(), work).unwrap()
    }

    /// The namespace is gone, and nothing is at its path.
    pub(crate) fn lose_netns(&mut self) {
        self.attachment.netns_path = "/nonexistent/netns".into();
        self.netns = None;
    }

    pub(crate) fn listen(&self, address: IpAddr) -> TcpListener {
        self.inside(|| TcpListener::bind((address, 0)).unwrap())
    }

    pub(crate) fn routes(&self) -> String {
        self.inside(|| {
            let v4 = std::fs::read_to_string("/proc/thread-self/net/route").unwrap();
            v4 + &std::fs::read_to_string("/proc/thread-self/net/ipv6_route").unwrap_or_default()
        })
    }

    pub(crate) fn has_link(&self, name: &str) -> bool {
        self.inside(|| Rtnetlink::open().unwrap().link(name).unwrap().is_some())
    }
}

/// Connects from the calling thread's namespace; returns the address the listener saw.
pub(crate) fn connect(listener: &TcpListener) -> IpAddr {
    let address: SocketAddr = listener.local_addr().unwrap();
    let limit = std::time::Duration::from_secs(10);
    let client = TcpStream::connect_timeout(&address, limit);
    let client = client.unwrap_or_else(|error| panic!("cannot reach {address}: {error}"));
    let (_, peer) = listener.accept().unwrap();
    assert_eq!(client.peer_addr().unwrap(), address);
    peer.ip()
}

/// The error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
