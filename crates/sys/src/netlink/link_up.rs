//! Bringing one link up with a single message from the stack, for the shim's `lo`.

use std::io;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// `struct nlmsghdr` + `struct ifinfomsg` + one attribute header.
const HEADER: usize = 16 + 16 + 4;
/// Room for an interface name with its NUL: `IFNAMSIZ`.
const NAME_ROOM: usize = 16;
const MESSAGE: usize = HEADER + NAME_ROOM;

const RTM_NEWLINK: u16 = 16;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const IFLA_IFNAME: u16 = 3;
const IFF_UP: u32 = 0x1;

/// Sets the link `name` of the calling thread's network namespace up. Up already is success.
///
/// Does not allocate and does not block beyond the kernel's own work.
///
/// # Errors
/// `InvalidInput` for an empty name or one of 16 bytes and more; otherwise the kernel's errno
/// (`ENODEV`: no such link).
pub fn set_link_up(name: &str) -> io::Result<()> {
    let message = message(name)?;
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        None,
    )?;
    // An unconnected, unbound netlink socket sends to the kernel and is bound by the send.
    rustix::net::send(&socket, &message, SendFlags::empty())?;
    let mut reply = [0_u8; 128];
    let (len, _) = rustix::net::recv(&socket, &mut reply, RecvFlags::empty())?;
    ack(&reply[..len])
}

fn message(name: &str) -> io::Result<[u8; MESSAGE]> {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() >= NAME_ROOM || bytes.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an interface name"));
    }
    let mut out = [0_u8; MESSAGE];
    out[0..4].copy_from_slice(&(u32::try_from(MESSAGE).unwrap_or(u32::MAX)).to_ne_bytes());
    out[4..6].copy_from_slice(&RTM_NEWLINK.to_ne_bytes());
    out[6..8].copy_from_slice(&(NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    // ifinfomsg: family, type and index stay 0 (the name selects the link).
    out[24..28].copy_from_slice(&IFF_UP.to_ne_bytes());
    out[28..32].copy_from_slice(&IFF_UP.to_ne_bytes());
    out[32..34].copy_from_slice(&20_u16.to_ne_bytes());
    out[34..36].copy_from_slice(&IFLA_IFNAME.to_ne_bytes());
    out[HEADER..HEADER + bytes.len()].copy_from_slice(bytes);
    Ok(out)
}

/// Reads the one answer: `nlmsghdr` followed by a negative errno, 0 for success.
fn ack(reply: &[u8]) -> io::Result<()> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed netlink answer");
    let kind = reply.get(4..6).and_then(|b| b.try_into().ok()).map(u16::from_ne_bytes);
    let code = reply.get(16..20).and_then(|b| b.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, code) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) if code < 0 => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(malformed()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `body` on a thread of its own in a fresh network namespace.
    fn in_new_netns(body: impl FnOnce() + Send + 'static) {
        if !rustix::process::geteuid().is_root() {
            println!("skipped: needs root");
            return;
        }
        let thread = std::thread::spawn(move || {
            // SAFETY: NEWNET does not touch the file descriptor table other threads share.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }
                .unwrap();
            body();
        });
        thread.join().unwrap();
    }

    fn loopback_flags() -> u32 {
        let text = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap();
        u32::from(text.contains("lo"))
    }

    #[test]
    fn loopback_comes_up_and_may_be_up_already() {
        in_new_netns(|| {
            assert_eq!(loopback_flags(), 0);
            set_link_up("lo").unwrap();
            assert_eq!(loopback_flags(), 1);
            set_link_up("lo").unwrap();
        });
    }

    #[test]
    fn an_unknown_link_is_enodev() {
        in_new_netns(|| {
            let error = set_link_up("nosuch0").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::ENODEV));
        });
    }

    #[test]
    fn names_the_kernel_cannot_have_are_refused() {
        for name in ["", "sixteen-bytes-xx", "a\0b"] {
            assert_eq!(set_link_up(name).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
