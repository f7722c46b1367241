//! Pulls, names, removal and collection, against a registry in this process and a real disk.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::io::Write;
    use std::os::fd::AsRawFd;
    use std::path::Path;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use image::{Images, LayerError, PullError, Repaired, Stage, VerifierError};
    use model::{Digest, Reference};
    use registry::testing::{Access, FakeRegistry, Fault, ImageSpec, LayerSpec};
    use registry::{Config, Credentials, Retry};
    use snapshot::Layers;

    const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

    struct Node {
        registry: FakeRegistry,
        root: tempfile::TempDir,
        layers: Arc<Layers>,
        images: Images,
        used: Arc<Mutex<HashSet<Digest>>>,
    }

    fn config() -> Config {
        Config {
            hosts_dirs: Vec::new(),
            retry: Retry {
                repeats: 2,
                first_wait: Duration::from_millis(1),
                longest_wait: Duration::from_secs(1),
            },
            ..Config::default()
        }
    }

    fn open(root: &Path) -> (Arc<Layers>, Images) {
        let layers = Arc::new(Layers::open(root).unwrap());
        let images = Images::open(root, config(), Arc::clone(&layers)).unwrap();
        (layers, images)
    }

    impl Node {
        /// `None`, said aloud, where layers cannot be unpacked for lack of rights.
        async fn start() -> Option<Self> {
            Self::start_with(config().into()).await
        }

        async fn start_with(config: image::Config) -> Option<Self> {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let uids = status.lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned();
            if uids.split_whitespace().nth(2) != Some("0") {
                eprintln!("skipped: unpacking layers needs root");
                return None;
            }
            let root = tempfile::tempdir().unwrap();
            let layers = Arc::new(Layers::open(root.path()).unwrap());
            let images = Images::open(root.path(), config, Arc::clone(&layers)).unwrap();
            let used: Arc<Mutex<HashSet<Digest>>> = Arc::default();
            let shared = Arc::clone(&used);
            images.set_layer_users(Box::new(move || shared.lock().unwrap().clone()));
            let registry = FakeRegistry::start().await;
            Some(Self { registry, root, layers, images, used })
        }

        fn reference(&self, rest: &str) -> Reference {
            Reference::parse(&format!("{}/{rest}", self.registry.host())).unwrap()
        }

        async fn pull(&self, rest: &str) -> Result<Arc<image::Image>, PullError> {
            self.images.pull(&self.reference(rest), Credentials::Anonymous).await
        }

        fn ingests(&self) -> usize {
            std::fs::read_dir(self.root.path().join("ingest")).unwrap().count()
        }
    }

    fn tar(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len().try_into().unwrap());
            header.set_mode(0o644);
            builder.append_data(&mut header, path, *content).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn gzip(files: &[(&str, &[u8])]) -> LayerSpec {
        let tar = tar(files);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&tar).unwrap();
        LayerSpec {
            media_type: GZIP.into(),
            blob: encoder.finish().unwrap(),
            diff_id: registry::digest_of(&tar),
        }
    }

    fn plain(files: &[(&str, &[u8])]) -> LayerSpec {
        let tar = tar(files);
        LayerSpec { media_type: TAR.into(), diff_id: registry::digest_of(&tar), blob: tar }
    }

    fn spec(layers: Vec<LayerSpec>) -> ImageSpec {
        ImageSpec {
            layers,
            config: serde_json::json!({"User": "app", "Cmd": ["/bin/app"]}),
            ..ImageSpec::default()
        }
    }

    /// Bytes that no compressor makes small.
    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let next = || {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            state.to_le_bytes()[0]
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    fn two_layers() -> ImageSpec {
        spec(vec![
            gzip(&[("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), ("etc/group", b"root:x:0:\n")]),
            plain(&[("etc/passwd", b"app:x:7:7:\xff:/:/bin/sh\n"), ("bin/app", b"#!")]),
        ])
    }

    /// Puts a verifier into a directory, and beside it what it does.
    fn verifier(dir: &Path, name: &str, script: &str) {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join(format!(".{name}.body")), script).unwrap();
        let fixture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/verifier");
        std::os::unix::fs::symlink(fixture, dir.join(name)).unwrap();
    }

    #[tokio::test]
    async fn nothing_is_pulled_that_a_verifier_refuses() {
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("verifiers");
        let limit = Duration::from_secs(60);
        let verifiers = Some(image::Verifiers { dir: dir.clone(), limit });
        let config = image::Config { verifiers, ..config().into() };
        let Some(node) = Node::start_with(config).await else { return };
        node.registry.put_image("a", "1", &two_layers());
        let refused = async || match node.pull("a:1").await.unwrap_err() {
            PullError::Refused { source, .. } => source,
            other => panic!("{other}"),
        };
        assert!(matches!(refused().await, VerifierError::Directory { .. }));
        std::fs::create_dir(&dir).unwrap();
        assert!(matches!(refused().await, VerifierError::Nobody { .. }));
        let said = scratch.path().join("said");
        verifier(&dir, "a-yes", &format!("echo \"$@\" >{0}; cat >>{0}", said.display()));
        let image = node.pull("a:1").await.unwrap();
        let text = std::fs::read_to_string(&said).unwrap();
        let root = image.repo_digests[0].split_once('@').unwrap().1.to_owned();
        let name = node.reference("a:1");
        let wanted = format!("-name {name} -digest {root} -stdin-media-type application/vnd.oci.");
        assert!(text.starts_with(&wanted), "{text}");
        let (_, descriptor) = text.split_once('\n').unwrap();
        let descriptor: serde_json::Value = serde_json::from_str(descriptor).unwrap();
        assert_eq!(descriptor["digest"], root);
        assert!(descriptor["size"].as_u64() > Some(0), "{descriptor}");

        // What is here is asked about too, and all have to consent.
        verifier(&dir, "b-no", "echo nobody knows this key; exit 3");
        let refusal = refused().await.to_string();
        assert!(refusal.contains("b-no") && refusal.contains("nobody knows this key"), "{refusal}");
        std::fs::remove_file(dir.join("b-no")).unwrap();
        std::os::unix::fs::symlink("/nonexistent", dir.join("c")).unwrap();
        assert!(matches!(refused().await, VerifierError::Run { .. }));
    }

    #[tokio::test]
    async fn a_pulled_image_is_there_with_its_names_config_and_accounts() {
        let Some(node) = Node::start().await else { return };
        let (manifest, id) = node.registry.put_image("a/b", "1", &two_layers());
        let image = node.pull("a/b:1").await.unwrap();
        let name = node.reference("a/b:1");
        assert_eq!(image.id, id);
        assert_eq!(image.repo_tags, [name.to_string()]);
        assert_eq!(image.repo_digests, [format!("{}@{manifest}", name.name())]);
        assert_eq!(image.config.cmd, ["/bin/app"]);
        assert!(image.size_bytes > 0);
        assert_eq!(node.images.list().len(), 1);
        let bytes = std::fs::read(node.images.config_path(&image)).unwrap();
        assert_eq!(registry::digest_of(&bytes), id);
        let bytes = std::fs::read(node.images.manifest_path(&image)).unwrap();
        assert_eq!(registry::digest_of(&bytes), manifest);
        let accounts = node.images.accounts(&image).await.unwrap();
        assert_eq!(accounts.passwd, "app:x:7:7:\u{fffd}:/:/bin/sh\n");
        assert_eq!(accounts.group, "root:x:0:\n");
        let usage = node.images.fs_usage().await;
        assert!(usage.used_bytes > 0 && usage.inodes_used > 0 && usage.mountpoint.is_dir());
    }

    #[tokio::test]
    async fn a_present_image_is_asked_for_but_not_fetched_again() {
        let Some(node) = Node::start().await else { return };
        node.registry.put_image("a/b", "1", &two_layers());
        let first = node.pull("a/b:1").await.unwrap();
        let blobs = node.registry.count("/blobs/");
        let manifests = node.registry.count("/manifests/");
        let second = node.pull("a/b:1").await.unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        assert_eq!(node.registry.count("/blobs/"), blobs);
        assert_eq!(node.registry.count("/manifests/"), manifests + 1);
    }

    #[tokio::test]
    async fn images_survive_a_restart() {
        let Some(node) = Node::start().await else { return };
        let image = {
            node.registry.put_image("a/b", "1", &two_layers());
            node.pull("a/b:1").await.unwrap()
        };
        let Node { registry, root, layers, images, used } = node;
        drop((images, layers, used));
        let (_layers, images) = open(root.path());
        let again = images.resolve(&image.repo_tags[0]).unwrap().unwrap();
        assert_eq!(again.id, image.id);
        assert_eq!(again.repo_digests, image.repo_digests);
        assert_eq!(again.config, image.config);
        let blobs = registry.count("/blobs/");
        let reference = Reference::parse(&image.repo_tags[0]).unwrap();
        images.pull(&reference, Credentials::Anonymous).await.unwrap();
        assert_eq!(registry.count("/blobs/"), blobs);
    }

    #[tokio::test]
    async fn one_configuration_under_several_names_is_one_image() {
        let Some(node) = Node::start().await else { return };
        let (digest, id) = node.registry.put_image("a/b", "1", &two_layers());
        node.registry.put_image("a/b", "2", &two_layers());
        node.registry.put_image("c", "1", &two_layers());
        for rest in ["a/b:1", "a/b:2", "c:1"] {
            assert_eq!(node.pull(rest).await.unwrap().id, id);
        }
        let image = node.images.resolve(&id.to_string()).unwrap().unwrap();
        assert_eq!(image.repo_tags.len(), 3);
        assert_eq!(image.repo_digests.len(), 2);
        node.images.remove(&image.repo_tags[1]).await.unwrap();
        assert!(node.images.list().is_empty());
        let by_digest = node.pull(&format!("c:1@{digest}")).await.unwrap();
        assert!(by_digest.repo_tags.is_empty());
        assert_eq!(by_digest.repo_digests, [node.reference(&format!("c@{digest}")).to_string()]);
    }

    #[tokio::test]
    async fn a_tag_that_moved_names_the_new_image() {
        let Some(node) = Node::start().await else { return };
        let (old_digest, old) = node.registry.put_image("a", "1", &two_layers());
        node.pull("a:1").await.unwrap();
        let (_, new) = node.registry.put_image("a", "1", &spec(vec![gzip(&[("x", b"new")])]));
        node.pull("a:1").await.unwrap();
        let tag = node.reference("a:1").to_string();
        assert_eq!(node.images.resolve(&tag).unwrap().unwrap().id, new);
        let old = node.images.resolve(&old.hex()).unwrap().unwrap();
        assert!(old.repo_tags.is_empty());
        assert_eq!(old.repo_digests, [node.reference(&format!("a@{old_digest}")).to_string()]);
    }

    #[tokio::test]
    async fn layers_go_only_when_no_image_lease_or_container_uses_them() {
        let Some(node) = Node::start().await else { return };
        let shared = gzip(&[("shared", b"s")]);
        let own = gzip(&[("own", b"o")]);
        node.registry.put_image("a", "1", &spec(vec![shared.clone(), own.clone()]));
        node.registry.put_image("b", "1", &spec(vec![shared.clone()]));
        let image = node.pull("a:1").await.unwrap();
        node.pull("b:1").await.unwrap();
        let freed = async || node.images.collect().await.unwrap().layers;
        assert_eq!(freed().await, 0);

        let lease = node.images.lease(&image.repo_tags[0]).unwrap().unwrap();
        node.images.remove(&image.id.to_string()).await.unwrap();
        assert!(node.images.resolve(&image.repo_tags[0]).unwrap().is_none());
        assert!(node.images.lease(&image.repo_tags[0]).unwrap().is_none());
        assert_eq!(freed().await, 0, "a lease holds");
        assert_eq!(lease.id, image.id);
        node.used.lock().unwrap().insert(own.diff_id);
        drop(lease);
        assert_eq!(freed().await, 0, "a container holds");
        node.used.lock().unwrap().clear();
        assert_eq!(freed().await, 1);
        assert!(!node.layers.contains(&own.diff_id));
        assert!(node.layers.contains(&shared.diff_id), "the other image holds");
        node.pull("a:1").await.unwrap();
        assert!(node.layers.contains(&own.diff_id));
    }

    #[tokio::test]
    async fn removals_of_unknown_images_and_at_once_succeed() {
        let Some(node) = Node::start().await else { return };
        node.registry.put_image("a", "1", &two_layers());
        let image = node.pull("a:1").await.unwrap();
        node.images.remove("never-heard-of:1").await.unwrap();
        node.images.remove(&"f".repeat(64)).await.unwrap();
        let name = image.repo_tags[0].clone();
        let (a, b, c) = tokio::join!(
            node.images.remove(&name),
            node.images.remove(&name),
            node.images.remove(&name)
        );
        a.and(b).and(c).unwrap();
        assert!(node.images.list().is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn parallel_pulls_fetch_each_layer_once() {
        let Some(node) = Node::start().await else { return };
        let content = noise(400_000);
        let layer = gzip(&[("big", &content)]);
        node.registry.put_image("a", "1", &spec(vec![layer.clone()]));
        node.registry.put_image("b", "1", &two_layers_over(layer.clone()));
        let (a, b, again) = tokio::join!(node.pull("a:1"), node.pull("b:1"), node.pull("a:1"));
        assert_ne!(a.unwrap().id, b.unwrap().id);
        again.unwrap();
        let blob = registry::digest_of(&layer.blob);
        assert_eq!(node.registry.count(&format!("/blobs/{blob}")), 1);
    }

    fn two_layers_over(layer: LayerSpec) -> ImageSpec {
        spec(vec![layer, gzip(&[("second", b"2")])])
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_dropped_pull_stops_and_leaves_nothing_half_done() {
        let Some(node) = Node::start().await else { return };
        let content = noise(400_000);
        let small = gzip(&[("small", b"s")]);
        let large = gzip(&[("big", &content)]);
        node.registry.put_image("a", "1", &spec(vec![small, large.clone()]));
        let blob = registry::digest_of(&large.blob).to_string();
        // The first answer breaks off, the attempt to go on never gets one.
        node.registry.fault(&blob, Fault::CutAfter(100_000), 1);
        node.registry.fault(&blob, Fault::Hold, 1);
        let reference = node.reference("a:1");
        let mut progress = node.images.watch_pull(&reference);
        let pull = tokio::spawn({
            let (images, reference) = (node.images.clone(), reference.clone());
            async move { images.pull(&reference, Credentials::Anonymous).await }
        });
        node.registry.arrived(&blob, 2).await;
        pull.abort();
        assert!(pull.await.unwrap_err().is_cancelled());
        progress.wait_for(|progress| progress.finished).await.unwrap();
        assert!(node.images.list().is_empty());
        // Waits for the abandoned thread, which holds the layer until it has cleaned up.
        node.pull("a:1").await.unwrap();
        assert_eq!(node.ingests(), 0);
        assert!(node.layers.contains(&large.diff_id));
        node.registry.release();
    }

    #[tokio::test]
    async fn a_download_that_breaks_in_the_middle_is_resumed_and_whole() {
        let Some(node) = Node::start().await else { return };
        let content = noise(400_000);
        let large = gzip(&[("big", &content)]);
        node.registry.put_image("a", "1", &spec(vec![large.clone()]));
        let blob = registry::digest_of(&large.blob).to_string();
        node.registry.fault(&blob, Fault::CutAfter(150_000), 2);
        node.pull("a:1").await.unwrap();
        let dirs = node.layers.lower_dirs(&[large.diff_id]).unwrap();
        assert_eq!(std::fs::read(dirs[0].join("big")).unwrap(), content);
    }

    /// Breaks off a pull of `a:1` whose blob is `blob` after some 100 kB.
    async fn broken_off(node: &Node, blob: &str) {
        node.registry.fault(blob, Fault::CutAfter(100_000), 1);
        node.registry.fault(blob, Fault::Hold, 1);
        let reference = node.reference("a:1");
        let pull = tokio::spawn({
            let (images, reference) = (node.images.clone(), reference.clone());
            async move { images.pull(&reference, Credentials::Anonymous).await }
        });
        node.registry.arrived(blob, 2).await;
        pull.abort();
        assert!(pull.await.unwrap_err().is_cancelled());
    }

    async fn keeping() -> Option<Node> {
        Node::start_with(image::Config { keep_after: Duration::ZERO, ..config().into() }).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_download_that_was_given_up_goes_on_with_the_next_pull() {
        let Some(node) = keeping().await else { return };
        let content = noise(400_000);
        let large = gzip(&[("big", &content)]);
        node.registry.put_image("a", "1", &spec(vec![large.clone()]));
        let blob = registry::digest_of(&large.blob).to_string();
        broken_off(&node, &blob).await;
        node.pull("a:1").await.unwrap();
        let last = node.registry.seen().into_iter().rfind(|seen| seen.target.contains(&blob));
        let range = last.unwrap().header("range").unwrap().to_owned();
        let from: usize = range["bytes=".len()..].trim_end_matches('-').parse().unwrap();
        assert!(from > 50_000, "{range}");
        let dirs = node.layers.lower_dirs(&[large.diff_id]).unwrap();
        assert_eq!(std::fs::read(dirs[0].join("big")).unwrap(), content);
        let kept = std::fs::read_dir(node.root.path().join("partial")).unwrap().count();
        assert_eq!(kept, 0, "what is whole is not kept twice");
        node.registry.release();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_spoilt_remainder_of_a_download_begins_anew() {
        let Some(node) = keeping().await else { return };
        let large = gzip(&[("big", &noise(400_000))]);
        node.registry.put_image("a", "1", &spec(vec![large.clone()]));
        let blob = registry::digest_of(&large.blob);
        // Sound frames of something else.
        let other = vec![b'x'; 1000];
        let mut file = format!("knarr-partial 1 {blob} {} 0\n", large.blob.len()).into_bytes();
        file.extend(1000_u32.to_le_bytes());
        file.extend(crc32fast::hash(&other).to_le_bytes());
        file.extend(&other);
        std::fs::write(node.root.path().join("partial").join(blob.hex()), file).unwrap();
        node.pull("a:1").await.unwrap();
        assert!(node.layers.contains(&large.diff_id));
        assert_eq!(node.ingests(), 0);
    }

    #[tokio::test]
    async fn directories_no_layer_names_take_after_the_layers_below() {
        let Some(node) = Node::start().await else { return };
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_size(0);
        header.set_mode(0o1777);
        builder.append_data(&mut header, "tmp/", &[][..]).unwrap();
        let base = builder.into_inner().unwrap();
        let base =
            LayerSpec { media_type: TAR.into(), diff_id: registry::digest_of(&base), blob: base };
        let top = gzip(&[("tmp/x", b"x")]);
        let stack = [base.diff_id, top.diff_id];
        node.registry.put_image("a", "1", &spec(vec![base, top]));
        node.pull("a:1").await.unwrap();
        let mode = |layers: &Layers| {
            let view = layers.open_merged(&stack).unwrap();
            let tmp = format!("/proc/self/fd/{}/tmp", view.as_raw_fd());
            std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(tmp).unwrap()) & 0o7777
        };
        assert_eq!(mode(&node.layers), 0o1777);

        let Node { registry: _registry, root, layers, images, .. } = node;
        drop((layers, images));
        let fixups = || std::fs::read_dir(root.path().join("fixups")).unwrap();
        let damage = || {
            for fixup in fixups() {
                std::fs::write(fixup.unwrap().path().join("sealed"), "torn").unwrap();
            }
        };
        damage();
        let (layers, images) = open(root.path());
        assert_eq!((mode(&layers), images.list().len(), images.unusable().len()), (0o1777, 1, 0));
        drop((layers, images));
        // Without what it would be made of the image is not there, rather than another one.
        damage();
        let top = root.path().join("layers").join(stack[1].hex());
        std::fs::rename(top.join("implied"), top.join("hidden")).unwrap();
        let (layers, images) = open(root.path());
        assert_eq!((images.list().len(), images.unusable().len()), (0, 1));
        drop((layers, images));
        std::fs::rename(top.join("hidden"), top.join("implied")).unwrap();
        let (layers, images) = open(root.path());
        assert_eq!((mode(&layers), images.list().len(), fixups().count()), (0o1777, 1, 1));
    }

    #[tokio::test]
    async fn a_damaged_layer_is_found_and_fetched_again_and_its_containers_keep_what_they_have() {
        let Some(node) = Node::start().await else { return };
        let layer = gzip(&[("etc/app", b"as it was")]);
        let id = layer.diff_id;
        node.registry.put_image("a", "1", &spec(vec![layer, gzip(&[("other", b"")])]));
        let image = node.pull("a:1").await.unwrap();
        assert!(node.images.verify(&id).await.unwrap().is_sound());
        let file = node.layers.lower_dirs(&[id]).unwrap()[0].join("etc/app");
        let modified = std::fs::metadata(&file).unwrap().modified().unwrap();
        std::fs::write(&file, b"as it is ").unwrap();
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(modified).unwrap();
        let verdict = node.images.verify(&id).await.unwrap();
        assert!(!verdict.is_sound(), "{verdict:?}");

        // As a container has it, by its directory and not by its path.
        node.used.lock().unwrap().insert(id);
        let held = std::fs::File::open(file.parent().unwrap()).unwrap();
        let in_container = format!("/proc/self/fd/{}/app", held.as_raw_fd());
        let before = node.images.fs_usage().await.used_bytes;
        let repair = || node.images.repair(&image, &id, Credentials::Anonymous);
        assert_eq!(repair().await.unwrap(), Repaired::StillUsed);
        assert!(node.images.verify(&id).await.unwrap().is_sound());
        assert_eq!(std::fs::read(&file).unwrap(), b"as it was");
        assert_eq!(std::fs::read(&in_container).unwrap(), b"as it is ");
        assert!(node.images.fs_usage().await.used_bytes > before, "what stays is counted");
        // Not even a restart takes it from the container.
        let Node { registry: _registry, root, layers, images, .. } = node;
        drop((layers, images));
        let (layers, images) = open(root.path());
        assert_eq!(layers.retired(), [id]);
        images.set_layer_users(Box::new(move || HashSet::from([id])));
        images.collect().await.unwrap();
        assert_eq!(std::fs::read(&in_container).unwrap(), b"as it is ");
        images.set_layer_users(Box::new(HashSet::new));
        images.collect().await.unwrap();
        assert_eq!(layers.retired(), []);
        std::fs::read(&in_container).unwrap_err();
        assert_eq!(images.fs_usage().await.used_bytes, before);
        assert_eq!(std::fs::read_dir(root.path().join("retired")).unwrap().count(), 0);
        assert!(images.verify(&id).await.unwrap().is_sound());
    }

    #[tokio::test]
    async fn what_images_take_is_what_the_disk_says() {
        let Some(node) = Node::start().await else { return };
        let shared = gzip(&[("shared", &noise(300_000)), ("more", &noise(70_000))]);
        node.registry.put_image("a", "1", &spec(vec![shared.clone()]));
        node.registry.put_image("b", "1", &two_layers_over(shared));
        node.pull("a:1").await.unwrap();
        node.pull("b:1").await.unwrap();
        let du = |what: &str| -> u64 {
            let mut du = std::process::Command::new("du");
            du.args(["--summarize", what, "--total"]);
            du.args(["layers", "images"]).current_dir(node.root.path());
            let said = String::from_utf8(du.output().unwrap().stdout).unwrap();
            let total = said.lines().find(|line| line.ends_with("total")).unwrap();
            total.split_whitespace().next().unwrap().parse().unwrap()
        };
        let usage = node.images.fs_usage().await;
        // The seals are written last, and the two directories themselves are not counted.
        let (bytes, inodes) = (du("--block-size=1"), du("--inodes"));
        assert!(
            usage.used_bytes <= bytes && bytes <= usage.used_bytes + 32_768,
            "{usage:?} {bytes}"
        );
        assert!(usage.inodes_used.abs_diff(inodes) <= 8, "{usage:?} {inodes}");
    }

    #[tokio::test]
    async fn content_that_is_not_what_was_promised_is_refused() {
        let Some(node) = Node::start().await else { return };
        let mut lying = gzip(&[("x", b"x")]);
        lying.diff_id = Digest::from_sha256([3; 32]);
        node.registry.put_image("lie", "1", &spec(vec![lying]));
        let error = node.pull("lie:1").await.unwrap_err();
        let PullError::Layer { source, .. } = &error else { panic!("{error:?}") };
        assert!(matches!(source, LayerError::DiffId { .. }), "{source:?}");

        // The time in a gzip header changes nothing that is unpacked: only the digest tells.
        let layer = gzip(&[("x", b"x")]);
        let blob = registry::digest_of(&layer.blob);
        node.registry.put_image("swap", "1", &spec(vec![layer]));
        node.registry.fault(&blob.to_string(), Fault::Corrupt(4), 1);
        let error = node.pull("swap:1").await.unwrap_err();
        let PullError::Layer { source, .. } = &error else { panic!("{error:?}") };
        assert!(matches!(source, LayerError::BlobDigest { .. }), "{source:?}");
        assert!(error.to_string().contains("swap:1"), "{error}");
        assert!(node.images.list().is_empty());
        assert_eq!(node.ingests(), 0);
        assert!(node.layers.list().is_empty());
        node.pull("swap:1").await.unwrap();
    }

    #[tokio::test]
    async fn each_caller_needs_its_own_access() {
        let Some(node) = Node::start().await else { return };
        node.registry.put_image("a", "1", &two_layers());
        node.registry.access(Access::Basic { user: "me".into(), password: "secret".into() });
        let mine = Credentials::Basic { user: "me".into(), password: "secret".into() };
        node.images.pull(&node.reference("a:1"), mine).await.unwrap();
        let error = node.pull("a:1").await.unwrap_err();
        assert!(matches!(error, PullError::Unauthorized { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn failures_are_told_apart() {
        let Some(node) = Node::start().await else { return };
        let error = node.pull("none:1").await.unwrap_err();
        assert!(matches!(error, PullError::NotFound { .. }), "{error:?}");
        let other = ImageSpec { architecture: "s390x".into(), ..two_layers() };
        node.registry.put_image("other", "1", &other);
        let error = node.pull("other:1").await.unwrap_err();
        assert!(matches!(error, PullError::Config { .. }), "{error:?}");
        let gone = node.reference("a:1");
        let Node { registry, images, .. } = node;
        drop(registry);
        let error = images.pull(&gone, Credentials::Anonymous).await.unwrap_err();
        assert!(matches!(error, PullError::RegistryUnavailable { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn watchers_see_layers_come() {
        let Some(node) = Node::start().await else { return };
        let shared = gzip(&[("etc/passwd", b"")]);
        node.registry.put_image("first", "1", &spec(vec![shared.clone()]));
        node.registry.put_image("a", "1", &two_layers_over(shared));
        node.pull("first:1").await.unwrap();
        let mut progress = node.images.watch_pull(&node.reference("a:1"));
        node.pull("a:1").await.unwrap();
        let end = progress.wait_for(|progress| progress.finished).await.unwrap().clone();
        let stages: Vec<_> = end.layers.iter().map(|layer| layer.stage).collect();
        assert_eq!(stages, [Stage::Present, Stage::Done]);
        assert!(end.layers.iter().all(|layer| layer.done == layer.total));
    }

    #[tokio::test]
    async fn an_image_with_a_repeated_or_no_layer_is_pulled() {
        let Some(node) = Node::start().await else { return };
        let empty = gzip(&[]);
        node.registry.put_image("twice", "1", &spec(vec![empty.clone(), empty.clone()]));
        assert_eq!(node.pull("twice:1").await.unwrap().diff_ids.len(), 2);
        node.registry.put_image("scratch", "1", &spec(Vec::new()));
        let scratch = node.pull("scratch:1").await.unwrap();
        assert!(scratch.diff_ids.is_empty());
    }

    #[tokio::test]
    async fn pinned_images_are_told() {
        let Some(node) = Node::start().await else { return };
        node.registry.put_image("infra/x", "1", &two_layers());
        node.pull("infra/x:1").await.unwrap();
        assert!(!node.images.list()[0].pinned);
        node.images.set_pinned(vec!["*infra*".into()]);
        assert!(node.images.list()[0].pinned);
        node.images.set_pinned(Vec::new());
        assert!(!node.images.list()[0].pinned);
    }
}
