//! Where the launcher stands: its mount namespace, the host's, the PID namespaces.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::Pid;
use sys::cgroup::OomWatch;
use sys::mount::{
    ATTR_NODEV, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, Change, FsContext, Propagation,
};
use sys::namespace::{self, Kind};

use crate::cgroup;
use crate::error::{At, LaunchError, Step, Warning};
use crate::outliving::Outliving;
use crate::plan::{CgroupPlan, ResctrlPlan};

/// Where new roots are put together in a private namespace.
const STAGING: &str = "/root";

/// What the program gets as standard input, output and error.
#[derive(Debug, Clone, Copy)]
pub enum Io<'a> {
    /// These files.
    Files {
        /// 0.
        stdin: BorrowedFd<'a>,
        /// 1.
        stdout: BorrowedFd<'a>,
        /// 2.
        stderr: BorrowedFd<'a>,
    },
    /// A new terminal of the container's own `devpts`; its master comes back as `console`.
    Terminal,
}

/// The host's mount namespace, left for a private one.
#[derive(Debug)]
struct Left {
    host: OwnedFd,
    own: OwnedFd,
}

/// What may be asked of a launch besides its plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// How many of the launcher's own files, from number 3 on, the program gets under the same
    /// numbers.
    pub keep_files: u32,
    /// The program stays in the launcher's session keyring.
    pub keep_keyring: bool,
    /// The container's root is moved on top of the host's instead of in its place, for hosts that run
    /// from a ramdisk. Whoever may unmount in the container gets out.
    pub no_pivot: bool,
    /// The launcher is root of a user namespace only, where groups cannot be set and which is the
    /// container's own: a process that is exec'd enters what is not its launcher's already.
    pub users_own: Option<Groups>,
    /// How long a new process may take until it runs its program: who launches has other things to do. None:
    /// as long as it likes.
    pub runs_within: Option<Duration>,
    /// A new terminal leaves line ends as the program writes them: who shows them elsewhere than on a
    /// terminal wants no others.
    pub own_line_ends: bool,
}

/// What may be done to supplementary groups in a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Groups {
    /// Anything.
    Free,
    /// Nothing: an ordinary user could otherwise leave a group that keeps it from something.
    Kept,
}

/// Executes plans. The process that holds one has a single thread.
#[derive(Debug)]
pub struct Launcher {
    left: Option<Left>,
    own_pidns: OwnedFd,
    pub(crate) pod_pidns: Option<OwnedFd>,
    pub(crate) pod_user: Option<OwnedFd>,
    pub(crate) staging: PathBuf,
    pub(crate) options: Options,
    pub(crate) outliving: Outliving,
}

impl Launcher {
    /// Leaves the host's mount namespace for a private one: an empty read-only tmpfs with `/proc`
    /// and `/sys` (the host's), an empty directory for putting roots together, and `/shm`, made to be mounted
    /// on by [`Self::mount_tmpfs`]. Mounting in it costs the same however many mounts the host has,
    /// and nothing of it is ever in the host's table.
    ///
    /// The working directory becomes `/`; open files stay as they are. Blocks for as long as the
    /// kernel takes to copy the host's mount table once.
    ///
    /// # Errors
    /// [`Step::PrivateNamespace`]; the process may then be in a half-made namespace and should end.
    pub fn in_private_namespace() -> Result<Self, LaunchError> {
        let host = namespace::own(Kind::Mount).at(Step::PrivateNamespace, "open the host's")?;
        let own = make_template()?;
        Self::new(Some(Left { host, own }), PathBuf::from(STAGING))
    }

    /// As [`Self::in_private_namespace`], from a template made by [`make_template`]: copies its few
    /// mounts instead of the host's many.
    ///
    /// # Errors
    /// [`Step::PrivateNamespace`]; the process may then be in the template and should end.
    pub fn in_copy_of(template: BorrowedFd<'_>) -> Result<Self, LaunchError> {
        let host = namespace::own(Kind::Mount).at(Step::PrivateNamespace, "open the host's")?;
        namespace::enter(template, Kind::Mount).at(Step::PrivateNamespace, "enter the template")?;
        namespace::unshare(&[Kind::Mount]).at(Step::PrivateNamespace, "unshare")?;
        let own = namespace::own(Kind::Mount).at(Step::PrivateNamespace, "open the new one")?;
        Self::new(Some(Left { host, own }), PathBuf::from(STAGING))
    }

