//! Patterns to a deterministic automaton: the kernel walks it byte by byte and looks at what the
//! state it ends in permits.

use std::collections::{BTreeMap, BTreeSet};

use super::pattern::Pattern;

/// What a state says about a request that ends there, in the layout of the rules it is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Verdict {
    /// Permitted.
    pub(super) allow: u32,
    /// Refused without a line in the audit log.
    pub(super) quiet: u32,
}

/// The automaton. State 0 is the one nothing leads out of, state 1 the beginning.
#[derive(Debug)]
pub(super) struct Automaton {
    /// Class of each byte value: bytes no pattern tells apart share one.
    pub(super) classes: Vec<u8>,
    /// How many classes there are.
    pub(super) class_count: usize,
    pub(super) states: Vec<State>,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) verdict: Verdict,
    /// The next state by class.
    pub(super) next: Vec<u16>,
}

/// How far the patterns have come: number of the pattern, pieces behind it.
type Positions = BTreeSet<(usize, usize)>;

impl Automaton {
    /// Builds it; `verdict` is asked what a request is told that matches just the numbered
    /// patterns.
    pub(super) fn build(
        patterns: &[Pattern],
        verdict: impl Fn(&dyn Fn(usize) -> bool) -> Verdict,
    ) -> Self {
        let (classes, representatives) = classes(patterns);
        let begin = closed(patterns, (0..patterns.len()).map(|number| (number, 0)));
        let mut numbers: BTreeMap<Positions, u16> =
            [(Positions::new(), 0), (begin.clone(), 1)].into();
        let mut queue = vec![Positions::new(), begin];
        let mut states = Vec::new();
        while let Some(positions) = queue.get(states.len()).cloned() {
            let mut next = Vec::with_capacity(representatives.len());
            for byte in &representatives {
                let target = step(patterns, &positions, *byte);
                let fresh = u16::try_from(numbers.len()).unwrap_or(0);
                let number = *numbers.entry(target.clone()).or_insert(fresh);
                if number == fresh {
                    queue.push(target);
                }
                next.push(number);
            }
            let ended = |number: usize| positions.contains(&(number, patterns[number].0.len()));
            states.push(State { verdict: verdict(&ended), next });
        }
        Self { classes, class_count: representatives.len(), states }
    }
}

/// Adds what is reached by repeating nothing.
fn closed(patterns: &[Pattern], positions: impl Iterator<Item = (usize, usize)>) -> Positions {
    let mut all = Positions::new();
    for (number, mut place) in positions {
        all.insert((number, place));
        while patterns[number].0.get(place).is_some_and(|piece| piece.many) {
            place += 1;
            all.insert((number, place));
        }
    }
    all
}

fn step(patterns: &[Pattern], positions: &Positions, byte: u8) -> Positions {
    let moved = positions.iter().filter_map(|&(number, place)| {
        let piece = patterns[number].0.get(place).filter(|piece| piece.set.holds(byte))?;
        Some((number, if piece.many { place } else { place + 1 }))
    });
    closed(patterns, moved)
}

/// Class of each byte, and one byte of each class.
fn classes(patterns: &[Pattern]) -> (Vec<u8>, Vec<u8>) {
    let sets: BTreeSet<_> =
        patterns.iter().flat_map(|pattern| &pattern.0).map(|piece| piece.set).collect();
    let mut known: BTreeMap<Vec<bool>, u8> = BTreeMap::new();
    let (mut classes, mut representatives) = (Vec::new(), Vec::new());
    for byte in 0..=u8::MAX {
        let signature: Vec<bool> = sets.iter().map(|set| set.holds(byte)).collect();
        // At most one class for each of the 256 values.
        let fresh = u8::try_from(known.len()).unwrap_or(u8::MAX);
        let class = *known.entry(signature).or_insert(fresh);
        if usize::from(class) == representatives.len() {
            representatives.push(byte);
        }
        classes.push(class);
    }
    (classes, representatives)
}
