//! Resource limits, read back from the kernel.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use cri_api::v1;
use test_support::cri::refused;
use test_support::node::{Node, on_a_node};
use tonic::Code;

/// A file of the container's cgroup: by controller on v1, in the one directory on v2.
fn kernel_file(node: &Node, id: &str, controller: &str, v1: &str, v2: &str) -> Option<String> {
    let below = node.scratch.container_cgroup(id);
    let old = Path::new("/sys/fs/cgroup").join(controller).join(&below).join(v1);
    let new = Path::new("/sys/fs/cgroup").join(&below).join(v2);
    let text = fs::read_to_string(old).or_else(|_| fs::read_to_string(new)).ok()?;
    Some(text.trim().to_owned())
}

async fn started(
    node: &Node,
    name: &str,
    limits: impl FnOnce(&mut v1::LinuxContainerResources),
) -> Result<String> {
    let image = node.pulled("busybox").await?;
    let pod = node.pod(name);
    let (_, id) =
        node.run(&pod, &pod.container("main", &image).sleeper().resources(limits)).await?;
    Ok(id)
}

#[test]
fn cpu_time_and_cpus_are_limited() -> Result<()> {
    on_a_node(async |node| {
        let id = started(node, "cpu", |r| {
            (r.cpu_period, r.cpu_quota, r.cpu_shares) = (50_000, 25_000, 1024);
            (r.cpuset_cpus, r.cpuset_mems) = ("0".into(), "0".into());
        })
        .await?;
        let file = |controller, v1, v2| kernel_file(node, &id, controller, v1, v2);
        let weight = file("cpu", "cpu.shares", "cpu.weight");
        ensure!(matches!(weight.as_deref(), None | Some("1024" | "100")), "{weight:?}");
        let quota = file("cpu", "cpu.cfs_quota_us", "cpu.max");
        ensure!(matches!(quota.as_deref(), None | Some("25000" | "25000 50000")), "{quota:?}");
        let cpus = file("cpuset", "cpuset.cpus", "cpuset.cpus");
        ensure!(matches!(cpus.as_deref(), None | Some("0")), "{cpus:?}");
        ensure!(weight.is_some() || cpus.is_some(), "nothing was found in the kernel");
        if cpus.is_some() {
            let allowed = node.cri.shell(&id, "grep Cpus_allowed_list /proc/self/status").await?;
            ensure!(allowed.ends_with("\t0"), "{allowed}");
        }
        let unlimited = started(node, "cpu2", |r| r.cpu_quota = -1).await?;
        let quota = kernel_file(node, &unlimited, "cpu", "cpu.cfs_quota_us", "cpu.max");
        let right = ["-1", "max 100000"];
        ensure!(quota.as_deref().is_none_or(|quota| right.contains(&quota)), "{quota:?}");
        Ok(())
    })
}

#[test]
fn swap_is_none_unless_it_is_asked_for() -> Result<()> {
    on_a_node(async |node| {
        let mib = 1 << 20;
        for (name, swap, v1, v2) in [
            ("none", 0, "67108864", "0"),
            ("some", 96 * mib, "100663296", "33554432"),
            ("all", -1, "9223372036854771712", "max"),
        ] {
            let id = started(node, name, |r| {
                (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes) = (64 * mib, swap);
            })
            .await?;
            let file = "memory.memsw.limit_in_bytes";
            let found = kernel_file(node, &id, "memory", file, "memory.swap.max");
            ensure!(found.as_deref().is_none_or(|f| f == v1 || f == v2), "{name}: {found:?}");
        }
        let image = node.pulled("busybox").await?;
        let pod = node.pod("wrong");
        let pod_id = node.cri.run_pod(&pod).await?;
        for (memory, swap) in [(64 * mib, 32 * mib), (0, 32 * mib)] {
            let container = pod.container("c", &image).resources(|r| {
                (r.memory_limit_in_bytes, r.memory_swap_limit_in_bytes) = (memory, swap);
            });
            let result = node.cri.create(&pod_id, &pod, &container).await;
            // Where no controller limits swap nothing is refused either.
            if let Err(status) = &result {
                ensure!(status.code() == Code::InvalidArgument, "{status}");
                ensure!(status.message().contains("swap"), "{status}");
            } else {
                let id = result?;
                node.cri.start(&id).await?;
                let file = "memory.memsw.limit_in_bytes";
                ensure!(kernel_file(node, &id, "memory", file, "memory.swap.max").is_none());
                node.cri.remove(&id).await?;
            }
        }
        Ok(())
    })
}