    /// Stays in the mount namespace the process is in, taken to be the host's. `staging` is an
    /// empty directory there; it is mounted on in containers' own namespaces only.
    ///
    /// # Errors
    /// [`Step::NamespaceOpen`] when `/proc` is not there.
    pub fn in_host_namespace(staging: &Path) -> Result<Self, LaunchError> {
        Self::new(None, staging.to_owned())
    }

    fn new(left: Option<Left>, staging: PathBuf) -> Result<Self, LaunchError> {
        let own_pidns = namespace::own(Kind::Pid).at(Step::NamespaceOpen, "pid")?;
        let options = Options::default();
        let (pod_pidns, pod_user, outliving) = (None, None, Outliving::default());
        Ok(Self { left, own_pidns, pod_pidns, pod_user, staging, options, outliving })
    }

    /// Launches have these options from now on.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    /// Removes what was made for children that SIGKILL did not reach and that have ended meanwhile. Whoever
    /// launches more than once calls it when children end.
    pub fn see_off(&self) {
        self.outliving.see_off();
    }

    /// How many children that were launched in vain have not ended yet, although they were killed.
    pub fn outliving(&self) -> usize {
        self.outliving.count()
    }

    /// Runs `f` with the host's mount namespace, whose root is the working directory meanwhile.
    ///
    /// # Errors
    /// When the host's namespace cannot be entered; `f` has not run then. A process that cannot get
    /// back out of it ends at once: what it did next would happen on the host.
    pub fn with_host<T>(&self, f: impl FnOnce() -> T) -> io::Result<T> {
        let Some(Left { host, own }) = &self.left else { return Ok(f()) };
        within(host.as_fd(), own.as_fd(), Kind::Mount, f)
    }

