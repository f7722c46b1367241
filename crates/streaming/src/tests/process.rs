use std::time::Duration;

use client::{ClientProcess, Verdict};

use super::*;

async fn run(node: &Node, transport: client::Transport, command: &[&str], input: &[u8]) -> Seen {
    let url = node.exec(command, all());
    let process = ClientProcess::connect(&url, transport, all()).await.unwrap();
    converse(process, input).await
}

#[tokio::test]
async fn output_error_output_and_exit_code_arrive_over_each_transport() {
    let node = Node::start().await;
    for transport in TRANSPORTS {
        let script = "echo out; echo err >&2; exit 3";
        let seen = run(&node, transport, &["sh", "-c", script], b"").await;
        assert_eq!(seen.stdout(), "out\n");
        assert_eq!(seen.stderr, b"err\n");
        assert_eq!(seen.verdict, Verdict::ExitCode(3), "{transport:?}");
        let seen = run(&node, transport, &["true"], b"").await;
        assert_eq!(seen.verdict, Verdict::Success);
        let seen = run(&node, transport, &["sh", "-c", "kill -9 $$"], b"").await;
        assert_eq!(seen.verdict, Verdict::ExitCode(137));
    }
    node.stop().await;
}

#[tokio::test]
async fn a_command_that_cannot_start_is_told_with_its_cause() {
    let node = Node::start().await;
    for transport in TRANSPORTS {
        let seen = run(&node, transport, &["/no/such/command"], b"").await;
        let Verdict::Failure(text) = seen.verdict else { panic!("{:?}", seen.verdict) };
        assert!(text.contains("error executing command in container: No such file"), "{text}");
    }
    node.stop().await;
}

