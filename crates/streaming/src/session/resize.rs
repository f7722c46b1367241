//! The resize stream: JSON objects one after the other, `{"Width":80,"Height":24}`.

use serde::Deserialize;

use crate::backend::{ProcessControl, TerminalSize};
use crate::wire::{Received, Stream};

/// An object is some 30 bytes; whoever sends more without an end sends something else.
const LONGEST: usize = 4096;

#[derive(Debug, Deserialize)]
struct Size {
    #[serde(alias = "Width", default)]
    width: u16,
    #[serde(alias = "Height", default)]
    height: u16,
}

/// Sizes out of any pieces of bytes.
#[derive(Debug, Default)]
pub(crate) struct Sizes(Vec<u8>);

/// What cannot be read ends resizing, quietly: the session goes on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unreadable;

impl Sizes {
    /// The last size that is complete with `bytes`; a zero is no size and ignored.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<Option<TerminalSize>, Unreadable> {
        self.0.extend_from_slice(bytes);
        let mut sizes = serde_json::Deserializer::from_slice(&self.0).into_iter::<Size>();
        let mut last = None;
        let mut read = 0;
        loop {
            match sizes.next() {
                Some(Ok(Size { width, height })) => {
                    read = sizes.byte_offset();
                    if width > 0 && height > 0 {
                        last = Some(TerminalSize { width, height });
                    }
                }
                Some(Err(error)) if error.is_eof() => break,
                Some(Err(_)) => return Err(Unreadable),
                None => {
                    read = self.0.len();
                    break;
                }
            }
        }
        self.0.drain(..read);
        // An idle session holds nothing.
        if self.0.is_empty() {
            self.0 = Vec::new();
        }
        if self.0.len() > LONGEST { Err(Unreadable) } else { Ok(last) }
    }
}

/// Passes sizes on until the stream ends. A size that could not be set is not the session's end.
pub(crate) async fn resize(stream: &Stream, control: &dyn ProcessControl) {
    let mut sizes = Sizes::default();
    loop {
        match stream.receive().await {
            Received::Data(bytes) => match sizes.take(&bytes) {
                Ok(None) => {}
                Ok(Some(size)) => {
                    if let Err(error) = control.resize(size).await {
                        tracing::debug!(?size, %error, "cannot resize a terminal");
                    }
                }
                Err(Unreadable) => return stream.discard(),
            },
            Received::End | Received::Reset => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_in_any_pieces_and_the_last_one_counts() {
        let text = br#"{"Width":80,"Height":24}
            {"Width":0,"Height":7}{"Width":132,"Height":50}"#;
        for cut in 0..text.len() {
            let mut sizes = Sizes::default();
            let (front, back) = text.split_at(cut);
            let first = sizes.take(front).unwrap();
            let second = sizes.take(back).unwrap();
            assert_eq!(
                second.or(first),
                Some(TerminalSize { width: 132, height: 50 }),
                "cut at {cut}"
            );
            assert!(sizes.0.is_empty());
        }
    }

    #[test]
    fn what_is_no_size_ends_resizing() {
        for text in ["\"80x24\"", "{\"Width\":70000,\"Height\":1}", "x", "{\"Width\":-1}"] {
            assert_eq!(Sizes::default().take(text.as_bytes()), Err(Unreadable), "{text}");
        }
        let endless = format!("{{\"Width\":{}", " ".repeat(LONGEST));
        assert_eq!(Sizes::default().take(endless.as_bytes()), Err(Unreadable));
    }
}
