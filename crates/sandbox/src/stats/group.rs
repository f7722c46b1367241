//! One cgroup's files, in both layouts. A file that is absent (a controller or a kernel option
//! this host lacks) leaves its field unset; it is no error.

use std::path::{Path, PathBuf};

use model::{CgroupLayout, ContainerStats, CpuStats, IoStats, MemoryStats, SwapStats, UnixNanos};

use super::files::{keyed, number, pressure};

/// The kernel's "no limit" on v1 is the largest multiple of a page; everything this large is.
pub(super) const NO_LIMIT: u64 = 1 << 62;

/// A cgroup by its path below the mount points.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group<'a> {
    pub(crate) layout: &'a CgroupLayout,
    pub(crate) path: &'a str,
}

impl Group<'_> {
    /// Its directory in the hierarchy that has `controller`.
    pub(super) fn dir(&self, controller: &str) -> Option<PathBuf> {
        let hierarchy = match self.layout {
            // Files of controllers that are off are absent; those of the core are always there.
            CgroupLayout::V2(unified) => unified,
            CgroupLayout::V1 { .. } => self.layout.controller(controller)?,
        };
        Some(Path::new(&hierarchy.mountpoint).join(self.path.trim_start_matches('/')))
    }

    /// Processor time used since it was made.
    pub(crate) fn cpu_usage_ns(&self) -> Option<u64> {
        if self.layout.is_v2() {
            let stat = keyed(&self.dir("cpu")?.join("cpu.stat"));
            return stat.get("usage_usec").map(|usec| usec.saturating_mul(1000));
        }
        number(&self.dir("cpuacct")?.join("cpuacct.usage"))
    }

    /// Everything CRI statistics tell of it but the rate.
    pub(super) fn stats(&self, at: UnixNanos) -> ContainerStats {
        if self.layout.is_v2() { self.v2(at).unwrap_or_default() } else { self.v1(at) }
    }

    fn v2(&self, at: UnixNanos) -> Option<ContainerStats> {
        let dir = self.dir("memory")?;
        let cpu = self.cpu_usage_ns().map(|usage_ns| CpuStats {
            at,
            usage_ns,
            nano_cores: None,
            pressure: pressure(&dir.join("cpu.pressure")),
        });
        let swap = number(&dir.join("memory.swap.current")).map(|usage_bytes| SwapStats {
            at,
            usage_bytes,
            available_bytes: number(&dir.join("memory.swap.max"))
                .filter(|limit| *limit < NO_LIMIT)
                .map(|limit| limit.saturating_sub(usage_bytes)),
        });
        let io = pressure(&dir.join("io.pressure"))
            .map(|pressure| IoStats { at, pressure: Some(pressure) });
        let processes = number(&dir.join("pids.current"));
        let memory = v2_memory(&dir, at);
        Some(ContainerStats { cpu, memory, swap, io, processes, writable_layer: None })
    }

    fn v1(&self, at: UnixNanos) -> ContainerStats {
        let cpu = self.cpu_usage_ns().map(|usage_ns| CpuStats {
            at,
            usage_ns,
            nano_cores: None,
            pressure: None,
        });
        let (memory, swap) = match self.dir("memory").and_then(V1Memory::read) {
            Some(read) => (Some(read.memory(at)), read.swap(at)),
            None => (None, None),
        };
        let processes = self.dir("pids").and_then(|dir| number(&dir.join("pids.current")));
        ContainerStats { cpu, memory, swap, io: None, processes, writable_layer: None }
    }
}

fn v2_memory(dir: &Path, at: UnixNanos) -> Option<MemoryStats> {
    let usage_bytes = number(&dir.join("memory.current"))?;
    let stat = keyed(&dir.join("memory.stat"));
    let get = |name: &str| stat.get(name).copied().unwrap_or(0);
    let working_set_bytes = usage_bytes.saturating_sub(get("inactive_file"));
    Some(MemoryStats {
        at,
        usage_bytes,
        working_set_bytes,
        available_bytes: limit(&dir.join("memory.max"))
            .map(|limit| limit.saturating_sub(working_set_bytes)),
        rss_bytes: get("anon"),
        page_faults: get("pgfault"),
        major_page_faults: get("pgmajfault"),
        pressure: pressure(&dir.join("memory.pressure")),
    })
}

/// What a group of version 1 takes, and may.
struct V1Memory {
    dir: PathBuf,
    usage: u64,
    limit: Option<u64>,
}

impl V1Memory {
    fn read(dir: PathBuf) -> Option<Self> {
        let usage = number(&dir.join("memory.usage_in_bytes"))?;
        let limit = limit(&dir.join("memory.limit_in_bytes"));
        Some(Self { dir, usage, limit })
    }

    fn memory(&self, at: UnixNanos) -> MemoryStats {
        let stat = keyed(&self.dir.join("memory.stat"));
        let get = |name: &str| stat.get(name).copied().unwrap_or(0);
        let working_set_bytes = self.usage.saturating_sub(get("total_inactive_file"));
        MemoryStats {
            at,
            usage_bytes: self.usage,
            working_set_bytes,
            available_bytes: self.limit.map(|limit| limit.saturating_sub(working_set_bytes)),
            rss_bytes: get("total_rss"),
            page_faults: get("total_pgfault"),
            major_page_faults: get("total_pgmajfault"),
            pressure: None,
        }
    }

