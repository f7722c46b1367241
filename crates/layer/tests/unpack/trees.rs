//! What well-formed entries become.

use std::os::unix::fs::{FileTypeExt, MetadataExt};

use crate::support::*;

#[test]
fn owners_modes_and_times_are_those_of_the_tar() {
    if not_root() {
        return;
    }
    let root = unpacked(&[
        dir("./").mode(0o750).owner(7, 8).mtime(1_111),
        dir("etc/").mode(0o1777).mtime(2_222),
        file("etc/passwd", "root").mode(0o600).owner(1000, 2000).mtime(3_333),
        file("bin/su", "x").mode(0o4755).owner(0, 12),
        file("bin/wall", "x").mode(0o2755).owner(5, 5),
        symlink("etc/link", "/no/where").owner(1, 2).mtime(4_444),
    ]);
    let facts = |path: &str| {
        let stat = root.stat(path);
        (stat.mode() & 0o7777, stat.uid(), stat.gid(), stat.mtime())
    };
    assert_eq!(facts(""), (0o750, 7, 8, 1_111));
    assert_eq!(facts("etc"), (0o1777, 0, 0, 2_222));
    assert_eq!(facts("etc/passwd"), (0o600, 1000, 2000, 3_333));
    assert_eq!(facts("bin/su").0, 0o4755);
    assert_eq!(facts("bin/wall").0, 0o2755);
    assert_eq!(facts("etc/link"), (0o777, 1, 2, 4_444));
    assert_eq!(std::fs::read_link(root.at("etc/link")).unwrap().to_str(), Some("/no/where"));
    assert_eq!((root.stat("bin").mode() & 0o7777, root.stat("bin").uid()), (0o755, 0));
}

#[test]
fn neither_the_umask_nor_a_setgid_directory_has_a_say() {
    if not_root() {
        return;
    }
    let root = unpacked(&[
        dir("mail").mode(0o2775).owner(0, 12),
        file("mail/roots", "x").mode(0o664),
        file("mail/own", "x").mode(0o664).owner(0, 12),
        file("open", "x").mode(0o777),
        file("shut", "x").mode(0),
        file("given", "x").mode(0o6755).owner(5, 0),
    ]);
    let facts = |path: &str| {
        let stat = root.stat(path);
        (stat.mode() & 0o7777, stat.uid(), stat.gid())
    };
    assert_eq!(facts("mail/roots"), (0o664, 0, 0));
    assert_eq!(facts("mail/own"), (0o664, 0, 12));
    assert_eq!(facts("open"), (0o777, 0, 0));
    assert_eq!(facts("shut"), (0, 0, 0));
    assert_eq!(facts("given"), (0o6755, 5, 0));
}

#[test]
fn a_file_that_is_written_out_in_pieces_is_whole() {
    if not_root() {
        return;
    }
    let line = "a file that is longer than what goes to the device at once\n";
    let content = line.repeat((20 << 20) / line.len());
    let root = unpacked(&[file("large", &content), file("small", "behind it")]);
    assert!(root.read("large") == content, "the content differs");
    assert_eq!(root.read("small"), "behind it");
}

#[test]
fn devices_and_fifos_are_made() {
    if not_root() {
        return;
    }
    let root = unpacked(&[
        Item { device: (1, 3), ..item("null", b'3').mode(0o666) },
        Item { device: (259, 70_000), ..item("disk", b'4').mode(0o600) },
        item("pipe", b'6').mode(0o622).owner(3, 4),
    ]);
    assert!(root.stat("null").file_type().is_char_device());
    assert_eq!((root.stat("null").rdev(), root.stat("null").mode() & 0o777), (259, 0o666));
    assert!(root.stat("disk").file_type().is_block_device());
    assert_eq!(root.stat("disk").rdev(), rustix::fs::makedev(259, 70_000));
    assert!(root.stat("pipe").file_type().is_fifo());
    assert_eq!((root.stat("pipe").mode() & 0o777, root.stat("pipe").uid()), (0o622, 3));
}

#[test]
fn capabilities_survive_the_change_of_owner() {
    if not_root() {
        return;
    }
    // Version 2, effective, CAP_NET_RAW permitted.
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let root = unpacked(&[
        file("ping", "x").owner(5, 6).mode(0o755).xattr("security.capability", capability),
        file("noted", "x").xattr("user.note", "hello"),
        dir("d").xattr("user.note", [0, 1, 255]),
    ]);
    assert_eq!(root.xattr("ping", "security.capability").as_deref(), Some(&capability[..]));
    assert_eq!(root.xattr("noted", "user.note").as_deref(), Some(&b"hello"[..]));
    assert_eq!(root.xattr("d", "user.note").as_deref(), Some(&[0, 1, 255][..]));
}

