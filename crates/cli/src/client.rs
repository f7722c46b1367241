//! A connection to a container runtime's CRI socket.

use std::{
    error::Error as _,
    future::Future,
    io,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    time::Duration,
};

use cri_api::{
    knarr::{
        health_client::HealthClient, images_client::ImagesClient, networks_client::NetworksClient,
        progress_client::ProgressClient,
    },
    v1::{
        self, image_service_client::ImageServiceClient,
        runtime_service_client::RuntimeServiceClient,
    },
};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::{
    Code, Response, Status,
    transport::{Channel, Endpoint},
};

/// Where knarr's own daemon listens unless told otherwise.
pub const DEFAULT_ADDRESS: &str = "/run/knarr/knarr.sock";
/// Names the socket when no option does.
pub const ADDRESS_VARIABLE: &str = "KNARR_ADDRESS";
/// What Kubernetes clients accept and what full nodes need.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// What kubelet grants an ordinary request.
const STANDARD_LIMIT: Duration = Duration::from_secs(120);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is of another kind.
    #[error("`{address}` is not a unix socket's path")]
    BadAddress {
        /// As given.
        address: String,
    },
    /// Nobody made the socket.
    #[error(
        "no container runtime at {}: the socket does not exist; \
         start `knarr serve`, or name another socket with --address",
        address.display()
    )]
    Missing {
        /// The socket.
        address: PathBuf,
    },
    /// The socket is there, its owner is not.
    #[error(
        "nothing listens at {}: the container runtime is not running; \
         start `knarr serve`, or name another socket with --address",
        address.display()
    )]
    Refused {
        /// The socket.
        address: PathBuf,
    },
    /// The caller may not open the socket.
    #[error("no permission to open {}; run this as root", address.display())]
    Forbidden {
        /// The socket.
        address: PathBuf,
    },
    /// The path is something else.
    #[error("{} is not a socket", address.display())]
    NotASocket {
        /// The path.
        address: PathBuf,
    },
    /// Somebody listens but does not speak gRPC in time.
    #[error("{} accepts no gRPC connection", address.display())]
    Handshake {
        /// The socket.
        address: PathBuf,
        /// What went wrong.
        #[source]
        source: tonic::transport::Error,
    },
}

impl ConnectError {
    /// Whether there is nobody at the socket.
    #[must_use]
    pub fn nobody_serves(&self) -> bool {
        match self {
            Self::Missing { .. } | Self::Refused { .. } => true,
            Self::BadAddress { .. }
            | Self::NotASocket { .. }
            | Self::Forbidden { .. }
            | Self::Handshake { .. } => false,
        }
    }
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    /// No answer in time.
    #[error("cannot {doing}: no answer from {} within {after:?}", address.display())]
    Silent {
        /// The verb's aim.
        doing: String,
        /// The socket.
        address: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The runtime said no.
    #[error("cannot {doing}: {}", sentence(status))]
    Refused {
        /// The verb's aim.
        doing: String,
        /// Its answer.
        status: Box<Status>,
    },
}

impl RpcError {
    /// The gRPC code of the runtime's answer, if there was one.
    #[must_use]
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Silent { .. } => None,
            Self::Refused { status, .. } => Some(status.code()),
        }
    }
}

/// How long a request may take.
#[derive(Debug, Clone, Copy)]
pub enum Limit {
    /// What kubelet grants an ordinary request.
    Standard,
    /// That, after the request's own waiting time.
    After(Duration),
    /// As long as it takes.
    None,
}

/// A connected client of both CRI services.
#[derive(Debug, Clone)]
pub struct Client {
    channel: Channel,
    address: PathBuf,
    limit: Option<Duration>,
}

impl Client {
    /// Connects to the unix socket `address` (a path, or `unix://` and a path). `limit` replaces
    /// the limit of every request.
    ///
    /// # Errors
    /// [`ConnectError`], saying what to do about it.
    pub async fn connect(address: &str, limit: Option<Duration>) -> Result<Self, ConnectError> {
        let path = address.strip_prefix("unix://").unwrap_or(address);
        if path.is_empty() || path.contains("://") {
            return Err(ConnectError::BadAddress { address: address.to_owned() });
        }
        let address = PathBuf::from(path);
        let target = address.clone();
        let connector = tower::service_fn(move |_| {
            let target = target.clone();
            async move { UnixStream::connect(target).await.map(TokioIo::new) }
        });
        // The authority a CRI server sees; the connector ignores it.
        let channel = Endpoint::from_static("http://localhost")
            .connect_timeout(CONNECT_LIMIT)
            .connect_with_connector(connector)
            .await
            .map_err(|source| explain(address.clone(), source))?;
        Ok(Self { channel, address, limit })
    }

    /// The runtime service.
    #[must_use]
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Asks for the runtime's version, to hear an answer.
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn greet(&self) -> Result<(), RpcError> {
        let request = v1::VersionRequest::default();
        let mut service = self.runtime();
        self.call("hear from the runtime", Limit::Standard, service.version(request)).await?;
        Ok(())
    }

    /// The image service.
    #[must_use]
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// Knarr's service about networks; other runtimes answer Unimplemented.
    #[must_use]
    pub fn networks(&self) -> NetworksClient<Channel> {
        NetworksClient::new(self.channel.clone())
    }

