//! From YAML to volumes.

use super::{
    fields::{Fields, Place},
    manifest::{HostPathKind, Volume, VolumeSource},
    plan::PullPolicy,
    read::label,
};

const UNSUPPORTED: &[&str] = &[
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "configMap",
    "csi",
    "downwardAPI",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "projected",
    "quobyte",
    "rbd",
    "scaleIO",
    "secret",
    "storageos",
    "vsphereVolume",
];

pub(super) fn volume(mut fields: Fields<'_>) -> Option<Volume> {
    let place = fields.place.clone();
    let name = label(&mut fields);
    let empty_dir = fields.fields("emptyDir");
    let host_path = fields.fields("hostPath");
    let image = fields.fields("image");
    let source = match (empty_dir, host_path, image) {
        (Some(empty_dir), None, None) => Some(self::empty_dir(empty_dir)),
        (None, Some(host_path), None) => self::host_path(host_path),
        (None, None, Some(image)) => self::image(image),
        (None, None, None) => None,
        _ => {
            fields.problem(&place, "has two sources");
            None
        }
    };
    // Another source is named as unsupported below; with none at all, say what is missing.
    if source.is_none() && !fields.has_any(UNSUPPORTED) {
        fields.problem(&place, "needs a source: emptyDir, hostPath or image");
    }
    fields.finish_strictly(UNSUPPORTED);
    Some(Volume { place, name: name?, source: source? })
}

fn empty_dir(mut fields: Fields<'_>) -> VolumeSource {
    if let Some(medium) = fields.word("medium") {
        let place = Place { path: format!("{}.medium", fields.place.path), ..fields.place.clone() };
        fields.problem(&place, format!("`{medium}` is not supported by knarr run"));
    }
    fields.finish(&["sizeLimit"]);
    VolumeSource::EmptyDir
}

fn image(mut fields: Fields<'_>) -> Option<VolumeSource> {
    let reference = fields.word("reference");
    let reference = fields.require("reference", reference);
    let pull = fields.choice("pullPolicy", PullPolicy::WORDS);
    fields.finish(&[]);
    Some(VolumeSource::Image { reference: reference?, pull })
}

fn host_path(mut fields: Fields<'_>) -> Option<VolumeSource> {
    let kinds = [
        ("DirectoryOrCreate", HostPathKind::DirectoryOrCreate),
        ("Directory", HostPathKind::Directory),
        ("FileOrCreate", HostPathKind::FileOrCreate),
        ("File", HostPathKind::File),
        ("Socket", HostPathKind::Socket),
        ("CharDevice", HostPathKind::CharDevice),
        ("BlockDevice", HostPathKind::BlockDevice),
    ];
    let path = fields.word("path");
    let path = fields.require("path", path);
    let kind = fields.choice("type", &kinds).unwrap_or(HostPathKind::Any);
    if let Some(path) = path.as_deref().filter(|path| !is_plain_absolute(path)) {
        let place = Place { path: format!("{}.path", fields.place.path), ..fields.place.clone() };
        fields.problem(&place, format!("`{path}` must be absolute and without `..`"));
    }
    fields.finish(&[]);
    Some(VolumeSource::HostPath { path: path?, kind })
}

pub(super) fn is_plain_absolute(path: &str) -> bool {
    path.starts_with('/') && path.split('/').all(|part| part != "..")
}
