//! The command line: start-up refusals, and a few verbs end to end.

use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use test_support::node::{Node, dist, on_a_node};

fn knarr(args: &[&str]) -> Result<Option<Output>> {
    let Ok(dist) = dist() else {
        test_support::skip("run `cargo xtask test` as root");
        return Ok(None);
    };
    let output = Command::new(dist.join("knarr")).args(args).output().context("run knarr")?;
    Ok(Some(output))
}

/// Runs `knarr` against the node's daemon; its standard output.
pub(crate) fn on(node: &Node, args: &[&str]) -> Result<String> {
    let output = Command::new(node.daemon.program())
        .arg("--address")
        .arg(node.scratch.socket())
        .args(args)
        .output()
        .context("run knarr")?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "knarr {}: {stderr}", args.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn a_configuration_that_cannot_be_read_stops_the_start() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let missing = dir.path().join("none.toml").display().to_string();
    let unknown = dir.path().join("unknown.toml");
    std::fs::write(&unknown, "no_such_key = 1\n")?;
    let broken = dir.path().join("broken.toml");
    std::fs::write(&broken, "[log\n")?;
    let place = dir.path().display().to_string();
    let cases = [
        (missing.as_str(), "none.toml"),
        (&unknown.display().to_string(), "no_such_key"),
        (&broken.display().to_string(), "broken.toml"),
    ];
    for (file, word) in cases {
        let args = ["serve", "--config", file, "--root", &place, "--state", &place];
        let Some(output) = knarr(&args)? else { return Ok(()) };
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success() && text.contains(word), "{file}: {text}");
        ensure!(!text.contains("panicked"), "{text}");
    }
    Ok(())
}

#[test]
fn no_daemon_is_said_in_one_sentence() -> Result<()> {
    let Some(output) = knarr(&["--address", "/nowhere/knarr.sock", "pods"])? else {
        return Ok(());
    };
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && text.contains("/nowhere/knarr.sock"), "{text}");
    ensure!(text.lines().count() <= 3, "{text}");
    Ok(())
}

#[test]
fn the_lists_show_what_runs() -> Result<()> {
    on_a_node(async |node| {
        let (pod, id) = node.sleeper("listed").await?;
        ensure!(on(node, &["pods"])?.contains("listed"));
        ensure!(on(node, &["ps"])?.contains(&id[..12]));
        ensure!(on(node, &["images"])?.contains("test/busybox"));
        let said = on(node, &["exec", &id[..12], "echo", "through", "the", "cli"])?;
        ensure!(said.trim() == "through the cli", "{said}");
        ensure!(on(node, &["inspect", &pod[..12]])?.contains(&pod));
        Ok(())
    })
}
