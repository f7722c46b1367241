//! The client against a registry that misbehaves on purpose.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use model::{Digest, Platform, Reference};
    use registry::testing::{Access, FakeRegistry, Fault, ImageSpec};
    use registry::{Client, Config, Credentials, Descriptor, RegistryError, Retry, Session};

    fn config() -> Config {
        Config {
            hosts_dirs: Vec::new(),
            stall_timeout: Duration::from_secs(20),
            retry: Retry {
                repeats: 3,
                first_wait: Duration::from_millis(1),
                longest_wait: Duration::from_secs(5),
            },
            ..Config::default()
        }
    }

    async fn session_with(config: Config, reference: &str, credentials: Credentials) -> Session {
        let reference = Reference::parse(reference).unwrap();
        Client::new(config).session(&reference, credentials).await.unwrap()
    }

    async fn session(registry: &FakeRegistry, credentials: Credentials) -> Session {
        session_with(config(), &format!("{}/a/b:t", registry.host()), credentials).await
    }

    async fn anonymous(registry: &FakeRegistry) -> Session {
        session(registry, Credentials::Anonymous).await
    }

    fn blob(registry: &FakeRegistry, bytes: &[u8]) -> Descriptor {
        Descriptor {
            media_type: String::new(),
            digest: registry.put_blob(bytes),
            size: u64::try_from(bytes.len()).unwrap(),
        }
    }

    async fn read(session: &Session, blob: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        let mut stream = session.blob(blob).await?;
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.chunk().await? {
            assert!(!chunk.is_empty());
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    fn basic() -> Credentials {
        Credentials::Basic { user: "me".into(), password: "pass:word".into() }
    }

    #[tokio::test]
    async fn a_tag_resolves_to_a_verified_manifest_and_configuration() {
        let registry = FakeRegistry::start().await;
        let (digest, id) = registry.put_image("a/b", "t", &ImageSpec::default());
        let session = anonymous(&registry).await;
        let root = session.resolve().await.unwrap();
        assert_eq!(root.digest, digest);
        let image = session.image(&root, &Platform::host()).await.unwrap();
        assert_eq!(image.digest, digest);
        assert_eq!(image.manifest.config.digest, id);
        let config = session.config_blob(&image.manifest.config).await.unwrap();
        assert_eq!(registry::digest_of(&config), id);
    }

    #[tokio::test]
    async fn an_unknown_tag_is_not_found_and_a_dead_port_is_unavailable() {
        let registry = FakeRegistry::start().await;
        let missing = anonymous(&registry).await.resolve().await.unwrap_err();
        assert!(matches!(missing, RegistryError::NotFound { .. }), "{missing:?}");
        assert!(missing.to_string().contains("/a/b:t"), "{missing}");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let session =
            session_with(config(), &format!("{address}/a:t"), Credentials::Anonymous).await;
        let dead = session.resolve().await.unwrap_err();
        let RegistryError::Unavailable { host, .. } = dead else { panic!("{dead:?}") };
        assert_eq!(host, address.to_string());
    }

    #[tokio::test]
    async fn a_spoilt_manifest_or_configuration_is_refused() {
        let registry = FakeRegistry::start().await;
        let (digest, id) = registry.put_image("a/b", "t", &ImageSpec::default());
        let session = anonymous(&registry).await;
        let root = session.resolve().await.unwrap();
        registry.fault(&digest.to_string(), Fault::Corrupt(0), 1);
        let error = session.image(&root, &Platform::host()).await.unwrap_err();
        assert!(matches!(error, RegistryError::DigestMismatch { .. }), "{error:?}");
        let image = session.image(&root, &Platform::host()).await.unwrap();
        registry.fault(&id.to_string(), Fault::Corrupt(0), 1);
        let error = session.config_blob(&image.manifest.config).await.unwrap_err();
        assert!(matches!(error, RegistryError::DigestMismatch { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn oversized_manifests_and_configurations_are_not_read() {
        let registry = FakeRegistry::start().await;
        let huge = vec![b' '; (4 << 20) + 1];
        let kind = "application/vnd.oci.image.manifest.v1+json";
        registry.put_manifest("a/b", Some("t"), kind, huge);
        let session = anonymous(&registry).await;
        let root = session.resolve().await.unwrap();
        let error = session.image(&root, &Platform::host()).await.unwrap_err();
        assert!(matches!(error, RegistryError::TooLarge { .. }), "{error:?}");
        let mut config = blob(&registry, b"{}");
        config.size = 1 << 40;
        let error = session.config_blob(&config).await.unwrap_err();
        assert!(matches!(error, RegistryError::TooLarge { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_blob_cut_in_the_middle_goes_on_by_range() {
        let registry = FakeRegistry::start().await;
        let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let blob = blob(&registry, &bytes);
        registry.fault("/blobs/", Fault::CutAfter(100_000), 2);
        assert_eq!(read(&anonymous(&registry).await, &blob).await.unwrap(), bytes);
        let ranges: Vec<_> = registry
            .seen()
            .iter()
            .filter_map(|seen| seen.header("range").map(str::to_owned))
            .collect();
        assert_eq!(ranges, ["bytes=100000-", "bytes=200000-"]);
    }

    #[tokio::test]
    async fn a_host_without_ranges_is_read_again_from_the_start() {
        let registry = FakeRegistry::start().await;
        let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let blob = blob(&registry, &bytes);
        registry.fault("/blobs/", Fault::CutAfter(100_000), 1);
        registry.fault("/blobs/", Fault::NoRanges, 1);
        assert_eq!(read(&anonymous(&registry).await, &blob).await.unwrap(), bytes);
    }

    #[tokio::test]
    async fn a_host_that_refuses_ranges_is_read_again_from_the_start() {
        for status in [400, 416, 501] {
            let registry = FakeRegistry::start().await;
            let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
            let blob = blob(&registry, &bytes);
            registry.fault("/blobs/", Fault::CutAfter(100_000), 1);
            registry.fault("/blobs/", Fault::Status(status, Vec::new(), String::new()), 1);
            assert_eq!(read(&anonymous(&registry).await, &blob).await.unwrap(), bytes, "{status}");
            let ranges =
                registry.seen().iter().filter_map(|seen| seen.header("range").map(drop)).count();
            assert_eq!((registry.count("/blobs/"), ranges), (3, 1), "{status}");
        }
    }

    #[tokio::test]
    async fn a_blob_that_never_completes_is_given_up() {
        let registry = FakeRegistry::start().await;
        let blob = blob(&registry, &[7; 50_000]);
        registry.fault("/blobs/", Fault::CutAfter(100), 99);
        let error = read(&anonymous(&registry).await, &blob).await.unwrap_err();
        assert!(matches!(error, RegistryError::Unavailable { .. }), "{error:?}");
        assert_eq!(registry.count("/blobs/"), 4);
    }

    #[tokio::test]
    async fn a_blob_of_another_length_is_refused() {
        let registry = FakeRegistry::start().await;
        let bytes = blob(&registry, &[7; 1000]);
        registry.fault("/blobs/", Fault::Appended(vec![0; 10]), 1);
        let error = read(&anonymous(&registry).await, &bytes).await.unwrap_err();
        assert!(matches!(error, RegistryError::TooLarge { limit: 1000, .. }), "{error:?}");
        let mut longer = bytes;
        longer.size = 2000;
        let error = read(&anonymous(&registry).await, &longer).await.unwrap_err();
        assert!(
            matches!(error, RegistryError::Truncated { expected: 2000, got: 1000, .. }),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_silent_registry_is_given_up() {
        let registry = FakeRegistry::start().await;
        registry.fault("/manifests/", Fault::Hold, 99);
        let mut config = config();
        config.stall_timeout = Duration::from_millis(50);
        config.retry.repeats = 1;
        let reference = format!("{}/a/b:t", registry.host());
        let session = session_with(config, &reference, Credentials::Anonymous).await;
        let error = session.resolve().await.unwrap_err();
        assert!(matches!(error, RegistryError::Stalled { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_blob_that_stops_in_the_middle_goes_on_by_range() {
        let registry = FakeRegistry::start().await;
        let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        let blob = blob(&registry, &bytes);
        registry.fault("/blobs/", Fault::HoldAfter(100_000), 1);
        let config = Config { stall_timeout: Duration::from_millis(200), ..config() };
        let reference = format!("{}/a/b:t", registry.host());
        let session = session_with(config, &reference, Credentials::Anonymous).await;
        assert_eq!(read(&session, &blob).await.unwrap(), bytes);
        let last = registry.seen().pop().unwrap();
        assert_eq!(last.header("range"), Some("bytes=100000-"));
    }

    #[tokio::test]
    async fn a_long_error_page_is_not_read() {
        let registry = FakeRegistry::start().await;
        let page = "x".repeat(1 << 20);
        registry.fault("/manifests/", Fault::Status(418, Vec::new(), page), 99);
        let error = anonymous(&registry).await.resolve().await.unwrap_err();
        assert!(matches!(&error, RegistryError::Status { status: 418, .. }), "{error:?}");
        assert!(error.to_string().len() < 500, "{error}");
    }

    #[tokio::test]
    async fn passing_failures_are_repeated() {
        let registry = FakeRegistry::start().await;
        registry.put_image("a/b", "t", &ImageSpec::default());
        let wait = vec![("Retry-After".to_owned(), "0".to_owned())];
        registry.fault("/manifests/", Fault::Status(429, wait, String::new()), 1);
        registry.fault("/manifests/", Fault::Status(503, Vec::new(), String::new()), 1);
        registry.fault("/manifests/", Fault::Drop, 1);
        anonymous(&registry).await.resolve().await.unwrap();
        assert_eq!(registry.count("/manifests/"), 4);
    }

    #[tokio::test]
    async fn a_registry_that_asks_for_a_long_wait_is_not_waited_for() {
        let registry = FakeRegistry::start().await;
        registry.put_image("a/b", "t", &ImageSpec::default());
        let wait = vec![("Retry-After".to_owned(), "3600".to_owned())];
        registry.fault("/manifests/", Fault::Status(429, wait, String::new()), 99);
        let error = anonymous(&registry).await.resolve().await.unwrap_err();
        assert!(error.to_string().contains("429"), "{error}");
        assert_eq!(registry.count("/manifests/"), 1);
    }

    fn token_access(user: Option<(&str, &str)>, refresh: Option<&str>, expires_in: u64) -> Access {
        Access::Token {
            user: user.map(|(user, password)| (user.to_owned(), password.to_owned())),
            refresh: refresh.map(str::to_owned),
            expires_in,
        }
    }

    #[tokio::test]
    async fn a_token_is_fetched_once_and_used_for_everything() {
        let registry = FakeRegistry::start().await;
        registry.put_image("a/b", "t", &ImageSpec::default());
        registry.access(token_access(Some(("me", "pass:word")), None, 300));
        let session = session(&registry, basic()).await;
        let root = session.resolve().await.unwrap();
        let image = session.image(&root, &Platform::host()).await.unwrap();
        let config = &image.manifest.config;
        let (one, two) = tokio::join!(session.config_blob(config), session.config_blob(config));
        assert_eq!(one.unwrap(), two.unwrap());
        assert_eq!(registry.count("/token"), 1);
        let token = registry.seen().into_iter().find(|seen| seen.target.contains("/token"));
        let target = token.unwrap().target;
        assert!(target.contains("service=fake"), "{target}");
        assert!(target.contains("scope=repository%3Aa%2Fb%3Apull"), "{target}");
    }

    #[tokio::test]
    async fn a_token_that_ended_is_renewed_in_the_middle() {
        let registry = FakeRegistry::start().await;
        registry.put_image("a/b", "t", &ImageSpec::default());
        registry.access(token_access(None, None, 300));
        let session = anonymous(&registry).await;
        let root = session.resolve().await.unwrap();
        registry.revoke_tokens();
        session.image(&root, &Platform::host()).await.unwrap();
        assert_eq!(registry.count("/token"), 2);
    }

    #[tokio::test]
    async fn a_token_is_not_used_beyond_its_time() {
        let registry = FakeRegistry::start().await;
        registry.put_image("a/b", "t", &ImageSpec::default());
        // So short that each has ended before it can be used a second time.
        registry.access(token_access(None, None, 1));
        let session = anonymous(&registry).await;
        let root = session.resolve().await.unwrap();
        let before = registry.count("/manifests/");
        session.image(&root, &Platform::host()).await.unwrap();
        // Renewed beforehand, not after a refusal.
        assert_eq!(registry.count("/manifests/"), before + 1);
        let sent = registry.seen();
        let sent: Vec<_> = sent.iter().filter_map(|seen| seen.header("authorization")).collect();
        assert_ne!(sent[0], sent[1]);
    }

    #[tokio::test]
    async fn a_token_service_without_get_is_asked_by_post() {
        let registry = FakeRegistry::start().await;
        registry.put_image("a/b", "t", &ImageSpec::default());
        registry.access(token_access(Some(("me", "secret")), None, 300));
        registry.fault("/token?", Fault::Status(405, Vec::new(), String::new()), 99);
        let basic = Credentials::Basic { user: "me".into(), password: "secret".into() };
        session(&registry, basic).await.resolve().await.unwrap();
    }

    #[tokio::test]
    async fn an_identity_token_is_exchanged_by_post() {
        let registry = FakeRegistry::start().await;
        registry.put_image("a/b", "t", &ImageSpec::default());
        registry.access(token_access(Some(("x", "y")), Some("refresh-me"), 300));
        let credentials = Credentials::IdentityToken("refresh-me".into());
        session(&registry, credentials).await.resolve().await.unwrap();
    }

    #[tokio::test]
    async fn basic_and_ready_tokens_are_sent_as_they_are() {
        let registry = FakeRegistry::start().await;
        registry.put_image("a/b", "t", &ImageSpec::default());
        registry.access(Access::Basic { user: "me".into(), password: "pass:word".into() });
        session(&registry, basic()).await.resolve().await.unwrap();
        registry.access(token_access(None, None, 300));
        let ready = Credentials::RegistryToken("token-0".into());
        session(&registry, ready).await.resolve().await.unwrap();
    }

    #[tokio::test]
    async fn a_refused_log_in_is_unauthorized_with_the_services_words() {
        let registry = FakeRegistry::start().await;
        registry.put_image("a/b", "t", &ImageSpec::default());
        for (access, credentials, words) in [
            (token_access(Some(("x", "y")), None, 300), basic(), "incorrect username"),
            (Access::Basic { user: "x".into(), password: "y".into() }, basic(), "log in first"),
            (
                Access::Basic { user: "x".into(), password: "y".into() },
                Credentials::Anonymous,
                "log in first",
            ),
        ] {
            registry.access(access);
            let error = session(&registry, credentials).await.resolve().await.unwrap_err();
            assert!(matches!(error, RegistryError::Unauthorized { .. }), "{error:?}");
            assert!(error.to_string().contains(words), "{error}");
            assert!(!error.to_string().contains("pass:word"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_redirect_to_another_host_takes_no_secret_along() {
        let registry = FakeRegistry::start().await;
        let elsewhere = FakeRegistry::start().await;
        let descriptor = blob(&elsewhere, b"content");
        registry.put_image("a/b", "t", &ImageSpec::default());
        registry.access(Access::Basic { user: "me".into(), password: "pass:word".into() });
        let session = session(&registry, basic()).await;
        session.resolve().await.unwrap();
        let to = format!("{}/v2/x/blobs/{}", elsewhere.url(), descriptor.digest);
        let redirect = Fault::Status(307, vec![("Location".into(), to)], String::new());
        registry.fault("/blobs/", redirect, 1);
        assert_eq!(read(&session, &descriptor).await.unwrap(), b"content");
        let there = elsewhere.seen();
        assert_eq!(there.len(), 1);
        assert_eq!(there[0].header("authorization"), None);
        let asked: Vec<_> =
            registry.seen().into_iter().filter(|seen| seen.target.contains("/blobs/")).collect();
        assert!(asked[0].header("authorization").is_some());
    }

    #[tokio::test]
    async fn redirects_in_a_circle_end() {
        let registry = FakeRegistry::start().await;
        let to = vec![("Location".to_owned(), "/v2/a/b/manifests/t".to_owned())];
        registry.fault("/manifests/", Fault::Status(302, to, String::new()), 999);
        let error = anonymous(&registry).await.resolve().await.unwrap_err();
        assert!(matches!(error, RegistryError::Redirect { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_mirror_is_asked_first_and_the_next_host_takes_over() {
        let mirror = FakeRegistry::start().await;
        let origin = FakeRegistry::start().await;
        let (digest, _) = origin.put_image("library/app", "t", &ImageSpec::default());
        mirror.put_image("library/app", "t", &ImageSpec::default());
        let dir = tempfile::tempdir().unwrap();
        let host = dir.path().join("docker.io");
        std::fs::create_dir(&host).unwrap();
        let file = format!(
            "server = \"{}\"\n[host.\"{}\"]\ncapabilities = [\"pull\"]\n\
             [host.\"{}\".header]\nx-secret = \"yes\"\n",
            origin.url(),
            mirror.url(),
            mirror.url(),
        );
        std::fs::write(host.join("hosts.toml"), file).unwrap();
        let mut config = config();
        config.hosts_dirs = vec![dir.path().to_owned()];
        let session = session_with(config, "app:t", Credentials::Anonymous).await;
        let root = session.resolve().await.unwrap();
        assert_eq!(root.digest, digest);
        assert_eq!(mirror.seen().len(), 0, "the mirror may not resolve tags");
        let image = session.image(&root, &Platform::host()).await.unwrap();
        let seen = mirror.seen();
        assert!(seen[0].target.ends_with("?ns=docker.io"), "{}", seen[0].target);
        assert_eq!(seen[0].header("x-secret"), Some("yes"));
        mirror.remove_blob(&image.manifest.config.digest);
        session.config_blob(&image.manifest.config).await.unwrap();
        let fallback = origin.seen().into_iter().next_back().unwrap();
        assert!(fallback.target.contains("/blobs/"), "{}", fallback.target);
        assert_eq!(fallback.header("x-secret"), None);
    }

    fn hosts_file(dir: &tempfile::TempDir, text: &str) {
        let host = dir.path().join("docker.io");
        std::fs::create_dir_all(&host).unwrap();
        std::fs::write(host.join("hosts.toml"), text).unwrap();
    }

    #[tokio::test]
    async fn settings_are_read_again_for_each_pull() {
        let (one, other) = (FakeRegistry::start().await, FakeRegistry::start().await);
        one.put_image("library/app", "t", &ImageSpec::default());
        other.put_image("library/app", "t", &ImageSpec::default());
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(Config { hosts_dirs: vec![dir.path().to_owned()], ..config() });
        let reference = Reference::parse("app:t").unwrap();
        for registry in [&one, &other] {
            hosts_file(&dir, &format!("server = \"{}\"\n", registry.url()));
            let session = client.session(&reference, Credentials::Anonymous).await.unwrap();
            session.resolve().await.unwrap();
        }
        assert_eq!((one.count("/manifests/"), other.count("/manifests/")), (1, 1));
    }

    #[tokio::test]
    async fn a_host_that_cannot_be_dialled_is_given_up_after_its_own_time() {
        // A full backlog: the kernel drops what more would like to connect.
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let deaf = socket.listen(0).unwrap();
        let address = deaf.local_addr().unwrap();
        let _waiting = tokio::net::TcpStream::connect(address).await.unwrap();
        let origin = FakeRegistry::start().await;
        origin.put_image("library/app", "t", &ImageSpec::default());
        let dir = tempfile::tempdir().unwrap();
        hosts_file(
            &dir,
            &format!(
                "server = \"{}\"\n[host.\"http://{address}\"]\ndial_timeout = \"200ms\"\n",
                origin.url()
            ),
        );
        let for_ever = Duration::from_secs(100_000);
        let config = Config {
            hosts_dirs: vec![dir.path().to_owned()],
            connect_timeout: for_ever,
            stall_timeout: for_ever,
            retry: Retry { repeats: 0, ..config().retry },
            ..config()
        };
        let session = session_with(config, "app:t", Credentials::Anonymous).await;
        session.resolve().await.unwrap();
    }

    #[tokio::test]
    async fn a_mirror_that_gets_stuck_in_the_middle_is_passed_over() {
        let mirror = FakeRegistry::start().await;
        let origin = FakeRegistry::start().await;
        let descriptor = blob(&mirror, &[7; 50_000]);
        origin.put_blob([7; 50_000]);
        mirror.fault("/blobs/", Fault::CutAfter(100), 99);
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("docker.io")).unwrap();
        let file = format!("server = \"{}\"\n[host.\"{}\"]\n", origin.url(), mirror.url());
        std::fs::write(dir.path().join("docker.io/hosts.toml"), file).unwrap();
        let config = Config { hosts_dirs: vec![dir.path().to_owned()], ..config() };
        let session = session_with(config, "app:t", Credentials::Anonymous).await;
        assert_eq!(read(&session, &descriptor).await.unwrap(), [7; 50_000]);
        assert_eq!((mirror.count("/blobs/"), origin.count("/blobs/")), (1, 1));
    }

    #[tokio::test]
    async fn another_platforms_index_lists_what_it_offers() {
        let registry = FakeRegistry::start().await;
        let image = ImageSpec::default();
        let (digest, _) = registry.put_image("a/b", "single", &image);
        let index = |architecture: &str| {
            format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json",
                "manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json",
                "size":1,"digest":"{digest}",
                "platform":{{"os":"linux","architecture":"{architecture}"}}}}]}}"#
            )
        };
        let kind = "application/vnd.oci.image.index.v1+json";
        let wanted = Platform::host();
        registry.put_manifest("a/b", Some("t"), kind, index(&wanted.architecture));
        let session = anonymous(&registry).await;
        let root = session.resolve().await.unwrap();
        let image = session.image(&root, &wanted).await.unwrap();
        assert_eq!(image.digest, digest);
        assert!(image.index.is_some());
        registry.put_manifest("a/b", Some("t"), kind, index("s390x"));
        let root = session.resolve().await.unwrap();
        let error = session.image(&root, &wanted).await.unwrap_err();
        assert!(error.to_string().contains("linux/s390x"), "{error}");
    }

    #[tokio::test]
    async fn a_digest_reference_still_asks_whether_the_caller_may_have_it() {
        let registry = FakeRegistry::start().await;
        let (digest, _) = registry.put_image("a/b", "t", &ImageSpec::default());
        let reference = format!("{}/a/b@{digest}", registry.host());
        let open = session_with(config(), &reference, Credentials::Anonymous).await;
        assert_eq!(open.resolve().await.unwrap().digest, digest);
        registry.access(Access::Basic { user: "x".into(), password: "y".into() });
        let closed = session_with(config(), &reference, Credentials::Anonymous).await;
        assert!(matches!(closed.resolve().await, Err(RegistryError::Unauthorized { .. })));
        let absent = Digest::from_sha256([9; 32]);
        registry.access(Access::Open);
        let reference = format!("{}/a/b@{absent}", registry.host());
        let absent = session_with(config(), &reference, Credentials::Anonymous).await;
        assert!(matches!(absent.resolve().await, Err(RegistryError::NotFound { .. })));
    }
}
