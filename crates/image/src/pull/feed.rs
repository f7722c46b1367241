//! From the async download to the blocking unpacker: a queue of chunks, bounded in bytes.

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use registry::{BlobStream, RegistryError};
use tokio::sync::{Semaphore, mpsc};

/// Bytes in flight: enough to ride out one slow file. The network decides how they are cut, up to
/// some 400 KiB in one piece.
const IN_FLIGHT: usize = 2 << 20;

enum Message {
    Data(Bytes),
    /// The blob is complete. Without it a dropped sender would look like an early end.
    End,
}

pub(super) struct Feeder {
    queue: mpsc::UnboundedSender<Message>,
    room: Arc<Semaphore>,
}

/// The blocking side.
pub(super) struct FeedReader {
    queue: mpsc::UnboundedReceiver<Message>,
    room: Arc<Semaphore>,
    current: Bytes,
    ended: bool,
}

pub(super) fn feed() -> (Feeder, FeedReader) {
    let (sender, queue) = mpsc::unbounded_channel();
    let room = Arc::new(Semaphore::new(IN_FLIGHT));
    let feeder = Feeder { queue: sender, room: Arc::clone(&room) };
    (feeder, FeedReader { queue, room, current: Bytes::new(), ended: false })
}

impl Feeder {
    /// Passes at most `limit` bytes of the blob on; false when the reader went away: it knows why.
    /// `received` hears of every piece.
    pub(super) async fn pump(
        &self,
        mut blob: BlobStream,
        mut limit: u64,
        mut received: impl FnMut(u64),
    ) -> Result<bool, RegistryError> {
        while limit > 0 {
            let Some(mut chunk) = blob.chunk().await? else { break };
            if let Ok(limit) = usize::try_from(limit) {
                chunk.truncate(limit);
            }
            let length = u64::try_from(chunk.len()).unwrap_or_default();
            limit -= length;
            while !chunk.is_empty() {
                let piece = chunk.split_to(chunk.len().min(IN_FLIGHT / 2));
                let room = u32::try_from(piece.len()).unwrap_or(u32::MAX);
                // Closed by a reader that went away.
                let Ok(permit) = self.room.acquire_many(room).await else { return Ok(false) };
                permit.forget();
                if self.queue.send(Message::Data(piece)).is_err() {
                    return Ok(false);
                }
            }
            received(length);
        }
        Ok(true)
    }

    /// The blob is complete. When dropped without it the reader gets an error.
    pub(super) fn end(self) {
        // A reader that failed after the last byte reports it itself.
        drop(self.queue.send(Message::End));
    }
}

impl FeedReader {
    /// The first `count` bytes of what [`BufRead::fill_buf`] gave.
    pub(super) fn at_hand(&self, count: usize) -> Bytes {
        self.current.slice(..count.min(self.current.len()))
    }
}

impl Drop for FeedReader {
    fn drop(&mut self) {
        self.room.close();
    }
}

impl BufRead for FeedReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.current.is_empty() && !self.ended {
            match self.queue.blocking_recv() {
                Some(Message::Data(chunk)) => {
                    self.room.add_permits(chunk.len());
                    self.current = chunk;
                }
                Some(Message::End) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "the download was given up",
                    ));
                }
            }
        }
        Ok(&self.current)
    }

    fn consume(&mut self, count: usize) {
        self.current.advance(count.min(self.current.len()));
    }
}

impl Read for FeedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_the_end_is_told_from_a_break() {
        let (feeder, mut reader) = feed();
        for text in ["one ", "", "two"] {
            feeder.queue.send(Message::Data(text.into())).ok().unwrap();
        }
        feeder.end();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);

        let (feeder, mut reader) = feed();
        feeder.queue.send(Message::Data("half".into())).ok().unwrap();
        drop(feeder);
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
