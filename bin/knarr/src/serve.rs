//! `knarr serve`: builds the parts, takes over what an earlier daemon left, serves, drains.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cri_server::{PodSessions, Server};
use failpoint::Point;
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use sandbox::{Handlers, Parts, Paths, Sandboxes};
use streaming::Urls;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Config;
use crate::incoming::Incoming;

/// What `Version` reports.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long requests in progress may take to finish after SIGTERM.
const DRAIN_WITHIN: Duration = Duration::from_secs(30);

/// How often unused layers are looked for.
const COLLECT_EVERY: Duration = Duration::from_secs(600);

/// Where this daemon keeps its things.
#[derive(Debug)]
pub(crate) struct Places {
    /// Durable root.
    pub(crate) root: PathBuf,
    /// Volatile state.
    pub(crate) state: PathBuf,
    /// CRI socket.
    pub(crate) listen: PathBuf,
}

/// How long threads may take to end after everything else has. One that waits for a file system that does not
/// answer has no end, and is left to the kernel.
const ENDS_WITHIN: Duration = Duration::from_secs(1);

/// Runs the daemon until SIGTERM or SIGINT.
pub(crate) fn run(config: &Config, places: &Places) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Mounts, syncs and plugins run on blocking threads; what is left needs few workers.
        .worker_threads(std::thread::available_parallelism().map_or(2, usize::from).min(4))
        .thread_keep_alive(Duration::from_secs(5))
        .enable_all()
        .build()
        .context("cannot start the async runtime")?;
    // Held until the end: two daemons on one root would fight over every pod.
    let mut held = None;
    let served = runtime.block_on(serve(config, places, &mut held));
    runtime.shutdown_timeout(ENDS_WITHIN);
    drop(held);
    served
}

async fn serve(config: &Config, places: &Places, held: &mut Option<File>) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    if !sandbox::is_root() {
        bail!(
            "knarr must be root: it makes namespaces, mounts, control groups and networks, and \
             gives containers users of their own; start it with sudo or from its unit"
        );
    }
    make_dir(&places.root, 0o700)?;
    make_dir(&places.state, 0o711)?;
    *held = Some(lock(&places.root)?);
    let streaming = streaming::Server::bind(config.streaming()).await?;
    // To be cut off here is as good as to be killed: the next daemon goes on.
    let server = tokio::select! {
        server = build(config, places, streaming.urls()) => server?,
        _signal = terminate.recv() => return ended_at_the_start(),
        _signal = interrupt.recv() => return ended_at_the_start(),
    };
    failpoint::pass(Point::RecoverServe);
    let listener = listen(&places.listen)?;
    tracing::info!(
        version = VERSION, root = %places.root.display(), socket = %places.listen.display(),
        "serving the CRI"
    );
    notify(&[sd_notify::NotifyState::Ready]);
    let sandboxes = server.sandboxes.clone();
    let collecting = tokio::spawn(collect_garbage(server.images.clone()));
    let trimming = tokio::spawn(crate::memory::give_back());
    let watched = tokio::spawn(crate::watchdog::feed(places.listen.clone()));
    let sessions = Arc::new(PodSessions(sandboxes.clone()));
    let draining = sandboxes.clone();
    let streaming = tokio::spawn(streaming.run(sessions, async move { draining.draining().await }));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = tonic::transport::Server::builder()
        .add_service(server.runtime_service())
        .add_service(server.image_service())
        .add_service(server.progress_service())
        .add_service(server.networks_service())
        .add_service(server.health_service())
        .add_service(server.images_service())
        .serve_with_incoming_shutdown(Incoming::new(listener), async {
            // The sender only ever goes away by being dropped.
            stopped.await.unwrap_or_default();
        });
    tokio::pin!(serving);
    tokio::select! {
        result = &mut serving => result.context("the CRI server ended")?,
        _signal = terminate.recv() => {}
        _signal = interrupt.recv() => {}
    }
    tracing::info!("draining: requests in progress finish, containers run on");
    notify(&[sd_notify::NotifyState::Stopping]);
    drop(stop);
    watched.abort();
    // A collection that has begun ends by itself; each layer goes in one step.
    collecting.abort();
    trimming.abort();
    sandboxes.begin_drain();
    let drained = tokio::time::timeout(DRAIN_WITHIN, async {
        let served = serving.await;
        // Sessions end before the pods' owners they ask.
        if let Err(error) = streaming.await {
            tracing::error!(%error, "the streaming server failed");
        }
        sandboxes.drain().await;
        served
    });
    match drained.await {
        Ok(served) => served.context("the CRI server failed while draining")?,
        Err(_elapsed) => tracing::warn!("requests still in progress were cut off"),
    }
    remove_socket(&places.listen)
}

