//! The rules of `ARCHITECTURE.md` that a machine can check.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cargo_metadata::{DependencyKind, MetadataCommand, Package};

/// Who may use whom. What is not listed is forbidden.
const MAY_USE: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("cri-api", &[]),
    ("failpoint", &[]),
    ("systemd", &["model"]),
    ("sys", &["model"]),
    ("shim-protocol", &["model"]),
    ("launch", &["model", "sys"]),
    ("oci-runtime", &["launch", "model"]),
    ("oci-cli", &["launch", "model", "oci-runtime", "sys", "systemd"]),
    ("shim", &["failpoint", "launch", "model", "shim-protocol", "sys"]),
    ("layer", &["model", "sys"]),
    ("registry", &["model", "sys"]),
    ("store", &["failpoint", "model", "sys"]),
    ("snapshot", &["failpoint", "layer", "model", "sys"]),
    ("image", &["failpoint", "layer", "model", "registry", "snapshot", "store", "sys"]),
    ("bundle", &["model"]),
    ("cdi", &[]),
    ("cni", &["failpoint", "model", "store", "sys"]),
    ("lsm", &["model"]),
    (
        "sandbox",
        &[
            "bundle",
            "cdi",
            "cni",
            "failpoint",
            "image",
            "launch",
            "lsm",
            "model",
            "oci-runtime",
            "shim-protocol",
            "snapshot",
            "store",
            "sys",
            "systemd",
        ],
    ),
    ("streaming", &["model"]),
    ("cri-server", &["cni", "cri-api", "image", "model", "sandbox", "store", "streaming", "sys"]),
    ("cli", &["cri-api", "model", "streaming"]),
    (
        "knarr",
        &[
            "bundle",
            "cli",
            "cni",
            "cri-api",
            "cri-server",
            "failpoint",
            "image",
            "launch",
            "layer",
            "model",
            "oci-cli",
            "oci-runtime",
            "registry",
            "sandbox",
            "snapshot",
            "store",
            "streaming",
            "sys",
            "systemd",
        ],
    ),
    ("knarr-oci", &["oci-cli"]),
    ("knarr-shim", &["shim"]),
    ("test-support", &["cri-api"]),
    ("tests", &["cri-api", "model", "streaming", "sys", "test-support"]),
    ("xtask", &["sys", "test-support"]),
];

/// What the shim must never carry: an async runtime, RPC, TLS, JSON, a command line.
const NOT_IN_THE_SHIM: &[&str] = &[
    "anyhow",
    "aws-lc-rs",
    "bytes",
    "clap",
    "cri-api",
    "futures-util",
    "hyper",
    "mio",
    "oci-spec",
    "prost",
    "regex",
    "reqwest",
    "rustls",
    "serde",
    "serde_json",
    "tokio",
    "tonic",
    "tracing",
];

/// These compute and do nothing else.
const PURE: &[&str] =
    &["crates/model/src", "crates/bundle/src", "crates/cdi/src", "crates/oci-runtime/src"];

const IMPURE: &[&str] = &[
    "std::fs",
    "fs::read",
    "fs::write",
    "File::open",
    "std::process",
    "Command::new",
    "SystemTime::now",
    "Instant::now",
];

/// What is valid for a time there, a registry's token or a streaming URL, must be neither for ever
/// nor at an end when the wall clock jumps.
const WITHOUT_A_WALL_CLOCK: &[&str] = &["crates/registry/src", "crates/streaming/src"];

const MAY_BE_UNSAFE: &[&str] = &["crates/sys/", "crates/launch/"];

const LONGEST_FILE: usize = 700;

fn root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    Ok(here.parent().context("the tests lie in the workspace")?.to_owned())
}

fn members() -> Result<Vec<Package>> {
    let metadata = MetadataCommand::new()
        .manifest_path(root()?.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata")?;
    Ok(metadata.packages)
}

/// Every Rust source of the workspace by its path from the root.
fn sources() -> Result<BTreeMap<String, String>> {
    let root = root()?;
    let mut found = BTreeMap::new();
    let mut left: Vec<PathBuf> =
        ["bin", "crates", "tests", "xtask"].iter().map(|dir| root.join(dir)).collect();
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let name = path.strip_prefix(&root)?.display().to_string();
                let text = fs::read_to_string(&path).with_context(|| name.clone())?;
                found.insert(name, text);
            }
        }
    }
    Ok(found)
}

fn is_generated(name: &str) -> bool {
    name.starts_with("crates/cri-api/src/generated")
}

/// The lines that are code: no comments.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
}

fn verdict(offences: &[String]) -> Result<()> {
    ensure!(offences.is_empty(), "\n  {}", offences.join("\n  "));
    Ok(())
}

#[test]
fn crates_use_only_what_the_picture_draws() -> Result<()> {
    let allowed: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let packages = members()?;
    let names: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let mut offences = Vec::new();
    for package in &packages {
        let Some(may_use) = allowed.get(package.name.as_str()) else {
            offences.push(format!("{} is not in the picture", package.name));
            continue;
        };
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            let ours = names.contains(name) && dependency.kind == DependencyKind::Normal;
            if ours && !may_use.contains(&name) {
                offences.push(format!("{} must not use {name}", package.name));
            }
        }
    }
    verdict(&offences)
}

