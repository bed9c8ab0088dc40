//! A host: a namespace with addressed devices, joined to others.

use std::net::{IpAddr, Ipv4Addr};

use crate::Result;
use crate::netns::Namespace;
use crate::veth::{End, VethOptions, join};

/// A namespace that plays a machine or a container.
#[derive(Debug)]
pub struct Host {
    pub ns: Namespace,
}

impl Host {
    pub fn new(label: &str) -> Result<Self> {
        Ok(Self { ns: Namespace::new(label)? })
    }

    /// A host that may be left standing; see [`Namespace::keep`].
    pub fn keepable(label: &str) -> Result<Self> {
        Ok(Self { ns: Namespace::new_keepable(label)? })
    }

    /// Adds an address such as `10.0.0.1/24` to a device.
    pub fn address(&self, dev: &str, cidr: &str) -> Result<&Self> {
        // IPv6 addresses are usable at once only without duplicate address detection.
        let nodad = if cidr.contains(':') { " nodad" } else { "" };
        self.ns.ip(&format!("addr add {cidr} dev {dev}{nodad}"))?;
        Ok(self)
    }

    pub fn default_route(&self, via: IpAddr) -> Result<&Self> {
        let family = if via.is_ipv4() { "" } else { "-6 " };
        self.ns.ip(&format!("{family}route add default via {via}"))?;
        Ok(self)
    }

    /// Gives a device a fixed link-layer address.
    pub fn mac(&self, dev: &str, mac: &str) -> Result<&Self> {
        self.ns.ip(&format!("link set {dev} address {mac}"))?;
        Ok(self)
    }
}

/// Two hosts on one wire, 10.9.0.1 and 10.9.0.2: the smallest scene, for tests of the tools.
pub fn wire_pair() -> Result<(Host, Host)> {
    let (a, b) = (Host::new("a")?, Host::new("b")?);
    let ends = (End { ns: &a.ns, dev: "eth0" }, End { ns: &b.ns, dev: "eth0" });
    join(ends.0, ends.1, VethOptions::default())?;
    a.address("eth0", "10.9.0.1/24")?;
    b.address("eth0", "10.9.0.2/24")?;
    Ok((a, b))
}

/// The address of the second host of `wire_pair`.
pub const WIRE_PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 9, 0, 2));
