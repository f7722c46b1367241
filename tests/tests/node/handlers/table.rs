//! What a pod's life consists of, under every runtime: one test per behaviour and runtime.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use rustix::process::Signal;
use streaming::client::Transport;
use test_support::cri::refused;
use test_support::handlers::Runtime;
use test_support::node::{Node, PATIENCE, log_lines, on_a_node, on_a_node_with, texts};
use test_support::{proc, skip};
use tonic::Code;

use crate::live::{Live, attach, exec_url};
use crate::lost_shims::{none_lives, shim_of};
use crate::stopped_shims::{ended_with, goes_and_comes_again, polite};

/// A runtime, or none: the built-in one.
type Of = Option<Runtime>;

/// The tests of one runtime.
macro_rules! tests_of {
    ($module:ident, $runtime:expr, $($behaviour:ident)+) => {
        mod $module {
            use super::*;
            $(
                #[test]
                fn $behaviour() -> Result<()> {
                    super::under($runtime, async |node| super::$behaviour(node, $runtime).await)
                }
            )+
        }
    };
}

/// Each behaviour, of one runtime.
macro_rules! every_behaviour {
    ($module:ident, $runtime:expr) => {
        tests_of!(
            $module,
            $runtime,
            commands_run_inside
            clients_attach
            terminals_are_given
            containers_end_by_signals
            logs_go_on_in_a_fresh_file
            usage_is_told
            greed_ends_in_oomkilled
            limits_are_changed
            users_are_the_pods_own
            a_programs_system_calls_are_filtered
            ends_are_told_to_a_daemon_that_comes_back
            a_killed_supervisor_takes_its_pod_along
            a_supervisor_killed_with_the_daemon_is_mourned_later
            a_supervisor_told_to_end_stops_its_pod_in_order
            the_network_is_the_pods
            what_cannot_start_leaves_nothing
        );
    };
}

every_behaviour!(built_in, None);
every_behaviour!(runc, Some(Runtime::Runc));
every_behaviour!(crun, Some(Runtime::Crun));
every_behaviour!(youki, Some(Runtime::Youki));
every_behaviour!(runsc, Some(Runtime::Runsc));
every_behaviour!(knarr_oci, Some(Runtime::KnarrOci));

fn under(runtime: Of, test: impl AsyncFnOnce(&mut Node) -> Result<()>) -> Result<()> {
    let Some(runtime) = runtime else { return on_a_node(test) };
    if let Err(why) = runtime.find() {
        skip(&why);
        return Ok(());
    }
    let mut configured = Ok(());
    let configure = |_: &mut _, scratch: &_| configured = runtime.make_default(scratch);
    on_a_node_with(configure, test)?;
    configured
}

/// Whether containers are processes of the host.
fn has_processes(runtime: Of) -> bool {
    runtime != Some(Runtime::Runsc)
}

/// What the runtime knows of a container; none of the built-in one.
fn known_by_runtime(node: &Node, runtime: Of, id: &str) -> Result<bool> {
    let Some(runtime) = runtime else { return Ok(false) };
    let root = node.scratch.state().join("handlers").join(runtime.name());
    let entries = match fs::read_dir(&root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error).context(root.display().to_string()),
    };
    for entry in entries {
        if entry?.file_name().to_string_lossy().contains(id) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// By the profile of the container.
async fn a_programs_system_calls_are_filtered(node: &mut Node, _: Of) -> Result<()> {
    let image = node.pulled("busybox").await?;
    let profile = node.scratch.dir().join("no-chmod.json");
    let text = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["chmod", "fchmod", "fchmodat", "fchmodat2"], "action": "SCMP_ACT_ERRNO"}]}"#;
    fs::write(&profile, text)?;
    let pod = node.pod("filtered");
    let script = "mkdir /tmp/a; chmod 700 /tmp/a; echo chmod: $?; sleep 1000";
    let container = pod.container("main", &image).script(script).security(|s| {
        s.seccomp = Some(v1::SecurityProfile {
            profile_type: v1::ProfileType::Localhost.into(),
            localhost_ref: profile.display().to_string(),
        });
    });
    let (_, id) = node.run(&pod, &container).await?;
    node.wait_log(&id, "chmod: 1").await?;
    Ok(())
}

