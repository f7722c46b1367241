//! `process`: identity, environment, limits, capabilities, seccomp.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use launch::plan::{CapabilitySets, EnvEntry, ProcessPlan, Rlimit, SeccompPlan, TerminalSize};
use model::IdMaps;
use oci_spec::runtime::{Linux, PosixRlimitType, Process};

use crate::{
    ExecRequest, PlanError, capability, namespaces, placement, scheduling,
    seccomp::{self, Architecture, SeccompError},
    users,
};

/// The container's first process.
pub(crate) fn process(
    process: &Process,
    linux: &Linux,
    ids: Option<IdMaps>,
) -> Result<ProcessPlan, PlanError> {
    let args = process.args().clone().unwrap_or_default();
    build(process, linux, ids, args, &each_once(process.env().iter().flatten()))
}

/// A further process with the identity of the first.
pub(crate) fn exec_process(
    process: &Process,
    linux: &Linux,
    ids: Option<IdMaps>,
    request: &ExecRequest,
) -> Result<ProcessPlan, PlanError> {
    let mut env = each_once(process.env().iter().flatten().chain(&request.env));
    if request.terminal && !env.iter().any(|entry| key(entry) == "TERM") {
        env.push("TERM=xterm".into());
    }
    let mut plan = build(process, linux, ids, request.args.clone(), &env)?;
    plan.affinity = placement::affinity(process)?;
    plan.terminal = request.terminal;
    if let Some(cwd) = &request.cwd {
        plan.cwd = checked_cwd(cwd)?;
    }
    Ok(plan)
}

/// Of entries with the same name the last holds, in the place of the first.
fn each_once<'a>(entries: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut env: Vec<String> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    for entry in entries {
        match known.entry(key(entry)) {
            Entry::Occupied(place) => {
                if let Some(earlier) = env.get_mut(*place.get()) {
                    earlier.clone_from(entry);
                }
            }
            Entry::Vacant(place) => {
                place.insert(env.len());
                env.push(entry.clone());
            }
        }
    }
    env
}

fn key(entry: &str) -> &str {
    entry.split('=').next().unwrap_or(entry)
}

fn build(
    process: &Process,
    linux: &Linux,
    ids: Option<IdMaps>,
    args: Vec<String>,
    env: &[String],
) -> Result<ProcessPlan, PlanError> {
    if args.first().is_none_or(String::is_empty) {
        return Err(PlanError::Missing { field: "process.args" });
    }
    no_nul("process.args", &args)?;
    no_nul("process.env", env)?;
    let cwd = process.cwd().to_string_lossy();
    let user = process.user();
    users::check_user(user, ids.as_ref())?;
    Ok(ProcessPlan {
        args,
        env: env.iter().map(|entry| EnvEntry(entry.clone().into_bytes())).collect(),
        cwd: checked_cwd(&cwd)?,
        uid: user.uid(),
        gid: user.gid(),
        groups: user.additional_gids().clone().unwrap_or_default(),
        umask: user.umask(),
        capabilities: capabilities(process),
        rlimits: rlimits(process)?,
        no_new_privs: process.no_new_privileges().unwrap_or(false),
        oom_score_adj: oom_score_adj(process)?,
        terminal: process.terminal().unwrap_or(false),
        seccomp: filter(linux)?,
        apparmor_profile: process.apparmor_profile().clone().filter(|name| !name.is_empty()),
        selinux_label: process.selinux_label().clone().filter(|label| !label.is_empty()),
        user_ids: ids,
        terminal_size: terminal_size(process)?,
        own_time: namespaces::has_own_time(linux)?,
        personality: scheduling::personality(linux)?,
        scheduling: scheduling::scheduling(process, linux)?,
        io_priority: scheduling::io_priority(process)?,
        memory_policy: placement::memory_policy(linux)?,
        affinity: None,
        find_home: false,
    })
}

