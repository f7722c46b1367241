//! Checksums of single files. They tell which file of a layer the disk has changed; that nobody has
//! changed any is told by the digest of the whole, see [`crate::Packed`]. So they need not withstand
//! an enemy, and every byte of every image goes through them: speed counts.

use std::fmt;

use twox_hash::XxHash3_128;

/// Of the content of a file; of a sparse one's pieces, one behind the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sum {
    /// XXH3, 128 bits: 32 digits.
    Xxh3(u128),
    /// Inventories of version 1 have it: 64 digits.
    Blake3([u8; 32]),
}

impl Sum {
    /// A sum that can be compared with this one.
    pub(crate) fn hasher(&self) -> SumHasher {
        match self {
            Self::Xxh3(_) => SumHasher::default(),
            Self::Blake3(_) => SumHasher::Blake3(Box::default()),
        }
    }

    /// Told apart by their lengths.
    pub(crate) fn parse(word: &[u8]) -> Option<Self> {
        if word.len() == 64 {
            return Some(Self::Blake3(*blake3::Hash::from_hex(word).ok()?.as_bytes()));
        }
        let word = str::from_utf8(word).ok()?;
        let digits = word.len() == 32 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
        digits.then(|| u128::from_str_radix(word, 16).ok().map(Self::Xxh3))?
    }
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xxh3(sum) => write!(f, "{sum:032x}"),
            Self::Blake3(sum) => f.write_str(&blake3::Hash::from_bytes(*sum).to_hex()),
        }
    }
}

/// A running [`Sum`].
pub(crate) enum SumHasher {
    Xxh3(Box<XxHash3_128>),
    Blake3(Box<blake3::Hasher>),
}

impl Default for SumHasher {
    fn default() -> Self {
        Self::Xxh3(Box::default())
    }
}

impl SumHasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Xxh3(hash) => hash.write(bytes),
            Self::Blake3(hash) => drop(hash.update(bytes)),
        }
    }

    pub(crate) fn finish(&self) -> Sum {
        match self {
            Self::Xxh3(hash) => Sum::Xxh3(hash.finish_128()),
            Self::Blake3(hash) => Sum::Blake3(*hash.finalize().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_written_and_read_back() {
        for sum in [Sum::Xxh3(7), Sum::Xxh3(u128::MAX), Sum::Blake3([9; 32])] {
            assert_eq!(Sum::parse(sum.to_string().as_bytes()), Some(sum));
            let mut hash = sum.hasher();
            hash.update(b"some");
            assert_eq!(
                std::mem::discriminant(&hash.finish()),
                std::mem::discriminant(&sum),
                "the kind stays"
            );
        }
        for word in ["", "7", &"g".repeat(32), &"+".repeat(32), &"g".repeat(64), &"0".repeat(33)] {
            assert_eq!(Sum::parse(word.as_bytes()), None, "{word}");
        }
    }

    /// The values are those of the reference implementation (`xxhsum -H2`).
    #[test]
    fn the_sums_are_the_ones_that_others_compute() {
        for (length, sum) in [
            (0, "99aa06d3014798d86001c324468d497f"),
            (241, "3e7bebe4a2c07b0bf6cfef5c5aca1930"),
            (100_000, "819d5302938c790308f809ef04c54838"),
        ] {
            let mut hash = SumHasher::default();
            vec![b'a'; length].chunks(1000).for_each(|piece| hash.update(piece));
            assert_eq!(hash.finish().to_string(), sum, "{length}");
        }
    }
}
