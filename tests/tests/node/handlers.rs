//! Other OCI runtimes behind RuntimeClasses: what is particular to them. That pods live under them as
//! under the built-in one is shown by the other tests, run again with `KNARR_TEST_HANDLER`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use rustix::process::Signal;
use test_support::cri::refused;
use test_support::handlers::Runtime;
use test_support::node::{Node, PATIENCE, log_lines, on_a_node_with, texts};
use test_support::{proc, skip};
use tonic::Code;

use crate::live::{Live, attach};

/// Runs `test` under each of `runtimes` that this host has.
fn under(
    runtimes: &[Runtime],
    test: &impl AsyncFn(&mut Node, Runtime) -> Result<()>,
) -> Result<()> {
    for runtime in runtimes {
        if let Err(why) = runtime.find() {
            skip(&why);
            continue;
        }
        let mut configured = Ok(());
        let configure = |_: &mut _, scratch: &_| configured = runtime.make_default(scratch);
        let name = runtime.name();
        on_a_node_with(configure, async |node| test(node, *runtime).await)
            .with_context(|| format!("under {name}"))?;
        configured?;
    }
    Ok(())
}

/// Those whose containers are processes of the host.
const WITH_PROCESSES: [Runtime; 4] =
    [Runtime::Runc, Runtime::Crun, Runtime::Youki, Runtime::KnarrOci];

async fn lives_and_ends(node: &mut Node, runtime: Runtime) -> Result<()> {
    let image = node.pulled("busybox").await?;
    let pod = node.pod("life");
    let script = "echo out; echo err >&2; trap 'exit 7' TERM; echo asleep; \
                  while :; do sleep 0.1; done";
    let (pod_id, id) = node.run(&pod, &pod.container("main", &image).script(script)).await?;
    node.wait_log(&id, "asleep").await?;
    let lines = log_lines(&node.log_path(&id).await?)?;
    ensure!(texts(&lines, "stdout") == ["out", "asleep"], "{lines:?}");
    ensure!(texts(&lines, "stderr") == ["err"], "{lines:?}");

    let output = node.cri.exec(&id, &["sh", "-c", "echo in; echo bad >&2; exit 5"], 20).await?;
    let got = (output.code, output.stdout.as_str(), output.stderr.as_str());
    ensure!(got == (5, "in\n", "bad\n"), "{output:?}");
    let missing = node.cri.exec(&id, &["/no/such/program"], 20).await;
    let text = missing.err().map(|status| status.message().to_owned()).unwrap_or_default();
    ensure!(text.contains("/no/such/program"), "{text}");

    node.crash_and_restart()?;
    ensure!(node.cri.pod(&pod_id).await?.state() == v1::PodSandboxState::SandboxReady);
    ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
    let root = node.scratch.state().join("handlers").join(runtime.name());
    ensure!(fs::read_dir(&root)?.next().is_some(), "{} is empty", root.display());

    node.cri.stop(&id, 20).await?;
    let status = node.cri.container(&id).await?;
    ensure!((status.exit_code, status.reason.as_str()) == (7, "Error"), "{status:?}");
    node.cri.stop_pod(&pod_id).await?;
    node.cri.remove_pod(&pod_id).await?;
    let left: Vec<_> = fs::read_dir(&root)?.collect::<Result<_, _>>()?;
    ensure!(!left.iter().any(|entry| entry.file_name().to_string_lossy().contains(&id)));
    Ok(())
}

#[test]
fn containers_live_under_other_runtimes() -> Result<()> {
    under(&WITH_PROCESSES, &lives_and_ends)
}

#[test]
fn containers_live_in_sandboxes() -> Result<()> {
    under(&[Runtime::Runsc], &lives_and_ends)
}

async fn terminals(node: &mut Node, _: Runtime) -> Result<()> {
    let image = node.pulled("busybox").await?;
    let pod = node.pod("tty");
    let script = "stty -echo; echo ready; while read x; do echo got $x; done";
    let container = pod.container("main", &image).script(script).with(|config| {
        config.stdin = true;
        config.tty = true;
    });
    let (_, id) = node.run(&pod, &container).await?;
    node.wait_log(&id, "ready").await?;
    let mut live = attach(node, &id, streaming::client::Transport::WebSocket).await?;
    live.send("one\n").await?;
    live.expect("got one\r\n").await?;
    drop(live);
    let url = crate::live::exec_url(node, &id, "stty -echo; echo up; read x; echo $x $TERM", true);
    let mut live = Live::connect(&url.await?, streaming::client::Transport::Spdy, true).await?;
    live.expect("up").await?;
    live.send("word\n").await?;
    live.expect("word xterm\r\n").await?;
    Ok(())
}

