//! Whether the host has what pods need.

use std::path::Path;

use cni::NetworkStatus;
use rustix::process::{Resource, getrlimit};

use super::{Area, Examination};

/// Kernels before this lack what every pod needs.
const OLDEST_KERNEL: (u32, u32) = (5, 15);

/// A pod takes half a dozen descriptors of the daemon.
const DESCRIPTORS: u64 = 65_536;

/// Controllers without which limits are not applied.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// What containers may ask for, or what limits and logs need, by their numbers.
const CAPABILITIES: [(u32, &str); 12] = [
    (0, "CAP_CHOWN"),
    (1, "CAP_DAC_OVERRIDE"),
    (5, "CAP_KILL"),
    (6, "CAP_SETGID"),
    (7, "CAP_SETUID"),
    (12, "CAP_NET_ADMIN"),
    (19, "CAP_SYS_PTRACE"),
    (21, "CAP_SYS_ADMIN"),
    (24, "CAP_SYS_RESOURCE"),
    (27, "CAP_MKNOD"),
    (29, "CAP_AUDIT_WRITE"),
    (31, "CAP_SETFCAP"),
];

/// Less free than this share of the file system, in percent.
const LITTLE: u64 = 10;
const TOO_LITTLE: u64 = 2;

/// A kernel setting, the least it should be, and why.
const SETTINGS: [(&str, u64, &str); 6] = [
    (
        "net/ipv4/ip_forward",
        1,
        "pods reach the world through the host; knarr sets it with the first pod",
    ),
    (
        "fs/inotify/max_user_instances",
        512,
        "programs that watch files in many pods run out of them",
    ),
    (
        "fs/inotify/max_user_watches",
        65_536,
        "programs that watch files in many pods run out of them",
    ),
    ("kernel/pid_max", 32_768, "all pods share the numbers of processes"),
    ("kernel/keys/root_maxkeys", 1_000, "runtimes and containers share root's keys"),
    ("vm/max_map_count", 65_530, "databases and JVMs need more"),
];

pub(super) fn all(out: &mut Examination<'_>, network: &NetworkStatus) {
    kernel(out);
    controllers(out);
    settings(out);
    limits(out);
    capabilities(out);
    if let NetworkStatus::NotReady { message } = network {
        let remedy = "see docs/operate/network.md; pods cannot start until then";
        out.problem(Area::Host, &"network", message.clone(), remedy);
    }
    if let Err(reason) = &out.cx.user_namespaces {
        let problem = format!("pods cannot have user namespaces: {reason}");
        out.advice(Area::Host, &"user namespaces", problem, "nothing, unless pods ask for them");
    }
    for dir in [out.cx.paths().root().to_owned(), out.cx.paths().state().to_owned()] {
        space(out, &dir);
    }
}

fn kernel(out: &mut Examination<'_>) {
    let version = out.cx.parts.host.kernel;
    if version < OLDEST_KERNEL {
        let (major, minor) = version;
        let problem = format!("Linux {major}.{minor} is older than 5.15");
        out.problem(Area::Host, &"kernel", problem, "install a newer kernel");
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !known.lines().any(|line| line.split_whitespace().last() == Some("overlay")) {
        let problem = "the kernel has no overlay file system (yet)".to_owned();
        out.problem(
            Area::Host,
            &"overlay",
            problem,
            "modprobe overlay, and have it loaded at boot",
        );
    }
    if !Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
        let problem = "the kernel filters no system calls".to_owned();
        out.problem(Area::Host, &"seccomp", problem, "use a kernel with CONFIG_SECCOMP_FILTER");
    }
}

fn controllers(out: &mut Examination<'_>) {
    let layout = out.cx.parts.host.cgroup.clone();
    if !layout.is_v2() {
        let problem =
            "control groups of version 1: no protection of memory, no limits of IO that hold"
                .to_owned();
        out.advice(Area::Host, &"cgroups", problem, "boot with systemd.unified_cgroup_hierarchy=1");
    }
    for name in CONTROLLERS {
        // Version 1 has another name for it.
        let found = layout.controller(name).is_some()
            || (name == "io" && layout.controller("blkio").is_some());
        if !found {
            let problem = format!("the controller {name} is not there: its limits are not applied");
            out.advice(
                Area::Host,
                &"cgroups",
                problem,
                "enable it for the group that knarr's pods are in",
            );
        }
    }
}

fn settings(out: &mut Examination<'_>) {
    for (name, least, why) in SETTINGS {
        let path = Path::new("/proc/sys").join(name);
        // A kernel without the setting has no such limit.
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let Ok(value) = text.trim().parse::<u64>() else { continue };
        if value < least {
            let name = name.replace('/', ".");
            let problem = format!("{name} is {value}: {why}");
            let remedy = format!("sysctl {name}={least}");
            out.advice(Area::Host, &name, problem, &remedy);
        }
    }
}

fn limits(out: &mut Examination<'_>) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < DESCRIPTORS) {
        let problem = format!(
            "knarr may have {} files open, and so may containers that nothing else limits",
            limit.current.unwrap_or_default()
        );
        out.advice(Area::Host, &"LimitNOFILE", problem, "set LimitNOFILE=1048576 in knarr's unit");
    }
}

fn capabilities(out: &mut Examination<'_>) {
    let mask = out.cx.parts.host.bounding_caps;
    let missing: Vec<_> = CAPABILITIES
        .iter()
        .filter(|(bit, _)| mask & (1 << bit) == 0)
        .map(|(_, name)| *name)
        .collect();
    if !missing.is_empty() {
        let problem = format!("knarr lacks {}: what needs them is left out", missing.join(", "));
        let remedy = "start knarr with all of root's capabilities";
        out.advice(Area::Host, &"capabilities", problem, remedy);
    }
}

fn space(out: &mut Examination<'_>, dir: &Path) {
    let stat = match rustix::fs::statvfs(dir) {
        Ok(stat) => stat,
        Err(errno) => return out.unseen(Area::Host, &dir.display(), &std::io::Error::from(errno)),
    };
    let kinds = [("bytes", stat.f_bavail, stat.f_blocks), ("inodes", stat.f_favail, stat.f_files)];
    for (what, free, all) in kinds {
        // Some file systems do not count their inodes.
        let Some(percent) = (free.saturating_mul(100)).checked_div(all) else { continue };
        let problem = format!("{percent} % of its {what} are free");
        let remedy = "`knarr image rm --unused` frees images; kubelet does so too";
        if percent < TOO_LITTLE {
            out.problem(Area::Host, &dir.display(), problem, remedy);
        } else if percent < LITTLE {
            out.advice(Area::Host, &dir.display(), problem, remedy);
        }
    }
}
