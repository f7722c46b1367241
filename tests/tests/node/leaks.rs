//! The search for leaks itself: a search that finds nothing must be able to find something.

use anyhow::{Result, ensure};
use test_support::leaks::{Leak, Leaks};
use test_support::node::on_a_node;

#[test]
fn a_running_pod_shows_up_in_every_place_that_is_searched() -> Result<()> {
    on_a_node(async |node| {
        let (pod, container) = node.sleeper("planted").await?;
        let found = Leaks::of(&node.scratch).find();
        let has = |what: &str, test: &dyn Fn(&Leak) -> bool| {
            let list: Vec<_> = found.iter().map(Leak::to_string).collect();
            ensure!(found.iter().any(test), "no {what} among:\n  {}", list.join("\n  "));
            Ok(())
        };
        has(
            "supervisor",
            &|leak| matches!(leak, Leak::Process { cmdline, .. } if cmdline.contains("knarr-shim")),
        )?;
        has(
            "container process",
            &|leak| matches!(leak, Leak::Process { cmdline, .. } if cmdline.contains("trap")),
        )?;
        has(
            "network namespace",
            &|leak| matches!(leak, Leak::Netns(path) if path.ends_with(format!("knarr-{pod}"))),
        )?;
        has("link", &|leak| matches!(leak, Leak::Link(_)))?;
        has("cgroup", &|leak| matches!(leak, Leak::Cgroup(path) if path.ends_with(&container)))?;
        has("record", &|leak| matches!(leak, Leak::File(path) if path.ends_with(&pod)))?;
        has("reservation", &|leak| matches!(leak, Leak::Reservation(_)))?;
        has("mount", &|leak| matches!(leak, Leak::Mount(_)))
    })
}

/// The command line's pods have no parent cgroup of the scratch place: they are known by their ids.
#[test]
fn a_removed_pods_ids_are_remembered_by_the_daemons_log() -> Result<()> {
    on_a_node(async |node| {
        let (pod, container) = node.sleeper("remembered").await?;
        node.cri.remove_pod(&pod).await?;
        let log = node.daemon.log_text();
        ensure!(log.contains(&pod), "the log never mentions pod {pod}:\n{log}");
        ensure!(log.contains(&container), "the log never mentions container {container}:\n{log}");
        Ok(())
    })
}
