//! Two layers of few names, whiteouts among them, in any order: what the inventory says is what
//! is on disk, nothing outside is touched, and the merged tree can be put together.
//!
//! Run as root: `cargo xtask fuzz whiteouts`
#![no_main]

use std::os::fd::AsFd;

use layer::{Beside, Compression, Packed, UnpackOptions, unpack, verify};
use libfuzzer_sys::fuzz_target;

const NAMES: [&str; 8] =
    ["a", "a/b", "a/b/c", ".wh.a", "a/.wh.b", "a/.wh..wh..opq", ".wh..wh..opq", "l/x"];
const KINDS: [u8; 4] = [b'0', b'5', b'2', b'1'];

fuzz_target!(|data: &[u8]| {
    let mut tar = Vec::new();
    for byte in data {
        let name = NAMES[usize::from(byte & 7)];
        let kind = KINDS[usize::from((byte >> 3) & 3)];
        tar.extend_from_slice(&header(name, kind, if byte & 32 == 0 { "a" } else { "a/b" }));
    }
    let scratch = tempfile::tempdir().expect("a scratch directory");
    let root = std::fs::File::open(scratch.path()).expect("the scratch directory");
    let (options, mut inventory) = (UnpackOptions::default(), Vec::new());
    let mut skeleton = tempfile::tempfile().expect("a scratch file");
    let beside = Beside { inventory: Some(&mut inventory), skeleton: Some(&mut skeleton) };
    let unpacked = unpack(&*tar, root.as_fd(), Compression::None, &options, beside);
    if let Ok(unpacked) = unpacked {
        let checksum = unpacked.inventory.expect("it was asked for");
        let verified = verify(root.as_fd(), &*inventory, &checksum).expect("it was just written");
        assert_eq!(verified.findings, [], "{}", String::from_utf8_lossy(&inventory));
        if unpacked.skeleton {
            let packed = Packed::open(skeleton).expect("it was just written");
            let digest = packed.write(root.as_fd(), std::io::sink()).expect("all of it is there");
            assert_eq!(digest, unpacked.diff_id);
        }
    }
});

fn header(name: &str, kind: u8, link: &str) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000755\00000000\00000000\000000000000\000000000000\0");
    put(148, b"        ");
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
