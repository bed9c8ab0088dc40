//! Hashes of a packet, and what is chosen by them: links (`multipath`) and ports (`bundle`).
//!
//! Which link a packet takes is ours to choose, so the hash is not Open vSwitch's; what goes into
//! it is. "Symmetric" hashes take source and destination together, so that both directions of a
//! connection come out alike. What is hashed is the packet as edited so far; all of it is in the
//! key mask (`keymask`), so a cached packet never takes another link than its walk.

use super::miss::{Flow, Walk};
use crate::action::{Bundle, BundleAlgorithm, HashFields, Multipath, MultipathAlgorithm, port};
use crate::action::{PORT_LOCAL, PORT_NONE};
use crate::packet::key::FlowKey;

const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TCP: u8 = 6;
const UDP: u8 = 17;
const SCTP: u8 = 132;

/// Mixes a word into a hash.
#[inline]
pub(super) fn mix(hash: u64, word: u64) -> u64 {
    let a = hash.wrapping_add(0x9e37_79b9_7f4a_7c15) ^ word;
    let p = u128::from(a | 1 << 63).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let folded = (p as u64) ^ ((p >> 64) as u64) ^ a.rotate_left(29);
    (folded ^ (folded >> 32)).wrapping_mul(0xa076_1d64_78bd_642f)
}

/// The last step: every bit of the result depends on every bit of the hash.
fn finish(hash: u64) -> u32 {
    let h = mix(hash, 0x2545_f491_4f6c_dd1d);
    (h >> 32) as u32 ^ h as u32
}

fn mix_wide(hash: u64, v: u128) -> u64 {
    mix(mix(hash, v as u64), (v >> 64) as u64)
}

/// The fields of a packet as a number of 32 bits.
pub(super) fn hash_fields(k: &FlowKey, fields: HashFields, basis: u32) -> u32 {
    let h = u64::from(basis);
    let is_ip = matches!(k.eth_type, IPV4 | IPV6);
    finish(match fields {
        HashFields::EthSrc => mix(h, k.eth_src),
        HashFields::NwSrc if is_ip => mix_wide(mix(h, k.ip_src.into()), k.ipv6_src),
        HashFields::NwDst if is_ip => mix_wide(mix(h, k.ip_dst.into()), k.ipv6_dst),
        HashFields::NwSrc | HashFields::NwDst => h,
        HashFields::SymmetricL4 => {
            let h = layer2(h, k);
            if is_ip { ports(addresses(h, k), k, false) } else { h }
        }
        HashFields::SymmetricL3 => {
            let h = mix(h, k.eth_type.into());
            if is_ip { addresses(h, k) } else { h }
        }
        HashFields::SymmetricL3L4 if is_ip => ports(addresses(h, k), k, false),
        HashFields::SymmetricL3L4Udp if is_ip => ports(addresses(h, k), k, true),
        HashFields::SymmetricL3L4 | HashFields::SymmetricL3L4Udp => layer2(h, k),
    })
}

/// Addresses, protocol and ports, each direction by itself.
pub(super) fn hash_directed(k: &FlowKey, basis: u32) -> u32 {
    let mut h = u64::from(basis);
    if matches!(k.eth_type, IPV4 | IPV6) {
        h = mix(h, u64::from(k.ip_src) << 32 | u64::from(k.ip_dst));
        h = mix_wide(mix_wide(h, k.ipv6_src), k.ipv6_dst);
        h = mix(h, u64::from(k.ip_proto) << 32 | u64::from(k.tp_src) << 16 | u64::from(k.tp_dst));
    }
    finish(h)
}

/// A value of a field.
pub(super) fn hash_value(hash: u32, v: u128) -> u32 {
    finish(mix_wide(hash.into(), v))
}

/// Two numbers.
pub(super) fn hash_pair(a: u32, b: u32) -> u32 {
    finish(mix(a.into(), b.into()))
}

