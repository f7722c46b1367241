//! `cargo xtask demo`: a pod's whole life, driven by nothing but the `knarr` command line.
//!
//! Every step is checked, not only shown: the exit code is non-zero when anything is not as it
//! should be. Whatever happens, everything it started is ended and removed.

mod stage;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use test_support::{files, http, packages};

use crate::dist;
use crate::steps::step;
use stage::Stage;

const PACKAGES: &[&str] =
    &["busybox-static", "docker-registry", "iproute2", "nftables", "nginx-light"];

/// What the init container writes and everybody reads.
const PAGE: &str = "written by demo before the server started";

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn run(root: &Path) -> Result<()> {
    step("packages", || packages::ensure(PACKAGES))?;
    dist::run(root)?;
    let begun = Instant::now();
    stage::hold_signals()?;
    let mut stage = step("images, registry and daemon", || Stage::set_up(root))?;
    println!(
        "    images on http://{}, the daemon's files in {}",
        stage.registry.host(),
        stage.scratch.dir().display()
    );
    let played = play(root, &mut stage);
    if played.is_err() {
        println!("\n--- log of the daemon ---\n{}", stage.daemon.log_text());
        return played;
    }
    step("nothing is left behind", || stage.strike())?;
    println!("\nthe demo took {:.1} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn play(root: &Path, stage: &mut Stage) -> Result<()> {
    let pod = run_pod(root, stage)?;
    look_around(stage, &pod)?;
    crash(stage, &pod)?;
    end(stage)
}

/// The running pod.
struct Pod {
    address: SocketAddr,
    logs: PathBuf,
}

/// Pulls the images and runs the pod.
fn run_pod(root: &Path, stage: &Stage) -> Result<Pod> {
    let host = stage.registry.host();
    for name in ["web", "client"] {
        let image = format!("{host}/demo/{name}:1");
        let id = stage.knarr(&["pull", &image])?;
        ensure!(id.starts_with("sha256:"), "`{id}` is no image id");
    }
    let manifest = root.join("xtask/demo/pod.yaml");
    let text = fs::read_to_string(&manifest).with_context(|| manifest.display().to_string())?;
    let file = stage.scratch.dir().join("pod.yaml");
    fs::write(&file, text.replace("REGISTRY", &host)).context("write pod.yaml")?;
    let logs = stage.scratch.logs();
    let volumes = stage.scratch.dir().join("volumes");
    let said = stage.knarr(&[
        "run",
        &file.display().to_string(),
        "--log-dir",
        &logs.display().to_string(),
        "--volumes-dir",
        &volumes.display().to_string(),
    ])?;
    let words: Vec<_> = said.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "address").context("no address is shown")?;
    let ip = words.get(at + 1).context("no address is shown")?;
    let address = format!("{ip}:8080").parse().with_context(|| format!("address `{ip}`"))?;
    let logs = only_entry(&logs)?;
    Ok(Pod { address, logs })
}

/// Lists, logs, exec, statistics, and the page itself.
fn look_around(stage: &Stage, pod: &Pod) -> Result<()> {
    has(&stage.knarr(&["pods"])?, &["demo", "Ready"])?;
    has(&stage.knarr(&["ps"])?, &["web", "visitor", "Running"])?;
    wait_log(pod, "web", "start worker process")?;
    fetch(pod, "from the host")?;
    wait_log(pod, "visitor", PAGE)?;
    has(&stage.knarr(&["logs", "--tail", "3", "visitor"])?, &[PAGE])?;
    has(&stage.knarr(&["logs", "--tail", "3", "web"])?, &["GET / HTTP/1.1"])?;
    has(&stage.knarr(&["exec", "web", "id"])?, &["uid=1000(web)"])?;
    let cache = stage.knarr(&["exec", "web", "ls", "-A", "/srv/cache"])?;
    ensure!(cache.is_empty(), "the image's last layer hides what was in /srv/cache: {cache}");
    has(&stage.knarr(&["stats"])?, &["web", "visitor"])?;
    has(&stage.knarr(&["images"])?, &["demo/web", "demo/client"])?;
    let inspected = stage.quiet(&["inspect", "demo"])?;
    let inspected: serde_json::Value = serde_json::from_str(&inspected).context("inspect")?;
    let ip = &inspected["status"]["network"]["ip"];
    println!("\n$ knarr inspect demo | jq .status.network.ip\n  {ip}");
    ensure!(ip.as_str() == Some(&pod.address.ip().to_string()), "{inspected}");
    Ok(())
}

/// The daemon dies the hard way; the pod does not notice.
fn crash(stage: &mut Stage, pod: &Pod) -> Result<()> {
    let before = stage.quiet(&["ps", "--quiet"])?;
    println!("\n$ kill -9 {}   (the daemon)", stage.daemon.pid().context("the daemon's pid")?);
    stage.daemon.kill9()?;
    fetch(pod, "while the daemon is dead")?;
    let visitor = pod.logs.join("visitor/0.log");
    let lines = fs::read_to_string(&visitor).context("the visitor's log")?.lines().count();
    let grown = |text: &str| (text.lines().count() > lines + 2).then_some(());
    files::wait_for(&visitor, PATIENCE, grown)?;
    println!("  the visitor's log goes on");
    let begun = Instant::now();
    stage.daemon.launch(&stage.scratch)?;
    let after = stage.quiet(&["ps", "--quiet"])?;
    println!("  the daemon is back, its list correct after {} ms", begun.elapsed().as_millis());
    ensure!(before == after, "before the crash:\n{before}after it:\n{after}");
    fetch(pod, "after the restart")?;
    has(&stage.knarr(&["exec", "visitor", "wget", "-qO-", "http://127.0.0.1:8080/"])?, &[PAGE])
}

/// Stops and removes the pod.
fn end(stage: &Stage) -> Result<()> {
    stage.knarr(&["stop", "demo"])?;
    let stopped = stage.knarr(&["ps", "--all"])?;
    has(&stopped, &["Exited"])?;
    ensure!(!stopped.contains("Running"), "something still runs:\n{stopped}");
    stage.knarr(&["rm", "demo"])?;
    let left = stage.knarr(&["pods", "--quiet"])?;
    ensure!(left.is_empty(), "a pod is left: {left}");
    Ok(())
}

fn fetch(pod: &Pod, when: &str) -> Result<()> {
    let begun = Instant::now();
    let (status, page) = http::get(pod.address, "/")?;
    println!("\n$ curl http://{}/   ({when})\n  {}", pod.address, page.trim_end());
    println!("  ({} ms)", begun.elapsed().as_millis());
    ensure!(status == 200 && page.contains(PAGE), "status {status}: {page}");
    Ok(())
}

fn has(text: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(text.contains(word), "`{word}` is missing in:\n{text}");
    }
    Ok(())
}

fn wait_log(pod: &Pod, container: &str, text: &str) -> Result<()> {
    let path = pod.logs.join(container).join("0.log");
    files::wait_for(&path, PATIENCE, |log| log.contains(text).then_some(()))
}

fn only_entry(dir: &Path) -> Result<PathBuf> {
    let entries: Vec<_> = fs::read_dir(dir)
        .with_context(|| dir.display().to_string())?
        .collect::<Result<_, _>>()
        .with_context(|| dir.display().to_string())?;
    match entries.as_slice() {
        [entry] => Ok(entry.path()),
        _ => bail!("{} entries in {}, not one", entries.len(), dir.display()),
    }
}
