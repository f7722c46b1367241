//! Hooks that take their time. The pod's supervisor, which runs them, has one thread: nobody else of the pod
//! waits for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use serde_json::{Value, json};
use test_support::daemon::Settings;
use test_support::node::{Node, PATIENCE, on_a_node_with};
use test_support::pods::{ContainerBuilder, PodBuilder};
use test_support::proc;
use test_support::scratch::Scratch;
use tokio::task::JoinHandle;

use crate::hanging::siblings_live;

/// A handler, `hooked`, whose containers are made with these hooks.
pub(crate) fn with_hooks(settings: &mut Settings, scratch: &Scratch, hooks: &Value) {
    let process = json!({"cwd": "/", "user": {"uid": 0, "gid": 0}});
    let base = json!({"ociVersion": "1.0.2", "process": process, "hooks": hooks});
    let path = scratch.dir().join("base.json");
    fs::write(&path, base.to_string()).ok();
    settings.extra_config += &format!("\n[handlers.hooked]\nbase_spec = \"{}\"\n", path.display());
}

/// A node whose handler has a hook of each of these kinds that waits, when it is told to, until it may go on.
fn on_a_node_of_hooks(
    kinds: &[&str],
    test: impl AsyncFnOnce(&mut Node) -> Result<()>,
) -> Result<()> {
    let configure = |settings: &mut Settings, scratch: &Scratch| {
        let hook = |kind: &&str| {
            let gate = Gate::of(scratch, kind);
            let script = format!(
                "mv {armed} {began} || exit 0; cat > {state}; echo $$ > {pid}; mv {pid} {begun}; \
                 while [ ! -e {go} ]; do sleep 0.01; done",
                armed = gate.file("armed"),
                began = gate.file("began"),
                state = gate.file("state"),
                pid = gate.file("pid"),
                begun = gate.file("begun"),
                go = gate.file("go"),
            );
            let hook = json!({"path": "/bin/sh", "args": ["sh", "-c", script]});
            ((*kind).to_owned(), json!([hook]))
        };
        with_hooks(settings, scratch, &Value::Object(kinds.iter().map(hook).collect()));
    };
    on_a_node_with(configure, test)
}

/// What the next hook of a kind waits at.
struct Gate(PathBuf);

impl Gate {
    fn of(scratch: &Scratch, kind: &str) -> Self {
        Self(scratch.dir().join(kind))
    }

    /// From now on the next one waits.
    fn shut(node: &Node, kind: &str) -> Result<Self> {
        let gate = Self::of(&node.scratch, kind);
        fs::write(gate.file("armed"), "")?;
        Ok(gate)
    }

    fn file(&self, name: &str) -> String {
        format!("{}.{name}", self.0.display())
    }

    /// Returns once one waits: its process.
    fn reached(&self) -> Result<i32> {
        let begun = self.file("begun");
        let pid = |text: &str| text.trim().parse().ok();
        tokio::task::block_in_place(|| {
            test_support::files::wait_for(Path::new(&begun), PATIENCE, pid)
        })
    }

    /// The process of the container, as the hook that waits has been told.
    fn container_pid(&self) -> Result<i32> {
        let state: Value = serde_json::from_str(&fs::read_to_string(self.file("state"))?)?;
        let pid = state["pid"].as_i64().with_context(|| state.to_string())?;
        Ok(i32::try_from(pid)?)
    }

    fn open(&self) -> Result<()> {
        Ok(fs::write(self.file("go"), "")?)
    }
}

/// A pod under the handler, with a container that runs.
async fn pod_beside(node: &Node) -> Result<(PodBuilder, String, String)> {
    let image = node.pulled("busybox").await?;
    let mut pod = node.pod("pod");
    pod.handler = "hooked".into();
    let (pod_id, beside) = node.run(&pod, &pod.container("beside", &image).sleeper()).await?;
    Ok((pod, pod_id, beside))
}

type Asked = JoinHandle<Result<(), tonic::Status>>;

fn begin_start(node: &Node, id: &str) -> Asked {
    let (cri, id) = (node.cri.clone(), id.to_owned());
    tokio::spawn(async move { cri.start(&id).await })
}

async fn answer(asked: Asked) -> Result<Result<(), tonic::Status>> {
    Ok(tokio::time::timeout(PATIENCE, asked).await.context("no answer")??)
}

async fn create(
    node: &Node,
    (pod, pod_id): (&PodBuilder, &str),
    change: impl FnOnce(ContainerBuilder) -> ContainerBuilder,
) -> Result<String> {
    let image = node.pulled("busybox").await?;
    let container = change(pod.container("slow", &image));
    Ok(node.cri.create(pod_id, pod, &container).await?)
}

#[test]
fn hooks_that_take_their_time_hold_up_nothing_else_of_their_pod() -> Result<()> {
    on_a_node_of_hooks(&["prestart", "createRuntime", "poststart"], async |node| {
        let (pod, pod_id, beside) = pod_beside(node).await?;
        for kind in ["prestart", "createRuntime", "poststart"] {
            let id = create(node, (&pod, &pod_id), ContainerBuilder::sleeper).await?;
            let gate = Gate::shut(node, kind)?;
            let starting = begin_start(node, &id);
            gate.reached()?;
            siblings_live(node, &pod_id, &pod, &beside).await?;
            ensure!(!starting.is_finished(), "they have waited for {kind}");
            let status = node.cri.container(&id).await?;
            ensure!(status.state() == v1::ContainerState::ContainerCreated, "{kind}: {status:?}");
            gate.open()?;
            answer(starting).await??;
            ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
            node.cri.stop(&id, 10).await?;
            node.cri.remove(&id).await?;
        }
        Ok(())
    })
}

