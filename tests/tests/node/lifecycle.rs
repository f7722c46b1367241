//! Containers: states, timestamps, exit codes, stopping, removing.

use std::time::Instant;

use anyhow::{Result, ensure};
use cri_api::v1;
use test_support::cri::refused;
use test_support::node::on_a_node;
use tonic::Code;

#[test]
fn states_and_times_follow_a_containers_life() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("states");
        let pod_id = node.cri.run_pod(&pod).await?;
        let id = node.cri.create(&pod_id, &pod, &pod.container("main", &image).sleeper()).await?;

        let created = node.cri.container(&id).await?;
        ensure!(created.state() == v1::ContainerState::ContainerCreated, "{created:?}");
        ensure!(created.created_at > 0 && created.started_at == 0 && created.finished_at == 0);

        node.cri.start(&id).await?;
        let running = node.cri.container(&id).await?;
        ensure!(running.state() == v1::ContainerState::ContainerRunning, "{running:?}");
        ensure!(running.started_at >= running.created_at && running.finished_at == 0);
        node.wait_log(&id, "asleep").await?;

        node.cri.stop(&id, 10).await?;
        let exited = node.cri.container(&id).await?;
        ensure!(exited.state() == v1::ContainerState::ContainerExited, "{exited:?}");
        ensure!(exited.finished_at >= exited.started_at && exited.started_at == running.started_at);
        ensure!((exited.exit_code, exited.reason.as_str()) == (0, "Completed"), "{exited:?}");

        node.cri.remove(&id).await?;
        refused(node.cri.container(&id).await, Code::NotFound, &[])?;
        Ok(())
    })
}

#[test]
fn status_and_list_echo_what_was_asked_for() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let image_id = node.cri.image(&image).await?.unwrap_or_default().id;
        let pod = node.pod("echo");
        let container = pod.container("main", &image).sleeper().with(|config| {
            config.labels.insert("tier".into(), "back end".into());
            config.annotations.insert("io.kubernetes.container.hash".into(), "abc\n123".into());
        });
        let (pod_id, id) = node.run(&pod, &container).await?;
        let status = node.cri.container(&id).await?;
        ensure!(status.metadata == container.config.metadata, "{status:?}");
        ensure!(status.labels == container.config.labels, "{status:?}");
        ensure!(status.annotations == container.config.annotations, "{status:?}");
        ensure!(status.image_id == image_id && !status.image_ref.is_empty(), "{status:?}");
        let named = status.image.clone().unwrap_or_default();
        ensure!(named.user_specified_image == image && !named.image.is_empty(), "{status:?}");
        let log = format!("{}/main/0.log", pod.config.log_directory);
        ensure!(status.log_path == log, "{}", status.log_path);
        let limits = status.resources.clone().and_then(|resources| resources.linux);
        ensure!(limits == container.config.linux.clone().and_then(|linux| linux.resources));
        let user = status.user.clone().and_then(|user| user.linux);
        ensure!(user.is_some_and(|user| (user.uid, user.gid) == (0, 0)), "{status:?}");
        ensure!(status.stop_signal() == v1::Signal::Sigterm, "{status:?}");
        ensure!(status.reason.is_empty() && status.message.is_empty(), "{status:?}");

        let listed = node.cri.containers(None).await?;
        ensure!(listed.len() == 1, "{listed:?}");
        let listed = &listed[0];
        ensure!(listed.id == id && listed.pod_sandbox_id == pod_id);
        ensure!(listed.image_id == image_id && listed.labels == status.labels);
        ensure!(listed.created_at == status.created_at);
        Ok(())
    })
}

#[test]
fn exit_codes_and_signals_are_reported() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        for (name, script, code, reason) in [
            ("zero", "exit 0", 0, "Completed"),
            ("three", "exit 3", 3, "Error"),
            ("killed", "kill -KILL $$; sleep 5 & wait", 137, "Error"),
        ] {
            // A shell that is PID 1 cannot kill itself: the namespace is shared.
            let pod = node.pod(name).namespaces(|n| n.set_pid(v1::NamespaceMode::Pod));
            let container = pod.container("main", &image).script(script);
            let (status, _) = node.run_to_end(&pod, &container).await?;
            ensure!(
                (status.exit_code, status.reason.as_str()) == (code, reason),
                "{name}: {status:?}"
            );
        }
        Ok(())
    })
}

