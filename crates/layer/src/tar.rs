//! The stream of chunks as a sequence of entries and their contents.

use tar_core::HEADER_SIZE;
use tar_core::parse::{ParseError, ParseEvent, Parser};

use tar_core::SparseEntry;

use crate::chunks::Chunks;
use crate::entry::{Entry, Sparse};
use crate::path::LayerPath;
use crate::skeleton::Skeleton;
use crate::{LimitKind, Limits, UnpackError};

/// All headers of one entry: PAX and GNU long names (bounded below this) and a sparse map.
const MAX_HEADER_BYTES: usize = 4 * 1024 * 1024;
const MAX_SPARSE_PIECES: usize = 200_000;
const BLOCK: u64 = HEADER_SIZE as u64;

pub(crate) struct TarReader<'w> {
    chunks: Chunks,
    /// Gets all that is not content of a file.
    skeleton: Option<Skeleton<'w>>,
    parser: Parser,
    limits: Limits,
    entries: u64,
    /// Content of the current entry that is still in the stream, and the padding behind it.
    content: u64,
    padding: u64,
    /// The current entry, for messages.
    name: String,
}

enum Step {
    More { want: usize },
    Entry { consumed: usize, entry: Box<Entry> },
    Skip { consumed: usize },
    End { consumed: usize },
}

impl<'w> TarReader<'w> {
    pub(crate) fn new(chunks: Chunks, limits: &Limits, skeleton: Option<Skeleton<'w>>) -> Self {
        let mut parser = Parser::new(tar_core::parse::Limits {
            max_sparse_entries: MAX_SPARSE_PIECES,
            ..tar_core::parse::Limits::default()
        });
        parser.set_ignore_pax_errors(true);
        Self {
            chunks,
            skeleton,
            parser,
            limits: limits.clone(),
            entries: 0,
            content: 0,
            padding: 0,
            name: String::new(),
        }
    }

