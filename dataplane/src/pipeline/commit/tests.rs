//! Key changes to steps, and those to bytes that parse to what was wanted.

use super::*;

const ALL: Payload = Payload { eth_type: IPV4, shape: shape::L3_VALID | shape::L4_VALID };

fn udp() -> FlowKey {
    FlowKey { eth_type: IPV4, ip_proto: 17, ip_ttl: 64, ip_src: 1, tp_src: 5, ..FlowKey::ZERO }
}

#[test]
fn registers_and_undone_changes_cost_nothing() {
    let (mut base, mut key) = (udp(), udp());
    key.xxreg[0] = 9;
    key.metadata = 4;
    let mut out = Vec::new();
    commit(&mut base, &key, ALL, &mut out);
    assert_eq!(out, []);
}

#[test]
fn many_changes_fold_into_one_step_per_header_and_once() {
    let (mut base, mut key) = (udp(), udp());
    key.eth_dst = 0x0200_0000_0001;
    key.ip_ttl = 63;
    key.ip_dst = 7;
    key.tp_dst = 53;
    let mut out = Vec::new();
    commit(&mut base, &key, ALL, &mut out);
    assert_eq!(
        out,
        [
            Step::SetEth { dst: [2, 0, 0, 0, 0, 1], src: [0; 6], which: Which::of(&[true]) },
            Step::SetIpv4 {
                src: 0,
                dst: 7,
                tos: 0,
                ttl: 63,
                which: Which::of(&[false, true, false, true]),
            },
            Step::SetPorts { src: 0, dst: 53, which: Which::of(&[false, true]) },
        ]
    );
    out.clear();
    commit(&mut base, &key, ALL, &mut out);
    assert_eq!(out, [], "a second commit has nothing to say");
}

#[test]
fn vlan_presence_decides_push_pop_or_rewrite() {
    let mut out = Vec::new();
    let (mut base, mut key) = (udp(), udp());
    key.vlan_tci = VLAN_PRESENT | 10;
    commit(&mut base, &key, ALL, &mut out);
    key.vlan_tci = VLAN_PRESENT | 11;
    commit(&mut base, &key, ALL, &mut out);
    key.vlan_tci = 0;
    commit(&mut base, &key, ALL, &mut out);
    let tag = |tci| (0x8100, tci);
    let (a, b) = (tag(10), tag(11));
    assert_eq!(
        out,
        [
            Step::PushVlan { tpid: a.0, tci: a.1 },
            Step::SetVlan { tpid: b.0, tci: b.1 },
            Step::PopVlan
        ]
    );
}

#[test]
fn a_header_that_is_not_there_is_not_written() {
    let mut out = Vec::new();
    let (mut base, mut key) = (udp(), udp());
    (key.ip_dst, key.tp_dst) = (7, 53);
    commit(&mut base, &key, Payload { shape: 0, ..ALL }, &mut out);
    assert_eq!(out, []);
    commit(&mut base, &key, Payload { shape: shape::L3_VALID, ..ALL }, &mut out);
    assert!(matches!(out[..], [Step::SetIpv4 { .. }]), "{out:?}");
}

mod bytes {
    //! Wanted keys against what parsing finds after the edits.

    use super::super::*;
    use crate::action::edit;
    use crate::packet::build::PacketBuilder;
    use crate::packet::key::{PacketKey, PortIx};
    use crate::packet::l4sum::checksums_ok;
    use crate::packet::parse::{Layers, VLAN_LIMIT_MAX, parse_limited};
    use crate::pipeline::world::Subject;
    use crate::wire::mpls;
    use crate::xsk::pool::FramePool;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
    const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

    fn packet(kind: u8, tags: usize, labels: usize) -> Vec<u8> {
        let mut b = PacketBuilder::eth(A, B);
        for n in 0..tags {
            b = b.tag([0x8100, 0x88a8][n % 2], 5 + n as u16);
        }
        for n in 0..labels {
            b = b.mpls(16 + n as u32, 1, 64);
        }
        let v4 = |b: PacketBuilder| b.ipv4([10, 0, 0, 1], [10, 0, 0, 2]);
        let v6 = |b: PacketBuilder| b.ipv6([1; 16], [2; 16]);
        match kind {
            0 => v4(b).udp(1, 2).payload(b"data").build(),
            1 => v4(b).tcp(1, 2).ip_options(&[1; 8]).payload(b"dat").build(),
            2 => v4(b).echo_request(3, 4).payload(b"data").build(),
            3 => v4(b).sctp(1, 2, 3).payload(b"data").build(),
            4 => v6(b).udp(1, 2).payload(b"data").build(),
            5 => v6(b).extension(60, &[0; 8]).tcp(1, 2).build(),
            6 => v6(b).nd_solicit([9; 16], Some(A)).build(),
            _ => b.arp(1, (A, [1; 4]), (B, [2; 4])).build(),
        }
    }