    /// Version 1 counts memory and swap together.
    fn swap(&self, at: UnixNanos) -> Option<SwapStats> {
        let both = number(&self.dir.join("memory.memsw.usage_in_bytes"))?;
        let usage_bytes = both.saturating_sub(self.usage);
        let available_bytes = limit(&self.dir.join("memory.memsw.limit_in_bytes"))
            .zip(self.limit)
            .map(|(both, memory)| both.saturating_sub(memory).saturating_sub(usage_bytes));
        Some(SwapStats { at, usage_bytes, available_bytes })
    }
}

/// None: there is none.
fn limit(path: &Path) -> Option<u64> {
    number(path).filter(|limit| *limit < NO_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::CgroupHierarchy;

    fn hierarchy(dir: &Path, controllers: &[&str]) -> CgroupHierarchy {
        CgroupHierarchy {
            mountpoint: dir.display().to_string(),
            controllers: controllers.iter().map(|name| (*name).to_owned()).collect(),
        }
    }

    fn write(dir: &Path, files: &[(&str, &str)]) {
        std::fs::create_dir_all(dir).unwrap();
        for (name, text) in files {
            std::fs::write(dir.join(name), text).unwrap();
        }
    }

    #[test]
    fn the_unified_layout_is_read() {
        let root = tempfile::tempdir().unwrap();
        let psi = "some avg10=1.00 avg60=2.00 avg300=3.00 total=4\n\
                   full avg10=0.00 avg60=0.00 avg300=0.00 total=1\n";
        write(
            &root.path().join("pod/c"),
            &[
                ("cpu.stat", "usage_usec 5\nuser_usec 3\nsystem_usec 2\n"),
                ("cpu.pressure", psi),
                ("memory.current", "100\n"),
                ("memory.stat", "anon 60\nfile 30\ninactive_file 25\npgfault 7\npgmajfault 1\n"),
                ("memory.max", "200\n"),
                ("memory.pressure", psi),
                ("memory.swap.current", "10\n"),
                ("memory.swap.max", "max\n"),
                ("io.pressure", psi),
                ("pids.current", "4\n"),
            ],
        );
        let layout = CgroupLayout::V2(hierarchy(root.path(), &["cpu", "memory"]));
        let stats = Group { layout: &layout, path: "/pod/c" }.stats(UnixNanos(9));
        let cpu = stats.cpu.unwrap();
        assert_eq!((cpu.usage_ns, cpu.at), (5000, UnixNanos(9)));
        assert_eq!(cpu.pressure.unwrap().some.total_ns, 4000);
        let memory = stats.memory.unwrap();
        assert_eq!((memory.usage_bytes, memory.working_set_bytes), (100, 75));
        assert_eq!((memory.available_bytes, memory.rss_bytes), (Some(125), 60));
        assert_eq!((memory.page_faults, memory.major_page_faults), (7, 1));
        let swap = stats.swap.unwrap();
        assert_eq!((swap.usage_bytes, swap.available_bytes), (10, None), "max is no limit");
        assert!(stats.io.unwrap().pressure.is_some());
        assert_eq!(stats.processes, Some(4));
    }

    #[test]
    fn v1_hierarchies_are_read_and_know_no_pressure() {
        let root = tempfile::tempdir().unwrap();
        let (cpu, memory) = (root.path().join("cpu,cpuacct"), root.path().join("memory"));
        write(&cpu.join("c"), &[("cpuacct.usage", "77\n")]);
        write(
            &memory.join("c"),
            &[
                ("memory.usage_in_bytes", "100\n"),
                ("memory.stat", "rss 1\ntotal_rss 40\ntotal_inactive_file 120\ntotal_pgfault 3\n"),
                ("memory.limit_in_bytes", "9223372036854771712\n"),
                ("memory.memsw.usage_in_bytes", "130\n"),
                ("memory.memsw.limit_in_bytes", "9223372036854771712\n"),
            ],
        );
        let layout = CgroupLayout::V1 {
            hierarchies: vec![
                hierarchy(&cpu, &["cpu", "cpuacct"]),
                hierarchy(&memory, &["memory"]),
            ],
            unified: None,
        };
        let stats = Group { layout: &layout, path: "/c" }.stats(UnixNanos(1));
        assert_eq!(stats.cpu.map(|cpu| (cpu.usage_ns, cpu.pressure)), Some((77, None)));
        let memory = stats.memory.unwrap();
        assert_eq!(memory.working_set_bytes, 0, "never below zero");
        assert_eq!((memory.rss_bytes, memory.available_bytes), (40, None));
        assert_eq!(stats.swap.map(|swap| swap.usage_bytes), Some(30));
        assert_eq!((stats.io, stats.processes), (None, None));
    }

    #[test]
    fn a_group_that_is_gone_has_no_statistics() {
        let root = tempfile::tempdir().unwrap();
        let layout = CgroupLayout::V2(hierarchy(root.path(), &[]));
        let stats = Group { layout: &layout, path: "/gone" }.stats(UnixNanos(1));
        assert_eq!(stats, ContainerStats::default());
    }
}
