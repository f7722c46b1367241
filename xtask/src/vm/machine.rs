//! What the machine boots: Debian's kernel, and a memory disk with everything else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use test_support::images::{OciImage, catalog};
use test_support::power::storm;
use test_support::registry::DebianRegistry;

use super::tree::Tree;
use super::{
    POWERCUT, Request, SCOPES, SCOPES_TESTS, SELINUX, SELINUX_TESTS, SYSTEMD, selinux, systemd,
};
use crate::dist::dist_dir;
use crate::steps::{cargo, execute, output};

/// Modules knarr uses; what they need themselves is found by `modprobe`.
const MODULES: &[&str] = &[
    "act_mirred",
    "bridge",
    "cls_u32",
    "ext4",
    "ifb",
    "loop",
    "nf_conntrack_netlink",
    "nf_tables",
    "nft_chain_nat",
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
        let about = output(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
        let package = about
            .lines()
            .find_map(|line| line.trim().strip_prefix("Depends: "))
            .context("apt does not know linux-image-cloud-amd64")?;
        let fetched = work.join("package");
        fs::create_dir_all(&fetched).with_context(|| fetched.display().to_string())?;
        execute(Command::new("apt-get").args(["download", package]).current_dir(&fetched))?;
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
    parts: &[&str],
) -> Result<PathBuf> {
    let tree = Tree::plant(work.join("tree"))?;
    system(&tree)?;
    selinux::policy(&tree, work)?;
    modules(&tree, kernel)?;
    let dist = request.dist.clone().unwrap_or_else(|| dist_dir(root));
    for name in ["knarr", "knarr-shim"] {
        let inside = format!("usr/bin/{name}");
        tree.program(&dist.join(name), &inside)?;
        strip(&tree, &inside)?;
    }
    for part in parts {
        match *part {
            "walk" => walk(&tree, work)?,
            "launch" => test_program(&tree, root, "launch", "launch", "vm/launch")?,
            // Networks on a kernel whose bridges know VLANs.
            "network" => network_tests(&tree, root)?,
            "node" => node_tests(&tree, root, "node", &request.node_tests())?,
            SYSTEMD => {
                systemd::install(&tree, root)?;
                walk(&tree, work)?;
                tree.text("vm/systemd", 0o755, include_str!("guest/systemd.sh"))?;
            }
            SCOPES => node_tests(&tree, root, SCOPES, SCOPES_TESTS)?,
            SELINUX => node_tests(&tree, root, SELINUX, SELINUX_TESTS)?,
            POWERCUT => {
                tree.text("vm/powercut", 0o755, include_str!("guest/powercut.sh"))?;
                registry(&tree, work, &storm()?)?;
            }
            _command => {
                let command = request.run.as_deref().unwrap_or_default();
                tree.text("vm/command", 0o755, &format!("#!/bin/sh\n{command}\n"))?;
            }
        }
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
    tree.text("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n")?;
    tree.text("etc/group", 0o644, "root:x:0:\n")?;
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

/// The walk along the command line.
fn walk(tree: &Tree, work: &Path) -> Result<()> {
    tree.text("vm/walk", 0o755, include_str!("guest/walk.sh"))?;
    tree.text("vm/pod.yaml", 0o644, include_str!("guest/pod.yaml"))?;
    tree.text("vm/eater.yaml", 0o644, include_str!("guest/eater.yaml"))?;
    registry(tree, work, &[catalog::client()?])
}

/// A registry that already holds these images, and where knarr finds it.
fn registry(tree: &Tree, work: &Path, images: &[OciImage]) -> Result<()> {
    tree.text("vm/registry.yml", 0o644, include_str!("guest/registry.yml"))?;
    let hosts = "server = \"http://127.0.0.1:5000\"\n\n\
         [host.\"http://127.0.0.1:5000\"]\ncapabilities = [\"pull\", \"resolve\"]\n";
    tree.text("etc/knarr/certs.d/127.0.0.1:5000/hosts.toml", 0o644, hosts)?;
    let filled = work.join("filled");
    if filled.exists() {
        fs::remove_dir_all(&filled).with_context(|| filled.display().to_string())?;
    }
    fs::create_dir_all(&filled).with_context(|| filled.display().to_string())?;
    let registry = DebianRegistry::start(&filled)?;
    images.iter().try_for_each(|image| registry.push(image))?;
    drop(registry);
    let storage = filled.join("registry");
    execute(Command::new("cp").arg("-a").arg(storage).arg(tree.at("vm/registry")))
}

/// Tests of the real daemon, as this part; its programs are the machine's own.
fn node_tests(tree: &Tree, root: &Path, part: &str, names: &[&str]) -> Result<()> {
    test_program(tree, root, "tests", "node", "vm/node-tests")?;
    let driver = if part == SCOPES { "systemd" } else { "cgroupfs" };
    let script = format!(
        "#!/bin/sh\nKNARR_TEST_CGROUP_DRIVER={driver} KNARR_DIST=/usr/bin exec /vm/node-tests \
         --test-threads 2 {}\n",
        names.join(" ")
    );
    tree.text(&format!("vm/{part}"), 0o755, &script)
}

fn network_tests(tree: &Tree, root: &Path) -> Result<()> {
    tree.text("vm/network", 0o755, include_str!("guest/network.sh"))?;
    // What VLANs are compared by.
    for (program, inside) in [
        ("/usr/sbin/bridge", "usr/sbin/bridge"),
        ("/usr/lib/cni/bridge", "usr/lib/cni/bridge"),
        ("/usr/lib/cni/host-local", "usr/lib/cni/host-local"),
    ] {
        tree.program(Path::new(program), inside)?;
    }
    for test in ["built_in", "host_ports", "networks", "vlan"] {
        test_program(tree, root, "cni", test, &format!("vm/networks/{test}"))?;
    }
    Ok(())
}

/// The program of one test target.
fn test_program(tree: &Tree, root: &Path, package: &str, target: &str, to: &str) -> Result<()> {
    let test = ["test", "--no-run", "--message-format", "json", "--package", package];
    let text = output(cargo(root).args(test).args(["--test", target]))?;
    let program = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo made no test program `{target}` of `{package}`"))?;
    tree.program(&program, to)?;
    strip(tree, to)
}

fn strip(tree: &Tree, path: &str) -> Result<()> {
    execute(Command::new("strip").arg("--strip-debug").arg(tree.at(path)))
}

fn pack(work: &Path) -> Result<PathBuf> {
    let initrd = work.join("initrd.gz");
    let pack = "find . | cpio --quiet -o -H newc -R 0:0 | gzip -1 >\"$0\"";
    execute(Command::new("sh").args(["-ec", pack]).arg(&initrd).current_dir(work.join("tree")))?;
    let size = fs::metadata(&initrd).with_context(|| initrd.display().to_string())?.len();
    println!("    {} MiB", size >> 20);
    Ok(initrd)
}
