//! Knows at any time whether pods can be attached, without anybody waiting for the answer.
//!
//! A thread looks at the configuration, asks the plugins (STATUS), and does so again when a file
//! changes and from time to time. No answer is kept for good: a directory that comes back, a
//! plugin that is installed later, an agent that comes up, all end the node's NotReady by
//! themselves.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::pipe::PipeFlags;

use crate::engine::{Engine, NetworkStatus};
use crate::watch::{self, Watch, Woken};

/// How often a ready network is asked again.
const WHEN_READY: Duration = Duration::from_secs(5);
/// How often one is asked that was not ready.
const WHEN_NOT_READY: Duration = Duration::from_secs(1);

/// The network's status, kept up to date. Dropping it ends its thread.
#[derive(Debug)]
pub struct Monitor {
    status: Arc<Mutex<NetworkStatus>>,
    /// Closing it tells the thread to end.
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Starts to watch. Reads the configuration once; plugins are asked in the background. The
    /// thread works in the network namespace of the caller.
    ///
    /// # Errors
    /// The kernel's: no thread or no descriptor left.
    pub fn start(engine: Engine) -> std::io::Result<Self> {
        let status = Arc::new(Mutex::new(engine.status()));
        let (stopped, stop) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let shared = Arc::clone(&status);
        let thread = std::thread::Builder::new()
            .name("cni-monitor".to_owned())
            .spawn(move || watch_over(&engine, &shared, &stopped))?;
        Ok(Self { status, stop: Some(stop), thread: Some(thread) })
    }

    /// The latest answer; does not block.
    pub fn status(&self) -> NetworkStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Monitor {
    /// Waits for a plugin that is being asked, as long as it may take.
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that watches the network configuration panicked");
        }
    }
}

fn watch_over(engine: &Engine, shared: &Mutex<NetworkStatus>, stop: &OwnedFd) {
    let mut watched = true;
    loop {
        let watch = Watch::arm(&engine.config.conf_dir);
        if let (Err(error), true) = (&watch, watched) {
            tracing::warn!(%error, dir = %engine.config.conf_dir.display(),
                "cannot watch the CNI configuration: it is read from time to time");
        }
        watched = watch.is_ok();
        let status = engine.probe();
        let pause = match &status {
            NetworkStatus::Ready => WHEN_READY,
            NetworkStatus::NotReady { .. } => WHEN_NOT_READY,
        };
        publish(shared, status);
        engine.delete_leftover_links();
        let woken = match &watch {
            Ok(watch) => watch.wait(stop, pause),
            Err(_) => watch::pause(stop, pause),
        };
        if woken == Woken::Stopped {
            return;
        }
    }
}

fn publish(shared: &Mutex<NetworkStatus>, status: NetworkStatus) {
    let mut present = shared.lock().unwrap_or_else(PoisonError::into_inner);
    if *present != status {
        match &status {
            NetworkStatus::Ready => tracing::info!("the pod network is ready"),
            NetworkStatus::NotReady { message } => {
                tracing::warn!(reason = message, "the pod network is not ready");
            }
        }
        *present = status;
    }
}