async fn commands_run_inside(node: &mut Node, _: Of) -> Result<()> {
    let (_, id) = node.sleeper("commands").await?;
    let output = node.cri.exec(&id, &["sh", "-c", "echo in; echo bad >&2; exit 5"], 20).await?;
    let got = (output.code, output.stdout.as_str(), output.stderr.as_str());
    ensure!(got == (5, "in\n", "bad\n"), "{output:?}");
    let missing = node.cri.exec(&id, &["/no/such/program"], 20).await;
    let text = missing.err().map(|status| status.message().to_owned()).unwrap_or_default();
    ensure!(text.contains("/no/such/program"), "{text}");

    let slow = node.cri.exec(&id, &["sh", "-c", "sleep 98765; true"], 1).await;
    refused(slow, Code::DeadlineExceeded, &[])?;
    let left = node.cri.shell(&id, "ps | grep 9876[5] || echo none").await?;
    ensure!(left == "none", "it runs on: {left}");

    for transport in [Transport::Spdy, Transport::WebSocket] {
        let mut live = Live::exec(node, &id, "cat; echo end >&2; exit 3", transport).await?;
        live.send("one\n").await?;
        live.expect("one\n").await?;
        live.finish();
        let (_, stderr, verdict) = live.rest().await?;
        ensure!(stderr == b"end\n", "{:?}", String::from_utf8_lossy(&stderr));
        ensure!(verdict == streaming::client::Verdict::ExitCode(3), "{verdict:?}");
    }
    Ok(())
}

async fn clients_attach(node: &mut Node, _: Of) -> Result<()> {
    let image = node.pulled("busybox").await?;
    let pod = node.pod("attached");
    let script = "echo ready; while read x; do echo got $x; done; echo over; exit 4";
    let container = pod.container("main", &image).script(script).with(|config| {
        config.stdin = true;
        config.stdin_once = true;
    });
    let (_, id) = node.run(&pod, &container).await?;
    node.wait_log(&id, "ready").await?;
    let mut live = attach(node, &id, Transport::WebSocket).await?;
    live.send("one\n").await?;
    live.expect("got one\n").await?;
    live.finish();
    live.expect("over\n").await?;
    let status = node.wait_exited(&id).await?;
    ensure!(status.exit_code == 4, "{status:?}");
    let lines = log_lines(Path::new(&status.log_path))?;
    ensure!(texts(&lines, "stdout") == ["ready", "got one", "over"], "{lines:?}");
    Ok(())
}

async fn terminals_are_given(node: &mut Node, _: Of) -> Result<()> {
    let image = node.pulled("busybox").await?;
    let pod = node.pod("tty");
    let script = "stty -echo; echo ready; while read x; do echo got $x; done";
    let container = pod.container("main", &image).script(script).with(|config| {
        config.stdin = true;
        config.tty = true;
    });
    let (_, id) = node.run(&pod, &container).await?;
    node.wait_log(&id, "ready").await?;
    let mut live = attach(node, &id, Transport::WebSocket).await?;
    live.send("one\n").await?;
    live.expect("got one\r\n").await?;
    drop(live);
    let url = exec_url(node, &id, "stty -echo; echo up; read x; echo $x $TERM", true);
    let mut live = Live::connect(&url.await?, Transport::Spdy, true).await?;
    live.expect("up").await?;
    live.send("word\n").await?;
    live.expect("word xterm\r\n").await
}

async fn containers_end_by_signals(node: &mut Node, _: Of) -> Result<()> {
    let image = node.pulled("busybox").await?;
    let pod = node.pod("signals");
    let pod_id = node.cri.run_pod(&pod).await?;
    for (name, script, code) in [
        ("polite", "trap 'exit 7' TERM; echo up; while :; do sleep 0.1; done", 7),
        ("deaf", "trap '' TERM; echo up; while :; do sleep 0.1; done", 137),
    ] {
        let container = pod.container(name, &image).script(script);
        let id = node.cri.create(&pod_id, &pod, &container).await?;
        node.cri.start(&id).await?;
        node.wait_log(&id, "up").await?;
        node.cri.stop(&id, if code == 7 { 20 } else { 1 }).await?;
        let status = node.cri.container(&id).await?;
        ensure!((status.exit_code, status.reason.as_str()) == (code, "Error"), "{status:?}");
        node.cri.remove(&id).await?;
    }
    Ok(())
}

