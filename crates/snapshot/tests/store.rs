//! The store on a real disk, with layers that crate `layer` unpacked, merged by the kernel.

#[cfg(test)]
mod support;

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::{AsFd, AsRawFd};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use crate::support::*;
    use model::Digest;
    use snapshot::{ContainerRoot, Half, Layers, ViewError, read_file_in};

    #[test]
    fn three_layers_merge_into_the_tree_the_image_means() {
        if not_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let layers = Layers::open(scratch.path()).unwrap();
        let base = add(
            &layers,
            &[
                ("etc/", Dir(0o755)),
                ("etc/passwd", File("base")),
                ("etc/gone", File("base")),
                ("opt/", Dir(0o755)),
                ("opt/hidden/deep", File("base")),
                ("opt/hidden-too", File("base")),
                ("data/", Dir(0o755)),
                ("data/old", File("base")),
                ("was-file", File("base")),
                ("was-dir/inside", File("base")),
                ("sh", Link("bin/busybox")),
            ],
        );
        let middle = add(
            &layers,
            &[
                ("etc/passwd", File("middle")),
                ("etc/.wh.gone", File("")),
                ("opt/", Dir(0o700)),
                ("opt/.wh..wh..opq", File("")),
                ("opt/own", File("middle")),
                (".wh.was-file", File("")),
                ("was-file/", Dir(0o755)),
                ("was-file/now-dir", File("middle")),
                ("was-dir", File("middle")),
                // Taken away and brought anew by one layer.
                ("data/", Dir(0o755)),
                ("data/new", File("middle")),
                (".wh.data", File("")),
            ],
        );
        let top = add(
            &layers,
            &[
                ("etc/gone", File("back")),
                ("opt/last", File("top")),
                ("copy", File("x")),
                ("same", Same("copy")),
            ],
        );
        let view = layers.open_merged(&[base, middle, top]).unwrap();
        let merged = want(&[
            ("etc", "dir 755"),
            ("etc/passwd", "middle"),
            ("etc/gone", "back"),
            ("opt", "dir 755"),
            ("opt/own", "middle"),
            ("opt/last", "top"),
            ("data", "dir 755"),
            ("data/new", "middle"),
            ("was-file", "dir 755"),
            ("was-file/now-dir", "middle"),
            ("was-dir", "middle"),
            ("sh", "-> bin/busybox"),
            ("copy", "x"),
            ("same", "x"),
        ]);
        assert_eq!(tree(&view), merged);
        let read = read_file_in(view.as_fd(), "/etc/passwd", 100).unwrap();
        assert_eq!(read.as_deref(), Some(&b"middle"[..]));
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mountinfo.contains(scratch.path().to_str().unwrap()), "nothing is mounted here");
        let written = fs::write(format!("/proc/self/fd/{}/x", view.as_raw_fd()), "x");
        assert_eq!(written.unwrap_err().raw_os_error(), Some(30), "EROFS");
    }

    #[test]
    fn one_layer_is_its_own_view_and_none_is_an_error() {
        if not_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let layers = Layers::open(scratch.path()).unwrap();
        let only = add(&layers, &[("f", File("x"))]);
        let view = layers.open_merged(&[only]).unwrap();
        assert_eq!(tree(&view), want(&[("f", "x")]));
        assert!(matches!(layers.open_merged(&[]), Err(ViewError::NoLayers)));
        let absent = Digest::from_sha256([1; 32]);
        assert!(matches!(
            layers.open_merged(&[only, absent]),
            Err(ViewError::Missing(missing)) if missing.diff_id == absent
        ));
    }

    #[test]
    fn repeated_layers_and_opaque_roots_merge_as_they_should() {
        if not_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let layers = Layers::open(scratch.path()).unwrap();
        let base = add(&layers, &[("base", File("x")), ("both", File("base"))]);
        let empty = add(&layers, &[]);
        let over = add(&layers, &[("both", File("over")), (".wh.base", File(""))]);
        let view = layers.open_merged(&[empty, base, empty, over, base, empty]).unwrap();
        assert_eq!(tree(&view), want(&[("base", "x"), ("both", "base")]));
        let fresh = add(&layers, &[(".wh..wh..opq", File("")), ("fresh", File("x"))]);
        let top = add(&layers, &[("top", File("x"))]);
        let view = layers.open_merged(&[base, over, fresh, top]).unwrap();
        assert_eq!(tree(&view), want(&[("fresh", "x"), ("top", "x")]));
        assert_eq!(layers.lower_dirs(&[base, over, fresh, top]).unwrap().len(), 2);
    }

    #[test]
    fn as_many_layers_as_overlayfs_takes_merge() {
        if not_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let long = scratch.path().join("long-name-".repeat(20)).join("long-name-".repeat(20));
        let layers = Layers::open(&long).unwrap();
        let all: Vec<_> =
            (0..130).map(|n| add(&layers, &[(&*format!("f{n}"), File("x"))])).collect();
        assert_eq!(tree(&layers.open_merged(&all).unwrap()).len(), 130);
    }

    #[test]
    fn a_reopened_store_knows_its_layers_and_clears_the_rest() {
        if not_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let layers = Layers::open(scratch.path()).unwrap();
        let kept = add(&layers, &[("d/f", File("12345")), ("l", Same("d/f"))]);
        let abandoned = layers.begin().unwrap();
        unpack_into(abandoned.root(), &tar(&[("deep/er/f", File("x"))]));
        // As after a crash: nobody drops it.
        std::mem::forget(abandoned);
        fs::create_dir(scratch.path().join("layers/stray")).unwrap();
        let usage = layers.usage(&kept);
        // The root, one directory, one file with two names; the layer's own directory, and the
        // list of directories it only implies.
        assert!(usage.is_some_and(|usage| usage.bytes >= 4096 && usage.inodes == 5), "{usage:?}");
        drop(layers);

        let layers = Layers::open(scratch.path()).unwrap();
        assert_eq!(layers.list(), [kept]);
        assert_eq!(layers.usage(&kept), usage);
        // New ones work while the old ones are being deleted.
        let new = add(&layers, &[("f", File("new"))]);
        assert!(layers.contains(&kept) && layers.contains(&new));
        drop(layers);
        assert_eq!(ingests(scratch.path()), 0);
        assert_eq!(fs::read_dir(scratch.path().join("layers")).unwrap().count(), 2);
        for dir in ["layers", "ingest"] {
            let mode = fs::metadata(scratch.path().join(dir)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o700);
        }
    }

    #[test]
    fn a_layer_without_a_valid_seal_stays_for_those_that_have_it() {
        if not_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let layers = Layers::open(scratch.path()).unwrap();
        let kept = add(&layers, &[("f", File("kept"))]);
        let [torn, other, none] =
            ["torn", "other", "none"].map(|text| add(&layers, &[("f", File(text))]));
        let dir = |id: &Digest| scratch.path().join("layers").join(id.hex());
        let text = fs::read(dir(&torn).join("sealed")).unwrap();
        fs::write(dir(&torn).join("sealed"), &text[..text.len() / 2]).unwrap();
        fs::copy(dir(&kept).join("sealed"), dir(&other).join("sealed")).unwrap();
        fs::remove_file(dir(&none).join("sealed")).unwrap();
        drop(layers);

        // Also at the start after the next.
        for _ in 0..2 {
            let layers = Layers::open(scratch.path()).unwrap();
            assert_eq!(layers.list(), [kept]);
            let mut retired = [torn, other, none];
            retired.sort_unstable();
            assert_eq!(layers.retired(), retired);
        }
        let layers = Layers::open(scratch.path()).unwrap();
        assert_eq!(add(&layers, &[("f", File("torn"))]), torn);
        for id in [torn, other, none] {
            layers.free_retired(&id).unwrap();
        }
        assert!(layers.contains(&torn) && layers.retired().is_empty());
        assert_eq!(fs::read_dir(scratch.path().join("retired")).unwrap().count(), 0);
    }

    #[test]
    fn a_layer_of_a_newer_version_is_left_alone_until_it_is_pulled() {
        if not_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let layers = Layers::open(scratch.path()).unwrap();
        let id = add(&layers, &[("f", File("x"))]);
        drop(layers);
        let seal = scratch.path().join("layers").join(id.hex()).join("sealed");
        let newer = fs::read_to_string(&seal).unwrap().replace("knarr-layer 2", "knarr-layer 3");
        fs::write(&seal, &newer).unwrap();

        let layers = Layers::open(scratch.path()).unwrap();
        assert!(!layers.contains(&id) && layers.retired().is_empty());
        drop(layers);
        assert_eq!(fs::read_to_string(&seal).unwrap(), newer);

        let layers = Layers::open(scratch.path()).unwrap();
        assert_eq!(add(&layers, &[("f", File("x"))]), id);
        assert_eq!(layers.retired(), [id]);
        drop(layers);
        let layers = Layers::open(scratch.path()).unwrap();
        assert_eq!((layers.list(), layers.retired()), (vec![id], vec![id]));
        assert_eq!(ingests(scratch.path()), 0);
    }

    #[test]
    fn a_dropped_ingest_leaves_nothing() {
        if not_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let layers = Layers::open(scratch.path()).unwrap();
        let ingest = layers.begin().unwrap();
        assert!(ingest.path().ends_with("fs"));
        unpack_into(ingest.root(), &tar(&[("d/f", File("x"))]));
        assert_eq!(ingests(scratch.path()), 1);
        drop(ingest);
        assert_eq!(ingests(scratch.path()), 0);
    }

    #[test]
    fn concurrent_commits_of_one_layer_all_succeed() {
        if not_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let layers = Layers::open(scratch.path()).unwrap();
        let start = std::sync::Barrier::new(4);
        let ids: Vec<_> = std::thread::scope(|scope| {
            let commit = || {
                let ingest = layers.begin().unwrap();
                let unpacked = unpack_into(ingest.root(), &tar(&[("f", File("x"))]));
                start.wait();
                layers.commit(ingest, &unpacked).unwrap();
                unpacked.diff_id
            };
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(commit)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(layers.list(), [ids[0]]);
        assert_eq!(ingests(scratch.path()), 0);
        assert_eq!(tree(&layers.open_merged(&ids).unwrap()), want(&[("f", "x")]));
    }

    #[test]
    fn a_removed_layer_is_gone_and_may_come_back() {
        if not_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let layers = Layers::open(scratch.path()).unwrap();
        let id = add(&layers, &[("d/f", File("x"))]);
        layers.remove(&id).unwrap();
        layers.remove(&id).unwrap();
        assert!(!layers.contains(&id) && layers.usage(&id).is_none());
        assert_eq!(layers.lower_dirs(&[id]).unwrap_err().diff_id, id);
        assert_eq!(ingests(scratch.path()), 0);
        assert_eq!(fs::read_dir(scratch.path().join("layers")).unwrap().count(), 0);
        assert_eq!(add(&layers, &[("d/f", File("x"))]), id);
        assert!(layers.contains(&id));
    }

    #[test]
    fn container_roots_are_made_measured_and_removed_as_often_as_asked() {
        if not_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let dir = scratch.path().join("pod/container");
        ContainerRoot::remove(&dir, Half::Upper).unwrap();
        assert_eq!(ContainerRoot::usage(&dir).unwrap(), (0, 0));
        let root = ContainerRoot::prepare(&dir, None).unwrap();
        assert_eq!(ContainerRoot::prepare(&dir, None).unwrap(), root);
        assert_eq!(fs::metadata(&root.upper).unwrap().mode() & 0o7777, 0o755);
        fs::write(dir.join("container.json"), "{}").unwrap();
        fs::write(root.upper.join("f"), vec![1; 50_000]).unwrap();
        let (bytes, inodes) = ContainerRoot::usage(&dir).unwrap();
        assert!(bytes >= 50_000, "{bytes}");
        assert_eq!(inodes, 2);
        // As overlayfs leaves its work directory, volatile and half torn down.
        fs::create_dir_all(root.work.join("work/incompat/volatile")).unwrap();
        fs::set_permissions(root.work.join("work"), fs::Permissions::from_mode(0o000)).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            root.work.join("work/#1"),
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::empty(),
            0,
        )
        .unwrap();
        for half in [Half::Work, Half::Upper, Half::Work, Half::Upper] {
            ContainerRoot::remove(&dir, half).unwrap();
        }
        let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["container.json"]);
    }

    #[test]
    fn a_container_root_may_take_after_the_image() {
        if not_root() {
            return;
        }
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path().join("top");
        fs::create_dir(&top).unwrap();
        std::os::unix::fs::chown(&top, Some(7), Some(8)).unwrap();
        fs::set_permissions(&top, fs::Permissions::from_mode(0o1711)).unwrap();
        let root = ContainerRoot::prepare_over(&scratch.path().join("c"), &top, Some).unwrap();
        let stat = fs::metadata(&root.upper).unwrap();
        assert_eq!((stat.uid(), stat.gid(), stat.mode() & 0o7777), (7, 8, 0o1711));
    }
}
