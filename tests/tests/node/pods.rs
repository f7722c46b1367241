//! Pod sandboxes: life, status, idempotence, namespaces.

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::cri::refused;
use test_support::node::on_a_node;
use test_support::proc;
use tonic::Code;

#[test]
fn a_pod_is_ready_then_stopped_then_gone() -> Result<()> {
    on_a_node(async |node| {
        let pod = node.pod("life").with(|config| {
            config.labels.insert("color".into(), "blue".into());
            config.annotations.insert("note".into(), "line\nwith \"quotes\" and ü".into());
        });
        let id = node.cri.run_pod(&pod).await?;
        let is_id = id.len() == 64 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        ensure!(is_id, "{id}");

        let status = node.cri.pod(&id).await?;
        ensure!(status.state() == v1::PodSandboxState::SandboxReady, "{status:?}");
        ensure!(status.created_at > 0);
        ensure!(status.metadata == pod.config.metadata, "{status:?}");
        ensure!(status.labels == pod.config.labels, "{status:?}");
        ensure!(status.annotations == pod.config.annotations, "{status:?}");
        let listed = node.cri.pods(None).await?;
        ensure!(listed.len() == 1 && listed[0].id == id, "{listed:?}");
        ensure!(listed[0].created_at == status.created_at && listed[0].labels == status.labels);

        node.cri.stop_pod(&id).await?;
        let stopped = node.cri.pod(&id).await?;
        ensure!(stopped.state() == v1::PodSandboxState::SandboxNotready, "{stopped:?}");
        ensure!(stopped.created_at == status.created_at);

        node.cri.remove_pod(&id).await?;
        refused(node.cri.pod(&id).await, Code::NotFound, &[&id])?;
        ensure!(node.cri.pods(None).await?.is_empty());
        Ok(())
    })
}

#[test]
fn a_status_echoes_the_handler_and_the_namespaces_that_were_asked_for() -> Result<()> {
    on_a_node(async |node| {
        for (name, handler) in [("default", ""), ("named", "knarr")] {
            let mut pod = node.pod(name).namespaces(|n| n.set_pid(v1::NamespaceMode::Pod));
            pod.handler = handler.to_owned();
            let id = node.cri.run_pod(&pod).await?;
            let status = node.cri.pod(&id).await?;
            ensure!(status.runtime_handler == handler, "{status:?}");
            let asked = pod.config.linux.clone().and_then(|linux| linux.security_context);
            let echoed = status.linux.clone().and_then(|linux| linux.namespaces);
            ensure!(
                echoed.and_then(|namespaces| namespaces.options)
                    == asked.and_then(|security| security.namespace_options)
            );
            let network = status.network.clone().unwrap_or_default();
            ensure!(network.ip.starts_with(&node.scratch.subnet_prefix()), "{network:?}");
            ensure!(network.additional_ips.is_empty(), "{network:?}");
            let filter = v1::PodSandboxFilter { id: id.clone(), ..Default::default() };
            let listed = node.cri.pods(Some(filter)).await?;
            ensure!(listed.len() == 1, "{listed:?}");
            let listed = &listed[0];
            ensure!(listed.metadata == status.metadata && listed.annotations == status.annotations);
            ensure!(listed.runtime_handler == handler && listed.state() == status.state());
            node.cri.stop_pod(&id).await?;
            let stopped = node.cri.pod(&id).await?;
            ensure!(stopped.network.clone().unwrap_or_default().ip.is_empty(), "{stopped:?}");
            ensure!(stopped.linux == status.linux && stopped.runtime_handler == handler);
        }
        Ok(())
    })
}

#[test]
fn stopping_and_removing_can_be_repeated_and_need_no_pod() -> Result<()> {
    on_a_node(async |node| {
        let unknown = "0".repeat(64);
        node.cri.stop_pod(&unknown).await?;
        node.cri.remove_pod(&unknown).await?;
        let id = node.cri.run_pod(&node.pod("twice")).await?;
        node.cri.stop_pod(&id).await?;
        node.cri.stop_pod(&id).await?;
        let status = node.cri.pod(&id).await?;
        ensure!(status.state() == v1::PodSandboxState::SandboxNotready);
        node.cri.remove_pod(&id).await?;
        node.cri.remove_pod(&id).await?;
        node.cri.stop_pod(&id).await?;
        Ok(())
    })
}

#[test]
fn removing_a_running_pod_stops_it_first() -> Result<()> {
    on_a_node(async |node| {
        let (pod, container) = node.sleeper("forced").await?;
        node.cri.remove_pod(&pod).await?;
        refused(node.cri.container(&container).await, Code::NotFound, &[])?;
        ensure!(node.cri.containers(None).await?.is_empty());
        Ok(())
    })
}

