//! Raw netlink: rtnetlink (links, addresses, routes) and nfnetlink (nf_tables).
//!
//! A netlink socket belongs to the network namespace of the thread that opened it, for good.
//! Everything here opens its socket on the calling thread and never changes that thread's
//! namespace; [`netns::run_in`] does work elsewhere on a thread of its own. No name
//! resolution, no caching, no helper process. Calls wait for the kernel, nothing else.
//!
//! Main types: [`Rtnetlink`], [`IpPrefix`], [`NetlinkError`].

mod link_up;
pub mod message;
pub mod netns;
pub mod nftables;
pub mod prefix;
mod route;
mod socket;

pub use link_up::set_link_up;
pub use prefix::{IpPrefix, IpPrefixError};
pub use route::{Link, Mac, NewBridge, NewRoute, NewVeth, Rtnetlink};
pub use socket::{NetlinkError, Reply, Socket};
