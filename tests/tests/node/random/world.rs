//! A daemon under random calls, and what must be true after each of them.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cri_api::v1;
use futures_util::future::join_all;
use test_support::leaks::Leaks;
use test_support::node::{Node, PATIENCE};
use test_support::pods::PodBuilder;
use test_support::proc;
use tonic::{Code, Status};

use super::calls::{BOGUS, Call, Step, Which};
use super::shapes::ContainerShape;

/// No call of this test has reason to take longer; StopContainer's grace is 2 s.
const DEADLINE: Duration = Duration::from_secs(60);

/// A roll-back that nobody waits for is announced by no event: look again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

pub(super) struct World<'n> {
    node: &'n mut Node,
    image: String,
    pods: Vec<String>,
    containers: Vec<String>,
    pub(super) seen: Tally,
}

/// What has come about: that the test tests something.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Containers that were started.
    pub(super) ran: usize,
    /// Calls that were refused.
    pub(super) refused: usize,
    /// Daemons that were killed.
    pub(super) crashes: usize,
}

impl<'n> World<'n> {
    pub(super) fn new(node: &'n mut Node, image: String) -> Self {
        Self { node, image, pods: Vec::new(), containers: Vec::new(), seen: Tally::default() }
    }

    /// Makes the calls, then checks that List and the kernel agree.
    pub(super) async fn take(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Calls(calls) => {
                let answers = join_all(calls.iter().map(|call| self.call(call))).await;
                for (call, answer) in calls.iter().zip(answers) {
                    let done = sensible(call, answer?)?;
                    self.count(call, done);
                    if done && calls.len() == 1 {
                        self.check_effect(call).await?;
                    }
                }
            }
            Step::Abandoned(call) => {
                // One turn of the daemon: the request is on its way, the answer is not back yet.
                let answer = tokio::time::timeout(Duration::from_millis(3), self.call(call)).await;
                if let Ok(answer) = answer {
                    sensible(call, answer?)?;
                }
            }
            Step::Crash(calls) => {
                let calls = join_all(calls.iter().map(|call| self.call(call)));
                // What was answered by then was answered; the rest learns of the crash.
                tokio::time::timeout(Duration::from_millis(5), calls).await.ok();
                self.node.crash_and_restart()?;
                self.seen.crashes += 1;
            }
        }
        self.agree().await
    }

    fn count(&mut self, call: &Call, done: bool) {
        match call {
            Call::Start(_) | Call::Launch(..) if done => self.seen.ran += 1,
            _ if !done => self.seen.refused += 1,
            _ => {}
        }
    }

    /// Removes everything and looks for leaks.
    pub(super) async fn clear(&mut self) -> Result<()> {
        self.node.cri.remove_everything().await.context("remove everything")?;
        self.agree().await?;
        ensure!(self.pods.is_empty() && self.containers.is_empty(), "still listed");
        Leaks::of(&self.node.scratch).assert_none()
    }

    fn pod(&self, which: Which) -> String {
        one_of(&self.pods, which)
    }

    fn container(&self, which: Which) -> String {
        one_of(&self.containers, which)
    }

    async fn call(&self, call: &Call) -> Result<Result<(), Status>> {
        let made = tokio::time::timeout(DEADLINE, self.make(call)).await;
        made.with_context(|| format!("no answer within {DEADLINE:?}: {call:?}"))
    }

    async fn make(&self, call: &Call) -> Result<(), Status> {
        let cri = &self.node.cri;
        match call {
            Call::Run(shape) => cri.run_pod(&shape.build(self.node)).await.map(drop),
            Call::StopPod(which) => cri.stop_pod(&self.pod(*which)).await,
            Call::RemovePod(which) => cri.remove_pod(&self.pod(*which)).await,
            Call::Create(which, shape) => self.create(*which, shape).await.map(drop),
            Call::Launch(which, shape) => {
                let id = self.create(*which, shape).await?;
                cri.start(&id).await
            }
            Call::Start(which) => cri.start(&self.container(*which)).await,
            Call::Stop(which, grace) => cri.stop(&self.container(*which), *grace).await,
            Call::Remove(which) => cri.remove(&self.container(*which)).await,
            Call::Exec(which, command) => {
                let words = command.words();
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                cri.exec(&self.container(*which), &words, 1).await.map(drop)
            }
            Call::Update(which, limits) => {
                let request = v1::UpdateContainerResourcesRequest {
                    container_id: self.container(*which),
                    linux: Some(limits.resources()),
                    ..Default::default()
                };
                cri.runtime.clone().update_container_resources(request).await.map(drop)
            }
            Call::Reopen(which) => {
                let container_id = self.container(*which);
                let request = v1::ReopenContainerLogRequest { container_id };
                cri.runtime.clone().reopen_container_log(request).await.map(drop)
            }
            Call::Look(which) => {
                cri.pod(&self.pod(*which)).await.map(drop)?;
                cri.container(&self.container(*which)).await.map(drop)
            }
        }
    }

    async fn create(&self, pod: Which, shape: &ContainerShape) -> Result<String, Status> {
        let any = PodBuilder::new(&self.node.scratch, "any");
        let mut container = shape.build(&any, &self.image);
        let linux = container.config.linux.get_or_insert_default();
        // A container's options have to be its pod's; unset ones are.
        linux.security_context.get_or_insert_default().namespace_options = None;
        self.node.cri.create(&self.pod(pod), &any, &container).await
    }

    /// What a lone call that succeeded has brought about.
    async fn check_effect(&self, call: &Call) -> Result<()> {
        let cri = &self.node.cri;
        match call {
            Call::StopPod(which) => {
                let id = self.pod(*which);
                let Some(pod) = found(cri.pod(&id).await)? else { return Ok(()) };
                ensure!(pod.state() == v1::PodSandboxState::SandboxNotready, "{pod:?}");
                // Not so after a stop that a crash cut short: kubelet repeats that.
                let pinned = Path::new("/run/netns").join(format!("knarr-{}", pod.id)).exists();
                ensure!(!pinned, "the network namespace is there: {pod:?}");
                let pause =
                    proc::all().into_iter().find(|p| !p.zombie && p.cgroups.contains(&pod.id));
                ensure!(pause.is_none(), "{pause:?} is there: {pod:?}");
                let of_pod =
                    v1::ContainerFilter { pod_sandbox_id: id.clone(), ..Default::default() };
                for container in cri.containers(Some(of_pod)).await? {
                    let running = container.state() == v1::ContainerState::ContainerRunning;
                    ensure!(!running, "runs on in a stopped pod: {container:?}");
                }
            }
            Call::RemovePod(which) => {
                ensure!(found(cri.pod(&self.pod(*which)).await)?.is_none(), "still there");
            }
            Call::Remove(which) => {
                let left = found(cri.container(&self.container(*which)).await)?;
                ensure!(left.is_none(), "still there: {left:?}");
            }
            Call::Start(which) => {
                let status = cri.container(&self.container(*which)).await?;
                ensure!(status.started_at > 0, "{status:?}");
            }
            Call::Stop(which, _) => {
                let Some(status) = found(cri.container(&self.container(*which)).await)? else {
                    return Ok(());
                };
                let running = status.state() == v1::ContainerState::ContainerRunning;
                ensure!(!running, "{status:?}");
            }
            Call::Run(_)
            | Call::Create(..)
            | Call::Launch(..)
            | Call::Exec(..)
            | Call::Update(..)
            | Call::Reopen(_)
            | Call::Look(_) => {}
        }
        Ok(())
    }

    /// Waits until what is listed is what is there, and learns what is listed.
    async fn agree(&mut self) -> Result<()> {
        let mut runtime = self.node.cri.runtime.clone();
        let events = runtime.get_container_events(v1::GetEventsRequest {}).await;
        let mut events = events.context("GetContainerEvents")?.into_inner();
        let start = std::time::Instant::now();
        loop {
            let seen = Seen::look(self.node).await?;
            let Err(difference) = seen.agree() else {
                self.pods = seen.pods.into_iter().map(|pod| pod.id).collect();
                self.containers = seen.containers.into_iter().map(|c| c.id).collect();
                return Ok(());
            };
            ensure!(start.elapsed() < PATIENCE, "{difference:#}");
            drop(tokio::time::timeout(LOOK_AGAIN, events.message()).await);
        }
    }
}

