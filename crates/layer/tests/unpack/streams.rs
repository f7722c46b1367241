//! The stream as a whole: compression, digests, ends and breaks.

use std::io::{self, BufReader, Read};
use std::os::fd::AsFd;

use layer::{Beside, Compression, UnpackError, UnpackOptions, unpack};
use proptest::prelude::*;

use crate::support::*;

fn sha256(data: &[u8]) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sample() -> Vec<u8> {
    tar(&[
        dir("d"),
        file("d/f", &"some text ".repeat(500)),
        symlink("l", "d/f").pax("mtime", "5.5"),
        hard_link("h", "d/f"),
    ])
}

/// Skippable frames (RFC 8878, 3.1.2) may stand anywhere between frames.
fn skippable(data: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x5f, 0x2a, 0x4d, 0x18];
    frame.extend_from_slice(&u32::try_from(data.len()).unwrap().to_le_bytes());
    frame.extend_from_slice(data);
    frame
}

#[test]
fn every_compression_gives_the_same_tree_and_both_digests() {
    if not_root() {
        return;
    }
    let plain = sample();
    let (front, back) = plain.split_at(plain.len() / 3);
    let zstd = |data: &[u8]| zstd::encode_all(data, 3).unwrap();
    let blobs = [
        plain.clone(),
        gzip(&plain),
        [gzip(front), gzip(b""), gzip(back)].concat(),
        zstd(&plain),
        [skippable(b"toc"), zstd(front), skippable(&[7; 999]), zstd(back), skippable(b"")].concat(),
    ];
    for blob in blobs {
        let scratch = Scratch::new();
        let unpacked = scratch.unpack(&blob).unwrap();
        assert_eq!(scratch.read("h").len(), 5000);
        assert_eq!(unpacked.diff_id.hex(), sha256(&plain));
        assert_eq!(unpacked.blob_digest.hex(), sha256(&blob));
        assert_eq!(unpacked.blob_bytes, blob.len() as u64);
    }
}

/// One byte at a time, with interruptions.
struct Dribble<'a>(&'a [u8], bool);

impl Read for Dribble<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.1 = !self.1;
        if self.1 {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let count = self.0.len().min(into.len()).min(1);
        into[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        Ok(count)
    }
}

#[test]
fn a_source_that_dribbles_is_read_as_well() {
    if not_root() {
        return;
    }
    for blob in [sample(), gzip(&sample()), zstd::encode_all(&*sample(), 1).unwrap()] {
        let scratch = Scratch::new();
        let root = std::fs::File::open(scratch.root()).unwrap();
        let options = UnpackOptions::default();
        let source = BufReader::new(Dribble(&blob, false));
        unpack(source, root.as_fd(), Compression::Auto, &options, Beside::default()).unwrap();
        assert_eq!(scratch.read("h").len(), 5000);
    }
}

