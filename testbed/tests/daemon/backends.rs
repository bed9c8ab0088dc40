//! A service whose backends come and go: who was led to one that is gone comes to another.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use sluice_control::api::types::{FlowOp, RefChange, RefKind, RefOp, Reply, Request};
use sluice_dataplane::packet::build::PacketBuilder;
use sluice_testbed::host::Host;
use sluice_testbed::process::wait_until;
use sluice_testbed::root_or_skip;
use sluice_testbed::sluiced::Daemon;

use crate::kit::*;

const SERVICE: &str = "192.0.2.100";
const SERVICE_SIX: &str = "2001:db8::100";
const MAC_SERVICE: &str = "02:00:00:00:00:aa";
const MAC_CLIENT: &str = "02:00:00:00:00:09";
const CLIENT: &str = "192.0.2.9";
const CLIENT_SIX: &str = "2001:db8::9";
const PORT: u16 = 5300;

/// The flow that leads new connections of the service to an end.
fn leads_to(end: &str) -> String {
    format!("table=1,ct_state=+new+trk,ip,nw_dst={SERVICE},{}", leads(&format!("{end}:{PORT}")))
}

fn leads(to: &str) -> String {
    format!("actions=ct(commit,zone=7,nat(dst={to}),table=2)")
}

fn flows() -> String {
    let mut all = format!(
        "table=0,priority=0 actions=NORMAL\n\
         table=1,ct_state=-new+trk-inv,ip actions=goto_table:2\n\
         table=1,ct_state=-new+trk-inv,ipv6 actions=goto_table:2\n\
         table=1,ct_state=+new+trk,ip,nw_dst={C1} actions=ct(commit,zone=7,table=2)\n\
         {}\n",
        leads_to(C1)
    );
    let ends = [(SERVICE, SERVICE_SIX, ""), (C1, C1_SIX, "01"), (C2, C2_SIX, "02")];
    for (four, six, last) in ends.into_iter().chain([(CLIENT, CLIENT_SIX, "09")]) {
        all += &format!(
            "table=0,ip,nw_dst={four} actions=ct(table=1,zone=7,nat)\n\
             table=0,udp6,ipv6_dst={six} actions=ct(table=1,zone=7,nat)\n"
        );
        if !last.is_empty() {
            let out = format!("mod_dl_src:{MAC_SERVICE},mod_dl_dst:02:00:00:00:00:{last}");
            let port = if last == "09" { "client" } else { &format!("p{}", &last[1..]) };
            all += &format!(
                "table=2,ip,nw_dst={four} actions={out},output:{port}\n\
                 table=2,ipv6,ipv6_dst={six} actions={out},output:{port}\n"
            );
        }
    }
    all
}

/// A client, and two ends that say who they are.
struct Service {
    daemon: Daemon,
    client: Host,
    stop: Arc<AtomicBool>,
    ends: Vec<JoinHandle<()>>,
    hosts: Vec<Host>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.ends.drain(..).for_each(|end| _ = end.join());
    }
}

impl Service {
    /// `conntrack`: lines of that section.
    fn start(conntrack: &str) -> Self {
        Self::start_with("", conntrack)
    }