#[test]
fn tokens_go_by_a_clock_that_does_not_jump() -> Result<()> {
    let mut offences = Vec::new();
    for (name, text) in sources()? {
        if !WITHOUT_A_WALL_CLOCK.iter().any(|dir| name.starts_with(dir)) {
            continue;
        }
        for (number, line) in code(&text).filter(|(_, line)| line.contains("SystemTime")) {
            offences.push(format!("{name}:{number}: {}", line.trim()));
        }
    }
    verdict(&offences)
}

#[test]
fn the_world_is_spoken_to_by_one_crate_and_tls_by_two() -> Result<()> {
    let only: [(&str, &[&str]); 3] = [
        ("reqwest", &["registry"]),
        ("rustls", &["registry", "streaming"]),
        ("tokio-rustls", &["registry", "streaming"]),
    ];
    let mut offences = Vec::new();
    for package in members()? {
        for dependency in &package.dependencies {
            let name = dependency.name.as_str();
            let may = only.iter().find(|(known, _)| *known == name);
            if may.is_some_and(|(_, users)| !users.contains(&package.name.as_str())) {
                offences.push(format!("{} must not use {name}", package.name));
            }
        }
    }
    verdict(&offences)
}

/// `cargo tree` and not `cargo metadata`: the latter shows features that only other members of the
/// workspace turn on.
#[test]
fn the_shim_carries_no_runtime_no_rpc_and_no_json() -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root()?)
        .args(["tree", "--offline", "--package", "knarr-shim", "--edges", "normal,no-proc-macro"])
        .args(["--prefix", "none"])
        .output()
        .context("cargo tree")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout).context("cargo tree")?;
    let carried: BTreeSet<&str> = tree.lines().filter_map(|l| l.split(' ').next()).collect();
    ensure!(carried.contains("shim"), "the shim's tree was not read:\n{tree}");
    let offences: Vec<_> = NOT_IN_THE_SHIM
        .iter()
        .filter(|name| carried.contains(*name))
        .map(|name| format!("knarr-shim must not carry {name}"))
        .collect();
    verdict(&offences)
}

#[test]
fn unsafe_code_lives_on_its_island() -> Result<()> {
    let mut offences = Vec::new();
    for (name, text) in sources()? {
        if MAY_BE_UNSAFE.iter().any(|island| name.starts_with(island)) {
            continue;
        }
        for (number, line) in code(&text) {
            let words: Vec<_> = line.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
            if words.contains(&"unsafe") && !line.contains('"') {
                offences.push(format!("{name}:{number} says unsafe"));
            }
        }
    }
    for package in members()? {
        for target in &package.targets {
            let path = target.src_path.strip_prefix(root()?).unwrap_or(&target.src_path);
            let is_root = path.as_str().contains("/src/");
            let exempt = MAY_BE_UNSAFE.iter().any(|island| path.as_str().starts_with(island));
            let text = fs::read_to_string(&target.src_path)?;
            if is_root && !exempt && !text.contains("#![forbid(unsafe_code)]") {
                offences.push(format!("{path} does not forbid unsafe code"));
            }
        }
    }
    verdict(&offences)
}

#[test]
fn pure_crates_touch_no_file_no_process_and_no_clock() -> Result<()> {
    let mut offences = Vec::new();
    for (name, text) in sources()? {
        if !PURE.iter().any(|dir| name.starts_with(dir)) {
            continue;
        }
        // A file's unit tests come last and may read fixtures.
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (number, line) in code(text) {
            for word in IMPURE.iter().filter(|word| line.contains(**word)) {
                offences.push(format!("{name}:{number} says {word}"));
            }
        }
    }
    verdict(&offences)
}

/// Deadlines and ages within a process go by a clock that does not jump; the wall clock is for times
/// that people are shown, and for the age of what an earlier process left.
const READ_THE_WALL_CLOCK: &[&str] =
    &["crates/sandbox/src/context.rs", "crates/shim/src/clock.rs", "crates/image/src/partial.rs"];

#[test]
fn the_wall_clock_is_read_in_few_places() -> Result<()> {
    let mut offences = Vec::new();
    let mut seen = BTreeSet::new();
    for (name, text) in sources()? {
        let shipped = name.contains("/src/") && !name.starts_with("crates/test-support");
        if !shipped || name.starts_with("xtask") {
            continue;
        }
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let words = ["SystemTime::now", "ClockId::Realtime", "UtcDateTime::now"];
        for (number, line) in code(text) {
            if words.iter().any(|word| line.contains(word)) {
                match READ_THE_WALL_CLOCK.iter().find(|known| **known == name) {
                    Some(known) => drop(seen.insert(*known)),
                    None => offences.push(format!("{name}:{number} reads the wall clock")),
                }
            }
        }
    }
    ensure!(seen.len() == READ_THE_WALL_CLOCK.len(), "only {seen:?} read it");
    verdict(&offences)
}

#[test]
fn files_stay_readable() -> Result<()> {
    let offences: Vec<_> = sources()?
        .iter()
        .filter(|(name, _)| !is_generated(name))
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > LONGEST_FILE)
        .map(|(name, lines)| format!("{name} has {lines} lines, {LONGEST_FILE} are allowed"))
        .collect();
    verdict(&offences)
}
