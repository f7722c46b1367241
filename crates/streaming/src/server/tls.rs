//! TLS of the streaming server: certificate, key and client authority from files, read again when
//! they change.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

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

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read the streaming server's TLS file {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file has something else in it.
    #[error("{} holds no PEM {want}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What was looked for.
        want: &'static str,
    },
    /// The parts do not fit together.
    #[error("certificate {} and its key cannot be used", certificate.display())]
    Unusable {
        /// The certificate's file.
        certificate: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The authorities cannot verify anybody.
    #[error("client authorities {} cannot be used", path.display())]
    ClientCa {
        /// Their file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::server::VerifierBuilderError,
    },
}

/// The configuration as the files last were.
#[derive(Debug)]
pub(crate) struct Reloading {
    files: TlsFiles,
    current: Mutex<(Stamp, Arc<ServerConfig>)>,
}

/// What tells that a file was replaced: modification time and length of each.
type Stamp = Vec<Option<(SystemTime, u64)>>;

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
            let metadata = fs::metadata(path).ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        };
        let ca = self.client_ca.as_deref().and_then(of);
        vec![of(&self.certificate), of(&self.key), ca]
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
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(certificates(path)?);
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
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

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let none = || TlsError::Pem { path: path.to_owned(), want: "certificate" };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|_| none())?;
    if found.is_empty() { Err(none()) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|_| TlsError::Pem { path: path.to_owned(), want: "private key" })
}
