//! One test's node: a scratch place, a daemon, a client, and the leak check at the end.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use cri_api::v1;
use tonic::Status;

use crate::cri::Cri;
use crate::daemon::{Daemon, Settings};
use crate::handlers::Runtime;
use crate::images::{OciImage, catalog};
use crate::leaks::Leaks;
use crate::pods::{ContainerBuilder, PodBuilder};
use crate::registry::LocalRegistry;
use crate::scratch::Scratch;

/// How long a test waits for something that is bound to happen.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where `knarr` and `knarr-shim` lie, or why a ring-2 test cannot run.
///
/// # Errors
/// The reason, for `skipped: …`.
pub fn dist() -> Result<PathBuf, String> {
    if !rustix::process::geteuid().is_root() {
        return Err("not root".to_owned());
    }
    let dir = std::env::var_os("KNARR_DIST").map(PathBuf::from);
    let dir = dir.ok_or("KNARR_DIST is not set: run `cargo xtask test`")?;
    for name in ["knarr", "knarr-shim"] {
        let path = dir.join(name);
        if !path.exists() {
            return Err(format!("{} is missing: run `cargo xtask test`", path.display()));
        }
    }
    Ok(dir)
}

/// Runs a ring-2 test: `test` on a node of its own, then removes every pod and looks for leaks.
/// Where the ring is missing it prints why and does nothing.
///
/// # Errors
/// The test's, or the leaks.
///
/// # Panics
/// Never: the daemon's log is printed when the test panics or fails.
pub fn on_a_node(test: impl AsyncFnOnce(&mut Node) -> Result<()>) -> Result<()> {
    on_a_node_with(|_, _| {}, test)
}

/// As [`on_a_node`], with settings of the test's choice.
///
/// # Errors
/// As for [`on_a_node`].
pub fn on_a_node_with(
    change: impl FnOnce(&mut Settings, &Scratch),
    test: impl AsyncFnOnce(&mut Node) -> Result<()>,
) -> Result<()> {
    let dist = match dist() {
        Ok(dist) => dist,
        Err(why) => {
            crate::skip(&why);
            return Ok(());
        }
    };
    block_on(async {
        let mut node = Node::begin(&dist, change)?;
        test(&mut node).await?;
        node.finish().await
    })
}

/// Runs a test's future to its end.
///
/// # Errors
/// The future's, or the async runtime does not start.
pub fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .context("start the async runtime")?;
    runtime.block_on(future)
}

/// The registry all tests of this process share, with every image of the catalogue.
///
/// # Errors
/// An image cannot be made.
pub fn registry() -> Result<&'static LocalRegistry> {
    static REGISTRY: OnceLock<Result<LocalRegistry, String>> = OnceLock::new();
    let made = REGISTRY.get_or_init(|| {
        let fill = || -> Result<LocalRegistry> {
            let registry = LocalRegistry::start()?;
            for image in catalog::test_images()? {
                registry.add(&image)?;
            }
            Ok(registry)
        };
        fill().map_err(|e| format!("{e:#}"))
    });
    made.as_ref().map_err(|e| anyhow!("the tests' registry: {e}"))
}

/// A daemon with its place, its client and the shared registry.
#[derive(Debug)]
pub struct Node {
    /// The daemon; before `scratch`, so that it is dead before its place is swept.
    pub daemon: Daemon,
    /// Its client.
    pub cri: Cri,
    /// Its place.
    pub scratch: Scratch,
    finished: bool,
}

impl Node {
    /// A node of the caller's own, which ends with [`Node::finish`].
    ///
    /// # Errors
    /// The place is not to be had, or the daemon does not start.
    pub fn begin(dist: &Path, change: impl FnOnce(&mut Settings, &Scratch)) -> Result<Self> {
        let scratch = Scratch::claim()?;
        if let Some(runtime) = Runtime::from_environment()? {
            runtime.make_default(&scratch)?;
        }
        let mut settings = Settings::new(dist.to_owned());
        settings.plain_registries.push(registry()?.host());
        change(&mut settings, &scratch);
        Self::start(scratch, settings)
    }

    fn start(scratch: Scratch, settings: Settings) -> Result<Self> {
        let daemon = Daemon::start(&scratch, settings)?;
        let cri = Cri::connect(&scratch.socket())?;
        Ok(Self { daemon, cri, scratch, finished: false })
    }

    /// Full name of an image of the shared registry: `busybox` is `<host>/test/busybox:1`.
    ///
    /// # Errors
    /// The registry could not be made.
    pub fn image(&self, name: &str) -> Result<String> {
        Ok(format!("{}/test/{name}:1", registry()?.host()))
    }

    /// Pulls an image of the shared registry; its full name.
    ///
    /// # Errors
    /// The pull's.
    pub async fn pulled(&self, name: &str) -> Result<String> {
        let reference = self.image(name)?;
        self.cri.pull(&reference).await.with_context(|| format!("pull {reference}"))?;
        Ok(reference)
    }

    /// Offers an image made by the test itself; its full name.
    ///
    /// # Errors
    /// The registry could not be made.
    pub fn offer(&self, image: &OciImage) -> Result<String> {
        registry()?.add(image)?;
        Ok(format!("{}/{}:{}", registry()?.host(), image.repository, image.tag))
    }

    /// A pod of this node.
    pub fn pod(&self, name: &str) -> PodBuilder {
        PodBuilder::new(&self.scratch, name)
    }

