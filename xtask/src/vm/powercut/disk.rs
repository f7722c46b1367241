//! A disk with a volatile write cache: what was not flushed may be lost with the power, block by
//! block. The machine has it as a network block device (the NBD protocol, newstyle, one export).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::random::Random;

/// What the device writes whole or not at all.
const BLOCK: usize = 4096;

const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;

/// Handshake flags: fixed newstyle, no zeroes behind the export's description.
const HANDSHAKE: u16 = 0b11;
/// Transmission flags: there are flags; FLUSH and FUA are understood.
const TRANSMISSION: u16 = 0b1101;

const OPT_ABORT: u32 = 2;
const OPT_INFO: u32 = 6;
const OPT_GO: u32 = 7;
const REP_ACK: u32 = 1;
const REP_INFO: u32 = 3;
const REP_ERR_UNSUPPORTED: u32 = 1 << 31 | 1;

const READ: u16 = 0;
const WRITE: u16 = 1;
const DISCONNECT: u16 = 2;
const FLUSH: u16 = 3;
const FUA: u16 = 1;
const EINVAL: u32 = 22;
const EIO: u32 = 5;

/// No request of the kernel's is near this long.
const LENGTH_MAX: u32 = 64 << 20;
const OPTION_MAX: u32 = 64 << 10;

/// The disk and what it has in its cache.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    size: u64,
    /// What blocks held when they were last flushed, of those written since.
    flushed: BTreeMap<u64, Vec<u8>>,
    /// Write requests since the machine was switched on.
    writes: u64,
}

/// How serving a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// The power failed at the write that was asked for.
    Cut,
    /// The machine went away by itself.
    Closed,
}

/// How much of the cache a power cut takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    All,
    Half,
    Nothing,
}

impl Disk {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().read(true).write(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { file, size, flushed: BTreeMap::new(), writes: 0 })
    }

    pub(super) fn writes(&self) -> u64 {
        self.writes
    }

    /// Serves one machine, until the write for which `is_last` says so.
    pub(super) fn serve(
        &mut self,
        mut machine: UnixStream,
        is_last: impl Fn(u64) -> bool,
    ) -> io::Result<Ended> {
        self.writes = 0;
        if !self.greet(&mut machine)? {
            return Ok(Ended::Closed);
        }
        let mut data = Vec::new();
        loop {
            let request = match Request::read(&mut machine) {
                // A machine that is killed says no goodbye.
                Err(error) if is_gone(&error) => return Ok(Ended::Closed),
                request => request?,
            };
            let mut answer: &[u8] = &[];
            let result = match request.kind {
                READ => {
                    data.resize(request.length, 0);
                    let read = self.inside(&request).and_then(|()| self.read(&request, &mut data));
                    answer = &data;
                    read
                }
                WRITE => {
                    data.resize(request.length, 0);
                    machine.read_exact(&mut data)?;
                    self.writes += 1;
                    if is_last(self.writes) {
                        return Ok(Ended::Cut);
                    }
                    self.inside(&request).and_then(|()| self.write(&request, &data))
                }
                FLUSH => {
                    self.flushed.clear();
                    Ok(())
                }
                DISCONNECT => return Ok(Ended::Closed),
                _ => Err(EINVAL),
            };
            let error = result.err().unwrap_or_default();
            let mut reply = Vec::with_capacity(16 + answer.len());
            reply.extend_from_slice(&REPLY_MAGIC.to_be_bytes());
            reply.extend_from_slice(&error.to_be_bytes());
            reply.extend_from_slice(&request.handle);
            reply.extend_from_slice(if error == 0 { answer } else { &[] });
            match machine.write_all(&reply) {
                Err(error) if is_gone(&error) => return Ok(Ended::Closed),
                written => written?,
            }
        }
    }

    /// The power is gone: of what was written and not flushed, blocks are as they were before.
    /// Gives how many of how many.
    pub(super) fn lose(&mut self, loss: Loss, random: &mut Random) -> io::Result<(usize, usize)> {
        let cached = std::mem::take(&mut self.flushed);
        let (mut lost, all) = (0, cached.len());
        for (block, before) in cached {
            let goes = match loss {
                Loss::All => true,
                Loss::Half => random.below(2) == 0,
                Loss::Nothing => false,
            };
            if goes {
                self.file.write_all_at(&before, block * BLOCK as u64)?;
                lost += 1;
            }
        }
        Ok((lost, all))
    }

    fn inside(&self, request: &Request) -> Result<(), u32> {
        let end = request.offset.checked_add(request.length as u64);
        if end.is_some_and(|end| end <= self.size) { Ok(()) } else { Err(EINVAL) }
    }

    fn read(&self, request: &Request, data: &mut [u8]) -> Result<(), u32> {
        self.file.read_exact_at(data, request.offset).map_err(|_| EIO)
    }

    fn write(&mut self, request: &Request, data: &[u8]) -> Result<(), u32> {
        let behind = request.offset + data.len() as u64;
        let blocks = request.offset / BLOCK as u64..behind.div_ceil(BLOCK as u64);
        if request.flags & FUA == 0 {
            for block in blocks {
                if let std::collections::btree_map::Entry::Vacant(free) = self.flushed.entry(block)
                {
                    let mut before = vec![0; BLOCK];
                    self.file.read_exact_at(&mut before, block * BLOCK as u64).map_err(|_| EIO)?;
                    free.insert(before);
                }
            }
        } else {
            blocks.for_each(|block| drop(self.flushed.remove(&block)));
        }
        self.file.write_all_at(data, request.offset).map_err(|_| EIO)
    }

    /// Options until the machine wants to use the disk; false if it does not.
    fn greet(&self, machine: &mut UnixStream) -> io::Result<bool> {
        machine.write_all(b"NBDMAGIC")?;
        machine.write_all(&OPTION_MAGIC.to_be_bytes())?;
        machine.write_all(&HANDSHAKE.to_be_bytes())?;
        let _client_flags: [u8; 4] = take(machine)?;
        loop {
            if u64::from_be_bytes(take(machine)?) != OPTION_MAGIC {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let option = u32::from_be_bytes(take(machine)?);
            let length = u32::from_be_bytes(take(machine)?);
            if length > OPTION_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            io::copy(&mut machine.take(length.into()), &mut io::sink())?;
            match option {
                OPT_INFO | OPT_GO => {
                    let mut about = vec![0, 0];
                    about.extend_from_slice(&self.size.to_be_bytes());
                    about.extend_from_slice(&TRANSMISSION.to_be_bytes());
                    reply(machine, option, REP_INFO, &about)?;
                    reply(machine, option, REP_ACK, &[])?;
                    if option == OPT_GO {
                        return Ok(true);
                    }
                }
                OPT_ABORT => {
                    reply(machine, option, REP_ACK, &[])?;
                    return Ok(false);
                }
                _ => reply(machine, option, REP_ERR_UNSUPPORTED, &[])?,
            }
        }
    }
}

