//! `kill -9` and back: nothing that ran stops, nothing that happened is lost.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};
use test_support::node::{log_lines, on_a_node};

#[test]
fn running_pods_are_the_same_after_a_crash() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("steady").with(|config| {
            config.annotations.insert("note".into(), "kept".into());
        });
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        let created =
            node.cri.create(&pod_id, &pod, &pod.container("later", &image).sleeper()).await?;
        let pod_before = node.cri.pod(&pod_id).await?;
        let before = node.cri.container(&id).await?;
        let created_before = node.cri.container(&created).await?;

        node.crash_and_restart()?;

        ensure!(node.cri.pod(&pod_id).await? == pod_before);
        ensure!(node.cri.container(&id).await? == before);
        ensure!(node.cri.container(&created).await? == created_before);
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        node.cri.start(&created).await?;
        node.cri.stop(&id, 10).await?;
        ensure!(node.cri.container(&id).await?.exit_code == 0);
        Ok(())
    })
}

#[test]
fn an_exit_while_the_daemon_is_down_is_known_and_the_log_has_no_gap() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let signals = node.scratch.dir().join("signals");
        std::fs::create_dir_all(&signals)?;
        let pod = node.pod("gap");
        let script = "i=0; while [ ! -e /signals/end ]; do i=$((i+1)); echo $i; sleep 0.002; done; \
                      echo last; touch /signals/ended; exit 42";
        let container =
            pod.container("main", &image).script(script).mount(&signals, "/signals", false);
        let (_, id) = node.run(&pod, &container).await?;
        node.wait_log(&id, " F 10\n").await?;
        let log = node.log_path(&id).await?;

        node.daemon.kill9()?;
        let length = std::fs::metadata(&log)?.len();
        let grown = |text: &str| {
            u64::try_from(text.len()).is_ok_and(|now| now > length + 500).then_some(())
        };
        test_support::files::wait_for(&log, test_support::node::PATIENCE, grown)?;
        std::fs::write(signals.join("end"), "")?;
        let ended = |text: &str| text.contains(" F last\n").then_some(());
        test_support::files::wait_for(&log, test_support::node::PATIENCE, ended)?;
        node.daemon.launch(&node.scratch)?;

        let status = node.wait_exited(&id).await?;
        ensure!((status.exit_code, status.reason.as_str()) == (42, "Error"), "{status:?}");
        let mut lines = log_lines(&log)?;
        ensure!(lines.pop().is_some_and(|line| line.text == "last"));
        for (number, line) in (1..).zip(&lines) {
            ensure!(line.text == number.to_string(), "line {number} is {line:?}");
        }
        Ok(())
    })
}

#[test]
fn exited_containers_and_stopped_pods_stay_what_they_were() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("history");
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).script("exit 3")).await?;
        let exited = node.wait_exited(&id).await?;
        let stopped_id = node.cri.run_pod(&node.pod("stopped")).await?;
        node.cri.stop_pod(&stopped_id).await?;
        let stopped = node.cri.pod(&stopped_id).await?;

        node.crash_and_restart()?;

        ensure!(node.cri.container(&id).await? == exited);
        ensure!(node.cri.pod(&stopped_id).await? == stopped);
        ensure!(node.cri.pod(&pod_id).await?.state() == v1::PodSandboxState::SandboxReady);
        ensure!(node.cri.run_pod(&node.pod("stopped")).await.is_err(), "the name is still taken");
        Ok(())
    })
}

