//! The only module that touches crate `launch`'s executing half: plans become processes here, and
//! cgroups are killed, counted and removed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use launch::plan::{CgroupDir, CgroupPlan, ExecPlan, Hierarchy, HooksPlan, LaunchPlan};
use launch::{
    Entering, ImagePath, LaunchError, Launcher, Launching, Options, Parted, Parting, Progress,
    Running, Tool, ToolIo, View, Wanted,
};
use model::IdMaps;
use rustix::process::Pid;
use shim_protocol::{Failure, FailureKind, Places, Warning};
use sys::cgroup::OomWatch;
use sys::namespace::Kind;
use sys::process::Child;

use crate::failure::io_failure;
use crate::stdio::Stdio;

/// A process that runs its program.
#[derive(Debug)]
pub(crate) struct Launched {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    pub(crate) warnings: Vec<Warning>,
    console: Option<OwnedFd>,
}

impl Launched {
    /// The master of its terminal.
    ///
    /// # Errors
    /// `NotFound` when it was launched without.
    pub(crate) fn take_console(&mut self) -> io::Result<OwnedFd> {
        self.console.take().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn new(running: Running) -> Self {
        let warnings = running.warnings.into_iter();
        Self {
            pid: running.pid,
            pidfd: running.pidfd,
            warnings: warnings
                .map(|warning| Warning { what: warning.what, why: warning.why })
                .collect(),
            console: running.console,
        }
    }
}

/// How far a process has come.
#[derive(Debug)]
pub(crate) enum Way<W> {
    OnItsWay(W),
    Runs(Launched),
}

impl<W> Way<W> {
    fn of(progress: Result<Progress<W>, LaunchError>) -> Result<Self, Failure> {
        match progress {
            Ok(Progress::OnItsWay(on_its_way)) => Ok(Self::OnItsWay(on_its_way)),
            Ok(Progress::Runs(running)) => Ok(Self::Runs(Launched::new(running))),
            Err(error) => Err(launch_failed(&error)),
        }
    }
}

/// Takes in what a process on its way into a container has said so far.
///
/// # Errors
/// Step, path and cause; nothing is left.
pub(crate) fn advance(entering: Entering) -> Result<Way<Entering>, Failure> {
    Way::of(entering.advance())
}

/// More than its hooks may take, and less than the daemon waits for an answer, which would not know of a
/// container that started after all.
const RUNS_WITHIN: Duration = Duration::from_secs(50);

/// The launcher, in a mount namespace of the shim's own.
#[derive(Debug)]
pub(crate) struct Runtime {
    launcher: Launcher,
    /// For processes whose plan names no OOM score adjustment: not the shim's own.
    oom_score_adj: Option<i32>,
}

impl Runtime {
    /// Leaves the host's mount namespace.
    ///
    /// # Errors
    /// [`LaunchError`] names the step.
    pub(crate) fn enter(oom_score_adj: Option<i32>) -> Result<Self, LaunchError> {
        let mut launcher = Launcher::in_private_namespace()?;
        launcher.set_options(Options { runs_within: Some(RUNS_WITHIN), ..Options::default() });
        Ok(Self { launcher, oom_score_adj })
    }

    /// Removes what was made for children that outlived their kill, once they have ended.
    pub(crate) fn see_off(&self) {
        self.launcher.see_off();
    }

    /// How many of those have not.
    pub(crate) fn outliving(&self) -> usize {
        self.launcher.outliving()
    }

    /// Works with the host's mounts in view.
    ///
    /// # Errors
    /// That of the work, or the kernel's on the way there or back.
    pub(crate) fn on_host<T>(&self, work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.launcher.with_host(work)?
    }

    /// Begins a container's first process.
    ///
    /// # Errors
    /// Step, path and cause; nothing is left.
    pub(crate) fn begin_launch(
        &self,
        mut plan: LaunchPlan,
        stdio: &Stdio,
    ) -> Result<Launching, Failure> {
        plan.process.oom_score_adj = plan.process.oom_score_adj.or(self.oom_score_adj);
        self.launcher.begin_launch(&plan, stdio.as_io()).map_err(|error| launch_failed(&error))
    }

    /// Goes on with a container's first process and its hooks as far as that needs no waiting.
    ///
    /// # Errors
    /// Step, path and cause; nothing is left.
    pub(crate) fn advance_launch(&self, launching: Launching) -> Result<Way<Launching>, Failure> {
        Way::of(launching.advance(&self.launcher))
    }