#[test]
fn terminals_come_from_other_runtimes() -> Result<()> {
    under(&[Runtime::Runc, Runtime::Crun, Runtime::KnarrOci], &terminals)
}

#[test]
fn terminals_come_from_sandboxes() -> Result<()> {
    under(&[Runtime::Runsc], &terminals)
}

#[test]
fn a_container_whose_shim_was_killed_is_deleted_by_its_runtime() -> Result<()> {
    under(&[Runtime::Runc, Runtime::Crun], &async |node, runtime| {
        let (pod_id, id) = node.sleeper("orphan").await?;
        let root = node.scratch.state().join("handlers").join(runtime.name());
        ensure!(root.join(&id).exists(), "the runtime knows nothing of it");
        let state = node.scratch.state().display().to_string();
        let shims = proc::all().into_iter().filter(|process| {
            process.cmdline.contains(&state) && process.cmdline.contains("knarr-shim")
        });
        for shim in shims {
            proc::signal(shim.pid, Signal::KILL)?;
        }
        let status = node.wait_exited(&id).await?;
        ensure!((status.exit_code, status.reason.as_str()) == (137, "Error"), "{status:?}");
        node.cri.stop_pod(&pod_id).await?;
        node.cri.remove_pod(&pod_id).await?;
        ensure!(!root.join(&id).exists(), "the runtime still knows it");
        Ok(())
    })
}

#[test]
fn what_a_runtime_cannot_start_fails_with_its_reason_and_leaves_nothing() -> Result<()> {
    under(&WITH_PROCESSES, &async |node, _| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("missing");
        let pod_id = node.cri.run_pod(&pod).await?;
        let container = pod.container("main", &image).command(&["/no/such/program"]);
        let id = node.cri.create(&pod_id, &pod, &container).await?;
        let text = match node.cri.start(&id).await {
            Ok(()) => String::new(),
            Err(status) => status.message().to_owned(),
        };
        ensure!(text.contains("/no/such/program"), "{text}");
        let status = node.cri.container(&id).await?;
        ensure!(status.reason == "StartError" && status.exit_code == 128, "{status:?}");
        node.cri.remove(&id).await.context("remove what never ran")?;
        Ok(())
    })
}

#[test]
fn user_namespaces_reach_runtimes_that_map_mounts() -> Result<()> {
    under(&[Runtime::KnarrOci], &async |node, _| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("users").users(500_000, 65_536);
        let (status, lines) = node
            .run_to_end(
                &pod,
                &pod.container("main", &image).script("cat /proc/self/uid_map; id -u"),
            )
            .await?;
        ensure!(status.exit_code == 0, "{status:?} {lines:?}");
        let map: Vec<_> = lines[0].text.split_whitespace().collect();
        ensure!(map == ["0", "500000", "65536"] && lines[1].text == "0", "{lines:?}");
        Ok(())
    })?;
    under(&[Runtime::Runc], &async |node, _| {
        let pod = node.pod("users").users(500_000, 65_536);
        let wanted = ["runc", "user namespaces"];
        refused(node.cri.run_pod(&pod).await, Code::InvalidArgument, &wanted)?;
        Ok(())
    })
}

#[test]
fn a_shared_pid_namespace_and_memory_reach_other_runtimes() -> Result<()> {
    under(&[Runtime::Runc, Runtime::Crun, Runtime::KnarrOci], &async |node, _| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("shared").namespaces(|n| n.set_pid(v1::NamespaceMode::Pod));
        let (pod_id, first) = node.run(&pod, &pod.container("first", &image).sleeper()).await?;
        node.wait_log(&first, "asleep").await?;
        node.cri.shell(&first, "echo shared > /dev/shm/word").await?;
        let script = "cat /dev/shm/word; tr '\\0' ' ' < /proc/1/cmdline; echo";
        let second = pod.container("second", &image).script(script);
        let second = node.cri.create(&pod_id, &pod, &second).await?;
        node.cri.start(&second).await?;
        node.wait_exited(&second).await?;
        let lines = log_lines(&node.log_path(&second).await?)?;
        let said = texts(&lines, "stdout");
        ensure!(said.len() == 2 && said[0] == "shared" && said[1].contains("pause"), "{said:?}");
        Ok(())
    })
}