    fn read(bytes: &[u8]) -> (PacketKey, Layers) {
        let (mut key, mut layers) = (PacketKey::default(), Layers::default());
        parse_limited(bytes, PortIx(0), VLAN_LIMIT_MAX, &mut key, &mut layers).unwrap();
        (key, layers)
    }

    /// A wish: tags and labels from scratch, and which of the payload's fields change.
    #[derive(Clone, Debug)]
    struct Wish {
        tags: Vec<(bool, u16)>,
        labels: Option<Vec<u32>>,
        fields: u16,
        value: u8,
    }

    fn wish() -> impl Strategy<Value = Wish> {
        let tags = vec((any::<bool>(), 0..7u16), 0..3);
        let labels = proptest::option::of(vec(16..19u32, 0..4));
        (tags, labels, any::<u16>(), any::<u8>()).prop_map(|(tags, labels, fields, value)| Wish {
            tags,
            labels,
            fields,
            value,
        })
    }

    fn wanted(from: &FlowKey, w: &Wish, payload: Payload) -> FlowKey {
        let mut k = *from;
        let tag = |n: usize| match w.tags.get(n) {
            Some((is_service, vid)) => {
                (if *is_service { 0x88a8 } else { 0x8100 }, VLAN_PRESENT | vid)
            }
            None => (0, 0),
        };
        (k.vlan_tpid, k.vlan_tci) = tag(0);
        (k.inner_tpid, k.inner_tci) = tag(1);
        if let Some(labels) = &w.labels {
            k.mpls_lse = std::array::from_fn(|n| {
                let last = n + 1 == labels.len();
                labels.get(n).map_or(0, |l| mpls::lse(*l, 3, last, w.value))
            });
            k.eth_type = if labels.is_empty() { payload.eth_type } else { 0x8847 };
        }
        let v = w.value;
        let is = |bit: u16| w.fields >> bit & 1 != 0;
        let change = |bit: u16, at: &mut u128| {
            if is(bit) {
                *at ^= u128::from(v) << 40 | 1;
            }
        };
        if is(0) {
            k.eth_dst = u64::from(v) + 7;
        }
        match payload.eth_type {
            IPV6 => {
                change(1, &mut k.ipv6_src);
                change(2, &mut k.ipv6_dst);
                if is(3) {
                    k.ipv6_label = 0xabc00 | u32::from(v);
                }
                if k.ip_proto == 58 {
                    change(4, &mut k.nd_target);
                }
            }
            _ if is(1) => k.ip_src = 0x0a00_0000 | u32::from(v),
            _ if is(2) => k.ip_dst = 0x0b00_0000 | u32::from(v),
            _ => {}
        }
        if matches!(payload.eth_type, IPV4 | IPV6) {
            if is(5) {
                (k.ip_ttl, k.ip_tos) = (v, v ^ 0x55);
            }
            if is(6) && !matches!(k.ip_proto, 1 | 58) {
                (k.tp_src, k.tp_dst) = (u16::from(v) + 256, u16::from(v));
            }
        } else if is(5) {
            k.arp_tha = u64::from(v);
        }
        k
    }

    /// Wishes one after the other on one packet.
    fn grant(kind: u8, tags: usize, labels: usize, wishes: &[Wish]) {
        let mut pool = FramePool::private(1).unwrap();
        let mut frame = pool.alloc().unwrap();
        assert!(frame.copy_from(&packet(kind, tags, labels)));
        let (key, mut layers) = read(frame.bytes());
        let (eth_type, shape) = key.innermost();
        let payload = Payload { eth_type, shape };
        let mut base = FlowKey::from_packet(&key, 7);
        let mut out = Vec::new();
        for w in wishes {
            let want = wanted(&base, w, payload);
            out.clear();
            commit(&mut base, &want, payload, &mut out);
            assert_eq!(base, want);
            for step in &out {
                edit::apply(step, &mut frame, &mut layers).unwrap();
            }
            let (got, again) = read(frame.bytes());
            assert_eq!(FlowKey::from_packet(&got, 7), want, "{w:?} {out:?}");
            assert_eq!((layers.l3, layers.l4, layers.end), (again.l3, again.l4, again.end));
            let in_port = PortIx(0);
            let bytes = frame.bytes();
            let all = Subject { key: &got, bytes, layers: &again, in_port, checksums_good: false };
            let mut room = None;
            let (bare, at) = all.behind_labels(&mut room);
            assert!(checksums_ok(bytes, &at, bare), "{w:?} {out:?}");
        }
        pool.free(frame);
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(2048)
        })]
        #[test]
        fn edits_make_the_packet_that_was_wanted(
            kind in 0..8u8, tags in 0..3usize, labels in 0..4usize,
            wishes in vec(wish(), 1..4),
        ) {
            grant(kind, tags, labels, &wishes);
        }
    }
}