    /// Begins a process inside a container, whose first process `target` is.
    ///
    /// # Errors
    /// Step, path and cause; nothing is left.
    pub(crate) fn exec(
        &self,
        mut plan: ExecPlan,
        target: BorrowedFd<'_>,
        stdio: &Stdio,
    ) -> Result<Entering, Failure> {
        plan.process.oom_score_adj = plan.process.oom_score_adj.or(self.oom_score_adj);
        self.launcher.enter(&plan, target, stdio.as_io()).map_err(|error| launch_failed(&error))
    }

    /// Starts PID 1 of the pod's PID namespace; from now on plans that say `Pod` mean that.
    ///
    /// # Errors
    /// Step, path and cause; nothing is left.
    pub(crate) fn start_pause(&mut self, plan: &LaunchPlan) -> Result<Launched, Failure> {
        self.launcher.pause(plan).map(Launched::new).map_err(|error| launch_failed(&error))
    }

    /// Kills and reaps a process that was launched in vain, and removes its cgroups.
    ///
    /// # Errors
    /// The first step that failed; the others are done.
    pub(crate) fn abandon(&self, launched: &Launched, cgroup: &CgroupPlan) -> Result<(), Failure> {
        // It was sent SIGKILL, so the wait is short.
        let killed = sys::pidfd::kill(launched.pidfd.as_fd());
        let reaped = killed.and_then(|()| sys::pidfd::wait(launched.pidfd.as_fd()));
        let removed = self.remove_cgroups(cgroup);
        reaped.map_err(|error| {
            let what = format!("cannot end process {}", launched.pid.as_raw_nonzero());
            io_failure(FailureKind::Internal, what, &error)
        })?;
        removed
    }

    /// Makes the pod's user namespace, and namespaces of these kinds that belong to it.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn make_user_namespace(
        &mut self,
        users: &IdMaps,
        owned: &[Kind],
    ) -> Result<Vec<(Kind, OwnedFd)>, Failure> {
        let made = self.launcher.make_pod_user_namespace(users, owned);
        made.map_err(|error| launch_failed(&error))
    }

    /// Forgets the pod's user namespace.
    pub(crate) fn drop_user_namespace(&mut self) {
        self.launcher.drop_pod_user_namespace();
    }

