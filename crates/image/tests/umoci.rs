//! The same images unpacked by umoci: the trees are the same, in everything a file system keeps.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::os::fd::AsRawFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::Arc;

    use image::Images;
    use registry::Config;
    use serde_json::json;
    use snapshot::Layers;
    use test_support::images::{Blob, ImageBuilder, Layer, OciImage, catalog};

    /// Entries that builders make in odd places, one after the other.
    #[derive(Default)]
    struct Awkward {
        tar: Option<tar::Builder<Vec<u8>>>,
    }

    struct Entry<'a> {
        path: &'a str,
        kind: tar::EntryType,
        mode: u32,
        owner: (u64, u64),
        mtime: u64,
        link: &'a str,
        content: &'a [u8],
        device: (u32, u32),
        xattrs: &'a [(&'a str, &'a [u8])],
    }

    impl<'a> Entry<'a> {
        fn new(path: &'a str, kind: tar::EntryType, mode: u32) -> Self {
            Self {
                path,
                kind,
                mode,
                owner: (0, 0),
                mtime: 1_600_000_000,
                link: "",
                content: b"",
                device: (0, 0),
                xattrs: &[],
            }
        }
    }

    fn dir(path: &str, mode: u32) -> Entry<'_> {
        Entry::new(path, tar::EntryType::Directory, mode)
    }

    fn file<'a>(path: &'a str, mode: u32, content: &'a str) -> Entry<'a> {
        Entry { content: content.as_bytes(), ..Entry::new(path, tar::EntryType::Regular, mode) }
    }

    fn link<'a>(path: &'a str, target: &'a str) -> Entry<'a> {
        Entry { link: target, ..Entry::new(path, tar::EntryType::Symlink, 0o777) }
    }

    fn same<'a>(path: &'a str, target: &'a str) -> Entry<'a> {
        Entry { link: target, ..Entry::new(path, tar::EntryType::Link, 0o644) }
    }

    impl Awkward {
        fn add(mut self, entry: &Entry<'_>) -> Self {
            let tar = self.tar.get_or_insert_with(|| tar::Builder::new(Vec::new()));
            if !entry.xattrs.is_empty() {
                let keys: Vec<_> = entry
                    .xattrs
                    .iter()
                    .map(|(key, value)| (format!("SCHILY.xattr.{key}"), *value))
                    .collect();
                let pairs = keys.iter().map(|(key, value)| (key.as_str(), *value));
                tar.append_pax_extensions(pairs).unwrap();
            }
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(entry.kind);
            header.set_mode(entry.mode);
            header.set_uid(entry.owner.0);
            header.set_gid(entry.owner.1);
            header.set_mtime(entry.mtime);
            header.set_device_major(entry.device.0).unwrap();
            header.set_device_minor(entry.device.1).unwrap();
            header.set_size(u64::try_from(entry.content.len()).unwrap());
            if entry.link.is_empty() {
                tar.append_data(&mut header, entry.path, entry.content).unwrap();
            } else {
                tar.append_link(&mut header, entry.path, entry.link).unwrap();
            }
            self
        }

        fn layer(self) -> Layer {
            let bytes = self.tar.unwrap().into_inner().unwrap();
            let blob = Blob::new(bytes);
            let diff_id = blob.digest.clone();
            Layer { blob, media_type: "application/vnd.oci.image.layer.v1.tar", diff_id }
        }
    }

    fn awkward() -> OciImage {
        let base = Awkward::default()
            .add(&dir("bin", 0o755))
            .add(&dir("usr", 0o755))
            .add(&dir("usr/lib", 0o751))
            .add(&link("lib", "usr/lib"))
            .add(&Entry { owner: (0, 50), mtime: 1_500_000_000, ..dir("tmp", 0o1777) })
            .add(&Entry { owner: (1000, 1001), ..file("usr/lib/mine", 0o4750, "setuid\n") })
            .add(&file("usr/lib/old", 0o644, "old\n"))
            .add(&same("usr/lib/same", "usr/lib/old"))
            .add(&link("bin/dangling", "/nowhere/at/all"))
            .add(&Entry { device: (1, 3), ..Entry::new("null", tar::EntryType::Char, 0o666) })
            .add(&Entry::new("pipe", tar::EntryType::Fifo, 0o600))
            .add(&Entry {
                // No empty one: to Go's reader a PAX record without a value is none.
                xattrs: &[("user.note", b"kept")],
                ..file("noted", 0o640, "with a note\n")
            })
            .add(&dir("gone", 0o755))
            .add(&file("gone/deep", 0o644, "x"))
            .add(&dir("cut", 0o700))
            .add(&file("cut/below", 0o644, "below\n"));
        let middle = Awkward::default()
            // A directory without an entry, and one behind a link.
            .add(&file("tmp/x", 0o600, "in tmp\n"))
            .add(&file("lib/through", 0o644, "through a link\n"))
            .add(&file(".wh.gone", 0o644, ""))
            .add(&dir("cut", 0o755))
            .add(&file("cut/.wh..wh..opq", 0o644, ""))
            .add(&file("cut/above", 0o644, "above\n"))
            .add(&file("usr/lib/.wh.old", 0o644, ""));
        let top = Awkward::default()
            // What was taken away comes back as something else.
            .add(&file("gone", 0o600, "a file now\n"))
            .add(&link("pipe", "null"))
            .add(&Entry { owner: (7, 8), ..dir("usr/lib", 0o700) })
            .add(&same("usr/lib/mine", "gone"));
        let image = ImageBuilder::new("own/awkward:1").unwrap();
        image.layer(base.layer()).layer(middle.layer()).layer(top.layer()).build()
    }

    /// Two layers of this machine's own files, as GNU tar writes them.
    fn debian() -> OciImage {
        let layer = |paths: &[&str]| {
            let made = Command::new("tar")
                .args(["--create", "--numeric-owner", "--sparse", "--xattrs", "-C", "/"])
                .args(["--no-recursion", "usr", "usr/share", "--recursion"])
                .args(paths)
                .output()
                .unwrap();
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
            let blob = Blob::new(made.stdout);
            let diff_id = blob.digest.clone();
            Layer { blob, media_type: "application/vnd.oci.image.layer.v1.tar", diff_id }
        };
        ImageBuilder::new("own/debian:1")
            .unwrap()
            .layer(layer(&["usr/share/perl5", "usr/share/debconf", "bin", "lib"]))
            .layer(layer(&["usr/share/perl5/Debconf", "usr/sbin"]))
            .build()
    }

    /// An image as umoci and `knarr image load` read it.
    fn layout(image: &OciImage, dir: &Path) {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        let put = |digest: &str, bytes: &[u8]| {
            fs::write(blobs.join(digest.strip_prefix("sha256:").unwrap()), bytes).unwrap();
        };
        image.blobs.iter().for_each(|blob| put(&blob.digest, &blob.bytes));
        image.manifests.iter().for_each(|one| put(&one.digest, &one.bytes));
        let top = image.top().unwrap();
        let entry = json!({
            "mediaType": top.media_type, "digest": top.digest, "size": top.bytes.len(),
            "annotations": { "org.opencontainers.image.ref.name": "1" },
        });
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        fs::write(dir.join("index.json"), index.to_string()).unwrap();
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }

    /// Every path of a tree, and all that is known of it.
    fn tree(top: &Path) -> BTreeMap<PathBuf, String> {
        let (mut tree, mut inodes) = (BTreeMap::new(), BTreeMap::new());
        let mut todo = vec![top.to_owned()];
        while let Some(path) = todo.pop() {
            let stat = fs::symlink_metadata(&path).unwrap();
            let name = path.strip_prefix(top).unwrap().to_owned();
            let kind = stat.file_type();
            let what = if kind.is_dir() {
                let entries = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
                todo.extend(entries);
                "dir".to_owned()
            } else if kind.is_symlink() {
                format!("-> {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_file() {
                inodes.entry(stat.ino()).or_insert_with(Vec::new).push(name.clone());
                format!("file {}", registry::digest_of(&fs::read(&path).unwrap()))
            } else if kind.is_fifo() {
                "fifo".to_owned()
            } else {
                format!("device {} {}", kind.is_char_device(), stat.rdev())
            };
            let mode = if kind.is_symlink() { 0 } else { stat.mode() };
            let (uid, gid) = (stat.uid(), stat.gid());
            // No entry says when the root was changed.
            let mtime = if name.as_os_str().is_empty() { 0 } else { stat.mtime() };
            tree.insert(name, format!("{what} {mode:o} {uid}:{gid} @{mtime} {}", xattrs(&path)));
        }
        for mut names in inodes.into_values().filter(|names| names.len() > 1) {
            names.sort();
            for name in &names {
                tree.get_mut(name).unwrap().push_str(&format!(" = {names:?}"));
            }
        }
        tree
    }

    fn xattrs(path: &Path) -> String {
        let mut list = vec![0; 4096];
        let length = rustix::fs::llistxattr(path, &mut list[..]).unwrap_or_default();
        let mut keys: Vec<_> = list[..length].split(|byte| *byte == 0).collect();
        keys.sort_unstable();
        let keys = keys.into_iter().filter(|key| key.starts_with(b"user."));
        let mut text = String::new();
        for key in keys {
            let mut value = vec![0; 4096];
            let key = std::ffi::OsStr::from_bytes(key);
            let length = rustix::fs::lgetxattr(path, key, &mut value[..]).unwrap();
            text.push_str(&format!("{}={:?} ", key.display(), &value[..length]));
        }
        text
    }

    #[tokio::test]
    async fn trees_are_those_that_umoci_makes() {
        let own = fs::metadata("/proc/self").unwrap();
        if own.uid() != 0 || !Path::new("/usr/bin/umoci").exists() {
            test_support::skip("needs root and umoci");
            return;
        }
        for image in [catalog::client().unwrap(), debian(), awkward()] {
            let scratch = tempfile::tempdir().unwrap();
            let (layout_dir, bundle) =
                (scratch.path().join("layout"), scratch.path().join("bundle"));
            layout(&image, &layout_dir);
            let theirs = Command::new("umoci")
                .args(["unpack", "--keep-dirlinks", "--image"])
                .arg(format!("{}:1", layout_dir.display()))
                .arg(&bundle)
                .output()
                .unwrap();
            assert!(theirs.status.success(), "{}", String::from_utf8_lossy(&theirs.stderr));
            let root = scratch.path().join("root");
            let layers = Arc::new(Layers::open(&root).unwrap());
            let images = Images::open(&root, Config::default(), Arc::clone(&layers)).unwrap();
            let loaded = images.load(&layout_dir).await.unwrap();
            let view = layers.open_merged(&loaded[0].image.diff_ids).unwrap();
            let ours = tree(&PathBuf::from(format!("/proc/self/fd/{}/.", view.as_raw_fd())));
            let theirs = tree(&bundle.join("rootfs"));
            compare(&image, &ours, &theirs);
            let flat = flat(&layout_dir, scratch.path()).await;
            compare(&image, &tree(&flat), &theirs);
        }
    }

    /// The tree that is made without a store.
    async fn flat(layout: &Path, scratch: &Path) -> PathBuf {
        let (rootfs, work) = (scratch.join("rootfs"), scratch.join("work"));
        fs::create_dir(&rootfs).unwrap();
        fs::create_dir(&work).unwrap();
        let source = image::Source::Archive { path: layout.to_owned(), name: Some("1".into()) };
        let config = registry::Config::default();
        let rights = layer::Rights::Root;
        let made = image::make_rootfs(config, &source, &rootfs, &work, rights).await;
        assert_eq!(made.unwrap().os, "linux");
        assert_eq!(fs::read_dir(&work).unwrap().count(), 0);
        rootfs
    }

    fn compare(
        image: &OciImage,
        ours: &BTreeMap<PathBuf, String>,
        theirs: &BTreeMap<PathBuf, String>,
    ) {
        let paths: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
        let differ = |path: &&&PathBuf| ours.get(**path) != theirs.get(**path);
        let different: Vec<_> = paths
            .iter()
            .filter(differ)
            .map(|path| {
                format!("/{}: {:?}, umoci {:?}", path.display(), ours.get(*path), theirs.get(*path))
            })
            .collect();
        assert!(different.is_empty(), "{}:\n{}", image.repository, different.join("\n"));
        assert!(ours.len() > 10, "{}", image.repository);
    }
}
