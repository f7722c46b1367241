//! `kill -9` in the middle of pulls: what is listed afterwards is whole, the rest is gone or is
//! resumed, and the next pull works.
//!
//! A pull runs in a child process and is killed at moments spread over its whole length; how many
//! is set by `KNARR_KILLS`, so that the long form is the same test.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;
    use std::process::{Child, Command, Stdio};
    use std::sync::Arc;
    use std::time::Duration;

    use image::Images;
    use model::Reference;
    use registry::testing::{FakeRegistry, ImageSpec, LayerSpec};
    use registry::{Config, Credentials};
    use snapshot::Layers;

    const ROOT: &str = "KNARR_KILL_ROOT";
    const REFERENCE: &str = "KNARR_KILL_REFERENCE";
    const KILLS: &str = "KNARR_KILLS";

    fn open(root: &Path) -> (Arc<Layers>, Images) {
        let layers = Arc::new(Layers::open(root).unwrap());
        let config = image::Config {
            keep_after: Duration::ZERO,
            ..Config { hosts_dirs: Vec::new(), ..Config::default() }.into()
        };
        let images = Images::open(root, config, Arc::clone(&layers)).unwrap();
        (layers, images)
    }

    /// The child's half: nothing unless the test below starts it.
    #[test]
    fn a_pull_that_is_killed() {
        let Some(root) = std::env::var_os(ROOT) else { return };
        let reference = Reference::parse(&std::env::var(REFERENCE).unwrap()).unwrap();
        let (_layers, images) = open(Path::new(&root));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(images.pull(&reference, Credentials::Anonymous)).unwrap();
    }

    fn child(root: &Path, reference: &str) -> Child {
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::a_pull_that_is_killed", "--test-threads=1"])
            .env(ROOT, root)
            .env(REFERENCE, reference)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    fn layer(number: usize) -> LayerSpec {
        let mut builder = tar::Builder::new(Vec::new());
        let mut state = u32::try_from(number).unwrap() + 1;
        for file in 0..40 {
            let next = || {
                state ^= state << 13;
                state ^= state >> 17;
                state ^= state << 5;
                state.to_le_bytes()[0]
            };
            let content: Vec<u8> = std::iter::repeat_with(next).take(20_000).collect();
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len().try_into().unwrap());
            header.set_mode(0o644);
            // The directory is only implied: the next layer gives it another mode.
            let path = format!("shared/{number}/{file}");
            builder.append_data(&mut header, path, &*content).unwrap();
        }
        let tar = builder.into_inner().unwrap();
        LayerSpec {
            media_type: "application/vnd.oci.image.layer.v1.tar".into(),
            diff_id: registry::digest_of(&tar),
            blob: tar,
        }
    }

    /// Everything that is listed is whole; then the pull is finished.
    async fn check(root: &Path, reference: &Reference, layers_of_image: usize) {
        let (layers, images) = open(root);
        for image in images.list().iter() {
            assert_eq!(image.diff_ids.len(), layers_of_image);
        }
        for diff_id in layers.list() {
            let verdict = images.verify(&diff_id).await.unwrap();
            assert!(verdict.is_sound(), "{verdict:?}");
        }
        images.pull(reference, Credentials::Anonymous).await.unwrap();
        let image = images.list()[0].clone();
        for diff_id in &image.diff_ids {
            assert!(images.verify(diff_id).await.unwrap().is_sound());
        }
        // What the dead pull left is swept before the store closes.
        drop((images, layers));
        for (dir, want) in [("ingest", 0), ("partial", 0), ("layers", layers_of_image)] {
            let found = std::fs::read_dir(root.join(dir)).unwrap().count();
            assert_eq!(found, want, "{dir}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_pull_may_be_killed_at_any_moment() {
        let own = std::fs::metadata("/proc/self").unwrap();
        if own.uid() != 0 {
            eprintln!("skipped: unpacking layers needs root");
            return;
        }
        let kills: u32 = std::env::var(KILLS).map_or(12, |text| text.parse().unwrap());
        let registry = FakeRegistry::start().await;
        let layers: Vec<_> = (0..4).map(layer).collect();
        registry.put_image("a", "1", &ImageSpec { layers, ..ImageSpec::default() });
        let name = format!("{}/a:1", registry.host());
        let reference = Reference::parse(&name).unwrap();
        // How long a whole pull takes here says where the moments lie.
        let whole = tempfile::tempdir().unwrap();
        let begun = std::time::Instant::now();
        assert!(child(whole.path(), &name).wait().unwrap().success());
        let length = begun.elapsed();
        for kill in 0..kills {
            let root = tempfile::tempdir().unwrap();
            let mut child = child(root.path(), &name);
            // A moment, not an event: that is what is tested.
            std::thread::sleep(length * kill / kills);
            child.kill().unwrap();
            child.wait().unwrap();
            check(root.path(), &reference, 4).await;
        }
    }
}
