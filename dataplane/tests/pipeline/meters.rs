//! Meters against a reference token bucket, and what a packet that is dropped takes with it.

use crate::chance::Chance;
use crate::kit::*;
use crate::packets::*;
use proptest::prelude::*;
use sluice_dataplane::action::Action;
use sluice_dataplane::action::meter::{Band, Meter, MeterUnit};
use sluice_dataplane::clock::Now;
use sluice_dataplane::counters::Drop;
use sluice_dataplane::packet::field::Field;

/// Token buckets as a text book has them: tokens are 10^-9 packets or bits.
struct Oracle {
    unit: MeterUnit,
    bands: Vec<Bucket>,
    last_ns: u64,
    /// Packets dropped by band.
    dropped: Vec<u64>,
}

struct Bucket {
    rate: u128,
    room: u128,
    tokens: u128,
}

impl Oracle {
    fn new(unit: MeterUnit, bands: &[(u32, u32)]) -> Self {
        let scale = if unit == MeterUnit::Kbps { 1000 } else { 1 };
        let bucket = |(rate, burst): &(u32, u32)| {
            let burst = if *burst == 0 { *rate } else { *burst };
            let room = u128::from(burst) * scale * 1_000_000_000;
            Bucket { rate: u128::from(*rate) * scale, room, tokens: room }
        };
        let bands: Vec<Bucket> = bands.iter().map(bucket).collect();
        Self { unit, dropped: vec![0; bands.len()], bands, last_ns: 0 }
    }

    fn passes(&mut self, len: usize, ns: u64) -> bool {
        let gone = u128::from(ns - self.last_ns);
        self.last_ns = ns;
        let count = if self.unit == MeterUnit::Kbps { len as u128 * 8 } else { 1 };
        let volume = count * 1_000_000_000;
        let mut failed = Vec::new();
        for (n, b) in self.bands.iter_mut().enumerate() {
            b.tokens = (b.tokens + gone * b.rate).min(b.room);
            match b.tokens.checked_sub(volume) {
                Some(left) => b.tokens = left,
                None => failed.push((b.rate, n)),
            }
        }
        // The highest rate of those that failed; of equals the first.
        failed.sort_by_key(|(rate, n)| (u128::MAX - rate, *n));
        if let Some((_, n)) = failed.first() {
            self.dropped[*n] += 1;
        }
        failed.is_empty()
    }
}

fn run(seed: u64) {
    let mut c = Chance(seed);
    let unit = c.of(&[MeterUnit::Pktps, MeterUnit::Kbps]);
    let count = 1 + c.below(3) as usize;
    let bands: Vec<(u32, u32)> = (0..count)
        .map(|n| {
            (
                c.of(&[1, 10, 1000, 100_000, u32::MAX]) / (n as u32 + 1),
                c.of(&[0, 1, 5, 100, u32::MAX]),
            )
        })
        .map(|(rate, burst)| (rate.max(1), burst))
        .collect();
    let meter = Meter::new(1, unit, bands.iter().map(|(r, b)| Band::new(*r, *b)));
    let mut oracle = Oracle::new(unit, &bands);
    let mut ns = 5_000_000_000;
    for _ in 0..400 {
        ns += c.of(&[0, 1, 1000, 999_999, 1_000_000, 37_000_000, 2_000_000_000, 1 << 50]);
        let len = c.of(&[14usize, 60, 1514, 9000]);
        assert_eq!(meter.passes(len, Now::from_ns(ns)), oracle.passes(len, ns));
    }
    let counted: Vec<u64> = meter.bands.iter().map(|b| b.stats.packets()).collect();
    assert_eq!(counted, oracle.dropped);
    assert_eq!(meter.stats.packets(), 400);
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 300, max_shrink_iters: 0, ..ProptestConfig::default()
    })]
    #[test]
    fn a_meter_is_a_token_bucket(seed: u64) {
        run(seed);
    }
}

fn metered(flows: impl IntoIterator<Item = Flow>) -> Net {
    Net::of(flows).meter(1, MeterUnit::Pktps, &[(1, 2)])
}

#[test]
fn a_meter_lets_its_rate_pass_and_ends_the_packet_else() {
    let net = metered([always([out(2), Action::Meter(1), Action::DecTtl, out(3)])]);
    let mut s = Switch::new(&net);
    for _ in 0..2 {
        assert_eq!(s.ports(1, &udp()), [2, 3]);
    }
    for _ in 0..3 {
        assert_eq!(s.ports(1, &udp()), [2], "what left before stays sent");
    }
    s.wait(1000);
    assert_eq!(s.ports(1, &udp()), [2, 3]);
    assert_eq!(s.ports(1, &udp()), [2]);
    let n = udp().len() as u64;
    assert_eq!(s.see().meters[0], [(7, 7 * n), (4, 4 * n)]);
    assert_eq!(s.dropped(Drop::Meter), 4);
    assert!(s.hits() >= 6);
}

