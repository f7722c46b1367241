//! TLS settings of one host, with an explicit crypto provider: none is installed process-wide.

use std::cell::OnceCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::HostsError;

/// What `hosts.toml` says about TLS to one host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TlsSettings {
    /// Authorities trusted beside the system's.
    pub(crate) ca: Vec<PathBuf>,
    /// Certificate and key files; the two may be the same.
    pub(crate) clients: Vec<(PathBuf, PathBuf)>,
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
    let mut config = match settings.clients.as_slice() {
        [] => builder.with_no_client_auth(),
        [(cert, key)] => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(HostsError::Tls)?,
        several => builder.with_client_cert_resolver(Arc::new(Fitting::new(several)?)),
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

/// Several client certificates, of which a server gets the first that it says it would trust. As
/// Go's, a client that has none of these sends none.
#[derive(Debug)]
struct Fitting(Vec<Arc<CertifiedKey>>);

impl Fitting {
    fn new(pairs: &[(PathBuf, PathBuf)]) -> Result<Self, HostsError> {
        let provider = aws_lc_rs::default_provider();
        let load = |(cert, key): &(PathBuf, PathBuf)| {
            CertifiedKey::from_der(certificates(cert)?, private_key(key)?, &provider)
                .map(Arc::new)
                .map_err(HostsError::Tls)
        };
        pairs.iter().map(load).collect::<Result<_, _>>().map(Self)
    }
}

impl ResolvesClientCert for Fitting {
    fn resolve(
        &self,
        authorities: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let trusted = |cert: &CertificateDer<'_>| {
            issuer(cert).is_some_and(|issuer| authorities.contains(&issuer))
        };
        let fits = |key: &&Arc<CertifiedKey>| {
            key.key.choose_scheme(schemes).is_some()
                && (authorities.is_empty() || key.cert.iter().any(trusted))
        };
        self.0.iter().find(fits).cloned()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// The issuer's name in a certificate, DER. RFC 5280, 4.1: version (if any), serial number,
/// algorithm, issuer.
fn issuer(cert: &[u8]) -> Option<&[u8]> {
    const SEQUENCE: u8 = 0x30;
    const VERSION: u8 = 0xa0;
    let (SEQUENCE, certificate, _) = der(cert)? else { return None };
    let (SEQUENCE, mut rest, _) = der(certificate)? else { return None };
    if let (VERSION, _, behind) = der(rest)? {
        rest = behind;
    }
    let (_, _, rest) = der(rest)?;
    let (_, _, rest) = der(rest)?;
    let (SEQUENCE, _, behind) = der(rest)? else { return None };
    rest.get(..rest.len() - behind.len())
}

/// Tag and content of the first value, and what follows it.
fn der(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(*first), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first & 7))?;
            (digits.iter().fold(0, |length, digit| length << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
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
    fn no_bytes_make_the_search_for_an_issuer_panic() {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["a".to_owned()]).unwrap();
        let cert = params.self_signed(&key).unwrap();
        let der = cert.der().to_vec();
        assert!(issuer(&der).is_some_and(|issuer| issuer.starts_with(&[0x30])));
        for length in 0..der.len() {
            assert_eq!(issuer(&der[..length]), None, "{length}");
        }
        for at in 0..der.len() {
            let mut altered = der.clone();
            altered[at] = 0xff;
            issuer(&altered);
        }
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