async fn logs_go_on_in_a_fresh_file(node: &mut Node, _: Of) -> Result<()> {
    let image = node.pulled("busybox").await?;
    let pod = node.pod("rotated");
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done";
    let (_, id) = node.run(&pod, &pod.container("main", &image).script(script)).await?;
    node.wait_log(&id, " F 5\n").await?;
    let path = node.log_path(&id).await?;
    let rotated = path.with_extension("log.1");
    fs::rename(&path, &rotated)?;
    let request = v1::ReopenContainerLogRequest { container_id: id.clone() };
    node.cri.runtime.clone().reopen_container_log(request).await?;
    node.wait_log(&id, "\n").await?;
    node.cri.stop(&id, 0).await?;
    let mut lines = log_lines(&rotated)?;
    lines.extend(log_lines(&path)?);
    for (number, line) in (1..).zip(&lines) {
        ensure!(line.text == number.to_string(), "line {number} is {line:?}");
    }
    Ok(())
}

async fn usage_is_told(node: &mut Node, _: Of) -> Result<()> {
    let image = node.pulled("busybox").await?;
    let pod = node.pod("busy");
    let script = "head -c 3000000 /dev/zero >/file; seq 1 200000 >/dev/null; echo done; sleep 1000";
    let (pod_id, id) = node.run(&pod, &pod.container("main", &image).script(script)).await?;
    node.wait_log(&id, "done").await?;
    let request = v1::ContainerStatsRequest { container_id: id.clone() };
    let answer = node.cri.runtime.clone().container_stats(request).await?.into_inner();
    let stats = answer.stats.context("no statistics")?;
    let value = |v: Option<v1::UInt64Value>| v.map(|v| v.value).unwrap_or_default();
    let cpu = value(stats.cpu.context("no cpu")?.usage_core_nano_seconds);
    ensure!(cpu > 1_000_000, "{cpu} ns");
    let memory = value(stats.memory.context("no memory")?.working_set_bytes);
    ensure!(memory > 0, "no memory is used");
    let request = v1::PodSandboxStatsRequest { pod_sandbox_id: pod_id };
    let answer = node.cri.runtime.clone().pod_sandbox_stats(request).await?.into_inner();
    let pods = answer.stats.and_then(|stats| stats.linux).context("no statistics of the pod")?;
    ensure!(value(pods.memory.context("no memory")?.usage_bytes) > 0);
    ensure!(pods.containers.len() == 1, "{:?}", pods.containers);
    Ok(())
}

/// Of the container, or of the pod: gVisor's containers have no limits of their own.
async fn greed_ends_in_oomkilled(node: &mut Node, runtime: Of) -> Result<()> {
    let image = node.pulled("busybox").await?;
    let signals = node.scratch.dir().join("signals");
    fs::create_dir_all(&signals)?;
    let pod = node.pod("greedy");
    let megabytes = if has_processes(runtime) { 200 } else { 800 };
    let script = format!(
        "echo up; while [ ! -e /signals/go ]; do sleep 0.05; done; \
         exec dd if=/dev/zero of=/dev/null bs={megabytes}M count=1"
    );
    let mut container =
        pod.container("main", &image).script(&script).mount(&signals, "/signals", false);
    if has_processes(runtime) {
        container = container.resources(|r| r.memory_limit_in_bytes = 15 << 20);
    }
    let (_, id) = node.run(&pod, &container).await?;
    node.wait_log(&id, "up").await?;
    if !has_processes(runtime) {
        let below = node.scratch.cgroup_parent();
        let v1 = format!("/sys/fs/cgroup/memory{below}/memory.limit_in_bytes");
        let v2 = format!("/sys/fs/cgroup{below}/memory.max");
        let limit = (256 << 20).to_string();
        fs::write(v1, &limit).or_else(|_| fs::write(v2, &limit))?;
    }
    fs::write(signals.join("go"), "")?;
    let status = node.wait_exited(&id).await?;
    ensure!((status.exit_code, status.reason.as_str()) == (137, "OOMKilled"), "{status:?}");
    Ok(())
}

