//! What can go wrong with a request.

use std::io;
use std::path::PathBuf;

/// Why systemd has not done what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// Nobody listens.
    #[error("cannot connect to systemd at {}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It does not accept who asks.
    #[error("systemd at {} refuses to talk: `{answer}`", path.display())]
    Unwelcome {
        /// The socket.
        path: PathBuf,
        /// What it said.
        answer: String,
    },
    /// The connection broke, or nothing came for too long.
    #[error("systemd gave no answer to {call} of {unit}")]
    Silent {
        /// The method.
        call: &'static str,
        /// The unit it is about.
        unit: String,
        /// How it ended.
        source: io::Error,
    },
    /// An error for an answer.
    #[error("systemd refuses {call} of {unit}: {message} ({name})")]
    Refused {
        /// The method.
        call: &'static str,
        /// The unit it is about.
        unit: String,
        /// D-Bus name of the error.
        name: String,
        /// Its text.
        message: String,
    },
    /// It accepted the job and could not do it.
    #[error("systemd's job for {unit} ended as `{result}`: see `systemctl status {unit}`")]
    Job {
        /// The unit.
        unit: String,
        /// `failed`, `timeout`, `canceled`, `dependency`, …
        result: String,
    },
    /// A limit that it could not be told.
    #[error("systemd cannot be told that {file} is `{value}`")]
    Setting {
        /// The cgroup's file.
        file: String,
        /// What is to be in it.
        value: String,
    },
}
