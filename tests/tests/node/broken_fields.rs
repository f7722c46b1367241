//! A well-formed request with one field broken: refused with the right code, by a sentence that
//! names the value, and nothing of it is left. Every row of the CRI reference that says *error*.

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::cri::refused;
use test_support::leaks::Leaks;
use test_support::node::{Node, on_a_node};
use test_support::pods::{ContainerBuilder, PodBuilder};
use tonic::Code::{self, AlreadyExists, FailedPrecondition, InvalidArgument, NotFound};

type Row<B> = (&'static str, Code, &'static [&'static str], fn(B) -> B);

fn int(value: i64) -> Option<v1::Int64Value> {
    Some(v1::Int64Value { value })
}

fn localhost(reference: &str) -> Option<v1::SecurityProfile> {
    let profile_type = v1::ProfileType::Localhost.into();
    Some(v1::SecurityProfile { profile_type, localhost_ref: reference.to_owned() })
}

fn sysctl(pod: PodBuilder, name: &str) -> PodBuilder {
    pod.with(|config| {
        config.linux.get_or_insert_default().sysctls.insert(name.to_owned(), "1".to_owned());
    })
}

fn host_network(pod: PodBuilder) -> PodBuilder {
    pod.with(|config| config.hostname.clear())
        .namespaces(|namespaces| namespaces.set_network(v1::NamespaceMode::Node))
}

fn userns(pod: PodBuilder, mode: v1::NamespaceMode, uids: &[(u32, u32, u32)]) -> PodBuilder {
    let map = |list: &[(u32, u32, u32)]| {
        let one = |&(container_id, host_id, length): &(u32, u32, u32)| v1::IdMapping {
            container_id,
            host_id,
            length,
        };
        list.iter().map(one).collect()
    };
    pod.namespaces(|namespaces| {
        namespaces.userns_options = Some(v1::UserNamespace {
            mode: mode.into(),
            uids: map(uids),
            gids: map(&[(0, 100_000, 65_536)]),
        });
    })
}

#[rustfmt::skip]
const PODS: &[Row<PodBuilder>] = &[
    ("no metadata", InvalidArgument, &["metadata"], |p| p.with(|c| c.metadata = None)),
    ("no name", InvalidArgument, &["name"], |p| p.with(|c| c.metadata.get_or_insert_default().name.clear())),
    ("no uid", InvalidArgument, &["uid"], |p| p.with(|c| c.metadata.get_or_insert_default().uid.clear())),
    ("no namespace", InvalidArgument, &["namespace"], |p| p.with(|c| c.metadata.get_or_insert_default().namespace.clear())),
    ("an unknown handler", InvalidArgument, &["no-such"], |mut p| { p.handler = "no-such".into(); p }),
    ("network of a container", InvalidArgument, &["network"], |p| p.namespaces(|n| n.set_network(v1::NamespaceMode::Container))),
    ("network of a target", InvalidArgument, &["network"], |p| p.namespaces(|n| n.set_network(v1::NamespaceMode::Target))),
    ("ipc of a container", InvalidArgument, &["ipc"], |p| p.namespaces(|n| n.set_ipc(v1::NamespaceMode::Container))),
    ("ipc of a target", InvalidArgument, &["ipc"], |p| p.namespaces(|n| n.set_ipc(v1::NamespaceMode::Target))),
    ("pid of a target", InvalidArgument, &["pid"], |p| p.namespaces(|n| n.set_pid(v1::NamespaceMode::Target))),
    ("an unknown network mode", InvalidArgument, &["77"], |p| p.namespaces(|n| n.network = 77)),
    ("an unknown pid mode", InvalidArgument, &["-1"], |p| p.namespaces(|n| n.pid = -1)),
    ("an unknown ipc mode", InvalidArgument, &["1000"], |p| p.namespaces(|n| n.ipc = 1000)),
    ("user namespace of a container", InvalidArgument, &["user"], |p| userns(p, v1::NamespaceMode::Container, &[(0, 100_000, 65_536)])),
    ("user namespace of a target", InvalidArgument, &["user"], |p| userns(p, v1::NamespaceMode::Target, &[(0, 100_000, 65_536)])),
    ("two user mappings", InvalidArgument, &["mapping"], |p| userns(p, v1::NamespaceMode::Pod, &[(0, 100_000, 10), (10, 200_000, 10)])),
    ("no user mapping", InvalidArgument, &["mapping"], |p| userns(p, v1::NamespaceMode::Pod, &[])),
    ("root not mapped", InvalidArgument, &["0"], |p| userns(p, v1::NamespaceMode::Pod, &[(1, 100_000, 65_536)])),
    ("a mapping of nothing", InvalidArgument, &["0"], |p| userns(p, v1::NamespaceMode::Pod, &[(0, 100_000, 0)])),
    ("a mapping beyond the ids", InvalidArgument, &["4294967290"], |p| userns(p, v1::NamespaceMode::Pod, &[(0, 4_294_967_290, 65_536)])),
    ("a host name and the host's network", InvalidArgument, &["hostname"], |p| host_network(p).with(|c| c.hostname = "own".into())),
    ("a host name of two lines", InvalidArgument, &["hostname"], |p| p.with(|c| c.hostname = "a\nb".into())),
    ("a host name that is too long", InvalidArgument, &["hostname"], |p| p.with(|c| c.hostname = "x".repeat(300))),
    ("a kernel parameter of the host's network", InvalidArgument, &["net.ipv4.ip_forward"], |p| sysctl(host_network(p), "net.ipv4.ip_forward")),
    ("a kernel parameter of the host's ipc", InvalidArgument, &["kernel.shm_rmid_forced"], |p| sysctl(p, "kernel.shm_rmid_forced").namespaces(|n| n.set_ipc(v1::NamespaceMode::Node))),
    ("a kernel parameter of the whole host", InvalidArgument, &["kernel.panic"], |p| sysctl(p, "kernel.panic")),
    ("a kernel parameter with a way out", InvalidArgument, &["net/../kernel/panic"], |p| sysctl(p, "net/../kernel/panic")),
    ("a port's unknown protocol", InvalidArgument, &["9"], |p| p.with(|c| c.port_mappings.push(v1::PortMapping { protocol: 9, container_port: 80, host_port: 18080, ..Default::default() }))),
    ("a port out of range", InvalidArgument, &["70000"], |p| p.with(|c| c.port_mappings.push(v1::PortMapping { container_port: 80, host_port: 70_000, ..Default::default() }))),
    ("a container port out of range", InvalidArgument, &["99999"], |p| p.with(|c| c.port_mappings.push(v1::PortMapping { container_port: 99_999, host_port: 18_081, ..Default::default() }))),
    ("a host address that is none", InvalidArgument, &["not-an-ip"], |p| p.with(|c| c.port_mappings.push(v1::PortMapping { container_port: 80, host_port: 18_082, host_ip: "not-an-ip".into(), ..Default::default() }))),
    ("a bandwidth that is none", InvalidArgument, &["kubernetes.io/ingress-bandwidth"], |p| p.with(|c| { c.annotations.insert("kubernetes.io/ingress-bandwidth".into(), "fast".into()); })),
    ("a log directory that is relative", InvalidArgument, &["some/where"], |p| p.with(|c| c.log_directory = "some/where".into())),
    ("a parent cgroup with a way out", InvalidArgument, &["/kt/../../x"], |p| p.with(|c| c.linux.get_or_insert_default().cgroup_parent = "/kt/../../x".into())),
    ("an unknown seccomp type", InvalidArgument, &["9"], |p| p.security(|s| s.seccomp = Some(v1::SecurityProfile { profile_type: 9, ..Default::default() }))),
    ("a negative user", InvalidArgument, &["-1"], |p| p.security(|s| s.run_as_user = int(-1))),
    ("a group without a user", InvalidArgument, &["group"], |p| p.security(|s| s.run_as_group = int(5))),
    ("an unknown group policy", InvalidArgument, &["7"], |p| p.security(|s| s.supplemental_groups_policy = 7)),
];

fn resource(c: ContainerBuilder, change: fn(&mut v1::LinuxContainerResources)) -> ContainerBuilder {
    c.resources(change)
}

fn mount(c: ContainerBuilder, change: impl FnOnce(&mut v1::Mount)) -> ContainerBuilder {
    c.with(|config| {
        let mut mount = v1::Mount {
            container_path: "/data".into(),
            host_path: "/usr/share".into(),
            readonly: true,
            ..Default::default()
        };
        change(&mut mount);
        config.mounts.push(mount);
    })
}

fn device(c: ContainerBuilder, host: &str, container: &str, permissions: &str) -> ContainerBuilder {
    c.with(|config| {
        config.devices.push(v1::Device {
            host_path: host.into(),
            container_path: container.into(),
            permissions: permissions.into(),
        });
    })
}

fn capabilities(c: ContainerBuilder, change: fn(&mut v1::Capability)) -> ContainerBuilder {
    c.security(|security| change(security.capabilities.get_or_insert_default()))
}

#[rustfmt::skip]
#[expect(deprecated, reason = "older kubelets and other clients still send it")]
const CONTAINERS: &[Row<ContainerBuilder>] = &[
    ("no metadata", InvalidArgument, &["metadata"], |c| c.with(|c| c.metadata = None)),
    ("no name", InvalidArgument, &["name"], |c| c.with(|c| c.metadata.get_or_insert_default().name.clear())),
    ("no image", InvalidArgument, &["image"], |c| c.with(|c| c.image = None)),
    ("an empty image", InvalidArgument, &["image"], |c| c.with(|c| c.image.get_or_insert_default().image.clear())),
    ("a bad reference", InvalidArgument, &["NOT A NAME"], |c| c.with(|c| c.image.get_or_insert_default().image = "NOT A NAME".into())),
    ("an image that is not there", NotFound, &["nowhere.example/none"], |c| c.with(|c| c.image.get_or_insert_default().image = "nowhere.example/none:1".into())),
    ("an argument with a NUL", InvalidArgument, &["NUL"], |c| c.with(|c| c.command = vec!["a\0b".into()])),
    ("a relative working directory", InvalidArgument, &["some/where"], |c| c.with(|c| c.working_dir = "some/where".into())),
    ("a variable without a name", InvalidArgument, &["env"], |c| c.with(|c| c.envs.push(v1::KeyValue { key: String::new(), value: b"x".to_vec() }))),
    ("a variable named with =", InvalidArgument, &["A=B"], |c| c.with(|c| c.envs.push(v1::KeyValue { key: "A=B".into(), value: b"x".to_vec() }))),
    ("a variable with a NUL", InvalidArgument, &["ZERO"], |c| c.with(|c| c.envs.push(v1::KeyValue { key: "ZERO".into(), value: b"a\0b".to_vec() }))),
    ("a mount to nowhere", InvalidArgument, &["container_path"], |c| mount(c, |m| m.container_path.clear())),
    ("a mount of nothing", InvalidArgument, &["host_path"], |c| mount(c, |m| m.host_path.clear())),
    ("an unknown propagation", InvalidArgument, &["9"], |c| mount(c, |m| m.propagation = 9)),
    ("recursive read-only but writable", InvalidArgument, &["/data"], |c| mount(c, |m| { m.readonly = false; m.recursive_read_only = true; })),
    ("recursive read-only with propagation", InvalidArgument, &["/data"], |c| mount(c, |m| { m.set_propagation(v1::MountPropagation::PropagationHostToContainer); m.recursive_read_only = true; })),
    ("an unknown mount option", InvalidArgument, &["suid"], |c| mount(c, |m| m.mount_options.push("suid".into()))),
    ("an image volume that is not there", NotFound, &["nowhere.example/none"], |c| mount(c, |m| { m.host_path.clear(); m.image = Some(test_support::cri::spec("nowhere.example/none:1")); })),
    ("a sub path without an image", InvalidArgument, &["image_sub_path"], |c| mount(c, |m| m.image_sub_path = "a".into())),
    ("a device that is not there", InvalidArgument, &["/dev/no-such"], |c| device(c, "/dev/no-such", "/dev/x", "rw")),
    ("a device's unknown permission", InvalidArgument, &["rx"], |c| device(c, "/dev/null", "/dev/x", "rx")),
    ("a file that is no device", InvalidArgument, &["/etc/hostname"], |c| device(c, "/etc/hostname", "/dev/x", "rw")),
    ("an unknown CDI device", InvalidArgument, &["vendor.example/gpu=0"], |c| c.with(|c| c.cdi_devices.push(v1::CdiDevice { name: "vendor.example/gpu=0".into() }))),
    ("an unknown capability", InvalidArgument, &["FLY"], |c| capabilities(c, |caps| caps.add_capabilities.push("FLY".into()))),
    ("an unknown capability to drop", InvalidArgument, &["SWIM"], |c| capabilities(c, |caps| caps.drop_capabilities.push("SWIM".into()))),
    ("privileged in an unprivileged pod", InvalidArgument, &["no privileged container allowed in sandbox"], |c| c.security(|s| s.privileged = true)),
    ("a group without a user", InvalidArgument, &["group"], |c| c.security(|s| s.run_as_group = int(5))),
    ("a negative user", InvalidArgument, &["-1"], |c| c.security(|s| s.run_as_user = int(-1))),
    ("a user out of range", InvalidArgument, &["2147483648"], |c| c.security(|s| s.run_as_user = int(1 << 31))),
    ("a negative group", InvalidArgument, &["-7"], |c| c.security(|s| { s.run_as_user = int(1); s.run_as_group = int(-7); })),
    ("a user the image does not know", InvalidArgument, &["ghost"], |c| c.security(|s| s.run_as_username = "ghost".into())),
    ("a negative supplemental group", InvalidArgument, &["-5"], |c| c.security(|s| s.supplemental_groups.push(-5))),
    ("an unknown group policy", InvalidArgument, &["9"], |c| c.security(|s| s.supplemental_groups_policy = 9)),
    ("an unknown seccomp type", InvalidArgument, &["9"], |c| c.security(|s| s.seccomp = Some(v1::SecurityProfile { profile_type: 9, ..Default::default() }))),
    ("a seccomp profile that is not there", InvalidArgument, &["/no/such.json"], |c| c.security(|s| s.seccomp = localhost("/no/such.json"))),
    ("a relative seccomp profile", InvalidArgument, &["such.json"], |c| c.security(|s| s.seccomp = localhost("such.json"))),
    ("a seccomp profile without a path", InvalidArgument, &["localhost_ref"], |c| c.security(|s| s.seccomp = localhost(""))),
    ("a path for the runtime's seccomp profile", InvalidArgument, &["/some.json"], |c| c.security(|s| s.seccomp = Some(v1::SecurityProfile { profile_type: 0, localhost_ref: "/some.json".into() }))),
    ("a seccomp profile that is no profile", InvalidArgument, &["/etc/passwd"], |c| c.security(|s| s.seccomp = localhost("/etc/passwd"))),
    ("an AppArmor profile that is not loaded", InvalidArgument, &["kt-none"], |c| c.security(|s| s.apparmor = localhost("kt-none"))),
    ("an unknown AppArmor type", InvalidArgument, &["8"], |c| c.security(|s| s.apparmor = Some(v1::SecurityProfile { profile_type: 8, ..Default::default() }))),
    ("a deprecated AppArmor profile that is none", InvalidArgument, &["what/ever"], |c| c.security(|s| s.apparmor_profile = "what/ever".into())),
    ("a log with a way out", InvalidArgument, &["../out.log"], |c| c.with(|c| c.log_path = "../out.log".into())),
    ("an unknown stop signal", InvalidArgument, &["999"], |c| c.with(|c| c.stop_signal = 999)),
    ("an adjustment out of range", InvalidArgument, &["5000"], |c| resource(c, |r| r.oom_score_adj = 5000)),
    ("a negative period", InvalidArgument, &["-5"], |c| resource(c, |r| r.cpu_period = -5)),
    ("a negative limit", InvalidArgument, &["-9"], |c| resource(c, |r| r.memory_limit_in_bytes = -9)),
    ("processors that are none", InvalidArgument, &["zzz"], |c| resource(c, |r| r.cpuset_cpus = "zzz".into())),
    ("memory nodes that are none", InvalidArgument, &["0-"], |c| resource(c, |r| r.cpuset_mems = "0-".into())),
    ("a page size that is none", InvalidArgument, &["3XB"], |c| resource(c, |r| r.hugepage_limits.push(v1::HugepageLimit { page_size: "3XB".into(), limit: 0 }))),
    ("a raw limit with a way out", InvalidArgument, &["unified"], |c| resource(c, |r| { r.unified.insert("../memory.max".into(), "1".into()); })),
    ("a target that is not there", InvalidArgument, &["4711"], |c| c.security(|s| {
        let namespaces = s.namespace_options.get_or_insert_default();
        namespaces.set_pid(v1::NamespaceMode::Target);
        namespaces.target_id = "4711".repeat(16);
    })),
    ("an unknown pid mode", InvalidArgument, &["55"], |c| c.security(|s| s.namespace_options.get_or_insert_default().pid = 55)),
    ("a user namespace the pod has not", InvalidArgument, &["user"], |c| c.security(|s| {
        s.namespace_options.get_or_insert_default().userns_options = Some(v1::UserNamespace {
            mode: v1::NamespaceMode::Pod.into(),
            uids: vec![v1::IdMapping { container_id: 0, host_id: 100_000, length: 65_536 }],
            gids: vec![v1::IdMapping { container_id: 0, host_id: 100_000, length: 65_536 }],
        });
    })),
    ("a SELinux level that is none", InvalidArgument, &["s0,c4,c5"], |c| c.security(|s| s.selinux_options = Some(v1::SeLinuxOption { level: "s0,c4,c5".into(), ..Default::default() }))),
];

/// Every row is tried, so that one run shows every gap.
fn verdict(what: &str, wrong: &[String], rows: usize) -> Result<()> {
    ensure!(wrong.is_empty(), "{} of {rows} {what}:\n  {}", wrong.len(), wrong.join("\n  "));
    Ok(())
}

#[test]
fn a_pod_with_one_broken_field_is_refused_by_name_and_leaves_nothing() -> Result<()> {
    on_a_node(async |node| {
        let mut wrong = Vec::new();
        for (what, code, words, break_it) in PODS {
            let result = node.cri.run_pod(&break_it(node.pod("broken"))).await;
            let made = result.as_ref().ok().cloned();
            if let Err(error) = refused(result, *code, words) {
                wrong.push(format!("{what}: {error}"));
            }
            if let Some(id) = made {
                node.cri.remove_pod(&id).await?;
            }
            if !node.cri.pods(None).await?.is_empty() {
                wrong.push(format!("{what}: a pod is listed"));
                node.cri.remove_everything().await?;
            }
        }
        verdict("broken pods", &wrong, PODS.len())?;
        Leaks::of(&node.scratch).assert_none()
    })
}

#[test]
fn a_container_with_one_broken_field_is_refused_by_name_and_leaves_nothing() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("sound");
        let pod_id = node.cri.run_pod(&pod).await?;
        let mut wrong = Vec::new();
        for (what, code, words, break_it) in CONTAINERS {
            let container = break_it(pod.container("broken", &image).sleeper());
            let result = node.cri.create(&pod_id, &pod, &container).await;
            let made = result.as_ref().ok().cloned();
            if let Err(error) = refused(result, *code, words) {
                wrong.push(format!("{what}: {error}"));
            }
            if let Some(id) = made {
                node.cri.remove(&id).await?;
            }
            if !node.cri.containers(None).await?.is_empty() {
                wrong.push(format!("{what}: a container is listed"));
            }
            let left = left_in(node, &pod_id)?;
            if !left.is_empty() {
                wrong.push(format!("{what}: left {left:?}"));
            }
        }
        verdict("broken containers", &wrong, CONTAINERS.len())?;
        // The pod has suffered no harm, and the name is free.
        let container = pod.container("broken", &image).sleeper();
        let id = node.cri.create(&pod_id, &pod, &container).await?;
        node.cri.start(&id).await?;
        let again = node.cri.create(&pod_id, &pod, &container).await;
        refused(again, AlreadyExists, &["broken"])
    })
}

