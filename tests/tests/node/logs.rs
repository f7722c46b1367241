//! Container logs: their exact form and their rotation.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::node::{Node, PATIENCE, log_lines, on_a_node, texts};
use test_support::proc;

use crate::mounts::HostMount;

#[test]
fn every_line_is_a_record_with_time_stream_and_tag() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("lines");
        let script = "echo one; echo two >&2; echo; printf 'with space  '; echo end; printf 'open'";
        let container = pod.container("main", &image).script(script);
        let (_, lines) = node.run_to_end(&pod, &container).await?;
        ensure!(texts(&lines, "stdout") == ["one", "", "with space  end", "open"], "{lines:?}");
        ensure!(texts(&lines, "stderr") == ["two"], "{lines:?}");
        for line in &lines {
            let tag = if line.text == "open" { "P" } else { "F" };
            ensure!(line.tag == tag, "{line:?}");
            let (seconds, fraction) = line.time.split_once('.').context("no fraction")?;
            ensure!(seconds.len() == "2006-01-02T15:04:05".len(), "{}", line.time);
            let digits = fraction.trim_end_matches(|c: char| !c.is_ascii_digit());
            let zoned = fraction.ends_with('Z') || fraction.contains(['+', '-']);
            ensure!(!digits.is_empty() && zoned, "{}", line.time);
        }
        Ok(())
    })
}

#[test]
fn long_lines_are_split_and_nothing_is_lost() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("long");
        // 16384 is exactly one record; one byte more is two.
        let script = "head -c 16384 /dev/zero | tr '\\0' a; echo; \
                      head -c 16385 /dev/zero | tr '\\0' b; echo; \
                      head -c 50000 /dev/zero | tr '\\0' c; echo";
        let container = pod.container("main", &image).script(script);
        let (_, lines) = node.run_to_end(&pod, &container).await?;
        let shape: Vec<_> =
            lines.iter().map(|l| (l.tag.as_str(), &l.text[..1], l.text.len())).collect();
        ensure!(shape[0] == ("F", "a", 16384), "{shape:?}");
        ensure!(shape[1] == ("P", "b", 16384) && shape[2] == ("F", "b", 1), "{shape:?}");
        let rest: usize = shape[3..].iter().map(|(_, _, length)| length).sum();
        ensure!(rest == 50000 && shape.last().is_some_and(|l| l.0 == "F"), "{shape:?}");
        Ok(())
    })
}

#[test]
fn cr_lf_ends_a_line_as_lf_does_and_a_long_open_end_is_partial() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("ends");
        // The limit is of the content: neither form of line end counts.
        let script = "printf 'dos\\r\\nunix\\nlone\\rcr\\n\\r\\n'; \
                      head -c 16384 /dev/zero | tr '\\0' a; printf '\\r\\n'; \
                      head -c 20000 /dev/zero | tr '\\0' b";
        let container = pod.container("main", &image).script(script);
        let (_, lines) = node.run_to_end(&pod, &container).await?;
        let short: Vec<_> = lines.iter().take(4).map(|l| (&*l.tag, &*l.text)).collect();
        ensure!(short == [("F", "dos"), ("F", "unix"), ("F", "lone\rcr"), ("F", "")], "{short:?}");
        let long: Vec<_> =
            lines.iter().skip(4).map(|l| (&*l.tag, &l.text[..1], l.text.len())).collect();
        ensure!(long == [("F", "a", 16384), ("P", "b", 16384), ("P", "b", 3616)], "{long:?}");
        Ok(())
    })
}

#[test]
fn output_without_a_log_is_dropped_and_holds_nobody_up() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("silent");
        let container = pod
            .container("main", &image)
            .script("seq 1 100000; exit 3")
            .with(|config| config.log_path.clear());
        let (_, id) = node.run(&pod, &container).await?;
        let status = node.wait_exited(&id).await?;
        ensure!(status.exit_code == 3 && status.log_path.is_empty(), "{status:?}");
        Ok(())
    })
}

/// The supervisor of a node's only pod.
fn supervisor(node: &Node) -> Result<i32> {
    let state = node.scratch.state().display().to_string();
    let is_shim =
        |p: &proc::Process| p.cmdline.contains("knarr-shim") && p.cmdline.contains(&state);
    Ok(proc::all().into_iter().find(is_shim).context("no supervisor")?.pid)
}

#[test]
fn a_container_waits_for_a_log_that_is_not_written_and_loses_nothing() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let signals = node.scratch.dir().join("signals");
        fs::create_dir_all(&signals)?;
        let pod = node.pod("slow");
        // More than any pipe holds.
        let script = "echo ready; while [ ! -e /signals/go ]; do sleep 0.01; done; \
                      seq 1 300000; touch /signals/done";
        let container =
            pod.container("main", &image).script(script).mount(&signals, "/signals", false);
        let (_, id) = node.run(&pod, &container).await?;
        node.wait_log(&id, "ready").await?;
        let shim = supervisor(node)?;
        proc::signal(shim, rustix::process::Signal::STOP)?;
        fs::write(signals.join("go"), "")?;
        let mark = node.scratch.cgroup_parent();
        let write = if cfg!(target_arch = "x86_64") { "1" } else { "64" };
        // Number and first argument of the call it sits in: write(2) to stdout.
        let writes = |p: proc::Process| {
            let call = fs::read_to_string(format!("/proc/{}/syscall", p.pid)).unwrap_or_default();
            let mut words = call.split(' ');
            words.next() == Some(write) && words.next() == Some("0x1")
        };
        let blocked = || proc::all().into_iter().any(|p| p.cgroups.contains(&mark) && writes(p));
        let wait = async {
            while !blocked() {
                // Nothing tells when a process begins to wait.
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, wait).await;
        let early = signals.join("done").exists();
        proc::signal(shim, rustix::process::Signal::CONT)?;
        waited.context("the container does not wait for its log")?;
        ensure!(!early, "it went on without its log");
        let status = node.wait_exited(&id).await?;
        let lines = log_lines(Path::new(&status.log_path))?;
        ensure!(lines.len() == 300_001, "{} lines", lines.len());
        for (number, line) in (1..).zip(&lines[1..]) {
            ensure!(line.text == number.to_string(), "line {number} is {line:?}");
        }
        Ok(())
    })
}