#[test]
fn a_meter_behind_the_last_output_still_counts() {
    let mut s = Switch::new(&metered([always([out(2), Action::Meter(1)])]));
    for _ in 0..4 {
        assert_eq!(s.send(1, &udp()), [(2, udp())]);
    }
    assert_eq!(s.see().meters[0][0].0, 4);
    let mut s = Switch::new(&metered([always([Action::Meter(1)])]));
    (0..3).for_each(|_| assert_eq!(s.ports(1, &udp()), []));
    assert_eq!((s.dropped(Drop::Meter), s.dropped(Drop::NoOutput)), (1, 2), "one reason each");
}

#[test]
fn a_copy_that_is_dropped_takes_nothing_with_it() {
    let push = Action::PushVlan { tpid: 0x8100 };
    let inside =
        vec![push.clone(), set(Field::VlanVid, 0x100a), Action::Meter(1), Action::DecTtl, out(2)];
    let tagged =
        |ttl| eth().vlan(10, 0).ipv4(IP_A, IP_B).ttl(ttl).udp(1000, 2000).payload(b"hello").build();
    for wrap in 0..3 {
        let list: Box<[Action]> = inside.clone().into();
        let net = match wrap {
            0 => metered([always([
                Action::Clone(list),
                push.clone(),
                set(Field::VlanVid, 0x100a),
                out(3),
            ])]),
            1 => metered([
                always([ct(1).table(1).go(), push.clone(), set(Field::VlanVid, 0x100a), out(3)]),
                flow(1, 1).does(inside.clone()),
            ]),
            _ => metered([always([
                out(CABLE.into()),
                push.clone(),
                set(Field::VlanVid, 0x100a),
                out(3),
            ])])
            .flows(1, [always(inside.clone())]),
        };
        let mut s = Switch::new(&net);
        let to = if wrap == 2 { FAR_2 } else { 2 };
        for n in 0..4 {
            let sent = s.send(1, &udp());
            let both = [(to, tagged(63)), (3, tagged(64))];
            assert_eq!(sent, both[usize::from(n >= 2)..], "{wrap}");
        }
        assert_eq!(s.dropped(Drop::Meter), 2);
    }
}

#[test]
fn a_meter_in_a_table_that_a_bucket_resubmits_to_ends_the_packet() {
    use sluice_dataplane::action::group::GroupKind;
    let net =
        metered([always([Action::Group(1), out(4)]), flow(1, 1).does([Action::Meter(1), out(2)])])
            .group(group(1, GroupKind::All, [bucket(1, [resubmit(1)]), bucket(2, [out(3)])]));
    let mut s = Switch::new(&net);
    let sent: Vec<Vec<u16>> = (0..3).map(|_| s.ports(1, &udp())).collect();
    assert_eq!(sent, [vec![2, 3, 4], vec![2, 3, 4], vec![]]);
}

#[test]
fn a_meter_that_is_not_there_lets_all_pass_and_nested_ones_each_count() {
    let mut s = Switch::new(&metered([always([Action::Meter(7), out(2)])]));
    (0..4).for_each(|_| assert_eq!(s.ports(1, &udp()), [2]));
    let inner = Action::Clone(
        [Action::Meter(1), out(2), Action::Clone([Action::Meter(2), out(3)].into())].into(),
    );
    let net = Net::of([always([inner, out(4)])]).meter(1, MeterUnit::Pktps, &[(1, 3)]).meter(
        2,
        MeterUnit::Pktps,
        &[(1, 1)],
    );
    let mut s = Switch::new(&net);
    let sent: Vec<Vec<u16>> = (0..4).map(|_| s.ports(1, &udp())).collect();
    assert_eq!(sent, [vec![2, 3, 4], vec![2, 4], vec![2, 4], vec![4]]);
}

#[test]
fn kilobits_are_counted_by_the_frame_as_it_is() {
    // 8 kbit: a frame of 1000 bytes, once.
    let frame = v4().udp(1, 2).frame_len(1000).build();
    let mut s = Switch::new(&Net::of([always([Action::Meter(1), out(2)])]).meter(
        1,
        MeterUnit::Kbps,
        &[(8, 0)],
    ));
    assert_eq!(s.ports(1, &frame), [2]);
    assert_eq!(s.ports(1, &frame), []);
    s.wait(999);
    assert_eq!(s.ports(1, &frame), []);
    s.wait(1);
    assert_eq!(s.ports(1, &frame), [2]);
}
