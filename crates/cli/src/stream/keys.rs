//! Keys that detach from a container: `ctrl-p,ctrl-q`.

/// A sequence of keys, found in what is typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys {
    keys: Vec<u8>,
    /// How many of them were typed last.
    typed: usize,
}

/// Why a text names no keys.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{part}` is not a key: want a character or ctrl- and one of a-z @ [ \\ ] ^ _")]
pub struct KeysError {
    part: String,
}

/// What to do with what was typed.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// To be sent; may be empty while the sequence is on its way.
    Send(Vec<u8>),
    /// To be sent, then the sequence was complete.
    Detach(Vec<u8>),
}

impl DetachKeys {
    /// Reads keys with commas between them; an empty text is no key at all.
    ///
    /// # Errors
    /// [`KeysError`].
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let keys = text.split(',').filter(|part| !part.is_empty()).map(key);
        Ok(Self { keys: keys.collect::<Result<_, _>>()?, typed: 0 })
    }

    /// Takes what was typed. Keys of a sequence that is not completed are sent after all.
    pub fn take(&mut self, bytes: &[u8]) -> Typed {
        let mut send = Vec::with_capacity(bytes.len());
        for byte in bytes {
            if self.keys.get(self.typed) == Some(byte) {
                self.typed += 1;
                if self.typed == self.keys.len() {
                    self.typed = 0;
                    return Typed::Detach(send);
                }
                continue;
            }
            send.extend_from_slice(&self.keys[..self.typed]);
            self.typed = 0;
            if self.keys.first() == Some(byte) {
                self.typed = 1;
            } else {
                send.push(*byte);
            }
        }
        Typed::Send(send)
    }
}

fn key(part: &str) -> Result<u8, KeysError> {
    let wrong = || KeysError { part: part.to_owned() };
    match (part.strip_prefix("ctrl-"), part.as_bytes()) {
        (Some(rest), _) => match rest.as_bytes() {
            // A terminal's control characters are the letters' codes without their upper bits.
            [c @ (b'a'..=b'z' | b'@' | b'['..=b'_')] => Ok(c & 0x1f),
            _ => Err(wrong()),
        },
        (None, [c]) if c.is_ascii() => Ok(*c),
        (None, _) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_detaches_however_it_is_cut_and_everything_else_is_sent() {
        let mut keys = DetachKeys::parse("ctrl-p,ctrl-q").unwrap();
        assert_eq!(keys.take(b"ls\n"), Typed::Send(b"ls\n".to_vec()));
        assert_eq!(keys.take(b"a\x10"), Typed::Send(b"a".to_vec()));
        assert_eq!(keys.take(b"b"), Typed::Send(b"\x10b".to_vec()));
        assert_eq!(keys.take(b"\x10\x10"), Typed::Send(b"\x10".to_vec()));
        assert_eq!(keys.take(b"\x11after"), Typed::Detach(Vec::new()));
        assert_eq!(keys.take(b"x\x10\x11"), Typed::Detach(b"x".to_vec()));
    }

    #[test]
    fn keys_are_read_from_text() {
        assert_eq!(DetachKeys::parse("ctrl-@,q,ctrl-]").unwrap().keys, [0, b'q', 0x1d]);
        let mut none = DetachKeys::parse("").unwrap();
        assert_eq!(none.take(b"\x10\x11"), Typed::Send(b"\x10\x11".to_vec()));
        for wrong in ["ctrl-", "ctrl-P", "ctrl-1", "pq", "ä"] {
            assert!(DetachKeys::parse(wrong).is_err(), "{wrong}");
        }
    }
}
