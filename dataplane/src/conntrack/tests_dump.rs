//! Lists and flushes in slices: what they mean, and that they miss and repeat nothing.

use super::tests::key;
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn packet(n: u32) -> CtPacket {
    let tuple = Tuple {
        src: u128::from(0x0a00_0000 + n % 300),
        dst: u128::from(0x0a00_0100 + n % 7),
        sport: 1000 + (n % 5000) as u16,
        dport: [53, 80, 443][n as usize % 3],
        proto: [17, 6, 132, 47][n as usize % 4],
        v6: n.is_multiple_of(5),
    };
    let seg = Segment { flags: 2, win: 100, ..Segment::default() };
    CtPacket { tuple, zone: (n % 3) as u16, kind: Kind::Normal, seg, checksum_ok: true }
}

pub(super) fn fresh(conns: usize) -> Conntrack {
    Conntrack::new(&CtConfig { conns_max: conns, seed: 3, ..CtConfig::default() })
}

fn filled(conns: u32) -> Conntrack {
    let mut ct = fresh(conns as usize);
    for n in 0..conns {
        let p = packet(n);
        let commit = Commit {
            mark: Some((n % 9, u32::MAX)),
            label: Some((u128::from(n % 4) << 100, u128::MAX)),
            ..Commit::default()
        };
        let r = ct.lookup(&p, Now::from_secs(1));
        ct.commit(&p, &r, &commit, Now::from_secs(1)).unwrap();
        if n % 6 == 1 {
            ct.lookup(&CtPacket { tuple: p.tuple.reversed(), ..p }, Now::from_secs(1));
        }
    }
    ct
}

fn pages(ct: &Conntrack, filter: &ConnFilter, capacity: usize) -> Vec<ConnInfo> {
    let (mut from, mut all) = (Some(0), Vec::new());
    while let Some(at) = from {
        let mut page = Vec::with_capacity(capacity);
        from = ct.list(Now::from_secs(2), filter, at, &mut page);
        assert!(page.len() <= capacity, "the worker's list does not grow");
        all.extend(page);
    }
    all
}

/// The filter said again, in one sentence each.
fn meant(f: &ConnFilter, c: &ConnInfo) -> bool {
    let tuple = |f: &TupleFilter, t: &Tuple| {
        f.src.is_none_or(|(v, m)| v & m == t.src & m)
            && f.dst.is_none_or(|(v, m)| v & m == t.dst & m)
            && f.sport.is_none_or(|p| p == t.sport && t.proto != 1)
            && f.dport.is_none_or(|p| p == t.dport && t.proto != 1)
    };
    let mark = f.mark.is_none_or(|(v, m)| v & m == c.mark & m);
    let label = f.label.is_none_or(|(v, m)| v & m == c.label & m);
    let rest = f.zone.is_none_or(|z| z == c.zone)
        && f.v6.is_none_or(|v| v == c.orig.v6)
        && f.proto.is_none_or(|p| p == c.orig.proto);
    let either = tuple(&f.either, &c.orig) || tuple(&f.either, &c.reply);
    let state = match f.state {
        None => true,
        Some(StateFilter::HalfOpen) => !c.answered || c.tcp_state.is_some(),
        Some(StateFilter::Established) => c.answered && c.tcp_state.is_none(),
        Some(StateFilter::Closed) => false,
        Some(StateFilter::Tcp(s)) => c.tcp_state == Some(s),
    };
    mark && label && rest && either && state && tuple(&f.orig, &c.orig) && tuple(&f.reply, &c.reply)
}

fn tuple_filter() -> impl Strategy<Value = TupleFilter> {
    let address = || {
        let value = (0x0a00_0000u128..0x0a00_0110, prop_oneof![Just(u128::MAX), Just(!0x7fu128)]);
        prop::option::weighted(0.2, value)
    };
    let port = || prop::option::weighted(0.2, prop_oneof![Just(53u16), Just(80), 1000u16..1010]);
    (address(), address(), port(), port()).prop_map(|(src, dst, sport, dport)| TupleFilter {
        src,
        dst,
        sport,
        dport,
        ..TupleFilter::default()
    })
}

