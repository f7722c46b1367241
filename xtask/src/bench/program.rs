//! Benchmarks that are programs of `tests/benches`: they are told what to do by the environment,
//! and say what they measured in lines (`test_support::bench`).

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use test_support::packages;

use super::series::Series;
use super::trace::Span;
use super::{Options, dist, youki};
use crate::steps::{cargo, step};

/// One of them.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    /// Debian packages that are measured beside us, or serve what is measured.
    pub(crate) packages: &'static [&'static str],
}

pub(crate) const COMPARE: Program = Program {
    name: "compare",
    packages: &[
        "busybox-static",
        "containerd",
        "containernetworking-plugins",
        "e2fsprogs",
        "runc",
        "strace",
    ],
};

pub(super) const OCI: Program =
    Program { name: "oci", packages: &["busybox-static", "crun", "runc", "util-linux"] };

pub(super) const NETWORK: Program = Program {
    name: "network",
    packages: &["busybox-static", "containerd", "containernetworking-plugins", "runc"],
};

pub(super) const SCALE: Program =
    Program { name: "scale", packages: &["busybox-static", "docker-registry", "e2fsprogs"] };

pub(super) const STREAMING: Program = Program {
    name: "streaming",
    packages: &["busybox-static", "containerd", "containernetworking-plugins", "runc"],
};

pub(super) const TRACE: Program =
    Program { name: "trace", packages: &["busybox-static", "e2fsprogs"] };

/// What a program said.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Said {
    pub(super) series: Vec<Series>,
    /// Section, and a sentence.
    pub(super) failures: Vec<(String, String)>,
    pub(super) versions: Vec<String>,
    pub(super) noise: Option<f64>,
    pub(super) spans: Vec<Span>,
}

pub(super) fn run(
    root: &Path,
    options: &Options,
    program: &Program,
    sections: &[&str],
) -> Result<Said> {
    step("packages", || packages::ensure(program.packages))?;
    let dist = dist::given_or_built(root)?;
    let mut bench = cargo(root);
    bench.args(["bench", "--quiet", "--package", "tests", "--bench", program.name]);
    bench.env("KNARR_DIST", dist).env("KNARR_BENCH_SECTIONS", sections.join(","));
    let daemons: Vec<&str> = options.daemons().collect();
    bench.env("KNARR_BENCH_AGAINST", daemons.join(","));
    if program.name == OCI.name && options.against.iter().any(|name| name == youki::NAME) {
        bench.env("PATH", youki::path(root)?);
    }
    let pods: Vec<String> = options.pods.iter().map(u64::to_string).collect();
    bench.env("KNARR_BENCH_PODS", pods.join(","));
    bench.env("KNARR_BENCH_PEER_PODS", options.peer_pods.to_string());
    if options.here {
        bench.env("KNARR_BENCH_HERE", "1");
    }
    if let Some(runs) = options.runs {
        bench.env("KNARR_BENCH_RUNS", runs.to_string());
    }
    // It goes on for as long as we hold the other end, and clears away what it began when we die.
    bench.env("KNARR_BENCH_LIFELINE", "1").stdin(Stdio::piped());
    // Also what a run said that failed in the end: failures are shown.
    let output = step(&format!("measure: {}", what(program, sections)), || {
        let mut child = bench.stdout(Stdio::piped()).spawn().context("start cargo bench")?;
        let lifeline = child.stdin.take();
        let output = child.wait_with_output().context("wait for cargo bench");
        drop(lifeline);
        output
    })?;
    let text = String::from_utf8(output.stdout).context("output of cargo bench")?;
    let said = Said::read(&text)?;
    let nothing = said.series.is_empty() && said.spans.is_empty();
    ensure!(!nothing, "{}: the program measured nothing:\n{text}", output.status);
    if !output.status.success() && said.failures.is_empty() {
        anyhow::bail!("{}: {} failed\n{text}", output.status, program.name);
    }
    Ok(said)
}

/// A reason without the paths of this machine, and not longer than a reader wants it.
pub(super) fn without_places(why: &str) -> String {
    const LONG: usize = 300;
    let word = |word: &str| {
        let is_place = word.contains("/var/tmp/") || word.contains("/run/");
        if is_place { "…".to_owned() } else { word.to_owned() }
    };
    let words: Vec<String> = why.split(' ').map(word).collect();
    words.join(" ").chars().take(LONG).collect()
}

fn what(program: &Program, sections: &[&str]) -> String {
    if sections.is_empty() { program.name.to_owned() } else { sections.join(", ") }
}

impl Said {
    /// Lines that are not for us are passed over.
    fn read(text: &str) -> Result<Self> {
        let mut said = Self::default();
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            match fields.as_slice() {
                // What others took meanwhile comes last, where it can be told.
                ["measured", "machine", _quantity, _at, _who, value] => {
                    said.noise = Some(value.parse().context("noise")?);
                }
                ["measured", fields @ ..] => said.series.push(Series::parse(fields)?),
                ["span", fields @ ..] => said.spans.push(Span::parse(fields)?),
                ["failed", section, who, why] => {
                    let why = without_places(why);
                    said.failures.push(((*section).to_owned(), format!("{who}: {why}")));
                }
                ["version", _who, version] => said.versions.push((*version).to_owned()),
                _ => {}
            }
        }
        Ok(said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_are_meant_for_us_are_read() {
        let text = "warning: something\n\
            version\tcontainerd\tcontainerd 1.6\n\
            measured\tnetwork\tStopPodSandbox, ms\t\tknarr, built in\t1.5 2.25\n\
            failed\tpods\tcontainerd\tRunPodSandbox: no \"/run/kt000/x\" there\n\
            measured\tmachine\ttaken by others, % of it\t\t\t12.5\n";
        let said = Said::read(text).unwrap();
        assert_eq!(said.series[0].who, "knarr, built in");
        assert_eq!(
            said.failures,
            [("pods".to_owned(), "containerd: RunPodSandbox: no … there".to_owned())]
        );
        assert_eq!((said.versions.len(), said.noise), (1, Some(12.5)));
        assert!(Said::read("measured\tpods\tx, ms\t\tknarr\tfast").is_err());
    }
}