#[test]
fn a_container_that_ignores_its_signal_is_killed_when_its_time_is_up() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("stubborn");
        let container = pod
            .container("main", &image)
            .script("trap '' TERM; echo deaf; sleep 1000 & wait; sleep 1000");
        let (_, id) = node.run(&pod, &container).await?;
        node.wait_log(&id, "deaf").await?;
        let begun = Instant::now();
        node.cri.stop(&id, 1).await?;
        ensure!(begun.elapsed().as_millis() >= 1000, "no grace was given");
        let status = node.cri.container(&id).await?;
        ensure!(status.exit_code == 137, "{status:?}");
        Ok(())
    })
}

#[test]
fn stop_with_no_grace_kills_at_once_and_can_be_repeated() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("now").await?;
        node.cri.stop(&id, 0).await?;
        let status = node.cri.container(&id).await?;
        ensure!(status.exit_code == 137, "{status:?}");
        node.cri.stop(&id, 0).await?;
        node.cri.stop(&"0".repeat(64), 0).await?;
        ensure!(node.cri.container(&id).await? == status, "an exited container never changes");
        Ok(())
    })
}

#[test]
fn concurrent_stops_share_one_end() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("chorus");
        let script =
            "trap 'echo asked; sleep 1; exit 7' TERM; echo up; while :; do sleep 0.1; done";
        let (_, id) = node.run(&pod, &pod.container("main", &image).script(script)).await?;
        node.wait_log(&id, "up").await?;
        let (a, b, c) =
            tokio::join!(node.cri.stop(&id, 20), node.cri.stop(&id, 20), node.cri.stop(&id, 20));
        a?;
        b?;
        c?;
        ensure!(node.cri.container(&id).await?.exit_code == 7);
        let log = std::fs::read_to_string(node.log_path(&id).await?)?;
        ensure!(log.matches("asked").count() == 1, "{log}");
        Ok(())
    })
}

#[test]
fn the_stop_signal_is_the_containers_then_the_images_then_sigterm() -> Result<()> {
    on_a_node(async |node| {
        let plain = node.pulled("busybox").await?;
        let with_signal = node.pulled("stop-signal").await?;
        let script = "trap 'exit 10' USR1; trap 'exit 12' USR2; trap 'exit 15' TERM; \
                      echo up; while :; do sleep 0.1; done";
        let cases = [
            ("default", &plain, None, 15, v1::Signal::Sigterm),
            ("image", &with_signal, None, 10, v1::Signal::Sigusr1),
            ("own", &with_signal, Some(v1::Signal::Sigusr2), 12, v1::Signal::Sigusr2),
        ];
        for (name, image, signal, code, effective) in cases {
            let pod = node.pod(name);
            let container = pod.container("main", image).script(script).with(|config| {
                config.set_stop_signal(signal.unwrap_or(v1::Signal::RuntimeDefault));
            });
            let (_, id) = node.run(&pod, &container).await?;
            node.wait_log(&id, "up").await?;
            node.cri.stop(&id, 20).await?;
            let status = node.cri.container(&id).await?;
            ensure!(status.exit_code == code, "{name}: {status:?}");
            ensure!(status.stop_signal() == effective, "{name}: {status:?}");
        }
        Ok(())
    })
}

#[test]
fn removing_works_in_every_state_and_can_be_repeated() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("remove");
        let pod_id = node.cri.run_pod(&pod).await?;
        let container = pod.container("main", &image).sleeper();

        let created = node.cri.create(&pod_id, &pod, &container).await?;
        node.cri.remove(&created).await?;
        let running = node.cri.create(&pod_id, &pod, &container).await?;
        node.cri.start(&running).await?;
        node.cri.remove(&running).await?;
        let stopped = node.cri.create(&pod_id, &pod, &container).await?;
        node.cri.start(&stopped).await?;
        node.wait_log(&stopped, "asleep").await?;
        node.cri.stop(&stopped, 5).await?;
        node.cri.remove(&stopped).await?;
        node.cri.remove(&stopped).await?;
        node.cri.remove(&"0".repeat(64)).await?;
        ensure!(node.cri.containers(None).await?.is_empty());
        Ok(())
    })
}

