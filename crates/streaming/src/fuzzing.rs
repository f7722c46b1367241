//! Any bytes into the codecs: no panic, no hang, no more memory than the limits allow, and the same
//! events however the bytes are cut.

use bytes::BytesMut;

use crate::spdy::headers::{Deflater, Headers, Inflater};
use crate::spdy::{self};
use crate::websocket::{Channels, Encoding, Tunnel};
use crate::wire::{Event, Role, Wire, WireError};

/// Both ends of SPDY.
pub fn spdy(data: &[u8]) {
    for role in [Role::Server, Role::Client] {
        same_in_pieces(data, || Wire::Spdy(spdy::Endpoint::new(role)));
    }
}

/// A header block as it comes from the wire, and one that is made of the bytes.
pub fn headers(data: &[u8]) {
    if let Ok(plain) = Inflater::new().inflate(data) {
        let parsed = Headers::parse(&plain);
        assert!(plain.len() <= spdy::headers::MAX_BLOCK, "a block is bounded");
        if let Ok(headers) = parsed {
            assert_eq!(headers.block(), plain, "what was read is what is written");
        }
    }
    let mut block = BytesMut::new();
    Deflater::default().deflate(data, &mut block);
    let plain = Inflater::new().inflate(&block);
    assert!(plain.is_ok_and(|plain| plain == data), "every block inflates to what it was");
}

/// WebSocket channels in each encoding, and the tunnel.
pub fn channels(data: &[u8]) {
    for role in [Role::Server, Role::Client] {
        for (encoding, can_close) in
            [(Encoding::Binary, true), (Encoding::Binary, false), (Encoding::Base64, false)]
        {
            same_in_pieces(data, || Wire::Channels(Channels::new(role, encoding, can_close)));
        }
        same_in_pieces(data, || Wire::Tunnel(Tunnel::new(role)));
    }
}

/// An event with the bytes of one stream that follow each other joined: pieces are no events.
type Owned = (String, Vec<u8>);

fn same_in_pieces(data: &[u8], make: impl Fn() -> Wire) {
    let whole = events(make(), std::iter::once(data));
    let single = events(make(), data.chunks(1));
    let odd = events(make(), data.chunks(7));
    assert_eq!(whole, single, "cut into bytes");
    assert_eq!(whole, odd, "cut by seven");
}

fn events<'d>(
    mut wire: Wire,
    pieces: impl Iterator<Item = &'d [u8]>,
) -> (Vec<Owned>, Result<(), WireError>) {
    let mut seen: Vec<Owned> = Vec::new();
    let mut out = BytesMut::new();
    for piece in pieces {
        let mut piece = piece.to_vec();
        let received = wire.receive(&mut piece, &mut out, &mut |event| {
            let (name, bytes) = match event {
                Event::Data { id, bytes } => (format!("data {}", id.0), bytes.to_vec()),
                other => (format!("{other:?}"), Vec::new()),
            };
            match seen.last_mut() {
                Some((last, so_far)) if *last == name && name.starts_with("data") => {
                    so_far.extend_from_slice(&bytes);
                }
                Some(_) | None => seen.push((name, bytes)),
            }
        });
        // A broken frame ends it; what of its bytes was handed on before depends on the cut.
        if let Err(error) = received {
            return (Vec::new(), Err(error));
        }
    }
    (seen, Ok(()))
}