    /// `daemon`: lines of `[daemon]`.
    fn start_with(daemon: &str, conntrack: &str) -> Self {
        let [node, client, one, two] = ["node", "client", "one", "two"].map(host);
        let mut config = format!("{daemon}[conntrack]\n{conntrack}\n[[bridge]]\nname = \"br0\"\n");
        config += &format!(
            "flow_file = \"flows\"\n[[bridge.port]]\nname = \"client\"\ntype = \"internal\"\n\
             device = \"eth0\"\nmac = \"{MAC_CLIENT}\"\nnetns = \"{}\"\n\
             address = [\"{CLIENT}/24\", \"{CLIENT_SIX}/64\"]\n",
            client.ns.path().display()
        );
        for (end, dev, four, six) in [(&one, "veth1", C1, C1_SIX), (&two, "veth2", C2, C2_SIX)] {
            wire(&node, dev, end);
            end.address("eth0", &format!("{four}/24")).unwrap();
            end.address("eth0", &format!("{six}/64")).unwrap();
            let name = dev.replace("veth", "p");
            config += &format!("[[bridge.port]]\nname = \"{name}\"\ntype = \"afxdp\"\n");
            config += &format!("device = \"{dev}\"\n");
        }
        let daemon = Daemon::start(&node.ns, &config, &flows()).unwrap();
        for service in [SERVICE, SERVICE_SIX, C1, C2] {
            let neighbour = format!("neigh add {service} lladdr {MAC_SERVICE} dev eth0");
            client.ns.ip(&neighbour).unwrap();
        }
        for end in [&one, &two] {
            for address in [CLIENT, CLIENT_SIX] {
                let neighbour = format!("neigh add {address} lladdr {MAC_CLIENT} dev eth0");
                end.ns.ip(&neighbour).unwrap();
            }
        }
        let stop = Arc::new(AtomicBool::new(false));
        let ends = (1u8..).zip([&one, &two]).map(|(who, end)| {
            let stop = stop.clone();
            let socket = end.ns.run(|| UdpSocket::bind(("::", PORT))).unwrap();
            std::thread::spawn(move || answer(who, &socket, &stop))
        });
        let ends = ends.collect();
        Self { daemon, client, stop, ends, hosts: vec![one, two, node] }
    }

    /// Who answers a client that asks from this socket.
    fn ask(&self, client: &UdpSocket, at: &str) -> u8 {
        let mut buffer = [0; 16];
        let answered = || {
            client.send_to(b"who?", (ip(at), PORT)).unwrap();
            let (_, from) = client.recv_from(&mut buffer).ok()?;
            assert_eq!((from.ip(), from.port()), (ip(at), PORT));
            Some(buffer[0])
        };
        wait_until(&format!("an answer of {at}"), LIMIT, answered).unwrap()
    }

