//! What a daemon left behind: everything in the kernel and on disk that carries the mark of its
//! scratch place or the id of one of its pods and containers.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::mount::UnmountFlags;
use rustix::process::Signal;

use crate::files;
use crate::proc;
use crate::scratch::{Scratch, systemd_driver};
use crate::{own_disk, small_disk};

/// How long things that go by themselves are given to go.
const A_MOMENT: Duration = Duration::from_secs(5);

/// One thing that should not be there any more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Leak {
    /// A process.
    Process {
        /// Its id.
        pid: i32,
        /// Its arguments.
        cmdline: String,
    },
    /// A mount of this mount namespace.
    Mount(PathBuf),
    /// A pinned network namespace.
    Netns(PathBuf),
    /// A port of the bridge.
    Link(String),
    /// A cgroup directory.
    Cgroup(PathBuf),
    /// A file or directory of a pod, a container or an unfinished pull.
    File(PathBuf),
    /// A reserved address.
    Reservation(PathBuf),
    /// A packet filter element.
    Nft(String),
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, cmdline } => write!(f, "process {pid}: {cmdline}"),
            Self::Mount(path) => write!(f, "mount {}", path.display()),
            Self::Netns(path) => write!(f, "network namespace {}", path.display()),
            Self::Link(name) => write!(f, "network link {name}"),
            Self::Cgroup(path) => write!(f, "cgroup {}", path.display()),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Reservation(path) => write!(f, "address reservation {}", path.display()),
            Self::Nft(text) => write!(f, "packet filter element {text}"),
        }
    }
}

/// Looks for leaks of one scratch place.
#[derive(Debug)]
pub struct Leaks<'a> {
    scratch: &'a Scratch,
    ids: BTreeSet<String>,
}

impl<'a> Leaks<'a> {
    /// Knows every id that the daemon's files and log mention.
    pub fn of(scratch: &'a Scratch) -> Self {
        let log = fs::read_to_string(scratch.dir().join("daemon.log")).unwrap_or_default();
        let mut ids = ids_in(&log);
        for dir in [scratch.root().join("pods"), scratch.state().join("pods")] {
            for path in tree(&dir) {
                ids.extend(path.file_name().and_then(|n| n.to_str()).into_iter().flat_map(ids_in));
            }
        }
        Self { scratch, ids }
    }

    /// Everything found. Links go asynchronously with their namespace: they are given a moment.
    pub fn find(&self) -> Vec<Leak> {
        let mut found = self.processes();
        found.extend(self.mounts());
        found.extend(self.namespaces());
        found.extend(self.links());
        found.extend(self.cgroups());
        found.extend(self.files());
        found.extend(self.reservations());
        found.extend(self.packet_filter());
        found
    }

    /// # Errors
    /// There are leaks: the message lists each of them.
    pub fn assert_none(&self) -> Result<()> {
        let found = self.find();
        let list: Vec<_> = found.iter().map(Leak::to_string).collect();
        ensure!(found.is_empty(), "left behind:\n  {}", list.join("\n  "));
        Ok(())
    }

    /// Whether a text names one of the place's ids.
    pub fn knows(&self, text: &str) -> bool {
        self.concerns(text)
    }

    fn concerns(&self, text: &str) -> bool {
        ids_in(text).iter().any(|id| self.ids.contains(id))
    }

    /// Not our own children: those are the daemon and the registry. Nor the dead that wait for
    /// init, which takes its time on some machines.
    fn processes(&self) -> Vec<Leak> {
        let me = i32::try_from(std::process::id()).unwrap_or_default();
        let places = [self.scratch.state(), self.scratch.dir()].map(|p| p.display().to_string());
        let parent_cgroup = format!("{}/", self.scratch.cgroup_parent());
        proc::all()
            .into_iter()
            .filter(|p| p.pid != me && p.parent != me && !(p.zombie && p.parent == 1))
            .filter(|p| {
                places.iter().any(|place| p.cmdline.contains(place))
                    || p.cgroups.contains(&parent_cgroup)
                    || self.concerns(&p.cgroups)
            })
            .map(|p| Leak::Process {
                pid: p.pid,
                cmdline: format!("{} (parent {}, zombie {})", p.cmdline, p.parent, p.zombie),
            })
            .collect()
    }

    /// Not the disks that the test itself has put there.
    fn mounts(&self) -> Vec<Leak> {
        mount_points(|source, path| !is_tests_own(self.scratch, source, path))
            .into_iter()
            .filter(|path| {
                path.starts_with(self.scratch.dir())
                    || path.starts_with(self.scratch.state())
                    || path.to_str().is_some_and(|text| self.concerns(text))
            })
            .map(Leak::Mount)
            .collect()
    }

