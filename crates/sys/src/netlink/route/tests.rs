use super::*;
use crate::netlink::netns;
use std::os::fd::AsFd;

fn in_host(body: impl FnOnce() + Send) {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let host = netns::create().unwrap();
    netns::run_in(host.as_fd(), body).unwrap();
}

#[test]
fn a_pod_network_is_made_in_two_calls() {
    in_host(|| {
        let mut host = Rtnetlink::open().unwrap();
        let mac = [2, 0, 0, 0, 0, 1];
        host.create_bridge(&NewBridge { name: "br0", mac, mtu: None, vlan_filtering: false })
            .unwrap();
        let bridge = host.link("br0").unwrap().unwrap();
        assert_eq!((bridge.kind.as_str(), bridge.mac, bridge.up), ("bridge", Some(mac), true));
        let gateway: IpPrefix = "10.1.0.1/24".parse().unwrap();
        host.add_address(bridge.index, gateway).unwrap();
        assert!(host.addresses(bridge.index).unwrap().contains(&gateway));

        let pod = netns::create().unwrap();
        host.create_veth(&NewVeth {
            host_name: "veth0",
            host_mac: [2, 0, 0, 0, 0, 2],
            master: Some(bridge.index),
            hairpin: true,
            isolated: true,
            peer_name: "eth0",
            peer_mac: [2, 0, 0, 0, 0, 3],
            peer_netns: pod.as_fd(),
            mtu: Some(1400),
        })
        .unwrap();
        assert_eq!(host.link("veth0").unwrap().unwrap().mtu, 1400);
        netns::run_in(pod.as_fd(), || {
            let mut route = Rtnetlink::open().unwrap();
            let index = route.index("eth0").unwrap();
            let addresses = ["10.1.0.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()];
            let default = |net: &str, via: &str| NewRoute {
                gateway: Some(via.parse().unwrap()),
                ..NewRoute::to(net.parse().unwrap())
            };
            let routes = [default("0.0.0.0/0", "10.1.0.1"), default("::/0", "fd00::1")];
            route.configure(index, &addresses, true, &routes).unwrap();
            assert_eq!(route.link("eth0").unwrap().unwrap().mac, Some([2, 0, 0, 0, 0, 3]));
            let found = route.addresses(index).unwrap();
            assert!(addresses.iter().all(|a| found.contains(a)), "{found:?}");
        })
        .unwrap();
    });
}

#[test]
fn the_kernels_own_explanation_is_in_the_error() {
    in_host(|| {
        let mut host = Rtnetlink::open().unwrap();
        let lo = host.link("lo").unwrap().unwrap();
        let bad = NewRoute {
            gateway: Some("10.1.0.1".parse().unwrap()),
            ..NewRoute::to("10.9.0.0/16".parse().unwrap())
        };
        let error = host.configure(lo.index, &[], true, &[bad]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "cannot add route 10.9.0.0/16 via 10.1.0.1 through link 1 \
             (kernel: Nexthop has invalid gateway)"
        );
    });
}

#[test]
fn a_missing_link_is_none_and_a_taken_name_is_eexist() {
    in_host(|| {
        let mut host = Rtnetlink::open().unwrap();
        assert_eq!(host.link("nosuch0").unwrap(), None);
        let bridge =
            NewBridge { name: "br0", mac: [2, 0, 0, 0, 0, 1], mtu: None, vlan_filtering: false };
        host.create_bridge(&bridge).unwrap();
        let error = host.create_bridge(&bridge).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EEXIST));
        host.delete_link("br0").unwrap();
        assert_eq!(host.link("br0").unwrap(), None);
    });
}
