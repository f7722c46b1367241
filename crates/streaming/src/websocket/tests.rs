use bytes::BytesMut;
use proptest::prelude::*;

use super::frame::{self, Opcode};
use super::*;
use crate::wire::{Event, Role, StreamId, WireError};

const MASK: [u8; 4] = [0x11, 0x22, 0x83, 0xf4];

fn message(opcode: Opcode, bytes: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    frame::write(opcode, Some(MASK), &[], bytes, &mut out);
    out.to_vec()
}

fn server(encoding: Encoding, can_close: bool) -> Channels {
    Channels::new(Role::Server, encoding, can_close)
}

fn receive(channels: &mut Channels, input: &[u8]) -> (Vec<String>, Vec<u8>, Result<(), WireError>) {
    let mut events = Vec::new();
    let mut out = BytesMut::new();
    let received = channels.receive(&mut input.to_vec(), &mut out, &mut |event| {
        events.push(match event {
            Event::Data { id, bytes } => format!("{}:{}", id.0, String::from_utf8_lossy(bytes)),
            other => format!("{other:?}"),
        });
    });
    (events, out.to_vec(), received)
}

#[test]
fn the_example_of_the_rfc_is_written_and_read() {
    let mut out = BytesMut::new();
    frame::write(Opcode::Text, Some([0x37, 0xfa, 0x21, 0x3d]), &[], b"Hello", &mut out);
    assert_eq!(&*out, b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58");
    let mut out = BytesMut::new();
    frame::write(Opcode::Text, None, b"Hel", b"lo", &mut out);
    assert_eq!(&*out, b"\x81\x05Hello");
}

#[test]
fn channels_carry_bytes_in_binary_and_in_base64() {
    let mut binary = server(Encoding::Binary, false);
    let (events, ..) = receive(&mut binary, &message(Opcode::Binary, b"\x00input"));
    assert_eq!(events, ["0:input"]);
    // An empty message and an empty channel say nothing.
    assert!(receive(&mut binary, &message(Opcode::Binary, b"")).0.is_empty());
    assert!(receive(&mut binary, &message(Opcode::Binary, b"\x00")).0.is_empty());
    let mut base64 = server(Encoding::Base64, false);
    let (events, ..) = receive(&mut base64, &message(Opcode::Text, b"4aW5wdXQ="));
    assert_eq!(events, ["4:input"]);
    let mut out = BytesMut::new();
    base64.data(StreamId(1), b"out", &mut out);
    assert_eq!(&*out, b"\x81\x051b3V0");
    for wrong in [&b"0a"[..], b"0====", b"0aW5wdXQ=aW5w", b"0aW5wdXQ=a", b"0%%%%"] {
        let mut base64 = server(Encoding::Base64, false);
        let received = receive(&mut base64, &message(Opcode::Text, wrong)).2;
        assert_eq!(received, Err(WireError::Base64), "{wrong:?}");
    }
}

#[test]
fn clients_of_the_fifth_version_end_channels_and_nobody_else_does() {
    let (events, ..) =
        receive(&mut server(Encoding::Binary, true), &message(Opcode::Binary, &[255, 0]));
    assert_eq!(events, ["Ended { id: StreamId(0) }"]);
    let (events, ..) =
        receive(&mut server(Encoding::Binary, false), &message(Opcode::Binary, &[255, 0]));
    assert_eq!(events, ["255:\0"]);
    for (role, can_close, says) in [
        (Role::Client, true, true),
        (Role::Client, false, false),
        (Role::Server, true, false),
        (Role::Server, false, false),
    ] {
        let mut out = BytesMut::new();
        Channels::new(role, Encoding::Binary, can_close).finish(StreamId(0), &mut out);
        assert_eq!(!out.is_empty(), says, "{role:?} {can_close}");
    }
}

#[test]
fn messages_in_fragments_are_one_message_with_pings_between_them() {
    let mut input = message(Opcode::Binary, b"\x00one ");
    input[0] &= 0x7f;
    input.extend(message(Opcode::Ping, b"are you there"));
    input.extend(message(Opcode::Continuation, b"two"));
    let (events, out, received) = receive(&mut server(Encoding::Binary, true), &input);
    assert_eq!((events.concat(), received), ("0:one 0:two".into(), Ok(())));
    assert_eq!(out, b"\x8a\x0dare you there");
}

#[test]
fn closing_is_answered_and_nothing_follows_it() {
    let mut channels = server(Encoding::Binary, true);
    let mut input = message(Opcode::Close, &1000_u16.to_be_bytes());
    input.extend(message(Opcode::Binary, b"\x00late"));
    let (events, out, _) = receive(&mut channels, &input);
    assert_eq!(events, ["Closed"]);
    assert_eq!(out, b"\x88\x02\x03\xe8");
    let mut out = BytesMut::new();
    channels.data(StreamId(1), b"late", &mut out);
    channels.goodbye(false, &mut out);
    assert!(out.is_empty());
}

#[test]
fn what_breaks_the_rules_ends_the_connection() {
    let unmasked = b"\x82\x02\x00x".to_vec();
    let mut reserved = message(Opcode::Binary, b"\x00x");
    reserved[0] |= 0x40;
    let mut opcode = message(Opcode::Binary, b"\x00x");
    opcode[0] |= 0x03;
    let mut ping_in_pieces = message(Opcode::Ping, b"x");
    ping_in_pieces[0] &= 0x7f;
    let mut within = message(Opcode::Binary, b"\x00x");
    within[0] &= 0x7f;
    within.extend(message(Opcode::Binary, b"\x00x"));
    let huge = b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0".to_vec();
    for (name, input) in [
        ("no mask", unmasked),
        ("reserved bits", reserved),
        ("reserved opcode", opcode),
        ("a ping in pieces", ping_in_pieces),
        ("a long ping", message(Opcode::Ping, &[0; 126])),
        ("a continuation of nothing", message(Opcode::Continuation, b"x")),
        ("a message within a message", within),
        ("64 bits of length", huge),
    ] {
        let received = receive(&mut server(Encoding::Binary, true), &input).2;
        assert!(matches!(received, Err(WireError::WebSocket(_))), "{name}: {received:?}");
    }
    let mut client = Channels::new(Role::Client, Encoding::Binary, true);
    let received =
        client.receive(&mut message(Opcode::Binary, b"\x01x"), &mut BytesMut::new(), &mut |_| {});
    assert!(received.is_err(), "a server's frame with a mask");
}

fn frames() -> impl Strategy<Value = Vec<u8>> {
    let frame = prop_oneof![
        4 => (0_u8..16, any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)).prop_map(
            |(opcode, fin, bytes)| {
                let mut frame = message(Opcode::Binary, &bytes);
                frame[0] = if fin { 0x80 } else { 0 } | [0, 1, 2, 8, 9, 10, 2, 0][usize::from(opcode % 8)];
                frame
            }
        ),
        1 => prop::collection::vec(any::<u8>(), 0..16),
    ];
    prop::collection::vec(frame, 0..8).prop_map(|frames| frames.concat())
}

