//! Several at once, and callers that are killed.

use std::fs;
use std::thread;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal};
use serde_json::json;
use test_support::files::wait_for;
use test_support::node::PATIENCE;
use test_support::oci::{Runtime, Said, script, wait_ended, with_runtime};

/// The same call by many at the same time.
fn by_many(runtime: &Runtime, words: &[&str]) -> Result<Vec<Said>> {
    thread::scope(|scope| {
        let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| runtime.call(words))).collect();
        calls.into_iter().map(|call| call.join().ok().context("a caller panicked")?).collect()
    })
}

#[test]
fn of_many_who_start_a_container_one_does() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", "sleep 100000", |_| {})?;
        let id = runtime.id("a");
        runtime.leave(&["create", "-b", &bundle, &id])?;
        let said = by_many(runtime, &["start", &id])?;
        let (won, lost): (Vec<_>, Vec<_>) = said.into_iter().partition(|said| said.code == 0);
        ensure!(won.len() == 1, "{won:?}");
        ensure!(lost.iter().all(|said| said.err.contains("cannot start container")), "{lost:?}");
        let said = by_many(runtime, &["delete", "--force", &id])?;
        ensure!(said.iter().all(|said| said.code == 0), "{said:?}");
        ensure!(runtime.cgroups().is_empty(), "{:?}", runtime.cgroups());
        Ok(())
    })
}

#[test]
fn of_many_who_take_an_id_one_does() -> Result<()> {
    with_runtime(|runtime| {
        let bundle = runtime.bundle("b", "exit 3", |_| {})?;
        let id = runtime.id("a");
        let said = by_many(runtime, &["run", "--keep", "-b", &bundle, &id])?;
        let (won, lost): (Vec<_>, Vec<_>) = said.into_iter().partition(|said| said.code == 3);
        ensure!(won.len() == 1, "{won:?} {lost:?}");
        ensure!(lost.iter().all(|said| said.err.contains("already exists")), "{lost:?}");
        ensure!(runtime.status(&id)? == "stopped");
        Ok(())
    })
}

#[test]
fn what_a_killed_creator_has_left_is_deleted() -> Result<()> {
    with_runtime(|runtime| {
        let told = runtime.dir().join("told");
        let path = runtime.dir().join("hook.sh");
        script(&path, &format!("cat > {0}.new; mv {0}.new {0}; exec sleep 300", told.display()))?;
        let hooks = json!({"createRuntime": [{"path": path}]});
        let bundle = runtime.bundle("b", "true", |spec| spec["hooks"] = hooks)?;
        let id = runtime.id("a");
        let mut create = runtime
            .command(&["create", "-b", &bundle, &id])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()?;
        let state = wait_for(&told, PATIENCE, |text| serde_json::from_str(text).ok());
        let state: serde_json::Value = state?;
        ensure!(runtime.status(&id)? == "creating");
        create.kill()?;
        create.wait()?;
        // Who has lost its maker does not wait for ever.
        wait_ended(&state["pid"])?;
        ensure!(runtime.status(&id)? == "stopped");
        ensure!(!runtime.cgroups().is_empty(), "nothing is left to be deleted");
        runtime.call(&["delete", &id])?.ok()?;
        ensure!(runtime.cgroups().is_empty(), "{:?}", runtime.cgroups());
        // The hook itself was the creator's.
        let hook = fs::read_dir("/proc")?.flatten().find_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
            (cwd.to_str() == Some(bundle.as_str())).then_some(pid)
        });
        let hook = hook.and_then(Pid::from_raw).context("the hook is gone")?;
        rustix::process::kill_process(hook, Signal::KILL)?;
        Ok(())
    })
}
