//! A blob as a stream of bytes that goes on where a broken connection stopped.

use bytes::{Buf, Bytes};
use model::Digest;
use reqwest::StatusCode;
use reqwest::header::CONTENT_RANGE;

use crate::error::{RegistryError, Subject};
use crate::manifest::Descriptor;
use crate::retry::Backoff;
use crate::session::Session;
use crate::transport::{Answer, stalled};

/// So much must have arrived before a break counts as a first one again.
const PROGRESS: u64 = 1 << 20;

/// Exactly as many bytes as the descriptor says, or the end of them, or an error.
///
/// When the connection breaks, falls silent or ends early, the stream asks for the rest with a
/// `Range` request, a bounded number of times without progress in between.
#[derive(Debug)]
pub struct BlobStream {
    session: Session,
    digest: Digest,
    size: u64,
    /// Bytes handed out.
    offset: u64,
    /// Bytes of the current answer that were handed out before: a host without ranges starts over.
    skip: u64,
    /// Offset at the last break.
    broken_at: u64,
    /// How many hosts to pass over because the transfer got stuck at them.
    hosts_tried: usize,
    answer: Option<Answer>,
    host: String,
    backoff: Backoff,
}

impl BlobStream {
    /// Reads from the blob's byte `offset` on.
    pub(crate) fn new(
        session: Session,
        descriptor: &Descriptor,
        offset: u64,
        answer: Answer,
    ) -> Result<Self, RegistryError> {
        let backoff = Backoff::new(session.config().retry);
        let mut stream = Self {
            session,
            digest: descriptor.digest,
            size: descriptor.size,
            offset,
            skip: 0,
            broken_at: offset,
            hosts_tried: 0,
            host: String::new(),
            answer: None,
            backoff,
        };
        stream.take(answer)?;
        Ok(stream)
    }

    /// The length of the whole blob, bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The host that serves it now.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The next bytes, never empty; `None` after the last. A dropped call loses no bytes unless
    /// it was about to reconnect, which the next call then does.
    ///
    /// # Errors
    /// [`RegistryError::Truncated`], [`RegistryError::TooLarge`], [`RegistryError::Stalled`], or
    /// that of the last attempt to go on.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        loop {
            let broken = match self.read().await {
                Ok(Some(chunk)) => {
                    if let Some(fresh) = self.accept(chunk)? {
                        return Ok(Some(fresh));
                    }
                    continue;
                }
                // How the connection ends after the last byte is of no interest.
                Ok(None) | Err(_) if self.offset == self.size => return Ok(None),
                Ok(None) => RegistryError::Truncated {
                    what: self.what(),
                    host: self.host.clone(),
                    expected: self.size,
                    got: self.offset,
                },
                Err(error) => error,
            };
            self.answer = None;
            self.resume(broken).await?;
        }
    }

    /// What the connection gives next.
    async fn read(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let Some(answer) = &mut self.answer else { return Ok(None) };
        let config = self.session.config();
        match tokio::time::timeout(config.stall_timeout, answer.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(RegistryError::Unavailable {
                host: answer.host.clone(),
                source: error.without_url(),
            }),
            Err(_) => Err(stalled(config, &Subject::Blob(self.digest), &answer.host)),
        }
    }

    /// Drops what was seen before and refuses what was not announced.
    fn accept(&mut self, mut chunk: Bytes) -> Result<Option<Bytes>, RegistryError> {
        let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        let seen = self.skip.min(length);
        self.skip -= seen;
        chunk.advance(usize::try_from(seen).unwrap_or(chunk.len()));
        let fresh = length - seen;
        if fresh > self.size - self.offset {
            return Err(self.too_large());
        }
        self.offset += fresh;
        Ok((fresh > 0).then_some(chunk))
    }

    async fn resume(&mut self, mut broken: RegistryError) -> Result<(), RegistryError> {
        if self.offset - self.broken_at >= PROGRESS {
            self.backoff.reset();
            self.hosts_tried = 0;
        } else {
            // Broken again before it got anywhere: perhaps another host does better.
            self.hosts_tried += 1;
        }
        self.broken_at = self.offset;
        while let Some(wait) = self.backoff.next_wait(None) {
            tracing::debug!(
                blob = %self.digest, host = self.host, offset = self.offset,
                error = &broken as &dyn std::error::Error, "a download broke and is resumed"
            );
            tokio::time::sleep(wait).await;
            match self.session.open_blob(&self.digest, self.offset, self.hosts_tried).await {
                Ok(answer) => return self.take(answer),
                Err(
                    error @ (RegistryError::Unavailable { .. }
                    | RegistryError::Stalled { .. }
                    | RegistryError::Status { .. }),
                ) => broken = error,
                Err(other) => return Err(other),
            }
        }
        Err(broken)
    }

    /// Reads on from a fresh answer, wherever that starts.
    fn take(&mut self, answer: Answer) -> Result<(), RegistryError> {
        self.host.clone_from(&answer.host);
        let partial = answer.response.status() == StatusCode::PARTIAL_CONTENT;
        let start = if partial { range_start(&answer).unwrap_or(self.offset) } else { 0 };
        if start > self.offset {
            return Err(RegistryError::Truncated {
                what: self.what(),
                host: answer.host,
                expected: self.size,
                got: self.offset,
            });
        }
        if answer.response.content_length().is_some_and(|length| length > self.size - start) {
            return Err(self.too_large());
        }
        self.skip = self.offset - start;
        self.answer = Some(answer);
        Ok(())
    }

    fn what(&self) -> Subject {
        Subject::Blob(self.digest)
    }

    fn too_large(&self) -> RegistryError {
        RegistryError::TooLarge { what: self.what(), host: self.host.clone(), limit: self.size }
    }
}

/// The first byte of a partial answer: `bytes 5-9/10`.
fn range_start(answer: &Answer) -> Option<u64> {
    let text = answer.response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}
