//! `knarr run`

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde::Serialize;
use serde_json::Value;

use crate::{
    Error, Io,
    client::Client,
    human::short_id,
    output::{Format, FormatArg},
    pod::{self, ContainerPlan, Facts, PodPlan},
    run,
};

/// A manifest longer than this is something else.
const MAX_MANIFEST: u64 = 4 * 1024 * 1024;

/// Run a pod from a Kubernetes manifest
///
/// Does what kubelet would do for a static pod: pulls the images, makes the volumes, runs the
/// init containers and starts the containers. A field that cannot be honoured is refused by
/// name. Nothing is restarted later; `knarr rm` removes the pod and its emptyDir volumes.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// Manifest of one Pod (YAML or JSON); `-` reads stdin
    #[arg(value_name = "POD.yaml")]
    file: PathBuf,
    /// Leave everything in place if the pod does not come up
    #[arg(long)]
    keep: bool,
    /// Show what would be asked of the runtime, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Where pods get their log directories
    #[arg(long, value_name = "DIR", default_value = "/var/log/pods")]
    log_dir: PathBuf,
    /// Where pods get their emptyDir volumes
    #[arg(long, value_name = "DIR", default_value = "/var/lib/knarr-run")]
    volumes_dir: PathBuf,
    #[command(flatten)]
    output: FormatArg,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    pod_sandbox_id: &'a str,
    ip: &'a str,
    containers: Vec<ReportContainer<'a>>,
}

#[derive(Serialize)]
struct ReportContainer<'a> {
    name: &'a str,
    id: &'a str,
}

impl Run {
    /// Runs the pod and prints its id, address and containers.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let plan = self.plan()?;
        for note in &plan.notes {
            io.note(format_args!("note: {note}"))?;
        }
        let running = run::run(client, plan, self.keep, io).await?;
        let report = Report {
            pod_sandbox_id: &running.pod,
            ip: &running.ip,
            containers: running
                .containers
                .iter()
                .map(|(name, id)| ReportContainer { name, id })
                .collect(),
        };
        match self.output.format {
            Format::Json => io.json(&report)?,
            Format::Yaml => io.yaml(&report)?,
            Format::Table => {
                let ip = if running.ip.is_empty() { "the host's" } else { &running.ip };
                io.line(format_args!("pod {} address {ip}", running.pod))?;
                for (name, id) in &running.containers {
                    io.line(format_args!("container {} {name}", short_id(id)))?;
                }
            }
        }
        Ok(0)
    }

    /// Whether nothing is to be done, so that no runtime is needed.
    #[must_use]
    pub fn is_dry(&self) -> bool {
        self.dry_run
    }

    /// Prints what would be asked of a runtime.
    ///
    /// # Errors
    /// [`Error`].
    pub fn show(&self, io: &mut Io<'_>) -> Result<u8, Error> {
        self.print(&self.plan()?, io)
    }

    fn plan(&self) -> Result<PodPlan, Error> {
        let text = read(&self.file)?;
        let stdin = self.file == Path::new("-");
        let name = if stdin { "stdin".into() } else { self.file.display().to_string() };
        Ok(pod::plan_manifest(&name, &text, &self.facts()?)?)
    }

    fn print(&self, plan: &PodPlan, io: &mut Io<'_>) -> Result<u8, Error> {
        let list = |list: &[ContainerPlan]| -> serde_json::Result<Vec<Value>> {
            list.iter().map(config_value).collect()
        };
        let report = serde_json::json!({
            "sandbox": serde_json::to_value(&plan.sandbox).map_err(Error::Json)?,
            "runtimeHandler": plan.handler,
            "initContainers": list(&plan.init_containers).map_err(Error::Json)?,
            "containers": list(&plan.containers).map_err(Error::Json)?,
        });
        match self.output.format {
            Format::Json => io.json(&report)?,
            Format::Table | Format::Yaml => io.yaml(&report)?,
        }
        Ok(0)
    }

    fn facts(&self) -> Result<Facts, Error> {
        let uid = read_text("/proc/sys/kernel/random/uuid")?;
        // A host without a resolv.conf has no name servers to pass on.
        let resolv_conf = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        Ok(Facts {
            uid: uid.trim().to_owned(),
            log_root: absolute(&self.log_dir)?,
            volumes_root: absolute(&self.volumes_dir)?,
            resolv_conf,
            memory_bytes: memory_bytes(&read_text("/proc/meminfo")?),
            thermal_throttle: thermal_throttle(),
        })
    }
}

/// A container's request for people: its image by name, its variables as text.
fn config_value(container: &ContainerPlan) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(&container.config)?;
    value["image"] = serde_json::json!({ "image": container.image });
    for (index, variable) in container.config.envs.iter().enumerate() {
        value["envs"][index]["value"] = String::from_utf8_lossy(&variable.value).into();
    }
    Ok(value)
}

fn read(file: &Path) -> Result<String, Error> {
    let failed = |source| Error::Read { path: file.to_owned(), source };
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().take(MAX_MANIFEST + 1).read_to_string(&mut text).map_err(failed)?;
    } else {
        let file = fs::File::open(file).map_err(failed)?;
        file.take(MAX_MANIFEST + 1).read_to_string(&mut text).map_err(failed)?;
    }
    // Half a manifest may be a manifest, but not the one that was written.
    if u64::try_from(text.len()).is_ok_and(|length| length > MAX_MANIFEST) {
        return Err(failed(std::io::ErrorKind::FileTooLarge.into()));
    }
    Ok(text)
}

fn read_text(path: &str) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    std::path::absolute(path).map_err(|source| Error::Read { path: path.to_owned(), source })
}

/// `MemTotal`, in bytes.
fn memory_bytes(meminfo: &str) -> u64 {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default().saturating_mul(1024)
}

/// The machine's CPUs tell their temperature history to everybody; kubelet hides it.
fn thermal_throttle() -> Vec<String> {
    let Ok(entries) = fs::read_dir("/sys/devices/system/cpu") else { return Vec::new() };
    let mut paths: Vec<String> = entries
        .flatten()
        .map(|entry| entry.path().join("thermal_throttle"))
        .filter(|path| path.is_dir())
        .map(|path| path.display().to_string())
        .collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::memory_bytes;

    #[test]
    fn the_machines_memory_is_read_in_bytes() {
        assert_eq!(memory_bytes("MemFree: 1 kB\nMemTotal:       16384 kB\n"), 16 * 1024 * 1024);
        assert_eq!(memory_bytes(""), 0);
    }
}
