//! Running one program of somebody else's: its input in, its output out, within limits.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::process::{Pid, PidfdFlags, Signal};

mod in_time;

/// More output than any answer needs; a program that prints more is broken.
const OUTPUT_CAP: usize = 4 << 20;
/// What is kept of standard error; the rest is read and dropped.
const STDERR_CAP: usize = 16 << 10;

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Finished {
    /// How.
    pub status: ExitStatus,
    /// All of it.
    pub stdout: Vec<u8>,
    /// The beginning of it.
    pub stderr: Vec<u8>,
}

/// Why a program did not end by itself.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It cannot be started or watched.
    #[error("it could not be run")]
    Run(#[source] io::Error),
    /// It was still running and was killed with its children.
    #[error("it was killed after {}s", limit.as_secs_f64())]
    TimedOut {
        /// The time it had.
        limit: Duration,
    },
    /// It, or the start of it, waits in the kernel, where no signal reaches; or it did so when it was run
    /// before, and still does.
    #[error(
        "it does not end, even killed: a file system that it needs does not answer; unmount what is dead"
    )]
    Stuck,
    /// It printed more than any result needs and was killed.
    #[error("it was killed for printing more than {OUTPUT_CAP} bytes")]
    TooMuchOutput,
}

/// Runs `path` with only these environment variables, feeds it `input`, and waits until it has
/// ended. Blocks up to `limit`, and some seconds more for one that does not end when it is killed. The
/// program runs in the calling thread's namespaces.
///
/// # Errors
/// [`ExecError`]; an exit status other than 0 is none.
pub fn run(
    path: &Path,
    arguments: &[&str],
    environment: &[(&str, String)],
    input: &[u8],
    limit: Duration,
) -> Result<Finished, ExecError> {
    let mut command = Command::new(path);
    command.args(arguments).env_clear();
    command.envs(environment.iter().map(|(key, value)| (key, value)));
    finish(command, input, limit)
}

/// As [`run`], with all of this process's environment; a `name` without a slash is looked for along
/// its `PATH`.
///
/// # Errors
/// As [`run`].
pub fn run_inheriting(
    name: &Path,
    arguments: &[&str],
    input: &[u8],
    limit: Duration,
) -> Result<Finished, ExecError> {
    let mut command = Command::new(name);
    command.args(arguments);
    finish(command, input, limit)
}

fn finish(command: Command, input: &[u8], limit: Duration) -> Result<Finished, ExecError> {
    let (program, input) = (PathBuf::from(command.get_program()), input.to_vec());
    in_time::run(&program, limit, move || work(command, &input, limit))
}

fn work(mut command: Command, input: &[u8], limit: Duration) -> Result<Finished, ExecError> {
    let mut child = command
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        // A group of its own, so that whatever it started can be killed with it.
        .process_group(0)
        .spawn()
        .map_err(ExecError::Run)?;
    let outcome = Running::new(&mut child, input).and_then(|mut r| r.pump(Instant::now() + limit));
    let outcome = match outcome {
        Ok(Pumped::Exited(stdout, stderr)) => Ok((stdout, stderr)),
        Ok(Pumped::TimedOut) => Err(ExecError::TimedOut { limit }),
        Ok(Pumped::TooMuch) => Err(ExecError::TooMuchOutput),
        Err(error) => Err(ExecError::Run(error)),
    };
    if outcome.is_err() {
        kill_group(&child);
    }
    let status = child.wait().map_err(ExecError::Run)?;
    let (stdout, stderr) = outcome?;
    Ok(Finished { status, stdout, stderr })
}

fn kill_group(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    // The child is not reaped yet, so its group id still is its own. Failure means it is gone.
    if let Some(pid) = pid {
        let _gone = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}

enum Pumped {
    Exited(Vec<u8>, Vec<u8>),
    TimedOut,
    TooMuch,
}

struct Running<'a> {
    pidfd: OwnedFd,
    stdin: Option<std::process::ChildStdin>,
    input: &'a [u8],
    stdout: Option<std::process::ChildStdout>,
    stderr: Option<std::process::ChildStderr>,
    output: Vec<u8>,
    errors: Vec<u8>,
}

