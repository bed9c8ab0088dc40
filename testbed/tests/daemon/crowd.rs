//! Thousands of TCP connections of the kernel's at once, through source NAT, destination NAT, and
//! both: each says something that no other does, and hears it again.

use std::io::{Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sluice_control::api::types::{Reply, Request};
use sluice_testbed::netns::Namespace;
use sluice_testbed::process::wait_until;
use sluice_testbed::root_or_skip;
use sluice_testbed::sluiced::Daemon;
use sluice_testbed::veth::{End, VethOptions, join};

use crate::kit::*;

/// Connections that stand at once, each way.
const CROWD: usize = 4000;
/// Of these, those that are being opened at a time: a server's queue is bounded.
const OPENING: usize = 100;
/// Longer must none of the three ways take.
const LIMIT_S: u64 = 20;
const SAID: usize = 64;

/// Neighbours that are not there: NAT's own addresses.
const SNAT: &str = "192.0.2.9";
const SNAT_BOTH: &str = "192.0.2.6";
const VIP: &str = "192.0.2.8";
const VIP_BOTH: &str = "192.0.2.7";
const PORT: u16 = 5003;

fn flows() -> String {
    let to = format!("nat(dst={C2}:{PORT})");
    format!(
        "priority=9,tcp,in_port=p1,nw_dst={C2} \
         actions=ct(commit,table=1,zone=1,nat(src={SNAT}:20000-29999))\n\
         priority=9,tcp,in_port=p2,nw_dst={SNAT} actions=ct(table=2,zone=1,nat)\n\
         priority=9,tcp,in_port=p1,nw_dst={VIP} actions=ct(commit,table=1,zone=2,{to})\n\
         priority=9,tcp,in_port=p2,nw_dst={C1} actions=ct(table=2,zone=2,nat)\n\
         priority=9,tcp,in_port=p1,nw_dst={VIP_BOTH} actions=ct(commit,table=3,zone=3,{to})\n\
         priority=9,tcp,in_port=p2,nw_dst={SNAT_BOTH} actions=ct(table=4,zone=4,nat)\n\
         priority=1 actions=NORMAL\n\
         table=1,tcp,ct_state=+trk-inv actions=output:p2\n\
         table=2,tcp,ct_state=+trk+est+rpl actions=output:p1\n\
         table=3,tcp,ct_state=+trk-inv \
         actions=ct(commit,table=1,zone=4,nat(src={SNAT_BOTH}:30000-39999))\n\
         table=4,tcp,ct_state=+trk+est+rpl actions=ct(table=2,zone=3,nat)\n"
    )
}

/// Sockets of a crowd, and of whoever else tests at the same time.
fn raise_files() {
    let now = getrlimit(Resource::Nofile);
    let wanted = Some(4 * CROWD as u64);
    if now.current < wanted {
        let maximum = now.maximum.map(|max| max.max(4 * CROWD as u64));
        setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum }).unwrap();
    }
}

/// Begins a connection.
fn begin(to: SocketAddrV4) -> TcpStream {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let fd = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None).unwrap();
    match connect(&fd, &SocketAddr::V4(to)) {
        Ok(()) | Err(Errno::INPROGRESS) => fd.into(),
        Err(e) => panic!("connect {to}: {e}"),
    }
}

/// Waits until each of them stands.
fn stand(list: &[TcpStream], until: Instant) {
    for stream in list {
        let mut fds = [PollFd::new(stream, PollFlags::OUT)];
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: 0 };
        assert_eq!(poll(&mut fds, Some(&left)), Ok(1), "a connection does not come to stand");
        assert!(stream.take_error().unwrap().is_none(), "a connection was refused");
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
    }
}

fn words(n: usize) -> [u8; SAID] {
    std::array::from_fn(|i| (n >> (8 * (i % 3))) as u8 ^ i as u8)
}

