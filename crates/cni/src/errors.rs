//! What can go wrong with attaching and detaching.

use std::io;
use std::path::PathBuf;

use model::SandboxId;

use crate::attachment::RequestError;
use crate::builtin::BuiltInError;
use crate::cache::CacheError;
use crate::conf::ConfError;
use crate::engine::IFNAME;
use crate::invoke::PluginError;

/// Why a pod could not be attached. Nothing of the attempt is left, unless a warning in the log
/// says so.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// There is no usable network configuration.
    #[error("cannot attach sandbox {sandbox}: cni plugin not initialized")]
    Configuration {
        /// The sandbox.
        sandbox: SandboxId,
        /// Why.
        #[source]
        source: ConfError,
    },
    /// The pod asks for what cannot be passed to plugins.
    #[error("cannot attach sandbox {sandbox}")]
    Request {
        /// The sandbox.
        sandbox: SandboxId,
        /// What.
        #[source]
        source: RequestError,
    },
    /// The sandbox has no network namespace.
    #[error("cannot attach sandbox {sandbox}: no network namespace at {}", path.display())]
    NoNamespace {
        /// The sandbox.
        sandbox: SandboxId,
        /// Where it should be.
        path: PathBuf,
        /// The errno, if it was more than absent.
        #[source]
        source: Option<io::Error>,
    },
    /// A plugin failed.
    #[error("cannot attach sandbox {sandbox} to network `{network}`")]
    Plugin {
        /// The sandbox.
        sandbox: SandboxId,
        /// The network.
        network: String,
        /// The plugin and its error.
        #[source]
        source: Box<PluginError>,
    },
    /// The plugins gave the pod no address.
    #[error("network `{network}` gave sandbox {sandbox} no address on {IFNAME}")]
    NoAddress {
        /// The sandbox.
        sandbox: SandboxId,
        /// The network.
        network: String,
    },
    /// The attachment cannot be recorded.
    #[error("cannot record the attachment of sandbox {sandbox}")]
    Cache {
        /// The sandbox.
        sandbox: SandboxId,
        /// The cache entry.
        #[source]
        source: CacheError,
    },
}

/// Why a pod could not be detached. It stays attached and its address stays reserved; try again.
#[derive(Debug, thiserror::Error)]
pub enum DelError {
    /// A plugin failed.
    #[error("cannot detach sandbox {container} from network `{network}`")]
    Plugin {
        /// The sandbox.
        container: String,
        /// The network.
        network: String,
        /// The plugin and its error.
        #[source]
        source: Box<PluginError>,
    },
    /// The attachment's record cannot be read or removed.
    #[error("cannot detach sandbox {container}")]
    Cache {
        /// The sandbox.
        container: String,
        /// The cache entry.
        #[source]
        source: CacheError,
    },
    /// The address could not be released.
    #[error("cannot release the address of sandbox {container} in network `{network}`")]
    Release {
        /// The sandbox.
        container: String,
        /// The network.
        network: String,
        /// Why.
        #[source]
        source: BuiltInError,
    },
    /// The configuration in the attachment's record is unusable.
    #[error("cannot detach sandbox {container}: its recorded configuration is unusable")]
    Recorded {
        /// The sandbox.
        container: String,
        /// Why.
        #[source]
        source: ConfError,
    },
    /// It cannot be found out whether the network namespace still exists.
    #[error("cannot detach sandbox {container}: cannot open its network namespace {}", path.display())]
    Namespace {
        /// The sandbox.
        container: String,
        /// The pin.
        path: PathBuf,
        /// The errno.
        #[source]
        source: io::Error,
    },
}
