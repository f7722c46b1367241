//! Children that ended: containers' first processes, exec'd ones, pause, and orphans that came
//! to the shim because it is their subreaper.

use std::time::{Duration, Instant};

use failpoint::Point;
use model::ContainerId;
use rustix::io::Errno;
use rustix::process::{Pid, WaitOptions, WaitStatus};
use shim_protocol::{Event, Exit};

use crate::clock;
use crate::container::{Draining, Lifecycle, Running};
use crate::exit::exit_of;
use crate::supervisor::Supervisor;

/// How long an ended container's output is waited for when another process still holds it.
const DRAIN_LIMIT: Duration = Duration::from_secs(3);

impl Supervisor {
    /// Reaps everything that has ended.
    pub(crate) fn reap(&mut self) {
        self.reap_all();
        self.parts.runtime.see_off();
    }

    fn reap_all(&mut self) {
        if let Err(error) = self.parts.children.clear() {
            self.note(format_args!("cannot read child events"), &error);
        }
        // An error is ECHILD: no children at all.
        while let Ok(Some(pid)) = sys::supervise::next_ended() {
            self.hear_last_words(pid);
            self.hear_last_words_of_launch(pid);
            self.hear_last_words_of_parting(pid);
            self.end_family_of_hung_up(pid);
            match rustix::process::waitpid(Some(pid), WaitOptions::NOHANG) {
                Ok(Some((_, status))) => self.ended(pid, status),
                // It was reaped with its last words.
                Err(Errno::CHILD) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    fn ended(&mut self, pid: Pid, status: WaitStatus) {
        if self.job_ended(pid, status) {
            return;
        }
        let exit = exit_of(status, clock::now());
        if self.launches.keep_end(pid, &exit) {
            // It is taken on first.
        } else if let Some(container) = self.containers.by_pid(pid) {
            let id = container.id.clone();
            self.container_ended(&id, exit);
        } else if let Some(exec) = self.execs.take_by_pid(pid) {
            let event = Event::ExecExited { exec: exec.number, exit };
            self.peers.broadcast(&event, &self.tools.poller);
        } else if self.pod.pause_ended(pid) {
            self.peers.broadcast(&Event::PauseExited(exit), &self.tools.poller);
        } else {
            self.jobs.keep_stranger(pid, status);
        }
    }

    /// The first process is reaped: end the rest if it must not outlive it, then empty the pipes.
    pub(crate) fn container_ended(&mut self, id: &ContainerId, mut exit: Exit) {
        let Some(container) = self.containers.get_mut(id.as_str()) else { return };
        failpoint::pass(Point::ShimReaped);
        let placeholder = Lifecycle::Ended(Exit::default());
        let Running { pid, mut sink, mut oom, stdin, wait, .. } =
            match std::mem::replace(&mut container.lifecycle, placeholder) {
                Lifecycle::Running(running) => running,
                other @ (Lifecycle::Draining(_) | Lifecycle::Ended(_)) => {
                    container.lifecycle = other;
                    return;
                }
            };
        if let Some(mut outputs) = wait {
            exit = outputs.told_exit(&exit);
            outputs.discard(&self.parts.runtime);
        }
        sink.audience.close_inputs(&self.tools.poller);
        if let Some(stdin) = stdin {
            stdin.close(&self.tools.poller);
        }
        if container.kill_rest
            && let Err(failure) = self.parts.runtime.kill_cgroups(&container.cgroup)
        {
            self.tools.journal.say(format_args!("container {}: {}", id.short(), failure.message));
        }
        // The clock may have been set back meanwhile.
        exit.finished_at = exit.finished_at.max(container.started_at);
        exit.oom_killed = oom.ended(&exit, self.parts.runtime.oom_kills(container.oom_cgroup()));
        if let Some(watch) = oom.take_watch() {
            self.tools.poller.remove(&watch);
        }
        sink.drain(&mut self.tools);
        let complete = sink.is_complete();
        let until = Instant::now() + DRAIN_LIMIT;
        container.lifecycle = Lifecycle::Draining(Draining { pid, exit, sink, until });
        if complete {
            self.finish(id);
        }
    }

    /// The log is as complete as it will be: record the exit, then tell.
    pub(crate) fn finish(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id.as_str()) else { return };
        let placeholder = Lifecycle::Ended(Exit::default());
        let draining = match std::mem::replace(&mut container.lifecycle, placeholder) {
            Lifecycle::Draining(draining) => draining,
            other @ (Lifecycle::Running(_) | Lifecycle::Ended(_)) => {
                container.lifecycle = other;
                return;
            }
        };
        let mut audience = draining.sink.close(&mut self.tools);
        self.leaving.append(&mut audience);
        let exit = draining.exit;
        container.lifecycle = Lifecycle::Ended(exit.clone());
        let recorded = failpoint::reach(Point::ShimExitRecord)
            .and_then(|()| self.parts.exits.write(id, &exit));
        if let Err(error) = recorded {
            self.note(format_args!("cannot record the exit of container {}", id.short()), &error);
        }
        failpoint::pass(Point::ShimExitTell);
        let event = Event::Exited { container: id.as_str().to_owned(), exit };
        self.peers.broadcast(&event, &self.tools.poller);
    }
}
