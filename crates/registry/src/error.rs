//! Everything that can go wrong while pulling, by what a caller does about it.

use std::fmt;
use std::time::Duration;

use model::{Digest, Platform};

use crate::HostsError;

/// What was asked for when something failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A manifest or index, by tag or digest.
    Manifest(String),
    /// A blob: a layer or an image configuration.
    Blob(Digest),
    /// A token of the registry's token service.
    Token,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(name) => write!(f, "manifest {name}"),
            Self::Blob(digest) => write!(f, "blob {digest}"),
            Self::Token => f.write_str("access token"),
        }
    }
}

/// Why a document of a registry cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Not the JSON that was expected.
    #[error("it is not valid JSON of its kind")]
    Json(#[from] serde_json::Error),
    /// It reads as an index and as a manifest at once, so its digest would name two images.
    #[error("it is an index and a manifest at once")]
    Ambiguous,
    /// The token service answered without a token.
    #[error("it holds no token")]
    NoToken,
}

/// Why a registry did not give what was asked for. Causes are in `source()`.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry does not have it.
    #[error("{what} not found at {host}")]
    NotFound {
        /// What was asked for.
        what: Subject,
        /// Which registry answered.
        host: String,
    },
    /// Log-in is needed, or was refused.
    #[error("{host} refuses access to {what}{}", Detail(detail))]
    Unauthorized {
        /// What was asked for.
        what: Subject,
        /// Which registry or token service answered.
        host: String,
        /// Its own words; may be empty.
        detail: String,
    },
    /// The credentials would have crossed the network in the clear.
    #[error("refusing to send credentials to {host} without TLS")]
    PlainTextCredentials {
        /// The token service.
        host: String,
    },
    /// No connection could be made, or it broke again and again.
    #[error("cannot reach {host}")]
    Unavailable {
        /// Host, and port if one was given.
        host: String,
        /// The cause.
        #[source]
        source: reqwest::Error,
    },
    /// Any other refusal.
    #[error("{host} answered {status} for {what}{}", Detail(detail))]
    Status {
        /// What was asked for.
        what: Subject,
        /// Which host answered.
        host: String,
        /// HTTP status.
        status: u16,
        /// Its own words; may be empty.
        detail: String,
    },
    /// Nothing arrived for too long.
    #[error("{host} sent nothing of {what} for {} s", after.as_secs())]
    Stalled {
        /// What was asked for.
        what: Subject,
        /// Which host is silent.
        host: String,
        /// How long was waited.
        after: Duration,
    },
    /// A redirect that is not followed.
    #[error("{host} redirects {what} {problem}")]
    Redirect {
        /// What was asked for.
        what: Subject,
        /// Which host redirects.
        host: String,
        /// Why it is not followed.
        problem: &'static str,
    },
    /// The content ended early.
    #[error("{host} sent {got} of {expected} bytes of {what}")]
    Truncated {
        /// What was asked for.
        what: Subject,
        /// Which host answered.
        host: String,
        /// Bytes announced.
        expected: u64,
        /// Bytes received.
        got: u64,
    },
    /// The content is longer than announced or allowed.
    #[error("{host} sends more than {limit} bytes of {what}")]
    TooLarge {
        /// What was asked for.
        what: Subject,
        /// Which host answered.
        host: String,
        /// The limit, bytes.
        limit: u64,
    },
    /// The content is not what its digest names.
    #[error("{host} sent content of digest {found} for {what}")]
    DigestMismatch {
        /// What was asked for.
        what: Subject,
        /// Which host answered.
        host: String,
        /// The digest of what came.
        found: Digest,
    },
    /// A kind of manifest, configuration or layer that is no container image knarr runs.
    #[error("{what} is of unsupported type `{media_type}`{}", hint(media_type))]
    UnsupportedMediaType {
        /// What was asked for.
        what: Subject,
        /// Its media type.
        media_type: String,
    },
    /// The image is not built for this platform.
    #[error("{what} is not offered for {wanted}, only for: {}", list(offered))]
    UnsupportedPlatform {
        /// What was asked for.
        what: Subject,
        /// The platform needed.
        wanted: Box<Platform>,
        /// The platforms there are.
        offered: Vec<Platform>,
    },
    /// A document that cannot be understood.
    #[error("{what} from {host} cannot be understood")]
    Malformed {
        /// What was asked for.
        what: Subject,
        /// Which host sent it.
        host: String,
        /// What is wrong.
        #[source]
        source: Malformed,
    },
    /// The operator's settings for this registry cannot be used.
    #[error("settings of registry {host} cannot be used")]
    Hosts {
        /// The registry.
        host: String,
        /// What is wrong.
        #[source]
        source: HostsError,
    },
    /// The program is shutting down.
    #[error("interrupted by shutdown")]
    ShuttingDown,
}

struct Detail<'a>(&'a str);

impl fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, ": {}", self.0) }
    }
}

fn list(offered: &[Platform]) -> String {
    if offered.is_empty() {
        return "no platform at all".into();
    }
    offered.iter().map(Platform::to_string).collect::<Vec<_>>().join(", ")
}

fn hint(media_type: &str) -> &'static str {
    if media_type.contains("manifest.v1") {
        "; schema 1 images must be pushed again in a current format"
    } else if media_type.contains(".foreign.") || media_type.contains(".nondistributable.") {
        "; it is a foreign layer, which the registry itself does not hold"
    } else {
        ""
    }
}
