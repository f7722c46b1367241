//! TLS of the streaming server: certificate, key and client authority from files, read again when
//! they change.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;

use super::{TlsError, authorities, certificates, private_key};

/// Files for TLS, all PEM. They may be replaced at any time: connections made later use the new ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate and those between it and its authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// If given, clients need a certificate of one of these authorities.
    pub client_ca: Option<PathBuf>,
}

/// The configuration as the files last were.
#[derive(Debug)]
pub(crate) struct Reloading {
    files: TlsFiles,
    current: Mutex<(Stamp, Arc<ServerConfig>)>,
}

/// What tells that a file was replaced or rewritten: inode, change time and length of each.
type Stamp = [Option<(u64, i64, i64, u64)>; 3];

impl Reloading {
    /// Reads the files. Blocks.
    pub(crate) fn load(files: TlsFiles) -> Result<Self, TlsError> {
        let stamp = files.stamp();
        let config = files.config()?;
        Ok(Self { files, current: Mutex::new((stamp, Arc::new(config))) })
    }

    /// The configuration for the next connection. Blocks on the files' metadata. Files that cannot be
    /// used leave the last good configuration in place: half-written ones are seen on every renewal.
    pub(crate) fn current(&self) -> Arc<ServerConfig> {
        let stamp = self.files.stamp();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 != stamp {
            match self.files.config() {
                Ok(config) => current.1 = Arc::new(config),
                Err(error) => tracing::warn!(
                    error = %crate::session::chain(&error),
                    "the streaming server keeps its old certificate"
                ),
            }
            current.0 = stamp;
        }
        Arc::clone(&current.1)
    }
}

impl TlsFiles {
    fn stamp(&self) -> Stamp {
        let of = |path: &Path| {
            let file = fs::metadata(path).ok()?;
            Some((file.ino(), file.ctime(), file.ctime_nsec(), file.len()))
        };
        [of(&self.certificate), of(&self.key), self.client_ca.as_deref().and_then(of)]
    }

    fn config(&self) -> Result<ServerConfig, TlsError> {
        let unusable =
            |source| TlsError::Unusable { certificate: self.certificate.clone(), source };
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(authorities(path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|source| TlsError::ClientCa { path: path.clone(), source })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder
            .with_single_cert(certificates(&self.certificate)?, private_key(&self.key)?)
            .map_err(unusable)?;
        // HTTP/2 has no such upgrades.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}
