//! Benchmarks that are programs of the package `tests`, which has the CRI client: `network`, a
//! pod's start and stop with the network that is built in, with the reference plugins run by
//! knarr, and with the same plugins run by Debian's containerd; `scale`, a full node; `streaming`, 500
//! exec sessions at once with knarr and with Debian's containerd, through the same client.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use test_support::packages;

use super::{Options, Series};
use crate::dist;
use crate::steps::{cargo, output, step};

/// One of them.
pub(super) struct Program {
    /// Its name in the package.
    pub(super) name: &'static str,
    /// What it needs of Debian.
    pub(super) packages: &'static [&'static str],
    /// What it measures, in the words of its output.
    pub(super) quantities: &'static [&'static str],
}

pub(super) const NETWORK: Program = Program {
    name: "network",
    packages: &["busybox-static", "containerd", "containernetworking-plugins", "runc"],
    quantities: &["RunPodSandbox, ms", "StopPodSandbox, ms"],
};

pub(super) const SCALE: Program = Program {
    name: "scale",
    packages: &["busybox-static", "docker-registry"],
    quantities: &[
        "ListPodSandbox, ms",
        "ListContainers, ms",
        "ContainerStatus, ms",
        "ListContainerStats, ms",
        "ListPodSandboxStats, ms",
        "ListPodSandboxMetrics, ms",
        "idle, % of a core",
        "memory, MiB",
        "restart to first list, ms",
    ],
};

pub(super) const STREAMING: Program = Program {
    name: "streaming",
    packages: &["busybox-static", "containerd", "containernetworking-plugins", "runc"],
    quantities: &[
        "begin a session, ms",
        "daemon, KiB a session",
        "shim, KiB a session",
        "MiB/s each way",
        "failed sessions",
        "daemon, KiB more after",
        "shim, KiB more after",
        "ExecSync per second",
    ],
};

pub(super) fn run(root: &Path, options: &Options, program: &Program) -> Result<Vec<Series>> {
    step("packages", || packages::ensure(program.packages))?;
    let dist = dist::given_or_built(root)?;
    let mut bench = cargo(root);
    bench.args(["bench", "--quiet", "--package", "tests", "--bench", program.name]);
    bench.env("KNARR_DIST", dist).env("KNARR_BENCH_RUNS", options.runs.to_string());
    let text = step("measure", || output(&mut bench))?;
    let series = text.lines().filter_map(|line| program.parse(line).transpose());
    let series = series.collect::<Result<Vec<_>>>()?;
    ensure!(!series.is_empty(), "the program measured nothing:\n{text}");
    Ok(series)
}

impl Program {
    /// `QUANTITY<tab>WHO<tab>VALUE VALUE …`; `None` for any other line.
    fn parse(&self, line: &str) -> Result<Option<Series>> {
        let mut parts = line.split('\t');
        let quantity = parts.next();
        let quantity = quantity.and_then(|text| self.quantities.iter().find(|q| **q == text));
        let (Some(quantity), Some(subject), Some(values)) = (quantity, parts.next(), parts.next())
        else {
            return Ok(None);
        };
        let values = values.split(' ').map(str::parse).collect::<Result<Vec<f64>, _>>();
        let values = values.with_context(|| format!("not all numbers: {line}"))?;
        Ok(Some(Series { subject: subject.to_owned(), quantity, values }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_of_measurements_are_read() {
        let parse = |line: &str| NETWORK.parse(line);
        let series = parse("StopPodSandbox, ms\tknarr, built in\t1.5 2.25").unwrap().unwrap();
        assert_eq!((series.subject.as_str(), series.values), ("knarr, built in", vec![1.5, 2.25]));
        assert!(parse("warning: something").unwrap().is_none());
        assert!(parse("RunPodSandbox, ms\tx\tfast").is_err());
    }
}
