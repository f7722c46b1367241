//! Clients of the streaming server that break rules, stop reading or disappear: each has an answer,
//! and nothing is held for it afterwards.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use streaming::client::{ClientProcess, ForwardError, Transport, Verdict};
use test_support::cri::refused;
use test_support::node::{PATIENCE, on_a_node};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Code;

use crate::live::{
    Held, Live, TRANSPORTS, attach, exec_url, forward_url, forwarder, pair, streams,
};

const SPDY: &str = "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
    X-Stream-Protocol-Version: v4.channel.k8s.io\r\n";
const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n";

/// Host and port, and the path.
fn parts(url: &str) -> Result<(&str, &str)> {
    let rest = url.strip_prefix("http://").context("not http")?;
    Ok(rest.split_at(rest.find('/').context("no path")?))
}

/// A connection on which `head` was sent, and the beginning of the answer.
async fn ask(url: &str, method: &str, headers: &str) -> Result<(TcpStream, String)> {
    let (address, path) = parts(url)?;
    let mut tcp = TcpStream::connect(address).await?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n");
    // A server that has heard enough does not wait for the rest.
    tcp.write_all(head.as_bytes()).await.ok();
    let mut answer = Vec::new();
    let read = async {
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match tcp.read(&mut byte).await {
                Ok(1) => answer.push(byte[0]),
                Ok(_) | Err(_) => break,
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.context("no answer")?;
    Ok((tcp, String::from_utf8_lossy(&answer).into_owned()))
}

/// Everything the server still says until it closes.
async fn rest(mut tcp: TcpStream) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    let read = tcp.read_to_end(&mut all);
    // What is unread when it closes makes it a reset: as good an end.
    tokio::time::timeout(PATIENCE, read).await.context("the server does not close")?.ok();
    Ok(all)
}

#[test]
fn requests_that_are_none_are_answered_and_nothing_is_held_for_them() -> Result<()> {
    on_a_node(async |node| {
        let (pod, id) = node.sleeper("requests").await?;
        let before = Held::when_idle(node, &pod, &id).await?;
        let url = exec_url(node, &id, "cat", false).await?;
        let (address, path) = parts(&url)?;
        for (method, path, headers, want) in [
            ("POST", "/exec/AAAAAAAA", SPDY, "404"),
            ("POST", "/", SPDY, "404"),
            ("POST", &path.replace("/exec/", "/metrics/"), SPDY, "404"),
            ("DELETE", path, SPDY, "405"),
            ("PUT", path, SPDY, "405"),
        ] {
            let (_, answer) = ask(&format!("http://{address}{path}"), method, headers).await?;
            ensure!(answer.starts_with(&format!("HTTP/1.1 {want} ")), "{method} {path}: {answer}");
        }
        // None of these has used the token up; each of the following does.
        let session = Live::connect(&url, Transport::Spdy, false).await?;
        let (_, answer) = ask(&url, "POST", SPDY).await?;
        ensure!(answer.starts_with("HTTP/1.1 404 "), "used twice: {answer}");
        drop(session);
        for (headers, want) in [
            (SPDY.replace("v4.", "v9."), "403"),
            (WEBSOCKET.replace("v5.", "v9."), "403"),
            (WEBSOCKET.replace(": 13", ": 12"), "426"),
            (String::new(), "400"),
        ] {
            let url = exec_url(node, &id, "cat", false).await?;
            let (_, answer) = ask(&url, "GET", &headers).await?;
            ensure!(answer.starts_with(&format!("HTTP/1.1 {want} ")), "{headers}: {answer}");
        }
        let bomb = format!("X-Long: {}\r\n", "a".repeat(1 << 20));
        let (_, answer) = ask(&url, "POST", &bomb).await?;
        ensure!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
        let many: String = (0..1000).map(|n| format!("X-{n}: {n}\r\n")).collect();
        let (_, answer) = ask(&url, "POST", &many).await?;
        ensure!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
        // Somebody who says nothing, and somebody who leaves within the head.
        let silent = TcpStream::connect(address).await?;
        let mut half = TcpStream::connect(address).await?;
        half.write_all(b"POST /exec/AAAA").await?;
        drop((silent, half));
        before.is_all(node, &pod, &id).await
    })
}

#[test]
fn more_sessions_than_are_begun_are_not_promised() -> Result<()> {
    on_a_node(async |node| {
        let (pod, id) = node.sleeper("promises").await?;
        let before = Held::when_idle(node, &pod, &id).await?;
        let mut promised = 0;
        let refusal = loop {
            match exec_url(node, &id, "cat", false).await {
                Ok(_) => promised += 1,
                Err(error) => break error,
            }
        };
        ensure!(promised == 1000, "{promised}");
        let status = refusal.downcast::<tonic::Status>().context("no status")?;
        refused::<()>(Err(status), Code::ResourceExhausted, &["try again"])?;
        // What needs no promise goes on.
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        before.is_all(node, &pod, &id).await
    })
}

/// A control frame of SPDY.
fn control(kind: u16, flags: u8, body: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(body.len())?.to_be_bytes();
    let mut frame = vec![0x80, 3];
    frame.extend(kind.to_be_bytes());
    frame.extend([flags, length[1], length[2], length[3]]);
    frame.extend(body);
    Ok(frame)
}

/// Opens streams of one connection: their header blocks are one zlib stream.
#[derive(Default)]
struct Opener {
    opened: u32,
}

impl Opener {
    fn open(&mut self, kind: &str) -> Result<Vec<u8>> {
        let mut plain = 1_u32.to_be_bytes().to_vec();
        for text in ["streamtype", kind] {
            plain.extend(u32::try_from(text.len())?.to_be_bytes());
            plain.extend(text.as_bytes());
        }
        let mut block = Vec::new();
        if self.opened == 0 {
            // zlib's head, with the checksum of SPDY/3's dictionary.
            block.extend([0x78, 0x20, 0xe3, 0xc6, 0xa7, 0xc2]);
        }
        let length = u16::try_from(plain.len())?;
        block.push(0);
        block.extend(length.to_le_bytes());
        block.extend((!length).to_le_bytes());
        block.extend(plain);
        block.extend([0, 0, 0, 0xff, 0xff]);
        let id = 2 * self.opened + 1;
        self.opened += 1;
        let mut body = id.to_be_bytes().to_vec();
        body.extend([0; 6]);
        body.extend(block);
        control(1, 0, &body)
    }
}

#[test]
fn clients_that_break_the_protocol_are_cut_and_nothing_is_held_for_them() -> Result<()> {
    on_a_node(async |node| {
        let (pod, id) = node.sleeper("malformed").await?;
        let before = Held::when_idle(node, &pod, &id).await?;
        let mut not_zlib = 1_u32.to_be_bytes().to_vec();
        not_zlib.extend([0; 6]);
        not_zlib.extend(b"\x78\x9cnot zlib");
        for (headers, name, bytes) in [
            (SPDY, "another version", vec![0x80, 2, 0, 1, 0, 0, 0, 10]),
            (SPDY, "a control frame of 16 MiB", vec![0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff]),
            (SPDY, "headers that are not zlib", control(1, 0, &not_zlib)?),
            (SPDY, "a ping of the wrong length", control(6, 0, &[0; 5])?),
            (WEBSOCKET, "no mask", b"\x82\x02\x00x".to_vec()),
            (WEBSOCKET, "reserved bits", b"\xf2\x80\0\0\0\0".to_vec()),
            (WEBSOCKET, "64 bits of length", vec![0xff; 14]),
        ] {
            let url = exec_url(node, &id, "cat", false).await?;
            let (mut tcp, answer) = ask(&url, "GET", headers).await?;
            ensure!(answer.starts_with("HTTP/1.1 101 "), "{name}: {answer}");
            tcp.write_all(&bytes).await?;
            let said = rest(tcp).await?;
            // GOAWAY of a protocol error, or WebSocket's 1002.
            let goodbye = if headers == SPDY { &[0, 0, 0, 1][..] } else { &[0x03, 0xea] };
            ensure!(said.ends_with(goodbye), "{name}: {said:x?}");
        }
        before.is_all(node, &pod, &id).await
    })
}

#[test]
fn streams_beyond_the_bound_are_reset_and_the_session_waits_for_those_it_needs() -> Result<()> {
    on_a_node(async |node| {
        let (pod, id) = node.sleeper("streams").await?;
        let before = Held::when_idle(node, &pod, &id).await?;
        let url = exec_url(node, &id, "cat", false).await?;
        let (mut tcp, answer) = ask(&url, "POST", SPDY).await?;
        ensure!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
        let mut opener = Opener::default();
        let mut all = Vec::new();
        for _ in 0..100 {
            all.extend(opener.open("nothing")?);
        }
        all.extend(control(6, 0, &1_u32.to_be_bytes())?);
        tcp.write_all(&all).await?;
        // The echo of the ping is behind all answers that came before it.
        let (mut resets, mut replies) = (0, 0);
        let answers = async {
            loop {
                let mut head = [0; 8];
                tcp.read_exact(&mut head).await?;
                let length = u32::from_be_bytes([0, head[5], head[6], head[7]]);
                let mut body = vec![0; usize::try_from(length)?];
                tcp.read_exact(&mut body).await?;
                match head[3] {
                    2 => replies += 1,
                    3 => resets += 1,
                    6 => {}
                    other => anyhow::bail!("a frame of type {other}"),
                }
                if resets + replies == 100 {
                    return Ok(());
                }
            }
        };
        tokio::time::timeout(PATIENCE, answers).await.context("not all are answered")??;
        ensure!(replies == 16 && resets == 84, "{replies} accepted, {resets} reset");
        drop(tcp);
        before.is_all(node, &pod, &id).await
    })
}

#[test]
fn clients_that_stop_reading_or_disappear_leave_nothing() -> Result<()> {
    on_a_node(async |node| {
        let (pod, id) = node.sleeper("silent").await?;
        let before = Held::when_idle(node, &pod, &id).await?;
        for transport in TRANSPORTS {
            // Reads nothing of what never ends; the command does not heed SIGHUP either.
            let url = exec_url(node, &id, "trap '' HUP; yes", false).await?;
            let unread = ClientProcess::connect(&url, transport, streams(false)?).await?;
            // Sends what nobody takes.
            let mut stuck = Live::exec(node, &id, "echo ready; sleep 4321", transport).await?;
            stuck.expect("ready").await?;
            let text = "x".repeat(8 << 20);
            let sent = tokio::time::timeout(Duration::from_millis(300), stuck.send(&text)).await;
            ensure!(sent.is_err(), "8 MiB were taken");
            let url = exec_url(node, &id, "sleep 4321", true).await?;
            let terminal = Live::connect(&url, transport, true).await?;
            let attached = attach(node, &id, transport).await?;
            drop((unread, stuck, terminal, attached));
        }
        before.is_all(node, &pod, &id).await?;
        ensure!(node.cri.shell(&id, "echo alive").await? == "alive");
        Ok(())
    })
}

#[test]
fn a_client_that_reads_too_slowly_is_given_up_and_slows_nobody() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("slow");
        let (pod_id, other) = node.run(&pod, &pod.container("other", &image).sleeper()).await?;
        let before = Held::when_idle(node, &pod_id, &other).await?;
        // Copied in blocks: made byte by byte it would take longer than the patience with the rest.
        let script = "read go; cd /tmp; head -c 8000 /dev/zero | tr '\\0' x >a; echo >>a; \
            for n in 1 2 3; do cat a a a a a a a a a a >b; mv b a; done; cat a a a a a";
        let writer = pod.container("writer", &image).script(script);
        let writer = writer.with(|config| config.stdin = true);
        let writer = node.cri.create(&pod_id, &pod, &writer).await?;
        node.cri.start(&writer).await?;
        // Nobody moves this one's bytes yet; the other's are moved, and nobody takes them.
        let request = v1::AttachRequest {
            container_id: writer.clone(),
            stdin: false,
            tty: false,
            stdout: true,
            stderr: false,
        };
        let url = node.cri.runtime.clone().attach(request).await?.into_inner().url;
        let only_output = streaming::Streams::new(false, true, false, false)?;
        let mut slow = ClientProcess::connect(&url, Transport::Spdy, only_output).await?;
        let mut starter = attach(node, &writer, Transport::WebSocket).await?;
        starter.send("go\n").await?;
        let ended = node.wait_exited(&writer).await?;
        let log = std::fs::metadata(&ended.log_path)?.len();
        ensure!(ended.exit_code == 0 && log > 40_000_000, "{log} bytes in the log");
        let mut stdout = slow.stdout.take().context("no stdout")?;
        let read = async {
            let mut total = 0;
            while let Some(bytes) = stdout.next().await {
                total += bytes.len();
            }
            total
        };
        let all = async { tokio::join!(slow.driver, slow.end.verdict(), read) };
        let ((), verdict, total) = tokio::time::timeout(PATIENCE, all).await?;
        let Verdict::Failure(why) = verdict? else { anyhow::bail!("no failure") };
        ensure!(why.contains("left unread") && total < 40_000_000, "{why}; {total} bytes");
        drop(starter);
        node.cri.remove(&writer).await?;
        before.is_all(node, &pod_id, &other).await
    })
}

