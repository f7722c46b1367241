//! The daemon's pods: finds the owner of a request and waits for its answer.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use model::{CgroupDriver, ContainerConfig, ContainerId, Digest, PodConfig, Resources, SandboxId};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::backlog::Behind;
use crate::claim::Fresh;
use crate::context::{Context, Parts, now, random_id};
use crate::error::{
    ContainerError, CreateError, RunError, StartError, StepError, StopPodError, TeardownError,
    UpdateError,
};
use crate::handler::{self, Handler};
use crate::handles::Handles;
use crate::pod::{OpenError, Owner, PodResources, Reply, Request, UpdatePodError};
use crate::record::{PodPhase, PodRecord};
use crate::validate::{self, InvalidPod};
use crate::view::{Index, LookupError};

/// Requests that may wait for one pod's owner before callers are held back.
pub(crate) const QUEUE: usize = 64;

/// Every pod of this daemon. Cheap to clone.
#[derive(Clone)]
pub struct Sandboxes {
    pub(crate) cx: Arc<Context>,
    pub(crate) tasks: TaskTracker,
    pub(crate) draining: CancellationToken,
}

impl std::fmt::Debug for Sandboxes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sandboxes").field("paths", self.cx.paths()).finish_non_exhaustive()
    }
}

impl Sandboxes {
    /// Takes over whatever earlier daemons left: answers come only from a complete picture.
    /// A pod whose shim keeps silent is listed as it was recorded, and holds up no other.
    ///
    /// # Errors
    /// [`OpenError`]: what there is cannot even be listed. Serving nothing is better than
    /// taking a full node for an empty one.
    pub async fn open(parts: Parts) -> Result<Self, OpenError> {
        let dir = parts.paths.root().join("probe");
        let user_namespaces =
            crate::blocking::run(move || crate::host::user_namespaces(&dir)).await;
        let cx = Arc::new(Context {
            parts,
            index: Index::default(),
            names: store::Names::default(),
            levels: crate::levels::Levels::default(),
            handles: Handles::default(),
            sampler: crate::sampler::Sampler::default(),
            events: crate::events::Events::default(),
            quarantine: crate::quarantine::Quarantine::default(),
            backlog: crate::backlog::Backlog::default(),
            silent: crate::sources::Silent::default(),
            unseen: crate::sources::Silent::default(),
            user_namespaces,
            exec_targets: crate::targets::ExecTargets::default(),
            refused_parent: crate::scopes::RefusedParent::default(),
            probes: crate::handler::Probes::default(),
        });
        crate::blocking::run(|| prepare_pins(std::path::Path::new(crate::paths::NETNS))).await;
        handler::watch::ask_all(&cx).await;
        let this = Self { cx, tasks: TaskTracker::new(), draining: CancellationToken::new() };
        this.take_over_all().await?;
        this.start_collecting_networks().await;
        this.tasks.spawn(crate::sampler::run(Arc::clone(&this.cx), this.draining.clone()));
        this.watch_handlers();
        Ok(this)
    }

    fn watch_handlers(&self) {
        for (name, handler) in &self.cx.parts.handlers.known {
            let Some(program) = handler.program.clone() else { continue };
            let (cx, draining) = (Arc::clone(&self.cx), self.draining.clone());
            self.tasks.spawn(handler::watch::run(cx, name.clone(), program, draining));
        }
    }

    /// An image may be removed while its containers run on: their layers stay, and so do those of
    /// containers whose records cannot be used.
    pub(crate) fn keep_layers_of_containers(&self) {
        let cx: Weak<Context> = Arc::downgrade(&self.cx);
        let layers = Arc::clone(&self.cx.parts.layers);
        self.cx.parts.images.set_layer_users(Box::new(move || -> HashSet<Digest> {
            // At the very end nobody knows any more: all of them may be used.
            let Some(cx) = cx.upgrade() else { return layers.list().into_iter().collect() };
            let containers = cx.index.containers();
            let used = containers.iter().flat_map(|container| container.record.all_layers());
            used.chain(cx.quarantine.layers()).collect()
        }));
    }

    /// What List and Status answer from.
    pub fn index(&self) -> &Index {
        &self.cx.index
    }

    /// Every event from now on, and before them what was found to have ended while no daemon
    /// watched. A subscriber that falls far behind is told so and should look at everything anew.
    pub fn events(&self) -> crate::events::Subscription {
        self.cx.events.subscribe(&self.cx.index)
    }

