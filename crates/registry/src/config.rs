//! How the client behaves towards every registry.

use std::path::PathBuf;
use std::time::Duration;

/// Settings of a [`crate::Client`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Directories that hold `<host>/hosts.toml`; the first that knows a host decides. They are
    /// read again at each pull.
    pub hosts_dirs: Vec<PathBuf>,
    /// Docker's `config.json`, whose credentials and helpers serve pulls that bring none. It is
    /// read again at each pull.
    pub docker_config: Option<PathBuf>,
    /// Longest wait for a credential helper.
    pub helper_timeout: Duration,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the next byte of an answer. There is no limit on the whole transfer.
    pub stall_timeout: Duration,
    /// How transient failures are repeated.
    pub retry: Retry,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hosts_dirs: vec!["/etc/knarr/certs.d".into(), "/etc/containerd/certs.d".into()],
            docker_config: None,
            helper_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(60),
            retry: Retry::default(),
        }
    }
}

/// Exponential back-off.
#[derive(Debug, Clone, Copy)]
pub struct Retry {
    /// Attempts after the first.
    pub repeats: u32,
    /// Wait before the first repeat; doubled each time, with jitter.
    pub first_wait: Duration,
    /// Longest wait. A server that asks for more is not asked again.
    pub longest_wait: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            repeats: 4,
            first_wait: Duration::from_millis(250),
            longest_wait: Duration::from_secs(30),
        }
    }
}
