//! Patterns over bytes: a row of sets, each for one byte or for any number of them.

/// A set of byte values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Bytes([u64; 4]);

impl Bytes {
    const NONE: Self = Self([0; 4]);
    /// Every byte. Names never hold NUL, but the parts of a request are joined by it.
    pub(super) const ANY: Self = Self([u64::MAX; 4]);
    /// What a name can be made of.
    pub(super) const NAME: Self = Self([u64::MAX - 1, u64::MAX, u64::MAX, u64::MAX]);

    pub(super) fn one(byte: u8) -> Self {
        Self::NONE.with(byte)
    }

    pub(super) fn holds(self, byte: u8) -> bool {
        self.0[usize::from(byte / 64)] >> (byte % 64) & 1 == 1
    }

    fn with(mut self, byte: u8) -> Self {
        self.0[usize::from(byte / 64)] |= 1 << (byte % 64);
        self
    }

    fn without(mut self, byte: u8) -> Self {
        self.0[usize::from(byte / 64)] &= !(1 << (byte % 64));
        self
    }
}

/// One place of a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) set: Bytes,
    /// Any number of times, none included.
    pub(super) many: bool,
}

/// A row of pieces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Pattern(pub(super) Vec<Piece>);

impl Pattern {
    /// Nothing yet.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// One byte of a set follows.
    pub(super) fn one(mut self, set: Bytes) -> Self {
        self.0.push(Piece { set, many: false });
        self
    }

    /// Any number of bytes of a set follow.
    pub(super) fn many(mut self, set: Bytes) -> Self {
        self.0.push(Piece { set, many: true });
        self
    }

    /// Exactly these bytes follow.
    pub(super) fn exactly(self, bytes: &[u8]) -> Self {
        bytes.iter().fold(self, |pattern, byte| pattern.one(Bytes::one(*byte)))
    }

    /// A path: `**` is any text, `*` any text without `/`, `#` is one digit, the rest is itself.
    pub(super) fn path(text: &str) -> Self {
        let mut pattern = Self::new();
        let mut left = text.as_bytes();
        while let [first, rest @ ..] = left {
            left = rest;
            pattern = match (first, rest) {
                (b'*', [b'*', rest @ ..]) => {
                    left = rest;
                    pattern.many(Bytes::NAME)
                }
                (b'*', _) => pattern.many(Bytes::NAME.without(b'/')),
                (b'#', _) => pattern.one((b'0'..=b'9').fold(Bytes::NONE, Bytes::with)),
                (byte, _) => pattern.one(Bytes::one(*byte)),
            };
        }
        pattern
    }
}
