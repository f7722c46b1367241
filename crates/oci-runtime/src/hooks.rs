//! `hooks`: programs of the host at points of a container's life.

use launch::plan::{HookPlan, HooksPlan};
use oci_spec::runtime::{Hook, Hooks, Spec};

use crate::{PlanContext, PlanError};

/// The hooks to run, if there are any.
pub(crate) fn hooks(
    spec: &Spec,
    context: &PlanContext<'_>,
) -> Result<Option<HooksPlan>, PlanError> {
    let Some(hooks) = spec.hooks() else { return Ok(None) };
    let (create_runtime, prestart) = before_the_root(hooks)?;
    let plan = HooksPlan {
        create_runtime,
        prestart,
        create_container: list("createContainer", hooks.create_container())?,
        start_container: list("startContainer", hooks.start_container())?,
        poststart: list("poststart", hooks.poststart())?,
        poststop: list("poststop", hooks.poststop())?,
        ..HooksPlan::default()
    };
    if plan == HooksPlan::default() {
        return Ok(None);
    }
    let bundle = context.bundle.ok_or_else(|| PlanError::unsupported("hooks without a bundle"))?;
    let state = state(spec, context.id, bundle)?;
    Ok(Some(HooksPlan { state, root: root(spec, bundle)?, ..plan }))
}

/// `createRuntime` took the place of `prestart`; who has both gets the older first. With how many are of
/// the older kind.
#[allow(deprecated, reason = "prestart hooks are deprecated, but still written")]
fn before_the_root(hooks: &Hooks) -> Result<(Vec<HookPlan>, u32), PlanError> {
    let mut all = list("prestart", hooks.prestart())?;
    let older = u32::try_from(all.len()).unwrap_or(u32::MAX);
    all.extend(list("createRuntime", hooks.create_runtime())?);
    Ok((all, older))
}

fn list(name: &str, hooks: &Option<Vec<Hook>>) -> Result<Vec<HookPlan>, PlanError> {
    hooks.iter().flatten().map(|hook| one(name, hook)).collect()
}

fn one(name: &str, hook: &Hook) -> Result<HookPlan, PlanError> {
    let field = |what: &str| format!("hooks.{name}.{what}");
    let path = hook.path().to_str().filter(|path| path.starts_with('/'));
    let path = path.ok_or_else(|| {
        PlanError::invalid(field("path"), hook.path().display(), "an absolute path")
    })?;
    let timeout = hook.timeout().map(|timeout| match u32::try_from(timeout) {
        Ok(seconds @ 1..) => Ok(seconds),
        Ok(0) | Err(_) => Err(PlanError::invalid(field("timeout"), timeout, "more than 0 seconds")),
    });
    let words = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
    let (args, env) = (words(hook.args()), words(hook.env()));
    if args.iter().chain(&env).any(|word| word.contains('\0')) || path.contains('\0') {
        return Err(PlanError::invalid(field("args"), path, "texts without NUL"));
    }
    Ok(HookPlan { path: path.to_owned(), args, env, timeout_s: timeout.transpose()? })
}

/// OCI: `State`, without what only the launcher knows.
pub(crate) fn state(spec: &Spec, id: &str, bundle: &str) -> Result<String, PlanError> {
    let state = serde_json::json!({
        "ociVersion": spec.version(),
        "id": id,
        "bundle": bundle,
        "annotations": spec.annotations().clone().unwrap_or_default(),
    });
    open_object(&state)
}

/// An object without its closing brace, for more to be added.
pub(crate) fn open_object(object: &serde_json::Value) -> Result<String, PlanError> {
    let mut text = object.to_string();
    match text.pop() {
        Some('}') => Ok(text),
        Some(_) | None => Err(PlanError::invalid("annotations", text, "what JSON can hold")),
    }
}

/// Where specs say the root is.
fn root(spec: &Spec, bundle: &str) -> Result<String, PlanError> {
    let root = spec.root().as_ref().ok_or(PlanError::Missing { field: "root" })?;
    let path = root.path().to_str().filter(|path| !path.is_empty() && !path.contains('\0'));
    match path {
        Some(path) if path.starts_with('/') => Ok(path.to_owned()),
        Some(path) => Ok(format!("{bundle}/{path}")),
        None => Err(PlanError::invalid("root.path", root.path().display(), "a path")),
    }
}
