//! What a tunnel port is told: who is at the other end, and how to write the outer header.

use super::Inherit;
use std::net::IpAddr;

/// Where packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelRemote {
    Address(IpAddr),
    /// `remote_ip=flow`: `tun_dst` of the packet.
    Flow,
}

/// Which virtual network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelKey {
    Number(u32),
    /// `key=flow`: `tun_id` of the packet.
    Flow,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelConfig {
    pub remote: TunnelRemote,
    /// `None`: any of our addresses, as the route says.
    pub local: Option<IpAddr>,
    pub key: TunnelKey,
    /// UDP port of the far end and of ours (RFC 8926: 6081).
    pub dst_port: u16,
    /// Outer UDP checksum over IPv4 (over IPv6 it is always there).
    pub csum: bool,
    pub tos: Inherit,
    pub ttl: Inherit,
    /// Don't fragment.
    pub df: bool,
}

impl TunnelConfig {
    /// How exactly this port names a packet from `remote` to `local` with `vni`; `None`: not its.
    /// Open vSwitch's order: the more is given, the better.
    pub fn claims(&self, remote: IpAddr, local: IpAddr, vni: u32) -> Option<u32> {
        let remote_given = match self.remote {
            TunnelRemote::Address(a) if a == remote => 4,
            TunnelRemote::Address(_) => return None,
            TunnelRemote::Flow => 0,
        };
        let local_given = match self.local {
            Some(a) if a == local => 2,
            Some(_) => return None,
            None => 0,
        };
        let key_given = match self.key {
            TunnelKey::Number(n) if n == vni => 1,
            TunnelKey::Number(_) => return None,
            TunnelKey::Flow => 0,
        };
        Some(remote_given + local_given + key_given)
    }
}
