//! Taking over what an earlier daemon left: the normal start-up path, not a special one.
//!
//! A pod's record says what was intended; its shim, if it lives, says what is. Where the two
//! differ the shim is right. Where there is no shim any more, exit files tell how containers
//! ended, and everything else is "lost".

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use model::{ContainerId, SandboxId, UnixNanos};
use shim_protocol::{Body, FailureKind, Phase, Response, StateReport};
use store::{ReadError, RecordFile};

use super::{Container, Owner, Shim};
use crate::blocking;
use crate::context::Context;
use crate::error::chain;
use crate::link::{LinkError, ShimLink};
use crate::record::{ContainerRecord, ContainerState, PodPhase, PodRecord};

/// One silent shim must not hold up the node.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);

/// Every pod that has a record, reconciled with its shim. Half-made ones are removed.
pub(crate) async fn recover_all(cx: &Arc<Context>) -> Vec<Owner> {
    let loading = Arc::clone(cx);
    let stored = blocking::run(move || load_all(&loading)).await;
    let mut recovering = tokio::task::JoinSet::new();
    for owner in stored {
        recovering.spawn(recover(owner));
    }
    let owners = recovering.join_all().await.into_iter().flatten().collect();
    sweep_states(cx).await;
    owners
}

fn load_all(cx: &Arc<Context>) -> Vec<Owner> {
    names(&cx.paths().pods())
        .iter()
        .filter_map(|name| SandboxId::parse(name).ok())
        .filter_map(|id| load(cx, &id))
        .collect()
}

fn load(cx: &Arc<Context>, id: &SandboxId) -> Option<Owner> {
    let record: PodRecord = match RecordFile::new(cx.paths().pod_record(id)).read(cx.disk()) {
        Ok(Some(record)) => record,
        Ok(None) => {
            // A crash between making the directory and the record: nothing else exists yet.
            log_failure(id, "directory without a record", remove(&cx.paths().pod(id)));
            return None;
        }
        Err(error) => {
            quarantined(&error, &cx.paths().pod(id));
            return None;
        }
    };
    if let Err(taken) = cx.names.reserve(record.config.name.clone(), id.clone()) {
        tracing::error!(sandbox = %id, holder = %taken.holder, "two records of one name");
    }
    let mut owner = Owner::new(Arc::clone(cx), record);
    for name in names(&cx.paths().containers(id)) {
        let Ok(container) = ContainerId::parse(&name) else { continue };
        let file = RecordFile::new(cx.paths().container_record(id, &container));
        match file.read::<ContainerRecord>(cx.disk()) {
            Ok(Some(record)) => {
                owner.containers.insert(container, Container::new(record));
            }
            // The record is written last: without one the container was never announced.
            Ok(None) => log_failure(
                id,
                "container without a record",
                remove(&cx.paths().container(id, &container)),
            ),
            Err(error) => quarantined(&error, &cx.paths().container(id, &container)),
        }
    }
    Some(owner)
}

async fn recover(mut owner: Owner) -> Option<Owner> {
    let report = owner.reconnect().await;
    if owner.record.phase == PodPhase::Creating {
        // `RunPodSandbox` never returned: nobody knows this pod.
        tracing::info!(sandbox = %owner.id(), "removing a half-made pod sandbox");
        return match owner.remove_pod().await {
            Ok(()) => {
                owner.cx.names.release(&owner.record.config.name, owner.id());
                None
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(sandbox = %owner.id(), error, "half-made pod not removed");
                owner.set_phase(PodPhase::Stopped).await;
                Some(owner)
            }
        };
    }
    match report {
        Some(report) => owner.reconcile(report).await,
        None => {
            owner.bury_running().await;
            if owner.record.phase == PodPhase::Ready {
                tracing::warn!(sandbox = %owner.id(), "the shim is gone: pod is not ready");
                owner.set_phase(PodPhase::Stopped).await;
            }
        }
    }
    owner.publish();
    let records: Vec<_> = owner.containers.values().map(|c| Arc::clone(&c.record)).collect();
    for record in &records {
        owner.publish_container(record);
    }
    Some(owner)
}

