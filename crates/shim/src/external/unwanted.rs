//! Commands that nobody wants any more before their runtime has brought them into the container: their time is
//! up, or who asked has gone.
//!
//! The runtime is given time to come to its end: then it has named its process, which is killed with all that
//! descends from it, and nothing is left half done. One that takes too long is killed with everybody it has
//! started. What it has let go by then, and not named, is found among the container's processes: it is the
//! shim's child, and no command has named it.

use std::time::{Duration, Instant};

use rustix::process::{Pid, getpid};
use shim_protocol::{Failure, Response, RuntimeKind};

use super::External;
use super::exec::Entry;
use super::job::{Job, Step};
use crate::peers::PeerNumber;
use crate::process_tree::{everybody, in_own_namespace, is_child_of, kill_family};
use crate::supervisor::Supervisor;

const SIGKILL: i32 = 9;

/// How long a runtime may go on with a command that nobody wants any more.
const FINISHES_WITHIN: Duration = Duration::from_secs(10);

/// Who is told once nothing of a command is left.
pub(super) type Waiters = Vec<(PeerNumber, u64)>;

/// Processes in a container that no command has named, while others go on that still may.
#[derive(Debug)]
pub(super) struct Unnamed {
    external: External,
    pids: Vec<Pid>,
    /// The commands that may name one of them.
    until_ended: Vec<Pid>,
    waiters: Waiters,
}

impl Unnamed {
    /// This one was reaped: from now on its number may be another's.
    pub(super) fn forget(&mut self, pid: Pid) {
        self.pids.retain(|one| *one != pid);
    }
}

impl Job {
    /// Its time is up.
    pub(super) fn cut_off(&self) {
        if let Step::Exec(_) = &self.step {
            // Who survives this is found when the command has been reaped.
            kill_family(self.child.pid, everybody).ok();
        }
        self.kill();
    }
}

impl Supervisor {
    /// A command that may be on its way into a container is not wanted any more. Whether it is on its way: then
    /// who asks is answered once nothing of it is left.
    pub(crate) fn end_entering(&mut self, asked: (PeerNumber, u64), number: u64) -> bool {
        let Some(job) = self.jobs.entry(number) else { return false };
        if let Step::Exec(entry) = &mut job.step {
            entry.unwanted_by.push(asked);
        }
        job.until = job.until.min(Instant::now() + FINISHES_WITHIN);
        true
    }

    /// Ends what a runtime has started for a command that it did not bring to its end.
    pub(super) fn end_unnamed(&mut self, entry: &mut Entry) {
        let waiters = std::mem::take(&mut entry.unwanted_by);
        let named = self.end_named(entry);
        let external = entry.external.clone();
        let pids = self.unnamed(&external).unwrap_or_else(|failure| {
            self.tools.journal.say(format_args!("exec {}: {}", entry.number, failure.message));
            Vec::new()
        });
        let until_ended = self.jobs.entering(&external);
        let unnamed = Unnamed { external, pids, until_ended, waiters };
        if let Err(failure) = named {
            self.told_to(unnamed.waiters, &Err(failure));
        } else if unnamed.pids.is_empty() || unnamed.until_ended.is_empty() {
            self.end_all(unnamed);
        } else {
            self.jobs.unnamed.push(unnamed);
        }
    }

    /// One that it has named before it failed, or was cut off.
    fn end_named(&mut self, entry: &Entry) -> Result<(), Failure> {
        let external = &entry.external;
        let inside = match external.program.kind {
            RuntimeKind::Processes => None,
            RuntimeKind::Sandbox => self.read_pid_inside(external, &entry.file("inside")).ok(),
        };
        let ended = inside.map_or(Ok(()), |inside| {
            let until = Instant::now() + super::PATIENCE;
            self.signal_family_inside(external, SIGKILL, inside, until)
        });
        let Ok(pid) = self.read_pid(external, &entry.file("pid")) else { return ended };
        // It is not reaped while it is looked at, so a child of this number is the one.
        if self.is_known(pid) || !is_child_of(pid, getpid()) {
            return ended;
        }
        kill_family(pid, || self.members_in(external)).and(ended)
    }

    /// The processes of a container that are children of the shim's and that nobody has named. Those that live in
    /// the shim's own PID namespace are left alone: there the container's orphans come to the shim, too.
    fn unnamed(&self, external: &External) -> Result<Vec<Pid>, Failure> {
        let members = self.members_in(external)?.into_iter();
        let own = getpid();
        Ok(members
            .filter(|pid| is_child_of(*pid, own) && !self.is_known(*pid) && !in_own_namespace(*pid))
            .collect())
    }

    fn members_in(&self, external: &External) -> Result<Vec<Pid>, Failure> {
        match self.containers.get(external.id.as_str()) {
            Some(container) => self.parts.runtime.members(&container.cgroup),
            None => Ok(Vec::new()),
        }
    }

    /// Whether this child is somebody's.
    fn is_known(&self, pid: Pid) -> bool {
        self.containers.iter().any(|one| one.running().is_some_and(|now| now.pid == pid))
            || self.execs.has_pid(pid)
            || self.jobs.has_pid(pid)
            || self.pod.pause_pid() == Some(pid)
    }

    /// A command has ended: what nobody has named by now nobody will.
    pub(super) fn end_unnamed_of_all(&mut self) {
        for mut unnamed in std::mem::take(&mut self.jobs.unnamed) {
            unnamed.until_ended.retain(|job| self.jobs.has_pid(*job));
            if unnamed.until_ended.is_empty() {
                self.end_all(unnamed);
            } else {
                self.jobs.unnamed.push(unnamed);
            }
        }
    }

    fn end_all(&mut self, unnamed: Unnamed) {
        let mut ended = Ok(());
        for pid in unnamed.pids {
            if !self.is_known(pid) {
                let killed = kill_family(pid, || self.members_in(&unnamed.external));
                ended = ended.and(killed);
            }
        }
        self.told_to(unnamed.waiters, &ended);
    }

    /// Answers those who wait for a command's end; where there is none, what failed is noted.
    pub(super) fn told_to(&mut self, waiters: Waiters, ended: &Result<(), Failure>) {
        if let (true, Err(failure)) = (waiters.is_empty(), ended) {
            self.tools.journal.say(format_args!("a command was not ended: {}", failure.message));
        }
        for (peer, request) in waiters {
            let response = match ended {
                Ok(()) => Response::Done,
                Err(failure) => Response::Failed(failure.clone()),
            };
            self.peers.reply(peer, request, (response, None), &self.tools.poller);
        }
    }
}
