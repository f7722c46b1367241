//! The daemon dies at every place there is, and separately every step fails that can: it comes
//! back, what it says agrees with the kernel, the same call made again succeeds, and after removal
//! nothing is left.
//!
//! The places are asked of the program itself. What is done to come by them is in `operation`, what
//! must hold afterwards in `walk`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::large_futures,
    clippy::panic,
    clippy::print_stderr,
    reason = "a helper of a test fails the test, or says what it could not take away"
)]

mod chain;
mod no_room;
mod operation;
mod program;
mod walk;

use anyhow::{Result, ensure};

use crate::operation::{Operation, is_elsewhere};
use crate::walk::walk;

/// A place that no operation comes by would never be tried.
#[test]
fn every_place_belongs_to_an_operation() -> Result<()> {
    let places = program::places()?;
    ensure!(places.len() > 60, "the program lists {} places only", places.len());
    for place in &places {
        let of: Vec<_> = Operation::ALL.iter().filter(|it| it.comes_by(&place.name)).collect();
        let elsewhere = usize::from(is_elsewhere(&place.name));
        ensure!(of.len() + elsewhere == 1, "{} belongs to {of:?}", place.name);
    }
    Ok(())
}

#[test]
fn running_a_pod() -> Result<()> {
    walk(Operation::RunPod)
}

#[test]
fn creating_a_container() -> Result<()> {
    walk(Operation::Create)
}

#[test]
fn starting_a_container() -> Result<()> {
    walk(Operation::Start)
}

#[test]
fn stopping_a_container() -> Result<()> {
    walk(Operation::Stop)
}

#[test]
fn removing_a_container() -> Result<()> {
    walk(Operation::Remove)
}

#[test]
fn stopping_a_pod() -> Result<()> {
    walk(Operation::StopPod)
}

#[test]
fn removing_a_pod() -> Result<()> {
    walk(Operation::RemovePod)
}

#[test]
fn updating_a_pod_and_a_container() -> Result<()> {
    walk(Operation::UpdatePod)?;
    walk(Operation::Update)
}

#[test]
fn pulling_an_image() -> Result<()> {
    walk(Operation::Pull)
}

#[test]
fn removing_an_image() -> Result<()> {
    walk(Operation::RemoveImage)
}

#[test]
fn starting_the_daemon() -> Result<()> {
    walk(Operation::Recover)
}

#[test]
fn chains_of_plugins() -> Result<()> {
    chain::walk()
}

#[test]
fn no_room_for_a_pod() -> Result<()> {
    no_room::walk(Operation::RunPod, 10)
}

#[test]
fn no_room_for_a_container() -> Result<()> {
    no_room::walk(Operation::Create, 8)?;
    no_room::walk(Operation::Start, 4)
}

#[test]
fn no_room_while_things_end() -> Result<()> {
    no_room::walk(Operation::Stop, 1)?;
    no_room::walk(Operation::Remove, 0)?;
    no_room::walk(Operation::StopPod, 1)?;
    no_room::walk(Operation::RemovePod, 0)?;
    no_room::walk(Operation::RemoveImage, 0)
}

#[test]
fn no_room_for_new_limits() -> Result<()> {
    no_room::walk(Operation::UpdatePod, 1)?;
    no_room::walk(Operation::Update, 1)
}

#[test]
fn no_room_for_an_image() -> Result<()> {
    no_room::walk(Operation::Pull, 10)
}

#[test]
fn no_room_for_a_start_of_the_daemon() -> Result<()> {
    no_room::walk(Operation::Recover, 1)
}
