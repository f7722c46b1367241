//! Partial records back into lines, each stream by itself.

use super::record::{Record, Stream};

/// Longer unfinished lines are passed on in pieces instead of being held.
const MAX_HELD: usize = 1024 * 1024;

/// A line, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its stream.
    pub stream: Stream,
    /// When its first record was written.
    pub time: String,
    /// The bytes.
    pub content: Vec<u8>,
    /// Nothing of this line was passed on before.
    pub starts_line: bool,
    /// The line ends here.
    pub ends_line: bool,
}

/// Joins records into lines. Streams do not disturb each other: a line of stderr between two
/// parts of a line of stdout leaves that line whole.
#[derive(Debug, Default)]
pub struct Joiner {
    stdout: Held,
    stderr: Held,
}

#[derive(Debug, Default)]
struct Held {
    piece: Option<Piece>,
    mid_line: bool,
}

impl Joiner {
    /// Takes a record; gives the line it completes.
    pub fn push(&mut self, record: &Record<'_>) -> Option<Piece> {
        let held = match record.stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let starts_line = !held.mid_line;
        let piece = held.piece.get_or_insert_with(|| Piece {
            stream: record.stream,
            time: record.time.to_owned(),
            content: Vec::new(),
            starts_line,
            ends_line: false,
        });
        piece.content.extend_from_slice(record.content);
        piece.ends_line = !record.partial;
        if record.partial && piece.content.len() < MAX_HELD {
            return None;
        }
        held.mid_line = record.partial;
        held.piece.take()
    }

    /// Gives up what is held: the log has ended, or somebody watches and wants to see a prompt.
    pub fn flush(&mut self) -> impl Iterator<Item = Piece> {
        let take = |held: &mut Held| {
            held.mid_line |= held.piece.is_some();
            held.piece.take()
        };
        [take(&mut self.stdout), take(&mut self.stderr)].into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(joiner: &mut Joiner, line: &str) -> Option<(String, bool, bool)> {
        let piece = joiner.push(&Record::parse(line.as_bytes()).unwrap())?;
        Some((String::from_utf8(piece.content).unwrap(), piece.starts_line, piece.ends_line))
    }

    #[test]
    fn parts_of_a_line_become_one_line_even_with_the_other_stream_between() {
        let mut joiner = Joiner::default();
        assert_eq!(feed(&mut joiner, "t1 stdout P one "), None);
        assert_eq!(feed(&mut joiner, "t2 stderr F oops"), Some(("oops".into(), true, true)));
        assert_eq!(feed(&mut joiner, "t3 stdout P two "), None);
        assert_eq!(
            feed(&mut joiner, "t4 stdout F three"),
            Some(("one two three".into(), true, true))
        );
        assert_eq!(feed(&mut joiner, "t5 stdout F "), Some((String::new(), true, true)));
    }

    #[test]
    fn a_flushed_prompt_is_continued_not_begun_again() {
        let mut joiner = Joiner::default();
        assert_eq!(feed(&mut joiner, "t1 stdout P name: "), None);
        let prompt: Vec<Piece> = joiner.flush().collect();
        assert_eq!(prompt.len(), 1);
        assert!(prompt[0].starts_line && !prompt[0].ends_line);
        assert_eq!(feed(&mut joiner, "t2 stdout F knarr"), Some(("knarr".into(), false, true)));
        assert_eq!(joiner.flush().count(), 0);
    }

    #[test]
    fn an_endless_line_is_not_held_in_memory() {
        let mut joiner = Joiner::default();
        let part = format!("t stdout P {}", "x".repeat(16 * 1024));
        let mut pieces = 0;
        for _ in 0..200 {
            pieces += usize::from(feed(&mut joiner, &part).is_some());
        }
        assert_eq!(pieces, 200 / 64);
    }
}
