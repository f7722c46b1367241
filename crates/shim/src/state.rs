//! What the shim holds, told to whoever asks.

use shim_protocol::{Response, StateReport};

use crate::container::Container;
use crate::peers::PeerNumber;
use crate::supervisor::Supervisor;

impl Supervisor {
    /// Whether the state has to wait, because what becomes of a container on its way is not known; then it is told
    /// by [`Self::answer_state_waiters`].
    pub(crate) fn put_off_state(&mut self, peer: PeerNumber, id: u64) -> bool {
        let wait = self.has_container_on_its_way();
        if wait {
            self.state_waiters.push((peer, id));
        }
        wait
    }

    /// What was asked meanwhile is told once the last container has come or failed.
    pub(crate) fn answer_state_waiters(&mut self) {
        if self.has_container_on_its_way() {
            return;
        }
        for (peer, id) in std::mem::take(&mut self.state_waiters) {
            let state = Response::State(self.state());
            self.peers.reply(peer, id, (state, None), &self.tools.poller);
        }
    }

    fn has_container_on_its_way(&self) -> bool {
        !self.launches.is_empty() || self.jobs.has_births()
    }

    pub(crate) fn state(&self) -> StateReport {
        StateReport {
            ready: self.pod.is_ready(),
            pause_pid: self.pod.pause_pid().map(|pid| pid.as_raw_nonzero().get()),
            containers: self.containers.iter().map(Container::snapshot).collect(),
            execs: Some(self.execs.numbers().into_iter().chain(self.jobs.entries()).collect()),
        }
    }
}
