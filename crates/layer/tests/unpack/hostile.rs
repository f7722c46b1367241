//! Layers that try to get out, or that lie.

use layer::{Compression, LimitKind, Limits, UnpackError, UnpackOptions};

use crate::support::*;

#[test]
fn names_that_climb_are_refused_by_name() {
    if not_root() {
        return;
    }
    for name in ["../outside", "a/../../outside", "/../outside", ".."] {
        let error = refused(&[file(name, "evil")]);
        assert_eq!(error.to_string(), format!("entry `{name}` climbs out of the layer"));
        let error = refused(&[hard_link("mine", name)]);
        assert_eq!(
            error.to_string(),
            format!("hard link `mine` to `{name}` climbs out of the layer")
        );
    }
}

#[test]
fn writing_through_a_link_out_of_the_layer_stays_inside() {
    if not_root() {
        return;
    }
    for target in ["..", "../..", "/", "/../.."] {
        let root = unpacked(&[symlink("exit", target), file("exit/outside", "evil")]);
        assert_eq!(root.read("outside"), "evil", "inside the root, through {target}");
    }
    let root = unpacked(&[symlink("exit", "../outside"), file("exit", "evil")]);
    assert_eq!(root.read("exit"), "evil");
    assert!(root.stat("exit").is_file(), "the link was replaced, not followed");
}

#[test]
fn proc_and_link_loops_lead_nowhere() {
    if not_root() {
        return;
    }
    let error = refused(&[symlink("a", "b"), symlink("b", "a"), file("a/x", "")]);
    assert!(matches!(error, UnpackError::Syscall { .. }), "{error}");
    let mut chain: Vec<_> =
        (0..60).map(|n| symlink(&format!("l{n}"), &format!("l{}", n + 1))).collect();
    chain.push(file("l0/x", ""));
    assert!(Scratch::new().unpack(&tar(&chain)).is_err());
    let root = unpacked(&[symlink("p", "/proc/self/root"), file("p/outside", "x")]);
    assert_eq!(root.read("proc/self/root/outside"), "x");
}

#[test]
fn hard_links_reach_only_what_the_layer_has() {
    if not_root() {
        return;
    }
    let missing = |items: &[Item]| match refused(items) {
        UnpackError::LinkTargetMissing { name, target } => (name, target),
        other => panic!("{other}"),
    };
    let names = |name: &str, target: &str| (name.to_owned(), target.to_owned());
    assert_eq!(missing(&[hard_link("a", "nothing/here")]), names("a", "nothing/here"));
    assert_eq!(missing(&[hard_link("a", "/etc/passwd")]), names("a", "/etc/passwd"));
    let items = [symlink("exit", ".."), hard_link("a", "exit/outside")];
    assert_eq!(missing(&items), names("a", "exit/outside"));
    assert_eq!(missing(&[file(".wh.b", ""), hard_link("a", "b")]), names("a", "b"));
    assert_eq!(missing(&[file("d/f", ""), hard_link("d", "d/f")]), names("d", "d/f"));
    assert!(matches!(
        refused(&[dir("d"), hard_link("a", "d")]),
        UnpackError::Syscall { action: "link", .. }
    ));
}

#[test]
fn a_directory_replaced_by_a_link_is_forgotten() {
    if not_root() {
        return;
    }
    let root = unpacked(&[
        dir("a/b"),
        file("a/b/f", "1"),
        dir("target"),
        symlink("a", "target"),
        file("a/b/f", "2"),
    ]);
    assert_eq!(root.read("target/b/f"), "2");
    let root = unpacked(&[
        dir("real"),
        symlink("way", "real"),
        file("way/f", "1"),
        symlink("way", "/other"),
        dir("other"),
        file("way/f", "2"),
    ]);
    assert_eq!((root.read("real/f").as_str(), root.read("other/f").as_str()), ("1", "2"));
}

#[test]
fn files_have_no_children_and_the_root_stays_a_directory() {
    if not_root() {
        return;
    }
    let error = refused(&[file("f", ""), file("f/child", "")]);
    assert_eq!(error.to_string(), "entry `f/child` lies below `f`, which is not a directory");
    assert!(matches!(refused(&[file("./", "")]), UnpackError::RootReplaced { .. }));
    assert!(matches!(refused(&[symlink("/", "x")]), UnpackError::RootReplaced { .. }));
}

