//! Exec, attach and port-forward as a user types them: the program at pipes.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, ensure};
use test_support::containerd::{Containerd, Settings};
use test_support::node::{Node, on_a_node};

/// `knarr ARGS` against the node's daemon.
fn knarr(node: &Node, args: &[&str]) -> Command {
    knarr_at(node, &node.scratch.socket(), args)
}

/// `knarr ARGS` against whoever listens there.
fn knarr_at(node: &Node, socket: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(node.daemon.program());
    command.arg("--address").arg(socket).args(args);
    command
}

/// What a command wrote and its exit code, after it was given `input`.
fn converse(mut command: Command, input: Vec<u8>) -> Result<(Vec<u8>, String, Option<i32>)> {
    let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = piped.spawn().context("start knarr")?;
    let mut stdin = child.stdin.take().context("its input")?;
    // Beside the reading: what comes back may fill its pipe first. It may not want it all.
    let feed = thread::spawn(move || stdin.write_all(&input).is_ok());
    let output = child.wait_with_output()?;
    feed.join().ok();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    Ok((output.stdout, stderr, output.status.code()))
}

#[test]
fn a_commands_streams_and_exit_code_pass_through_at_pipes() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("pipes").await?;
        let input: Vec<u8> = (0_u32..500_000).flat_map(|n| n.to_le_bytes()).collect();
        for transport in ["spdy", "websocket"] {
            let script = "echo out; echo err >&2; exit 7";
            let line = ["exec", "--transport", transport, &id, "--", "sh", "-c", script];
            let (out, err, code) = converse(knarr(node, &line), Vec::new())?;
            ensure!((out.as_slice(), err.as_str(), code) == (b"out\n", "err\n", Some(7)), "{err}");
            let line = ["exec", "-i", "--transport", transport, &id, "--", "cat"];
            let (out, err, code) = converse(knarr(node, &line), input.clone())?;
            ensure!(out == input && code == Some(0), "{transport}: {} bytes, {err}", out.len());
            let line = ["exec", "--transport", transport, &id, "--", "/no/such/program"];
            let (_, err, code) = converse(knarr(node, &line), Vec::new())?;
            ensure!(code == Some(1) && err.contains("/no/such/program"), "{code:?}: {err}");
        }
        Ok(())
    })
}

#[test]
fn a_terminal_has_our_size_and_is_put_back() -> Result<()> {
    if !Path::new("/usr/bin/script").exists() {
        test_support::skip("bsdutils is not installed");
        return Ok(());
    }
    on_a_node(async |node| {
        let (_, id) = node.sleeper("tty").await?;
        for transport in ["spdy", "websocket"] {
            let exec = format!(
                "{} --address {} exec -it --transport {transport} {id} --",
                node.daemon.program().display(),
                node.scratch.socket().display()
            );
            // A command that ends, and one that cannot start. The size travels apart from the command
            // and may come after it has begun: until then there is none, and busybox says so with status 0.
            let script = format!(
                "stty rows 40 cols 100; before=$(stty -g)\n\
                 {exec} sh -c 'for i in $(seq 9999); do size=$(stty size 2>/dev/null); \
                 test -n \"$size\" && echo $size && break; done; \
                 test -t 0 && test -t 1 && echo a terminal; exit 5'\n\
                 echo code $?; test \"$before\" = \"$(stty -g)\" && echo put back\n\
                 {exec} /no/such/program\n\
                 echo code $?; test \"$before\" = \"$(stty -g)\" && echo put back\n"
            );
            let mut command = Command::new("/usr/bin/script");
            let file = node.scratch.dir().join("typed.sh");
            std::fs::write(&file, script)?;
            command.args(["-q", "-e", "-c"]).arg(format!("sh {}", file.display())).arg("/dev/null");
            // Its input stays open: its end would hang the terminal up.
            let mut script = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            let open = script.stdin.take();
            let said = String::from_utf8_lossy(&script.wait_with_output()?.stdout).into_owned();
            drop(open);
            for word in ["40 100", "a terminal", "code 5", "code 1"] {
                ensure!(said.contains(word), "{transport}: no `{word}` in {said}");
            }
            ensure!(said.matches("put back").count() == 2, "{transport}: {said}");
        }
        Ok(())
    })
}

#[test]
fn attach_passes_input_and_gives_the_containers_exit_code() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        for transport in ["spdy", "websocket"] {
            let pod = node.pod(&format!("attach-{transport}"));
            let script = "read line; echo got $line; exit 3";
            let container = pod.container("main", &image).script(script);
            let container = container.with(|config| config.stdin = true);
            let (_, id) = node.run(&pod, &container).await?;
            let line = ["attach", "-i", "--transport", transport, &id];
            let (out, err, code) = converse(knarr(node, &line), b"hello\n".to_vec())?;
            let said = String::from_utf8_lossy(&out);
            ensure!(said == "got hello\n" && code == Some(3), "{code:?}: {said} {err}");
        }
        Ok(())
    })
}

