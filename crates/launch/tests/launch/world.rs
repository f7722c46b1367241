//! What cases share: a busybox root, scratch space, a launcher, plans to vary.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use launch::plan::{
    CapabilitySets, CgroupPlan, EnvEntry, ExecPlan, FsOption, LaunchPlan, MountPlan, MountSource,
    Namespace, Namespaces, PidNamespace, ProcessPlan, Propagation, RootPlan, RootSource,
    UserNamespace,
};
use launch::{Io, LaunchError, Launcher, Running};
use sys::pidfd::Ended;

/// `MOUNT_ATTR_*` by name.
pub(crate) const RO: u64 = 1;
pub(crate) const NOSUID: u64 = 2;
pub(crate) const NODEV: u64 = 4;
pub(crate) const NOEXEC: u64 = 8;

/// The sets most containers get.
pub(crate) const DEFAULT_CAPS: u64 = 0xa804_25fb;

/// A read-only lower layer, shared by all cases.
pub(crate) struct BaseRoot(tempfile::TempDir);

impl BaseRoot {
    pub(crate) fn build() -> Option<Self> {
        let busybox = Path::new("/bin/busybox");
        let list = Command::new(busybox).arg("--list").output().ok()?;
        let root = tempfile::Builder::new().prefix("knarr-launch-root").tempdir().unwrap();
        for dir in ["bin", "etc", "tmp", "proc", "sys", "dev", "root", "home"] {
            fs::create_dir(root.path().join(dir)).unwrap();
        }
        let first = root.path().join("bin/busybox");
        fs::copy(busybox, &first).unwrap();
        for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|a| *a != "busybox") {
            fs::hard_link(&first, root.path().join("bin").join(applet)).unwrap();
        }
        fs::write(root.path().join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        Some(Self(root))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

/// What one case has.
pub(crate) struct World {
    pub(crate) launcher: Launcher,
    /// Scratch space on the host.
    pub(crate) scratch: PathBuf,
    base: PathBuf,
    _scratch: Scratch,
    cgroups: Vec<CgroupPlan>,
    /// What was launched to stay, killed at the end.
    stay: RefCell<Vec<OwnedFd>>,
}

/// Removed from the host's view, which the case may have left.
struct Scratch(PathBuf, OwnedFd);

impl Drop for Scratch {
    fn drop(&mut self) {
        let own = sys::namespace::own(sys::namespace::Kind::Mount).unwrap();
        sys::namespace::enter(self.1.as_fd(), sys::namespace::Kind::Mount).unwrap();
        fs::remove_dir_all(&self.0).unwrap();
        sys::namespace::enter(own.as_fd(), sys::namespace::Kind::Mount).unwrap();
    }
}

/// How a program ended and what it wrote.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) ended: Ended,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// The lines of a program that succeeded.
    pub(crate) fn text(self) -> String {
        assert_eq!(self.ended, Ended::Exited(0), "{self:?}");
        self.stdout
    }
}

impl World {
    pub(crate) fn new(base: &BaseRoot) -> Self {
        let scratch = tempfile::Builder::new().prefix("knarr-launch").tempdir().unwrap().keep();
        let host = sys::namespace::own(sys::namespace::Kind::Mount).unwrap();
        for dir in ["upper", "work", "staging"] {
            fs::create_dir(scratch.join(dir)).unwrap();
        }
        let guard = Scratch(scratch.clone(), host);
        let launcher = Launcher::in_private_namespace().unwrap();
        let base = base.path().to_owned();
        Self {
            launcher,
            scratch,
            base,
            _scratch: guard,
            cgroups: Vec::new(),
            stay: RefCell::default(),
        }
    }

    /// Runs `f` where the host's files are.
    pub(crate) fn host<T>(&self, f: impl FnOnce() -> T) -> T {
        self.launcher.with_host(f).unwrap()
    }

    /// A path in the scratch space as text.
    pub(crate) fn path(&self, name: &str) -> String {
        self.scratch.join(name).to_str().unwrap().to_owned()
    }

    /// A file or directory for the image, seen through the overlay's upper directory.
    pub(crate) fn upper(&self, name: &str) -> PathBuf {
        self.scratch.join("upper").join(name)
    }

    /// Has a cgroup removed when the case ends.
    pub(crate) fn owns(&mut self, plan: &CgroupPlan) {
        self.cgroups.push(plan.clone());
    }

    /// An ordinary container that runs a shell command.
    pub(crate) fn plan(&self, command: &str) -> LaunchPlan {
        LaunchPlan {
            process: process(command),
            namespaces: Namespaces {
                pid: PidNamespace::New,
                net: Namespace::Inherit,
                ipc: Namespace::New,
                uts: Namespace::New,
                cgroup: Namespace::New,
                user: UserNamespace::Inherit,
                ..Namespaces::default()
            },
            root: RootPlan {
                source: RootSource::Overlay {
                    lower: vec![self.base.to_str().unwrap().to_owned()],
                    upper: self.path("upper"),
                    work: self.path("work"),
                },
                readonly: false,
                propagation: Propagation::Private,
                label: None,
            },
            mounts: vec![
                new("/proc", "proc", NOSUID | NODEV | NOEXEC, &[]),
                new("/dev", "tmpfs", NOSUID, &[("mode", "755"), ("size", "65536k")]),
                new(
                    "/dev/pts",
                    "devpts",
                    NOSUID | NOEXEC,
                    &[("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")],
                ),
                new("/dev/mqueue", "mqueue", NOSUID | NODEV | NOEXEC, &[]),
                new("/sys", "sysfs", RO | NOSUID | NODEV | NOEXEC, &[]),
            ],
            devices: Vec::new(),
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
            sysctls: Vec::new(),
            hostname: None,
            cgroup: CgroupPlan::default(),
            net_devices: vec![],
            hooks: None,
        }
    }

