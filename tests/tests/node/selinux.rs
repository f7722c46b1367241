//! SELinux: what processes and files are called, and what that keeps apart. The policy in force has
//! to know `container_t`, `spc_t` and `container_file_t`, and keep `container_t` from files of
//! other types and levels, as every policy for containers does.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::cri::refused;
use test_support::node::{Node, on_a_node};
use test_support::pods::{ContainerBuilder, PodBuilder};
use tonic::Code;

fn enabled() -> bool {
    Path::new("/sys/fs/selinux/enforce").exists()
}

/// Runs `test` where the host has SELinux.
fn with_selinux(test: impl AsyncFnOnce(&mut Node) -> Result<()>) -> Result<()> {
    if !enabled() {
        test_support::skip("SELinux is not enabled");
        return Ok(());
    }
    on_a_node(test)
}

/// The label of a process, as the container sees it.
async fn label(node: &Node, id: &str, pid: &str) -> Result<String> {
    node.cri.shell(id, &format!("tr -d '\\0' </proc/{pid}/attr/current")).await
}

fn level(label: &str) -> &str {
    label.splitn(4, ':').nth(3).unwrap_or_default()
}

fn options(kind: &str, level: &str) -> Option<v1::SeLinuxOption> {
    Some(v1::SeLinuxOption { r#type: kind.into(), level: level.into(), ..Default::default() })
}

/// Another started container of a pod.
async fn beside(
    node: &Node,
    pod_id: &str,
    pod: &PodBuilder,
    container: ContainerBuilder,
) -> Result<String> {
    let id = node.cri.create(pod_id, pod, &container).await?;
    node.cri.start(&id).await?;
    node.wait_log(&id, "asleep").await?;
    Ok(id)
}

/// A directory of the host with one file.
fn volume(node: &Node) -> Result<PathBuf> {
    let volume = node.scratch.dir().join("volume");
    fs::create_dir(&volume)?;
    fs::write(volume.join("file"), "of the host")?;
    std::os::unix::fs::symlink("/etc/passwd", volume.join("link"))?;
    Ok(volume)
}

fn label_of(path: &Path) -> Result<String> {
    let mut value = [0; 256];
    let read = rustix::fs::lgetxattr(path, "security.selinux", &mut value[..])
        .with_context(|| path.display().to_string())?;
    let text = String::from_utf8_lossy(&value[..read]).into_owned();
    Ok(text.trim_end_matches('\0').to_owned())
}

#[test]
fn each_pod_has_categories_of_its_own_and_its_containers_share_them() -> Result<()> {
    with_selinux(async |node| {
        let image = node.pulled("busybox").await?;
        let mut levels = Vec::new();
        for name in ["one", "two"] {
            let pod = node.pod(name).namespaces(|n| n.set_pid(v1::NamespaceMode::Pod));
            let (pod_id, first) = node.run(&pod, &pod.container("a", &image).sleeper()).await?;
            let own = label(node, &first, "self").await?;
            ensure!(own.starts_with("system_u:system_r:container_t:s0:c"), "{own}");
            ensure!(level(&own).contains(','), "{own}");
            let second = beside(node, &pod_id, &pod, pod.container("b", &image).sleeper()).await?;
            for pid in ["self", "1"] {
                ensure!(label(node, &second, pid).await? == own, "{pid}: {own}");
            }
            let mounts = node.cri.shell(&first, "cat /proc/self/mounts").await?;
            let context = format!("context=\"system_u:object_r:container_file_t:{}\"", level(&own));
            for place in ["/", "/dev", "/dev/shm"] {
                let at = |line: &&str| line.split(' ').nth(1) == Some(place);
                let line = mounts.lines().find(at).with_context(|| format!("no {place}"))?;
                ensure!(line.contains(&context), "{place}: {line}");
            }
            levels.push((pod, pod_id, own));
        }
        ensure!(levels[0].2 != levels[1].2, "{levels:?}");

        node.crash_and_restart()?;
        let (pod, pod_id, own) = &levels[0];
        let late = beside(node, pod_id, pod, pod.container("late", &image).sleeper()).await?;
        ensure!(label(node, &late, "self").await? == *own);
        Ok(())
    })
}

#[test]
fn a_request_replaces_each_part_and_privilege_the_type() -> Result<()> {
    with_selinux(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("asked").security(|security| {
            security.privileged = true;
            security.selinux_options = options("", "s0:c10,c11");
        });
        let pod_id = node.cri.run_pod(&pod).await?;
        type Change = fn(&mut v1::LinuxContainerSecurityContext);
        let cases: [(&str, Change, &str); 4] = [
            ("pods", |_| {}, "system_u:system_r:container_t:s0:c10,c11"),
            (
                "own",
                |s| s.selinux_options = options("container_t", "s0:c4,c5"),
                "system_u:system_r:container_t:s0:c4,c5",
            ),
            (
                "type",
                |s| s.selinux_options = options("spc_t", ""),
                "system_u:system_r:spc_t:s0:c10,c11",
            ),
            ("privileged", |s| s.privileged = true, "system_u:system_r:spc_t:s0"),
        ];
        for (name, change, want) in cases {
            let container = pod.container(name, &image).sleeper().security(|security| {
                security.no_new_privs = name == "own";
                change(security);
            });
            let id = beside(node, &pod_id, &pod, container).await?;
            for pid in ["1", "self"] {
                let found = label(node, &id, pid).await?;
                ensure!(found == want, "{name}: {found}");
            }
        }
        // What the policy does not know, it says at the start.
        let container = pod
            .container("unknown", &image)
            .sleeper()
            .security(|security| security.selinux_options = options("nosuch_t", ""));
        let id = node.cri.create(&pod_id, &pod, &container).await?;
        refused(node.cri.start(&id).await, Code::Unknown, &["SELinux", "nosuch_t"])?;
        Ok(())
    })
}

#[test]
fn files_of_the_pod_and_of_images_are_the_containers() -> Result<()> {
    with_selinux(async |node| {
        let image = node.pulled("volumes").await?;
        for (name, pod) in
            [("plain", node.pod("plain")), ("users", node.pod("users").users(131_072, 65_536))]
        {
            let container = pod.container("main", &image).sleeper().with(|config| {
                config.mounts.push(v1::Mount {
                    container_path: "/image".into(),
                    image: Some(test_support::cri::spec(&image)),
                    readonly: true,
                    ..Default::default()
                });
            });
            let (_, id) = node.run(&pod, &container).await?;
            node.wait_log(&id, "asleep").await?;
            let own = label(node, &id, "self").await?;
            ensure!(own.contains(":container_t:"), "{name}: {own}");
            let script = "cat /etc/hosts /etc/hostname /etc/resolv.conf >/dev/null && \
                          echo 192.0.2.1 more >>/etc/hosts && echo x >/dev/shm/x && \
                          cat /data/seed && echo y >/data/y && \
                          cat /image/etc/passwd >/dev/null && echo >/new";
            let seen = node.cri.shell(&id, script).await?;
            ensure!(seen == "seed", "{name}: {seen}");
        }
        Ok(())
    })
}

#[test]
fn a_volume_is_its_pods_once_it_is_relabelled_and_nobody_elses() -> Result<()> {
    with_selinux(async |node| {
        let image = node.pulled("busybox").await?;
        let volume = volume(node)?;
        let before = label_of(Path::new("/etc/passwd"))?;
        let mounted = |pod: &PodBuilder, name: &str, relabel: bool| {
            pod.container(name, &image).sleeper().mount(&volume, "/data", false).with(|config| {
                config.mounts[0].selinux_relabel = relabel;
            })
        };
        let pod = node.pod("owner").security(|security| security.privileged = true);
        let (pod_id, plain) = node.run(&pod, &mounted(&pod, "plain", false)).await?;
        let cat = ["cat", "/data/file"];
        let denied = node.cri.exec(&plain, &cat, 10).await?;
        ensure!(denied.stderr.contains("Permission denied"), "{denied:?}");

        let owner = beside(node, &pod_id, &pod, mounted(&pod, "owner", true)).await?;
        ensure!(
            node.cri.shell(&owner, "cat /data/file && echo x >/data/new").await? == "of the host"
        );
        let own = label(node, &owner, "self").await?;
        let want = format!("system_u:object_r:container_file_t:{}", level(&own));
        for path in ["", "file", "link", "new"] {
            let found = label_of(&volume.join(path))?;
            ensure!(found == want, "{path}: {found}");
        }
        ensure!(label_of(Path::new("/etc/passwd"))? == before, "a link is not what it names");

        let other = node.pod("other");
        let (_, id) = node.run(&other, &mounted(&other, "main", false)).await?;
        let denied = node.cri.exec(&id, &cat, 10).await?;
        ensure!(denied.stderr.contains("Permission denied"), "{denied:?}");
        let all = mounted(&pod, "all", false).security(|security| security.privileged = true);
        let all = beside(node, &pod_id, &pod, all).await?;
        ensure!(node.cri.shell(&all, "cat /data/file").await? == "of the host");

        let hosts =
            pod.container("hosts", &image).sleeper().mount(Path::new("/etc"), "/data", false);
        let hosts = hosts.with(|config| config.mounts[0].selinux_relabel = true);
        let answer = node.cri.create(&pod_id, &pod, &hosts).await;
        refused(answer, Code::InvalidArgument, &["/etc", "relabel"])?;
        Ok(())
    })
}

#[test]
fn without_selinux_well_formed_options_mean_nothing() -> Result<()> {
    if enabled() {
        test_support::skip("SELinux is enabled");
        return Ok(());
    }
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let volume = volume(node)?;
        let pod = node.pod("ignored").security(|s| s.selinux_options = options("t", "s0:c1,c2"));
        let container = pod.container("main", &image).sleeper().mount(&volume, "/data", false);
        let container = container
            .with(|config| config.mounts[0].selinux_relabel = true)
            .security(|security| security.selinux_options = options("nosuch_t", "s0:c4,c5"));
        let (_, id) = node.run(&pod, &container).await?;
        ensure!(node.cri.shell(&id, "cat /data/file").await? == "of the host");
        let wrong = pod
            .container("wrong", &image)
            .security(|security| security.selinux_options = options("t", "s0,c4,c5"));
        let pods = node.cri.pods(None).await?;
        let answer = node.cri.create(&pods[0].id, &pod, &wrong).await;
        refused(answer, Code::InvalidArgument, &["selinux_options.level", "s0,c4,c5"])
    })
}
