//! Container logs: their exact form and their rotation.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::node::{log_lines, on_a_node, texts};

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
