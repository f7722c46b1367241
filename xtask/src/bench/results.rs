//! Results of one benchmark, with where they come from: as JSON, and as the pages of `docs/bench/`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::series::Series;
use super::{plot, table};

/// What one run of one benchmark brought.
#[derive(Debug, Clone)]
pub(super) struct Results {
    pub(super) section: String,
    pub(super) series: Vec<Series>,
    /// What did not work, in sentences.
    pub(super) failures: Vec<String>,
    /// What was measured, each with its version.
    pub(super) versions: Vec<String>,
    /// Per cent of the machine that others took meanwhile.
    pub(super) noise: Option<f64>,
    pub(super) machine: Value,
}

impl Results {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "section": self.section,
            "machine": self.machine,
            "versions": self.versions,
            "noise": self.noise,
            "failures": self.failures,
            "series": self.series.iter().map(Series::to_json).collect::<Vec<_>>(),
        })
    }

    fn from_json(value: &Value) -> Result<Self> {
        let list =
            |key: &str| value.get(key).and_then(Value::as_array).cloned().unwrap_or_default();
        let texts = |key: &str| -> Vec<String> {
            list(key).iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let section = value.get("section").and_then(Value::as_str).context("no `section`")?;
        Ok(Self {
            section: section.to_owned(),
            series: list("series").iter().map(Series::from_json).collect::<Result<_>>()?,
            failures: texts("failures"),
            versions: texts("versions"),
            noise: value.get("noise").and_then(Value::as_f64),
            machine: value.get("machine").cloned().unwrap_or_default(),
        })
    }
}

/// Order of the sections on the page, and what to say about each.
const SECTIONS: &[(&str, &str)] = &[
    (
        "pods",
        "A pod of one container, bridge network, RuntimeDefault seccomp, from nothing to running and to \
        nothing again: alone, sixteen asked for at once, and lives one after the other from eight callers.",
    ),
    ("exec", "A probe: ExecSync of `true` in a running container."),
    (
        "memory",
        "Pods that do nothing: proportional set sizes of the runtime's processes, and what it uses while \
        nobody asks anything of it.",
    ),
    ("list", "The same pods while somebody asks all of it once a second, as kubelet does."),
    (
        "restart",
        "The daemon is killed with that many pods and started again: until its list is as before.",
    ),
    (
        "logs",
        "Containers that write lines of 100 bytes as fast as they can, until every line is in its log.",
    ),
    (
        "streaming",
        "500 exec sessions of `cat` at once by SPDY: idle, then megabytes both ways through all of them, \
        every byte compared.",
    ),
    (
        "oci",
        "`run` of `true` from one bundle by OCI runtimes: processes started and ended, no daemon anywhere. Ours is the \
        static `knarr-oci`. A run that does not end in 10 s has failed. On a machine \
        with both cgroup versions all of them run where the v2 tree is not mounted: crun would refuse.",
    ),
    ("network", "A pod sandbox alone, with the built-in network and with the reference plugins."),
    ("scale", "100 pods and 500 containers."),
    ("pull", "An image of twelve layers from a registry on this machine."),
];

/// Keeps the results in `dir` and makes its page and pictures anew, from these and from those that
/// are there.
pub(super) fn publish(dir: &Path, fresh: &[Results]) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let write = |name: String, text: String| {
        let path = dir.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())
    };
    for results in fresh {
        let text = serde_json::to_string(&results.to_json())?;
        write(format!("{}.json", results.section), text + "\n")?;
    }
    let mut page = String::from(HEAD);
    let mut known = Vec::new();
    for (section, about) in SECTIONS {
        if let Some(results) = kept(dir, section)? {
            known.push((section, about, results));
        }
    }
    let all: Vec<Series> =
        known.iter().flat_map(|(_, _, results)| results.series.iter().cloned()).collect();
    page.push_str(&format!("\n## Promises\n{PROMISES}\n{}", table::promises(&all)));
    if let Some(picture) = plot::headline(&all) {
        write("headline.svg".to_owned(), picture)?;
        page.push_str("\n![What matters most](headline.svg)\n");
    }
    for (section, about, results) in &known {
        page.push_str(&format!("\n## {section}\n{about}\n\n"));
        let once = plot::once(&results.series);
        if !once.is_empty() {
            write(format!("{section}.svg"), plot::bars(&once))?;
            page.push_str(&format!("![{section}]({section}.svg)\n\n"));
        }
        if let Some(curves) = plot::curves(&results.series, "pods") {
            write(format!("{section}-curves.svg"), curves)?;
            page.push_str(&format!("![{section}, by number of pods]({section}-curves.svg)\n\n"));
        }
        page.push_str(&table::markdown(&results.series));
        page.push_str(&origin(results));
    }
    if dir.join(TRACE).exists() {
        page.push_str(TRACED);
        let path = dir.join(TRACE);
        page.push_str(&fs::read_to_string(&path).with_context(|| path.display().to_string())?);
        page.push_str("```\n");
    }
    write("README.md".to_owned(), page)
}

