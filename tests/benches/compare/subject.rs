//! One of the runtimes that are compared: how it is started, asked, and measured.

use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cri_api::v1;
use futures_util::future::join_all;
use test_support::account::Account;
use test_support::bench;
use test_support::containerd::{self, Containerd};
use test_support::cri::Cri;
use test_support::node::{Node, registry};
use test_support::pods::{ContainerBuilder, PodBuilder};
use test_support::proc::{self, Process};
use test_support::scratch::Scratch;
use test_support::usage::Used;
use tokio::time::timeout;

const PLUGINS: &str = "/usr/lib/cni";
/// Where CRI-O listens unless it is told otherwise. Its configuration is its owner's: it is not
/// started on one of ours.
const CRIO: &str = "/run/crio/crio.sock";
/// Longer than any runtime takes to come back with its pods.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two questions whether something has come about.
pub(crate) const AGAIN: Duration = Duration::from_millis(2);
/// A call that takes longer will not come back.
const CALL: Duration = Duration::from_secs(60);
/// For removing all pods, and how often that is begun: Debian's containerd now and then loses its
/// shim while it stops a pod.
const CLEARING: Duration = Duration::from_secs(120);
const TIMES: usize = 3;

/// Where it runs.
enum Place {
    Knarr(Box<Node>),
    Containerd {
        containerd: Containerd,
        scratch: Scratch,
    },
    /// Somebody else's daemon.
    Running {
        pid: u32,
        scratch: Scratch,
    },
}

pub(crate) struct Subject {
    pub(crate) name: String,
    pub(crate) cri: Cri,
    pub(crate) image: String,
    place: Place,
    account: Option<Account>,
    pods_so_far: usize,
    /// It cannot be brought to where it began: nothing more is measured of it.
    pub(crate) is_out: bool,
}

/// What a process is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Daemon,
    Supervisor,
    Pause,
    Container,
    Helper,
}

/// What processes hold.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Proportional set sizes.
    pub(crate) pss_kib: f64,
    pub(crate) resident_kib: f64,
    pub(crate) processes: usize,
}

/// Of all processes of a runtime at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Consumed {
    pub(crate) cpu_seconds: f64,
    pub(crate) written_mib: f64,
}

impl Subject {
    pub(crate) fn knarr(dist: &Path) -> Result<Self> {
        let mut account = None;
        let node = bench::node(dist, |settings, scratch| {
            // As in production: a log of everything would be measured with it.
            settings.log_level = "info".to_owned();
            let opened = Account::open(scratch);
            settings.group = opened.as_ref().ok().map(|account| account.group().to_owned());
            // More pods than the place's usual subnet has addresses for.
            settings.subnet = scratch.wide_subnet().ok();
            account = Some(opened);
        })?;
        let account = account.context("no account")??;
        let cri = Cri::connect_within(&node.scratch.socket(), CALL)?;
        Self::new("knarr", cri, Place::Knarr(Box::new(node)), Some(account))
    }

    /// Debian's containerd with Debian's runc and plugins, or a daemon that listens at a socket.
    pub(crate) async fn peer(name: &str) -> Result<Self> {
        let scratch = Scratch::claim()?;
        if name == "containerd" {
            bench::furnish(&scratch)?;
            let account = Account::open(&scratch)?;
            let settings = containerd::Settings {
                snapshotter: "overlayfs",
                group: Some(account.group()),
                ..containerd::Settings::new(Path::new(PLUGINS))
            };
            let containerd = Containerd::start(&scratch, settings)?;
            containerd.client().await?;
            let cri = Cri::connect_within(&containerd.socket(), CALL)?;
            return Self::new(name, cri, Place::Containerd { containerd, scratch }, Some(account));
        }
        let path = match name {
            "crio" => CRIO,
            _ => name.strip_prefix("unix://").with_context(|| format!("no such peer: {name}"))?,
        };
        let socket = UnixStream::connect(path).with_context(|| match name {
            "crio" => "no CRI-O answers where it listens by default, and Debian has none: start one, or give its \
                       socket as unix:///PATH"
                .to_owned(),
            _ => format!("connect to {path}"),
        })?;
        let peer = rustix::net::sockopt::socket_peercred(&socket).context("who listens there")?;
        let pid = u32::try_from(peer.pid.as_raw_nonzero().get())?;
        let account = Account::of_running(pid, &scratch);
        if let Err(error) = &account {
            eprintln!("processor time and memory of {name} are not measured: {error:#}");
        }
        let cri = Cri::connect_within(Path::new(path), CALL)?;
        Self::new(name, cri, Place::Running { pid, scratch }, account.ok())
    }

