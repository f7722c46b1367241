//! From the async download to the blocking unpacker: a short bounded queue of chunks.

use std::io::{self, Read};

use bytes::{Buf, Bytes};
use registry::{BlobStream, RegistryError};
use tokio::sync::mpsc;

/// Chunks in flight. The network delivers some 16 KiB each: enough to ride out one slow file.
const DEPTH: usize = 64;

enum Message {
    Data(Bytes),
    /// The blob is complete. Without it a dropped sender would look like an early end.
    End,
}

pub(super) struct Feeder(mpsc::Sender<Message>);

/// The blocking side.
pub(super) struct FeedReader {
    queue: mpsc::Receiver<Message>,
    current: Bytes,
    ended: bool,
}

pub(super) fn feed() -> (Feeder, FeedReader) {
    let (sender, queue) = mpsc::channel(DEPTH);
    (Feeder(sender), FeedReader { queue, current: Bytes::new(), ended: false })
}

impl Feeder {
    /// Passes the whole blob on. Ends early without an error when the reader went away: it knows
    /// why. When dropped before the end the reader gets an error.
    pub(super) async fn pump(
        self,
        mut blob: BlobStream,
        mut received: impl FnMut(u64),
    ) -> Result<(), RegistryError> {
        let mut total = 0;
        while let Some(chunk) = blob.chunk().await? {
            total += u64::try_from(chunk.len()).unwrap_or_default();
            if self.0.send(Message::Data(chunk)).await.is_err() {
                return Ok(());
            }
            received(total);
        }
        // A reader that failed after the last byte reports it itself.
        self.0.send(Message::End).await.or(Ok(()))
    }
}

impl Read for FeedReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            if self.ended {
                return Ok(0);
            }
            match self.queue.blocking_recv() {
                Some(Message::Data(chunk)) => self.current = chunk,
                Some(Message::End) => self.ended = true,
                None => {
                    return Err(io::Error::new(
                        io::ErrorKind::ConnectionAborted,
                        "the download was given up",
                    ));
                }
            }
        }
        let length = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_joined_and_the_end_is_told_from_a_break() {
        let (feeder, mut reader) = feed();
        for text in ["one ", "", "two"] {
            feeder.0.blocking_send(Message::Data(text.into())).unwrap();
        }
        feeder.0.blocking_send(Message::End).unwrap();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two");
        assert_eq!(reader.read(&mut [0]).unwrap(), 0);

        let (feeder, mut reader) = feed();
        feeder.0.blocking_send(Message::Data("half".into())).unwrap();
        drop(feeder);
        let error = reader.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
}
