//! A pod's owner: one task that alone changes a pod and its containers. RPCs queue requests; the
//! shim's events and the owner's own deadlines are handled between them.
//!
//! ```text
//!   Creating ──► Ready ──► Stopped ──► removed
//!       └────── roll-back ────┘
//! ```
//!
//! Nothing waits for a start, which may take long, but what is asked about that container itself and the pod's end.
//!
//! A request's work goes on when its caller goes away: nothing here is cancelled half-way. The
//! record of intent is written before the first side effect, so that a daemon that dies anywhere
//! leaves something its successor can finish (`recover`).

mod begin;
mod burial;
mod create;
mod external;
mod records;
mod recover;
mod run;
mod shim_process;
mod start;
mod starting;
mod stop;
mod teardown;
mod update;
mod update_pod;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use failpoint::Point;
use model::{ContainerConfig, ContainerId, PodConfig, Resources, SandboxId, SecurityProfile};
use shim_protocol::{Event, Exit};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::claim::{Claim, Fresh};
use crate::context::{Context, cgroup_of, cgroup_parent};
use crate::error::{
    ContainerError, CreateError, RunError, StartError, StepError, TeardownError, UpdateError,
};
use crate::events::EventKind;
use crate::link::{LinkEvent, ShimLink};
use crate::record::{ContainerRecord, ContainerState, ExitReason, ExitRecord, PodPhase, PodRecord};
use crate::targets::ExecTarget;
use crate::view::{Listed, PodView};

pub use recover::OpenError;
use shim_process::ShimProcess;
use starting::{Starting, Starts};

pub(crate) use shim_process::{end_adopted, end_shim_process};

pub(crate) use recover::{Recovery, load_all, sweep_states};
pub(crate) use update_pod::PodResources;
pub use update_pod::UpdatePodError;

/// What a seccomp filter sends.
const SIGSYS: i32 = 31;

/// How long a process may outlive SIGKILL before the caller is told (it may sit in IO).
const DIES_WITHIN: Duration = Duration::from_secs(60);

/// Where an answer goes. A caller that left drops its end.
pub(crate) type Reply<T, E> = oneshot::Sender<Result<T, E>>;

/// What an owner is asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// Make the pod: the first request of every new owner.
    Run(Reply<Fresh<SandboxId>, RunError>),
    /// `RunPodSandbox` again under the same name.
    Rejoin(Arc<PodConfig>, String, Reply<Fresh<SandboxId>, RunError>),
    Stop(Reply<(), TeardownError>),
    Remove(Reply<(), TeardownError>),
    Create(Box<ContainerConfig>, Reply<Fresh<ContainerId>, CreateError>),
    Start(ContainerId, Reply<(), StartError>),
    StopContainer(ContainerId, Duration, Reply<(), ContainerError>),
    RemoveContainer(ContainerId, Reply<(), ContainerError>),
    ReopenLog(ContainerId, Reply<(), ContainerError>),
    Update(ContainerId, Box<Resources>, Reply<(), UpdateError>),
    UpdatePod(Box<PodResources>, Reply<(), UpdatePodError>),
    Exec(ContainerId, Reply<ExecTarget, ContainerError>),
    Attach(ContainerId, Reply<Arc<ShimLink>, ContainerError>),
    /// End what lives in the group of a container that does not run.
    EndLeftovers(ContainerId, Reply<(), StepError>),
}

impl Request {
    /// The container that it is about, if it is about one alone.
    fn container(&self) -> Option<&ContainerId> {
        match self {
            Self::Start(id, _)
            | Self::StopContainer(id, ..)
            | Self::RemoveContainer(id, _)
            | Self::ReopenLog(id, _)
            | Self::Update(id, ..)
            | Self::Exec(id, _)
            | Self::Attach(id, _)
            | Self::EndLeftovers(id, _) => Some(id),
            Self::Run(_)
            | Self::Rejoin(..)
            | Self::Stop(_)
            | Self::Remove(_)
            | Self::Create(..)
            | Self::UpdatePod(..) => None,
        }
    }
}

/// A stop that waits for its container to end.
struct StopInFlight {
    /// When to escalate.
    deadline: Instant,
    /// SIGKILL has been sent.
    killed: bool,
    waiters: Vec<Reply<(), ContainerError>>,
}

struct Container {
    record: Arc<ContainerRecord>,
    stop: Option<StopInFlight>,
    /// Removals that wait for the container to end.
    removals: Vec<Reply<(), ContainerError>>,
    /// Whether its creator has learnt the id.
    claim: Claim,
    /// Its start, while that is under way.
    starting: Option<Starting>,
}

impl Container {
    fn new(record: ContainerRecord, claim: Claim) -> Self {
        let record = Arc::new(record);
        Self { record, stop: None, removals: Vec::new(), claim, starting: None }
    }

    fn is_running(&self) -> bool {
        matches!(self.record.state, ContainerState::Running { .. })
    }
}

