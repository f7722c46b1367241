//! What the daemon asks on behalf of a client, and what the loop does for one.

use rustix::fd::OwnedFd;
use rustix::termios::Winsize;
use shim_protocol::{AttachEnd, Event, FailureKind, Response, StartAttach};

use super::client::{Client, Read};
use super::feed::Feed;
use super::{Audience, MAX_CLIENTS};
use crate::container::{Container, Running};
use crate::failure::{bad_request, io_failure, not_found, room, wrong_state};
use crate::log::Stream;
use crate::peers::PeerNumber;
use crate::poll::Poller;
use crate::requests::Done;
use crate::stdin::Taken;
use crate::stdio::{Sink, set_nonblocking};
use crate::supervisor::Supervisor;
use crate::tools::Tools;

/// The most input one read takes; what a container does not take of it is kept.
const INPUT: usize = 16 << 10;

impl Supervisor {
    pub(crate) fn attach(
        &mut self,
        peer: PeerNumber,
        request: &StartAttach,
        files: Vec<OwnedFd>,
    ) -> Done {
        room()?;
        let number = request.attach;
        let wanted = [request.stdin, request.stdout, request.stderr];
        let count = wanted.iter().filter(|wanted| **wanted).count();
        if count == 0 || files.len() != count {
            let came = files.len();
            return Err(bad_request(format!(
                "attach {number} came with {came} files, not {count}"
            )));
        }
        if self.audiences().any(|audience| audience.by_number(number).is_some()) {
            return Err(wrong_state(format!("attach {number} is there already")));
        }
        let container = self.containers.get_mut(&request.container).ok_or_else(|| {
            not_found(format!("container {} is unknown to this shim", request.container))
        })?;
        let short = container.id.short().to_owned();
        let Some(running) = container.running_mut() else {
            return Err(wrong_state(format!("container {short} is not running")));
        };
        if running.sink.audience.0.len() >= MAX_CLIENTS {
            return Err(wrong_state(format!(
                "container {short} has {MAX_CLIENTS} clients attached already"
            )));
        }
        let client = Client::new(number, peer);
        running.admit(client, wanted, files, &mut self.tools).map_err(|error| {
            let what = format!("cannot attach to container {short}");
            io_failure(FailureKind::Internal, what, &error)
        })?;
        Ok((Response::Done, None))
    }

    /// The client has left: what it had sent is delivered as far as it is taken at once.
    pub(crate) fn detach(&mut self, attach: u64) -> Response {
        for container in self.containers.iter_mut() {
            let Some(running) = container.running_mut() else { continue };
            let Some(client) = running.sink.audience.by_number(attach) else { continue };
            client.sent_all = true;
            running.carry_rest(attach, &mut self.tools);
        }
        for audience in self.audiences() {
            if let Some(client) = audience.by_number(attach) {
                client.end = Some(AttachEnd::Detached);
            }
        }
        Response::Done
    }

    /// Its input's end, when that is reached, is meant: the connection was not merely lost.
    pub(crate) fn close_stdin(&mut self, attach: u64) -> Response {
        for container in self.containers.iter_mut() {
            let Some(running) = container.running_mut() else { continue };
            let Some(client) = running.sink.audience.by_number(attach) else { continue };
            client.sent_all = true;
            if !client.input_is_open() {
                running.input_ended(attach, &self.tools.poller);
            }
        }
        Response::Done
    }

    pub(crate) fn resize(&mut self, container: &str, columns: u16, rows: u16) -> Done {
        let found = self.containers.get_mut(container);
        let found = found
            .ok_or_else(|| not_found(format!("container {container} is unknown to this shim")))?;
        let short = found.id.short().to_owned();
        let Some(running) = found.running_mut() else {
            return Err(wrong_state(format!("container {short} is not running")));
        };
        if !running.sink.is_terminal() {
            return Err(wrong_state(format!("container {short} has no terminal")));
        }
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        running.sink.resize(size).map_err(|error| {
            let what = format!("cannot set the size of the terminal of container {short}");
            io_failure(FailureKind::Internal, what, &error)
        })?;
        Ok((Response::Done, None))
    }

    /// A client has sent something, or nothing more.
    pub(crate) fn carry_input(&mut self, number: u64) {
        for container in self.containers.iter_mut() {
            let Some(running) = container.running_mut() else { continue };
            let Some(client) = running.sink.audience.by_input(number) else { continue };
            let attach = client.number;
            running.carry(attach, &mut self.tools);
            return;
        }
    }

    /// A container takes more input.
    pub(crate) fn flush_stdin(&mut self, number: u64) {
        for container in self.containers.iter_mut() {
            let Some(running) = container.running_mut() else { continue };
            if running.stdin.as_ref().is_some_and(|stdin| stdin.number() == number) {
                running.flush_stdin(&self.tools.poller);
                return;
            }
        }
    }

    /// A client takes more output.
    pub(crate) fn flush_feed(&mut self, number: u64) {
        let leaving = &mut self.leaving;
        for audience in audiences(self.containers.iter_mut(), leaving) {
            audience.flush(number, &self.tools.poller);
        }
    }