    fn namespaces(&self) -> Vec<Leak> {
        names(Path::new("/run/netns"))
            .into_iter()
            .filter(|name| self.concerns(name))
            .map(|name| Leak::Netns(Path::new("/run/netns").join(name)))
            .collect()
    }

    fn links(&self) -> Vec<Leak> {
        let ports = PathBuf::from(format!("/sys/class/net/{}/brif", self.scratch.mark()));
        if names(&ports).is_empty() {
            return Vec::new();
        }
        // Under emulation the kernel takes many seconds. Rounds, since an event may come before
        // anybody listens.
        let mut left = Vec::new();
        for _ in 0..12 {
            left = wait_until_empty(&ports);
            if left.is_empty() {
                break;
            }
        }
        left.into_iter().map(Leak::Link).collect()
    }

    fn cgroups(&self) -> Vec<Leak> {
        let mark = self.scratch.mark();
        cgroup_roots()
            .iter()
            .flat_map(|root| tree(root))
            .filter(|path| path.is_dir())
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let below = path.parent().is_some_and(|dir| dir.ends_with(&mark));
                below || self.concerns(name)
            })
            .map(Leak::Cgroup)
            .collect()
    }

    fn files(&self) -> Vec<Leak> {
        let root = self.scratch.root();
        // A pull that failed answers before the threads of its other layers have ended.
        let ingest = root.join("ingest");
        let unfinished = files::wait_until_empty(&ingest, A_MOMENT).unwrap_or_default();
        let mut found: Vec<_> =
            unfinished.into_iter().map(|name| Leak::File(ingest.join(name))).collect();
        for dir in [root.join("pods"), self.scratch.state().join("pods"), root.join("cni/results")]
        {
            found.extend(names(&dir).into_iter().map(|name| Leak::File(dir.join(name))));
        }
        found
    }

    /// `host-local` names a file after each address it has given away.
    fn reservations(&self) -> Vec<Leak> {
        let mut places = vec![PathBuf::from("/var/lib/cni/networks")];
        let layers = self.scratch.root().join("layers");
        for name in names(&self.scratch.root()) {
            let path = self.scratch.root().join(name);
            if path != layers {
                places.push(path);
            }
        }
        places
            .iter()
            .flat_map(|place| tree(place))
            .filter(|path| is_address(path) && self.is_ours(path))
            .map(Leak::Reservation)
            .collect()
    }

    fn is_ours(&self, reservation: &Path) -> bool {
        reservation.starts_with(self.scratch.dir())
            || fs::read_to_string(reservation).is_ok_and(|text| self.concerns(&text))
    }

    /// Elements that name one address: the subnet as a whole belongs to the masquerading set.
    fn packet_filter(&self) -> Vec<Leak> {
        let Ok(output) = Command::new("nft").args(["list", "ruleset"]).output() else {
            return Vec::new();
        };
        let prefix = self.scratch.subnet_prefix();
        String::from_utf8_lossy(&output.stdout)
            .split(['\n', ',', '{', '}'])
            .map(str::trim)
            .filter(|text| {
                let mut words = text.split_whitespace();
                words.any(|word| word.starts_with(&prefix) && word.parse::<IpAddr>().is_ok())
            })
            .map(|text| Leak::Nft(text.to_owned()))
            .collect()
    }
}

/// Removes everything that carries the place's mark or ids, whoever left it there.
pub(crate) fn sweep(scratch: &Scratch) {
    let leaks = Leaks::of(scratch);
    let processes = leaks.processes();
    // All at once: some end only when others have (a sandbox and what it traces).
    for leak in &processes {
        if let Leak::Process { pid, .. } = leak {
            proc::signal(*pid, Signal::KILL).ok();
        }
    }
    // Links go with the namespaces that are held by these, and whoever looks for links waits for that.
    for held in [processes, leaks.mounts(), leaks.namespaces()] {
        held.iter().for_each(remove);
    }
    leaks.find().iter().for_each(remove);
    // Last: what was removed so far may have been in use on them.
    for disk in mount_points(|source, path| is_tests_own(scratch, source, path)) {
        remove(&Leak::Mount(disk));
    }
    let bridge = scratch.mark();
    if Path::new("/sys/class/net").join(&bridge).exists() {
        quietly(Command::new("ip").args(["link", "delete", &bridge]));
    }
    drop_packet_filter(scratch);
    if systemd_driver() {
        quietly(Command::new("systemctl").args(["stop", &format!("{bridge}.slice")]));
    }
    for root in cgroup_roots() {
        fs::remove_dir(root.join(&bridge)).ok();
        // Of `account::Account`, whose owner was killed.
        fs::remove_dir(root.join(format!("{bridge}.runtime"))).ok();
    }
}