#[derive(Debug)]
struct Request {
    flags: u16,
    kind: u16,
    handle: [u8; 8],
    offset: u64,
    length: usize,
}

impl Request {
    fn read(machine: &mut UnixStream) -> io::Result<Self> {
        let magic = u32::from_be_bytes(take(machine)?);
        let flags = u16::from_be_bytes(take(machine)?);
        let kind = u16::from_be_bytes(take(machine)?);
        let handle = take(machine)?;
        let offset = u64::from_be_bytes(take(machine)?);
        let length = u32::from_be_bytes(take(machine)?);
        if magic != REQUEST_MAGIC || (matches!(kind, READ | WRITE) && length > LENGTH_MAX) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self { flags, kind, handle, offset, length: length as usize })
    }
}

fn take<const N: usize>(machine: &mut UnixStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    machine.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn reply(machine: &mut UnixStream, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let length = u32::try_from(data.len()).map_err(io::Error::other)?;
    let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
    bytes.extend_from_slice(&option.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(data);
    machine.write_all(&bytes)
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Disk {
        let file = tempfile::tempfile().unwrap();
        file.set_len(8 * BLOCK as u64).unwrap();
        Disk { file, size: 8 * BLOCK as u64, flushed: BTreeMap::new(), writes: 0 }
    }

    fn request(kind: u16, flags: u16, offset: u64, length: u32) -> Vec<u8> {
        let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[7; 8]);
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes
    }

    /// What a machine sends after its greeting; the disk afterwards.
    fn serve(requests: &[Vec<u8>], last: u64) -> (Disk, Ended) {
        let mut disk = disk();
        let (mut client, server) = UnixStream::pair().unwrap();
        let mut sent = [0, 0, 0, 3].to_vec();
        sent.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        sent.extend_from_slice(&OPT_GO.to_be_bytes());
        sent.extend_from_slice(&[0, 0, 0, 6, 0, 0, 0, 0, 0, 0]);
        sent.extend(requests.iter().flatten());
        client.write_all(&sent).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let ended = disk.serve(server, |writes| writes == last).unwrap();
        (disk, ended)
    }

    fn content(disk: &Disk) -> Vec<u8> {
        let mut bytes = vec![0; 8 * BLOCK];
        disk.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes.chunks(BLOCK).map(|block| block[10]).collect()
    }

    #[test]
    fn what_was_not_flushed_is_lost_and_what_was_is_not() {
        let write = |flags, block: usize, byte| {
            let mut bytes = request(WRITE, flags, (block * BLOCK) as u64, 4096);
            bytes.resize(bytes.len() + BLOCK, byte);
            bytes
        };
        let requests = [
            write(0, 0, 1),
            write(0, 1, 1),
            request(FLUSH, 0, 0, 0),
            write(0, 1, 2),
            write(FUA, 2, 2),
            write(0, 3, 2),
            write(0, 4, 2),
        ];
        let mut random = Random::new(1);
        let (mut disk, ended) = serve(&requests, 6);
        assert_eq!((ended, content(&disk)), (Ended::Cut, vec![1, 2, 2, 2, 0, 0, 0, 0]));
        assert_eq!(disk.lose(Loss::All, &mut random).unwrap(), (2, 2));
        assert_eq!(content(&disk), [1, 1, 2, 0, 0, 0, 0, 0]);
        let (mut disk, ended) = serve(&requests, 99);
        assert_eq!(ended, Ended::Closed);
        assert_eq!(disk.lose(Loss::Nothing, &mut random).unwrap(), (0, 3));
        assert_eq!(content(&disk), [1, 2, 2, 2, 2, 0, 0, 0]);
    }

    #[test]
    fn requests_beyond_the_end_are_refused() {
        let (disk, _) = serve(&[request(READ, 0, 8 * BLOCK as u64, 1)], 99);
        assert_eq!(disk.writes(), 0);
        assert!(
            disk.inside(&Request {
                flags: 0,
                kind: 0,
                handle: [0; 8],
                offset: u64::MAX,
                length: 2
            })
            .is_err()
        );
    }
}