#[test]
fn a_full_disk_loses_output_but_neither_the_container_nor_later_records() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("full");
        let small = HostMount::small(Path::new(&pod.config.log_directory).to_owned())?;
        let signals = node.scratch.dir().join("signals");
        fs::create_dir_all(&signals)?;
        let script = "seq 1 100000; touch /signals/done; \
                      while [ ! -e /signals/go ]; do sleep 0.01; done; echo; echo after; exit 4";
        let container =
            pod.container("main", &image).script(script).mount(&signals, "/signals", false);
        let (pod_id, id) = node.run(&pod, &container).await?;
        let done = signals.join("done");
        test_support::files::wait_for(&done, PATIENCE, |_| done.exists().then_some(()))
            .context("a full disk holds the container up")?;
        // Rotation makes room: kubelet moves the file away and has the log opened anew.
        let log = node.log_path(&id).await?;
        let rotated = signals.join("rotated.log");
        fs::copy(&log, &rotated)?;
        fs::remove_file(&log)?;
        let request = v1::ReopenContainerLogRequest { container_id: id.clone() };
        node.cri.runtime.clone().reopen_container_log(request).await?;
        fs::write(signals.join("go"), "")?;
        let status = node.wait_exited(&id).await?;
        ensure!(status.exit_code == 4, "{status:?}");
        let old = fs::read_to_string(&rotated)?;
        let whole = old.rsplit_once('\n').map(|(whole, _torn)| whole).unwrap_or_default();
        for (number, line) in (1..).zip(whole.lines()) {
            ensure!(line.ends_with(&format!(" stdout F {number}")), "line {number} is {line}");
        }
        let lines = log_lines(&log)?;
        ensure!(lines.last().is_some_and(|line| line.text == "after"), "{lines:?}");
        node.cri.remove_pod(&pod_id).await?;
        drop(small);
        Ok(())
    })
}

#[test]
fn much_output_arrives_whole_and_in_order() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("much");
        let container = pod.container("main", &image).script("seq 1 200000");
        let (_, lines) = node.run_to_end(&pod, &container).await?;
        ensure!(lines.len() == 200_000, "{} lines", lines.len());
        for (number, line) in (1..).zip(&lines) {
            ensure!(line.text == number.to_string(), "line {number} is {line:?}");
        }
        Ok(())
    })
}

#[test]
fn a_reopened_log_goes_on_in_a_fresh_file_without_a_gap() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("rotate");
        let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.005; done";
        let (_, id) = node.run(&pod, &pod.container("main", &image).script(script)).await?;
        node.wait_log(&id, " F 20\n").await?;
        let path = node.log_path(&id).await?;
        let rotated = path.with_extension("log.1");
        fs::rename(&path, &rotated)?;
        let request = v1::ReopenContainerLogRequest { container_id: id.clone() };
        node.cri.runtime.clone().reopen_container_log(request).await?;
        ensure!(path.exists(), "the new file is there when the call returns");
        let old = fs::read_to_string(&rotated)?;
        node.wait_log(&id, "0\n").await?;
        node.cri.stop(&id, 0).await?;
        ensure!(fs::read_to_string(&rotated)? == old, "the old file still grows");
        let mut lines = log_lines(&rotated)?;
        lines.extend(log_lines(&path)?);
        for (number, line) in (1..).zip(&lines) {
            ensure!(line.text == number.to_string(), "line {number} is {line:?}");
        }
        Ok(())
    })
}

#[test]
fn a_log_that_cannot_be_reopened_makes_no_new_file() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("over").await?;
        let path = node.log_path(&id).await?;
        node.cri.stop(&id, 5).await?;
        fs::remove_file(&path)?;
        let request = v1::ReopenContainerLogRequest { container_id: id.clone() };
        let result = node.cri.runtime.clone().reopen_container_log(request).await;
        ensure!(result.is_err() && !path.exists(), "{result:?}");
        Ok(())
    })
}

#[test]
fn logs_outlive_their_pod() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("legacy");
        let container = pod.container("main", &image).script("echo remembered");
        let (status, _) = node.run_to_end(&pod, &container).await?;
        node.cri.remove_everything().await?;
        let lines = log_lines(Path::new(&status.log_path))?;
        ensure!(texts(&lines, "stdout") == ["remembered"], "{lines:?}");
        Ok(())
    })
}

#[test]
fn a_container_with_a_terminal_has_one_stream() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("tty");
        let script = "tty; echo $TERM; echo err >&2";
        let container =
            pod.container("main", &image).script(script).with(|config| config.tty = true);
        let (status, lines) = node.run_to_end(&pod, &container).await?;
        ensure!(status.exit_code == 0, "{status:?}");
        ensure!(texts(&lines, "stderr").is_empty(), "{lines:?}");
        let said: Vec<_> =
            texts(&lines, "stdout").into_iter().map(|text| text.trim_end_matches('\r')).collect();
        ensure!(said.len() == 3 && said[1..] == ["xterm", "err"], "{said:?}");
        Ok(())
    })
}
