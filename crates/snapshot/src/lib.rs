//! The layers of images and the writable roots of containers, as directories that overlayfs stacks.
//!
//! A layer is unpacked into an [`Ingest`] and becomes visible by [`Layers::commit`], whole and
//! durable, under its diff id. Images share layers; each is stored once. After a power cut a layer
//! is there with all its content or not at all.
//!
//! Never here: the container's overlay mount (`launch` makes it inside the container's own mount
//! namespace), anything in the host's mount table, networks, async. Every call may block on the
//! disk except [`Layers::contains`], [`Layers::usage`] and [`Layers::list`], which answer from
//! memory.
//!
//! ```text
//! <root>/layers/<diff id, hex>/fs/      the unpacked layer
//! <root>/layers/<diff id, hex>/sealed   says that fs/ is complete, and what it takes
//! <root>/layers/<diff id, hex>/inventory  what fs/ holds, to verify it by
//! <root>/layers/<diff id, hex>/skeleton what of the layer's tar fs/ does not hold
//! <root>/layers/<diff id, hex>/implied  directories in it that have no attributes of their own
//! <root>/fixups/<chain id, hex>/        what lies above a layer in images that need it
//! <root>/retired/<either>.<n>/          replaced, and still used by containers
//! <root>/ingest/<n>/fs/                 being unpacked, or on its way out
//! ```
//!
//! Main types: [`Layers`], [`Ingest`], [`LayerTar`], [`ContainerRoot`], [`Half`], [`read_file_in`].
#![forbid(unsafe_code)]

mod container;
mod fixup;
mod folder;
mod ingest;
mod layers;
mod look;
mod old_kernel;
mod packed;
mod read;
mod retired;
mod sealed;
mod stack;
mod usage;
mod verify;
mod view;

pub use container::{ContainerRoot, Half, RootError};
pub use fixup::FixupError;
pub use ingest::{Ingest, IngestError};
pub use layer::{RemoveTreeError, remove_tree};
pub use layers::{CommitError, Layers, MissingLayer, OpenError, RemoveError};
pub use look::{Found, look};
pub use packed::{LayerTar, LayerTarError};
pub use read::{ReadError, read_file_in};
pub use sealed::LayerUsage;
pub use verify::{LayerVerdict, LayerVerifyError};
pub use view::ViewError;
