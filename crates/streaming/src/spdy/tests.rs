use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::dictionary::{DICTIONARY, DICTIONARY_ADLER32};
use super::headers::{MAX_BLOCK, MAX_HEADERS};
use super::*;

/// The events of `input`, and what the endpoint answers.
fn receive(endpoint: &mut Endpoint, input: &[u8]) -> (Vec<String>, Vec<u8>, Result<(), WireError>) {
    let mut events = Vec::new();
    let mut out = BytesMut::new();
    let received =
        endpoint.receive(input, &mut out, &mut |event| events.push(format!("{event:?}")));
    (events, out.to_vec(), received)
}

fn server() -> Endpoint {
    Endpoint::new(Role::Server)
}

fn control(kind: u16, flags: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let mut frame = vec![0x80, 3];
    frame.extend(kind.to_be_bytes());
    frame.extend([flags, length[1], length[2], length[3]]);
    frame.extend(body);
    frame
}

/// A header block the way other implementations compress it.
fn compressed(plain: &[u8]) -> Vec<u8> {
    let mut zlib = flate2::Compress::new(flate2::Compression::default(), true);
    zlib.set_dictionary(DICTIONARY).unwrap();
    let mut block = Vec::with_capacity(plain.len() + 1024);
    zlib.compress_vec(plain, &mut block, flate2::FlushCompress::Sync).unwrap();
    assert_eq!(usize::try_from(zlib.total_in()).unwrap(), plain.len());
    block
}

fn syn_stream(id: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    body.extend([0; 6]);
    body.extend(block);
    control(1, flags, &body)
}

#[test]
fn the_dictionary_is_the_protocols() {
    let hash: String = Sha256::digest(DICTIONARY).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hash, "51d27341373f923f3cd88e1eb7162aeaa3723d7585ff2399201dc06498407f02");
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in DICTIONARY {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    assert_eq!(b << 16 | a, DICTIONARY_ADLER32);
}

#[test]
fn a_client_and_a_server_understand_each_other_over_several_streams() {
    let (mut client, mut server) = (Endpoint::new(Role::Client), server());
    let mut bytes = BytesMut::new();
    let kinds = ["error", "stdin", "stdout"];
    let ids: Vec<_> = kinds
        .iter()
        .map(|kind| client.open(&Headers::new([("streamtype", *kind)]), &mut bytes).unwrap())
        .collect();
    Endpoint::data(ids[1], b"hello", &mut bytes);
    Endpoint::finish(ids[1], &mut bytes);
    let (events, _, received) = receive(&mut server, &bytes);
    assert_eq!(received, Ok(()));
    assert_eq!(ids, [StreamId(1), StreamId(3), StreamId(5)]);
    assert_eq!(events.len(), 5, "{events:?}");
    assert!(events[2].contains("stdout"), "{events:?}");
    assert_eq!(events[4], "Ended { id: StreamId(3) }");
    let mut bytes = BytesMut::new();
    for id in ids {
        server.reply(id, &mut bytes);
    }
    let (events, _, received) = receive(&mut client, &bytes);
    assert_eq!(received, Ok(()));
    assert_eq!(events.last().unwrap(), "Replied { id: StreamId(5) }");
}

#[test]
fn header_blocks_of_a_real_compressor_are_read() {
    let plain =
        Headers::new([("streamtype", "data"), ("port", "8080"), ("requestid", "7")]).block();
    let (events, _, received) = receive(&mut server(), &syn_stream(1, 0, &compressed(&plain)));
    assert_eq!(received, Ok(()));
    assert!(events[0].contains("\"port\": \"8080\""), "{events:?}");
}

#[test]
fn pings_of_the_peer_are_echoed_and_echoes_are_not() {
    let (_, out, _) = receive(&mut server(), &control(6, 0, &7_u32.to_be_bytes()));
    assert_eq!(out, control(6, 0, &7_u32.to_be_bytes()));
    let (_, out, _) = receive(&mut server(), &control(6, 0, &8_u32.to_be_bytes()));
    assert!(out.is_empty());
}

#[test]
fn settings_window_updates_and_unknown_frames_are_skipped() {
    let mut input = control(4, 0, &[0; 12]);
    input.extend(control(9, 0, &[0; 8]));
    input.extend(control(77, 0xff, &[1; 3]));
    input.extend(control(6, 0, &1_u32.to_be_bytes()));
    let (events, out, received) = receive(&mut server(), &input);
    assert_eq!((events.len(), out.len(), received), (0, 12, Ok(())));
}