/// The masquerading table is shared by all daemons of this network namespace. The last place to go
/// takes it along, unless it serves somebody else as well.
fn drop_packet_filter(scratch: &Scratch) {
    if Scratch::taken().iter().any(|place| place != scratch.state()) {
        return;
    }
    let list = Command::new("nft").args(["list", "table", "ip", "knarr"]).output();
    let Ok(list) = list else { return };
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    let mut elements = list.lines().filter(|line| line.contains("elements"));
    if elements.all(|line| addresses_in(line).iter().all(|address| Scratch::may_use(*address))) {
        for family in ["ip", "ip6"] {
            quietly(Command::new("nft").args(["delete", "table", family, "knarr"]));
        }
    }
}

/// Every IPv4 address in a text.
fn addresses_in(text: &str) -> Vec<Ipv4Addr> {
    text.split(|c: char| c != '.' && !c.is_ascii_digit()).filter_map(|w| w.parse().ok()).collect()
}

fn remove(leak: &Leak) {
    match leak {
        Leak::Process { pid, .. } => {
            proc::signal(*pid, Signal::KILL).ok();
            proc::wait_gone(*pid, A_MOMENT).ok();
        }
        Leak::Mount(path) => {
            rustix::mount::unmount(path, UnmountFlags::DETACH).ok();
        }
        Leak::Netns(path) => {
            rustix::mount::unmount(path, UnmountFlags::DETACH).ok();
            fs::remove_file(path).ok();
        }
        Leak::Link(name) => quietly(Command::new("ip").args(["link", "delete", name])),
        Leak::Cgroup(path) => {
            let below = tree(path);
            below.iter().rev().filter(|path| path.is_dir()).for_each(|path| {
                fs::remove_dir(path).ok();
            });
            fs::remove_dir(path).ok();
        }
        Leak::Reservation(path) => {
            fs::remove_file(path).ok();
        }
        // Host ports; what else there may be goes with its table.
        Leak::Nft(text) => {
            let key = text.split(" comment ").next().unwrap_or_default();
            let key = key.split(" : ").next().unwrap_or_default();
            let map = if key.split(" . ").count() == 3 { "ports_on" } else { "ports" };
            let element = format!("{{ {key} }}");
            quietly(Command::new("nft").args(["delete", "element", "ip", "knarr", map, &element]));
        }
        // They go with the scratch directory.
        Leak::File(_) => {}
    }
}

fn quietly(command: &mut Command) {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().ok();
}

/// Every run of exactly 64 lowercase hexadecimal digits.
fn ids_in(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !matches!(c, '0'..='9' | 'a'..='f'))
        .filter(|word| word.len() == 64)
        .map(str::to_owned)
        .collect()
}

fn is_address(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|n| n.parse::<IpAddr>().is_ok())
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// Everything below `dir`, parents before children; symbolic links are not followed.
pub fn tree(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found
}

fn mount_table() -> String {
    fs::read_to_string("/proc/self/mountinfo").unwrap_or_default()
}

/// Whether this is a disk that the place's test has put there.
fn is_tests_own(scratch: &Scratch, source: &str, path: &Path) -> bool {
    let is_there = path.starts_with(scratch.dir()) || path.starts_with(scratch.state());
    let is_small = is_there && source == small_disk::SOURCE;
    is_small || own_disk::is_root(scratch, source, path)
}

/// Those of which, by source and place, that holds.
fn mount_points(of: impl Fn(&str, &Path) -> bool) -> Vec<PathBuf> {
    let source = |line: &str| line.split(" - ").nth(1)?.split(' ').nth(1).map(str::to_owned);
    let mount = |line: &str| {
        let path = line.split(' ').nth(4)?.replace("\\040", " ");
        Some((source(line)?, PathBuf::from(path)))
    };
    let mounts = mount_table().lines().filter_map(mount).collect::<Vec<_>>();
    mounts.into_iter().filter(|(source, path)| of(source, path)).map(|(_, path)| path).collect()
}

/// Where the hierarchies are mounted.
pub(crate) fn cgroup_roots() -> Vec<PathBuf> {
    mount_table()
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4))
        .map(PathBuf::from)
        .collect()
}

/// Waits on the kernel's link events until the directory of bridge ports is empty; returns what
/// is left after five seconds.
fn wait_until_empty(ports: &Path) -> Vec<String> {
    let monitor = Command::new("timeout")
        .args(["5", "ip", "-o", "monitor", "link"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut monitor) = monitor else { return names(ports) };
    if let Some(events) = monitor.stdout.take() {
        let mut events = BufReader::new(events).lines();
        while !names(ports).is_empty() && events.next().is_some() {}
    }
    monitor.kill().ok();
    monitor.wait().ok();
    names(ports)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_ids_count() {
        let id = "ab".repeat(32);
        let text = format!("pod {id} and /x/knarr-{id}/y, not {id}0 nor abc");
        assert_eq!(ids_in(&text).into_iter().collect::<Vec<_>>(), [id]);
    }
}