#[test]
fn a_container_that_is_stopped_in_the_middle_leaves_nothing_but_its_pod() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("middle");
        let (pod_id, other) = node.run(&pod, &pod.container("other", &image).sleeper()).await?;
        let before = Held::when_idle(node, &pod_id, &other).await?;
        let victim = pod.container("victim", &image).sleeper();
        let victim = node.cri.create(&pod_id, &pod, &victim).await?;
        node.cri.start(&victim).await?;
        let mut sessions = Vec::new();
        for transport in TRANSPORTS {
            let mut busy = Live::exec(node, &victim, "echo ready; yes", transport).await?;
            busy.expect("ready").await?;
            sessions.push((busy, Verdict::ExitCode(137)));
            sessions.push((attach(node, &victim, transport).await?, Verdict::Success));
        }
        node.cri.stop(&victim, 0).await?;
        for (session, want) in sessions {
            let verdict = session.rest().await?.2;
            ensure!(verdict == want, "{verdict:?}");
        }
        node.cri.remove(&victim).await?;
        before.is_all(node, &pod_id, &other).await
    })
}

#[test]
fn ports_of_a_pods_own_network_are_reached_on_both_families() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let pod = node.pod("families");
        // Each server listens on one address of the pod's own loopback.
        let script = "mkdir /four /six; echo by four > /four/index.html; \
            echo by six > /six/index.html; httpd -p 127.0.0.1:8004 -h /four; \
            httpd -p '[::1]:8006' -h /six; echo listening; sleep 1000000";
        let (pod_id, id) = node.run(&pod, &pod.container("main", &image).script(script)).await?;
        node.wait_log(&id, "listening").await?;
        let before = Held::when_idle(node, &pod_id, &id).await?;
        for transport in TRANSPORTS {
            let forwarder = forwarder(node, &pod_id, transport).await?;
            let get = async |port: u16| {
                let (mut near, far) = pair().await?;
                // Closes its connection at the end: until then it might send more.
                let ask = async move {
                    near.write_all(b"GET / HTTP/1.0\r\n\r\n").await?;
                    let mut page = String::new();
                    near.read_to_string(&mut page).await?;
                    anyhow::Ok(page)
                };
                let (forwarded, page) = tokio::join!(forwarder.forward(port, far), ask);
                forwarded?;
                page
            };
            let pages = tokio::join!(get(8004), get(8006), get(8004), get(8006));
            for (page, want) in
                [(pages.0?, "four"), (pages.1?, "six"), (pages.2?, "four"), (pages.3?, "six")]
            {
                ensure!(page.ends_with(&format!("by {want}\n")), "{transport:?}: {page}");
            }
            let (_near, far) = pair().await?;
            let Err(ForwardError::Refused(why)) = forwarder.forward(8005, far).await else {
                anyhow::bail!("port 8005 is not refused")
            };
            ensure!(why.contains("127.0.0.1") && why.contains("::1"), "{why}");
            // The refusal has not ended the session.
            ensure!(get(8004).await?.ends_with("by four\n"));
            forwarder.close();
        }
        // One who disappears with a connection open, and one who opens none.
        let gone = forwarder(node, &pod_id, Transport::Spdy).await?;
        let (_near, far) = pair().await?;
        tokio::select! {
            _ended = gone.forward(8004, far) => anyhow::bail!("the connection ended by itself"),
            () = tokio::time::sleep(Duration::from_millis(200)) => {}
        }
        gone.close();
        drop(TcpStream::connect(parts(&forward_url(node, &pod_id).await?)?.0).await?);
        before.is_all(node, &pod_id, &id).await
    })
}

