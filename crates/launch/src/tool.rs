//! Programs of the host that do the launcher's work: other OCI runtimes. They see the host's mounts;
//! those that make a container also see what only the launcher has, in a copy of the host's mount
//! namespace that ends with them. So nothing of it is ever in the host's mount table, and nothing has
//! to be taken away afterwards.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
use sys::mount::{Change, Propagation};
use sys::namespace::{self, Kind};
use sys::process::{Child, NewNamespaces};

use crate::error::{At, LaunchError, Step};
use crate::hooks;
use crate::host;
use crate::launcher::Launcher;
use crate::plan::{LaunchPlan, MountSource, PidNamespace, UserNamespace};

/// The status of a program that could not be executed, as shells have it.
const CANNOT_EXEC: i32 = 127;

/// A program of the host and its words.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tool {
    /// Absolute path.
    pub path: String,
    /// All of them but the program's name.
    pub args: Vec<String>,
    /// `KEY=value` entries; nothing is inherited.
    pub env: Vec<String>,
    /// Its OOM score adjustment; absent: the launcher's own.
    pub oom_score_adj: Option<i32>,
}

/// A tool's standard files.
#[derive(Debug, Clone, Copy)]
pub struct ToolIo<'a> {
    /// 0.
    pub stdin: BorrowedFd<'a>,
    /// 1.
    pub stdout: BorrowedFd<'a>,
    /// 2.
    pub stderr: BorrowedFd<'a>,
    /// Gets one sentence when the tool cannot be executed at all.
    pub complaint: BorrowedFd<'a>,
}

/// An image that specs name by a path at which the host has nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePath {
    /// That path.
    pub path: String,
    /// Its layers' directories, topmost first.
    pub lower: Vec<String>,
}

/// What a tool that makes a container has to find, by the paths of the container's spec.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Directory on the host that all these paths are below.
    pub dir: &'a str,
    /// The root file system.
    pub rootfs: &'a str,
    /// The pod's PID namespace, where the plan joins it.
    pub pod_pid: &'a str,
    /// The pod's user namespace, where the plan joins it.
    pub pod_user: &'a str,
    /// Images.
    pub images: &'a [ImagePath],
}

/// A copy of the host's mount namespace with what was wanted in it. It lasts as long as this and what
/// runs in it.
#[derive(Debug)]
pub struct View(OwnedFd);

impl Launcher {
    /// Makes a mount namespace that has what is `wanted` for the container of a plan. The places to
    /// put it are made on the host, below `wanted.dir`, and stay empty there. Blocks for as long as the
    /// kernel takes to copy the host's mount table once.
    ///
    /// # Errors
    /// [`LaunchError`]; the places may be left.
    pub fn view(&self, plan: &LaunchPlan, wanted: &Wanted<'_>) -> Result<View, LaunchError> {
        if self.host_mounts().is_none() {
            return Err(LaunchError::bad_plan("the launcher has not left the host's mounts"));
        }
        let mounts = self.wanted_mounts(plan, wanted)?;
        self.on_host(|| {
            // Left again, whatever happens: the way back is to the launcher's own.
            let subject = wanted.dir;
            namespace::unshare(&[Kind::Mount]).at(Step::PrivateNamespace, "unshare")?;
            // What is mounted below `dir` must not come to the host by propagation. The rest stays as
            // it is: containers may share mounts with the host both ways.
            let slave = Change { propagation: Some(Propagation::Slave), ..Change::default() };
            mount_point_of(subject)
                .and_then(|point| sys::mount::change_at(&point, false, slave))
                .at(Step::MountAttributes, subject)?;
            for (mount, path) in &mounts {
                sys::mount::attach_at(mount.as_fd(), path.as_str()).at(Step::MountTarget, path)?;
            }
            namespace::own(Kind::Mount).map(View).at(Step::NamespaceOpen, "mnt")
        })
    }

