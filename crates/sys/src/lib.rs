//! Safe kernel calls.
pub mod netlink;