    fn new(name: &str, cri: Cri, place: Place, account: Option<Account>) -> Result<Self> {
        let image = format!("{}/test/busybox:1", registry()?.host());
        let name = name.to_owned();
        Ok(Self { name, cri, image, place, account, pods_so_far: 0, is_out: false })
    }

    fn scratch(&self) -> &Scratch {
        match &self.place {
            Place::Knarr(node) => &node.scratch,
            Place::Containerd { scratch, .. } | Place::Running { scratch, .. } => scratch,
        }
    }

    /// A directory for what a benchmark gives to containers.
    pub(crate) fn dir(&self, name: &str) -> Result<PathBuf> {
        let dir = self.scratch().dir().join(name);
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        Ok(dir)
    }

    pub(crate) async fn version(&self) -> Result<String> {
        let request = v1::VersionRequest::default();
        let version = self.cri.runtime.clone().version(request).await?.into_inner();
        Ok(format!("{} {}", version.runtime_name, version.runtime_version))
    }

    /// A pod as kubelet makes one, of a name that was not used before.
    pub(crate) fn pod(&mut self) -> PodBuilder {
        self.pods_so_far += 1;
        PodBuilder::new(self.scratch(), &format!("bench-{}", self.pods_so_far))
    }

    /// A container of one process that waits.
    pub(crate) fn waiting(&self, pod: &PodBuilder) -> ContainerBuilder {
        pod.container("main", &self.image).command(&["/bin/sleep", "1000000"])
    }

    /// Runs a pod with one waiting container; their ids.
    pub(crate) async fn run(&self, pod: &PodBuilder) -> Result<(String, String)> {
        let pod_id = self.cri.run_pod(pod).await.context("RunPodSandbox")?;
        let container = self.waiting(pod);
        let id = self.cri.create(&pod_id, pod, &container).await.context("CreateContainer")?;
        self.cri.start(&id).await.context("StartContainer")?;
        Ok((pod_id, id))
    }

    pub(crate) async fn end(&self, pod_id: &str) -> Result<()> {
        self.cri.stop_pod(pod_id).await.context("StopPodSandbox")?;
        self.cri.remove_pod(pod_id).await.context("RemovePodSandbox")
    }

    pub(crate) fn daemon_pid(&self) -> Result<u32> {
        match &self.place {
            Place::Knarr(node) => node.daemon.pid(),
            Place::Containerd { containerd, .. } => containerd.pid(),
            Place::Running { pid, .. } => Some(*pid),
        }
        .context("the daemon does not run")
    }

    /// Every process of the runtime and of its pods; none where there is no account.
    pub(crate) fn processes(&self) -> Result<Vec<(Role, Process)>> {
        let daemon = i32::try_from(self.daemon_pid()?)?;
        let Some(account) = &self.account else { return Ok(Vec::new()) };
        let ours = proc::all().into_iter().filter(|p| !p.zombie && account.holds(p));
        Ok(ours.map(|process| (role(&process, daemon, account), process)).collect())
    }

    pub(crate) fn memory(&self, wanted: &[Role]) -> Result<Memory> {
        let mut memory = Memory::default();
        for (role, process) in self.processes()? {
            // One that ends meanwhile holds nothing.
            if let (true, Ok(pss)) = (wanted.contains(&role), proc::pss_kib(process.pid)) {
                let used = Used::of(u32::try_from(process.pid)?);
                memory.pss_kib += pss;
                memory.resident_kib += used.map_or(0.0, |used| used.resident_mib * 1024.0);
                memory.processes += 1;
            }
        }
        Ok(memory)
    }

    pub(crate) fn is_knarr(&self) -> bool {
        matches!(self.place, Place::Knarr(_))
    }

    /// Removes every pod, whatever state it is in: tried several times, within a limit.
    pub(crate) async fn clear(&self) -> Result<()> {
        let remove = async {
            let mut cleared = Ok(());
            for _ in 0..TIMES {
                cleared = self.cri.remove_everything().await;
                if cleared.is_ok() {
                    break;
                }
            }
            cleared
        };
        let limit = || format!("not within {} s", CLEARING.as_secs());
        timeout(CLEARING, remove).await.with_context(limit).flatten()
    }

