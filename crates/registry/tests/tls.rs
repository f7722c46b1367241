//! TLS as operators configure it: authorities, client certificates, no verification.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use model::Reference;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    use registry::testing::{FakeRegistry, ImageSpec};
    use registry::{Client, Config, Credentials, RegistryError, Retry};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::server::WebPkiClientVerifier;
    use rustls::{RootCertStore, ServerConfig};

    /// A certificate authority of this test.
    struct Authority(CertifiedIssuer<'static, KeyPair>);

    struct Pair {
        cert: CertificateDer<'static>,
        key: PrivateKeyDer<'static>,
        pem: String,
    }

    impl Authority {
        fn new() -> Self {
            Self::named("authority")
        }

        fn named(name: &str) -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        fn issue(&self, name: &str) -> Pair {
            let key = KeyPair::generate().unwrap();
            let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
            let cert = params.signed_by(&key, &self.0).unwrap();
            Pair {
                pem: format!("{}{}", cert.pem(), key.serialize_pem()),
                cert: cert.der().clone(),
                key: PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
            }
        }

        fn roots(&self) -> RootCertStore {
            let mut roots = RootCertStore::empty();
            roots.add(self.0.der().clone()).unwrap();
            roots
        }
    }

    async fn serve(own: Pair, clients: Option<&Authority>) -> FakeRegistry {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = match clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(Arc::new(clients.roots()), provider)
                    .build()
                    .unwrap(),
            ),
        };
        let config = builder.with_single_cert(vec![own.cert], own.key).unwrap();
        let registry = FakeRegistry::start_tls(Arc::new(config)).await;
        registry.put_image("a", "1", &ImageSpec::default());
        registry
    }

    async fn resolve(registry: &FakeRegistry, hosts: &Path) -> Result<(), RegistryError> {
        let config = Config {
            hosts_dirs: vec![hosts.to_owned()],
            retry: Retry { repeats: 0, ..Retry::default() },
            ..Config::default()
        };
        let reference = Reference::parse(&format!("{}/a:1", registry.host())).unwrap();
        let session = Client::new(config).session(&reference, Credentials::Anonymous).await?;
        session.resolve().await.map(drop)
    }

    /// A hosts directory whose one host is the registry, with these further lines.
    fn hosts(registry: &FakeRegistry, lines: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join(registry.host());
        std::fs::create_dir(&host).unwrap();
        let text = format!("server = \"https://{}\"\n{lines}\n", registry.host());
        std::fs::write(host.join("hosts.toml"), text).unwrap();
        dir
    }

    fn put(hosts: &tempfile::TempDir, registry: &FakeRegistry, name: &str, text: &str) {
        std::fs::write(hosts.path().join(registry.host()).join(name), text).unwrap();
    }

    #[tokio::test]
    async fn a_private_authority_is_trusted_where_it_is_configured() {
        let authority = Authority::new();
        let registry = serve(authority.issue("127.0.0.1"), None).await;
        let known = hosts(&registry, "ca = \"ca.pem\"");
        put(&known, &registry, "ca.pem", &authority.0.pem());
        resolve(&registry, known.path()).await.unwrap();

        let unknown = hosts(&registry, "");
        let error = resolve(&registry, unknown.path()).await.unwrap_err();
        assert!(matches!(error, RegistryError::Unavailable { .. }), "{error:?}");
        let skipped = hosts(&registry, "skip_verify = true");
        resolve(&registry, skipped.path()).await.unwrap();
    }

    #[tokio::test]
    async fn a_certificate_for_another_name_is_refused() {
        let authority = Authority::new();
        let registry = serve(authority.issue("other.example"), None).await;
        let known = hosts(&registry, "ca = \"ca.pem\"");
        put(&known, &registry, "ca.pem", &authority.0.pem());
        let error = resolve(&registry, known.path()).await.unwrap_err();
        assert!(matches!(error, RegistryError::Unavailable { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_client_certificate_is_shown() {
        let authority = Authority::new();
        let registry = serve(authority.issue("127.0.0.1"), Some(&authority)).await;
        let with = hosts(&registry, "ca = \"ca.pem\"\nclient = \"me.pem\"");
        put(&with, &registry, "ca.pem", &authority.0.pem());
        put(&with, &registry, "me.pem", &authority.issue("me").pem);
        resolve(&registry, with.path()).await.unwrap();
        let without = hosts(&registry, "skip_verify = true");
        assert!(resolve(&registry, without.path()).await.is_err());
    }

    #[tokio::test]
    async fn of_several_client_certificates_the_one_is_shown_that_the_server_trusts() {
        let (authority, other) = (Authority::named("ours"), Authority::named("other"));
        let registry = serve(authority.issue("127.0.0.1"), Some(&authority)).await;
        let lines = "ca = \"ca.pem\"\nclient = [[\"other.pem\", \"\"], [\"me.pem\", \"me.pem\"]]";
        let with = hosts(&registry, lines);
        put(&with, &registry, "ca.pem", &authority.0.pem());
        put(&with, &registry, "other.pem", &other.issue("me").pem);
        put(&with, &registry, "me.pem", &authority.issue("me").pem);
        resolve(&registry, with.path()).await.unwrap();
        put(&with, &registry, "me.pem", &other.issue("also me").pem);
        assert!(resolve(&registry, with.path()).await.is_err());
    }

    #[tokio::test]
    async fn on_loopback_tls_needs_no_configuration() {
        let registry = serve(Authority::new().issue("whatever"), None).await;
        let nothing = tempfile::tempdir().unwrap();
        resolve(&registry, nothing.path()).await.unwrap();
    }
}
