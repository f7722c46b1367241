//! TLS: only clients with the right certificate, and certificates that change.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// Certificate and key.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

fn client(authority: &Authority, identity: Option<(String, String)>) -> rustls::ClientConfig {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match identity {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
            )
            .unwrap(),
    }
}

/// The answer's first line, over TLS.
async fn ask(node: &Node, config: rustls::ClientConfig) -> std::io::Result<String> {
    let url = node.exec(&["true"], all());
    let rest = url.strip_prefix("https://").unwrap();
    let (address, path) = rest.split_at(rest.find('/').unwrap());
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("node.example").unwrap();
    let mut tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    tls.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await?;
    let mut answer = [0; 12];
    tls.read_exact(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn write(dir: &Path, (certificate, key): &(String, String)) {
    std::fs::write(dir.join("cert.pem"), certificate).unwrap();
    std::fs::write(dir.join("key.pem"), key).unwrap();
}

#[tokio::test]
async fn clients_are_known_by_their_authority_and_certificates_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let (old, new, clients) = (Authority::new(), Authority::new(), Authority::new());
    write(dir.path(), &old.sign("node.example"));
    std::fs::write(dir.path().join("ca.pem"), &clients.pem).unwrap();
    let files = TlsFiles {
        certificate: dir.path().join("cert.pem"),
        key: dir.path().join("key.pem"),
        client_ca: Some(dir.path().join("ca.pem")),
    };
    let node = Node::with(Config { tls: Some(files), ..Config::default() }).await;
    let known = || Some(clients.sign("kubelet"));
    assert_eq!(ask(&node, client(&old, known())).await.unwrap(), "HTTP/1.1 400");
    assert!(ask(&node, client(&old, None)).await.is_err(), "a client without a certificate");
    assert!(ask(&node, client(&old, Some(old.sign("x")))).await.is_err(), "another authority");
    // A half-written renewal leaves the old certificate in place.
    std::fs::write(dir.path().join("cert.pem"), "-----BEGIN").unwrap();
    assert_eq!(ask(&node, client(&old, known())).await.unwrap(), "HTTP/1.1 400");
    write(dir.path(), &new.sign("node.example"));
    assert_eq!(ask(&node, client(&new, known())).await.unwrap(), "HTTP/1.1 400");
    assert!(ask(&node, client(&old, known())).await.is_err(), "the old certificate is gone");
    drop(node);
}

#[tokio::test]
async fn our_own_client_knows_the_server_and_is_known() {
    use client::{ClientProcess, ConnectError, Options, Verdict};
    let dir = tempfile::tempdir().unwrap();
    let (servers, clients) = (Authority::new(), Authority::new());
    let file = |name: &str| dir.path().join(name);
    write(dir.path(), &servers.sign("127.0.0.1"));
    std::fs::write(file("servers.pem"), &servers.pem).unwrap();
    std::fs::write(file("clients.pem"), &clients.pem).unwrap();
    let (certificate, key) = clients.sign("somebody");
    std::fs::write(file("us.pem"), certificate).unwrap();
    std::fs::write(file("us.key"), key).unwrap();
    let files = TlsFiles {
        certificate: file("cert.pem"),
        key: file("key.pem"),
        client_ca: Some(file("clients.pem")),
    };
    let node = Node::with(Config { tls: Some(files), ..Config::default() }).await;
    let connect = async |authorities: &str, known: bool, transport| {
        let identity = known.then(|| (file("us.pem"), file("us.key")));
        let tls = Some(ClientTls { authorities: file(authorities), identity });
        let url = node.exec(&["sh", "-c", "cat; exit 3"], all());
        ClientProcess::connect(&url, Options { transport, tls }, all()).await
    };
    let input = pattern(500_000);
    for transport in TRANSPORTS {
        let seen = converse(connect("servers.pem", true, transport).await.unwrap(), &input).await;
        assert!(seen.stdout == input && seen.verdict == Verdict::ExitCode(3), "{transport:?}");
        assert!(connect("servers.pem", false, transport).await.is_err(), "nobody knows us");
        let Err(error) = connect("clients.pem", true, transport).await else { panic!() };
        assert!(matches!(error, ConnectError::Handshake { .. }), "{error}");
        let url = node.exec(&["true"], all());
        let Err(error) = ClientProcess::connect(&url, transport, all()).await else { panic!() };
        assert!(matches!(error, ConnectError::NoAuthority { .. }), "{error}");
    }
    drop(node);
}

#[tokio::test]
async fn tls_files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let certificate = dir.path().join("cert.pem");
    let files = |certificate: &Path| TlsFiles {
        certificate: certificate.to_owned(),
        key: certificate.to_owned(),
        client_ca: None,
    };
    let bind = async || {
        let tls = Some(files(&certificate));
        Server::bind(Config { tls, ..Config::default() }).await.unwrap_err().to_string()
    };
    assert!(bind().await.contains("cert.pem"));
    std::fs::write(&certificate, "nothing").unwrap();
    assert!(bind().await.contains("no PEM certificate"));
}
