//! AppArmor: which profile a process runs in, and what the default one keeps from it.

use anyhow::{Result, ensure};
use cri_api::v1;
use cri_api::v1::ProfileType::{Localhost, RuntimeDefault, Unconfined};
use test_support::cri::refused;
use test_support::node::{Node, on_a_node};
use tonic::Code;

const DEFAULT: &str = "knarr-default (enforce)";

fn enabled() -> bool {
    std::fs::read_to_string("/sys/module/apparmor/parameters/enabled")
        .is_ok_and(|text| text.trim() == "Y")
}

/// Runs `test` where the host has AppArmor.
fn with_apparmor(test: impl AsyncFnOnce(&mut Node) -> Result<()>) -> Result<()> {
    if !enabled() {
        test_support::skip("AppArmor is not enabled");
        return Ok(());
    }
    on_a_node(test)
}

fn profile(kind: v1::ProfileType, name: &str) -> Option<v1::SecurityProfile> {
    Some(v1::SecurityProfile { profile_type: kind.into(), localhost_ref: name.to_owned() })
}

/// Starts a sleeper in a pod that may be privileged.
async fn confined(
    node: &Node,
    name: &str,
    image: &str,
    change: impl FnOnce(&mut v1::LinuxContainerSecurityContext),
) -> Result<String> {
    let pod = node.pod(name).security(|security| security.privileged = true);
    let container = pod.container("main", image).sleeper().security(change);
    Ok(node.run(&pod, &container).await?.1)
}

async fn label(node: &Node, id: &str, pid: &str) -> Result<String> {
    node.cri.shell(id, &format!("cat /proc/{pid}/attr/current")).await
}

#[test]
fn a_process_runs_in_the_profile_that_was_asked_for() -> Result<()> {
    with_apparmor(async |node| {
        let image = node.pulled("busybox").await?;
        type Change = fn(&mut v1::LinuxContainerSecurityContext);
        #[expect(deprecated, reason = "older clients set only the text form")]
        let cases: [(&str, Change, &str); 8] = [
            ("nothing", |_| {}, DEFAULT),
            ("default", |s| s.apparmor = profile(RuntimeDefault, ""), DEFAULT),
            ("unconfined", |s| s.apparmor = profile(Unconfined, ""), "unconfined"),
            ("localhost", |s| s.apparmor = profile(Localhost, "knarr-default"), DEFAULT),
            ("old", |s| s.apparmor_profile = "unconfined".into(), "unconfined"),
            (
                "new-wins",
                |s| {
                    s.apparmor_profile = "localhost/not-loaded".into();
                    s.apparmor = profile(Unconfined, "");
                },
                "unconfined",
            ),
            ("privileged", |s| s.privileged = true, "unconfined"),
            (
                "privileged-localhost",
                |s| {
                    s.privileged = true;
                    s.apparmor = profile(Localhost, "localhost/knarr-default");
                },
                DEFAULT,
            ),
        ];
        for (name, change, want) in cases {
            let id = confined(node, name, &image, change).await?;
            for pid in ["1", "self"] {
                let found = label(node, &id, pid).await?;
                ensure!(found == want, "{name}, {pid}: {found}, want {want}");
            }
        }
        Ok(())
    })
}

#[test]
fn the_pods_first_process_is_confined_too() -> Result<()> {
    with_apparmor(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("shared").namespaces(|n| n.set_pid(v1::NamespaceMode::Pod));
        let (_, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        let found = label(node, &id, "1").await?;
        ensure!(found == DEFAULT, "pause: {found}");
        Ok(())
    })
}

#[test]
fn a_profile_that_is_not_there_is_refused() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("not-loaded");
        let pod_id = node.cri.run_pod(&pod).await?;
        #[expect(deprecated, reason = "older clients set only the text form")]
        let old = |s: &mut v1::LinuxContainerSecurityContext| {
            s.apparmor_profile = "localhost/absent".to_owned();
        };
        for container in [
            pod.container("new", &image).security(|s| s.apparmor = profile(Localhost, "absent")),
            pod.container("old", &image).security(old),
        ] {
            let result = node.cri.create(&pod_id, &pod, &container.sleeper()).await;
            refused(result, Code::InvalidArgument, &["absent", "AppArmor"])?;
        }
        Ok(())
    })
}

