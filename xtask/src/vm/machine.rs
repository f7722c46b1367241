//! What the machine boots: Debian's kernel, and a memory disk with everything else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::parts::Kind;
use super::tree::Tree;
use super::{Request, plant, selinux, systemd};
use crate::dist::dist_dir;
use crate::steps::{execute, output};

/// Modules knarr uses; what they need themselves is found by `modprobe`.
const MODULES: &[&str] = &[
    "act_mirred",
    "bridge",
    "cls_u32",
    "ext4",
    "fuse",
    "ifb",
    "loop",
    "nf_conntrack_netlink",
    "nf_tables",
    "nft_chain_nat",
    "nft_compat",
    "nft_ct",
    "nft_fib",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_masq",
    "nft_meta_bridge",
    "nft_nat",
    "overlay",
    "sch_ingress",
    "sch_tbf",
    "veth",
    "virtio_blk",
    "virtio_pci",
    "xfs",
    "xt_addrtype",
    "xt_comment",
    "xt_conntrack",
    "xt_mark",
    "xt_MASQUERADE",
    "xt_multiport",
    "xt_nat",
    "xt_tcpudp",
];

/// An unpacked kernel package.
#[derive(Debug)]
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    /// Holds `lib/modules/<release>`.
    dir: PathBuf,
    release: String,
}

/// Fetches Debian's kernel for virtual machines, unless it is there from the last time. It is
/// unpacked, never installed.
pub(super) fn kernel(work: &Path) -> Result<Kernel> {
    let dir = work.join("kernel");
    if !dir.join("boot").exists() {
        let fetched = work.join("package");
        fs::create_dir_all(&fetched).with_context(|| fetched.display().to_string())?;
        // What apt knows may be too old to be downloaded, or nothing.
        if download(&fetched).is_err() {
            execute(Command::new("apt-get").args(["update", "--quiet"]))
                .and_then(|()| download(&fetched))
                .context("fetch Debian's kernel for virtual machines (is the network there?)")?;
        }
        let fresh = work.join("kernel.new");
        execute(Command::new("dpkg").arg("-x").arg(only_entry(&fetched)?).arg(&fresh))?;
        fs::rename(&fresh, &dir).with_context(|| dir.display().to_string())?;
        fs::remove_dir_all(&fetched).with_context(|| fetched.display().to_string())?;
    }
    let modules = only_entry(&dir.join("lib/modules"))?;
    let release = modules.file_name().and_then(|name| name.to_str()).context("kernel release")?;
    execute(Command::new("depmod").arg("-b").arg(&dir).arg(release))?;
    println!("    Linux {release}");
    let image = dir.join(format!("boot/vmlinuz-{release}"));
    Ok(Kernel { image, release: release.to_owned(), dir })
}

