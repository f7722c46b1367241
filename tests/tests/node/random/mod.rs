//! Random calls, some at once, some abandoned by their caller, some just before a crash: nothing
//! panics, nothing hangs, nothing leaks, and List always agrees with the kernel.
//!
//! The same calls in every run; `KNARR_RANDOM_CASES` asks for other, and more, sequences.

mod calls;
mod shapes;
mod world;

use std::cell::RefCell;

use anyhow::{Context, Result, ensure};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use test_support::leaks::Leaks;
use test_support::node::on_a_node;

use world::World;

/// Sequences in an ordinary run: some seconds.
const CASES: u32 = 16;

/// Calls of one sequence.
const STEPS: usize = 20;

fn runner() -> Result<TestRunner> {
    // Sequences are shrunk on a live daemon: each try takes a second.
    let config = |cases| Config {
        cases,
        max_shrink_iters: 60,
        failure_persistence: None,
        ..Config::default()
    };
    match std::env::var("KNARR_RANDOM_CASES") {
        Ok(cases) => {
            let cases = cases.parse().with_context(|| format!("KNARR_RANDOM_CASES={cases}"))?;
            Ok(TestRunner::new(config(cases)))
        }
        Err(_unset) => {
            let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
            Ok(TestRunner::new_with_rng(config(CASES), rng))
        }
    }
}

#[test]
fn random_calls_leave_the_daemon_and_the_kernel_in_agreement() -> Result<()> {
    on_a_node(async |node| {
        let image = node.pulled("busybox").await?;
        let mut runner = runner()?;
        let world = RefCell::new(World::new(node, image));
        let steps = calls::steps(STEPS);
        let outcome = runner.run(&steps, |steps| {
            let mut world = world.borrow_mut();
            let run = async {
                for step in &steps {
                    world.take(step).await.with_context(|| format!("{step:?}"))?;
                }
                world.clear().await
            };
            let handle = tokio::runtime::Handle::current();
            let result = tokio::task::block_in_place(|| handle.block_on(run));
            result.map_err(|error| {
                // The next, shorter sequence begins with an empty node.
                let cleared = tokio::task::block_in_place(|| handle.block_on(world.clear()));
                let after = cleared.err().map(|e| format!("; then {e:#}")).unwrap_or_default();
                TestCaseError::fail(format!("{error:#}{after}"))
            })
        });
        outcome.map_err(|error| anyhow::anyhow!("{error}"))?;
        let seen = world.into_inner().seen;
        ensure!(seen.ran > 20 && seen.crashes > 2 && seen.refused > 20, "too little: {seen:?}");
        let log = node.daemon.log_text();
        ensure!(!log.contains("panicked at"), "the daemon panicked");
        Leaks::of(&node.scratch).assert_none()
    })
}
