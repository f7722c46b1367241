//! Where processes run, where their memory comes from, and which cgroup they are in.

use std::fs;

use anyhow::{Result, ensure};
use serde_json::json;
use test_support::oci::with_runtime;

use super::exec::sleeper;

const PROCESSORS: &str = "grep Cpus_allowed_list /proc/self/status";

fn own_processors() -> Result<String> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
    Ok(line.unwrap_or_default().to_owned())
}

#[test]
fn a_runtime_that_is_kept_to_a_processor_does_not_keep_its_containers_there() -> Result<()> {
    with_runtime(|runtime| {
        let all = own_processors()?;
        if all == "0" {
            test_support::skip("there is one processor");
            return Ok(());
        }
        let bundle = runtime.bundle("b", PROCESSORS, |_| {})?;
        let call = |words: &[&str]| -> Result<String> {
            let mut command = std::process::Command::new("taskset");
            command.args(["-c", "0"]).arg(runtime.program()).arg("--root").arg(runtime.root());
            let output = command.args(words).output()?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let out = call(&["run", "-b", &bundle, &runtime.id("a")])?;
        ensure!(out.trim_end().ends_with(&format!("\t{all}")), "{out}");
        let id = sleeper(runtime, |_| {})?;
        let out = call(&["exec", &id, "sh", "-c", PROCESSORS])?;
        ensure!(out.trim_end().ends_with(&format!("\t{all}")), "{out}");
        Ok(())
    })
}

#[test]
fn a_further_process_runs_on_the_processors_it_names() -> Result<()> {
    with_runtime(|runtime| {
        let id = sleeper(runtime, |spec| {
            spec["process"]["execCPUAffinity"] = json!({"initial": "0", "final": "0"});
        })?;
        let out = runtime.call(&["exec", &id, "sh", "-c", PROCESSORS])?.ok()?;
        ensure!(out.ends_with("\t0\n"), "{out}");
        // The first process is none of it.
        let out =
            runtime.call(&["exec", &id, "grep", "Cpus_allowed_list", "/proc/1/status"])?.ok()?;
        ensure!(out.trim_end().ends_with(&format!("\t{}", own_processors()?)), "{out}");
        let path = runtime.dir().join("process.json");
        for (affinity, word) in
            [("9000", "8191"), ("1-0", "execCPUAffinity"), ("x", "process.json")]
        {
            let process = json!({
                "args": ["true"], "cwd": "/", "execCPUAffinity": {"initial": affinity},
            });
            fs::write(&path, process.to_string())?;
            let path = path.to_str().unwrap_or_default();
            let said = runtime.call(&["exec", "--process", path, &id])?;
            ensure!(said.code == 255 && said.err.contains(word), "{affinity}: {said:?}");
        }
        Ok(())
    })
}

#[test]
fn memory_comes_from_the_nodes_of_the_policy() -> Result<()> {
    with_runtime(|runtime| {
        if fs::metadata("/proc/self/numa_maps").is_err() {
            test_support::skip("the kernel has no NUMA");
            return Ok(());
        }
        let id = sleeper(runtime, |spec| {
            spec["linux"]["memoryPolicy"] =
                json!({"mode": "MPOL_INTERLEAVE", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]});
        })?;
        for place in ["/proc/1/numa_maps", "/proc/self/numa_maps"] {
            let out = runtime.call(&["exec", &id, "cat", place])?.ok()?;
            ensure!(out.contains("interleave=static:0"), "{place}: {out}");
        }
        let bundle = runtime.bundle("far", "true", |spec| {
            spec["linux"]["memoryPolicy"] = json!({"mode": "MPOL_BIND", "nodes": "900"});
        })?;
        let said = runtime.call(&["run", "-b", &bundle, &runtime.id("far")])?;
        ensure!(said.code == 1 && said.err.contains("memory policy"), "{said:?}");
        Ok(())
    })
}

#[test]
fn a_further_process_goes_below_the_containers_cgroup_and_not_elsewhere() -> Result<()> {
    with_runtime(|runtime| {
        let id = sleeper(runtime, |_| {})?;
        for (place, word) in [
            ("..", "bad sub cgroup path"),
            ("a/../../b", "bad sub cgroup path"),
            ("nowhere", "no such file"),
            ("none-such:/", "unknown controller none-such"),
        ] {
            let said = runtime.call(&["exec", "--cgroup", place, &id, "true"])?;
            ensure!(said.code == 255 && said.err.contains(word), "{place}: {said:?}");
        }
        let own = runtime.cgroups();
        for group in &own {
            fs::create_dir(group.join("sub"))?;
            // A new cpuset takes nobody before it has processors.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let fresh = group.join("sub").join(file);
                if fresh.exists() {
                    fs::write(fresh, fs::read_to_string(group.join(file))?)?;
                }
            }
        }
        let out =
            runtime.call(&["exec", "--cgroup", "sub", &id, "cat", "/proc/self/cgroup"])?.ok()?;
        let inside = out.lines().filter(|line| line.ends_with("/sub")).count();
        ensure!(inside == own.len(), "{out}");
        let out =
            runtime.call(&["exec", "--cgroup", "/", &id, "cat", "/proc/self/cgroup"])?.ok()?;
        ensure!(!out.contains("/sub"), "{out}");
        Ok(())
    })
}
