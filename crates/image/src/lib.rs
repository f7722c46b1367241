//! Images on this node: which there are, by which names, and how they come and go.
//!
//! A pull is one streaming pass per layer, registry to sealed directory, several layers at once.
//! An image exists from the moment its record is durable, which is after all its layers are; a
//! removed image loses its names at once and its layers when nothing uses them any more. Reads
//! ([`Images::list`], [`Images::resolve`]) answer from an immutable snapshot and never wait.
//!
//! Never here: HTTP, tar, mounts, the CRI's types, decisions about which image to remove.
//!
//! Main types: [`Images`], [`Image`], [`ImageLease`], [`PullError`], [`PullProgress`]. Without a store:
//! [`make_rootfs`].
#![forbid(unsafe_code)]

mod accounts;
mod archive;
mod catalog;
mod collect;
mod config;
mod error;
mod image;
mod images;
mod partial;
mod pinned;
mod progress;
mod publish;
mod pull;
mod record;
mod rootfs;
mod slots;
mod tag;
mod unpack;
mod unusable;
mod usage;
mod verifiers;
mod verify;

pub use accounts::{Accounts, AccountsError};
pub use archive::{ArchiveStream, LayerSource, LoadError, Loaded, SaveError};
pub use catalog::ResolveError;
pub use collect::{CollectError, Collected, FsUsage, LayerUsers};
pub use config::ConfigError;
pub use error::{LayerError, OpenError, PullError, RemoveError};
pub use image::Image;
pub use images::{Config, ImageLease, Images};
pub use layer::Limits;
pub use progress::{LayerProgress, PullProgress, Stage};
pub use registry::Credentials;
pub use rootfs::{MergeError, RootfsError, Source, make_rootfs};
pub use snapshot::{LayerUsage, LayerVerdict};
pub use tag::TagError;
pub use unusable::{Recorded, Unusable, recorded};
pub use usage::{ImageDetails, StoreUsage};
pub use verifiers::{VerifierError, Verifiers};
pub use verify::{RepairError, Repaired, VerifyError};
