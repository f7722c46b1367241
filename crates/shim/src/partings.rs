//! Hooks of containers that are gone. They are run while the shim goes on; whoever has asked that a container be
//! forgotten is answered after them.

use std::time::Instant;

use launch::{Parted, Parting, Warning};
use model::ContainerId;
use rustix::process::Pid;
use shim_protocol::{Failure, FailureKind, Response};

use crate::failure::io_failure;
use crate::peers::PeerNumber;
use crate::poll::Token;
use crate::supervisor::Supervisor;

/// The hooks of one container.
#[derive(Debug)]
struct Leave {
    id: ContainerId,
    parting: Parting,
    /// What it is to the poller.
    token: u64,
    /// Who wants the container forgotten, and the ids of their requests.
    asked: Vec<(PeerNumber, u64)>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Partings(Vec<Leave>);

impl Partings {
    /// When the next hook has had its time; `None`: none runs.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.0.iter().filter_map(|leave| leave.parting.due()).min()
    }

    /// Has one more wait for the hooks of this container, if they run.
    pub(crate) fn join(&mut self, id: &str, asked: (PeerNumber, u64)) -> bool {
        let found = self.0.iter_mut().find(|leave| leave.id.as_str() == id);
        if let Some(leave) = found {
            leave.asked.push(asked);
            return true;
        }
        false
    }

    fn by_pid(&self, pid: Pid) -> Option<u64> {
        let is_it = |leave: &&Leave| leave.parting.pid() == Some(pid);
        self.0.iter().find(is_it).map(|leave| leave.token)
    }

    fn due(&self, now: Instant) -> Option<u64> {
        let due = |leave: &&Leave| leave.parting.due().is_some_and(|due| due <= now);
        self.0.iter().find(due).map(|leave| leave.token)
    }

    fn take(&mut self, token: u64) -> Option<Leave> {
        let index = self.0.iter().position(|leave| leave.token == token)?;
        Some(self.0.swap_remove(index))
    }
}

impl Supervisor {
    /// Begins what is to be run now that a container is gone, once; whoever asks is answered by
    /// [`Self::advance_parting`]. False: there is nothing to be waited for.
    pub(crate) fn part(&mut self, container: &str, asked: Option<(PeerNumber, u64)>) -> bool {
        let Some(found) = self.containers.get_mut(container) else { return false };
        let Some(hooks) = found.hooks.take() else { return false };
        let id = found.id.clone();
        let parting = self.parts.runtime.begin_poststop(&hooks);
        let token = self.tools.poller.number();
        let leave = Leave { id, parting, token, asked: asked.into_iter().collect() };
        self.step_out(leave).is_none()
    }

    /// Goes on with the hooks of a container; after the last one it is forgotten for those who have asked.
    pub(crate) fn advance_parting(&mut self, token: u64) {
        let Some(leave) = self.partings.take(token) else { return };
        if let Some(awaited) = leave.parting.awaited() {
            self.tools.poller.remove(awaited);
        }
        let Some((id, asked)) = self.step_out(leave) else { return };
        for (peer, request) in asked {
            let response = match self.forgotten(&id) {
                Ok(()) => Response::Done,
                Err(failure) => Response::Failed(failure),
            };
            self.peers.reply(peer, request, (response, None), &self.tools.poller);
        }
    }

    /// Before a child that has ended is reaped: if it is such a hook, it is reaped here.
    pub(crate) fn hear_last_words_of_parting(&mut self, pid: Pid) {
        if let Some(token) = self.partings.by_pid(pid) {
            self.advance_parting(token);
        }
    }

    /// Goes on with those whose hook has had its time.
    pub(crate) fn expire_partings(&mut self, now: Instant) {
        while let Some(token) = self.partings.due(now) {
            self.advance_parting(token);
        }
    }

    /// Returns whose it was and who has asked, once all have been run.
    fn step_out(&mut self, leave: Leave) -> Option<(ContainerId, Vec<(PeerNumber, u64)>)> {
        let Leave { id, parting, token, asked } = leave;
        let failed = match self.parts.runtime.advance_poststop(parting) {
            Parted::Done(failed) => failed,
            Parted::OnItsWay(parting) => match self.watch_parting(&parting, token) {
                Ok(()) => {
                    self.partings.0.push(Leave { id, parting, token, asked });
                    return None;
                }
                // It is killed.
                Err(failure) => vec![Warning { what: String::new(), why: failure.message }],
            },
        };
        // OCI: what fails is told, and nothing else comes of it.
        for warning in failed {
            self.tools.journal.say(format_args!("container {}: {}", id.short(), warning.why));
        }
        Some((id, asked))
    }

    fn watch_parting(&self, parting: &Parting, token: u64) -> Result<(), Failure> {
        let Some(awaited) = parting.awaited() else { return Ok(()) };
        self.tools.poller.add(awaited, Token::Parting(token)).map_err(|error| {
            io_failure(FailureKind::Internal, "cannot watch a poststop hook", &error.into())
        })
    }
}