/// Directories of containers on disk.
fn left_in(node: &Node, pod: &str) -> Result<Vec<String>> {
    let dir = node.scratch.root().join("pods").join(pod).join("containers");
    let entries = std::fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
    Ok(entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect())
}

#[test]
fn calls_about_what_is_not_there_or_not_so_have_their_codes() -> Result<()> {
    on_a_node(async |node| {
        let unknown = "0".repeat(64);
        let (pod, container) = node.sleeper("there").await?;
        refused(node.cri.pod(&unknown).await, NotFound, &[&unknown])?;
        refused(node.cri.container(&unknown).await, NotFound, &[&unknown])?;
        refused(node.cri.start(&unknown).await, NotFound, &[&unknown])?;
        refused(node.cri.exec(&unknown, &["true"], 5).await, NotFound, &[&unknown])?;
        refused(node.cri.start(&container).await, FailedPrecondition, &[&container])?;
        let none: &[&str] = &[];
        refused(node.cri.exec(&container, none, 5).await, InvalidArgument, &["command"])?;
        refused(node.cri.start("").await, InvalidArgument, &["id"])?;
        for id in ["..", "a/b", "Z", "\0"] {
            refused(node.cri.start(id).await, NotFound, &[])?;
        }
        node.cri.stop(&container, 5).await?;
        refused(node.cri.exec(&container, &["true"], 5).await, FailedPrecondition, &[&container])?;
        node.cri.stop_pod(&pod).await.context("stop the pod")
    })
}

