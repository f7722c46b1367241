//! VLANs of a bridge's ports.

use super::message::{Batch, Body};
use super::route::ifinfomsg;
use super::{NetlinkError, Rtnetlink};

const RTM_DELLINK: u16 = 17;
const RTM_SETLINK: u16 = 19;
const AF_BRIDGE: u8 = 7;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_BRIDGE_FLAGS: u16 = 0;
const IFLA_BRIDGE_VLAN_INFO: u16 = 2;
const BRIDGE_FLAGS_MASTER: u16 = 1;
const BRIDGE_VLAN_INFO_PVID: u16 = 1 << 1;
const BRIDGE_VLAN_INFO_UNTAGGED: u16 = 1 << 2;

impl Rtnetlink {
    /// Makes a port of a bridge a member of a VLAN. `own`: what comes in by the port without a
    /// tag is of this VLAN, and what goes out loses it.
    ///
    /// # Errors
    /// `EOPNOTSUPP` when the kernel's bridges know no VLANs.
    pub fn add_vlan(&mut self, port: u32, vlan: u16, own: bool) -> Result<(), NetlinkError> {
        let flags = if own { BRIDGE_VLAN_INFO_PVID | BRIDGE_VLAN_INFO_UNTAGGED } else { 0 };
        let mut batch = Batch::new();
        batch.message(RTM_SETLINK, 0, format!("add VLAN {vlan} to link {port}"), |body| {
            vlan_of(body, port, vlan, flags);
        });
        self.0.transact(batch, 0)
    }

    /// Takes a port out of a VLAN; success if it is not in it.
    ///
    /// # Errors
    /// As [`Self::add_vlan`].
    pub fn delete_vlan(&mut self, port: u32, vlan: u16) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        batch.message(RTM_DELLINK, 0, format!("take VLAN {vlan} from link {port}"), |body| {
            vlan_of(body, port, vlan, 0);
        });
        match self.0.transact(batch, 0) {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(()),
            outcome => outcome,
        }
    }
}

fn vlan_of(body: &mut Body<'_>, port: u32, vlan: u16, flags: u16) {
    let mut header = ifinfomsg(port, 0, 0);
    header[0] = AF_BRIDGE;
    let mut info = [0; 4];
    info[..2].copy_from_slice(&flags.to_ne_bytes());
    info[2..].copy_from_slice(&vlan.to_ne_bytes());
    body.raw(&header).nest(IFLA_AF_SPEC, |spec| {
        spec.attr(IFLA_BRIDGE_FLAGS, &BRIDGE_FLAGS_MASTER.to_ne_bytes());
        spec.attr(IFLA_BRIDGE_VLAN_INFO, &info);
    });
}
