//! What a cgroup counts, in both layouts.

use std::path::Path;

use model::{Pressure, Resources};

use super::Samples;
use super::descriptors::*;
use super::disk::Devices;
use crate::stats::files::{keyed, number, pressure, text};
use crate::stats::group::{Group, NO_LIMIT};

/// Memory as cAdvisor names its parts; what the host does not count is absent.
#[derive(Debug, Default)]
struct Memory {
    usage: Option<u64>,
    peak: Option<u64>,
    rss: Option<u64>,
    cache: Option<u64>,
    mapped: Option<u64>,
    kernel: Option<u64>,
    swap: Option<u64>,
    failures: Option<u64>,
    active_file: Option<u64>,
    inactive_file: Option<u64>,
    faults: [Option<u64>; 2],
    /// Faults of groups below count too.
    faults_below: [Option<u64>; 2],
    oom_kills: Option<u64>,
}

/// Traffic with one block device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Traffic {
    device: (u32, u32),
    read_bytes: u64,
    write_bytes: u64,
    reads: u64,
    writes: u64,
}

impl Samples {
    /// Processor, memory and pressure: what pods and containers have alike.
    pub(super) fn usage(&mut self, group: Group<'_>) {
        let whole = |ns: u64| ns / 1_000_000_000;
        self.labelled(&CPU_USAGE, &["total"], group.cpu_usage_ns().map(whole));
        let [user, system] = modes(group);
        self.put(&CPU_USER, user.map(whole));
        self.put(&CPU_SYSTEM, system.map(whole));
        self.memory(&memory(group).unwrap_or_default());
        if !group.layout.is_v2() {
            return;
        }
        let files = [
            ("cpu.pressure", &PRESSURE_CPU_WAITING, &PRESSURE_CPU_STALLED),
            ("memory.pressure", &PRESSURE_MEMORY_WAITING, &PRESSURE_MEMORY_STALLED),
            ("io.pressure", &PRESSURE_IO_WAITING, &PRESSURE_IO_STALLED),
        ];
        for (file, waiting, stalled) in files {
            let told = group.dir("cpu").and_then(|dir| pressure(&dir.join(file)));
            if let Some(Pressure { some, full }) = told {
                self.put(waiting, whole(some.total_ns));
                self.put(stalled, whole(full.total_ns));
            }
        }
    }

    fn memory(&mut self, memory: &Memory) {
        let working_set = memory
            .usage
            .map(|usage| usage.saturating_sub(memory.inactive_file.unwrap_or_default()));
        for (metric, value) in [
            (&MEMORY_USAGE, memory.usage),
            (&MEMORY_WORKING_SET, working_set),
            (&MEMORY_MAX_USAGE, memory.peak),
            (&MEMORY_RSS, memory.rss),
            (&MEMORY_CACHE, memory.cache),
            (&MEMORY_MAPPED_FILE, memory.mapped),
            (&MEMORY_KERNEL, memory.kernel),
            (&MEMORY_SWAP, memory.swap),
            (&MEMORY_FAILCNT, memory.failures),
            (&MEMORY_ACTIVE_FILE, memory.active_file),
            (&MEMORY_INACTIVE_FILE, memory.inactive_file),
            (&OOM_EVENTS, memory.oom_kills),
        ] {
            self.put(metric, value);
        }
        let scopes = [("container", memory.faults), ("hierarchy", memory.faults_below)];
        for (scope, [all, major]) in scopes {
            self.labelled(&MEMORY_FAILURES, &["pgfault", scope], all);
            self.labelled(&MEMORY_FAILURES, &["pgmajfault", scope], major);
        }
    }

    /// Told only where there is a limit, as cAdvisor does.
    pub(super) fn throttling(&mut self, group: Group<'_>, limits: &Resources) {
        if limits.cpu_quota_us <= 0 {
            return;
        }
        let Some(dir) = group.dir("cpu") else { return };
        let stat = keyed(&dir.join("cpu.stat"));
        let get = |key: &str| stat.get(key).copied();
        let throttled_ns = get("throttled_usec")
            .map(|usec| usec.saturating_mul(1000))
            .or_else(|| get("throttled_time"));
        self.put(&CFS_PERIODS, get("nr_periods"));
        self.put(&CFS_THROTTLED_PERIODS, get("nr_throttled"));
        self.put(&CFS_THROTTLED_SECONDS, throttled_ns.map(|ns| ns / 1_000_000_000));
    }

    /// Of the page sizes the container has a limit for.
    pub(super) fn huge_pages(&mut self, group: Group<'_>, limits: &Resources) {
        let Some(dir) = group.dir("hugetlb") else { return };
        let [usage, peak] = if group.layout.is_v2() {
            ["current", "peak"]
        } else {
            ["usage_in_bytes", "max_usage_in_bytes"]
        };
        for limit in &limits.hugepage_limits {
            let size = limit.page_size.as_str();
            let value = |what: &str| number(&dir.join(format!("hugetlb.{size}.{what}")));
            self.labelled(&HUGETLB_USAGE, &[size], value(usage));
            self.labelled(&HUGETLB_MAX_USAGE, &[size], value(peak));
        }
    }

