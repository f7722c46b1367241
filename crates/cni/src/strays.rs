//! What the kernel has of sandboxes that are no more: links on our bridges and host ports. The
//! addresses are `inventory`'s.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::Path;

use serde_json::{Map, Value};
use sys::netlink::{IpPrefix, Rtnetlink};

use crate::builtin::{self, BuiltIn, BuiltInError, Reservations, holder};
use crate::engine::Engine;
use crate::gc::{GcError, Live, subdirectories};
use crate::invoke::Found;

/// One thing that belongs to nobody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stray {
    /// The host's end of a link. It goes by itself when the kernel gives the namespace up at the
    /// other end; that can take minutes.
    Link {
        /// Its name.
        name: String,
        /// The bridge it is on.
        bridge: String,
    },
    /// Host ports.
    Ports {
        /// The sandbox they led to.
        container: String,
        /// Its address.
        address: IpAddr,
    },
}

impl Engine {
    /// Everything of that kind. Only what built-in plugins make is looked at, within this engine's
    /// own networks: other runtimes and other daemons of the host have theirs. Blocks.
    ///
    /// # Errors
    /// The records cannot be listed.
    pub fn strays(&self, live: &impl Live) -> Result<Vec<Stray>, GcError> {
        let mut found = self.stray_links(live)?;
        found.extend(self.stray_ports(live)?);
        Ok(found)
    }

    /// Removes it; gone already is success. Blocks.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove_stray(&self, stray: &Stray) -> Result<(), BuiltInError> {
        match stray {
            Stray::Link { name, .. } => {
                let mut host = Rtnetlink::open().map_err(BuiltInError::Socket)?;
                Ok(builtin::tolerate(host.delete_link(name), builtin::ENODEV)?)
            }
            Stray::Ports { container, .. } => builtin::remove_ports(&self.plugins, container),
        }
    }

    fn stray_links(&self, live: &impl Live) -> Result<Vec<Stray>, GcError> {
        let explained = self.explained_links(live)?;
        let mut found = Vec::new();
        for bridge in self.own_bridges() {
            let ports = Path::new("/sys/class/net").join(&bridge).join("brif");
            // No such bridge: no pod yet.
            for port in std::fs::read_dir(ports).into_iter().flatten().flatten() {
                let Ok(name) = port.file_name().into_string() else { continue };
                if builtin::is_host_end(&name) && !explained.contains(&name) {
                    found.push(Stray::Link { name, bridge: bridge.clone() });
                }
            }
        }
        Ok(found)
    }

    /// Bridges that the built-in plugin uses.
    fn own_bridges(&self) -> HashSet<String> {
        self.bridge_plugins().iter().map(bridge_of).collect()
    }

    /// The configurations of the built-in plugin that makes bridges.
    fn bridge_plugins(&self) -> Vec<Map<String, Value>> {
        let mut found = Vec::new();
        for list in self.known_lists() {
            for plugin in list.plugins.iter().filter(|plugin| plugin.kind == "bridge") {
                let made_by = self.plugins.find(&plugin.kind, list.built_in_only);
                if matches!(made_by, Ok(Found::BuiltIn(BuiltIn::Bridge))) {
                    found.push(plugin.object.clone());
                }
            }
        }
        found
    }

    /// The host's ends of attachments on record, whoever made them, and of those under way, whose
    /// address is reserved first.
    fn explained_links(&self, live: &impl Live) -> Result<HashSet<String>, GcError> {
        let mut names = HashSet::new();
        for entry in self.cache.all().map_err(GcError::Cache)? {
            if self.cache.is_ours(&entry) && !live.is_live(&entry.container_id) {
                continue;
            }
            let interfaces = entry.result.get("interfaces").and_then(Value::as_array);
            let named = interfaces.into_iter().flatten().filter_map(|it| it["name"].as_str());
            names.extend(named.map(str::to_owned));
        }
        for (container, ifname) in self.reserved()? {
            if live.is_live(&container) {
                names.insert(builtin::host_end(&container, &ifname).0);
            }
        }
        // The host's own links in VLANs are on the bridge as pods are.
        names.extend(self.bridge_plugins().iter().filter_map(gateway_port_of));
        // Without an address there is no reservation.
        names.extend(live.all().iter().map(|id| builtin::host_end(id.as_str(), "eth0").0));
        Ok(names)
    }

    fn reserved(&self) -> Result<Vec<(String, String)>, GcError> {
        let dir = self.data_dir();
        let networks = subdirectories(dir)
            .map_err(|source| GcError::Reservations { path: dir.to_owned(), source })?;
        let mut found = Vec::new();
        for network in networks {
            let held = Reservations::look(dir, &network);
            for (_, text) in held.map_err(GcError::Held)? {
                let ifname = text.lines().nth(1).unwrap_or_default().trim().to_owned();
                found.push((holder(&text).to_owned(), ifname));
            }
        }
        Ok(found)
    }

    fn stray_ports(&self, live: &impl Live) -> Result<Vec<Stray>, GcError> {
        let networks = self.own_subnets();
        let ours = |address: IpAddr| networks.iter().any(|network| network.contains(address));
        // Another runtime may share the configuration, and call our plugins by their commands.
        let entries = self.cache.all().map_err(GcError::Cache)?.into_iter();
        let theirs = entries.filter(|entry| !self.cache.is_ours(entry));
        let theirs: HashSet<String> = theirs.map(|entry| entry.container_id).collect();
        let is_stray = |container: &String| !live.is_live(container) && !theirs.contains(container);
        let mut holders = builtin::port_holders(&self.plugins).map_err(GcError::Held)?;
        holders.retain(|(container, address)| ours(*address) && is_stray(container));
        holders.sort();
        holders.dedup();
        let ports = |(container, address)| Stray::Ports { container, address };
        Ok(holders.into_iter().map(ports).collect())
    }

    /// Every subnet that the configurations in use name.
    fn own_subnets(&self) -> Vec<IpPrefix> {
        let mut found = Vec::new();
        for list in self.known_lists() {
            subnets_in(&list.document, &mut found);
        }
        found
    }
}

