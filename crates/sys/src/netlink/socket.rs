//! One netlink socket: send a batch, read what the kernel answered.
//!
//! The kernel works on a request inside `sendmsg`, so its answers are queued when the call
//! returns. Reads therefore never block: a missing answer is an error, not a hang.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::message::{Attributes, Batch, HEADER, Messages, Received, u32_at};

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The acknowledgement leaves out the request's body.
const NLM_F_CAPPED: u16 = 0x100;
/// The acknowledgement carries attributes.
const NLM_F_ACK_TLVS: u16 = 0x200;
const NLMSGERR_ATTR_MSG: u16 = 1;
/// The kernel cuts a dump into pieces no larger than this.
const RECEIVE: usize = 32 * 1024;

/// Why the kernel did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused one message; `detail` is its own explanation, when it gave one.
    #[error("cannot {operation}{}", detail.as_deref().map(|d| format!(" (kernel: {d})")).unwrap_or_default())]
    Refused {
        /// What was asked, as in "cannot …".
        operation: String,
        /// Extended acknowledgement text.
        detail: Option<String>,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// The socket failed.
    #[error("netlink socket failed while trying to {operation}")]
    Socket {
        /// What was asked.
        operation: String,
        /// The errno.
        #[source]
        source: io::Error,
    },
    /// The kernel's answer is missing or cannot be read.
    #[error("no usable netlink answer to the request to {operation}")]
    NoAnswer {
        /// What was asked.
        operation: String,
    },
}

impl NetlinkError {
    /// The kernel's errno, if it gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } | Self::Socket { source, .. } => source.raw_os_error(),
            Self::NoAnswer { .. } => None,
        }
    }
}

/// A message the kernel sent that is neither an acknowledgement nor an end mark.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Message type.
    pub kind: u16,
    /// What follows `nlmsghdr`.
    pub body: Vec<u8>,
}

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    next: u32,
}

impl Socket {
    /// Opens a socket; `None` is rtnetlink.
    ///
    /// # Errors
    /// The errno of `socket`: `EPROTONOSUPPORT` when the kernel lacks the protocol.
    pub fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let fd = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            protocol,
        )?;
        // Every kernel knarr supports has these. The first two only improve error text; the
        // third makes a dump honour its filter, such as the link of addresses.
        set_option(&fd, libc::NETLINK_EXT_ACK)?;
        set_option(&fd, libc::NETLINK_CAP_ACK)?;
        set_option(&fd, libc::NETLINK_GET_STRICT_CHK)?;
        Ok(Self { fd, next: 1 })
    }

    /// The socket, for interface ioctls of the same namespace.
    pub fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.fd)
    }

    /// Sends the batch and returns when the kernel has done all of it.
    ///
    /// # Errors
    /// The first message that was refused. rtnetlink works on through later messages all the
    /// same; nf_tables drops the whole batch.
    pub fn transact(&mut self, mut batch: Batch, ack: usize) -> Result<(), NetlinkError> {
        batch.want_ack(ack);
        self.exchange(&mut batch, Some(ack), &|_, _| true).map(drop)
    }

    /// Sends one get or dump request and returns the objects.
    ///
    /// # Errors
    /// As [`Self::transact`].
    pub fn query(&mut self, batch: Batch) -> Result<Vec<Reply>, NetlinkError> {
        self.query_for(batch, |_, _| true)
    }

    /// As [`Self::query`], for dumps of what there may be millions of: keeps only objects of which `wanted`,
    /// given kind and body, says yes.
    ///
    /// # Errors
    /// As [`Self::transact`].
    pub fn query_for(
        &mut self,
        mut batch: Batch,
        wanted: impl Fn(u16, &[u8]) -> bool,
    ) -> Result<Vec<Reply>, NetlinkError> {
        self.exchange(&mut batch, None, &wanted)
    }

    fn exchange(
        &mut self,
        batch: &mut Batch,
        ack: Option<usize>,
        wanted: &dyn Fn(u16, &[u8]) -> bool,
    ) -> Result<Vec<Reply>, NetlinkError> {
        let first = self.next;
        let count = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        self.next = first.wrapping_add(count);
        let sent = rustix::net::send(&self.fd, batch.numbered(first), SendFlags::empty());
        if let Err(errno) = sent {
            let operation = batch.label(ack.unwrap_or(0)).to_owned();
            return Err(NetlinkError::Socket { operation, source: errno.into() });
        }
        let (acked, replies) = (false, Vec::new());
        let mut answers = Answers { batch, first, ack, wanted, acked, replies };
        let refused = self.drain(&mut answers)?;
        match refused {
            Some(error) => Err(error),
            None if answers.complete() => Ok(answers.replies),
            None => Err(NetlinkError::NoAnswer {
                operation: answers.batch.label(ack.unwrap_or(0)).to_owned(),
            }),
        }
    }

    /// Reads everything queued; the first refusal is the result.
    fn drain(&self, answers: &mut Answers<'_>) -> Result<Option<NetlinkError>, NetlinkError> {
        let mut buffer = vec![0_u8; RECEIVE];
        let mut refused = None;
        loop {
            let len = match rustix::net::recv(&self.fd, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((_, len)) => len.min(RECEIVE),
                Err(rustix::io::Errno::AGAIN) => return Ok(refused),
                Err(rustix::io::Errno::INTR) => continue,
                Err(errno) => {
                    let operation = answers.batch.label(answers.ack.unwrap_or(0)).to_owned();
                    return Err(NetlinkError::Socket { operation, source: errno.into() });
                }
            };
            for message in Messages(&buffer[..len]) {
                if let Some(error) = answers.take(message) {
                    refused.get_or_insert(error);
                }
            }
        }
    }
}

