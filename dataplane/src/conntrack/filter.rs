//! Which connections an operator means: what `list` shows and `flush` forgets.
//!
//! Everything that is said must hold. A tuple may be asked for in the original direction, in the
//! reply's, or in either: then all that is said of it must hold of one of the two.

use super::conn::ConnInfo;
use super::key::{IpKey, Tuple};

/// Of a tuple.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TupleFilter {
    /// Value and mask.
    pub src: Option<(IpKey, IpKey)>,
    pub dst: Option<(IpKey, IpKey)>,
    /// Not of ICMP.
    pub sport: Option<u16>,
    pub dport: Option<u16>,
    /// Of ICMP and ICMPv6.
    pub icmp_id: Option<u16>,
    pub icmp_type: Option<u8>,
    pub icmp_code: Option<u8>,
}

impl TupleFilter {
    fn matches(&self, t: &Tuple) -> bool {
        let address = |f: Option<(IpKey, IpKey)>, a| f.is_none_or(|(v, m)| (v ^ a) & m == 0);
        let port = |f: Option<u16>, p| f.is_none_or(|f| !t.is_icmp() && f == p);
        let icmp = |f: Option<u8>, v| f.is_none_or(|f| t.is_icmp() && u16::from(f) == v);
        address(self.src, t.src)
            && address(self.dst, t.dst)
            && port(self.sport, t.sport)
            && port(self.dport, t.dport)
            && self.icmp_id.is_none_or(|id| t.is_icmp() && t.sport == id)
            && icmp(self.icmp_type, t.dport >> 8)
            && icmp(self.icmp_code, t.dport & 0xff)
    }
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateFilter {
    /// One that a full table would give up first.
    HalfOpen,
    /// TCP that both sides have closed, or one has reset.
    Closed,
    Established,
    /// TCP in the state that a dump shows.
    Tcp(&'static str),
}

/// Of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnFilter {
    pub zone: Option<u16>,
    pub v6: Option<bool>,
    pub proto: Option<u8>,
    pub orig: TupleFilter,
    pub reply: TupleFilter,
    pub either: TupleFilter,
    /// Value and mask.
    pub mark: Option<(u32, u32)>,
    /// Value and mask.
    pub label: Option<(u128, u128)>,
    pub state: Option<StateFilter>,
}

impl ConnFilter {
    pub fn matches(&self, c: &ConnInfo) -> bool {
        let state = |wanted| match wanted {
            StateFilter::HalfOpen => c.half_open,
            StateFilter::Closed => c.closed,
            StateFilter::Established => !c.half_open && !c.closed,
            StateFilter::Tcp(name) => c.tcp_state == Some(name),
        };
        self.zone.is_none_or(|z| z == c.zone)
            && self.v6.is_none_or(|v6| v6 == c.orig.v6)
            && self.proto.is_none_or(|p| p == c.orig.proto)
            && self.orig.matches(&c.orig)
            && self.reply.matches(&c.reply)
            && (self.either.matches(&c.orig) || self.either.matches(&c.reply))
            && self.mark.is_none_or(|(v, m)| (v ^ c.mark) & m == 0)
            && self.label.is_none_or(|(v, m)| (v ^ c.label) & m == 0)
            && self.state.is_none_or(state)
    }
}
