//! The Container Device Interface, versions 0.3 to 1.1: what vendors say a container needs to use
//! their devices, and doing that to an OCI spec.
//!
//! Pure: the caller reads the files and tells what is at paths of the host. A device comes from the
//! directory of highest priority that has it; two files of one directory that both define it
//! conflict, and then nobody gets it.
//!
//! Main types: [`DeviceName`] what is asked for, [`Spec`] one file, [`Registry`] all of them,
//! [`Edits`] what a device does. Entry points: [`requested`], [`Spec::parse`], [`Registry::resolve`],
//! [`Injection::apply`].
#![forbid(unsafe_code)]

mod apply;
mod name;
mod registry;
mod spec;
mod validate;
mod version;

pub use apply::{ApplyError, HostNode, NodeKind};
pub use name::{DeviceName, NameError, requested};
pub use registry::{Injection, Registry, SpecFile, Unresolved};
pub use spec::{Edits, Format, Spec, SpecError};
