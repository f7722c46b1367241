//! What containers in sandboxes use: their cgroups have no processes, the runtime tells.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use model::{ContainerId, ContainerStats, CpuStats, MemoryStats, NamespaceMode};
use serde_json::Value;

use crate::context::{Context, now};
use crate::handler::{ANSWERS_WITHIN, Program, RuntimeKind};
use crate::record::ContainerState;
use crate::view::{ContainerView, PodView};

/// How many runtimes are asked at once: each is a process of some 20 MiB.
const AT_ONCE: usize = 8;

/// What runtimes have told of containers.
#[derive(Debug, Default)]
pub(super) struct Told(HashMap<ContainerId, ContainerStats>);

/// One container that a runtime is asked about.
struct Question {
    container: ContainerId,
    pod: Arc<PodView>,
    program: Program,
    netns: Option<PathBuf>,
}

impl Told {
    /// Asks about those of `containers` that run in a sandbox, several at once. However many there are, who
    /// has told nothing within [`ANSWERS_WITHIN`] from now is not waited for. Blocking.
    pub(super) fn by_runtimes<'a>(
        cx: &Context,
        containers: impl Iterator<Item = &'a Arc<ContainerView>>,
    ) -> Self {
        let questions: Vec<_> = containers.filter_map(|view| Question::about(cx, view)).collect();
        let until = Instant::now() + ANSWERS_WITHIN;
        let answers = side_by_side(&questions, AT_ONCE, until, Question::ask);
        let told = questions.iter().zip(answers).map(|(question, answer)| {
            let (sandbox, container) = (&question.pod.record.id, &question.container);
            let late = || Err("there were too many to be asked in time".to_owned());
            let stats = match answer.unwrap_or_else(late) {
                Ok(told) => parse(&told),
                Err(reason) => {
                    tracing::warn!(%sandbox, %container, reason, "its use is not known");
                    ContainerStats::default()
                }
            };
            (container.clone(), stats)
        });
        Self(told.collect())
    }

    /// `None`: the container is not one of a sandbox. What its runtime does not tell is not set.
    pub(super) fn of(&self, container: &ContainerId) -> Option<ContainerStats> {
        self.0.get(container).cloned()
    }
}

impl Question {
    fn about(cx: &Context, view: &ContainerView) -> Option<Self> {
        let ContainerState::Running { .. } = view.record.state else { return None };
        let pod = cx.index.pod(view.record.sandbox.as_str()).ok()?;
        let program = pod.record.runtime.program.as_ref();
        let program = program.filter(|program| program.kind == RuntimeKind::Sandbox)?.clone();
        let on_host = pod.record.config.security.namespaces.network == NamespaceMode::Node;
        let netns = (!on_host).then(|| cx.paths().netns(&pod.record.id));
        Some(Self { container: view.record.id.clone(), pod, program, netns })
    }

    fn ask(&self, limit: Duration) -> Result<Value, String> {
        self.program.events(self.container.as_str(), self.netns.as_deref(), limit)
    }
}

/// Has `ask` answer each question, `at_once` at a time, with the time that is left. `None`: none was.
fn side_by_side<Q: Sync, A: Send>(
    questions: &[Q],
    at_once: usize,
    until: Instant,
    ask: impl Fn(&Q, Duration) -> A + Sync,
) -> Vec<Option<A>> {
    let next = AtomicUsize::new(0);
    let answers: Mutex<Vec<Option<A>>> = Mutex::new(questions.iter().map(|_| None).collect());
    let work = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let left = until.saturating_duration_since(Instant::now());
            let Some(question) = questions.get(index).filter(|_| !left.is_zero()) else { return };
            let answer = ask(question, left);
            let mut answers = answers.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(place) = answers.get_mut(index) {
                *place = Some(answer);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..at_once.min(questions.len()) {
            scope.spawn(work);
        }
    });
    answers.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// The form of runc's `events --stats`.
fn parse(told: &Value) -> ContainerStats {
    let at = now();
    let number = |path: &str| told.pointer(path).and_then(Value::as_u64);
    let cpu = number("/data/cpu/usage/total").map(|usage_ns| CpuStats {
        at,
        usage_ns,
        ..CpuStats::default()
    });
    let memory = number("/data/memory/usage/usage").map(|bytes| MemoryStats {
        at,
        usage_bytes: bytes,
        working_set_bytes: bytes,
        rss_bytes: bytes,
        ..MemoryStats::default()
    });
    let processes = number("/data/pids/current");
    ContainerStats { cpu, memory, processes, ..ContainerStats::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_asked_at_once_and_everybody_is_once() {
        let (asked, barrier) = (AtomicUsize::new(0), std::sync::Barrier::new(3));
        let until = Instant::now() + Duration::from_secs(3600);
        let answers = side_by_side(&[1, 2, 3, 4, 5, 6], 3, until, |number, _| {
            asked.fetch_add(1, Ordering::Relaxed);
            // Nobody goes on before three are here.
            barrier.wait();
            number * 10
        });
        assert_eq!(answers, [10, 20, 30, 40, 50, 60].map(Some));
        assert_eq!(asked.into_inner(), 6);
    }

    #[test]
    fn nobody_is_asked_after_the_time_is_up() {
        let answers = side_by_side(&[1, 2], 1, Instant::now(), |_, _| panic!("asked"));
        assert_eq!(answers, [None::<()>, None]);
    }

    #[test]
    fn what_the_runtime_tells_is_taken_and_nothing_else() {
        let text = r#"{"type":"stats","id":"x","data":{"cpu":{"usage":{"total":31}},
            "memory":{"usage":{"limit":0,"usage":24576}},"pids":{"current":2}}}"#;
        let stats = parse(&serde_json::from_str(text).unwrap());
        assert_eq!(stats.cpu.map(|cpu| cpu.usage_ns), Some(31));
        assert_eq!(stats.memory.map(|memory| memory.usage_bytes), Some(24_576));
        assert_eq!((stats.processes, stats.swap), (Some(2), None));
        assert_eq!(parse(&Value::Null), ContainerStats::default());
    }
}