#[test]
fn another_runtimes_sessions_are_served_as_well() -> Result<()> {
    if !Containerd::is_installed() {
        test_support::skip("containerd is not installed");
        return Ok(());
    }
    on_a_node(async |node| {
        let containerd =
            Containerd::start(&node.scratch, Settings::new(Path::new("/usr/lib/cni")))?;
        let (cri, socket) = (containerd.client().await?, containerd.socket());
        let image = node.image("busybox")?;
        cri.pull(&image).await?;
        let pod = node.pod("foreign");
        let script = "mkdir /www; echo a page > /www/index.html; httpd -p 8080 -h /www; \
            (while :; do echo tick; sleep 0.05; done) & \
            read line; kill $!; wait; echo got $line; read line; exit 3";
        let container = pod.container("main", &image).script(script);
        let container = container.with(|config| config.stdin = true);
        let pod_id = cri.run_pod(&pod).await.context("RunPodSandbox of containerd")?;
        let id = cri.create(&pod_id, &pod, &container).await.context("CreateContainer")?;
        cri.start(&id).await.context("StartContainer")?;
        let input: Vec<u8> = (0_u32..100_000).flat_map(u32::to_le_bytes).collect();
        let line = ["exec", "-i", &id, "--", "sh", "-c", "cat; exit 7"];
        let (out, err, code) = converse(knarr_at(node, &socket, &line), input.clone())?;
        ensure!(out == input && code == Some(7), "exec: {} bytes, {code:?}, {err}", out.len());
        let mut forward = knarr_at(node, &socket, &["port-forward", &pod_id, ":8080"]);
        let mut child = Running(forward.stdout(Stdio::piped()).spawn()?);
        let mut lines = BufReader::new(child.0.stdout.take().context("its output")?).lines();
        let announced = lines.next().context("no port is announced")??;
        let local = announced.split_once(" -> ").context("an announced port")?.0;
        let page = get(local)?;
        ensure!(page.ends_with("a page\n"), "port-forward: {page}");
        drop(child);
        let mut attach = knarr_at(node, &socket, &["attach", "-i", &id]);
        let mut child = Running(attach.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?);
        // At the end of the input this runtime sends no more output: it stays open.
        let mut stdin = child.0.stdin.take().context("its input")?;
        let mut output = BufReader::new(child.0.stdout.take().context("its output")?);
        // It may pass the input on before it has somebody to send the output to.
        let mut said = String::new();
        output.read_line(&mut said)?;
        stdin.write_all(b"hello\n")?;
        while said.ends_with("tick\n") && output.read_line(&mut said)? > 0 {}
        ensure!(said.ends_with("tick\ngot hello\n"), "attach: {said}");
        // What is printed in the last moment is often lost by that runtime, and when the container's status has
        // its exit code is its affair.
        stdin.write_all(b"end\n")?;
        output.read_to_string(&mut said)?;
        ensure!(said.ends_with("got hello\n"), "attach: {said}");
        child.0.wait()?;
        cri.remove_everything().await
    })
}

/// Ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[test]
fn ports_are_forwarded_over_both_families_and_refusals_end_nothing() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("forward");
        let script = "mkdir /www; echo a page > /www/index.html; exec httpd -f -p 8080 -h /www";
        let (pod_id, _) = node.run(&pod, &pod.container("main", &image).script(script)).await?;
        for transport in ["spdy", "websocket"] {
            let line = ["port-forward", "--transport", transport, &pod_id, ":8080", ":9999"];
            let mut command = knarr(node, &line);
            let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
            let mut child = Running(child);
            let mut lines = BufReader::new(child.0.stdout.take().context("its output")?).lines();
            let mut open = Vec::new();
            let mut dead = Vec::new();
            while let Some(line) = lines.next().transpose()? {
                let (local, remote) = line.split_once(" -> ").context("an announced port")?;
                if remote == "8080" { &mut open } else { &mut dead }.push(local.to_owned());
                if dead.len() == open.len() && dead.len() == if has_ipv6() { 2 } else { 1 } {
                    break;
                }
            }
            let mut refused = TcpStream::connect(&dead[0])?;
            ensure!(matches!(refused.read(&mut [0; 1]), Ok(0) | Err(_)), "somebody answered");
            for local in &open {
                let page = get(local)?;
                ensure!(page.ends_with("a page\n"), "{transport} {local}: {page}");
            }
        }
        Ok(())
    })
}

fn has_ipv6() -> bool {
    std::net::TcpListener::bind("[::1]:0").is_ok()
}

/// The server may not be up yet: a refusal is no end.
fn get(address: &str) -> Result<String> {
    loop {
        let mut tcp = TcpStream::connect(address)?;
        tcp.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut page = String::new();
        if tcp.read_to_string(&mut page).is_ok() && !page.is_empty() {
            return Ok(page);
        }
    }
}