#[test]
fn a_daemon_that_is_told_to_end_tells_its_sessions_and_ends_their_commands() -> Result<()> {
    on_a_node(async |node| {
        let (pod, id) = node.sleeper("term").await?;
        let mut execs = Vec::new();
        for transport in TRANSPORTS {
            let mut live = Live::exec(node, &id, "echo ready; cat", transport).await?;
            live.expect("ready").await?;
            execs.push(live);
        }
        let attached = attach(node, &id, Transport::Spdy).await?;
        node.daemon.terminate()?;
        for live in execs.into_iter().chain([attached]) {
            let (_, _, verdict) = live.rest().await?;
            let Verdict::Failure(why) = verdict else { anyhow::bail!("{verdict:?}") };
            ensure!(why.contains("runtime is stopping"), "{why}");
        }
        node.daemon.launch(&node.scratch)?;
        let held = Held::when_idle(node, &pod, &id).await?;
        let left = node.cri.shell(&id, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").await?;
        ensure!(!left.contains("echo ready"), "{left}");
        // The container has not noticed.
        let mut live = Live::exec(node, &id, "echo again; cat", Transport::Spdy).await?;
        live.expect("again").await?;
        live.finish();
        ensure!(live.rest().await?.2 == Verdict::Success);
        held.is_all(node, &pod, &id).await
    })
}

#[test]
fn a_terminal_whose_output_nobody_wants_does_not_hold_its_command_up() -> Result<()> {
    on_a_node(async |node| {
        let (pod, id) = node.sleeper("unwanted").await?;
        let before = Held::when_idle(node, &pod, &id).await?;
        for transport in TRANSPORTS {
            let request = v1::ExecRequest {
                container_id: id.clone(),
                cmd: ["sh", "-c", "head -c 1000000 /dev/zero; exit 5"].map(str::to_owned).to_vec(),
                tty: true,
                stdin: true,
                stdout: false,
                stderr: false,
            };
            let url = node.cri.runtime.clone().exec(request).await?.into_inner().url;
            let only_input = streaming::Streams::new(true, false, false, true)?;
            let mut session = ClientProcess::connect(&url, transport, only_input).await?;
            let ended = async { tokio::join!(&mut session.driver, session.end.verdict()).1 };
            let verdict = tokio::time::timeout(PATIENCE, ended).await.context("it hangs")??;
            ensure!(verdict == Verdict::ExitCode(5), "{verdict:?}");
        }
        before.is_all(node, &pod, &id).await
    })
}
