//! Addresses as people write them: MAC and CIDR. Text in, text out, nothing else.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// An Ethernet address, `02:42:ac:12:00:02`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an Ethernet address: write six hex bytes with colons, as in 02:42:ac:12:00:02")]
pub struct MacAddrError;

impl FromStr for MacAddr {
    type Err = MacAddrError;

    fn from_str(text: &str) -> Result<Self, MacAddrError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(MacAddrError)?;
            let digits = part.len() <= 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            *byte = u8::from_str_radix(part, 16).ok().filter(|_| digits).ok_or(MacAddrError)?;
        }
        if parts.next().is_some() { Err(MacAddrError) } else { Ok(Self(bytes)) }
    }
}

/// An address with the length of its network's prefix, `192.168.255.1/24`. Host bits are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix_len: u8,
}

impl Cidr {
    /// The whole address space of the family of `address`: a default route.
    pub fn is_default(self) -> bool {
        self.prefix_len == 0
    }

    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(a)) => {
                let shift = 32 - u32::from(self.prefix_len.min(32));
                let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
                net.to_bits() & mask == a.to_bits() & mask
            }
            (IpAddr::V6(net), IpAddr::V6(a)) => {
                let shift = 128 - u32::from(self.prefix_len.min(128));
                let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
                net.to_bits() & mask == a.to_bits() & mask
            }
            _ => false,
        }
    }

    /// Whether bits beyond the prefix are set: an address rather than a network.
    pub fn has_host_bits(self) -> bool {
        self.network().address != self.address
    }

    /// The same with the host bits cleared.
    pub fn network(self) -> Self {
        let len = self.prefix_len;
        let address = match self.address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
                IpAddr::V4((a.to_bits() & mask).into())
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
                IpAddr::V6((a.to_bits() & mask).into())
            }
        };
        Self { address, prefix_len: len }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_len)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address with a prefix length: write it as in 192.168.255.1/24 or fd00::1/64")]
pub struct CidrError;

impl FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        let (address, len) = text.split_once('/').ok_or(CidrError)?;
        let address: IpAddr = address.parse().map_err(|_| CidrError)?;
        let digits = !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit());
        let prefix_len = len.parse().ok().filter(|_| digits).ok_or(CidrError)?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix_len > longest { Err(CidrError) } else { Ok(Self { address, prefix_len }) }
    }
}

macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                String::deserialize(d)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

serde_as_text!(MacAddr);
serde_as_text!(Cidr);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_text_there_and_back() {
        let mac: MacAddr = "2:42:AC:12:00:02".parse().unwrap();
        assert_eq!(mac.to_string(), "02:42:ac:12:00:02");
        for bad in
            ["", "02:42:ac:12:00", "02:42:ac:12:00:02:03", "g2:42:ac:12:00:02", "+2:0:0:0:0:0"]
        {
            assert_eq!(bad.parse::<MacAddr>(), Err(MacAddrError), "{bad}");
        }
    }

    #[test]
    fn cidr_bounds() {
        for bad in ["10.0.0.1", "10.0.0.1/33", "fd00::/129", "10.0.0/8", "1.2.3.4/", "1.2.3.4/+8"] {
            assert_eq!(bad.parse::<Cidr>(), Err(CidrError), "{bad}");
        }
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains("255.1.2.3".parse().unwrap()));
        assert!(!all.contains("::1".parse().unwrap()));
        let net: Cidr = "192.168.255.1/24".parse().unwrap();
        assert!(net.contains("192.168.255.77".parse().unwrap()));
        assert!(!net.contains("192.168.254.77".parse().unwrap()));
        assert_eq!(net.network().to_string(), "192.168.255.0/24");
        assert!(net.has_host_bits());
        let six: Cidr = "fd00::7/64".parse().unwrap();
        assert!(six.contains("fd00::ffff".parse().unwrap()));
        assert!(!six.contains("fd00:0:0:1::".parse().unwrap()));
        assert_eq!("::1/128".parse::<Cidr>().unwrap().network().to_string(), "::1/128");
    }
}