#[test]
fn a_pod_whose_supervisor_died_with_the_daemon_can_be_removed() -> Result<()> {
    on_a_node(async |node| {
        let (pod_id, id) = node.sleeper("orphan").await?;
        node.daemon.kill9()?;
        let state = node.scratch.state().display().to_string();
        for process in test_support::proc::all() {
            // Not what some runtimes keep beside it, and call by the place.
            if process.cmdline.contains("knarr-shim") && process.cmdline.contains(&state) {
                test_support::proc::signal(process.pid, rustix::process::Signal::KILL)?;
                test_support::proc::wait_gone(process.pid, test_support::node::PATIENCE)?;
            }
        }
        node.daemon.launch(&node.scratch)?;
        let pod = node.cri.pod(&pod_id).await?;
        ensure!(pod.state() == v1::PodSandboxState::SandboxNotready, "{pod:?}");
        let container = node.cri.container(&id).await?;
        ensure!(container.state() == v1::ContainerState::ContainerExited, "{container:?}");
        ensure!(
            (container.exit_code, container.reason.as_str()) == (137, "Error"),
            "{container:?}"
        );
        node.cri.stop_pod(&pod_id).await?;
        node.cri.remove_pod(&pod_id).await?;
        Ok(())
    })
}

#[test]
fn a_torn_record_costs_one_pod_and_not_the_store() -> Result<()> {
    on_a_node(async |node| {
        let (whole, _) = node.sleeper("whole").await?;
        let torn = node.cri.run_pod(&node.pod("torn")).await?;
        node.cri.stop_pod(&torn).await?;
        node.daemon.kill9()?;
        let record = node.scratch.root().join("pods").join(&torn).join("pod.json");
        let bytes = std::fs::read(&record)?;
        std::fs::write(&record, &bytes[..bytes.len() / 2])?;
        node.daemon.launch(&node.scratch)?;
        let listed: Vec<_> = node.cri.pods(None).await?.into_iter().map(|pod| pod.id).collect();
        ensure!(listed.contains(&whole), "{listed:?}");
        ensure!(node.daemon.log_text().contains(&torn), "the torn record is not mentioned");
        // What is left of it is kept for a person to look at.
        let kept = node.scratch.root().join("pods").join(format!("{torn}.bad"));
        let state = node.scratch.state().join("pods").join(&torn);
        ensure!(kept.exists() && state.exists(), "what it owns was taken away");
        // Once the person has decided, the rest is cleaned up.
        std::fs::remove_dir_all(&kept)?;
        node.crash_and_restart()?;
        ensure!(!state.exists(), "nobody's state is kept");
        Ok(())
    })
}

#[test]
fn a_polite_end_leaves_the_pods_running_too() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("polite").await?;
        node.daemon.terminate()?;
        node.daemon.launch(&node.scratch)?;
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        Ok(())
    })
}

#[test]
fn what_ended_while_the_daemon_was_down_is_told_to_who_subscribes_then() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let signals = node.scratch.dir().join("signals");
        std::fs::create_dir_all(&signals)?;
        let pod = node.pod("quiet");
        let script = "while [ ! -e /signals/end ]; do sleep 0.01; done; echo last; exit 5";
        let container =
            pod.container("main", &image).script(script).mount(&signals, "/signals", false);
        let (pod_id, id) = node.run(&pod, &container).await?;
        let log = node.log_path(&id).await?;
        node.daemon.kill9()?;
        std::fs::write(signals.join("end"), "")?;
        let ended = |text: &str| text.contains(" F last\n").then_some(());
        test_support::files::wait_for(&log, test_support::node::PATIENCE, ended)?;
        let record = node.scratch.state().join("pods").join(&pod_id).join("exits").join(&id);
        let whole = |text: &str| text.ends_with("complete\n").then_some(());
        test_support::files::wait_for(&record, test_support::node::PATIENCE, whole)?;
        node.daemon.launch(&node.scratch)?;
        for _ in 0..2 {
            let request = v1::GetEventsRequest {};
            let mut events =
                node.cri.runtime.clone().get_container_events(request).await?.into_inner();
            let Some(event) = events.message().await? else { anyhow::bail!("no event") };
            ensure!(event.container_id == id, "{event:?}");
            ensure!(event.container_event_type() == v1::ContainerEventType::ContainerStoppedEvent);
            let status = node.cri.container(&id).await?;
            ensure!(event.created_at == status.finished_at, "{event:?}");
            ensure!(event.containers_statuses == [status], "{event:?}");
            ensure!(event.pod_sandbox_status.is_some_and(|pod| pod.id == pod_id));
        }
        Ok(())
    })
}

