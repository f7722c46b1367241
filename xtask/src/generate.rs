//! `cargo xtask generate`: the `.proto` of the CRI becomes committed Rust.
//!
//! The generated files are committed so that a build needs neither protobuf tooling nor the
//! forty crates behind it; `--check` fails when they are stale.

use std::path::Path;

use anyhow::{Context, Result, ensure};

/// Messages that hold a secret: their `Debug` is written by hand in `cri-api`.
const REDACTED: &[&str] = &[".runtime.v1.AuthConfig", ".knarr.v1.Login"];

pub(crate) fn run(root: &Path, check: bool) -> Result<()> {
    let out = tempdir(root)?;
    let protos = root.join("crates/cri-api/proto");
    let set = protox::compile(
        [protos.join("runtime.v1.proto"), protos.join("knarr.v1.proto")],
        [&protos],
    )
    .context("compile the .proto files")?;
    let mut config = prost_build::Config::new();
    config.out_dir(&out).skip_debug(REDACTED);
    config.btree_map(["."]);
    tonic_prost_build::configure()
        .build_transport(false)
        .out_dir(&out)
        .compile_fds_with_config(set.clone(), config)
        .context("generate the gRPC services")?;
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

fn tempdir(root: &Path) -> Result<std::path::PathBuf> {
    let dir = root.join(format!("target/generate-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    Ok(dir)
}
