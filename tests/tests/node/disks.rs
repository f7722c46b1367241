//! File systems that cannot be written, and come back: the root, where logs go.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use rustix::mount::{MountFlags, UnmountFlags};
use test_support::node::{Node, PATIENCE, log_lines, on_a_node, on_a_node_with};
use test_support::proc;
use test_support::scratch::Scratch;
use test_support::small_disk::{Lack, SmallDisk};

/// A file system of its own, unmounted when it is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn at(dir: &Path, options: &std::ffi::CStr) -> Result<Self> {
        std::fs::create_dir_all(dir)?;
        rustix::mount::mount("knarr-test", dir, "tmpfs", MountFlags::empty(), options)
            .context("mount a file system")?;
        Ok(Self(dir.to_owned()))
    }

    /// The directory as it is, over itself, and read-only: who has files of it open for writing
    /// goes on.
    fn read_only(dir: &Path) -> Result<Self> {
        rustix::mount::mount_bind(dir, dir).context("bind")?;
        let mounted = Self(dir.to_owned());
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        rustix::mount::mount_remount(dir, flags, c"").context("make it read-only")?;
        Ok(mounted)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = rustix::mount::unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("{} stays mounted: {error}", self.0.display());
        }
    }
}

#[test]
fn a_log_that_cannot_be_written_costs_its_lines_and_the_container_goes_on() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let logs = Mounted::at(&node.scratch.dir().join("small"), c"size=256k")?;
        let pod = node.pod("talks").with(|config| {
            config.log_directory = logs.0.join("pod").display().to_string();
        });
        let script = "echo before; while [ ! -e /full ]; do sleep 0.01; done; \
                      i=0; while [ $i -lt 200 ]; do i=$((i+1)); echo lost $i; done; touch /said; \
                      while [ ! -e /room ]; do sleep 0.01; done; echo after; sleep 1000";
        let (_, id) = node.run(&pod, &pod.container("main", &image).script(script)).await?;
        node.wait_log(&id, "before").await?;
        let ballast = logs.0.join("ballast");
        let mut file = std::fs::File::create(&ballast)?;
        while std::io::Write::write_all(&mut file, &[0; 512]).is_ok() {}
        let path = node.log_path(&id).await?;
        // A page that the log has is its own still.
        let kept = std::fs::metadata(&path)?.len().next_multiple_of(4096);
        node.cri.shell(&id, "touch /full; while [ ! -e /said ]; do sleep 0.01; done").await?;
        ensure!(std::fs::metadata(&path)?.len() <= kept, "there was room");
        let told = |log: &str| log.contains("output is lost until it can").then_some(());
        let daemon_log = node.scratch.dir().join("daemon.log");
        test_support::files::wait_for(&daemon_log, PATIENCE, told)?;
        let log = node.daemon.log_text();
        ensure!(log.contains(&path.display().to_string()), "it is not said which log");
        ensure!(log.contains("No space left on device"), "it is not said why");
        ensure!(node.cri.container(&id).await?.state() == v1::ContainerState::ContainerRunning);

        drop(file);
        std::fs::remove_file(&ballast)?;
        node.cri.shell(&id, "touch /room").await?;
        node.wait_log(&id, "after").await?;
        let again = |log: &str| log.contains("is written again").then_some(());
        test_support::files::wait_for(&daemon_log, PATIENCE, again)?;
        // At most the record that was cut off in the middle cannot be read.
        let text = std::fs::read_to_string(&path)?;
        let whole = |line: &&str| line.split(' ').count() >= 4 && line.contains(" stdout F ");
        let torn = text.lines().filter(|line| !whole(line)).count();
        ensure!(torn <= 1, "{text}");
        ensure!(text.ends_with("stdout F after\n"), "{text}");
        if torn == 0 {
            log_lines(&path)?;
        }
        node.cri.stop(&id, 0).await?;
        Ok(())
    })
}

