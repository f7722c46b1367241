//! Verbose answers, in the words tools know from containerd; and what changes in them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use serde_json::{Value, json};
use test_support::cri::{refused, spec};
use test_support::node::{Node, on_a_node};
use tonic::Code;

fn parsed(info: &BTreeMap<String, String>, key: &str) -> Result<Value> {
    let text = info.get(key).with_context(|| format!("no `{key}` in {:?}", info.keys()))?;
    serde_json::from_str(text).with_context(|| format!("`{key}` is not JSON: {text}"))
}

async fn of_pod(node: &Node, id: &str) -> Result<Value> {
    let request = v1::PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
    let answer = node.cri.runtime.clone().pod_sandbox_status(request).await?.into_inner();
    ensure!(answer.timestamp > 0);
    parsed(&answer.info, "info")
}

async fn of_container(node: &Node, id: &str) -> Result<Value> {
    let request = v1::ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
    let answer = node.cri.runtime.clone().container_status(request).await?.into_inner();
    parsed(&answer.info, "info")
}

#[test]
fn the_daemons_own_status_tells_where_things_are() -> Result<()> {
    on_a_node(async |node| {
        let mut runtime = node.cri.runtime.clone();
        let brief = runtime.status(v1::StatusRequest { verbose: false }).await?.into_inner();
        ensure!(brief.info.is_empty(), "{:?}", brief.info);
        let names: Vec<_> = brief.runtime_handlers.iter().map(|h| h.name.as_str()).collect();
        ensure!(names.first() == Some(&"") && names.contains(&"knarr"), "{names:?}");
        ensure!(brief.features.is_some_and(|features| features.supplemental_groups_policy));
        let status = runtime.status(v1::StatusRequest { verbose: true }).await?.into_inner();
        let config = parsed(&status.info, "config")?;
        let state = node.scratch.state().display().to_string();
        ensure!(config["stateDir"] == json!(state), "{config}");
        ensure!(config["containerd"]["defaultRuntimeName"] == json!("knarr"), "{config}");
        let network = parsed(&status.info, "cniconfig")?;
        ensure!(network["Networks"][0]["IFName"] == json!("eth0"), "{network}");
        ensure!(status.info.get("lastCNILoadStatus").is_some_and(|loaded| loaded == "OK"));
        Ok(())
    })
}

#[test]
fn a_pod_tells_its_process_network_and_configuration() -> Result<()> {
    on_a_node(async |node| {
        let pod = node.pod("told").namespaces(|n| n.set_pid(v1::NamespaceMode::Pod));
        let id = node.cri.run_pod(&pod).await?;
        let info = of_pod(node, &id).await?;
        let pid = info["pid"].as_i64().context("no pid")?;
        ensure!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid}");
        ensure!(info["netNamespaceClosed"] == json!(false), "{info}");
        let netns = info["sandboxMetadata"]["NetNSPath"].as_str().context("no NetNSPath")?;
        ensure!(std::path::Path::new(netns).exists(), "{netns}");
        let ip = node.cri.pod_ip(&id).await?;
        ensure!(info["cniResult"].to_string().contains(&ip), "{info}");
        ensure!(info["config"]["metadata"]["name"] == json!("told"), "{info}");
        let pids = &info["config"]["linux"]["security_context"]["namespace_options"];
        ensure!(pids["pid"].is_null(), "POD is 0, which is left out: {pids}");
        let annotations = &info["runtimeSpec"]["annotations"];
        ensure!(annotations["io.kubernetes.cri.sandbox-id"] == json!(id), "{annotations}");

        node.cri.stop_pod(&id).await?;
        let info = of_pod(node, &id).await?;
        ensure!(info["pid"] == json!(0) && info["netNamespaceClosed"] == json!(true), "{info}");
        Ok(())
    })
}

#[test]
fn a_container_and_an_image_tell_what_they_are_made_of() -> Result<()> {
    on_a_node(async |node| {
        let (pod_id, id) = node.sleeper("made").await?;
        let info = of_container(node, &id).await?;
        ensure!(info["sandboxID"] == json!(pod_id), "{info}");
        let pid = info["pid"].as_i64().context("no pid")?;
        ensure!(std::path::Path::new(&format!("/proc/{pid}")).exists(), "{pid}");
        ensure!(info["config"]["metadata"]["name"] == json!("main"), "{info}");
        ensure!(info["runtimeSpec"]["process"]["args"][0] == json!("/bin/sh"), "{info}");
        let sets = info["runtimeSpec"]["process"]["capabilities"].as_object();
        for set in sets.context("no capabilities")?.values().filter_map(Value::as_array) {
            let names: Vec<_> = set.iter().filter_map(Value::as_str).collect();
            ensure!(names.is_sorted(), "in any order: {names:?}");
        }
        let image = Some(spec(&node.image("busybox")?));
        let request = v1::ImageStatusRequest { image, verbose: true };
        let answer = node.cri.images.clone().image_status(request).await?.into_inner();
        let info = parsed(&answer.info, "info")?;
        let chain = info["chainID"].as_str().unwrap_or_default();
        ensure!(chain.starts_with("sha256:"), "{info}");
        ensure!(info["imageSpec"]["rootfs"]["diff_ids"].is_array(), "{info}");
        Ok(())
    })
}

