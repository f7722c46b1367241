//! Which functions a program runs, and in which order it first does: a breakpoint at the beginning of
//! each, taken away when it is hit. So nothing is measured but what really ran, and what ran often costs no
//! more than what ran once.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use sys::ptrace::{self, Change};

use crate::elf::Function;

/// `int3`.
const BREAKPOINT: u8 = 0xcc;
const SIGTRAP: i32 = 5;
const ESRCH: i32 = 3;

/// Looks on while commands run, and whatever they start.
pub(super) struct Tracer {
    program: PathBuf,
    /// By address.
    functions: Vec<Function>,
    /// What stands at the beginning of each; empty until the program has run.
    beginnings: Vec<u8>,
    /// Functions that ran, in the order in which they first did.
    used: Vec<usize>,
    is_used: Vec<bool>,
    /// Where the program lies in processes that run it; by thread.
    loaded: HashMap<i32, u64>,
}

impl Tracer {
    /// Of `program`, which has these functions. Only what is run by this very path is looked at.
    pub(super) fn new(program: &Path, mut functions: Vec<Function>) -> Self {
        functions.sort_by_key(|function| function.address);
        functions.dedup_by_key(|function| function.address);
        let is_used = vec![false; functions.len()];
        let program = program.to_owned();
        let (beginnings, used, loaded) = (Vec::new(), Vec::new(), HashMap::new());
        Self { program, functions, beginnings, used, is_used, loaded }
    }

    /// Symbols of what ran, in the order in which it first did.
    pub(super) fn used(&self) -> impl Iterator<Item = &str> {
        self.used.iter().filter_map(|index| Some(self.functions.get(*index)?.name.as_str()))
    }

    /// Runs a command to its end and looks at everything below it that is the program. Blocks. Who is
    /// traced dies with us.
    pub(super) fn run(&mut self, command: &Command) -> Result<()> {
        // It becomes the command when it is traced and told to: then its input ends.
        let mut waiting = Command::new("sh");
        waiting.args(["-c", "read -r go && exec \"$@\"", "sh"]).stdin(Stdio::piped());
        waiting.arg(command.get_program()).args(command.get_args());
        waiting.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        if let Some(dir) = command.get_current_dir() {
            waiting.current_dir(dir);
        }
        let mut child = waiting.spawn().with_context(|| format!("start {command:?}"))?;
        let root = i32::try_from(child.id())?;
        ptrace::seize(root).context("trace the command")?;
        let mut input = child.stdin.take().context("the command has no input")?;
        input.write_all(b"\n").context("let the command go on")?;
        drop(input);
        let code = self.look_on(root)?;
        ensure!(code == 0, "{command:?} ended with code {code}");
        Ok(())
    }

    /// Until all that is traced has ended; the exit code of `root`.
    fn look_on(&mut self, root: i32) -> Result<i32> {
        let mut ended = None;
        while let Some(change) = ptrace::wait().context("wait for what is traced")? {
            match change {
                Change::Exited { pid, code } | Change::Killed { pid, signal: code } => {
                    self.loaded.remove(&pid);
                    ended = ended.or_else(|| (pid == root).then_some(code));
                }
                Change::Exec { pid } => self.exec(pid)?,
                Change::Signal { pid, signal: SIGTRAP } => self.trap(pid)?,
                Change::Signal { pid, signal } => go_on(pid, signal)?,
                Change::Other { pid } => go_on(pid, 0)?,
            }
        }
        ended.context("the command was lost")
    }

    /// A process has become another program.
    fn exec(&mut self, pid: i32) -> Result<()> {
        let was_below = self.loaded.remove(&pid).is_some() || self.runs_in(parent(pid)?);
        if was_below {
            // What the program starts is no part of it.
            return or_gone(ptrace::let_go(pid)).context("let a process go");
        }
        if self.is_daemon(pid) {
            self.mark(pid).with_context(|| format!("mark the functions of process {pid}"))?;
        }
        go_on(pid, 0)
    }

    /// The same program is a command line and an OCI runtime too.
    fn is_daemon(&self, pid: i32) -> bool {
        let exe = fs::read_link(format!("/proc/{pid}/exe"));
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        exe.is_ok_and(|exe| exe == self.program) && serves(&arguments)
    }

    fn runs_in(&self, pid: i32) -> bool {
        self.loaded.contains_key(&pid)
    }