fn one_of(listed: &[String], which: Which) -> String {
    let bogus = |index: usize| BOGUS[index % BOGUS.len()].to_owned();
    match which {
        Which::Listed(index) if !listed.is_empty() => listed[index % listed.len()].clone(),
        Which::Listed(index) | Which::Bogus(index) => bogus(index),
    }
}

fn found<T>(result: Result<T, Status>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// Whether the call succeeded; an answer that no well-formed call deserves is an error.
fn sensible(call: &Call, answer: Result<(), Status>) -> Result<bool> {
    let Err(status) = answer else { return Ok(true) };
    let text = status.message();
    ensure!(!text.is_empty(), "{call:?}: {:?} without a word", status.code());
    match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::FailedPrecondition
        | Code::Unknown => Ok(false),
        Code::DeadlineExceeded if matches!(call, Call::Exec(..)) => Ok(false),
        code => bail!("{call:?}: {code:?}: {text}"),
    }
}

/// The daemon's lists and the kernel's processes, taken together.
struct Seen {
    pods: Vec<v1::PodSandbox>,
    containers: Vec<v1::Container>,
    /// Ids in the cgroup paths of this node's living processes.
    live: BTreeSet<String>,
    /// Ids in the command lines of this node's shims.
    shims: BTreeSet<String>,
    log: String,
}

