//! OCI whiteouts as overlayfs understands them.

use crate::support::*;

#[test]
fn a_whiteout_becomes_a_device_of_the_hidden_name() {
    if not_root() {
        return;
    }
    let root =
        unpacked(&[file("etc/.wh.gone", ""), file(".wh.top", ""), file("x/.wh..hidden", "")]);
    assert!(
        root.is_whiteout("etc/gone") && root.is_whiteout("top") && root.is_whiteout("x/.hidden")
    );
    assert!(!root.has("etc/.wh.gone") && !root.has(".wh.top"));
}

#[test]
fn an_opaque_marker_becomes_an_xattr_on_its_directory() {
    if not_root() {
        return;
    }
    let root = unpacked(&[
        file("d/before", ""),
        file("d/.wh..wh..opq", ""),
        file("d/after", ""),
        dir("d").mtime(50),
        file(".wh..wh..opq", ""),
    ]);
    assert!(root.is_opaque("d") && root.is_opaque(""));
    assert!(root.has("d/before") && root.has("d/after") && !root.has("d/.wh..wh..opq"));
    assert_eq!(std::os::unix::fs::MetadataExt::mtime(&root.stat("d")), 50);
}

#[test]
fn aufs_leftovers_are_skipped_with_their_content() {
    if not_root() {
        return;
    }
    let root = unpacked(&[
        dir(".wh..wh.plnk"),
        file(".wh..wh.plnk/12.34", "some content"),
        file(".wh..wh.aufs", ""),
        file("real", "x"),
    ]);
    let names: Vec<_> = snapshot(&root.root()).into_keys().collect();
    assert_eq!(names, ["", "real"].map(std::path::PathBuf::from));
}

#[test]
fn a_whiteout_never_hides_what_its_own_layer_brings() {
    if not_root() {
        return;
    }
    let before = [file("f", "own"), file("d/x", "own"), dir("e")];
    let markers = [file(".wh.f", ""), file(".wh.d", ""), file(".wh.e", "")];
    let mut early: Vec<_> = markers.to_vec();
    early.extend(before.to_vec());
    let mut late: Vec<_> = before.to_vec();
    late.extend(markers);
    for items in [early, late] {
        let root = unpacked(&items);
        assert_eq!((root.read("f").as_str(), root.read("d/x").as_str()), ("own", "own"));
        assert!(root.is_opaque("d") && root.is_opaque("e"), "lower content stays hidden");
        assert!(!root.is_opaque(""));
    }
}

#[test]
fn whiteouts_without_a_proper_name_are_refused() {
    if not_root() {
        return;
    }
    for name in [".wh.", "a/.wh.", ".wh..", "a/.wh...", ".wh.a/b"] {
        let error = refused(&[file(name, "")]);
        assert_eq!(error.to_string(), format!("entry `{name}` is no valid whiteout"));
    }
}

#[test]
fn overlay_xattrs_of_the_image_are_dropped_and_counted() {
    if not_root() {
        return;
    }
    let scratch = Scratch::new();
    let items = [
        dir("d").xattr("trusted.overlay.opaque", "y").xattr("trusted.overlay.redirect", "/etc"),
        file("f", "").xattr("user.overlay.whiteout", "y").xattr("security.selinux", "x"),
        symlink("l", "x").xattr("user.note", "links have none"),
    ];
    assert_eq!(scratch.unpack(&tar(&items)).unwrap().dropped_xattrs, 5);
    assert!(!scratch.is_opaque("d"));
    assert_eq!(scratch.xattr("d", "trusted.overlay.redirect"), None);
    assert_eq!(scratch.xattr("f", "user.overlay.whiteout"), None);
}
