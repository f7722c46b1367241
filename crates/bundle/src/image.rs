//! An image's configuration as an OCI specification, without a request beside it: image-spec,
//! "Conversion to OCI Runtime Configuration".

use std::collections::HashMap;

use model::{ImageDescription, ResolvedUser};
use oci_spec::runtime::{Mount, Spec};

/// Makes a general specification one of this image. `user` is what the image's `User` means by its
/// own user database.
pub fn image_spec(mut spec: Spec, image: &ImageDescription, user: &ResolvedUser) -> Spec {
    let config = &image.config;
    if let Some(process) = spec.process_mut() {
        let args = config.entrypoint.iter().chain(&config.cmd).cloned().collect();
        let cwd = if config.working_dir.is_empty() { "/" } else { &config.working_dir };
        let mut identity = oci_spec::runtime::User::default();
        let further = user.groups.iter().copied().filter(|gid| *gid != user.gid).collect();
        identity.set_uid(user.uid).set_gid(user.gid).set_additional_gids(Some(further));
        process
            .set_args(Some(args))
            .set_cwd(cwd.into())
            .set_terminal(Some(false))
            .set_env(Some(environment(config, user)))
            .set_user(identity);
    }
    if let Some(root) = spec.root_mut() {
        root.set_readonly(Some(false));
    }
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    mounts.extend(config.volumes.iter().map(|path| volume(path)));
    spec.set_mounts(Some(mounts)).set_annotations(Some(annotations(image)));
    spec
}

/// The image's own, over what every process should have.
fn environment(config: &model::ImageConfig, user: &ResolvedUser) -> Vec<String> {
    let mut env = config.env.clone();
    let mut default = |entry: String| {
        let key = entry.split_inclusive('=').next().unwrap_or_default();
        if !env.iter().any(|own| own.starts_with(key)) {
            env.push(entry);
        }
    };
    default("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
    default(format!("HOME={}", user.home.as_deref().unwrap_or("/")));
    env
}

/// Data of a volume must not come to lie in the root file system. It begins with what the image has
/// there.
fn volume(path: &str) -> Mount {
    let options = ["rw", "nosuid", "nodev", "tmpcopyup"].map(str::to_owned);
    let mut mount = Mount::default();
    mount
        .set_destination(path.into())
        .set_typ(Some("tmpfs".to_owned()))
        .set_source(Some("tmpfs".into()))
        .set_options(Some(options.to_vec()));
    mount
}

/// Labels, and under names of their own what there is no place for in a specification. A label of
/// such a name wins.
fn annotations(image: &ImageDescription) -> HashMap<String, String> {
    let list = |list: &[String]| list.join(",");
    let own = [
        ("os", image.os.clone()),
        ("architecture", image.architecture.clone()),
        ("variant", image.variant.clone()),
        ("os.version", image.os_version.clone()),
        ("os.features", list(&image.os_features)),
        ("author", image.author.clone()),
        ("created", image.created.clone()),
        ("stopSignal", image.stop_signal.clone()),
        ("exposedPorts", list(&image.exposed_ports)),
    ];
    let named = own.into_iter().filter(|(_, value)| !value.is_empty());
    let named = named.map(|(key, value)| (format!("org.opencontainers.image.{key}"), value));
    let labels = image.config.labels.iter().map(|(key, value)| (key.clone(), value.clone()));
    named.chain(labels).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> ImageDescription {
        let mut image = ImageDescription {
            os: "linux".into(),
            architecture: "amd64".into(),
            author: "somebody".into(),
            stop_signal: "SIGINT".into(),
            exposed_ports: vec!["80/tcp".into(), "53/udp".into()],
            ..ImageDescription::default()
        };
        image.config.entrypoint = vec!["/entry".into()];
        image.config.cmd = vec!["a".into(), "b".into()];
        image.config.env = vec!["HOME=/elsewhere".into(), "X=1".into()];
        image.config.working_dir = "/work".into();
        image.config.volumes = vec!["/data".into()];
        image.config.labels.insert("tier".into(), "web".into());
        image.config.labels.insert("org.opencontainers.image.author".into(), "label".into());
        image
    }

    #[test]
    fn every_field_of_the_image_has_its_place() {
        let user = ResolvedUser { uid: 7, gid: 8, groups: vec![8, 9], home: Some("/h".into()) };
        let spec = image_spec(Spec::default(), &image(), &user);
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.args().as_ref().unwrap(), &["/entry", "a", "b"]);
        assert_eq!(process.cwd().to_str(), Some("/work"));
        let env = process.env().as_ref().unwrap();
        assert_eq!(env[..2], ["HOME=/elsewhere", "X=1"]);
        assert!(env[2].starts_with("PATH=") && env.len() == 3, "{env:?}");
        let user = process.user();
        assert_eq!((user.uid(), user.gid()), (7, 8));
        assert_eq!(user.additional_gids().as_deref(), Some(&[9][..]));
        let last = spec.mounts().as_ref().unwrap().last().unwrap();
        assert_eq!(last.destination().to_str(), Some("/data"));
        let annotations = spec.annotations().as_ref().unwrap();
        for (key, value) in [
            ("org.opencontainers.image.os", "linux"),
            ("org.opencontainers.image.architecture", "amd64"),
            ("org.opencontainers.image.author", "label"),
            ("org.opencontainers.image.stopSignal", "SIGINT"),
            ("org.opencontainers.image.exposedPorts", "80/tcp,53/udp"),
            ("tier", "web"),
        ] {
            assert_eq!(annotations.get(key).map(String::as_str), Some(value), "{key}");
        }
        assert!(!annotations.contains_key("org.opencontainers.image.created"));
    }
}
