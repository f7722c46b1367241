//! The bytes of one blob for the unpacker: from the network, from what an earlier attempt kept,
//! and from the network again; kept on disk meanwhile if the download takes long.

use std::io::{self, BufRead, Read};
use std::time::Instant;

use registry::Descriptor;

use super::feed::FeedReader;
use crate::partial::{Partial, Partials, Replay};

pub(super) struct Source {
    network: FeedReader,
    partials: Partials,
    blob: Descriptor,
    /// Bytes given out.
    at: u64,
    begun: Instant,
    kept: Kept,
}

enum Kept {
    /// Nothing so far.
    Not,
    /// What an earlier attempt kept comes in its turn.
    Before(Partial, Box<Replay>),
    /// All that follows is kept.
    Now(Partial),
    /// The disk refused.
    Never,
}

impl Source {
    pub(super) fn new(
        network: FeedReader,
        partials: Partials,
        blob: Descriptor,
        earlier: Option<(Partial, Replay)>,
    ) -> Self {
        let kept = match earlier {
            Some((partial, replay)) => Kept::Before(partial, Box::new(replay)),
            None => Kept::Not,
        };
        Self { network, partials, blob, at: 0, begun: Instant::now(), kept }
    }

    /// The blob was used to its end, well or not: nobody needs what was kept of it.
    pub(super) fn forget(&mut self) {
        match std::mem::replace(&mut self.kept, Kept::Never) {
            Kept::Before(partial, _) | Kept::Now(partial) => partial.remove(),
            Kept::Not | Kept::Never => {}
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        let kept = match &mut self.kept {
            Kept::Now(partial) => partial.append(bytes),
            Kept::Not if self.begun.elapsed() >= self.partials.keep_after => self.begin(bytes),
            Kept::Not | Kept::Before(..) | Kept::Never => Ok(()),
        };
        if let Err(error) = kept {
            tracing::warn!(blob = %self.blob.digest, %error, "a download is not kept for a later attempt");
            self.forget();
        }
    }

    fn begin(&mut self, bytes: &[u8]) -> io::Result<()> {
        let mut partial = self.partials.begin(&self.blob.digest, self.blob.size, self.at)?;
        partial.append(bytes)?;
        self.kept = Kept::Now(partial);
        Ok(())
    }

    /// Bytes that come from the network before what was kept.
    fn until_kept(&self) -> u64 {
        match &self.kept {
            Kept::Before(partial, _) => partial.from.saturating_sub(self.at),
            Kept::Not | Kept::Now(_) | Kept::Never => u64::MAX,
        }
    }
}

impl BufRead for Source {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let until = usize::try_from(self.until_kept()).unwrap_or(usize::MAX);
        if until == 0
            && let Kept::Before(_, replay) = &mut self.kept
            && replay.fill_buf()?.is_empty()
            && let Kept::Before(partial, _) = std::mem::replace(&mut self.kept, Kept::Never)
        {
            // All of it is given out: what follows joins it.
            self.kept = Kept::Now(partial);
        }
        match &mut self.kept {
            Kept::Before(_, replay) if until == 0 => replay.fill_buf(),
            Kept::Before(..) => {
                let piece = self.network.fill_buf()?;
                Ok(&piece[..until.min(piece.len())])
            }
            Kept::Not | Kept::Now(_) | Kept::Never => self.network.fill_buf(),
        }
    }

    fn consume(&mut self, count: usize) {
        let until = self.until_kept();
        match &mut self.kept {
            Kept::Before(_, replay) if until == 0 => replay.consume(count),
            Kept::Before(..) | Kept::Not | Kept::Now(_) | Kept::Never => {
                let piece = self.network.at_hand(count);
                self.keep(&piece);
                self.network.consume(count);
            }
        }
        self.at += u64::try_from(count).unwrap_or_default();
    }
}

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}