/// Found by the fuzz target: text that cannot be decoded, after some that can, in one message.
#[test]
fn broken_base64_is_refused_alike_in_any_pieces() {
    crate::fuzzing::channels(b"\x01\x7aYYYY=YYQ");
}

proptest! {
    #[test]
    fn any_frames_and_bytes_are_read_alike_in_any_pieces(input in frames()) {
        crate::fuzzing::channels(&input);
    }

    #[test]
    fn every_message_arrives_as_it_was_sent(
        messages in prop::collection::vec((0_u8..5, prop::collection::vec(any::<u8>(), 0..70_000)), 1..4),
        cut in 1_usize..5000,
    ) {
        for encoding in [Encoding::Binary, Encoding::Base64] {
            let client = Channels::new(Role::Client, encoding, false);
            let mut bytes = BytesMut::new();
            for (channel, message) in &messages {
                client.data(StreamId(u32::from(*channel)), message, &mut bytes);
            }
            let mut server = server(encoding, false);
            let mut got: Vec<(u32, Vec<u8>)> = Vec::new();
            for piece in bytes.chunks_mut(cut) {
                server.receive(piece, &mut BytesMut::new(), &mut |event| {
                    if let Event::Data { id, bytes } = event {
                        match got.last_mut() {
                            Some((last, so_far)) if *last == id.0 => so_far.extend(bytes),
                            _ => got.push((id.0, bytes.to_vec())),
                        }
                    }
                }).unwrap();
            }
            let mut want: Vec<(u32, Vec<u8>)> = Vec::new();
            for (channel, message) in messages.iter().filter(|(_, message)| !message.is_empty()) {
                match want.last_mut() {
                    Some((last, so_far)) if *last == u32::from(*channel) => so_far.extend(message),
                    _ => want.push((u32::from(*channel), message.clone())),
                }
            }
            prop_assert_eq!(got, want);
        }
    }
}
