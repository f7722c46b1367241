//! A file system whose server stops answering when it is told to, as a network mount's does. What
//! it has taken and does not answer waits in the kernel where no signal reaches.
//!
//! Every name that is asked for is there: a file where it ends in `.log`, and a directory otherwise.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// `linux/fuse.h`
mod opcode {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
    pub(super) const READ: u32 = 15;
    pub(super) const WRITE: u32 = 16;
    pub(super) const STATFS: u32 = 17;
    pub(super) const RELEASE: u32 = 18;
    pub(super) const FLUSH: u32 = 25;
    pub(super) const INIT: u32 = 26;
    pub(super) const OPENDIR: u32 = 27;
    pub(super) const READDIR: u32 = 28;
    pub(super) const RELEASEDIR: u32 = 29;
    pub(super) const INTERRUPT: u32 = 36;
    pub(super) const BATCH_FORGET: u32 = 42;
}

/// The file system, mounted until it is dropped; whoever waits then gets an error.
#[derive(Debug)]
pub struct Fuse {
    dir: PathBuf,
    moods: Arc<Moods>,
    server: Option<JoinHandle<()>>,
}

/// What the server was told, and what it has not answered because of that.
#[derive(Debug, Default)]
struct Moods {
    now: Mutex<Mood>,
    asked: Condvar,
}

#[derive(Debug, Default)]
struct Mood {
    hangs: bool,
    waiting: Vec<Vec<u8>>,
}

impl Moods {
    fn now(&self) -> MutexGuard<'_, Mood> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fuse {
    /// Mounts it at a new directory.
    ///
    /// # Errors
    /// The kernel's.
    pub fn mount(dir: &Path) -> Result<Self> {
        std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = rustix::fs::open("/dev/fuse", flags, Mode::empty()).context("/dev/fuse")?;
        let options =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let options = std::ffi::CString::new(options)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("knarr-test", dir, "fuse", flags, options.as_c_str())
            .context("mount a file system in user space")?;
        let moods = Arc::new(Moods::default());
        let told = Arc::clone(&moods);
        // From here on it is unmounted whatever happens.
        let mut fuse = Self { dir: dir.to_owned(), moods, server: None };
        let server = std::thread::Builder::new().name("fuse".into());
        fuse.server = Some(server.spawn(move || serve(&device, &told)).context("serve it")?);
        Ok(fuse)
    }

    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// From now on it takes questions and answers none.
    pub fn hang(&self) {
        self.moods.now().hangs = true;
    }

    /// Blocks until somebody waits for an answer to a question of this kind: `true`, to change a file.
    ///
    /// # Errors
    /// Nobody does within `limit`.
    pub fn await_victim(&self, writes: bool, limit: Duration) -> Result<()> {
        let kind = |request: &Vec<u8>| {
            number(request, 4).is_some_and(|opcode| !writes || opcode == opcode::WRITE)
        };
        let nobody = |mood: &mut Mood| !mood.waiting.iter().any(kind);
        let waited = self.moods.asked.wait_timeout_while(self.moods.now(), limit, nobody);
        let late = waited.unwrap_or_else(PoisonError::into_inner).1.timed_out();
        ensure!(!late, "nobody asks the file system that hangs");
        Ok(())
    }

    /// The threads that wait for an answer, each by its number on the host.
    pub fn victims(&self) -> BTreeSet<u32> {
        // What wants no answer comes from nobody.
        self.moods.now().waiting.iter().filter_map(|request| number(request, ASKER)).collect()
    }

    /// It answers everything, also what it was asked meanwhile.
    ///
    /// # Errors
    /// It cannot be asked.
    pub fn resume(&self) -> Result<()> {
        self.moods.now().hangs = false;
        // The server waits for a question.
        rustix::fs::statfs(&self.dir).map(drop).context("ask the file system")
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // With force the connection is cut, also for those that have it mounted elsewhere.
        let flags = UnmountFlags::FORCE | UnmountFlags::DETACH;
        if let Err(error) = rustix::mount::unmount(&self.dir, flags) {
            eprintln!("{} stays mounted: {error}", self.dir.display());
            return;
        }
        if let Some(server) = self.server.take() {
            server.join().ok();
        }
    }
}

