//! What hosts do to a runtime: reboots, full disks, few descriptors, file systems that hang,
//! processes that cannot be ended in the usual way. Others are not affected, errors say what and
//! where, and service resumes by itself.

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::Signal;
use test_support::node::{Node, PATIENCE, on_a_node, on_a_node_with};
use test_support::proc;

/// What a call may take that gives up by itself after half a minute.
const LONG: Duration = Duration::from_secs(120);

/// Everything a reboot takes: processes, namespaces, `/run`, and the kernel's word for this boot. A pod of
/// that name was being made.
fn reboot(node: &mut Node, half_made: Option<&str>) -> Result<()> {
    node.daemon.kill9()?;
    let state = node.scratch.state().display().to_string();
    let parent = format!("{}/", node.scratch.cgroup_parent());
    for process in proc::all() {
        if process.cmdline.contains(&state) || process.cgroups.contains(&parent) {
            proc::signal(process.pid, Signal::KILL)?;
            proc::wait_gone(process.pid, PATIENCE)?;
        }
    }
    let pods = node.scratch.root().join("pods");
    for entry in std::fs::read_dir(&pods)? {
        let entry = entry?;
        let pin =
            Path::new("/run/netns").join(format!("knarr-{}", entry.file_name().to_string_lossy()));
        if pin.exists() {
            rustix::mount::unmount(&pin, UnmountFlags::DETACH)?;
            std::fs::remove_file(&pin)?;
        }
        of_another_boot(&entry.path().join("pod.json"), half_made)?;
    }
    std::fs::remove_dir_all(node.scratch.state().join("pods"))?;
    node.daemon.launch(&node.scratch)
}

/// A record is a header line with length and checksum, and a body.
fn of_another_boot(record: &Path, half_made: Option<&str>) -> Result<()> {
    let text = std::fs::read_to_string(record)?;
    let (header, body) = text.split_once('\n').context("no header")?;
    let mut header: serde_json::Value = serde_json::from_str(header)?;
    let mut fields: serde_json::Value = serde_json::from_str(body)?;
    ensure!(fields["boot_id"].is_string(), "{body}");
    fields["boot_id"] = "of-another-boot".into();
    if half_made.is_some_and(|name| fields["config"]["name"]["name"] == name) {
        ensure!(fields["phase"] == "Ready", "{body}");
        fields["phase"] = "Creating".into();
    }
    let body = format!("{fields}\n");
    header["bytes"] = body.len().into();
    header["crc32"] = format!("{:08x}", crc32fast::hash(body.as_bytes())).into();
    Ok(std::fs::write(record, format!("{header}\n{body}"))?)
}

/// Addresses that are reserved.
fn reserved(node: &Node) -> Result<Vec<String>> {
    let networks = node.scratch.root().join("networks");
    let mut found = Vec::new();
    for network in std::fs::read_dir(networks)? {
        let network = network?.path();
        if network.is_dir() {
            for entry in std::fs::read_dir(network)? {
                let name = entry?.file_name().to_string_lossy().into_owned();
                found.extend(name.parse::<IpAddr>().is_ok().then_some(name));
            }
        }
    }
    Ok(found)
}

#[test]
fn after_a_reboot_everything_has_ended_and_nothing_is_in_the_way() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("booted");
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
        let created =
            node.cri.create(&pod_id, &pod, &pod.container("later", &image).sleeper()).await?;
        let (ended, container) =
            (node.pod("ended"), pod.container("main", &image).script("exit 3"));
        let (_, ended) = node.run(&ended, &container).await?;
        let exited = node.wait_exited(&ended).await?;
        ensure!(reserved(node)?.len() >= 2, "{:?}", reserved(node)?);

        reboot(node, None)?;

        let status = node.cri.pod(&pod_id).await?;
        ensure!(status.state() == v1::PodSandboxState::SandboxNotready, "{status:?}");
        let status = node.cri.container(&id).await?;
        ensure!(status.state() == v1::ContainerState::ContainerExited, "{status:?}");
        ensure!((status.exit_code, status.reason.as_str()) == (255, "Unknown"), "{status:?}");
        let status = node.cri.container(&created).await?;
        ensure!(status.state() == v1::ContainerState::ContainerCreated, "{status:?}");
        ensure!(node.cri.container(&ended).await? == exited);
        // Answered after what the start has left to do.
        for id in [&id, &ended] {
            let request = v1::ReopenContainerLogRequest { container_id: id.clone() };
            ensure!(node.cri.runtime.clone().reopen_container_log(request).await.is_err());
        }
        ensure!(reserved(node)?.is_empty(), "{:?}", reserved(node)?);
        // As kubelet does: the next attempt of the same pod.
        let again = pod.with(|config| {
            if let Some(metadata) = &mut config.metadata {
                metadata.attempt += 1;
            }
        });
        let (_, id) = node.run(&again, &again.container("main", &image).sleeper()).await?;
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        Ok(())
    })
}

