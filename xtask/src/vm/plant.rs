//! What each part needs in its machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;
use test_support::images::{OciImage, catalog};
use test_support::power::storm;
use test_support::registry::DebianRegistry;

use super::Request;
use super::parts::{
    COMMAND, LAUNCH, NETWORK, POWERCUT, SCOPES, SYSTEMD, SYSTEMD_FAILPOINTS, SYSTEMD_LAUNCH,
    SYSTEMD_NETWORK, SYSTEMD_NODE, SYSTEMD_OCI, SYSTEMD_STREAMING, WALK, node_tests,
};
use super::tree::Tree;
use crate::steps::{cargo, execute, output};

/// Puts there what runs as `/vm/<part>`.
pub(super) fn part(
    tree: &Tree,
    root: &Path,
    work: &Path,
    request: &Request,
    part: &str,
) -> Result<()> {
    let script = |text: &str| tree.text(&format!("vm/{part}"), 0o755, text);
    match part {
        WALK => walk(tree, work),
        LAUNCH | SYSTEMD_LAUNCH => {
            test_program(tree, root, "launch", "launch", &format!("vm/{part}"))
        }
        NETWORK => {
            networks(tree, root)?;
            script(include_str!("guest/network.sh"))
        }
        SYSTEMD_NETWORK => {
            networks(tree, root)?;
            tree.text("vm/networks.sh", 0o755, include_str!("guest/network.sh"))?;
            let node = node(tree, root, request, part)?;
            script(&format!("#!/bin/sh\n/vm/networks.sh\nstatus=$?\n{node} && exit $status\n"))
        }
        SYSTEMD => {
            walk(tree, work)?;
            script(include_str!("guest/systemd.sh"))
        }
        SYSTEMD_FAILPOINTS => {
            failpoints(tree, root)?;
            tree.text("vm/failpoints.sh", 0o755, include_str!("guest/failpoints.sh"))?;
            script(&format!("#!/bin/sh\n/vm/failpoints.sh {}\n", request.tests.join(" ")))
        }
        POWERCUT => {
            registry(tree, work, &storm()?)?;
            script(include_str!("guest/powercut.sh"))
        }
        COMMAND => {
            let command = request.run.as_deref().unwrap_or_default();
            script(&format!("#!/bin/sh\n{command}\n"))
        }
        _of_node_tests => {
            match part {
                SCOPES => runtimes(tree)?,
                "node" | SYSTEMD_OCI | SYSTEMD_STREAMING => callers(tree)?,
                SYSTEMD_NODE => {
                    runtimes(tree)?;
                    callers(tree)?;
                }
                _other => {}
            }
            let node = node(tree, root, request, part)?;
            script(&format!("#!/bin/sh\n{node}\n"))
        }
    }
}

/// Tests of the real daemon; the command that runs this part's.
fn node(tree: &Tree, root: &Path, request: &Request, part: &str) -> Result<String> {
    let tests = node_tests(part).with_context(|| format!("there is no part {part}"))?;
    if !tree.at("vm/node-tests").exists() {
        test_program(tree, root, "tests", "node", "vm/node-tests")?;
    }
    Ok(tests.command(&request.tests))
}

/// Programs by which users, namespaces and terminals are entered; busybox has others of most of these names.
fn callers(tree: &Tree) -> Result<()> {
    for name in ["nsenter", "setpriv", "taskset", "unshare"] {
        tree.program(&Path::new("/usr/bin").join(name), &format!("usr/sbin/{name}"))?;
    }
    tree.program(Path::new("/usr/bin/script"), "usr/bin/script")
}

/// OCI runtimes that handlers call.
fn runtimes(tree: &Tree) -> Result<()> {
    for path in ["/usr/sbin/runc", "/usr/bin/crun"] {
        tree.program(Path::new(path), path)?;
    }
    Ok(())
}

