//! A [`VolatileDisk`] as a network block device (the NBD protocol, newstyle, one export), which is how
//! the machine has it.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;

use test_support::power::{Ended, VolatileDisk};

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

/// Serves one machine, until the write for which `is_last` says so.
pub(super) fn serve(
    disk: &mut VolatileDisk,
    mut machine: UnixStream,
    is_last: impl Fn(u64) -> bool,
) -> io::Result<Ended> {
    disk.switched_on();
    if !greet(disk, &mut machine)? {
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
                let read = disk.read(request.offset, &mut data);
                answer = &data;
                read.map_err(|error| code(&error))
            }
            WRITE => {
                data.resize(request.length, 0);
                machine.read_exact(&mut data)?;
                if is_last(disk.count()) {
                    return Ok(Ended::Cut);
                }
                disk.write(request.offset, &data, request.flags & FUA != 0)
                    .map_err(|error| code(&error))
            }
            FLUSH => {
                disk.flush();
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

/// How the protocol calls an error.
fn code(error: &io::Error) -> u32 {
    if error.kind() == io::ErrorKind::InvalidInput { EINVAL } else { EIO }
}

/// Options until the machine wants to use the disk; false if it does not.
fn greet(disk: &VolatileDisk, machine: &mut UnixStream) -> io::Result<bool> {
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
                about.extend_from_slice(&disk.size().to_be_bytes());
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
    use test_support::power::BLOCK;

    fn request(kind: u16, flags: u16, block: usize, byte: u8) -> Vec<u8> {
        let mut bytes = REQUEST_MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[7; 8]);
        bytes.extend_from_slice(&((block * BLOCK) as u64).to_be_bytes());
        bytes.extend_from_slice(&4096_u32.to_be_bytes());
        if kind == WRITE {
            bytes.resize(bytes.len() + BLOCK, byte);
        }
        bytes
    }

    /// Serves what a machine sends after its greeting; the disk afterwards, and what is in it.
    fn served(requests: &[Vec<u8>], last: u64) -> (VolatileDisk, Ended, Vec<u8>) {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4 * BLOCK as u64).unwrap();
        let mut disk = VolatileDisk::of(file).unwrap();
        let (mut client, server) = UnixStream::pair().unwrap();
        let mut sent = [0, 0, 0, 3].to_vec();
        sent.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
        sent.extend_from_slice(&OPT_GO.to_be_bytes());
        sent.extend_from_slice(&[0, 0, 0, 6, 0, 0, 0, 0, 0, 0]);
        sent.extend(requests.iter().flatten());
        client.write_all(&sent).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        let ended = serve(&mut disk, server, |writes| writes == last).unwrap();
        let mut bytes = vec![0; 4 * BLOCK];
        disk.read(0, &mut bytes).unwrap();
        (disk, ended, bytes.chunks(BLOCK).map(|block| block[10]).collect())
    }

    #[test]
    fn writes_reach_the_disk_until_the_power_goes_and_flushes_keep_them() {
        let requests = [
            request(WRITE, 0, 0, 1),
            request(FLUSH, 0, 0, 0),
            request(WRITE, 0, 0, 2),
            request(WRITE, FUA, 1, 2),
            request(READ, 0, 1, 0),
            request(WRITE, 0, 2, 2),
        ];
        let (mut disk, ended, content) = served(&requests, 4);
        assert_eq!((ended, content), (Ended::Cut, vec![2, 2, 0, 0]));
        let mut random = test_support::power::Random::new(1);
        let loss = test_support::power::Loss::All;
        assert_eq!(disk.lose(loss, &mut random).unwrap(), (1, 1));
        let (_, ended, content) = served(&requests, 99);
        assert_eq!((ended, content), (Ended::Closed, vec![2, 2, 2, 0]));
    }

    #[test]
    fn a_request_beyond_the_end_does_not_end_the_disk() {
        let requests = [request(WRITE, 0, 4, 1), request(WRITE, 0, 3, 1)];
        let (disk, ended, content) = served(&requests, 99);
        assert_eq!((ended, content, disk.writes()), (Ended::Closed, vec![0, 0, 0, 1], 2));
    }
}
