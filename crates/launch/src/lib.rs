//! `LaunchPlan` and the code that turns one into a process.
//!
//! A plan is flat, validated and complete: the seccomp filter is compiled, the device filter is
//! compiled, cgroup files and their values are listed. Whoever executes it decides nothing.
//!
//! Never here: JSON, async, the OCI spec, the CRI. The executing side must be single-threaded
//! (the shim, `knarr oci`): the child half runs between `clone3` and `execve`.

pub mod plan;