fn number(request: &[u8], at: usize) -> Option<u32> {
    request.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

fn serve(device: &OwnedFd, moods: &Moods) {
    // The kernel wants room for the largest request it may have.
    let mut buffer = vec![0; 256 << 10];
    let mut files = Files::default();
    loop {
        let length = match rustix::io::read(device, &mut buffer) {
            Ok(length) => length,
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => continue,
            // ENODEV: unmounted.
            Err(_) => return,
        };
        let Some(request) = buffer.get(..length) else { return };
        let mut mood = moods.now();
        mood.waiting.push(request.to_owned());
        if mood.hangs {
            moods.asked.notify_all();
            continue;
        }
        let requests = std::mem::take(&mut mood.waiting);
        drop(mood);
        for request in requests {
            let Some(reply) = files.reply(&request) else { continue };
            // ENOENT: who asked has been interrupted.
            rustix::io::write(device.as_fd(), &reply).ok();
        }
    }
}

/// What has been asked for, numbered from behind the root on.
#[derive(Default)]
struct Files(Vec<File>);

struct File {
    parent: usize,
    name: Vec<u8>,
    /// None: of a directory.
    content: Option<Vec<u8>>,
}

const FIRST: usize = 2;
/// Where the number of the thread that asks lies in a request.
const ASKER: usize = 32;
/// Where what a request has to say begins.
const HEADER: usize = 40;
/// Where the bytes of a write begin.
const WRITTEN: usize = HEADER + 40;

impl Files {
    fn reply(&mut self, request: &[u8]) -> Option<Vec<u8>> {
        let (error, body) = match self.answer(number(request, 4)?, request)? {
            Ok(body) => (0_i32, body),
            Err(errno) => (-errno.raw_os_error(), Vec::new()),
        };
        let mut reply = u32::try_from(16 + body.len()).unwrap_or_default().to_le_bytes().to_vec();
        reply.extend(error.to_le_bytes());
        reply.extend(request.get(8..16)?);
        reply.extend(body);
        Some(reply)
    }

    /// The number of what has this name there.
    fn find(&mut self, parent: usize, name: &[u8]) -> usize {
        let is_it = |file: &File| file.parent == parent && file.name == name;
        let index = self.0.iter().position(is_it).unwrap_or_else(|| {
            let content = name.ends_with(b".log").then(Vec::new);
            self.0.push(File { parent, name: name.to_owned(), content });
            self.0.len() - 1
        });
        FIRST + index
    }

    fn content(&mut self, node: usize) -> Option<&mut Vec<u8>> {
        self.0.get_mut(node.checked_sub(FIRST)?)?.content.as_mut()
    }

    /// `None`: it wants none.
    fn answer(&mut self, opcode: u32, request: &[u8]) -> Option<Result<Vec<u8>, Errno>> {
        let mut out = Body::default();
        let at = |at: usize| number(request, at).unwrap_or_default() as usize;
        let node = at(16);
        match opcode {
            opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => return None,
            // Version 7.31, 16 requests in the background.
            opcode::INIT => {
                out.u32(&[7, 31, 65_536, 0, 16 | 12 << 16, 65_536, 1, 0]).u32(&[0; 8]);
            }
            // Nothing is remembered: each use asks again.
            opcode::LOOKUP => {
                let name = request.get(HEADER..).unwrap_or_default().strip_suffix(b"\0");
                let node = self.find(node, name.unwrap_or_default());
                out.u64(&[node as u64, 0, 0, 0]).u32(&[0, 0]).attributes(node, self.content(node));
            }
            opcode::GETATTR => {
                out.u64(&[0]).u32(&[0, 0]).attributes(node, self.content(node));
            }
            opcode::WRITE => {
                let bytes = request.get(WRITTEN..).unwrap_or_default();
                let Some(content) = self.content(node) else { return Some(Err(Errno::ISDIR)) };
                content.resize(content.len().max(at(HEADER + 8) + bytes.len()), 0);
                content[at(HEADER + 8)..][..bytes.len()].copy_from_slice(bytes);
                out.u32(&[u32::try_from(bytes.len()).unwrap_or_default(), 0]);
            }
            opcode::READ => {
                let Some(content) = self.content(node) else { return Some(Err(Errno::ISDIR)) };
                let rest = content.get(at(HEADER + 8)..).unwrap_or_default();
                out.0.extend(rest.iter().take(at(HEADER + 16)));
            }
            opcode::OPENDIR => {
                out.u64(&[1]).u32(&[0, 0]);
            }
            opcode::STATFS => {
                out.u64(&[0; 5]).u32(&[4096, 255, 4096, 0]).u32(&[0; 6]);
            }
            opcode::READDIR | opcode::RELEASEDIR | opcode::RELEASE | opcode::FLUSH => {}
            _ => return Some(Err(Errno::NOSYS)),
        }
        Some(Ok(out.0))
    }
}

#[derive(Default)]
struct Body(Vec<u8>);

impl Body {
    fn u32(&mut self, values: &[u32]) -> &mut Self {
        self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    fn u64(&mut self, values: &[u64]) -> &mut Self {
        self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        self
    }

    /// `struct fuse_attr`
    fn attributes(&mut self, node: usize, content: Option<&mut Vec<u8>>) -> &mut Self {
        let (size, mode, links) = match content {
            Some(content) => (content.len() as u64, 0o100_644, 1),
            None => (0, 0o40_755, 2),
        };
        self.u64(&[node as u64, size, 0, 0, 0, 0]).u32(&[0, 0, 0, mode, links, 0, 0, 0, 4096, 0])
    }
}
