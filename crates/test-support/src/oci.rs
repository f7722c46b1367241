//! The program as an OCI runtime, with bundles made on the spot and a place of its own.

use std::fs::{self, File};
use std::io::{IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use rustix::process::{Pid, PidfdFlags};
use serde_json::{Value, json};

use crate::node::{PATIENCE, dist};

const BUSYBOX: &str = "/bin/busybox";

/// A runtime with a root of its own. What its containers leave is looked for in the end.
#[derive(Debug)]
pub struct Runtime {
    dir: tempfile::TempDir,
    program: PathBuf,
    mark: String,
}

/// What a call of the runtime said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// Exit code; 256 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    fn of(output: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = output.status.code().unwrap_or(256);
        Self { code, out: text(&output.stdout), err: text(&output.stderr) }
    }

    /// What a program says that is run to its end.
    ///
    /// # Errors
    /// It cannot be executed.
    pub fn of_command(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        Ok(Self::of(&command.output().with_context(|| format!("run {program}"))?))
    }

    /// Its output, if it succeeded.
    ///
    /// # Errors
    /// It failed: what it said.
    pub fn ok(self) -> Result<String> {
        ensure!(self.code == 0, "exit code {}: {}{}", self.code, self.out, self.err);
        Ok(self.out)
    }
}

/// Runs a test with a runtime, where that can be: prints why otherwise. Then whatever containers have
/// left is looked for.
///
/// # Errors
/// The test's, or what is left.
pub fn with_runtime(test: impl FnOnce(&Runtime) -> Result<()>) -> Result<()> {
    let missing = || Path::new(BUSYBOX).exists().then_some(()).ok_or("busybox is not installed");
    match dist().and_then(|dist| missing().map(|()| dist).map_err(str::to_owned)) {
        Ok(dist) => {
            let runtime = Runtime::new(&dist)?;
            test(&runtime)?;
            runtime.finish()
        }
        Err(why) => {
            crate::skip(&why);
            Ok(())
        }
    }
}

impl Runtime {
    fn new(dist: &Path) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("koci").rand_bytes(8).tempdir_in("/var/tmp")?;
        let program = dir.path().join("knarr-oci");
        // Where that was not built, the same code in the daemon's program.
        let own = Some(dist.join("knarr-oci")).filter(|own| own.exists());
        let target = fs::canonicalize(own.unwrap_or_else(|| dist.join("knarr")))?;
        symlink(target, &program).context("link the program")?;
        let mark = dir.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { dir, program, mark })
    }

    /// Its directory, for files of the test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The program under the name that makes it a runtime.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Where containers' state is.
    pub fn root(&self) -> PathBuf {
        self.dir().join("state")
    }

    /// An id nobody else uses.
    pub fn id(&self, name: &str) -> String {
        format!("{}-{name}", self.mark)
    }

    /// A call, not yet made.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--root").arg(self.root()).args(words).stdin(Stdio::null());
        command
    }

    /// Makes a call whose output is read to its end: not for those that leave a process behind which
    /// keeps it open.
    ///
    /// # Errors
    /// The program cannot be executed.
    pub fn call(&self, words: &[&str]) -> Result<Said> {
        Said::of_command(&mut self.command(words))
    }

    /// As [`Self::call`], for those that leave a process behind: its streams are a file.
    ///
    /// # Errors
    /// The program cannot be executed, or it fails.
    pub fn leave(&self, words: &[&str]) -> Result<()> {
        let said = self.leave_with(words)?;
        ensure!(said.code == 0, "{words:?}: exit code {}: {}", said.code, said.err);
        Ok(())
    }

    /// As [`Self::leave`], however it ends. What the process left behind says comes later.
    ///
    /// # Errors
    /// The program cannot be executed.
    pub fn leave_with(&self, words: &[&str]) -> Result<Said> {
        let path = self.dir().join("streams");
        let file = File::options().create(true).append(true).open(&path)?;
        let before = file.metadata()?.len();
        let status = self
            .command(words)
            .stdout(file.try_clone()?)
            .stderr(file)
            .status()
            .context("run the runtime")?;
        let all = fs::read(&path)?;
        let new = all.get(usize::try_from(before)?..).unwrap_or_default();
        let err = String::from_utf8_lossy(new).into_owned();
        Ok(Said { code: status.code().unwrap_or(256), out: String::new(), err })
    }

    /// What processes that were left behind have written so far.
    ///
    /// # Errors
    /// None has been left.
    pub fn streams(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir().join("streams"))?)
    }

    /// A container's state.
    ///
    /// # Errors
    /// There is none.
    pub fn state(&self, id: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.call(&["state", id])?.ok()?)?)
    }

    /// A container's status.
    ///
    /// # Errors
    /// There is none.
    pub fn status(&self, id: &str) -> Result<String> {
        Ok(self.state(id)?["status"].as_str().unwrap_or_default().to_owned())
    }

    /// Makes a bundle with busybox's programs that runs a shell command, and that `change` may shape.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn bundle(
        &self,
        name: &str,
        command: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<String> {
        let dir = self.dir().join(name);
        busybox_root(&dir.join("rootfs"))?;
        let place = dir.to_str().context("a path of text")?.to_owned();
        self.call(&["spec", "--bundle", &place])?.ok()?;
        adapt_spec(&dir, command, change)?;
        Ok(place)
    }

    /// Ends every container and looks for what they have left.
    fn finish(&self) -> Result<()> {
        self.sweep()?;
        let left = fs::read_dir(self.root()).map_or(0, Iterator::count);
        ensure!(left == 0, "containers are left in {}", self.root().display());
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let ours: Vec<&str> = mounts.lines().filter(|line| line.contains(&self.mark)).collect();
        ensure!(ours.is_empty(), "mounts are left: {ours:?}");
        let groups = self.cgroups();
        ensure!(groups.is_empty(), "cgroups are left: {groups:?}");
        Ok(())
    }

    fn sweep(&self) -> Result<()> {
        let ids = self.call(&["list", "-q"])?.ok()?;
        for id in ids.lines() {
            self.call(&["delete", "--force", id])?.ok()?;
        }
        Ok(())
    }

    /// Cgroup directories that carry the mark, on the upper two levels of every hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let below = |dir: &Path| -> Vec<PathBuf> {
            let entries = fs::read_dir(dir).into_iter().flatten().flatten();
            entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
        };
        let top = below(Path::new("/sys/fs/cgroup"));
        let all = top.iter().flat_map(|dir| below(dir)).chain(top.iter().cloned());
        let ours = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.contains(&self.mark)
        };
        all.filter(ours).collect()
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // After a failure, which is what is reported.
        self.sweep().ok();
    }
}

