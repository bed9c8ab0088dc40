//! What is done to a packet: the flat program that a walk leaves behind.
//!
//! A step is 32 bytes; most packets take two (an edit, an output). Steps are absolute: they
//! hold the value to write, not the change, so running them twice on equal packets gives equal
//! packets. What differs between packets of one microflow is read from the packet when the step
//! runs: lengths, checksums, the tunnel's entropy.

use crate::counters::Drop;
use crate::packet::key::PortIx;

/// One step. Every variant must be `Copy` and small: steps lie in preallocated records.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// Hand a copy (the last output: the packet itself) to a port.
    Output(PortIx),
    /// Put a prebuilt tunnel header in front of a copy and hand that to an underlay port.
    TunnelOutput {
        template: u32,
        port: PortIx,
    },
    /// Hand a copy cut to this length to a port, in a tunnel unless the header is `NO_TEMPLATE`.
    OutputCut {
        port: PortIx,
        max_len: u32,
        template: u32,
    },
    /// Hand a copy to control, with what the recording's punt of this number says. Never cached.
    PacketIn(u16),
    /// Write what a helper wants into the packet: the recording's edit of this number. Never
    /// cached.
    Alg(u16),
    /// Pass a meter, or drop the packet as far as the next `skip` steps go.
    Meter {
        bridge: u16,
        skip: u16,
        id: u32,
    },
    /// Count a share of the packets, in 65535ths.
    Sample(u16),
    SetEth {
        dst: [u8; 6],
        src: [u8; 6],
        which: Which,
    },
    PushVlan {
        tpid: u16,
        tci: u16,
    },
    PopVlan,
    SetVlan {
        tpid: u16,
        tci: u16,
    },
    /// A label stack entry in front of what `eth_type` names. Which type that is then, is for
    /// `SetEthType` to say, as with the others.
    PushMpls(u32),
    /// The outermost label stack entry away.
    PopMpls,
    /// Another outermost label stack entry.
    SetMpls(u32),
    /// The type behind the tags.
    SetEthType(u16),
    SetIpv4 {
        src: u32,
        dst: u32,
        tos: u8,
        ttl: u8,
        which: Which,
    },
    SetIpv6Src(V6),
    SetIpv6Dst(V6),
    SetIpv6Rest {
        label: u32,
        tos: u8,
        ttl: u8,
        which: Which,
    },
    /// Ports of TCP, UDP or SCTP.
    SetPorts {
        src: u16,
        dst: u16,
        which: Which,
    },
    SetIcmp {
        kind: u8,
        code: u8,
        which: Which,
    },
    /// Identifier of an ICMP query.
    SetIcmpId(u16),
    SetArp {
        op: u8,
        spa: u32,
        tpa: u32,
        which: Which,
    },
    SetArpMacs {
        sha: [u8; 6],
        tha: [u8; 6],
        which: Which,
    },
    SetNdTarget(V6),
    /// Source and target link-layer address options.
    SetNdMacs {
        sll: [u8; 6],
        tll: [u8; 6],
        which: Which,
    },
    /// Translate the packet, by the translation of this number that its connections gave.
    Translate(u16),
    /// Translate an ICMP error, its quoted packet included, by the recording's translation of this
    /// number. Never cached.
    NatIcmpError(u16),
    /// Count a copy that could not leave.
    Drop(Drop),
}

/// `Step::OutputCut::template` for none.
pub const NO_TEMPLATE: u32 = u32::MAX;

impl Step {
    /// Whether a packet leaves by it.
    pub fn leaves(&self) -> bool {
        matches!(
            self,
            Self::Output(_)
                | Self::TunnelOutput { .. }
                | Self::OutputCut { .. }
                | Self::PacketIn(_)
        )
    }

    /// Whether anybody could tell, with nothing behind it, that it was not run.
    pub fn is_seen(&self) -> bool {
        self.leaves() || matches!(self, Self::Meter { .. } | Self::Sample(_))
    }
}

/// Which of a step's values are to be written: bit n for the n-th.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Which(u8);

impl Which {
    /// The fields in which two lists differ.
    pub fn of(differs: &[bool]) -> Self {
        Self(differs.iter().enumerate().fold(0, |bits, (n, d)| bits | u8::from(*d) << n))
    }

    /// Whether nothing is to be written.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether any of the values that `bits` names is to be written.
    #[inline]
    pub fn any(self, bits: u8) -> bool {
        self.0 & bits != 0
    }

    /// Whether all of them are.
    #[inline]
    pub fn all(self, bits: u8) -> bool {
        self.0 & bits == bits
    }

    /// `new` if the n-th value is to be written, else `old`.
    #[inline]
    pub fn pick<T>(self, n: u8, new: T, old: T) -> T {
        if self.0 >> n & 1 != 0 { new } else { old }
    }
}

impl Step {
    /// Zeroes the values that are not to be written, so that steps which do the same are equal:
    /// walks then share one traversal, and comparing a cached step with a walk's tells the truth.
    pub fn forget_unused(&mut self) {
        let mac = [0; 6];
        match self {
            Self::SetEth { dst: a, src: b, which }
            | Self::SetArpMacs { sha: a, tha: b, which }
            | Self::SetNdMacs { sll: a, tll: b, which } => {
                (*a, *b) = (which.pick(0, *a, mac), which.pick(1, *b, mac));
            }
            Self::SetIpv4 { src, dst, tos, ttl, which } => {
                (*src, *dst) = (which.pick(0, *src, 0), which.pick(1, *dst, 0));
                (*tos, *ttl) = (which.pick(2, *tos, 0), which.pick(3, *ttl, 0));
            }
            Self::SetIpv6Rest { label, tos, ttl, which } => {
                *label = which.pick(0, *label, 0);
                (*tos, *ttl) = (which.pick(1, *tos, 0), which.pick(2, *ttl, 0));
            }
            Self::SetPorts { src, dst, which } => {
                (*src, *dst) = (which.pick(0, *src, 0), which.pick(1, *dst, 0));
            }
            Self::SetIcmp { kind, code, which } => {
                (*kind, *code) = (which.pick(0, *kind, 0), which.pick(1, *code, 0));
            }
            Self::SetArp { op, spa, tpa, which } => {
                *op = which.pick(0, *op, 0);
                (*spa, *tpa) = (which.pick(1, *spa, 0), which.pick(2, *tpa, 0));
            }
            _ => {}
        }
    }
}

/// An IPv6 address as two words, so that a step keeps 8-byte alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6 {
    pub hi: u64,
    pub lo: u64,
}

impl From<u128> for V6 {
    fn from(v: u128) -> Self {
        Self { hi: (v >> 64) as u64, lo: v as u64 }
    }
}

impl V6 {
    #[inline]
    pub fn bytes(self) -> [u8; 16] {
        ((u128::from(self.hi) << 64) | u128::from(self.lo)).to_be_bytes()
    }
}

const _: () = assert!(size_of::<Step>() <= 24);
