//! `exec`

use std::collections::HashSet;
use std::os::fd::AsFd;

use launch::Options;
use launch::plan::{ExecPlan, NumberRange};
use oci_runtime::ExecRequest;
use oci_spec::runtime::{Capability, LinuxCapabilities, Process, Spec};

use super::Context;
use crate::args::ExecArgs;
use crate::console;
use crate::container::Status;
use crate::error::{At as _, OciError};
use crate::foreground::Foreground;
use crate::launching::{self, Host};
use crate::{rootless, sub_cgroup, tolerant};

pub(crate) fn run(cx: &Context<'_>, args: &ExecArgs) -> Result<u8, OciError> {
    let keep_files = launching::check_files(args.io.preserve_fds)?;
    let container = cx.store.open(&args.id)?;
    let record = container.record()?;
    let host = Host::look()?;
    match host.status(&container, &record)? {
        Status::Created | Status::Running => {}
        Status::Paused if args.ignore_paused => {}
        Status::Paused => return Err(OciError::Paused { id: args.id.clone() }),
        status @ (Status::Creating | Status::Stopped) => {
            return Err(OciError::WrongStatus { verb: "exec in", id: args.id.clone(), status });
        }
    }
    let init = record.init.and_then(|init| init.open());
    let init = init.ok_or_else(|| OciError::NotRunning { id: args.id.clone() })?;
    let mut spec = container.spec()?;
    let process = process(&spec, args)?;
    let request = ExecRequest {
        args: process.args().clone().unwrap_or_default(),
        terminal: process.terminal().unwrap_or_default(),
        ..ExecRequest::default()
    };
    spec.set_process(Some(process));
    if cx.in_user_namespace {
        spec = rootless::inside(spec);
    }
    launching::check_console(&args.io, request.terminal, !args.detach)?;
    let mut plan =
        host.with_context(&record, |context| oci_runtime::exec_plan(&spec, &request, context))?;
    tell_affinity(cx, &plan);
    if !args.detach {
        console::give_own_size(&mut plan.process);
    }
    plan.cgroup = sub_cgroup::below(plan.cgroup, &args.cgroup)?;
    let own_line_ends = !args.detach && args.io.console_socket.is_none();
    let users_own = rootless::groups(cx.in_user_namespace);
    let options = Options { keep_files, own_line_ends, users_own, ..Options::default() };
    let launcher = launching::launcher(&container, options)?;
    let foreground = if args.detach { None } else { Some(Foreground::begin()?) };
    let io = console::io_of(request.terminal);
    let mut running = launcher.exec(&plan, init.as_fd(), io)?;
    launching::log_warnings(&running.warnings, cx.log);
    let settled = launching::settle_console(&args.io, running.console.take())
        .and_then(|console| launching::write_pid_file(&args.io, running.pid).map(|()| console))
        .and_then(|console| {
            launching::hand_over_process(&args.io, Some(running.pidfd.as_fd())).map(|()| console)
        });
    match settled {
        Ok(console) => running.console = console,
        Err(error) => {
            // Nobody would know of it.
            sys::pidfd::kill(running.pidfd.as_fd()).step("kill the process")?;
            sys::pidfd::wait(running.pidfd.as_fd()).step("wait for the process")?;
            return Err(error);
        }
    }
    foreground.map_or(Ok(0), |foreground| foreground.wait(running))
}

/// On which processors the process begins, which its own view of itself does not show any more.
fn tell_affinity(cx: &Context<'_>, plan: &ExecPlan) {
    if let Some(affinity) = plan.process.affinity.as_ref().filter(|a| !a.initial.is_empty()) {
        cx.log.debug(&format!("initial CPU affinity: {}", mask(&affinity.initial)));
    }
}

/// A bit for each number, in hexadecimal.
fn mask(ranges: &[NumberRange]) -> String {
    let within = |number| ranges.iter().any(|range| (range.first..=range.last).contains(&number));
    let digit = |place: u32| {
        (0..4).filter(|bit| within(place * 4 + bit)).fold(0, |sum, bit| sum | 1 << bit)
    };
    let highest = ranges.iter().map(|range| range.last / 4).max().unwrap_or_default();
    let digits: String = (0..=highest).rev().map(|place| format!("{:x}", digit(place))).collect();
    format!("0x{digits}")
}

