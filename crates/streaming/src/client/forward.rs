//! Port-forward from the client's side.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::net::TcpStream;

use super::{ConnectError, Options, TIMEOUTS, Transport, spdy, websocket};
use crate::backend::BoxFuture;
use crate::protocol::{FORWARD_SPDY, FORWARD_TUNNEL};
use crate::session::{FORWARD_LIMITS, exchange};
use crate::spdy::{Endpoint, headers::Headers};
use crate::websocket::Tunnel;
use crate::wire::{Limits, Mux, Parting, Received, Role, Wire, drive};

/// For the other direction of a connection whose one direction has ended.
const HALF_OPEN: Duration = Duration::from_secs(60 * 60);

/// Why a connection is not, or no longer, forwarded.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// The session is over.
    #[error("the connection to the runtime is closed")]
    Closed,
    /// The server's words.
    #[error("{0}")]
    Refused(String),
    /// The connection broke at one of its ends.
    #[error("the connection broke")]
    Broken,
}

/// A port-forward: any number of connections into a pod.
#[derive(Debug)]
pub struct Forwarder {
    mux: Mux,
    next: AtomicU64,
}

impl Forwarder {
    /// Connects to the URL that the CRI's PortForward gave. The future moves the bytes and must be
    /// polled along with everything else; it ends with the connection.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(
        url: &str,
        options: impl Into<Options>,
    ) -> Result<(Self, BoxFuture<'static, ()>), ConnectError> {
        let Options { transport, tls } = options.into();
        let (upgrade, wire) = match transport {
            Transport::Spdy => {
                (spdy(url, tls, &[FORWARD_SPDY]).await?, Wire::Spdy(Endpoint::new(Role::Client)))
            }
            Transport::WebSocket => (
                websocket(url, tls, &[FORWARD_TUNNEL]).await?,
                Wire::Tunnel(Tunnel::new(Role::Client)),
            ),
        };
        let mux = Mux::new(wire, Limits { outlives_reset: true, ..FORWARD_LIMITS });
        let driven = mux.clone();
        let driver = Box::pin(async move {
            let end = drive(&driven, upgrade.io, upgrade.early, TIMEOUTS).await;
            tracing::debug!(%end, "the streaming connection ended");
        });
        Ok((Self { mux, next: AtomicU64::new(0) }, driver))
    }

    /// Forwards one connection to `port` in the pod, to its end. Many may run at a time.
    ///
    /// # Errors
    /// [`ForwardError`].
    pub async fn forward(&self, port: u16, connection: TcpStream) -> Result<(), ForwardError> {
        let id = self.next.fetch_add(1, Ordering::Relaxed).to_string();
        let port = port.to_string();
        let open = |kind| {
            let headers = [("streamtype", kind), ("port", port.as_str()), ("requestid", &id)];
            self.mux.open(&Headers::new(headers)).map_err(|_| ForwardError::Closed)
        };
        let error = open("error")?;
        let data = open("data")?;
        error.replied().await.map_err(|_| ForwardError::Closed)?;
        data.replied().await.map_err(|_| ForwardError::Closed)?;
        error.finish();
        let moving = async {
            let clean = exchange(&data, &connection, true, HALF_OPEN).await;
            if clean {
                data.finish();
            } else {
                data.reset();
            }
            clean
        };
        let words = async {
            let mut words = Vec::new();
            while let Received::Data(bytes) = error.receive().await {
                words.extend_from_slice(&bytes);
            }
            Bytes::from(words)
        };
        let (clean, words) = tokio::join!(moving, words);
        match (words.is_empty(), clean) {
            (false, _) => Err(ForwardError::Refused(String::from_utf8_lossy(&words).into_owned())),
            (true, true) => Ok(()),
            (true, false) => Err(ForwardError::Broken),
        }
    }

    /// Says goodbye; the driver ends soon after.
    pub fn close(&self) {
        self.mux.part(Parting::Now);
    }
}
