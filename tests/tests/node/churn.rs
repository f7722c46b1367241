//! Many pods come and go at once while the daemon is killed again and again: nothing is left.
//!
//! A short form runs always; `KNARR_CHURN=long` is 500 pods, 16 at once, ten kills, and `kills` is
//! 100 pods, 8 at once, fifty kills.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cri_api::v1;
use test_support::cri::Cri;
use test_support::node::on_a_node;
use test_support::pods::PodBuilder;
use tokio::sync::watch;
use tonic::{Code, Status};

struct Size {
    pods: usize,
    at_once: usize,
    kills: usize,
}

fn size() -> Size {
    match std::env::var("KNARR_CHURN").as_deref() {
        Ok("long") => Size { pods: 500, at_once: 16, kills: 10 },
        Ok("kills") => Size { pods: 100, at_once: 8, kills: 50 },
        Ok(_) | Err(_) => Size { pods: 32, at_once: 8, kills: 3 },
    }
}

/// Numbers that look random and can be had again: a failure prints the seed.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let seed = std::env::var("KNARR_CHURN_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
        println!("KNARR_CHURN_SEED={seed}");
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit.max(1)
    }
}

/// What the workers and the killer share.
struct Shared {
    cri: Cri,
    pods: Vec<PodBuilder>,
    next: AtomicUsize,
    /// Requests made so far.
    requests: watch::Sender<usize>,
    /// Whether the daemon runs.
    up: watch::Receiver<bool>,
}

#[test]
fn pods_that_come_and_go_under_a_daemon_that_is_killed_leave_nothing() -> Result<()> {
    let size = size();
    on_a_node(async |node| {
        let published = |number: usize| {
            let pod = node.pod(&format!("churn{number}"));
            pod.with(|config| {
                config.port_mappings = vec![v1::PortMapping {
                    protocol: v1::Protocol::Tcp.into(),
                    container_port: 80,
                    // High, and no two of those that run at once the same.
                    host_port: i32::try_from(40_000 + number % 500).unwrap_or(40_000),
                    // Of the test network, so that other tests' ports are not in the way.
                    host_ip: format!("{}1", node.scratch.subnet_prefix()),
                }];
            })
        };
        let (says_up, up) = watch::channel(true);
        let (requests, mut made) = watch::channel(0);
        let shared = Arc::new(Shared {
            cri: node.cri.clone(),
            pods: (0..size.pods).map(published).collect(),
            next: AtomicUsize::new(0),
            requests,
            up,
        });
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..size.at_once {
            workers.spawn(work(Arc::clone(&shared)));
        }
        let mut dice = Dice::new();
        let mut lists = Vec::new();
        // Three requests a pod: the kills fall between the first and the last of them.
        let apart = u64::try_from(size.pods * 3 / (size.kills + 1))?;
        for kill in 0..size.kills {
            let least = usize::try_from(u64::try_from(kill)? * apart + dice.below(apart))?;
            made.wait_for(|made| *made >= least).await.context("the workers ended")?;
            tokio::time::sleep(Duration::from_micros(dice.below(8_000))).await;
            says_up.send_replace(false);
            node.daemon.kill9()?;
            let begun = Instant::now();
            node.daemon.launch(&node.scratch)?;
            Cri::connect(&node.scratch.socket())?.pods(None).await?;
            lists.push(begun.elapsed());
            says_up.send_replace(true);
        }
        lists.sort_unstable();
        println!(
            "from the start to the first list: median {:?}, 95 of 100 within {:?}, longest {:?}",
            lists.get(lists.len() / 2),
            lists.get(lists.len() * 95 / 100),
            lists.last()
        );
        while let Some(done) = workers.join_next().await {
            done.context("a worker panicked")??;
        }
        println!("{} calls", *made.borrow());
        ensure!(node.cri.pods(None).await?.is_empty(), "pods are still listed");
        Ok(())
    })
}

async fn work(shared: Arc<Shared>) -> Result<()> {
    loop {
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let Some(pod) = shared.pods.get(number) else { return Ok(()) };
        let name = pod.config.metadata.clone().unwrap_or_default().name;
        let id = loop {
            let started = start(&shared.cri, pod, &name).await;
            if let Some(id) =
                shared.settled(started).await.with_context(|| format!("start {name}"))?
            {
                break id;
            }
        };
        loop {
            let stopped = shared.cri.stop_pod(&id).await;
            if shared.settled(stopped).await.with_context(|| format!("stop {name}"))?.is_some() {
                break;
            }
        }
        loop {
            let removed = shared.cri.remove_pod(&id).await;
            if shared.settled(removed).await.with_context(|| format!("remove {name}"))?.is_some() {
                break;
            }
        }
    }
}

/// As kubelet would: a pod whose start was answered to nobody is found by its name.
async fn start(cri: &Cri, pod: &PodBuilder, name: &str) -> Result<String, Status> {
    match cri.run_pod(pod).await {
        Err(status) if status.code() == Code::AlreadyExists => {
            let listed = cri.pods(None).await?;
            let found = listed
                .into_iter()
                .find(|pod| pod.metadata.as_ref().is_some_and(|metadata| metadata.name == name));
            // Gone meanwhile: it was half made, and is asked for again.
            found.map(|pod| pod.id).ok_or_else(|| Status::unavailable("gone meanwhile"))
        }
        answer => answer,
    }
}

impl Shared {
    /// The answer to a request; `None` when the daemon's death cut it off and it lives again.
    async fn settled<T>(&self, answer: Result<T, Status>) -> Result<Option<T>> {
        self.requests.send_modify(|made| *made += 1);
        match answer {
            Ok(value) => Ok(Some(value)),
            Err(status) if cut_off(&status) => {
                self.up.clone().wait_for(|up| *up).await.context("the test ended")?;
                tokio::task::yield_now().await;
                Ok(None)
            }
            Err(status) => Err(status.into()),
        }
    }
}

fn cut_off(status: &Status) -> bool {
    const WORDS: [&str; 4] = ["transport error", "connection", "h2 protocol", "broken pipe"];
    let of_transport = matches!(status.code(), Code::Unavailable | Code::Cancelled)
        || std::error::Error::source(status).is_some();
    of_transport || WORDS.iter().any(|word| status.message().contains(word))
}
