//! A container runtime in memory that answers CRI requests, and a way to run verbs against it.
#![allow(dead_code, reason = "each test program uses its part")]

mod stubs;

use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    thread,
};

use clap::Parser;
use cri_api::v1;
use tokio::{
    net::UnixListener,
    sync::{Notify, oneshot},
};
use tokio_stream::wrappers::UnixListenerStream;

/// What the runtime has, and what it was asked.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) pods: Vec<v1::PodSandbox>,
    pub(crate) containers: Vec<v1::ContainerStatus>,
    /// Pod of each container.
    pub(crate) owners: Vec<String>,
    pub(crate) images: Vec<v1::Image>,
    /// Requests that change something, in order.
    pub(crate) asked: Vec<String>,
    pub(crate) log_dir: PathBuf,
    /// Where the pod `slow` waits on its way up.
    pub(crate) gate: Arc<Gate>,
    ids: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Gate {
    pub(crate) begun: Notify,
    pub(crate) open: Notify,
}

impl World {
    fn next_id(&mut self, kind: &str) -> String {
        self.ids += 1;
        format!("{kind}{:061}", self.ids)
    }
}

/// The fake runtime; ends when dropped.
#[derive(Debug)]
pub(crate) struct Runtime {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) world: Arc<Mutex<World>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// What a verb said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) result: Result<u8, cli::Error>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Said {
    #[track_caller]
    pub(crate) fn good(self) -> String {
        assert!(matches!(self.result, Ok(0)), "{self:?}");
        self.out
    }

    #[track_caller]
    pub(crate) fn error(&self) -> String {
        self.result.as_ref().unwrap_err().to_string()
    }
}

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    connection: cli::Connection,
    #[command(subcommand)]
    verb: cli::Verb,
}

impl Runtime {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log_dir = dir.path().join("logs");
        let world = Arc::new(Mutex::new(World { log_dir, ..World::default() }));
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let (socket, served) = (dir.path().join("cri.sock"), Arc::clone(&world));
        let thread = thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = UnixListener::bind(socket).unwrap();
                ready.send(()).unwrap();
                stubs::serve(served, UnixListenerStream::new(listener), stopped).await;
            });
        });
        is_ready.recv().unwrap();
        Self { dir, world, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `knarr ARGS` as at a pipe.
    pub(crate) fn knarr(&self, args: &[&str]) -> Said {
        self.knarr_at(None, args)
    }

    /// Runs `knarr ARGS` as at a terminal so wide.
    pub(crate) fn knarr_at(&self, width: Option<u16>, args: &[&str]) -> Said {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let io = cli::Io { out: &mut out, err: &mut err, width, progress: true };
        let result = self.knarr_with(io, args);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { result, out: text(out), err: text(err) }
    }

    /// Runs `knarr ARGS`; `waits` is called when it says that it waits.
    pub(crate) fn knarr_waiting(&self, args: &[&str], waits: impl FnMut()) -> Said {
        let (mut out, mut err) = (Vec::new(), Listened { text: Vec::new(), waits });
        let io = cli::Io { out: &mut out, err: &mut err, width: None, progress: false };
        let result = self.knarr_with(io, args);
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { result, out: text(out), err: text(err.text) }
    }

    fn knarr_with(&self, mut io: cli::Io<'_>, args: &[&str]) -> Result<u8, cli::Error> {
        let socket = self.path("cri.sock").display().to_string();
        let line = ["knarr", "-a", &socket].into_iter().chain(args.iter().copied());
        let line = Line::try_parse_from(line).unwrap();
        cli::run(&line.connection, line.verb, &mut io)
    }

    /// `knarr OPTIONS run` of this manifest; `waits` is called when it says that it waits.
    pub(crate) fn run_pod(&self, options: &[&str], manifest: &str, waits: impl FnMut()) -> Said {
        let file = self.write("pod.yaml", manifest);
        let [logs, volumes] = ["logs", "volumes"].map(|it| self.path(it).display().to_string());
        let run = ["run", &file, "--log-dir", &logs, "--volumes-dir", &volumes];
        self.knarr_waiting(&[options, &run].concat(), waits)
    }

    /// How many directories hold volumes of pods.
    pub(crate) fn volume_dirs(&self) -> usize {
        std::fs::read_dir(self.path("volumes")).map_or(0, Iterator::count)
    }

    pub(crate) fn image(&self, name: &str) {
        self.world().images.push(v1::Image {
            id: format!("sha256:{:064}", name.len()),
            repo_tags: vec![name.to_owned()],
            size: 1024,
            uid: Some(v1::Int64Value { value: 0 }),
            ..Default::default()
        });
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path: &Path = &self.path(name);
        std::fs::write(path, text).unwrap();
        path.display().to_string()
    }
}

/// Stderr that somebody reads as it comes.
struct Listened<F> {
    text: Vec<u8>,
    waits: F,
}

impl<F: FnMut()> Write for Listened<F> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.text.extend_from_slice(bytes);
        if bytes.ends_with(b"\n") && self.text.windows(7).any(|word| word == b"waiting") {
            (self.waits)();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the fake has failed the test already.
            drop(thread.join());
        }
    }
}
