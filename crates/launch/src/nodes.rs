//! Device nodes of a container in a user namespace. Nobody in one can make a device, so the host's
//! own nodes are bound; like everything of the host's, they are taken before the clone.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Dev, FileType};

use crate::error::{At, LaunchError, Step};
use crate::plan::{DeviceKind, DeviceNode, LaunchPlan};

/// The devices every container has: name, major number, minor number; all are character devices.
pub(crate) const STANDARD: [(&str, u32, u32); 6] = [
    ("null", 1, 3),
    ("zero", 1, 5),
    ("full", 1, 7),
    ("random", 1, 8),
    ("urandom", 1, 9),
    ("tty", 5, 0),
];

/// The host's nodes, as detached mounts.
#[derive(Debug)]
pub(crate) struct Nodes {
    /// As in [`STANDARD`].
    pub(crate) standard: Vec<OwnedFd>,
    /// One per device of the plan, in its order; none for a pipe, which anybody can make.
    pub(crate) extra: Vec<Option<OwnedFd>>,
}

impl Nodes {
    /// Takes the nodes a plan needs; call it in the host's mount namespace.
    pub(crate) fn take(plan: &LaunchPlan) -> Result<Self, LaunchError> {
        let standard = STANDARD.iter().map(|(name, major, minor)| {
            let path = format!("/dev/{name}");
            let device = rustix::fs::makedev(*major, *minor);
            clone_node(&path, FileType::CharacterDevice, device).at(Step::Device, &path)
        });
        let extra = plan.devices.iter().map(|node| take(node).at(Step::Device, &node.path));
        Ok(Self {
            standard: standard.collect::<Result<_, _>>()?,
            extra: extra.collect::<Result<_, _>>()?,
        })
    }
}

/// A node may have another name on the host than in the container; its numbers say which it is.
fn take(node: &DeviceNode) -> io::Result<Option<OwnedFd>> {
    let (kind, class) = match node.kind {
        DeviceKind::Char => (FileType::CharacterDevice, "char"),
        DeviceKind::Block => (FileType::BlockDevice, "block"),
        DeviceKind::Fifo => return Ok(None),
    };
    let device = rustix::fs::makedev(node.major, node.minor);
    match clone_node(&node.path, kind, device) {
        Err(first) => {
            let (major, minor) = (node.major, node.minor);
            let Ok(event) =
                std::fs::read_to_string(format!("/sys/dev/{class}/{major}:{minor}/uevent"))
            else {
                return Err(first);
            };
            let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME=")).ok_or(first)?;
            clone_node(&format!("/dev/{name}"), kind, device).map(Some)
        }
        found => found.map(Some),
    }
}

fn clone_node(path: &str, kind: FileType, device: Dev) -> io::Result<OwnedFd> {
    let node = sys::mount::clone_path(path, false)?;
    let stat = rustix::fs::fstat(&node)?;
    if FileType::from_raw_mode(stat.st_mode) == kind && stat.st_rdev == device {
        Ok(node)
    } else {
        Err(io::Error::from_raw_os_error(libc::ENODEV))
    }
}
