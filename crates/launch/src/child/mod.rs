//! The child half: what happens between `clone3` and `execve`, in the child.
//!
//! The order, and why:
//! 1. join cgroups (so that everything after is accounted for), `oom_score_adj`, and open the files
//!    of `/proc/self` needed later, all through the launcher's `/proc`: a container cannot forge it;
//! 2. namespaces, host name, kernel parameters; in a user namespace, becoming its root;
//! 3. mounts, devices, terminal, masks, `pivot_root`;
//! 4. session, streams, working directory, and finding the program;
//! 5. say "ready" and wait, for the parent or for whoever starts it later;
//! 6. join what starves (`cpu`, `cpuset`), resource limits;
//! 7. identity: bounding set, groups, ids, capabilities, `no_new_privs`, seccomp last;
//! 8. execute.
//!
//! The launcher has one thread, so this is ordinary code on a copy of its memory. It must not come
//! back: [`Job::run`] returns the exit status of a child that could not execute.

mod device;
mod exec;
mod identity;
mod protect;
mod relay;
mod rootfs;
mod session;
mod target;
mod terminal;

use std::cell::OnceCell;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};
use sys::namespace::{self, Kind};
use sys::trace::span;

pub(crate) use relay::Relay;

use crate::cgroup::Groups;
use crate::error::{At, LaunchError, Step};
use crate::hooks::{self, Deadline};
use crate::host::Tree;
use crate::launcher::{Io, Launcher};
use crate::plan::{LaunchPlan, Namespace, ProcessPlan};
use crate::prepared::Words;
use crate::report::Reporter;
use crate::user;

/// Exit status of a child that could not execute; nobody but the parent half sees it.
const EXIT_FAILED: i32 = 1;

/// Everything a child needs, borrowed from the parent's memory.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) launcher: &'a Launcher,
    pub(crate) process: &'a ProcessPlan,
    pub(crate) words: &'a Words,
    pub(crate) program: Program<'a>,
    pub(crate) io: Io<'a>,
    pub(crate) groups: &'a Groups,
    pub(crate) reporter: Reporter<'a>,
    /// The other end of the reporter's channel, of which a child has a copy too.
    pub(crate) parents_end: RawFd,
    pub(crate) start: Start<'a>,
    pub(crate) place: Place<'a>,
}

/// What is executed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Program<'a> {
    /// The first argument, looked up in the container's `PATH`.
    InPath,
    /// An open file.
    File(BorrowedFd<'a>),
}

/// When the program is executed.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Start<'a> {
    /// As soon as everything is set up.
    AtOnce,
    /// When the parent says so.
    WhenTold,
    /// When somebody says so who connects to this listening socket. The parent may be gone by then.
    WhenCalled(BorrowedFd<'a>),
}

/// Where the program runs.
#[derive(Debug)]
pub(crate) enum Place<'a> {
    /// In a container to be made.
    New(New<'a>),
    /// In a running container.
    Inside(Inside<'a>),
}

#[derive(Debug)]
pub(crate) struct New<'a> {
    pub(crate) plan: &'a LaunchPlan,
    pub(crate) tree: &'a Tree,
    pub(crate) joins: &'a [(Kind, OwnedFd)],
    pub(crate) hooks_until: Deadline,
}

#[derive(Debug)]
pub(crate) struct Inside<'a> {
    pub(crate) target: BorrowedFd<'a>,
}

