//! Packets with at most one descriptor attached, over an unnamed pair of sockets.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg,
    sendmsg, socketpair,
};

/// A connected pair of sockets that keep packet borders; both ends close on exec.
///
/// # Errors
/// What `socketpair(2)` refuses with.
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends one packet. Never raises SIGPIPE.
///
/// # Errors
/// What `sendmsg(2)` refuses with.
pub fn send(socket: BorrowedFd<'_>, packet: &[u8], file: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let files: Vec<BorrowedFd<'_>> = file.into_iter().collect();
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::Error::from_raw_os_error(libc::ENOBUFS));
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// One received packet.
#[derive(Debug)]
pub struct Packet {
    /// Its bytes; empty at the end of the stream.
    pub bytes: Vec<u8>,
    /// The file that came along.
    pub file: Option<OwnedFd>,
}

/// Receives one packet of at most `limit` bytes, waiting for it.
///
/// # Errors
/// What `recvmsg(2)` refuses with, `InvalidData` for a packet that is longer.
pub fn receive(socket: impl AsFd, limit: usize) -> io::Result<Packet> {
    let mut bytes = vec![0; limit];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = loop {
        let mut slices = [IoSliceMut::new(&mut bytes)];
        match recvmsg(&socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Ok(received) => break received,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    };
    let file = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut files) => files.next(),
        _ => None,
    });
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Err(io::Error::from(io::ErrorKind::InvalidData));
    }
    bytes.truncate(received.bytes);
    Ok(Packet { bytes, file })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_keep_their_borders_and_carry_a_file() {
        let (here, there) = packet_pair().unwrap();
        send(here.as_fd(), b"one", None).unwrap();
        send(here.as_fd(), b"two", Some(here.as_fd())).unwrap();
        drop(here);
        let first = receive(&there, 16).unwrap();
        assert_eq!((&first.bytes[..], first.file.is_some()), (&b"one"[..], false));
        let second = receive(&there, 16).unwrap();
        assert_eq!((&second.bytes[..], second.file.is_some()), (&b"two"[..], true));
        drop(second);
        assert!(receive(&there, 16).unwrap().bytes.is_empty(), "closed");
    }

    #[test]
    fn a_packet_over_the_limit_is_refused() {
        let (here, there) = packet_pair().unwrap();
        send(here.as_fd(), b"too long", None).unwrap();
        assert_eq!(receive(there, 4).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
