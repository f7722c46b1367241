//! Control groups: how the host lays them out, and directories in them.
//!
//! Never here: what to write into them. A plan says that.

mod detect;
mod dir;
mod freezer;
mod kill;
mod oom;

pub use detect::{DetectError, detect, parse_layout};
pub use dir::{Cgroup, CgroupError, Version, make, pids, remove};
pub use freezer::{is_frozen, set_frozen};
pub use kill::{any_alive, kill_all};
pub use oom::{OomWatch, oom_kills};
