//! Raw netlink: rtnetlink (links, addresses, routes, queues) and nfnetlink (nf_tables, tracked
//! connections).
//!
//! A netlink socket belongs to the network namespace of the thread that opened it, for good.
//! Everything here opens its socket on the calling thread and never changes that thread's
//! namespace; [`netns::run_in`] does work elsewhere on a thread of its own. No name
//! resolution, no caching, no helper process. Calls wait for the kernel, nothing else.
//!
//! Main types: [`Rtnetlink`], [`IpPrefix`], [`NetlinkError`].

mod bridge_port;
mod conntrack;
mod link_up;
pub mod message;
mod move_link;
pub mod netns;
pub mod nftables;
pub mod prefix;
mod route;
mod routes;
mod socket;
mod traffic;

pub use conntrack::Conntrack;
pub use link_up::set_link_up;
pub use prefix::{IpPrefix, IpPrefixError};
pub use route::{Link, LinkChange, Mac, NewBridge, NewVeth, Rtnetlink};
pub use routes::{NewRoute, Route};
pub use socket::{NetlinkError, Reply, Socket};
pub use traffic::TokenBucket;
