//! Taking over what an earlier daemon left: the normal start-up path, not a special one.
//!
//! A pod's record says what was intended; its shim, if it lives, says what is. Where the two
//! differ the shim is right. Where there is no shim any more, exit files tell how containers
//! ended, and everything else is "lost".

mod aside;

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use failpoint::Point;
use model::{ContainerId, SandboxId, UnixNanos};
use shim_protocol::{Body, FailureKind, Phase, Response, StateReport};
use store::{ReadError, Record, RecordFile};
use tokio::sync::oneshot;
use tokio::time::error::Elapsed;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::aside::Broken;
use super::{Container, Owner, Shim, ShimProcess, end_shim_process};
use crate::blocking;
use crate::claim::Claim;
use crate::context::{Context, now};
use crate::error::chain;
use crate::events::EventKind;
use crate::link::{LinkError, ShimLink};
use crate::quarantine::Quarantined;
use crate::record::{ContainerRecord, ContainerState, PodPhase, PodRecord};
use crate::shims;

/// How long the node waits for a shim: one that is silent must not hold it up.
const AWAITED: Duration = Duration::from_secs(2);

/// How long for what is done then. Nearly always it is done at once, and what is listed is so from the first answer
/// on; but plugins are asked, and processes end that may not do so soon.
const SETTLED_WITHIN: Duration = Duration::from_secs(10);

/// How long a shim may keep silent before it is taken for lost. It tells its state when the commands of another
/// runtime that make a container have come to an end.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);