    /// Launches, waits for the end, collects what was written.
    pub(crate) fn run(&self, plan: &LaunchPlan) -> Output {
        self.try_run(plan).unwrap_or_else(|error| panic!("{}", error.sentence()))
    }

    pub(crate) fn try_run(&self, plan: &LaunchPlan) -> Result<Output, LaunchError> {
        collect(|io| self.launcher.launch(plan, io))
    }

    /// Launches something that stays.
    pub(crate) fn launch(&self, plan: &LaunchPlan) -> Running {
        let null = self.null();
        let null = null.as_fd();
        let io = Io::Files { stdin: null, stdout: null, stderr: null };
        let running =
            self.launcher.launch(plan, io).unwrap_or_else(|error| panic!("{}", error.sentence()));
        self.stay.borrow_mut().push(running.pidfd.try_clone().unwrap());
        running
    }

    pub(crate) fn exec(&self, command: &str, target: &Running) -> Output {
        let plan = ExecPlan { process: process(command), cgroup: CgroupPlan::default() };
        self.try_exec(&plan, target).unwrap_or_else(|error| panic!("{}", error.sentence()))
    }

    pub(crate) fn try_exec(
        &self,
        plan: &ExecPlan,
        target: &Running,
    ) -> Result<Output, LaunchError> {
        collect(|io| self.launcher.exec(plan, target.pidfd.as_fd(), io))
    }

    pub(crate) fn null(&self) -> OwnedFd {
        let open = || File::options().read(true).write(true).open("/dev/null").unwrap();
        self.host(open).into()
    }

    /// The error of a launch that must not succeed.
    pub(crate) fn refused(&self, plan: &LaunchPlan) -> LaunchError {
        match self.try_run(plan) {
            Ok(output) => panic!("it ran: {output:?}"),
            Err(error) => error,
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for process in self.stay.borrow().iter() {
            sys::pidfd::kill(process.as_fd()).ok();
            sys::pidfd::wait(process.as_fd()).ok();
        }
        for plan in &self.cgroups {
            self.launcher.kill_all(plan).ok();
            while let Ok(Some(_)) = rustix::process::wait(rustix::process::WaitOptions::NOHANG) {}
            self.launcher.remove_cgroups(plan).unwrap();
        }
    }
}

fn collect(
    launch: impl FnOnce(Io<'_>) -> Result<Running, LaunchError>,
) -> Result<Output, LaunchError> {
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let ((stdin, in_end), (out, stdout), (err, stderr)) = (pipe(), pipe(), pipe());
    drop(in_end);
    let io = Io::Files { stdin: stdin.as_fd(), stdout: stdout.as_fd(), stderr: stderr.as_fd() };
    let running = launch(io);
    drop((stdin, stdout, stderr));
    let running = running?;
    // Cases write less than a pipe holds to stderr.
    let text = |fd: OwnedFd| {
        let mut text = String::new();
        File::from(fd).read_to_string(&mut text).unwrap();
        text
    };
    let (stdout, stderr) = (text(out), text(err));
    let ended = sys::pidfd::wait(running.pidfd.as_fd()).unwrap();
    Ok(Output { ended, stdout, stderr })
}

pub(crate) fn process(command: &str) -> ProcessPlan {
    let env = ["PATH=/bin", "KIND=test"];
    ProcessPlan {
        args: ["sh", "-c", command].map(str::to_owned).to_vec(),
        env: env.map(|entry| EnvEntry(entry.as_bytes().to_vec())).to_vec(),
        cwd: "/".to_owned(),
        capabilities: CapabilitySets {
            bounding: DEFAULT_CAPS,
            effective: DEFAULT_CAPS,
            permitted: DEFAULT_CAPS,
            inheritable: 0,
            ambient: 0,
        },
        no_new_privs: true,
        umask: Some(0o022),
        ..ProcessPlan::default()
    }
}

/// A new file system; an option with an empty value is a flag.
pub(crate) fn new(
    target: &str,
    fstype: &str,
    attr_set: u64,
    options: &[(&str, &str)],
) -> MountPlan {
    let option = |(key, value): &(&str, &str)| FsOption {
        key: (*key).to_owned(),
        value: (!value.is_empty()).then(|| (*value).to_owned()),
    };
    MountPlan {
        target: target.to_owned(),
        source: MountSource::New {
            fstype: fstype.to_owned(),
            source: fstype.to_owned(),
            options: options.iter().map(option).collect(),
            copy_up: false,
        },
        attr_set,
        attr_clear: 0,
        attr_recursive: false,
        propagation: Propagation::Private,
        ids: None,
        label: None,
    }
}

/// A bind mount of a host path.
pub(crate) fn bind(path: &str, target: &str, attr_set: u64) -> MountPlan {
    MountPlan {
        target: target.to_owned(),
        source: MountSource::Bind { path: path.to_owned(), recursive: true },
        attr_set,
        attr_clear: 0,
        attr_recursive: false,
        propagation: Propagation::Private,
        ids: None,
        label: None,
    }
}
