//! What other runtimes are told of a container: the bundle's spec in words they know, and the paths
//! by which they find what only the shim has.

use std::path::{Path, PathBuf};

use bundle::HostFacts;
use model::{CgroupHierarchy, CgroupLayout, SandboxId};
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

/// Takes out of a spec what this host or this daemon has no means for, as the built-in runtime leaves it out:
/// others fail of it. What that was, for the log. `own_score` is the daemon's OOM score adjustment.
pub(crate) fn narrow(spec: &mut Spec, host: &HostFacts, own_score: i32) -> Vec<String> {
    let mut left_out = Vec::new();
    let may_lower = host.bounding_caps & CAP_SYS_RESOURCE != 0;
    if let Some(process) = spec.process_mut()
        && let Some(score) =
            process.oom_score_adj().filter(|score| *score < own_score && !may_lower)
    {
        process.set_oom_score_adj(Some(own_score));
        left_out.push(format!("oom_score_adj {score}: CAP_SYS_RESOURCE is missing"));
    }
    let mut resources = spec.linux_mut().as_mut().and_then(|linux| linux.resources_mut().as_mut());
    if let Some(cpu) = resources.as_mut().and_then(|resources| resources.cpu_mut().as_mut())
        && cpu.quota().is_some_and(|quota| quota < 0)
    {
        // Unlimited is what a new group is, and crun cannot say it.
        cpu.set_quota(None);
    }
    if let Some(resources) = resources
        && !has_hugetlb(&host.cgroup)
        && let Some(limits) = resources.hugepage_limits().clone()
    {
        // What is no size is for the plan to refuse.
        let is_size = |size: &str| size.chars().all(|letter| letter.is_ascii_alphanumeric());
        let wrong: Vec<_> =
            limits.iter().filter(|limit| !is_size(limit.page_size())).cloned().collect();
        resources.set_hugepage_limits(Some(wrong).filter(|wrong| !wrong.is_empty()));
        if limits.iter().any(|limit| limit.limit() > 0) {
            left_out.push("hugepage limits: the controller hugetlb is missing".to_owned());
        }
    }
    left_out
}

/// Where the host mixes both versions, other runtimes know controllers of version 1 alone.
fn has_hugetlb(layout: &CgroupLayout) -> bool {
    let has = |one: &CgroupHierarchy| one.controllers.iter().any(|name| name == "hugetlb");
    match layout {
        CgroupLayout::V2(unified) => has(unified),
        CgroupLayout::V1 { hierarchies, unified: _ } => hierarchies.iter().any(has),
    }
}

/// capabilities(7).
const CAP_SYS_RESOURCE: u64 = 1 << 24;

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
    fn what_the_host_has_no_means_for_is_left_out() {
        let spec = json!({
            "ociVersion": "1.0.2",
            "process": {"cwd": "/", "user": {"uid": 0, "gid": 0}, "oomScoreAdj": -997},
            "linux": {"resources": {"hugepageLimits": [{"pageSize": "2MB", "limit": 4_194_304}]}},
        });
        let spec: Spec = serde_json::from_value(spec).unwrap();
        let mut host = crate::host::host_facts().unwrap();
        host.bounding_caps = 0;
        host.cgroup = CgroupLayout::V2(CgroupHierarchy {
            mountpoint: "/sys/fs/cgroup".into(),
            controllers: vec!["memory".to_owned()],
        });
        let mut narrowed = spec.clone();
        let said = narrow(&mut narrowed, &host, 0);
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("oom_score_adj -997"), "{said:?}");
        assert_eq!(narrowed.process().as_ref().unwrap().oom_score_adj(), Some(0));
        let of = |spec: &Spec| spec.linux().as_ref().unwrap().resources().clone().unwrap();
        assert!(of(&narrowed).hugepage_limits().is_none());
        host.bounding_caps = u64::MAX;
        host.cgroup = CgroupLayout::V2(CgroupHierarchy {
            mountpoint: "/sys/fs/cgroup".into(),
            controllers: vec!["hugetlb".to_owned()],
        });
        let mut whole = spec.clone();
        assert!(narrow(&mut whole, &host, 0).is_empty());
        assert_eq!(whole, spec);
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
