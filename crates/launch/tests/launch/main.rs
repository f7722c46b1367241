//! Real launches, as root, in a process with one thread: each case runs in a child of its own.
#![allow(clippy::print_stdout, reason = "this binary prints what libtest would")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "all of this is tests")]

mod cgroups;
mod exec;
mod files;
mod hooks;
mod identity;
mod mounts;
mod namespaces;
mod process;
mod users;
mod world;

use std::os::fd::AsFd;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec};
use sys::pidfd::Ended;
use world::{BaseRoot, World};

/// One case: its name and what it does.
type Case = (&'static str, fn(&mut World));

/// A case that takes longer than this hangs.
const PATIENCE: Timespec = Timespec { tv_sec: 120, tv_nsec: 0 };

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if !rustix::process::geteuid().is_root() {
        println!("skipped: launching needs root");
        println!("test result: ok. 0 passed; 0 failed; 0 ignored");
        return ExitCode::SUCCESS;
    }
    let Some(base) = BaseRoot::build() else {
        println!("skipped: /bin/busybox (Debian's busybox-static) is not installed");
        println!("test result: ok. 0 passed; 0 failed; 0 ignored");
        return ExitCode::SUCCESS;
    };
    // Older kernels, and file systems that cannot be mapped.
    let users = match launch::probe_user_namespaces(&base.path().with_extension("probe")) {
        Ok(()) => users::CASES,
        Err(error) => {
            println!("skipped: user namespaces: {}", error.sentence());
            &[]
        }
    };
    let lists = [
        process::CASES,
        identity::CASES,
        mounts::CASES,
        files::CASES,
        hooks::CASES,
        namespaces::CASES,
        cgroups::CASES,
        exec::CASES,
        users,
    ];
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()));
    let cases: Vec<&Case> =
        lists.iter().flat_map(|list| list.iter()).filter(|(name, _)| wanted(name)).collect();
    println!("\nrunning {} tests", cases.len());
    let failed = cases.iter().filter(|case| !passes(&base, case)).count();
    let (word, passed) = (if failed == 0 { "ok" } else { "FAILED" }, cases.len() - failed);
    println!("\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn passes(base: &BaseRoot, (name, case): &Case) -> bool {
    let body = || {
        let run = AssertUnwindSafe(|| case(&mut World::new(base)));
        i32::from(std::panic::catch_unwind(run).is_err())
    };
    // SAFETY: this process never makes a second thread.
    let child =
        unsafe { sys::process::clone_child(sys::process::NewNamespaces::default(), None, body) };
    let child = child.unwrap();
    let mut done = [PollFd::new(&child.pidfd, PollFlags::IN)];
    if rustix::event::poll(&mut done, Some(&PATIENCE)).unwrap() == 0 {
        sys::pidfd::kill(child.pidfd.as_fd()).unwrap();
    }
    let ended = sys::pidfd::wait(child.pidfd.as_fd()).unwrap();
    let passed = ended == Ended::Exited(0);
    if !passed {
        println!("the child of {name} ended as {ended:?}");
    }
    println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
    passed
}
