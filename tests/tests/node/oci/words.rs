//! What callers read: lists, features, logs, errors.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::Value;
use test_support::oci::with_runtime;

use super::exec::sleeper;

#[test]
fn lists_are_tables_and_json() -> Result<()> {
    with_runtime(|runtime| {
        let empty = runtime.call(&["list", "--format", "json"])?.ok()?;
        ensure!(serde_json::from_str::<Vec<Value>>(&empty)?.is_empty(), "{empty}");
        let id = sleeper(runtime, |spec| spec["annotations"] = serde_json::json!({"a.b": "c"}))?;
        let state = runtime.state(&id)?;
        ensure!(state["annotations"]["a.b"] == "c" && state["owner"] == "root", "{state}");
        let list = runtime.call(&["list", "-f", "json"])?.ok()?;
        ensure!(serde_json::from_str::<Vec<Value>>(&list)? == [state.clone()], "{list}");
        let table = runtime.call(&["list"])?.ok()?;
        let head: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
        ensure!(head == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"], "{table}");
        let row: Vec<&str> = table.lines().nth(1).unwrap_or_default().split_whitespace().collect();
        ensure!(row[..3] == [id.as_str(), &state["pid"].to_string(), "running"], "{table}");
        Ok(())
    })
}

#[test]
fn messages_go_to_the_log_in_the_form_that_was_asked_for() -> Result<()> {
    with_runtime(|runtime| {
        let log = runtime.dir().join("log");
        let path = log.to_str().unwrap_or_default();
        let id = runtime.id("nobody");
        let said = runtime.call(&["--log", path, "--log-format", "json", "state", &id])?;
        let text = format!("container does not exist: {id}");
        ensure!(said.code == 1 && said.err == format!("{text}\n"), "{said:?}");
        let line: Value = serde_json::from_str(fs::read_to_string(&log)?.trim_end())?;
        ensure!(line["level"] == "error" && line["msg"] == text.as_str(), "{line}");
        runtime.call(&["--log", path, "state", &id])?;
        let text = fs::read_to_string(&log)?;
        let line = text.lines().nth(1).unwrap_or_default();
        ensure!(
            line.starts_with("time=\"") && line.contains("level=error msg=\"container"),
            "{line}"
        );
        let said = runtime.call(&["--log", "/nowhere/at/all", "state", &id])?;
        ensure!(
            said.code == 1 && said.err.contains("cannot open the log /nowhere/at/all"),
            "{said:?}"
        );
        Ok(())
    })
}

#[test]
fn features_and_version_are_told() -> Result<()> {
    with_runtime(|runtime| {
        let features: Value = serde_json::from_str(&runtime.call(&["features"])?.ok()?)?;
        ensure!(features["ociVersionMin"] == "1.0.0", "{features}");
        let newest = features["ociVersionMax"].as_str().unwrap_or_default().to_owned();
        let version = runtime.call(&["--version"])?.ok()?;
        ensure!(version.lines().nth(1) == Some(&format!("spec: {newest}")), "{version}");
        Ok(())
    })
}

#[test]
fn what_features_do_not_list_is_refused_by_name() -> Result<()> {
    with_runtime(|runtime| {
        let id = runtime.id("a");
        type Change = fn(&mut Value);
        let changes: [(&str, Change); 4] = [
            ("linux.intelRdt.enableMonitoring", |spec| {
                spec["linux"]["intelRdt"] = serde_json::json!({"enableMonitoring": true});
            }),
            ("linux.personality.flags", |spec| {
                spec["linux"]["personality"] =
                    serde_json::json!({"domain": "LINUX", "flags": ["ADDR_NO_RANDOMIZE"]});
            }),
            ("linux.sysctl[kernel.panic]", |spec| {
                spec["linux"]["sysctl"] = serde_json::json!({"kernel.panic": "1"});
            }),
            ("windows", |spec| spec["windows"] = serde_json::json!({"layerFolders": ["C:"]})),
        ];
        for (word, change) in changes {
            let bundle = runtime.bundle(&word.replace(['[', ']'], "-"), "true", change)?;
            let said = runtime.leave_with(&["create", "-b", &bundle, &id])?;
            ensure!(said.code == 1 && said.err.contains(word), "{word}: {said:?}");
        }
        if !std::path::Path::new("/run/systemd/system").exists() {
            let bundle = runtime.bundle("scope", "true", |_| {})?;
            let said = runtime.leave_with(&["--systemd-cgroup", "create", "-b", &bundle, &id])?;
            let wanted = "systemd does not run this host";
            ensure!(said.code == 1 && said.err.contains(wanted), "{said:?}");
        }
        let bundle = runtime.bundle("form", "true", |spec| {
            spec["linux"]["cgroupsPath"] = "a.slice:knarr:x".into();
        })?;
        let said = runtime.leave_with(&["create", "-b", &bundle, &id])?;
        ensure!(said.code == 1 && said.err.contains("without --systemd-cgroup"), "{said:?}");
        Ok(())
    })
}
