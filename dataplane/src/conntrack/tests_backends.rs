//! Which connections a removed backend takes along: a filter against a naive one, in slices.

use super::backends::{Backend, BackendFilter};
use super::tests_dump::fresh;
use super::*;
use proptest::prelude::*;

const NOW: Now = Now::from_secs(1);
/// What clients ask for.
const SERVICE: u128 = 0x0a60_0001;

/// A connection to the service, or to an end itself, led to a backend or not.
fn open(ct: &mut Conntrack, n: u32, to: Option<(u128, Option<u16>)>) {
    let v6 = n.is_multiple_of(4);
    let proto = [17, 6, if v6 { 58 } else { 1 }, 47][n as usize % 4 * (n as usize % 3) % 4];
    let is_echo = proto == 1 || proto == 58;
    let tuple = Tuple {
        src: u128::from(0x0a00_0000 + n),
        dst: if n.is_multiple_of(5) { 3 } else { SERVICE },
        sport: if proto == 47 { 0 } else { 5000 + (n % 7) as u16 },
        dport: match proto {
            47 => 0,
            _ if is_echo => {
                if v6 {
                    128 << 8
                } else {
                    8 << 8
                }
            }
            _ => 1 + (n % 5) as u16,
        },
        proto,
        v6,
    };
    let seg = Segment { flags: 2, win: 100, ..Segment::default() };
    let zone = (n % 2) as u16;
    let p = CtPacket { tuple, zone, kind: Kind::Normal, seg, checksum_ok: true };
    let nat = to.map(|(address, port)| NatSpec {
        kind: NatKind::Dst,
        v6,
        addr_min: address,
        addr_max: address,
        ports: port.map(|p| (p, p)),
        mode: NatMode::Hash,
    });
    let r = ct.lookup(&p, NOW);
    ct.commit(&p, &r, &Commit { nat, ..Commit::default() }, NOW).unwrap();
}

/// The rule in words: led to what one of the list covers.
fn is_led(list: &[Backend], c: &ConnInfo) -> bool {
    let portless = matches!(c.orig.proto, 1 | 58 | 47);
    list.iter().any(|b| {
        b.v6 == c.reply.v6
            && b.zone.is_none_or(|z| z == c.zone)
            && c.reply.src >= b.addresses.0
            && c.reply.src <= b.addresses.1
            && (portless || b.ports.is_none_or(|(a, z)| a <= c.reply.sport && c.reply.sport <= z))
    })
}

fn backend() -> impl Strategy<Value = Backend> {
    let ports = prop::option::of((1u16..6, prop_oneof![3 => Just(0u16), 1 => 1u16..3]));
    let more = prop_oneof![3 => Just(0u128), 1 => 1u128..4];
    (any::<bool>(), (1u128..8, more), ports, prop::option::of(0u16..3)).prop_map(
        |(v6, (first, more), ports, zone)| Backend {
            v6,
            addresses: (first, first + more),
            ports: ports.map(|(p, more)| (p, p + more)),
            zone,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(150)
    })]
    /// All that was led to what is gone goes, and nothing that what is kept covers, or that was
    /// not led anywhere.
    #[test]
    fn what_leads_to_what_is_gone_goes(
        gone in prop::collection::vec(backend(), 1..20),
        others in prop::collection::vec(backend(), 0..20),
        proto in prop_oneof![Just(None), Just(Some(17u8))],
        ends in prop::collection::vec(
            prop::option::weighted(0.8, (1u128..12, prop::option::of(1u16..9))), 200..1500),
    ) {
        let mut ct = fresh(2000);
        (0u32..).zip(&ends).for_each(|(n, to)| open(&mut ct, n, *to));
        // Who asks gives only those that meet what is gone.
        let kept: Vec<Backend> =
            others.iter().copied().filter(|k| gone.iter().any(|g| g.meets(k))).collect();
        let filter = BackendFilter::new(proto, &gone, &kept);
        let (mut want, mut stay) = (0, Vec::new());
        ct.dump(NOW, |c| {
            let meant = c.dnat && proto.is_none_or(|p| p == c.orig.proto)
                && is_led(&gone, c) && !is_led(&others, c);
            want += usize::from(meant);
            if !meant {
                stay.push(c.clone());
            }
        });
        let (mut from, mut went) = (Some(0), 0);
        while let Some(at) = from {
            let n;
            (n, from) = ct.flush_backends(NOW, &filter, at);
            prop_assert!(n <= 256);
            prop_assert!(from.is_none_or(|next| next > at && next - at <= filter.looks()));
            went += n;
        }
        let mut left = Vec::new();
        ct.dump(NOW, |c| left.push(c.clone()));
        prop_assert_eq!((went, left), (want, stay));
        let stats = ct.stats();
        prop_assert_eq!((stats.backend_gone, stats.flushed), (want as u64, 0));
    }
}

