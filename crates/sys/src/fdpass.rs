//! Packets with at most one descriptor attached, over pairs of sockets and sockets with a name.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
    recvmsg, sendmsg, socketpair,
};

/// A connected pair of sockets that keep packet borders; both ends close on exec.
///
/// # Errors
/// What `socketpair(2)` refuses with.
pub fn packet_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// A listening socket that keeps packet borders, named `name` in the directory `dir`. However long
/// the directory's own path is: it is reached through the caller's `/proc`.
///
/// # Errors
/// What `bind(2)` and `listen(2)` refuse with; `EADDRINUSE` where something has the name.
pub fn listen_at(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let socket = packet_socket()?;
    rustix::net::bind(&socket, &address(dir, name)?)?;
    rustix::net::listen(&socket, 1)?;
    Ok(socket)
}

/// A listening stream socket named `name` in the directory `dir`, for [`accept_file`].
///
/// # Errors
/// What `bind(2)` and `listen(2)` refuse with; `EADDRINUSE` where something has the name.
pub fn listen_for_file(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = rustix::net::socket_with(family, kind, flags, None)?;
    rustix::net::bind(&socket, &address(dir, name)?)?;
    rustix::net::listen(&socket, 1)?;
    Ok(socket)
}

/// The file that somebody has sent, as [`send_to_path`] does, to a socket of [`listen_for_file`].
/// Does not wait for it.
///
/// # Errors
/// What `accept4(2)` and `recvmsg(2)` refuse with: `EAGAIN` when nobody has; `NotFound` when no file
/// was sent.
pub fn accept_file(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connection = rustix::net::accept_with(listener, flags)?;
    // What is sent along is a name.
    let Packet { file, .. } = receive(&connection, 4096)?;
    file.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Connects to a socket of [`listen_at`].
///
/// # Errors
/// What `connect(2)` refuses with; `ECONNREFUSED` where nobody listens any more.
pub fn connect_at(dir: BorrowedFd<'_>, name: &str) -> io::Result<OwnedFd> {
    let socket = packet_socket()?;
    rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address(dir, name)?))?;
    Ok(socket)
}

/// Waits for somebody to connect.
///
/// # Errors
/// What `accept4(2)` refuses with.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let accept = || rustix::net::accept_with(listener, SocketFlags::CLOEXEC);
    Ok(rustix::io::retry_on_intr(accept)?)
}

/// How long [`send_to_path`] waits for a listener that accepts nobody, or whose socket is full.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// Connects to the stream socket with this path and sends one file with some bytes, as those who
/// ask for a terminal's master expect it. Blocks while who listens has a full queue, for ten seconds.
///
/// # Errors
/// What `connect(2)` and `sendmsg(2)` refuse with; `TimedOut` when nobody takes it.
pub fn send_to_path(path: &str, bytes: &[u8], file: BorrowedFd<'_>) -> io::Result<()> {
    send_to_path_within(TAKEN_WITHIN, path, bytes, file)
}

fn send_to_path_within(
    limit: Duration,
    path: &str,
    bytes: &[u8],
    file: BorrowedFd<'_>,
) -> io::Result<()> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
    let address = SocketAddrUnix::new(path)?;
    let connected = rustix::io::retry_on_intr(|| rustix::net::connect(&socket, &address));
    let sent = connected.map_err(Into::into).and_then(|()| send(socket.as_fd(), bytes, Some(file)));
    // A socket with a time limit says so when the time is up.
    sent.map_err(|error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _other => error,
    })
}

fn packet_socket() -> io::Result<OwnedFd> {
    let (family, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
    Ok(rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?)
}

fn address(dir: BorrowedFd<'_>, name: &str) -> rustix::io::Result<SocketAddrUnix> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", dir.as_raw_fd()))
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
    fn a_named_socket_is_reached_however_deep_its_directory_lies() {
        let top = tempfile::tempdir().unwrap();
        let deep = top.path().join("d".repeat(200));
        std::fs::create_dir(&deep).unwrap();
        let dir = crate::fs::open_dir(deep.as_path()).unwrap();
        let listener = listen_at(dir.as_fd(), "gate").unwrap();
        let error = listen_at(dir.as_fd(), "gate").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE));
        let here = connect_at(dir.as_fd(), "gate").unwrap();
        let there = accept(listener.as_fd()).unwrap();
        send(here.as_fd(), b"word", None).unwrap();
        assert_eq!(receive(&there, 16).unwrap().bytes, b"word");
        drop(listener);
        let error = connect_at(dir.as_fd(), "gate").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ECONNREFUSED));
    }

    #[test]
    fn a_file_sent_to_a_path_is_there_when_its_sender_has_gone() {
        let top = tempfile::tempdir().unwrap();
        let dir = crate::fs::open_dir(top.path()).unwrap();
        let listener = listen_for_file(dir.as_fd(), "console").unwrap();
        let error = accept_file(listener.as_fd()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        let path = top.path().join("console");
        send_to_path(path.to_str().unwrap(), b"/dev/ptmx", dir.as_fd()).unwrap();
        let file = accept_file(listener.as_fd()).unwrap();
        assert!(crate::fs::is_dir(file.as_fd()).unwrap());
    }

    #[test]
    fn who_accepts_nobody_does_not_hold_up_those_who_send() {
        let top = tempfile::tempdir().unwrap();
        let dir = crate::fs::open_dir(top.path()).unwrap();
        let listener = listen_for_file(dir.as_fd(), "agent").unwrap();
        // One may wait to be accepted, and one more does.
        rustix::net::listen(&listener, 0).unwrap();
        let path = top.path().join("agent");
        let send =
            |limit| send_to_path_within(limit, path.to_str().unwrap(), b"hello", dir.as_fd());
        send(TAKEN_WITHIN).unwrap();
        let refused = send(Duration::from_millis(20)).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn a_packet_over_the_limit_is_refused() {
        let (here, there) = packet_pair().unwrap();
        send(here.as_fd(), b"too long", None).unwrap();
        assert_eq!(receive(there, 4).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
