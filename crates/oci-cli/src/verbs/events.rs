//! `events`: statistics, and the OOM killer's visits.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use launch::Options;
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::Serialize;
use serde_json::Value;

use super::state::to_line;
use super::{Context, answer};
use crate::args::EventsArgs;
use crate::error::{At as _, OciError};
use crate::launching::{self, Host};
use crate::stats;

pub(crate) fn run(cx: &Context<'_>, args: &EventsArgs) -> Result<(), OciError> {
    let interval = interval(&args.interval)?;
    let container = cx.store.open(&args.id)?;
    let record = container.record()?;
    let init = record.init.and_then(|init| init.open());
    let init = init.ok_or_else(|| OciError::NotRunning { id: args.id.clone() })?;
    let cgroup = Host::look()?.cgroup(&container.spec()?, &record)?;
    let line = |kind: &str, data: Option<Value>| {
        answer(&format!("{}\n", to_line(&Event { kind, id: &args.id, data })))
    };
    if args.stats {
        return line("stats", Some(stats::read(&cgroup)));
    }
    let launcher = launching::launcher(&container, Options::default())?;
    // Without a memory controller it never comes.
    let watch = launcher.watch_oom(&cgroup).ok();
    let mut next = Instant::now() + interval;
    loop {
        let left = Timespec::try_from(next.saturating_duration_since(Instant::now()));
        let mut files = vec![PollFd::from_borrowed_fd(init.as_fd(), PollFlags::IN)];
        if let Some(watch) = &watch {
            let flag = if watch.is_priority() { PollFlags::PRI } else { PollFlags::IN };
            files.push(PollFd::from_borrowed_fd(watch.as_fd(), flag));
        }
        match rustix::event::poll(&mut files, left.ok().as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).step("wait for events"),
        }
        let ready = |at: usize| files.get(at).is_some_and(|file| !file.revents().is_empty());
        let (ended, told) = (ready(0), ready(1));
        if let Some(watch) = watch.as_ref().filter(|_| told) {
            watch.acknowledge();
            line("oom", None)?;
        }
        if ended {
            return Ok(());
        }
        if Instant::now() >= next {
            line("stats", Some(stats::read(&cgroup)))?;
            next = Instant::now() + interval;
        }
    }
}

/// In the order in which runc writes it, and simple readers look for it.
#[derive(Debug, Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
}

fn interval(text: &str) -> Result<Duration, OciError> {
    let refuse = || OciError::BadOption {
        option: "--interval",
        value: text.to_owned(),
        want: "more than 0 seconds, e.g. 5s or 500ms",
    };
    let (number, milliseconds) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 1),
        (None, Some(number)) => (number, 1000),
        (None, None) => (text, 1000),
    };
    let number: u64 = number.parse().map_err(|_| refuse())?;
    let wait = number.checked_mul(milliseconds).filter(|wait| *wait > 0).ok_or_else(refuse)?;
    Ok(Duration::from_millis(wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units() {
        for (text, want) in [("5s", 5000), ("2", 2000), ("500ms", 500)] {
            assert_eq!(interval(text).unwrap(), Duration::from_millis(want), "{text}");
        }
        for text in ["", "0", "0s", "-1", "x", "5m"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }
}
