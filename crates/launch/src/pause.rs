//! The pause process: PID 1 of a PID namespace that a pod's containers share. Its program is built
//! with this crate and run from memory; its root is empty and read-only.

use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use sys::namespace::Kind;

use crate::child::Program;
use crate::error::{At, LaunchError, Step};
use crate::launcher::{Io, Launcher};
use crate::plan::{CapabilitySets, LaunchPlan, PidNamespace, ProcessPlan, RootSource};
use crate::prepared::Running;

/// The program, a static executable of a few kilobytes.
static PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

/// The program, for runtimes that run it as a container of its own.
pub fn pause_program() -> &'static [u8] {
    PAUSE
}

impl Launcher {
    /// Starts the pod's pause process in a new PID namespace, which from then on is the one that
    /// [`PidNamespace::Pod`] means. Of the plan its cgroup, seccomp filter, labels, limits, user and
    /// OOM adjustment are used; root, program and capabilities (none) are its own.
    ///
    /// # Errors
    /// [`LaunchError`]; nothing is left then.
    pub fn pause(&mut self, plan: &LaunchPlan) -> Result<Running, LaunchError> {
        let plan = pause_plan(plan);
        let null = self.on_host(open_null)?;
        let program = sys::fs::sealed_program("pause", PAUSE).at(Step::Exec, "pause")?;
        if let Some(label) = &plan.root.label {
            // Policies let containers execute files of containers, not of the runtime.
            sys::fs::set_selinux_label(program.as_fd(), label).at(Step::Label, "pause")?;
        }
        let null = null.as_fd();
        let io = Io::Files { stdin: null, stdout: null, stderr: null };
        let running = self.launch_program(&plan, io, Program::File(program.as_fd()))?;
        match sys::namespace::of_process(running.pid, Kind::Pid).at(Step::NamespaceOpen, "pid") {
            Ok(pidns) => {
                self.set_pod_pid_namespace(pidns);
                Ok(running)
            }
            Err(error) => {
                sys::pidfd::kill(running.pidfd.as_fd()).ok();
                sys::pidfd::wait(running.pidfd.as_fd()).ok();
                self.remove_cgroups(&plan.cgroup).ok();
                Err(error)
            }
        }
    }
}

fn open_null() -> Result<OwnedFd, LaunchError> {
    rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .at(Step::Stdio, "/dev/null")
}

fn pause_plan(plan: &LaunchPlan) -> LaunchPlan {
    let mut plan = plan.clone();
    plan.namespaces.pid = PidNamespace::New;
    plan.root.source = RootSource::Empty;
    plan.mounts = Vec::new();
    plan.devices = Vec::new();
    plan.masked_paths = Vec::new();
    plan.readonly_paths = Vec::new();
    plan.hostname = None;
    plan.sysctls = Vec::new();
    plan.process = ProcessPlan {
        args: vec!["pause".to_owned()],
        env: Vec::new(),
        cwd: "/".to_owned(),
        capabilities: CapabilitySets::default(),
        no_new_privs: true,
        terminal: false,
        ..plan.process
    };
    plan
}
