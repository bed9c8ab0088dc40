//! What flows see of a packet that `ct(nat)` has translated, and what its bytes are.
//!
//! A translation is of the bytes. The list that goes on behind the `ct`, and the tables that it
//! resubmits to, still match and read the addresses and ports of before; only who looks at the
//! packet anew sees what it is by now: `ct(table=)`, the next `ct`, a resumed pause, a `select`
//! group that chooses by a hash of the packet. What leaves is the translated packet. (Open vSwitch
//! translates flows before the datapath runs `ct`, so it cannot know what comes of it;
//! `compose_conntrack_action`.)
//!
//! **A write counts where it changes what is seen.** A field that still has the value that was seen
//! when the packet was last brought up to date keeps what the translation made of it, even if an
//! action has written that very value; any other is written, all of it.
//!
//! **Copies.** A bucket, a clone and the far side of a cable give the veil back with the key: what
//! they translate is not translated behind them.

use crate::conntrack::NatRewrite;
use crate::packet::key::FlowKey;

/// The fields that a translation changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    ip: [u32; 2],
    ipv6: [u128; 2],
    ports: [u16; 2],
    icmp_id: u16,
}

impl Ends {
    fn of(k: &FlowKey) -> Self {
        Self {
            ip: [k.ip_src, k.ip_dst],
            ipv6: [k.ipv6_src, k.ipv6_dst],
            ports: [k.tp_src, k.tp_dst],
            icmp_id: k.icmp_id,
        }
    }

    fn put(&self, k: &mut FlowKey) {
        [k.ip_src, k.ip_dst] = self.ip;
        [k.ipv6_src, k.ipv6_dst] = self.ipv6;
        [k.tp_src, k.tp_dst] = self.ports;
        k.icmp_id = self.icmp_id;
    }
}

/// Of each field what was seen, and what is in the bytes, when the two were last brought together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Veil {
    seen: Ends,
    is: Ends,
}

impl Veil {
    /// Before anything is translated: what is seen is.
    pub fn of(key: &FlowKey) -> Self {
        Self { seen: Ends::of(key), is: Ends::of(key) }
    }

    /// The bytes are translated.
    pub fn translate(&mut self, v6: bool, r: &NatRewrite) {
        put_addresses_in(&mut self.is, v6, r);
        let [sport, dport] = &mut self.is.ports;
        *sport = r.new_sport.unwrap_or(*sport);
        *dport = r.new_dport.unwrap_or(*dport);
        self.is.icmp_id = r.new_icmp_id.unwrap_or(self.is.icmp_id);
    }

    /// The same of an ICMP error, whose addresses alone are its own.
    pub fn translate_addresses(&mut self, v6: bool, r: &NatRewrite) {
        put_addresses_in(&mut self.is, v6, r);
    }

    /// The key as the packet is to be, if flows see it as `key`.
    pub fn lift(&self, key: &FlowKey) -> FlowKey {
        fn pick<T: PartialEq + Copy>(now: T, seen: T, is: T) -> T {
            if now == seen { is } else { now }
        }
        fn both<T: PartialEq + Copy>(now: [T; 2], seen: [T; 2], is: [T; 2]) -> [T; 2] {
            [pick(now[0], seen[0], is[0]), pick(now[1], seen[1], is[1])]
        }
        let (now, seen, is) = (Ends::of(key), &self.seen, &self.is);
        let ends = Ends {
            ip: both(now.ip, seen.ip, is.ip),
            ipv6: both(now.ipv6, seen.ipv6, is.ipv6),
            ports: both(now.ports, seen.ports, is.ports),
            icmp_id: pick(now.icmp_id, seen.icmp_id, is.icmp_id),
        };
        let mut lifted = *key;
        ends.put(&mut lifted);
        lifted
    }

    /// The bytes are brought up to date, so that they are as `lifted`, where flows see `key`.
    pub fn settle(&mut self, key: &FlowKey, lifted: &FlowKey) {
        (self.seen, self.is) = (Ends::of(key), Ends::of(lifted));
    }
}

