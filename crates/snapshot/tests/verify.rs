//! What a look at all of a layer finds, on a real disk.

#[cfg(test)]
mod support;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use crate::support::*;
    use layer::{Beside, Compression, UnpackOptions};
    use model::Digest;
    use snapshot::{LayerVerdict, Layers};

    fn add_listed(layers: &Layers, content: &'static str) -> Digest {
        let blob = tar(&[("etc/", Dir(0o755)), ("etc/motd", File(content))]);
        let ingest = layers.begin().unwrap();
        let (mut inventory, mut skeleton) =
            (ingest.inventory().unwrap(), ingest.skeleton().unwrap());
        let beside = Beside { inventory: Some(&mut inventory), skeleton: Some(&mut skeleton) };
        let options = UnpackOptions::default();
        let unpacked =
            layer::unpack(&*blob, ingest.root(), Compression::None, &options, beside).unwrap();
        drop((inventory, skeleton));
        layers.commit(ingest, &unpacked).unwrap();
        unpacked.diff_id
    }

    fn file_of(root: &Path, layer: &Digest, name: &str) -> PathBuf {
        root.join("layers").join(layer.hex()).join(name)
    }

    /// The line of a seal that has the checksum of the list.
    fn listed(root: &Path, layer: &Digest) -> String {
        let seal = fs::read_to_string(file_of(root, layer, "sealed")).unwrap();
        seal.lines().find(|line| line.starts_with("inventory ")).unwrap().to_owned()
    }

    #[test]
    fn who_changes_a_file_and_its_checksum_is_found_by_the_digest_of_the_whole() {
        if not_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let root = scratch.path();
        let layers = Layers::open(root).unwrap();
        let (ours, other) = (add_listed(&layers, "good"), add_listed(&layers, "evil"));
        let verdict = layers.verify(&ours).unwrap();
        assert!(verdict.is_sound(), "{verdict:?}");

        // As somebody would who has root on the node: content, list, and the list's own checksum.
        for name in ["fs/etc/motd", "inventory"] {
            let to = file_of(root, &ours, name);
            let times = fs::metadata(&to).unwrap().modified().unwrap();
            fs::write(&to, fs::read(file_of(root, &other, name)).unwrap()).unwrap();
            fs::File::options().write(true).open(&to).unwrap().set_modified(times).unwrap();
        }
        let seal = file_of(root, &ours, "sealed");
        let text = fs::read_to_string(&seal).unwrap();
        fs::write(&seal, text.replace(&listed(root, &ours), &listed(root, &other))).unwrap();
        let layers = Layers::open(root).unwrap();
        let verdict = layers.verify(&ours).unwrap();
        assert!(!verdict.is_sound());
        match verdict {
            LayerVerdict::Altered { found } => assert_eq!(found, other, "that is what it holds"),
            verdict => panic!("{verdict:?}"),
        }
    }

    #[test]
    fn a_damaged_skeleton_is_found_though_no_file_differs() {
        if not_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let layers = Layers::open(scratch.path()).unwrap();
        let layer = add_listed(&layers, "good");
        let skeleton = file_of(scratch.path(), &layer, "skeleton");
        let mut bytes = fs::read(&skeleton).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&skeleton, bytes).unwrap();
        let verdict = layers.verify(&layer).unwrap();
        assert!(!verdict.is_sound(), "{verdict:?}");
    }
}
