//! VLANs on a bridge: which a pod's port is in, and the link that the host has in one.
//!
//! A bridge that filters puts each port into the VLANs named here and no others. The host's
//! address in a pod's VLAN is not on the bridge, which is in none, but on one end of a veth pair
//! whose other end is a port like a pod's: `cni0.100` for VLAN 100.

use std::os::fd::AsFd;

use serde::Deserialize;
use sys::netlink::{Link, NewVeth, Rtnetlink};

use super::BuiltInError;
use super::veth::{self, EEXIST, tolerate};

const HIGHEST: u16 = 4094;

/// What a configuration says about VLANs.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct VlanConf {
    vlan: u16,
    vlan_trunk: Vec<Trunk>,
    preserve_default_vlan: bool,
}

impl Default for VlanConf {
    fn default() -> Self {
        Self { vlan: 0, vlan_trunk: Vec::new(), preserve_default_vlan: true }
    }
}

/// One VLAN, or the VLANs from one to another.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Trunk {
    #[serde(rename = "minID")]
    first: Option<u16>,
    #[serde(rename = "maxID")]
    last: Option<u16>,
    id: Option<u16>,
}

/// The VLANs of a pod's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Vlans {
    /// That of what has no tag, and where the gateway is; `None` of a trunk, whose gateway is on
    /// the bridge.
    pub(super) own: Option<u16>,
    tagged: Vec<u16>,
    /// Whether it stays in the bridge's own VLAN as well.
    keep_default: bool,
}

impl Vlans {
    /// `None` when the configuration asks for no VLAN.
    pub(super) fn read(conf: &VlanConf) -> Result<Option<Self>, BuiltInError> {
        if conf.vlan == 0 && conf.vlan_trunk.is_empty() {
            return Ok(None);
        }
        let mut tagged = Vec::new();
        for trunk in &conf.vlan_trunk {
            match (trunk.first, trunk.last) {
                (Some(first), Some(last)) if first <= last => tagged.extend(first..=last),
                (None, None) if trunk.id.is_some() => {}
                _ => {
                    let what = "`vlanTrunk` wants `id`, or `minID` and a larger `maxID`";
                    return Err(BuiltInError::configuration(what));
                }
            }
            tagged.extend(trunk.id);
        }
        tagged.sort_unstable();
        tagged.dedup();
        let wrong = tagged.iter().find(|id| !(1..=HIGHEST).contains(*id));
        if let Some(id) = wrong.copied().or_else(|| (conf.vlan > HIGHEST).then_some(conf.vlan)) {
            let what = format!("VLAN {id} is not between 1 and {HIGHEST}");
            return Err(BuiltInError::configuration(what));
        }
        Ok(Some(Self {
            own: (conf.vlan != 0).then_some(conf.vlan),
            tagged,
            keep_default: conf.preserve_default_vlan,
        }))
    }

    /// Puts a fresh port into the VLANs.
    pub(super) fn apply(
        &self,
        host: &mut Rtnetlink,
        bridge: &Link,
        port: u32,
    ) -> Result<(), BuiltInError> {
        if let Some(default) = bridge.default_vlan.filter(|_| !self.keep_default) {
            host.delete_vlan(port, default)?;
        }
        for id in self.tagged.iter().filter(|id| Some(**id) != self.own) {
            host.add_vlan(port, *id, false)?;
        }
        if let Some(own) = self.own {
            host.add_vlan(port, own, true)?;
        }
        Ok(())
    }

    /// Finds or makes the host's link in the pods' VLAN `own`.
    pub(super) fn gateway_link(
        &self,
        own: u16,
        host: &mut Rtnetlink,
        bridge: &Link,
        mtu: Option<u32>,
    ) -> Result<Link, BuiltInError> {
        let name = format!("{}.{own}", bridge.name);
        if !crate::networks::is_interface(&name) {
            let what = format!("`{name}` is too long for a link: choose a shorter `bridge`");
            return Err(BuiltInError::configuration(what));
        }
        if host.link(&name)?.is_none() {
            self.make_gateway_link(own, host, bridge, &name, mtu)?;
        }
        super::present::link(host, &name, "veth")
    }

    fn make_gateway_link(
        &self,
        own: u16,
        host: &mut Rtnetlink,
        bridge: &Link,
        name: &str,
        mtu: Option<u32>,
    ) -> Result<(), BuiltInError> {
        let here = std::fs::File::open("/proc/thread-self/ns/net").map_err(BuiltInError::Socket)?;
        let hash = gateway_hash(&bridge.name, own);
        let port = gateway_port(&bridge.name, own);
        let made = host.create_veth(&NewVeth {
            host_name: &port,
            host_mac: veth::mac(hash),
            master: Some(bridge.index),
            hairpin: false,
            isolated: false,
            peer_name: name,
            peer_mac: veth::mac(!hash),
            peer_netns: here.as_fd(),
            mtu,
        });
        // Another daemon may make it at the same time.
        tolerate(made, EEXIST)?;
        let port = host.index(&port).map_err(BuiltInError::Socket)?;
        let member = Self { tagged: Vec::new(), ..self.clone() };
        member.apply(host, bridge, port)?;
        let index = host.index(name).map_err(BuiltInError::Socket)?;
        Ok(host.set_up(index, false)?)
    }
}

fn gateway_hash(bridge: &str, own: u16) -> u64 {
    veth::fnv(bridge, &own.to_string())
}

/// The port through which a bridge reaches the host's link in a VLAN.
pub(crate) fn gateway_port(bridge: &str, own: u16) -> String {
    format!("veth{:08x}", gateway_hash(bridge, own) >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(conf: &Value) -> Result<Option<Vlans>, String> {
        let conf = VlanConf::deserialize(conf).map_err(|error| error.to_string())?;
        Vlans::read(&conf).map_err(|error| error.to_string())
    }

    #[test]
    fn vlans_are_read_as_the_reference_plugin_reads_them() {
        assert_eq!(read(&json!({})).unwrap(), None);
        let one = read(&json!({"vlan": 100})).unwrap().unwrap();
        assert_eq!((one.own, one.tagged.len(), one.keep_default), (Some(100), 0, true));
        let trunk = json!({"vlanTrunk": [{"id": 9}, {"minID": 5, "maxID": 7}, {"id": 6}]});
        let trunk = read(&trunk).unwrap().unwrap();
        assert_eq!((trunk.own, trunk.keep_default), (None, true));
        let alone = read(&json!({"vlan": 7, "preserveDefaultVlan": false})).unwrap().unwrap();
        assert!(!alone.keep_default);
        assert_eq!(trunk.tagged, [5, 6, 7, 9]);
    }

    #[test]
    fn impossible_vlans_are_refused() {
        for conf in [
            json!({"vlan": 4095}),
            json!({"vlanTrunk": [{"id": 0}]}),
            json!({"vlanTrunk": [{"minID": 5}]}),
            json!({"vlanTrunk": [{"minID": 7, "maxID": 5}]}),
            json!({"vlanTrunk": [{}]}),
        ] {
            assert!(read(&conf).is_err(), "{conf}");
        }
    }
}