    /// The host's mount namespace, unless the launcher is in it.
    pub(crate) fn host_mounts(&self) -> Option<BorrowedFd<'_>> {
        self.left.as_ref().map(|left| left.host.as_fd())
    }

    /// As [`Self::with_host`], in a cloned child that has a mount namespace of its own by now.
    pub(crate) fn in_host_from_child<T>(&self, f: impl FnOnce() -> T) -> io::Result<T> {
        let Some(Left { host, .. }) = &self.left else { return Ok(f()) };
        let own = namespace::own(Kind::Mount)?;
        within(host.as_fd(), own.as_fd(), Kind::Mount, f)
    }

    /// Runs `f` so that processes it makes are born into `pidns`.
    pub(crate) fn with_children_in<T>(
        &self,
        pidns: BorrowedFd<'_>,
        f: impl FnOnce() -> T,
    ) -> io::Result<T> {
        namespace::enter(pidns, Kind::Pid)?;
        let result = f();
        self.children_here_again();
        Ok(result)
    }

    /// A launcher that is root of a user namespace only may not return to the host's PID namespace. It
    /// makes one process and no more.
    fn children_here_again(&self) {
        if self.options.users_own.is_none() {
            return_to(self.own_pidns.as_fd(), Kind::Pid);
        }
    }

    /// As [`Self::with_children_in`], for the PID namespace of a process.
    pub(crate) fn with_children_beside<T>(
        &self,
        process: BorrowedFd<'_>,
        f: impl FnOnce() -> T,
    ) -> io::Result<T> {
        namespace::enter_of(process, &[Kind::Pid])?;
        let result = f();
        self.children_here_again();
        Ok(result)
    }

    /// Names the PID namespace that [`crate::plan::PidNamespace::Pod`] means.
    pub fn set_pod_pid_namespace(&mut self, pidns: OwnedFd) {
        self.pod_pidns = Some(pidns);
    }

    /// Mounts a tmpfs of `bytes` (mode 1777, as for `/dev/shm`) at an absolute path in the private
    /// namespace, for plans to name as [`crate::plan::MountSource::Launcher`]. It lives as long as
    /// the namespace, and belongs to the root of a pod with these ids.
    ///
    /// # Errors
    /// [`Step::MountNew`].
    pub fn mount_tmpfs(
        &self,
        path: &str,
        bytes: u64,
        ids: Option<&model::IdMaps>,
        label: Option<&str>,
    ) -> Result<(), LaunchError> {
        let mount = || {
            let context = FsContext::open("tmpfs")?;
            context.set("mode", "1777")?;
            context.set("size", &bytes.to_string())?;
            let root = ids.map(|ids| (ids.host_uid(0), ids.host_gid(0)));
            if let Some((Some(uid), Some(gid))) = root {
                context.set("uid", &uid.to_string())?;
                context.set("gid", &gid.to_string())?;
            }
            context.label(label)?;
            context.set("source", "shm")?;
            let mount = context.mount(ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC)?;
            let root = sys::fs::open_dir(c"/")?;
            let writable = Change { clear: ATTR_RDONLY, ..Change::default() };
            let read_only = Change { set: ATTR_RDONLY, ..Change::default() };
            let private = self.left.is_some();
            if private {
                sys::mount::change(&root, false, writable)?;
            }
            let target = sys::fs::mkdir_all_in_root(root.as_fd(), path);
            if private {
                sys::mount::change(&root, false, read_only)?;
            }
            sys::mount::attach(mount.as_fd(), target?.as_fd())
        };
        mount().at(Step::MountNew, path)
    }

    /// SIGKILLs every process of a plan's cgroups, those they fork meanwhile too. Cgroups that are
    /// gone are success. On v1 blocks until all are dead, for a bounded time.
    ///
    /// # Errors
    /// Of kind [`crate::FailureKind::Cgroup`].
    pub fn kill_all(&self, plan: &CgroupPlan) -> Result<(), LaunchError> {
        self.on_host(|| cgroup::kill_all(plan))
    }

    /// Removes a plan's cgroups and what containers made below them, waiting a bounded time for
    /// dying processes. Cgroups that are gone are success.
    ///
    /// # Errors
    /// Of kind [`crate::FailureKind::Cgroup`]; the others are removed nevertheless.
    pub fn remove_cgroups(&self, plan: &CgroupPlan) -> Result<(), LaunchError> {
        self.on_host(|| cgroup::remove(plan))
    }

    /// Stops all processes of a plan's cgroups, or lets them go on. Blocks until it is so, for a
    /// bounded time.
    ///
    /// # Errors
    /// Of kind [`crate::FailureKind::Cgroup`]: also when the host has no freezer.
    pub fn set_frozen(&self, plan: &CgroupPlan, frozen: bool) -> Result<(), LaunchError> {
        self.on_host(|| cgroup::set_frozen(plan, frozen))
    }

    /// Whether all processes of a plan's cgroups are stopped.
    ///
    /// # Errors
    /// Of kind [`crate::FailureKind::Cgroup`].
    pub fn is_frozen(&self, plan: &CgroupPlan) -> Result<bool, LaunchError> {
        self.on_host(|| cgroup::is_frozen(plan))
    }

    /// Writes a plan's settings into its cgroups, which are there. Says what was passed over.
    ///
    /// # Errors
    /// Of kind [`crate::FailureKind::Cgroup`]; what was written before stays.
    pub fn apply_settings(&self, plan: &CgroupPlan) -> Result<Vec<Warning>, LaunchError> {
        self.on_host(|| cgroup::apply(plan))
    }

    /// Writes a plan's lines into its class of service, which is there.
    ///
    /// # Errors
    /// Of kind [`crate::FailureKind::Cgroup`]; what was written before stays.
    pub fn apply_schemata(&self, plan: &ResctrlPlan) -> Result<(), LaunchError> {
        self.on_host(|| crate::resctrl::set(plan))
    }

    /// How many of its processes the OOM killer ended; none without a memory controller.
    pub fn oom_kills(&self, plan: &CgroupPlan) -> Option<u64> {
        self.with_host(|| cgroup::oom_kills(plan)).ok().flatten()
    }

    /// A file that tells when the OOM killer comes to a plan's cgroups.
    ///
    /// # Errors
    /// The kernel's; `NotFound` without a memory controller.
    pub fn watch_oom(&self, plan: &CgroupPlan) -> io::Result<OomWatch> {
        self.with_host(|| cgroup::watch_oom(plan))?
    }

    /// The processes in a plan's cgroups.
    ///
    /// # Errors
    /// Of kind [`crate::FailureKind::Cgroup`].
    pub fn pids(&self, plan: &CgroupPlan) -> Result<Vec<Pid>, LaunchError> {
        self.on_host(|| cgroup::pids(plan))
    }

    pub(crate) fn on_host<T>(
        &self,
        f: impl FnOnce() -> Result<T, LaunchError>,
    ) -> Result<T, LaunchError> {
        self.with_host(f).at(Step::HostNamespace, "")?
    }
}