#[test]
fn a_name_is_taken_until_its_pod_is_removed() -> Result<()> {
    on_a_node(async |node| {
        let pod = node.pod("named");
        let id = node.cri.run_pod(&pod).await?;
        refused(node.cri.run_pod(&pod).await, Code::AlreadyExists, &["named"])?;
        let mut second = pod.clone();
        second.config.metadata.as_mut().context("metadata")?.attempt = 1;
        let other = node.cri.run_pod(&second).await?;
        ensure!(other != id);
        node.cri.remove_pod(&id).await?;
        node.cri.run_pod(&pod).await?;
        Ok(())
    })
}

#[test]
fn filters_narrow_the_list_and_are_joined_by_and() -> Result<()> {
    on_a_node(async |node| {
        let labelled = |name: &str, color: &str| {
            node.pod(name).with(|config| {
                config.labels.insert("color".into(), color.into());
            })
        };
        let red = node.cri.run_pod(&labelled("red", "red")).await?;
        let blue = node.cri.run_pod(&labelled("blue", "blue")).await?;
        node.cri.stop_pod(&blue).await?;

        let by = async |filter: v1::PodSandboxFilter| -> Result<Vec<String>> {
            let found = node.cri.pods(Some(filter)).await?;
            Ok(found.into_iter().map(|pod| pod.id).collect())
        };
        let state =
            |state: v1::PodSandboxState| Some(v1::PodSandboxStateValue { state: state.into() });
        let ready = v1::PodSandboxFilter {
            state: state(v1::PodSandboxState::SandboxReady),
            ..Default::default()
        };
        ensure!(by(ready.clone()).await? == [red.as_str()]);
        let label = |color: &str| [("color".to_owned(), color.to_owned())].into();
        let blue_ready = v1::PodSandboxFilter { label_selector: label("blue"), ..ready };
        ensure!(by(blue_ready).await?.is_empty());
        let only_blue =
            v1::PodSandboxFilter { label_selector: label("blue"), ..Default::default() };
        ensure!(by(only_blue).await? == [blue.as_str()]);
        let by_id = |id: &str| v1::PodSandboxFilter { id: id.to_owned(), ..Default::default() };
        ensure!(by(by_id(&red)).await? == [red.as_str()]);
        ensure!(by(by_id(&red[..12])).await? == [red.as_str()]);
        ensure!(by(by_id(&"0".repeat(64))).await?.is_empty());
        Ok(())
    })
}

#[test]
fn a_unique_prefix_of_an_id_is_enough() -> Result<()> {
    on_a_node(async |node| {
        let (pod, container) = node.sleeper("prefix").await?;
        ensure!(node.cri.pod(&pod[..13]).await?.id == pod);
        ensure!(node.cri.container(&container[..13]).await?.id == container);
        node.cri.stop(&container[..13], 5).await?;
        node.cri.remove(&container[..13]).await?;
        node.cri.stop_pod(&pod[..13]).await?;
        Ok(())
    })
}

#[test]
fn a_shared_pid_namespace_has_an_init_that_is_not_the_application() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("shared").namespaces(|n| n.set_pid(v1::NamespaceMode::Pod));
        let (pod_id, first) = node.run(&pod, &pod.container("a", &image).sleeper()).await?;
        let second = node.cri.create(&pod_id, &pod, &pod.container("b", &image).sleeper()).await?;
        node.cri.start(&second).await?;

        let init = node.cri.shell(&first, "tr '\\0' ' ' </proc/1/cmdline").await?;
        ensure!(!init.contains("sleep") && !init.contains("/bin/sh"), "PID 1 is `{init}`");
        let seen = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n' | grep -c '^tra[p] '";
        ensure!(node.cri.shell(&second, seen).await? == "2", "each sees the other");
        // Orphans are reaped: no zombie stays, or the command has no end.
        node.cri.shell(&first, "(sleep 0 &) ; sleep 0").await?;
        let gone = "while grep -q '^State:.Z' /proc/[0-9]*/status; do sleep 0.01; done; echo gone";
        let said = node.cri.shell(&second, gone).await?;
        ensure!(said == "gone", "{said}");
        Ok(())
    })
}

#[test]
fn a_container_of_its_own_pid_namespace_is_pid_1() -> Result<()> {
    on_a_node(async |node| {
        let (_, container) = node.sleeper("own").await?;
        let init = node.cri.shell(&container, "tr '\\0' ' ' </proc/1/cmdline").await?;
        ensure!(init.contains("trap"), "PID 1 is `{init}`");
        Ok(())
    })
}

