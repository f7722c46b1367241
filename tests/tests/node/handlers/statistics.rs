//! What containers in gVisor use is told by its program, which is asked about several at once.

use std::fs;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::handlers::Runtime;
use test_support::node::on_a_node_with;
use test_support::skip;

#[test]
fn runtimes_are_asked_for_statistics_side_by_side() -> Result<()> {
    if let Err(why) = Runtime::Runsc.find() {
        skip(&why);
        return Ok(());
    }
    let mut configured = Ok(());
    let configure = |_: &mut _, scratch: &test_support::scratch::Scratch| {
        configured = Runtime::Runsc.make_default(scratch);
    };
    on_a_node_with(configure, async |node| {
        let dir = node.scratch.dir().to_owned();
        // Who is asked for statistics waits until two are, for ever.
        let table = fs::read_to_string(dir.join("conf.d/handler.toml"))?;
        let path = table.lines().find_map(|line| line.strip_prefix("path = ")).context("path")?;
        let path = path.trim_matches('"');
        let (script, asked) = (dir.join("rendezvous"), dir.join("asked"));
        fs::create_dir(&asked)?;
        let text = format!(
            "#!/bin/sh\ncase \" $* \" in *' events '*)\n\
             : > {0}/$$\nwhile [ $(ls {0} | wc -l) -lt 2 ]; do sleep 0.05; done;;\nesac\nexec {path} \"$@\"\n",
            asked.display()
        );
        fs::write(&script, text)?;
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        let table = table.replace(path, &script.display().to_string());
        fs::write(dir.join("conf.d/handler.toml"), table)?;
        node.crash_and_restart()?;

        node.sleeper("one").await?;
        node.sleeper("two").await?;
        let request = v1::ListContainerStatsRequest::default();
        let stats =
            node.cri.runtime.clone().list_container_stats(request).await?.into_inner().stats;
        ensure!(stats.len() == 2, "{stats:?}");
        ensure!(stats.iter().all(|stats| stats.cpu.is_some()), "{stats:?}");
        Ok(())
    })?;
    configured
}
