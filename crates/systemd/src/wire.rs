//! D-Bus messages, as far as systemd's manager needs them. Little endian out, both in. D-Bus
//! specification, "Message Protocol".

use std::io;

/// No answer of systemd's is larger. The specification allows 128 MiB.
pub(crate) const MAX_MESSAGE: usize = 16 << 20;
/// A message's part that says how long it is.
pub(crate) const FIXED: usize = 16;

const CALL: u8 = 1;

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Return,
    Error,
    Signal,
    /// A call, or a type that is to be ignored.
    Other,
}

/// A value in a variant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Bool(bool),
    U64(u64),
    Text(String),
    Bytes(Vec<u8>),
    Numbers(Vec<u32>),
}

/// Bytes in the making. Alignment counts from the beginning.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(crate) fn u32(&mut self, value: u32) {
        self.align(4);
        self.0.extend(value.to_le_bytes());
    }

    fn length(&mut self, length: usize) {
        // Nothing here comes near: a longer one would be refused by the reader.
        self.u32(u32::try_from(length).unwrap_or(u32::MAX));
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.u32(value.into());
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.length(text.len());
        self.0.extend(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        self.0.push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.0.extend(signature.as_bytes());
        self.0.push(0);
    }

    /// An array whose elements are aligned to `align`.
    pub(crate) fn array(&mut self, align: usize, f: impl FnOnce(&mut Self)) {
        self.u32(0);
        let at = self.0.len() - 4;
        self.align(align);
        let begin = self.0.len();
        f(self);
        let length = u32::try_from(self.0.len() - begin).unwrap_or(u32::MAX);
        self.0[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    pub(crate) fn variant(&mut self, value: &Value) {
        match value {
            Value::Bool(value) => {
                self.signature("b");
                self.bool(*value);
            }
            Value::U64(value) => {
                self.signature("t");
                self.align(8);
                self.0.extend(value.to_le_bytes());
            }
            Value::Text(text) => {
                self.signature("s");
                self.text(text);
            }
            Value::Bytes(bytes) => {
                self.signature("ay");
                self.array(1, |out| out.0.extend(bytes));
            }
            Value::Numbers(numbers) => {
                self.signature("au");
                self.array(4, |out| numbers.iter().for_each(|number| out.u32(*number)));
            }
        }
    }

    /// `a(sv)`.
    pub(crate) fn properties<'a>(
        &mut self,
        properties: impl IntoIterator<Item = (&'a str, &'a Value)>,
    ) {
        self.array(8, |out| {
            for (name, value) in properties {
                out.align(8);
                out.text(name);
                out.variant(value);
            }
        });
    }

    fn header_text(&mut self, code: u8, signature: &str, text: &str) {
        self.align(8);
        self.0.push(code);
        self.signature(signature);
        self.text(text);
    }
}

/// Whom a call is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target {
    pub(crate) destination: &'static str,
    pub(crate) path: &'static str,
    pub(crate) interface: &'static str,
}

/// A method call with a body of this signature.
pub(crate) fn call(
    serial: u32,
    target: Target,
    member: &str,
    signature: &str,
    body: &Writer,
) -> Vec<u8> {
    let mut out = Writer::default();
    out.0.extend([b'l', CALL, 0, 1]);
    out.length(body.0.len());
    out.u32(serial);
    out.array(8, |out| {
        out.header_text(1, "o", target.path);
        out.header_text(2, "s", target.interface);
        out.header_text(3, "s", member);
        out.header_text(6, "s", target.destination);
        if !signature.is_empty() {
            out.align(8);
            out.0.push(8);
            out.signature("g");
            out.signature(signature);
        }
    });
    out.align(8);
    out.0.extend(&body.0);
    out.0
}

/// A message that came in.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    pub(crate) reply_to: Option<u32>,
    pub(crate) member: String,
    pub(crate) error: String,
    big: bool,
    body: Vec<u8>,
}

/// How many bytes a message has behind the first [`FIXED`].
pub(crate) fn rest(fixed: &[u8; FIXED]) -> io::Result<usize> {
    let mut read = Reader { bytes: fixed, at: 4, big: fixed[0] == b'B' };
    let body = read.length()?;
    read.u32()?;
    let fields = read.length()?;
    let rest = fields.next_multiple_of(8).saturating_add(body);
    if matches!(fixed[0], b'l' | b'B') && rest <= MAX_MESSAGE { Ok(rest) } else { Err(broken()) }
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a D-Bus message")
}

impl Message {
    /// From all its bytes.
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Self> {
        let [order, kind, ..] = *bytes else { return Err(broken()) };
        let mut read = Reader { bytes, at: 4, big: order == b'B' };
        let length = read.length()?;
        let kind = match kind {
            2 => Kind::Return,
            3 => Kind::Error,
            4 => Kind::Signal,
            _call_or_unknown => Kind::Other,
        };
        let mut message = Self {
            kind,
            reply_to: None,
            member: String::new(),
            error: String::new(),
            big: read.big,
            body: bytes
                .len()
                .checked_sub(length)
                .map(|at| bytes[at..].to_vec())
                .ok_or_else(broken)?,
        };
        read.u32()?;
        let end = read.length()?;
        let end = read.at.saturating_add(end);
        while read.at < end {
            read.align(8)?;
            let code = read.u8()?;
            let signature = read.signature()?;
            match (code, signature.as_str()) {
                (3, "s") => message.member = read.text()?,
                (4, "s") => message.error = read.text()?,
                (5, "u") => message.reply_to = Some(read.u32()?),
                (_, "u") => drop(read.u32()?),
                (_, "g") => drop(read.signature()?),
                (_, "s" | "o") => drop(read.text()?),
                _ => return Err(broken()),
            }
        }
        Ok(message)
    }

