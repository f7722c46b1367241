//! A volatile disk as a file on this machine: a loop device on it is a disk that the kernel's file
//! systems can be tried with, without a virtual machine. The file is in a FUSE file system of its
//! own (`linux/fuse.h`), because FUSE passes writes and fsyncs on one by one.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::io::Errno;

use super::disk::{Ended, VolatileDisk};

const FILE: &str = "disk";
const ROOT_NODE: u64 = 1;
const FILE_NODE: u64 = 2;
/// Longest write in one request, bytes.
const WRITE_MAX: usize = 128 << 10;
const HEADER: usize = 40;

/// A mount namespace that goes with this process, and with it all that is mounted there. This process
/// is not in it: one that serves a file system and is the last in a namespace would wait for itself
/// for ever when it ends.
#[derive(Debug)]
pub struct Namespace {
    holder: Child,
}

impl Namespace {
    /// # Errors
    /// `unshare` cannot be run, or is not allowed to.
    pub fn new() -> Result<Self> {
        let mut unshare = Command::new("unshare");
        unshare.args(["--mount", "--propagation", "private", "cat"]);
        let mut holder = unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        // It echoes once it is where it should be, and ends when its input does.
        if let Some(stdin) = &mut holder.stdin {
            stdin.write_all(b"\n")?;
        }
        let mut echo = [0; 1];
        let echoed = holder.stdout.as_mut().map(|stdout| stdout.read_exact(&mut echo));
        let namespace = Self { holder };
        echoed.context("the namespace's output")?.context("make a mount namespace")?;
        Ok(namespace)
    }

    /// Runs a program there.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id())).arg("--").arg(program);
        command
    }

    fn run(&self, program: &str, arguments: &[&OsStr], stdin: Stdio) -> Result<()> {
        let mut command = self.command(program);
        let ended = command.args(arguments).stdin(stdin).output()?;
        let said = String::from_utf8_lossy(&ended.stderr);
        ensure!(ended.status.success(), "{program}: {}: {said}", ended.status);
        Ok(())
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

/// The disk while it is a file.
#[derive(Debug)]
pub struct Mounted<'n> {
    namespace: &'n Namespace,
    dir: PathBuf,
    server: Option<JoinHandle<io::Result<(VolatileDisk, Ended)>>>,
}

impl<'n> Mounted<'n> {
    /// Makes `disk` a file in `dir`. At the write request number `cut_at` its power goes: that and
    /// whatever follows fails, and `on_cut` is called.
    ///
    /// # Errors
    /// FUSE is not there, or not allowed.
    pub fn new(
        mut disk: VolatileDisk,
        (namespace, dir): (&'n Namespace, &Path),
        cut_at: u64,
        on_cut: impl FnOnce() + Send + 'static,
    ) -> Result<Self> {
        let device = File::options().read(true).write(true).open("/dev/fuse")?;
        let options = "fd=0,rootmode=40000,user_id=0,group_id=0";
        let words = ["-i", "-t", "fuse", "-o", options, "volatile-disk"].map(OsStr::new);
        let arguments: Vec<&OsStr> = words.into_iter().chain([dir.as_os_str()]).collect();
        namespace.run("mount", &arguments, device.try_clone()?.into())?;
        disk.switched_on();
        let server = Server { device, disk, cut_at, on_cut: Some(on_cut), is_cut: false };
        let thread = std::thread::Builder::new().name("volatile-disk".to_owned());
        let server = thread.spawn(move || server.run()).context("start the disk's thread")?;
        Ok(Self { namespace, dir: dir.to_owned(), server: Some(server) })
    }

    /// Where the file is.
    pub fn file(&self) -> PathBuf {
        self.dir.join(FILE)
    }

    /// Takes the file away once nobody has it open, and gives the disk back.
    ///
    /// # Errors
    /// The file system cannot be unmounted, or serving it failed.
    pub fn finish(mut self) -> Result<(VolatileDisk, Ended)> {
        let server = self.server.take().context("it is finished already")?;
        self.namespace.run(
            "umount",
            &[OsStr::new("--lazy"), self.dir.as_os_str()],
            Stdio::null(),
        )?;
        let served = server.join().map_err(|_| anyhow!("the disk's thread panicked"))?;
        served.context("serve the disk")
    }
}

struct Server<F> {
    device: File,
    disk: VolatileDisk,
    cut_at: u64,
    on_cut: Option<F>,
    is_cut: bool,
}

/// What one request brings.
enum Reply {
    Data(Vec<u8>),
    Error(Errno),
    None,
}

impl<F: FnOnce()> Server<F> {
    fn run(mut self) -> io::Result<(VolatileDisk, Ended)> {
        let mut buffer = vec![0; WRITE_MAX + 8192];
        loop {
            let length = match self.device.read(&mut buffer) {
                Ok(length) => length,
                Err(error) => match Errno::from_io_error(&error) {
                    // Who asked does not wait any longer.
                    Some(Errno::NOENT | Errno::INTR | Errno::AGAIN) => continue,
                    // It is unmounted.
                    Some(Errno::NODEV) => {
                        let ended = if self.is_cut { Ended::Cut } else { Ended::Closed };
                        return Ok((self.disk, ended));
                    }
                    Some(_) | None => return Err(error),
                },
            };
            let request = Request(&buffer[..length]);
            let (data, error) = match self.answer(&request) {
                Reply::Data(data) => (data, 0),
                Reply::Error(error) => (Vec::new(), -error.raw_os_error()),
                Reply::None => continue,
            };
            let mut reply = Out::default();
            reply.u32(u32::try_from(16 + data.len()).map_err(io::Error::other)?);
            reply.0.extend_from_slice(&error.to_ne_bytes());
            reply.u64(request.u64(8));
            reply.0.extend_from_slice(&data);
            match self.device.write_all(&reply.0) {
                // Who asked does not wait any longer.
                Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => {}
                written => written?,
            }
        }
    }

