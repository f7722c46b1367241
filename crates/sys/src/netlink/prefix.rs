//! An IP address with a prefix length.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address and how many of its leading bits name the network: `10.88.0.5/16`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IpPrefix {
    address: IpAddr,
    len: u8,
}

/// Why a text is not an address with a prefix length.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an address with a prefix length such as 10.88.0.0/16")]
pub struct IpPrefixError {
    /// The refused text.
    pub text: String,
}

impl IpPrefix {
    /// `None` when `len` is larger than the address is wide.
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        (len <= width(address)).then_some(Self { address, len })
    }

    /// The network that is this one address.
    pub fn host(address: IpAddr) -> Self {
        Self { address, len: width(address) }
    }

    /// The address, host bits included.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// How many leading bits name the network.
    #[expect(clippy::len_without_is_empty, reason = "a prefix length, not a container's")]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether this is the whole address space: the destination of a default route.
    pub fn is_default(&self) -> bool {
        self.len == 0
    }

    /// The same prefix with the host bits cleared.
    pub fn network(&self) -> Self {
        Self {
            address: from_number(number(self.address) & self.mask(), self.address),
            len: self.len,
        }
    }

    /// The last address of the network: the IPv4 broadcast address.
    pub fn last(&self) -> IpAddr {
        from_number(number(self.address) | (!self.mask() & full(self.address)), self.address)
    }

    /// Whether `address` is of this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && number(address) & self.mask() == number(self.address) & self.mask()
    }

    fn mask(&self) -> u128 {
        let host_bits = u32::from(width(self.address) - self.len);
        u128::MAX.checked_shl(host_bits).unwrap_or(0) & full(self.address)
    }
}

/// The address as a number, for arithmetic on ranges.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

/// The address with this number, of the family of `like`. IPv4 saturates.
pub fn from_number(number: u128, like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from(u32::try_from(number).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(_) => Ipv6Addr::from(number).into(),
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn full(address: IpAddr) -> u128 {
    if address.is_ipv4() { u128::from(u32::MAX) } else { u128::MAX }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

impl FromStr for IpPrefix {
    type Err = IpPrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (address, len) = text.split_once('/')?;
            Self::new(address.parse().ok()?, len.parse().ok()?)
        };
        parse().ok_or_else(|| IpPrefixError { text: text.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_and_last_addresses() {
        let table = [
            ("10.88.3.4/16", "10.88.0.0/16", "10.88.255.255"),
            ("10.0.0.1/30", "10.0.0.0/30", "10.0.0.3"),
            ("1.2.3.4/32", "1.2.3.4/32", "1.2.3.4"),
            ("1.2.3.4/0", "0.0.0.0/0", "255.255.255.255"),
            ("fd00::5/64", "fd00::/64", "fd00::ffff:ffff:ffff:ffff"),
            ("::1/0", "::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ];
        for (text, network, last) in table {
            let prefix: IpPrefix = text.parse().unwrap();
            assert_eq!(prefix.to_string(), text);
            assert_eq!(prefix.network().to_string(), network);
            assert_eq!(prefix.last().to_string(), last);
            assert!(prefix.contains(prefix.last()));
        }
        let prefix: IpPrefix = "10.88.0.0/16".parse().unwrap();
        assert!(!prefix.contains("10.89.0.0".parse().unwrap()));
        assert!(!prefix.contains("::".parse().unwrap()));
    }

    #[test]
    fn other_texts_are_refused() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "::/129", "10.0.0/8", "a/8", "1.2.3.4/-1"] {
            assert!(text.parse::<IpPrefix>().is_err(), "{text}");
        }
    }
}
