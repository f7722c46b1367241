//! TLS of the client: whom it believes, and how it says who it is.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;

use super::{TlsError, authorities, certificates, private_key};

/// How to meet a server whose URL is `https`. All files are PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientTls {
    /// Certificates of the authorities that may have signed the server's.
    pub authorities: PathBuf,
    /// Certificate and private key for a server that wants to know its clients.
    pub identity: Option<(PathBuf, PathBuf)>,
}

impl ClientTls {
    /// Reads the files. Blocks.
    pub(crate) fn config(&self) -> Result<ClientConfig, TlsError> {
        let unusable =
            |source| TlsError::Unusable { certificate: self.authorities.clone(), source };
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(unusable)?
            .with_root_certificates(authorities(&self.authorities)?);
        let mut config = match &self.identity {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(certificates(certificate)?, private_key(key)?)
                .map_err(|source| TlsError::Unusable {
                    certificate: certificate.clone(),
                    source,
                })?,
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}
