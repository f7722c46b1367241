//! The command line: start-up refusals, and a few verbs end to end.

use std::path::{Path, PathBuf};
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

/// The first regular file of an unpacked layer, deepest directories included.
fn some_file(dir: &Path) -> Result<Option<PathBuf>> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() {
            return Ok(Some(entry.path()));
        }
        if kind.is_dir()
            && let Some(found) = some_file(&entry.path())?
        {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

#[test]
fn a_damaged_image_is_found_and_repaired() -> Result<()> {
    on_a_node(async |node| {
        node.pulled("busybox").await?;
        ensure!(on(node, &["image", "verify"])?.contains("whole"));
        for layer in std::fs::read_dir(node.scratch.root().join("layers"))? {
            if let Some(file) = some_file(&layer?.path().join("fs"))? {
                std::fs::write(file, "not what it was")?;
            }
        }
        let found = on(node, &["image", "verify"]).map(drop);
        ensure!(found.is_err(), "the damage is not found");
        let repaired = on(node, &["image", "verify", "--repair"])?;
        ensure!(repaired.contains("DAMAGED") && repaired.contains("repaired"), "{repaired}");
        ensure!(!on(node, &["image", "verify"])?.contains("DAMAGED"));
        Ok(())
    })
}

#[test]
fn images_are_tagged_inspected_and_carried_in_archives() -> Result<()> {
    on_a_node(async |node| {
        let name = node.pulled("busybox").await?;
        let name = name.as_str();
        on(node, &["image", "tag", name, "kept.example/copy:1"])?;
        ensure!(on(node, &["images"])?.contains("kept.example/copy"));
        let shown: serde_json::Value =
            serde_json::from_str(&on(node, &["image", "inspect", "kept.example/copy:1"])?)?;
        ensure!(shown["layers"][0]["diskBytes"].as_u64() > Some(0), "{shown}");
        on(node, &["image", "history", name])?;
        ensure!(on(node, &["df"])?.contains("images"));
        let archive = |file: &str| node.scratch.dir().join(file).display().to_string();
        let (plain, packed, again) = (archive("plain"), archive("packed"), archive("again"));
        on(node, &["image", "save", "--output", &plain, name])?;
        on(node, &["image", "save", "--from-registry", "--output", &packed, name])?;
        for file in [&packed, &plain] {
            on(node, &["image", "rm", "--unused"])?;
            ensure!(node.cri.image_list().await?.is_empty());
            let loaded = on(node, &["image", "load", file])?;
            ensure!(loaded.contains("kept.example/copy:1"), "{loaded}");
            ensure!(node.cri.image_list().await?.len() == 1);
            ensure!(on(node, &["image", "verify"])?.contains("whole"));
        }
        // What came from an archive can be given on.
        on(node, &["image", "save", "--output", &again, name])?;
        ensure!(std::fs::read(&again)? == std::fs::read(&plain)?);
        Ok(())
    })
}
