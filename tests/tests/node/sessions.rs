//! Exec, attach and port-forward with a client as kubelet has one.

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use streaming::Streams;
use streaming::client::{ClientProcess, Transport, Verdict};
use test_support::cri::refused;
use test_support::node::{PATIENCE, on_a_node};
use tokio::net::TcpListener;
use tonic::Code;

use crate::live::{Live, TRANSPORTS, attach, exec_url, forwarder, pair};

#[test]
fn megabytes_go_through_a_command_and_come_back() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("bulk").await?;
        for transport in TRANSPORTS {
            let sent: Vec<u8> = (0..=250).cycle().take(6_000_000).collect();
            let mut live = Live::exec(node, &id, "cat; echo end >&2; exit 3", transport).await?;
            let mut stdin = live.process.stdin.take().context("no stdin")?;
            let feed = async {
                stdin.write_all(&sent).await?;
                stdin.finish();
                anyhow::Ok(())
            };
            let (fed, rest) = tokio::join!(feed, live.rest());
            fed?;
            let (out, err, verdict) = rest?;
            ensure!(out == sent, "{transport:?}: {} bytes came back", out.len());
            ensure!(err == b"end\n" && verdict == Verdict::ExitCode(3), "{verdict:?}");
        }
        Ok(())
    })
}

#[test]
fn an_exec_with_a_terminal_has_the_clients_size() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("tty").await?;
        for transport in TRANSPORTS {
            let script = "stty -echo; echo ready; read x; stty size; echo $TERM";
            let url = exec_url(node, &id, script, true).await?;
            let mut live = Live::connect(&url, transport, true).await?;
            live.expect("ready").await?;
            // The size travels apart from the input: it has arrived when the kernel shows it.
            let sizes = live.process.sizes.as_mut().context("no stream for sizes")?;
            sizes.resize(streaming::TerminalSize { width: 132, height: 43 }).await?;
            let seen = "for p in /dev/pts/[0-9]*; do stty size <$p; done";
            let limit = tokio::time::Instant::now() + PATIENCE;
            while !node.cri.shell(&id, seen).await?.contains("43 132") {
                ensure!(tokio::time::Instant::now() < limit, "the size does not arrive");
            }
            live.send("\n").await?;
            live.expect("43 132\r\nxterm\r\n").await?;
            ensure!(live.rest().await?.2 == Verdict::Success);
        }
        Ok(())
    })
}

#[test]
fn a_client_that_disappears_leaves_no_process() -> Result<()> {
    on_a_node(async |node| {
        let (_, id) = node.sleeper("gone").await?;
        let script = "trap '' HUP; echo ready; while :; do sleep 4321; done";
        let mut live = Live::exec(node, &id, script, Transport::Spdy).await?;
        live.expect("ready").await?;
        let all = test_support::proc::all();
        let ours = |p: &&test_support::proc::Process| {
            p.cgroups.contains(id.as_str()) && p.cmdline.contains("4321")
        };
        let pids: Vec<i32> = all.iter().filter(ours).map(|p| p.pid).collect();
        ensure!(!pids.is_empty(), "the command does not run");
        drop(live);
        let gone =
            move || pids.iter().try_for_each(|p| test_support::proc::wait_gone(*p, PATIENCE));
        tokio::task::spawn_blocking(gone).await??;
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        Ok(())
    })
}

#[test]
fn clients_attach_before_and_after_a_crash_of_the_daemon() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("attach");
        let script = "(while :; do echo tick; sleep 0.05; done) & \
            while read line; do echo got $line; echo problem >&2; done; kill $!; wait; exit 4";
        let container = pod.container("main", &image).script(script).with(|config| {
            config.stdin = true;
            config.stdin_once = true;
        });
        let (_, id) = node.run(&pod, &container).await?;
        let mut old = attach(node, &id, Transport::Spdy).await?;
        old.send("one\n").await?;
        old.expect("got one\n").await?;
        node.crash_and_restart()?;
        drop(old);
        let mut first = attach(node, &id, Transport::WebSocket).await?;
        let mut second = attach(node, &id, Transport::Spdy).await?;
        // The connection is there before anything is attached to.
        first.expect("tick\n").await?;
        second.expect("tick\n").await?;
        first.send("two\n").await?;
        first.finish();
        for live in [first, second] {
            let (out, err, verdict) = live.rest().await?;
            let out = String::from_utf8_lossy(&out).replace("tick\n", "");
            ensure!(out == "got two\n" && err == b"problem\n", "{out:?} {err:?}");
            ensure!(verdict == Verdict::Success, "{verdict:?}");
        }
        ensure!(node.wait_exited(&id).await?.exit_code == 4);
        Ok(())
    })
}

