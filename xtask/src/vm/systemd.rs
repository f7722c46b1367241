//! Debian's systemd as the machine's first process, with knarr as one of its services.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::tree::Tree;

/// Programs of systemd's, where Debian has them.
const PROGRAMS: &[&str] = &[
    "/lib/systemd/systemd",
    "/lib/systemd/systemd-shutdown",
    "/bin/systemctl",
    "/usr/bin/systemd-run",
    "/bin/systemd-tmpfiles",
    "/usr/bin/dbus-daemon",
];

/// Units that lead from its start to ours, and to the machine's end.
const UNITS: &[&str] = &[
    "basic.target",
    "dbus.service",
    "dbus.socket",
    "emergency.target",
    "final.target",
    "local-fs.target",
    "network.target",
    "paths.target",
    "poweroff.target",
    "reboot.target",
    "shutdown.target",
    "slices.target",
    "sockets.target",
    "swap.target",
    "sysinit.target",
    "systemd-poweroff.service",
    "systemd-reboot.service",
    "timers.target",
    "umount.target",
];

/// What the message bus is started with.
const BUS: &[&str] =
    &["/usr/share/dbus-1/system.conf", "/usr/share/dbus-1/system.d/org.freedesktop.systemd1.conf"];

/// No journal: what is worth reading goes to files.
const SYSTEM_CONF: &str = "[Manager]\nLogTarget=console\nLogLevel=warning\nShowStatus=no\n\
     DefaultStandardOutput=null\nDefaultTimeoutStopSec=15s\n";

const TARGET: &str = "[Unit]\nDescription=the virtual machine\nRequires=basic.target\n\
     Wants=vm.service\nAfter=basic.target\nAllowIsolate=yes\n";

const LOG: &str = "[Service]\nStandardOutput=append:/var/log/knarr.log\nStandardError=append:/var/log/knarr.log\n";

/// systemd, and knarr installed as `docs/operate` says.
pub(super) fn install(tree: &Tree, root: &Path) -> Result<()> {
    for program in PROGRAMS {
        tree.program(Path::new(program), program)?;
    }
    for unit in UNITS {
        let path = format!("/lib/systemd/system/{unit}");
        tree.copy(Path::new(&path), &path)?;
    }
    for path in BUS {
        tree.copy(Path::new(path), path)?;
    }
    tree.text("etc/systemd/system.conf", 0o644, SYSTEM_CONF)?;
    tree.text("etc/machine-id", 0o444, "6b6e6172720000000000000000000001\n")?;
    tree.text("etc/os-release", 0o644, "ID=vm\nNAME=vm\n")?;
    tree.text("etc/systemd/system/vm.target", 0o644, TARGET)?;
    tree.text("etc/systemd/system/vm.service", 0o644, include_str!("guest/vm.service"))?;
    let operate = root.join("docs/operate");
    tree.copy(&operate.join("knarr.service"), "lib/systemd/system/knarr.service")?;
    tree.copy(&operate.join("knarr.tmpfiles.conf"), "lib/tmpfiles.d/knarr.conf")?;
    tree.text("etc/systemd/system/knarr.service.d/log.conf", 0o644, LOG)?;
    tree.dir("usr/local/bin")?;
    symlink("../../bin/knarr", tree.at("usr/local/bin/knarr")).context("/usr/local/bin/knarr")
}

/// What the memory disk's first program looks for.
pub(super) const KERNEL_ARGS: &str = "persistent-disk";
const DISK_BYTES: u64 = 1 << 30;

/// An empty disk for the machine: it makes a file system itself.
pub(super) fn disk(work: &Path) -> Result<PathBuf> {
    let path = work.join("systemd.disk");
    let file = File::create(&path).with_context(|| path.display().to_string())?;
    file.set_len(DISK_BYTES).with_context(|| path.display().to_string())?;
    Ok(path)
}