fn kept(dir: &Path, section: &str) -> Result<Option<Results>> {
    let path = dir.join(format!("{section}.json"));
    if !path.exists() {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let results = serde_json::from_str(&text).map_err(anyhow::Error::from);
    let results = results.and_then(|value| Results::from_json(&value));
    results.with_context(|| path.display().to_string()).map(Some)
}

const PROMISES: &str = "\nWhat knarr promises for a machine of two processors, and what was measured here: medians. \
*Better by* compares\nwith those who were measured in the same run, with the interval that 95 of 100 resamples fall into.\n";

const TRACE: &str = "trace.txt";
const TRACED: &str = "\n## Where the time of a start goes\n\
One pod's start through client, daemon, shim and the process that becomes the container, by \
`cargo xtask bench --trace`:\nthe one whose time is the middle one of all that were followed.\n\n```\n";

/// Keeps the waterfall beside the page and makes that anew.
pub(super) fn publish_trace(dir: &Path, text: &str) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
    let path = dir.join(TRACE);
    fs::write(&path, text).with_context(|| path.display().to_string())?;
    publish(dir, &[])
}

const HEAD: &str = "# Measured\n\
\n\
Written by `cargo xtask bench`; every number can be had again by one command, on any Debian machine, as root:\n\
\n\
```\n\
cargo xtask bench all --against containerd --report\n\
```\n\
\n\
Each runtime has file systems of its own where files matter (a fresh ext4 for its root, memory for its state, as on a\n\
node; `--here` leaves it on what the machine has), the same images from the same registry, the same bridge network and the\n\
RuntimeDefault seccomp profile, and is driven by the same client, in turns, within one run: what disturbs the machine\n\
disturbs everybody. A first round does not count. Nothing is left out: what failed is listed. *p95* is what 95 of 100\n\
values stay below; *better by* compares medians, with the interval that 95 of 100 resamples fall into. Bars are\n\
medians, their lines reach from the 5th to the 95th of a hundred. Processor time is that of a runtime's cgroup with\n\
its pods': programs that it runs count, and so do the containers, which do nothing.\n";

fn origin(results: &Results) -> String {
    let mut text = String::from("\n");
    for failure in &results.failures {
        text.push_str(&format!("* **failed**: {failure}\n"));
    }
    let of = |key: &str| {
        let value = results.machine.get(key).cloned().unwrap_or_default();
        match value {
            Value::String(text) => text,
            Value::Array(list) => {
                list.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
            }
            other => other.to_string(),
        }
    };
    let noise =
        results.noise.map(|noise| format!("; others took {noise:.0} % of the machine meanwhile"));
    let files = results.machine.get("files").and_then(Value::as_str);
    let files = files.map(|files| format!(", {files}")).unwrap_or_default();
    text.push_str(&format!(
        "{}: knarr {}, {}. {} × {}, {} MiB, Linux {}, cgroup {}, {}{}{}.\n",
        of("date"),
        of("knarr"),
        of("packages"),
        of("processors"),
        of("processor"),
        of("memory, MiB"),
        of("kernel"),
        of("cgroups"),
        of("system"),
        files,
        noise.unwrap_or_default(),
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_earlier_stays_on_the_page() {
        let dir = tempfile::tempdir().unwrap();
        let of = |section: &str, failures: Vec<String>| Results {
            section: section.to_owned(),
            series: vec![Series::parse(&[section, "thing, ms", "", "knarr", "1 2 3"]).unwrap()],
            failures,
            versions: Vec::new(),
            noise: Some(12.0),
            machine: json!({"date": "2026-01-01", "processors": 2}),
        };
        publish(dir.path(), &[of("pods", vec!["it broke".to_owned()])]).unwrap();
        publish(dir.path(), &[of("exec", Vec::new())]).unwrap();
        let page = fs::read_to_string(dir.path().join("README.md")).unwrap();
        let (pods, exec) = (page.find("## pods").unwrap(), page.find("## exec").unwrap());
        assert!(pods < exec && page.contains("**failed**: it broke"), "{page}");
        assert!(page.contains("2026-01-01") && page.contains("others took 12 %"), "{page}");
        assert!(fs::read_to_string(dir.path().join("exec.svg")).unwrap().starts_with("<svg"));
    }
}
