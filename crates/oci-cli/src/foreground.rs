//! Staying with a process to its end: signals go to it, its terminal is relayed.

use std::os::fd::AsFd;

use launch::Running;
use rustix::event::{PollFd, PollFlags};
use sys::supervise::Signals;

use crate::console::Relay;
use crate::error::{At as _, OciError};

/// Signals we get before there is a process to pass them on to wait in here.
#[derive(Debug)]
pub(crate) struct Foreground(Signals);

impl Foreground {
    /// Call it before the process is made: no signal is lost then.
    pub(crate) fn begin() -> Result<Self, OciError> {
        Signals::watch_all().step("watch for signals").map(Self)
    }

    /// Waits for the end of a process of ours; its exit code, as a shell has it.
    pub(crate) fn wait(self, process: Running) -> Result<u8, OciError> {
        let Running { pid: _, pidfd, console, warnings: _ } = process;
        let mut relay = console.map(Relay::new).transpose()?;
        loop {
            let (input, terminal) = {
                let mut files =
                    vec![PollFd::new(&pidfd, PollFlags::IN), PollFd::new(&self.0, PollFlags::IN)];
                let [stdin, master] = relay.as_ref().map_or([None, None], Relay::interests);
                let stdin = stdin.map(|file| {
                    files.push(file);
                    files.len() - 1
                });
                let master = master.map(|file| {
                    files.push(file);
                    files.len() - 1
                });
                match rustix::event::poll(&mut files, None) {
                    Ok(_) | Err(rustix::io::Errno::INTR) => {}
                    Err(errno) => return Err(errno).step("wait"),
                }
                let ready = |at: Option<usize>| {
                    at.and_then(|at| files.get(at)).is_some_and(|file| !file.revents().is_empty())
                };
                if ready(Some(0)) {
                    break;
                }
                (ready(stdin), ready(master))
            };
            self.pass_on(pidfd.as_fd(), relay.as_ref())?;
            if let Some(relay) = relay.as_mut().filter(|_| input || terminal) {
                relay.pump(input)?;
            }
        }
        if let Some(relay) = relay {
            relay.finish()?;
        }
        let ended = sys::pidfd::wait(pidfd.as_fd()).step("reap the process")?;
        Ok(u8::try_from(ended.code()).unwrap_or(u8::MAX))
    }

    fn pass_on(
        &self,
        process: std::os::fd::BorrowedFd<'_>,
        relay: Option<&Relay>,
    ) -> Result<(), OciError> {
        use rustix::process::Signal;
        let is = |signal: Signal, number: i32| signal.as_raw() == number;
        while let Some(number) = self.0.next().step("read signals")? {
            if is(Signal::CHILD, number) {
                continue;
            }
            match relay.filter(|_| is(Signal::WINCH, number)) {
                Some(relay) => relay.resize(),
                None => sys::pidfd::signal(process, number).step("pass a signal on")?,
            }
        }
        Ok(())
    }
}