    fn client(&self, at: &str) -> UdpSocket {
        let any = if at.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = self.client.ns.run(|| UdpSocket::bind(any)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        socket
    }

    /// Connections that went because their backend is gone.
    fn gone(&self) -> u64 {
        match self.daemon.call(Request::ConntrackStatus { filter: String::new() }) {
            Ok(Reply::CtStatus(s)) => {
                s.events.iter().find(|e| e.name == "backend_gone").unwrap().count
            }
            other => panic!("{other:?}"),
        }
    }

    fn gone_are(&self, n: u64) {
        let all = || (self.gone() == n).then_some(());
        let waited = wait_until(&format!("{n} gone"), SOON, all);
        assert!(waited.is_ok(), "{} and not {n}", self.gone());
    }

    /// Time in which a flush would have been.
    fn no_more_than(&self, n: u64) {
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(self.gone(), n);
    }

    fn group(&self, op: RefOp, text: &str) {
        let (kind, bridge, text) = (RefKind::Group, "br0".to_owned(), text.to_owned());
        let change = RefChange { kind, op, bridge, text, may_create: false };
        self.daemon.call(Request::Ref(change)).unwrap();
    }
}

fn answer(who: u8, socket: &UdpSocket, stop: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    let mut buffer = [0; 64];
    while !stop.load(Relaxed) {
        if let Ok((_, from)) = socket.recv_from(&mut buffer) {
            socket.send_to(&[who], from).unwrap();
        }
    }
}

/// A TCP connection to the service, and the end that it was led to.
fn tcp_to(service: &Service, end: &Host, at: &str) -> (TcpStream, TcpStream) {
    let listener = end.ns.run(|| TcpListener::bind((ip(at), PORT))).unwrap();
    let at = SocketAddr::new(ip(SERVICE), PORT);
    let client = service.client.ns.run(|| TcpStream::connect_timeout(&at, SOON)).unwrap();
    let (end, _) = listener.accept().unwrap();
    for stream in [&client, &end] {
        stream.set_read_timeout(Some(SOON)).unwrap();
    }
    (client, end)
}

fn passes(from: &mut TcpStream, to: &mut TcpStream) -> std::io::Result<()> {
    from.write_all(b"bytes")?;
    to.read_exact(&mut [0; 5])
}

#[test]
fn a_client_with_one_port_comes_to_the_new_backend() {
    if !root_or_skip("daemon: a backend goes") {
        return;
    }
    let s = Service::start("");
    // Of several workers, each has some.
    let clients: Vec<UdpSocket> = (0..20).map(|_| s.client(SERVICE)).collect();
    for client in &clients {
        assert_eq!(s.ask(client, SERVICE), 1);
    }
    let direct = s.client(SERVICE);
    assert_eq!(s.ask(&direct, C1), 1);
    let (mut near, mut far) = tcp_to(&s, &s.hosts[0], C1);
    passes(&mut near, &mut far).unwrap();

    s.daemon.flow(FlowOp::Modify, &leads_to(C2)).unwrap();
    s.gone_are(20);
    for client in &clients {
        assert_eq!(s.ask(client, SERVICE), 2, "led to the backend that is gone");
    }
    // Who was not led, and who finishes by itself, stays.
    passes(&mut near, &mut far).unwrap();
    passes(&mut far, &mut near).unwrap();
    let Ok(Reply::Conns(page)) = s.daemon.call(Request::ConntrackList(Default::default())) else {
        panic!("no connections")
    };
    let to = |from: &str| page.list.iter().filter(|c| c.reply.src == from).count();
    assert_eq!((to(C1), to(C2)), (2, 20), "{:?}", page.list);
    assert!(s.daemon.log().contains("connections of removed backends"), "{}", s.daemon.log());
    s.no_more_than(20);
    frames_are_whole(&s.daemon);
}

#[test]
fn where_nothing_is_flushed_a_client_is_stuck() {
    if !root_or_skip("daemon: a backend goes and its connections stay") {
        return;
    }
    let s = Service::start("flush_removed_backends = \"none\"");
    let (client, another) = (s.client(SERVICE), s.client(SERVICE));
    assert_eq!(s.ask(&client, SERVICE), 1);
    s.daemon.flow(FlowOp::Modify, &leads_to(C2)).unwrap();
    s.no_more_than(0);
    assert_eq!((s.ask(&client, SERVICE), s.ask(&another, SERVICE)), (1, 2));
}

#[test]
fn all_takes_tcp_along() {
    if !root_or_skip("daemon: a backend goes with TCP") {
        return;
    }
    let s = Service::start("flush_removed_backends = \"all\"");
    let (mut near, mut far) = tcp_to(&s, &s.hosts[0], C1);
    passes(&mut near, &mut far).unwrap();
    s.daemon.flow(FlowOp::Modify, &leads_to(C2)).unwrap();
    s.gone_are(1);
    // The other backend knows nothing of it.
    far.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut ended = None;
    let refused = || {
        ended = passes(&mut near, &mut far).err().map(|e| e.kind());
        (ended != Some(ErrorKind::WouldBlock)).then_some(())
    };
    wait_until("a reset", SOON, refused).unwrap();
    assert!(matches!(ended, Some(ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)), "{ended:?}");
}

#[test]
fn what_is_named_again_or_by_another_keeps_its_connections() {
    if !root_or_skip("daemon: a backend stays") {
        return;
    }
    let s = Service::start("");
    let client = s.client(SERVICE);
    assert_eq!(s.ask(&client, SERVICE), 1);
    // In one bundle, in a file in the place of another, by another flow, with all its ports.
    let bundle = format!("delete table=1,ip,nw_dst={SERVICE}\nadd {}", leads_to(C1));
    s.daemon.flow(FlowOp::Bundle, &bundle).unwrap();
    s.daemon
        .flow(FlowOp::Replace, &flows().replace("table=1,ct_state", "table=1,cookie=7,ct_state"))
        .unwrap();
    let port = format!("{C1}:{PORT}");
    s.daemon.flow(FlowOp::Add, &format!("table=9,ip,{}", leads(&port))).unwrap();
    s.daemon.flow(FlowOp::Modify, &leads_to(C2)).unwrap();
    s.no_more_than(0);
    s.daemon.flow(FlowOp::Modify, &format!("table=9,ip,{}", leads(C1))).unwrap();
    s.no_more_than(0);
    // Another port is another backend.
    let port = format!("{C1}:{}", PORT + 1);
    s.daemon.flow(FlowOp::Modify, &format!("table=9,ip,{}", leads(&port))).unwrap();
    s.gone_are(1);
    assert_eq!(s.ask(&client, SERVICE), 2);
    // A flow that goes by itself takes them along as well.
    s.daemon.flow(FlowOp::Delete, "table=9").unwrap();
    let flow = leads_to(C2).replace("table=1,", "table=1,priority=40000,hard_timeout=1,");
    s.daemon.flow(FlowOp::Modify, &leads_to(C1)).unwrap();
    s.gone_are(2);
    s.daemon.flow(FlowOp::Add, &flow).unwrap();
    assert_eq!(s.ask(&client, SERVICE), 2);
    s.gone_are(3);
    assert_eq!(s.ask(&client, SERVICE), 1);
}

#[test]
fn a_bucket_that_goes_takes_its_connections_along() {
    if !root_or_skip("daemon: a bucket goes") {
        return;
    }
    let s = Service::start("");
    let bucket = |id: u8, end: &str| {
        format!("bucket=bucket_id={id},weight=100,{}", leads(&format!("[{end}]-[{end}]:{PORT}")))
    };
    let (one, two) = (bucket(1, C1_SIX), bucket(2, C2_SIX));
    s.group(RefOp::Add, &format!("group_id=5,type=select,{one}"));
    let flow = format!("table=1,ct_state=+new+trk,udp6,ipv6_dst={SERVICE_SIX},actions=group:5");
    s.daemon.flow(FlowOp::Add, &flow).unwrap();
    let client = s.client(SERVICE_SIX);
    assert_eq!(s.ask(&client, SERVICE_SIX), 1);
    s.group(RefOp::InsertBuckets, &format!("group_id=5,command_bucket_id=last,{two}"));
    s.no_more_than(0);
    s.group(RefOp::RemoveBuckets, "group_id=5,command_bucket_id=1");
    s.gone_are(1);
    assert_eq!(s.ask(&client, SERVICE_SIX), 2);
    s.group(RefOp::Delete, "group_id=5");
    s.gone_are(2);
}

/// Of several workers, what a backend answers is at home with one and belongs to another: a packet
/// that control sends finds its connection there.
#[test]
fn a_packet_out_is_translated_as_its_connection_says() {
    if !root_or_skip("daemon: packet-out into a connection") {
        return;
    }
    let s = Service::start_with("workers = 2\n", "");
    let clients: Vec<UdpSocket> = (0..16).map(|_| s.client(SERVICE)).collect();
    for (n, client) in (0u8..).zip(&clients) {
        assert_eq!(s.ask(client, SERVICE), 1);
        let [from, to] = [C1, CLIENT].map(|a| a.parse::<std::net::Ipv4Addr>().unwrap());
        let packet = PacketBuilder::eth([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 9])
            .ipv4(from, to)
            .udp(PORT, client.local_addr().unwrap().port())
            .payload(&[100 + n])
            .build();
        let hex: String = packet.iter().map(|b| format!("{b:02x}")).collect();
        let text = format!("in_port=p1 packet={hex} actions=ct(table=1,zone=7,nat)");
        s.daemon.call(Request::PacketOut { bridge: "br0".to_owned(), text }).unwrap();
        let mut buffer = [0; 16];
        let (_, seen) = client.recv_from(&mut buffer).unwrap_or_else(|e| panic!("{n}: {e}"));
        assert_eq!((seen.ip(), buffer[0]), (ip(SERVICE), 100 + n));
    }
    frames_are_whole(&s.daemon);
}
