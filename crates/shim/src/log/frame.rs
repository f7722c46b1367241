//! Cuts a byte stream into log records. Pure: no files, no clock.
//!
//! A line ends with LF or CR LF, which are not part of its content. A line of up to
//! [`MAX_CONTENT`] bytes is one full record; a longer one is partial records of exactly that
//! size and a full one with the rest. What has no line end when the stream ends is partial.
//! How the stream was cut into reads never shows in the records.

/// The most content bytes in one record.
pub(crate) const MAX_CONTENT: usize = 16 << 10;

/// The most bytes kept between reads: a record's content, and a CR that belongs to the line end
/// if LF follows.
const MAX_HELD: usize = MAX_CONTENT + 1;

/// Whether a record ends its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tag {
    /// The line goes on in the stream's next record.
    Partial,
    /// The line ends here.
    Full,
}

/// What one stream has not finished. Holds memory only while a line is unfinished.
#[derive(Debug, Default)]
pub(crate) struct Framer {
    held: Vec<u8>,
}

impl Framer {
    /// Takes what was read and hands every record that is complete now to `record`.
    pub(crate) fn push(&mut self, mut input: &[u8], record: &mut dyn FnMut(Tag, &[u8])) {
        while !input.is_empty() {
            let window = &input[..input.len().min(MAX_HELD + 1 - self.held.len())];
            if let Some(end) = window.iter().position(|byte| *byte == b'\n') {
                self.end_line(&window[..end], record);
                input = &input[end + 1..];
            } else if self.can_hold(window) {
                self.hold(window);
                return;
            } else {
                let used = self.emit_partial(window, record);
                input = &input[used..];
            }
        }
    }

    /// The stream has ended: what is left is partial, since no line end came.
    pub(crate) fn finish(&mut self, record: &mut dyn FnMut(Tag, &[u8])) {
        let held = std::mem::take(&mut self.held);
        for content in held.chunks(MAX_CONTENT) {
            record(Tag::Partial, content);
        }
    }

    fn end_line(&mut self, rest: &[u8], record: &mut dyn FnMut(Tag, &[u8])) {
        if self.held.is_empty() {
            return emit_line(rest, record);
        }
        let mut line = std::mem::take(&mut self.held);
        line.extend_from_slice(rest);
        emit_line(&line, record);
    }

    /// Whether `more`, which has no LF, leaves the line short enough for one record.
    fn can_hold(&self, more: &[u8]) -> bool {
        let length = self.held.len() + more.len();
        length < MAX_HELD || (length == MAX_HELD && more.last() == Some(&b'\r'))
    }

    fn hold(&mut self, more: &[u8]) {
        let wanted = self.held.len() + more.len();
        if wanted > self.held.capacity() {
            // Doubling, but never beyond what may be held.
            let target = (self.held.capacity() * 2).min(MAX_HELD).max(wanted);
            self.held.reserve_exact(target - self.held.len());
        }
        self.held.extend_from_slice(more);
    }

    /// Emits the first [`MAX_CONTENT`] bytes of the line; returns how many of them were `more`'s.
    fn emit_partial(&mut self, more: &[u8], record: &mut dyn FnMut(Tag, &[u8])) -> usize {
        if self.held.len() > MAX_CONTENT {
            record(Tag::Partial, &self.held[..MAX_CONTENT]);
            self.held = self.held[MAX_CONTENT..].to_vec();
            return 0;
        }
        let used = MAX_CONTENT - self.held.len();
        if self.held.is_empty() {
            record(Tag::Partial, &more[..used]);
        } else {
            let mut content = std::mem::take(&mut self.held);
            content.extend_from_slice(&more[..used]);
            record(Tag::Partial, &content);
        }
        used
    }
}