/// What has been read so far for one batch.
struct Answers<'a> {
    batch: &'a Batch,
    first: u32,
    ack: Option<usize>,
    wanted: &'a dyn Fn(u16, &[u8]) -> bool,
    acked: bool,
    replies: Vec<Reply>,
}

impl Answers<'_> {
    fn complete(&self) -> bool {
        self.acked || (self.ack.is_none() && !self.replies.is_empty())
    }

    fn take(&mut self, message: Received<'_>) -> Option<NetlinkError> {
        let at = usize::try_from(message.sequence.wrapping_sub(self.first)).ok()?;
        if at >= self.batch.len() {
            // Left over from an earlier exchange on this socket.
            return None;
        }
        match message.kind {
            NLMSG_NOOP => None,
            NLMSG_ERROR | NLMSG_DONE => {
                let code = u32_at(message.body, 0).map_or(0, u32::cast_signed);
                if code >= 0 {
                    self.acked |= self.ack.is_none_or(|ack| ack == at);
                    return None;
                }
                Some(NetlinkError::Refused {
                    operation: self.batch.label(at).to_owned(),
                    detail: explanation(message),
                    source: io::Error::from_raw_os_error(code.wrapping_neg()),
                })
            }
            kind => {
                if (self.wanted)(kind, message.body) {
                    self.replies.push(Reply { kind, body: message.body.to_vec() });
                }
                None
            }
        }
    }
}

/// The text of the extended acknowledgement, behind the errno and the quoted request.
fn explanation(message: Received<'_>) -> Option<String> {
    if message.flags & NLM_F_ACK_TLVS == 0 || message.kind != NLMSG_ERROR {
        return None;
    }
    let quoted = if message.flags & NLM_F_CAPPED != 0 {
        HEADER
    } else {
        usize::try_from(u32_at(message.body, 4)?).ok()?.next_multiple_of(4)
    };
    let text = Attributes::new(message.body.get(4 + quoted..)?).get(NLMSGERR_ATTR_MSG)?;
    let text = text.strip_suffix(&[0]).unwrap_or(text);
    Some(String::from_utf8_lossy(text).into_owned())
}

fn set_option(fd: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: `on` outlives the call and `len` is its exact size.
    let status = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_NETLINK,
            option,
            std::ptr::from_ref(&on).cast(),
            len,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
