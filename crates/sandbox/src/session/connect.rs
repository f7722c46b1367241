//! Connections into a pod's network namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::{NamespaceMode, SandboxId};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sys::namespace::{self, Kind};
use tokio::net::{TcpSocket, TcpStream};

use crate::handler::RuntimeKind;
use crate::manager::Sandboxes;
use crate::view::{LookupError, PodView};

/// How long one address may take to answer: it is local, but a packet filter may swallow it.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);

/// CRI 5.7: `localhost`, IPv4 first.
const LOCALHOST: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The pod.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Its network is not there, or not any more.
    #[error("pod sandbox {sandbox} is not ready")]
    NotReady {
        /// The pod.
        sandbox: SandboxId,
    },
    /// No socket could be made in its network namespace.
    #[error("cannot enter the network namespace of pod sandbox {sandbox}")]
    Namespace {
        /// The pod.
        sandbox: SandboxId,
        /// Why.
        source: io::Error,
    },
    /// Nobody answers there.
    #[error("nothing answers on port {port} of pod sandbox {sandbox}: {tried}")]
    Unreachable {
        /// The pod.
        sandbox: SandboxId,
        /// The port.
        port: u16,
        /// Each address with what happened.
        tried: String,
    },
}

impl Sandboxes {
    /// The pod, if ports of it can be forwarded now.
    ///
    /// # Errors
    /// [`ConnectError::Lookup`], [`ConnectError::NotReady`].
    pub fn ready_pod(&self, id: &str) -> Result<std::sync::Arc<PodView>, ConnectError> {
        let view = self.index().pod(id)?;
        if view.is_ready() {
            Ok(view)
        } else {
            Err(ConnectError::NotReady { sandbox: view.record.id.clone() })
        }
    }

    /// Connects to `localhost:port` as the pod's processes would: in its network namespace, or on
    /// the host if it uses that. IPv4 is tried first, then IPv6. A pod in a sandbox is reached at its
    /// addresses.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self, id: &str, port: u16) -> Result<TcpStream, ConnectError> {
        let pod = self.ready_pod(id)?;
        let sandbox = pod.record.id.clone();
        let on_host = pod.record.config.security.namespaces.network == NamespaceMode::Node;
        let netns = (!on_host).then(|| self.cx.paths().netns(&sandbox));
        let sockets = match (netns, &pod.record.network) {
            // A sandbox has a network stack of its own, whose `localhost` nobody else can reach.
            (Some(_), Some(network)) if in_sandbox(&pod) => sockets(&network.ips),
            (Some(path), _) => sockets_inside(path).await,
            (None, _) => sockets(&LOCALHOST),
        };
        let sockets = sockets
            .map_err(|source| ConnectError::Namespace { sandbox: sandbox.clone(), source })?;
        let mut tried = Vec::new();
        for (address, socket) in sockets {
            match connect(socket, SocketAddr::new(address, port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => tried.push(format!("{address}: {error}")),
            }
        }
        Err(ConnectError::Unreachable { sandbox, port, tried: tried.join("; ") })
    }
}

async fn connect(socket: OwnedFd, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(socket.into());
    let connecting = tokio::time::timeout(CONNECT_WITHIN, socket.connect(to));
    let stream = connecting.await.map_err(|_elapsed| io::ErrorKind::TimedOut)??;
    // What comes in pieces is sent in pieces: a debugger's steps, a shell's keys.
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sockets made in a network namespace stay there, whoever uses them later. The thread that enters
/// it does nothing else and ends: no worker of the runtime must ever be in a pod's network.
async fn sockets_inside(netns: PathBuf) -> io::Result<Vec<(IpAddr, OwnedFd)>> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("netns".to_owned()).stack_size(64 << 10).spawn(move || {
        // A caller that has left closes its end, and the sockets close here.
        drop(sender.send(enter(&netns).and_then(|()| sockets(&LOCALHOST))));
    })?;
    receiver.await.unwrap_or_else(|_panicked| Err(io::ErrorKind::Other.into()))
}

fn in_sandbox(pod: &PodView) -> bool {
    let program = pod.record.runtime.program.as_ref();
    program.is_some_and(|program| program.kind == RuntimeKind::Sandbox)
}

/// Moves the calling thread, which must end after what it does there.
pub(crate) fn enter(netns: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let file = rustix::fs::open(netns, flags, Mode::empty())?;
    // The kind is checked: a path where nothing is mounted any more is an error, not the host.
    namespace::enter(file.as_fd(), Kind::Net)
}

/// One socket for each address. A kernel without IPv6 gives none for those.
fn sockets(addresses: &[IpAddr]) -> io::Result<Vec<(IpAddr, OwnedFd)>> {
    let mut sockets = Vec::new();
    for &address in addresses {
        let family = match address {
            IpAddr::V4(_) => AddressFamily::INET,
            IpAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        match rustix::net::socket_with(family, SocketType::STREAM, flags, None) {
            Ok(socket) => sockets.push((address, socket)),
            Err(Errno::AFNOSUPPORT) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(sockets)
}
