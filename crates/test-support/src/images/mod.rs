//! OCI images made in this process, out of Debian's own files.

mod build;
pub mod catalog;
mod debian;
mod layer;

pub use build::{ImageBuilder, Manifest, OciImage};
pub use layer::{Blob, Compression, Layer, LayerBuilder};

/// `sha256:<hex>` of `bytes`.
pub fn digest(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(bytes);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