impl Owner {
    /// Finds the shim again and asks what it holds; `None` when there is none.
    async fn reconnect(&mut self) -> Option<StateReport> {
        if self.record.boot_id != self.cx.parts.boot_id {
            return None;
        }
        let state = self.cx.paths().pod_state(self.id());
        let asked = tokio::time::timeout(ANSWERS_WITHIN, async {
            let (link, events, _hello) = ShimLink::connect(self.id(), &state).await?;
            let report = link.call(Body::State, Vec::new()).await?;
            Ok::<_, LinkError>((link, events, report))
        });
        match asked.await {
            Ok(Ok((link, events, Response::State(report)))) => {
                let pause_pid = report.pause_pid;
                self.shim = Some(Shim { link: Arc::new(link), events, child: None, pause_pid });
                Some(report)
            }
            Ok(Ok(_confused)) => {
                tracing::error!(sandbox = %self.id(), "the shim does not tell its state");
                None
            }
            Ok(Err(error)) => {
                if self.record.phase != PodPhase::Stopped {
                    let error = chain(&error);
                    tracing::warn!(sandbox = %self.id(), error, "no shim");
                }
                None
            }
            Err(_elapsed) => {
                tracing::error!(sandbox = %self.id(), "the shim does not answer");
                None
            }
        }
    }

    async fn reconcile(&mut self, report: StateReport) {
        self.end_execs(report.execs.unwrap_or_default()).await;
        let reported: HashSet<String> =
            report.containers.iter().map(|snapshot| snapshot.container.clone()).collect();
        for snapshot in report.containers {
            let Ok(id) = ContainerId::parse(&snapshot.container) else { continue };
            let Some(container) = self.containers.get(&id) else { continue };
            let running =
                |pid| ContainerState::Running { pid, started_at: UnixNanos(snapshot.started_at) };
            match (&container.record.state, snapshot.phase) {
                // Already final, or already known.
                (ContainerState::Exited(_), _)
                | (ContainerState::Running { .. }, Phase::Running(_)) => {}
                // The daemon died between the launch and its record.
                (ContainerState::Created, Phase::Running(pid)) => {
                    self.set_container_state(&id, running(pid)).await;
                }
                (ContainerState::Created | ContainerState::Running { .. }, Phase::Exited(exit)) => {
                    self.set_container_state(&id, running(0)).await;
                    self.on_exit(&id, &exit).await;
                }
            }
        }
        // Recorded as running, but the shim has never heard of them.
        let lost: Vec<ContainerId> =
            self.running().into_iter().filter(|id| !reported.contains(id.as_str())).collect();
        if !lost.is_empty() {
            tracing::error!(sandbox = %self.id(), ?lost, "the shim does not know these containers");
            self.bury(lost).await;
        }
    }
}

impl Owner {
    /// Nobody is left who waits for commands that an earlier daemon started.
    async fn end_execs(&self, execs: Vec<u64>) {
        let Some(link) = self.link() else { return };
        for exec in execs {
            match link.call_done(Body::KillExec { exec }).await {
                Ok(()) => {}
                // It ended by itself in this moment.
                Err(LinkError::Failed(failure)) if failure.kind == FailureKind::NotFound => {}
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(sandbox = %self.id(), error, "abandoned command not killed");
                }
            }
        }
    }
}

/// Volatile directories whose pod has no record: left by a crash at the very end of a removal.
async fn sweep_states(cx: &Arc<Context>) {
    let cx = Arc::clone(cx);
    blocking::run(move || {
        for name in names(&cx.paths().pod_states()) {
            let Ok(id) = SandboxId::parse(&name) else { continue };
            if !cx.paths().pod(&id).exists() {
                log_failure(&id, "stale state directory", remove(&cx.paths().pod_state(&id)));
            }
        }
    })
    .await;
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

fn remove(dir: &Path) -> Result<(), crate::files::FileError> {
    crate::files::remove_tree(dir)
}

fn log_failure(sandbox: &SandboxId, what: &str, result: Result<(), crate::files::FileError>) {
    match result {
        Ok(()) => tracing::info!(%sandbox, what, "removed"),
        Err(error) => {
            let error = chain(&error);
            tracing::warn!(%sandbox, what, error, "not removed");
        }
    }
}

/// One broken record costs one object: it is moved aside, and the start goes on.
fn quarantined(error: &ReadError, dir: &Path) {
    let aside = dir.with_extension("bad");
    let error = chain(error);
    match std::fs::rename(dir, &aside) {
        Ok(()) => tracing::error!(error, aside = %aside.display(), "record set aside"),
        Err(rename) => tracing::error!(error, %rename, "record neither read nor set aside"),
    }
}