    pub(crate) fn body(&self) -> Reader<'_> {
        Reader { bytes: &self.body, at: 0, big: self.big }
    }
}

/// Values, one after the other.
#[derive(Debug)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big: bool,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) -> io::Result<()> {
        self.at = self.at.next_multiple_of(to);
        if self.at <= self.bytes.len() { Ok(()) } else { Err(broken()) }
    }

    fn take(&mut self, length: usize) -> io::Result<&[u8]> {
        let end = self.at.checked_add(length).ok_or_else(broken)?;
        let taken = self.bytes.get(self.at..end).ok_or_else(broken)?;
        self.at = end;
        Ok(taken)
    }

    fn u8(&mut self) -> io::Result<u8> {
        Ok(self.take(1)?[0])
    }

    pub(crate) fn u32(&mut self) -> io::Result<u32> {
        self.align(4)?;
        let big = self.big;
        let bytes = self.take(4)?.try_into().map_err(|_| broken())?;
        Ok(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn length(&mut self) -> io::Result<usize> {
        usize::try_from(self.u32()?).map_err(|_| broken())
    }

    /// A string or an object's path.
    pub(crate) fn text(&mut self) -> io::Result<String> {
        let length = self.length()?;
        let text = self.take(length.checked_add(1).ok_or_else(broken)?)?;
        String::from_utf8(text[..length].to_vec()).map_err(|_| broken())
    }

    fn signature(&mut self) -> io::Result<String> {
        let length = usize::from(self.u8()?);
        let text = self.take(length + 1)?;
        String::from_utf8(text[..length].to_vec()).map_err(|_| broken())
    }
}

/// A message as systemd sends it.
#[cfg(test)]
pub(crate) fn made_by_systemd(
    kind: u8,
    reply_to: Option<u32>,
    member: Option<&str>,
    error: Option<&str>,
    f: impl FnOnce(&mut Writer),
) -> Vec<u8> {
    let mut body = Writer::default();
    f(&mut body);
    let mut out = Writer::default();
    out.0.extend([b'l', kind, 1, 1]);
    out.length(body.0.len());
    out.u32(1);
    out.array(8, |out| {
        if let Some(serial) = reply_to {
            out.align(8);
            out.0.push(5);
            out.signature("u");
            out.u32(serial);
        }
        if let Some(member) = member {
            out.header_text(3, "s", member);
        }
        if let Some(error) = error {
            out.header_text(4, "s", error);
        }
    });
    out.align(8);
    out.0.extend(&body.0);
    out.0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: Target = Target { destination: "a.b", path: "/a", interface: "a.i" };

    #[test]
    fn a_call_has_the_form_of_the_specification() {
        let mut body = Writer::default();
        body.text("x");
        let bytes = call(7, TARGET, "Do", "s", &body);
        let (length, serial) = (&bytes[4..8], &bytes[8..12]);
        assert_eq!((length, serial), (&[6, 0, 0, 0][..], &[7, 0, 0, 0][..]));
        assert_eq!(bytes[..4], *b"l\x01\x00\x01");
        assert!((bytes.len() - 6).is_multiple_of(8), "the body begins aligned");
        let fixed: [u8; FIXED] = bytes[..FIXED].try_into().unwrap();
        assert_eq!(rest(&fixed).unwrap(), bytes.len() - FIXED);
        let message = Message::parse(&bytes).unwrap();
        assert_eq!((message.kind, message.member.as_str()), (Kind::Other, "Do"));
        assert_eq!(message.body().text().unwrap(), "x");
    }

    #[test]
    fn an_array_is_as_long_as_its_elements() {
        let mut out = Writer::default();
        out.properties([("A", &Value::U64(5)), ("B", &Value::Numbers(vec![1, 2]))]);
        // The padding before the first element does not count.
        let length = u32::from_le_bytes(out.0[..4].try_into().unwrap());
        assert_eq!(usize::try_from(length).unwrap(), out.0.len() - 8);
        assert_eq!(out.0[8..14], [1, 0, 0, 0, b'A', 0]);
        assert_eq!(out.0[14..17], [1, b't', 0]);
        assert_eq!(out.0[24..32], 5_u64.to_le_bytes());
    }

    #[test]
    fn what_is_cut_short_or_too_long_is_refused() {
        let bytes = call(1, TARGET, "Do", "s", &{
            let mut body = Writer::default();
            body.text("text");
            body
        });
        for end in 0..bytes.len() {
            // The body's length no longer agrees, or the fields end too early.
            let parsed = Message::parse(&bytes[..end]);
            assert!(parsed.is_err() || parsed.unwrap().body().text().is_err(), "{end}");
        }
        let mut fixed = [0xff; FIXED];
        fixed[0] = b'l';
        rest(&fixed).unwrap_err();
        fixed[0] = b'x';
        rest(&fixed).unwrap_err();
    }
}
