//! Building and reading netlink messages: `nlmsghdr`, `nlattr`, both aligned to 4 bytes in
//! host byte order.

/// Bytes of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;
const ATTRIBUTE_HEADER: usize = 4;
const NLA_F_NESTED: u16 = 0x8000;
/// Clears `NLA_F_NESTED` and `NLA_F_NET_BYTEORDER`.
const NLA_TYPE_MASK: u16 = 0x3fff;

pub(super) const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_ACK: u16 = 0x4;
/// Answer with every object, not one.
pub const NLM_F_DUMP: u16 = 0x300;
/// Take the place of an object that exists.
pub const NLM_F_REPLACE: u16 = 0x100;
/// Fail with `EEXIST` if the object exists.
pub const NLM_F_EXCL: u16 = 0x200;
/// Make the object.
pub const NLM_F_CREATE: u16 = 0x400;
/// Add behind the existing ones.
pub const NLM_F_APPEND: u16 = 0x800;

/// Messages that are sent to the kernel in one call, each with a label for error text.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    messages: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    start: usize,
    label: String,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends one message. `label` completes "cannot …" in an error.
    pub fn message(
        &mut self,
        kind: u16,
        flags: u16,
        label: impl Into<String>,
        body: impl FnOnce(&mut Body<'_>),
    ) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        body(&mut Body { bytes: &mut self.bytes });
        let len = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes());
        self.messages.push(Entry { start, label: label.into() });
    }

    /// How many messages there are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Asks for an acknowledgement of message `at`.
    pub(super) fn want_ack(&mut self, at: usize) {
        if let Some(entry) = self.messages.get(at) {
            let flags = entry.start + 6..entry.start + 8;
            let old = u16::from_ne_bytes([self.bytes[flags.start], self.bytes[flags.start + 1]]);
            self.bytes[flags].copy_from_slice(&(old | NLM_F_ACK).to_ne_bytes());
        }
    }

    /// Numbers the messages `first`, `first + 1`, … and returns the bytes to send.
    pub(super) fn numbered(&mut self, first: u32) -> &[u8] {
        let mut sequence = first;
        for entry in &self.messages {
            let field = entry.start + 8..entry.start + 12;
            self.bytes[field].copy_from_slice(&sequence.to_ne_bytes());
            sequence = sequence.wrapping_add(1);
        }
        &self.bytes
    }

    pub(super) fn label(&self, at: usize) -> &str {
        self.messages.get(at).map_or("talk netlink", |entry| &entry.label)
    }
}

/// The open end of a message or of a nested attribute.
#[derive(Debug)]
pub struct Body<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Body<'_> {
    /// A fixed structure, padded to 4 bytes.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// An attribute with these bytes.
    pub fn attr(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(payload);
        self.close(start);
        self
    }

    /// An attribute in host byte order (rtnetlink's numbers).
    pub fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// An attribute in network byte order (nf_tables' numbers).
    pub fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    /// A text attribute with its terminating NUL.
    pub fn text(&mut self, kind: u16, text: &str) -> &mut Self {
        let start = self.open(kind);
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self.close(start);
        self
    }

    /// An attribute made of attributes.
    pub fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Body<'_>)) -> &mut Self {
        let start = self.open(kind | NLA_F_NESTED);
        inner(&mut Body { bytes: self.bytes });
        self.close(start);
        self
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        // An attribute over 64 KiB cannot be expressed; the kernel refuses the saturated length.
        let len = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Walks the attributes of a received message; stops at the first malformed one.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The attributes in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The payload of the first attribute of this kind.
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find(|(found, _)| *found == kind).map(|(_, payload)| payload)
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16_at(self.rest, 0)?);
        let kind = u16_at(self.rest, 2)? & NLA_TYPE_MASK;
        let payload = self.rest.get(ATTRIBUTE_HEADER..len)?;
        self.rest = self.rest.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, payload))
    }
}

/// One received message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    pub(super) flags: u16,
    pub(super) sequence: u32,
    pub(super) body: &'a [u8],
}

/// Walks the messages of one datagram; stops at the first malformed one.
pub(super) struct Messages<'a>(pub(super) &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Received<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::try_from(u32_at(self.0, 0)?).ok()?;
        let received = Received {
            kind: u16_at(self.0, 4)?,
            flags: u16_at(self.0, 6)?,
            sequence: u32_at(self.0, 8)?,
            body: self.0.get(HEADER..len)?,
        };
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some(received)
    }
}

/// A `u16` in host order, if there are that many bytes.
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// A `u32` in host order, if there are that many bytes.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_are_aligned_and_read_back() {
        let mut batch = Batch::new();
        batch.message(7, NLM_F_CREATE, "first", |body| {
            body.raw(&[1, 2, 3, 4]).text(3, "abc").nest(5, |inner| {
                inner.attr(1, &[9]).be32(2, 1);
            });
        });
        batch.message(8, 0, "second", |body| {
            body.attr(1, &[1, 2, 3, 4, 5]);
        });
        batch.want_ack(1);
        let bytes = batch.numbered(40).to_vec();
        assert_eq!(bytes.len() % 4, 0);
        let got: Vec<_> = Messages(&bytes).collect();
        assert_eq!(got.len(), 2);
        assert_eq!((got[0].kind, got[0].flags), (7, NLM_F_CREATE | NLM_F_REQUEST));
        assert_eq!((got[1].sequence, got[1].flags), (41, NLM_F_REQUEST | NLM_F_ACK));
        let attributes = Attributes::new(&got[0].body[4..]);
        assert_eq!(attributes.get(3), Some(&b"abc\0"[..]));
        let inner = Attributes::new(attributes.get(5).unwrap());
        assert_eq!(inner.get(1), Some(&[9][..]));
        assert_eq!(inner.get(2), Some(&[0, 0, 0, 1][..]));
    }

    #[test]
    fn torn_input_ends_the_walk() {
        for bytes in [&[][..], &[1], &[3, 0, 1, 0], &[0xff, 0xff, 0, 0, 1], &[0; 16], &[0; 3]] {
            assert_eq!(Attributes::new(bytes).filter(|(_, p)| p.len() > 99).count(), 0);
            assert_eq!(Messages(bytes).count(), 0);
        }
    }
}