    /// Ends when the daemon drains: streams must not keep it alive.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Records that are older than what they tell of: they could not be written yet. Never waits.
    pub fn behind(&self) -> Vec<Behind> {
        self.cx.backlog.all()
    }

    /// What this host offers.
    pub fn host(&self) -> &bundle::HostFacts {
        &self.cx.parts.host
    }

    /// Whether pods can have user namespaces, with mounts that are mapped into them.
    pub fn has_user_namespaces(&self) -> bool {
        self.cx.user_namespaces.is_ok()
    }

    /// Directory of volatile state.
    pub fn state_dir(&self) -> &std::path::Path {
        self.cx.paths().state()
    }

    /// Ends what would otherwise go on for ever: event streams, background work.
    pub fn begin_drain(&self) {
        self.draining.cancel();
    }

    /// Lets requests in progress finish and ends every owner. Containers run on.
    pub async fn drain(&self) {
        self.begin_drain();
        self.cx.handles.clear();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// CRI `RunPodSandbox`. The work goes on when this future is dropped; a repeated call under
    /// the same name then gets its result.
    ///
    /// # Errors
    /// [`RunError`].
    pub async fn run_pod(&self, config: PodConfig, handler: String) -> Result<SandboxId, RunError> {
        validate::pod(&config)?;
        validate::labels(&config, &self.cx.parts.host)?;
        let own_users = config.security.namespaces.own_users().is_some();
        let runtime = self.usable_handler(&handler, own_users).await?;
        if let (true, Err(reason)) = (own_users, &self.cx.user_namespaces) {
            return Err(RunError::UserNamespaces { reason: reason.clone() });
        }
        let driver = self.cx.parts.cgroup_drivers.of(&config.cgroup_parent);
        self.cx.refused_parent.note(&config.cgroup_parent, &driver);
        let driver = driver.map_err(InvalidPod::CgroupParent)?;
        let config = Arc::new(config);
        loop {
            let id = SandboxId::from_random(random_id().map_err(RunError::Random)?);
            let queue = match self.cx.names.reserve(config.name.clone(), id.clone()) {
                Ok(()) => {
                    let handler = (handler.clone(), runtime.clone());
                    let record = self.new_record(id, Arc::clone(&config), handler, driver);
                    self.adopt(Owner::new(Arc::clone(&self.cx), record))
                }
                Err(taken) => match self.cx.handles.get(&taken.holder) {
                    Some(queue) => {
                        let (config, handler) = (Arc::clone(&config), handler.clone());
                        let rejoin = |reply| Request::Rejoin(config, handler, reply);
                        if let Some(result) = ask(&queue, rejoin).await {
                            return result.map(Fresh::read);
                        }
                        continue;
                    }
                    None => {
                        // Its owner is on its way out and gives the name back in a moment.
                        tokio::task::yield_now().await;
                        if self.draining.is_cancelled() {
                            return Err(RunError::ShuttingDown);
                        }
                        continue;
                    }
                },
            };
            let answer = ask(&queue, Request::Run).await;
            return answer.unwrap_or(Err(RunError::ShuttingDown)).map(Fresh::read);
        }
    }

    fn new_record(
        &self,
        id: SandboxId,
        config: Arc<PodConfig>,
        (handler, runtime): (String, Handler),
        cgroup_driver: CgroupDriver,
    ) -> PodRecord {
        PodRecord {
            id,
            selinux_level: self.cx.level_of(&config),
            config,
            handler,
            runtime,
            created_at: now(),
            boot_id: self.cx.parts.boot_id.clone(),
            phase: PodPhase::Creating,
            shim: None,
            attached: false,
            network: None,
            overhead: None,
            resources: None,
            cgroup_driver,
        }
    }

    fn adopt(&self, owner: Owner) -> mpsc::Sender<Request> {
        let (queue, receiver) = mpsc::channel(QUEUE);
        self.cx.handles.insert(owner.id().clone(), queue.clone());
        self.tasks.spawn(owner.serve(receiver));
        queue
    }

    /// A reboot has ended the pod; its addresses are kept for it still, and others need them.
    /// Kubelet stops such a pod too, sooner or later. The start does not wait for plugins.
    pub(crate) fn release(&self, queue: &mpsc::Sender<Request>) {
        let (reply, answer) = oneshot::channel();
        // A new owner's queue has room.
        if queue.try_send(Request::Stop(reply)).is_ok() {
            self.tasks.spawn(async move {
                if let Ok(Err(error)) = answer.await {
                    tracing::warn!(error = crate::error::chain(&error), "not all is released");
                }
            });
        }
    }

    /// CRI `StopPodSandbox`: an unknown pod is success.
    ///
    /// # Errors
    /// [`StopPodError`]; call again to resume.
    pub async fn stop_pod(&self, id: &str) -> Result<(), StopPodError> {
        self.end_pod(id, Request::Stop).await
    }

    /// CRI `RemovePodSandbox`: an unknown pod is success.
    ///
    /// # Errors
    /// [`StopPodError`]; call again to resume.
    pub async fn remove_pod(&self, id: &str) -> Result<(), StopPodError> {
        let images = self.images_of_pod(id);
        if let Some(pod) = self.cx.quarantine.pod(id) {
            return self.remove_quarantined(pod).await.map_err(StopPodError::Teardown);
        }
        self.end_pod(id, Request::Remove).await?;
        self.free_orphaned_layers(&images).await;
        Ok(())
    }

    async fn end_pod(
        &self,
        id: &str,
        request: fn(Reply<(), TeardownError>) -> Request,
    ) -> Result<(), StopPodError> {
        let id = match self.cx.index.pod(id) {
            Ok(view) => view.record.id.clone(),
            Err(LookupError::NotFound { .. }) => return Ok(()),
            Err(error @ (LookupError::Ambiguous { .. } | LookupError::Empty { .. })) => {
                return Err(StopPodError::Lookup(error));
            }
        };
        let answer = match self.cx.handles.get(&id) {
            Some(queue) => ask(&queue, request).await,
            None => None,
        };
        match answer {
            Some(result) => result.map_err(StopPodError::Teardown),
            None if self.cx.index.pod(id.as_str()).is_ok() => Err(StopPodError::ShuttingDown),
            // The pod was removed by somebody else meanwhile.
            None => Ok(()),
        }
    }

    /// CRI `CreateContainer`.
    ///
    /// # Errors
    /// [`CreateError`]; nothing is left.
    pub async fn create_container(
        &self,
        pod: &str,
        config: ContainerConfig,
    ) -> Result<ContainerId, CreateError> {
        let sandbox = self.cx.index.pod(pod)?.record.id.clone();
        let gone = || CreateError::PodGone { sandbox: sandbox.clone() };
        let queue = self.cx.handles.get(&sandbox).ok_or_else(gone)?;
        ask(&queue, |reply| Request::Create(Box::new(config), reply))
            .await
            .unwrap_or_else(|| Err(gone()))
            .map(Fresh::read)
    }

    /// CRI `StartContainer`.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start_container(&self, id: &str) -> Result<(), StartError> {
        let (id, queue) = self.container(id)?;
        let name = id.clone();
        ask(&queue, |reply| Request::Start(id, reply))
            .await
            .unwrap_or_else(|| Err(not_found(&name).into()))
    }

