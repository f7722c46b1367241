//! Pull client for the OCI distribution API (and Docker's dialect of it).
//!
//! It turns a reference and credentials into verified bytes: which hosts to ask (`hosts.toml`),
//! how to log in, the manifest of one platform, and blobs as streams that survive a broken
//! connection. One [`Session`] serves one pull; tokens and connections live in it and end with
//! it, so nothing obtained with one set of credentials ever serves another.
//!
//! Never here: disk storage, unpacking, pushing. Request credentials go to the hosts an operator
//! configured for the reference and to the token service these name, never across a redirect.
//!
//! Main types: [`Client`], [`Session`], [`Credentials`], [`Descriptor`], [`ImageManifest`],
//! [`BlobStream`], [`RegistryError`].
#![forbid(unsafe_code)]

mod auth;
mod blob;
mod config;
mod credentials;
mod docker_config;
mod endpoint;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod hosts;
mod manifest;
mod platform;
mod retry;
mod session;
#[cfg(feature = "testing")]
pub mod testing;
mod tls;
mod transport;

pub use blob::BlobStream;
pub use config::{Config, Retry};
pub use credentials::Credentials;
pub use error::{Malformed, RegistryError, Subject};
pub use hosts::HostsError;
pub use manifest::{
    Descriptor, ImageManifest, LayerFormat, Manifest, ManifestError, MediaType, Picked, pick,
};
pub use session::{Client, Session};

/// The SHA-256 digest of `bytes`.
pub fn digest_of(bytes: &[u8]) -> model::Digest {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    model::Digest::from_sha256(hash)
}
