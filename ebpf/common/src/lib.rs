//! Map keys and values that the XDP program `steer` shares with its loader.
//!
//! One set of these maps exists per attached device. The user side writes them as plain bytes
//! (`to_bytes`), the kernel side reads them as the `repr(C)` structs below; so no struct has
//! padding, spare bytes are named and always zero, and every size is asserted. Numbers are in
//! host order unless the field says "network order".
//!
//! | map         | kind           | key               | value                  | written by |
//! |-------------|----------------|-------------------|------------------------|------------|
//! | `CONFIG`    | array, 1       | 0                 | [`Config`], 8 bytes    | loader     |
//! | `XSKS`      | XSKMAP         | rx queue          | socket                 | loader     |
//! | `ENDPOINTS` | hash           | [`EndpointKey`]   | `u32`, always 1        | loader     |
//! | `NAT`       | hash           | [`NatKey`]        | [`NatTake`], 12 bytes  | loader     |
//! | `VERDICTS`  | per-CPU array  | [`Verdict`]       | `u64` packets          | kernel     |
//!
//! Addresses are 16 bytes in network order; an IPv4 address is in its mapped form, ::ffff:a.b.c.d
//! (RFC 4291 section 2.5.5.2), so that one map serves both families.
#![no_std]
#![forbid(unsafe_code)]

/// Rx queues of one device that can have a socket.
pub const XSKS_MAX: usize = 256;
/// Entries of `ENDPOINTS`: per local tunnel address one for each protocol and port, and one that
/// stands for the address itself.
pub const ENDPOINTS_MAX: usize = 1024;
/// Entries of `NAT`: one per address that we translate to.
pub const NAT_MAX: usize = 4096;

/// The names under which the object holds its maps and programs.
pub mod names {
    pub const CONFIG: &str = "CONFIG";
    pub const XSKS: &str = "XSKS";
    pub const ENDPOINTS: &str = "ENDPOINTS";
    pub const NAT: &str = "NAT";
    pub const VERDICTS: &str = "VERDICTS";
    /// Section `xdp`: linear frames only; a veth loses its peer's segmentation offload.
    pub const STEER: &str = "steer";
    /// Section `xdp.frags`: the same body, frames in several buffers allowed.
    pub const STEER_FRAGS: &str = "steer_frags";
}

/// IP protocol numbers that steering knows (IANA "Assigned Internet Protocol Numbers").
pub mod proto {
    pub const ICMP: u8 = 1;
    pub const TCP: u8 = 6;
    pub const UDP: u8 = 17;
    pub const GRE: u8 = 47;
    pub const ICMPV6: u8 = 58;
    pub const SCTP: u8 = 132;
}

/// [`Config::mode`]: not configured yet, so every frame stays with the kernel.
pub const MODE_PASS: u32 = 0;
/// [`Config::mode`]: every frame is ours.
pub const MODE_ALL: u32 = 1;
/// [`Config::mode`]: tunnel traffic and replies to our NAT addresses are ours.
pub const MODE_SHARED: u32 = 2;

/// The one entry of `CONFIG`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// One of the `MODE_` numbers; any other passes everything.
    pub mode: u32,
    pub zero: u32,
}
const _: () = assert!(size_of::<Config>() == 8 && align_of::<Config>() == 4);

impl Config {
    pub fn to_bytes(self) -> [u8; 8] {
        let mut out = [0; 8];
        out[..4].copy_from_slice(&self.mode.to_ne_bytes());
        out
    }
}

/// Where tunnel packets to us arrive: key of `ENDPOINTS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointKey {
    pub addr: [u8; 16],
    /// UDP destination port in network order; 0 for a protocol without ports.
    pub port: [u8; 2],
    /// [`proto::UDP`] or [`proto::GRE`]; 0 in the entry that stands for the address itself.
    pub proto: u8,
    pub zero: u8,
}
const _: () = assert!(size_of::<EndpointKey>() == 20 && align_of::<EndpointKey>() == 1);

impl EndpointKey {
    pub const fn udp(addr: [u8; 16], port: u16) -> Self {
        Self { addr, port: port.to_be_bytes(), proto: proto::UDP, zero: 0 }
    }

    pub const fn gre(addr: [u8; 16]) -> Self {
        Self { addr, port: [0; 2], proto: proto::GRE, zero: 0 }
    }

    /// The entry that says "this address is an endpoint, for whatever port": a later fragment has
    /// no port, yet we want to count it.
    pub const fn address(addr: [u8; 16]) -> Self {
        Self { addr, port: [0; 2], proto: 0, zero: 0 }
    }

    pub fn to_bytes(self) -> [u8; 20] {
        let mut out = [0; 20];
        out[..16].copy_from_slice(&self.addr);
        out[16..18].copy_from_slice(&self.port);
        out[18] = self.proto;
        out
    }
}

/// An address that we translate to: key of `NAT`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NatKey {
    pub addr: [u8; 16],
}
const _: () = assert!(size_of::<NatKey>() == 16 && align_of::<NatKey>() == 1);

/// What of a NAT address is ours: value of `NAT`. Ranges include both ends; `lo > hi` is empty.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatTake {
    /// 1: the kernel does not own the address, everything to it is ours. 0: it does, and only the
    /// ranges are ours.
    pub whole: u8,
    pub zero: [u8; 3],
    /// Destination ports of TCP, UDP and SCTP.
    pub port_lo: u16,
    pub port_hi: u16,
    /// Identifiers of ICMP and ICMPv6 echo.
    pub icmp_id_lo: u16,
    pub icmp_id_hi: u16,
}
const _: () = assert!(size_of::<NatTake>() == 12 && align_of::<NatTake>() == 2);