fn emit_line(line: &[u8], record: &mut dyn FnMut(Tag, &[u8])) {
    let mut content = line.strip_suffix(b"\r").unwrap_or(line);
    while content.len() > MAX_CONTENT {
        let (first, rest) = content.split_at(MAX_CONTENT);
        record(Tag::Partial, first);
        content = rest;
    }
    record(Tag::Full, content);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type Records = Vec<(Tag, Vec<u8>)>;

    fn frame<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Records {
        let mut framer = Framer::default();
        let mut records = Records::new();
        let mut sink = |tag, content: &[u8]| records.push((tag, content.to_vec()));
        for chunk in chunks {
            framer.push(chunk, &mut sink);
            assert!(framer.held.len() <= MAX_HELD);
        }
        framer.finish(&mut sink);
        assert_eq!(framer.held.capacity(), 0);
        records
    }

    /// The rules, written down without any thought of chunks.
    fn expected(input: &[u8]) -> Records {
        let mut records = Records::new();
        let mut lines: Vec<&[u8]> = input.split(|byte| *byte == b'\n').collect();
        let unfinished = lines.pop().unwrap_or_default();
        for line in lines {
            let content = line.strip_suffix(b"\r").unwrap_or(line);
            let pieces: Vec<&[u8]> = content.chunks(MAX_CONTENT).collect();
            let partial = pieces.len().saturating_sub(1);
            records.extend(pieces[..partial].iter().map(|piece| (Tag::Partial, piece.to_vec())));
            records.push((Tag::Full, pieces[partial..].concat()));
        }
        records.extend(unfinished.chunks(MAX_CONTENT).map(|piece| (Tag::Partial, piece.to_vec())));
        records
    }

    #[track_caller]
    fn check(input: &[u8], want: &[(Tag, &[u8])]) {
        let want: Records = want.iter().map(|(tag, content)| (*tag, content.to_vec())).collect();
        assert_eq!(frame([input]), want);
        assert_eq!(frame(input.chunks(1)), want);
    }

    #[test]
    fn lines_end_with_lf_or_cr_lf() {
        use Tag::Full;
        check(b"a\n", &[(Full, b"a")]);
        check(b"a\r\nb\n", &[(Full, b"a"), (Full, b"b")]);
        check(b"\n\r\n\n", &[(Full, b""), (Full, b""), (Full, b"")]);
        check(b"a\rb\r\r\n", &[(Full, b"a\rb\r")]);
    }

    #[test]
    fn what_has_no_line_end_is_partial() {
        check(b"", &[]);
        check(b"abc", &[(Tag::Partial, b"abc")]);
        check(b"a\nbc\r", &[(Tag::Full, b"a"), (Tag::Partial, b"bc\r")]);
    }

    #[test]
    fn a_line_of_exactly_the_limit_is_one_record() {
        let content = vec![b'x'; MAX_CONTENT];
        for end in [&b"\n"[..], b"\r\n"] {
            check(&[&content[..], end].concat(), &[(Tag::Full, &content)]);
        }
        check(&content, &[(Tag::Partial, &content)]);
    }

    #[test]
    fn a_longer_line_is_cut_at_the_limit() {
        use Tag::{Full, Partial};
        let long = vec![b'x'; MAX_CONTENT];
        check(&[&long[..], b"y\n"].concat(), &[(Partial, &long), (Full, b"y")]);
        check(&[&long[..], b"\ry\n"].concat(), &[(Partial, &long), (Full, b"\ry")]);
        check(&[&long[..], b"\r"].concat(), &[(Partial, &long), (Partial, b"\r")]);
        check(
            &[&long[..], &long, b"z\r\n"].concat(),
            &[(Partial, &long), (Partial, &long), (Full, b"z")],
        );
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            Just(b"\n".to_vec()),
            Just(b"\r\n".to_vec()),
            Just(b"\r".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..40),
            (MAX_CONTENT - 2..MAX_CONTENT + 3).prop_map(|length| vec![b'x'; length]),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn chunks_never_show(input in stream(), cuts in proptest::collection::vec(1usize..20_000, 1..20)) {
            let mut rest = &input[..];
            let mut chunks = Vec::new();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (chunk, tail) = rest.split_at((*cut).min(rest.len()));
                chunks.push(chunk);
                rest = tail;
            }
            prop_assert_eq!(frame(chunks), expected(&input));
        }

        #[test]
        fn joined_records_are_the_input_without_line_ends(input in stream()) {
            let mut joined = Vec::new();
            for (tag, content) in frame([&input[..]]) {
                prop_assert!(content.len() <= MAX_CONTENT);
                joined.extend(content);
                if tag == Tag::Full {
                    joined.push(b'\n');
                }
            }
            let mut plain = Vec::new();
            for byte in &input {
                if *byte == b'\n' && plain.last() == Some(&b'\r') {
                    plain.pop();
                }
                plain.push(*byte);
            }
            prop_assert_eq!(joined, plain);
        }
    }
}
