//! The hand-over between the decompressing thread and the unpacking thread: a bounded queue of
//! chunks, and the unpacking side's view of them as one stream.

use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use model::Digest;

use crate::blob::Sha256;

/// Large enough that the hand-over costs nothing beside inflating a chunk.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;
const CHUNKS_IN_FLIGHT: usize = 8;

/// The decompressing side.
pub(crate) struct Feed {
    full: SyncSender<Vec<u8>>,
    spent: Receiver<Vec<u8>>,
}

/// The unpacking side: hashes what it takes.
pub(crate) struct Chunks {
    full: Receiver<Vec<u8>>,
    spent: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    pos: usize,
    hash: Sha256,
    at: u64,
}

pub(crate) fn pipe() -> (Feed, Chunks) {
    let (full_in, full_out) = sync_channel(CHUNKS_IN_FLIGHT);
    let (spent_in, spent_out) = channel();
    let chunks = Chunks {
        full: full_out,
        spent: spent_in,
        chunk: Vec::new(),
        pos: 0,
        hash: Sha256::new(),
        at: 0,
    };
    (Feed { full: full_in, spent: spent_out }, chunks)
}

impl Feed {
    /// A chunk to fill: a used one if there is any.
    pub(crate) fn empty(&self) -> Vec<u8> {
        let mut chunk = self.spent.try_recv().unwrap_or_default();
        chunk.resize(CHUNK_BYTES, 0);
        chunk
    }

    /// Blocks while the queue is full; false if the other side is gone.
    pub(crate) fn send(&self, chunk: Vec<u8>) -> bool {
        self.full.send(chunk).is_ok()
    }
}

impl Chunks {
    /// The bytes at hand.
    pub(crate) fn available(&self) -> &[u8] {
        &self.chunk[self.pos..]
    }

    /// Makes at least `want` bytes available in one piece; false if the stream ends before.
    pub(crate) fn fill(&mut self, want: usize) -> bool {
        while self.chunk.len() - self.pos < want {
            let Ok(next) = self.full.recv() else {
                return false;
            };
            self.hash.update(&next);
            if self.pos == self.chunk.len() {
                let spent = std::mem::replace(&mut self.chunk, next);
                // Nobody takes it back once the blob is read.
                drop(self.spent.send(spent));
            } else {
                self.chunk.drain(..self.pos);
                self.chunk.extend_from_slice(&next);
            }
            self.pos = 0;
        }
        true
    }

    /// Takes `count` of the available bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        let count = count.min(self.chunk.len() - self.pos);
        self.pos += count;
        self.at += count as u64;
    }

    /// Position in the uncompressed stream.
    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The digest of all bytes taken off the queue; call at the end of the stream.
    pub(crate) fn finish(self) -> Digest {
        self.hash.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_may_span_chunks() {
        let (feed, mut chunks) = pipe();
        for part in [&b"abc"[..], b"", b"defg"] {
            assert!(feed.send(part.to_vec()));
        }
        drop(feed);
        assert!(chunks.fill(2));
        chunks.consume(2);
        assert!(chunks.fill(4));
        assert_eq!(chunks.available(), b"cdefg");
        chunks.consume(4);
        assert!(!chunks.fill(2));
        assert_eq!((chunks.available(), chunks.at()), (&b"g"[..], 6));
    }

    #[test]
    fn a_gone_reader_stops_the_feed() {
        let (feed, chunks) = pipe();
        drop(chunks);
        assert!(!feed.send(vec![1]));
    }
}