#[test]
fn output_is_read_while_a_hook_of_another_containers_end_runs() -> Result<()> {
    on_a_node_of_hooks(&["poststop"], async |node| {
        let (pod, pod_id, _) = pod_beside(node).await?;
        let image = node.pulled("busybox").await?;
        let signals = node.scratch.dir().join("signals");
        fs::create_dir(&signals)?;
        let script = "while [ ! -e /signals/go ]; do sleep 0.01; done; echo heard; sleep 1000";
        let speaks =
            pod.container("speaks", &image).script(script).mount(&signals, "/signals", false);
        let speaks = node.cri.create(&pod_id, &pod, &speaks).await?;
        node.cri.start(&speaks).await?;
        let id = create(node, (&pod, &pod_id), ContainerBuilder::sleeper).await?;
        node.cri.start(&id).await?;
        node.cri.stop(&id, 10).await?;
        let gate = Gate::shut(node, "poststop")?;
        let (cri, gone) = (node.cri.clone(), id.clone());
        let removing = tokio::spawn(async move { cri.remove(&gone).await });
        let hook = gate.reached()?;
        fs::write(signals.join("go"), "")?;
        node.wait_log(&speaks, "heard").await?;
        ensure!(
            !proc::ended_within(hook, Duration::ZERO)?,
            "it has waited until the hook was killed"
        );
        ensure!(!removing.is_finished(), "nobody has waited for the hook");
        gate.open()?;
        answer(removing).await??;
        ensure!(node.cri.container(&id).await.is_err(), "it is still there");
        Ok(())
    })
}

#[test]
fn a_program_that_ends_while_its_hooks_run_has_its_exit_told() -> Result<()> {
    on_a_node_of_hooks(&["poststart"], async |node| {
        let (pod, pod_id, _) = pod_beside(node).await?;
        let id = create(node, (&pod, &pod_id), |it| it.script("echo said; exit 7")).await?;
        let gate = Gate::shut(node, "poststart")?;
        let starting = begin_start(node, &id);
        gate.reached()?;
        proc::wait_gone(gate.container_pid()?, PATIENCE)?;
        gate.open()?;
        answer(starting).await??;
        let ended = node.wait_exited(&id).await?;
        ensure!(ended.exit_code == 7 && ended.reason == "Error", "{ended:?}");
        node.wait_log(&id, "said").await?;
        Ok(())
    })
}

#[test]
fn a_pod_is_stopped_while_a_hook_of_a_start_runs() -> Result<()> {
    on_a_node_of_hooks(&["createRuntime"], async |node| {
        let (pod, pod_id, _) = pod_beside(node).await?;
        let id = create(node, (&pod, &pod_id), ContainerBuilder::sleeper).await?;
        let gate = Gate::shut(node, "createRuntime")?;
        let starting = begin_start(node, &id);
        let hook = gate.reached()?;
        node.cri.stop_pod(&pod_id).await?;
        let error = answer(starting).await?.expect_err("it was killed");
        ensure!(error.message().contains("was killed before it ran"), "{error:?}");
        proc::wait_gone(hook, PATIENCE)?;
        let status = node.cri.container(&id).await?;
        ensure!(status.state() == v1::ContainerState::ContainerExited, "{status:?}");
        node.cri.remove_pod(&pod_id).await?;
        Ok(())
    })
}

#[test]
fn a_pod_that_is_stopped_waits_for_the_hooks_of_its_containers_ends() -> Result<()> {
    on_a_node_of_hooks(&["poststop"], async |node| {
        let (_, pod_id, _) = pod_beside(node).await?;
        let gate = Gate::shut(node, "poststop")?;
        let (cri, stopped) = (node.cri.clone(), pod_id.clone());
        let stopping = tokio::spawn(async move { cri.stop_pod(&stopped).await });
        gate.reached()?;
        ensure!(!stopping.is_finished(), "nobody has waited");
        gate.open()?;
        answer(stopping).await??;
        node.cri.remove_pod(&pod_id).await?;
        Ok(())
    })
}

#[test]
fn a_daemon_that_dies_while_a_hook_runs_finds_the_container_as_it_has_become() -> Result<()> {
    on_a_node_of_hooks(&["poststart"], async |node| {
        let (pod, pod_id, beside) = pod_beside(node).await?;
        let id = create(node, (&pod, &pod_id), ContainerBuilder::sleeper).await?;
        let gate = Gate::shut(node, "poststart")?;
        let starting = begin_start(node, &id);
        gate.reached()?;
        node.daemon.kill9()?;
        drop(starting);
        gate.open()?;
        node.launch()?;
        ensure!(node.cri.shell(&beside, "echo alive").await? == "alive");
        let status = node.cri.container(&id).await?;
        ensure!(status.state() == v1::ContainerState::ContainerRunning, "{status:?}");
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        Ok(())
    })
}
