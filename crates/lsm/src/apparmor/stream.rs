//! The stream policy is loaded as: tagged values in the format of the kernel's `policy_unpack.c`,
//! numbers in little endian, and the tables of `match.c` in big endian.

use super::automaton::Automaton;

const U32: u8 = 2;
const NAME: u8 = 4;
const TEXT: u8 = 5;
const BLOB: u8 = 6;
const STRUCT: u8 = 7;
const STRUCT_END: u8 = 8;

/// A growing stream.
#[derive(Debug, Default)]
pub(super) struct Stream(Vec<u8>);

impl Stream {
    /// The tag of the value that follows.
    pub(super) fn name(&mut self, name: &str) -> &mut Self {
        self.chunk(NAME, name)
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.chunk(TEXT, text)
    }

    fn chunk(&mut self, code: u8, text: &str) -> &mut Self {
        let length = u16::try_from(text.len() + 1).unwrap_or(u16::MAX);
        self.0.push(code);
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
        self
    }

    pub(super) fn number(&mut self, number: u32) -> &mut Self {
        self.0.push(U32);
        self.0.extend_from_slice(&number.to_le_bytes());
        self
    }

    pub(super) fn begin(&mut self) -> &mut Self {
        self.0.push(STRUCT);
        self
    }

    pub(super) fn end(&mut self) -> &mut Self {
        self.0.push(STRUCT_END);
        self
    }

    /// An automaton. The kernel wants its tables at a multiple of eight bytes from the beginning
    /// of the stream.
    pub(super) fn automaton(&mut self, automaton: &Automaton) -> &mut Self {
        let tables = tables(automaton);
        self.name("aadfa");
        let begin = self.0.len() + 5;
        let padding = begin.next_multiple_of(8) - begin;
        self.0.push(BLOB);
        let length = u32::try_from(padding + tables.len()).unwrap_or(u32::MAX);
        self.0.extend_from_slice(&length.to_le_bytes());
        self.0.extend(std::iter::repeat_n(0, padding));
        self.0.extend_from_slice(&tables);
        self
    }

    pub(super) fn finish(self) -> Vec<u8> {
        self.0
    }
}

const MAGIC: u32 = 0x1b5e_783d;
const HEADER: u32 = 24;

/// Numbers of the tables, as they are written.
const ACCEPT: u16 = 1;
const BASE: u16 = 2;
const CHECK: u16 = 3;
const DEFAULT: u16 = 4;
const CLASSES: u16 = 5;
const ACCEPT2: u16 = 7;
const NEXT: u16 = 8;

/// Each state gets a row of `next` of its own, all of it its own by `check`: nothing is packed,
/// so nothing ever falls back to `default`.
fn tables(automaton: &Automaton) -> Vec<u8> {
    let Automaton { classes, class_count, states } = automaton;
    let words = |of: &dyn Fn(usize) -> u32| -> Vec<u8> {
        (0..states.len()).flat_map(|state| of(state).to_be_bytes()).collect()
    };
    let base = |state: usize| u32::try_from(state * class_count).unwrap_or(0);
    let mut next: Vec<u8> =
        states.iter().flat_map(|state| &state.next).flat_map(|to| to.to_be_bytes()).collect();
    let owners = (0..states.len()).flat_map(|state| std::iter::repeat_n(state, *class_count));
    let mut check: Vec<u8> =
        owners.flat_map(|state| u16::try_from(state).unwrap_or(0).to_be_bytes()).collect();
    // The kernel's check of bounds does not know that there are fewer classes than byte values.
    for table in [&mut next, &mut check] {
        table.extend_from_slice(&[0; 512]);
    }
    let mut out = Vec::new();
    out.extend_from_slice(&MAGIC.to_be_bytes());
    out.extend_from_slice(&HEADER.to_be_bytes());
    out.extend_from_slice(&[0; 6]);
    out.extend_from_slice(b"notflex\0");
    out.extend_from_slice(&[0; 2]);
    table(&mut out, ACCEPT, 4, &words(&|state| states[state].verdict.allow));
    table(&mut out, ACCEPT2, 4, &words(&|state| states[state].verdict.quiet));
    table(&mut out, CLASSES, 1, classes);
    table(&mut out, BASE, 4, &words(&base));
    table(&mut out, DEFAULT, 2, &vec![0; states.len() * 2]);
    table(&mut out, NEXT, 2, &next);
    table(&mut out, CHECK, 2, &check);
    let size = u32::try_from(out.len()).unwrap_or(u32::MAX);
    out[8..12].copy_from_slice(&size.to_be_bytes());
    out
}

fn table(out: &mut Vec<u8>, number: u16, width: u16, data: &[u8]) {
    out.extend_from_slice(&number.to_be_bytes());
    out.extend_from_slice(&width.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    let length = u32::try_from(data.len() / usize::from(width)).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(data);
    out.resize(out.len().next_multiple_of(8), 0);
}