#[test]
fn a_pod_that_was_being_made_when_its_host_rebooted_is_in_nobodys_way() -> Result<()> {
    on_a_node(async |node| {
        // Kubelet never learnt of it, and asks for the same again.
        let half = node.pod("half");
        let before = node.cri.run_pod(&half).await?;
        reboot(node, Some("half"))?;
        ensure!(node.cri.pods(None).await?.is_empty());
        ensure!(reserved(node)?.is_empty(), "{:?}", reserved(node)?);
        let image = node.pulled("busybox").await?;
        let (pod_id, id) = node.run(&half, &half.container("main", &image).sleeper()).await?;
        ensure!(pod_id != before, "the same id");
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        Ok(())
    })
}

#[test]
fn what_forks_faster_than_it_is_killed_is_killed() -> Result<()> {
    use v1::NamespaceMode::{Container, Node as Host, Pod};
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        // Each process starts the next one and ends: their number stays, none of them does.
        let few = "f() { f & }; f & f & f & f & echo lit; while :; do sleep 1000; done";
        // As many as there can be, all the time.
        let many = "g() { while :; do g & done; }; echo lit; \
                    while [ ! -e /go ]; do sleep 0.01; done; while :; do (g); done";
        for (name, pid, limit, script) in [
            ("own", Container, None, few),
            ("shared", Pod, None, few),
            ("host", Host, None, few),
            ("limited", Host, Some(64), many),
            ("contained", Container, Some(64), many),
        ] {
            let pod = node.pod(name).namespaces(|namespaces| namespaces.set_pid(pid));
            let script = format!("trap '' TERM; {script}");
            let container = pod.container("main", &image).script(&script).security(|security| {
                security.namespace_options.get_or_insert_default().set_pid(pid);
            });
            let (pod_id, id) = node.run(&pod, &container).await?;
            node.wait_log(&id, "lit").await?;
            if let Some(limit) = limit {
                ensure!(control(&id, "pids.max", &limit.to_string()), "nothing limits processes");
                node.cri.shell(&id, "touch /go").await?;
            }
            node.cri.stop(&id, 0).await.with_context(|| name.to_owned())?;
            let left = proc::all().into_iter().filter(|it| !it.zombie && it.cgroups.contains(&id));
            ensure!(left.count() == 0, "{name}: processes are left");
            node.cri.stop_pod(&pod_id).await.with_context(|| name.to_owned())?;
        }
        Ok(())
    })
}

#[test]
fn frozen_and_stopped_containers_end_when_they_are_to() -> Result<()> {
    on_a_node(async |node| {
        let (_, stopped) = node.sleeper("stopped").await?;
        let (_, frozen) = node.sleeper("frozen").await?;
        for process in proc::all().into_iter().filter(|it| it.cgroups.contains(&stopped)) {
            proc::signal(process.pid, Signal::STOP)?;
        }
        freeze(&frozen)?;
        for id in [&stopped, &frozen] {
            node.cri.stop(id, 0).await.with_context(|| format!("stop {id}"))?;
            let status = node.cri.container(id).await?;
            ensure!(status.exit_code == 137, "{status:?}");
        }
        Ok(())
    })
}

fn freeze(container: &str) -> Result<()> {
    let frozen = [("cgroup.freeze", "1"), ("freezer.state", "FROZEN")]
        .map(|(file, value)| control(container, file, value));
    ensure!(frozen.contains(&true), "there is nothing to freeze it with");
    Ok(())
}