#[test]
fn what_a_torn_records_pod_owns_is_kept_until_somebody_has_looked() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("kept");
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        let ip = node.cri.pod_ip(&pod_id).await?;
        node.daemon.kill9()?;
        let pods = node.scratch.root().join("pods");
        let record = pods.join(&pod_id).join("pod.json");
        let bytes = std::fs::read(&record)?;
        std::fs::write(&record, &bytes[..bytes.len() / 2])?;
        node.daemon.launch(&node.scratch)?;
        ensure!(node.cri.pods(None).await?.is_empty());
        // Neither its layers nor its address go to anybody else, not after another start either.
        node.cri.remove_image(&image).await?;
        node.crash_and_restart()?;
        let other = node.cri.run_pod(&node.pod("other")).await?;
        ensure!(node.cri.pod_ip(&other).await? != ip, "its address was given away");

        node.daemon.kill9()?;
        let whole = pods.join(&pod_id);
        std::fs::rename(pods.join(format!("{pod_id}.bad")), &whole)?;
        std::fs::write(whole.join("pod.json"), bytes)?;
        node.daemon.launch(&node.scratch)?;
        ensure!(node.cri.pod_ip(&pod_id).await? == ip);
        ensure!(node.cri.shell(&id, "cat /etc/hostname").await? == "kept");
        Ok(())
    })
}

#[test]
fn pods_that_cannot_be_listed_stop_the_start() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("unseen").await?;
        node.daemon.kill9()?;
        let (pods, moved) = (node.scratch.root().join("pods"), node.scratch.root().join("moved"));
        std::fs::rename(&pods, &moved)?;
        std::fs::write(&pods, "")?;
        let Err(error) = node.daemon.launch(&node.scratch) else {
            anyhow::bail!("it took a file for an empty directory");
        };
        let text = format!("{error:#}");
        ensure!(text.contains(&pods.display().to_string()), "{text}");
        std::fs::remove_file(&pods)?;
        std::fs::rename(&moved, &pods)?;
        node.daemon.launch(&node.scratch)?;
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        Ok(())
    })
}

/// A process's own descriptor of an open file, as its child has it from fork to exec.
fn descriptor(pid: u32, path: &Path) -> Result<OwnedFd> {
    let dir = format!("/proc/{pid}/fd");
    for entry in std::fs::read_dir(&dir).with_context(|| dir.clone())? {
        let entry = entry?;
        if std::fs::read_link(entry.path()).is_ok_and(|target| target == path) {
            let number = entry.file_name().to_string_lossy().parse()?;
            let pid = Pid::from_raw(i32::try_from(pid)?).context("a process id")?;
            let process = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
            return Ok(rustix::process::pidfd_getfd(&process, number, PidfdGetfdFlags::empty())?);
        }
    }
    anyhow::bail!("process {pid} does not have {} open", path.display())
}

#[test]
fn a_root_is_one_daemons_and_free_as_soon_as_that_is_dead() -> Result<()> {
    on_a_node(async |node| {
        let (root, other) = (node.scratch.root(), node.scratch.dir().join("other"));
        let second = Command::new(node.daemon.program())
            .args(["serve", "--config"])
            .arg(node.daemon.config())
            .arg("--root")
            .arg(&root)
            .arg("--state")
            .arg(&other)
            .arg("--listen")
            .arg(other.join("knarr.sock"))
            .output()?;
        let text = String::from_utf8_lossy(&second.stderr);
        let words = format!("another knarr serves {}", root.display());
        ensure!(!second.status.success() && text.contains(&words), "{second:?}");

        // A child of the daemon that is to become a shim has all of its files until then.
        let pid = node.daemon.pid().context("a daemon")?;
        let held = descriptor(pid, &root.join("lock"))?;
        node.crash_and_restart()?;
        drop(held);
        node.sleeper("after").await?;
        Ok(())
    })
}
