//! The OOM killer: whose end it was, and whose not.

use anyhow::{Result, ensure};
use cri_api::v1;
use test_support::node::{Node, PATIENCE, on_a_node};
use test_support::pods::{ContainerBuilder, PodBuilder};

/// Takes more memory than any limit here allows.
const GREEDY: &str = "dd if=/dev/zero of=/dev/null bs=200M count=1";

fn limited(pod: &PodBuilder, image: &str, script: &str) -> ContainerBuilder {
    pod.container("main", image).script(script).resources(|r| r.memory_limit_in_bytes = 15 << 20)
}

async fn ends(node: &Node, name: &str, script: &str) -> Result<(i32, String)> {
    let image = node.pulled("busybox").await?;
    let pod = node.pod(name);
    let (status, _) = node.run_to_end(&pod, &limited(&pod, &image, script)).await?;
    Ok((status.exit_code, status.reason))
}

#[test]
fn a_first_process_that_was_killed_is_oomkilled() -> Result<()> {
    on_a_node(async |node| {
        let end = ends(node, "first", &format!("exec {GREEDY}")).await?;
        ensure!(end == (137, "OOMKilled".into()), "{end:?}");
        Ok(())
    })
}

#[test]
fn a_shell_that_reports_its_childs_death_is_oomkilled() -> Result<()> {
    on_a_node(async |node| {
        let end = ends(node, "shell", &format!("{GREEDY}; exit $?")).await?;
        ensure!(end == (137, "OOMKilled".into()), "{end:?}");
        Ok(())
    })
}

#[test]
fn who_lives_on_without_its_child_ends_for_its_own_reason() -> Result<()> {
    on_a_node(async |node| {
        let end = ends(node, "zero", &format!("{GREEDY}; exit 0")).await?;
        ensure!(end == (0, "Completed".into()), "{end:?}");
        let end = ends(node, "three", &format!("{GREEDY}; exit 3")).await?;
        ensure!(end == (3, "Error".into()), "{end:?}");
        Ok(())
    })
}

#[test]
fn a_later_kill_by_somebody_else_is_not_the_oom_killers() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        for (name, by_request) in [("asked", true), ("unasked", false)] {
            let pod = node.pod(name);
            // The shim looks a fifth of a second after the OOM killer has come.
            let script = format!("{GREEDY}; echo child $?; sleep 1; echo later; sleep 1000");
            let (_, id) = node.run(&pod, &limited(&pod, &image, &script)).await?;
            node.wait_log(&id, "child 137").await?;
            if by_request {
                node.cri.stop(&id, 0).await?;
            } else {
                node.wait_log(&id, "later").await?;
                kill_from_outside(node, &id).await?;
            }
            let status = node.wait_exited(&id).await?;
            let end = (status.exit_code, status.reason.as_str());
            ensure!(end == (137, "Error"), "{name}: {status:?}");
        }
        Ok(())
    })
}

async fn kill_from_outside(node: &Node, id: &str) -> Result<()> {
    test_support::proc::signal(node.pid_of(id).await?, rustix::process::Signal::KILL)
}

#[test]
fn a_limit_of_the_whole_pod_ends_in_oomkilled_too() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let signals = node.scratch.dir().join("signals");
        std::fs::create_dir_all(&signals)?;
        let pod = node.pod("parent");
        let script =
            format!("echo up; while [ ! -e /signals/go ]; do sleep 0.01; done; exec {GREEDY}");
        let container =
            pod.container("main", &image).script(&script).mount(&signals, "/signals", false);
        let (_, id) = node.run(&pod, &container).await?;
        node.wait_log(&id, "up").await?;
        let below = node.scratch.cgroup_parent();
        let v1 = format!("/sys/fs/cgroup/memory{below}/memory.limit_in_bytes");
        let v2 = format!("/sys/fs/cgroup{below}/memory.max");
        let limit = (20 << 20).to_string();
        std::fs::write(v1, &limit).or_else(|_| std::fs::write(v2, &limit))?;
        std::fs::write(signals.join("go"), "")?;
        let ended = tokio::time::timeout(PATIENCE, node.wait_exited(&id)).await??;
        ensure!((ended.exit_code, ended.reason.as_str()) == (137, "OOMKilled"), "{ended:?}");
        Ok(())
    })
}

#[test]
fn a_group_that_dies_together_is_oomkilled() -> Result<()> {
    on_a_node(async |node| {
        if !std::path::Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            test_support::skip("memory.oom.group is of cgroup v2");
            return Ok(());
        }
        let image = node.pulled("busybox").await?;
        let pod = node.pod("group");
        let script = format!("{GREEDY}; sleep 1000");
        let container = limited(&pod, &image, &script)
            .resources(|r| drop(r.unified.insert("memory.oom.group".into(), "1".into())));
        let (status, _) = node.run_to_end(&pod, &container).await?;
        ensure!((status.exit_code, status.reason.as_str()) == (137, "OOMKilled"), "{status:?}");
        Ok(())
    })
}

#[test]
fn a_seccomp_filters_kill_has_a_reason_of_its_own() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let profile = node.scratch.dir().join("kill.json");
        std::fs::write(
            &profile,
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_AARCH64"],
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_KILL_PROCESS"}]}"#,
        )?;
        let pod = node.pod("filtered");
        let container =
            pod.container("main", &image).script("exec mkdir /x").security(|security| {
                security.seccomp = Some(v1::SecurityProfile {
                    profile_type: v1::ProfileType::Localhost.into(),
                    localhost_ref: profile.display().to_string(),
                });
            });
        let (status, _) = node.run_to_end(&pod, &container).await?;
        let end = (status.exit_code, status.reason.as_str());
        ensure!(end == (159, "seccomp killed"), "{status:?}");
        Ok(())
    })
}
