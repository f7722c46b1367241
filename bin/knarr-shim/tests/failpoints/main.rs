//! A shim dies at every place there is, and separately every step fails that can: what the CRI says
//! agrees with the kernel, kubelet's next attempt succeeds, and after removal nothing is left.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::large_futures,
    clippy::panic,
    reason = "a helper of a test fails the test"
)]

mod operation;
mod walk;

use anyhow::{Result, ensure};

use crate::operation::Operation;
use crate::walk::walk;

/// A place that no operation comes by would never be tried.
#[test]
fn every_place_belongs_to_an_operation() -> Result<()> {
    let places = test_support::matrix::places(&failpoint::list_shim());
    ensure!(places.len() > 20, "there are {} places only", places.len());
    for place in &places {
        let of: Vec<_> = Operation::ALL.iter().filter(|it| it.comes_by(&place.name)).collect();
        ensure!(of.len() == 1, "{} belongs to {of:?}", place.name);
    }
    Ok(())
}

#[test]
fn running_a_pod() -> Result<()> {
    walk(Operation::RunPod)
}

#[test]
fn starting_a_container_and_a_command_in_it() -> Result<()> {
    walk(Operation::Start)?;
    walk(Operation::Exec)
}

#[test]
fn the_end_of_a_container_and_its_removal() -> Result<()> {
    walk(Operation::End)?;
    walk(Operation::Stop)?;
    walk(Operation::Remove)
}

#[test]
fn stopping_a_pod() -> Result<()> {
    walk(Operation::StopPod)?;
    walk(Operation::Leave)
}
