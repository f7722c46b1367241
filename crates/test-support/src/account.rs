//! What all processes of one runtime use together: they are born into a cgroup of their own, and
//! their pods are below another.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::proc::Process;
use crate::scratch::Scratch;

/// `$0` is the cgroup: whoever is started is in it from the first instruction.
const JOIN: &str = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;

/// The hierarchy in which processor time is counted.
#[derive(Debug, Clone)]
struct Counting {
    root: PathBuf,
    version_2: bool,
}

impl Counting {
    fn find() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").context("/proc/self/mounts")?;
        let all = || mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let place = |fields: &[&str]| fields.get(1).map(PathBuf::from);
        let v1 = all().find(|fields| {
            fields.get(2) == Some(&"cgroup")
                && fields.get(3).is_some_and(|options| options.split(',').any(|o| o == "cpuacct"))
        });
        if let Some(root) = v1.as_deref().and_then(place) {
            return Ok(Self { root, version_2: false });
        }
        let v2 = all().find(|fields| fields.get(2) == Some(&"cgroup2"));
        let root = v2.as_deref().and_then(place).context("no cgroup hierarchy is mounted")?;
        Ok(Self { root, version_2: true })
    }

    fn seconds(&self, group: &Path) -> Result<f64> {
        let read = |file: &str| {
            let path = group.join(file);
            fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        if !self.version_2 {
            return Ok(read("cpuacct.usage")?.trim().parse::<f64>()? / 1e9);
        }
        let stat = read("cpu.stat")?;
        let micros = stat.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Ok(micros.context("cpu.stat has no usage_usec")?.trim().parse::<f64>()? / 1e6)
    }
}

/// Cgroups whose processes are one runtime: its own, and its pods'.
#[derive(Debug)]
pub struct Account {
    counting: Counting,
    runtime: PathBuf,
    pods: PathBuf,
    ours: bool,
}

impl Account {
    /// An account for what is started with [`born_in`], and for pods whose parent cgroup is the
    /// scratch place's.
    ///
    /// # Errors
    /// No hierarchy counts processor time, or the cgroup cannot be made.
    pub fn open(scratch: &Scratch) -> Result<Self> {
        let counting = Counting::find()?;
        let runtime = counting.root.join(format!("{}.runtime", scratch.mark()));
        if !runtime.exists() {
            fs::create_dir(&runtime).with_context(|| runtime.display().to_string())?;
        }
        let pods = counting.root.join(scratch.mark());
        Ok(Self { counting, runtime, pods, ours: true })
    }

    /// An account for a runtime that runs already, from the cgroup its daemon is in.
    ///
    /// # Errors
    /// The process is gone, or shares its cgroup with the whole machine.
    pub fn of_running(pid: u32, scratch: &Scratch) -> Result<Self> {
        let counting = Counting::find()?;
        let path = format!("/proc/{pid}/cgroup");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let group = text.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, group) = (parts.next()?, parts.next()?);
            let counts = controllers.split(',').any(|one| one == "cpuacct")
                || (counting.version_2 && controllers.is_empty());
            counts.then_some(group)
        });
        let group = group.context("the daemon is in no cgroup that counts")?;
        anyhow::ensure!(group != "/", "process {pid} is in the root cgroup, as everybody may be");
        let runtime = counting.root.join(group.trim_start_matches('/'));
        let pods = counting.root.join(scratch.mark());
        Ok(Self { counting, runtime, pods, ours: false })
    }

    /// The cgroup for [`born_in`].
    pub fn group(&self) -> &Path {
        &self.runtime
    }

    /// Processor time of everything that ever ran in the two cgroups, seconds.
    ///
    /// # Errors
    /// The runtime's cgroup is gone.
    pub fn cpu_seconds(&self) -> Result<f64> {
        // Before the first pod and after the last there may be none.
        let pods =
            if self.pods.exists() { self.counting.seconds(&self.pods).unwrap_or(0.0) } else { 0.0 };
        Ok(self.counting.seconds(&self.runtime)? + pods)
    }

    /// Whether the process belongs to the runtime or to its pods.
    pub fn holds(&self, process: &Process) -> bool {
        self.is_runtime(process) || in_group(process, &self.pods)
    }

    /// Whether the process belongs to the runtime itself.
    pub fn is_runtime(&self, process: &Process) -> bool {
        in_group(process, &self.runtime)
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        if self.ours && self.runtime.exists() {
            // Processes that end at this moment leave a little later.
            for _ in 0..50 {
                if fs::remove_dir(&self.runtime).is_ok() {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            eprintln!("cannot remove {}", self.runtime.display());
        }
    }
}

fn in_group(process: &Process, group: &Path) -> bool {
    let Some(name) = group.file_name().and_then(|name| name.to_str()) else { return false };
    let below = |path: &str| path.split('/').any(|part| part == name);
    process.cgroups.lines().any(|line| line.splitn(3, ':').nth(2).is_some_and(below))
}

/// A command whose process is in the cgroup from its beginning; without one, the program as it is.
pub fn born_in(group: Option<&Path>, program: &Path) -> Command {
    let Some(group) = group else { return Command::new(program) };
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(JOIN).arg(group).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_children_use_is_counted_after_they_have_ended() {
        let Ok(scratch) = Scratch::claim() else {
            crate::skip("not root");
            return;
        };
        let account = Account::open(&scratch).unwrap();
        let before = account.cpu_seconds().unwrap();
        let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; cat /proc/self/cgroup";
        let mut shell = born_in(Some(account.group()), Path::new("/bin/sh"));
        let output = shell.args(["-c", script]).output().unwrap();
        let process = Process {
            pid: 1,
            parent: 0,
            zombie: false,
            cmdline: String::new(),
            cgroups: String::from_utf8(output.stdout).unwrap(),
        };
        assert!(account.holds(&process) && account.is_runtime(&process), "{process:?}");
        let elsewhere = Process { cgroups: "1:cpuacct:/\n".to_owned(), ..process };
        assert!(!account.holds(&elsewhere));
        assert!(account.cpu_seconds().unwrap() > before);
    }
}
