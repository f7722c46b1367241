//! Reading specifications as their writers mean them: what OCI lets a runtime pass over, or other
//! runtimes have always taken, is no reason to refuse one.

use std::collections::BTreeSet;
use std::str::FromStr as _;

use oci_spec::runtime::{Capability, Process, Spec};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A specification, and what of it was passed over.
pub(crate) fn spec(text: &[u8]) -> Result<(Spec, Vec<String>), serde_json::Error> {
    read(text, |spec| match spec.get_mut("process") {
        Some(process) => mend(process),
        None => Vec::new(),
    })
}

/// A process alone.
pub(crate) fn process(text: &[u8]) -> Result<Process, serde_json::Error> {
    read(text, mend).map(|(process, _)| process)
}

/// The second reading, of a mended text, is for those few that need it.
fn read<T: DeserializeOwned>(
    text: &[u8],
    mend: impl FnOnce(&mut Value) -> Vec<String>,
) -> Result<(T, Vec<String>), serde_json::Error> {
    let first = match serde_json::from_slice(text) {
        Ok(read) => return Ok((read, Vec::new())),
        Err(error) => error,
    };
    let Ok(mut value) = serde_json::from_slice(text) else { return Err(first) };
    let passed = mend(&mut value);
    match serde_json::from_value(value.clone()) {
        Ok(read) => Ok((read, passed)),
        // What is still wrong is best told with its place in the text.
        Err(_) => Err(match wrong_policy(&value) {
            Some(what) => {
                serde::de::Error::custom(format!("invalid memory policy {what}: {first}"))
            }
            None => first,
        }),
    }
}

/// Which field of a memory policy nobody can read; its reader names none.
fn wrong_policy(spec: &Value) -> Option<&'static str> {
    let policy = spec.pointer("/linux/memoryPolicy")?;
    let reads = |value: &Value| {
        serde_json::from_value::<oci_spec::runtime::LinuxMemoryPolicy>(value.clone()).is_ok()
    };
    let mode = json!({"mode": policy.get("mode").unwrap_or(&Value::Null)});
    match (reads(policy), reads(&mode)) {
        (true, _) => None,
        (false, false) => Some("mode"),
        (false, true) => Some("flag"),
    }
}

/// Without a user it is root, without a level the highest there is. OCI: what cannot be mapped to a
/// capability must be warned of.
fn mend(process: &mut Value) -> Vec<String> {
    let Some(fields) = process.as_object_mut() else { return Vec::new() };
    let user = fields.entry("user").or_insert_with(|| json!({}));
    if let Some(user) = user.as_object_mut() {
        for id in ["uid", "gid"] {
            user.entry(id).or_insert_with(|| json!(0));
        }
    }
    fields.entry("cwd").or_insert_with(|| json!(""));
    if let Some(priority) = fields.get_mut("ioPriority").and_then(Value::as_object_mut) {
        priority.entry("priority").or_insert_with(|| json!(0));
    }
    mend_scheduler(fields);
    let mut unknown = BTreeSet::new();
    let sets = fields.get_mut("capabilities").and_then(Value::as_object_mut);
    for set in sets.into_iter().flat_map(|sets| sets.values_mut()).filter_map(Value::as_array_mut) {
        set.retain(|name| {
            let known = name.as_str().is_none_or(is_capability);
            unknown.extend(name.as_str().filter(|_| !known).map(str::to_owned));
            known
        });
    }
    if unknown.is_empty() {
        return Vec::new();
    }
    let names: Vec<String> = unknown.into_iter().collect();
    vec![format!("ignoring unknown or unavailable capabilities: [{}]", names.join(" "))]
}

/// The kernel's and the specification's name of a flag that our reader knows by another.
fn mend_scheduler(fields: &mut serde_json::Map<String, Value>) {
    let scheduler = fields.get_mut("scheduler").and_then(Value::as_object_mut);
    let flags =
        scheduler.and_then(|scheduler| scheduler.get_mut("flags")).and_then(Value::as_array_mut);
    for flag in flags.into_iter().flatten() {
        if flag == "SCHED_FLAG_RESET_ON_FORK" {
            *flag = json!("SCHED_RESET_ON_FORK");
        }
    }
}

fn is_capability(name: &str) -> bool {
    let short = name.strip_prefix("CAP_").unwrap_or(name);
    Capability::from_str(short).is_ok() || Capability::from_str(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_does_not_say_is_as_go_has_it() {
        let text =
            br#"{"args": ["ionice"], "cwd": "/", "ioPriority": {"class": "IOPRIO_CLASS_IDLE"}}"#;
        let process = process(text).unwrap();
        assert_eq!((process.user().uid(), process.user().gid()), (0, 0));
        assert_eq!(process.io_priority().as_ref().unwrap().priority(), 0);
    }

    #[test]
    fn unknown_capabilities_are_left_out_and_named() {
        let text =
            br#"{"ociVersion": "1.0.0", "process": {"cwd": "/", "user": {"uid": 0, "gid": 0},
            "capabilities": {"bounding": ["CAP_KILL", "CAP_NONE_SUCH"], "ambient": ["CAP_X"]}}}"#;
        let (spec, passed) = spec(text).unwrap();
        let sets = spec.process().as_ref().unwrap().capabilities().clone().unwrap();
        assert!(sets.bounding().as_ref().unwrap().contains(&Capability::Kill));
        assert_eq!(sets.bounding().as_ref().unwrap().len(), 1);
        assert_eq!(passed.len(), 1);
        assert!(passed[0].ends_with("[CAP_NONE_SUCH CAP_X]"), "{passed:?}");
    }

    #[test]
    fn a_wrong_memory_policy_is_named() {
        let error = |policy: &str| {
            let text =
                format!(r#"{{"ociVersion": "1.0.0", "linux": {{"memoryPolicy": {policy}}}}}"#);
            spec(text.as_bytes()).unwrap_err().to_string()
        };
        for policy in ["{}", r#"{"mode": "NEAR"}"#, r#"{"flags": []}"#] {
            assert!(error(policy).starts_with("invalid memory policy mode: "), "{policy}");
        }
        let flag = error(r#"{"mode": "MPOL_BIND", "flags": ["MPOL_F_NONE"]}"#);
        assert!(flag.starts_with("invalid memory policy flag: "), "{flag}");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        let error = process(b"{\n  \"args\": 5 }").unwrap_err();
        assert_eq!(error.line(), 2);
        assert!(spec(b"{").is_err());
    }
}
