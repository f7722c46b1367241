//! `linux.namespaces`, and what may only be set in a namespace of one's own: host name, sysctls.

use launch::plan::{Namespace, Namespaces, PidNamespace, Sysctl, UserNamespace};
use oci_spec::runtime::{Linux, LinuxNamespaceType as Kind, Spec};

use crate::{PlanContext, PlanError};

/// Which namespaces are not the host's, so that settings inside them do not touch the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    net: bool,
    ipc: bool,
    uts: bool,
    /// The UTS namespace is the pod's: its names were set when the pod was made.
    uts_is_pods: bool,
}

/// Where one namespace of the spec comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Host,
    New,
    Path(String),
}

pub(crate) fn namespaces(
    linux: &Linux,
    user: UserNamespace,
    context: &PlanContext<'_>,
) -> Result<(Namespaces, Access), PlanError> {
    if origin(linux, Kind::Mount)? != Origin::New {
        return Err(PlanError::unsupported("linux.namespaces without a new mount namespace"));
    }
    let (net, ipc, uts) =
        (origin(linux, Kind::Network)?, origin(linux, Kind::Ipc)?, origin(linux, Kind::Uts)?);
    let access = Access {
        net: net != Origin::Host,
        ipc: ipc != Origin::Host,
        uts: uts != Origin::Host,
        uts_is_pods: context.in_pod && matches!(uts, Origin::Path(_)),
    };
    let pods_or_joined = |origin: Origin| match origin {
        Origin::Host => Namespace::Inherit,
        Origin::New => Namespace::New,
        Origin::Path(_) if context.in_pod => Namespace::Inherit,
        Origin::Path(path) => Namespace::Join(path),
    };
    let cgroup = match origin(linux, Kind::Cgroup)? {
        Origin::Host => Namespace::Inherit,
        Origin::New => Namespace::New,
        Origin::Path(path) => Namespace::Join(path),
    };
    let pid = match origin(linux, Kind::Pid)? {
        Origin::Host => PidNamespace::Inherit,
        Origin::New => PidNamespace::New,
        Origin::Path(path) if context.pod_pid == Some(path.as_str()) => PidNamespace::Pod,
        Origin::Path(path) => PidNamespace::Join(path),
    };
    let time = match origin(linux, Kind::Time)? {
        Origin::Host => Namespace::Inherit,
        Origin::New => Namespace::New,
        Origin::Path(path) => Namespace::Join(path),
    };
    let namespaces = Namespaces {
        clocks: clocks(linux, &time)?,
        time,
        pid,
        net: pods_or_joined(net),
        ipc: pods_or_joined(ipc),
        uts: pods_or_joined(uts),
        cgroup,
        user,
    };
    Ok((namespaces, access))
}

/// Lines of `/proc/<pid>/timens_offsets`.
fn clocks(linux: &Linux, time: &Namespace) -> Result<Vec<String>, PlanError> {
    let mut lines = Vec::new();
    for (clock, offset) in linux.time_offsets().iter().flatten() {
        if *time != Namespace::New {
            let want = "none without a new time namespace";
            return Err(PlanError::invalid("linux.timeOffsets", "set", want));
        }
        let nanos = offset.nanosecs().unwrap_or_default();
        if !matches!(clock.as_str(), "monotonic" | "boottime") || nanos > 999_999_999 {
            let want = "monotonic or boottime, with less than a second of nanoseconds";
            return Err(PlanError::invalid("linux.timeOffsets", clock, want));
        }
        lines.push(format!("{clock} {} {nanos}", offset.secs().unwrap_or_default()));
    }
    lines.sort();
    Ok(lines)
}

/// Whether a container with this spec has clocks of its own.
pub(crate) fn has_own_time(linux: &Linux) -> Result<bool, PlanError> {
    Ok(origin(linux, Kind::Time)? != Origin::Host)
}

pub(crate) fn origin(linux: &Linux, kind: Kind) -> Result<Origin, PlanError> {
    let mut found = linux.namespaces().iter().flatten().filter(|one| one.typ() == kind);
    let Some(namespace) = found.next() else { return Ok(Origin::Host) };
    if found.next().is_some() {
        return Err(PlanError::invalid("linux.namespaces", kind, "each type once"));
    }
    match namespace.path() {
        None => Ok(Origin::New),
        Some(path) if path.as_os_str().is_empty() => Ok(Origin::New),
        Some(path) => match path.to_str().filter(|path| path.starts_with('/')) {
            Some(path) => Ok(Origin::Path(path.to_owned())),
            None => Err(PlanError::invalid(
                format!("linux.namespaces[{kind}].path"),
                path.display(),
                "an absolute path",
            )),
        },
    }
}

/// The host name to set.
pub(crate) fn hostname(spec: &Spec, access: Access) -> Result<Option<String>, PlanError> {
    let Some(name) = spec.hostname().clone().filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    own_uts(access, "hostname", &name)?;
    Ok(Some(name))
}

fn own_uts(access: Access, field: &str, value: &str) -> Result<(), PlanError> {
    if access.uts && !access.uts_is_pods {
        Ok(())
    } else {
        Err(PlanError::invalid(field, value, "none without a UTS namespace of the container's own"))
    }
}

/// Kernel parameters, sorted by name; the domain name is one too.
pub(crate) fn sysctls(
    spec: &Spec,
    linux: &Linux,
    access: Access,
) -> Result<Vec<Sysctl>, PlanError> {
    let mut sysctls = Vec::new();
    for (name, value) in linux.sysctl().iter().flatten() {
        allowed(name, access)?;
        sysctls.push(Sysctl { name: name.clone(), value: value.clone() });
    }
    if let Some(domain) = spec.domainname().as_deref().filter(|name| !name.is_empty()) {
        own_uts(access, "domainname", domain)?;
        sysctls.push(Sysctl { name: "kernel.domainname".into(), value: domain.to_owned() });
    }
    sysctls.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(sysctls)
}

const IPC_SYSCTLS: &[&str] = &[
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// Refuses parameters that belong to the host or are written in a namespace shared with it.
fn allowed(name: &str, access: Access) -> Result<(), PlanError> {
    let field = || format!("linux.sysctl[{name}]");
    // A slash as separator lets a component hold dots: `net/ipv4/conf/eth0.7/forwarding`.
    let dotted = if name.contains('/') { name.replace('/', ".") } else { name.to_owned() };
    if dotted.split('.').any(str::is_empty) || dotted.contains('\0') {
        return Err(PlanError::invalid("linux.sysctl", name, "names separated by single dots"));
    }
    let (own, want) = if dotted.starts_with("net.") {
        (access.net, "none without a network namespace")
    } else if IPC_SYSCTLS.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        (access.ipc, "none without an IPC namespace")
    } else if dotted == "kernel.domainname" {
        (access.uts && !access.uts_is_pods, "none without a UTS namespace of the container's own")
    } else {
        return Err(PlanError::unsupported(field()));
    };
    if own { Ok(()) } else { Err(PlanError::invalid(field(), "set", want)) }
}