/// Moves the calling thread into a new private mount namespace as
/// [`Launcher::in_private_namespace`] has it, and returns a handle on that, which keeps it alive.
///
/// Unlike a launcher it may be called in a process with several threads, on a thread that ends
/// afterwards: the others stay where they are.
///
/// # Errors
/// [`Step::PrivateNamespace`]; the thread may then be in a half-made namespace and should end.
pub fn make_template() -> Result<OwnedFd, LaunchError> {
    let proc = sys::mount::clone_path(c"/proc", false).at(Step::PrivateNamespace, "/proc")?;
    let sys = sysfs().at(Step::PrivateNamespace, "/sys")?;
    let root = private_root().at(Step::PrivateNamespace, "tmpfs")?;
    namespace::unshare(&[Kind::Mount]).at(Step::PrivateNamespace, "unshare")?;
    enter_private(&root, &proc, sys.as_ref()).at(Step::PrivateNamespace, "set up")?;
    namespace::own(Kind::Mount).at(Step::PrivateNamespace, "open the new one")
}

fn within<T>(
    there: BorrowedFd<'_>,
    back: BorrowedFd<'_>,
    kind: Kind,
    f: impl FnOnce() -> T,
) -> io::Result<T> {
    namespace::enter(there, kind)?;
    let result = f();
    return_to(back, kind);
    Ok(result)
}

/// A launcher in the wrong namespace would mount and kill in the wrong place from then on: there is
/// no safe way to go on.
pub(crate) fn return_to(namespace: BorrowedFd<'_>, kind: Kind) {
    if namespace::enter(namespace, kind).is_err() {
        std::process::abort();
    }
}

/// A tmpfs with the few directories a private namespace needs, detached.
fn private_root() -> io::Result<OwnedFd> {
    let context = FsContext::open("tmpfs")?;
    context.set("mode", "755")?;
    context.set("size", "64k")?;
    context.set("source", "knarr")?;
    let root = context.mount(ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC)?;
    for dir in ["proc", "sys", STAGING.trim_start_matches('/'), "shm"] {
        rustix::fs::mkdirat(&root, dir, Mode::from_raw_mode(0o755))?;
    }
    Ok(root)
}

/// The host's `/sys`, where it is one. The kernel lets a user namespace mount a `sysfs` of its own
/// only where one is in view already, as it does with `/proc`.
fn sysfs() -> io::Result<Option<OwnedFd>> {
    /// `SYSFS_MAGIC`.
    const MAGIC: i64 = 0x6265_6572;
    match sys::mount::clone_path(c"/sys", false) {
        Ok(sys) => Ok((rustix::fs::fstatfs(&sys)?.f_type == MAGIC).then_some(sys)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn enter_private(root: &OwnedFd, proc: &OwnedFd, sys: Option<&OwnedFd>) -> io::Result<()> {
    let private = Change { propagation: Some(Propagation::Private), ..Change::default() };
    sys::mount::change_at(c"/", true, private)?;
    sys::mount::attach(root.as_fd(), sys::fs::open_dir(c"/")?.as_fd())?;
    rustix::process::fchdir(root)?;
    let proc_dir = sys::fs::find_in_root(root.as_fd(), c"proc")?;
    sys::mount::attach(proc.as_fd(), proc_dir.as_fd())?;
    if let Some(sys) = sys {
        let dir = sys::fs::find_in_root(root.as_fd(), c"sys")?;
        sys::mount::attach(sys.as_fd(), dir.as_fd())?;
    }
    sys::mount::change(root, false, Change { set: ATTR_RDONLY, ..Change::default() })?;
    sys::mount::pivot_to_current_dir()
}
