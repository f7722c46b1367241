//! The bytes of one blob for the unpacker: from the network, from what an earlier attempt kept,
//! and from the network again; kept on disk meanwhile if the download takes long.

use std::io::{self, Read};
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

impl Read for Source {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let until = self.until_kept();
        if until == 0
            && let Kept::Before(_, replay) = &mut self.kept
        {
            let read = replay.read(buffer)?;
            self.at += u64::try_from(read).unwrap_or_default();
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            if let Kept::Before(partial, _) = std::mem::replace(&mut self.kept, Kept::Never) {
                self.kept = Kept::Now(partial);
            }
            return self.read(buffer);
        }
        let most = usize::try_from(until).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.network.read(&mut buffer[..most])?;
        self.keep(&buffer[..read]);
        self.at += u64::try_from(read).unwrap_or_default();
        Ok(read)
    }
}