/// The live shim of a pod.
struct Shim {
    link: Arc<ShimLink>,
    events: mpsc::UnboundedReceiver<LinkEvent>,
    process: ShimProcess,
    pause_pid: Option<i32>,
}

/// Whether the owner goes on.
enum Flow {
    Continue,
    Gone,
}

pub(crate) struct Owner {
    cx: Arc<Context>,
    record: Arc<PodRecord>,
    cgroup_parent: Arc<str>,
    shim: Option<Shim>,
    containers: BTreeMap<ContainerId, Container>,
    starts: Starts,
    /// What had to wait for a start, and comes before what is asked from now on.
    due: VecDeque<Request>,
    /// Whether its creator has learnt the id.
    claim: Claim,
    /// It is listed. A pod in the making is not: its id is known to nobody.
    announced: bool,
    /// When records that could not be written are written again.
    write_again_at: Option<Instant>,
}

impl Owner {
    pub(crate) fn new(cx: Arc<Context>, record: PodRecord) -> Self {
        let cgroup_parent = cgroup_parent(&record).into();
        Self {
            cx,
            record: Arc::new(record),
            cgroup_parent,
            shim: None,
            containers: BTreeMap::new(),
            starts: Starts::default(),
            due: VecDeque::new(),
            claim: Claim::default(),
            announced: false,
            write_again_at: None,
        }
    }

    pub(crate) fn id(&self) -> &SandboxId {
        &self.record.id
    }

    /// Its namespaces are gone with the boot they were made in, its addresses are kept still.
    pub(crate) fn is_cut_off_by_a_reboot(&self) -> bool {
        self.record.attached && self.record.boot_id != self.cx.parts.boot_id
    }

    /// Serves requests until the pod is removed or every sender is gone.
    pub(crate) async fn serve(mut self, mut queue: mpsc::Receiver<Request>) {
        loop {
            let deadline = self.next_deadline();
            let flow = tokio::select! {
                biased;
                event = next_event(self.shim.as_mut()) => {
                    self.on_event(event).await;
                    Flow::Continue
                }
                () = sleep_until(deadline) => {
                    self.on_deadline().await;
                    self.write_again().await;
                    Flow::Continue
                }
                Some(launched) = self.starts.next() => {
                    self.on_launched(launched).await;
                    Flow::Continue
                }
                request = next_request(&mut self.due, &mut queue) => match request {
                    Some(request) => self.on_request(request).await,
                    None => {
                        self.finish_starts().await;
                        return self.write_what_is_behind().await;
                    }
                },
            };
            match flow {
                Flow::Continue => {}
                Flow::Gone => break,
            }
        }
        self.cx.handles.remove(self.id());
        self.cx.release(&self.record);
        // Requests that came too late find their reply channel closed and look the pod up anew.
    }

    async fn on_request(&mut self, request: Request) -> Flow {
        let Some(request) = self.put_off(request) else { return Flow::Continue };
        match request {
            Request::Run(reply) => return self.on_run(reply).await,
            Request::Rejoin(config, handler, reply) => self.on_rejoin(&config, &handler, reply),
            Request::Stop(reply) => {
                let result = self.stop_pod().await;
                drop(reply.send(result));
            }
            Request::Remove(reply) => {
                let result = self.remove_pod().await;
                let flow = if result.is_ok() { Flow::Gone } else { Flow::Continue };
                drop(reply.send(result));
                return flow;
            }
            Request::Create(config, reply) => self.on_create(*config, reply).await,
            Request::Start(id, reply) => self.on_start(&id, reply),
            Request::StopContainer(id, timeout, reply) => {
                self.on_stop_container(&id, timeout, reply).await;
            }
            Request::RemoveContainer(id, reply) => self.on_remove_container(&id, reply).await,
            Request::ReopenLog(id, reply) => {
                let result = self.reopen_log(&id).await;
                drop(reply.send(result));
            }
            Request::Update(id, change, reply) => {
                let result = self.update_resources(&id, &change).await;
                drop(reply.send(result));
            }
            Request::UpdatePod(change, reply) => {
                let result = self.update_pod(*change).await;
                drop(reply.send(result));
            }
            Request::Exec(id, reply) => {
                let result = self.exec_target(&id).await;
                drop(reply.send(result));
            }
            Request::Attach(id, reply) => {
                let result = self.attach_target(&id);
                drop(reply.send(result));
            }
            Request::EndLeftovers(id, reply) => {
                let result = self.end_leftovers(&id).await;
                drop(reply.send(result));
            }
        }
        Flow::Continue
    }