    /// Mounts the pod's `/dev/shm` in the shim's own mount namespace: the host never sees it.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn mount_shm(
        &self,
        path: &str,
        bytes: u64,
        users: Option<&IdMaps>,
        label: Option<&str>,
    ) -> Result<(), Failure> {
        let mounted = self.launcher.mount_tmpfs(path, bytes, users, label);
        mounted.map_err(|error| launch_failed(&error))
    }

    /// Sets a kernel parameter of the shim's namespaces.
    ///
    /// # Errors
    /// Names the parameter.
    pub(crate) fn write_sysctl(&self, name: &str, value: &str) -> Result<(), Failure> {
        self.launcher.write_sysctl(name, value).map_err(|error| launch_failed(&error))
    }

    /// SIGKILLs everything in a container's cgroups, thawing them. Waits for nobody's death.
    ///
    /// # Errors
    /// Names the cgroup.
    pub(crate) fn kill_cgroups(&self, cgroup: &CgroupPlan) -> Result<(), Failure> {
        self.launcher.kill_all(cgroup).map_err(|error| launch_failed(&error))
    }

    /// Lets a container run that is frozen (v1): until then no SIGKILL takes effect. On v2 it does.
    ///
    /// # Errors
    /// Names the cgroup.
    pub(crate) fn thaw(&self, cgroup: &CgroupPlan) -> Result<(), Failure> {
        let is_freezer = |group: &&CgroupDir| match &group.hierarchy {
            Hierarchy::V1(controllers) => controllers.iter().any(|name| name == "freezer"),
            Hierarchy::V2 => false,
        };
        let Some(group) = cgroup.groups.iter().find(is_freezer) else { return Ok(()) };
        let state = format!("{}/freezer.state", group.path);
        match self.on_host(|| std::fs::write(&state, "THAWED")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_failure(FailureKind::Cgroup, format!("cannot write {state}"), &error))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Sends a signal to every process of a container but one.
    ///
    /// # Errors
    /// Names the cgroup or the process.
    pub(crate) fn signal_members(
        &self,
        cgroup: &CgroupPlan,
        signal: i32,
        except: Option<Pid>,
    ) -> Result<(), Failure> {
        let members = self.members(cgroup)?.into_iter().filter(|pid| Some(*pid) != except);
        let held: Vec<(Pid, OwnedFd)> =
            members.filter_map(|pid| Some((pid, sys::pidfd::open(pid).ok()?))).collect();
        // A number may have gone to another process before it was held: those that are still
        // members are the right ones.
        let still = self.members(cgroup)?;
        for (pid, process) in held.iter().filter(|(pid, _)| still.contains(pid)) {
            sys::pidfd::signal(process.as_fd(), signal).map_err(|error| {
                let what =
                    format!("cannot send signal {signal} to process {}", pid.as_raw_nonzero());
                io_failure(FailureKind::Internal, what, &error)
            })?;
        }
        Ok(())
    }

    /// Removes a container's cgroups; those that are gone are success.
    ///
    /// # Errors
    /// Names the cgroup.
    pub(crate) fn remove_cgroups(&self, cgroup: &CgroupPlan) -> Result<(), Failure> {
        self.launcher.remove_cgroups(cgroup).map_err(|error| launch_failed(&error))
    }

    /// The mounts that another runtime sees when it makes the container of this plan.
    ///
    /// # Errors
    /// Step, path and cause.
    pub(crate) fn view(&self, plan: &LaunchPlan, places: &Places) -> Result<View, Failure> {
        let image = |image: &shim_protocol::ImagePlace| ImagePath {
            path: image.path.clone(),
            lower: image.lower.clone(),
        };
        let images: Vec<ImagePath> = places.images.iter().map(image).collect();
        let wanted = Wanted {
            dir: &places.dir,
            rootfs: &places.rootfs,
            pod_pid: &places.pod_pid,
            pod_user: &places.pod_user,
            images: &images,
        };
        self.launcher.view(plan, &wanted).map_err(|error| launch_failed(&error))
    }

    /// Starts a program of the host, as a child to be reaped.
    ///
    /// # Errors
    /// The kernel's.
    pub(crate) fn spawn_tool(
        &self,
        mut tool: Tool,
        io: ToolIo<'_>,
        view: Option<&View>,
    ) -> io::Result<Child> {
        tool.oom_score_adj = tool.oom_score_adj.or(self.oom_score_adj);
        self.launcher.spawn_tool(&tool, io, view)
    }

    /// What is to be run once a container is gone; nothing is run yet.
    pub(crate) fn begin_poststop(&self, hooks: &HooksPlan) -> Parting {
        self.launcher.begin_poststop(hooks)
    }

    /// Goes on with that as far as it needs no waiting.
    pub(crate) fn advance_poststop(&self, parting: Parting) -> Parted {
        parting.advance(&self.launcher)
    }

    /// How many processes the OOM killer has ended there; 0 when nobody counts.
    pub(crate) fn oom_kills(&self, cgroup: &CgroupPlan) -> u64 {
        self.launcher.oom_kills(cgroup).unwrap_or_default()
    }

    /// A file that tells when the OOM killer comes there; none when nobody can.
    pub(crate) fn watch_oom(&self, cgroup: &CgroupPlan) -> Option<OomWatch> {
        self.launcher.watch_oom(cgroup).ok()
    }

    /// The processes of a container.
    ///
    /// # Errors
    /// Names the cgroup.
    pub(crate) fn members(&self, cgroup: &CgroupPlan) -> Result<Vec<Pid>, Failure> {
        self.launcher.pids(cgroup).map_err(|error| launch_failed(&error))
    }
}

fn launch_failed(error: &LaunchError) -> Failure {
    let kind = match error.kind() {
        launch::FailureKind::BadPlan => FailureKind::BadRequest,
        launch::FailureKind::Cgroup => FailureKind::Cgroup,
        launch::FailureKind::Mount => FailureKind::Mount,
        launch::FailureKind::CannotExec => FailureKind::CannotExec,
        launch::FailureKind::Internal => FailureKind::Internal,
    };
    Failure { kind, message: error.sentence(), errno: error.errno() }
}

/// What a container keeps of its cgroup plan: where the directories are. Their settings have been
/// written, and would only take memory.
pub(crate) fn directories_only(mut plan: CgroupPlan) -> CgroupPlan {
    plan.device_program = None;
    for group in &mut plan.groups {
        group.settings = Vec::new();
    }
    plan
}
