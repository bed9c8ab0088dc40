//! Packets of the builder, whose checksums etherparse confirms, checked and damaged.

use super::super::build::PacketBuilder;
use super::super::key::{PacketKey, PortIx};
use super::super::parse::{Layers, parse};
use super::*;
use proptest::collection::vec;
use proptest::prelude::*;

const A: [u8; 6] = [2, 0, 0, 0, 0, 1];
const B: [u8; 6] = [2, 0, 0, 0, 0, 2];

fn parsed(bytes: &[u8]) -> (PacketKey, Layers) {
    let (mut key, mut layers) = (PacketKey::default(), Layers::default());
    parse(bytes, PortIx(1), &mut key, &mut layers).unwrap();
    (key, layers)
}

fn verify(bytes: &[u8]) -> bool {
    let (key, layers) = parsed(bytes);
    verify_l4(bytes, &layers, &key)
}

fn complete(bytes: &mut [u8]) -> bool {
    let (key, layers) = parsed(bytes);
    complete_partial_checksum(bytes, &layers, &key)
}

fn over(v6: bool) -> PacketBuilder {
    let eth = PacketBuilder::eth(A, B);
    if v6 { eth.ipv6([1; 16], [2; 16]) } else { eth.ipv4([10, 0, 0, 1], [10, 0, 0, 2]) }
}

fn kinds(v6: bool, payload: &[u8]) -> Vec<PacketBuilder> {
    let base = over(v6).payload(payload);
    vec![
        base.clone().tcp(1, 2),
        base.clone().udp(3, 4),
        base.clone().vlan(7, 0).udp(3, 4),
        base.clone().sctp(5, 6, 7),
        base.echo_request(8, 9),
    ]
}

#[test]
fn fragments_and_strangers_have_nothing_to_check() {
    for v6 in [false, true] {
        for frame in over(v6).udp(1, 2).payload(&[7; 100]).fragments(9, 48) {
            let mut bytes = frame.clone();
            assert!(verify(&bytes) && !complete(&mut bytes));
            assert_eq!(bytes, frame);
        }
        let mut first = over(v6).fragment(1, 0, true).udp(1, 2).partial_checksum().build();
        assert!(!complete(&mut first));
        let mut gre = over(v6).proto(proto::GRE).payload(&[0; 40]).build();
        assert!(verify(&gre) && !complete(&mut gre));
    }
    assert!(!complete(&mut PacketBuilder::eth(A, B).payload(&[0; 50]).build()));
}

#[test]
fn udp_without_checksum() {
    let mut none = over(false).udp(1, 2).payload(b"x").no_checksum().build();
    assert!(verify(&none) && !complete(&mut none));
    assert!(!verify(&over(true).udp(1, 2).payload(b"x").no_checksum().build()));
}

#[test]
fn a_udp_length_that_does_not_fit_is_wrong() {
    for len in [0u16, 7, 14, 0xffff] {
        let mut bytes = over(false).udp(1, 2).payload(b"hello").build();
        bytes[38..40].copy_from_slice(&len.to_be_bytes());
        assert!(!verify(&bytes) && !complete(&mut bytes), "{len}");
    }
    // Longer than the datagram but inside the frame's padding, and partial by that length.
    let mut bytes = over(false).udp(1, 2).payload(b"hello").padded();
    bytes[38..40].copy_from_slice(&20u16.to_be_bytes());
    let field = pseudo_v4(&[10, 0, 0, 1], &[10, 0, 0, 2], proto::UDP, 20).folded_bytes();
    bytes[40..42].copy_from_slice(&field);
    assert!(!verify(&bytes) && !complete(&mut bytes));
    // Shorter than the datagram: the rest is not UDP's and not covered.
    let mut bytes = over(false).udp(1, 2).payload(b"hello").build();
    bytes.extend(b"more");
    let total = (bytes.len() - 14) as u16;
    bytes[16..18].copy_from_slice(&total.to_be_bytes());
    assert!(verify(&bytes));
}

#[test]
fn ipv4_headers_are_checked_with_their_options() {
    for options in [&[][..], &[1, 1, 1, 0, 7, 4, 0, 0]] {
        let bytes = over(false).ip_options(options).udp(1, 2).build();
        let check = |bytes: &[u8]| {
            let (key, layers) = parsed(bytes);
            verify_ipv4_header(bytes, &layers, &key)
        };
        assert!(check(&bytes));
        // Identification, TTL and the last byte: lengths would stop the parser first.
        for at in [18, 22, 33 + options.len()] {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            assert!(!check(&bad), "{at}");
        }
    }
    let v6 = over(true).udp(1, 2).build();
    let (key, layers) = parsed(&v6);
    assert!(verify_ipv4_header(&v6, &layers, &key));
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(64)
    })]

    #[test]
    fn right_ones_pass_and_damage_is_found(
        payload in vec(any::<u8>(), 0..300), v6: bool, at: prop::sample::Index, bit in 0u8..8,
    ) {
        for builder in kinds(v6, &payload) {
            let good = builder.padded();
            let (_, layers) = parsed(&good);
            prop_assert!(verify(&good));
            let (from, to) = (usize::from(layers.l4), usize::from(layers.end));
            let mut bad = good.clone();
            bad[from + at.index(to - from)] ^= 1 << bit;
            let udp_zero = bad[from + 6..from + 8] == [0, 0] && !v6;
            prop_assert!(!verify(&bad) || udp_zero);
            // Written anew, it is what the builder wrote.
            let (key, layers) = parsed(&good);
            let mut again = good.clone();
            if write_l4(&mut again, &layers, &key) {
                prop_assert_eq!(again, good);
            }
        }
    }

    #[test]
    fn partial_ones_are_completed(payload in vec(any::<u8>(), 0..300), v6: bool, wild: u16) {
        for builder in kinds(v6, &payload) {
            let full = builder.clone().padded();
            let is_icmp = parsed(&full).0.base.ip_proto != proto::SCTP
                && complete(&mut builder.clone().no_checksum().padded());
            prop_assert!(!is_icmp, "no checksum is not a partial one");
            let mut partial = builder.partial_checksum().padded();
            let done = complete(&mut partial);
            let (key, layers) = parsed(&full);
            if !matches!(key.base.ip_proto, proto::ICMP | proto::ICMPV6) {
                prop_assert!(done);
                prop_assert_eq!(&partial, &full);
            }
            // A complete checksum is left alone; or is the same again.
            let mut again = full.clone();
            complete(&mut again);
            prop_assert_eq!(&again, &full);
            // One that is neither right nor partial is not repaired.
            if matches!(key.base.ip_proto, proto::TCP) {
                let at = usize::from(layers.l4) + tcp::CHECKSUM_AT;
                let mut wrong = full.clone();
                wrong[at..at + 2].copy_from_slice(&wild.to_be_bytes());
                let before = wrong.clone();
                if !complete(&mut wrong) {
                    prop_assert_eq!(wrong, before);
                }
            }
        }
    }
}

#[test]
fn a_complete_checksum_that_looks_partial_stays_the_same() {
    // Search the payload whose checksum equals the pseudo-header's sum.
    let hit = (0..=u16::MAX).find_map(|n| {
        let full = over(false).udp(1, 2).payload(&n.to_be_bytes()).build();
        let partial = over(false).udp(1, 2).payload(&n.to_be_bytes()).partial_checksum().build();
        (full == partial).then_some(full)
    });
    let mut bytes = hit.expect("one of 65536 payloads has it");
    let before = bytes.clone();
    assert!(complete(&mut bytes));
    assert_eq!(bytes, before);
}