async fn limits_are_changed(node: &mut Node, runtime: Of) -> Result<()> {
    let image = node.pulled("busybox").await?;
    let pod = node.pod("resized");
    let container = pod.container("main", &image).sleeper().resources(|r| {
        (r.memory_limit_in_bytes, r.cpu_period, r.cpu_quota) = (64 << 20, 100_000, 50_000);
    });
    let (_, id) = node.run(&pod, &container).await?;
    node.wait_log(&id, "asleep").await?;
    let limits = v1::LinuxContainerResources {
        memory_limit_in_bytes: 96 << 20,
        ..v1::LinuxContainerResources::default()
    };
    node.cri.update(&id, limits).await?;
    for round in ["now", "after a crash"] {
        let status = node.cri.container(&id).await?;
        let told = status.resources.and_then(|r| r.linux).unwrap_or_default();
        let of_both = (told.memory_limit_in_bytes, told.cpu_quota);
        ensure!(of_both == (96 << 20, 50_000), "{round}: {told:?}");
        if has_processes(runtime) {
            let below = node.scratch.container_cgroup(&id);
            let v1 = format!("/sys/fs/cgroup/memory/{below}/memory.limit_in_bytes");
            let v2 = format!("/sys/fs/cgroup/{below}/memory.max");
            let text = fs::read_to_string(v1).or_else(|_| fs::read_to_string(v2))?;
            ensure!(text.trim() == (96 << 20).to_string(), "{round}: {text}");
        }
        node.crash_and_restart()?;
    }
    ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
    Ok(())
}

/// Where the runtime can map mounts; otherwise the pod is refused, and it says why.
async fn users_are_the_pods_own(node: &mut Node, runtime: Of) -> Result<()> {
    let request = v1::StatusRequest { verbose: false };
    let answer = node.cri.runtime.clone().status(request).await?.into_inner();
    let default = answer.runtime_handlers.iter().find(|handler| handler.name.is_empty());
    let features = default.and_then(|handler| handler.features).context("no default handler")?;
    let pod = node.pod("users").users(500_000, 65_536);
    if !features.user_namespaces {
        let name = runtime.map_or("knarr", Runtime::name);
        let wanted = [name, "user namespaces"];
        return refused(node.cri.run_pod(&pod).await, Code::InvalidArgument, &wanted);
    }
    let image = node.pulled("busybox").await?;
    let script = "cat /proc/self/uid_map; id -u; stat -c %u /bin/busybox";
    let (status, lines) =
        node.run_to_end(&pod, &pod.container("main", &image).script(script)).await?;
    ensure!(status.exit_code == 0, "{status:?} {lines:?}");
    let said = texts(&lines, "stdout");
    let map: Vec<_> = said[0].split_whitespace().collect();
    ensure!(map == ["0", "500000", "65536"] && said[1..] == ["0", "0"], "{said:?}");
    Ok(())
}

async fn ends_are_told_to_a_daemon_that_comes_back(node: &mut Node, _: Of) -> Result<()> {
    let image = node.pulled("busybox").await?;
    let signals = node.scratch.dir().join("signals");
    fs::create_dir_all(&signals)?;
    let pod = node.pod("meanwhile");
    let (pod_id, lives) = node.run(&pod, &pod.container("lives", &image).sleeper()).await?;
    let script = "echo up; while [ ! -e /signals/go ]; do sleep 0.05; done; echo last; exit 6";
    let ends = pod.container("ends", &image).script(script).mount(&signals, "/signals", false);
    let ends = node.cri.create(&pod_id, &pod, &ends).await?;
    node.cri.start(&ends).await?;
    node.wait_log(&ends, "up").await?;
    let log = node.log_path(&ends).await?;
    let exit = node.scratch.state().join("pods").join(&pod_id).join("exits").join(&ends);
    node.daemon.kill9()?;
    fs::write(signals.join("go"), "")?;
    test_support::files::wait_for(&exit, PATIENCE, |text| text.contains("complete").then_some(()))?;
    node.daemon.launch(&node.scratch)?;
    let status = node.cri.container(&ends).await?;
    ensure!((status.exit_code, status.reason.as_str()) == (6, "Error"), "{status:?}");
    let lines = log_lines(&log)?;
    ensure!(texts(&lines, "stdout") == ["up", "last"], "{lines:?}");
    ensure!(node.cri.pod(&pod_id).await?.state() == v1::PodSandboxState::SandboxReady);
    ensure!(node.cri.shell(&lives, "echo alive").await? == "alive");
    Ok(())
}

/// What is left of a pod whose supervisor is gone, by every means.
async fn is_buried(node: &Node, runtime: Of, pod_id: &str, id: &str) -> Result<()> {
    let status = node.wait_exited(id).await?;
    ensure!((status.exit_code, status.reason.as_str()) == (137, "Error"), "{status:?}");
    none_lives(id)?;
    ensure!(node.cri.exec(id, &["true"], 10).await.is_err(), "a command runs in it");
    node.cri.stop_pod(pod_id).await?;
    none_lives(pod_id)?;
    node.cri.remove_pod(pod_id).await?;
    for of in [id, pod_id] {
        ensure!(!known_by_runtime(node, runtime, of)?, "the runtime still knows {of}");
    }
    Ok(())
}