#[test]
fn a_capability_the_kernel_refuses_is_an_error_that_names_it() {
    if not_root() {
        return;
    }
    let error = refused(&[file("ping", "x").xattr("security.capability", "nonsense")]);
    assert_eq!(error.to_string(), "setting xattr security.capability on `ping` failed");
}

#[test]
fn hard_links_share_the_inode_and_keep_the_targets_attributes() {
    if not_root() {
        return;
    }
    let root = unpacked(&[
        file("a/one", "data").mode(0o640).owner(9, 9),
        hard_link("b/two", "/a/one").mode(0o777).owner(1, 1),
        hard_link("./three", "./a/../b/two"),
        symlink("sym", "a/one"),
        hard_link("to-sym", "sym"),
        hard_link("a/one", "a/one"),
    ]);
    let stat = root.stat("a/one");
    assert_eq!((stat.nlink(), stat.mode() & 0o777, stat.uid()), (3, 0o640, 9));
    assert_eq!(root.stat("b/two").ino(), stat.ino());
    assert!(root.stat("to-sym").file_type().is_symlink());
}

#[test]
fn later_entries_replace_earlier_ones_and_directories_merge() {
    if not_root() {
        return;
    }
    let root = unpacked(&[
        file("f", "old"),
        file("f", "new"),
        dir("d").mode(0o700),
        file("d/kept", "x"),
        dir("d").mode(0o711).mtime(77),
        file("d/late", "x"),
        dir("was-dir"),
        file("was-dir/inner/file", "x"),
        file("was-dir", "now a file"),
        file("was-file", "x"),
        dir("was-file"),
        file("was-file/in", "y"),
        file("linked", "keep"),
        hard_link("second", "linked"),
        file("second", "own"),
    ]);
    assert_eq!(root.read("f"), "new");
    assert!(root.has("d/kept") && root.has("d/late"));
    assert_eq!((root.stat("d").mode() & 0o777, root.stat("d").mtime()), (0o711, 77));
    assert_eq!(root.read("was-dir"), "now a file");
    assert_eq!(root.read("was-file/in"), "y");
    assert_eq!((root.read("linked").as_str(), root.read("second").as_str()), ("keep", "own"));
}

#[test]
fn directory_times_survive_whatever_is_written_into_them_later() {
    if not_root() {
        return;
    }
    let mut items = vec![dir("top").mtime(10), dir("top/sub").mtime(20), symlink("alias", "top")];
    // More directories than are kept open, and back to the first by two ways.
    items.extend((0..50).map(|n| file(&format!("other{n}/f"), "")));
    items.extend([file("top/a", ""), file("alias/b", ""), file("alias/sub/c", "")]);
    items.extend((0..50).map(|n| dir(&format!("other{n}")).mtime(1000 + n)));
    items.extend([symlink("top/sub/c", "replaced"), dir("./").mtime(5)]);
    let root = unpacked(&items);
    assert_eq!((root.stat("top").mtime(), root.stat("top/sub").mtime()), (10, 20));
    assert_eq!(root.stat("").mtime(), 5);
    assert!(root.has("top/b") && root.has("top/sub/c"));
    for n in 0..50 {
        assert_eq!(root.stat(&format!("other{n}")).mtime(), 1000 + n);
    }
}

#[test]
fn parents_lead_through_links_inside_the_layer() {
    if not_root() {
        return;
    }
    let root = unpacked(&[
        dir("usr/lib"),
        symlink("lib", "usr/lib"),
        file("lib/libc.so", "x"),
        symlink("var/run", "/run"),
        file("var/run/pid", "made where the link points"),
        symlink("up", "../../../usr"),
        file("up/share/doc", "x"),
    ]);
    assert!(root.has("usr/lib/libc.so") && root.has("usr/share/doc"));
    assert_eq!(root.read("run/pid"), "made where the link points");
    assert!(root.stat("lib").file_type().is_symlink());
}

#[test]
fn counts_say_what_was_written() {
    if not_root() {
        return;
    }
    let scratch = Scratch::new();
    let blob = tar(&[
        dir("a"),
        file("a/f", "12345"),
        hard_link("a/g", "a/f"),
        file("implicit/h", "67"),
        file("a/f", "1"),
        file("link", "x").xattr("com.apple.provenance", "x"),
    ]);
    let unpacked = scratch.unpack(&blob).unwrap();
    assert_eq!((unpacked.entries, unpacked.unpacked_bytes), (6, 9));
    assert_eq!(unpacked.dropped_xattrs, 1);
    assert_eq!(unpacked.blob_digest, unpacked.diff_id);
    assert_eq!(unpacked.blob_bytes, blob.len() as u64);
}