#[tokio::test]
async fn megabytes_go_both_ways_and_the_end_of_input_is_seen() {
    let node = Node::start().await;
    let input = pattern(5_000_000);
    for transport in TRANSPORTS {
        let seen = run(&node, transport, &["cat"], &input).await;
        assert!(seen.stdout == input, "{transport:?}: {} bytes came back", seen.stdout.len());
        assert_eq!(seen.verdict, Verdict::Success);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_process_that_takes_no_input_ends_in_good_order() {
    let node = Node::start().await;
    let input = pattern(3_000_000);
    for transport in TRANSPORTS {
        let seen = run(&node, transport, &["head", "-c", "10"], &input).await;
        assert_eq!(seen.stdout, input[..10]);
        assert_eq!(seen.verdict, Verdict::Success);
    }
    node.stop().await;
}

#[tokio::test]
async fn what_was_written_before_the_exit_is_delivered_to_a_slow_reader() {
    let node = Node::start().await;
    for transport in TRANSPORTS {
        let streams = Streams::new(false, true, false, false).unwrap();
        let url = node.exec(&["head", "-c", "600000", "/dev/zero"], streams);
        let mut process = ClientProcess::connect(&url, transport, streams).await.unwrap();
        let slow = async {
            let mut total = 0;
            let stdout = process.stdout.as_mut().unwrap();
            while let Some(bytes) = stdout.next().await {
                total += bytes.len();
                for _ in 0..50 {
                    tokio::task::yield_now().await;
                }
            }
            let verdict = process.end.verdict().await.unwrap();
            process.end.close();
            (total, verdict)
        };
        let (seen, ()) = tokio::join!(slow, process.driver);
        assert_eq!(seen, (600_000, Verdict::Success), "{transport:?}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_descendant_that_keeps_the_output_open_is_waited_for_only_so_long() {
    let config = Config { drain_timeout: Duration::from_millis(100), ..Config::default() };
    let node = Node::with(config).await;
    for transport in TRANSPORTS {
        // The descendant ends when its stdin does: with this process at the latest.
        let script = "exec 3<&0; (exec cat <&3 >/dev/null) & echo begun; exit 4";
        let url = node.exec(&["sh", "-c", script], all());
        let mut process = ClientProcess::connect(&url, transport, all()).await.unwrap();
        let talk = async {
            let (stdout, stderr, verdict) = tokio::join!(
                read(&mut process.stdout),
                read(&mut process.stderr),
                process.end.verdict()
            );
            process.end.close();
            (stdout, stderr, verdict.unwrap())
        };
        let (seen, ()) = tokio::join!(talk, process.driver);
        assert_eq!(seen, (b"begun\n".to_vec(), Vec::new(), Verdict::ExitCode(4)));
    }
    node.stop().await;
}

#[tokio::test]
async fn a_client_that_disappears_lets_go_of_its_process() {
    let mut node = Node::start().await;
    for transport in TRANSPORTS {
        let url = node.exec(&["sleep", "1000"], all());
        let process = ClientProcess::connect(&url, transport, all()).await.unwrap();
        drop(process);
        node.dropped.recv().await.unwrap();
    }
    node.stop().await;
}

#[tokio::test]
async fn a_client_that_disappears_with_its_input_stuck_lets_go_as_well() {
    let mut node = Node::start().await;
    let url = node.exec(&["sleep", "1000"], all());
    let mut process = ClientProcess::connect(&url, client::Transport::Spdy, all()).await.unwrap();
    let input = pattern(20_000_000);
    {
        // More than pipe, buffers and sockets hold: it can never be sent.
        let stdin = process.stdin.as_mut().unwrap();
        let stuck = tokio::time::timeout(Duration::from_secs(1), stdin.write_all(&input));
        tokio::select! {
            stuck = stuck => assert!(stuck.is_err()),
            () = &mut process.driver => panic!("the connection ended"),
        }
    }
    drop(process);
    node.dropped.recv().await.unwrap();
    node.stop().await;
}

#[tokio::test]
async fn a_terminals_sizes_arrive() {
    let mut node = Node::start().await;
    let streams = Streams::new(true, true, false, true).unwrap();
    for transport in TRANSPORTS {
        let url = node.exec(&["cat"], streams);
        let mut process = ClientProcess::connect(&url, transport, streams).await.unwrap();
        let size = TerminalSize { width: 132, height: 50 };
        let set = async {
            process.sizes.as_mut().unwrap().resize(size).await.unwrap();
            node.sizes.recv().await
        };
        tokio::select! {
            seen = set => assert_eq!(seen, Some(size)),
            () = &mut process.driver => panic!("the connection ended"),
        }
        drop(process);
        node.dropped.recv().await.unwrap();
    }
    node.stop().await;
}

#[tokio::test]
async fn attach_carries_input_and_output_and_ends_in_success() {
    let node = Node::start().await;
    for transport in TRANSPORTS {
        let request = AttachRequest { container: container(), streams: all() };
        let url = node.urls.attach(request).unwrap();
        let process = ClientProcess::connect(&url, transport, all()).await.unwrap();
        let seen = converse(process, b"hello").await;
        assert_eq!(seen.stdout(), "hello");
        assert_eq!(seen.verdict, Verdict::Success);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_server_that_stops_tells_running_sessions() {
    let node = Node::start().await;
    let url = node.exec(&["sleep", "1000"], all());
    let process = ClientProcess::connect(&url, client::Transport::Spdy, all()).await.unwrap();
    let (seen, ()) = tokio::join!(converse(process, b""), node.stop());
    let Verdict::Failure(text) = seen.verdict else { panic!("{:?}", seen.verdict) };
    assert!(text.contains("the container runtime is stopping"), "{text}");
}

/// The short form of `cargo xtask bench streaming`: each session moves its bytes both ways.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_sessions_at_once_lose_no_byte() {
    let node = Arc::new(Node::start().await);
    let input = Arc::new(pattern(200_000));
    let mut running = tokio::task::JoinSet::new();
    for number in 0..60 {
        let (node, input) = (Arc::clone(&node), Arc::clone(&input));
        running.spawn(async move {
            let transport = TRANSPORTS[number % 2];
            let code = (number % 256).to_string();
            let script = format!("cat; exit {code}");
            let seen = run(&node, transport, &["sh", "-c", &script], &input).await;
            assert!(seen.stdout == *input, "session {number}: {} bytes", seen.stdout.len());
            let want = match i32::try_from(number % 256).unwrap() {
                0 => Verdict::Success,
                code => Verdict::ExitCode(code),
            };
            assert_eq!(seen.verdict, want);
        });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
    Arc::into_inner(node).unwrap().stop().await;
}