#[test]
fn a_root_that_becomes_read_only_stops_what_is_new_until_it_can_be_written() -> Result<()> {
    on_a_node(async |node| {
        let (pod, id) = node.sleeper("before").await?;
        let read_only = Mounted::read_only(&node.scratch.root())?;
        let error = node.cri.run_pod(&node.pod("refused")).await.expect_err("read-only");
        let text = error.message();
        ensure!(text.contains("Read-only file system"), "{text}");
        ensure!(text.contains(&node.scratch.root().display().to_string()), "{text}");
        let error = node.cri.pull(&node.image("volumes")?).await.expect_err("read-only");
        ensure!(error.message().contains("Read-only file system"), "{error:?}");
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        node.cri.stop(&id, 10).await?;
        let exited = node.cri.container(&id).await?;
        ensure!(exited.exit_code == 0, "{exited:?}");
        // It cannot go, and is not half gone.
        ensure!(node.cri.remove(&id).await.is_err());
        ensure!(node.cri.container(&id).await? == exited);
        // One that starts now says what it lacks.
        node.daemon.kill9()?;
        let from = node.daemon.log_text().len();
        let status = node.daemon.launch_to_its_end(&node.scratch)?;
        ensure!(status.code() == Some(1), "{status}");
        let log = node.daemon.log_text();
        let said = log.get(from..).unwrap_or_default();
        ensure!(said.contains("Read-only file system"), "{said}");
        ensure!(said.contains(&node.scratch.root().display().to_string()), "{said}");

        drop(read_only);
        node.daemon.launch(&node.scratch)?;
        ensure!(node.cri.container(&id).await?.exit_code == 0);
        ensure!(node.cri.pod(&pod).await?.state() == v1::PodSandboxState::SandboxReady);
        node.sleeper("refused").await?;
        Ok(())
    })
}

/// The first process that is not dead and for which this holds.
fn process(is_it: impl Fn(&proc::Process) -> bool) -> Result<i32> {
    let found = proc::all().into_iter().find(|it| !it.zombie && is_it(it));
    Ok(found.context("no such process")?.pid)
}

/// A test on a node whose records and volatile state are on disks that can be filled.
fn on_small_disks(test: impl AsyncFnOnce(&mut Node, &[SmallDisk; 2]) -> Result<()>) -> Result<()> {
    let disks = OnceCell::new();
    on_a_node_with(
        |_, scratch| {
            let mounted = [&scratch.root(), scratch.state()].map(SmallDisk::mount);
            let mounted = mounted.map(|disk| disk.expect("mount a file system"));
            disks.set(mounted).expect("once");
        },
        async |node| test(node, disks.get().context("no disks")?).await,
    )
}

#[test]
fn an_end_on_full_disks_is_known_though_supervisor_and_daemon_die() -> Result<()> {
    on_small_disks(async |node, disks| {
        let image = node.pulled("busybox").await?;
        let script = "trap 'exit 7' TERM; echo asleep; while :; do sleep 0.01; done";
        for lack in [Lack::Inodes, Lack::Pages] {
            // How much is dead before the container ends: nothing, or the daemon.
            for daemon_first in [false, true] {
                let pod = node.pod("ends");
                let (pod_id, id) =
                    node.run(&pod, &pod.container("main", &image).script(script)).await?;
                node.wait_log(&id, "asleep").await?;
                let first = process(|it| it.cgroups.contains(&id) && it.cmdline.contains("trap"))?;
                let shim = process(|it| {
                    it.cmdline.starts_with("knarr-shim") && it.cmdline.contains(&pod_id)
                })?;
                for disk in disks {
                    disk.leave(lack, 0)?;
                }
                if daemon_first {
                    node.daemon.kill9()?;
                }
                proc::signal(first, rustix::process::Signal::TERM)?;
                let state = node.scratch.state().join("pods").join(&pod_id);
                let recorded = |text: &str| text.contains("\ncomplete\n").then_some(());
                test_support::files::wait_for(&state.join("exits").join(&id), PATIENCE, recorded)?;
                if !daemon_first {
                    ensure!(node.wait_exited(&id).await?.exit_code == 7);
                    node.daemon.kill9()?;
                }
                proc::signal(shim, rustix::process::Signal::KILL)?;
                proc::wait_gone(shim, PATIENCE)?;
                node.daemon.launch(&node.scratch)?;
                let status = node.cri.container(&id).await?;
                ensure!((status.exit_code, status.reason.as_str()) == (7, "Error"), "{status:?}");
                node.cri.stop_pod(&pod_id).await?;
                node.cri.remove_pod(&pod_id).await?;
                for disk in disks {
                    disk.widen()?;
                }
            }
        }
        Ok(())
    })
}