fn networks(tree: &Tree, root: &Path) -> Result<()> {
    // What VLANs are compared by, and what networks of plugins are made of.
    for (program, inside) in [
        ("/usr/sbin/bridge", "usr/sbin/bridge"),
        ("/usr/lib/cni/bridge", "usr/lib/cni/bridge"),
        ("/usr/lib/cni/host-local", "usr/lib/cni/host-local"),
    ] {
        tree.program(Path::new(program), inside)?;
    }
    plugin(tree, root, "tests")?;
    for test in ["built_in", "host_ports", "networks", "vlan"] {
        test_program(tree, root, "cni", test, &format!("vm/networks/{test}"))?;
    }
    Ok(())
}

/// A plugin that does as it is told; tests know where it is in the repository, as seen from their package.
fn plugin(tree: &Tree, root: &Path, package: &str) -> Result<()> {
    let plugin = root.join("crates/cni/tests/fixtures/plugin");
    tree.copy(&plugin, &plugin.to_string_lossy())?;
    tree.dir(&root.join(package).to_string_lossy()).map(drop)
}

/// What plugins call whose backend is iptables. It goes by the name it is called by, and loads what it
/// knows of rules.
fn iptables(tree: &Tree) -> Result<()> {
    tree.program(Path::new("/usr/sbin/xtables-nft-multi"), "usr/sbin/xtables-nft-multi")?;
    for family in ["iptables", "ip6tables"] {
        for verb in ["", "-save", "-restore"] {
            let link = tree.at(&format!("usr/sbin/{family}{verb}"));
            std::os::unix::fs::symlink("xtables-nft-multi", &link)
                .with_context(|| link.display().to_string())?;
        }
    }
    let rules = "usr/lib/x86_64-linux-gnu/xtables";
    tree.dir(rules)?;
    let all = format!("/{rules}/.");
    execute(Command::new("cp").arg("-a").arg(all).arg(tree.at(rules)))
}

/// The walks over all failpoints. They know where cargo has made their programs.
fn failpoints(tree: &Tree, root: &Path) -> Result<()> {
    plugin(tree, root, "bin/knarr")?;
    iptables(tree)?;
    for (package, name) in [("knarr", "daemon"), ("knarr-shim", "shim")] {
        let built = built(root, package, "failpoints")?;
        tree.stripped(&built.test, &format!("vm/failpoints/{name}"))?;
        let program = built.program.with_context(|| format!("cargo made no {package}"))?;
        tree.stripped(&program, &program.to_string_lossy())?;
    }
    tree.dir(&root.join("target/tmp").to_string_lossy()).map(drop)
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

/// The program of one test target.
fn test_program(tree: &Tree, root: &Path, package: &str, target: &str, to: &str) -> Result<()> {
    tree.stripped(&built(root, package, target)?.test, to)
}

/// What cargo makes of a test target.
struct Built {
    test: PathBuf,
    /// The package's own program, if it has one.
    program: Option<PathBuf>,
}

/// Builds a test target of a package. Of all packages: their features are those of the workspace
/// then, and what `cargo xtask test` has built is taken as it is.
fn built(root: &Path, package: &str, target: &str) -> Result<Built> {
    let test = ["test", "--no-run", "--message-format", "json", "--workspace", "--test", target];
    let text = output(cargo(root).args(test))?;
    let artifacts: Vec<Value> =
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let manifest = |message: &Value| {
        let path = PathBuf::from(message["manifest_path"].as_str().unwrap_or_default());
        path.parent().and_then(|dir| dir.file_name()).is_some_and(|name| name == package)
    };
    let find = |kind: &str, name: &str| {
        let mut made = artifacts.iter().filter(|message| {
            manifest(message)
                && message["target"]["name"] == name
                && message["target"]["kind"][0] == kind
        });
        made.find_map(|message| message["executable"].as_str().map(PathBuf::from))
    };
    let test = find("test", target)
        .with_context(|| format!("cargo made no test program `{target}` of `{package}`"))?;
    Ok(Built { test, program: find("bin", package) })
}
