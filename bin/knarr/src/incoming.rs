//! Connections to the CRI's socket. One that cannot be accepted waits: who asks again at once, as the
//! server does by itself, takes a processor for nothing, because it ends for other reasons.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;

/// How soon it is tried again.
const PAUSE: Duration = Duration::from_millis(100);

/// The connections, one after the other.
pub(crate) struct Incoming {
    listener: UnixListener,
    pause: Option<Pin<Box<Sleep>>>,
    /// Somebody waits, and that is told.
    told: bool,
}

impl Incoming {
    pub(crate) fn new(listener: UnixListener) -> Self {
        Self { listener, pause: None, told: false }
    }
}

impl Stream for Incoming {
    type Item = io::Result<UnixStream>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, _address)) => {
                    if std::mem::take(&mut self.told) {
                        tracing::info!("connections to the CRI's socket are accepted again");
                    }
                    return Poll::Ready(Some(Ok(stream)));
                }
                // The one that waited has given up.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    if !std::mem::replace(&mut self.told, true) {
                        tracing::error!(
                            %error, "cannot accept a connection to the CRI's socket: it waits"
                        );
                    }
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                }
            }
        }
    }
}
