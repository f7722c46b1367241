//! One shim in a state directory of its own, and everything it may leave behind.

use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use launch::plan::{CgroupPlan, Hierarchy, LaunchPlan};
use model::{ContainerId, SandboxId};
use shim_protocol::{Body, PodReady, PodSetup, Response, StartContainer, StartExec, Started};
use sys::cgroup::Version;
use tempfile::TempDir;

use crate::client::Client;
use crate::plans;

/// False, with a word why, where the tests cannot run.
pub(crate) fn can_run() -> bool {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root");
        return false;
    }
    if !Path::new("/bin/busybox").exists() {
        println!("skipped: needs /bin/busybox (Debian: busybox-static)");
        return false;
    }
    true
}

fn random() -> [u8; 32] {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

pub(crate) struct Shim {
    process: Child,
    dir: TempDir,
    pub(crate) sandbox: SandboxId,
    cgroups: Vec<CgroupPlan>,
}

impl Shim {
    /// Starts the program as the daemon does.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = SandboxId::from_random(random());
        let state = dir.path().join(sandbox.as_str());
        std::fs::create_dir(&state).unwrap();
        make_root(&dir.path().join("root"));
        let listener = UnixListener::bind(dir.path().join("shim.sock")).unwrap();
        let log = std::fs::File::create(dir.path().join("shim.log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_knarr-shim"))
            .arg(&state)
            .stdin(Stdio::from(OwnedFd::from(listener)))
            .stderr(log)
            .spawn()
            .unwrap();
        Self { process, dir, sandbox, cgroups: Vec::new() }
    }

    /// A shim with a ready pod that has every namespace of its own, and a client.
    pub(crate) fn with_pod() -> (Self, Client) {
        let shim = Self::start();
        let mut client = shim.client();
        shim.set_up(&mut client, shim.setup());
        (shim, client)
    }

    pub(crate) fn setup(&self) -> PodSetup {
        PodSetup {
            sandbox: self.sandbox.as_str().to_owned(),
            new_net: true,
            new_ipc: true,
            new_uts: true,
            hostname: Some("a-pod".to_owned()),
            netns_path: Some(self.pin().to_str().unwrap().to_owned()),
            ..PodSetup::default()
        }
    }

    #[track_caller]
    pub(crate) fn set_up(&self, client: &mut Client, setup: PodSetup) -> PodReady {
        match client.ask(Body::SetupPod(Box::new(setup))) {
            Response::PodReady(ready) => ready,
            other => panic!("pod not ready but {other:?}; {}", self.log()),
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket()).hello()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("shim.sock")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Where the pod's network namespace is pinned.
    pub(crate) fn pin(&self) -> PathBuf {
        self.dir.path().join("netns").join("pod")
    }

    pub(crate) fn root(&self) -> String {
        self.dir.path().join("root").to_str().unwrap().to_owned()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn log_of(&self, container: &ContainerId) -> PathBuf {
        self.path(&format!("{}.log", container.short()))
    }

    /// What the shim has to say.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("shim.log")).unwrap()
    }

    pub(crate) fn exit_record(&self, container: &ContainerId) -> PathBuf {
        self.dir.path().join(self.sandbox.as_str()).join("exits").join(container.as_str())
    }

    /// A new container that runs a script, not started.
    pub(crate) fn container(&mut self, script: &str) -> (StartContainer, ContainerId, LaunchPlan) {
        let id = ContainerId::from_random(random());
        let cgroup = plans::cgroup(&format!("knarr-shim-test-{id}"));
        self.cgroups.push(cgroup.clone());
        let plan = plans::shell(&self.root(), cgroup, script);
        let start = StartContainer {
            container: id.as_str().to_owned(),
            plan: plan.encode(),
            log_path: Some(self.log_of(&id).to_str().unwrap().to_owned()),
            ..StartContainer::default()
        };
        (start, id, plan)
    }

    /// Starts a container that runs a script.
    #[track_caller]
    pub(crate) fn run(&mut self, client: &mut Client, script: &str) -> (ContainerId, LaunchPlan) {
        let (start, id, plan) = self.container(script);
        self.started(client, start);
        (id, plan)
    }

    #[track_caller]
    pub(crate) fn started(&self, client: &mut Client, start: StartContainer) -> Started {
        match client.ask(Body::Start(Box::new(start))) {
            Response::Started(started) => started,
            other => panic!("not started but {other:?}; {}", self.log()),
        }
    }

    /// Runs a script to its end; what is in its log, without time stamps.
    #[track_caller]
    pub(crate) fn output(&mut self, client: &mut Client, script: &str) -> Vec<String> {
        let (id, _) = self.run(client, script);
        client.exit_of(id.as_str());
        self.records(&id)
    }

    /// A container's log records, without time stamps.
    pub(crate) fn records(&self, container: &ContainerId) -> Vec<String> {
        records(&self.log_of(container))
    }

    /// Asks for the end and waits for it.
    #[track_caller]
    pub(crate) fn shut_down(&mut self, client: &mut Client) {
        client.done(Body::Shutdown);
        assert!(self.wait().success());
    }

    /// Sends it SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = i32::try_from(self.pid()).ok().and_then(rustix::process::Pid::from_raw).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.process.wait().unwrap()
    }

    /// Cgroups of its containers that exist.
    pub(crate) fn cgroups_left(&self) -> Vec<String> {
        let groups = self.cgroups.iter().flat_map(|plan| &plan.groups);
        groups.map(|group| group.path.clone()).filter(|path| Path::new(path).exists()).collect()
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        // Ended already in tests that shut it down.
        self.process.kill().ok();
        self.process.wait().ok();
        for group in self.cgroups.iter().flat_map(|plan| &plan.groups) {
            let (version, freezer) = match &group.hierarchy {
                Hierarchy::V2 => (Version::V2, false),
                Hierarchy::V1(controllers) => {
                    (Version::V1 { cpuset: false }, controllers.iter().any(|c| c == "freezer"))
                }
            };
            sys::cgroup::kill_all(version, &group.path, freezer).ok();
            sys::cgroup::remove(&group.path).ok();
        }
        rustix::mount::unmount(self.pin(), rustix::mount::UnmountFlags::DETACH).ok();
        if std::thread::panicking() {
            println!("shim log:\n{}", self.log());
        }
    }
}

/// Asks again and again what no event tells; a test that waits too long fails.
#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !holds() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// Log records of a file, without time stamps.
pub(crate) fn records(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

/// An exec of a script.
pub(crate) fn exec(number: u64, id: &ContainerId, plan: &LaunchPlan, script: &str) -> StartExec {
    StartExec {
        exec: number,
        container: id.as_str().to_owned(),
        plan: plans::exec_shell(&plan.cgroup, script).encode(),
        terminal: false,
        process: None,
    }
}

/// A root with busybox under the names the scripts use.
fn make_root(root: &Path) {
    for dir in ["bin", "proc", "dev", "tmp"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "cat", "sleep", "hostname", "kill", "setsid", "head", "tail", "tr", "true", "tty",
        "readlink", "echo", "ls", "ps", "mknod", "wc", "dd", "id", "df", "stat", "grep", "ip",
        "stty",
    ] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).unwrap();
    }
}
