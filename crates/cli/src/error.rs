//! What a verb can fail with.

use std::{io, path::PathBuf};

use crate::{
    client::{ConnectError, RpcError},
    logs::LogError,
    pod::ManifestError,
    resolve::ResolveError,
    run::RunError,
    volumes::VolumeError,
};

/// Why a verb failed. Printed once, by the binary, with its causes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// A request failed.
    #[error(transparent)]
    Rpc(#[from] RpcError),
    /// An id or name names nothing, or too much.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// A log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A pod's YAML is not accepted.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// A pod was not brought up.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A pod's volumes cannot be made or removed.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// A running object would have to be removed.
    #[error("{kind} {name} is running: stop it first, or use `rm --force`")]
    Running {
        /// `pod` or `container`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// No streaming session.
    #[error(transparent)]
    Stream(#[from] streaming::client::ConnectError),
    /// A session's end is not known.
    #[error(transparent)]
    Verdict(#[from] streaming::client::VerdictError),
    /// Streams that do not go together.
    #[error(transparent)]
    Streams(#[from] streaming::StreamsError),
    /// Keys that are none.
    #[error(transparent)]
    Keys(#[from] crate::stream::keys::KeysError),
    /// No runtime does this.
    #[error("`{verb}` is done by the knarr program, not by a runtime")]
    NotOfARuntime {
        /// What was asked for.
        verb: &'static str,
    },
    /// A session failed, in the runtime's words.
    #[error("{0}")]
    Session(String),
    /// Our terminal does not do as told.
    #[error("cannot make the terminal raw")]
    Terminal(#[source] io::Error),
    /// Our standard input cannot be read.
    #[error("cannot read standard input")]
    Input(#[source] io::Error),
    /// A local address cannot be listened at.
    #[error("cannot listen at {address}")]
    Listen {
        /// Which.
        address: std::net::SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Some of several objects could not be treated; each was reported.
    #[error("{failed} of {of} could not be {done}")]
    Some {
        /// How many failed.
        failed: usize,
        /// How many were asked for.
        of: usize,
        /// `stopped`, `removed`.
        done: &'static str,
    },
    /// The answer lacks what the CRI demands of it.
    #[error("the runtime's answer to {rpc} has no {field}")]
    Incomplete {
        /// The request.
        rpc: &'static str,
        /// The field.
        field: &'static str,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The asynchronous runtime does not start.
    #[error("cannot start")]
    Start(#[source] io::Error),
    /// The output is gone.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// An answer has no JSON form.
    #[error("cannot write the answer as JSON")]
    Json(#[source] serde_json::Error),
    /// An answer has no YAML form.
    #[error("cannot write the answer as YAML")]
    Yaml(#[source] serde_saphyr::ser::Error),
    /// Credentials are not `USER:PASSWORD`.
    #[error("credentials are given as USER:PASSWORD")]
    Credentials,
}

impl Error {
    /// The reader of the output went away: `knarr ps | head -1`. Not worth a word.
    #[must_use]
    pub fn is_broken_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}
