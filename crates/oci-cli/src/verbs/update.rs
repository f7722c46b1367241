//! `update`: what is given is laid over what holds, and all of it is written.

use std::io::Read as _;
use std::path::Path;

use launch::Options;
use oci_runtime::Planned;
use oci_spec::runtime::LinuxResources;
use serde_json::{Value, json};

use super::Context;
use crate::args::UpdateArgs;
use crate::container::{Record, Status};
use crate::error::{At as _, OciError};
use crate::launching::{self, Host};
use crate::scope;

pub(crate) fn run(cx: &Context<'_>, args: &UpdateArgs) -> Result<(), OciError> {
    let container = cx.store.open(&args.id)?;
    let _lock = container.lock()?;
    let record = container.record()?;
    let host = Host::look()?;
    let status = host.status(&container, &record)?;
    match status {
        Status::Created | Status::Running | Status::Paused => {}
        Status::Creating | Status::Stopped => {
            return Err(OciError::WrongStatus { verb: "update", id: args.id.clone(), status });
        }
    }
    let spec = container.spec()?;
    let now = match &record.resources {
        Some(resources) => resources.clone(),
        None => {
            let linux = spec.linux().as_ref();
            let resources = linux.and_then(|linux| linux.resources().clone());
            serde_json::to_value(resources).map_err(not_limits)?
        }
    };
    let mut wanted = now.clone();
    lay_over(&mut wanted, given(args)?);
    let (before, after) = (parse(&now)?, parse(&wanted)?);
    let Planned { plan, notes } = host.with_context(&record, |context| {
        oci_runtime::cgroup::update_of(&spec, after.as_ref(), before.as_ref(), context)
    })?;
    launching::log_notes(&notes, cx.log);
    let launcher = launching::launcher(&container, Options::default())?;
    launching::log_warnings(&launcher.apply_settings(&plan)?, cx.log);
    if let Some(scope) = scope::of(&spec, &record)? {
        scope::update(&scope, &plan)?;
    }
    let schemata: Vec<String> =
        [&args.l3_cache_schema, &args.mem_bw_schema].into_iter().flatten().cloned().collect();
    if !schemata.is_empty() {
        let group = host.with_context(&record, |context| {
            oci_runtime::cgroup::schemata_of(&spec, &schemata, context)
        })?;
        launcher.apply_schemata(&group)?;
    }
    container.write_record(&Record { resources: Some(wanted), ..record })
}

fn not_limits(source: serde_json::Error) -> OciError {
    OciError::NotJson {
        path: Path::new("what was given").to_owned(),
        what: "linux.resources of an OCI spec",
        source,
    }
}

fn parse(value: &Value) -> Result<Option<LinuxResources>, OciError> {
    serde_json::from_value(value.clone()).map_err(not_limits)
}

/// Objects are merged, everything else is replaced; `null` says nothing.
fn lay_over(below: &mut Value, above: Value) {
    match (below, above) {
        (_, Value::Null) => {}
        (Value::Object(below), Value::Object(above)) => {
            for (key, value) in above {
                lay_over(below.entry(key).or_insert(Value::Null), value);
            }
        }
        (below, above) => *below = above,
    }
}

/// What the command line says, as `linux.resources` would.
fn given(args: &UpdateArgs) -> Result<Value, OciError> {
    let mut given = match &args.resources {
        None => Value::Null,
        Some(path) => {
            let text = if path.as_os_str() == "-" {
                let mut text = Vec::new();
                std::io::stdin().lock().read_to_end(&mut text).at("read", path)?;
                text
            } else {
                std::fs::read(path).at("read", path)?
            };
            let not = |source| OciError::NotJson {
                path: path.clone(),
                what: "linux.resources of an OCI spec",
                source,
            };
            serde_json::from_slice(&text).map_err(not)?
        }
    };
    let bytes = |option: &'static str, text: &Option<String>| {
        text.as_deref().map(|text| bytes(option, text)).transpose()
    };
    let memory = bytes("--memory", &args.memory)?;
    // Without a limit of memory there is none of memory and swap, unless one is given.
    let unlimited = memory.filter(|memory| *memory < 0);
    let swap = bytes("--memory-swap", &args.memory_swap)?.or(unlimited);
    lay_over(
        &mut given,
        json!({
            "blockIO": {"weight": args.blkio_weight},
            "cpu": {
                "period": args.cpu_period,
                "quota": args.cpu_quota,
                "burst": args.cpu_burst,
                "shares": args.cpu_share,
                "realtimePeriod": args.cpu_rt_period,
                "realtimeRuntime": args.cpu_rt_runtime,
                "idle": args.cpu_idle,
                "cpus": args.cpuset_cpus,
                "mems": args.cpuset_mems,
            },
            "memory": {
                "limit": memory,
                "reservation": bytes("--memory-reservation", &args.memory_reservation)?,
                "swap": swap,
            },
            "pids": args.pids_limit.map(|limit| json!({"limit": limit})),
        }),
    );
    Ok(without_nothing(given))
}

/// Fields that say nothing are as good as none, and an object of such fields too.
fn without_nothing(value: Value) -> Value {
    let Value::Object(fields) = value else { return value };
    let kept: serde_json::Map<String, Value> = fields
        .into_iter()
        .map(|(key, value)| (key, without_nothing(value)))
        .filter(|(_, value)| !value.is_null())
        .collect();
    if kept.is_empty() { Value::Null } else { Value::Object(kept) }
}

/// A number of bytes, with a unit of powers of 1024 behind it or none.
fn bytes(option: &'static str, text: &str) -> Result<i64, OciError> {
    let lower = text.trim().to_ascii_lowercase();
    let lower = lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower);
    let units = [('k', 10), ('m', 20), ('g', 30), ('t', 40)];
    let unit = units.iter().find_map(|(unit, bits)| Some((lower.strip_suffix(*unit)?, bits)));
    let (number, bits) = unit.unwrap_or((lower, &0));
    let number: Option<i64> = number.trim().parse().ok().filter(|number| *number >= -1);
    number.and_then(|number| number.checked_mul(1 << bits)).ok_or_else(|| OciError::BadOption {
        option,
        value: text.to_owned(),
        want: "a number of bytes such as 1048576, 512k or 64m, or -1",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_is_laid_over_what_holds() {
        let mut now = json!({"memory": {"limit": 5, "swap": 9}, "devices": [1, 2], "pids": null});
        let given =
            json!({"memory": {"limit": 7, "swap": null}, "devices": [3], "pids": {"limit": 1}});
        lay_over(&mut now, given);
        let want = json!({"memory": {"limit": 7, "swap": 9}, "devices": [3], "pids": {"limit": 1}});
        assert_eq!(now, want);
    }

    #[test]
    fn nothing_given_is_nothing() {
        assert_eq!(without_nothing(json!({"a": {"b": null}, "c": null})), Value::Null);
        assert_eq!(without_nothing(json!({"a": {"b": null, "d": 1}})), json!({"a": {"d": 1}}));
    }

    #[test]
    fn sizes_have_units() {
        for (text, want) in [
            ("-1", -1),
            ("0", 0),
            ("7", 7),
            ("2k", 2048),
            ("1KiB", 1024),
            ("3M", 3 << 20),
            ("1gb", 1 << 30),
        ] {
            assert_eq!(bytes("--memory", text).unwrap(), want, "{text}");
        }
        for text in ["", "k", "-2", "1x", "9999999999g"] {
            assert!(bytes("--memory", text).is_err(), "{text}");
        }
    }
}
