//! A pod's records on disk. One that cannot be written does not stop what has happened already: it is
//! written again until it can be.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use failpoint::Point;
use model::ContainerId;
use store::{Durability, RecordFile, WriteError};
use tokio::time::Instant;

use super::Owner;
use crate::backlog::Behind;
use crate::blocking;
use crate::context::Context;
use crate::error::chain;
use crate::record::{ContainerRecord, ContainerState, PodPhase, PodRecord};

/// How soon a record that could not be written is written again.
const AGAIN_AFTER: Duration = Duration::from_secs(2);

impl Owner {
    /// Changes a container's state in memory, for readers, and on disk.
    ///
    /// A record that cannot be written does not stop the transition: the kernel has moved on, and
    /// a restart learns the same from the shim.
    pub(super) async fn set_container_state(&mut self, id: &ContainerId, state: ContainerState) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if !matches!(state, ContainerState::Running { .. }) {
            self.cx.exec_targets.remove(id);
        }
        Arc::make_mut(&mut container.record).state = state;
        let record = Arc::clone(&container.record);
        self.publish_container(&record);
        let point = point_of(&record.state);
        if let Err(error) = self.store_container(record, point).await {
            self.fall_behind(Some(id), &error);
        }
    }

    /// Changes the pod's phase in memory, for readers, and on disk.
    pub(super) async fn set_phase(&mut self, phase: PodPhase) {
        if self.record.phase == phase {
            return;
        }
        Arc::make_mut(&mut self.record).phase = phase;
        self.publish();
        self.store_pod_or_later(Point::PodStopRecord).await;
    }

    /// For what holds whether it is on record or not.
    pub(super) async fn store_pod_or_later(&mut self, point: Point) {
        if let Err(error) = self.store_pod(point).await {
            self.fall_behind(None, &error);
        }
    }

    pub(super) async fn store_container(
        &self,
        record: Arc<ContainerRecord>,
        point: Point,
    ) -> Result<(), WriteError> {
        let (cx, id) = (Arc::clone(&self.cx), record.id.clone());
        blocking::run(move || {
            let file = RecordFile::new(cx.paths().container_record(&record.sandbox, &record.id));
            file.reach(point)?;
            file.write(cx.disk(), record.as_ref(), Durability::Process)
        })
        .await?;
        self.catch_up(Some(&id));
        Ok(())
    }

    pub(super) async fn store_pod(&self, point: Point) -> Result<(), WriteError> {
        let cx = Arc::clone(&self.cx);
        let record = Arc::clone(&self.record);
        blocking::run(move || write_pod(&cx, &record, point)).await?;
        self.catch_up(None);
        Ok(())
    }

    /// Told once, however often it is tried again.
    fn fall_behind(&mut self, container: Option<&ContainerId>, error: &WriteError) {
        let reason = chain(error);
        if !self.cx.backlog.holds(self.id(), container) {
            tracing::error!(
                sandbox = %self.id(), container = container.map(ContainerId::as_str),
                error = reason, "record not written: it will be as soon as it can be"
            );
        }
        self.cx.backlog.put(Behind {
            sandbox: self.id().clone(),
            container: container.cloned(),
            path: self.path_of(container),
            reason,
        });
        self.write_again_at = Some(Instant::now() + AGAIN_AFTER);
    }

    fn catch_up(&self, container: Option<&ContainerId>) {
        if self.cx.backlog.holds(self.id(), container) {
            self.cx.backlog.take(self.id(), container);
            let record = self.path_of(container);
            tracing::info!(sandbox = %self.id(), record = %record.display(), "record written at last");
        }
    }

    fn path_of(&self, container: Option<&ContainerId>) -> PathBuf {
        match container {
            Some(container) => self.cx.paths().container_record(self.id(), container),
            None => self.cx.paths().pod_record(self.id()),
        }
    }

    /// Once it is time.
    pub(super) async fn write_again(&mut self) {
        if self.write_again_at.is_some_and(|at| at <= Instant::now()) {
            self.write_what_is_behind().await;
        }
    }

    /// Writes every record of this pod that could not be written before.
    pub(super) async fn write_what_is_behind(&mut self) {
        if self.write_again_at.take().is_none() {
            return;
        }
        for container in self.cx.backlog.of(self.id()) {
            let Some(id) = container else {
                self.store_pod_or_later(Point::PodStopRecord).await;
                continue;
            };
            let Some(known) = self.containers.get(&id) else {
                self.cx.backlog.take(self.id(), Some(&id));
                continue;
            };
            let record = Arc::clone(&known.record);
            let point = point_of(&record.state);
            if let Err(error) = self.store_container(record, point).await {
                self.fall_behind(Some(&id), &error);
            }
        }
    }
}

/// Replaces a pod's record. Blocks.
pub(super) fn write_pod(cx: &Context, record: &PodRecord, point: Point) -> Result<(), WriteError> {
    let file = RecordFile::new(cx.paths().pod_record(&record.id));
    file.reach(point)?;
    file.write(cx.disk(), record, Durability::Process)
}

/// Which record it is.
fn point_of(state: &ContainerState) -> Point {
    match state {
        ContainerState::Created | ContainerState::Running { .. } => Point::StartRecord,
        ContainerState::Exited(_) => Point::StopRecord,
    }
}