fn layer2(h: u64, k: &FlowKey) -> u64 {
    let tag = u64::from(k.eth_type) << 16 | u64::from(k.vlan_tci & 0xfff);
    mix(mix(h, k.eth_src ^ k.eth_dst), tag)
}

fn addresses(h: u64, k: &FlowKey) -> u64 {
    mix_wide(mix(h, (k.ip_src ^ k.ip_dst).into()), k.ipv6_src ^ k.ipv6_dst)
}

fn ports(h: u64, k: &FlowKey, with_udp: bool) -> u64 {
    let h = mix(h, k.ip_proto.into());
    let counts = matches!(k.ip_proto, TCP | SCTP) || (with_udp && k.ip_proto == UDP);
    if counts && k.ip_frag == 0 { mix(h, (k.tp_src ^ k.tp_dst).into()) } else { h }
}

/// The link of a hash.
fn link(hash: u32, m: &Multipath) -> u32 {
    let links = m.links.max(1);
    match m.algorithm {
        MultipathAlgorithm::ModuloN => hash % links,
        MultipathAlgorithm::HashThreshold if links == 1 => 0,
        MultipathAlgorithm::HashThreshold => hash / (u32::MAX / links + 1),
        MultipathAlgorithm::HighestRandomWeight if links <= 64 => {
            (0..links).rev().max_by_key(|n| hash_pair(hash, *n)).unwrap_or(0)
        }
        MultipathAlgorithm::HighestRandomWeight => iterate(hash, links, 0),
        MultipathAlgorithm::IterHash => iterate(hash, links, m.arg),
    }
}

/// Hashes on until the result is a link. Of two tries one succeeds.
fn iterate(hash: u32, links: u32, modulo: u32) -> u32 {
    let fits = modulo >= links && modulo / 2 <= links;
    let modulo = if fits { modulo } else { links.checked_next_power_of_two().unwrap_or(u32::MAX) };
    let tries = (0..64).map(|n| hash_pair(hash, n) % modulo);
    tries.into_iter().find(|n| *n < links).unwrap_or(hash % links)
}

impl Walk<'_, '_> {
    #[inline(never)]
    pub(super) fn multipath(&mut self, m: &Multipath) {
        let hash = hash_fields(&self.key, m.fields, m.basis.into());
        m.dst.set(&mut self.key, link(hash, m).into());
    }

    #[inline(never)]
    pub(super) fn bundle(&mut self, b: &Bundle) -> Flow {
        let chosen = self.member(b).unwrap_or(PORT_NONE);
        match b.dst {
            Some(dst) => {
                dst.set(&mut self.key, chosen.into());
                Ok(())
            }
            None => self.output_number(chosen.into()),
        }
    }

    fn member(&self, b: &Bundle) -> Option<u32> {
        let live = |n: &u32| self.member_is_live(*n);
        match b.algorithm {
            BundleAlgorithm::ActiveBackup => b.members.iter().copied().find(live),
            BundleAlgorithm::HighestRandomWeight => {
                let hash = hash_fields(&self.key, b.fields, b.basis.into());
                let scored = (0..).zip(&b.members).filter(|(_, n)| live(n));
                scored.max_by_key(|(i, _)| hash_pair(*i, hash)).map(|(_, n)| *n)
            }
        }
    }

    fn member_is_live(&self, number: u32) -> bool {
        match number {
            PORT_LOCAL => self.port_is_live(number),
            port::CONTROLLER => false,
            port::MAX.. => true,
            _ => self.port_is_live(number),
        }
    }