    pub(super) fn devices(&mut self, group: Group<'_>, disks: &mut Devices) {
        for traffic in traffic(group) {
            let name = disks.name(traffic.device);
            let (major, minor) = (traffic.device.0.to_string(), traffic.device.1.to_string());
            self.labelled(&FS_READS_BYTES, &[&name], traffic.read_bytes);
            self.labelled(&FS_READS, &[&name], traffic.reads);
            self.labelled(&FS_WRITES_BYTES, &[&name], traffic.write_bytes);
            self.labelled(&FS_WRITES, &[&name], traffic.writes);
            for (operation, bytes) in [("Read", traffic.read_bytes), ("Write", traffic.write_bytes)]
            {
                self.labelled(&BLKIO_USAGE, &[&name, &major, &minor, operation], bytes);
            }
        }
    }

    pub(super) fn threads(&mut self, group: Group<'_>) {
        let Some(dir) = group.dir("pids") else { return };
        self.put(&THREADS, number(&dir.join("pids.current")));
        let limit = number(&dir.join("pids.max"));
        self.put(&THREADS_MAX, limit.map(|limit| if limit < NO_LIMIT { limit } else { 0 }));
    }
}

/// User and system time in nanoseconds.
fn modes(group: Group<'_>) -> [Option<u64>; 2] {
    if group.layout.is_v2() {
        let stat = group.dir("cpu").map(|dir| keyed(&dir.join("cpu.stat"))).unwrap_or_default();
        return ["user_usec", "system_usec"]
            .map(|key| stat.get(key).map(|usec| usec.saturating_mul(1000)));
    }
    let dir = group.dir("cpuacct");
    ["cpuacct.usage_user", "cpuacct.usage_sys"]
        .map(|file| dir.as_deref().and_then(|dir| number(&dir.join(file))))
}

fn memory(group: Group<'_>) -> Option<Memory> {
    let dir = group.dir("memory")?;
    let stat = keyed(&dir.join("memory.stat"));
    let get = |key: &str| stat.get(key).copied();
    let read = |file: &str| number(&dir.join(file));
    Some(if group.layout.is_v2() {
        let events = keyed(&dir.join("memory.events"));
        // Counted as one since 5.18.
        let kernel = get("kernel").or_else(|| {
            let parts = ["kernel_stack", "pagetables", "percpu", "sock", "slab"];
            let found: Vec<u64> = parts.iter().filter_map(|part| get(part)).collect();
            (!found.is_empty()).then(|| found.iter().sum())
        });
        let faults = [get("pgfault"), get("pgmajfault")];
        Memory {
            usage: read("memory.current"),
            peak: read("memory.peak"),
            rss: get("anon"),
            cache: get("file"),
            mapped: get("file_mapped"),
            kernel,
            swap: read("memory.swap.current"),
            failures: events.get("max").copied(),
            active_file: get("active_file"),
            inactive_file: get("inactive_file"),
            // The unified hierarchy only has totals.
            faults,
            faults_below: faults,
            oom_kills: events.get("oom_kill").copied(),
        }
    } else {
        Memory {
            usage: read("memory.usage_in_bytes"),
            peak: read("memory.max_usage_in_bytes"),
            rss: get("total_rss"),
            cache: get("total_cache"),
            mapped: get("total_mapped_file"),
            kernel: read("memory.kmem.usage_in_bytes"),
            swap: get("total_swap"),
            failures: read("memory.failcnt"),
            active_file: get("total_active_file"),
            inactive_file: get("total_inactive_file"),
            faults: [get("pgfault"), get("pgmajfault")],
            faults_below: [get("total_pgfault"), get("total_pgmajfault")],
            oom_kills: keyed(&dir.join("memory.oom_control")).get("oom_kill").copied(),
        }
    })
}

fn traffic(group: Group<'_>) -> Vec<Traffic> {
    if group.layout.is_v2() {
        return group.dir("io").map(|dir| io_stat(&text(&dir.join("io.stat")))).unwrap_or_default();
    }
    group.dir("blkio").map(|dir| blkio(&dir)).unwrap_or_default()
}

/// Lines of `major:minor rbytes=… wbytes=… rios=… wios=… dbytes=… dios=…`.
fn io_stat(text: &str) -> Vec<Traffic> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let mut found = Traffic { device: device(words.next()?)?, ..Traffic::default() };
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                let value = value.parse().unwrap_or_default();
                match key {
                    "rbytes" => found.read_bytes = value,
                    "wbytes" => found.write_bytes = value,
                    "rios" => found.reads = value,
                    "wios" => found.writes = value,
                    _discards_and_later_fields => {}
                }
            }
            Some(found)
        })
        .collect()
}

