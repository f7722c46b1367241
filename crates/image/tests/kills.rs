//! `kill -9` in the middle of pulls: what is listed afterwards is whole, the rest is gone or is
//! resumed, and the next pull works.
//!
//! A pull runs in a child process and is killed before each of the steps by which it changes the disk,
//! and at moments spread over its whole length; how many is set by `KNARR_KILLS`, so that the long
//! form is the same test.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
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
        start(Command::new(std::env::current_exe().unwrap()), root, reference)
    }

    fn start(mut command: Command, root: &Path, reference: &str) -> Child {
        command
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
            assert!(image.diff_ids.iter().all(|layer| layers.contains(layer)), "{image:?}");
        }
        for diff_id in layers.list() {
            let verdict = images.verify(&diff_id).await.unwrap();
            assert!(verdict.is_sound(), "{verdict:?}");
        }
        images.pull(reference, Credentials::Anonymous).await.unwrap();
        let image = images.resolve(&reference.to_string()).unwrap().unwrap();
        assert_eq!(image.diff_ids.len(), layers_of_image);
        for diff_id in &image.diff_ids {
            assert!(images.verify(diff_id).await.unwrap().is_sound());
        }
        // What the dead pull left is swept before the store closes.
        let known = layers.list().len();
        drop((images, layers));
        for (dir, want) in [("ingest", 0), ("partial", 0), ("layers", known)] {
            let found = std::fs::read_dir(root.join(dir)).unwrap().count();
            assert_eq!(found, want, "{dir}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_pull_may_be_killed_at_any_moment() {
        if !rustix::process::geteuid().is_root() {
            test_support::skip("unpacking layers needs root");
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

    /// A directory with a mode of its own, or only what lies in it.
    fn small(name: &str, names_it: bool) -> LayerSpec {
        let mut builder = tar::Builder::new(Vec::new());
        if names_it {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            header.set_mode(0o700);
            builder.append_data(&mut header, "shared/", &b""[..]).unwrap();
        }
        let mut header = tar::Header::new_ustar();
        header.set_size(3);
        header.set_mode(0o644);
        builder.append_data(&mut header, format!("shared/{name}"), &b"abc"[..]).unwrap();
        let blob = builder.into_inner().unwrap();
        let media_type = "application/vnd.oci.image.layer.v1.tar".into();
        LayerSpec { media_type, diff_id: registry::digest_of(&blob), blob }
    }

    /// What a pull does to the disk.
    const STEPS: &[&str] = &[
        "fsync",
        "linkat",
        "mkdirat",
        "pwrite64",
        "rename",
        "renameat2",
        "syncfs",
        "unlink",
        "unlinkat",
    ];

    /// Kills a pull before its `nth` call of `step`; false if it does not get so far.
    fn kill_before(step: &str, nth: u32, root: &Path, name: &str) -> bool {
        let mut strace = Command::new("strace");
        // With `--seccomp-bpf` it would not count beyond one.
        strace.args(["--follow-forks", "-qq", "--output", "/dev/null"]);
        let inject = format!("inject={step}:signal=KILL:when={nth}");
        strace.args(["--trace", step, "-e", &inject]);
        strace.arg(std::env::current_exe().unwrap());
        let ended = start(strace, root, name).wait().unwrap();
        assert!(ended.success() || ended.signal() == Some(9), "{step} {nth}: {ended}");
        !ended.success()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_pull_may_be_killed_before_each_of_its_steps() {
        if !rustix::process::geteuid().is_root() || !Path::new("/usr/bin/strace").exists() {
            test_support::skip("needs root and strace");
            return;
        }
        let registry = FakeRegistry::start().await;
        let (below, above) = (small("below", true), small("above", false));
        let put = |name: &str, layers: Vec<LayerSpec>| {
            let config = serde_json::json!({ "WorkingDir": format!("/{name}") });
            registry.put_image(name, "1", &ImageSpec { layers, config, ..ImageSpec::default() });
        };
        put("one", vec![below.clone()]);
        put("again", vec![below.clone()]);
        put("other", vec![above.clone()]);
        put("both", vec![below, above]);
        let reference = |name: &str| format!("{}/{name}:1", registry.host());
        // Calls are counted by thread: what is here before a pull lets it get to its later steps.
        for (here, wanted, layers) in
            [(vec![], "one", 1), (vec!["one"], "again", 1), (vec!["one", "other"], "both", 2)]
        {
            let mut killed_before = Vec::new();
            for step in STEPS {
                for nth in 1.. {
                    let root = tempfile::tempdir().unwrap();
                    for name in &here {
                        let reference = Reference::parse(&reference(name)).unwrap();
                        let (_layers, images) = open(root.path());
                        images.pull(&reference, Credentials::Anonymous).await.unwrap();
                    }
                    let name = reference(wanted);
                    let killed = kill_before(step, nth, root.path(), &name);
                    check(root.path(), &Reference::parse(&name).unwrap(), layers).await;
                    if !killed {
                        break;
                    }
                    killed_before.push(*step);
                }
            }
            println!("{wanted}: killed before {killed_before:?}");
            let syncs = killed_before.iter().filter(|step| **step == "fsync").count();
            assert!(syncs > 1, "{killed_before:?}");
        }
    }
}