fn filter() -> impl Strategy<Value = ConnFilter> {
    use prop::option::weighted as some;
    let states = [
        StateFilter::HalfOpen,
        StateFilter::Established,
        StateFilter::Closed,
        StateFilter::Tcp("SYN_SENT"),
    ];
    let rest = (
        some(0.3, 0u16..4),
        some(0.2, any::<bool>()),
        some(0.3, prop_oneof![Just(6u8), Just(17), Just(47)]),
        some(0.2, (0u32..9, prop_oneof![Just(u32::MAX), Just(1)])),
        some(0.2, ((0u128..4).prop_map(|l| l << 100), Just(u128::MAX))),
        some(0.2, prop::sample::select(states.to_vec())),
    );
    (tuple_filter(), tuple_filter(), tuple_filter(), rest).prop_map(
        |(orig, reply, either, (zone, v6, proto, mark, label, state))| ConnFilter {
            zone,
            v6,
            proto,
            orig,
            reply,
            either,
            mark,
            label,
            state,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(150)
    })]
    /// A list has what the filter means, whatever its pages; a flush takes that and no more.
    #[test]
    fn filters_mean_what_they_say(f in filter(), capacity in 1usize..5000) {
        let mut ct = filled(3000);
        let mut want = Vec::new();
        ct.dump(Now::from_secs(2), |c| want.extend(meant(&f, c).then(|| c.clone())));
        prop_assert_eq!(&pages(&ct, &f, capacity), &want);
        let (mut from, mut gone) = (Some(0), 0);
        while let Some(at) = from {
            let n;
            (n, from) = ct.flush_some(Now::from_secs(2), &f, at);
            prop_assert!(n <= 256, "a slice is bounded");
            gone += n;
        }
        prop_assert_eq!((gone, ct.len()), (want.len(), 3000 - want.len()));
        prop_assert_eq!(ct.stats().flushed as usize, want.len());
        prop_assert_eq!(pages(&ct, &f, capacity), vec![]);
    }
}

/// Whoever is there all the time is on one page, though others come and go between pages.
#[test]
fn a_list_meets_everyone_who_stays() {
    let mut ct = filled(4000);
    let ours = ConnFilter { zone: Some(2), ..ConnFilter::default() };
    let want: BTreeSet<Tuple> = pages(&ct, &ours, 100).iter().map(|c| c.orig).collect();
    let (mut from, mut met, mut n) = (Some(0), Vec::new(), 0);
    while let Some(at) = from {
        let mut page = Vec::with_capacity(64);
        from = ct.list(Now::from_secs(2), &ours, at, &mut page);
        met.extend(page.iter().map(|c| c.orig));
        // Somebody else's go, and new ones take their places.
        let some = ConnFilter { zone: Some(1), mark: Some((n % 9, 15)), ..ConnFilter::default() };
        ct.flush_some(Now::from_secs(2), &some, at / 2);
        n += 1;
        let p = CtPacket { zone: 1, ..packet(10_000 + n) };
        let r = ct.lookup(&p, Now::from_secs(2));
        ct.commit(&p, &r, &Commit::default(), Now::from_secs(2)).unwrap();
    }
    assert_eq!(met.len(), want.len());
    assert_eq!(met.into_iter().collect::<BTreeSet<_>>(), want);
}

#[test]
fn icmp_is_asked_for_by_its_own_fields() {
    let mut ct = filled(40);
    let p = CtPacket::from_key(
        &crate::packet::key::FlowKey { icmp_id: 1000, ..key(1, 0x0a00_0001, 9, 8, 0) },
        &[8, 0, 0, 0, 3, 232, 0, 1],
        1,
    );
    let r = ct.lookup(&p, Now::from_secs(1));
    ct.flush(Now::from_secs(1), |c| c.zone == 0);
    ct.commit(&p, &r, &Commit::default(), Now::from_secs(1)).unwrap();
    let count = |either| pages(&ct, &ConnFilter { either, ..ConnFilter::default() }, 99).len();
    let none = TupleFilter::default();
    assert_eq!(count(TupleFilter { icmp_id: Some(1000), ..none }), 1);
    assert_eq!(count(TupleFilter { icmp_type: Some(0), icmp_code: Some(0), ..none }), 1);
    assert_eq!(count(TupleFilter { icmp_type: Some(3), ..none }), 0);
    // An identifier is no port.
    assert_eq!(count(TupleFilter { sport: Some(1000), src: Some((9, u128::MAX)), ..none }), 0);
}

#[test]
fn a_lower_maximum_lets_stay_who_is_there() {
    let mut ct = filled(40);
    let max = |n| CtSettings { conns_max: Some(n), ..CtSettings::default() };
    assert_eq!(ct.set(&max(100)).conns_max, 40, "no more than there is room for");
    let report = ct.set(&max(10));
    assert_eq!((report.conns, report.conns_max, report.places), (40, 10, 40));
    assert_eq!(report.reserved_bytes, 40 * 128);
    let open = |ct: &mut Conntrack, n| {
        let r = ct.lookup(&packet(n), Now::from_secs(2));
        ct.commit(&packet(n), &r, &Commit::default(), Now::from_secs(2)).is_ok()
    };
    assert!(open(&mut ct, 900));
    assert_eq!((ct.len(), ct.stats().evicted), (40, 1), "one for one");
    ct.flush(Now::from_secs(2), |c| c.half_open);
    assert!(ct.len() < 10);
    (1000..1020).for_each(|n| assert!(open(&mut ct, n)));
    assert_eq!(ct.len(), 10);
}
