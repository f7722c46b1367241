//! Images as files: out of one store and into another.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;
    use std::sync::Arc;

    use image::{Images, LayerSource, LoadError, SaveError};
    use model::{Digest, Reference};
    use registry::testing::{FakeRegistry, ImageSpec, LayerSpec};
    use registry::{Config, Credentials};
    use snapshot::Layers;

    struct Store {
        root: tempfile::TempDir,
        layers: Arc<Layers>,
        images: Images,
    }

    impl Store {
        fn new() -> Option<Self> {
            let own = std::fs::metadata("/proc/self").unwrap();
            if std::os::unix::fs::MetadataExt::uid(&own) != 0 {
                eprintln!("skipped: unpacking layers needs root");
                return None;
            }
            let root = tempfile::tempdir().unwrap();
            let layers = Arc::new(Layers::open(root.path()).unwrap());
            let config = Config { hosts_dirs: Vec::new(), ..Config::default() };
            let images = Images::open(root.path(), config, Arc::clone(&layers)).unwrap();
            Some(Self { root, layers, images })
        }

        fn file(&self, name: &str) -> std::path::PathBuf {
            self.root.path().join(name)
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

    fn layer(text: &str) -> LayerSpec {
        let tar = tar(&[("etc/file", text.as_bytes())]);
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(&tar).unwrap();
        LayerSpec {
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
            diff_id: registry::digest_of(&tar),
            blob: encoder.finish().unwrap(),
        }
    }

    async fn save(
        store: &Store,
        names: &[&str],
        from: LayerSource,
        to: &Path,
    ) -> Result<(), SaveError> {
        let images = names.iter().map(|name| store.images.resolve(name).unwrap().unwrap());
        let mut stream = store.images.save(images.collect(), from, Credentials::Anonymous);
        let mut file = std::fs::File::create(to).unwrap();
        while let Some(piece) = stream.recv().await {
            file.write_all(&piece?).unwrap();
        }
        Ok(())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_is_saved_can_be_loaded_where_no_registry_is() {
        let (Some(from), Some(to)) = (Store::new(), Store::new()) else { return };
        let registry = FakeRegistry::start().await;
        let spec = |layers| ImageSpec {
            layers,
            config: serde_json::json!({"Cmd": ["/bin/app"]}),
            ..ImageSpec::default()
        };
        registry.put_image("a/b", "1", &spec(vec![layer("one"), layer("two")]));
        registry.put_image("c", "2", &spec(vec![layer("one")]));
        let names = ["a/b:1", "c:2"].map(|rest| format!("{}/{rest}", registry.host()));
        let mut ids = Vec::new();
        for name in &names {
            let reference = Reference::parse(name).unwrap();
            let image = from.images.pull(&reference, Credentials::Anonymous).await.unwrap();
            ids.push(image.id);
        }
        let archive = from.file("archive.tar");
        save(&from, &[&names[0], &names[1]], LayerSource::Registry, &archive).await.unwrap();
        let plain = from.file("plain.tar");
        drop(registry);
        save(&from, &[&names[0], &names[1]], LayerSource::Store, &plain).await.unwrap();

        let loaded = to.images.load(&archive).await.unwrap();
        let got: Vec<Digest> = loaded.iter().map(|loaded| loaded.image.id).collect();
        assert_eq!(got, ids);
        for (name, id) in names.iter().zip(&ids) {
            let image = to.images.resolve(name).unwrap().unwrap();
            assert_eq!(image.id, *id);
            for diff_id in &image.diff_ids {
                assert!(to.images.verify(diff_id).await.unwrap().is_sound());
            }
        }
        // Again is no harm; and what came from an archive leads to no registry.
        to.images.load(&archive).await.unwrap();
        let again = to.file("again.tar");
        let refused = save(&to, &[&names[1]], LayerSource::Registry, &again).await.unwrap_err();
        assert!(matches!(refused, SaveError::NoSource { .. }), "{refused}");
        // What was pulled and what was loaded make the same archive.
        save(&to, &[&names[0], &names[1]], LayerSource::Store, &again).await.unwrap();
        assert_eq!(std::fs::read(&again).unwrap(), std::fs::read(&plain).unwrap());
        let Some(third) = Store::new() else { return };
        let loaded = third.images.load(&again).await.unwrap();
        let got: Vec<Digest> = loaded.iter().map(|loaded| loaded.image.id).collect();
        assert_eq!(got, ids);
        for image in third.images.list().iter() {
            let details = third.images.details(image).await.unwrap();
            let blobs: Vec<_> = details.blobs.iter().map(|blob| blob.digest).collect();
            assert_eq!(blobs, image.diff_ids, "plain layers are their own diff ids");
        }
    }

    #[tokio::test]
    async fn compressed_archives_are_loaded_and_broken_ones_refused() {
        let Some(store) = Store::new() else { return };
        let layer = tar(&[("bin/app", b"#!")]);
        let dir = store.file("saved");
        let id = docker_directory(&dir, &layer, registry::digest_of(&layer));
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_dir_all(".", &dir).unwrap();
        let plain = builder.into_inner().unwrap();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let packed = [gzip.finish().unwrap(), zstd::encode_all(&*plain, 1).unwrap()];
        for bytes in &packed {
            let archive = store.file("packed");
            std::fs::write(&archive, bytes).unwrap();
            assert_eq!(store.images.load(&archive).await.unwrap()[0].image.id, id);
            std::fs::write(&archive, &bytes[..bytes.len() / 2]).unwrap();
            let refused = store.images.load(&archive).await.unwrap_err();
            assert!(matches!(refused, LoadError::Inflate { .. }), "{refused}");
            store.images.remove(&id.to_string()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_layer_that_the_disk_has_spoilt_is_not_saved() {
        let Some(store) = Store::new() else { return };
        let layer = tar(&[("bin/app", b"#!")]);
        let dir = store.file("saved");
        docker_directory(&dir, &layer, registry::digest_of(&layer));
        let image = Arc::clone(&store.images.load(&dir).await.unwrap()[0].image);
        let path = store.layers.lower_dirs(&image.diff_ids).unwrap()[0].join("bin/app");
        let id = image.id.to_string();
        std::fs::write(&path, b"!#").unwrap();
        let to = store.file("out");
        let refused = save(&store, &[&id], LayerSource::Store, &to).await.unwrap_err();
        assert!(matches!(refused, SaveError::Digest { .. }), "{refused}");
        std::fs::write(&path, b"longer").unwrap();
        std::fs::remove_file(&path).unwrap();
        let refused = save(&store, &[&id], LayerSource::Store, &to).await.unwrap_err();
        assert!(matches!(refused, SaveError::Pack { .. }), "{refused}");
    }

    /// An archive in a directory, as `docker save` laid them out for years.
    fn docker_directory(dir: &Path, layer: &[u8], diff_id: Digest) -> Digest {
        let config = serde_json::json!({
            "os": "linux",
            "config": {"User": "app"},
            "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]},
        })
        .to_string();
        let list = serde_json::json!([
            {"Config": "config.json", "RepoTags": ["x.example/app:3"], "Layers": ["0/layer.tar"]}
        ]);
        std::fs::create_dir_all(dir.join("0")).unwrap();
        std::fs::write(dir.join("0/layer.tar"), layer).unwrap();
        std::fs::write(dir.join("config.json"), &config).unwrap();
        std::fs::write(dir.join("manifest.json"), list.to_string()).unwrap();
        registry::digest_of(config.as_bytes())
    }

    #[tokio::test]
    async fn the_older_form_of_docker_is_understood_as_a_directory() {
        let Some(store) = Store::new() else { return };
        let layer = tar(&[("bin/app", b"#!")]);
        let diff_id = registry::digest_of(&layer);
        let dir = store.file("saved");
        let id = docker_directory(&dir, &layer, diff_id);
        let loaded = store.images.load(&dir).await.unwrap();
        assert_eq!(loaded.len(), 1);
        let image = store.images.resolve("x.example/app:3").unwrap().unwrap();
        assert_eq!((image.id, image.config.user.as_str()), (id, "app"));
        let dirs = store.layers.lower_dirs(&[diff_id]).unwrap();
        assert_eq!(std::fs::read(dirs[0].join("bin/app")).unwrap(), b"#!");
        let details = store.images.details(&image).await.unwrap();
        assert_eq!(details.blobs[0].digest, diff_id);
        let tagged = store.images.tag("x.example/app:3", Reference::parse("y:1").unwrap()).await;
        assert_eq!(tagged.unwrap().repo_tags.len(), 2);
        assert!(store.images.store_usage().await.total.used_bytes > 0);
    }

    #[tokio::test]
    async fn a_name_with_a_digest_is_taken_for_that_content_alone() {
        let (Some(from), Some(to)) = (Store::new(), Store::new()) else { return };
        let layer = tar(&[("bin/app", b"#!")]);
        let dir = from.file("saved");
        docker_directory(&dir, &layer, registry::digest_of(&layer));
        from.images.load(&dir).await.unwrap();
        let archive = from.file("archive.tar");
        save(&from, &["x.example/app:3"], LayerSource::Store, &archive).await.unwrap();
        let layout = to.file("layout");
        tar::Archive::new(std::fs::File::open(&archive).unwrap()).unpack(&layout).unwrap();
        std::fs::remove_file(layout.join("manifest.json")).ok();
        let index = std::fs::read_to_string(layout.join("index.json")).unwrap();
        let parsed: serde_json::Value = serde_json::from_str(&index).unwrap();
        let own = parsed["manifests"][0]["digest"].as_str().unwrap();
        let foreign = Digest::from_sha256([2; 32]).to_string();
        for (digest, is_own) in [(own, true), (foreign.as_str(), false)] {
            let name = format!("x.example/app@{digest}");
            let named = index.replace("x.example/app:3", &name);
            std::fs::write(layout.join("index.json"), named).unwrap();
            let loaded = to.images.load(&layout).await;
            assert_eq!(loaded.is_ok(), is_own, "{name}: {loaded:?}");
            assert_eq!(to.images.resolve(&name).unwrap().is_some(), is_own, "{name}");
        }
    }

    #[tokio::test]
    async fn archives_that_lie_or_lack_something_are_refused_by_name() {
        let Some(store) = Store::new() else { return };
        let layer = tar(&[("bin/app", b"#!")]);
        let dir = store.file("saved");
        docker_directory(&dir, &layer, Digest::from_sha256([1; 32]));
        let refused = store.images.load(&dir).await.unwrap_err();
        assert!(matches!(refused, LoadError::Layer { .. }), "{refused}");
        // Whoever pulls that digest would get this image.
        let list = std::fs::read_to_string(dir.join("manifest.json")).unwrap();
        let foreign = format!("x.example/app@{}", Digest::from_sha256([2; 32]));
        std::fs::write(dir.join("manifest.json"), list.replace("x.example/app:3", &foreign))
            .unwrap();
        let refused = store.images.load(&dir).await.unwrap_err();
        assert!(
            matches!(&refused, LoadError::ForeignName { name } if *name == foreign),
            "{refused}"
        );
        std::fs::write(dir.join("manifest.json"), list).unwrap();
        std::fs::remove_file(dir.join("0/layer.tar")).unwrap();
        let refused = store.images.load(&dir).await.unwrap_err();
        assert_eq!(refused.to_string(), "the archive has no `0/layer.tar`");
        std::os::unix::fs::symlink("/etc/passwd", dir.join("0/layer.tar")).unwrap();
        assert!(matches!(store.images.load(&dir).await, Err(LoadError::Missing { .. })));
        std::fs::write(dir.join("manifest.json"), "[{").unwrap();
        assert!(matches!(store.images.load(&dir).await, Err(LoadError::Json { .. })));
        std::fs::remove_file(dir.join("manifest.json")).unwrap();
        assert!(matches!(store.images.load(&dir).await, Err(LoadError::NoImages { .. })));
        let noise = store.file("noise");
        std::fs::write(&noise, vec![7; 4096]).unwrap();
        assert!(matches!(store.images.load(&noise).await, Err(LoadError::NotATar { .. })));
        assert!(matches!(store.images.load(&store.file("no")).await, Err(LoadError::Read { .. })));
        assert!(store.images.list().is_empty());
        assert!(store.layers.list().is_empty());
    }
}
