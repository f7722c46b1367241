//! Shims outlive their daemon: what an earlier version said is understood for ever, and what is
//! said to one is what it understood. A later version adds a recording and takes none away.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

#[path = "recorded/conversation.rs"]
#[allow(unreachable_pub, reason = "compiled by another version's program too")]
mod conversation;

use conversation::{Said, conversation};
use minicbor::Decode;
use shim_protocol::{Asked, FrameReader, FromShim, encode};

const VERSION_1: &str = include_str!("recorded/version1.txt");

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn read<T: for<'b> Decode<'b, ()>>(frame: &[u8]) -> T {
    let mut frames = FrameReader::default();
    frames.push(frame);
    frames.next().unwrap().unwrap()
}

#[test]
fn version_1_is_spoken_and_understood() {
    let said = conversation();
    let recorded: Vec<&str> = VERSION_1.lines().collect();
    assert_eq!(recorded.len(), said.len());
    for (said, recorded) in said.into_iter().zip(recorded) {
        match (said, recorded.split_once(' ').unwrap()) {
            (Said::Daemon(request), ("daemon", hex)) => {
                // To the byte: a shim of that version cannot be asked in other words.
                assert_eq!(encode(&request), bytes(hex), "{request:?}");
                assert_eq!(read::<Asked>(&bytes(hex)), Asked::Known(request));
            }
            (Said::Shim(message), ("shim", hex)) => {
                assert_eq!(read::<FromShim>(&bytes(hex)), message, "{hex}");
            }
            (Said::Daemon(_) | Said::Shim(_), (who, _)) => panic!("{who} did not say this"),
        }
    }
}
