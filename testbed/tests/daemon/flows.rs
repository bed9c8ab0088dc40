//! Flows over the control socket: what changes, what is refused, and that traffic does not notice.

use std::time::Duration;

use sluice_control::api::types::{FlowOp, Reply, Request, TracePacket, TraceRequest};
use sluice_testbed::root_or_skip;
use sluice_testbed::traffic::UdpOptions;

use crate::kit::*;

const BASIC: &str = "priority=10,in_port=p1 actions=output:p2\n\
                     priority=10,in_port=p2 actions=output:p1\n";

#[test]
fn flows_are_added_changed_deleted_and_replaced() {
    if !root_or_skip("daemon: flows") {
        return;
    }
    let scene = Pair::start(BASIC);
    let daemon = &scene.daemon;
    assert!(scene.pings());
    // Added: a higher priority cuts ping off, and counts what it dropped.
    let summary = daemon.flow(FlowOp::Add, "cookie=7,priority=20,icmp actions=drop").unwrap();
    assert_eq!((summary.added, summary.modified, summary.deleted), (1, 0, 0));
    assert!(is_cut(&scene.c1.ns, C2));
    let seen = daemon.flows("icmp").unwrap();
    assert_eq!(seen.len(), 1);
    assert!(seen[0].n_packets >= 3 && seen[0].cookie == 7, "{seen:?}");
    assert!(seen[0].text.contains("priority=20,icmp actions=drop"), "{}", seen[0].text);
    // Modified: the same flow now forwards.
    let summary = daemon.flow(FlowOp::Modify, "icmp actions=NORMAL").unwrap();
    assert_eq!(summary.modified, 1);
    assert!(scene.pings());
    // Deleted, by a wider match; the others stay.
    let summary = daemon.flow(FlowOp::Delete, "ip").unwrap();
    assert_eq!(summary.deleted, 1);
    assert!(scene.pings());
    assert_eq!(daemon.flows("").unwrap().len(), 2);
    // Replaced: what differs is changed, what is equal stays with its counters.
    let replaced = "priority=10,in_port=p1 actions=output:p2\npriority=9 actions=NORMAL\n";
    let before = daemon.flows("in_port=p1").unwrap()[0].n_packets;
    let summary = daemon.flow(FlowOp::Replace, replaced).unwrap();
    assert_eq!((summary.added, summary.deleted), (1, 1), "{summary:?}");
    assert!(before > 0 && daemon.flows("in_port=p1").unwrap()[0].n_packets >= before);
    assert!(scene.pings());
    // An empty deletion deletes all: nothing passes, each packet with its reason.
    daemon.flow(FlowOp::Delete, "").unwrap();
    assert!(is_cut(&scene.c1.ns, C2));
    assert!(daemon.counter("drop no_match") > 0);
    counters_add_up(daemon);
}

#[test]
fn a_wrong_flow_changes_nothing_and_is_quoted() {
    if !root_or_skip("daemon: wrong flows") {
        return;
    }
    let scene = Pair::start(BASIC);
    let daemon = &scene.daemon;
    let texts = || daemon.flows("").unwrap().into_iter().map(|f| (f.matches, f.actions));
    let (before, version) = (texts().collect::<Vec<_>>(), daemon.show().unwrap().program_version);
    for (op, text, quoted) in [
        (FlowOp::Add, "priority=5 actions=drop\nin_port=p1 actions=frobnicate", "frobnicate"),
        (FlowOp::Add, "ip,nw_dst=10.0.0.300 actions=drop", "10.0.0.300"),
        (FlowOp::Add, "in_port=p9 actions=drop", "p9"),
        (FlowOp::Add, "nw_dst=10.0.0.1 actions=drop", "nw_dst"),
        (FlowOp::Modify, "tcp,tp_dst=80 actions=output:p7", "p7"),
        (FlowOp::Delete, "dl_typ=0x800", "dl_typ"),
        (FlowOp::Replace, "actions=NORMAL\npriority=70000 actions=drop", "70000"),
    ] {
        let error = daemon.flow(op, text).expect_err(text);
        assert!(error.message.contains(quoted), "{text}: {error}");
        assert_eq!(texts().collect::<Vec<_>>(), before, "{text}");
    }
    assert_eq!(daemon.show().unwrap().program_version, version);
    assert!(scene.pings());
}

#[test]
fn no_packet_is_lost_while_flows_are_replaced() {
    if !root_or_skip("daemon: replace under traffic") {
        return;
    }
    let scene = Pair::start(BASIC);
    let daemon = &scene.daemon;
    assert!(scene.pings());
    let (c1, c2) = (&scene.c1.ns, &scene.c2.ns);
    let options =
        UdpOptions { count: 3000, gap: Duration::from_millis(1), ..UdpOptions::default() };
    let report = std::thread::scope(|scope| {
        let sending = scope.spawn(|| udp(c1, c2, C2, options));
        for n in 1..=200_u32 {
            let text: String = BASIC.lines().map(|l| format!("cookie={n},{l}\n")).collect();
            daemon.flow(FlowOp::Replace, &text).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!sending.is_finished(), "traffic ended before the changes did");
        sending.join().unwrap()
    });
    assert_eq!((report.sent, report.returned, report.duplicated), (3000, 3000, 0), "{report:?}");
    assert!(daemon.flows("").unwrap().iter().all(|f| f.cookie == 200));
    counters_add_up(daemon);
}

#[test]
fn trace_shows_the_flows_met_the_megaflow_and_why() {
    if !root_or_skip("daemon: trace") {
        return;
    }
    let scene = Pair::start(
        "cookie=0x2a,table=0,ip,nw_dst=192.0.2.0/24 actions=load:7->NXM_NX_REG0[],resubmit(,1)\n\
         table=1,reg0=7,udp actions=dec_ttl,output:p2\n",
    );
    let packet = TracePacket::Text("in_port=p1,udp,nw_dst=192.0.2.9,nw_ttl=9".to_owned());
    let request = TraceRequest { bridge: "br0".to_owned(), packet, in_port: None };
    let report = match scene.daemon.call(Request::Trace(request)) {
        Ok(Reply::Trace(report)) => report,
        other => panic!("{other:?}"),
    };
    assert_eq!(report.outputs, ["p2"]);
    let flows: Vec<&str> = report.steps.iter().filter_map(|s| s.flow.as_deref()).collect();
    assert!(flows.len() == 2 && flows[0].contains("(cookie 0x2a)"), "{flows:?}");
    assert!(report.megaflow.contains("nw_dst=192.0.2.0/24"), "{}", report.megaflow);
    assert!(report.megaflow.contains("nw_ttl=9"), "dec_ttl reads it: {}", report.megaflow);
    assert!(!report.megaflow.contains("nw_src"), "{}", report.megaflow);
    assert!(report.text.contains("nw_ttl: what was met in table 1"), "{}", report.text);
    let lookup = report.text.lines().find(|l| l.contains(": the lookup in table 0"));
    assert!(lookup.is_some_and(|l| l.contains("ip_dst")), "{}", report.text);
    assert!(!report.megaflow.contains("reg0"), "no packet brings it: {}", report.megaflow);
    assert!(report.text.contains("Verdict: output to p2"), "{}", report.text);
}