#[test]
fn changed_limits_are_in_the_spec_and_survive_a_crash() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("limits");
        let container = pod.container("main", &image).sleeper().resources(|r| {
            r.memory_limit_in_bytes = 64 << 20;
        });
        let (_, id) = node.run(&pod, &container).await?;
        let limits = v1::LinuxContainerResources {
            memory_limit_in_bytes: 96 << 20,
            cpu_shares: 333,
            ..Default::default()
        };
        node.cri.update(&id, limits).await?;
        for round in ["now", "after a crash"] {
            let info = of_container(node, &id).await?;
            let limits = &info["runtimeSpec"]["linux"]["resources"];
            ensure!(limits["memory"]["limit"] == json!(96 << 20), "{round}: {limits}");
            ensure!(limits["cpu"]["shares"] == json!(333), "{round}: {limits}");
            if let Some(swap) = limits["memory"].get("swap") {
                ensure!(*swap == json!(96 << 20), "{round}: swap was tied to memory: {limits}");
            }
            ensure!(limits["devices"].as_array().is_some_and(|rules| !rules.is_empty()));
            node.crash_and_restart()?;
        }
        Ok(())
    })
}

#[test]
fn a_pods_totals_are_noted_shown_and_kept() -> Result<()> {
    on_a_node(async |node| {
        let id = node.cri.run_pod(&node.pod("totals")).await?;
        let request = |shares: i64, limit: i64| v1::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: id.clone(),
            overhead: None,
            resources: Some(v1::LinuxContainerResources {
                cpu_shares: shares,
                memory_limit_in_bytes: limit,
                ..Default::default()
            }),
        };
        let mut runtime = node.cri.runtime.clone();
        runtime.update_pod_sandbox_resources(request(512, 7 << 20)).await?;
        let refusal = runtime.update_pod_sandbox_resources(request(-5, 1)).await;
        refused(refusal, Code::InvalidArgument, &["cpu_shares", "-5"])?;
        node.crash_and_restart()?;
        let info = of_pod(node, &id).await?;
        ensure!(info["resources"]["linux"]["cpu_shares"] == json!(512), "{info}");
        let annotations = &info["runtimeSpec"]["annotations"];
        let memory = &annotations["io.kubernetes.cri.sandbox-memory"];
        ensure!(*memory == json!((7 << 20).to_string()), "{annotations}");

        let mut unknown = request(1, 1);
        unknown.pod_sandbox_id = "0".repeat(64);
        refused(runtime.update_pod_sandbox_resources(unknown).await, Code::NotFound, &[])?;
        node.cri.stop_pod(&id).await?;
        let stopped = runtime.update_pod_sandbox_resources(request(2, 2)).await;
        refused(stopped, Code::FailedPrecondition, &["not ready"])?;
        Ok(())
    })
}

/// Makes every write of a record fail until it is dropped: the place of its draft is taken.
struct Unwritable(PathBuf);

impl Unwritable {
    fn new(record: &Path) -> Result<Self> {
        let draft = record.with_extension("tmp");
        std::fs::create_dir(&draft).with_context(|| draft.display().to_string())?;
        Ok(Self(draft))
    }
}

impl Drop for Unwritable {
    fn drop(&mut self) {
        std::fs::remove_dir(&self.0).ok();
    }
}

#[test]
fn what_cannot_be_recorded_is_not_changed() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("unrecorded");
        let container = pod.container("main", &image).sleeper().resources(|r| {
            r.memory_limit_in_bytes = 64 << 20;
        });
        let (pod_id, id) = node.run(&pod, &container).await?;
        let resources =
            v1::LinuxContainerResources { memory_limit_in_bytes: 96 << 20, ..Default::default() };
        let of_pod_request = || v1::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: pod_id.clone(),
            overhead: None,
            resources: Some(resources.clone()),
        };
        let of_container_request = || v1::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(resources.clone()),
            ..Default::default()
        };
        let dir = node.scratch.root().join("pods").join(&pod_id);
        let mut runtime = node.cri.runtime.clone();

        let before = of_pod(node, &pod_id).await?;
        let broken = Unwritable::new(&dir.join("pod.json"))?;
        let answer = runtime.update_pod_sandbox_resources(of_pod_request()).await;
        refused(answer, Code::Unknown, &[&pod_id, "pod.json"])?;
        drop(broken);
        ensure!(of_pod(node, &pod_id).await? == before);

        let before = (of_container(node, &id).await?, node.cri.container(&id).await?);
        let broken = Unwritable::new(&dir.join("containers").join(&id).join("container.json"))?;
        let answer = runtime.update_container_resources(of_container_request()).await;
        refused(answer, Code::Unknown, &[&id, "container.json"])?;
        drop(broken);
        ensure!((of_container(node, &id).await?, node.cri.container(&id).await?) == before);
        ensure!(memory_limit(node, &id)? == (64 << 20).to_string(), "the kernel's limit");

        runtime.update_pod_sandbox_resources(of_pod_request()).await?;
        runtime.update_container_resources(of_container_request()).await?;
        ensure!(memory_limit(node, &id)? == (96 << 20).to_string());
        Ok(())
    })
}