/// Why an earlier daemon's pods cannot be taken over.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The pods cannot be listed: how many there are is not known.
    #[error("cannot list {}: its pods would be taken for removed", path.display())]
    List {
        /// The directory of all pods.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The owners of all pods that have a record. A record that cannot be used costs its own pod or container.
pub(crate) async fn load_all(cx: &Arc<Context>) -> Result<Vec<Owner>, OpenError> {
    let loading = Arc::clone(cx);
    let (stored, broken) = blocking::run(move || load_stored(&loading)).await?;
    cx.quarantine.put(broken);
    Ok(stored)
}

fn load_stored(cx: &Arc<Context>) -> Result<(Vec<Owner>, Vec<Quarantined>), OpenError> {
    let path = cx.paths().pods();
    let names = names(&path).map_err(|source| OpenError::List { path, source })?;
    let ids = names.iter().filter_map(|name| SandboxId::parse(name).ok());
    let mut broken = Broken::default();
    let owners = ids.filter_map(|id| load(cx, &id, &mut broken)).collect();
    Ok((owners, broken.complete(cx)))
}

fn read<R: Record>(cx: &Context, path: PathBuf) -> Result<Option<R>, ReadError> {
    failpoint::reach(Point::RecoverRead)
        .map_err(|source| ReadError::Io { path: path.clone(), source })?;
    RecordFile::new(path).read(cx.disk())
}

fn load(cx: &Arc<Context>, id: &SandboxId, broken: &mut Broken) -> Option<Owner> {
    let dir = cx.paths().pod(id);
    let record: PodRecord = match read(cx, cx.paths().pod_record(id)) {
        Ok(Some(record)) => record,
        Ok(None) => {
            // A crash between making the directory and the record: nothing else exists yet.
            log_failure(id, "directory without a record", remove(&dir));
            return None;
        }
        Err(error) if is_torn(&error) && was_not_in_this_boot(cx, id) => {
            // It came when the power went, and was not on the disk yet.
            log_failure(id, "record torn by the machine's end", remove(&dir));
            return None;
        }
        Err(error) => {
            broken.add(id, None, &dir, &error);
            return None;
        }
    };
    let containers = match names(&cx.paths().containers(id)) {
        Ok(names) => names,
        Err(source) => {
            let path = cx.paths().containers(id);
            broken.add(id, None, &dir, &ReadError::Io { path, source });
            return None;
        }
    };
    if let Err(taken) = cx.names.reserve(record.config.name.clone(), id.clone()) {
        tracing::error!(sandbox = %id, holder = %taken.holder, "two records of one name");
    }
    if let Some(level) = &record.selinux_level {
        cx.levels.hold(level);
    }
    let mut owner = Owner::new(Arc::clone(cx), record);
    for name in containers {
        let Ok(container) = ContainerId::parse(&name) else { continue };
        let dir = cx.paths().container(id, &container);
        match read::<ContainerRecord>(cx, cx.paths().container_record(id, &container)) {
            Ok(Some(record)) => {
                owner.containers.insert(container, Container::new(record, Claim::untold()));
            }
            // The record is written last: without one the container was never announced.
            Ok(None) => log_failure(id, "container without a record", remove(&dir)),
            Err(error) => broken.add(id, Some(container), &dir, &error),
        }
    }
    if owner.containers.is_empty() {
        // Who made a container in it knew its id.
        owner.claim = Claim::untold();
    }
    Some(owner)
}

/// Not what another version has written.
fn is_torn(error: &ReadError) -> bool {
    match error {
        ReadError::Damaged { .. } => true,
        ReadError::Io { .. } | ReadError::Unknown { .. } | ReadError::Body { .. } => false,
    }
}

/// Nothing of such a pod runs, and kubelet has made another: its volatile directory comes before its record, and
/// goes with the machine.
fn was_not_in_this_boot(cx: &Context, id: &SandboxId) -> bool {
    matches!(cx.paths().pod_state(id).try_exists(), Ok(false))
}

/// What an earlier daemon's pod has to do with this one's start.
pub(crate) struct Recovery {
    /// Let go of once the pod is known, or takes long.
    awaited: Option<oneshot::Sender<()>>,
    draining: CancellationToken,
    tasks: TaskTracker,
}

/// What became of the search for a pod's shim.
enum Found {
    Shim(StateReport),
    Nobody,
    /// The daemon ends while it waits: its successor finds the pod as it is.
    Unknown,
}

impl Recovery {
    pub(crate) fn new(
        awaited: oneshot::Sender<()>,
        draining: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        Self { awaited: Some(awaited), draining, tasks }
    }

    /// Reconciles a pod with its shim. None is left of a half-made one, which is removed.
    pub(crate) async fn run(mut self, mut owner: Owner) -> Option<Owner> {
        let report = match owner.reconnect(&mut self).await {
            Found::Shim(report) => Some(report),
            Found::Nobody => None,
            Found::Unknown => return None,
        };
        if let Some(report) = &report {
            self.end_execs(&owner, report.execs.as_deref().unwrap_or_default()).await;
        }
        let sandbox = owner.id().clone();
        let recovering = recover(owner, report);
        tokio::pin!(recovering);
        if let Ok(recovered) = tokio::time::timeout(SETTLED_WITHIN, &mut recovering).await {
            return recovered;
        }
        // A plugin that hangs, processes that do not die: what the node has to run may be what they wait for.
        tracing::warn!(%sandbox, "taking the pod over takes long: the node does not wait for it");
        self.awaited = None;
        recovering.await
    }

    /// The answer to what a shim was asked; none if the daemon ends first.
    async fn answer_of<T>(
        &mut self,
        sandbox: &SandboxId,
        asked: impl Future<Output = T>,
    ) -> Option<Result<T, Elapsed>> {
        tokio::pin!(asked);
        if let Ok(answer) = tokio::time::timeout(AWAITED, &mut asked).await {
            return Some(Ok(answer));
        }
        tracing::warn!(%sandbox, "the shim keeps silent: the node does not wait for it");
        self.awaited = None;
        tokio::select! {
            answer = tokio::time::timeout(ANSWERS_WITHIN, asked) => Some(answer),
            () = self.draining.cancelled() => None,
        }
    }

    /// Nobody is left who waits for commands that an earlier daemon started. One that its runtime has not
    /// brought to life yet is ended once it has been.
    async fn end_execs(&self, owner: &Owner, execs: &[u64]) {
        let Some(link) = owner.link() else { return };
        let ending = execs.iter().map(|exec| {
            let (link, sandbox, exec) = (Arc::clone(&link), owner.id().clone(), *exec);
            self.tasks.spawn(async move { end_exec(&link, &sandbox, exec).await })
        });
        let ending: Vec<_> = ending.collect();
        let all = async {
            for ended in ending {
                // What it had to say has been logged.
                drop(ended.await);
            }
        };
        if tokio::time::timeout(AWAITED, all).await.is_err() {
            tracing::info!(sandbox = %owner.id(), "commands of the earlier daemon are still being ended");
        }
    }
}

async fn end_exec(link: &ShimLink, sandbox: &SandboxId, exec: u64) {
    match link.call_done(Body::KillExec { exec }).await {
        Ok(()) => {}
        // It ended by itself in this moment.
        Err(LinkError::Failed(failure)) if failure.kind == FailureKind::NotFound => {}
        Err(error) => {
            tracing::warn!(%sandbox, error = chain(&error), "abandoned command not killed");
        }
    }
}

async fn recover(mut owner: Owner, report: Option<StateReport>) -> Option<Owner> {
    if report.is_none() {
        owner.end_unreachable_shim().await;
    }
    if owner.record.phase == PodPhase::Creating {
        // `RunPodSandbox` never returned: nobody knows this pod.
        failpoint::pass(Point::RecoverUndo);
        tracing::info!(sandbox = %owner.id(), "removing a half-made pod sandbox");
        return match owner.remove_pod().await {
            Ok(()) => {
                owner.cx.release(&owner.record);
                None
            }
            Err(error) => {
                let error = chain(&error);
                tracing::error!(sandbox = %owner.id(), error, "half-made pod not removed");
                owner.set_phase(PodPhase::Stopped).await;
                owner.announce();
                Some(owner)
            }
        };
    }
    failpoint::pass(Point::RecoverReconcile);
    let (was_ready, ended_before) = (owner.record.phase == PodPhase::Ready, owner.ended());
    match report {
        Some(report) => owner.reconcile(report).await,
        None => {
            owner.end_unkept().await;
            if owner.record.phase == PodPhase::Ready {
                tracing::warn!(sandbox = %owner.id(), "the shim is gone: pod is not ready");
                owner.set_phase(PodPhase::Stopped).await;
            }
        }
    }
    owner.announce();
    let records: Vec<_> = owner.containers.values().map(|c| Arc::clone(&c.record)).collect();
    for record in &records {
        owner.publish_container(record);
        if let ContainerState::Exited(exit) = &record.state
            && !ended_before.contains(&record.id)
        {
            owner.cx.events.found_ended(record.id.as_str(), owner.id(), exit.finished_at);
        }
    }
    if was_ready && owner.record.phase == PodPhase::Stopped {
        owner.cx.events.found_ended(owner.id().as_str(), owner.id(), now());
        // Whoever has subscribed by now does not hear of what was found.
        owner.tell(EventKind::Stopped, owner.id().as_str());
    }
    Some(owner)
}

impl Owner {
    fn ended(&self) -> HashSet<ContainerId> {
        let ended = |record: &ContainerRecord| matches!(record.state, ContainerState::Exited(_));
        let records = self.containers.values().map(|container| &container.record);
        records.filter(|record| ended(record)).map(|record| record.id.clone()).collect()
    }

    /// Before anything else: it may be long until its shim answers. A half-made pod is known to nobody.
    pub(crate) fn list_as_recorded(&mut self) {
        if self.record.phase == PodPhase::Creating {
            return;
        }
        self.announce();
        for container in self.containers.values() {
            self.publish_container(&container.record);
        }
    }

    /// Finds the shim again and asks what it holds.
    async fn reconnect(&mut self, recovery: &mut Recovery) -> Found {
        if self.record.boot_id != self.cx.parts.boot_id {
            return Found::Nobody;
        }
        let state = self.cx.paths().pod_state(self.id());
        let asked = async {
            failpoint::reach(Point::RecoverReconnect)
                .map_err(|source| LinkError::Connect { sandbox: self.id().clone(), source })?;
            let (link, events, _hello) = ShimLink::connect(self.id(), &state).await?;
            let report = link.call(Body::State, Vec::new()).await?;
            Ok::<_, LinkError>((link, events, report))
        };
        let Some(answer) = recovery.answer_of(self.id(), asked).await else {
            return Found::Unknown;
        };
        match answer {
            Ok(Ok((link, events, Response::State(report)))) => {
                let pause_pid = report.pause_pid;
                let process = ShimProcess::Adopted(self.record.shim);
                self.shim = Some(Shim { link: Arc::new(link), events, process, pause_pid });
                return Found::Shim(report);
            }
            Ok(Ok(_confused)) => {
                tracing::error!(sandbox = %self.id(), "the shim does not tell its state");
            }
            Ok(Err(error)) => {
                if self.record.phase != PodPhase::Stopped {
                    let error = chain(&error);
                    tracing::warn!(sandbox = %self.id(), error, "no shim");
                }
            }
            Err(_elapsed) => {
                tracing::error!(sandbox = %self.id(), "the shim does not answer");
            }
        }
        Found::Nobody
    }

    /// A shim that runs but cannot be asked is of no use, and would keep what it holds for ever.
    /// Usually there is none.
    async fn end_unreachable_shim(&self) {
        if self.record.boot_id != self.cx.parts.boot_id {
            return;
        }
        if let Some(process) = self.record.shim {
            return end_shim_process(process, self.id()).await;
        }
        if self.record.phase != PodPhase::Creating {
            return;
        }
        // Started, and not yet recorded.
        let cx = Arc::clone(&self.cx);
        let running = blocking::run(move || shims::running(&cx.paths().pod_states())).await;
        let running = running.unwrap_or_else(|error| {
            tracing::warn!(sandbox = %self.id(), %error, "its shim is not looked for");
            Vec::new()
        });
        for shim in running.into_iter().filter(|shim| shim.sandbox == *self.id()) {
            end_shim_process(shim.process, self.id()).await;
        }
    }

    async fn reconcile(&mut self, report: StateReport) {
        let reported: HashSet<String> =
            report.containers.iter().map(|snapshot| snapshot.container.clone()).collect();
        for snapshot in report.containers {
            let Ok(id) = ContainerId::parse(&snapshot.container) else { continue };
            if self.is_sandbox_container(&id) && matches!(snapshot.phase, Phase::Exited(_)) {
                tracing::warn!(sandbox = %self.id(), "the sandbox container is gone");
                self.set_phase(PodPhase::Stopped).await;
            }
            let Some(container) = self.containers.get(&id) else { continue };
            let running =
                |pid| ContainerState::Running { pid, started_at: UnixNanos(snapshot.started_at) };
            match (&container.record.state, snapshot.phase) {
                // Final.
                (ContainerState::Exited(_), Phase::Exited(_)) => {}
                // Its start was given up, and came about after all.
                (ContainerState::Exited(_), Phase::Running(_)) => self.end_unrecorded(&id),
                // Already known.
                (ContainerState::Running { .. }, Phase::Running(_)) => {}
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
            for error in self.bury(lost).await {
                let error = chain(&error);
                tracing::error!(sandbox = %self.id(), error, "it runs on");
            }
        }
    }
}

/// Volatile directories whose pod has no record: left by a crash at the very end of a removal.
/// Those of records set aside may belong to pods that run.
pub(crate) async fn sweep_states(cx: &Arc<Context>) {
    let cx = Arc::clone(cx);
    blocking::run(move || {
        let listed = failpoint::reach(Point::RecoverSweep);
        let names = match listed.and_then(|()| names(&cx.paths().pod_states())) {
            Ok(names) => names,
            Err(error) => {
                tracing::warn!(%error, "stale state directories not looked for");
                return;
            }
        };
        for id in names.iter().filter_map(|name| SandboxId::parse(name).ok()) {
            // What cannot be looked at is not known to be gone.
            let gone = matches!(cx.paths().pod(&id).try_exists(), Ok(false));
            if gone && cx.quarantine.pod(id.as_str()).is_none() {
                log_failure(&id, "stale state directory", remove(&cx.paths().pod_state(&id)));
            }
        }
    })
    .await;
}

/// What is in a directory; nothing when there is none.
fn names(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        // What is not text is not ours.
        names.extend(entry?.file_name().into_string().ok());
    }
    Ok(names)
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
