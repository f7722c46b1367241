//! `kill -9` and back: nothing that ran stops, nothing that happened is lost.

use anyhow::{Result, ensure};
use cri_api::v1;
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
            if process.cmdline.contains(&state) {
                test_support::proc::signal(process.pid, rustix::process::Signal::KILL)?;
                test_support::proc::wait_gone(process.pid, test_support::node::PATIENCE)?;
            }
        }
        node.daemon.launch(&node.scratch)?;
        let pod = node.cri.pod(&pod_id).await?;
        ensure!(pod.state() == v1::PodSandboxState::SandboxNotready, "{pod:?}");
        let container = node.cri.container(&id).await?;
        ensure!(container.state() == v1::ContainerState::ContainerExited, "{container:?}");
        ensure!((container.exit_code, container.reason.as_str()) == (255, "Unknown"));
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
        std::fs::remove_dir_all(&kept)?;
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
