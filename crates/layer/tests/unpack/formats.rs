//! The dialects of tar: PAX, GNU, V7, and sparse files in all four forms.

use std::os::unix::fs::MetadataExt;

use layer::UnpackError;

use crate::support::*;

#[test]
fn pax_gives_long_names_big_ids_and_exact_times() {
    if not_root() {
        return;
    }
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(250));
    let root = unpacked(&[
        file("short", "data")
            .pax("path", &long)
            .pax("uid", "4000000000")
            .pax("gid", "3000000")
            .pax("mtime", "1700000000.123456789"),
        symlink("l", "short").pax("linkpath", &long).pax("mtime", "-1.5"),
    ]);
    let stat = root.stat(&long);
    assert_eq!((stat.uid(), stat.gid()), (4_000_000_000, 3_000_000));
    assert_eq!((stat.mtime(), stat.mtime_nsec()), (1_700_000_000, 123_456_789));
    assert_eq!((root.stat("l").mtime(), root.stat("l").mtime_nsec()), (-2, 500_000_000));
    assert_eq!(std::fs::read_link(root.at("l")).unwrap().to_str(), Some(&*long));
}

#[test]
fn an_empty_pax_value_leaves_the_header_in_force() {
    if not_root() {
        return;
    }
    let root = unpacked(&[file("f", "data").owner(5, 6).pax("uid", "").pax("size", "")]);
    assert_eq!((root.read("f").as_str(), root.stat("f").uid()), ("data", 5));
}

