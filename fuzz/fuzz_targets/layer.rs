//! Any bytes as a layer: no panic, no hang, nothing outside the target directory. Run as root, so
//! that owners, devices and whiteouts are made for real:
//!
//! `cargo xtask fuzz layer`
//!
//! Header checksums are put right first, or no input would get past the first one.
#![no_main]

use std::os::fd::AsFd;

use layer::{Beside, Compression, Limits, UnpackOptions, unpack};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut blob = data.to_vec();
    for header in blob.chunks_exact_mut(512).filter(|header| &header[257..262] == b"ustar") {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let root = scratch.path().join("root");
    std::fs::create_dir(&root).expect("a layer root");
    let root = std::fs::File::open(root).expect("the layer root");
    let limits = Limits { file_bytes: 1 << 20, total_bytes: 1 << 24, ..Limits::default() };
    drop(unpack(&*blob, root.as_fd(), Compression::Auto, &UnpackOptions { limits, ..UnpackOptions::default() }, Beside::default()));
    let outside = std::fs::read_dir(scratch.path()).expect("the scratch directory").count();
    assert_eq!(outside, 1, "nothing appears beside the layer root");
});