    fn answer(&mut self, request: &Request<'_>) -> Reply {
        match request.u32(4) {
            // FORGET, INTERRUPT, BATCH_FORGET
            2 | 36 | 42 => Reply::None,
            // LOOKUP
            1 if request.bytes(HEADER) == b"disk\0" => {
                let mut out = Out::default();
                out.u64s(&[FILE_NODE, 0, FOR_EVER, FOR_EVER, 0]);
                self.attributes(&mut out, FILE_NODE);
                Reply::Data(out.0)
            }
            1 => Reply::Error(Errno::NOENT),
            // GETATTR, SETATTR
            3 | 4 => {
                let mut out = Out::default();
                out.u64s(&[FOR_EVER, 0]);
                self.attributes(&mut out, request.u64(16));
                Reply::Data(out.0)
            }
            // OPEN, OPENDIR
            14 | 27 => Reply::Data(vec![0; 16]),
            15 => self.read(request),
            16 => self.write(request),
            // STATFS
            17 => Reply::Data(vec![0; 80]),
            // FSYNC
            20 if self.is_cut => Reply::Error(Errno::IO),
            20 => {
                self.disk.flush();
                Reply::Data(Vec::new())
            }
            // RELEASE, FLUSH, RELEASEDIR, DESTROY
            18 | 25 | 29 | 38 => Reply::Data(Vec::new()),
            26 => init(request),
            _ => Reply::Error(Errno::NOSYS),
        }
    }

    fn read(&mut self, request: &Request<'_>) -> Reply {
        let (offset, length) = (request.u64(HEADER + 8), request.u32(HEADER + 16));
        let left = self.disk.size().saturating_sub(offset).min(length.into());
        let mut data = vec![0; usize::try_from(left).unwrap_or_default()];
        match self.disk.read(offset, &mut data) {
            Ok(()) if !self.is_cut => Reply::Data(data),
            Ok(()) | Err(_) => Reply::Error(Errno::IO),
        }
    }

    fn write(&mut self, request: &Request<'_>) -> Reply {
        if !self.is_cut && self.disk.count() >= self.cut_at {
            self.is_cut = true;
            if let Some(on_cut) = self.on_cut.take() {
                on_cut();
            }
        }
        if self.is_cut {
            return Reply::Error(Errno::IO);
        }
        let data = request.bytes(HEADER + 40);
        match self.disk.write(request.u64(HEADER + 8), data, false) {
            Ok(()) => {
                let mut out = Out::default();
                out.u32(u32::try_from(data.len()).unwrap_or_default());
                out.u32(0);
                Reply::Data(out.0)
            }
            Err(_) => Reply::Error(Errno::IO),
        }
    }

    /// `struct fuse_attr`.
    fn attributes(&self, out: &mut Out, node: u64) {
        let (size, mode) =
            if node == ROOT_NODE { (0, 0o040_700) } else { (self.disk.size(), 0o100_600) };
        out.u64s(&[node, size, size / 512, 0, 0, 0]);
        let links = 1;
        for word in [0, 0, 0, mode, links, 0, 0, 0, 4096, 0] {
            out.u32(word);
        }
    }
}

/// Seconds that the kernel may believe an answer.
const FOR_EVER: u64 = 1 << 30;

/// `struct fuse_init_out` of version 7.31; the flags are `FUSE_BIG_WRITES` and `FUSE_MAX_PAGES`.
fn init(request: &Request<'_>) -> Reply {
    let mut out = Out::default();
    for word in [7, 31, request.u32(HEADER + 8), 1 << 5 | 1 << 22] {
        out.u32(word);
    }
    // Most requests at once, and how many are many.
    out.0.extend_from_slice(&16_u16.to_ne_bytes());
    out.0.extend_from_slice(&12_u16.to_ne_bytes());
    out.u32(u32::try_from(WRITE_MAX).unwrap_or_default());
    out.u32(1);
    let pages = u16::try_from(WRITE_MAX / 4096).unwrap_or_default();
    out.0.extend_from_slice(&pages.to_ne_bytes());
    out.0.resize(64, 0);
    Reply::Data(out.0)
}

struct Request<'a>(&'a [u8]);

impl Request<'_> {
    fn bytes(&self, at: usize) -> &[u8] {
        self.0.get(at..).unwrap_or_default()
    }

    fn u32(&self, at: usize) -> u32 {
        self.bytes(at).first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }

    fn u64(&self, at: usize) -> u64 {
        self.bytes(at).first_chunk().map_or(0, |bytes| u64::from_ne_bytes(*bytes))
    }
}

#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn u32(&mut self, word: u32) {
        self.0.extend_from_slice(&word.to_ne_bytes());
    }

    fn u64(&mut self, word: u64) {
        self.0.extend_from_slice(&word.to_ne_bytes());
    }

    fn u64s(&mut self, words: &[u64]) {
        words.iter().for_each(|word| self.u64(*word));
    }
}