#[test]
fn impossible_values_are_refused() {
    if not_root() {
        return;
    }
    let id = refused(&[file("f", "").pax("uid", "4294967295")]);
    assert_eq!(id.to_string(), "entry `f` has the user id 4294967295, which is out of range");
    assert!(matches!(
        refused(&[file("f", "").pax("gid", "99999999999")]),
        UnpackError::IdOutOfRange { .. }
    ));
    assert!(matches!(refused(&[file("f", "").pax("size", "-1")]), UnpackError::Pax { .. }));
    assert!(matches!(refused(&[file("f", "").pax("mtime", "soon")]), UnpackError::Pax { .. }));
    assert!(matches!(refused(&[symlink("l", "")]), UnpackError::BadName { .. }));
    assert!(matches!(refused(&[file("f", "").pax("path", "a\0b")]), UnpackError::BadName { .. }));
    assert!(matches!(refused(&[item("v", b'V')]), UnpackError::UnsupportedType { kind: b'V', .. }));
    let huge = refused(&[file("f", "").pax("size", u64::MAX.to_string())]);
    assert!(matches!(huge, UnpackError::Limit { limit: LimitKind::FileBytes, .. }), "{huge}");
}

#[test]
fn every_limit_holds() {
    if not_root() {
        return;
    }
    let hits = |limits: Limits, items: &[Item]| {
        let options = UnpackOptions { limits, ..UnpackOptions::default() };
        match Scratch::new().unpack_with(&tar(items), Compression::None, &options) {
            Err(UnpackError::Limit { limit, .. }) => Some(limit),
            Ok(_) => None,
            Err(other) => panic!("{other}"),
        }
    };
    let all = Limits::default;
    let two = [file("a", "12345"), file("b", "")];
    assert_eq!(hits(Limits { entries: 2, ..all() }, &two), None);
    assert_eq!(hits(Limits { entries: 1, ..all() }, &two), Some(LimitKind::Entries));
    let deep = [file("a/b/c/d", ""), file("last", "")];
    assert_eq!(hits(Limits { entries: 2, ..all() }, &deep), Some(LimitKind::Entries));
    assert_eq!(hits(Limits { file_bytes: 4, ..all() }, &two), Some(LimitKind::FileBytes));
    assert_eq!(hits(Limits { total_bytes: 2000, ..all() }, &two), Some(LimitKind::TotalBytes));
    let long = [file("x", "").pax("path", "d/".repeat(3000))];
    assert_eq!(hits(all(), &long), Some(LimitKind::PathBytes));
    assert_eq!(hits(Limits { implied_bytes: 8, ..all() }, &deep), Some(LimitKind::ImpliedBytes));
    let noted = [file("x", "").xattr("user.note", [0; 300])];
    assert_eq!(hits(Limits { xattr_bytes: 200, ..all() }, &noted), Some(LimitKind::XattrBytes));
}

#[test]
fn a_limit_names_the_entry_that_exceeds_it() {
    if not_root() {
        return;
    }
    let limits = Limits { file_bytes: 4, ..Limits::default() };
    let options = UnpackOptions { limits, ..UnpackOptions::default() };
    let items = tar(&[file("small", "1"), file("etc/large", "12345")]);
    let error = Scratch::new().unpack_with(&items, Compression::None, &options).unwrap_err();
    let want = "the layer exceeds the limit of 4 bytes in one file at entry `etc/large`";
    assert_eq!(error.to_string(), want);
}

#[test]
fn a_zstd_stream_that_asks_for_too_much_memory_is_refused() {
    if not_root() {
        return;
    }
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(27).unwrap();
    encoder.include_contentsize(false).unwrap();
    std::io::Write::write_all(&mut encoder, &tar(&[file("a", "b")])).unwrap();
    let blob = encoder.finish().unwrap();
    let attempt = |window_bytes| {
        let options = UnpackOptions {
            limits: Limits { window_bytes, ..Limits::default() },
            ..UnpackOptions::default()
        };
        Scratch::new().unpack_with(&blob, Compression::Auto, &options)
    };
    assert!(attempt(1 << 27).is_ok());
    let error = attempt(1 << 26).unwrap_err();
    assert!(matches!(error, UnpackError::Limit { limit: LimitKind::WindowBytes, .. }), "{error}");
}

#[test]
fn a_bomb_is_stopped_by_its_size_and_by_its_ratio() {
    if not_root() {
        return;
    }
    let bomb = zstd::encode_all(std::io::Read::take(std::io::repeat(0), 1 << 31), 1).unwrap();
    let attempt = |limits: Limits| {
        Scratch::new().unpack_with(
            &bomb,
            Compression::Zstd,
            &UnpackOptions { limits, ..UnpackOptions::default() },
        )
    };
    let by_size = attempt(Limits { total_bytes: 1 << 20, ..Limits::default() }).unwrap_err();
    assert_eq!(by_size.to_string(), "the layer exceeds the limit of 1048576 uncompressed bytes");
    let by_ratio = attempt(Limits::default()).unwrap_err();
    assert!(
        matches!(by_ratio, UnpackError::Limit { limit: LimitKind::CompressionRatio, .. }),
        "{by_ratio}"
    );
}
