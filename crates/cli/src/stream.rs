//! Exec, attach and port-forward from a terminal.

pub mod input;
pub mod keys;
pub(crate) mod session;
pub mod terminal;

use streaming::client::Transport;

/// How to speak with the runtime's streaming server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum TransportArg {
    /// SPDY/3.1: every container runtime has it
    #[default]
    Spdy,
    /// WebSocket; not every runtime has what this needs
    Websocket,
}

impl From<TransportArg> for Transport {
    fn from(arg: TransportArg) -> Self {
        match arg {
            TransportArg::Spdy => Self::Spdy,
            TransportArg::Websocket => Self::WebSocket,
        }
    }
}