/// Writes to a file of the container's control groups; false where none has it.
fn control(container: &str, file: &str, value: &str) -> bool {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter(|mount| mount.contains(" - cgroup"));
    let points = points.filter_map(|mount| mount.split(' ').nth(4));
    let dirs = points.flat_map(|point| test_support::leaks::tree(Path::new(point)));
    let own = dirs.filter(|dir| dir.ends_with(container) && dir.join(file).exists());
    // Made first, so that each of them is written.
    let written: Vec<bool> = own.map(|dir| std::fs::write(dir.join(file), value).is_ok()).collect();
    written.contains(&true)
}

/// A file system whose server never answers. Dropping it answers everybody with an error.
struct Hanging {
    dir: PathBuf,
    _server: std::os::fd::OwnedFd,
}

impl Hanging {
    fn at(dir: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let server = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let options = std::ffi::CString::new(options)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("hanging", &dir, "fuse", flags, options.as_c_str())
            .context("mount a file system that hangs")?;
        Ok(Self { dir, _server: server })
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        let flags = UnmountFlags::FORCE | UnmountFlags::DETACH;
        if let Err(error) = rustix::mount::unmount(&self.dir, flags) {
            eprintln!("{} stays mounted: {error}", self.dir.display());
        }
    }
}

#[test]
fn a_volume_that_hangs_holds_up_its_own_pod_and_no_other() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let hanging = Hanging::at(node.scratch.dir().join("hanging"))?;
        let pod = node.pod("waits");
        let pod_id = node.cri.run_pod(&pod).await?;
        let volume = hanging.dir.join("volume");
        let container = pod.container("main", &image).sleeper().mount(&volume, "/volume", false);
        let cri = node.cri.clone();
        let waiting = {
            let (pod_id, pod) = (pod_id.clone(), pod.clone());
            tokio::spawn(async move { cri.create(&pod_id, &pod, &container).await })
        };
        // Others are served all the while, to their end.
        let (other_pod, other) = node.sleeper("other").await?;
        ensure!(node.cri.shell(&other, "echo alive").await? == "alive");
        ensure!(node.cri.pods(None).await?.len() == 2);
        ensure!(node.cri.pod(&pod_id).await?.state() == v1::PodSandboxState::SandboxReady);
        node.cri.stop(&other, 10).await?;
        node.cri.remove(&other).await?;
        node.cri.stop_pod(&other_pod).await?;
        node.cri.remove_pod(&other_pod).await?;
        ensure!(!waiting.is_finished(), "it did not hang");
        // Its own pod can be stopped, and kubelet's next attempt is told at once.
        let (cri, id) = (node.cri.clone(), pod_id.clone());
        let stopping = tokio::spawn(async move { cri.stop_pod(&id).await });
        let error = tokio::time::timeout(LONG, waiting).await??.expect_err("there is no volume");
        ensure!(error.message().contains("does not answer"), "{error:?}");
        ensure!(error.message().contains(&volume.display().to_string()), "{error:?}");
        tokio::time::timeout(PATIENCE, stopping).await???;
        node.cri.remove_pod(&pod_id).await?;
        let pod_id = node.cri.run_pod(&pod).await?;
        let container = pod.container("main", &image).sleeper().mount(&volume, "/volume", false);
        let again = node.cri.create(&pod_id, &pod, &container).await.expect_err("it hangs still");
        ensure!(again.message().contains("does not answer"), "{again:?}");
        drop(hanging);
        // It has an answer now: there is nothing, and so a directory is made.
        let deadline = std::time::Instant::now() + PATIENCE;
        while let Err(error) = node.cri.create(&pod_id, &pod, &container).await {
            ensure!(std::time::Instant::now() < deadline, "{error:?}");
            tokio::task::yield_now().await;
        }
        node.cri.stop_pod(&pod_id).await?;
        Ok(())
    })
}

/// A small file system of its own for what the daemon keeps.
struct Small(PathBuf);