    async fn on_event(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Shim(Event::Exited { container, exit }) => {
                match ContainerId::parse(&container) {
                    Ok(id) if self.is_sandbox_container(&id) => {
                        tracing::warn!(
                            sandbox = %self.id(), code = exit.code,
                            "the sandbox container ended: the pod is no longer ready"
                        );
                        self.lose_readiness().await;
                    }
                    Ok(id) => self.on_exit(&id, &exit).await,
                    Err(error) => {
                        tracing::error!(sandbox = %self.id(), %error, "the shim names no container");
                    }
                }
            }
            LinkEvent::Shim(Event::PauseExited(exit)) => {
                tracing::warn!(
                    sandbox = %self.id(), code = exit.code,
                    "the pause process ended: the pod is no longer ready"
                );
                self.lose_readiness().await;
            }
            // Routed by the link to whoever waits for it.
            LinkEvent::Shim(Event::ExecExited { .. } | Event::AttachEnded { .. }) => {}
            LinkEvent::Closed => self.on_shim_lost().await,
        }
    }

    /// Records a container's end and wakes those who wait for it.
    async fn on_exit(&mut self, id: &ContainerId, exit: &Exit) {
        let Some(container) = self.containers.get_mut(id) else { return };
        if let Some(starting) = &mut container.starting {
            starting.ended = Some(exit.clone());
            return;
        }
        let ContainerState::Running { started_at, .. } = container.record.state else { return };
        let reason = reason(&container.record.config, exit);
        let record = ExitRecord {
            started_at: Some(started_at),
            finished_at: model::UnixNanos(exit.finished_at),
            code: exit.code,
            reason,
            message: String::new(),
        };
        tracing::info!(
            sandbox = %self.id(), container = %id, code = exit.code, reason = reason.as_str(),
            "container ended"
        );
        self.set_container_state(id, ContainerState::Exited(record)).await;
        self.tell(EventKind::Stopped, id.as_str());
        self.after_exit(id).await;
    }

    /// Answers stops and carries out removals that waited for the end.
    async fn after_exit(&mut self, id: &ContainerId) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let waiters = container.stop.take().map(|stop| stop.waiters).unwrap_or_default();
        let removals = std::mem::take(&mut container.removals);
        for waiter in waiters {
            failpoint::pass(Point::StopAnswer);
            drop(waiter.send(Ok(())));
        }
        for reply in removals {
            let result = self.remove_container(id).await;
            drop(reply.send(result));
        }
    }

    /// Tells subscribers what happened to a container, or to the pod itself.
    fn tell(&self, kind: EventKind, id: &str) {
        self.cx.events.publish(kind, id, self.id().as_str(), &self.cx.index);
    }

    /// From here on it is listed.
    fn announce(&mut self) {
        self.announced = true;
        self.publish();
    }

    fn publish(&self) {
        if !self.announced {
            return;
        }
        self.cx.index.put_pod(PodView {
            record: Arc::clone(&self.record),
            network_closed: self.record.phase != PodPhase::Ready && !self.record.attached,
            cgroup_parent: Arc::clone(&self.cgroup_parent),
            pause_pid: self.shim.as_ref().and_then(|shim| shim.pause_pid),
            listed: Listed::default(),
        });
    }

    fn publish_container(&self, record: &Arc<ContainerRecord>) {
        let cgroup = cgroup_of(&self.cgroup_parent, &record.id).into();
        self.cx.index.put_container(Arc::clone(record), cgroup);
    }

    fn running(&self) -> Vec<ContainerId> {
        let running = self.containers.iter().filter(|(_, container)| container.is_running());
        running.map(|(id, _)| id.clone()).collect()
    }

    fn link(&self) -> Option<Arc<ShimLink>> {
        self.shim.as_ref().map(|shim| Arc::clone(&shim.link))
    }

    fn next_deadline(&self) -> Option<Instant> {
        let stops = self.containers.values().filter_map(|c| c.stop.as_ref());
        stops.map(|stop| stop.deadline).chain(self.write_again_at).min()
    }
}

/// CRI's word for how a container ended.
fn reason(config: &ContainerConfig, exit: &Exit) -> ExitReason {
    let filtered = match &config.security.seccomp {
        Some(SecurityProfile::RuntimeDefault | SecurityProfile::Localhost(_)) => {
            !config.security.privileged
        }
        Some(SecurityProfile::Unconfined) | None => false,
    };
    if exit.oom_killed {
        ExitReason::OomKilled
    } else if exit.signal == Some(SIGSYS) && filtered {
        ExitReason::SeccompKilled
    } else if exit.code == 0 {
        ExitReason::Completed
    } else {
        ExitReason::Error
    }
}

async fn next_event(shim: Option<&mut Shim>) -> LinkEvent {
    match shim {
        Some(shim) => shim.events.recv().await.unwrap_or(LinkEvent::Closed),
        None => std::future::pending().await,
    }
}

/// What was put off comes first.
async fn next_request(
    due: &mut VecDeque<Request>,
    queue: &mut mpsc::Receiver<Request>,
) -> Option<Request> {
    match due.pop_front() {
        Some(request) => Some(request),
        None => queue.recv().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
