//! Giving a link to another network namespace.

use std::os::fd::{AsRawFd as _, BorrowedFd};

use super::message::Batch;
use super::route::ifinfomsg;
use super::{NetlinkError, Rtnetlink};

const RTM_SETLINK: u16 = 19;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;

impl Rtnetlink {
    /// Moves a link into the network namespace `there`, where it is called `name`. It is down then and
    /// has no addresses.
    ///
    /// # Errors
    /// `EEXIST` where the name is taken there, `EINVAL` for links that cannot leave their namespace.
    pub fn move_to(
        &mut self,
        index: u32,
        there: BorrowedFd<'_>,
        name: &str,
    ) -> Result<(), NetlinkError> {
        let mut batch = Batch::new();
        batch.message(RTM_SETLINK, 0, format!("move link {index} as {name}"), |body| {
            body.raw(&ifinfomsg(index, 0, 0));
            body.attr(IFLA_NET_NS_FD, &there.as_raw_fd().to_ne_bytes());
            body.text(IFLA_IFNAME, name);
        });
        self.0.transact(batch, 0)
    }
}
