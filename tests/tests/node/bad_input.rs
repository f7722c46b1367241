//! What goes wrong goes wrong clearly, and leaves nothing behind.

use anyhow::{Result, ensure};
use cri_api::v1;
use test_support::cri::refused;
use test_support::node::{Node, on_a_node};
use test_support::pods::ContainerBuilder;
use tonic::Code;

/// Creates (and starts, if created) a container that cannot work; the message.
async fn failing(
    node: &Node,
    name: &str,
    change: impl FnOnce(ContainerBuilder) -> ContainerBuilder,
) -> Result<String> {
    let image = node.pulled("busybox").await?;
    let pod = node.pod(name);
    let pod_id = node.cri.run_pod(&pod).await?;
    let container = change(pod.container("main", &image).sleeper());
    let status = match node.cri.create(&pod_id, &pod, &container).await {
        Err(status) => status,
        Ok(id) => match node.cri.start(&id).await {
            Err(status) => status,
            Ok(()) => anyhow::bail!("{name}: the container runs"),
        },
    };
    // The pod is as good as before.
    let container = pod.container("good", &image).sleeper();
    let id = node.cri.create(&pod_id, &pod, &container).await?;
    node.cri.start(&id).await?;
    Ok(status.message().to_owned())
}

#[test]
fn a_missing_executable_is_a_start_error() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("missing");
        let pod_id = node.cri.run_pod(&pod).await?;
        for (name, command) in [("path", "/no/such/program"), ("search", "no-such-program")] {
            let container = pod.container(name, &image).command(&[command]);
            let id = node.cri.create(&pod_id, &pod, &container).await?;
            let result = node.cri.start(&id).await;
            ensure!(result.is_err(), "{result:?}");
            let status = node.cri.container(&id).await?;
            ensure!(status.state() == v1::ContainerState::ContainerExited, "{status:?}");
            let got = (status.exit_code, status.reason.as_str());
            ensure!(got == (128, "StartError"), "{status:?}");
            ensure!(status.message.contains(command), "{status:?}");
            ensure!(status.started_at == 0 && status.finished_at > 0, "{status:?}");
            node.cri.stop(&id, 5).await?;
            node.cri.remove(&id).await?;
            node.cri.create(&pod_id, &pod, &container).await?;
        }
        Ok(())
    })
}

#[test]
fn a_file_that_is_no_program_is_a_start_error() -> Result<()> {
    on_a_node(async |node| {
        let text = failing(node, "not-a-program", |c| c.command(&["/etc/passwd"])).await?;
        ensure!(text.contains("/etc/passwd"), "{text}");
        Ok(())
    })
}

#[test]
fn an_unknown_user_is_named() -> Result<()> {
    on_a_node(async |node| {
        let change = |c: ContainerBuilder| c.security(|s| s.run_as_username = "ghost".into());
        let text = failing(node, "ghost", change).await?;
        ensure!(text.contains("ghost"), "{text}");
        Ok(())
    })
}

#[test]
fn an_image_whose_user_does_not_exist_is_refused() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("user-ghost").await?;
        let text = failing(node, "image-ghost", |c| {
            c.with(|config| config.image.get_or_insert_default().image = image)
        })
        .await?;
        ensure!(text.contains("ghost"), "{text}");
        Ok(())
    })
}

#[test]
fn nothing_to_run_is_refused() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("no-command").await?;
        let text = failing(node, "empty", |c| {
            c.command(&[]).with(|config| config.image.get_or_insert_default().image = image)
        })
        .await?;
        ensure!(text.contains("no command specified"), "{text}");
        Ok(())
    })
}

#[test]
fn an_image_that_was_not_pulled_is_not_found() -> Result<()> {
    on_a_node(async |node| {
        let pod = node.pod("unpulled");
        let pod_id = node.cri.run_pod(&pod).await?;
        let image = node.image("busybox")?;
        let result = node.cri.create(&pod_id, &pod, &pod.container("main", &image)).await;
        refused(result, Code::NotFound, &["busybox"])
    })
}

#[test]
fn unknown_enumeration_values_are_refused() -> Result<()> {
    on_a_node(async |node| {
        let pod = node.pod("mode").namespaces(|namespaces| namespaces.network = 77);
        refused(node.cri.run_pod(&pod).await, Code::InvalidArgument, &["77"])?;
        let pod = node.pod("mode").namespaces(|n| n.set_network(v1::NamespaceMode::Container));
        refused(node.cri.run_pod(&pod).await, Code::InvalidArgument, &["network"])?;
        let image = node.pulled("busybox").await?;
        let pod = node.pod("signal");
        let pod_id = node.cri.run_pod(&pod).await?;
        let container = pod.container("main", &image).with(|config| config.stop_signal = 999);
        let result = node.cri.create(&pod_id, &pod, &container).await;
        refused(result, Code::InvalidArgument, &["999"])?;
        let container = pod.container("main", &image).security(|security| {
            security.seccomp = Some(v1::SecurityProfile { profile_type: 9, ..Default::default() });
        });
        let result = node.cri.create(&pod_id, &pod, &container).await;
        refused(result, Code::InvalidArgument, &["9"])
    })
}