/// Every call that names one pod or container, with an id of the caller's choice.
async fn each_call(node: &Node, id: &str) -> Vec<(&'static str, Result<(), tonic::Status>)> {
    let (mut runtime, cri) = (node.cri.runtime.clone(), &node.cri);
    let (pod_sandbox_id, container_id) = (id.to_owned(), id.to_owned());
    let stats = v1::ContainerStatsRequest { container_id: container_id.clone() };
    let pod_stats = v1::PodSandboxStatsRequest { pod_sandbox_id: pod_sandbox_id.clone() };
    let reopen = v1::ReopenContainerLogRequest { container_id: container_id.clone() };
    let linux = Some(v1::LinuxContainerResources { cpu_shares: 2, ..Default::default() });
    let update = v1::UpdateContainerResourcesRequest {
        container_id: container_id.clone(),
        linux: linux.clone(),
        ..Default::default()
    };
    let update_pod = v1::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
        resources: linux,
        ..Default::default()
    };
    let cmd = vec!["true".to_owned()];
    let exec = v1::ExecRequest {
        container_id: container_id.clone(),
        cmd,
        stdout: true,
        ..Default::default()
    };
    let attach = v1::AttachRequest { container_id, stdout: true, ..Default::default() };
    let forward = v1::PortForwardRequest { pod_sandbox_id, port: vec![80] };
    vec![
        ("PodSandboxStatus", cri.pod(id).await.map(drop)),
        ("ContainerStatus", cri.container(id).await.map(drop)),
        ("StartContainer", cri.start(id).await),
        ("ExecSync", cri.exec(id, &["true"], 5).await.map(drop)),
        ("ContainerStats", runtime.container_stats(stats).await.map(drop)),
        ("PodSandboxStats", runtime.pod_sandbox_stats(pod_stats).await.map(drop)),
        ("ReopenContainerLog", runtime.reopen_container_log(reopen).await.map(drop)),
        ("UpdateContainerResources", runtime.update_container_resources(update).await.map(drop)),
        (
            "UpdatePodSandboxResources",
            runtime.update_pod_sandbox_resources(update_pod).await.map(drop),
        ),
        ("Exec", runtime.exec(exec).await.map(drop)),
        ("Attach", runtime.attach(attach).await.map(drop)),
        ("PortForward", runtime.port_forward(forward).await.map(drop)),
    ]
}

#[test]
fn every_call_says_which_pod_or_container_there_is_not() -> Result<()> {
    on_a_node(async |node| {
        node.sleeper("there").await?;
        let unknown = "0".repeat(64);
        let mut wrong = Vec::new();
        let ids = [(unknown.as_str(), NotFound), ("no-such", NotFound), ("", InvalidArgument)];
        for (id, code) in ids {
            for (call, answer) in each_call(node, id).await {
                if let Err(error) = refused(answer, code, &[id]) {
                    wrong.push(format!("{call} of `{id}`: {error}"));
                }
            }
        }
        verdict("calls", &wrong, 3 * 12)?;
        // What is to be gone and is not there is gone. CRI.
        for id in [unknown.as_str(), "no-such"] {
            node.cri.stop(id, 0).await?;
            node.cri.remove(id).await?;
            node.cri.stop_pod(id).await?;
            node.cri.remove_pod(id).await?;
        }
        for answer in [
            node.cri.stop("", 0).await,
            node.cri.remove("").await,
            node.cri.stop_pod("").await,
            node.cri.remove_pod("").await,
        ] {
            refused(answer, InvalidArgument, &["id"])?;
        }
        ensure!(node.cri.containers(None).await?.len() == 1);
        Ok(())
    })
}
