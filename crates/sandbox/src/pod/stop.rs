//! Stopping and removing containers, and reopening their logs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use failpoint::Point;
use model::{ContainerId, Signal};
use shim_protocol::{Body, FailureKind};
use snapshot::{ContainerRoot, Half};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Container, DIES_WITHIN, Owner, Reply, StopInFlight};
use crate::admission::{self, Admission};
use crate::blocking;
use crate::cgroups::ENDS_WITHIN;
use crate::error::{ContainerError, StepError};
use crate::events::EventKind;
use crate::files::{self, remove_small_tree};
use crate::link::LinkError;
use crate::view::LookupError;

impl Owner {
    /// CRI: the stop signal once, SIGKILL to everything after `timeout`, done when it has ended.
    /// Concurrent calls share one delivery; a later, shorter timeout brings the end forward.
    pub(super) async fn on_stop_container(
        &mut self,
        id: &ContainerId,
        timeout: Duration,
        reply: Reply<(), ContainerError>,
    ) {
        let Some(container) = self.containers.get_mut(id) else {
            drop(reply.send(Err(unknown(id))));
            return;
        };
        match admission::stop(&container.record.state) {
            Admission::AlreadySo => {
                drop(reply.send(Ok(())));
                return;
            }
            Admission::Go => {}
        }
        let deadline = Instant::now() + timeout;
        let signal = container.record.stop_signal;
        if let Some(stop) = &mut container.stop {
            // CRI: a cancelled stop counts for nothing, nor does its grace period.
            stop.waiters.retain(|waiter| !waiter.is_closed());
            if stop.waiters.is_empty() && container.removals.is_empty() {
                container.stop = None;
            }
        }
        let first = container.stop.is_none();
        let stop = container.stop.get_or_insert_with(|| StopInFlight {
            deadline,
            killed: false,
            waiters: Vec::new(),
        });
        stop.waiters.push(reply);
        if !stop.killed {
            stop.deadline = stop.deadline.min(deadline);
        }
        if timeout.is_zero() {
            self.kill_now(id).await;
        } else if first {
            self.signal(id, signal, false).await;
        }
    }

    /// Grace periods that are over.
    pub(super) async fn on_deadline(&mut self) {
        let now = Instant::now();
        let due: Vec<ContainerId> = self
            .containers
            .iter()
            .filter(|(_, c)| c.stop.as_ref().is_some_and(|stop| stop.deadline <= now))
            .map(|(id, _)| id.clone())
            .collect();
        for id in due {
            let Some(container) = self.containers.get_mut(&id) else { continue };
            let Some(stop) = &mut container.stop else { continue };
            // CRI: a cancelled stop does not kill; the container runs until a later call ends it.
            stop.waiters.retain(|waiter| !waiter.is_closed());
            if stop.waiters.is_empty() && container.removals.is_empty() {
                container.stop = None;
            } else if stop.killed {
                self.fail_stop(&id, || ContainerError::StillRunning {
                    container: id.clone(),
                    seconds: DIES_WITHIN.as_secs(),
                });
            } else {
                self.kill_now(&id).await;
            }
        }
    }

    async fn kill_now(&mut self, id: &ContainerId) {
        if let Some(stop) = self.containers.get_mut(id).and_then(|c| c.stop.as_mut()) {
            stop.killed = true;
            stop.deadline = Instant::now() + DIES_WITHIN;
        }
        self.signal(id, Signal::KILL, true).await;
    }

    async fn signal(&mut self, id: &ContainerId, signal: Signal, all: bool) {
        let sent = match self.link() {
            Some(link) => {
                let body = Body::Kill { container: id.to_string(), signal: signal.number(), all };
                self.reach(Point::StopSignal, link.call_done(body)).await
            }
            None => return self.end_without_a_shim().await,
        };
        match sent {
            // Gone: the link's end is an event of its own and ends the container.
            Ok(()) | Err(LinkError::Gone { .. }) => {}
            Err(source) => {
                let text = crate::error::chain(&source);
                self.fail_stop(id, || ContainerError::Shim {
                    what: "signal",
                    container: id.clone(),
                    source: LinkError::Failed(shim_protocol::Failure {
                        kind: FailureKind::Internal,
                        message: text.clone(),
                        errno: None,
                    }),
                });
            }
        }
    }

    /// Those that do not even so are given up for now: the next call tries again.
    pub(super) async fn end_without_a_shim(&mut self) {
        for error in self.bury_running().await {
            tracing::error!(sandbox = %self.id(), error = crate::error::chain(&error), "not ended");
        }
        for id in self.running() {
            self.fail_stop(&id, || ContainerError::StillRunning {
                container: id.clone(),
                seconds: ENDS_WITHIN.as_secs(),
            });
        }
    }

