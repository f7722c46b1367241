//! `cargo xtask bench network`: a pod's start and stop with the network that is built in, with the
//! reference plugins run by knarr, and with the same plugins run by Debian's containerd. The
//! measuring program is a bench of the package `tests`, which has the CRI client.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use test_support::packages;

use super::{Options, Series};
use crate::dist;
use crate::steps::{cargo, output, step};

const PACKAGES: &[&str] = &["busybox-static", "containerd", "containernetworking-plugins", "runc"];
/// What it measures, in the words of its output.
const QUANTITIES: [&str; 2] = ["RunPodSandbox, ms", "StopPodSandbox, ms"];

pub(super) fn run(root: &Path, options: &Options) -> Result<Vec<Series>> {
    step("packages", || packages::ensure(PACKAGES))?;
    dist::run(root)?;
    let mut bench = cargo(root);
    bench.args(["bench", "--quiet", "--package", "tests", "--bench", "network"]);
    bench.env("KNARR_DIST", dist::dist_dir(root)).env("KNARR_BENCH_RUNS", options.runs.to_string());
    let text = step("measure", || output(&mut bench))?;
    let series = text.lines().filter_map(|line| parse(line).transpose());
    let series = series.collect::<Result<Vec<_>>>()?;
    ensure!(!series.is_empty(), "the program measured nothing:\n{text}");
    Ok(series)
}

/// `QUANTITY<tab>WHO<tab>VALUE VALUE …`; `None` for any other line.
fn parse(line: &str) -> Result<Option<Series>> {
    let mut parts = line.split('\t');
    let quantity = parts.next().and_then(|text| QUANTITIES.into_iter().find(|q| *q == text));
    let (Some(quantity), Some(subject), Some(values)) = (quantity, parts.next(), parts.next())
    else {
        return Ok(None);
    };
    let values = values.split(' ').map(str::parse).collect::<Result<Vec<f64>, _>>();
    let values = values.with_context(|| format!("not all numbers: {line}"))?;
    Ok(Some(Series { subject: subject.to_owned(), quantity, values }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_measurements_are_read() {
        let series = parse("StopPodSandbox, ms\tknarr, built in\t1.5 2.25").unwrap().unwrap();
        assert_eq!((series.subject.as_str(), series.values), ("knarr, built in", vec![1.5, 2.25]));
        assert!(parse("warning: something").unwrap().is_none());
        assert!(parse("RunPodSandbox, ms\tx\tfast").is_err());
    }
}