#[test]
fn a_container_starts_only_once() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("once").await?;
        refused(node.cri.start(&id).await, Code::FailedPrecondition, &[])?;
        node.cri.stop(&id, 5).await?;
        refused(node.cri.start(&id).await, Code::FailedPrecondition, &[])?;
        refused(node.cri.start(&"0".repeat(64)).await, Code::NotFound, &[])?;
        Ok(())
    })
}

#[test]
fn a_container_name_is_taken_until_it_is_removed() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("names");
        let pod_id = node.cri.run_pod(&pod).await?;
        let container = pod.container("main", &image).sleeper();
        let id = node.cri.create(&pod_id, &pod, &container).await?;
        refused(node.cri.create(&pod_id, &pod, &container).await, Code::AlreadyExists, &["main"])?;
        node.cri.remove(&id).await?;
        node.cri.create(&pod_id, &pod, &container).await?;
        Ok(())
    })
}

#[test]
fn memory_beyond_the_limit_ends_in_oomkilled() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("oom");
        let container = pod
            .container("main", &image)
            .script("dd if=/dev/zero of=/dev/null bs=200M count=1")
            .resources(|r| r.memory_limit_in_bytes = 15 << 20);
        let (_, id) = node.run(&pod, &container).await?;
        let status = node.wait_exited(&id).await?;
        ensure!((status.exit_code, status.reason.as_str()) == (137, "OOMKilled"), "{status:?}");
        Ok(())
    })
}

#[test]
fn killing_reaches_every_process_of_a_shared_namespace() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("family").namespaces(|n| n.set_pid(v1::NamespaceMode::Pod));
        let script =
            "trap '' TERM; setsid sh -c 'trap \"\" TERM; echo child; sleep 4242' & sleep 4242";
        let (_, id) = node.run(&pod, &pod.container("main", &image).script(script)).await?;
        node.wait_log(&id, "child").await?;
        node.cri.stop(&id, 0).await?;
        let mark = node.scratch.cgroup_parent();
        let left: Vec<_> = test_support::proc::all()
            .into_iter()
            .filter(|p| p.cmdline.contains("4242") && p.cgroups.contains(&mark))
            .collect();
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })
}

#[test]
fn the_events_of_a_containers_life_are_streamed_in_order() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let request = v1::GetEventsRequest {};
        let mut events = node.cri.runtime.clone().get_container_events(request).await?.into_inner();
        let pod = node.pod("events");
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        node.wait_log(&id, "asleep").await?;
        node.cri.stop(&id, 5).await?;
        node.cri.remove(&id).await?;
        let mut seen = Vec::new();
        while seen.len() < 4 {
            let Some(event) = events.message().await? else { break };
            ensure!(event.created_at > 0, "{event:?}");
            if event.container_id == id {
                seen.push(event.container_event_type());
            } else {
                ensure!(event.container_id == pod_id, "{event:?}");
            }
        }
        use v1::ContainerEventType as Kind;
        let want = [
            Kind::ContainerCreatedEvent,
            Kind::ContainerStartedEvent,
            Kind::ContainerStoppedEvent,
            Kind::ContainerDeletedEvent,
        ];
        ensure!(seen == want, "{seen:?}");
        Ok(())
    })
}

