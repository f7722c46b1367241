//! Pulling and unpacking an image of many layers from one local registry.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use test_support::deadline::Deadline;
use test_support::packages;
use test_support::registry::DebianRegistry;
use test_support::usage::Used;

use super::program::{self, Said};
use super::pull_image::{Packing, build};
use super::runtimes::Runtime;
use super::series::Series;
use super::{Options, dist};
use crate::steps::step;

const PACKAGES: &[&str] = &["containerd", "docker-registry", "e2fsprogs", "gzip", "tar", "zstd"];

/// No pull takes so long, whatever a runtime does: one that hangs must not hang us.
const LIMIT: Duration = Duration::from_secs(600);

/// Quantity, unit, and where it stands.
type Column = (&'static str, &'static str, fn(&Measured) -> f64);

/// One pull.
struct Measured {
    seconds: f64,
    cpu_seconds: f64,
    peak_mib: f64,
    growth_mib: f64,
    written_mib: f64,
}

pub(super) fn run(root: &Path, options: &Options) -> Result<Said> {
    step("packages", || packages::ensure(PACKAGES))?;
    let dist = dist::given_or_built(root)?;
    let cache = root.join("target/bench");
    let store = cache.join("store");
    std::fs::create_dir_all(&store)?;
    let registry = DebianRegistry::start(&store)?;
    let mut said = Said::default();
    for packing in [Packing::Gzip, Packing::Zstd] {
        let name = format!("image, {}", packing.name());
        let image = step(&name, || build(&cache, options.megabytes, packing))?;
        let bytes: usize = image.blobs.iter().map(|blob| blob.bytes.len()).sum();
        println!("    {} layers, {} MiB packed", image.blobs.len() - 1, bytes >> 20);
        step("push", || registry.push(&image))?;
        let reference = registry.reference(&image);
        drop(image);
        let place = Place { dist: &dist, registry: &registry.host() };
        measure(options, &place, &reference, packing, &mut said)?;
    }
    Ok(said)
}

/// What every run needs to know.
struct Place<'a> {
    dist: &'a Path,
    registry: &'a str,
}

fn measure(
    options: &Options,
    place: &Place<'_>,
    reference: &str,
    packing: Packing,
    said: &mut Said,
) -> Result<()> {
    let Place { dist, registry } = place;
    let (mut knarr, mut other) = (Vec::new(), Vec::new());
    let runs = options.runs.unwrap_or(3);
    for run in 1..=runs {
        let name = format!("pull {run}, knarr, {}", packing.name());
        let begin = || Runtime::knarr(dist, registry);
        knarr.push(step(&name, || pull(&begin()?, dist, reference))?);
        if options.against.iter().any(|name| name == "containerd") {
            let name = format!("pull {run}, containerd, {}", packing.name());
            let begin = || Runtime::containerd(registry);
            match step(&name, || pull(&begin()?, dist, reference)) {
                Ok(measured) => other.push(measured),
                Err(error) => {
                    let why = program::without_places(&format!("{error:#}"));
                    let why = format!("containerd: pull {run} of {runs}: {why}");
                    said.failures.push(("pull".to_owned(), why));
                }
            }
        }
    }
    for (who, measured) in [("knarr", &knarr), ("containerd", &other)] {
        if !measured.is_empty() {
            said.series.extend(of(who, packing, measured));
        }
    }
    Ok(())
}

fn of(who: &str, packing: Packing, measured: &[Measured]) -> Vec<Series> {
    let columns: [Column; 5] = [
        ("time", "s", |one| one.seconds),
        ("processor time", "s", |one| one.cpu_seconds),
        ("most resident", "MiB", |one| one.peak_mib),
        ("most resident beyond before", "MiB", |one| one.growth_mib),
        ("written", "MiB", |one| one.written_mib),
    ];
    let series = columns.into_iter().map(|(quantity, unit, column)| Series {
        section: "pull".to_owned(),
        quantity: format!("{}: {quantity}", packing.name()),
        unit: unit.to_owned(),
        at: None,
        who: who.to_owned(),
        values: measured.iter().map(column).collect(),
    });
    series.collect()
}

fn pull(runtime: &Runtime, dist: &Path, reference: &str) -> Result<Measured> {
    let before = Used::of(runtime.pid()?)?;
    let mut client = Command::new(dist.join("knarr"));
    client.arg("--address").arg(runtime.socket()).args(["pull", "--quiet", reference]);
    let mark = runtime.socket().display().to_string();
    let seconds = Deadline::new(LIMIT, mark).run(&mut client)?.took.as_secs_f64();
    let after = Used::of(runtime.pid()?)?;
    Ok(Measured {
        seconds,
        cpu_seconds: after.cpu_seconds - before.cpu_seconds,
        peak_mib: after.peak_mib,
        growth_mib: after.peak_mib - before.resident_mib,
        written_mib: after.written_mib - before.written_mib,
    })
}