#[test]
fn huge_pages_are_limited_and_zeros_of_unknown_sizes_are_tolerated() -> Result<()> {
    on_a_node(async |node| {
        let limit = |page: &str, limit| v1::HugepageLimit { page_size: page.into(), limit };
        let there = fs::read_dir("/sys/kernel/mm/hugepages").is_ok_and(|mut dir| {
            dir.any(|e| e.is_ok_and(|e| e.file_name().to_string_lossy() == "hugepages-2048kB"))
        });
        let id = started(node, "huge", |r| {
            r.hugepage_limits = vec![limit("1GB", 0), limit("64KB", 0), limit("16GB", 0)];
            if there {
                r.hugepage_limits.push(limit("2MB", 4 << 20));
            }
        })
        .await?;
        let file = |v1, v2| kernel_file(node, &id, "hugetlb", v1, v2);
        if let Some(max) = file("hugetlb.2MB.limit_in_bytes", "hugetlb.2MB.max").filter(|_| there) {
            ensure!(max == "4194304", "{max}");
            let rsvd = file("hugetlb.2MB.rsvd.limit_in_bytes", "hugetlb.2MB.rsvd.max");
            ensure!(rsvd.as_deref().is_none_or(|rsvd| rsvd == "4194304"), "{rsvd:?}");
        }
        let image = node.pulled("busybox").await?;
        let pod = node.pod("nopage");
        let pod_id = node.cri.run_pod(&pod).await?;
        let container = pod.container("c", &image).resources(|r| {
            r.hugepage_limits = vec![limit("../2MB", 1)];
        });
        let result = node.cri.create(&pod_id, &pod, &container).await;
        refused(result, Code::InvalidArgument, &["../2MB"])
    })
}

#[test]
fn raw_files_are_for_cgroup_v2() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("unified");
        let pod_id = node.cri.run_pod(&pod).await?;
        let container = pod.container("main", &image).sleeper().resources(|r| {
            r.unified = [("memory.high".to_owned(), "67108864".to_owned())].into();
        });
        let created = node.cri.create(&pod_id, &pod, &container).await;
        if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
            let id = created?;
            node.cri.start(&id).await?;
            let high = kernel_file(node, &id, "", "", "memory.high");
            ensure!(high.as_deref().is_none_or(|high| high == "67108864"), "{high:?}");
            return Ok(());
        }
        refused(created, Code::InvalidArgument, &["unified", "v1"])
    })
}

#[test]
fn the_oom_adjustment_is_written_and_clamped_where_it_may_not_be_lowered() -> Result<()> {
    on_a_node(async |node| {
        let zero = started(node, "zero", |r| r.oom_score_adj = 0).await?;
        let own: i64 = fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse()?;
        let read = async |id: &str| -> Result<i64> {
            Ok(node.cri.shell(id, "cat /proc/1/oom_score_adj").await?.parse()?)
        };
        ensure!(read(&zero).await? == own.max(0) || read(&zero).await? == 0);
        let low = started(node, "low", |r| r.oom_score_adj = -997).await?;
        let found = read(&low).await?;
        if found != -997 {
            // Without CAP_SYS_RESOURCE the daemon says so and the container runs.
            let log = node.daemon.log_text();
            ensure!(log.contains("oom_score_adj -997"), "neither applied nor logged: {found}");
        }
        Ok(())
    })
}
