//! The Kubernetes Container Runtime Interface `runtime.v1`: generated protobuf, nothing else.
//!
//! Only `cri-server` and `cli` may name these types; everything behind them speaks `model`.
//! Regenerate with `cargo xtask generate` after editing `proto/runtime.v1.proto`.
#![forbid(unsafe_code)]

/// Messages and clients of package `runtime.v1`.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    elided_lifetimes_in_paths,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code"
)]
pub mod v1 {
    include!("generated.rs");
    #[cfg(feature = "json")]
    include!("generated_json.rs");

    /// Credentials are never printed: only whether they are present.
    impl std::fmt::Debug for AuthConfig {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            let set = |value: &str| {
                if value.is_empty() { "unset" } else { "<redacted>" }
            };
            f.debug_struct("AuthConfig")
                .field("username", &self.username)
                .field("password", &set(&self.password))
                .field("auth", &set(&self.auth))
                .field("server_address", &self.server_address)
                .field("identity_token", &set(&self.identity_token))
                .field("registry_token", &set(&self.registry_token))
                .finish()
        }
    }
}

/// Servers of package `runtime.v1`, with every message of [`v1`]. Only that the items of containers' and pods'
/// lists are already encoded [`v1::Container`] and [`v1::PodSandbox`]: on the wire that is the same.
#[cfg(feature = "server")]
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    elided_lifetimes_in_paths,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code"
)]
pub mod server {
    pub use crate::v1::*;

    include!("generated_server.rs");
}

/// Messages, clients and servers of package `knarr.v1`: what the CRI has no words for.
#[allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    elided_lifetimes_in_paths,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated code"
)]
pub mod knarr {
    include!("generated_knarr.rs");
    #[cfg(feature = "json")]
    include!("generated_knarr_json.rs");

    /// Credentials are never printed.
    impl std::fmt::Debug for Login {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Login(redacted)")
        }
    }
}
