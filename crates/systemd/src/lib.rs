//! systemd as a maker of control groups: transient scopes, asked for over D-Bus.
//!
//! Only what that takes is here, and it is blocking: a connection per request, made to systemd's own
//! socket, so that no bus has to run. Which cgroups there are and what is put into them is for
//! others to say.
//!
//! Main types: [`Manager`], [`Scope`], [`Property`].
#![forbid(unsafe_code)]

mod bus;
mod error;
mod manager;
mod properties;
#[cfg(test)]
mod testing;
mod wire;

pub use error::SystemdError;
pub use manager::{Manager, Scope, is_running};
pub use properties::{Property, of_settings};
