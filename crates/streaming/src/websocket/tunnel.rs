//! SPDY within WebSocket: `SPDY/3.1+portforward.k8s.io`. Binary messages are pieces of a byte stream;
//! where one ends and the next begins means nothing.

use bytes::BytesMut;

use super::frame::{CloseCode, Opcode};
use super::link::{Link, Received};
use crate::spdy::Endpoint;
use crate::wire::{Event, Role, Sink, WireError};

/// One end of a tunnelled SPDY connection.
#[derive(Debug)]
pub(crate) struct Tunnel {
    link: Link,
    spdy: Endpoint,
}

impl Tunnel {
    pub(crate) fn new(role: Role) -> Self {
        Self { link: Link::new(role), spdy: Endpoint::new(role) }
    }

    pub(crate) fn receive(
        &mut self,
        input: &mut [u8],
        out: &mut BytesMut,
        sink: &mut Sink<'_>,
    ) -> Result<(), WireError> {
        let spdy = &mut self.spdy;
        let mut answers = BytesMut::new();
        let received = self.link.receive(input, out, &mut |received, _| match received {
            Received::Message { bytes, .. } => spdy.receive(bytes, &mut answers, sink),
            Received::Closed => {
                sink(Event::Closed);
                Ok(())
            }
        });
        self.send(&answers, out);
        received
    }

    /// What `speak` has SPDY say goes out as one message.
    pub(crate) fn spdy<T>(
        &mut self,
        out: &mut BytesMut,
        speak: impl FnOnce(&mut Endpoint, &mut BytesMut) -> T,
    ) -> T {
        let mut said = BytesMut::new();
        let answer = speak(&mut self.spdy, &mut said);
        self.send(&said, out);
        answer
    }

    fn send(&self, bytes: &[u8], out: &mut BytesMut) {
        if !bytes.is_empty() {
            self.link.write(Opcode::Binary, &[], bytes, out);
        }
    }

    pub(crate) fn refuse_streams(&mut self) {
        self.spdy.refuse_streams();
    }

    pub(crate) fn pong(&self, out: &mut BytesMut) {
        self.link.pong(out);
    }

    pub(crate) fn goodbye(&mut self, broken: bool, out: &mut BytesMut) {
        self.spdy(out, |spdy, out| spdy.go_away(broken, out));
        self.link.close(if broken { CloseCode::ProtocolError } else { CloseCode::Normal }, out);
    }
}
