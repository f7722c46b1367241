use model::{CgroupHierarchy, ContainerName, PodName, StringMap};

use super::*;

fn pod(annotations: &[(&str, &str)]) -> PodConfig {
    let name = PodName { name: "p".into(), namespace: "n".into(), uid: "u".into(), attempt: 0 };
    PodConfig { annotations: map(annotations), ..PodConfig::new(name) }
}

fn container(annotations: &[(&str, &str)]) -> ContainerConfig {
    let name = ContainerName { name: "main".into(), attempt: 0 };
    ContainerConfig { annotations: map(annotations), ..ContainerConfig::new(name) }
}

fn map(entries: &[(&str, &str)]) -> StringMap {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

const OWN: &str = "io.kubernetes.cri.rdt-class";
const FOR_ONE: &str = "rdt.resources.beta.kubernetes.io/container.main";
const FOR_ALL: &str = "rdt.resources.beta.kubernetes.io/pod";

#[test]
fn the_nearest_annotation_names_the_class() {
    let of = |on_pod: &[(&str, &str)], own: &[(&str, &str)]| {
        named("rdt", &pod(on_pod), &container(own)).map(str::to_owned)
    };
    let all = [(FOR_ONE, "one"), (FOR_ALL, "all")];
    assert_eq!(of(&all, &[(OWN, "own")]).as_deref(), Some("own"));
    assert_eq!(of(&all, &[]).as_deref(), Some("one"));
    assert_eq!(of(&all[1..], &[]).as_deref(), Some("all"));
    assert_eq!(of(&[(OWN, "x")], &[(FOR_ALL, "x")]), None, "each has its place");
    assert_eq!(named("blockio", &pod(&all), &container(&[])), None);
}

/// A directory as `resctrl` looks.
fn resctrl(groups: &[&str]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for group in groups.iter().chain(&["."]) {
        std::fs::create_dir_all(root.path().join(group)).unwrap();
        std::fs::write(root.path().join(group).join("schemata"), "L3:0=f\n").unwrap();
    }
    std::fs::create_dir(root.path().join("info")).unwrap();
    root
}

fn sources<'s>(root: &'s Path, file: &'s Path, cgroup: &'s CgroupLayout) -> Sources<'s> {
    Sources { block_io: file, resctrl: root, cgroup }
}

#[test]
fn a_class_of_service_is_a_group_that_is_there() {
    let root = resctrl(&["gold", "silver"]);
    assert_eq!(group_of("gold", root.path()).unwrap(), "gold");
    assert_eq!(group_of("system/default", root.path()).unwrap(), "/");
    let unknown = group_of("info", root.path()).unwrap_err().to_string();
    assert_eq!(unknown, "RDT class `info` does not exist; there is gold, silver, system/default");
    let none = group_of("gold", Path::new("/nonexistent")).unwrap_err().to_string();
    assert!(none.contains("gold") && none.contains("no resctrl"), "{none}");
}

fn layout(controllers: &[&str]) -> CgroupLayout {
    CgroupLayout::V2(CgroupHierarchy {
        mountpoint: "/sys/fs/cgroup".into(),
        controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
    })
}

#[test]
fn classes_end_up_in_the_spec() {
    let root = resctrl(&["gold"]);
    let file = root.path().join("classes.yaml");
    std::fs::write(&file, "Classes: {slow: [{Weight: 20}]}").unwrap();
    let cgroup = layout(&["io"]);
    let config = container(&[(OWN, "gold"), ("io.kubernetes.cri.blockio-class", "slow")]);
    let mut spec = Spec::default();
    apply(sources(root.path(), &file, &cgroup), &pod(&[]), &config, &mut spec).unwrap();
    let linux = spec.linux().as_ref().unwrap();
    assert_eq!(linux.intel_rdt().as_ref().unwrap().clos_id().as_deref(), Some("gold"));
    let resources = linux.resources().as_ref().unwrap();
    assert_eq!(resources.block_io().as_ref().unwrap().weight(), Some(20));
}

#[test]
fn a_block_io_class_that_cannot_be_had_is_named_with_what_there_is() {
    let root = resctrl(&[]);
    let file = root.path().join("classes.yaml");
    let config = container(&[("io.kubernetes.cri.blockio-class", "slow")]);
    let refused = |cgroup: &CgroupLayout| {
        let sources = sources(root.path(), &file, cgroup);
        apply(sources, &pod(&[]), &config, &mut Spec::default()).unwrap_err().to_string()
    };
    let missing = refused(&layout(&["io"]));
    assert!(missing.contains("slow") && missing.contains("classes.yaml"), "{missing}");
    std::fs::write(&file, "Classes: {fast: [{Weight: 900}], other: []}").unwrap();
    let unknown = refused(&layout(&["io"]));
    assert_eq!(unknown, "block IO class `slow` does not exist; there is fast, other");
    std::fs::write(&file, "Classes: {slow: [{Weight: 20}]}").unwrap();
    let none = refused(&layout(&["cpu"]));
    assert!(none.contains("no io controller"), "{none}");
}
