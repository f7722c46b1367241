//! SIGTERM: whoever sends it wants the pod gone, as systemd does that stops its scope or the machine.
//! Containers are asked to end by their stop signals, and what is known of their ends is on disk
//! before the shim leaves. The pod's network namespace stays pinned: its network is taken away by
//! the daemon, which notices that the shim has left.

use std::time::{Duration, Instant};

use failpoint::Point;
use model::ContainerId;

use crate::container::Container;
use crate::failure::reach;
use crate::supervisor::Supervisor;

/// How long containers may take. systemd kills what is left in a pod's scope 10 s after its own SIGTERM,
/// and ends must be recorded by then.
const GRACE: Duration = Duration::from_secs(8);

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;
/// systemd.
const FIRST_PROCESS: u32 = 1;

impl Supervisor {
    pub(crate) fn asked_to_end(&mut self) {
        let sender = match self.parts.terminations.next() {
            Ok(Some(sender)) => sender,
            Ok(None) => return,
            Err(error) => return self.note(format_args!("cannot read SIGTERM"), &error),
        };
        if self.leaves.is_some() || self.shutdown.is_some() {
            return;
        }
        self.tools.journal.say(format_args!("SIGTERM from process {sender}: the pod is stopped"));
        self.leaves = Some(Instant::now() + GRACE);
        self.kill_launches();
        for (id, signal) in self.to_be_asked(sender == FIRST_PROCESS) {
            let asked = reach(Point::ShimLeaveSignal)
                .and_then(|()| self.kill(id.as_str(), signal, signal == SIGKILL));
            if let Err(failure) = asked {
                let what = failure.message;
                self.tools.journal.say(format_args!("container {}: {what}", id.short()));
            }
        }
    }

    /// Who gets which signal. systemd sends SIGTERM to every process of a scope itself, and there are
    /// programs that take a second one for impatience.
    fn to_be_asked(&self, all_got_sigterm: bool) -> Vec<(ContainerId, i32)> {
        let running = self.containers.iter().filter(|container| container.running().is_some());
        running
            .filter(|container| !container.is_sandbox())
            .map(|container| {
                let direct = container.keeper.of_signals().is_none();
                let heard = all_got_sigterm && direct;
                (container.id.clone(), container.stop_signal.unwrap_or(SIGTERM), heard)
            })
            .filter(|(_, signal, heard)| !(*heard && *signal == SIGTERM))
            .map(|(id, signal, _)| (id, signal))
            .collect()
    }

    /// Goes on to the shutdown when all have ended, or have had their time.
    pub(crate) fn continue_leaving(&mut self) {
        let Some(until) = self.leaves else { return };
        let ended = |container: &Container| container.is_sandbox() || container.has_ended();
        if self.containers.iter().all(ended) || Instant::now() >= until {
            failpoint::pass(Point::ShimLeaveRelease);
            self.leaves = None;
            self.begin_leaving();
        }
    }
}
