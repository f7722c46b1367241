//! `cargo xtask bench NAME`: measurements that decisions and promises go by. Each runs what it
//! compares in alternation, in one run on one machine; times of different machines say nothing.

mod budget;
mod machine;
mod plot;
mod program;
mod pull;
mod pull_image;
mod results;
mod runtimes;
mod series;
mod statistics;
mod table;
mod trace;
mod youki;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::dist;
pub(crate) use program::COMPARE;
use program::Said;
use results::Results;

/// Sections of the program that compares runtimes.
const COMPARED: [&str; 6] = ["pods", "exec", "memory", "list", "restart", "logs"];
/// Names of the benchmarks.
const NAMES: [&str; 12] = [
    "pods",
    "exec",
    "memory",
    "list",
    "restart",
    "logs",
    "oci",
    "streaming",
    "network",
    "scale",
    "pull",
    "all",
];

/// What to measure, and how often.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Options {
    /// Which benchmarks.
    #[arg(value_parser = NAMES, required_unless_present = "trace", value_name = "NAME")]
    names: Vec<String>,
    /// Measure others beside knarr, in turn with it: `containerd` (Debian's, on a root of its
    /// own), `crio` if one runs at its usual socket (Debian has none), or the socket of one that
    /// runs, as `unix:///run/other.sock`. `youki` is built from crates.io for `oci`, where Debian's
    /// crun and runc are measured in any case.
    #[arg(long, value_delimiter = ',', value_name = "RUNTIME", value_parser = peer)]
    against: Vec<String>,
    /// Write the results here as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the results in this directory and make its page anew.
    #[arg(long, value_name = "DIR", num_args = 0..=1, default_missing_value = "docs/bench")]
    report: Option<PathBuf>,
    /// Follow one pod's start through client, daemon, shim and container, and write where its time
    /// goes here, for Chrome's or Perfetto's viewer; shown as text as well.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "target/bench/trace.json")]
    trace: Option<PathBuf>,
    /// How often each is measured; the default depends on how long it takes.
    #[arg(long)]
    runs: Option<usize>,
    /// Numbers of pods at which a full node is measured.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 30, 100, 500])]
    pods: Vec<u64>,
    /// Others are not filled beyond this: their pods are slow to come and need much memory.
    #[arg(long, value_name = "PODS", default_value_t = 100)]
    peer_pods: u64,
    /// Leave what the runtimes keep on this machine's own `/var/tmp` and `/run`, whatever these are, instead of
    /// on a fresh ext4 and in memory, as nodes have it. Images are pulled to a fresh ext4 in any case.
    #[arg(long)]
    here: bool,
    /// Megabytes of files in the image that is pulled.
    #[arg(long, default_value_t = 2500)]
    megabytes: u64,
}

impl Options {
    fn wants(&self, name: &str) -> bool {
        self.names.iter().any(|wanted| wanted == name || wanted == "all")
    }

    /// Those to measure beside the daemon.
    fn daemons(&self) -> impl Iterator<Item = &str> {
        self.against.iter().map(String::as_str).filter(|name| *name != youki::NAME)
    }
}

/// A name that can be measured beside knarr. Whether it is there is seen when it is to begin: the
/// others are measured without it.
fn peer(name: &str) -> Result<String, String> {
    match name {
        "containerd" | "crio" | youki::NAME => Ok(name.to_owned()),
        "cri-o" => Ok("crio".to_owned()),
        _ if name.starts_with("unix:///") => Ok(name.to_owned()),
        _ => Err("say `containerd`, `crio`, `youki`, or the socket of a runtime as unix:///PATH"
            .to_owned()),
    }
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let machine = machine::describe(root, options.here);
    let (mut all, mut broken) = (Vec::new(), Vec::new());
    // What one brought is kept though the next one breaks.
    let mut keep = |sections: &[&str], said: Result<Said>| match said {
        Ok(said) => all.extend(sections.iter().map(|section| of(&said, section, &machine))),
        Err(error) => {
            println!("BROKEN: {}: {error:#}", sections.join(", "));
            broken.push(sections.join(", "));
        }
    };
    let compared: Vec<&str> = COMPARED.into_iter().filter(|name| options.wants(name)).collect();
    if !compared.is_empty() {
        keep(&compared, program::run(root, options, &program::COMPARE, &compared));
    }
    let others = [&program::OCI, &program::STREAMING, &program::NETWORK, &program::SCALE];
    for program in others.into_iter().filter(|program| options.wants(program.name)) {
        keep(&[program.name], program::run(root, options, program, &[]));
    }
    if options.wants("pull") {
        keep(&["pull"], pull::run(root, options));
    }
    for results in &all {
        println!("\n{}\n{}", results.section, table::text(&results.series));
        results.failures.iter().for_each(|failure| println!("FAILED: {failure}"));
    }
    if let Some(path) = &options.trace
        && let Err(error) = follow(root, options, &root.join(path))
    {
        println!("BROKEN: trace: {error:#}");
        broken.push("trace".to_owned());
    }
    if let Some(path) = &options.json {
        let list: Vec<Value> = all.iter().map(Results::to_json).collect();
        let text = serde_json::to_string_pretty(&list)?;
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    if let Some(dir) = &options.report {
        results::publish(&root.join(dir), &all)?;
    }
    let failures = all.iter().flat_map(|results| &results.failures);
    let ours: Vec<&str> =
        failures.filter(|failure| failure.starts_with("knarr")).map(String::as_str).collect();
    ensure!(broken.is_empty(), "broke off: {}", broken.join("; "));
    ensure!(ours.is_empty(), "what is ours has failed: {}", ours.join("; "));
    Ok(())
}

/// Where the time of one pod's start goes.
fn follow(root: &Path, options: &Options, path: &Path) -> Result<()> {
    let spans = program::run(root, options, &program::TRACE, &[])?.spans;
    let text = trace::waterfall(&spans);
    println!("\n{text}");
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    }
    let events = serde_json::to_string(&trace::chrome(&spans))?;
    std::fs::write(path, events).with_context(|| path.display().to_string())?;
    if let Some(dir) = &options.report {
        results::publish_trace(&root.join(dir), &text)?;
    }
    Ok(())
}

/// The part of what was said that belongs to a section.
fn of(said: &Said, section: &str, machine: &Value) -> Results {
    let failures = said.failures.iter().filter(|(of, _)| of == section);
    Results {
        section: section.to_owned(),
        series: said.series.iter().filter(|one| one.section == section).cloned().collect(),
        failures: failures.map(|(_, failure)| failure.clone()).collect(),
        versions: said.versions.clone(),
        noise: said.noise,
        machine: machine.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_go_by_the_names_they_are_known_by_or_their_sockets() {
        assert_eq!(peer("cri-o").as_deref(), Ok("crio"));
        assert_eq!(peer("unix:///run/x.sock").as_deref(), Ok("unix:///run/x.sock"));
        assert!(peer("dockershim").unwrap_err().contains("containerd"));
    }
}