/// What the kernel holds a container to.
fn memory_limit(node: &Node, id: &str) -> Result<String> {
    let below = node.scratch.container_cgroup(id);
    let v1 = format!("/sys/fs/cgroup/memory/{below}/memory.limit_in_bytes");
    let v2 = format!("/sys/fs/cgroup/{below}/memory.max");
    let text = std::fs::read_to_string(v1).or_else(|_| std::fs::read_to_string(v2))?;
    Ok(text.trim().to_owned())
}

#[test]
fn checkpoints_are_refused_with_a_way_out() -> Result<()> {
    on_a_node(async |node| {
        let mut runtime = node.cri.runtime.clone();
        let request = v1::CheckpointContainerRequest::default();
        let answer = runtime.checkpoint_container(request).await;
        refused(answer, Code::Unimplemented, &["CheckpointContainer", "volume"])?;
        let answer = runtime.checkpoint_pod(v1::CheckpointPodRequest::default()).await;
        refused(answer, Code::Unimplemented, &["CheckpointPod"])?;
        let answer = runtime.restore_pod(v1::RestorePodRequest::default()).await;
        refused(answer, Code::Unimplemented, &["RestorePod"])?;
        Ok(())
    })
}

#[test]
fn a_refused_change_of_limits_changes_nothing() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("refused");
        let container = pod.container("main", &image).sleeper().resources(|r| {
            r.memory_limit_in_bytes = 64 << 20;
        });
        let (_, id) = node.run(&pod, &container).await?;
        let before = (of_container(node, &id).await?, node.cri.container(&id).await?);
        // The kernel takes the memory and then refuses the processors.
        let request = v1::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(v1::LinuxContainerResources {
                memory_limit_in_bytes: 96 << 20,
                cpuset_cpus: "4000".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let answer = node.cri.runtime.clone().update_container_resources(request).await;
        refused(answer, Code::Unknown, &["cpuset", "4000"])?;
        ensure!((of_container(node, &id).await?, node.cri.container(&id).await?) == before);
        let kernel = memory_limit(node, &id)?;
        ensure!(kernel == (64 << 20).to_string(), "{kernel}");
        Ok(())
    })
}

#[test]
fn a_memory_limit_below_what_is_in_use_is_refused_and_kills_nobody() -> Result<()> {
    let swaps = std::fs::read_to_string("/proc/swaps").unwrap_or_default();
    if swaps.lines().count() > 1 {
        test_support::skip("the host has swap to make room with");
        return Ok(());
    }
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("full");
        let file = node.scratch.dir().join("large");
        std::fs::write(&file, vec![b'x'; 40_000_000])?;
        let container = pod.container("main", &image).sleeper().mount(&file, "/large", true);
        let container = container.resources(|r| r.memory_limit_in_bytes = 128 << 20);
        let (_, id) = node.run(&pod, &container).await?;
        node.cri.shell(&id, "head -c 40000000 /dev/zero >/dev/shm/held").await?;
        let change = |limit: i64| v1::UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(v1::LinuxContainerResources {
                memory_limit_in_bytes: limit,
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut runtime = node.cri.runtime.clone();
        let before = (of_container(node, &id).await?, node.cri.container(&id).await?);
        let answer = runtime.update_container_resources(change(24 << 20)).await;
        refused(answer, Code::Unknown, &["memory", &(24 << 20).to_string()])?;
        ensure!((of_container(node, &id).await?, node.cri.container(&id).await?) == before);
        ensure!(memory_limit(node, &id)? == (128 << 20).to_string());

        // What only lies in the cache makes room.
        let cached = std::fs::File::open(&file)?;
        cached.sync_all()?;
        // Whose cache it is in is decided when it is read anew.
        rustix::fs::fadvise(&cached, 0, None, rustix::fs::Advice::DontNeed)?;
        node.cri.shell(&id, "rm /dev/shm/held; wc -c </large").await?;
        runtime.update_container_resources(change(24 << 20)).await?;
        ensure!(memory_limit(node, &id)? == (24 << 20).to_string());
        ensure!(node.cri.shell(&id, "wc -c </large").await? == "40000000");
        Ok(())
    })
}
