//! Who listens to a bridge hears of packets for controllers and of flows that went; who does not,
//! finds them counted.

use std::collections::VecDeque;
use std::sync::mpsc;
use std::time::Duration;

use sluice_control::api::Client;
use sluice_control::api::types::{
    ApiError, FlowOp, MonitorEvent, Reply, Request, ResumeRequest, TlvChange, TlvOp, TracePacket,
    TraceRequest,
};
use sluice_testbed::process::wait_until;
use sluice_testbed::root_or_skip;
use sluice_testbed::sluiced::Daemon;

use crate::kit::*;

const FLOWS: &str = "priority=10,in_port=p1 actions=output:p2\n\
                     priority=10,in_port=p2 actions=output:p1\n\
                     cookie=0x2a,priority=20,icmp,in_port=p1 \
                     actions=controller(reason=action,userdata=01.02,max_len=90),output:p2\n";

#[test]
fn packets_for_controllers_and_ends_of_flows_are_heard() {
    if !root_or_skip("daemon: monitor") {
        return;
    }
    let scene = Pair::start(FLOWS);
    let daemon = &scene.daemon;
    // Nobody listens: more than there are buffers, and nothing of the traffic is lost.
    for _ in 0..30 {
        assert!(scene.pings());
    }
    let unheard = || (daemon.control_counter("packet_ins_unheard") >= 150).then_some(());
    wait_until("unheard packets", SOON, unheard).unwrap();
    assert_eq!(daemon.counter("packet_ins_lost"), 0);
    let (tell, events) = mpsc::channel();
    let socket = daemon.socket();
    std::thread::spawn(move || {
        let mut client = Client::connect(&socket, SOON).unwrap();
        let request = Request::Monitor { bridge: "br0".to_owned() };
        client.stream(request, |part| match part {
            Reply::Events(list) => tell.send(list).is_ok(),
            other => panic!("{other:?}"),
        })
    });
    let first = events.recv_timeout(SOON).unwrap();
    assert!(first.is_empty(), "it listens: {first:?}");
    let mut come: VecDeque<MonitorEvent> = VecDeque::new();
    let mut next = || {
        // Signs of life come for as long as it listens, so that they are counted.
        for _ in 0..20 {
            if let Some(event) = come.pop_front() {
                return event;
            }
            come.extend(events.recv_timeout(SOON).unwrap());
        }
        panic!("no event within ten seconds");
    };
    assert!(scene.pings());
    let MonitorEvent::PacketIn(packet) = next() else { panic!("no packet") };
    assert_eq!((packet.cookie, packet.table, packet.userdata.as_str()), (Some(0x2a), 0, "0102"));
    assert_eq!((packet.reason.as_str(), packet.in_port, packet.data.len()), ("action", 1, 180));
    let text = &packet.text;
    assert!(text.starts_with("NXT_PACKET_IN2 (xid=0x0): cookie=0x2a total_len=98 in_port=p1 "));
    // Cut inside the datagram, so that only Ethernet is whole.
    let rest = "(via action) data_len=90 (unbuffered)\n userdata=01.02\nip,vlan_tci=0x0000,dl_src=";
    assert!(text.contains(rest), "{text}");
    daemon.flow(FlowOp::Add, "send_flow_rem,cookie=7,priority=30,udp actions=drop").unwrap();
    daemon.flow(FlowOp::Delete, "udp").unwrap();
    let gone = loop {
        if let MonitorEvent::FlowRemoved(gone) = next() {
            break gone;
        }
    };
    assert_eq!((gone.reason.as_str(), gone.cookie, gone.n_packets), ("delete", 7, 0));
    let said =
        "OFPT_FLOW_REMOVED (xid=0x0): priority=30,udp reason=delete table_id=0 cookie:0x7 duration";
    assert!(
        gone.text.starts_with(said) && gone.text.ends_with(" idle0 pkts0 bytes0"),
        "{}",
        gone.text
    );
}

#[test]
fn tunnel_options_are_mapped_matched_traced_and_kept_while_used() {
    if !root_or_skip("daemon: tunnel options") {
        return;
    }
    let scene = Pair::start(FLOWS);
    let daemon = &scene.daemon;
    let change = |op, text: &str| {
        let (bridge, text) = ("br0".to_owned(), text.to_owned());
        daemon.call(Request::Tlv(TlvChange { op, bridge, text }))
    };
    let mapping = "{class=0x102,type=0x80,len=4}->tun_metadata0";
    let unmapped = daemon.flow(FlowOp::Add, "tun_metadata0=5 actions=drop").unwrap_err();
    assert!(unmapped.message.contains("tun_metadata0 is no option of this bridge"), "{unmapped}");
    let map = match change(TlvOp::Add, mapping) {
        Ok(Reply::TlvMap(map)) => map,
        other => panic!("{other:?}"),
    };
    assert!(map.text.ends_with("  0x102  0x80       4  tun_metadata0"), "{}", map.text);
    daemon
        .flow(
            FlowOp::Add,
            "priority=40,tun_metadata0=5 actions=set_field:6->tun_metadata0,output:p2",
        )
        .unwrap();
    let shown = daemon.flows("tun_metadata0=5").unwrap();
    assert!(shown[0].text.contains("tun_metadata0=0x5 actions=set_field:0x6->tun_metadata0"));
    let used = change(TlvOp::Delete, "").unwrap_err();
    assert!(used.message.contains("is used by 1 of the bridge's flows"), "{used}");
    let packet = TracePacket::Text("in_port=p1,tun_id=3,tun_metadata0=5,udp".to_owned());
    let request = TraceRequest { bridge: "br0".to_owned(), packet, in_port: None };
    let report = match daemon.call(Request::Trace(request)) {
        Ok(Reply::Trace(report)) => report,
        other => panic!("{other:?}"),
    };
    assert!(report.text.contains("priority=40,tun_metadata0=0x5"), "{}", report.text);
    assert!(report.megaflow.contains("tun_metadata0=0x5"), "{}", report.megaflow);
    daemon.flow(FlowOp::Delete, "tun_metadata0").unwrap();
    assert!(change(TlvOp::Delete, mapping).is_ok());
    assert!(change(TlvOp::Delete, mapping).unwrap_err().message.contains("is not mapped"));
}