#[test]
fn a_container_that_is_stopped_ends_its_sessions() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("stopped");
        let container =
            pod.container("main", &image).script("while :; do echo tick; sleep 0.1; done");
        let (_, id) = node.run(&pod, &container).await?;
        let mut exec = Live::exec(node, &id, "echo ready; cat", Transport::Spdy).await?;
        exec.expect("ready").await?;
        let mut attached = attach(node, &id, Transport::WebSocket).await?;
        // The connection is there before anything is attached to.
        attached.expect("tick").await?;
        node.cri.stop(&id, 0).await?;
        let ended = exec.rest().await?.2;
        ensure!(ended == Verdict::ExitCode(137), "{ended:?}");
        let ended = attached.rest().await?.2;
        ensure!(ended == Verdict::Success, "{ended:?}");
        Ok(())
    })
}

#[test]
fn ports_of_the_host_are_forwarded_for_pods_that_use_its_network() -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    on_a_node(async |node| {
        let pod = node.pod("host").namespaces(|ns| ns.network = v1::NamespaceMode::Node.into());
        // CRI: the host's name is its own.
        let pod = pod.with(|config| config.hostname.clear());
        let pod = node.cri.run_pod(&pod).await?;
        for (transport, address) in
            [(Transport::Spdy, "127.0.0.1:0"), (Transport::WebSocket, "[::1]:0")]
        {
            let listener = TcpListener::bind(address).await?;
            let port = listener.local_addr()?.port();
            let forwarder = forwarder(node, &pod, transport).await?;
            let (mut near, far) = pair().await?;
            let serve = async {
                let (mut tcp, _) = listener.accept().await?;
                let mut text = Vec::new();
                tcp.read_to_end(&mut text).await?;
                text.reverse();
                tcp.write_all(&text).await?;
                anyhow::Ok(())
            };
            let ask = async {
                near.write_all(b"abc").await?;
                near.shutdown().await?;
                let mut text = Vec::new();
                near.read_to_end(&mut text).await?;
                anyhow::Ok(text)
            };
            let (served, text, forwarded) = tokio::join!(serve, ask, forwarder.forward(port, far));
            served?;
            ensure!(text? == b"cba", "{address}");
            forwarded?;
            drop(listener);
            let (_near, far) = pair().await?;
            let refused = forwarder.forward(port, far).await;
            let text = refused.err().map(|error| error.to_string()).unwrap_or_default();
            ensure!(text.contains(&port.to_string()), "{text}");
        }
        Ok(())
    })
}

#[test]
fn what_cannot_be_streamed_is_refused_at_once() -> Result<()> {
    on_a_node(async |node| {
        let (pod, id) = node.sleeper("refused").await?;
        let mut runtime = node.cri.runtime.clone();
        let good = v1::ExecRequest {
            container_id: id.clone(),
            cmd: vec!["true".to_owned()],
            stdout: true,
            ..Default::default()
        };
        let with = |change: fn(&mut v1::ExecRequest)| {
            let mut request = good.clone();
            change(&mut request);
            request
        };
        for bad in [
            with(|r| r.container_id.clear()),
            with(|r| r.cmd.clear()),
            with(|r| r.stdout = false),
            with(|r| (r.tty, r.stderr) = (true, true)),
        ] {
            refused(runtime.exec(bad).await, Code::InvalidArgument, &[])?;
        }
        let unknown = with(|r| r.container_id = "0".repeat(64));
        refused(runtime.exec(unknown).await, Code::NotFound, &[])?;
        let url = runtime.exec(good.clone()).await?.into_inner().url;
        let wanted = Streams::new(false, true, false, false)?;
        let session = ClientProcess::connect(&url, Transport::Spdy, wanted).await?;
        ensure!(ClientProcess::connect(&url, Transport::Spdy, wanted).await.is_err(), "used twice");
        drop(session);
        let port = v1::PortForwardRequest { pod_sandbox_id: pod.clone(), port: vec![70_000] };
        refused(runtime.port_forward(port).await, Code::InvalidArgument, &["70000"])?;
        node.cri.stop(&id, 0).await?;
        refused(runtime.exec(good).await, Code::FailedPrecondition, &["exited"])?;
        node.cri.stop_pod(&pod).await?;
        let port = v1::PortForwardRequest { pod_sandbox_id: pod, port: vec![80] };
        refused(runtime.port_forward(port).await, Code::FailedPrecondition, &["not ready"])?;
        Ok(())
    })
}