#[test]
fn a_handler_that_does_not_work_is_told_and_harms_nobody_else() -> Result<()> {
    let place = |dir: &Path| dir.join("runtime");
    let configure = |settings: &mut test_support::daemon::Settings, scratch: &_| {
        let scratch: &test_support::scratch::Scratch = scratch;
        let path = place(scratch.dir());
        settings.extra_config += &format!("\n[handlers.absent]\npath = \"{}\"\n", path.display());
    };
    on_a_node_with(configure, async |node| {
        let condition = async || -> Result<v1::RuntimeCondition> {
            let request = v1::StatusRequest { verbose: false };
            let answer = node.cri.runtime.clone().status(request).await?.into_inner();
            let conditions = answer.status.unwrap_or_default().conditions;
            let found = conditions.into_iter().find(|one| one.r#type == "KnarrHasUsableHandlers");
            found.context("no such condition")
        };
        let told = condition().await?;
        ensure!(!told.status && told.message.contains("absent"), "{told:?}");
        node.sleeper("others").await?;
        let mut pod = node.pod("absent");
        pod.handler = "absent".into();
        let wanted = ["absent", "No such file"];
        refused(node.cri.run_pod(&pod).await, Code::FailedPrecondition, &wanted)?;
        // Once it is there it is used, without a restart.
        let path = place(node.scratch.dir());
        fs::write(&path, "#!/bin/sh\n[ \"$1\" = --version ]\n")?;
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let pod_id = node.cri.run_pod(&pod).await?;
        ensure!(condition().await?.status);
        ensure!(node.cri.pod(&pod_id).await?.runtime_handler == "absent");
        Ok(())
    })
}

#[test]
fn features_are_those_of_each_runtime() -> Result<()> {
    under(&[Runtime::Runc, Runtime::KnarrOci], &async |node, runtime| {
        let request = v1::StatusRequest { verbose: false };
        let answer = node.cri.runtime.clone().status(request).await?.into_inner();
        let features = |name: &str| {
            let handler = answer.runtime_handlers.iter().find(|handler| handler.name == name);
            handler.and_then(|handler| handler.features)
        };
        let own = features("knarr").context("no built-in handler")?;
        let other = features(runtime.name()).context("no such handler")?;
        ensure!(features("") == Some(other), "the default's are another's");
        if runtime == Runtime::KnarrOci {
            ensure!(other == own, "{other:?}, built in {own:?}");
        }
        Ok(())
    })
}

#[test]
fn annotations_and_a_base_spec_reach_the_runtime() -> Result<()> {
    let Ok(runc) = Runtime::Runc.find() else {
        skip("runc is not installed");
        return Ok(());
    };
    let configure = |settings: &mut test_support::daemon::Settings, scratch: &_| {
        let scratch: &test_support::scratch::Scratch = scratch;
        let base = scratch.dir().join("base.json");
        let text = r#"{"ociVersion":"1.0.2","process":{"cwd":"/","user":{"uid":0,"gid":0},
            "rlimits":[{"type":"RLIMIT_NOFILE","soft":77,"hard":99}]}}"#;
        fs::write(&base, text).ok();
        settings.extra_config += &format!(
            "\n[handlers.special]\npath = \"{}\"\nannotations = [\"dev.example/*\"]\nbase_spec = \"{}\"\n",
            runc.display(),
            base.display()
        );
    };
    on_a_node_with(configure, async |node| {
        let image = node.pulled("busybox").await?;
        let mut pod = node.pod("special").with(|config| {
            config.annotations.insert("dev.example/a".into(), "1".into());
            config.annotations.insert("other/b".into(), "2".into());
        });
        pod.handler = "special".into();
        let (pod_id, id) =
            node.run(&pod, &pod.container("main", &image).script("ulimit -n; sleep 1000")).await?;
        node.wait_log(&id, "77").await?;
        let spec = node.scratch.root().join("pods").join(&pod_id).join("containers").join(&id);
        let spec: serde_json::Value = serde_json::from_slice(&fs::read(spec.join("config.json"))?)?;
        let annotations = &spec["annotations"];
        ensure!(annotations["dev.example/a"] == "1" && annotations["other/b"].is_null());
        Ok(())
    })
}

#[test]
fn a_pod_keeps_its_handler_when_the_configuration_changes() -> Result<()> {
    under(&[Runtime::Runc], &async |node, _| {
        let (pod_id, id) = node.sleeper("kept").await?;
        node.daemon.kill9()?;
        fs::remove_file(node.scratch.dir().join("conf.d/handler.toml"))?;
        node.daemon.launch(&node.scratch)?;
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        let image = node.image("busybox")?;
        let pod = node.pod("kept");
        let second = pod.container("second", &image).sleeper();
        let second = node.cri.create(&pod_id, &pod, &second).await?;
        node.cri.start(&second).await?;
        node.wait_log(&second, "asleep").await?;
        let root = node.scratch.state().join("handlers/runc");
        ensure!(root.join(&second).exists(), "another runtime runs it");
        let found = tokio::time::timeout(PATIENCE, node.cri.stop(&second, 20)).await?;
        found.context("stop")?;
        Ok(())
    })
}
