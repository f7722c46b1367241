//! File systems that cannot be written, and come back: the root, where logs go.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use rustix::mount::{MountFlags, UnmountFlags};
use test_support::node::{PATIENCE, log_lines, on_a_node};
use test_support::scratch::Scratch;

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
