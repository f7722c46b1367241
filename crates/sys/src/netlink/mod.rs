//! Raw netlink: rtnetlink (links, addresses, routes) and nfnetlink (nf_tables).
//!
//! A netlink socket belongs to the network namespace of the thread that opened it, for good.
//! Everything here opens its socket on the calling thread and never changes that thread's
//! namespace. No name resolution, no caching, no helper process.

mod link_up;

pub use link_up::set_link_up;