#[test]
fn without_apparmor_only_a_named_profile_is_an_error() -> Result<()> {
    if enabled() {
        test_support::skip("AppArmor is enabled");
        return Ok(());
    }
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        for (name, kind) in [("default", RuntimeDefault), ("unconfined", Unconfined)] {
            confined(node, name, &image, |s| s.apparmor = profile(kind, "")).await?;
        }
        Ok(())
    })
}

/// Everything else that would keep a process from the host is off, so that what is refused is
/// refused by the profile.
fn exposed(security: &mut v1::LinuxContainerSecurityContext) {
    security.capabilities =
        Some(v1::Capability { add_capabilities: vec!["ALL".to_owned()], ..Default::default() });
    security.seccomp = None;
    security.masked_paths.clear();
    security.readonly_paths.clear();
}

#[test]
fn the_default_profile_keeps_the_host_out_of_reach() -> Result<()> {
    with_apparmor(async |node| {
        let image = node.pulled("busybox").await?;
        let id = confined(node, "exposed", &image, exposed).await?;
        for (script, works) in [
            ("cat /proc/sys/kernel/core_pattern", true),
            ("cat /proc/sys/kernel/shmmax >/tmp/a && cat /tmp/a >/proc/sys/kernel/shmmax", true),
            ("ln /tmp/a /tmp/b && chmod 600 /tmp/b && rm /tmp/b", true),
            ("echo 0 >/proc/self/oom_score_adj", true),
            ("cat /proc/sys/vm/swappiness >/tmp/s && cat /tmp/s >/proc/sys/vm/swappiness", false),
            ("echo x >/proc/sys/kernel/core_pattern", false),
            ("echo h >/proc/sysrq-trigger", false),
            ("head -c1 /proc/kcore", false),
            ("mkdir /tmp/m && mount -t tmpfs none /tmp/m", false),
            ("mount --bind /tmp /home", false),
            ("kill -0 1 && cat /proc/1/environ", true),
        ] {
            let result = node.cri.exec(&id, &["sh", "-c", script], 20).await?;
            ensure!((result.code == 0) == works, "{script}: {result:?}");
        }
        let id = confined(node, "bare", &image, |security| {
            exposed(security);
            security.apparmor = profile(Unconfined, "");
        })
        .await?;
        let script = "mkdir /tmp/m && mount -t tmpfs none /tmp/m";
        let result = node.cri.exec(&id, &["sh", "-c", script], 20).await?;
        ensure!(result.code == 0, "without the profile it works: {result:?}");
        Ok(())
    })
}

#[test]
fn the_default_profile_lets_nobody_signal_or_trace_beyond_it() -> Result<()> {
    with_apparmor(async |node| {
        let image = node.pulled("busybox").await?;
        let host = std::process::id();
        for (name, asked, works) in
            [("inside", RuntimeDefault, false), ("outside", Unconfined, true)]
        {
            let pod = node.pod(name).namespaces(|n| n.set_pid(v1::NamespaceMode::Node));
            let container = pod.container("main", &image).sleeper().security(|security| {
                exposed(security);
                security.apparmor = profile(asked, "");
            });
            let (_, id) = node.run(&pod, &container).await?;
            for script in
                [format!("kill -0 {host}"), format!("cat /proc/{host}/environ >/dev/null")]
            {
                let result = node.cri.exec(&id, &["sh", "-c", &script], 20).await?;
                ensure!((result.code == 0) == works, "{name}, {script}: {result:?}");
            }
            // What the runtime sends arrives.
            node.cri.stop(&id, 20).await?;
            let status = node.cri.container(&id).await?;
            ensure!(status.exit_code == 0, "{name}: it obeyed SIGTERM: {status:?}");
        }
        Ok(())
    })
}