#[test]
fn streams_out_of_order_or_of_the_wrong_side_are_reset() {
    let mut server = server();
    let block = |server: &mut Deflater| {
        let mut block = BytesMut::new();
        server.deflate(&Headers::default().block(), &mut block);
        block
    };
    let mut deflater = Deflater::default();
    let mut resets = Vec::new();
    for id in [5, 3, 5, 0, 6, 7] {
        let (events, out, received) =
            receive(&mut server, &syn_stream(id, 0, &block(&mut deflater)));
        assert_eq!(received, Ok(()));
        if events.is_empty() {
            assert_eq!(out[15], 1, "PROTOCOL_ERROR");
            resets.push(id);
        }
    }
    assert_eq!(resets, [3, 5, 0, 6]);
}

#[test]
fn once_no_streams_are_taken_they_are_refused_without_being_read() {
    let mut server = server();
    server.refuse_streams();
    let (events, out, received) = receive(&mut server, &syn_stream(1, 0, b"not zlib"));
    assert_eq!((events.len(), received), (0, Ok(())));
    assert_eq!(out, control(3, 0, &[0, 0, 0, 1, 0, 0, 0, 5]));
}

#[test]
fn malformed_frames_end_the_connection() {
    let too_long = [0x80, 3, 0, 1, 0, 0x10, 0, 1];
    let cases: [(&str, Vec<u8>); 6] = [
        ("version", vec![0x80, 2, 0, 1, 0, 0, 0, 10]),
        ("a long control frame", too_long.to_vec()),
        ("SYN_STREAM without its fields", control(1, 0, &[0; 9])),
        ("RST_STREAM of the wrong length", control(3, 0, &[0; 7])),
        ("PING of the wrong length", control(6, 0, &[0; 5])),
        ("GOAWAY of the wrong length", control(7, 0, &[0; 4])),
    ];
    for (name, input) in cases {
        assert!(receive(&mut server(), &input).2.is_err(), "{name}");
    }
}

#[test]
fn header_bombs_are_refused() {
    let number = |n: usize| u32::try_from(n).unwrap().to_be_bytes();
    let pair = |name: &str, value: &[u8]| {
        let mut pair = number(name.len()).to_vec();
        pair.extend(name.as_bytes());
        pair.extend(number(value.len()));
        pair.extend(value);
        pair
    };
    let block = |count: usize, pairs: &[Vec<u8>]| {
        let mut block = number(count).to_vec();
        block.extend(pairs.concat());
        block
    };
    let many: Vec<_> = (0..=MAX_HEADERS).map(|n| pair(&format!("h{n}"), b"")).collect();
    let cases = [
        ("a large one in a small one", block(1, &[pair("a", &vec![b'a'; MAX_BLOCK])])),
        ("too many", block(many.len(), &many)),
        ("a count beyond the block", block(900, &[pair("a", b"b")])),
        ("a length beyond the block", block(1, &[number(usize::from(u16::MAX)).to_vec()])),
        ("the same name twice", block(2, &[pair("a", b"1"), pair("a", b"2")])),
        ("upper case", block(1, &[pair("Port", b"1")])),
        ("no name", block(1, &[pair("", b"1")])),
        ("more than its count", block(0, &[pair("a", b"1")])),
        ("nothing", Vec::new()),
    ];
    for (name, plain) in cases {
        let (events, _, received) = receive(&mut server(), &syn_stream(1, 0, &compressed(&plain)));
        assert!(events.is_empty(), "{name}");
        assert!(matches!(received, Err(WireError::Headers(_))), "{name}: {received:?}");
    }
    let (_, _, received) = receive(&mut server(), &syn_stream(1, 0, b"\x78\x9cnot zlib"));
    assert!(matches!(received, Err(WireError::Headers(_))));
}

/// Frames that make sense mostly, so that the properties get behind the first one.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let frame = prop_oneof![
        (any::<u32>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..200)).prop_map(
            |(id, flags, bytes)| {
                let mut out = BytesMut::new();
                frame::data(StreamId(id & LAST_ID), flags & 1 != 0, &bytes, &mut out);
                out.to_vec()
            }
        ),
        (0_u16..12, any::<u8>(), prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(kind, flags, body)| control(kind, flags, &body)),
        (0_u32..20, 0_u8..2).prop_map(|(id, flags)| {
            syn_stream(id, flags, &compressed(&Headers::new([("port", "1")]).block()))
        }),
        prop::collection::vec(any::<u8>(), 0..16),
    ];
    prop::collection::vec(frame, 0..8).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn any_frames_and_bytes_are_read_alike_in_any_pieces(input in frames()) {
        crate::fuzzing::spdy(&input);
    }

    #[test]
    fn any_header_block_is_read_or_refused(input in prop::collection::vec(any::<u8>(), 0..300)) {
        crate::fuzzing::headers(&input);
        if let Ok(headers) = Headers::parse(&input) {
            prop_assert_eq!(headers.block(), input);
        }
    }
}
