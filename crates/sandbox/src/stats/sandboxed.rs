//! What a container in a sandbox uses: its cgroup has no processes, the runtime tells.

use model::{ContainerStats, CpuStats, MemoryStats, NamespaceMode};
use serde_json::Value;

use crate::context::{Context, now};
use crate::handler::{Program, RuntimeKind};
use crate::record::PodRecord;
use crate::view::ContainerView;

/// `None`: the container is not one of a sandbox. What its runtime does not tell is not set. Blocks,
/// for a bounded time.
pub(super) fn stats(cx: &Context, container: &ContainerView) -> Option<ContainerStats> {
    let pod = cx.index.pod(container.record.sandbox.as_str()).ok()?;
    let program = pod.record.runtime.program.as_ref();
    let program = program.filter(|program| program.kind == RuntimeKind::Sandbox)?;
    Some(ask(cx, &pod.record, program, container.record.id.as_str()))
}

fn ask(cx: &Context, pod: &PodRecord, program: &Program, container: &str) -> ContainerStats {
    let on_host = pod.config.security.namespaces.network == NamespaceMode::Node;
    let netns = (!on_host).then(|| cx.paths().netns(&pod.id));
    match program.events(container, netns.as_deref()) {
        Ok(told) => parse(&told),
        Err(reason) => {
            tracing::warn!(sandbox = %pod.id, container, reason, "its use is not known");
            ContainerStats::default()
        }
    }
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