    /// Removes every pod, several at a time.
    pub(crate) async fn empty(&self) -> Result<()> {
        let pods = self.cri.pods(None).await?;
        let next = AtomicUsize::new(0);
        let caller = async || {
            while let Some(pod) = pods.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.end(&pod.id).await?;
            }
            anyhow::Ok(())
        };
        let done = join_all((0..8).map(|_| caller())).await;
        done.into_iter().collect()
    }

    pub(crate) fn has_account(&self) -> bool {
        self.account.is_some()
    }

    /// Processor time of all that ran since the beginning, and what those that run have written.
    pub(crate) fn consumed(&self) -> Result<Consumed> {
        let Some(account) = &self.account else { return Ok(Consumed::default()) };
        let cpu_seconds = account.cpu_seconds()?;
        let written = self.processes()?.into_iter().filter_map(|(_, process)| {
            Used::of(u32::try_from(process.pid).ok()?).ok().map(|used| used.written_mib)
        });
        Ok(Consumed { cpu_seconds, written_mib: written.sum() })
    }

    /// How often the runtime's own processes of this kind have gone to sleep so far.
    pub(crate) fn sleeps(&self, wanted: Role) -> Result<f64> {
        let mut sum = 0.0;
        for (role, process) in self.processes()? {
            if role == wanted {
                sum += threads_sleeps(process.pid);
            }
        }
        Ok(sum)
    }

    /// `kill -9`, start, and how long until the list is as it was.
    pub(crate) async fn restart(&mut self) -> Result<Duration> {
        let before = self.running().await?;
        match &mut self.place {
            Place::Knarr(node) => node.daemon.kill9()?,
            Place::Containerd { containerd, .. } => containerd.kill9()?,
            Place::Running { .. } => bail!("somebody else's daemon is not restarted"),
        }
        let begun = Instant::now();
        match &mut self.place {
            Place::Knarr(node) => node.daemon.launch(&node.scratch)?,
            Place::Containerd { containerd, .. } => containerd.launch()?,
            Place::Running { .. } => {}
        }
        loop {
            if let Ok(after) = self.running().await
                && after == before
            {
                return Ok(begun.elapsed());
            }
            ensure!(begun.elapsed() < PATIENCE, "the list does not become what it was");
            // Nothing tells when it has come back.
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Containers that run.
    async fn running(&self) -> Result<usize> {
        let all = self.cri.containers(None).await?;
        let is_running = |c: &&v1::Container| c.state() == v1::ContainerState::ContainerRunning;
        Ok(all.iter().filter(is_running).count())
    }

    /// Removes all pods and ends the daemon, if it is ours.
    pub(crate) async fn finish(self) -> Result<()> {
        match self.place {
            Place::Knarr(node) => node.finish().await,
            Place::Containerd { .. } => {
                let cleared = self.clear().await;
                // Its processes and what they have left go with its place.
                drop(self.place);
                cleared
            }
            // What others run there is not ours to remove.
            Place::Running { .. } => Ok(()),
        }
    }
}

fn role(process: &Process, daemon: i32, account: &Account) -> Role {
    let name = process.cmdline.split(' ').next().unwrap_or_default();
    let name = name.rsplit('/').next().unwrap_or_default();
    match name {
        _ if process.pid == daemon => Role::Daemon,
        "knarr-shim" | "conmon" | "conmonrs" => Role::Supervisor,
        _ if name.starts_with("containerd-shim") => Role::Supervisor,
        "pause" => Role::Pause,
        // The pause container of this place's containerd is a busybox that sleeps.
        "busybox" if process.cmdline.contains("sleep") => Role::Pause,
        _ if account.is_runtime(process) => Role::Helper,
        _ => Role::Container,
    }
}

/// Voluntary switches of all threads.
fn threads_sleeps(pid: i32) -> f64 {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return 0.0 };
    let of = |path: PathBuf| {
        let status = std::fs::read_to_string(path.join("status")).ok()?;
        proc::status_field(&status, "voluntary_ctxt_switches")?.parse::<f64>().ok()
    };
    threads.flatten().filter_map(|thread| of(thread.path())).sum()
}
