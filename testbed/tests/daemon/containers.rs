//! Two containers on one bridge, one on a TAP and one on a veth, with their default offloads.

use crate::kit::*;
use sluice_testbed::root_or_skip;

#[test]
fn two_containers_talk() {
    if !root_or_skip("daemon: two containers") {
        return;
    }
    let scene = Pair::start("actions=NORMAL\n");
    let (c1, c2) = (&scene.c1.ns, &scene.c2.ns);
    assert!(scene.daemon.port("p1").unwrap().up);
    let veth = scene.daemon.port("p2").unwrap();
    assert!(veth.up && veth.status == "native copy", "{veth:?}");
    assert!(pings(c1, C2) && pings(c2, C1), "{}", scene.daemon.log());
    assert!(pings(c1, C2_SIX) && pings(c2, C1_SIX), "{}", scene.daemon.log());
    for (from, to, at) in [(c1, c2, C2), (c2, c1, C1), (c1, c2, C2_SIX), (c2, c1, C1_SIX)] {
        tcp(from, to, at, 8 << 20);
        udp_all_return(from, to, at);
    }
    counters_add_up(&scene.daemon);
    let all = scene.daemon.counters().unwrap();
    assert!(all["tier1_hits"] > all["tier3_walks"], "{all:?}");
    assert!(all["checksums_completed"] > 0, "a veth sender leaves checksums: {all:?}");
    assert_eq!(scene.daemon.show().unwrap().bridges[0].fdb_entries, 2);
}
