//! One daemon connection: frames in, frames out, files with either. Never blocks.

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;

use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use shim_protocol::{
    Asked, CodecError, FrameFiles, FrameReader, FromShim, MAX_FILES, TooManyFiles,
};

/// More than this unsent, and the peer is taken for stuck and dropped.
const MAX_UNSENT: usize = 1 << 20;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Closed {
    #[error("the peer closed it")]
    ByPeer,
    #[error("the socket failed")]
    Socket(#[source] Errno),
    #[error("the peer sent something else than a request")]
    Codec(#[source] CodecError),
    #[error(transparent)]
    TooManyFiles(#[from] TooManyFiles),
    #[error("the peer leaves more than {MAX_UNSENT} bytes unread")]
    Stuck,
}

#[derive(Debug)]
struct Unsent {
    frame: Vec<u8>,
    done: usize,
    /// Sent with the frame's first byte.
    file: Option<OwnedFd>,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    frames: FrameReader,
    files: FrameFiles<OwnedFd>,
    unsent: VecDeque<Unsent>,
    unsent_bytes: usize,
    /// Hello has been exchanged: requests are answered, events sent.
    pub(crate) greeted: bool,
    /// The poller has been asked for writability.
    pub(crate) waits_to_write: bool,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            frames: FrameReader::default(),
            files: FrameFiles::default(),
            unsent: VecDeque::new(),
            unsent_bytes: 0,
            greeted: false,
            waits_to_write: false,
        }
    }

    pub(crate) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub(crate) fn into_socket(self) -> OwnedFd {
        self.socket
    }

    /// Reads once. What arrived is taken out with [`Self::next_request`].
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> Result<(), Closed> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES + 1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let mut into = [IoSliceMut::new(buffer)];
        let message = match rustix::net::recvmsg(&self.socket, &mut into, &mut control, flags) {
            Ok(message) => message,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(Errno::CONNRESET) => return Err(Closed::ByPeer),
            Err(error) => return Err(Closed::Socket(error)),
        };
        let files: Vec<OwnedFd> = control
            .drain()
            .flat_map(|part| match part {
                RecvAncillaryMessage::ScmRights(files) => files.collect(),
                _ => Vec::new(),
            })
            .collect();
        // Otherwise it is for want of descriptors: the request is told that its files are missing.
        if message.flags.contains(ReturnFlags::CTRUNC) && files.len() > MAX_FILES {
            return Err(TooManyFiles.into());
        }
        if message.bytes == 0 {
            return Err(Closed::ByPeer);
        }
        self.frames.push(&buffer[..message.bytes]);
        Ok(self.files.received(message.bytes, files)?)
    }

    /// The next whole request and the files that came with it.
    pub(crate) fn next_request(&mut self) -> Result<Option<(Asked, Vec<OwnedFd>)>, Closed> {
        let Some(asked) = self.frames.next().map_err(Closed::Codec)? else {
            return Ok(None);
        };
        let files = self.files.of_frame(self.frames.buffered());
        Ok(Some((asked, files)))
    }

    /// Sends a frame, now or when the peer reads.
    pub(crate) fn send(&mut self, message: &FromShim, file: Option<OwnedFd>) -> Result<(), Closed> {
        let frame = shim_protocol::encode(message);
        self.unsent_bytes += frame.len();
        self.unsent.push_back(Unsent { frame, done: 0, file });
        self.flush()
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self) -> Result<(), Closed> {
        while let Some(next) = self.unsent.front_mut() {
            match next.send(&self.socket) {
                Ok(sent) => {
                    self.unsent_bytes -= sent;
                    if next.done == next.frame.len() {
                        self.unsent.pop_front();
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.unsent_bytes > MAX_UNSENT => return Err(Closed::Stuck),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Closed::ByPeer),
                Err(error) => return Err(Closed::Socket(error)),
            }
        }
        self.unsent.shrink_to_fit();
        Ok(())
    }

    /// Whether writability is worth waiting for.
    pub(crate) fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }
}

impl Unsent {
    fn send(&mut self, socket: &OwnedFd) -> Result<usize, Errno> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let bytes = [IoSlice::new(&self.frame[self.done..])];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let files: Vec<_> = self.file.iter().map(AsFd::as_fd).collect();
        if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&files)) {
            return Err(Errno::NOBUFS);
        }
        let sent = rustix::net::sendmsg(socket, &bytes, &mut control, flags)?;
        self.file = None;
        self.done += sent;
        Ok(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use shim_protocol::{Body, Request, Response};

    fn pair() -> (OwnedFd, Connection) {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        (theirs, Connection::new(ours))
    }

    fn request(id: u64) -> Vec<u8> {
        shim_protocol::encode(&Request { id, body: Body::State })
    }

    fn send(peer: &OwnedFd, bytes: &[u8], files: &[&OwnedFd]) {
        let files: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(&files)));
        }
        let sent =
            rustix::net::sendmsg(peer, &[IoSlice::new(bytes)], &mut control, SendFlags::empty());
        assert_eq!(sent.unwrap(), bytes.len());
    }

    /// Ids of the requests that arrive, each with its number of files.
    fn drain(connection: &mut Connection) -> Vec<(u64, usize)> {
        let mut seen = Vec::new();
        for _ in 0..10 {
            connection.receive(&mut [0; 512]).unwrap();
            while let Some((asked, files)) = connection.next_request().unwrap() {
                let Asked::Known(request) = asked else { panic!("{asked:?}") };
                seen.push((request.id, files.len()));
            }
        }
        seen
    }

    #[test]
    fn files_belong_to_the_frame_they_were_sent_with() {
        let (peer, mut connection) = pair();
        send(&peer, &request(1), &[]);
        send(&peer, &request(2), &[&peer, &peer, &peer]);
        send(&peer, &request(3), &[]);
        let cut = request(4);
        send(&peer, &cut[..1], &[&peer]);
        send(&peer, &cut[1..], &[]);
        send(&peer, &request(5), &[]);
        assert_eq!(drain(&mut connection), [(1, 0), (2, 3), (3, 0), (4, 1), (5, 0)]);
    }

    #[test]
    fn more_files_than_any_frame_carries_end_the_connection() {
        let (peer, mut connection) = pair();
        send(&peer, &request(1), &[&peer, &peer, &peer, &peer]);
        assert!(matches!(connection.receive(&mut [0; 512]), Err(Closed::TooManyFiles(_))));
    }

    #[test]
    fn a_peer_that_never_reads_is_dropped_at_the_bound() {
        let (_peer, mut connection) = pair();
        let message = FromShim::Reply { id: 1, response: Response::Done };
        let mut sent = 0;
        let end = loop {
            match connection.send(&message, None) {
                Ok(()) => sent += 1,
                Err(end) => break end,
            }
        };
        assert!(matches!(end, Closed::Stuck), "{end}");
        assert!(sent > 0 && connection.unsent_bytes <= MAX_UNSENT + 64);
    }

    #[test]
    fn nonsense_and_the_end_of_the_stream_close() {
        let (peer, mut connection) = pair();
        send(&peer, &[1, 0, 0, 0, 0xff], &[]);
        connection.receive(&mut [0; 512]).unwrap();
        assert!(matches!(connection.next_request(), Err(Closed::Codec(_))));
        drop(peer);
        assert!(matches!(connection.receive(&mut [0; 512]), Err(Closed::ByPeer)));
    }
}