async fn a_killed_supervisor_takes_its_pod_along(node: &mut Node, runtime: Of) -> Result<()> {
    let (pod_id, id) = node.sleeper("orphan").await?;
    let (_, other) = node.sleeper("other").await?;
    ensure!(runtime.is_none() || known_by_runtime(node, runtime, &id)?, "it is not its runtime's");
    proc::signal(shim_of(&pod_id)?, Signal::KILL)?;
    is_buried(node, runtime, &pod_id, &id).await?;
    ensure!(node.cri.shell(&other, "echo alive").await? == "alive");
    let (_, again) = node.sleeper("orphan").await?;
    ensure!(node.cri.shell(&again, "echo alive").await? == "alive");
    Ok(())
}

async fn a_supervisor_killed_with_the_daemon_is_mourned_later(
    node: &mut Node,
    runtime: Of,
) -> Result<()> {
    let (pod_id, id) = node.sleeper("orphan").await?;
    let shim = shim_of(&pod_id)?;
    node.daemon.kill9()?;
    proc::signal(shim, Signal::KILL)?;
    proc::wait_gone(shim, PATIENCE)?;
    node.daemon.launch(&node.scratch)?;
    is_buried(node, runtime, &pod_id, &id).await
}

async fn a_supervisor_told_to_end_stops_its_pod_in_order(
    node: &mut Node,
    runtime: Of,
) -> Result<()> {
    let signals = [v1::Signal::RuntimeDefault, v1::Signal::Sigusr1];
    let (pod_id, ids) = polite(node, "polite", &signals).await?;
    let (_, other) = node.sleeper("other").await?;
    let shim = shim_of(&pod_id)?;
    proc::signal(shim, Signal::TERM)?;
    for (id, code) in ids.iter().zip([21, 22]) {
        ended_with(node, id, code).await?;
    }
    proc::wait_gone(shim, PATIENCE)?;
    for id in &ids {
        none_lives(id)?;
        ensure!(!known_by_runtime(node, runtime, id)?, "its runtime knows it still");
    }
    ensure!(node.cri.shell(&other, "echo alive").await? == "alive");
    goes_and_comes_again(node, "polite", &pod_id, &ids).await
}

async fn the_network_is_the_pods(node: &mut Node, runtime: Of) -> Result<()> {
    if let Some(runtime) = runtime
        && !runtime.has_pod_network()?
    {
        skip("this runsc takes the pod's network for the host's");
        return Ok(());
    }
    let image = node.pulled("busybox").await?;
    let pod = node.pod("server");
    let script = "mkdir /www; echo hello from $HOSTNAME >/www/index.html; \
                  httpd -p 8080 -h /www; echo up; sleep 1000";
    let (pod_id, id) = node.run(&pod, &pod.container("main", &image).script(script)).await?;
    node.wait_log(&id, "up").await?;
    let ip = node.cri.pod_ip(&pod_id).await?;
    let own = node.cri.shell(&id, "ip -4 addr show eth0").await?;
    ensure!(own.contains(&format!("inet {ip}/")), "{ip} is not of {own}");
    node.cri.shell(&id, "until wget -qO- http://127.0.0.1:8080/; do :; done").await?;
    let page = crate::network::get(&format!("{ip}:8080"), "/")?;
    ensure!(page.contains("hello from server"), "{page}");
    let (_, client) = node.sleeper("client").await?;
    let page = node.cri.shell(&client, &format!("wget -qO- http://{ip}:8080/")).await?;
    ensure!(page == "hello from server", "{page}");
    Ok(())
}

async fn what_cannot_start_leaves_nothing(node: &mut Node, runtime: Of) -> Result<()> {
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
    ensure!(!known_by_runtime(node, runtime, &id)?, "the runtime still knows it");
    node.cri.remove(&id).await.context("remove what never ran")?;
    // The pod is as good as before.
    let container = pod.container("main", &image).sleeper();
    let id = node.cri.create(&pod_id, &pod, &container).await?;
    node.cri.start(&id).await?;
    node.wait_log(&id, "asleep").await
}
