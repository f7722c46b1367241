//! What a container uses, in runc's words. What a hierarchy does not tell is zero or left out.

use std::collections::BTreeMap;

use launch::plan::{CgroupDir, CgroupPlan, Hierarchy};
use serde_json::{Value, json};

/// Reads a container's groups.
pub(crate) fn read(plan: &CgroupPlan) -> Value {
    let group = |controller: &str| Files(find(plan, controller));
    json!({
        "cpu": cpu(group("cpuacct"), group("cpu")),
        "memory": memory(group("memory")),
        "pids": pids(group("pids")),
        "blkio": blkio(group("blkio")),
        "hugetlb": huge_pages(group("hugetlb")),
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// The group of a v1 controller, or the unified one.
fn find<'a>(plan: &'a CgroupPlan, controller: &str) -> Option<&'a CgroupDir> {
    let own = |group: &&CgroupDir| match &group.hierarchy {
        Hierarchy::V1(names) => names.iter().any(|name| name == controller),
        Hierarchy::V2 => false,
    };
    let unified = |group: &&CgroupDir| group.hierarchy == Hierarchy::V2;
    plan.groups.iter().find(own).or_else(|| plan.groups.iter().find(unified))
}

/// The files of a group.
#[derive(Clone, Copy)]
struct Files<'a>(Option<&'a CgroupDir>);

impl Files<'_> {
    fn is_v2(self) -> bool {
        self.0.is_some_and(|group| group.hierarchy == Hierarchy::V2)
    }

    fn text(self, file: &str) -> String {
        let path = self.0.map(|group| format!("{}/{file}", group.path));
        path.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default()
    }

    /// The files there are, sorted.
    fn names(self) -> Vec<String> {
        let entries = self.0.and_then(|group| std::fs::read_dir(&group.path).ok());
        let entries = entries.into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// A file of one number; `max` is the largest there is.
    fn number(self, file: &str) -> u64 {
        number(&self.text(file))
    }

    /// A file of names and numbers.
    fn table(self, file: &str) -> BTreeMap<String, u64> {
        let text = self.text(file);
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        pairs.map(|(name, value)| (name.to_owned(), number(value))).collect()
    }
}

fn number(text: &str) -> u64 {
    match text.trim() {
        "max" => u64::MAX,
        text => text.parse().unwrap_or_default(),
    }
}

fn cpu(accounts: Files<'_>, cpu: Files<'_>) -> Value {
    let table = cpu.table("cpu.stat");
    let of = |name: &str| table.get(name).copied().unwrap_or_default();
    // The unified hierarchy counts microseconds, the others nanoseconds.
    let nanos = |name: &str| of(name).saturating_mul(1000);
    if cpu.is_v2() {
        return json!({
            "usage": {
                "total": nanos("usage_usec"),
                "kernel": nanos("system_usec"),
                "user": nanos("user_usec"),
            },
            "throttling": {
                "periods": of("nr_periods"),
                "throttledPeriods": of("nr_throttled"),
                "throttledTime": nanos("throttled_usec"),
            },
        });
    }
    let each = accounts.text("cpuacct.usage_percpu");
    let each: Vec<u64> = each.split_ascii_whitespace().map(number).collect();
    json!({
        "usage": {
            "total": accounts.number("cpuacct.usage"),
            "percpu": each,
            "kernel": accounts.number("cpuacct.usage_sys"),
            "user": accounts.number("cpuacct.usage_user"),
        },
        "throttling": {
            "periods": of("nr_periods"),
            "throttledPeriods": of("nr_throttled"),
            "throttledTime": of("throttled_time"),
        },
    })
}

fn memory(files: Files<'_>) -> Value {
    let raw = files.table("memory.stat");
    let of = |name: &str| raw.get(name).copied().unwrap_or_default();
    if files.is_v2() {
        let entry = |usage: &str, limit: &str, peak: &str| {
            json!({
                "usage": files.number(usage),
                "limit": files.number(limit),
                "max": files.number(peak),
                "failcnt": 0,
            })
        };
        return json!({
            "cache": of("file"),
            "usage": entry("memory.current", "memory.max", "memory.peak"),
            "swap": entry("memory.swap.current", "memory.swap.max", "memory.swap.peak"),
            "raw": raw,
        });
    }
    let entry = |prefix: &str| {
        let file = |name: &str| files.number(&format!("{prefix}.{name}"));
        json!({
            "usage": file("usage_in_bytes"),
            "limit": file("limit_in_bytes"),
            "max": file("max_usage_in_bytes"),
            "failcnt": file("failcnt"),
        })
    };
    json!({
        "cache": of("cache"),
        "usage": entry("memory"),
        "swap": entry("memory.memsw"),
        "kernel": entry("memory.kmem"),
        "kernelTCP": entry("memory.kmem.tcp"),
        "raw": raw,
    })
}

fn pids(files: Files<'_>) -> Value {
    let mut value = json!({"current": files.number("pids.current")});
    let limit = files.number("pids.max");
    if limit != u64::MAX && limit != 0 {
        value["limit"] = json!(limit);
    }
    value
}