    /// Knarr's service about what does not match; other runtimes answer Unimplemented.
    #[must_use]
    pub fn health(&self) -> HealthClient<Channel> {
        HealthClient::new(self.channel.clone())
    }

    /// Knarr's progress service; other runtimes answer Unimplemented.
    #[must_use]
    pub fn progress(&self) -> ProgressClient<Channel> {
        ProgressClient::new(self.channel.clone())
    }

    /// Knarr's own image service; other runtimes answer Unimplemented.
    #[must_use]
    pub fn knarr_images(&self) -> ImagesClient<Channel> {
        ImagesClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE)
            .max_encoding_message_size(MAX_MESSAGE)
    }

    /// The next message of a stream; `None` at its end. `doing` completes "cannot …".
    ///
    /// # Errors
    /// [`RpcError`].
    pub async fn next<T>(
        &self,
        doing: &str,
        stream: &mut tonic::Streaming<T>,
    ) -> Result<Option<T>, RpcError> {
        stream.message().await.map_err(|status| RpcError::Refused {
            doing: doing.to_owned(),
            status: Box::new(status),
        })
    }

    /// Awaits one request's answer within its limit. `doing` completes "cannot …".
    ///
    /// The future is boxed: a verb makes many requests, and each is large.
    ///
    /// # Errors
    /// [`RpcError`].
    pub fn call<'a, T>(
        &'a self,
        doing: impl Into<String>,
        limit: Limit,
        request: impl Future<Output = Result<Response<T>, Status>> + Send + 'a,
    ) -> Pin<Box<dyn Future<Output = Result<T, RpcError>> + Send + 'a>> {
        let doing = doing.into();
        let limit = self.limit.or_else(|| match limit {
            Limit::Standard => Some(STANDARD_LIMIT),
            Limit::After(wait) => Some(STANDARD_LIMIT.saturating_add(wait)),
            Limit::None => None,
        });
        Box::pin(async move {
            let answer = match limit {
                Some(after) => match tokio::time::timeout(after, request).await {
                    Ok(answer) => answer,
                    Err(_elapsed) => {
                        let address = self.address.clone();
                        return Err(RpcError::Silent { doing, address, after });
                    }
                },
                None => request.await,
            };
            answer
                .map(Response::into_inner)
                .map_err(|status| RpcError::Refused { doing, status: Box::new(status) })
        })
    }
}

fn explain(address: PathBuf, source: tonic::transport::Error) -> ConnectError {
    let mut cause = source.source();
    let mut kind = None;
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            kind = Some(error.kind());
        }
        cause = error.source();
    }
    match kind {
        Some(io::ErrorKind::NotFound) => ConnectError::Missing { address },
        Some(io::ErrorKind::PermissionDenied) => ConnectError::Forbidden { address },
        Some(io::ErrorKind::ConnectionRefused) if is_socket(&address) => {
            ConnectError::Refused { address }
        }
        Some(io::ErrorKind::ConnectionRefused) => ConnectError::NotASocket { address },
        _ => ConnectError::Handshake { address, source },
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// What the runtime said, without gRPC's own words around it.
#[must_use]
pub fn sentence(status: &Status) -> String {
    let said = plain(status.message());
    match status.code() {
        Code::Unimplemented if said.is_empty() => "this runtime does not implement it".to_owned(),
        Code::Unavailable => match status.source() {
            Some(_) => "the connection to the runtime broke".to_owned(),
            None if said.is_empty() => "the runtime is not available".to_owned(),
            None => said,
        },
        _ if said.is_empty() => status.code().description().to_lowercase(),
        _ => said,
    }
}

/// Strips the `rpc error: code = … desc = ` that Go servers nest into their messages.
fn plain(message: &str) -> String {
    let mut text = message.to_owned();
    while let Some(start) = text.find("rpc error: code = ") {
        let Some(end) = text[start..].find("desc = ") else { break };
        text.replace_range(start..start + end + "desc = ".len(), "");
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_reads_as_a_sentence() {
        let nested = "failed to pull: rpc error: code = Unknown desc = rpc error: code = NotFound desc = no such host";
        for (code, message, text) in [
            (Code::NotFound, "pod abc is not known", "pod abc is not known"),
            (Code::Unknown, nested, "failed to pull: no such host"),
            (Code::Unimplemented, "", "this runtime does not implement it"),
            (Code::Unavailable, "still recovering", "still recovering"),
        ] {
            assert_eq!(sentence(&Status::new(code, message)), text);
        }
    }

    async fn failure(address: &Path) -> ConnectError {
        Client::connect(&address.display().to_string(), None).await.unwrap_err()
    }

    #[tokio::test]
    async fn a_missing_daemon_is_told_from_a_dead_one_and_from_a_plain_file() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("none.sock");
        assert!(matches!(failure(&missing).await, ConnectError::Missing { .. }));
        let dead = dir.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        let refused = failure(&dead).await;
        assert!(matches!(refused, ConnectError::Refused { .. }));
        assert!(refused.to_string().contains("dead.sock"));
        assert!(refused.to_string().contains("knarr serve"));
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(failure(&file).await, ConnectError::NotASocket { .. }));
    }

    #[tokio::test]
    async fn other_kinds_of_address_are_refused() {
        let error = Client::connect("tcp://localhost:1", None).await.unwrap_err();
        assert!(matches!(error, ConnectError::BadAddress { .. }));
    }
}
