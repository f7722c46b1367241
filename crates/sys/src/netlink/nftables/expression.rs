//! The steps rules are made of.

use super::{DATA_VALUE, Family};
use crate::netlink::message::Body;

const DATA_VERDICT: u16 = 2;

/// One step of a rule; operands live in 4-byte registers numbered from 8 (`NFT_REG32_00`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    name: &'static str,
    attributes: Vec<(u16, Operand)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Operand {
    Number(u32),
    Text(String),
    Data(Vec<u8>),
    Verdict(u32),
}

impl Expression {
    /// Loads `len` bytes of the Ethernet header from `offset` into register `to`.
    pub fn link_header(offset: u32, len: u32, to: u32) -> Self {
        Self::payload(0, offset, len, to)
    }

    /// Loads `len` bytes of the network header from `offset` into register `to`.
    pub fn network_header(offset: u32, len: u32, to: u32) -> Self {
        Self::payload(1, offset, len, to)
    }

    /// Loads `len` bytes of the transport header from `offset` into register `to`.
    pub fn transport_header(offset: u32, len: u32, to: u32) -> Self {
        Self::payload(2, offset, len, to)
    }

    fn payload(base: u32, offset: u32, len: u32, to: u32) -> Self {
        Self::numbers("payload", [(1, to), (2, base), (3, offset), (4, len)])
    }

    /// Loads the transport protocol's number into register `to`.
    pub fn transport_protocol(to: u32) -> Self {
        Self::numbers("meta", [(1, to), (2, 16)])
    }

    /// Loads the kind of the destination address (`RTN_*`) into register `to`.
    pub fn destination_kind(to: u32) -> Self {
        Self::numbers("fib", [(1, to), (2, 3), (3, 2)])
    }

    /// Goes on only if register `from` holds exactly (or does not hold) `value`.
    pub fn compare(from: u32, equal: bool, value: &[u8]) -> Self {
        let mut out = Self::numbers("cmp", [(1, from), (2, u32::from(!equal))]);
        out.attributes.push((3, Operand::Data(value.to_vec())));
        out
    }

    /// Masks register `at` in place.
    pub fn mask(at: u32, mask: &[u8]) -> Self {
        let len = u32::try_from(mask.len()).unwrap_or(0);
        let mut out = Self::numbers("bitwise", [(1, at), (2, at), (3, len)]);
        out.attributes.push((4, Operand::Data(mask.to_vec())));
        out.attributes.push((5, Operand::Data(vec![0; mask.len()])));
        out
    }

    /// Sets bits of register `at` in place.
    pub fn set_bits(at: u32, bits: u32) -> Self {
        let mut out = Self::numbers("bitwise", [(1, at), (2, at), (3, 4)]);
        out.attributes.push((4, Operand::Data((!bits).to_ne_bytes().to_vec())));
        out.attributes.push((5, Operand::Data(bits.to_ne_bytes().to_vec())));
        out
    }

    /// Loads the packet's mark into register `to`.
    pub fn packet_mark(to: u32) -> Self {
        Self::numbers("meta", [(1, to), (2, 3)])
    }

    /// Makes what is in register `from` the packet's mark.
    pub fn mark_packet(from: u32) -> Self {
        Self::numbers("meta", [(3, from), (2, 3)])
    }

    /// Goes on only if register `from` is (or is not) in the set.
    pub fn in_set(from: u32, set: &str, member: bool) -> Self {
        let mut out = Self::numbers("lookup", [(2, from)]);
        out.attributes.insert(0, (1, Operand::Text(set.to_owned())));
        if !member {
            out.attributes.push((5, Operand::Number(1)));
        }
        out
    }

    /// Goes on only if register `from` is a key of the map, and loads its value into `to`.
    pub fn map(from: u32, map: &str, to: u32) -> Self {
        let mut out = Self::numbers("lookup", [(2, from), (3, to)]);
        out.attributes.insert(0, (1, Operand::Text(map.to_owned())));
        out
    }

    /// Loads the name of the link a packet came in by, 16 bytes, into registers from `to`.
    pub fn incoming_link(to: u32) -> Self {
        Self::numbers("meta", [(1, to), (2, 6)])
    }

    /// Loads the name of the link a packet leaves by, 16 bytes, into registers from `to`.
    pub fn outgoing_link(to: u32) -> Self {
        Self::numbers("meta", [(1, to), (2, 7)])
    }

    /// Drops the packet.
    pub fn drop() -> Self {
        // The verdict register, and NF_DROP.
        Self {
            name: "immediate",
            attributes: vec![(1, Operand::Number(0)), (2, Operand::Verdict(0))],
        }
    }

    /// Rewrites the source to the address of the outgoing link.
    pub fn masquerade() -> Self {
        Self { name: "masq", attributes: Vec::new() }
    }

    /// Rewrites the destination to the address and port in these registers.
    pub fn destination_nat(family: Family, address: u32, port: u32) -> Self {
        let family = u32::from(family.number());
        // NF_NAT_RANGE_PROTO_SPECIFIED and _MAP_IPS are implied by the registers.
        Self::numbers("nat", [(1, 1), (2, family), (3, address), (5, port)])
    }

    fn numbers<const N: usize>(name: &'static str, values: [(u16, u32); N]) -> Self {
        let attributes = values.into_iter().map(|(kind, value)| (kind, Operand::Number(value)));
        Self { name, attributes: attributes.collect() }
    }

    pub(super) fn write(&self, body: &mut Body<'_>) {
        body.text(1, self.name).nest(2, |data| {
            for (kind, operand) in &self.attributes {
                match operand {
                    Operand::Number(value) => data.be32(*kind, *value),
                    Operand::Text(text) => data.text(*kind, text),
                    Operand::Data(bytes) => data.nest(*kind, |value| {
                        value.attr(DATA_VALUE, bytes);
                    }),
                    Operand::Verdict(code) => data.nest(*kind, |value| {
                        value.nest(DATA_VERDICT, |verdict| {
                            verdict.be32(1, *code);
                        });
                    }),
                };
            }
        });
    }
}
