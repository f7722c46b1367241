//! Who holds which address, for people who look for the answer.

use std::net::IpAddr;

use serde_json::Value;

use crate::builtin::{Reservations, holder};
use crate::cache::Entry;
use crate::engine::{Engine, chain};
use crate::gc::{GcError, Live, subdirectories};
use crate::result;

/// Addresses, and who holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The network.
    pub network: String,
    /// The sandbox; empty for a reservation that names none.
    pub container: String,
    /// The pod's interface; empty where only the address is known.
    pub interface: String,
    /// The pod's namespace and name, as far as recorded.
    pub pod: Option<(String, String)>,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// What is to be thought of it.
    pub state: HoldingState,
}

/// What is to be thought of a holding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HoldingState {
    /// The sandbox is attached.
    Attached,
    /// The sandbox is being attached, or being detached.
    Underway,
    /// There is no such sandbox: the next GC releases it.
    Left,
}

/// One attachment in full.
#[derive(Debug, Clone, PartialEq)]
pub struct AttachmentDetail {
    /// The network.
    pub network: String,
    /// The pod's interface.
    pub interface: String,
    /// Where the pod's network namespace was pinned.
    pub netns: String,
    /// The result of its last plugin.
    pub result: Value,
    /// The configuration it was attached with.
    pub configuration: Value,
    /// What CHECK finds wrong; `None`: nothing.
    pub problem: Option<String>,
}

impl Engine {
    /// Every attachment on record, and every reserved address that no record explains, by
    /// network and address.
    ///
    /// # Errors
    /// The records cannot be listed.
    pub fn holdings(&self, live: &impl Live) -> Result<Vec<Holding>, GcError> {
        let entries = self.cache.all().map_err(GcError::Cache)?;
        let own = entries.iter().filter(|entry| self.cache.is_ours(entry));
        let mut out: Vec<Holding> = own.map(|entry| recorded(entry, live)).collect();
        let dir = self.data_dir();
        let networks = subdirectories(dir)
            .map_err(|source| GcError::Reservations { path: dir.to_owned(), source })?;
        for network in networks {
            let held = Reservations::look(dir, &network);
            for (address, text) in held.map_err(GcError::Held)? {
                let container = holder(&text);
                let explained = out.iter().any(|holding| {
                    holding.container == container && holding.addresses.contains(&address)
                });
                if !explained {
                    out.push(unrecorded(&network, container, &text, address, live));
                }
            }
        }
        out.sort_by(|a, b| (&a.network, &a.addresses).cmp(&(&b.network, &b.addresses)));
        Ok(out)
    }

    /// A sandbox's attachments with what CHECK says of each. Blocks as long as plugins take.
    ///
    /// # Errors
    /// The records cannot be read.
    pub fn inspect(&self, container: &str) -> Result<Vec<AttachmentDetail>, GcError> {
        let entries = self.cache.of_container(container).map_err(GcError::Cache)?;
        let detail = |entry: &Entry| {
            let configuration = entry.config().unwrap_or_default();
            AttachmentDetail {
                network: entry.network_name.clone(),
                interface: entry.if_name.clone(),
                netns: entry.netns.clone(),
                result: entry.result.clone(),
                configuration: serde_json::from_slice(&configuration).unwrap_or_default(),
                problem: self.check_recorded(entry, entry.netns.as_ref()).err().map(|e| chain(&e)),
            }
        };
        Ok(entries.iter().map(detail).collect())
    }
}

fn recorded(entry: &Entry, live: &impl Live) -> Holding {
    let argument = |wanted: &str| {
        let found = entry.cni_args.iter().find(|(key, _)| key == wanted);
        found.map(|(_, value)| value.clone())
    };
    let attached = live.is_live(&entry.container_id);
    Holding {
        network: entry.network_name.clone(),
        container: entry.container_id.clone(),
        interface: entry.if_name.clone(),
        pod: argument("K8S_POD_NAMESPACE").zip(argument("K8S_POD_NAME")),
        addresses: result::pod_addresses(&entry.result, &entry.if_name),
        state: if attached { HoldingState::Attached } else { HoldingState::Left },
    }
}

fn unrecorded(
    network: &str,
    container: &str,
    text: &str,
    address: IpAddr,
    live: &impl Live,
) -> Holding {
    let underway = live.is_live(container);
    Holding {
        network: network.to_owned(),
        container: container.to_owned(),
        interface: text.lines().nth(1).unwrap_or_default().trim().to_owned(),
        pod: None,
        addresses: vec![address],
        state: if underway { HoldingState::Underway } else { HoldingState::Left },
    }
}