impl Seen {
    async fn look(node: &Node) -> Result<Self> {
        let pods = node.cri.pods(None).await.context("ListPodSandbox")?;
        let containers = node.cri.containers(None).await.context("ListContainers")?;
        let parent = format!("{}/", node.scratch.cgroup_parent());
        let state = node.scratch.state().display().to_string();
        let (mut live, mut shims) = (BTreeSet::new(), BTreeSet::new());
        for process in proc::all().into_iter().filter(|process| !process.zombie) {
            if process.cmdline.contains("knarr-shim") && process.cmdline.contains(&state) {
                shims.extend(ids_in(&process.cmdline));
            } else if process.cgroups.contains(&parent) {
                live.extend(ids_in(&process.cgroups));
            }
        }
        Ok(Self { pods, containers, live, shims, log: node.daemon.log_text() })
    }

    fn agree(&self) -> Result<()> {
        ensure!(!self.log.contains("panicked at"), "the daemon panicked");
        let is_running = |c: &&v1::Container| c.state() == v1::ContainerState::ContainerRunning;
        let running: BTreeSet<&str> =
            self.containers.iter().filter(is_running).map(|c| c.id.as_str()).collect();
        for id in &running {
            ensure!(self.live.contains(*id), "{id} is RUNNING and has no process");
        }
        let ready: BTreeSet<&str> = self
            .pods
            .iter()
            .filter(|pod| pod.state() == v1::PodSandboxState::SandboxReady)
            .map(|pod| pod.id.as_str())
            .collect();
        for id in self.live.iter().map(String::as_str) {
            // A pod's own is the pause process.
            let of_pod = self.pods.iter().any(|pod| pod.id == id);
            ensure!(running.contains(id) || of_pod, "processes of {id}, not RUNNING");
        }
        for id in &ready {
            ensure!(self.shims.contains(*id), "pod {id} is READY and has no shim");
        }
        for id in self.shims.iter().map(String::as_str) {
            ensure!(self.pods.iter().any(|pod| pod.id == id), "a shim of {id}, not listed");
        }
        for container in &self.containers {
            let pod = &container.pod_sandbox_id;
            ensure!(self.pods.iter().any(|p| p.id == *pod), "a container of no pod: {container:?}");
        }
        Ok(())
    }
}

/// Every run of exactly 64 lowercase hexadecimal digits.
fn ids_in(text: &str) -> Vec<String> {
    text.split(|c: char| !matches!(c, '0'..='9' | 'a'..='f'))
        .filter(|word| word.len() == 64)
        .map(str::to_owned)
        .collect()
}
