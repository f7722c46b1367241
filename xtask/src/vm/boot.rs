//! One running machine: qemu, its console, and how long it may take.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const KERNEL_ARGS: &str = "console=ttyS0 quiet panic=-1 no_timer_check";
/// Bytes that the serial port takes before the machine does.
const SERIAL_QUEUE: usize = 16;
/// No machine has less in its memory, bytes.
const SAVED_MIN: u64 = 16 << 20;

/// What happens to a machine.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// It said so on its console.
    Line(String),
    /// Its power is to be cut.
    Cut,
    /// It is off.
    Off,
}

/// What a machine is made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Board<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initrd: &'a Path,
    pub(super) kernel_args: &'a str,
    pub(super) memory_mib: u32,
    pub(super) disk: Option<Disk<'a>>,
    /// A reboot begins it again instead of ending it.
    pub(super) reboots: bool,
    /// Goes on from what [`Machine::save`] wrote, instead of booting.
    pub(super) saved: Option<&'a Path>,
    /// Where it can be told to be saved.
    pub(super) monitor: Option<&'a Path>,
    pub(super) time_limit: Duration,
    /// Its console is not shown.
    pub(super) quiet: bool,
}

/// A machine's disk.
#[derive(Debug, Clone, Copy)]
pub(super) enum Disk<'a> {
    /// A network block device, by its socket.
    Socket(&'a Path),
    /// A file.
    File(&'a Path),
}

/// A machine that is switched on. Killed when dropped.
#[derive(Debug)]
pub(super) struct Machine {
    qemu: Child,
    keyboard: ChildStdin,
    events: Receiver<Event>,
    post: Sender<Event>,
    deadline: Instant,
    limit: Duration,
    quiet: bool,
}

impl Machine {
    pub(super) fn start(board: &Board<'_>) -> Result<Self> {
        let mut command = Command::new("qemu-system-x86_64");
        command
            .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2"])
            .args(["-m", &board.memory_mib.to_string(), "-nic", "none"])
            .args(["-display", "none", "-serial", "stdio"])
            .arg("-kernel")
            .arg(board.kernel)
            .arg("-initrd")
            .arg(board.initrd)
            // The check counts ticks of the timer within some of its periods, and on a busy host an
            // emulated machine misses them; then it panics.
            .args(["-append", &format!("{KERNEL_ARGS} {}", board.kernel_args)]);
        match board.disk {
            Some(Disk::Socket(socket)) => {
                let disk = format!("file=nbd+unix:///?socket={}", socket.display());
                command.args(["-drive", &format!("{disk},format=raw,if=virtio,cache=none")]);
            }
            Some(Disk::File(path)) => {
                let disk = format!("file={},format=raw,if=virtio,cache=unsafe", path.display());
                command.args(["-drive", &disk]);
            }
            None => {}
        }
        if !board.reboots {
            command.arg("-no-reboot");
        }
        if let Some(saved) = board.saved {
            command.args(["-incoming", &format!("exec:cat '{}'", saved.display())]);
        }
        match board.monitor {
            Some(path) => {
                command.args(["-monitor", &format!("unix:{},server=on,wait=off", path.display())])
            }
            None => command.args(["-monitor", "none"]),
        };
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut qemu = command.spawn().context("start qemu-system-x86_64")?;
        let (keyboard, console) = (qemu.stdin.take(), qemu.stdout.take());
        let (post, events) = channel();
        let mut machine = Self {
            qemu,
            keyboard: keyboard.context("the keyboard")?,
            events,
            post: post.clone(),
            deadline: Instant::now() + board.time_limit,
            limit: board.time_limit,
            quiet: board.quiet,
        };
        let console = BufReader::new(console.context("the console")?);
        if board.saved.is_some() {
            // What the serial port takes before the state is loaded is overwritten by it: its queue
            // has sixteen bytes. The guest passes over empty lines.
            machine.type_in(&"\n".repeat(4 * SERIAL_QUEUE))?;
        }
        // Ends with the machine.
        std::thread::Builder::new().name("console".to_owned()).spawn(move || {
            for line in console.split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if post.send(Event::Line(line)).is_err() {
                    return;
                }
            }
            drop(post.send(Event::Off));
        })?;
        Ok(machine)
    }

    /// For events that others know of.
    pub(super) fn post(&self) -> Sender<Event> {
        self.post.clone()
    }

    /// Waits for what happens next; the console's lines are shown as they come, unless it is quiet.
    pub(super) fn next(&self) -> Result<Event> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.events.recv_timeout(left) {
            Ok(Event::Line(line)) => {
                if !self.quiet {
                    println!("    {line}");
                    std::io::stdout().flush().context("standard output")?;
                }
                Ok(Event::Line(line))
            }
            Ok(event) => Ok(event),
            Err(RecvTimeoutError::Disconnected) => Ok(Event::Off),
            Err(RecvTimeoutError::Timeout) => {
                bail!("the machine did not end within {} s", self.limit.as_secs())
            }
        }
    }

    /// Types a line.
    pub(super) fn type_in(&mut self, line: &str) -> Result<()> {
        self.keyboard.write_all(format!("{line}\n").as_bytes()).context("the machine's keyboard")
    }

    /// Writes all it has in its memory and processors to a file and ends it.
    pub(super) fn save(&mut self, monitor: &Path, to: &Path) -> Result<()> {
        let mut monitor = UnixStream::connect(monitor).context("the machine's monitor")?;
        // Each waits for the one before. The machine runs on meanwhile: saved standing it would
        // stand when it is to go on.
        let text = format!(
            "migrate_set_parameter max-bandwidth 16G\nmigrate \"exec:cat >'{}'\"\nquit\n",
            to.display()
        );
        monitor.write_all(text.as_bytes()).context("the machine's monitor")?;
        let mut said = String::new();
        // It ends with the machine.
        monitor.read_to_string(&mut said).context("the machine's monitor")?;
        let ended = self.qemu.wait().context("wait for qemu-system-x86_64")?;
        let saved = fs::metadata(to).map_or(0, |file| file.len());
        ensure!(ended.success() && saved > SAVED_MIN, "the machine was not saved: {ended}: {said}");
        Ok(())
    }

    /// Takes its power away, if it is not off already.
    pub(super) fn cut(&mut self) -> Result<()> {
        self.qemu.kill().context("kill qemu-system-x86_64")?;
        self.qemu.wait().context("wait for qemu-system-x86_64")?;
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}
