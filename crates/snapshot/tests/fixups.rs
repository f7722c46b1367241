//! Layers that leave things open, in the images they are part of.

#[cfg(test)]
mod support;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;

    use model::Digest;
    use snapshot::Layers;

    use crate::support::*;

    struct Store {
        scratch: tempfile::TempDir,
        layers: Layers,
    }

    impl Store {
        fn new() -> Option<Self> {
            if not_root() {
                return None;
            }
            let scratch = tempfile::tempdir().unwrap();
            let layers = Layers::open(scratch.path()).unwrap();
            Some(Self { scratch, layers })
        }

        fn stack(&self, stack: &[&[(&str, Made)]]) -> Vec<Digest> {
            stack.iter().map(|entries| add(&self.layers, entries)).collect()
        }

        fn complete(&self, ids: &[Digest]) -> BTreeMap<String, String> {
            self.layers.complete(ids).unwrap();
            tree(&self.layers.open_merged(ids).unwrap())
        }

        fn fixups(&self) -> usize {
            fs::read_dir(self.scratch.path().join("fixups")).unwrap().count()
        }
    }

    fn stat(view: &OwnedFd, path: &str) -> fs::Metadata {
        let path = PathBuf::from(format!("/proc/self/fd/{}/{path}", view.as_raw_fd()));
        fs::symlink_metadata(path).unwrap()
    }

    #[test]
    fn directories_a_layer_does_not_name_stay_as_the_layers_below_have_them() {
        let Some(store) = Store::new() else { return };
        let ids = store.stack(&[
            &[("tmp/", Dir(0o1777)), ("a/", Dir(0o700)), ("a/b/", Dir(0o750)), ("n/", Dir(0o711))],
            &[("tmp/x", File("x")), ("a/b/c/d", File("d")), ("n/", Dir(0o755)), ("n/m", File(""))],
            &[("a/b/top", File("t"))],
        ]);
        let got = store.complete(&ids);
        let expected = want(&[
            ("tmp", "dir 1777"),
            ("tmp/x", "x"),
            ("a", "dir 700"),
            ("a/b", "dir 750"),
            ("a/b/c", "dir 755"),
            ("a/b/c/d", "d"),
            ("a/b/top", "t"),
            ("n", "dir 755"),
            ("n/m", ""),
        ]);
        assert_eq!(got, expected);
        let view = store.layers.open_merged(&ids).unwrap();
        assert_eq!(stat(&view, "tmp").mtime(), 1_000_000_000);
        assert_eq!(stat(&view, "a").mtime(), 1_000_000_000);
        assert_eq!(store.fixups(), 2);
        // Again costs nothing, and another daemon finds the same.
        store.layers.complete(&ids).unwrap();
        let Store { scratch, layers } = store;
        drop(layers);
        let layers = Layers::open(scratch.path()).unwrap();
        assert_eq!(tree(&layers.open_merged(&ids).unwrap()), expected);
    }

    #[test]
    fn a_layer_is_another_thing_on_another_base() {
        let Some(store) = Store::new() else { return };
        let ids = store.stack(&[
            &[("tmp/", Dir(0o1777))],
            &[("tmp/", Dir(0o700))],
            &[("tmp/x", File("x"))],
        ]);
        let (sticky, private, top) = (ids[0], ids[1], ids[2]);
        assert_eq!(store.complete(&[sticky, top])["tmp"], "dir 1777");
        assert_eq!(store.complete(&[private, top])["tmp"], "dir 700");
        assert_eq!(store.complete(&[top])["tmp"], "dir 755");
    }

    #[test]
    fn what_hides_the_layers_below_takes_nothing_from_them() {
        let Some(store) = Store::new() else { return };
        let ids = store.stack(&[
            &[
                ("gone/", Dir(0o700)),
                ("gone/sub/", Dir(0o701)),
                ("emptied/", Dir(0o702)),
                ("emptied/sub/", Dir(0o703)),
                ("was-file", File("f")),
            ],
            &[
                (".wh.gone", File("")),
                ("gone/sub/x", File("x")),
                ("emptied/.wh..wh..opq", File("")),
                ("emptied/sub/y", File("y")),
                ("was-file/z", File("z")),
            ],
        ]);
        let got = store.complete(&ids);
        assert_eq!(
            got,
            want(&[
                ("gone", "dir 755"),
                ("gone/sub", "dir 755"),
                ("gone/sub/x", "x"),
                ("emptied", "dir 702"),
                ("emptied/sub", "dir 755"),
                ("emptied/sub/y", "y"),
                ("was-file", "dir 755"),
                ("was-file/z", "z"),
            ])
        );
    }

    #[test]
    fn names_through_a_link_of_a_lower_layer_end_up_behind_it() {
        let Some(store) = Store::new() else { return };
        let ids = store.stack(&[
            &[
                ("usr/", Dir(0o755)),
                ("usr/lib/", Dir(0o750)),
                ("usr/lib/old", File("old")),
                ("usr/lib/gone", File("gone")),
                ("usr/lib/deep/", Dir(0o711)),
                ("lib", Link("usr/lib")),
                ("bin", Link("/usr/bin")),
                ("dangling", Link("nowhere")),
            ],
            &[
                ("lib/new", File("new")),
                ("lib/old", File("newer")),
                ("lib/.wh.gone", File("")),
                ("lib/deep/er/x", File("x")),
                ("lib/own/", Dir(0o700)),
                ("dangling/y", File("y")),
            ],
            &[("usr/lib/old", File("newest"))],
        ]);
        let got = store.complete(&ids);
        assert_eq!(
            got,
            want(&[
                ("usr", "dir 755"),
                ("usr/lib", "dir 750"),
                ("usr/lib/old", "newest"),
                ("usr/lib/new", "new"),
                ("usr/lib/deep", "dir 711"),
                ("usr/lib/deep/er", "dir 755"),
                ("usr/lib/deep/er/x", "x"),
                ("usr/lib/own", "dir 700"),
                ("lib", "-> usr/lib"),
                ("bin", "-> /usr/bin"),
                ("dangling", "dir 755"),
                ("dangling/y", "y"),
            ])
        );
    }

    #[test]
    fn a_named_directory_replaces_a_link() {
        let Some(store) = Store::new() else { return };
        let ids = store.stack(&[
            &[("usr/lib/old", File("old")), ("lib", Link("usr/lib"))],
            &[("lib/", Dir(0o755)), ("lib/new", File("new"))],
        ]);
        let got = store.complete(&ids);
        assert_eq!(got["lib"], "dir 755");
        assert!(!got.contains_key("lib/old"));
        assert_eq!(store.fixups(), 0);
    }

    #[test]
    fn the_root_is_what_the_topmost_layer_says_that_says_something() {
        let Some(store) = Store::new() else { return };
        let ids = store.stack(&[
            &[("./", Dir(0o711)), ("a", File(""))],
            &[("b", File(""))],
            &[("./", Dir(0o750)), ("c", File(""))],
            &[("d", File(""))],
        ]);
        let mode = |ids: &[Digest]| {
            let root = store.layers.root_dir(ids).unwrap().unwrap();
            fs::metadata(root).unwrap().mode() & 0o7777
        };
        assert_eq!(mode(&ids[..2]), 0o711);
        assert_eq!(mode(&ids), 0o750);
        assert_eq!(mode(&ids[1..2]), 0o755);
        assert_eq!(store.layers.root_dir(&[]).unwrap(), None);
    }

    #[test]
    fn a_fixup_goes_with_its_layer_and_not_without_a_seal() {
        let Some(store) = Store::new() else { return };
        let stack =
            || -> Vec<Digest> { store.stack(&[&[("tmp/", Dir(0o1777))], &[("tmp/x", File("x"))]]) };
        let ids = stack();
        store.layers.complete(&ids).unwrap();
        assert_eq!(store.fixups(), 1);
        store.layers.remove(&ids[1]).unwrap();
        assert_eq!(store.fixups(), 0);
        store.layers.complete(&stack()).unwrap();
        let Store { scratch, layers } = store;
        drop(layers);
        let fixup = fs::read_dir(scratch.path().join("fixups")).unwrap().next().unwrap().unwrap();
        fs::write(fixup.path().join("sealed"), "torn").unwrap();
        let layers = Layers::open(scratch.path()).unwrap();
        assert!(layers.has_broken_fixups());
        layers.discard_broken_fixups();
        assert!(!layers.has_broken_fixups());
        drop(layers);
        assert_eq!(fs::read_dir(scratch.path().join("fixups")).unwrap().count(), 0);
        assert_eq!(ingests(scratch.path()), 0);
    }

    #[test]
    fn a_fixup_without_a_valid_seal_is_made_anew_and_the_old_one_stays_for_who_has_it() {
        let Some(store) = Store::new() else { return };
        let ids = store.stack(&[&[("tmp/", Dir(0o1777))], &[("tmp/x", File("x"))]]);
        let before = store.complete(&ids);
        let Store { scratch, layers } = store;
        drop(layers);
        let fixup = fs::read_dir(scratch.path().join("fixups")).unwrap().next().unwrap().unwrap();
        fs::write(fixup.path().join("sealed"), "torn").unwrap();

        let store = Store { layers: Layers::open(scratch.path()).unwrap(), scratch };
        assert!(store.layers.has_broken_fixups());
        assert_eq!(store.complete(&ids), before);
        store.layers.discard_broken_fixups();
        assert_eq!((store.fixups(), store.layers.retired()), (1, vec![ids[1]]));
        let Store { scratch, layers } = store;
        drop(layers);
        let store = Store { layers: Layers::open(scratch.path()).unwrap(), scratch };
        assert!(!store.layers.has_broken_fixups());
        assert_eq!((store.complete(&ids), store.layers.retired()), (before, vec![ids[1]]));
    }
}
