//! Shims outlive their daemon: what an earlier version said is understood for ever, and what is
//! said to one is what it understood. A later version adds a recording and takes none away.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

#[path = "recorded/conversation.rs"]
#[allow(unreachable_pub, reason = "compiled by another version's program too")]
mod conversation;
#[path = "recorded/version3.rs"]
#[allow(unreachable_pub, reason = "compiled by another version's program too")]
mod version3;

use std::collections::BTreeSet;

use conversation::Said;
use minicbor::Decode;
use shim_protocol::{Asked, Body, FrameReader, FromShim, VERSION, encode};

const VERSION_1: &str = include_str!("recorded/version1.txt");
const VERSION_3: &str = include_str!("recorded/version3.txt");

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn read<T: for<'b> Decode<'b, ()>>(frame: &[u8]) -> T {
    let mut frames = FrameReader::default();
    frames.push(frame);
    frames.next().unwrap().unwrap()
}

/// As a recording has it.
fn line(said: &Said) -> String {
    match said {
        Said::Daemon(request) => format!("daemon {}", hex(&encode(request))),
        Said::Shim(message) => format!("shim {}", hex(&encode(message))),
    }
}

/// Each line of a recording means now what it meant then.
fn compare(said: Vec<Said>, recorded: &str) {
    let lines: Vec<&str> = recorded.lines().collect();
    let now = || said.iter().map(line).collect::<Vec<_>>().join("\n");
    assert_eq!(lines.len(), said.len(), "it would be recorded as\n{}", now());
    for (said, line) in said.into_iter().zip(lines) {
        match (said, line.split_once(' ').unwrap()) {
            (Said::Daemon(request), ("daemon", digits)) => {
                // To the byte: a shim of that version cannot be asked in other words.
                assert_eq!(hex(&encode(&request)), digits, "{request:?}");
                assert_eq!(read::<Asked>(&bytes(digits)), Asked::Known(request));
            }
            (Said::Shim(message), ("shim", digits)) => {
                assert_eq!(read::<FromShim>(&bytes(digits)), message, "{digits}");
            }
            (Said::Daemon(_) | Said::Shim(_), (who, _)) => panic!("{who} did not say this"),
        }
    }
}

#[test]
fn version_1_is_spoken_and_understood() {
    compare(conversation::conversation(), VERSION_1);
}

#[test]
fn version_3_is_spoken_and_understood() {
    compare(version3::conversation(), VERSION_3);
}

/// Whoever adds a request adds a version, and whoever adds a version adds its recording.
#[test]
fn the_version_that_is_spoken_is_recorded_with_all_its_requests() {
    let said = conversation::conversation().into_iter().chain(version3::conversation());
    let requests: Vec<_> = said
        .filter_map(|said| match said {
            Said::Daemon(request) => Some(request.body),
            Said::Shim(_) => None,
        })
        .collect();
    let newest = requests.iter().map(Body::since).max();
    assert_eq!(newest, Some(VERSION), "record what the newest version says");
    let hello = requests
        .iter()
        .filter_map(|body| if let Body::Hello(hello) = body { Some(hello.version) } else { None });
    let hello = hello.max();
    assert_eq!(hello, Some(VERSION), "the newest recording is of the newest version");
    let kinds: BTreeSet<_> = requests.iter().map(number).collect();
    assert_eq!(kinds, (0..KINDS).collect(), "every request of the protocol is recorded");
}

/// How many requests [`number`] knows.
const KINDS: u32 = 16;

/// A request's number on the wire; one that is new has to be recorded.
fn number(body: &Body) -> u32 {
    match body {
        Body::Hello(_) => 0,
        Body::SetupPod(_) => 1,
        Body::Start(_) => 2,
        Body::Kill { .. } => 3,
        Body::Exec(_) => 4,
        Body::KillExec { .. } => 5,
        Body::ReopenLog { .. } => 6,
        Body::State => 7,
        Body::Forget { .. } => 8,
        Body::Shutdown => 9,
        Body::Attach(_) => 10,
        Body::Detach { .. } => 11,
        Body::CloseStdin { .. } => 12,
        Body::Resize { .. } => 13,
        Body::HangUpExec { .. } => 14,
        Body::StartExternal(_) => 15,
    }
}
