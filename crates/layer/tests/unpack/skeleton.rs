//! Tars that come out of the tree again, byte for byte, and those that cannot.
//!
//! That every layer of these tests does is checked where they are unpacked (`Scratch`).

use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use layer::{Beside, Compression, Packed, RepackError, UnpackOptions, Unpacked, unpack};

use crate::support::*;

struct Kept {
    scratch: tempfile::TempDir,
    skeleton: fs::File,
    unpacked: Unpacked,
}

fn keep(blob: &[u8]) -> Kept {
    let scratch = tempfile::tempdir().unwrap();
    let root = fs::File::open(scratch.path()).unwrap();
    let mut skeleton = tempfile::tempfile().unwrap();
    let beside = Beside { skeleton: Some(&mut skeleton), ..Beside::default() };
    let options = UnpackOptions::default();
    let unpacked = unpack(blob, root.as_fd(), Compression::Auto, &options, beside).unwrap();
    Kept { scratch, skeleton, unpacked }
}

impl Kept {
    fn write(&self, out: impl Write) -> Result<model::Digest, RepackError> {
        let root = fs::File::open(self.scratch.path()).unwrap();
        Packed::open(self.skeleton.try_clone().unwrap())?.write(root.as_fd(), out)
    }
}

fn sample() -> Vec<u8> {
    let mut blob = tar(&[
        dir("d"),
        file("d/f", &"some text ".repeat(70_000)),
        file("d/empty", ""),
        hard_link("d/g", "d/f"),
        symlink("way", "d"),
        file("way/through", "a link"),
        file(".wh.gone", "bytes that nobody reads"),
        file("n", "x").pax("mtime", "5.5"),
    ]);
    // A tape record's padding.
    blob.resize(blob.len().next_multiple_of(10_240), 0);
    blob
}

#[test]
fn a_tar_comes_out_as_it_went_in_however_it_was_compressed() {
    if not_root() {
        return;
    }
    let blob = sample();
    for packed in [blob.clone(), gzip(&blob)] {
        let kept = keep(&packed);
        assert!(kept.unpacked.skeleton);
        let mut again = Vec::new();
        assert_eq!(kept.write(&mut again).unwrap(), kept.unpacked.diff_id);
        assert_eq!(again, blob);
        assert!(kept.skeleton.metadata().unwrap().len() < 2000, "content is not in it");
    }
}

#[test]
fn a_layer_that_takes_back_what_it_wrote_has_no_skeleton() {
    if not_root() {
        return;
    }
    let has = |items: &[Item]| keep(&tar(items)).unpacked.skeleton;
    assert!(!has(&[file("a", "one"), file("a", "two")]));
    assert!(!has(&[dir("a"), file("a/b", "one"), file("a", "two")]));
    assert!(!has(&[file("a", "one"), file("b", "two"), hard_link("a", "b")]));
    assert!(has(&[file("a", ""), file("a", "two")]));
    assert!(has(&[symlink("a", "x"), file("a", "two")]));
    assert!(has(&[file(".wh.a", ""), file("a", "two")]));
}

#[test]
fn a_changed_tree_or_skeleton_is_never_taken_for_the_layer() {
    if not_root() {
        return;
    }
    let kept = keep(&sample());
    let path = kept.scratch.path().join("d/f");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [&whole[..9], b"X", &whole[10..]].concat()).unwrap();
    assert_ne!(kept.write(std::io::sink()).unwrap(), kept.unpacked.diff_id);
    fs::write(&path, &whole[1..]).unwrap();
    let error = kept.write(std::io::sink()).unwrap_err();
    assert!(matches!(&error, RepackError::File { path, .. } if path == "d/f"), "{error}");
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert!(matches!(kept.write(std::io::sink()), Err(RepackError::File { .. })));
    fs::remove_file(&path).unwrap();
    fs::write(&path, &whole).unwrap();
    assert_eq!(kept.write(std::io::sink()).unwrap(), kept.unpacked.diff_id);

    let mut bytes = vec![0; usize::try_from(kept.skeleton.metadata().unwrap().len()).unwrap()];
    kept.skeleton.read_exact_at(&mut bytes, 0).unwrap();
    let write = |skeleton: &[u8], out: &mut Vec<u8>| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(skeleton).unwrap();
        let root = fs::File::open(kept.scratch.path()).unwrap();
        Packed::open(file)?.write(root.as_fd(), out)
    };
    for at in 0..bytes.len() {
        bytes[at] ^= 0x41;
        let mut tar = Vec::new();
        // Some bits say nothing that matters.
        if write(&bytes, &mut tar).is_ok_and(|digest| digest == kept.unpacked.diff_id) {
            assert_eq!(tar, sample(), "byte {at}");
        }
        bytes[at] ^= 0x41;
    }
    for length in 0..bytes.len() {
        assert!(write(&bytes[..length], &mut Vec::new()).is_err(), "{length}");
    }
}
