//! A start under way. It may take as long as a file system takes to answer, and the pod's owner has other containers:
//! it goes on, and hears of it in the end. What is asked about the container itself waits for that.

use std::sync::Arc;

use failpoint::Point;
use model::{ContainerId, NamespaceMode, UnixNanos};
use shim_protocol::{Body, Exit, Response, StartContainer};
use sys::trace::span;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::create::mount_sources;
use super::external::start_body;
use super::run::warn;
use super::{Container, Owner, Reply, Request};
use crate::admission::Refusal;
use crate::blocking;
use crate::context::Context;
use crate::error::StartError;
use crate::files::FileError;
use crate::link::{LinkError, ShimLink};
use crate::plan::{self, PlanFailure};
use crate::record::{ContainerRecord, ContainerState, PodRecord};

/// What waits for a start.
pub(super) struct Starting {
    pub(super) reply: Reply<(), StartError>,
    /// The news of its end came first.
    pub(super) ended: Option<Exit>,
    /// What was asked about the container since.
    pub(super) later: Vec<Request>,
}

impl Starting {
    pub(super) fn new(reply: Reply<(), StartError>) -> Self {
        Self { reply, ended: None, later: Vec::new() }
    }
}

/// What came of a start.
pub(super) struct Launched {
    pub(super) container: ContainerId,
    pub(super) result: Result<ContainerState, StartError>,
}

/// A pod's starts under way.
#[derive(Default)]
pub(super) struct Starts {
    tasks: JoinSet<Launched>,
    /// The pod ends: what has not got to the shim does not any more.
    ending: CancellationToken,
}

impl Starts {
    pub(super) fn begin(&mut self, start: Start) {
        let ending = self.ending.clone();
        self.tasks.spawn(async move {
            let container = start.record.id.clone();
            let result = start.run(&ending).await;
            Launched { container, result }
        });
    }

    /// From now on none gets to the shim.
    pub(super) fn end(&self) {
        self.ending.cancel();
    }

    /// Waits for the next one that is through; `None`: there is none. Can be dropped at any time.
    pub(super) async fn next(&mut self) -> Option<Launched> {
        match self.tasks.join_next().await? {
            Ok(launched) => Some(launched),
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // The runtime is shutting down and will drop this future too.
                Err(_cancelled) => std::future::pending().await,
            },
        }
    }
}

/// All that a start needs to know.
pub(super) struct Start {
    pub(super) cx: Arc<Context>,
    pub(super) pod: Arc<PodRecord>,
    pub(super) record: Arc<ContainerRecord>,
    /// Whose PID namespace it joins; or that there is nobody any more.
    pub(super) pid_target: Result<Option<String>, Refusal>,
    pub(super) link: Option<Arc<ShimLink>>,
}

impl Start {
    async fn run(self, ending: &CancellationToken) -> Result<ContainerState, StartError> {
        let _span = span("daemon: start the container");
        let id = &self.record.id;
        let refused = |source| StartError::Refused { container: id.clone(), source };
        let pid_target = self.pid_target.clone().map_err(refused)?;
        let body = tokio::select! {
            biased;
            () = ending.cancelled() => return Err(refused(Refusal::PodNotReady)),
            body = self.body(pid_target) => body?,
        };
        let fail = |source| StartError::Launch { container: id.clone(), source };
        let sandbox = self.pod.id.clone();
        let link = self.link.as_ref();
        let link = link.ok_or_else(|| fail(LinkError::Gone { sandbox: sandbox.clone() }))?;
        failpoint::reach(Point::StartLaunch)
            .map_err(|source| fail(LinkError::Connect { sandbox: sandbox.clone(), source }))?;
        let _span = span("daemon: ask for the launch");
        match link.call(body, Vec::new()).await {
            Ok(Response::Started(started)) => {
                warn(&sandbox, &started.warnings);
                let started_at = UnixNanos(started.started_at);
                Ok(ContainerState::Running { pid: started.pid, started_at })
            }
            Ok(_other) => Err(fail(link.confused())),
            Err(source) => Err(fail(source)),
        }
    }

    /// What the shim is asked.
    async fn body(&self, pid_target: Option<String>) -> Result<Body, StartError> {
        let record = &self.record;
        let container = || record.id.clone();
        let planned = |source| StartError::Plan { container: container(), source };
        let (answers, plan) = tokio::join!(self.paths_answer(), self.launch_plan());
        answers.map_err(|source| StartError::Silent { container: container(), source })?;
        let start = StartContainer {
            container: record.id.to_string(),
            plan: plan.map_err(planned)?.encode(),
            log_path: record.log_path.clone(),
            stdin: record.config.stdin,
            stdin_once: record.config.stdin_once,
            kill_rest: record.config.security.namespaces.pid != NamespaceMode::Container,
            pid_target,
            stop_signal: Some(record.stop_signal.number()),
        };
        start_body(&self.cx, &self.pod, record, start).map_err(planned)
    }

    /// The shim, which has one thread and a pod to keep, does not come back from what is dead.
    async fn paths_answer(&self) -> Result<(), FileError> {
        let log = self.record.log_dir().map(|dir| dir.to_string_lossy().into_owned());
        let paths = log.into_iter().chain(mount_sources(&self.record.config)).collect();
        self.cx.silent.ask(paths).await
    }

    async fn launch_plan(&self) -> Result<launch::plan::LaunchPlan, PlanFailure> {
        let (cx, record) = (Arc::clone(&self.cx), Arc::clone(&self.record));
        let _span = span("daemon: plan the launch");
        blocking::run(move || plan::container(&cx, &record)).await
    }
}

impl Owner {
    /// Puts off what is asked about a container that is just being started.
    pub(super) fn put_off(&mut self, request: Request) -> Option<Request> {
        let container = request.container().and_then(|id| self.containers.get_mut(id));
        match container.and_then(|container| container.starting.as_mut()) {
            Some(starting) => {
                starting.later.push(request);
                None
            }
            None => Some(request),
        }
    }

    /// A start is through: answers it, and has what waited for it done next.
    pub(super) async fn on_launched(&mut self, Launched { container: id, result }: Launched) {
        let container = self.containers.get_mut(&id);
        let Some(starting) = container.and_then(|container| container.starting.take()) else {
            return;
        };
        let answer = self.record_start(&id, result).await;
        drop(starting.reply.send(answer));
        if let Some(exit) = starting.ended {
            self.on_exit(&id, &exit).await;
        }
        let runs = self.containers.get(&id).is_some_and(Container::is_running);
        if runs && self.shim.is_none() {
            // Its shim died after it had told.
            self.end_without_a_shim().await;
        }
        self.due.extend(starting.later);
    }

    /// Waits for all that are under way.
    pub(super) async fn finish_starts(&mut self) {
        while let Some(launched) = self.starts.next().await {
            self.on_launched(launched).await;
        }
    }

    /// The pod ends: what is under way fails, as soon as the shim gets to it.
    pub(super) async fn end_starts(&mut self) {
        self.starts.end();
        let starting = self.containers.iter().filter(|(_, it)| it.starting.is_some());
        for (id, _) in starting {
            self.end_unrecorded(id);
        }
        self.finish_starts().await;
    }
}