fn bridge_of(plugin: &Map<String, Value>) -> String {
    plugin.get("bridge").and_then(Value::as_str).unwrap_or("cni0").to_owned()
}

/// The port of the host's link in the VLAN of the pods.
fn gateway_port_of(plugin: &Map<String, Value>) -> Option<String> {
    let vlan = plugin.get("vlan").and_then(Value::as_u64)?;
    Some(builtin::gateway_port(&bridge_of(plugin), u16::try_from(vlan).ok()?))
}

/// Whatever is called `subnet`, wherever it is.
fn subnets_in(document: &Value, found: &mut Vec<IpPrefix>) {
    match document {
        Value::Object(object) => {
            let named = object.get("subnet").and_then(Value::as_str);
            found.extend(named.and_then(|text| text.parse().ok()).map(|it: IpPrefix| it.network()));
            object.values().for_each(|value| subnets_in(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| subnets_in(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// `knarr doctor --fix` removes what nobody explains.
    #[test]
    fn the_port_of_a_vlans_gateway_is_known_and_looks_like_a_pods() {
        let of = |plugin: Value| gateway_port_of(plugin.as_object().unwrap());
        let port = of(json!({"bridge": "br0", "vlan": 10, "isGateway": true})).unwrap();
        assert!(builtin::is_host_end(&port), "{port}");
        assert_ne!(of(json!({"bridge": "br0", "vlan": 11})).unwrap(), port);
        assert_ne!(of(json!({"vlan": 10})).unwrap(), port);
        assert_eq!(of(json!({"bridge": "br0"})), None);
    }

    #[test]
    fn subnets_are_found_wherever_a_configuration_names_them() {
        let document = json!({"plugins": [{"ipam": {
            "subnet": "10.1.2.3/16",
            "ranges": [[{"subnet": "fd00::/64"}], [{"subnet": "nonsense"}]],
        }}]});
        let mut found = Vec::new();
        subnets_in(&document, &mut found);
        let found: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.1.0.0/16", "fd00::/64"]);
    }
}