/// By page size, as the names of the files have it.
fn huge_pages(files: Files<'_>) -> Value {
    let (usage, most, failures) = if files.is_v2() {
        ("current", "max", "events")
    } else {
        ("usage_in_bytes", "max_usage_in_bytes", "failcnt")
    };
    let mut sizes = serde_json::Map::new();
    for name in files.names() {
        let size = name.strip_prefix("hugetlb.").and_then(|rest| rest.strip_suffix(usage));
        let Some(size) = size.and_then(|size| size.strip_suffix('.')) else { continue };
        // `rsvd` files count what is promised.
        if size.contains('.') {
            continue;
        }
        let file = |what: &str| format!("hugetlb.{size}.{what}");
        let failed = if files.is_v2() {
            files.table(&file(failures)).get("max").copied().unwrap_or_default()
        } else {
            files.number(&file(failures))
        };
        let mut entry = json!({"usage": files.number(&file(usage)), "failcnt": failed});
        if !files.is_v2() {
            entry["max"] = json!(files.number(&file(most)));
        }
        sizes.insert(size.to_owned(), entry);
    }
    Value::Object(sizes)
}

fn blkio(files: Files<'_>) -> Value {
    let (mut bytes, mut operations) = (Vec::new(), Vec::new());
    if files.is_v2() {
        let text = files.text("io.stat");
        for (device, rest) in text.lines().filter_map(|line| line.split_once(' ')) {
            for (name, value) in rest.split(' ').filter_map(|pair| pair.split_once('=')) {
                match name {
                    "rbytes" => bytes.extend(entry(device, "Read", value)),
                    "wbytes" => bytes.extend(entry(device, "Write", value)),
                    "rios" => operations.extend(entry(device, "Read", value)),
                    "wios" => operations.extend(entry(device, "Write", value)),
                    _ => {}
                }
            }
        }
    } else {
        bytes = entries(&files.text("blkio.throttle.io_service_bytes"));
        operations = entries(&files.text("blkio.throttle.io_serviced"));
    }
    json!({"ioServiceBytesRecursive": bytes, "ioServicedRecursive": operations})
}

/// Lines of a device, an operation and a number; the last line is their sum.
fn entries(text: &str) -> Vec<Value> {
    let line = |line: &str| {
        let mut words = line.split(' ');
        entry(words.next()?, words.next()?, words.next()?)
    };
    text.lines().filter_map(line).collect()
}

fn entry(device: &str, operation: &str, value: &str) -> Option<Value> {
    let (major, minor) = device.split_once(':')?;
    let (major, minor): (u64, u64) = (major.parse().ok()?, minor.parse().ok()?);
    Some(json!({"major": major, "minor": minor, "op": operation, "value": number(value)}))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(dir: &std::path::Path, hierarchy: Hierarchy) -> CgroupPlan {
        let dir = CgroupDir {
            hierarchy,
            mountpoint: "/".into(),
            path: dir.to_str().unwrap().into(),
            settings: Vec::new(),
            join_late: false,
        };
        CgroupPlan { groups: vec![dir], ..CgroupPlan::default() }
    }

    #[test]
    fn the_unified_hierarchy_is_read_in_runcs_words() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
        write("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\nnr_periods 1\n");
        write("memory.current", "4096\n");
        write("memory.max", "max\n");
        write("memory.stat", "file 7\nanon 8\n");
        write("pids.current", "3\n");
        write("pids.max", "9\n");
        write("hugetlb.1GB.current", "7\n");
        write("hugetlb.1GB.events", "max 3\n");
        write("io.stat", "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n");
        let stats = read(&group(dir.path(), Hierarchy::V2));
        assert_eq!(stats["cpu"]["usage"]["total"], 5000);
        assert_eq!(stats["memory"]["usage"]["usage"], 4096);
        assert_eq!(stats["memory"]["usage"]["limit"], u64::MAX);
        assert_eq!(
            (&stats["memory"]["cache"], &stats["memory"]["raw"]["anon"]),
            (&json!(7), &json!(8))
        );
        assert_eq!(stats["pids"], json!({"current": 3, "limit": 9}));
        assert_eq!(stats["hugetlb"], json!({"1GB": {"usage": 7, "failcnt": 3}}));
        let want = json!({"major": 8, "minor": 0, "op": "Write", "value": 20});
        assert_eq!(stats["blkio"]["ioServiceBytesRecursive"][1], want);
    }

    #[test]
    fn v1_hierarchies_are_read_in_runcs_words() {
        let dir = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).unwrap();
        write("cpuacct.usage", "77\n");
        write("cpuacct.usage_percpu", "70 7 \n");
        write("memory.usage_in_bytes", "5\n");
        write("memory.failcnt", "2\n");
        write("pids.max", "max\n");
        write("hugetlb.2MB.usage_in_bytes", "2097152\n");
        write("hugetlb.2MB.rsvd.usage_in_bytes", "1\n");
        write("hugetlb.2MB.max_usage_in_bytes", "4194304\n");
        write("hugetlb.2MB.failcnt", "1\n");
        write("blkio.throttle.io_service_bytes", "8:16 Read 5\nTotal 5\n");
        let names = ["cpu", "cpuacct", "memory", "pids", "blkio", "hugetlb"].map(str::to_owned);
        let stats = read(&group(dir.path(), Hierarchy::V1(names.to_vec())));
        assert_eq!(stats["cpu"]["usage"]["total"], 77);
        assert_eq!(stats["cpu"]["usage"]["percpu"], json!([70, 7]));
        assert_eq!(stats["memory"]["usage"]["failcnt"], 2);
        assert_eq!(stats["pids"], json!({"current": 0}));
        let want = json!({"2MB": {"usage": 2_097_152, "max": 4_194_304, "failcnt": 1}});
        assert_eq!(stats["hugetlb"], want);
        let want = json!([{"major": 8, "minor": 16, "op": "Read", "value": 5}]);
        assert_eq!(stats["blkio"]["ioServiceBytesRecursive"], want);
    }
}