    /// What is wanted, detached, with its places.
    fn wanted_mounts(
        &self,
        plan: &LaunchPlan,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<(OwnedFd, String)>, LaunchError> {
        let user = self.user_namespace(plan)?;
        let own = host::own(plan, user.as_ref().map(AsFd::as_fd));
        let mut mounts = self.on_host(|| {
            make_place(wanted.rootfs, Place::Directory)?;
            let root = host::root(&plan.root, own)?;
            let mut mounts = vec![(root, wanted.rootfs.to_owned())];
            for ImagePath { path, lower } in wanted.images {
                // Once: a mount on top of another that the host shares would come to the host.
                if mounts.iter().any(|(_, place)| place == path) {
                    continue;
                }
                make_place(path, Place::Directory)?;
                let image = host::image::whole(lower, plan.root.label.as_deref()).map_err(
                    |(subject, error)| LaunchError::new(Step::BindSource, subject, error),
                )?;
                mounts.push((image, path.clone()));
            }
            Ok(mounts)
        })?;
        for path in plan.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Launcher { path } => Some(path),
            MountSource::Bind { .. }
            | MountSource::New { .. }
            | MountSource::Cgroup
            | MountSource::Image { .. } => None,
        }) {
            let copy = sys::mount::clone_path(path.as_str(), false).at(Step::BindSource, path)?;
            self.on_host(|| make_place(path, Place::Directory))?;
            mounts.push((copy, path.clone()));
        }
        let pid = self.pod_pidns.as_ref().filter(|_| plan.namespaces.pid == PidNamespace::Pod);
        let users = self.pod_user.as_ref().filter(|_| plan.namespaces.user == UserNamespace::Pod);
        for (namespace, path) in [(pid, wanted.pod_pid), (users, wanted.pod_user)] {
            let Some(namespace) = namespace else { continue };
            let file = sys::mount::clone_tree(namespace, c"", false).at(Step::BindSource, path)?;
            self.on_host(|| make_place(path, Place::File))?;
            mounts.push((file, path.to_owned()));
        }
        Ok(mounts)
    }

    /// Starts a tool in a session of its own, as a child to be reaped by the caller. It sees the host's
    /// mounts, or those of a view.
    ///
    /// # Errors
    /// No process could be made. That the program cannot be executed is told by its status (127)
    /// and on `io.complaint`.
    pub fn spawn_tool(
        &self,
        tool: &Tool,
        io: ToolIo<'_>,
        view: Option<&View>,
    ) -> io::Result<Child> {
        let path = CString::new(tool.path.as_bytes())?;
        let name = [&tool.path].into_iter();
        let args = words(name.chain(&tool.args))?;
        let env = words(tool.env.iter())?;
        hooks::ensure_one_thread()?;
        let mounts = view.map(|view| view.0.as_fd()).or_else(|| self.host_mounts());
        let score = tool.oom_score_adj;
        let body = || {
            let ready = become_tool(mounts, score).and_then(|()| take_files(io));
            let error = match ready {
                Ok(()) => sys::process::execve(&path, &args, &env),
                Err(error) => error,
            };
            rustix::io::write(io.complaint, error.to_string().as_bytes()).ok();
            CANNOT_EXEC
        };
        // SAFETY: this is the only thread, as was just seen, and only it could make another.
        unsafe { sys::process::clone_child(NewNamespaces::default(), None, body) }
    }
}

fn words<'a>(words: impl Iterator<Item = &'a String>) -> io::Result<Vec<CString>> {
    words.map(|word| Ok(CString::new(word.as_bytes())?)).collect()
}

/// The child goes to where the tool works.
fn become_tool(mounts: Option<BorrowedFd<'_>>, oom_score_adj: Option<i32>) -> io::Result<()> {
    if let Some(score) = oom_score_adj {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())?;
    }
    mounts.map_or(Ok(()), |mounts| namespace::enter(mounts, Kind::Mount))
}

fn take_files(io: ToolIo<'_>) -> io::Result<()> {
    rustix::stdio::dup2_stdin(io.stdin)?;
    rustix::stdio::dup2_stdout(io.stdout)?;
    rustix::stdio::dup2_stderr(io.stderr)?;
    // A group of its own, so that all it starts can be killed with it.
    rustix::process::setsid()?;
    sys::signal::reset_all()?;
    sys::process::close_on_exec_from(3)
}

/// Where the mount that a path is on begins.
fn mount_point_of(path: &str) -> io::Result<CString> {
    let mut at = Path::new(path);
    loop {
        let stat = rustix::fs::statx(CWD, at, AtFlags::empty(), StatxFlags::BASIC_STATS)?;
        if stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            break;
        }
        match at.parent() {
            Some(above) => at = above,
            None => break,
        }
    }
    Ok(CString::new(at.as_os_str().as_encoded_bytes())?)
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Directory,
    File,
}

fn make_place(path: &str, place: Place) -> Result<(), LaunchError> {
    let make = || match place {
        Place::Directory => std::fs::create_dir_all(path),
        Place::File => std::fs::OpenOptions::new().create(true).append(true).open(path).map(drop),
    };
    make().at(Step::MountTarget, path)
}
