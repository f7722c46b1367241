//! One record of a CRI log file.

/// Where a record was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, or a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One record, borrowed from its line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record<'a> {
    /// RFC 3339, as written.
    pub time: &'a str,
    /// The stream.
    pub stream: Stream,
    /// More of the same line follows.
    pub partial: bool,
    /// The bytes, without the line's end.
    pub content: &'a [u8],
}

impl<'a> Record<'a> {
    /// Reads one line without its newline; `None` if it is no record (a torn or foreign line).
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let (time, rest) = field(line)?;
        let (stream, rest) = field(rest)?;
        // A record of an empty line may end right after its tags.
        let (tags, content) = field(rest).unwrap_or((rest, b""));
        let stream = match stream {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let partial = match tags.split(|&byte| byte == b':').next()? {
            b"P" => true,
            b"F" => false,
            _ => return None,
        };
        let time = std::str::from_utf8(time).ok().filter(|time| !time.is_empty())?;
        Some(Self { time, stream, partial, content })
    }
}

fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = line.iter().position(|&byte| byte == b' ')?;
    Some((&line[..space], &line[space + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_told_from_other_lines() {
        let time = "2026-01-02T03:04:05.678901234Z";
        for (line, expected) in [
            (
                "2026-01-02T03:04:05.678901234Z stdout F hello world",
                Some((Stream::Stdout, false, "hello world")),
            ),
            ("2026-01-02T03:04:05.678901234Z stderr P ab", Some((Stream::Stderr, true, "ab"))),
            (
                "2026-01-02T03:04:05.678901234Z stdout P:x:y  two",
                Some((Stream::Stdout, true, " two")),
            ),
            ("2026-01-02T03:04:05.678901234Z stdout F ", Some((Stream::Stdout, false, ""))),
            ("2026-01-02T03:04:05.678901234Z stdout F", Some((Stream::Stdout, false, ""))),
            ("2026-01-02T03:04:05.678901234Z stdlog F x", None),
            ("2026-01-02T03:04:05.678901234Z stdout Q x", None),
            ("torn", None),
            ("", None),
        ] {
            let expected = expected.map(|(stream, partial, content)| Record {
                time,
                stream,
                partial,
                content: content.as_bytes(),
            });
            assert_eq!(Record::parse(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn content_need_not_be_text() {
        let record = Record::parse(b"t stdout F \xff\x00").unwrap();
        assert_eq!(record.content, b"\xff\x00");
    }
}
