//! WebSocket as clients of Kubernetes speak it. No IO: bytes in, events and bytes out.
//!
//! The framing is our own (`docs/adr/0010`): it holds no message, so that the same bounded buffers and
//! the same small idle sessions serve SPDY and WebSocket.

mod channels;
pub(crate) mod frame;
pub(crate) mod handshake;
mod link;
#[cfg(test)]
mod tests;
mod tunnel;

pub(crate) use self::channels::{Channels, Encoding};
pub(crate) use self::tunnel::Tunnel;