    /// Clients whose connection was lost go, and those that are done are told so.
    pub(crate) fn see_off(&mut self) {
        for peer in self.peers.take_lost() {
            for audience in self.audiences() {
                audience.forget_peer(peer);
            }
        }
        let mut ended = Vec::new();
        for audience in self.audiences() {
            ended.append(&mut audience.take_ended());
        }
        for (client, end) in ended {
            let (peer, attach) = (client.peer, client.number);
            client.close(&self.tools.poller);
            self.peers.tell(peer, Event::AttachEnded { attach, end }, &self.tools.poller);
        }
    }

    /// The shim ends: nobody can be waited for.
    pub(crate) fn give_up_clients(&mut self) {
        self.leaving.give_up();
        self.see_off();
    }

    fn audiences(&mut self) -> impl Iterator<Item = &mut Audience> {
        audiences(self.containers.iter_mut(), &mut self.leaving)
    }
}

/// Of all containers, and of those that are gone.
fn audiences<'a>(
    containers: impl Iterator<Item = &'a mut Container>,
    leaving: &'a mut Audience,
) -> impl Iterator<Item = &'a mut Audience> {
    let present = containers.filter_map(|container| Some(&mut container.sink()?.audience));
    present.chain(std::iter::once(leaving))
}

impl Running {
    /// Takes in a client with the files it has for the streams it wants.
    fn admit(
        &mut self,
        mut client: Client,
        wanted: [bool; 3],
        files: Vec<OwnedFd>,
        tools: &mut Tools,
    ) -> std::io::Result<()> {
        for file in &files {
            set_nonblocking(file)?;
        }
        let mut files = files.into_iter();
        let mut next = |wanted: bool| if wanted { files.next() } else { None };
        let [stdin, stdout, stderr] = wanted.map(&mut next);
        // Without a stdin its input is closed at once: writing to it fails.
        if let (Some(file), Some(stdin)) = (stdin, &self.stdin) {
            client.set_input(tools.poller.number(), file);
            client.watch(stdin.is_free(), &tools.poller)?;
        }
        for (stream, file) in [(Stream::Stdout, stdout), (Stream::Stderr, stderr)] {
            // An output that has ended is at its end for the client too.
            if let Some(file) = file.filter(|_| self.sink.has_stream(stream)) {
                client.feeds.push(Feed::new(stream, tools.poller.number(), file));
            }
        }
        self.sink.audience.0.push(client);
        Ok(())
    }

    /// Reads once from a client and hands on; whether reading on makes sense.
    fn carry(&mut self, attach: u64, tools: &mut Tools) -> bool {
        let Self { stdin: Some(stdin), sink: Sink { audience, .. }, .. } = self else {
            return false;
        };
        let Some(client) = audience.by_number(attach) else { return false };
        if !stdin.is_free() {
            return false;
        }
        let buffer = &mut tools.buffer[..INPUT];
        match client.read(buffer) {
            Read::Nothing => false,
            Read::Bytes(count) => {
                let taken = stdin.write(&buffer[..count], &tools.poller);
                self.after(taken, &tools.poller);
                taken == Taken::All
            }
            Read::End => {
                client.close_input(&tools.poller);
                self.input_ended(attach, &tools.poller);
                false
            }
        }
    }

    /// What a client left in its pipe when it went.
    fn carry_rest(&mut self, attach: u64, tools: &mut Tools) {
        while self.carry(attach, tools) {}
        if let Some(client) = self.sink.audience.by_number(attach) {
            client.close_input(&tools.poller);
        }
        self.input_ended(attach, &tools.poller);
    }

    /// CRI: the end of a client's input is the end of stdin if that was asked for (`stdin_once`) and
    /// it is no terminal; a terminal's client has left.
    fn input_ended(&mut self, attach: u64, poller: &Poller) {
        let is_terminal = self.sink.is_terminal();
        let Some(client) = self.sink.audience.by_number(attach) else { return };
        if !client.feeds_stdin {
            return;
        }
        if is_terminal {
            client.end = client.end.or(Some(AttachEnd::Detached));
        } else if client.sent_all
            && let Some(stdin) = self.stdin.as_mut().filter(|stdin| stdin.is_once())
        {
            let taken = stdin.end();
            self.sink.audience.close_inputs(poller);
            self.after(taken, poller);
        }
    }

    fn flush_stdin(&mut self, poller: &Poller) {
        let Some(stdin) = &mut self.stdin else { return };
        let taken = stdin.flush(poller);
        self.after(taken, poller);
    }

    /// Draws the conclusions for those who feed stdin.
    fn after(&mut self, taken: Taken, poller: &Poller) {
        match taken {
            Taken::All => self.sink.audience.resume(poller),
            Taken::Part => self.sink.audience.pause(poller),
            Taken::Closed => {
                self.sink.audience.close_inputs(poller);
                if let Some(stdin) = self.stdin.take() {
                    stdin.close(poller);
                }
            }
        }
    }
}
