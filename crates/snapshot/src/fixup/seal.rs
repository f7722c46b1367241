//! Names and seals of fixups.

use std::io;
use std::os::fd::BorrowedFd;

use model::Digest;

use crate::sealed::{read_text, write_text};

const VERSION: &str = "knarr-fixup 1";

/// Names a stack of layers. OCI image-spec, "Layer ChainID".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChainId(Digest);

impl ChainId {
    /// Those of the lowest layer, of the two lowest, and so on.
    pub(crate) fn all(diff_ids: &[Digest]) -> Vec<Self> {
        let mut chains: Vec<Self> = Vec::with_capacity(diff_ids.len());
        for diff_id in diff_ids {
            let chain = match chains.last() {
                None => *diff_id,
                Some(Self(below)) => layer::digest_of(format!("{below} {diff_id}").as_bytes()),
            };
            chains.push(Self(chain));
        }
        chains
    }

    pub(crate) fn hex(&self) -> String {
        self.0.hex()
    }
}

/// One fixup, as known in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fixup {
    /// The layer it lies on.
    pub(crate) layer: Digest,
    /// It takes hardly anything else.
    pub(crate) inodes: u64,
}

impl Fixup {
    fn text(&self, ChainId(chain): &ChainId) -> String {
        let Self { layer, inodes } = self;
        format!("{VERSION}\nchain-id {chain}\nlayer {layer}\ninodes {inodes}\nend\n")
    }

    fn parse(text: &str) -> Option<(ChainId, Self)> {
        let mut lines = text.strip_suffix("\nend\n")?.split('\n');
        if lines.next()? != VERSION {
            return None;
        }
        let mut value = |key: &str| lines.next()?.strip_prefix(key)?.strip_prefix(' ');
        let chain = ChainId(Digest::parse(value("chain-id")?).ok()?);
        let layer = Digest::parse(value("layer")?).ok()?;
        let inodes = value("inodes")?.parse().ok()?;
        lines.next().is_none().then_some((chain, Self { layer, inodes }))
    }

    /// Writes and fsyncs the seal.
    pub(crate) fn write(&self, chain: &ChainId, dir: BorrowedFd<'_>) -> io::Result<()> {
        write_text(dir, &self.text(chain))
    }

    /// `None` if there is none or it is not one.
    pub(crate) fn read(dir: BorrowedFd<'_>) -> Option<(ChainId, Self)> {
        Self::parse(&read_text(dir)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_those_of_the_image_specification() {
        let (a, b) = (Digest::from_sha256([1; 32]), Digest::from_sha256([2; 32]));
        let chains = ChainId::all(&[a, b]);
        assert_eq!(chains[0], ChainId(a));
        assert_eq!(chains[1], ChainId(layer::digest_of(format!("{a} {b}").as_bytes())));
    }

    #[test]
    fn a_seal_is_read_as_it_was_written_and_a_torn_one_is_none() {
        let chain = ChainId(Digest::from_sha256([9; 32]));
        let fixup = Fixup { layer: Digest::from_sha256([3; 32]), inodes: 4 };
        let text = fixup.text(&chain);
        assert_eq!(Fixup::parse(&text), Some((chain, fixup)));
        for length in 0..text.len() {
            assert_eq!(Fixup::parse(&text[..length]), None, "{length}");
        }
    }
}
