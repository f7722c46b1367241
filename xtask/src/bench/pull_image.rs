//! The image that pulls are measured with: the files of this Debian's `/usr` in many layers.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use test_support::images::{Blob, ImageBuilder, Layer, OciImage};

use crate::steps::{execute, output};

const LAYERS: u64 = 12;

/// How the layers are packed.
#[derive(Debug, Clone, Copy)]
pub(super) enum Packing {
    Gzip,
    Zstd,
}

impl Packing {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    fn command(self) -> Command {
        let mut command = Command::new(self.name());
        match self {
            Self::Gzip => command.args(["-n", "-6"]),
            Self::Zstd => command.args(["-q", "-3", "-T1"]),
        };
        command
    }
}

/// Builds the image, from what an earlier run kept in `cache` where it can.
pub(super) fn build(cache: &Path, megabytes: u64, packing: Packing) -> Result<OciImage> {
    let dir = cache.join(format!("usr-{megabytes}"));
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    if !dir.join("complete").exists() {
        make_tars(&dir, megabytes)?;
        std::fs::write(dir.join("complete"), "")?;
    }
    let mut image = ImageBuilder::new(&format!("bench/usr-{}:{megabytes}", packing.name()))?;
    for number in 0..LAYERS {
        image = image.layer(layer(&dir, number, packing)?);
    }
    Ok(image.build())
}

fn tar(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number}.tar"))
}

/// Files in the order of their paths, cut where a layer has its share of bytes.
fn make_tars(dir: &Path, megabytes: u64) -> Result<()> {
    let mut find = Command::new("find");
    find.current_dir("/").args(["usr", "-xdev", "-path", "usr/local", "-prune", "-o"]);
    let paths = output(
        find.args(["(", "-type", "f", "-o", "-type", "l", "-o", "-type", "d", ")", "-print"]),
    )?;
    let mut paths: Vec<&str> = paths.lines().collect();
    paths.sort_unstable();
    let share = (megabytes << 20) / LAYERS;
    let (mut number, mut bytes, mut list) = (0, 0, Vec::new());
    for path in paths {
        if number == LAYERS {
            break;
        }
        let metadata = std::fs::symlink_metadata(Path::new("/").join(path));
        // Others install and remove while we look.
        let Ok(metadata) = metadata else { continue };
        bytes += if metadata.is_file() { metadata.size() } else { 0 };
        list.push(path);
        if bytes >= share {
            make_tar(&tar(dir, number), &list)?;
            (number, bytes) = (number + 1, 0);
            list.clear();
        }
    }
    while number < LAYERS {
        make_tar(&tar(dir, number), &list)?;
        number += 1;
        list.clear();
    }
    Ok(())
}

fn make_tar(to: &Path, paths: &[&str]) -> Result<()> {
    let list = to.with_extension("list");
    std::fs::write(&list, paths.join("\n")).with_context(|| list.display().to_string())?;
    execute(
        Command::new("tar")
            .args(["--create", "--no-recursion", "--numeric-owner", "--ignore-failed-read"])
            .args(["--warning=none", "-C", "/", "--files-from"])
            .arg(&list)
            .arg("--file")
            .arg(to),
    )
}

fn layer(dir: &Path, number: u64, packing: Packing) -> Result<Layer> {
    let plain = tar(dir, number);
    let packed = plain.with_extension(packing.name());
    if !packed.exists() {
        let partial = plain.with_extension("partial");
        execute(
            packing
                .command()
                .stdin(File::open(&plain).with_context(|| plain.display().to_string())?)
                .stdout(Stdio::from(File::create(&partial)?)),
        )?;
        std::fs::rename(&partial, &packed)?;
    }
    let sum = output(Command::new("sha256sum").arg(&plain))?;
    let hex = sum.split_whitespace().next().context("sha256sum")?;
    let bytes = std::fs::read(&packed).with_context(|| packed.display().to_string())?;
    Ok(Layer {
        blob: Blob::new(bytes),
        media_type: packing.media_type(),
        diff_id: format!("sha256:{hex}"),
    })
}
