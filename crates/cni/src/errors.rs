//! What can go wrong with attaching, checking and detaching.

use std::io;
use std::path::PathBuf;

use model::SandboxId;

use crate::attachment::RequestError;
use crate::builtin::BuiltInError;
use crate::cache::CacheError;
use crate::conf::ConfError;
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
    /// A network that the pod asks for has no usable configuration.
    #[error("cannot attach sandbox {sandbox} to the networks it asks for")]
    Network {
        /// The sandbox.
        sandbox: SandboxId,
        /// Why.
        #[source]
        source: ConfError,
    },
    /// The pod asks for what it cannot have, or what cannot be passed to plugins.
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
    #[error("network `{network}` gave sandbox {sandbox} no address on {interface}")]
    NoAddress {
        /// The sandbox.
        sandbox: SandboxId,
        /// The network.
        network: String,
        /// The pod's interface.
        interface: String,
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

/// Why a pod's attachment is not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// There is no record of it.
    #[error("sandbox {container} is not attached to any network")]
    NotAttached {
        /// The sandbox.
        container: String,
    },
    /// The attachment's record cannot be read.
    #[error("cannot check the network of sandbox {container}")]
    Cache {
        /// The sandbox.
        container: String,
        /// The cache entry.
        #[source]
        source: CacheError,
    },
    /// The configuration in the attachment's record is unusable.
    #[error("cannot check the network of sandbox {container}")]
    Recorded {
        /// The sandbox.
        container: String,
        /// Why.
        #[source]
        source: Box<DelError>,
    },
    /// The sandbox has no network namespace.
    #[error("sandbox {container} has no network namespace at {}", path.display())]
    NoNamespace {
        /// The sandbox.
        container: String,
        /// Where it should be.
        path: PathBuf,
        /// The errno, if it was more than absent.
        #[source]
        source: Option<io::Error>,
    },
    /// A plugin finds something missing or changed.
    #[error("the attachment of sandbox {container} to network `{network}` is not as it was made")]
    Plugin {
        /// The sandbox.
        container: String,
        /// The network.
        network: String,
        /// The plugin and what it says.
        #[source]
        source: Box<PluginError>,
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
    /// More than one network failed.
    #[error("cannot detach sandbox {container} from {} of its networks; also: {}",
        others.len() + 1, others.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several {
        /// The sandbox.
        container: String,
        /// The first failure.
        #[source]
        first: Box<DelError>,
        /// The others.
        others: Vec<DelError>,
    },
}

impl DelError {
    /// Success, the one failure, or all of them together.
    pub(crate) fn all(container: &str, failed: Vec<Self>) -> Result<(), Self> {
        let mut failed = failed.into_iter();
        let Some(first) = failed.next() else { return Ok(()) };
        let others: Vec<Self> = failed.collect();
        if others.is_empty() {
            return Err(first);
        }
        let container = container.to_owned();
        Err(Self::Several { container, first: Box::new(first), others })
    }
}
