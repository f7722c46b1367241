//! Rows of `linux.resources`: limits; 0 and empty mean "not set".

use model::{CgroupLayout, HugepageLimit, Resources};
use serde_json::{Value, json};

use crate::case::{Case, refused, row};

#[track_caller]
fn limit(change: impl FnOnce(&mut Resources), expected: Value) {
    row(|case| change(&mut case.config.resources), expected);
}

#[test]
fn cpu_period_quota_and_shares() {
    let cpu = |fields: Value| json!({ "/linux/resources/cpu": fields });
    limit(|r| r.cpu_period_us = 100_000, cpu(json!({ "period": 100_000 })));
    limit(|r| r.cpu_quota_us = 50_000, cpu(json!({ "quota": 50_000 })));
    limit(|r| r.cpu_quota_us = -1, cpu(json!({ "quota": -1 })));
    limit(|r| r.cpu_shares = 512, cpu(json!({ "shares": 512 })));
    limit(|r| r.cpu_shares = 0, json!({}));
    refused(|case| case.config.resources.cpu_shares = -1, "`cpu_shares` is `-1`");
    refused(|case| case.config.resources.cpu_period_us = -5, "`cpu_period` is `-5`");
    refused(|case| case.config.resources.cpu_quota_us = -2, "`cpu_quota` is `-2`");
}

#[test]
fn cpuset_cpus_and_mems() {
    let cpu = |fields: Value| json!({ "/linux/resources/cpu": fields });
    limit(|r| r.cpuset_cpus = "0-1".into(), cpu(json!({ "cpus": "0-1" })));
    limit(|r| r.cpuset_mems = "0".into(), cpu(json!({ "mems": "0" })));
    for list in ["0", "0-3,8", "7,0-2", "0-7:1/2", "3-3"] {
        limit(|r| r.cpuset_cpus = list.into(), cpu(json!({ "cpus": list })));
    }
    for list in [
        "zzz",
        "0-",
        "-1",
        "3-0",
        "0,",
        ",",
        " 0",
        "0\n",
        "+1",
        "0-7:0/2",
        "0-7:3/2",
        "0-7:",
        "0:1/2",
        "4294967296",
    ] {
        let words = format!("`cpuset_cpus` is `{}`", list.escape_debug());
        refused(|case| case.config.resources.cpuset_cpus = list.into(), &words);
        let words = words.replace("cpus`", "mems`");
        refused(|case| case.config.resources.cpuset_mems = list.into(), &words);
    }
}

#[test]
fn memory_limit_and_swap() {
    let memory = |fields: Value| json!({ "/linux/resources/memory": fields });
    limit(|r| r.memory_limit_bytes = 64, memory(json!({ "limit": 64, "swap": 64 })));
    let both = |swap: i64| {
        move |r: &mut Resources| {
            r.memory_limit_bytes = 64;
            r.memory_swap_limit_bytes = swap;
        }
    };
    limit(both(96), memory(json!({ "limit": 64, "swap": 96 })));
    limit(both(-1), memory(json!({ "limit": 64, "swap": -1 })));
    limit(|r| r.memory_limit_bytes = -1, memory(json!({ "limit": -1, "swap": -1 })));
    let below = |field: &str| format!("`{field}` is `-9`: want -1 for no limit, or 0 or more");
    let (limit, swap) = (below("memory_limit_in_bytes"), below("memory_swap_limit_in_bytes"));
    refused(|case| case.config.resources.memory_limit_bytes = -9, &limit);
    refused(|case| case.config.resources.memory_swap_limit_bytes = -9, &swap);
    row(
        |case| {
            case.host.swap_limit = false;
            case.config.resources.memory_limit_bytes = 64;
        },
        memory(json!({ "limit": 64 })),
    );
}

#[test]
fn hugepage_limits() {
    let limits = |sizes: &[(&str, u64)]| -> Vec<HugepageLimit> {
        let one = |(size, limit_bytes): &(&str, u64)| HugepageLimit {
            page_size: (*size).to_owned(),
            limit_bytes: *limit_bytes,
        };
        sizes.iter().map(one).collect()
    };
    limit(
        |r| r.hugepage_limits = limits(&[("2MB", 0), ("1GB", 7)]),
        json!({ "/linux/resources/hugepageLimits": [
            { "pageSize": "2MB", "limit": 0 }, { "pageSize": "1GB", "limit": 7 },
        ]}),
    );
    refused(
        |case| case.config.resources.hugepage_limits = limits(&[("2MB", u64::MAX)]),
        "`hugepage_limits` is `18446744073709551615`",
    );
}

#[test]
fn unified() {
    let group = |case: &mut Case| {
        case.config.resources.unified.insert("memory.oom.group".into(), "1".into());
    };
    // Known since version 1.1 of the specification; older runtimes refuse newer ones.
    let raw = json!({ "memory.oom.group": "1" });
    row(group, json!({ "/linux/resources/unified": raw, "/ociVersion": "1.1.0" }));
    refused(
        |case| {
            case.host.cgroup = CgroupLayout::V1 { hierarchies: vec![], unified: None };
            group(case);
        },
        "`unified` resources on cgroup v1",
    );
}
