//! `Shutdown`: everything is killed, waited for, and released; then the shim ends. When
//! something cannot be released the shim stays, says what, and can be asked again.

use std::time::{Duration, Instant};

use failpoint::Point;
use rustix::fd::AsFd;
use shim_protocol::{Failure, FailureKind, Response};

use crate::external::Keeper;
use crate::failure::reach;
use crate::peers::PeerNumber;
use crate::supervisor::Supervisor;

/// How long processes may take to die, and cgroups to become removable.
const LIMIT: Duration = Duration::from_secs(10);

const SIGKILL: i32 = 9;

/// How often what still lives is killed again.
const KILL_AGAIN: Duration = Duration::from_millis(100);

/// How soon a cgroup that was still busy is tried again.
const RELEASE_AGAIN: Duration = Duration::from_millis(2);

/// A shutdown under way.
#[derive(Debug)]
pub(crate) struct Shutdown {
    /// Who asked, and the ids of their requests.
    waiters: Vec<(PeerNumber, u64)>,
    until: Instant,
    next_try: Instant,
    /// What the pod's network is taken away by stays: the daemon does that.
    keeps_network: bool,
}

impl Shutdown {
    fn new() -> Self {
        let now = Instant::now();
        let waiters = Vec::new();
        Self { waiters, until: now + LIMIT, next_try: now, keeps_network: false }
    }

    /// When to go on even if nothing happens.
    pub(crate) fn next_try(&self) -> Instant {
        self.next_try
    }
}

impl Supervisor {
    pub(crate) fn begin_shutdown(&mut self, peer: PeerNumber, id: u64) {
        let shutdown = self.shutdown.get_or_insert_with(Shutdown::new);
        shutdown.keeps_network = false;
        shutdown.waiters.push((peer, id));
    }

    /// As `Shutdown`, but for the pod's network.
    pub(crate) fn begin_leaving(&mut self) {
        self.shutdown.get_or_insert_with(|| Shutdown { keeps_network: true, ..Shutdown::new() });
    }

    /// Goes on with a shutdown; true when the shim has nothing left to do.
    pub(crate) fn continue_shutdown(&mut self) -> bool {
        if self.shutdown.is_none() {
            return false;
        }
        // A zombie keeps its place in a v1 cgroup until it is reaped.
        self.reap();
        let Some(shutdown) = &self.shutdown else { return false };
        let (now, until, next_try) = (Instant::now(), shutdown.until, shutdown.next_try);
        let (keeps_network, awaited) = (shutdown.keeps_network, !shutdown.waiters.is_empty());
        let alive = self.alive();
        let (failures, again) = if !alive.is_empty() {
            if now < next_try {
                return false;
            }
            self.kill_everything();
            (alive, KILL_AGAIN)
        } else if self.waits_for_partings() {
            return false;
        } else {
            let failures = self.release(keeps_network);
            if self.waits_for_partings() {
                return false;
            }
            (failures, RELEASE_AGAIN)
        };
        if failures.is_empty() {
            failpoint::pass(Point::ShimShutdownEnd);
            self.give_up_clients();
            self.answer_waiters(&Response::Done);
            return true;
        }
        if now >= until {
            let message = failures.join("; ");
            if !awaited {
                self.tools.journal.say(format_args!("cannot leave: {message}"));
            }
            let kind = FailureKind::Internal;
            self.answer_waiters(&Response::Failed(Failure { kind, message, errno: None }));
            self.shutdown = None;
        } else if let Some(shutdown) = &mut self.shutdown {
            shutdown.next_try = (now + again).min(until);
        }
        false
    }

    /// Hooks have their own time, and tell when they have ended.
    fn waits_for_partings(&mut self) -> bool {
        let Some(due) = self.partings.next_deadline() else { return false };
        if let Some(shutdown) = &mut self.shutdown {
            shutdown.next_try = due;
        }
        true
    }

    /// What still runs, in words.
    fn alive(&self) -> Vec<String> {
        let containers = self.containers.iter().filter(|container| !container.has_ended());
        let mut alive: Vec<String> = containers
            .map(|container| format!("container {} does not end", container.id.short()))
            .collect();
        if self.pod.pause_pid().is_some() {
            alive.push("the pause process does not end".to_owned());
        }
        if !self.launches.is_empty() {
            alive.push("containers are on their way".to_owned());
        }
        alive.extend(self.jobs.alive());
        let outliving = self.parts.runtime.outliving();
        if outliving > 0 {
            alive.push(format!("{outliving} processes that were not to start do not end"));
        }
        alive.extend(self.execs.numbers().iter().map(|exec| format!("exec {exec} does not end")));
        alive
    }

    /// Failures are not told yet: what survives is killed again, and named in the end.
    fn kill_everything(&mut self) {
        failpoint::pass(Point::ShimShutdownKill);
        self.jobs.kill_all();
        self.kill_launches();
        let mut in_sandboxes = Vec::new();
        let runtime = &self.parts.runtime;
        for container in self.containers.iter_mut().filter(|container| !container.has_ended()) {
            container.kill_requested(runtime);
            if let Some(external) = container.keeper.of_signals() {
                in_sandboxes.push(external.clone());
                continue;
            }
            if let Some(running) = container.running() {
                sys::pidfd::kill(running.pidfd.as_fd()).ok();
            }
            if !container.dies_with_its_first() {
                runtime.kill_cgroups(&container.cgroup).ok();
            }
            runtime.thaw(&container.cgroup).ok();
        }
        for external in in_sandboxes {
            self.signal_external(&external, SIGKILL, true).ok();
        }
        self.pod.kill_pause().ok();
    }

    /// Removes what outlives a process, the pod's after the last hook; says what could not be.
    fn release(&mut self, keeps_network: bool) -> Vec<String> {
        let mut failures = Vec::from_iter(reach(Point::ShimShutdownRelease).err());
        let ids: Vec<String> =
            self.containers.iter().map(|container| container.id.to_string()).collect();
        for id in ids {
            let Some(container) = self.containers.get(&id) else { continue };
            let cgroup = container.cgroup.clone();
            let deleted = match &container.keeper {
                Keeper::Shim => Ok(()),
                Keeper::Runtime(external) => {
                    let external = external.clone();
                    self.delete_external(&external)
                }
            };
            let removed = self.parts.runtime.remove_cgroups(&cgroup);
            if let Err(failure) = deleted.and(removed) {
                failures.push(failure);
            } else {
                self.part(&id, None);
            }
        }
        if !keeps_network && self.partings.next_deadline().is_none() {
            failures.extend(self.pod.release(&mut self.parts.runtime).err().into_iter().flatten());
        }
        failures.into_iter().map(|failure| failure.message).collect()
    }

    fn answer_waiters(&mut self, response: &Response) {
        let waiters = self.shutdown.take().map(|shutdown| shutdown.waiters).unwrap_or_default();
        for (peer, id) in waiters {
            self.peers.reply(peer, id, (response.clone(), None), &self.tools.poller);
        }
    }
}