impl Job<'_> {
    /// Does it all; returns an exit status only when it failed, after having said why.
    pub(crate) fn run(&self) -> i32 {
        // With this copy open a child would wait for the word of a parent that has died.
        // SAFETY: the owner is in frames of the parent's, to which this process never returns; nothing
        // else here uses the number.
        unsafe { rustix::io::close(self.parents_end) };
        let caller = OnceCell::new();
        let Err(error) = self.steps(&caller);
        self.listener(&caller).failed(&error);
        EXIT_FAILED
    }

    /// Who is to be told how it goes: the parent, or whoever has called since.
    fn listener<'c>(&'c self, caller: &'c OnceCell<OwnedFd>) -> Reporter<'c> {
        caller.get().map_or(self.reporter, |caller| Reporter(caller.as_fd()))
    }

    fn steps(&self, caller: &OnceCell<OwnedFd>) -> Result<std::convert::Infallible, LaunchError> {
        session::apply_initial_affinity(self.process)?;
        {
            let _span = span("child: join cgroups");
            join(&self.groups.early)?;
        }
        // Modes are meant as they are written until the program's own mask is set.
        let inherited_mask = rustix::process::umask(Mode::empty());
        if !self.is_relayed() {
            self.use_privileges()?;
        }
        let label = identity::Label::open(self.process)?;
        let root = {
            let _span = span("child: namespaces and root");
            match &self.place {
                Place::New(new) => self.enter_new(new)?,
                Place::Inside(inside) => self.enter_running(inside)?,
            }
        };
        let finding = span("child: directory and program");
        session::clean_slate(self.launcher.options.keep_keyring)?;
        let cwd = exec::enter_cwd(root.as_fd(), &self.process.cwd)?;
        let program = exec::Found::find(self)?;
        let env = exec::environment(self, root.as_fd());
        drop(finding);
        self.wait(caller, &root, &label)?;
        let reporter = self.listener(caller);
        let late = span("child: limits");
        // Late, because a tight limit on files or memory would hit the steps above.
        session::apply_limits(self.process, reporter)?;
        session::apply_affinity(self.process)?;
        session::apply_priorities(self.process)?;
        let first = 3_u32.saturating_add(self.launcher.options.keep_files);
        sys::process::close_on_exec_from(first).at(Step::CloseFiles, "")?;
        rustix::process::umask(self.process.umask.map_or(inherited_mask, Mode::from_raw_mode));
        drop(late);
        let identity = span("child: identity and filter");
        let groups = self.launcher.options.users_own;
        identity::assume(self.process, label, reporter, groups, || cwd.settle(root.as_fd()))?;
        drop(identity);
        self.run_hooks(&env)?;
        Err(program.execute(self, &env))
    }

    /// Programs of the container come last: they have the rights of its process, and no more.
    fn run_hooks(&self, env: &[CString]) -> Result<(), LaunchError> {
        let Place::New(New { plan: LaunchPlan { hooks: Some(hooks), .. }, .. }) = &self.place
        else {
            return Ok(());
        };
        if hooks.start_container.is_empty() {
            return Ok(());
        }
        let own = rustix::process::getpid().as_raw_nonzero().get();
        if self.process.seccomp.as_ref().is_some_and(|filter| filter.listener.is_some()) {
            // The thread that has sent the listener is about to end; only a single one may fork.
            while sys::process::thread_count().is_ok_and(|count| count > 1) {
                std::thread::yield_now();
            }
        }
        // Whoever starts it may have come long after the launch began.
        let until = Deadline::of_launch();
        hooks::run_within(hooks, &hooks.start_container, own, env, until)
    }

    /// Waits until the program is to be executed, and joins the last cgroups. One that waits for
    /// nobody knows how long has joined them before: others may follow it into its namespaces.
    fn wait(
        &self,
        caller: &OnceCell<OwnedFd>,
        root: &OwnedFd,
        label: &identity::Label,
    ) -> Result<(), LaunchError> {
        match self.start {
            Start::AtOnce => self.join_late(),
            Start::WhenTold => {
                self.reporter.wait_for_go().at(Step::Channel, "")?;
                self.join_late()
            }
            Start::WhenCalled(gate) => {
                self.join_late()?;
                self.let_go(gate, root, label)?;
                session::end_on_signals()?;
                let connection = self.reporter.wait_for_caller(gate).at(Step::Channel, "")?;
                caller.get_or_init(|| connection);
                Ok(())
            }
        }
    }

    /// Closes what a process that may wait for days has no use for. Nobody in the container can look
    /// at its files, and were it otherwise there should be nothing of the host's to be found.
    fn let_go(
        &self,
        gate: BorrowedFd<'_>,
        root: &OwnedFd,
        label: &identity::Label,
    ) -> Result<(), LaunchError> {
        let mut keep = vec![gate, root.as_fd(), self.reporter.0];
        keep.extend(label.files());
        let first = 3_u32.saturating_add(self.launcher.options.keep_files);
        // SAFETY: what else is open belongs to frames of the parent's, to which this process never
        // returns; from here on only these are used.
        unsafe { sys::process::close_all_but(first, &keep) }.at(Step::CloseFiles, "")
    }

    fn join_late(&self) -> Result<(), LaunchError> {
        let _span = span("child: join late cgroups");
        join(&self.groups.late)?;
        match &self.place {
            Place::New(new) if !self.groups.late.is_empty() => enter_cgroup_namespace(new),
            Place::New(_) | Place::Inside(_) => Ok(()),
        }
    }

    /// Whether this process was born in a user namespace by a relay.
    fn is_relayed(&self) -> bool {
        match &self.place {
            Place::New(new) => new.plan.has_user_namespace(),
            Place::Inside(_) => false,
        }
    }

    /// What needs the privileges that a process in a user namespace does not have.
    fn use_privileges(&self) -> Result<(), LaunchError> {
        session::adjust_oom_score(self.process, self.reporter)?;
        if self.process.user_ids.is_none() {
            return Ok(());
        }
        session::raise_limits(self.process)?;
        match self.io {
            Io::Files { stdin, stdout, stderr } => {
                session::give_pipes([stdin, stdout, stderr], self.process.host_uid())
            }
            Io::Terminal => Ok(()),
        }
    }

    fn enter_new(&self, new: &New<'_>) -> Result<OwnedFd, LaunchError> {
        if !self.is_relayed() {
            for (kind, namespace) in new.joins {
                namespace::enter(namespace.as_fd(), *kind).at(Step::Namespace, kind.name())?;
            }
        }
        if new.plan.namespaces.time == Namespace::New {
            let clocks = &new.plan.namespaces.clocks;
            namespace::unshare_time(clocks).at(Step::Namespace, "time")?;
        }
        // The namespace's root is where the process is in every hierarchy at this moment, so with
        // late joins it has to wait.
        if self.groups.late.is_empty() {
            enter_cgroup_namespace(new)?;
        }
        if let Some(name) = &new.plan.hostname {
            rustix::system::sethostname(name.as_bytes()).at(Step::Hostname, name)?;
        }
        // Before it becomes somebody else, who may not go where roots are put together.
        let builder = rootfs::Builder::new(self, new)?;
        self.write_sysctls(new)?;
        builder.build()
    }

    /// Of the parameters of namespaces that belong to a user namespace, some want to be written by
    /// its root and, before 6.9, some by the host's.
    fn write_sysctls(&self, new: &New<'_>) -> Result<(), LaunchError> {
        let mut denied = Vec::new();
        for sysctl in &new.plan.sysctls {
            match crate::sysctl::write(&sysctl.name, &sysctl.value) {
                Err(error) if self.is_relayed() && error.errno() == Some(libc::EACCES) => {
                    denied.push(sysctl);
                }
                result => result?,
            }
        }
        if self.is_relayed() {
            user::become_root()?;
        }
        denied.iter().try_for_each(|sysctl| crate::sysctl::write(&sysctl.name, &sysctl.value))
    }

    fn enter_running(&self, inside: &Inside<'_>) -> Result<OwnedFd, LaunchError> {
        let mut kinds = vec![Kind::Mount, Kind::Net, Kind::Ipc, Kind::Uts, Kind::Cgroup];
        let own_users = self.process.user_ids.is_some();
        kinds.extend(own_users.then_some(Kind::User));
        kinds.extend(self.process.own_time.then_some(Kind::Time));
        if self.launcher.options.users_own.is_some() {
            // Those it shares with its launcher are the host's, which it may not enter.
            let pid = sys::pidfd::pid_of(inside.target).at(Step::Namespace, "the container's")?;
            kinds.retain(|kind| !namespace::is_own(pid, *kind));
        }
        namespace::enter_of(inside.target, &kinds).at(Step::Namespace, "the container's")?;
        if own_users {
            user::become_root()?;
        }
        let root = sys::fs::open_dir(c"/").at(Step::Cwd, "/")?;
        session::begin()?;
        match self.io {
            Io::Files { stdin, stdout, stderr } => {
                session::use_files([stdin, stdout, stderr], self.process.uid)?
            }
            Io::Terminal => {
                let devpts = terminal::find_devpts(root.as_fd())?;
                let terminal = terminal::Terminal::open(devpts.as_fd())?;
                terminal.take_over(self)?;
            }
        }
        Ok(root)
    }
}

fn enter_cgroup_namespace(new: &New<'_>) -> Result<(), LaunchError> {
    if new.plan.namespaces.cgroup == Namespace::New {
        namespace::unshare(&[Kind::Cgroup]).at(Step::Namespace, "cgroup")?;
    }
    Ok(())
}

/// Moves this process, which has one thread, by writing "0".
fn join(tasks: &[(String, OwnedFd)]) -> Result<(), LaunchError> {
    for (path, tasks) in tasks {
        sys::fs::write_once(tasks.as_fd(), b"0").at(Step::CgroupJoin, path)?;
    }
    Ok(())
}

/// Opens a file of the process's own directory in the launcher's `/proc`.
fn open_own(name: &str) -> std::io::Result<OwnedFd> {
    let path = format!("/proc/thread-self/{name}");
    Ok(rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?)
}