    /// Puts a breakpoint at the beginning of each function.
    fn mark(&mut self, pid: i32) -> Result<()> {
        let base = self.base(pid)?;
        let memory = memory(pid)?;
        if self.beginnings.is_empty() {
            let beginning = |function: &Function| read(&memory, base + function.address);
            self.beginnings = self.functions.iter().map(beginning).collect::<Result<_>>()?;
        }
        for function in &self.functions {
            write(&memory, base + function.address, BREAKPOINT)?;
        }
        self.loaded.insert(pid, base);
        Ok(())
    }

    /// A function has begun, or somebody means something else.
    fn trap(&mut self, pid: i32) -> Result<()> {
        let Some(after) = or_gone(ptrace::instruction(pid).map(Some))? else { return Ok(()) };
        // A thread, or a child that has not become another program yet, lies where its maker does.
        let base = match self.loaded.get(&pid) {
            Some(base) => *base,
            None => {
                let base = self.base(pid)?;
                self.loaded.insert(pid, base);
                base
            }
        };
        let at = after - 1;
        let place = at.checked_sub(base);
        let found = place.map(|place| self.functions.binary_search_by_key(&place, |f| f.address));
        let Some(Ok(index)) = found else { return go_on(pid, SIGTRAP) };
        if let Some(is_used) = self.is_used.get_mut(index)
            && !std::mem::replace(is_used, true)
        {
            self.used.push(index);
        }
        let beginning = self.beginnings.get(index).context("a function without a beginning")?;
        write(&memory(pid)?, at, *beginning)?;
        or_gone(ptrace::set_instruction(pid, at))?;
        go_on(pid, 0)
    }

    /// From where the program is loaded in this process.
    fn base(&self, pid: i32) -> Result<u64> {
        let path = format!("/proc/{pid}/maps");
        let maps = fs::read_to_string(&path).with_context(|| path.clone())?;
        let program = self.program.to_str().context("the program's path is not UTF-8")?;
        base(&maps, program).with_context(|| format!("{path}: the program is not there"))
    }
}

/// Whether these arguments, each with its 0, make a daemon of the program.
fn serves(arguments: &[u8]) -> bool {
    arguments.split(|byte| *byte == 0).nth(1) == Some(b"serve")
}

/// The first address at which a program is mapped.
fn base(maps: &str, program: &str) -> Option<u64> {
    let line = maps.lines().find(|line| line.ends_with(program))?;
    u64::from_str_radix(line.split('-').next()?, 16).ok()
}

fn go_on(pid: i32, signal: i32) -> Result<()> {
    or_gone(ptrace::go_on(pid, signal)).context("let a process go on")
}

/// Somebody may kill at any time what we look at.
fn or_gone<T: Default>(done: io::Result<T>) -> Result<T> {
    match done {
        Err(error) if error.raw_os_error() == Some(ESRCH) => Ok(T::default()),
        done => Ok(done?),
    }
}

fn parent(pid: i32) -> Result<i32> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).with_context(|| path.clone())?;
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    Ok(parent.context("nobody's child")?.trim().parse()?)
}

fn memory(pid: i32) -> Result<File> {
    let path = format!("/proc/{pid}/mem");
    File::options().read(true).write(true).open(&path).with_context(|| path)
}

fn read(memory: &File, at: u64) -> Result<u8> {
    let mut byte = [0];
    memory.read_exact_at(&mut byte, at).with_context(|| format!("read at {at:#x}"))?;
    let [byte] = byte;
    Ok(byte)
}

fn write(memory: &File, at: u64, byte: u8) -> Result<()> {
    memory.write_all_at(&[byte], at).with_context(|| format!("write at {at:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_daemon_is_looked_at() {
        assert!(serves(b"/t/dist/knarr\0serve\0--root\0/r\0"));
        assert!(!serves(b"/t/dist/knarr\0oci\0run\0serve\0"));
        assert!(!serves(b"/t/dist/knarr\0"));
    }

    #[test]
    fn the_first_mapping_is_the_base() {
        let maps = "7f00-7f10 r--p 00000000 08:01 1  /usr/lib/libc.so.6\n\
            55d0c0000000-55d0c0100000 r--p 00000000 08:01 2  /t/dist/knarr\n\
            55d0c0100000-55d0c0200000 r-xp 00100000 08:01 2  /t/dist/knarr\n";
        assert_eq!(base(maps, "/t/dist/knarr"), Some(0x55d0_c000_0000));
        assert_eq!(base(maps, "/t/dist/other"), None);
    }
}