    /// The next entry; skips what is left of the one before. `None` at the end of the archive,
    /// which is two zero blocks or, as Go's reader has it, the end of the stream.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, UnpackError> {
        self.skip_content()?;
        let (mut want, mut parsed) = (HEADER_SIZE, HEADER_SIZE - 1);
        loop {
            // At the end of the stream less than wanted may be enough, if it is news.
            if !self.chunks.fill(want) && self.chunks.available().len() <= parsed {
                return self.stream_end().map(|()| None);
            }
            match self.step()? {
                Step::More { want: more } => {
                    parsed = self.chunks.available().len();
                    want = more;
                }
                Step::Skip { consumed } => {
                    self.pass(consumed)?;
                    (want, parsed) = (HEADER_SIZE, HEADER_SIZE - 1);
                }
                Step::End { consumed } => {
                    self.pass(consumed)?;
                    return Ok(None);
                }
                Step::Entry { consumed, entry } => {
                    self.pass(consumed)?;
                    self.begin(&entry)?;
                    return Ok(Some(*entry));
                }
            }
        }
    }

    fn step(&mut self) -> Result<Step, UnpackError> {
        let input = self.chunks.available();
        let at = self.chunks.at();
        let event =
            self.parser.parse(input).map_err(|source| UnpackError::Header { at, source })?;
        Ok(match event {
            ParseEvent::NeedData { min_bytes } => {
                // tar-core may name a number that is there already, so always ask for more; twice
                // as much keeps the repeated parsing linear.
                let want = min_bytes.max(input.len().saturating_mul(2));
                if input.len() >= MAX_HEADER_BYTES {
                    let allowed = MAX_HEADER_BYTES as u64;
                    return Err(UnpackError::Limit {
                        limit: LimitKind::HeaderBytes,
                        allowed,
                        // The name is somewhere in them; the one before it is known.
                        entry: Some(format!("behind {}", self.name)),
                    });
                }
                Step::More { want: want.min(MAX_HEADER_BYTES).max(min_bytes) }
            }
            ParseEvent::Entry { consumed, entry } => {
                size_fits(entry.header.as_bytes(), at)?;
                let entry = Box::new(Entry::new(&entry, None, &self.limits)?);
                Step::Entry { consumed, entry }
            }
            ParseEvent::SparseEntry { consumed, entry, sparse_map, real_size } => {
                size_fits(entry.header.as_bytes(), at)?;
                let sparse = Sparse { size: real_size, pieces: sparse_map };
                let entry = Box::new(Entry::new(&entry, Some(sparse), &self.limits)?);
                Step::Entry { consumed, entry }
            }
            ParseEvent::GlobalExtensions { consumed, .. } => Step::Skip { consumed },
            ParseEvent::End { consumed } => Step::End { consumed },
        })
    }

    fn begin(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        self.entries += 1;
        crate::entry::check(LimitKind::Entries, self.entries, self.limits.entries, &entry.name)?;
        self.content = entry.data();
        self.padding = (BLOCK - self.content % BLOCK) % BLOCK;
        self.name.clone_from(&entry.name);
        Ok(())
    }

    /// The next piece of the current entry's content, at most `max` bytes; `None` at its end.
    pub(crate) fn content(&mut self, max: u64) -> Result<Option<&[u8]>, UnpackError> {
        let max = self.content.min(max);
        if max == 0 {
            return Ok(None);
        }
        if !self.chunks.fill(1) {
            return Err(self.truncated());
        }
        let available = self.chunks.available().len();
        Ok(Some(&self.chunks.available()[..clamp(max, available)]))
    }

    /// Takes the first `count` bytes of the piece that [`TarReader::content`] gave.
    pub(crate) fn consume(&mut self, count: usize) {
        self.chunks.consume(count);
        self.content = self.content.saturating_sub(count as u64);
    }

    /// What comes of the current entry goes into this file, in these pieces; all in one if there
    /// are none.
    pub(crate) fn goes_to(
        &mut self,
        path: &LayerPath,
        pieces: Option<&[SparseEntry]>,
    ) -> Result<(), UnpackError> {
        let Some(skeleton) = &mut self.skeleton else { return Ok(()) };
        if self.content == 0 {
            return Ok(());
        }
        let whole = [SparseEntry { offset: 0, length: self.content }];
        let pieces = pieces.unwrap_or(&whole);
        skeleton.file(path, pieces).map_err(|source| UnpackError::Skeleton { source })
    }

    fn skip_content(&mut self) -> Result<(), UnpackError> {
        while self.content > 0 || self.padding > 0 {
            if !self.chunks.fill(1) {
                return Err(self.truncated());
            }
            let left = if self.content > 0 { &mut self.content } else { &mut self.padding };
            let count = clamp(*left, self.chunks.available().len());
            *left -= count as u64;
            self.pass(count)?;
        }
        Ok(())
    }

    /// Takes `count` of the available bytes, which are in no file.
    fn pass(&mut self, count: usize) -> Result<(), UnpackError> {
        if let Some(skeleton) = &mut self.skeleton {
            let bytes = self.chunks.available();
            skeleton
                .raw(&bytes[..count.min(bytes.len())])
                .map_err(|source| UnpackError::Skeleton { source })?;
        }
        self.chunks.consume(count);
        Ok(())
    }

    fn truncated(&self) -> UnpackError {
        let at = self.chunks.at() + self.chunks.available().len() as u64;
        UnpackError::TarTruncated { at, inside: format!("entry `{}`", self.name) }
    }

    /// The stream ended where a header should be. A lone zero block is a sloppy end marker.
    fn stream_end(&mut self) -> Result<(), UnpackError> {
        let rest = self.chunks.available();
        if rest.is_empty() || (rest.len() == HEADER_SIZE && rest.iter().all(|byte| *byte == 0)) {
            return self.pass(HEADER_SIZE);
        }
        let at = self.chunks.at() + rest.len() as u64;
        Err(UnpackError::TarTruncated { at, inside: "a header".to_owned() })
    }

    /// Reads to the end of the stream behind the archive (padding to a tape record, usually). Gives
    /// the digest, how many entries there were, and whether there is a skeleton.
    pub(crate) fn finish(mut self) -> Result<(model::Digest, u64, bool), UnpackError> {
        while self.chunks.fill(1) {
            if self.chunks.available().iter().any(|byte| *byte != 0) {
                return Err(UnpackError::TrailingData { at: self.chunks.at() });
            }
            self.pass(usize::MAX)?;
        }
        let whole = self.skeleton.is_some();
        let ended = self.skeleton.map_or(Ok(()), Skeleton::finish);
        ended.map_err(|source| UnpackError::Skeleton { source })?;
        Ok((self.chunks.finish(), self.entries, whole))
    }
}

fn clamp(count: u64, max: usize) -> usize {
    usize::try_from(count).map_or(max, |count| count.min(max))
}

/// tar-core cuts a base-256 size to 64 bits; a reader that does not would see another archive.
pub(crate) fn size_fits(header: &[u8; HEADER_SIZE], at: u64) -> Result<(), UnpackError> {
    let size = &header[124..136];
    if size[0] & 0x80 != 0 && (size[0] != 0x80 || size[1..4] != [0; 3]) {
        return Err(UnpackError::Header { at, source: ParseError::InvalidSize(u64::MAX) });
    }
    Ok(())
}
