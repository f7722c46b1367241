//! Programs of others that may never end: each is given a time, and when that is over it is killed
//! with everything that carries its mark.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read as _, Seek as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal};

use crate::leaks::{cgroup_roots, tree};
use crate::proc::{self, Process};

/// How long what was killed is given to go.
const A_MOMENT: Duration = Duration::from_secs(5);

/// How long a program may take, and how to tell what it leaves behind.
#[derive(Debug, Clone)]
pub struct Deadline {
    limit: Duration,
    mark: String,
}

/// A program that has ended by itself.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub status: ExitStatus,
    /// From just before it was started until it had ended.
    pub took: Duration,
    /// What it wrote to standard error.
    pub said: String,
}

impl Deadline {
    /// `mark` is part of the command lines or of the cgroups' names of everything that the program
    /// makes, and of nothing else on the machine: the id of a container.
    pub fn new(limit: Duration, mark: impl Into<String>) -> Self {
        Self { limit, mark: mark.into() }
    }

    /// Runs a program to its end, in a process group of its own. Blocks for the limit at most, and
    /// some seconds if things do not go when they are killed.
    ///
    /// # Errors
    /// It cannot be started, fails, or does not end in time: then it is killed, and what could not
    /// be cleared away is named.
    pub fn run(&self, command: &mut Command) -> Result<Ended> {
        // Not a pipe: whoever inherits its other end could keep us reading for ever.
        let mut said = tempfile::tempfile().context("a file for what it says")?;
        command.process_group(0).stderr(said.try_clone()?);
        let begun = Instant::now();
        let mut child = command.spawn().context("start it")?;
        let pid = Pid::from_child(&child);
        let number = pid.as_raw_nonzero().get();
        if !proc::ended_within(number, self.limit)? {
            let left = self.clear(pid);
            if proc::ended_within(number, A_MOMENT)? {
                child.wait().context("wait for it")?;
            }
            let seconds = self.limit.as_secs_f64();
            ensure!(
                left.is_empty(),
                "did not end within {seconds} s, and left {}",
                left.join(", ")
            );
            bail!("did not end within {seconds} s");
        }
        let status = child.wait().context("wait for it")?;
        let took = begun.elapsed();
        let mut text = Vec::new();
        said.rewind().and_then(|()| said.read_to_end(&mut text)).context("read what it said")?;
        let said = String::from_utf8_lossy(&text).into_owned();
        ensure!(status.success(), "{status}: {said}");
        Ok(Ended { status, took, said })
    }

    /// Kills the program and all that it has made; what is still there afterwards.
    fn clear(&self, program: Pid) -> Vec<String> {
        // Those that have left the tree meanwhile are known by their mark alone.
        let mut known: BTreeSet<i32> = BTreeSet::from([program.as_raw_nonzero().get()]);
        let begun = Instant::now();
        let mut living = self.thaw_and_find(&mut known);
        rustix::process::kill_process_group(program, Signal::KILL).ok();
        while !living.is_empty() && begun.elapsed() < A_MOMENT {
            for process in &living {
                proc::signal(process.pid, Signal::KILL).ok();
            }
            for process in &living {
                // Our own child stays a zombie until it is waited for, which counts as ended.
                proc::ended_within(process.pid, A_MOMENT).ok();
            }
            living = self.thaw_and_find(&mut known);
        }
        let mut left: Vec<String> =
            living.iter().map(|one| format!("process {}: {}", one.pid, one.cmdline)).collect();
        // Those below others come behind them.
        for dir in self.cgroups().iter().rev() {
            if let Err(error) = fs::remove_dir(dir) {
                left.push(format!("{}: {error}", dir.display()));
            }
        }
        left
    }

    /// Nobody who is frozen dies.
    fn thaw_and_find(&self, known: &mut BTreeSet<i32>) -> Vec<Process> {
        for dir in self.cgroups() {
            for (file, thawed) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
                if dir.join(file).exists() {
                    fs::write(dir.join(file), thawed).ok();
                }
            }
        }
        let me = i32::try_from(std::process::id()).unwrap_or_default();
        let all: Vec<Process> = proc::all().into_iter().filter(|one| one.pid != me).collect();
        loop {
            let before = known.len();
            let new = all.iter().filter(|one| known.contains(&one.parent)).map(|one| one.pid);
            known.extend(new.collect::<Vec<_>>());
            if known.len() == before {
                break;
            }
        }
        let carries = |one: &Process| {
            [&one.cmdline, &one.cgroups].into_iter().any(|text| text.contains(&self.mark))
        };
        all.into_iter()
            .filter(|one| !one.zombie && (known.contains(&one.pid) || carries(one)))
            .collect()
    }

    fn cgroups(&self) -> Vec<PathBuf> {
        let all = cgroup_roots().into_iter().flat_map(|root| tree(&root));
        let marked = |path: &PathBuf| {
            path.file_name().is_some_and(|name| name.to_string_lossy().contains(&self.mark))
        };
        all.filter(marked).filter(|path| path.is_dir()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    /// As a runtime that has made its container and then waits for ever.
    const HANGS: &str = r#"
        for dir in /sys/fs/cgroup/cpu /sys/fs/cgroup; do
            mkdir "$dir/$1-c" 2>/dev/null && [ -w "$dir/$1-c/cgroup.procs" ] && group="$dir/$1-c" && break
        done
        setsid sh -c 'echo $$ > "$0/cgroup.procs"; echo made >&2; exec sleep 98765431' "$group" &
        setsid sleep 98765432 &
        sleep 98765433
    "#;

    #[test]
    fn a_runtime_that_hangs_is_cleared_away_with_its_container() {
        let Ok(scratch) = Scratch::claim() else {
            crate::skip("not root");
            return;
        };
        let id = format!("{}-hangs", scratch.mark());
        let deadline = Deadline::new(Duration::from_secs(1), id.clone());
        let error =
            deadline.run(Command::new("sh").args(["-c", HANGS, "runtime", &id])).unwrap_err();
        assert_eq!(error.to_string(), "did not end within 1 s");
        assert_eq!(deadline.cgroups(), [] as [PathBuf; 0]);
        let left: Vec<Process> =
            proc::all().into_iter().filter(|one| one.cgroups.contains(&id)).collect();
        assert_eq!(left, []);
        let sleeps = |one: &Process| one.cmdline.starts_with("sleep 987654") && !one.zombie;
        assert!(!proc::all().iter().any(sleeps));
    }

    #[test]
    fn who_keeps_standard_error_open_does_not_keep_us() {
        let deadline = Deadline::new(Duration::from_secs(60), "kt-nobody-has-this");
        let script = "sleep 98761234 & echo $! >&2; exit 3";
        let error = deadline.run(Command::new("sh").args(["-c", script])).unwrap_err().to_string();
        let pid = error.rsplit(' ').next().unwrap().trim().parse().unwrap();
        assert!(error.starts_with("exit status: 3: "), "{error}");
        proc::signal(pid, Signal::KILL).unwrap();
        let ended = deadline.run(Command::new("sh").args(["-c", "echo well >&2"])).unwrap();
        assert_eq!(ended.said, "well\n");
    }
}
