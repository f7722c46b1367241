//! What may be called, in what company.

use proptest::prelude::*;

use super::shapes::{ContainerShape, Limits, PodShape, container, limits, ordinary_pod, pod};

/// Calls made at the same moment.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// All are answered.
    Calls(Vec<Call>),
    /// The caller goes away before the answer.
    Abandoned(Box<Call>),
    /// The daemon is killed while it works on these, and started again.
    Crash(Vec<Call>),
}

#[derive(Debug, Clone)]
pub(super) enum Call {
    Run(PodShape),
    StopPod(Which),
    RemovePod(Which),
    Create(Which, Box<ContainerShape>),
    /// Create and start.
    Launch(Which, Box<ContainerShape>),
    Start(Which),
    Stop(Which, i64),
    Remove(Which),
    Exec(Which, Command),
    Update(Which, Limits),
    Reopen(Which),
    Look(Which),
}

/// One of what there is, or something that never was.
#[derive(Debug, Clone, Copy)]
pub(super) enum Which {
    Listed(usize),
    Bogus(usize),
}

/// What ids can look like that name nothing.
pub(super) const BOGUS: &[&str] = &[
    "0000000000000000000000000000000000000000000000000000000000000000",
    "ffffffffffff",
    "../../etc",
    "ghost",
    "\u{1F6A2}",
];

#[derive(Debug, Clone, Copy)]
pub(super) enum Command {
    True,
    Fail,
    Missing,
    /// Never ends by itself: one second is allowed.
    Sleep,
    Print,
}

impl Command {
    pub(super) fn words(self) -> Vec<String> {
        let words: &[&str] = match self {
            Self::True => &["true"],
            Self::Fail => &["sh", "-c", "exit 3"],
            Self::Missing => &["/no/such/program"],
            Self::Sleep => &["sh", "-c", "sleep 1000 & sleep 1000"],
            Self::Print => &["sh", "-c", "head -c 100000 /dev/zero; echo e >&2"],
        };
        words.iter().map(|&word| word.to_owned()).collect()
    }
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![
        30 => (0..8usize).prop_map(Which::Listed),
        1 => (0..BOGUS.len()).prop_map(Which::Bogus),
    ]
}

fn command() -> impl Strategy<Value = Command> {
    prop_oneof![
        3 => Just(Command::True),
        1 => Just(Command::Fail),
        1 => Just(Command::Missing),
        1 => Just(Command::Sleep),
        1 => Just(Command::Print),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        4 => pod().prop_map(Call::Run),
        1 => which().prop_map(Call::StopPod),
        1 => which().prop_map(Call::RemovePod),
        3 => (which(), container()).prop_map(|(pod, shape)| Call::Create(pod, Box::new(shape))),
        6 => (which(), container()).prop_map(|(pod, shape)| Call::Launch(pod, Box::new(shape))),
        3 => which().prop_map(Call::Start),
        2 => (which(), prop_oneof![Just(0), Just(1), Just(2)])
            .prop_map(|(container, grace)| Call::Stop(container, grace)),
        2 => which().prop_map(Call::Remove),
        3 => (which(), command()).prop_map(|(container, command)| Call::Exec(container, command)),
        2 => (which(), limits()).prop_map(|(container, limits)| Call::Update(container, limits)),
        1 => which().prop_map(Call::Reopen),
        1 => which().prop_map(Call::Look),
    ]
}

/// A pod with something in it, then anything.
pub(super) fn steps(at_most: usize) -> impl Strategy<Value = Vec<Step>> {
    let launch = |shape| Step::Calls(vec![Call::Launch(Which::Listed(0), Box::new(shape))]);
    let first = (ordinary_pod(), container(), container());
    let first = first.prop_map(move |(pod, one, other)| {
        vec![Step::Calls(vec![Call::Run(pod)]), launch(one), launch(other)]
    });
    let rest = proptest::collection::vec(step(), 1..at_most);
    (first, rest).prop_map(|(first, rest)| first.into_iter().chain(rest).collect())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => call().prop_map(|call| Step::Calls(vec![call])),
        4 => proptest::collection::vec(call(), 2..6).prop_map(Step::Calls),
        2 => call().prop_map(|call| Step::Abandoned(Box::new(call))),
        1 => proptest::collection::vec(call(), 0..3).prop_map(Step::Crash),
    ]
}