fn ended_at_the_start() -> Result<()> {
    tracing::info!("asked to end before anything was served");
    Ok(())
}

async fn build(config: &Config, places: &Places, urls: Urls) -> Result<Server> {
    let paths = Paths::new(places.root.clone(), places.state.clone());
    let shim = find_shim()?;
    let host = sandbox::host_facts().context("cannot learn about this host")?;
    let cgroup_drivers = crate::cgroup_drivers::choose(config.cgroup.driver, &host.cgroup)?;
    let (root, labelled) = (places.root.clone(), paths.clone());
    let (image, pinned) = (config.image(), config.image.pinned.clone());
    let (layers, images) = tokio::task::spawn_blocking(move || -> Result<_> {
        failpoint::reach(Point::RecoverStores).context("cannot open the stores")?;
        let layers =
            Arc::new(snapshot::Layers::open(&root).context("cannot open the layer store")?);
        let images = image::Images::open(&root, image, Arc::clone(&layers))
            .context("cannot open the image store")?;
        images.set_pinned(pinned);
        sandbox::label_storage(&labelled).context("cannot label where containers are kept")?;
        Ok((layers, images))
    })
    .await
    .context("opening the stores panicked")??;
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .context("cannot read the boot id")?;
    let network = cni::Engine::new(config.network(&places.root));
    let network_monitor = cni::Monitor::start(network.clone())
        .context("cannot start to watch the network configuration")?;
    let sandboxes = Sandboxes::open(Parts {
        network,
        network_monitor,
        network_gc_every: config.cni.gc_interval,
        handlers: Handlers {
            default: config.default_handler.clone(),
            known: config.handlers(paths.state()),
        },
        paths,
        shim,
        images: images.clone(),
        layers,
        host,
        cgroup_drivers,
        cdi_dirs: config.cdi_dirs.clone(),
        block_io_classes: config.block_io_classes.clone(),
        boot_id: boot_id.trim().to_owned(),
        disk: Box::new(store::RealDisk),
        exec_drain: config.exec.drain_timeout,
    })
    .await
    .context("cannot take over the pods of an earlier daemon")?;
    let cgroup_driver = cgroup_drivers.usual();
    Ok(Server { sandboxes, images, urls, version: VERSION, cgroup_driver })
}

/// Frees what nothing uses, at the start and from then on now and again: removals free what they
/// can at once, but a layer may be in use then.
async fn collect_garbage(images: image::Images) {
    let mut next = tokio::time::interval(COLLECT_EVERY);
    next.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        next.tick().await;
        match images.collect().await {
            Ok(collected) if collected.layers > 0 => {
                let image::Collected { layers, bytes } = collected;
                tracing::info!(layers, bytes, "removed layers that nothing uses");
            }
            Ok(_) => {}
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "some unused layers stay until the next collection");
            }
        }
    }
}

/// The shim is installed beside this program.
fn find_shim() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let shim = own.with_file_name("knarr-shim");
    if !shim.is_file() {
        bail!("{} is missing: knarr-shim must be installed beside knarr", shim.display());
    }
    Ok(shim)
}

fn make_dir(path: &Path, mode: u32) -> Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("cannot create directory {}", path.display()))
}

fn lock(root: &Path) -> Result<File> {
    let path = root.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    // flock(2)'s would live on in a child that was about to become a shim when its daemon was
    // killed, and keep the next daemon from starting. This one is the process's.
    match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::AGAIN | Errno::ACCESS) => {
            bail!("another knarr serves {}: stop it, or use another --root", root.display())
        }
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Root and its group only: whoever speaks CRI can become root.
fn listen(path: &Path) -> Result<UnixListener> {
    if let Some(dir) = path.parent() {
        make_dir(dir, 0o711)?;
    }
    remove_socket(path)?;
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen on {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))
        .with_context(|| format!("cannot set the mode of {}", path.display()))?;
    Ok(listener)
}

/// A socket that an earlier daemon left. The lock on the root says that it is not in use;
/// anything but a socket is not ours to remove.
fn remove_socket(path: &Path) -> Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.file_type().is_socket() => std::fs::remove_file(path)
            .with_context(|| format!("cannot remove the old socket {}", path.display())),
        Ok(_) => bail!("{} exists and is not a socket", path.display()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", path.display())),
    }
}

pub(crate) fn notify(states: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}