#[test]
fn nothing_is_started_whose_end_could_not_be_recorded() -> Result<()> {
    on_small_disks(async |node, [_, state]| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("starts");
        let pod_id = node.cri.run_pod(&pod).await?;
        for (number, lack) in [Lack::Inodes, Lack::Pages].into_iter().enumerate() {
            let container = pod.container(&format!("refused{number}"), &image).sleeper();
            let id = node.cri.create(&pod_id, &pod, &container).await?;
            let before = state.taken()?;
            state.leave(lack, 0)?;
            let error = node.cri.start(&id).await.expect_err("no room");
            state.widen()?;
            let text = error.message();
            ensure!(text.contains("exit record") && text.contains("No space left"), "{text}");
            ensure!(text.contains(&state.path().display().to_string()), "{text}");
            let status = node.cri.container(&id).await?;
            ensure!(status.reason == "StartError", "{status:?}");
            ensure!(state.taken()? == before, "{before:?} became {:?}", state.taken()?);
        }
        let next = node.cri.create(&pod_id, &pod, &pod.container("next", &image).sleeper()).await?;
        node.cri.start(&next).await?;
        ensure!(node.cri.shell(&next, "echo alive").await? == "alive");
        Ok(())
    })
}

#[test]
fn a_log_that_cannot_be_rotated_goes_on_in_the_old_file() -> Result<()> {
    let logs = OnceCell::new();
    on_a_node_with(
        |_, scratch| {
            let disk = SmallDisk::mount(&scratch.logs()).expect("mount a file system");
            logs.set(disk).expect("once");
        },
        async |node| {
            let logs = logs.get().context("no disk")?;
            let image = node.pulled("busybox").await?;
            let script = "echo begun; for i in 1 2 3; do while [ ! -e /say$i ]; do sleep 0.01; done; \
                          echo said $i; done; sleep 1000";
            let pod = node.pod("talks");
            let (_, id) = node.run(&pod, &pod.container("main", &image).script(script)).await?;
            node.wait_log(&id, "begun").await?;
            let path = node.log_path(&id).await?;
            let old = path.with_extension("rotated");
            std::fs::rename(&path, &old)?;
            let reopen = async || {
                let request = v1::ReopenContainerLogRequest { container_id: id.clone() };
                node.cri.runtime.clone().reopen_container_log(request).await
            };
            let said = async |number: usize, file: &Path| {
                node.cri.shell(&id, &format!("touch /say{number}")).await?;
                let wanted = format!("said {number}\n");
                let is_there = |text: &str| text.contains(&wanted).then_some(());
                test_support::files::wait_for(file, PATIENCE, is_there)
            };
            logs.leave(Lack::Inodes, 0)?;
            let error = reopen().await.expect_err("no inode");
            let text = error.message();
            ensure!(text.contains("No space left on device"), "{text}");
            ensure!(text.contains(&path.display().to_string()), "{text}");
            said(1, &old).await?;
            ensure!(!path.exists());
            logs.widen()?;
            said(2, &old).await?;
            reopen().await?;
            said(3, &path).await?;
            ensure!(log_lines(&old)?.len() == 3 && log_lines(&path)?.len() == 1);
            Ok(())
        },
    )
}

#[test]
fn who_is_not_root_is_told_what_that_takes() -> Result<()> {
    let program = match test_support::node::dist() {
        Ok(dist) => dist.join("knarr"),
        Err(why) => {
            test_support::skip(&why);
            return Ok(());
        }
    };
    let scratch = Scratch::claim()?;
    let mut command = std::process::Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program);
    command.arg("serve").arg("--root").arg(scratch.root()).arg("--state").arg(scratch.state());
    let output = command.output().context("setpriv")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    ensure!(said.contains("knarr must be root"), "{said}");
    for what in ["namespaces", "mounts", "control groups", "networks"] {
        ensure!(said.contains(what), "{said}");
    }
    Ok(())
}
