//! Exec, attach and port-forward from a terminal.

pub mod input;
pub mod keys;
pub(crate) mod session;
pub mod terminal;

use std::path::PathBuf;

use streaming::{
    ClientTls,
    client::{Options, Transport},
};

/// How to reach the runtime's streaming server.
#[derive(Debug, Clone, clap::Args)]
pub struct StreamArgs {
    /// How to speak with the runtime's streaming server
    #[arg(long, value_enum, default_value_t, value_name = "TRANSPORT")]
    transport: TransportArg,
    /// Authorities (PEM) that may have signed that server's certificate, if it has one
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Our certificate (PEM), if that server wants to know its clients
    #[arg(long, value_name = "FILE", requires_all = ["tls_key", "tls_ca"])]
    tls_cert: Option<PathBuf>,
    /// Private key (PEM) of our certificate
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
}

impl From<StreamArgs> for Options {
    fn from(args: StreamArgs) -> Self {
        let StreamArgs { transport, tls_ca, tls_cert, tls_key } = args;
        let identity = tls_cert.zip(tls_key);
        let tls = tls_ca.map(|authorities| ClientTls { authorities, identity });
        Self { transport: transport.into(), tls }
    }
}

/// A protocol of the streaming server.
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
