//! Pods with users of their own under other runtimes: had where the runtime says that it maps mounts, refused in one
//! sentence elsewhere. What such pods can do is in `users`, which runs under every handler.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::cri::refused;
use test_support::daemon::Settings;
use test_support::handlers::Runtime;
use test_support::node::{Node, dist, on_a_node_with};
use test_support::scratch::Scratch;
use test_support::skip;
use tonic::Code;

const FIRST: u32 = 131_072;
const LENGTH: u32 = 65_536;

/// What `Status` says of a handler.
async fn has_users(node: &Node, name: &str) -> Result<bool> {
    let status = node.cri.runtime.clone().status(v1::StatusRequest::default()).await?.into_inner();
    let handler = status.runtime_handlers.into_iter().find(|handler| handler.name == name);
    Ok(handler.and_then(|handler| handler.features).context("no such handler")?.user_namespaces)
}

#[test]
fn every_runtime_gives_a_pod_users_of_its_own_or_the_pod_is_refused() -> Result<()> {
    let all = [Runtime::Runc, Runtime::Crun, Runtime::Youki, Runtime::KnarrOci];
    super::under(&all, &async |node, runtime| {
        let has = has_users(node, runtime.name()).await?;
        // Ours has them wherever the built-in one has.
        ensure!(has == has_users(node, "knarr").await? || runtime != Runtime::KnarrOci);
        let pod = node.pod("users").users(FIRST, LENGTH);
        if !has {
            let wanted = [runtime.name(), "no user namespaces"];
            return refused(node.cri.run_pod(&pod).await, Code::InvalidArgument, &wanted);
        }
        let image = node.pulled("busybox").await?;
        // One whose runtime has no seccomp is not what this is about.
        let container = pod.container("main", &image).sleeper().security(|security| {
            security.seccomp = None;
        });
        let (_, id) = node.run(&pod, &container).await?;
        node.wait_log(&id, "asleep").await?;
        let map = node.cri.shell(&id, "cat /proc/self/uid_map; stat -c %u / /etc/hosts").await?;
        let words: Vec<&str> = map.split_whitespace().collect();
        ensure!(words == ["0", "131072", "65536", "0", "0"], "{map}");
        Ok(())
    })
}

/// The program that takes on users. Busybox has one that cannot do that, and its shell runs no other by that name.
fn setpriv() -> Option<PathBuf> {
    let can = |path: &PathBuf| {
        let tried = std::process::Command::new(path).args(["--reuid", "0", "true"]).output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&dirs).map(|dir| dir.join("setpriv")).find(can)
}

/// A runtime that goes by paths where ours goes by descriptors, as runc and crun do: as the root of the pod's users, into the
/// bundle and the root file system.
#[test]
fn the_pods_root_can_go_into_its_bundle_and_nobody_else_can() -> Result<()> {
    let Some(setpriv) = setpriv() else {
        skip("setpriv is not installed");
        return Ok(());
    };
    let configure = |settings: &mut Settings, scratch: &Scratch| {
        let Ok(dist) = dist() else { return };
        let path = scratch.dir().join("runtime");
        let script = format!(
            "#!/bin/sh\nbundle=; last=\n\
             for word in \"$@\"; do [ \"$last\" = --bundle ] && bundle=$word; last=$word; done\n\
             as() {{ {} --reuid $1 --regid $1 --clear-groups sh -c \"cd '$bundle' && cd rootfs\" 2>&1; }}\n\
             if [ -n \"$bundle\" ]; then\n\
               told=$(as {FIRST}) || {{ echo the root of the pod cannot pass: \"$told\" >&2; exit 1; }}\n\
               as 4711 > /dev/null && {{ echo everybody can pass >&2; exit 1; }}\n\
             fi\nexec {} oci \"$@\"\n",
            setpriv.display(),
            dist.join("knarr").display()
        );
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::write(&path, script).and_then(|()| fs::set_permissions(&path, mode)).ok();
        settings.extra_config += &format!("\n[handlers.paths]\npath = \"{}\"\n", path.display());
    };
    on_a_node_with(configure, async |node| {
        let image = node.pulled("busybox").await?;
        let mut pod = node.pod("paths").users(FIRST, LENGTH);
        pod.handler = "paths".into();
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        node.wait_log(&id, "asleep").await?;
        let state = fs::metadata(node.scratch.state().join("pods").join(&pod_id))?;
        ensure!((state.mode() & 0o7777, state.gid()) == (0o710, FIRST), "{state:?}");
        // A pod without has no use for it.
        let mut plain = node.pod("plain");
        plain.handler = "paths".into();
        let plain = node.cri.run_pod(&plain).await?;
        let state = fs::metadata(node.scratch.state().join("pods").join(plain))?;
        ensure!((state.mode() & 0o7777, state.gid()) == (0o700, 0), "{state:?}");
        Ok(())
    })
}
