//! The event loop and what it owns.

use std::io;
use std::time::{Duration, Instant};

use rustix::fd::{AsFd, OwnedFd};

use crate::attach::Audience;
use crate::container::Containers;
use crate::exec::Execs;
use crate::exit::ExitRecords;
use crate::external::Jobs;
use crate::failure::chain;
use crate::launches::Launches;
use crate::partings::Partings;
use crate::peers::{PeerNumber, Peers};
use crate::pod::Pod;
use crate::poll::{Ready, Token};
use crate::requests::Answer;
use crate::runtime::Runtime;
use crate::shutdown::Shutdown;
use crate::tools::Tools;
use shim_protocol::{Asked, Request};
use sys::supervise::{ChildEvents, Terminations};

/// What start-up hands over.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) listener: OwnedFd,
    pub(crate) children: ChildEvents,
    pub(crate) terminations: Terminations,
    pub(crate) null: OwnedFd,
    pub(crate) exits: ExitRecords,
    pub(crate) runtime: Runtime,
    /// The build's version.
    pub(crate) build: &'static str,
}

/// The shim of one pod.
#[derive(Debug)]
pub(crate) struct Supervisor {
    pub(crate) parts: Parts,
    pub(crate) tools: Tools,
    pub(crate) peers: Peers,
    pub(crate) pod: Pod,
    pub(crate) containers: Containers,
    pub(crate) execs: Execs,
    /// Containers whose program does not run yet.
    pub(crate) launches: Launches,
    /// Hooks of containers that are gone.
    pub(crate) partings: Partings,
    /// Who asked what the shim holds while that was not known.
    pub(crate) state_waiters: Vec<(PeerNumber, u64)>,
    /// Commands of other runtimes under way.
    pub(crate) jobs: Jobs,
    /// Clients that have not taken all output of a container that has ended.
    pub(crate) leaving: Audience,
    pub(crate) shutdown: Option<Shutdown>,
    /// It has been asked to end by a signal: until when containers may take their time.
    pub(crate) leaves: Option<Instant>,
}

impl Supervisor {
    pub(crate) fn new(parts: Parts, tools: Tools) -> rustix::io::Result<Self> {
        tools.poller.add(&parts.listener, Token::Listener)?;
        tools.poller.add(&parts.children, Token::Children)?;
        tools.poller.add(&parts.terminations, Token::Terminations)?;
        Ok(Self {
            parts,
            peers: Peers::new(tools.journal.clone()),
            tools,
            pod: Pod::Bare,
            containers: Containers::default(),
            execs: Execs::default(),
            launches: Launches::default(),
            partings: Partings::default(),
            state_waiters: Vec::new(),
            jobs: Jobs::default(),
            leaving: Audience::default(),
            shutdown: None,
            leaves: None,
        })
    }

    /// Works until a `Shutdown` has been done, or the pod's end that SIGTERM asks for.
    ///
    /// # Errors
    /// Only when the kernel no longer lets it wait.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        loop {
            self.tools.poller.wait(self.next_deadline(), &mut ready)?;
            for event in &ready {
                self.handle(*event);
            }
            self.expire();
            self.see_off();
            self.continue_leaving();
            if self.continue_shutdown() {
                return Ok(());
            }
        }
    }

    fn handle(&mut self, event: Ready) {
        match event.token {
            Token::Listener => {
                self.peers.accept(self.parts.listener.as_fd(), &mut self.tools.poller);
            }
            Token::Children => self.reap(),
            Token::Terminations => self.asked_to_end(),
            Token::Output(number) => self.read_output(number),
            Token::Stdin(number) => self.flush_stdin(number),
            Token::Input(number) => self.carry_input(number),
            Token::Feed(number) => self.flush_feed(number),
            Token::Oom(number) => self.oom_killer_comes(number),
            Token::Entering(number) => self.advance_exec(number),
            Token::Launching(number) => self.advance_launch(number),
            Token::Parting(number) => self.advance_parting(number),
            Token::Connection(number) => {
                if event.writable {
                    self.peers.flush(number, &self.tools.poller);
                }
                if event.readable {
                    self.serve(number);
                }
            }
        }
    }

    /// Reads once from a connection and answers what has arrived whole.
    fn serve(&mut self, number: PeerNumber) {
        self.peers.receive(number, &mut self.tools.buffer[..], &self.tools.poller);
        while let Some((asked, files)) = self.peers.next_request(number, &self.tools.poller) {
            let (id, answer) = match asked {
                Asked::Known(Request { id, body }) => (id, self.answer(number, id, body, files)),
                Asked::Unknown { id } => (id, Answer::unknown()),
            };
            match answer {
                Answer::Now(response, file) => {
                    self.peers.reply(number, id, (response, file), &self.tools.poller);
                }
                Answer::Later => {}
            }
        }
    }

    fn read_output(&mut self, number: u64) {
        let Some(container) = self.containers.by_output(number) else { return };
        let id = container.id.clone();
        let mut complete = false;
        if let Some(sink) = container.sink() {
            sink.turn(number, &mut self.tools);
            complete = sink.is_complete();
        }
        if complete && container.running().is_none() {
            self.finish(&id);
        }
    }

    /// One word is enough until it has been looked at.
    fn oom_killer_comes(&mut self, number: u64) {
        let Some(container) = self.containers.by_oom_watch(number) else { return };
        let Some(running) = container.running_mut() else { return };
        if let Some(watch) = running.oom.watch() {
            self.tools.poller.remove(watch);
        }
        running.oom.visited();
    }

    /// Looks whom the OOM killer's visits were for, a moment after them.
    fn look_at_oom(&mut self, now: Instant) {
        for container in self.containers.iter_mut() {
            if container.looks_at().is_none_or(|at| at > now) {
                continue;
            }
            let kills = self.parts.runtime.oom_kills(container.oom_cgroup());
            let Some(running) = container.running_mut() else { continue };
            if running.oom.look(running.pid, kills) {
                running.oom.watch_again(&self.tools);
            }
        }
    }

    /// How long the loop may sleep.
    fn next_deadline(&self) -> Option<Duration> {
        let drains = self.containers.iter().filter_map(|container| container.drains_until());
        let shutdown = self.shutdown.iter().map(Shutdown::next_try);
        let looks = self.containers.iter().filter_map(|container| container.looks_at());
        let begun = self.jobs.next_deadline().into_iter().chain(self.launches.next_deadline());
        let begun = begun.chain(self.partings.next_deadline());
        let own = begun.chain(self.leaves).chain(self.peers.accepts_at());
        let next = drains.chain(shutdown).chain(looks).chain(own).min()?;
        Some(next.saturating_duration_since(Instant::now()))
    }

    /// Ends what has waited long enough.
    fn expire(&mut self) {
        let now = Instant::now();
        self.look_at_oom(now);
        self.jobs.expire(now);
        self.expire_launches(now);
        self.expire_partings(now);
        self.peers.accept_again(self.parts.listener.as_fd(), now, &self.tools.poller);
        let due = |until: Instant| until <= now;
        let late: Vec<_> = self
            .containers
            .iter()
            .filter(|container| container.drains_until().is_some_and(due))
            .map(|container| container.id.clone())
            .collect();
        for id in late {
            self.tools.journal.say(format_args!(
                "container {}: another process holds its output; its log ends here",
                id.short()
            ));
            self.finish(&id);
        }
    }

    /// Logs a failure that nobody asked to hear about.
    pub(crate) fn note(&self, what: std::fmt::Arguments<'_>, error: &dyn std::error::Error) {
        self.tools.journal.say(format_args!("{what}: {}", chain(error)));
    }
}
