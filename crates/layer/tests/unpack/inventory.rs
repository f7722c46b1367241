//! What is noted while unpacking, and what a later look at the tree finds out by it.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use layer::{Beside, Compression, Difference, UnpackOptions, Verified, unpack, verify};

use crate::support::*;

fn items() -> Vec<Item> {
    vec![
        dir("etc").mode(0o750),
        file("etc/passwd", "root:x"),
        file("etc/noted", "n").xattr("user.note", "kept"),
        hard_link("etc/same", "etc/passwd"),
        symlink_item(),
        file("opt/deep/x", "x"),
        file("opt/.wh.gone", ""),
        file("srv/.wh..wh..opq", ""),
        Item { device: (1, 3), ..item("null", b'3') },
        item("pipe", b'6'),
    ]
}

fn symlink_item() -> Item {
    crate::support::symlink("bin", "usr/bin")
}

struct Listed {
    scratch: tempfile::TempDir,
    inventory: Vec<u8>,
    checksum: String,
}

impl Listed {
    fn new() -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let root = fs::File::open(scratch.path()).unwrap();
        let mut inventory = Vec::new();
        let blob = tar(&items());
        let options = UnpackOptions::default();
        let beside = Beside { inventory: Some(&mut inventory), ..Beside::default() };
        let unpacked = unpack(&*blob, root.as_fd(), Compression::None, &options, beside);
        let checksum = unpacked.unwrap().inventory.unwrap();
        Self { scratch, inventory, checksum }
    }

    fn verify(&self) -> Verified {
        let root = fs::File::open(self.scratch.path()).unwrap();
        verify(root.as_fd(), &*self.inventory, &self.checksum).unwrap()
    }
}

#[test]
fn every_change_to_a_tree_is_found() {
    if not_root() {
        return;
    }
    let change = |act: &dyn Fn(&Path), path: &str, difference| {
        let listed = Listed::new();
        assert_eq!(listed.verify().findings, []);
        act(listed.scratch.path());
        let verified = listed.verify();
        let found: Vec<_> =
            verified.findings.iter().map(|found| (found.path.as_str(), found.difference)).collect();
        assert!(found.contains(&(path, difference)), "{path} {difference}: {found:?}");
    };
    let keep_time = |path: &Path, act: &dyn Fn(&Path)| {
        let modified = fs::metadata(path).unwrap().modified().unwrap();
        act(path);
        fs::File::options().write(true).open(path).unwrap().set_modified(modified).unwrap();
    };
    // A silent error of the disk: nothing but the bytes tells it.
    let flip = |root: &Path| {
        keep_time(&root.join("etc/passwd"), &|path| fs::write(path, "r00t:x").unwrap());
    };
    change(&flip, "etc/passwd", Difference::Content);
    change(&flip, "etc/same", Difference::Content);
    let cut = |root: &Path| {
        keep_time(&root.join("etc/passwd"), &|path| fs::write(path, "").unwrap());
    };
    change(&cut, "etc/passwd", Difference::Size);
    let at = |path: &'static str| move |root: &Path| root.join(path);
    let etc = at("etc");
    change(
        &|root| fs::set_permissions(etc(root), fs::Permissions::from_mode(0o755)).unwrap(),
        "etc",
        Difference::Mode,
    );
    change(&|root| chown(root.join("pipe"), Some(7), None).unwrap(), "pipe", Difference::Owner);
    change(&|root| fs::remove_file(root.join("null")).unwrap(), "null", Difference::Missing);
    change(
        &|root| fs::remove_file(root.join("opt/gone")).unwrap(),
        "opt/gone",
        Difference::Missing,
    );
    change(&|root| fs::write(root.join("opt/new"), "").unwrap(), "opt/new", Difference::Extra);
    let relink = |root: &Path| {
        fs::remove_file(root.join("bin")).unwrap();
        symlink("usr/sbin", root.join("bin")).unwrap();
    };
    change(&relink, "bin", Difference::Mtime);
    let replace = |root: &Path| {
        fs::remove_file(root.join("null")).unwrap();
        fs::write(root.join("null"), "").unwrap();
    };
    change(&replace, "null", Difference::Kind);
    let touch = |root: &Path| {
        let file = fs::File::options().write(true).open(root.join("etc/passwd")).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    };
    change(&touch, "etc/passwd", Difference::Mtime);
    let xattr = |path: &'static str, key: &'static str| {
        move |root: &Path| {
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(root.join(path), key, b"y", flags).unwrap();
        }
    };
    change(&xattr("etc/noted", "user.note"), "etc/noted", Difference::Xattrs);
    change(&xattr("opt", "user.extra"), "opt", Difference::Xattrs);
    change(&xattr("etc", "trusted.overlay.opaque"), "etc", Difference::Xattrs);
    let clear = |root: &Path| {
        rustix::fs::removexattr(root.join("srv"), "trusted.overlay.opaque").unwrap();
    };
    change(&clear, "srv", Difference::Xattrs);
}

#[test]
fn directories_without_an_entry_are_reported() {
    if not_root() {
        return;
    }
    let implied = |items: &[Item]| {
        let unpacked = Scratch::new().unpack(&tar(items)).unwrap();
        let paths = unpacked.implied.into_iter().map(|path| String::from_utf8(path).unwrap());
        paths.collect::<Vec<_>>()
    };
    assert_eq!(implied(&[dir("./"), dir("a"), file("a/b", "")]), [""; 0]);
    assert_eq!(implied(&[file("a/b/c", "")]), ["", "a", "a/b"]);
    assert_eq!(implied(&[file("a/b/c", ""), dir("a/b")]), ["", "a"]);
    // Replaced by something else.
    assert_eq!(implied(&[file("a/b/c", ""), file("a", "")]), [""]);
    // By its real name.
    let through = [dir("usr/lib"), crate::support::symlink("lib", "usr/lib"), file("lib/x/y", "")];
    assert_eq!(implied(&through), ["", "usr", "usr/lib/x"]);
    // What the layer itself takes away it does not look at below, whichever comes first.
    assert_eq!(implied(&[file(".wh.a", ""), file("a/b", "")]), [""]);
    assert_eq!(implied(&[file("a/b", ""), file(".wh.a", "")]), [""]);
    // But one that only hides what is in it is still the one below.
    assert_eq!(implied(&[file("a/.wh..wh..opq", ""), file("a/b", "")]), ["", "a"]);
}
