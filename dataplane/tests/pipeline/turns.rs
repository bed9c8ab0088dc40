//! Which tier is asked first, as traffic changes.

use crate::kit::*;
use crate::packets::*;
use sluice_dataplane::counters::Stat;
use sluice_dataplane::packet::field::Field;

/// Batches of UDP packets of so many flows, in turn; all of them leave.
fn play(s: &mut Switch, batches: u32, flows: u32) {
    let mut packets = vec![udp(); 32];
    let mut flow = 0u32;
    for _ in 0..batches {
        for p in &mut packets {
            flow = (flow + 618_033) % flows;
            // Of the source address, behind the Ethernet header; no checksum is looked at.
            p[27..30].copy_from_slice(&flow.to_be_bytes()[1..]);
        }
        s.cached.sink.0.clear();
        s.cached.run(1, &packets, s.now, None);
        assert_eq!(s.cached.sink.0.len(), packets.len());
    }
}

/// Into the middle of whatever comes: the tier that is first changes between two batches, and
/// no packet is lost by it.
#[test]
fn many_flows_turn_the_tiers_round_and_few_turn_them_back() {
    let other = flow(0, 20).is(Field::EthType, 0x800).is(Field::IpSrc, 0x0b01_0101).does([out(3)]);
    let mut s = Switch::sized(&Net::of([other, always([out(2)])]), 4, 64);
    // A window is a million packets: 16384 of one batch in 64.
    const WINDOW: u32 = 64 * 16_384 / 32;
    let hits = |s: &Switch| [Stat::Tier1Hits, Stat::Tier2Hits].map(|t| s.cached.counters.stat(t));
    play(&mut s, 2 * WINDOW + 64, 1_000_003);
    let before = hits(&s);
    play(&mut s, 100, 1_000_003);
    assert_eq!(hits(&s), [before[0], before[1] + 3200], "tier 2 is first");
    play(&mut s, 2 * WINDOW, 3);
    let before = hits(&s);
    play(&mut s, 100, 3);
    // Where tier 2 is first and has all, tier 1 serves nothing.
    assert!(hits(&s)[0] > before[0], "tier 1 is");
}
