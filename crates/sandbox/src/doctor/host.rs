//! Whether the host has what pods need.

use std::path::Path;

use bundle::HostFacts;
use cni::NetworkStatus;
use model::CgroupLayout;
use rustix::process::{Resource, getrlimit};

use super::{Area, Cases, Examination};

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

/// What the daemon and its pods find, and what of the network and of user namespaces.
pub(super) fn all(out: &mut Examination<'_>, network: &NetworkStatus) {
    look(&mut out.cases, &out.cx.parts.host);
    let groups = crate::cgroups::children(&out.cx.parts.host.cgroup, "");
    let (drivers, refused) = (out.cx.parts.cgroup_drivers, out.cx.refused_parent.last());
    super::drivers::look(
        &mut out.cases,
        drivers,
        groups.iter().map(String::as_str),
        refused.as_deref(),
    );
    if let NetworkStatus::NotReady { message } = network {
        let remedy = "see docs/operate/network.md; pods cannot start until then";
        out.problem(Area::Host, &"network", message.clone(), remedy);
    }
    if let Err(reason) = &out.cx.user_namespaces {
        let problem = format!("pods cannot have user namespaces: {reason}");
        out.advice(Area::Host, &"user namespaces", problem, "nothing, unless pods ask for them");
    }
}

/// What needs no daemon to be seen. Blocking.
pub(super) fn look(out: &mut Cases, host: &HostFacts) {
    let filesystems = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    kernel(out, host.kernel, &filesystems);
    if !Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
        let problem = "the kernel filters no system calls".to_owned();
        out.problem(Area::Host, &"seccomp", problem, "use a kernel with CONFIG_SECCOMP_FILTER");
    }
    controllers(out, &host.cgroup);
    settings(out, |name| std::fs::read_to_string(Path::new("/proc/sys").join(name)).ok());
    limits(out, getrlimit(Resource::Nofile).current);
    capabilities(out, host.bounding_caps);
}

/// Whether there is room on a directory's file system. Blocking.
pub(super) fn room(out: &mut Cases, dir: &Path) {
    match rustix::fs::statvfs(dir) {
        Ok(stat) => {
            space(out, &dir.display(), "bytes", (stat.f_bavail, stat.f_blocks));
            space(out, &dir.display(), "inodes", (stat.f_favail, stat.f_files));
        }
        Err(errno) => out.unseen(Area::Host, &dir.display(), &std::io::Error::from(errno)),
    }
}

fn kernel(out: &mut Cases, version: (u32, u32), filesystems: &str) {
    if version < OLDEST_KERNEL {
        let (major, minor) = version;
        let problem = format!("Linux {major}.{minor} is older than 5.15");
        out.problem(Area::Host, &"kernel", problem, "install a newer kernel");
    }
    if !filesystems.lines().any(|line| line.split_whitespace().last() == Some("overlay")) {
        let problem = "the kernel has no overlay file system (yet)".to_owned();
        let remedy = "modprobe overlay, and have it loaded at boot";
        out.problem(Area::Host, &"overlay", problem, remedy);
    }
}

fn controllers(out: &mut Cases, layout: &CgroupLayout) {
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
            let remedy = "enable it for the group that knarr's pods are in";
            out.advice(Area::Host, &"cgroups", problem, remedy);
        }
    }
}

fn settings(out: &mut Cases, read: impl Fn(&str) -> Option<String>) {
    for (name, least, why) in SETTINGS {
        // A kernel without the setting has no such limit.
        let Some(Ok(value)) = read(name).map(|text| text.trim().parse::<u64>()) else { continue };
        if value < least {
            let name = name.replace('/', ".");
            let problem = format!("{name} is {value}: {why}");
            let remedy = format!("sysctl {name}={least}");
            out.advice(Area::Host, &name, problem, &remedy);
        }
    }
}

fn limits(out: &mut Cases, descriptors: Option<u64>) {
    if let Some(limit) = descriptors.filter(|limit| *limit < DESCRIPTORS) {
        let problem = format!(
            "knarr may have {limit} files open, and so may containers that nothing else limits"
        );
        out.advice(Area::Host, &"LimitNOFILE", problem, "set LimitNOFILE=1048576 in knarr's unit");
    }
}