/// As many connections as `CROWD` from one to the other, all open at once; what the server saw of
/// their clients.
fn crowd(
    from: &Namespace,
    server: &Namespace,
    to: SocketAddrV4,
) -> (Vec<TcpStream>, Vec<TcpStream>) {
    let until = Instant::now() + LIMIT;
    let at = SocketAddr::new(ip(C2), PORT);
    let listener = server.run(|| TcpListener::bind(at)).unwrap();
    let (mut clients, mut ends) = (Vec::new(), Vec::new());
    while clients.len() < CROWD {
        let some: Vec<TcpStream> = from.run(|| (0..OPENING).map(|_| begin(to)).collect());
        stand(&some, until);
        clients.extend(some);
        ends.extend((0..OPENING).map(|_| listener.accept().unwrap().0));
    }
    // All speak before any is answered.
    for (n, client) in clients.iter_mut().enumerate() {
        client.write_all(&words(n)).unwrap();
    }
    for end in &mut ends {
        end.set_read_timeout(Some(LIMIT)).unwrap();
        let mut heard = [0; SAID];
        end.read_exact(&mut heard).unwrap();
        end.write_all(&heard).unwrap();
    }
    for (n, client) in clients.iter_mut().enumerate() {
        let mut heard = [0; SAID];
        client.read_exact(&mut heard).unwrap();
        assert_eq!(heard, words(n), "connection {n} heard another's words");
    }
    (clients, ends)
}

fn conns(daemon: &Daemon) -> u64 {
    daemon.show().unwrap().conns
}

/// NAT's ports that are in use.
fn ports_held(daemon: &Daemon) -> u64 {
    match daemon.call(Request::ConntrackStatus { filter: String::new() }) {
        Ok(Reply::CtStatus(stats)) => stats.pools.iter().map(|p| u64::from(p.connections)).sum(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn thousands_of_connections_stand_at_once() {
    if !root_or_skip("daemon: a crowd") {
        return;
    }
    raise_files();
    let [node, c1, c2] = ["node", "c1", "c2"].map(host);
    for (dev, other, last) in [("veth1", &c1, 1), ("veth2", &c2, 2)] {
        let ends = (End { ns: &node.ns, dev }, End { ns: &other.ns, dev: "eth0" });
        join(ends.0, ends.1, VethOptions { queues: 2, ..VethOptions::default() }).unwrap();
        other.mac("eth0", &format!("02:00:00:00:00:{last:02}")).unwrap();
    }
    c1.address("eth0", &format!("{C1}/24")).unwrap();
    c2.address("eth0", &format!("{C2}/24")).unwrap();
    for (of, address, last) in
        [(&c1, VIP, 2), (&c1, VIP_BOTH, 2), (&c2, SNAT, 1), (&c2, SNAT_BOTH, 1)]
    {
        of.ns.ip(&format!("neigh add {address} lladdr 02:00:00:00:00:{last:02} dev eth0")).unwrap();
    }
    let port =
        |n| format!("[[bridge.port]]\nname = \"p{n}\"\ntype = \"afxdp\"\ndevice = \"veth{n}\"\n");
    let config =
        format!("[[bridge]]\nname = \"br0\"\nflow_file = \"flows\"\n{}{}", port(1), port(2));
    let daemon = Daemon::start(&node.ns, &config, &flows()).unwrap();
    for (to, seen, each) in [(C2, SNAT, 1), (VIP, C1, 1), (VIP_BOTH, SNAT_BOTH, 2)] {
        let began = Instant::now();
        let SocketAddr::V4(at) = SocketAddr::new(ip(to), PORT) else { panic!("{to}") };
        let before = conns(&daemon);
        let (clients, ends) = crowd(&c1.ns, &c2.ns, at);
        let peers: Vec<_> = ends.iter().map(|e| e.peer_addr().unwrap()).collect();
        assert!(peers.iter().all(|p| p.ip() == ip(seen)), "not translated: {:?}", peers.first());
        assert!(conns(&daemon) >= before + each * CROWD as u64, "{} at {to}", conns(&daemon));
        drop((clients, ends));
        println!("{CROWD} connections at once to {to}: {:?}", began.elapsed());
        assert!(began.elapsed() < Duration::from_secs(LIMIT_S), "{to}: {:?}", began.elapsed());
    }
    counters_add_up(&daemon);
    // What a kernel says again, because its last word got lost, is taken up in its middle.
    wait_until("no connection", LIMIT, || {
        let flushed = daemon.call(Request::ConntrackFlush { filter: String::new() });
        assert!(matches!(flushed, Ok(Reply::Removed(_))), "{flushed:?}");
        (conns(&daemon) == 0 && ports_held(&daemon) == 0).then_some(())
    })
    .unwrap();
}
