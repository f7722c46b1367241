//! The host's hierarchies, from its mount table.

use std::io;
use std::path::Path;

use model::{CgroupHierarchy, CgroupLayout};

/// Why the layout is not known.
#[derive(Debug, thiserror::Error)]
pub enum DetectError {
    /// A kernel file could not be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// No hierarchy is mounted.
    #[error("no cgroup hierarchy is mounted on this host")]
    NoneMounted,
}

/// Reads how the hierarchies are mounted in the caller's mount namespace.
///
/// # Errors
/// [`DetectError`].
pub fn detect() -> Result<CgroupLayout, DetectError> {
    const MOUNTS: &str = "/proc/self/mountinfo";
    let unreadable = |path: &str| {
        let path = path.to_owned();
        |source| DetectError::Unreadable { path, source }
    };
    let mounts = std::fs::read_to_string(MOUNTS).map_err(unreadable(MOUNTS))?;
    parse_layout(&mounts, |mountpoint| {
        let path = Path::new(mountpoint).join("cgroup.controllers");
        std::fs::read_to_string(&path).map_err(unreadable(&path.to_string_lossy()))
    })
}

/// The pure part of [`detect`]: a mount table and what `cgroup.controllers` holds at a mount point.
///
/// # Errors
/// [`DetectError::NoneMounted`], or what `controllers_at` fails with.
pub fn parse_layout(
    mountinfo: &str,
    controllers_at: impl Fn(&str) -> Result<String, DetectError>,
) -> Result<CgroupLayout, DetectError> {
    let mut hierarchies: Vec<CgroupHierarchy> = Vec::new();
    let mut unified = None;
    for mount in mountinfo.lines().filter_map(parse_line) {
        match mount.fstype {
            "cgroup2" if unified.is_none() => {
                let controllers = controllers_at(&mount.mountpoint)?;
                let controllers = controllers.split_whitespace().map(str::to_owned).collect();
                unified = Some(CgroupHierarchy { mountpoint: mount.mountpoint, controllers });
            }
            "cgroup" => {
                let controllers = v1_controllers(mount.super_options);
                // The same hierarchy may be mounted at several places; the first is the usual one.
                let known = hierarchies.iter().any(|h| h.controllers == controllers);
                if !known && !controllers.is_empty() {
                    hierarchies.push(CgroupHierarchy { mountpoint: mount.mountpoint, controllers });
                }
            }
            _ => {}
        }
    }
    match (hierarchies.is_empty(), unified) {
        (true, None) => Err(DetectError::NoneMounted),
        (true, Some(unified)) => Ok(CgroupLayout::V2(unified)),
        (false, unified) => Ok(CgroupLayout::V1 { hierarchies, unified }),
    }
}

/// Super-block options of a v1 hierarchy that name no controller.
const V1_OPTIONS: [&str; 9] = [
    "rw",
    "ro",
    "all",
    "none",
    "xattr",
    "noprefix",
    "clone_children",
    "cpuset_v2_mode",
    "favordynmods",
];

fn v1_controllers(super_options: &str) -> Vec<String> {
    super_options
        .split(',')
        .filter(|option| !V1_OPTIONS.contains(option) && !option.starts_with("release_agent="))
        .filter(|option| !option.starts_with("seclabel"))
        .map(str::to_owned)
        .collect()
}

struct Mount<'a> {
    mountpoint: String,
    fstype: &'a str,
    super_options: &'a str,
}

/// Fields of `proc_pid_mountinfo(5)`; a lone `-` ends the optional ones.
fn parse_line(line: &str) -> Option<Mount<'_>> {
    let (before, after) = line.split_once(" - ")?;
    let mountpoint = before.split(' ').nth(4)?;
    let mut after = after.split(' ');
    let fstype = after.next()?;
    let super_options = after.nth(1)?;
    Some(Mount { mountpoint: unescape(mountpoint), fstype, super_options })
}

/// The kernel writes space, tab, newline and backslash as `\ooo`.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |field, (code, plain)| field.replace(code, plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hierarchy(mountpoint: &str, controllers: &[&str]) -> CgroupHierarchy {
        CgroupHierarchy {
            mountpoint: mountpoint.to_owned(),
            controllers: controllers.iter().map(|&c| c.to_owned()).collect(),
        }
    }

    #[test]
    fn unified_alone_is_v2() {
        let table = "22 27 0:21 / /proc rw - proc proc rw\n\
            30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
        let layout = parse_layout(table, |_| Ok("cpuset cpu io memory pids\n".to_owned())).unwrap();
        let expected = hierarchy("/sys/fs/cgroup", &["cpuset", "cpu", "io", "memory", "pids"]);
        assert_eq!(layout, CgroupLayout::V2(expected));
    }

    #[test]
    fn controllers_beside_unified_are_hybrid() {
        let table = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            33 31 0:29 / /elsewhere rw - cgroup cgroup rw,cpu,cpuacct\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let layout = parse_layout(table, |_| Ok(String::new())).unwrap();
        let expected = CgroupLayout::V1 {
            hierarchies: vec![
                hierarchy("/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
                hierarchy("/sys/fs/cgroup/systemd", &["name=systemd"]),
            ],
            unified: Some(hierarchy("/sys/fs/cgroup/unified", &[])),
        };
        assert_eq!(layout, expected);
    }

    #[test]
    fn a_host_without_cgroups_is_an_error() {
        let nothing = parse_layout("22 27 0:21 / /proc rw - proc proc rw\n", |_| Ok(String::new()));
        assert!(matches!(nothing, Err(DetectError::NoneMounted)));
    }

    #[test]
    fn this_host_has_a_layout() {
        detect().unwrap();
    }
}