fn capabilities(out: &mut Cases, mask: u64) {
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

fn space(out: &mut Cases, dir: &dyn std::fmt::Display, what: &str, (free, all): (u64, u64)) {
    // Some file systems do not count their inodes.
    let Some(percent) = free.saturating_mul(100).checked_div(all) else { return };
    let problem = format!("{percent} % of its {what} are free");
    let remedy = "`knarr image rm --unused` frees images; kubelet does so too";
    if percent < TOO_LITTLE {
        out.problem(Area::Host, dir, problem, remedy);
    } else if percent < LITTLE {
        out.advice(Area::Host, dir, problem, remedy);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Severity;

    /// What is said of a host, by severity and object.
    fn said(look: impl FnOnce(&mut Cases)) -> Vec<(Severity, String, String)> {
        let mut cases = Cases::default();
        look(&mut cases);
        let told = cases.0.into_iter().map(|case| {
            assert!(!case.finding.remedy.is_empty(), "{case:?}");
            (case.finding.severity, case.finding.object, case.finding.problem)
        });
        told.collect()
    }

    #[test]
    fn what_every_pod_needs_of_the_kernel_is_a_problem_where_it_lacks() {
        assert!(said(|out| kernel(out, (5, 15), "nodev\toverlay\n\text4\n")).is_empty());
        let found = said(|out| kernel(out, (5, 10), "\text4\n"));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().all(|(severity, ..)| *severity == Severity::Problem), "{found:?}");
        assert!(found[0].2.contains("5.10"), "{found:?}");
    }

    #[test]
    fn settings_that_are_too_low_are_told_with_the_command_that_raises_them() {
        let high = |_: &str| Some("99999999\n".to_owned());
        assert!(said(|out| settings(out, high)).is_empty());
        assert!(said(|out| settings(out, |_| None)).is_empty(), "no such limit");
        let mut cases = Cases::default();
        settings(&mut cases, |name| {
            (name == "fs/inotify/max_user_instances").then(|| "128\n".to_owned())
        });
        assert_eq!(cases.0.len(), 1, "{cases:?}");
        let finding = &cases.0[0].finding;
        assert_eq!(finding.remedy, "sysctl fs.inotify.max_user_instances=512");
        assert_eq!(finding.severity, Severity::Advice);
    }

    #[test]
    fn limits_and_capabilities_of_the_daemon_are_advice() {
        assert!(said(|out| limits(out, None)).is_empty());
        assert!(said(|out| limits(out, Some(1 << 20))).is_empty());
        assert!(said(|out| limits(out, Some(1024)))[0].2.contains("1024 files"));
        assert!(said(|out| capabilities(out, u64::MAX)).is_empty());
        let found = said(|out| capabilities(out, !(1 << 5)));
        assert_eq!(found[0].0, Severity::Advice);
        assert!(found[0].2.contains("CAP_KILL"), "{found:?}");
    }

    #[test]
    fn little_room_is_advice_and_hardly_any_a_problem() {
        let of = |free| said(move |out| space(out, &"/var", "inodes", (free, 1000)));
        assert!(of(100).is_empty());
        assert_eq!(of(99)[0].0, Severity::Advice);
        assert_eq!(of(19)[0].0, Severity::Problem);
        assert!(of(19)[0].2.contains("1 % of its inodes"));
        assert!(said(|out| space(out, &"/var", "inodes", (0, 0))).is_empty(), "not counted");
    }

    #[test]
    fn a_controller_that_is_not_there_is_told() {
        let hierarchy = |names: &[&str]| model::CgroupHierarchy {
            mountpoint: "/sys/fs/cgroup".into(),
            controllers: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let all = CgroupLayout::V2(hierarchy(&CONTROLLERS));
        assert!(said(|out| controllers(out, &all)).is_empty());
        let few = CgroupLayout::V2(hierarchy(&["cpu", "cpuset", "io", "memory"]));
        let found = said(|out| controllers(out, &few));
        assert!(matches!(found.as_slice(), [(Severity::Advice, _, text)] if text.contains("pids")));
    }
}