#[test]
fn a_pod_that_ends_by_itself_is_told_and_not_ready() -> Result<()> {
    on_a_node(async |node| {
        let pod = node.pod("pauseless").namespaces(|n| n.set_pid(v1::NamespaceMode::Pod));
        let id = node.cri.run_pod(&pod).await?;
        let request = v1::GetEventsRequest {};
        let mut events = node.cri.runtime.clone().get_container_events(request).await?.into_inner();
        let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: true };
        let answer = node.cri.runtime.clone().pod_sandbox_status(request).await?.into_inner();
        let info: serde_json::Value =
            serde_json::from_str(answer.info.get("info").map_or("{}", String::as_str))?;
        let pause = i32::try_from(info["pid"].as_i64().unwrap_or_default())?;
        test_support::proc::signal(pause, rustix::process::Signal::KILL)?;
        let Some(event) = events.message().await? else { anyhow::bail!("no event") };
        ensure!(event.container_id == id, "{event:?}");
        ensure!(event.container_event_type() == v1::ContainerEventType::ContainerStoppedEvent);
        let status = event.pod_sandbox_status.unwrap_or_default();
        ensure!(status.state() == v1::PodSandboxState::SandboxNotready, "{status:?}");
        ensure!(node.cri.pod(&id).await?.state() == v1::PodSandboxState::SandboxNotready);
        Ok(())
    })
}

/// What one subscriber is told until the pod is gone.
async fn until_gone(
    mut events: tonic::Streaming<v1::ContainerEventResponse>,
    pod: &str,
) -> Result<Vec<v1::ContainerEventResponse>> {
    let mut all = Vec::new();
    while let Some(event) = events.message().await? {
        let gone = event.container_event_type() == v1::ContainerEventType::ContainerDeletedEvent
            && event.container_id == pod;
        all.push(event);
        if gone {
            return Ok(all);
        }
    }
    anyhow::bail!("the stream ended: {all:?}")
}

#[test]
fn every_subscriber_is_told_the_same_with_the_state_of_the_pod_at_the_time() -> Result<()> {
    use v1::ContainerEventType as Kind;
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let mut subscribers = Vec::new();
        for _ in 0..3 {
            let request = v1::GetEventsRequest {};
            let events = node.cri.runtime.clone().get_container_events(request).await?;
            subscribers.push(events.into_inner());
        }
        let pod = node.pod("audience");
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        node.wait_log(&id, "asleep").await?;
        node.cri.stop(&id, 5).await?;
        node.cri.stop_pod(&pod_id).await?;
        node.cri.remove_pod(&pod_id).await?;

        let mut told = Vec::new();
        for events in subscribers {
            told.push(until_gone(events, &pod_id).await?);
        }
        ensure!(told.iter().all(|one| *one == told[0]), "not the same: {told:?}");
        let seen: Vec<_> = told[0]
            .iter()
            .map(|event| (event.container_id == id, event.container_event_type()))
            .collect();
        let want = [
            (false, Kind::ContainerCreatedEvent),
            (false, Kind::ContainerStartedEvent),
            (true, Kind::ContainerCreatedEvent),
            (true, Kind::ContainerStartedEvent),
            (true, Kind::ContainerStoppedEvent),
            (false, Kind::ContainerStoppedEvent),
            (true, Kind::ContainerDeletedEvent),
            (false, Kind::ContainerDeletedEvent),
        ];
        ensure!(seen == want, "{seen:?}");
        ensure!(told[0].is_sorted_by_key(|event| event.created_at), "{:?}", told[0]);
        for event in &told[0][..told[0].len() - 1] {
            let status = event.pod_sandbox_status.clone().unwrap_or_default();
            ensure!(status.id == pod_id && status.metadata == pod.config.metadata, "{event:?}");
        }
        let state = |index: usize| {
            let event: &v1::ContainerEventResponse = &told[0][index];
            event.containers_statuses.iter().find(|c| c.id == id).map(|c| c.state())
        };
        ensure!(state(1).is_none(), "{:?}", told[0][1]);
        ensure!(state(2) == Some(v1::ContainerState::ContainerCreated), "{:?}", told[0][2]);
        ensure!(state(3) == Some(v1::ContainerState::ContainerRunning), "{:?}", told[0][3]);
        ensure!(state(4) == Some(v1::ContainerState::ContainerExited), "{:?}", told[0][4]);
        Ok(())
    })
}
