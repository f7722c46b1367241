//! The same tree through GNU tar's hands and through ours.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use crate::support::*;

fn mixed_tree(root: &Path) {
    let make = |path: &str| fs::create_dir_all(root.join(path)).unwrap();
    let chmod = |path: &str, mode| {
        fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    make("usr/lib/deep/er");
    make(&"long-directory-name/".repeat(12));
    make("tmp");
    fs::write(root.join("usr/lib/empty"), "").unwrap();
    fs::write(root.join("usr/lib/large"), vec![7; 700_000]).unwrap();
    fs::write(root.join("usr/lib/umlaut-äöü"), "x").unwrap();
    fs::write(root.join("usr/lib/suid"), "x").unwrap();
    fs::hard_link(root.join("usr/lib/large"), root.join("usr/lib/deep/same")).unwrap();
    std::os::unix::fs::symlink("../../lib", root.join("usr/lib/deep/up")).unwrap();
    std::os::unix::fs::chown(root.join("usr/lib/suid"), Some(3_000_000), Some(70)).unwrap();
    chmod("usr/lib/suid", 0o6755);
    chmod("tmp", 0o1777);
    let null = (rustix::fs::FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    let pipe = (rustix::fs::FileType::Fifo, 0);
    for (name, (kind, dev)) in [("null", null), ("pipe", pipe)] {
        let mode = rustix::fs::Mode::from_raw_mode(0o640);
        rustix::fs::mknodat(rustix::fs::CWD, root.join(name), kind, mode, dev).unwrap();
    }
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(root.join("usr/lib/suid"), "user.note", b"noted", flags).unwrap();
    fs::File::open(root.join("usr/lib"))
        .unwrap()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_nanos(1_234_567_890_123))
        .unwrap();
}

#[test]
fn gnu_tar_and_we_make_the_same_tree() {
    if not_root() {
        return;
    }
    let source = tempfile::tempdir().unwrap();
    let theirs = tempfile::tempdir().unwrap();
    mixed_tree(source.path());
    // GNU's own format has no xattrs and no fractions of seconds.
    let formats = [&["--format=gnu"][..], &["--format=pax", "--xattrs", "--xattrs-include=*"]];
    for format in formats {
        let archive = source.path().with_extension("tar");
        let run = |mode: &[&str], dir: &Path, what: &[&str]| {
            let mut tar = Command::new("tar");
            tar.args(mode).args(format).arg("--numeric-owner").arg("-C").arg(dir);
            tar.arg("-f").arg(&archive).args(what).status().is_ok_and(|status| status.success())
        };
        if !run(&["-c"], source.path(), &["."]) {
            eprintln!("skipped: no GNU tar");
            return;
        }
        let target = theirs.path().join(format[0]);
        fs::create_dir(&target).unwrap();
        assert!(run(&["-x", "-p", "--same-owner"], &target, &[]));
        let ours = Scratch::new();
        let unpacked = ours.unpack(&fs::read(&archive).unwrap());
        fs::remove_file(&archive).unwrap();
        unpacked.unwrap();
        let (ours, theirs) = (snapshot(&ours.root()), snapshot(&target));
        assert!(ours.len() > 20);
        for (path, line) in &theirs {
            assert_eq!(ours.get(path), Some(line), "{} ({format:?})", path.display());
        }
        assert_eq!(ours.len(), theirs.len());
    }
}