impl NatTake {
    pub const WHOLE: Self =
        Self { whole: 1, zero: [0; 3], port_lo: 1, port_hi: 0, icmp_id_lo: 1, icmp_id_hi: 0 };

    pub const fn ranges(ports: (u16, u16), icmp_ids: (u16, u16)) -> Self {
        Self {
            whole: 0,
            zero: [0; 3],
            port_lo: ports.0,
            port_hi: ports.1,
            icmp_id_lo: icmp_ids.0,
            icmp_id_hi: icmp_ids.1,
        }
    }

    #[inline(always)]
    pub const fn has_port(&self, port: u16) -> bool {
        self.port_lo <= port && port <= self.port_hi
    }

    #[inline(always)]
    pub const fn has_icmp_id(&self, id: u16) -> bool {
        self.icmp_id_lo <= id && id <= self.icmp_id_hi
    }

    pub fn to_bytes(self) -> [u8; 12] {
        let mut out = [0; 12];
        out[0] = self.whole;
        out[4..6].copy_from_slice(&self.port_lo.to_ne_bytes());
        out[6..8].copy_from_slice(&self.port_hi.to_ne_bytes());
        out[8..10].copy_from_slice(&self.icmp_id_lo.to_ne_bytes());
        out[10..12].copy_from_slice(&self.icmp_id_hi.to_ne_bytes());
        out
    }
}

/// ::ffff:a.b.c.d
#[inline(always)]
pub const fn mapped(v4: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, v4[0], v4[1], v4[2], v4[3]]
}

/// The single list of verdicts: enum, counter index, name and help come from it.
macro_rules! verdicts {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// What `steer` did with a frame, and why: index of `VERDICTS`. Each frame counts once.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Verdict {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Verdict {
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name in counters and in text.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// One sentence for the operator.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+)),+ }
            }
        }
    };
}

verdicts! {
    /// The device is attached but not configured yet; the kernel has the frame.
    PassNotConfigured = "pass_not_configured",
    /// Nothing in it is for us; the kernel has the frame.
    PassNotOurs = "pass_not_ours",
    /// Neither IPv4, IPv6 nor ARP, or more than two VLAN tags; the kernel has the frame.
    PassNotIp = "pass_not_ip",
    /// It ends before the header that would decide; the kernel has the frame.
    PassTruncated = "pass_truncated",
    /// A version or header length that cannot be; the kernel has the frame.
    PassMalformed = "pass_malformed",
    /// More or longer IPv6 extension headers than steering follows; the kernel has the frame.
    PassExtHeaders = "pass_ext_headers",
    /// A fragment of a UDP or GRE packet to a tunnel endpoint: a tunnel's sender must not fragment.
    PassTunnelFragment = "pass_tunnel_fragment",
    /// A later fragment to a NAT address that the node owns too: it has no port to decide by.
    PassNatFragment = "pass_nat_fragment",
    /// It would be ours, but no socket serves its rx queue; the kernel has the frame.
    PassNoSocket = "pass_no_socket",
    /// Every frame of this device is ours.
    RedirectAll = "redirect_all",
    /// A tunnel packet to one of our endpoints.
    RedirectTunnel = "redirect_tunnel",
    /// To a NAT address that is ours whole, or to a port or echo id of our range.
    RedirectNat = "redirect_nat",
    /// An ICMP error about a packet that left with a port or echo id of our range.
    RedirectNatIcmpError = "redirect_nat_icmp_error",
    /// ARP or neighbour solicitation that asks for a NAT address which is ours whole.
    RedirectNatNeighbour = "redirect_nat_neighbour",
}

impl Verdict {
    pub const COUNT: usize = Self::ALL.len();

    #[inline(always)]
    pub const fn is_redirect(self) -> bool {
        matches!(
            self,
            Self::RedirectAll
                | Self::RedirectTunnel
                | Self::RedirectNat
                | Self::RedirectNatIcmpError
                | Self::RedirectNatNeighbour
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_layout_the_kernel_side_reads() {
        let addr = mapped([10, 0, 0, 1]);
        let key = EndpointKey::udp(addr, 6081).to_bytes();
        assert_eq!(key[10..], [0xff, 0xff, 10, 0, 0, 1, 0x17, 0xc1, 17, 0]);
        let take = NatTake::ranges((0x1234, 0x5678), (1, 2)).to_bytes();
        assert_eq!(take[..4], [0; 4]);
        assert_eq!(u16::from_ne_bytes([take[4], take[5]]), 0x1234);
        assert_eq!(u16::from_ne_bytes([take[10], take[11]]), 2);
        assert_eq!(core::mem::offset_of!(NatTake, port_lo), 4);
        assert_eq!(core::mem::offset_of!(NatTake, icmp_id_hi), 10);
        assert_eq!(core::mem::offset_of!(EndpointKey, proto), 18);
    }

    #[test]
    fn a_whole_address_has_no_ranges() {
        assert!(!NatTake::WHOLE.has_port(0) && !NatTake::WHOLE.has_port(u16::MAX));
        assert!(!NatTake::WHOLE.has_icmp_id(0) && !NatTake::WHOLE.has_icmp_id(1));
        let take = NatTake::ranges((10, 20), (30, 30));
        assert!(take.has_port(10) && take.has_port(20) && !take.has_port(21) && !take.has_port(9));
        assert!(take.has_icmp_id(30) && !take.has_icmp_id(31));
    }

    #[test]
    fn names_tell_what_happens() {
        for (index, verdict) in Verdict::ALL.iter().enumerate() {
            assert_eq!(*verdict as usize, index);
            assert_eq!(verdict.name().starts_with("redirect_"), verdict.is_redirect());
            assert!(!verdict.help().is_empty());
        }
    }
}
