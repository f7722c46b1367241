//! Rows of `mounts`: a bind for each request, and what it means for the defaults and the root.

use bundle::{AnonymousVolume, ResolvedMount};
use model::{ImageSpec, MountPropagation, MountRequest, MountSource};
use serde_json::{Value, json};

use crate::case::{Case, refused, row};

/// Asks for `/src`, which lies on a mount of this propagation.
fn asks<'c>(case: &'c mut Case, place: &str, shared: bool, slave: bool) -> &'c mut MountRequest {
    case.mounts.push(ResolvedMount { host_path: "/src".into(), shared, slave });
    case.config.mounts.push(MountRequest {
        container_path: place.into(),
        source: MountSource::Host("/link".into()),
        readonly: false,
        recursive_read_only: false,
        selinux_relabel: false,
        propagation: MountPropagation::Private,
        uid_mappings: vec![],
        gid_mappings: vec![],
        options: vec![],
    });
    case.config.mounts.last_mut().unwrap()
}

fn data(case: &mut Case) -> &mut MountRequest {
    asks(case, "/data", true, false)
}

fn bound(place: &str, options: &[&str]) -> Value {
    json!({ "destination": place, "type": "bind", "source": "/src", "options": options })
}

fn mounted(options: &[&str]) -> Value {
    json!({ "/mounts +": [bound("/data", options)] })
}

#[test]
fn host_path_and_readonly() {
    row(|case| data(case).readonly = false, mounted(&["rbind", "rprivate", "rw"]));
    row(|case| data(case).readonly = true, mounted(&["rbind", "rprivate", "ro"]));
    refused(|case| asks(case, "/", true, false).readonly = true, "a path below the root");
}

#[test]
fn recursive_read_only() {
    let deep = |case: &mut Case| {
        let mount = data(case);
        (mount.readonly, mount.recursive_read_only) = (true, true);
    };
    let mut want = mounted(&["rbind", "rprivate", "rro"]);
    // Known since version 1.1 of the specification; older runtimes refuse newer ones.
    want["/ociVersion"] = json!("1.1.0");
    row(deep, want);
    refused(|case| data(case).recursive_read_only = true, "RROUnsupported");
    for propagation in [MountPropagation::HostToContainer, MountPropagation::Bidirectional] {
        refused(
            |case| {
                deep(case);
                case.config.mounts[0].propagation = propagation;
            },
            "RROUnsupported",
        );
    }
    refused(
        |case| {
            deep(case);
            case.runtime.recursive_read_only = false;
        },
        "RROUnsupported",
    );
}

#[test]
fn propagation() {
    let with = |option: &str, root: &str| {
        let mut want = mounted(&["rbind", option, "rw"]);
        want["/linux/rootfsPropagation"] = json!(root);
        want
    };
    let (slave, shared) = (MountPropagation::HostToContainer, MountPropagation::Bidirectional);
    row(|case| data(case).propagation = slave, with("rslave", "rslave"));
    row(|case| data(case).propagation = shared, with("rshared", "rshared"));
    row(|case| asks(case, "/data", false, true).propagation = slave, with("rslave", "rslave"));
    let refuse = |slave_source: bool, propagation: MountPropagation, words: &str| {
        refused(|case| asks(case, "/data", false, slave_source).propagation = propagation, words);
    };
    refuse(false, slave, "`/src` is on a mount that is not shared or slave");
    refuse(true, shared, "`/src` is on a mount that is not shared");
    // The root is as strong as the strongest of them.
    row(
        |case| {
            data(case).propagation = slave;
            asks(case, "/more", true, false).propagation = shared;
        },
        json!({
            "/linux/rootfsPropagation": "rshared",
            "/mounts +": [
                bound("/data", &["rbind", "rslave", "rw"]),
                bound("/more", &["rbind", "rshared", "rw"]),
            ],
        }),
    );
}

#[test]
fn mount_options() {
    let options = |case: &mut Case, options: &[&str]| {
        data(case).options = options.iter().map(|option| (*option).to_owned()).collect();
    };
    row(
        |case| options(case, &["noexec", "nodev", "nosuid", "nodev"]),
        mounted(&["rbind", "rprivate", "rw", "noexec", "nodev", "nosuid"]),
    );
    for wrong in ["exec", "size=1", ""] {
        refused(|case| options(case, &[wrong]), "noexec, nodev or nosuid");
    }
}

#[test]
fn paths_that_name_nothing() {
    for path in ["", "relative", "./a", "/a\0b"] {
        let words = format!("`mounts.host_path` is `{}`: want an absolute", path.escape_debug());
        refused(|case| data(case).source = MountSource::Host(path.into()), &words);
    }
    for path in ["", "/", "a/..", "/a\0b"] {
        let words = format!("`mounts.container_path` is `{}`", path.escape_debug());
        refused(|case| data(case).container_path = path.into(), &words);
    }
}

#[test]
fn image() {
    let image = |case: &mut Case| {
        let image = ImageSpec::default();
        data(case).source = MountSource::Image { image, sub_path: "models".into() };
    };
    row(image, mounted(&["rbind", "rprivate", "ro", "nosuid", "nodev"]));
}

#[test]
fn the_same_place_as_a_default_or_all_of_dev() {
    let hosts = json!({
        "destination": "/etc/hosts", "type": "bind", "source": "/run/pod/hosts",
        "options": ["rbind", "rprivate", "rw"],
    });
    row(
        |case| asks(case, "/etc//hosts", true, false).readonly = false,
        json!({
            "/mounts -": [hosts],
            "/mounts +": [bound("/etc/hosts", &["rbind", "rprivate", "rw"])],
        }),
    );
    let mut case = Case::new();
    asks(&mut case, "/dev", true, false);
    let spec = case.build().unwrap();
    let mounts = spec["mounts"].as_array().unwrap().iter();
    let places: Vec<&str> = mounts.map(|mount| mount["destination"].as_str().unwrap()).collect();
    let dev: Vec<&&str> = places.iter().filter(|place| place.starts_with("/dev")).collect();
    assert_eq!(dev, [&"/dev"]);
}

#[test]
fn order_is_by_depth_and_stable() {
    let mut case = Case::new();
    for place in ["/z/deep/er", "/b", "/a", "/z", "/z/deep"] {
        asks(&mut case, place, true, false);
    }
    let spec = case.build().unwrap();
    let mounts = spec["mounts"].as_array().unwrap().iter();
    let asked = mounts.filter(|mount| mount["source"] == "/src");
    let places: Vec<&str> = asked.map(|mount| mount["destination"].as_str().unwrap()).collect();
    assert_eq!(places, ["/b", "/a", "/z", "/z/deep", "/z/deep/er"]);
}

#[test]
fn volumes_of_the_image() {
    row(
        |case| {
            case.volumes =
                vec![AnonymousVolume { container_path: "/cache".into(), host_path: "/src".into() }];
        },
        json!({ "/mounts +": [bound("/cache", &["rbind", "rprivate", "rw"])] }),
    );
}
