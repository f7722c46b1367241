//! TLS settings of one host, with an explicit crypto provider: none is installed process-wide.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::HostsError;

/// What `hosts.toml` says about TLS to one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsSettings {
    /// Authorities trusted beside the system's.
    pub(crate) ca: Vec<PathBuf>,
    /// Certificate and key files; they may be the same.
    pub(crate) client: Option<(PathBuf, PathBuf)>,
    /// Accept any certificate.
    pub(crate) skip_verify: bool,
}

/// The authorities of this machine, read when first needed. A new one is made for each pull, so a
/// change counts from the next pull on.
#[derive(Debug, Default)]
pub(crate) struct SystemRoots(OnceCell<RootCertStore>);

impl SystemRoots {
    /// A node without authorities still pulls from hosts with their own `ca`.
    fn get(&self) -> RootCertStore {
        let load = || {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            roots
        };
        self.0.get_or_init(load).clone()
    }
}

/// Builds the configuration. Blocks on the disk.
pub(crate) fn client_config(
    settings: &TlsSettings,
    system: &SystemRoots,
) -> Result<ClientConfig, HostsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(HostsError::Tls)?;
    let builder = if settings.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AcceptAny(provider)))
    } else {
        builder.with_root_certificates(roots(&settings.ca, system)?)
    };
    let mut config = match &settings.client {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(HostsError::Tls)?,
    };
    // One connection per layer beats sharing the flow control of one HTTP/2 connection.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn roots(extra: &[PathBuf], system: &SystemRoots) -> Result<RootCertStore, HostsError> {
    let mut roots = system.get();
    for path in extra {
        let (added, _) = roots.add_parsable_certificates(certificates(path)?);
        if added == 0 {
            return Err(HostsError::Pem { path: path.clone(), want: "certificate" });
        }
    }
    Ok(roots)
}

fn read(path: &Path) -> Result<Vec<u8>, HostsError> {
    fs::read(path).map_err(|source| HostsError::Read { path: path.to_owned(), source })
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, HostsError> {
    let no_certificate = || HostsError::Pem { path: path.to_owned(), want: "certificate" };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|_| no_certificate())?;
    if found.is_empty() { Err(no_certificate()) } else { Ok(found) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, HostsError> {
    PrivateKeyDer::from_pem_slice(&read(path)?)
        .map_err(|_| HostsError::Pem { path: path.to_owned(), want: "private key" })
}

/// For hosts whose operator wrote `skip_verify`, and for guesses on the loopback interface.
#[derive(Debug)]
struct AcceptAny(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_authorities_are_enough() {
        assert!(client_config(&TlsSettings::default(), &SystemRoots::default()).is_ok());
        let unverified = TlsSettings { skip_verify: true, ..TlsSettings::default() };
        assert!(client_config(&unverified, &SystemRoots::default()).is_ok());
    }

    #[test]
    fn an_authority_file_without_certificates_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        let settings = TlsSettings { ca: vec![path.clone()], ..TlsSettings::default() };
        assert!(matches!(
            client_config(&settings, &SystemRoots::default()),
            Err(HostsError::Read { .. })
        ));
        fs::write(&path, "nothing here").unwrap();
        let refused = client_config(&settings, &SystemRoots::default()).unwrap_err().to_string();
        assert!(refused.contains("ca.pem"), "{refused}");
    }
}