/// An Ethernet frame of a type of its own, 60 bytes.
fn frame(last: u8) -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 9, 0x88, 0xb5];
    bytes.resize(60, last);
    bytes
}

#[test]
fn a_packet_is_sent_by_hand() {
    if !root_or_skip("daemon: packet-out") {
        return;
    }
    let scene = Pair::start(&format!("{FLOWS}priority=50,dl_type=0x88b5 actions=p2\n"));
    let daemon = &scene.daemon;
    let send = |text: String| daemon.call(Request::PacketOut { bridge: "br0".to_owned(), text });
    let hex: String = frame(1).iter().map(|b| format!("{b:02x}")).collect();
    let sent = || daemon.port("p2").unwrap().counters.tx_packets;
    let before = sent();
    assert!(send(format!("in_port=p1 packet={hex} actions=output:p2")).is_ok());
    assert!(send(format!("in_port=p1 packet={hex} actions=resubmit(,0)")).is_ok());
    assert!(send(format!("packet={hex} actions=drop")).is_ok());
    wait_until("both frames", SOON, || (sent() >= before + 2).then_some(())).unwrap();
    assert_eq!(daemon.counter("packet_outs"), 3);
    assert_eq!(daemon.flows("dl_type=0x88b5").unwrap()[0].n_packets, 1);
    let none = send(format!("packet={hex} actions=group:7")).unwrap_err();
    assert!(none.message.contains("group 7"), "{none}");
    let wrong = send(format!("in_port=p9 packet={hex} actions=drop")).unwrap_err();
    assert!(wrong.message.contains("p9"), "{wrong}");
    assert!(scene.pings());
    frames_are_whole(daemon);
}

/// Two lists deep, with what waits behind each.
const PAUSING: &str = "priority=10,in_port=p2 actions=output:p1\n\
                       priority=10,in_port=p1,icmp actions=set_field:7->reg1,resubmit(,1),p2\n\
                       priority=9,in_port=p1 actions=p2\n\
                       table=1,reg1=7 actions=controller(pause,userdata=0a),set_field:8->reg1,\
                       resubmit(,2)\n\
                       table=2,cookie=5,reg1=8,reg2=3,send_flow_rem actions=drop\n\
                       table=2,priority=1,reg1=8 actions=drop\n";

fn resume(daemon: &Daemon, continuation: &str, metadata: &str) -> Result<Reply, ApiError> {
    let (continuation, metadata) = (continuation.to_owned(), metadata.to_owned());
    daemon.call(Request::Resume(ResumeRequest { continuation, packet: None, metadata }))
}

#[test]
fn paused_packets_go_on_when_they_are_resumed() {
    if !root_or_skip("daemon: paused packets") {
        return;
    }
    let scene = Pair::start(PAUSING);
    let daemon = &scene.daemon;
    is_cut_soon(&scene.c1.ns, C2);
    wait_until("unheard", SOON, || (daemon.control_counter("paused_unheard") > 0).then_some(()))
        .unwrap();
    let (tell, handles) = mpsc::channel();
    let socket = daemon.socket();
    std::thread::spawn(move || {
        let mut client = Client::connect(&socket, SOON).unwrap();
        let request = Request::Monitor { bridge: "br0".to_owned() };
        client.stream(request, |part| {
            let Reply::Events(list) = part else { return false };
            list.into_iter().all(|event| match event {
                MonitorEvent::PacketIn(p) => tell.send(p).is_ok(),
                _ => true,
            })
        })
    });
    // By hand, with other metadata; and only once.
    assert!(is_cut(&scene.c1.ns, C2), "nobody resumes");
    let first = handles.recv_timeout(SOON).unwrap();
    let handle = first.continuation.clone().unwrap();
    assert!(
        first.paused && first.text.contains(&format!("\n userdata=0a\n continuation={handle}\n"))
    );
    let wrong = resume(daemon, &handle, "nw_src=10.0.0.1").unwrap_err();
    assert!(
        wrong.message.contains("nw_src") && wrong.message.contains("is not metadata"),
        "{wrong}"
    );
    assert_eq!(daemon.counter("resumes"), 0);
    resume(daemon, &handle, "reg2=3").unwrap();
    assert_eq!(daemon.counter("resumes"), 1);
    assert_eq!(daemon.flows("table=2,reg2=3").unwrap()[0].n_packets, 1);
    let again = resume(daemon, &handle, "").unwrap_err();
    assert!(again.message.contains("is stale: its packet was resumed already"), "{again}");
    let other = resume(daemon, "00-1", "").unwrap_err();
    assert!(other.message.contains("another run of sluiced"), "{other}");
    // As they come: the ping does not notice.
    let (stop, stopped) = mpsc::channel::<()>();
    std::thread::scope(|s| {
        s.spawn(move || {
            while stopped.try_recv() == Err(mpsc::TryRecvError::Empty) {
                if let Ok(p) = handles.recv_timeout(Duration::from_millis(20)) {
                    _ = resume(daemon, p.continuation.as_deref().unwrap(), "");
                }
            }
        });
        assert!(scene.pings());
        stop.send(()).unwrap();
    });
    assert!(daemon.counter("resumes") > 5);
    frames_are_whole(daemon);
}
