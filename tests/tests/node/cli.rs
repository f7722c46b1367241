//! The command line: start-up refusals, and a few verbs end to end.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use test_support::images::{Compression, ImageBuilder, Layer, LayerBuilder};
use test_support::node::{Node, dist, on_a_node};
use test_support::power::Random;

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
fn a_repair_takes_nothing_from_a_running_container() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("layers").await?;
        let pod = node.pod("user");
        let (pod_id, old) = node.run(&pod, &pod.container("old", &image).sleeper()).await?;
        for layer in std::fs::read_dir(node.scratch.root().join("layers"))? {
            let file = layer?.path().join("fs/data/replace");
            if std::fs::read_to_string(&file).is_ok_and(|text| text == "new\n") {
                std::fs::write(&file, "bad\n")?;
            }
        }
        let repaired = on(node, &["image", "verify", "--repair"])?;
        ensure!(repaired.contains("repaired; containers"), "{repaired}");
        node.crash_and_restart()?;
        let retired = node.scratch.root().join("retired");
        let left = || std::fs::read_dir(&retired).map(Iterator::count).unwrap_or_default();
        ensure!(left() > 0, "the old files are gone");
        ensure!(
            node.cri.shell(&old, "cat /data/replace; ls /bin/busybox").await?.contains("/bin/")
        );
        let config = pod.container("new", &image).sleeper();
        let new = node.cri.create(&pod_id, &pod, &config).await?;
        node.cri.start(&new).await?;
        ensure!(node.cri.shell(&new, "cat /data/replace").await? == "new");
        node.cri.remove_pod(&pod_id).await?;
        ensure!(left() == 0, "the old files stay");
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

#[test]
fn a_pull_takes_a_platform() -> Result<()> {
    on_a_node(async |node| {
        let name = node.image("platforms")?;
        let own = on(node, &["pull", "--quiet", &name])?;
        let other = on(node, &["pull", "--quiet", "--platform", "linux/riscv64", &name])?;
        ensure!(own != other && other.starts_with("sha256:"), "{own}{other}");
        let shown: serde_json::Value =
            serde_json::from_str(&on(node, &["image", "inspect", other.trim()])?)?;
        ensure!(shown.to_string().contains("riscv64"), "{shown}");
        Ok(())
    })
}

#[test]
fn a_pull_draws_a_bar_for_each_layer_on_a_terminal() -> Result<()> {
    on_a_node(async |node| {
        let layer = |seed: u64| -> Result<Layer> {
            let mut random = Random::new(seed);
            let content = std::iter::repeat_with(|| random.below(256).to_le_bytes()[0]);
            let content: Vec<u8> = content.take(12 << 20).collect();
            LayerBuilder::new().file(&format!("{seed}"), 0o644, content).finish(Compression::Gzip)
        };
        let (one, two) = (layer(1)?, layer(2)?);
        let shorts =
            [&one, &two].map(|layer| layer.blob.digest["sha256:".len()..][..12].to_owned());
        let image = ImageBuilder::new("own/bars:1")?.layer(one).layer(two).build();
        let name = node.offer(&image)?;
        let (program, socket) = (node.daemon.program(), node.scratch.socket());
        let (program, socket) = (program.display(), socket.display());
        let line = format!("stty cols 120 rows 40; {program} --address {socket} pull {name}");
        // It gives the command a terminal, and what is written there to us.
        let script = Command::new("script")
            .args(["--quiet", "--return", "--command", &line, "/dev/null"])
            .env("TERM", "xterm")
            .output()
            .context("run script(1)")?;
        let said = String::from_utf8_lossy(&script.stdout);
        ensure!(script.status.success() && said.contains(&image.id), "{said}");
        for short in shorts {
            ensure!(said.contains(&short), "no bar for {short}: {said}");
        }
        ensure!(said.contains("downloading"), "{said}");
        Ok(())
    })
}
