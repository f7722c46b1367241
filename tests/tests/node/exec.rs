//! ExecSync.

use anyhow::{Result, ensure};
use test_support::cri::refused;
use test_support::node::on_a_node;
use tonic::Code;

#[test]
fn both_streams_and_the_exit_code_come_back() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("exec").await?;
        let script = "echo out; echo err >&2; exit 5";
        let output = node.cri.exec(&id, &["sh", "-c", script], 10).await?;
        let got = (output.code, output.stdout.as_str(), output.stderr.as_str());
        ensure!(got == (5, "out\n", "err\n"), "{output:?}");
        let hello = node.cri.exec(&id, &["printf", "hello"], 0).await?;
        ensure!((hello.code, hello.stdout.as_str()) == (0, "hello") && hello.stderr.is_empty());
        Ok(())
    })
}

#[test]
fn an_exec_that_takes_too_long_is_killed_with_its_children() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("slow").await?;
        let script = "(sleep 4321 & sleep 4321) ; sleep 4321";
        let result = node.cri.exec(&id, &["sh", "-c", script], 1).await;
        refused(result, Code::DeadlineExceeded, &[])?;
        let left = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep [4]321'; true";
        let left = node.cri.shell(&id, left).await?;
        ensure!(left == "0", "{left} processes are left");
        Ok(())
    })
}

#[test]
fn an_exec_has_the_containers_identity() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("user-web").await?;
        let pod = node.pod("identity");
        let container = pod.container("main", &image).sleeper().with(|config| {
            config.working_dir = "/home/web".into();
            config.envs =
                vec![cri_api::v1::KeyValue { key: "MARK".into(), value: b"here".to_vec() }];
        });
        let (_, id) = node.run(&pod, &container).await?;
        let said = node.cri.shell(&id, "echo $(id -u):$(id -g) $PWD $MARK").await?;
        ensure!(said == "1000:1000 /home/web here", "{said}");
        let cgroups = "cat /proc/self/cgroup; echo; cat /proc/1/cgroup";
        let cgroups = node.cri.shell(&id, cgroups).await?;
        let (own, init) = cgroups.split_once("\n\n").unwrap_or_default();
        ensure!(own == init, "{cgroups}");
        let fields =
            "grep -h -E '^(Seccomp|CapBnd|CapEff|NoNewPrivs):' /proc/self/status /proc/1/status";
        let both = node.cri.shell(&id, fields).await?;
        let lines: Vec<_> = both.lines().collect();
        ensure!(lines.len() == 8 && lines[..4] == lines[4..], "{both}");
        Ok(())
    })
}

#[test]
fn what_cannot_be_run_is_an_error_and_leaves_the_container_alone() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("missing").await?;
        let result = node.cri.exec(&id, &["/no/such/program"], 10).await;
        ensure!(result.is_err(), "{result:?}");
        let text = result.err().map(|status| status.message().to_owned()).unwrap_or_default();
        ensure!(text.contains("/no/such/program"), "{text}");
        refused(node.cri.exec(&id, &[], 10).await, Code::InvalidArgument, &[])?;
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        Ok(())
    })
}

#[test]
fn only_a_running_container_can_be_entered() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("ended").await?;
        node.cri.stop(&id, 5).await?;
        let result = node.cri.exec(&id, &["true"], 10).await;
        refused(result, Code::FailedPrecondition, &["exited"])?;
        let unknown = "0".repeat(64);
        refused(node.cri.exec(&unknown, &["true"], 10).await, Code::NotFound, &[])?;
        Ok(())
    })
}

#[test]
fn many_execs_run_side_by_side() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("storm").await?;
        let mut running = Vec::new();
        for number in 0..40 {
            let (cri, id) = (node.cri.clone(), id.clone());
            running.push(tokio::spawn(async move {
                let script = format!("echo {number}; exit {number}");
                (number, cri.exec(&id, &["sh", "-c", &script], 20).await)
            }));
        }
        for exec in running {
            let (number, output) = exec.await?;
            let output = output?;
            ensure!((output.code, output.stdout) == (number, format!("{number}\n")));
        }
        Ok(())
    })
}

#[test]
fn megabytes_of_output_come_back_whole() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("bulk").await?;
        let output = node.cri.exec(&id, &["sh", "-c", "head -c 8000000 /dev/zero"], 20).await?;
        ensure!(output.stdout.len() == 8_000_000, "{} bytes", output.stdout.len());
        Ok(())
    })
}

#[test]
fn what_is_more_than_is_kept_of_the_output_is_read_all_the_same() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("flood").await?;
        // A message for kubelet has 16 MiB at most, and the exit code has to arrive.
        let script = "head -c 100 /dev/zero; head -c 20000000 /dev/zero >&2; exit 6";
        let output = node.cri.exec(&id, &["sh", "-c", script], 60).await?;
        let sizes = (output.stdout.len(), output.stderr.len(), output.code);
        ensure!(sizes == (100, (16 << 20) - 4096 - 100, 6), "{sizes:?}");
        let script = "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; exit 7";
        let output = node.cri.exec(&id, &["sh", "-c", script], 60).await?;
        let sizes = (output.stdout.len(), output.stderr.len(), output.code);
        ensure!(sizes == ((8 << 20) - 2048, (8 << 20) - 2048, 7), "{sizes:?}");
        Ok(())
    })
}

#[test]
fn a_grandchild_that_holds_the_pipes_does_not_hold_the_answer() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("pipes").await?;
        let exec = node.cri.exec(&id, &["sh", "-c", "sleep 600 & echo done"], 0);
        let output = tokio::time::timeout(test_support::node::PATIENCE, exec).await??;
        ensure!((output.code, output.stdout.as_str()) == (0, "done\n"), "{output:?}");
        Ok(())
    })
}
