//! How a child comes to be: in the PID namespace it is to be in, always as the launcher's child.
//!
//! A PID namespace belongs to the user namespace of the process that makes it. So with a user
//! namespace a *relay* (`child::relay`) enters that first, makes the child as its own sibling, hands
//! it over and ends.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use sys::namespace::Kind;
use sys::process::{Child, NewNamespaces};

use crate::cgroup::Groups;
use crate::child::{Job, Relay};
use crate::error::{At, LaunchError, Step};
use crate::launcher::Launcher;
use crate::plan::{LaunchPlan, Namespace, PidNamespace};
use crate::report::{self, Message, Reporter};

impl Launcher {
    /// Makes the child of a plan, in the user namespace `user` or the launcher's.
    pub(crate) fn clone_new(
        &self,
        plan: &LaunchPlan,
        joins: &Joins,
        groups: &Groups,
        job: &Job<'_>,
        user: Option<BorrowedFd<'_>>,
    ) -> Result<Child, LaunchError> {
        let clone = || match user {
            None => self.clone_here(plan, joins, groups, job),
            Some(user) => self.clone_by_relay(plan, joins, groups, job, user),
        };
        // Hooks in the container's mount namespace expect the host's files around its root.
        let shown = plan.hooks.as_ref().is_some_and(|hooks| !hooks.create_container.is_empty());
        if shown { self.on_host(clone) } else { clone() }
    }

    fn clone_here(
        &self,
        plan: &LaunchPlan,
        joins: &Joins,
        groups: &Groups,
        job: &Job<'_>,
    ) -> Result<Child, LaunchError> {
        let namespaces = new_namespaces(plan);
        let cgroup = groups.unified.as_ref().map(AsFd::as_fd);
        let clone = || hidden(|| spawn(namespaces, cgroup, || job.run()));
        match self.pid_namespace(plan, joins)? {
            None => clone(),
            Some(pidns) => self.with_children_in(pidns, clone).at(Step::Namespace, "pid")?,
        }
        .at(Step::Clone, "")
    }

    fn clone_by_relay(
        &self,
        plan: &LaunchPlan,
        joins: &Joins,
        groups: &Groups,
        job: &Job<'_>,
        user: BorrowedFd<'_>,
    ) -> Result<Child, LaunchError> {
        let (channel, relays) = sys::fdpass::packet_pair().at(Step::Channel, "")?;
        let relay = Relay {
            job,
            user,
            pidns: self.pid_namespace(plan, joins)?,
            joins: &joins.ours,
            namespaces: new_namespaces(plan),
            cgroup: groups.unified.as_ref().map(AsFd::as_fd),
            reporter: Reporter(relays.as_fd()),
        };
        let process =
            hidden(|| spawn(NewNamespaces::default(), None, || relay.run())).at(Step::Clone, "")?;
        drop(relays);
        let told = report::receive(&channel).at(Step::Channel, "");
        match told {
            Ok(Message::Born(child)) => {
                // It has nothing more to do, so this ends at once.
                sys::pidfd::wait(process.pidfd.as_fd()).at(Step::Clone, "")?;
                Ok(child)
            }
            Ok(Message::Failed(error)) => {
                sys::pidfd::wait(process.pidfd.as_fd()).at(Step::Clone, "")?;
                Err(error)
            }
            Ok(
                Message::End
                | Message::Ready
                | Message::Hooks
                | Message::Warning(_)
                | Message::Listener(_)
                | Message::Console(_),
            ) => Err(LaunchError::child_died(Some(process.pidfd))),
            Err(error) => {
                sys::pidfd::kill(process.pidfd.as_fd()).at(Step::Clone, "")?;
                sys::pidfd::wait(process.pidfd.as_fd()).at(Step::Clone, "")?;
                Err(error)
            }
        }
    }

    /// The PID namespace the child is to be born into, unless it is the launcher's or a new one.
    fn pid_namespace<'a>(
        &'a self,
        plan: &LaunchPlan,
        joins: &'a Joins,
    ) -> Result<Option<BorrowedFd<'a>>, LaunchError> {
        match &plan.namespaces.pid {
            PidNamespace::New | PidNamespace::Inherit => Ok(None),
            PidNamespace::Pod => match &self.pod_pidns {
                Some(pidns) => Ok(Some(pidns.as_fd())),
                None => Err(LaunchError::bad_plan("the pod shares no PID namespace")),
            },
            PidNamespace::Join(_) => Ok(joins.pid.as_ref().map(AsFd::as_fd)),
        }
    }
}

/// Between clone and exec a child may be visible to processes of the container, in whose PID
/// namespace it is born; it still holds the launcher's memory and files, which they must not reach.
pub(crate) fn hidden<T>(f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = sys::credentials::dumpable()?;
    sys::credentials::set_dumpable(false)?;
    let result = f();
    sys::credentials::set_dumpable(before)?;
    result
}

pub(crate) fn spawn(
    namespaces: NewNamespaces,
    cgroup: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> i32,
) -> io::Result<Child> {
    if sys::process::thread_count()? != 1 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "the launcher has other threads"));
    }
    // SAFETY: this is the only thread, as was just seen, and only it could make another.
    unsafe { sys::process::clone_child(namespaces, cgroup, body) }
}

fn new_namespaces(plan: &LaunchPlan) -> NewNamespaces {
    let namespaces = &plan.namespaces;
    let mut new = NewNamespaces::MOUNT;
    if namespaces.pid == PidNamespace::New {
        new = new.with(NewNamespaces::PID);
    }
    // The cgroup namespace is made by the child, after it has joined its cgroups.
    for (wanted, flag) in [
        (&namespaces.net, NewNamespaces::NET),
        (&namespaces.ipc, NewNamespaces::IPC),
        (&namespaces.uts, NewNamespaces::UTS),
    ] {
        if *wanted == Namespace::New {
            new = new.with(flag);
        }
    }
    new
}

/// Namespace files on the host, opened.
#[derive(Debug, Default)]
pub(crate) struct Joins {
    pid: Option<OwnedFd>,
    /// Those the child enters.
    pub(crate) ours: Vec<(Kind, OwnedFd)>,
}

impl Joins {
    pub(crate) fn open(plan: &LaunchPlan) -> Result<Self, LaunchError> {
        let open = |path: &str, kind: Kind| {
            sys::namespace::open(path, kind)
                .at(Step::NamespaceOpen, &format!("{path} of kind {}", kind.name()))
        };
        let namespaces = &plan.namespaces;
        let pid = match &namespaces.pid {
            PidNamespace::Join(path) => Some(open(path, Kind::Pid)?),
            PidNamespace::New | PidNamespace::Inherit | PidNamespace::Pod => None,
        };
        let mut ours = Vec::new();
        for (wanted, kind) in [
            (&namespaces.net, Kind::Net),
            (&namespaces.ipc, Kind::Ipc),
            (&namespaces.uts, Kind::Uts),
            (&namespaces.cgroup, Kind::Cgroup),
            (&namespaces.time, Kind::Time),
        ] {
            if let Namespace::Join(path) = wanted {
                ours.push((kind, open(path, kind)?));
            }
        }
        Ok(Self { pid, ours })
    }
}