#[test]
fn requests_without_their_essentials_are_refused() -> Result<()> {
    on_a_node(async |node| {
        let request = v1::RunPodSandboxRequest::default();
        let result = node.cri.runtime.clone().run_pod_sandbox(request).await;
        refused(result, Code::InvalidArgument, &["config"])?;
        let pod = node.pod("anonymous").with(|config| config.metadata = None);
        refused(node.cri.run_pod(&pod).await, Code::InvalidArgument, &["metadata"])?;
        let pod = node.pod("sound");
        let pod_id = node.cri.run_pod(&pod).await?;
        let nameless = pod.container("main", "x").with(|config| config.metadata = None);
        let result = node.cri.create(&pod_id, &pod, &nameless).await;
        refused(result, Code::InvalidArgument, &["metadata"])?;
        let image = node.pulled("busybox").await?;
        let container = pod.container("main", &image);
        let result = node.cri.create(&"0".repeat(64), &pod, &container).await;
        refused(result, Code::NotFound, &[])
    })
}

#[test]
fn a_log_path_cannot_leave_its_directory() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("outside");
        let pod_id = node.cri.run_pod(&pod).await?;
        for path in ["../outside.log", "/etc/outside.log", "a/../../outside.log"] {
            let container =
                pod.container("main", &image).with(|config| config.log_path = path.into());
            let result = node.cri.create(&pod_id, &pod, &container).await;
            refused(result, Code::InvalidArgument, &["outside.log"])?;
        }
        Ok(())
    })
}

#[test]
fn an_unknown_runtime_handler_is_refused_before_anything_is_made() -> Result<()> {
    on_a_node(async |node| {
        let mut pod = node.pod("handler");
        pod.handler = "no-such-handler".into();
        let result = node.cri.run_pod(&pod).await;
        ensure!(result.is_err(), "{result:?}");
        let text = result.err().map(|status| status.message().to_owned()).unwrap_or_default();
        ensure!(text.contains("no-such-handler"), "{text}");
        ensure!(node.cri.pods(None).await?.is_empty());
        Ok(())
    })
}

#[test]
fn a_cgroup_that_cannot_be_made_is_an_error() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        // A file name of the kernel's own is no name for a directory.
        let parent = format!("{}/cgroup.procs", node.scratch.cgroup_parent());
        let pod = node.pod("cgroup").with(|config| {
            config.linux.get_or_insert_default().cgroup_parent = parent;
        });
        let Ok(pod_id) = node.cri.run_pod(&pod).await else { return Ok(()) };
        let container = pod.container("main", &image).sleeper();
        let id = node.cri.create(&pod_id, &pod, &container).await?;
        let result = node.cri.start(&id).await;
        ensure!(result.is_err(), "{result:?}");
        let text = result.err().map(|status| status.message().to_owned()).unwrap_or_default();
        ensure!(text.contains("cgroup"), "{text}");
        Ok(())
    })
}

#[test]
fn sysctls_of_a_shared_namespace_are_refused() -> Result<()> {
    on_a_node(async |node| {
        let pod = node
            .pod("sysctl")
            .with(|config| {
                config.hostname.clear();
                let sysctls = &mut config.linux.get_or_insert_default().sysctls;
                sysctls.insert("net.ipv4.ip_forward".into(), "1".into());
            })
            .namespaces(|namespaces| namespaces.set_network(v1::NamespaceMode::Node));
        let result = node.cri.run_pod(&pod).await;
        ensure!(result.is_err(), "{result:?}");
        let text = result.err().map(|status| status.message().to_owned()).unwrap_or_default();
        ensure!(text.contains("net.ipv4.ip_forward"), "{text}");
        Ok(())
    })
}

#[test]
fn a_missing_device_and_a_bad_propagation_are_refused() -> Result<()> {
    on_a_node(async |node| {
        let text = failing(node, "device", |c| {
            c.with(|config| {
                config.devices.push(v1::Device {
                    host_path: "/dev/no-such-device".into(),
                    container_path: "/dev/x".into(),
                    permissions: "rw".into(),
                });
            })
        })
        .await?;
        ensure!(text.contains("/dev/no-such-device"), "{text}");
        let dir = node.scratch.dir().join("volume");
        std::fs::create_dir_all(&dir)?;
        let text = failing(node, "recursive", |c| {
            c.mount(&dir, "/data", false).with(|config| {
                for mount in &mut config.mounts {
                    mount.recursive_read_only = true;
                }
            })
        })
        .await?;
        ensure!(!text.is_empty());
        Ok(())
    })
}

#[test]
fn nothing_is_created_in_a_stopped_pod() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("late");
        let pod_id = node.cri.run_pod(&pod).await?;
        let created = node.cri.create(&pod_id, &pod, &pod.container("early", &image)).await?;
        node.cri.stop_pod(&pod_id).await?;
        ensure!(node.cri.start(&created).await.is_err(), "started in a stopped pod");
        let result = node.cri.create(&pod_id, &pod, &pod.container("late", &image)).await;
        ensure!(result.is_err(), "{result:?}");
        Ok(())
    })
}
