//! Safe kernel calls: the mount API, in-root file access, namespaces, pidfds, `clone3`, cgroup
//! directories, seccomp, BPF, credentials, signals, netlink.
//!
//! All `unsafe` that is not the launcher's child half lives here, each block with the invariant it
//! relies on. What `rustix` offers safely is used from there, here is only what it lacks or what
//! several crates would otherwise repeat.
//!
//! Never here: policy. Nothing in this crate decides what a container may do, retries on its own
//! account (except where the kernel asks for it) or logs.
//!
//! Main entry points: [`process::clone_child`], [`mount::FsContext`], [`mount::clone_tree`],
//! [`fs::open_in_root`], [`cgroup::detect`], [`pidfd`], [`namespace`].

pub mod bpf;
pub mod cgroup;
pub mod copy;
pub mod credentials;
pub mod descriptors;
pub mod fdpass;
pub mod fs;
pub mod heap;
pub mod mount;
pub mod namespace;
pub mod netlink;
pub mod pidfd;
pub mod placement;
pub mod priority;
pub mod process;
pub mod program;
#[cfg(target_arch = "x86_64")]
pub mod ptrace;
pub mod seccomp;
pub mod signal;
pub mod supervise;
pub mod trace;
pub mod userns;
pub mod writeback;