/// OCI: ignored where there is no terminal.
fn terminal_size(process: &Process) -> Result<Option<TerminalSize>, PlanError> {
    let Some(size) = process.console_size() else { return Ok(None) };
    let number = |value: u64| {
        let refuse = |_| PlanError::invalid("process.consoleSize", value, "at most 65535");
        u16::try_from(value).map_err(refuse)
    };
    let (rows, columns) = (number(size.height())?, number(size.width())?);
    Ok((rows != 0 || columns != 0).then_some(TerminalSize { rows, columns }))
}

fn checked_cwd(cwd: &str) -> Result<String, PlanError> {
    if cwd.starts_with('/') && !cwd.contains('\0') {
        Ok(cwd.to_owned())
    } else {
        Err(PlanError::invalid("process.cwd", cwd, "an absolute path"))
    }
}

fn no_nul(field: &str, texts: &[String]) -> Result<(), PlanError> {
    match texts.iter().find(|text| text.contains('\0')) {
        Some(text) => Err(PlanError::invalid(field, text.escape_debug(), "text without NUL")),
        None => Ok(()),
    }
}

fn capabilities(process: &Process) -> CapabilitySets {
    let Some(sets) = process.capabilities() else { return CapabilitySets::default() };
    CapabilitySets {
        bounding: capability::mask(sets.bounding()),
        effective: capability::mask(sets.effective()),
        permitted: capability::mask(sets.permitted()),
        inheritable: capability::mask(sets.inheritable()),
        ambient: capability::mask(sets.ambient()),
    }
}

fn oom_score_adj(process: &Process) -> Result<Option<i32>, PlanError> {
    match process.oom_score_adj() {
        Some(value) if !(-1000..=1000).contains(&value) => {
            Err(PlanError::invalid("process.oomScoreAdj", value, "-1000 to 1000"))
        }
        value => Ok(value),
    }
}

fn rlimits(process: &Process) -> Result<Vec<Rlimit>, PlanError> {
    let mut limits: Vec<Rlimit> = Vec::new();
    for limit in process.rlimits().iter().flatten() {
        let resource = resource(limit.typ());
        if limits.iter().any(|known| known.resource == resource) {
            return Err(PlanError::invalid("process.rlimits", limit.typ(), "each limit once"));
        }
        if limit.soft() > limit.hard() {
            return Err(PlanError::invalid(
                format!("process.rlimits[{}].soft", limit.typ()),
                limit.soft(),
                "at most the hard limit",
            ));
        }
        limits.push(Rlimit { resource, soft: limit.soft(), hard: limit.hard() });
    }
    Ok(limits)
}

/// `RLIMIT_*` of the generic ABI.
fn resource(kind: PosixRlimitType) -> u32 {
    match kind {
        PosixRlimitType::RlimitCpu => 0,
        PosixRlimitType::RlimitFsize => 1,
        PosixRlimitType::RlimitData => 2,
        PosixRlimitType::RlimitStack => 3,
        PosixRlimitType::RlimitCore => 4,
        PosixRlimitType::RlimitRss => 5,
        PosixRlimitType::RlimitNproc => 6,
        PosixRlimitType::RlimitNofile => 7,
        PosixRlimitType::RlimitMemlock => 8,
        PosixRlimitType::RlimitAs => 9,
        PosixRlimitType::RlimitLocks => 10,
        PosixRlimitType::RlimitSigpending => 11,
        PosixRlimitType::RlimitMsgqueue => 12,
        PosixRlimitType::RlimitNice => 13,
        PosixRlimitType::RlimitRtprio => 14,
        PosixRlimitType::RlimitRttime => 15,
    }
}

fn filter(linux: &Linux) -> Result<Option<SeccompPlan>, PlanError> {
    let Some(profile) = linux.seccomp() else { return Ok(None) };
    let native = Architecture::host().ok_or(SeccompError::Processor)?;
    Ok(Some(seccomp::program(profile, native)?))
}