#[test]
fn gnu_long_names_and_links_are_read() {
    if not_root() {
        return;
    }
    let long = format!("{}/{}", "d".repeat(150), "f".repeat(150));
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(4);
    header.set_mode(0o644);
    builder.append_data(&mut header, &long, &b"data"[..]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder.append_link(&mut header, "l", &long).unwrap();
    let scratch = Scratch::new();
    scratch.unpack(&builder.into_inner().unwrap()).unwrap();
    assert_eq!(scratch.read(&long), "data");
    assert_eq!(std::fs::read_link(scratch.at("l")).unwrap().to_str(), Some(&*long));
}

#[test]
fn global_records_are_ignored_as_go_does() {
    if not_root() {
        return;
    }
    let mut global = file("pax_global_header", "");
    global.kind = b'g';
    global.data = record("path", b"elsewhere");
    let root = unpacked(&[global, file("f", "x")]);
    assert_eq!(root.read("f"), "x");
    assert!(!root.has("elsewhere"));
}

#[test]
fn a_size_without_content_is_taken_as_zero_as_go_does() {
    if not_root() {
        return;
    }
    let root = unpacked(&[
        file("f", "x"),
        Item { size: Some(4096), ..dir("d") },
        Item { size: Some(1), ..hard_link("h", "f") },
        Item { size: Some(512), ..symlink("s", "f") }.pax("size", "1024"),
        file("last", "y"),
    ]);
    assert_eq!(root.read("last"), "y");
    assert!(root.stat("d").is_dir() && root.stat("h").is_file());
}

#[test]
fn before_posix_a_slash_made_a_directory() {
    if not_root() {
        return;
    }
    let old = |name: &str| {
        let mut header = item(name, 0).header();
        header[257..265].fill(0);
        sign(&mut header);
        header.to_vec()
    };
    let mut blob = [old("d/"), old("f")].concat();
    blob.resize(blob.len() + 1024, 0);
    let scratch = Scratch::new();
    scratch.unpack(&blob).unwrap();
    assert!(scratch.stat("d").is_dir() && scratch.stat("f").is_file());
}

const MIB: u64 = 1 << 20;

/// 4 MiB: "head" at 0, "tail" just before the end, nothing between.
fn check_sparse(blob: &[u8]) {
    let scratch = Scratch::new();
    let unpacked = scratch.unpack(blob).unwrap();
    let stat = scratch.stat("sparse");
    assert_eq!(stat.size(), 4 * MIB);
    assert!(stat.blocks() * 512 < MIB, "holes stay holes: {} blocks", stat.blocks());
    let content = std::fs::read(scratch.at("sparse")).unwrap();
    assert!(content.starts_with(b"head") && content.ends_with(b"tail"));
    assert_eq!(content.iter().filter(|byte| **byte != 0).count(), 8);
    assert!(unpacked.unpacked_bytes < MIB);
    assert_eq!(scratch.read("after"), "x");
}

fn with_after(mut blob: Vec<u8>) -> Vec<u8> {
    blob.extend(tar(&[file("after", "x")]));
    blob
}

#[test]
fn sparse_files_of_pax_0_0_and_0_1_keep_their_holes() {
    if not_root() {
        return;
    }
    let tail = (4 * MIB - 4).to_string();
    let size = (4 * MIB).to_string();
    let zero = file("sparse", "headtail")
        .pax("GNU.sparse.size", &size)
        .pax("GNU.sparse.numblocks", "2")
        .pax("GNU.sparse.offset", "0")
        .pax("GNU.sparse.numbytes", "4")
        .pax("GNU.sparse.offset", &tail)
        .pax("GNU.sparse.numbytes", "4");
    check_sparse(&with_after(zero.bytes()));
    let one = file("GNUSparseFile.1/sparse", "headtail")
        .pax("GNU.sparse.size", &size)
        .pax("GNU.sparse.name", "sparse")
        .pax("GNU.sparse.map", format!("0,4,{tail},4"));
    check_sparse(&with_after(one.bytes()));
}

fn sparse_1_0(map: &str) -> Item {
    let mut data = map.as_bytes().to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    data.extend_from_slice(b"headtail");
    Item { data, ..item("GNUSparseFile.1/sparse", b'0') }
        .pax("GNU.sparse.major", "1")
        .pax("GNU.sparse.minor", "0")
        .pax("GNU.sparse.name", "sparse")
        .pax("GNU.sparse.realsize", (4 * MIB).to_string())
}

#[test]
fn sparse_files_of_pax_1_0_keep_their_holes_with_and_without_a_second_size() {
    if not_root() {
        return;
    }
    let item = sparse_1_0(&format!("2\n0\n4\n{}\n4\n", 4 * MIB - 4));
    check_sparse(&with_after(item.bytes()));
    let size = item.data.len().to_string();
    check_sparse(&with_after(item.pax("size", size).bytes()));
}

#[test]
fn sparse_files_of_gnu_tar_keep_their_holes() {
    if not_root() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let path = source.path().join("sparse");
    let file = std::fs::File::create(&path).unwrap();
    file.set_len(4 * MIB).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"head", 0).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, b"tail", 4 * MIB - 4).unwrap();
    std::fs::write(source.path().join("after"), "x").unwrap();
    let formats: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=pax", "--sparse-version=0.0"],
        &["--format=pax", "--sparse-version=0.1"],
        &["--format=pax", "--sparse-version=1.0"],
    ];
    for format in formats {
        let output = std::process::Command::new("tar")
            .args(["-c", "-S", "-C"])
            .arg(source.path())
            .args(format)
            .args(["sparse", "after"])
            .output();
        let Ok(output) = output else {
            eprintln!("skipped: no tar");
            return;
        };
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        check_sparse(&output.stdout);
    }
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    if not_root() {
        return;
    }
    let reason = |item: Item| match refused(&[item]) {
        UnpackError::Sparse { reason, .. } => reason,
        other => panic!("{other}"),
    };
    assert_eq!(reason(sparse_1_0("2\n0\n4\n2\n4\n")), "its pieces overlap or are out of order");
    assert_eq!(reason(sparse_1_0("1\n0\n4\n")), "its pieces do not add up to the content");
    let behind = sparse_1_0(&format!("2\n0\n4\n{}\n4\n", 4 * MIB));
    assert_eq!(reason(behind), "a piece lies behind the end of the file");
    let overflow = sparse_1_0(&format!("2\n0\n4\n{}\n4\n", u64::MAX));
    assert_eq!(reason(overflow), "a piece lies behind the end of the file");
    let sizes = sparse_1_0(&format!("2\n0\n4\n{}\n4\n", 4 * MIB - 4)).pax("size", "8");
    assert_eq!(reason(sizes), "the two sizes of the entry differ");
    let dir = Item { kind: b'5', ..sparse_1_0("0\n") };
    assert_eq!(reason(dir), "the entry is no file");
}

#[test]
fn a_sparse_map_without_an_end_does_not_grow_for_ever() {
    if not_root() {
        return;
    }
    let mut item = sparse_1_0("");
    item.data = vec![b'1'; 8 << 20];
    assert!(matches!(refused(&[item]), UnpackError::Limit { .. }));
}
