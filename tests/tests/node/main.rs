//! Ring 2: the real daemon over its socket, on the real kernel, as kubelet would drive it.
//!
//! Every test has a daemon of its own and ends with a search for whatever that daemon left behind.
//! One program, so that it is linked once and its tests run side by side.
#![forbid(unsafe_code)]
#![cfg(test)]
#![allow(clippy::large_futures, reason = "a test has the stack to itself")]

mod apparmor;
mod backlog;
mod bad_input;
mod broken_fields;
mod broken_records;
mod churn;
mod cli;
mod clocks;
mod containerd;
mod containers;
mod credentials;
mod descriptors;
mod devices;
mod disks;
mod doctor;
mod exec;
mod handlers;
mod hanging;
mod hanging_logs;
mod hooks;
mod image_volumes;
mod images;
mod inspect;
mod leaks;
mod lifecycle;
mod live;
mod logs;
mod lost_shims;
mod metrics;
mod mounts;
mod network;
mod network_plugins;
mod oci;
mod older_clients;
mod older_shims;
mod oom;
mod pods;
mod pressure;
mod privileges;
mod random;
mod repeated;
mod resources;
mod restart;
mod security;
mod selinux;
mod sessions;
mod sessions_cli;
mod sessions_hostile;
mod sessions_tls;
mod stats;
mod stopped_shims;
mod streamed;
mod survival;
mod systemd;
mod unpack;
mod users;
