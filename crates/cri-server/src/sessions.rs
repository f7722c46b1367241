//! What streaming sessions need, from the pods: the two halves of an exec, attach or port-forward
//! that meet in descriptors.

use model::{SandboxId, Signal};
use sandbox::{AttachEnding, AttachHold, ExecHold, Sandboxes, Session, chain};
use streaming::{
    AttachRequest, Backend, BackendError, BoxFuture, Ending, ExecRequest, Process, ProcessControl,
    Streams, TerminalSize,
};
use tokio::net::TcpStream;

/// Sessions over the daemon's pods.
#[derive(Debug, Clone)]
pub struct PodSessions(pub Sandboxes);

impl Backend for PodSessions {
    fn exec(&self, request: ExecRequest) -> BoxFuture<'_, Result<Process, BackendError>> {
        Box::pin(async move {
            sys::descriptors::room().map_err(BackendError::new)?;
            let ExecRequest { container, command, streams } = request;
            let session = self.0.exec(container.as_str(), command, wanted(streams)).await;
            session.map(|session| process(session, ExecControl)).map_err(BackendError::new)
        })
    }

    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Process, BackendError>> {
        Box::pin(async move {
            sys::descriptors::room().map_err(BackendError::new)?;
            let AttachRequest { container, streams } = request;
            let session = self.0.attach(container.as_str(), wanted(streams)).await;
            session.map(|session| process(session, AttachControl)).map_err(BackendError::new)
        })
    }

    fn connect(
        &self,
        sandbox: SandboxId,
        port: u16,
    ) -> BoxFuture<'_, Result<TcpStream, BackendError>> {
        Box::pin(async move {
            sys::descriptors::room().map_err(BackendError::new)?;
            self.0.connect(sandbox.as_str(), port).await.map_err(BackendError::new)
        })
    }
}

fn process<H, C: ProcessControl + 'static>(
    session: Session<H>,
    control: impl FnOnce(H) -> C,
) -> Process {
    let Session { stdin, stdout, stderr, hold } = session;
    Process { stdin, stdout, stderr, control: Box::new(control(hold)) }
}

fn wanted(streams: Streams) -> sandbox::Streams {
    sandbox::Streams {
        stdin: streams.stdin(),
        stdout: streams.stdout(),
        stderr: streams.stderr(),
        tty: streams.tty(),
    }
}

#[derive(Debug)]
struct ExecControl(ExecHold);

impl ProcessControl for ExecControl {
    fn resize(&self, size: TerminalSize) -> BoxFuture<'_, Result<(), BackendError>> {
        let resized = self.0.resize(size.width, size.height).map_err(BackendError::new);
        Box::pin(std::future::ready(resized))
    }

    /// Its pipe has no other writer: closing it was enough.
    fn close_stdin(&self) -> BoxFuture<'_, Result<(), BackendError>> {
        Box::pin(std::future::ready(Ok(())))
    }

    fn wait(&self) -> BoxFuture<'_, Ending> {
        Box::pin(async {
            match self.0.wait().await {
                Ok(exit) => ending(exit.code, exit.signal),
                Err(error) => Ending::Lost(chain(&error)),
            }
        })
    }
}

/// The kernel's numbers fit; others would be the shim's mistake and are not made up.
fn ending(code: i32, signal: Option<i32>) -> Ending {
    if let Some(Ok(signal)) = signal.map(Signal::from_number) {
        return Ending::Signaled(signal);
    }
    match u8::try_from(code) {
        Ok(code) => Ending::Exited(code),
        Err(_) => Ending::Lost(format!("it ended with the impossible code {code}")),
    }
}

#[derive(Debug)]
struct AttachControl(AttachHold);

impl ProcessControl for AttachControl {
    fn resize(&self, size: TerminalSize) -> BoxFuture<'_, Result<(), BackendError>> {
        Box::pin(
            async move { self.0.resize(size.width, size.height).await.map_err(BackendError::new) },
        )
    }

    fn close_stdin(&self) -> BoxFuture<'_, Result<(), BackendError>> {
        Box::pin(async { self.0.close_stdin().await.map_err(BackendError::new) })
    }

    /// How the container ended is asked for elsewhere.
    fn wait(&self) -> BoxFuture<'_, Ending> {
        Box::pin(async {
            match self.0.wait().await {
                AttachEnding::ContainerEnded | AttachEnding::Detached => Ending::Exited(0),
                AttachEnding::TooSlow => Ending::Lost(
                    "too much output was left unread; what came since is in the container's log"
                        .to_owned(),
                ),
                AttachEnding::ShimGone(error) => Ending::Lost(chain(&error)),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_as_they_were() {
        assert_eq!(ending(0, None), Ending::Exited(0));
        assert_eq!(ending(255, None), Ending::Exited(255));
        assert_eq!(ending(137, Some(9)), Ending::Signaled(Signal::KILL));
        assert!(matches!(ending(-1, None), Ending::Lost(_)));
    }
}
