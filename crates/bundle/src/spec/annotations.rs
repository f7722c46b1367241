//! `annotations`: what other runtimes (VM runtimes, gVisor) and node tools key off.

use std::collections::HashMap;

use crate::ContainerInput;

pub(super) fn annotations(input: &ContainerInput<'_>) -> HashMap<String, String> {
    let pod = &input.pod.name;
    let own: [(&str, &str); 7] = [
        ("container-type", "container"),
        ("sandbox-id", input.sandbox.as_str()),
        ("container-name", &input.config.name.name),
        ("image-name", input.image_name),
        ("sandbox-namespace", &pod.namespace),
        ("sandbox-name", &pod.name),
        ("sandbox-uid", &pod.uid),
    ];
    let own =
        own.into_iter().map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value.to_owned()));
    // A pod cannot pass itself off as something else: knarr's own words come last.
    let passed = input.annotations.iter().map(|(key, value)| (key.clone(), value.clone()));
    passed.chain(own).collect()
}