    /// Runs a pod with one started container.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn run(
        &self,
        pod: &PodBuilder,
        container: &ContainerBuilder,
    ) -> Result<(String, String)> {
        let pod_id = self.cri.run_pod(pod).await.context("RunPodSandbox")?;
        let id = self.cri.create(&pod_id, pod, container).await.context("CreateContainer")?;
        self.cri.start(&id).await.context("StartContainer")?;
        Ok((pod_id, id))
    }

    /// Pod `name` with one busybox container `main` that sleeps.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn sleeper(&self, name: &str) -> Result<(String, String)> {
        let image = self.pulled("busybox").await?;
        let pod = self.pod(name);
        let (pod_id, id) = self.run(&pod, &pod.container("main", &image).sleeper()).await?;
        self.wait_log(&id, "asleep").await?;
        Ok((pod_id, id))
    }

    /// Runs `script` to its end in a container that `change` may shape; final status and log.
    ///
    /// # Errors
    /// The daemon's, or the script does not end.
    pub async fn run_to_end(
        &self,
        pod: &PodBuilder,
        container: &ContainerBuilder,
    ) -> Result<(v1::ContainerStatus, Vec<LogLine>)> {
        let (_, id) = self.run(pod, container).await?;
        let status = self.wait_exited(&id).await?;
        let lines = log_lines(Path::new(&status.log_path))?;
        Ok((status, lines))
    }

    /// Waits until the container has exited.
    ///
    /// # Errors
    /// It does not within [`PATIENCE`].
    pub async fn wait_exited(&self, id: &str) -> Result<v1::ContainerStatus> {
        let wait = async {
            let request = v1::GetEventsRequest {};
            let events = self.cri.runtime.clone().get_container_events(request).await?;
            let mut events = events.into_inner();
            loop {
                let status = self.cri.container(id).await?;
                if status.state() == v1::ContainerState::ContainerExited {
                    return Ok(status);
                }
                if events.message().await?.is_none() {
                    return Err(Status::unavailable("the stream of events ended"));
                }
            }
        };
        let ended = tokio::time::timeout(PATIENCE, wait).await;
        let status = ended.with_context(|| format!("container {id} does not exit"))?;
        status.with_context(|| format!("wait for container {id}"))
    }

    /// Starts the daemon that was killed. The client has not yet noticed that its connection is gone,
    /// and would lose its next call to that.
    ///
    /// # Errors
    /// It does not come back.
    pub fn launch(&mut self) -> Result<()> {
        self.daemon.launch(&self.scratch)?;
        self.cri = Cri::connect(&self.scratch.socket())?;
        Ok(())
    }

    /// Kills the daemon and starts it again.
    ///
    /// # Errors
    /// It does not come back.
    pub fn crash_and_restart(&mut self) -> Result<()> {
        self.daemon.kill9()?;
        self.launch()
    }

    /// Path of a container's log.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn log_path(&self, id: &str) -> Result<PathBuf> {
        Ok(PathBuf::from(self.cri.container(id).await?.log_path))
    }

    /// The host's number of a running container's first process.
    ///
    /// # Errors
    /// The daemon's, or it does not tell.
    pub async fn pid_of(&self, id: &str) -> Result<i32> {
        let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let answer = self.cri.runtime.clone().container_status(request).await?.into_inner();
        let info: serde_json::Value =
            serde_json::from_str(answer.info.get("info").context("no info")?)?;
        Ok(i32::try_from(info["pid"].as_i64().context("no pid")?)?)
    }

    /// Waits until a container's log holds `text`.
    ///
    /// # Errors
    /// It does not within [`PATIENCE`].
    pub async fn wait_log(&self, id: &str, text: &str) -> Result<()> {
        let path = self.log_path(id).await?;
        let text = text.to_owned();
        let wait = move || {
            crate::files::wait_for(&path, PATIENCE, |log| log.contains(&text).then_some(()))
        };
        tokio::task::spawn_blocking(wait).await.context("wait for the log")?
    }

    /// Removes every pod and looks for what is left.
    ///
    /// # Errors
    /// The daemon's, or what is left.
    pub async fn finish(mut self) -> Result<()> {
        if self.daemon.pid().is_some() {
            self.cri.remove_everything().await.context("remove every pod")?;
        }
        let leaks = Leaks::of(&self.scratch).assert_none();
        self.finished = leaks.is_ok();
        leaks
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.finished {
            eprintln!("--- log of the daemon ---\n{}", self.daemon.log_text());
        }
    }
}

/// One record of a container's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// RFC 3339 with nanoseconds.
    pub time: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// `F`, or `P` when the line goes on.
    pub tag: String,
    /// What was written, without the newline.
    pub text: String,
}

/// Reads a log file.
///
/// # Errors
/// A record does not have the CRI's form.
pub fn log_lines(path: &Path) -> Result<Vec<LogLine>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    text.lines()
        .map(|line| {
            let mut fields = line.splitn(4, ' ').map(str::to_owned);
            let mut next = || fields.next().with_context(|| format!("not a log record: {line}"));
            Ok(LogLine { time: next()?, stream: next()?, tag: next()?, text: next()? })
        })
        .collect()
}

/// The texts of one stream.
pub fn texts<'a>(lines: &'a [LogLine], stream: &str) -> Vec<&'a str> {
    lines.iter().filter(|line| line.stream == stream).map(|line| line.text.as_str()).collect()
}