impl Small {
    fn mount(dir: &Path, options: &std::ffi::CStr) -> Result<Self> {
        rustix::mount::mount("small", dir, "tmpfs", MountFlags::empty(), options)?;
        Ok(Self(dir.to_owned()))
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

/// `fill` takes everything there is; what it gives frees that again when it is dropped.
fn on_a_full_disk<T>(options: &std::ffi::CStr, fill: impl Fn(&Path) -> Result<T>) -> Result<()> {
    let small = std::sync::Mutex::new(None);
    on_a_node_with(
        |_, scratch| {
            let mounted = Small::mount(&scratch.root(), options);
            *small.lock().expect("nobody panics") = Some(mounted.expect("mount a file system"));
        },
        async |node| {
            let image = node.pulled("busybox").await?;
            let pod = node.pod("before");
            let (pod_id, id) = node.run(&pod, &pod.container("main", &image).sleeper()).await?;
            node.wait_log(&id, "asleep").await?;
            let full = fill(&node.scratch.root().join("ballast"))?;

            for error in [
                node.cri.run_pod(&node.pod("refused")).await.expect_err("no room"),
                node.cri.pull(&node.image("volumes")?).await.expect_err("no room"),
                node.cri
                    .create(&pod_id, &pod, &pod.container("refused", &image).sleeper())
                    .await
                    .expect_err("no room"),
            ] {
                let text = error.message();
                let root = node.scratch.root().display().to_string();
                ensure!(text.contains("No space left on device"), "{text}");
                ensure!(text.contains(&root) || text.contains("layer"), "{text}");
            }
            // What runs runs on, and can be ended and removed: that is how room is made.
            ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
            node.cri.stop(&id, 10).await?;
            let exited = node.cri.container(&id).await?;
            ensure!(exited.exit_code == 0, "{exited:?}");
            node.crash_and_restart()?;
            ensure!(node.cri.container(&id).await? == exited);
            node.cri.remove(&id).await?;
            node.cri.stop_pod(&pod_id).await?;
            node.cri.remove_pod(&pod_id).await?;

            drop(full);
            let (_, id) = node.sleeper("after").await?;
            ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
            node.pulled("volumes").await?;
            node.cri.remove_everything().await?;
            node.daemon.terminate()?;
            drop(small.lock().expect("nobody panics").take());
            Ok(())
        },
    )
}

#[test]
fn a_full_disk_stops_what_is_new_and_nothing_else() -> Result<()> {
    struct Ballast(PathBuf);
    impl Drop for Ballast {
        fn drop(&mut self) {
            std::fs::remove_file(&self.0).ok();
        }
    }
    on_a_full_disk(c"size=24m", |path| {
        let mut file = std::fs::File::create(path)?;
        let block = [0; 4096];
        while std::io::Write::write_all(&mut file, &block).is_ok() {}
        Ok(Ballast(path.to_owned()))
    })
}

#[test]
fn a_file_system_without_inodes_stops_what_is_new_and_nothing_else() -> Result<()> {
    struct Ballast(PathBuf);
    impl Drop for Ballast {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).ok();
        }
    }
    on_a_full_disk(c"size=64m,nr_inodes=900", |path| {
        std::fs::create_dir(path)?;
        let mut number = 0;
        while std::fs::write(path.join(number.to_string()), "").is_ok() {
            number += 1;
        }
        Ok(Ballast(path.to_owned()))
    })
}

#[test]
fn a_container_that_ignores_its_signal_holds_up_no_other() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("deaf");
        let script = "trap '' TERM; echo deaf; while :; do sleep 1000; done";
        let (_, deaf) = node.run(&pod, &pod.container("main", &image).script(script)).await?;
        node.wait_log(&deaf, "deaf").await?;
        let cri = node.cri.clone();
        let id = deaf.clone();
        let waiting = tokio::spawn(async move { cri.stop(&id, 1000).await });
        let (_, other) = node.sleeper("other").await?;
        node.cri.stop(&other, 10).await?;
        ensure!(!waiting.is_finished(), "it obeyed");
        // A later, shorter deadline counts.
        node.cri.stop(&deaf, 1).await?;
        tokio::time::timeout(Duration::from_secs(10), waiting).await???;
        ensure!(node.cri.container(&deaf).await?.exit_code == 137);
        Ok(())
    })
}

#[test]
fn the_watchdog_is_fed_by_a_daemon_that_answers() -> Result<()> {
    let watched = |settings: &mut test_support::daemon::Settings, _: &_| {
        settings.environment.insert("WATCHDOG_USEC".to_owned(), "3000000".to_owned());
    };
    on_a_node_with(watched, async |node| {
        for _ in 0..2 {
            node.daemon.await_notice("WATCHDOG=1")?;
        }
        Ok(())
    })
}
