//! How layers come in: at once, in the background, in little memory.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::sync::Arc;

    use image::Images;
    use model::Reference;
    use registry::testing::{FakeRegistry, Fault, ImageSpec, LayerSpec};
    use registry::{Config, Credentials};
    use snapshot::Layers;

    const ROOT: &str = "KNARR_PIPELINE_ROOT";
    const REFERENCE: &str = "KNARR_PIPELINE_REFERENCE";
    const TAR: &str = "application/vnd.oci.image.layer.v1.tar";

    fn may_unpack() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            test_support::skip("unpacking layers needs root");
        }
        root
    }

    fn open(root: &Path) -> Images {
        let config = Config { hosts_dirs: Vec::new(), ..Config::default() };
        Images::open(root, config, Arc::new(Layers::open(root).unwrap())).unwrap()
    }

    fn header(size: usize) -> tar::Header {
        let mut header = tar::Header::new_ustar();
        header.set_size(size.try_into().unwrap());
        header.set_mode(0o644);
        header
    }

    fn one_file(path: &str, length: usize) -> LayerSpec {
        let mut builder = tar::Builder::new(Vec::new());
        let content: Vec<u8> = (0..=255).cycle().take(length).collect();
        builder.append_data(&mut header(length), path, &*content).unwrap();
        let blob = builder.into_inner().unwrap();
        LayerSpec { media_type: TAR.into(), diff_id: registry::digest_of(&blob), blob }
    }

    /// Threads of this process with this name, by their numbers.
    fn threads(name: &str) -> Vec<String> {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let is_it = |task: &std::path::PathBuf| {
            std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        };
        let found = tasks.map(|task| task.unwrap().path()).filter(is_it);
        found.map(|task| task.file_name().unwrap().to_string_lossy().into_owned()).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn layers_come_at_once_and_give_way_to_everything_else() {
        if !may_unpack() {
            return;
        }
        let registry = FakeRegistry::start().await;
        let layers: Vec<_> =
            (0..3).map(|number| one_file(&format!("file-{number}"), 300_000)).collect();
        let blobs: Vec<_> = layers.iter().map(|layer| registry::digest_of(&layer.blob)).collect();
        registry.put_image("a", "1", &ImageSpec { layers, ..ImageSpec::default() });
        for blob in &blobs {
            registry.fault(&blob.to_string(), Fault::HoldAfter(200_000), 1);
        }
        let root = tempfile::tempdir().unwrap();
        let images = open(root.path());
        let reference = Reference::parse(&format!("{}/a:1", registry.host())).unwrap();
        let pull =
            tokio::spawn(
                async move { images.pull(&reference, Credentials::Anonymous).await.map(drop) },
            );
        for blob in &blobs {
            registry.arrived(&blob.to_string(), 1).await;
        }
        // The second thread of a layer appears once the first has given way.
        while threads("layer-unpack").len() < blobs.len() {
            tokio::task::yield_now().await;
        }
        for thread in threads("layer-fetch").into_iter().chain(threads("layer-unpack")) {
            let stat = std::fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
            let fields: Vec<_> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
            // proc(5): fields 19 (nice) and 41 (policy: SCHED_BATCH), counted from field 3.
            assert_eq!((fields[16], fields[38]), ("10", "3"), "{stat}");
            let io = Command::new("ionice").args(["-p", &thread]).output().unwrap();
            assert_eq!(io.stdout, b"best-effort: prio 7\n");
        }
        registry.release();
        pull.await.unwrap().unwrap();
    }

    fn status(key: &str) -> u64 {
        let text = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// The child's half: nothing unless the test below starts it.
    #[test]
    fn a_pull_that_is_measured() {
        let Some(root) = std::env::var_os(ROOT) else { return };
        let reference = Reference::parse(&std::env::var(REFERENCE).unwrap()).unwrap();
        let images = open(Path::new(&root));
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let before = status("VmRSS:");
        runtime.block_on(images.pull(&reference, Credentials::Anonymous)).unwrap();
        println!("@ {}", status("VmHWM:") - before);
    }

    /// Writes the tar of one long file of any bytes.
    fn long_file(out: &mut impl Write, path: &str, length: usize) {
        let mut builder = tar::Builder::new(out);
        let content = Noise { state: 7, left: length };
        builder.append_data(&mut header(length), path, content).unwrap();
        builder.finish().unwrap();
    }

    /// Bytes that repeat so late that only a large window sees it.
    struct Noise {
        state: u32,
        left: usize,
    }

    impl std::io::Read for Noise {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            const PERIOD: usize = 20 << 20;
            let length = buffer.len().min(self.left);
            for byte in &mut buffer[..length] {
                if self.left.is_multiple_of(PERIOD) {
                    self.state = 7;
                }
                self.state ^= self.state << 13;
                self.state ^= self.state >> 17;
                self.state ^= self.state << 5;
                *byte = self.state.to_le_bytes()[0];
                self.left -= 1;
            }
            Ok(length)
        }
    }

    /// zstd with the largest window that is allowed: 32 MiB.
    fn large_window(path: &str) -> LayerSpec {
        let mut tar = Vec::new();
        long_file(&mut tar, path, 40 << 20);
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(25).unwrap();
        encoder.long_distance_matching(true).unwrap();
        encoder.write_all(&tar).unwrap();
        LayerSpec {
            media_type: format!("{TAR}+zstd"),
            blob: encoder.finish().unwrap(),
            diff_id: registry::digest_of(&tar),
        }
    }

    fn gzip(tar: &[u8]) -> LayerSpec {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(tar).unwrap();
        LayerSpec {
            media_type: format!("{TAR}+gzip"),
            blob: encoder.finish().unwrap(),
            diff_id: registry::digest_of(tar),
        }
    }

    fn many_files(top: &str) -> LayerSpec {
        let mut builder = tar::Builder::new(Vec::new());
        for number in 0..5_000 {
            let path = format!("{top}/{}/a-name-of-some-length-{number}", number % 500);
            builder.append_data(&mut header(3), path, &b"abc"[..]).unwrap();
        }
        gzip(&builder.into_inner().unwrap())
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_pull_takes_little_memory_whatever_the_image() {
        const MOST_KIB: u64 = 64 << 10;
        if !may_unpack() {
            return;
        }
        let registry = FakeRegistry::start().await;
        let mut zeroes = tar::Builder::new(Vec::new());
        let length = 64 << 20;
        zeroes.append_data(&mut header(length), "zeroes", &*vec![0; length]).unwrap();
        let layers = vec![
            large_window("one"),
            large_window("two"),
            gzip(&zeroes.into_inner().unwrap()),
            many_files("here"),
            many_files("there"),
        ];
        registry.put_image("a", "1", &ImageSpec { layers, ..ImageSpec::default() });
        let root = tempfile::tempdir().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "tests::a_pull_that_is_measured", "--nocapture"])
            .env(ROOT, root.path())
            .env(REFERENCE, format!("{}/a:1", registry.host()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let ended =
            tokio::task::spawn_blocking(|| child.wait_with_output()).await.unwrap().unwrap();
        assert!(ended.status.success());
        let said = String::from_utf8(ended.stdout).unwrap();
        let grown = said.lines().find_map(|line| line.split_once("@ ")).unwrap().1;
        let grown: u64 = grown.parse().unwrap();
        println!("{grown} KiB");
        assert!(grown <= MOST_KIB, "it grew by {grown} KiB");
    }
}