    /// CRI `StopContainer`: an unknown container is success.
    ///
    /// # Errors
    /// [`ContainerError`].
    pub async fn stop_container(&self, id: &str, timeout: Duration) -> Result<(), ContainerError> {
        match self.container(id) {
            Ok((id, queue)) => {
                let name = id.clone();
                let stop = |reply| Request::StopContainer(id, timeout, reply);
                self.settled(&name, ask(&queue, stop).await)
            }
            Err(LookupError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// CRI `RemoveContainer`: an unknown container is success.
    ///
    /// # Errors
    /// [`ContainerError`]; call again to resume.
    pub async fn remove_container(&self, id: &str) -> Result<(), ContainerError> {
        let view = self.cx.index.container(id).ok();
        let images: Vec<Digest> = view.iter().flat_map(|view| view.record.all_images()).collect();
        match self.container(id) {
            Ok((id, queue)) => {
                let name = id.clone();
                let answer = ask(&queue, |reply| Request::RemoveContainer(id, reply)).await;
                self.settled(&name, answer)?;
            }
            Err(LookupError::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        self.free_orphaned_layers(&images).await;
        Ok(())
    }

    /// CRI `ReopenContainerLog`.
    ///
    /// # Errors
    /// [`ContainerError`].
    pub async fn reopen_log(&self, id: &str) -> Result<(), ContainerError> {
        let (id, queue) = self.container(id)?;
        let name = id.clone();
        ask(&queue, |reply| Request::ReopenLog(id, reply))
            .await
            .unwrap_or_else(|| Err(not_found(&name).into()))
    }

    /// CRI `UpdateContainerResources`: what `change` leaves at 0 or empty stays as it is.
    ///
    /// # Errors
    /// [`UpdateError`]; the old limits hold.
    pub async fn update_resources(&self, id: &str, change: Resources) -> Result<(), UpdateError> {
        let (id, queue) = self.container(id)?;
        let (name, change) = (id.clone(), Box::new(change));
        ask(&queue, |reply| Request::Update(id, change, reply))
            .await
            .unwrap_or_else(|| Err(not_found(&name).into()))
    }

    /// CRI `UpdatePodSandboxResources`: takes note of the pod's new totals. Kubelet owns the pod's
    /// cgroup; nothing is applied here. What is not given stays as it is.
    ///
    /// # Errors
    /// [`UpdatePodError`]; the old totals hold.
    pub async fn update_pod_resources(
        &self,
        id: &str,
        overhead: Option<Resources>,
        resources: Option<Resources>,
    ) -> Result<(), UpdatePodError> {
        let sandbox = self.cx.index.pod(id)?.record.id.clone();
        let gone = || LookupError::NotFound { kind: "pod sandbox", id: sandbox.to_string() };
        let queue = self.cx.handles.get(&sandbox).ok_or_else(gone)?;
        let change = Box::new(PodResources { overhead, resources });
        ask(&queue, |reply| Request::UpdatePod(change, reply))
            .await
            .unwrap_or_else(|| Err(gone().into()))
    }

    /// Ends what lives in the group of a container that does not run; a container that is not known
    /// has nothing.
    ///
    /// # Errors
    /// [`StepError::Cgroup`].
    pub(crate) async fn end_leftovers(&self, id: &ContainerId) -> Result<(), StepError> {
        let Ok((id, queue)) = self.container(id.as_str()) else { return Ok(()) };
        let ended = ask(&queue, |reply| Request::EndLeftovers(id, reply)).await;
        ended.unwrap_or(Ok(()))
    }

    pub(crate) fn container(
        &self,
        id: &str,
    ) -> Result<(ContainerId, mpsc::Sender<Request>), LookupError> {
        let view = self.cx.index.container(id)?;
        let id = view.record.id.clone();
        let queue = self.cx.handles.get(&view.record.sandbox).ok_or_else(|| not_found(&id))?;
        Ok((id, queue))
    }

    /// No answer means that somebody else removed it meanwhile, and what was asked is so; or that the daemon ends.
    fn settled(
        &self,
        id: &ContainerId,
        answer: Option<Result<(), ContainerError>>,
    ) -> Result<(), ContainerError> {
        match answer {
            None if self.cx.index.container(id.as_str()).is_ok() => {
                Err(ContainerError::ShuttingDown)
            }
            None | Some(Ok(()) | Err(ContainerError::Lookup(LookupError::NotFound { .. }))) => {
                Ok(())
            }
            Some(Err(error)) => Err(error),
        }
    }

    fn images_of_pod(&self, id: &str) -> Vec<Digest> {
        let Ok(pod) = self.cx.index.pod(id) else { return Vec::new() };
        let containers = self.cx.index.containers_of(&pod.record.id);
        containers.iter().flat_map(|container| container.record.all_images()).collect()
    }

    /// The last container of an image that was removed or repaired meanwhile frees its layers.
    async fn free_orphaned_layers(&self, images: &[Digest]) {
        let images_store = &self.cx.parts.images;
        let orphaned =
            images.iter().any(|id| matches!(images_store.resolve(&id.to_string()), Ok(None)));
        let waited_for = orphaned || images_store.keeps_replaced_layers();
        if waited_for && let Err(error) = images_store.collect().await {
            let error = crate::error::chain(&error);
            tracing::warn!(error, "layers that nothing uses any more are not freed");
        }
    }
}

/// Pods have networks without it, too.
fn prepare_pins(dir: &std::path::Path) {
    if let Err(error) = crate::pins::prepare(dir) {
        let error = crate::error::chain(&error);
        tracing::warn!(error, "`ip netns add` will hide pods' network namespaces");
    }
}

pub(crate) fn not_found(id: &ContainerId) -> LookupError {
    LookupError::NotFound { kind: "container", id: id.to_string() }
}

/// Queues a request and waits; `None` when the owner ended without answering.
pub(crate) async fn ask<T, E>(
    queue: &mpsc::Sender<Request>,
    request: impl FnOnce(Reply<T, E>) -> Request,
) -> Option<Result<T, E>> {
    let (reply, answer) = oneshot::channel();
    queue.send(request(reply)).await.ok()?;
    answer.await.ok()
}