/// Blocks until a process has ended; whoever has to reaps it.
///
/// # Errors
/// It does not within [`PATIENCE`].
pub fn wait_ended(pid: &Value) -> Result<()> {
    let pid = pid.as_i64().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    let pid = pid.context("no number of a process")?;
    let handle = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(handle) => handle,
        // The second is said by kernels up to 6.8 while it is reaped.
        Err(rustix::io::Errno::SRCH | rustix::io::Errno::INVAL) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let limit = Timespec { tv_sec: i64::try_from(PATIENCE.as_secs())?, tv_nsec: 0 };
    let mut ended = [PollFd::new(&handle, PollFlags::IN)];
    ensure!(rustix::event::poll(&mut ended, Some(&limit))? > 0, "process {pid:?} goes on");
    Ok(())
}

/// A root file system with busybox's programs.
///
/// # Errors
/// It cannot be written, or busybox is missing.
pub fn busybox_root(root: &Path) -> Result<()> {
    for dir in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        fs::create_dir_all(root.join(dir))?;
    }
    fs::copy(BUSYBOX, root.join("bin/busybox")).context("copy busybox")?;
    let list = Command::new(BUSYBOX).arg("--list").output().context("run busybox")?;
    for name in String::from_utf8_lossy(&list.stdout).lines().filter(|name| *name != "busybox") {
        symlink("busybox", root.join("bin").join(name))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n")?;
    Ok(())
}

/// Who waits for a terminal's master.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl ConsoleSocket {
    /// Listens at a path.
    ///
    /// # Errors
    /// Something is there.
    pub fn listen(path: PathBuf) -> Result<Self> {
        Ok(Self { listener: UnixListener::bind(&path)?, path })
    }

    /// Its path.
    pub fn path(&self) -> &str {
        self.path.to_str().unwrap_or_default()
    }

    /// The master that somebody sends, with what comes along.
    ///
    /// # Errors
    /// Something else came.
    pub fn master(&self) -> Result<(File, String)> {
        let (socket, _) = self.listener.accept()?;
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let got =
            rustix::net::recvmsg(&socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let file: Option<OwnedFd> = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut files) => files.next(),
            _ => None,
        });
        let name = bytes.get(..got.bytes).unwrap_or_default();
        let file = file.context("no file came")?;
        Ok((file.into(), String::from_utf8_lossy(name).into_owned()))
    }
}

/// Writes a script that is executed on the host: a hook.
///
/// # Errors
/// It cannot be written.
pub fn script(path: &Path, body: &str) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file =
        File::options().write(true).create(true).truncate(true).mode(0o755).open(path)?;
    file.write_all(format!("#!/bin/sh\n{body}\n").as_bytes())?;
    Ok(())
}

/// Makes a fresh `config.json` in `dir` one for a shell that runs `command`, changed by `change`.
///
/// # Errors
/// The file cannot be read, is no JSON, or cannot be written.
pub fn adapt_spec(dir: &Path, command: &str, change: impl FnOnce(&mut Value)) -> Result<()> {
    let path = dir.join("config.json");
    let mut spec: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["/bin/sh", "-c", command]);
    change(&mut spec);
    fs::write(&path, spec.to_string()).with_context(|| path.display().to_string())
}