    fn fail_stop(&mut self, id: &ContainerId, error: impl Fn() -> ContainerError) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let stops = container.stop.take().map(|stop| stop.waiters).unwrap_or_default();
        for waiter in stops.into_iter().chain(std::mem::take(&mut container.removals)) {
            drop(waiter.send(Err(error())));
        }
    }

    /// CRI: a running container is killed first; the log file stays.
    pub(super) async fn on_remove_container(
        &mut self,
        id: &ContainerId,
        reply: Reply<(), ContainerError>,
    ) {
        let Some(container) = self.containers.get_mut(id) else {
            drop(reply.send(Err(unknown(id))));
            return;
        };
        if container.is_running() {
            container.removals.push(reply);
            container.stop.get_or_insert_with(|| StopInFlight {
                deadline: Instant::now() + DIES_WITHIN,
                killed: true,
                waiters: Vec::new(),
            });
            self.kill_now(id).await;
            return;
        }
        let result = self.remove_container(id).await;
        drop(reply.send(result));
    }

    pub(super) async fn remove_container(
        &mut self,
        id: &ContainerId,
    ) -> Result<(), ContainerError> {
        self.discard_container(id).await.map_err(|source| ContainerError::Remove {
            container: id.clone(),
            source: Box::new(source),
        })
    }

    /// Removes everything of an ended container, its record last. Can be run again.
    pub(super) async fn discard_container(&mut self, id: &ContainerId) -> Result<(), StepError> {
        if self.containers.get(id).is_some_and(Container::is_running) {
            let seconds = ENDS_WITHIN.as_secs();
            return Err(StepError::StillRunning { container: id.clone(), seconds });
        }
        self.write_what_the_shim_forgets(id).await?;
        let (told, forgotten) = oneshot::channel();
        let forget = async {
            let done = self.forget(id).await;
            if done.is_ok() {
                // Whoever waited for it may have failed by now.
                told.send(()).ok();
            }
            done
        };
        if self.record.runtime.program.is_none() {
            let (forgot, removed) =
                tokio::join!(forget, self.remove_container_files(id, forgotten));
            forgot.and(removed)?;
        } else {
            // Another runtime's `delete` finds all of it as it was.
            forget.await?;
            self.remove_container_files(id, forgotten).await?;
        }
        self.containers.remove(id);
        self.cx.backlog.take(self.id(), Some(id));
        self.cx.index.drop_container(id);
        self.tell(EventKind::Deleted, id.as_str());
        failpoint::pass(Point::RemoveAnswer);
        Ok(())
    }

    /// The shim forgets it, and removes its control groups.
    async fn forget(&self, id: &ContainerId) -> Result<(), StepError> {
        let forgotten = match self.link() {
            Some(link) => {
                let asked = link.call_done(Body::Forget { container: id.to_string() });
                self.reach(Point::RemoveForget, asked).await
            }
            None => Err(LinkError::Gone { sandbox: self.id().clone() }),
        };
        match forgotten {
            Ok(()) => Ok(()),
            // Then nobody else removes its control groups.
            Err(LinkError::Gone { .. }) => self.sweep_cgroups_of(vec![id.to_string()]).await,
            Err(error) => Err(StepError::Shim(error)),
        }
    }

    /// Removes the writable layer, and the rest once the shim has forgotten the container: as long as
    /// anything of it is left it has a record. Nothing but the layer goes when it never does.
    async fn remove_container_files(
        &self,
        id: &ContainerId,
        forgotten: oneshot::Receiver<()>,
    ) -> Result<(), StepError> {
        let dir = self.cx.paths().container(self.id(), id);
        files::reach(Point::RemoveLayer, "remove the layer in", &dir).map_err(StepError::Files)?;
        let (upper, work) =
            tokio::join!(remove_half(id, &dir, Half::Upper), remove_half(id, &dir, Half::Work));
        upper.and(work)?;
        if forgotten.await.is_err() {
            return Ok(());
        }
        let spec = self.cx.paths().container_spec(self.id(), id);
        let record = self.cx.paths().container_record(self.id(), id);
        blocking::run(move || {
            files::reach(Point::RemoveDirectory, "remove", &dir)?;
            remove_small_tree(&dir, &[&spec, &record])
        })
        .await
        .map_err(StepError::Files)
    }

    /// Its end may be known to the shim alone. Where nothing can be removed either, it has to stay
    /// so; a disk that is full must not keep a container from going.
    async fn write_what_the_shim_forgets(&self, id: &ContainerId) -> Result<(), StepError> {
        if !self.cx.backlog.holds(self.id(), Some(id)) {
            return Ok(());
        }
        let Some(container) = self.containers.get(id) else { return Ok(()) };
        let record = Arc::clone(&container.record);
        match self.store_container(record, Point::StopRecord).await {
            Err(error) if error.is_read_only() => Err(StepError::Record(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// A place before the shim is asked for something.
    pub(super) async fn reach<T>(
        &self,
        point: Point,
        asked: impl Future<Output = Result<T, LinkError>>,
    ) -> Result<T, LinkError> {
        let sandbox = || self.id().clone();
        failpoint::reach(point)
            .map_err(|source| LinkError::Connect { sandbox: sandbox(), source })?;
        asked.await
    }

    pub(super) async fn reopen_log(&mut self, id: &ContainerId) -> Result<(), ContainerError> {
        let what = "reopen the log of";
        let container = self.containers.get(id).ok_or_else(|| unknown(id))?;
        admission::use_running(&container.record.state)
            .map_err(|source| ContainerError::Refused { what, container: id.clone(), source })?;
        // Kubelet tries for ever; a shim that is dead to the world is no use to its pod.
        let dir = container.record.log_dir().map(|dir| dir.to_string_lossy().into_owned());
        let answers = self.cx.silent.ask(dir.into_iter().collect()).await;
        answers.map_err(|source| ContainerError::Log { container: id.clone(), source })?;
        let fail = |source| ContainerError::Shim { what, container: id.clone(), source };
        let link =
            self.link().ok_or_else(|| fail(LinkError::Gone { sandbox: self.id().clone() }))?;
        link.call_done(Body::ReopenLog { container: id.to_string() }).await.map_err(fail)
    }
}

async fn remove_half(container: &ContainerId, dir: &Path, half: Half) -> Result<(), StepError> {
    let dir = dir.to_owned();
    blocking::run(move || ContainerRoot::remove(&dir, half))
        .await
        .map_err(|source| StepError::Layer { container: container.clone(), source })
}

pub(super) fn unknown(id: &ContainerId) -> ContainerError {
    ContainerError::Lookup(LookupError::NotFound { kind: "container", id: id.to_string() })
}
