//! What other runtimes are told of a container: the bundle's spec in words they know, and the paths
//! by which they find what only the shim has.

use std::path::{Path, PathBuf};

use model::SandboxId;
use oci_runtime::ImageTree;
use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use serde_json::Value;
use shim_protocol::{ImagePlace, Places, RuntimeProgram};

use crate::handler::{Program, RuntimeKind};
use crate::paths::Paths;
use crate::plan;

/// Why a handler's base spec cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BaseSpecError {
    /// The file cannot be read.
    #[error("cannot read the handler's base spec {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not a spec, or makes none of the container's.
    #[error("the handler's base spec {} is not an OCI spec", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// As the shim is told.
pub(crate) fn program(program: &Program) -> RuntimeProgram {
    RuntimeProgram {
        path: program.path.to_string_lossy().into_owned(),
        kind: match program.kind {
            RuntimeKind::Processes => shim_protocol::RuntimeKind::Processes,
            RuntimeKind::Sandbox => shim_protocol::RuntimeKind::Sandbox,
        },
        options: program.options.clone(),
        root: program.root.to_string_lossy().into_owned(),
    }
}

/// Where a container's root file system is, for its runtime alone.
pub(crate) fn rootfs(paths: &Paths, sandbox: &SandboxId, container: &str) -> PathBuf {
    paths.bundle(sandbox, container).join("rootfs")
}

/// Paths of a container's bundle at which the host has nothing.
pub(crate) fn places(
    paths: &Paths,
    sandbox: &SandboxId,
    container: &str,
    images: Vec<ImageTree>,
) -> Places {
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let image = |ImageTree { path, lower }| ImagePlace { path, lower };
    Places {
        dir: text(paths.pod_state(sandbox)),
        scratch: text(paths.bundle(sandbox, container)),
        rootfs: text(rootfs(paths, sandbox, container)),
        pod_pid: plan::pid_path(paths, sandbox),
        pod_user: plan::user_path(paths, sandbox),
        images: images.into_iter().map(image).collect(),
    }
}

/// What a sandbox's containers share by being in it has no path on the host.
pub(crate) fn adapt(spec: &mut Spec, program: &Program, pod_pid: &str) {
    match program.kind {
        RuntimeKind::Processes => {}
        RuntimeKind::Sandbox => {
            let Some(linux) = spec.linux_mut() else { return };
            let Some(namespaces) = linux.namespaces_mut() else { return };
            // Without a namespace of its own a container is in the sandbox's.
            namespaces.retain(|namespace| {
                let is_pods = namespace.path().as_deref() == Some(Path::new(pod_pid));
                namespace.typ() != LinuxNamespaceType::Pid || !is_pods
            });
        }
    }
}

/// A command as the runtime's `exec` reads it.
pub(crate) fn process(
    of_container: &Process,
    command: Vec<String>,
    terminal: bool,
) -> serde_json::Result<Vec<u8>> {
    let mut process = of_container.clone();
    let mut env = process.env().clone().unwrap_or_default();
    if terminal && !env.iter().any(|entry| entry.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    process.set_args(Some(command)).set_terminal(Some(terminal)).set_env(Some(env));
    serde_json::to_vec(&process)
}

/// Puts what a handler's base spec has, and the container's has not, under the latter.
pub(crate) fn put_base(spec: &mut Spec, path: &Path) -> Result<(), BaseSpecError> {
    let base = read_base(path)?;
    let parsed = |source| BaseSpecError::Parse { path: path.to_owned(), source };
    let own = serde_json::to_value(&*spec).map_err(parsed)?;
    *spec = serde_json::from_value(merged("", base, own)).map_err(parsed)?;
    Ok(())
}

/// What the file of a base spec has.
pub(crate) fn read_base(path: &Path) -> Result<Value, BaseSpecError> {
    let text = std::fs::read(path)
        .map_err(|source| BaseSpecError::Read { path: path.to_owned(), source })?;
    let parsed = |source| BaseSpecError::Parse { path: path.to_owned(), source };
    serde_json::from_slice(&text).map_err(parsed)
}

/// Objects are merged, of everything else the container's own is kept. Lists of its mounts and limits
/// get those of the base that are for something else.
fn merged(name: &str, base: Value, own: Value) -> Value {
    match (base, own) {
        (Value::Object(base), Value::Object(mut own)) => {
            for (key, of_base) in base {
                let value = match own.remove(&key) {
                    Some(of_own) => merged(&key, of_base, of_own),
                    None => of_base,
                };
                own.insert(key, value);
            }
            Value::Object(own)
        }
        (Value::Array(base), Value::Array(own)) => {
            let key = match name {
                "mounts" => "destination",
                "rlimits" => "type",
                _ if own.is_empty() => return Value::Array(base),
                _ => return Value::Array(own),
            };
            let has = |one: &Value| own.iter().any(|of_own| of_own.get(key) == one.get(key));
            let mut all: Vec<Value> = base.into_iter().filter(|one| !has(one)).collect();
            all.extend(own);
            Value::Array(all)
        }
        (base, Value::Null) => base,
        (_, own) => own,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_base_is_under_what_the_container_has() {
        let base = json!({
            "hostname": "base", "hooks": {"prestart": [{"path": "/h"}]},
            "mounts": [{"destination": "/proc", "type": "other"}, {"destination": "/extra"}],
            "process": {"rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5}], "cwd": "/base"},
        });
        let own = json!({
            "mounts": [{"destination": "/proc", "type": "proc"}],
            "process": {"args": ["x"], "cwd": "/", "rlimits": []}, "hostname": null,
        });
        assert_eq!(
            merged("", base, own),
            json!({
                "hostname": "base", "hooks": {"prestart": [{"path": "/h"}]},
                "mounts": [{"destination": "/extra"}, {"destination": "/proc", "type": "proc"}],
                "process": {"args": ["x"], "cwd": "/",
                    "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 5}]},
            })
        );
    }

    #[test]
    fn a_command_with_a_terminal_knows_what_it_is() {
        let mut of_container = Process::default();
        of_container.set_env(Some(vec!["A=1".into()]));
        let text = process(&of_container, vec!["ls".into()], true).unwrap();
        let read: Process = serde_json::from_slice(&text).unwrap();
        assert_eq!(read.env().as_deref(), Some(&["A=1".to_owned(), "TERM=xterm".to_owned()][..]));
        assert_eq!(read.args().as_deref(), Some(&["ls".to_owned()][..]));
        assert_eq!(read.terminal(), Some(true));
    }
}
