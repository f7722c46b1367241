//! `cargo xtask generate`: the `.proto` of the CRI becomes committed Rust.
//!
//! The generated files are committed so that a build needs neither protobuf tooling nor the
//! forty crates behind it; `--check` fails when they are stale.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use protox::prost_reflect::prost_types::field_descriptor_proto::Type;
use protox::prost_reflect::prost_types::{
    DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet,
};

/// Messages that hold a secret: their `Debug` is written by hand in `cri-api`.
const REDACTED: &[&str] = &[".runtime.v1.AuthConfig", ".knarr.v1.Login"];

/// Answers whose items the daemon keeps as they are sent. In a repeated field a message and bytes are the
/// same on the wire, so for the server the items are bytes.
const OF_ENCODED_ITEMS: &[&str] = &[
    "ListContainersResponse",
    "ListPodSandboxResponse",
    "StreamContainersResponse",
    "StreamPodSandboxesResponse",
];

pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let out = tempdir(root)?;
    let protos = root.join("crates/cri-api/proto");
    let set = protox::compile(
        [protos.join("runtime.v1.proto"), protos.join("knarr.v1.proto")],
        [&protos],
    )
    .context("compile the .proto files")?;
    services(&set, &out)?;
    let bytes = prost::Message::encode_to_vec(&set);
    pbjson_build::Builder::new()
        .out_dir(&out)
        .register_descriptors(&bytes)
        .context("read the descriptors")?
        .btree_map(["."])
        // As crictl prints it: scripts read `"state": "SANDBOX_READY"`, the default value.
        .emit_fields()
        .build(&[".runtime.v1", ".knarr.v1"])
        .context("generate the JSON mapping")?;
    for (from, to) in [
        ("runtime.v1.rs", "crates/cri-api/src/generated.rs"),
        ("server/runtime.v1.rs", "crates/cri-api/src/generated_server.rs"),
        ("knarr.v1.rs", "crates/cri-api/src/generated_knarr.rs"),
        ("knarr.v1.serde.rs", "crates/cri-api/src/generated_knarr_json.rs"),
        ("runtime.v1.serde.rs", "crates/cri-api/src/generated_json.rs"),
    ] {
        let fresh = std::fs::read_to_string(out.join(from)).with_context(|| from.to_owned())?;
        let path = root.join(to);
        if check {
            let committed = std::fs::read_to_string(&path).with_context(|| to.to_owned())?;
            ensure!(committed == fresh, "{to} is stale: run `cargo xtask generate`");
        } else {
            std::fs::write(&path, fresh).with_context(|| to.to_owned())?;
        }
    }
    std::fs::remove_dir_all(&out).context("remove the scratch directory")?;
    Ok(())
}

/// Messages and clients of both packages, and the servers.
fn services(set: &FileDescriptorSet, out: &Path) -> Result<()> {
    let tonic = |out: &Path| tonic_prost_build::configure().build_transport(false).out_dir(out);
    let config = || {
        let mut config = prost_build::Config::new();
        config.skip_debug(REDACTED).btree_map(["."]);
        config
    };
    tonic(out)
        .build_server(false)
        .compile_fds_with_config(only(set, "runtime.v1"), config())
        .context("generate the CRI's messages and clients")?;
    tonic(out)
        .compile_fds_with_config(only(set, "knarr.v1"), config())
        .context("generate our own services")?;
    let out = out.join("server");
    std::fs::create_dir_all(&out).with_context(|| out.display().to_string())?;
    let mut config = config();
    config.bytes(["."]);
    let set = with_encoded_items(only(set, "runtime.v1"), &mut config)?;
    tonic(&out)
        .build_client(false)
        .compile_fds_with_config(set, config)
        .context("generate the CRI's servers")
}

fn only(set: &FileDescriptorSet, package: &str) -> FileDescriptorSet {
    let of_package = |file: &&FileDescriptorProto| file.package() == package;
    FileDescriptorSet { file: set.file.iter().filter(of_package).cloned().collect() }
}

/// What servers are generated from: [`OF_ENCODED_ITEMS`] are messages of their own, everything else is the
/// clients'.
fn with_encoded_items(
    mut set: FileDescriptorSet,
    config: &mut prost_build::Config,
) -> Result<FileDescriptorSet> {
    let mut left: BTreeSet<&str> = OF_ENCODED_ITEMS.iter().copied().collect();
    for file in &mut set.file {
        for message in &mut file.message_type {
            if left.remove(message.name()) {
                let items = only_field(message)?;
                items.set_type(Type::Bytes);
                items.type_name = None;
            } else {
                is_clients(config, message.name());
            }
        }
        file.enum_type.iter().for_each(|declared| is_clients(config, declared.name()));
    }
    ensure!(left.is_empty(), "the CRI has no {left:?}");
    Ok(set)
}

fn is_clients(config: &mut prost_build::Config, name: &str) {
    config.extern_path(format!(".runtime.v1.{name}"), format!("crate::v1::{name}"));
}

fn only_field(message: &mut DescriptorProto) -> Result<&mut FieldDescriptorProto> {
    match message.field.as_mut_slice() {
        [field] => Ok(field),
        fields => bail!("{} fields where the items alone are expected", fields.len()),
    }
}

fn tempdir(root: &Path) -> Result<std::path::PathBuf> {
    let dir = root.join(format!("target/generate-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}
