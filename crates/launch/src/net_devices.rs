//! Network devices of the host that become a container's. OCI: `linux.netDevices`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;
use sys::namespace::{self, Kind};
use sys::netlink::{NetlinkError, Rtnetlink, netns};

use crate::error::{At, LaunchError, Step};
use crate::launcher::Launcher;
use crate::plan::{LaunchPlan, Namespace, NetDevice};

impl Launcher {
    /// Moves the devices of a plan into the network namespace of its process, which was made just now.
    pub(crate) fn move_devices(&self, plan: &LaunchPlan, pid: Pid) -> Result<(), LaunchError> {
        if plan.net_devices.is_empty() {
            return Ok(());
        }
        self.on_host(|| {
            let there = self.network_of(plan, pid)?;
            plan.net_devices.iter().try_for_each(|device| move_one(device, there.as_fd()))
        })
    }

    fn network_of(&self, plan: &LaunchPlan, pid: Pid) -> Result<OwnedFd, LaunchError> {
        match &plan.namespaces.net {
            Namespace::New => namespace::of_process(pid, Kind::Net).at(Step::NamespaceOpen, "net"),
            Namespace::Join(path) => {
                rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .at(Step::NamespaceOpen, path)
            }
            Namespace::Inherit => {
                Err(LaunchError::bad_plan("network devices without a network namespace"))
            }
        }
    }
}

/// With its addresses, which the kernel takes from a device that moves.
fn move_one(device: &NetDevice, there: BorrowedFd<'_>) -> Result<(), LaunchError> {
    let NetDevice { name, inside } = device;
    let failed = |error: NetlinkError| refused(name, &error);
    let mut here = Rtnetlink::open().at(Step::NetDevice, name)?;
    let missing = || std::io::Error::from_raw_os_error(libc::ENODEV);
    let link = here.link(name).map_err(failed)?;
    let link = link.ok_or_else(|| LaunchError::new(Step::NetDevice, name, missing()))?;
    let mut addresses = here.addresses(link.index).map_err(failed)?;
    // The kernel gives it a new one of these.
    addresses.retain(|prefix| match prefix.address() {
        std::net::IpAddr::V4(_) => true,
        std::net::IpAddr::V6(address) => !address.is_unicast_link_local(),
    });
    here.move_to(link.index, there, inside).map_err(failed)?;
    let set_up = || {
        let mut there = Rtnetlink::open().at(Step::NetDevice, name)?;
        let index = there.index(inside).at(Step::NetDevice, name)?;
        there.configure(index, &addresses, true, &[]).map_err(failed)
    };
    netns::run_in(there, set_up).at(Step::NetDevice, name)?
}

fn refused(name: &str, error: &NetlinkError) -> LaunchError {
    let what = format!("{name} ({error})");
    match error.errno() {
        Some(errno) => {
            let cause = std::io::Error::from_raw_os_error(errno);
            LaunchError::new(Step::NetDevice, what, cause)
        }
        None => LaunchError { step: Step::NetDevice, subject: what, cause: None },
    }
}