    /// Whether the bridge has the port and it is up.
    pub(super) fn port_is_live(&self, number: u32) -> bool {
        self.bridge.port(number).and_then(|ix| self.program.port(ix)).is_some_and(|p| p.up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::field::Field;

    fn flow(n: u32) -> FlowKey {
        FlowKey {
            eth_type: IPV4,
            ip_proto: TCP,
            ip_src: 0x0a00_0000 + n,
            ip_dst: 0x0a01_0000 + n / 7,
            tp_src: 1024 + (n % 911) as u16,
            tp_dst: 80,
            eth_src: 2,
            eth_dst: 3,
            ..FlowKey::ZERO
        }
    }

    const ALL: [HashFields; 7] = [
        HashFields::EthSrc,
        HashFields::SymmetricL4,
        HashFields::SymmetricL3L4,
        HashFields::SymmetricL3,
        HashFields::SymmetricL3L4Udp,
        HashFields::NwSrc,
        HashFields::NwDst,
    ];

    #[test]
    fn symmetric_hashes_are_and_the_others_are_not() {
        for n in 0..500 {
            let (k, mut back) = (flow(n), flow(n));
            (back.ip_src, back.ip_dst) = (k.ip_dst, k.ip_src);
            (back.tp_src, back.tp_dst) = (k.tp_dst, k.tp_src);
            (back.eth_src, back.eth_dst) = (k.eth_dst, k.eth_src);
            for f in ALL {
                let same = hash_fields(&k, f, 7) == hash_fields(&back, f, 7);
                let one_way =
                    matches!(f, HashFields::EthSrc | HashFields::NwSrc | HashFields::NwDst);
                assert_eq!(same, !one_way, "{f:?}");
            }
            assert_ne!(hash_directed(&k, 0), hash_directed(&back, 0));
        }
    }

    #[test]
    fn only_the_fields_named_count() {
        let k = flow(1);
        let udp = FlowKey { ip_proto: UDP, ..k };
        let other_port = |k: FlowKey| FlowKey { tp_src: 9, ..k };
        let hash = |k: &FlowKey, f| hash_fields(k, f, 0);
        assert_ne!(
            hash(&k, HashFields::SymmetricL4),
            hash(&other_port(k), HashFields::SymmetricL4)
        );
        let fragment = FlowKey { ip_frag: 1, ..k };
        for f in ALL {
            let sees_udp = f == HashFields::SymmetricL3L4Udp;
            assert_eq!(hash(&udp, f) != hash(&other_port(udp), f), sees_udp, "{f:?}");
            assert_eq!(hash(&fragment, f), hash(&other_port(fragment), f), "{f:?}");
        }
        assert_ne!(hash(&k, HashFields::NwSrc), hash_fields(&k, HashFields::NwSrc, 1), "the basis");
    }

    #[test]
    fn every_algorithm_spreads_evenly_over_its_links() {
        use MultipathAlgorithm::{HashThreshold, HighestRandomWeight, IterHash, ModuloN};
        for algorithm in [ModuloN, HashThreshold, HighestRandomWeight, IterHash] {
            for links in [1, 2, 3, 7, 16, 100] {
                let dst = Field::Reg0.info().whole();
                let fields = HashFields::SymmetricL4;
                let m = Multipath { fields, basis: 50, algorithm, links, arg: 0, dst };
                let mut counts = vec![0u32; links as usize];
                let total = 4000 * links;
                for n in 0..total {
                    counts[link(hash_fields(&flow(n), fields, 50), &m) as usize] += 1;
                }
                let off = counts.iter().map(|c| c.abs_diff(4000)).max().unwrap();
                assert!(off < 400, "{algorithm:?} {links}: {counts:?}");
            }
        }
    }

    #[test]
    fn a_random_weight_moves_only_what_a_new_link_takes() {
        let dst = Field::Reg0.info().whole();
        let algorithm = MultipathAlgorithm::HighestRandomWeight;
        let of = |links, hash| {
            let fields = HashFields::EthSrc;
            link(hash, &Multipath { fields, basis: 0, algorithm, links, arg: 0, dst })
        };
        for n in 0..2000 {
            let hash = hash_pair(n, 5);
            let (before, after) = (of(9, hash), of(10, hash));
            assert!(before == after || after == 9);
        }
    }
}