#[test]
fn a_failing_source_is_told_from_a_bad_blob() {
    if not_root() {
        return;
    }
    struct Fails;
    impl Read for Fails {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    for blob in [sample(), gzip(&sample()), zstd::encode_all(&*sample(), 1).unwrap()] {
        let scratch = Scratch::new();
        let root = std::fs::File::open(scratch.root()).unwrap();
        let source = BufReader::new(blob[..blob.len() / 2].chain(Fails));
        let options = UnpackOptions::default();
        let error = unpack(source, root.as_fd(), Compression::Auto, &options, Beside::default())
            .unwrap_err();
        let UnpackError::Read { at, source } = error else { panic!("{error}") };
        assert_eq!((at, source.kind()), (blob.len() as u64 / 2, io::ErrorKind::ConnectionReset));
    }
}

#[test]
fn a_tar_may_end_without_its_marker_but_not_inside_an_entry() {
    if not_root() {
        return;
    }
    let whole = sample();
    for cut in [0, 512, 1024] {
        Scratch::new().unpack(&whole[..whole.len() - cut]).unwrap();
    }
    Scratch::new().unpack(b"").unwrap();
    let inside = |blob: &[u8]| match Scratch::new().unpack(blob) {
        Err(UnpackError::TarTruncated { inside, .. }) => inside,
        other => panic!("{other:?}"),
    };
    assert_eq!(inside(&whole[..100]), "a header");
    assert_eq!(inside(&whole[..2000]), "entry `d/f`");
    // Behind the PAX header, which then belongs to nothing.
    let pax_only = file("f", "").pax("mtime", "1").bytes();
    assert_eq!(inside(&pax_only[..1024]), "a header");
}

#[test]
fn every_truncation_of_a_compressed_blob_is_noticed() {
    if not_root() {
        return;
    }
    for blob in [gzip(&sample()), zstd::encode_all(&*sample(), 1).unwrap()] {
        for length in (4..blob.len()).step_by(7).chain([blob.len() - 1]) {
            let error = Scratch::new().unpack(&blob[..length]).unwrap_err();
            assert!(matches!(error, UnpackError::BlobTruncated { .. }), "{length}: {error}");
        }
    }
}

#[test]
fn every_truncation_of_a_tar_ends_in_a_tree_or_an_error() {
    if not_root() {
        return;
    }
    let blob = sample();
    for length in (0..blob.len()).step_by(97) {
        match Scratch::new().unpack(&blob[..length]) {
            Ok(_) => {}
            Err(UnpackError::TarTruncated { at, .. }) => assert_eq!(at, length as u64),
            Err(other) => panic!("{length}: {other}"),
        }
    }
}

#[test]
fn damage_is_named_for_what_it_is() {
    if not_root() {
        return;
    }
    let try_blob = |blob: &[u8]| Scratch::new().unpack(blob).unwrap_err();
    let mut bad_sum = sample();
    bad_sum[3] ^= 1;
    assert!(matches!(try_blob(&bad_sum), UnpackError::Header { at: 0, .. }));
    let mut bad_crc = gzip(&sample());
    let end = bad_crc.len();
    bad_crc[end - 6] ^= 1;
    assert!(matches!(try_blob(&bad_crc), UnpackError::BlobCorrupt { .. }));
    let trailing = [gzip(&sample()), b"garbage behind the member".to_vec()].concat();
    assert!(matches!(try_blob(&trailing), UnpackError::BlobCorrupt { .. }));
    let zstd = zstd::encode_all(&*sample(), 1).unwrap();
    let trailing = [zstd, b"garbage behind the frame".to_vec()].concat();
    assert!(matches!(try_blob(&trailing), UnpackError::BlobCorrupt { .. }));
    let hidden = [sample(), vec![0; 700], tar(&[file("hidden", "x")])].concat();
    assert!(matches!(try_blob(&hidden), UnpackError::TrailingData { .. }));
    let mut size = file("f", "x").header();
    size[124..136].copy_from_slice(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    sign(&mut size);
    assert!(matches!(try_blob(&size), UnpackError::Header { .. }));
    let wrong =
        Scratch::new().unpack_with(b"no gzip at all", Compression::Gzip, &UnpackOptions::default());
    assert!(matches!(wrong.unwrap_err(), UnpackError::BlobCorrupt { .. }));
}

#[test]
fn padding_to_a_tape_record_belongs_to_the_digest() {
    if not_root() {
        return;
    }
    let blob = [sample(), vec![0; 600_000]].concat();
    assert_eq!(Scratch::new().unpack(&blob).unwrap().diff_id.hex(), sha256(&blob));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic_or_escape(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        drop(Scratch::new().unpack(&bytes));
    }

    #[test]
    fn mutated_layers_never_panic_or_escape(
        edits in proptest::collection::vec((0_usize..9000, any::<u8>()), 1..12),
        resign in any::<bool>(),
    ) {
        let mut blob = sample();
        for (at, value) in edits {
            let at = at % blob.len();
            blob[at] = value;
        }
        if resign {
            for header in blob.chunks_exact_mut(512) {
                if &header[257..262] == b"ustar" {
                    sign(header.try_into().unwrap());
                }
            }
        }
        drop(Scratch::new().unpack(&blob));
    }

    #[test]
    fn trees_of_any_names_and_types_never_panic_or_escape(
        items in proptest::collection::vec(
            ("(\\.\\./|\\./|/)?([ab]|\\.wh\\.a|\\.wh\\.|\\.wh\\.\\.wh\\.\\.opq|\\.\\.)(/([abc]|\\.wh\\.b|\\.\\.)){0,3}/?",
             proptest::sample::select(b"0123456".to_vec()),
             "(\\.\\./|/)?[ab](/[abc]|/\\.\\.){0,3}"),
            1..25,
        ),
    ) {
        let items: Vec<_> = items.into_iter().map(|(name, kind, link)| {
            Item { link: link.into_bytes(), device: (1, 3), ..item(&name, kind) }
        }).collect();
        // One after the other, so that a refused entry does not end the case.
        let scratch = Scratch::new();
        for item in items {
            drop(scratch.unpack(&tar(&[item])));
        }
    }
}