/// What is to be run: as a file describes it, or the container's own process with changes.
fn process(spec: &Spec, args: &ExecArgs) -> Result<Process, OciError> {
    if let Some(path) = &args.process {
        let text = std::fs::read(path).at("read", path)?;
        return tolerant::process(&text).map_err(|source| OciError::NotJson {
            path: path.clone(),
            what: "a process of an OCI spec",
            source,
        });
    }
    let own = spec.process().as_ref();
    let mut process = own.ok_or(oci_runtime::PlanError::Missing { field: "process" })?.clone();
    if args.command.is_empty() {
        return Err(OciError::BadOption {
            option: "command",
            value: String::new(),
            want: "a program to run in the container",
        });
    }
    process.set_args(Some(args.command.clone()));
    process.set_terminal(Some(args.tty));
    process.set_console_size(None);
    if let Some(cwd) = &args.cwd {
        process.set_cwd(cwd.into());
    }
    process.env_mut().get_or_insert_default().extend(args.env.iter().cloned());
    if let Some(user) = &args.user {
        let (uid, gid) = user_of(user)?;
        process.user_mut().set_uid(uid);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid);
        }
    }
    let groups = process.user_mut().additional_gids_mut();
    if !args.additional_gids.is_empty() {
        groups.get_or_insert_default().extend(&args.additional_gids);
    }
    if args.process_label.is_some() {
        process.set_selinux_label(args.process_label.clone());
    }
    if args.apparmor.is_some() {
        process.set_apparmor_profile(args.apparmor.clone());
    }
    if args.no_new_privs {
        process.set_no_new_privileges(Some(true));
    }
    let more = args.cap.iter().map(|name| capability(name)).collect::<Result<Vec<_>, _>>()?;
    if !more.is_empty() {
        let sets = process.capabilities().clone();
        process.set_capabilities(Some(with_capabilities(sets, &more)));
    }
    Ok(process)
}

fn user_of(text: &str) -> Result<(u32, Option<u32>), OciError> {
    let refuse = || OciError::BadOption {
        option: "--user",
        value: text.to_owned(),
        want: "UID or UID:GID, in numbers",
    };
    let number = |part: &str| part.parse::<u32>().map_err(|_| refuse());
    match text.split_once(':') {
        None => Ok((number(text)?, None)),
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
    }
}

fn capability(name: &str) -> Result<Capability, OciError> {
    let quoted = serde_json::Value::String(name.to_owned());
    serde_json::from_value(quoted).map_err(|_| OciError::BadOption {
        option: "--cap",
        value: name.to_owned(),
        want: "the name of a capability, e.g. CAP_NET_ADMIN",
    })
}

/// In force at once, as whoever asks for one expects.
fn with_capabilities(sets: Option<LinuxCapabilities>, more: &[Capability]) -> LinuxCapabilities {
    let mut sets = sets.unwrap_or_else(|| {
        let mut none = LinuxCapabilities::default();
        none.set_bounding(None).set_effective(None).set_inheritable(None);
        none.set_permitted(None).set_ambient(None);
        none
    });
    let add = |set: &Option<HashSet<Capability>>| {
        Some(set.iter().flatten().chain(more).copied().collect::<HashSet<_>>())
    };
    let (bounding, effective, permitted) =
        (add(sets.bounding()), add(sets.effective()), add(sets.permitted()));
    // What programs inherit they have without being asked to: as runc has it.
    let inherited = sets.inheritable().clone().unwrap_or_default();
    let ambient = sets.ambient().iter().flatten().chain(more);
    let ambient = ambient.filter(|one| inherited.contains(one)).copied().collect::<HashSet<_>>();
    sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    sets.set_ambient(Some(ambient));
    sets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Arguments, Verb};
    use clap::Parser as _;

    fn args(line: &str) -> ExecArgs {
        let words = format!("r exec {line}");
        let parsed = Arguments::try_parse_from(words.split(' ')).unwrap();
        let Verb::Exec(args) = parsed.verb else { panic!("not exec") };
        *args
    }

    #[test]
    fn a_mask_has_a_bit_for_each_processor() {
        let range = |first, last| NumberRange { first, last };
        for (ranges, wanted) in [
            (vec![range(1, 1)], "0x2"),
            (vec![range(0, 3), range(8, 9)], "0x30f"),
            (vec![range(127, 127)], "0x80000000000000000000000000000000"),
        ] {
            assert_eq!(mask(&ranges), wanted);
        }
    }

    #[test]
    fn options_change_the_containers_own_process() {
        let spec = Spec::default();
        let line =
            "-t --cwd /w -e A=1 -e B=2 -u 7:8 -g 9 --cap CAP_SYS_TIME --no-new-privs c id -u";
        let process = process(&spec, &args(line)).unwrap();
        assert_eq!(process.args().as_deref().unwrap(), ["id", "-u"]);
        assert_eq!((process.terminal(), process.cwd().to_str()), (Some(true), Some("/w")));
        assert!(process.env().as_deref().unwrap().ends_with(&["A=1".into(), "B=2".into()]));
        let user = process.user();
        assert_eq!(
            (user.uid(), user.gid(), user.additional_gids().as_deref()),
            (7, 8, Some(&[9][..]))
        );
        let sets = process.capabilities().as_ref().unwrap();
        assert!(sets.effective().as_ref().unwrap().contains(&Capability::SysTime));
        assert!(sets.effective().as_ref().unwrap().contains(&Capability::Kill));
        assert!(!sets.ambient().as_ref().unwrap().contains(&Capability::SysTime));
        assert_eq!(process.no_new_privileges(), Some(true));
    }

    #[test]
    fn options_that_mean_nothing_are_named() {
        let spec = Spec::default();
        for (line, word) in
            [("-u root c id", "--user"), ("--cap X c id", "--cap"), ("c", "command")]
        {
            let error = process(&spec, &args(line)).unwrap_err().to_string();
            assert!(error.contains(word), "{line}: {error}");
        }
    }
}