impl<'a> Running<'a> {
    fn new(child: &mut Child, input: &'a [u8]) -> io::Result<Self> {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        let running = Self {
            pidfd: rustix::process::pidfd_open(pid, PidfdFlags::empty())?,
            stdin: child.stdin.take(),
            input,
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            output: Vec::new(),
            errors: Vec::new(),
        };
        running.stdin.as_ref().map(nonblocking).transpose()?;
        running.stdout.as_ref().map(nonblocking).transpose()?;
        running.stderr.as_ref().map(nonblocking).transpose()?;
        Ok(running)
    }

    fn pump(&mut self, deadline: Instant) -> io::Result<Pumped> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Pumped::TimedOut);
            }
            let exited = self.wait(left)?;
            self.feed();
            // Read after looking whether it ended: what it wrote is in the pipes by then, and a
            // background child that still holds them is not waited for.
            drain(&mut self.stdout, &mut self.output, OUTPUT_CAP + 1)?;
            drain(&mut self.stderr, &mut self.errors, STDERR_CAP)?;
            if self.output.len() > OUTPUT_CAP {
                return Ok(Pumped::TooMuch);
            }
            if exited {
                let output = std::mem::take(&mut self.output);
                return Ok(Pumped::Exited(output, std::mem::take(&mut self.errors)));
            }
        }
    }

    /// Waits until something can be done; true when the program has ended.
    fn wait(&self, left: Duration) -> io::Result<bool> {
        let mut fds = vec![PollFd::new(&self.pidfd, PollFlags::IN)];
        fds.extend(self.stdin.as_ref().map(|fd| PollFd::new(fd, PollFlags::OUT)));
        fds.extend(self.stdout.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        fds.extend(self.stderr.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let left = rustix::event::Timespec::try_from(left).ok();
        match rustix::event::poll(&mut fds, left.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(!fds[0].revents().is_empty())
    }

    /// Writes what the pipe takes; a program that does not read its input is no error.
    fn feed(&mut self) {
        while let Some(stdin) = &mut self.stdin {
            match stdin.write(self.input) {
                Ok(written) if written < self.input.len() => self.input = &self.input[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Ok(_) | Err(_) => self.stdin = None,
            }
        }
    }
}

/// Reads what is there, keeping at most `cap` bytes; forgets the pipe at its end. A program
/// that never stops writing gets back to the deadline after a few rounds.
fn drain(pipe: &mut Option<impl Read>, into: &mut Vec<u8>, cap: usize) -> io::Result<()> {
    let mut buffer = [0; 16 << 10];
    for _ in 0..64 {
        let Some(reader) = pipe else { return Ok(()) };
        match reader.read(&mut buffer) {
            Ok(0) => *pipe = None,
            Ok(len) => into.extend_from_slice(&buffer[..len.min(cap.saturating_sub(into.len()))]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/program");

    fn script(body: &str, input: &[u8], limit: Duration) -> Result<Finished, ExecError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("program");
        std::os::unix::fs::symlink(FIXTURE, &path).unwrap();
        std::fs::write(dir.path().join("program.body"), body).unwrap();
        let environment = [("PATH", "/usr/bin:/bin".to_owned()), ("WORD", "ADD".to_owned())];
        run(&path, &[], &environment, input, limit)
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn input_goes_in_and_output_comes_out() {
        let big = vec![b'x'; 300_000];
        let done = script("cat; echo $WORD >&2; exit 3", &big, LONG).unwrap();
        assert_eq!(done.status.code(), Some(3));
        assert_eq!(done.stdout, big);
        assert_eq!(done.stderr, b"ADD\n");
    }

    #[test]
    fn only_the_given_environment_is_passed() {
        let done = script("env", b"", LONG).unwrap();
        let text = String::from_utf8(done.stdout).unwrap();
        assert!(!text.contains("CARGO"), "{text}");
    }

    #[test]
    fn a_bare_name_is_looked_for_and_has_the_whole_environment() {
        let done = run_inheriting(Path::new("env"), &[], b"", LONG).unwrap();
        assert!(String::from_utf8(done.stdout).unwrap().contains("PATH="));
    }

    #[test]
    fn a_program_that_does_not_read_its_input_is_no_error() {
        assert!(script("exit 0", &vec![0; 1 << 20], LONG).unwrap().status.success());
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_its_children() {
        let dir = tempfile::tempdir().unwrap();
        let pid_file = dir.path().join("pid");
        let body = format!("sleep 600 & echo $! > {}; wait", pid_file.display());
        let error = script(&body, b"", Duration::from_secs(1)).unwrap_err();
        assert!(matches!(error, ExecError::TimedOut { .. }), "{error:?}");
        let pid: i32 = std::fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
        // Killed and, with its parent gone, reaped by init or a subreaper: gone or a zombie.
        let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z") || state.contains(") X"), "{state}");
    }

    #[test]
    fn a_background_child_that_keeps_the_pipes_is_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        let body = format!("mkfifo {0}; (read line < {0}) & echo done", fifo.display());
        let done = script(&body, b"", LONG).unwrap();
        assert_eq!(done.stdout, b"done\n");
        std::fs::write(fifo, "go\n").unwrap();
    }

    #[test]
    fn endless_output_is_cut() {
        let error = script("while :; do echo 0123456789012345678901234567890; done", b"", LONG);
        assert!(matches!(error.unwrap_err(), ExecError::TooMuchOutput));
        let done = script("head -c 100000 /dev/zero >&2", b"", LONG).unwrap();
        assert_eq!(done.stderr.len(), STDERR_CAP);
    }

    /// Mounts a file system whose server never answers, until it is unmounted by force; `None` where that is
    /// not to be had.
    fn hung(dir: &Path) -> Option<OwnedFd> {
        use rustix::fs::{Mode, OFlags};
        use std::os::fd::AsRawFd;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let server = rustix::fs::open("/dev/fuse", flags, Mode::empty()).ok()?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("hung", dir, "fuse", flags, options.as_c_str()).ok()?;
        Some(server)
    }

    #[test]
    fn a_program_that_cannot_even_be_started_is_given_up_and_left_alone_until_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let Some(server) = hung(dir.path()) else {
            println!("skipped: needs root and /dev/fuse");
            return;
        };
        let path = dir.path().join("program");
        let tried = || run(&path, &[], &[], b"", Duration::from_millis(10)).unwrap_err();
        assert!(matches!(tried(), ExecError::Stuck));
        // Nobody is sent after the first.
        assert_eq!(in_time::left_by(&path), 1);
        assert!(matches!(tried(), ExecError::Stuck));
        assert_eq!(in_time::left_by(&path), 1);
        // Closing the file alone does not cut it off: the process that is to become the program has a copy.
        let flags = rustix::mount::UnmountFlags::FORCE | rustix::mount::UnmountFlags::DETACH;
        rustix::mount::unmount(dir.path(), flags).unwrap();
        while in_time::left_by(&path) > 0 {
            std::thread::yield_now();
        }
        let error = tried();
        assert!(matches!(error, ExecError::Run(_)), "{error:?}");
        drop(server);
    }

    #[test]
    fn a_file_that_is_no_program_cannot_be_run() {
        let error = run(Path::new("/etc/hostname"), &[], &[], b"", LONG).unwrap_err();
        assert!(matches!(error, ExecError::Run(_)), "{error:?}");
    }
}
