//! A session at our own standard streams.

use std::{
    future::pending,
    io::{IsTerminal as _, Write},
    time::Duration,
};

use streaming::client::{ClientProcess, Reader, Verdict, Writer};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    input::Input,
    keys::{DetachKeys, Typed},
    terminal::{self, Raw},
};
use crate::{Error, Io};

/// For the goodbye to go out.
const GOODBYE: Duration = Duration::from_secs(1);

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// As the runtime says.
    Told(Verdict),
    /// By the detach keys.
    Detached,
    /// By a signal to us.
    Signaled(u8),
}

/// Connects our standard streams with the process until it has ended. With `tty` and a terminal of
/// our own that is raw for so long.
///
/// # Errors
/// [`Error`]. The terminal is as it was before.
pub(crate) async fn run(
    process: ClientProcess,
    io: &mut Io<'_>,
    tty: bool,
    detach: DetachKeys,
) -> Result<Ended, Error> {
    let ClientProcess { mut driver, stdin, stdout, stderr, sizes, mut end } = process;
    let interactive = stdin.is_some();
    let raw = tty && interactive && std::io::stdin().is_terminal();
    let _raw = raw.then(Raw::enter).transpose().map_err(Error::Terminal)?;
    let signals = Signals::watch(raw).map_err(Error::Start)?;
    let Io { out, err, .. } = io;
    let mut connected = true;
    let ended = {
        // The end of the connection is seen by those who wait for something on it.
        let driven = async {
            (&mut driver).await;
            connected = false;
            pending::<()>().await;
        };
        let all = async {
            let (out, err, verdict) =
                tokio::join!(copy(stdout, out), copy(stderr, err), end.verdict());
            out.and(err)?;
            Ok::<_, Error>(Ended::Told(verdict?))
        };
        let typed = async {
            match stdin {
                Some(writer) => feed(writer, tty, raw.then_some(detach)).await,
                None => pending().await,
            }
        };
        // Boxed: together they are large, and there is one session at a time.
        let (driven, all, typed) = (Box::pin(driven), Box::pin(all), Box::pin(typed));
        tokio::select! {
            ended = all => ended,
            ended = typed => ended,
            number = signals.wait(sizes) => Ok(Ended::Signaled(number)),
            () = driven => Err(Error::Session("the connection is gone".into())),
        }
    };
    end.close();
    if connected {
        // Whatever comes of it: we have the end.
        let _late = tokio::time::timeout(GOODBYE, driver).await.is_err();
    }
    ended
}

async fn copy(reader: Option<Reader>, to: &mut dyn Write) -> Result<(), Error> {
    let Some(mut reader) = reader else { return Ok(()) };
    while let Some(bytes) = reader.next().await {
        to.write_all(&bytes).and_then(|()| to.flush()).map_err(Error::Output)?;
    }
    Ok(())
}

/// Passes on what is typed. Only detaching ends it.
async fn feed(
    mut writer: Writer,
    tty: bool,
    mut detach: Option<DetachKeys>,
) -> Result<Ended, Error> {
    let mut input = Input::open().map_err(Error::Input)?;
    loop {
        let bytes = input.next().await.map_err(Error::Input)?;
        if bytes.is_empty() {
            break;
        }
        let (bytes, detached) = match detach.as_mut().map(|keys| keys.take(&bytes)) {
            None => (bytes, false),
            Some(Typed::Send(bytes)) => (bytes, false),
            Some(Typed::Detach(bytes)) => (bytes, true),
        };
        // A process that takes no more input goes on without it.
        if writer.write_all(&bytes).await.is_err() {
            break;
        }
        if detached {
            return Ok(Ended::Detached);
        }
    }
    if !tty {
        writer.finish();
    }
    pending().await
}

/// Signals that would otherwise end us with the terminal still raw, and changes of its size.
struct Signals {
    ending: Option<[(Signal, u8); 3]>,
    window: Signal,
}

impl Signals {
    fn watch(raw: bool) -> std::io::Result<Self> {
        let one = |kind: SignalKind| {
            Ok::<_, std::io::Error>((signal(kind)?, u8::try_from(kind.as_raw_value()).unwrap_or(0)))
        };
        let all = || {
            Ok::<_, std::io::Error>([
                one(SignalKind::hangup())?,
                one(SignalKind::interrupt())?,
                one(SignalKind::terminate())?,
            ])
        };
        let ending = raw.then(all).transpose()?;
        Ok(Self { ending, window: signal(SignalKind::window_change())? })
    }

    /// Tells the process each size of our terminal, until a signal ends us.
    async fn wait(self, mut sizes: Option<Writer>) -> u8 {
        let Self { ending, mut window } = self;
        let resize = async {
            while let Some(writer) = &mut sizes {
                if let Some(size) = terminal::size()
                    && writer.resize(size).await.is_err()
                {
                    break;
                }
                if window.recv().await.is_none() {
                    break;
                }
            }
            pending::<()>().await;
        };
        let ended = async {
            let Some([(mut hangup, h), (mut interrupt, i), (mut terminate, t)]) = ending else {
                return pending().await;
            };
            tokio::select! {
                _ = hangup.recv() => h,
                _ = interrupt.recv() => i,
                _ = terminate.recv() => t,
            }
        };
        tokio::select! {
            number = ended => number,
            () = resize => 0,
        }
    }
}