/// The package that the newest kernel for virtual machines is in.
fn download(to: &Path) -> Result<()> {
    let about = output(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
    let package = about
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .context("apt does not know linux-image-cloud-amd64")?;
    execute(Command::new("apt-get").args(["download", "--quiet", package]).current_dir(to))
}

fn only_entry(dir: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(dir).with_context(|| dir.display().to_string())?;
    let first = entries.next().with_context(|| format!("{} is empty", dir.display()))?;
    ensure!(entries.next().is_none(), "more than one entry in {}", dir.display());
    Ok(first.with_context(|| dir.display().to_string())?.path())
}

/// Gathers the machine's files and packs them.
pub(super) fn initrd(
    root: &Path,
    work: &Path,
    kernel: &Kernel,
    request: &Request,
    (kind, parts): (Kind, &[&str]),
) -> Result<PathBuf> {
    let tree = Tree::plant(work.join("tree"))?;
    system(&tree)?;
    selinux::policy(&tree, work)?;
    modules(&tree, kernel)?;
    if kind == Kind::Systemd {
        systemd::install(&tree, root)?;
    }
    let dist = request.dist.clone().unwrap_or_else(|| dist_dir(root));
    for name in ["knarr", "knarr-shim"] {
        tree.stripped(&dist.join(name), &format!("usr/bin/{name}"))?;
    }
    for part in parts {
        plant::part(&tree, root, work, request, part)?;
    }
    for dir in &request.with {
        let inside = tree.dir("with")?;
        execute(Command::new("cp").arg("-a").arg(dir).arg(inside))?;
    }
    tree.text("etc/vm-parts", 0o644, &parts.join(","))?;
    pack(work)
}

/// busybox, and the programs that tests call by name.
fn system(tree: &Tree) -> Result<()> {
    let busybox = Path::new("/bin/busybox");
    tree.copy(busybox, "usr/bin/busybox")?;
    for path in output(Command::new(busybox).arg("--list"))?.lines() {
        let link = tree.at(&format!("usr/bin/{path}"));
        if path != "busybox" {
            std::os::unix::fs::symlink("busybox", &link).with_context(|| path.to_owned())?;
        }
    }
    // The kernel calls it by this name.
    std::os::unix::fs::symlink("../bin/busybox", tree.at("usr/sbin/modprobe"))
        .context("modprobe")?;
    for program in ["/sbin/ip", "/usr/sbin/nft", "/usr/sbin/mkfs.ext4", "/usr/bin/docker-registry"]
    {
        let name = program.rsplit('/').next().unwrap_or(program);
        tree.program(Path::new(program), &format!("usr/sbin/{name}"))?;
    }
    // The second is the message bus's.
    let users = "root:x:0:0:root:/root:/bin/sh\nmessagebus:x:100:100::/run:/bin/false\n";
    tree.text("etc/passwd", 0o644, users)?;
    tree.text("etc/group", 0o644, "root:x:0:\nmessagebus:x:100:\n")?;
    tree.text("etc/hostname", 0o644, "vm\n")?;
    tree.text("etc/hosts", 0o644, "127.0.0.1 localhost\n")?;
    tree.text("etc/resolv.conf", 0o644, "")?;
    tree.text("vm/checks", 0o644, include_str!("guest/checks.sh"))?;
    tree.text("vm/parts", 0o755, include_str!("guest/parts.sh"))?;
    tree.text("init", 0o755, include_str!("guest/init.sh"))
}

fn modules(tree: &Tree, kernel: &Kernel) -> Result<()> {
    let mut ask = Command::new("modprobe");
    ask.arg("--dirname").arg(&kernel.dir).arg("--set-version").arg(&kernel.release);
    let list = output(ask.args(["--show-depends", "--all"]).args(MODULES))?;
    for line in list.lines() {
        let Some(path) = line.trim().strip_prefix("insmod ") else { continue };
        // Behind the path may stand options from this machine's own configuration.
        let path = Path::new(path.split(' ').next().unwrap_or_default());
        let inside = path.strip_prefix(&kernel.dir).context("a module outside its package")?;
        tree.copy(path, &inside.to_string_lossy())?;
    }
    let dir = format!("lib/modules/{}", kernel.release);
    for list in ["modules.order", "modules.builtin", "modules.builtin.modinfo"] {
        tree.copy(&kernel.dir.join(&dir).join(list), &format!("{dir}/{list}"))?;
    }
    execute(Command::new("depmod").arg("-b").arg(tree.at("/")).arg(&kernel.release))
}

fn pack(work: &Path) -> Result<PathBuf> {
    let initrd = work.join("initrd.gz");
    let pack = "find . | cpio --quiet -o -H newc -R 0:0 | gzip -1 >\"$0\"";
    execute(Command::new("sh").args(["-ec", pack]).arg(&initrd).current_dir(work.join("tree")))?;
    let size = fs::metadata(&initrd).with_context(|| initrd.display().to_string())?.len();
    println!("    {} MiB", size >> 20);
    Ok(initrd)
}
