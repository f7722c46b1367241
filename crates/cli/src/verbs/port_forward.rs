//! `knarr port-forward`

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};

use cri_api::v1;
use streaming::client::{ForwardError, Forwarder};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

use crate::{
    Error, Io,
    client::{Client, Limit},
    resolve::Inventory,
    stream::StreamArgs,
};

/// Forward local ports to ports in a pod, until interrupted
#[derive(Debug, clap::Args)]
pub struct PortForward {
    /// Local address to listen at [default: 127.0.0.1 and ::1]
    #[arg(long, value_name = "IP")]
    bind: Vec<IpAddr>,
    #[command(flatten)]
    stream: StreamArgs,
    /// Pod: id, beginning of an id, NAME or NAMESPACE/NAME
    pod: String,
    /// LOCAL:REMOTE, or one number for both; without LOCAL (`:80`) any free port
    #[arg(required = true, value_name = "PORTS")]
    ports: Vec<Ports>,
}

/// A local port and one in the pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ports {
    /// 0: any.
    local: u16,
    remote: u16,
}

/// Why a text names no ports.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("want LOCAL:REMOTE, :REMOTE or PORT, with ports from 1 to 65535")]
struct PortsError;

impl FromStr for Ports {
    type Err = PortsError;

    fn from_str(text: &str) -> Result<Self, PortsError> {
        let number = |text: &str| text.parse::<u16>().map_err(|_| PortsError);
        let (local, remote) = match text.split_once(':') {
            None => (number(text)?, number(text)?),
            Some(("", remote)) => (0, number(remote)?),
            Some((local, remote)) => (number(local)?, number(remote)?),
        };
        if remote == 0 { Err(PortsError) } else { Ok(Self { local, remote }) }
    }
}

/// A connection somebody made to a local port.
struct Accepted {
    remote: u16,
    connection: TcpStream,
}

impl PortForward {
    /// Forwards until the runtime ends the session.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn run(self, client: &Client, io: &mut Io<'_>) -> Result<u8, Error> {
        let pod = Inventory::fetch(client).await?.pod(&self.pod)?;
        // First ours: a port that is taken needs no session.
        let mut listeners = Vec::new();
        for ports in &self.ports {
            listeners.extend(self.listen(*ports).await?);
        }
        let request = v1::PortForwardRequest {
            pod_sandbox_id: pod.id.clone(),
            port: self.ports.iter().map(|ports| i32::from(ports.remote)).collect(),
        };
        let doing = format!("forward ports of pod {}", pod.full_name());
        let mut runtime = client.runtime();
        let answer = client.call(doing, Limit::Standard, runtime.port_forward(request)).await?;
        if answer.url.is_empty() {
            return Err(Error::Incomplete { rpc: "PortForward", field: "url" });
        }
        let (forwarder, driver) = Forwarder::connect(&answer.url, self.stream).await?;
        for (listener, remote) in &listeners {
            let local = listener.local_addr().map_err(Error::Start)?;
            io.line(format_args!("{local} -> {remote}"))?;
        }
        io.out.flush().map_err(Error::Output)?;
        let forwarding = Box::pin(forward(listeners, Arc::new(forwarder), io));
        tokio::select! {
            done = forwarding => done,
            () = driver => Err(Error::Session("the runtime ended the port-forward".into())),
        }
    }

    /// One listener per address. A machine without IPv6 does without.
    async fn listen(&self, ports: Ports) -> Result<Vec<(TcpListener, u16)>, Error> {
        let Ports { mut local, remote } = ports;
        let default = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        let given = !self.bind.is_empty();
        let addresses = if given { &self.bind[..] } else { &default };
        let mut listeners = Vec::new();
        let mut failed = None;
        for ip in addresses {
            let address = SocketAddr::new(*ip, local);
            match TcpListener::bind(address).await {
                Ok(listener) => {
                    local = listener.local_addr().map_err(Error::Start)?.port();
                    listeners.push((listener, remote));
                }
                Err(source) if !given && source.kind() == std::io::ErrorKind::AddrNotAvailable => {
                    failed = Some(Error::Listen { address, source });
                }
                Err(source) => return Err(Error::Listen { address, source }),
            }
        }
        match failed {
            Some(error) if listeners.is_empty() => Err(error),
            Some(_) | None => Ok(listeners),
        }
    }
}

/// Accepts and forwards. What fails for one connection is told and is no reason to end.
async fn forward(
    listeners: Vec<(TcpListener, u16)>,
    forwarder: Arc<Forwarder>,
    io: &mut Io<'_>,
) -> Result<u8, Error> {
    let (accepted, mut arriving) = mpsc::channel::<Accepted>(1);
    let mut accepting = JoinSet::new();
    for (listener, remote) in listeners {
        let accepted = accepted.clone();
        accepting.spawn(async move {
            loop {
                let (connection, _) = listener.accept().await?;
                if accepted.send(Accepted { remote, connection }).await.is_err() {
                    return std::io::Result::Ok(());
                }
            }
        });
    }
    drop(accepted);
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            Some(Accepted { remote, connection }) = arriving.recv() => {
                let forwarder = Arc::clone(&forwarder);
                running.spawn(async move {
                    (remote, forwarder.forward(remote, connection).await)
                });
            }
            Some(done) = running.join_next() => match done {
                Ok((_, Ok(()))) => {}
                Ok((remote, Err(error))) => tell(io, remote, &error)?,
                Err(panicked) => return Err(Error::Session(panicked.to_string())),
            },
            Some(stopped) = accepting.join_next() => match stopped {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Err(Error::Start(error)),
                Err(panicked) => return Err(Error::Session(panicked.to_string())),
            },
        }
    }
}

fn tell(io: &mut Io<'_>, remote: u16, error: &ForwardError) -> Result<(), Error> {
    io.note(format_args!("connection to port {remote}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_read_in_each_form() {
        for (text, local, remote) in
            [("80", 80, 80), ("8080:80", 8080, 80), (":80", 0, 80), ("0:80", 0, 80)]
        {
            assert_eq!(text.parse(), Ok(Ports { local, remote }), "{text}");
        }
        for text in ["", ":", "80:", "x:80", "80:0", "0", "70000", "1:2:3", "-1"] {
            assert_eq!(text.parse::<Ports>(), Err(PortsError), "{text}");
        }
    }
}