/// v1: lines of `major:minor Operation value`, bytes and operations in files of their own. The
/// throttle's counters are there whatever the IO scheduler.
fn blkio(dir: &Path) -> Vec<Traffic> {
    let mut found: Vec<Traffic> = Vec::new();
    let mut add = |file: &str, put: fn(&mut Traffic, bool, u64)| {
        for line in text(&dir.join(file)).lines() {
            let mut words = line.split_ascii_whitespace();
            let (Some(of), Some(operation), Some(value)) =
                (words.next().and_then(device), words.next(), words.next())
            else {
                continue;
            };
            let is_write = match operation {
                "Read" => false,
                "Write" => true,
                _sums_of_these => continue,
            };
            let value = value.parse().unwrap_or_default();
            match found.iter_mut().find(|known| known.device == of) {
                Some(known) => put(known, is_write, value),
                None => {
                    let mut new = Traffic { device: of, ..Traffic::default() };
                    put(&mut new, is_write, value);
                    found.push(new);
                }
            }
        }
    };
    add("blkio.throttle.io_service_bytes_recursive", |traffic, is_write, bytes| {
        *(if is_write { &mut traffic.write_bytes } else { &mut traffic.read_bytes }) = bytes;
    });
    add("blkio.throttle.io_serviced_recursive", |traffic, is_write, count| {
        *(if is_write { &mut traffic.writes } else { &mut traffic.reads }) = count;
    });
    found
}

fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::super::tests::values;
    use super::*;
    use model::{CgroupHierarchy, CgroupLayout};

    fn group_of(files: &[(&str, &str)]) -> (tempfile::TempDir, CgroupLayout) {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(root.path().join(name), text).unwrap();
        }
        let layout = CgroupLayout::V2(CgroupHierarchy {
            mountpoint: root.path().display().to_string(),
            controllers: Vec::new(),
        });
        (root, layout)
    }

    fn one(samples: &Samples, name: &str) -> Option<u64> {
        values(samples, name).first().map(|(_, value)| *value)
    }

    #[test]
    fn seconds_are_cut_off_and_memory_has_cadvisors_parts() {
        let (_root, layout) = group_of(&[
            ("cpu.stat", "usage_usec 2900000\nuser_usec 1900000\nsystem_usec 1000000\n"),
            ("memory.current", "100\n"),
            ("memory.peak", "150\n"),
            ("memory.stat", "anon 60\nfile 30\nkernel 9\ninactive_file 25\npgfault 7\n"),
            ("memory.events", "low 0\nmax 3\noom 1\noom_kill 2\n"),
            ("cpu.pressure", "some avg10=0 avg60=0 avg300=0 total=5000000\n"),
        ]);
        let mut samples = Samples::default();
        samples.usage(Group { layout: &layout, path: "/" });
        assert_eq!(
            values(&samples, "container_cpu_usage_seconds_total"),
            [(vec!["total".to_owned()], 2)]
        );
        assert_eq!(one(&samples, "container_cpu_user_seconds_total"), Some(1));
        assert_eq!(one(&samples, "container_memory_working_set_bytes"), Some(75));
        assert_eq!(one(&samples, "container_memory_max_usage_bytes"), Some(150));
        assert_eq!(one(&samples, "container_memory_rss"), Some(60));
        assert_eq!(one(&samples, "container_memory_kernel_usage"), Some(9));
        assert_eq!(one(&samples, "container_memory_failcnt"), Some(3));
        assert_eq!(one(&samples, "container_oom_events_total"), Some(2));
        assert_eq!(one(&samples, "container_memory_swap"), None, "nobody counts it");
        assert_eq!(one(&samples, "container_pressure_cpu_waiting_seconds_total"), Some(5));
        assert_eq!(one(&samples, "container_pressure_io_waiting_seconds_total"), None);
        let scopes: Vec<_> = values(&samples, "container_memory_failures_total");
        assert_eq!(scopes[0], (vec!["pgfault".to_owned(), "container".to_owned()], 7));
    }

    #[test]
    fn traffic_is_read_in_both_layouts() {
        let unified =
            io_stat("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n7:1\nnonsense\n");
        let disk = Traffic { device: (8, 0), read_bytes: 1, write_bytes: 2, reads: 3, writes: 4 };
        assert_eq!(unified[0], disk);
        assert_eq!(unified.len(), 2);
        let root = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| std::fs::write(root.path().join(name), text).unwrap();
        file(
            "blkio.throttle.io_service_bytes_recursive",
            "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n8:0 Total 3\nTotal 3\n",
        );
        file("blkio.throttle.io_serviced_recursive", "8:0 Read 3\n8:0 Write 4\nTotal 7\n");
        assert_eq!(blkio(root.path()), [disk]);
    }

    #[test]
    fn throttling_is_told_where_there_is_a_limit() {
        let (_root, layout) =
            group_of(&[("cpu.stat", "nr_periods 9\nnr_throttled 4\nthrottled_usec 3000000\n")]);
        let group = Group { layout: &layout, path: "/" };
        let mut samples = Samples::default();
        samples.throttling(group, &Resources::default());
        assert!(samples.0.is_empty());
        samples.throttling(group, &Resources { cpu_quota_us: 5, ..Resources::default() });
        assert_eq!(one(&samples, "container_cpu_cfs_throttled_periods_total"), Some(4));
        assert_eq!(one(&samples, "container_cpu_cfs_throttled_seconds_total"), Some(3));
    }
}