/// The more ranges, the fewer places a slice looks at; an empty table is looked at once.
#[test]
fn a_slice_is_the_shorter_the_more_there_is_to_compare() {
    let range = |n: u128| Backend { addresses: (n, n + 1), ..Backend::default() };
    let single = |n: u128| Backend { addresses: (n, n), ..Backend::default() };
    let looks = |gone: &[Backend]| BackendFilter::new(None, gone, &[]).looks();
    let many = |of: &dyn Fn(u128) -> Backend, n| (1..=n).map(of).collect::<Vec<_>>();
    assert_eq!(looks(&many(&single, 100_000)), 1024);
    assert_eq!((looks(&many(&range, 1)), looks(&many(&range, 8))), (1024, 512));
    assert_eq!(looks(&many(&range, 100_000)), 1);
    let filter = BackendFilter::new(None, &many(&single, 3), &[]);
    assert_eq!(fresh(100_000).flush_backends(NOW, &filter, 0), (0, None));
}

/// TFTP led to a backend: the answer that is expected from there goes with the connection, before
/// its time is over; what another backend is expected to send stays.
#[test]
fn what_a_gone_backend_was_expected_to_do_is_expected_no_more() {
    let mut ct = fresh(64);
    for n in [1u128, 2] {
        let tuple = Tuple {
            src: 0x0a00_0001,
            dst: SERVICE + n,
            sport: 5000,
            dport: 69,
            proto: 17,
            v6: false,
        };
        let p = CtPacket {
            tuple,
            zone: 0,
            kind: Kind::Normal,
            seg: Segment::default(),
            checksum_ok: true,
        };
        let nat = NatSpec {
            kind: NatKind::Dst,
            v6: false,
            addr_min: n,
            addr_max: n,
            ports: None,
            mode: NatMode::Hash,
        };
        let commit =
            Commit { nat: Some(nat), follows_nat: true, alg: Some(Alg::Tftp), ..Commit::default() };
        let r = ct.lookup(&p, NOW);
        let r = ct.commit(&p, &r, &commit, NOW).unwrap();
        assert_eq!(ct.help(&r, &p, b"\0\x01file\0octet\0", true, NOW), None);
        assert_eq!(ct.expected(), n as usize);
    }
    let is_expected = |ct: &Conntrack, src| {
        let (dst, sport, dport) = (0x0a00_0001, 3000, 5000);
        ct.is_expected(&Tuple { src, dst, sport, dport, proto: 17, v6: false }, 0, NOW)
    };
    assert!(is_expected(&ct, 1) && is_expected(&ct, 2));
    let gone = Backend { addresses: (1, 1), ports: None, ..Backend::default() };
    let filter = BackendFilter::new(None, &[gone], &[]);
    assert_eq!(ct.flush_backends(NOW, &filter, 0), (1, None));
    assert!(!is_expected(&ct, 1) && is_expected(&ct, 2));
    assert_eq!(ct.expected(), 1);
}
