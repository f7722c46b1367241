//! A file system whose server stops answering when it is told to, as a network mount's does. What
//! it has taken and does not answer waits in the kernel where no signal reaches.
//!
//! It has directories only: its root, and in it every name that is asked for.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

/// `linux/fuse.h`
mod opcode {
    pub(super) const LOOKUP: u32 = 1;
    pub(super) const FORGET: u32 = 2;
    pub(super) const GETATTR: u32 = 3;
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
    hangs: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
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
        let hangs = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&hangs);
        // From here on it is unmounted whatever happens.
        let mut fuse = Self { dir: dir.to_owned(), hangs, server: None };
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
        self.hangs.store(true, Ordering::SeqCst);
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

fn serve(device: &OwnedFd, hangs: &AtomicBool) {
    // The kernel wants room for the largest request it may have.
    let mut buffer = vec![0; 256 << 10];
    loop {
        let length = match rustix::io::read(device, &mut buffer) {
            Ok(length) => length,
            Err(Errno::INTR | Errno::NOENT | Errno::AGAIN) => continue,
            // ENODEV: unmounted.
            Err(_) => return,
        };
        let Some(request) = buffer.get(..length) else { return };
        let number = |at: usize| request.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let (Some(opcode), Some(unique)) = (number(4), request.get(8..16)) else { return };
        let node = number(16).unwrap_or_default();
        if hangs.load(Ordering::SeqCst) {
            continue;
        }
        let Some(answer) = answer(opcode, node) else { continue };
        let (error, body) = match answer {
            Ok(body) => (0_i32, body),
            Err(errno) => (-errno.raw_os_error(), Vec::new()),
        };
        let mut reply = u32::try_from(16 + body.len()).unwrap_or_default().to_le_bytes().to_vec();
        reply.extend(error.to_le_bytes());
        reply.extend(unique);
        reply.extend(body);
        // ENOENT: who asked has been interrupted.
        rustix::io::write(device.as_fd(), &reply).ok();
    }
}

/// `None`: it wants none.
fn answer(opcode: u32, node: u32) -> Option<Result<Vec<u8>, Errno>> {
    let mut out = Body::default();
    match opcode {
        opcode::FORGET | opcode::BATCH_FORGET | opcode::INTERRUPT => return None,
        // Version 7.31, 16 requests in the background.
        opcode::INIT => {
            out.u32(&[7, 31, 65_536, 0, 16 | 12 << 16, 65_536, 1, 0]).u32(&[0; 8]);
        }
        // Nothing is remembered: each use asks again.
        opcode::LOOKUP => {
            out.u64(&[2, 0, 0, 0]).u32(&[0, 0]).directory(2);
        }
        opcode::GETATTR => {
            out.u64(&[0]).u32(&[0, 0]).directory(node);
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
    fn directory(&mut self, node: u32) -> &mut Self {
        self.u64(&[u64::from(node), 0, 0, 0, 0, 0]).u32(&[0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0])
    }
}
