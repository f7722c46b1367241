//! `LaunchPlan` and the code that turns one into a process.
//!
//! A plan is flat, validated and complete: the seccomp filter is compiled, the device filter is
//! compiled, cgroup files and their values are listed. Whoever executes it decides nothing.
//!
//! Never here: JSON, async, the OCI spec, the CRI. The executing side must be single-threaded
//! (the shim, `knarr oci`): the child half runs between `clone3` and `execve`.
//!
//! Main types: [`plan::LaunchPlan`] and [`plan::ExecPlan`] say what, [`Launcher`] does it,
//! [`Launching`] is a child on its way, [`Prepared`] one that waits and [`Running`] one that runs, [`LaunchError`] names the step
//! that failed. After an error nothing is left: the child is reaped and new cgroups are removed. Where SIGKILL
//! does not reach the child, that is done by [`Launcher::see_off`] once it has ended.
//!
//! A container that is made now and started later, by another process, waits behind a socket:
//! [`Launcher::prepare_waiting`], [`Prepared::leave`], [`start_waiting`].
//!
//! How a launch goes: the *parent half* makes the cgroups, then every mount that needs the host's
//! view, detached (`host`); it clones; the *child half* (`child`) joins the cgroups, puts the
//! mounts together, pivots, takes on its identity and executes. They talk over a socket pair whose
//! child end closes at exec (`report`).

mod agent;
mod birth;
mod cgroup;
mod child;
mod entering;
mod error;
mod hooks;
mod host;
mod ids;
mod launcher;
mod launching;
mod net_devices;
mod nodes;
mod outliving;
mod pause;
pub mod plan;
mod prepared;
mod probe;
mod report;
mod resctrl;
mod rounds;
mod sysctl;
mod tool;
mod user;

pub use entering::Entering;
pub use error::{FailureKind, LaunchError, Step, Warning};
pub use launcher::{Groups, Io, Launcher, Options, make_template};
pub use launching::{Launching, Progress};
pub use pause::pause_program;
pub use prepared::{Prepared, Running, start_waiting};
pub use probe::probe_user_namespaces;
pub use rounds::{Parted, Parting};
pub use tool::{ImagePath, Tool, ToolIo, View, Wanted};
pub use user::maps_of_namespace;
