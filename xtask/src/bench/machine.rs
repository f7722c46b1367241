//! Where and with what it was measured: numbers without that say nothing.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::steps::output;

/// Debian packages of the peers.
const PEERS: &[&str] = &["containerd", "runc", "crun", "containernetworking-plugins"];

/// The machine, the versions and the date, as far as they can be found out. `here`: what the runtimes keep is
/// on the machine's own file systems.
pub(super) fn describe(root: &Path, here: bool) -> Value {
    let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let field = |path: &str, key: &str| {
        let text = line(path);
        let found = text.lines().find_map(|line| line.strip_prefix(key));
        let found = found.unwrap_or_default().trim_start_matches([' ', '\t', ':', '=']);
        found.trim_matches('"').to_owned()
    };
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kib: u64 = field("/proc/meminfo", "MemTotal:")
        .split_whitespace()
        .next()
        .and_then(|kib| kib.parse().ok())
        .unwrap_or_default();
    let unified = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let commit =
        output(Command::new("git").current_dir(root).args(["rev-parse", "--short", "HEAD"]));
    let date = output(Command::new("date").args(["-u", "+%Y-%m-%d"]));
    json!({
        "processor": field("/proc/cpuinfo", "model name"),
        "processors": cpus,
        "memory, MiB": kib / 1024,
        "kernel": line("/proc/sys/kernel/osrelease"),
        "system": field("/etc/os-release", "PRETTY_NAME"),
        "files": here.then_some("the machine's own file systems"),
        "cgroups": if unified { "v2" } else { "v1" },
        "knarr": commit.unwrap_or_default().trim(),
        "date": date.unwrap_or_default().trim(),
        "packages": packages(),
    })
}

fn packages() -> Vec<String> {
    let one = |name: &&str| {
        let mut query = Command::new("dpkg-query");
        let version = output(query.args(["-W", "-f", "${Package} ${Version}", name])).ok()?;
        (!version.trim_end().ends_with(name)).then_some(version)
    };
    PEERS.iter().filter_map(one).collect()
}