fn put_addresses_in(ends: &mut Ends, v6: bool, r: &NatRewrite) {
    if v6 {
        let [src, dst] = &mut ends.ipv6;
        (*src, *dst) = (r.new_src.unwrap_or(*src), r.new_dst.unwrap_or(*dst));
    } else {
        let [src, dst] = &mut ends.ip;
        *src = r.new_src.map_or(*src, |a| a as u32);
        *dst = r.new_dst.map_or(*dst, |a| a as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type End = (fn(&FlowKey) -> u128, fn(&mut FlowKey, u128));

    /// Source and destination in IPv4, in IPv6, of ports; identifier.
    const ENDS: [End; 7] = [
        (|k| k.ip_src.into(), |k, v| k.ip_src = v as u32),
        (|k| k.ip_dst.into(), |k, v| k.ip_dst = v as u32),
        (|k| k.ipv6_src, |k, v| k.ipv6_src = v),
        (|k| k.ipv6_dst, |k, v| k.ipv6_dst = v),
        (|k| k.tp_src.into(), |k, v| k.tp_src = v as u16),
        (|k| k.tp_dst.into(), |k, v| k.tp_dst = v as u16),
        (|k| k.icmp_id.into(), |k, v| k.icmp_id = v as u16),
    ];

    fn key(ends: [u128; 7]) -> FlowKey {
        let mut key = FlowKey::ZERO;
        ENDS.iter().zip(ends).for_each(|((_, set), v)| set(&mut key, v));
        key
    }

    fn ends(key: &FlowKey) -> [u128; 7] {
        ENDS.map(|(get, _)| get(key))
    }

    const CAME: [u128; 7] = [1, 2, 3, 4, 5, 6, 7];
    const NEW: [u128; 5] = [11, 12, 13, 14, 15];

    /// What becomes of the ends by a rewrite of some.
    fn rewritten(v6: bool, which: [bool; 5], ports_too: bool) -> [u128; 7] {
        let addresses = if v6 { 2 } else { 0 };
        let places = [addresses, addresses + 1, 4, 5, 6];
        let mut ends = CAME;
        for n in (0..5).filter(|n| which[*n] && (ports_too || *n < 2)) {
            ends[places[n]] = NEW[n];
        }
        ends
    }

    #[test]
    fn a_rewrite_is_of_what_it_names() {
        for bits in 0..64u8 {
            let which: [bool; 5] = std::array::from_fn(|n| bits >> n & 1 != 0);
            let v6 = bits & 32 != 0;
            let new = |n: usize| which[n].then_some(NEW[n]);
            let short = |n| new(n).map(|v| v as u16);
            let r = NatRewrite {
                v6,
                new_src: new(0),
                new_dst: new(1),
                new_sport: short(2),
                new_dport: short(3),
                new_icmp_id: short(4),
                ..NatRewrite::default()
            };
            let (mut whole, mut error) = (Veil::of(&key(CAME)), Veil::of(&key(CAME)));
            whole.translate(v6, &r);
            error.translate_addresses(v6, &r);
            assert_eq!(ends(&whole.lift(&key(CAME))), rewritten(v6, which, true), "{r:?}");
            assert_eq!(ends(&error.lift(&key(CAME))), rewritten(v6, which, false), "{r:?}");
        }
    }

    #[test]
    fn each_end_is_written_by_itself() {
        let is = CAME.map(|v| v + 100);
        let veil = Veil { seen: Ends::of(&key(CAME)), is: Ends::of(&key(is)) };
        for written in 0..1 << 7 {
            let now: [u128; 7] =
                std::array::from_fn(|n| if written >> n & 1 != 0 { 77 } else { CAME[n] });
            let lifted: [u128; 7] =
                std::array::from_fn(|n| if written >> n & 1 != 0 { 77 } else { is[n] });
            assert_eq!(ends(&veil.lift(&key(now))), lifted);
            // Brought up to date, it is the same as long as nothing is written, and a write is one.
            let mut settled = veil;
            settled.settle(&key(now), &key(lifted));
            assert_eq!(ends(&settled.lift(&key(now))), lifted);
            let all = now.map(|v| v + 1000);
            assert_eq!(ends(&settled.lift(&key(all))), all);
        }
    }

    #[test]
    fn what_is_written_as_it_was_seen_stays_translated() {
        let mut key = FlowKey { ip_src: 1, ip_dst: 2, tp_src: 3, tp_dst: 4, ..FlowKey::ZERO };
        let mut veil = Veil::of(&key);
        veil.is.ip[1] = 20;
        veil.is.ports[1] = 40;
        let lifted = |veil: &Veil, key: &FlowKey| {
            let k = veil.lift(key);
            (k.ip_src, k.ip_dst, k.tp_src, k.tp_dst)
        };
        assert_eq!(lifted(&veil, &key), (1, 20, 3, 40));
        key.ip_dst = 7;
        assert_eq!(lifted(&veil, &key), (1, 7, 3, 40));
        // Written once, the address of before is a change as any other.
        veil.settle(&key, &veil.lift(&key));
        key.ip_dst = 2;
        assert_eq!(lifted(&veil, &key), (1, 2, 3, 40));
        veil.settle(&key, &veil.lift(&key));
        assert_eq!(lifted(&veil, &key), (1, 2, 3, 40));
    }
}