#[test]
fn the_hosts_namespaces_are_shared_when_asked_for() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod =
            node.pod("host").with(|config| config.hostname.clear()).namespaces(|namespaces| {
                namespaces.set_network(v1::NamespaceMode::Node);
                namespaces.set_pid(v1::NamespaceMode::Node);
                namespaces.set_ipc(v1::NamespaceMode::Node);
            });
        let (pod_id, container) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        for kind in ["net", "pid", "ipc", "uts"] {
            let host = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
            let inside =
                node.cri.shell(&container, &format!("readlink /proc/self/ns/{kind}")).await?;
            ensure!(inside == host.display().to_string(), "{kind}: {inside}");
        }
        let status = node.cri.pod(&pod_id).await?;
        ensure!(status.network.unwrap_or_default().ip.is_empty(), "a host pod has no own address");
        Ok(())
    })
}

#[test]
fn a_pods_own_namespaces_are_not_the_hosts() -> Result<()> {
    on_a_node(async |node| {
        let (_, container) = node.sleeper("private").await?;
        for kind in ["net", "pid", "ipc", "uts", "mnt"] {
            let host = std::fs::read_link(format!("/proc/self/ns/{kind}"))?;
            let inside =
                node.cri.shell(&container, &format!("readlink /proc/self/ns/{kind}")).await?;
            ensure!(inside != host.display().to_string(), "{kind} is the host's");
        }
        Ok(())
    })
}

#[test]
fn namespaced_kernel_parameters_are_set() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("sysctl").with(|config| {
            let sysctls = &mut config.linux.get_or_insert_default().sysctls;
            sysctls.insert("kernel.shm_rmid_forced".into(), "1".into());
            sysctls.insert("net.ipv4.ip_local_port_range".into(), "1024 65000".into());
        });
        let (_, container) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        let value = node.cri.shell(&container, "cat /proc/sys/kernel/shm_rmid_forced").await?;
        ensure!(value == "1");
        let file = "/proc/sys/net/ipv4/ip_local_port_range";
        let value = node.cri.shell(&container, &format!("cat {file}")).await?;
        ensure!(value.split_whitespace().eq(["1024", "65000"]), "{value}");
        Ok(())
    })
}

#[test]
fn low_ports_and_pings_are_for_everybody_in_a_network_of_the_pods_own() -> Result<()> {
    const PORTS: &str = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start";
    const PINGS: &str = "tr '\\t' ' ' </proc/sys/net/ipv4/ping_group_range";
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("everybody");
        let ordinary = |security: &mut v1::LinuxContainerSecurityContext| {
            security.run_as_user = Some(v1::Int64Value { value: 1000 });
            security.capabilities.get_or_insert_default().drop_capabilities = vec!["ALL".into()];
        };
        let container = pod.container("main", &image).sleeper().security(ordinary);
        let (_, id) = node.run(&pod, &container).await?;
        ensure!(node.cri.shell(&id, PORTS).await? == "0");
        ensure!(node.cri.shell(&id, PINGS).await? == "0 2147483647");
        // Listening is what it may not do otherwise: it goes into the background when it does.
        node.cri.shell(&id, "httpd -p 80 -h /tmp").await?;

        let own = node.pod("own").with(|config| {
            let sysctls = &mut config.linux.get_or_insert_default().sysctls;
            sysctls.insert("net.ipv4.ip_unprivileged_port_start".into(), "1024".into());
            sysctls.insert("net.ipv4.ping_group_range".into(), "1 0".into());
        });
        let container = own.container("main", &image).sleeper().security(ordinary);
        let (_, id) = node.run(&own, &container).await?;
        ensure!(node.cri.shell(&id, PORTS).await? == "1024");
        ensure!(node.cri.shell(&id, PINGS).await? == "1 0");
        let listens = node.cri.exec(&id, &["httpd", "-p", "80", "-h", "/tmp"], 10).await?;
        ensure!(listens.code != 0, "{listens:?}");

        let before = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start")?;
        let host = node.pod("hosts").with(|config| config.hostname.clear());
        let host = host.namespaces(|namespaces| namespaces.set_network(v1::NamespaceMode::Node));
        let (_, id) = node.run(&host, &host.container("main", &image).sleeper()).await?;
        ensure!(
            node.cri.shell(&id, PORTS).await? == before.trim(),
            "the host's network is its own"
        );
        Ok(())
    })
}

#[test]
fn one_supervisor_serves_a_pod_of_many_containers() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("many");
        let pod_id = node.cri.run_pod(&pod).await?;
        for number in 0..5 {
            let container = pod.container(&format!("c{number}"), &image).sleeper();
            let id = node.cri.create(&pod_id, &pod, &container).await?;
            node.cri.start(&id).await?;
        }
        let state = node.scratch.state().display().to_string();
        let shims: Vec<_> = proc::all()
            .into_iter()
            .filter(|p| p.cmdline.contains("knarr-shim") && p.cmdline.contains(&state))
            .collect();
        // What one of them has begun is called as it is until it executes its own program.
        let begun = |p: &proc::Process| shims.iter().any(|shim| shim.pid == p.parent);
        let count = shims.iter().filter(|p| !begun(p)).count();
        ensure!(count == 1, "{count} supervisors");
        Ok(())
    })
}
