//! `linux.seccomp.listenerPath`: who answers where a filter says `SCMP_ACT_NOTIFY`.

use launch::plan::ListenerPlan;
use oci_spec::runtime::{LinuxSeccomp, Spec};

use crate::{PlanContext, PlanError, hooks};

/// The agent, and what it is sent (OCI: container process state).
pub(crate) fn listener(
    spec: &Spec,
    profile: &LinuxSeccomp,
    context: &PlanContext<'_>,
) -> Result<ListenerPlan, PlanError> {
    let missing = PlanError::Missing { field: "linux.seccomp.listenerPath of SCMP_ACT_NOTIFY" };
    let path = profile.listener_path().as_ref().ok_or(missing)?;
    let path = path.to_str().filter(|path| path.starts_with('/') && !path.contains('\0'));
    let path = path.ok_or_else(|| {
        PlanError::invalid("linux.seccomp.listenerPath", "unusable", "an absolute path in UTF-8")
    })?;
    let mut head = serde_json::json!({
        "ociVersion": spec.version(),
        "fds": ["seccompFd"],
    });
    if let Some(metadata) = profile.listener_metadata() {
        head["metadata"] = metadata.clone().into();
    }
    let bundle = context.bundle.unwrap_or_default();
    Ok(ListenerPlan {
        path: path.to_owned(),
        head: hooks::open_object(&head)?,
        state: hooks::state(spec, context.id, bundle)?,
    })
}
