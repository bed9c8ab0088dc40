//! FTP and TFTP for real, through NAT: Python's ftplib against a small server, active and passive.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use sluice_testbed::netns::Namespace;
use sluice_testbed::root_or_skip;

use crate::kit::*;

const SHOWN: &str = "192.0.2.177";
const SHOWN_SIX: &str = "2001:db8::177";
const FILE_BYTES: usize = 100_000;

/// Connections from p1 are helped and translated; what they announce may come from either side.
fn flows(nat: &str, nat_six: &str) -> String {
    let first = |what: &str, port: u16, helper: &str, nat: &str| {
        format!(
            "table=1,priority=9,ct_state=+new-rel+trk,{what},in_port=p1,tp_dst={port} \
             actions=ct(commit,zone=1,alg={helper},nat({nat}),table=2)\n"
        )
    };
    [
        "table=0,priority=1,actions=NORMAL\n".to_owned(),
        "table=0,priority=9,icmp6,icmp_type=135 actions=NORMAL\n".to_owned(),
        "table=0,priority=9,icmp6,icmp_type=136 actions=NORMAL\n".to_owned(),
        "table=0,priority=5,ip actions=ct(zone=1,nat,table=1)\n".to_owned(),
        "table=0,priority=5,ipv6 actions=ct(zone=1,nat,table=1)\n".to_owned(),
        first("tcp", 21, "ftp", nat),
        first("udp", 69, "tftp", nat),
        first("tcp6", 21, "ftp", nat_six),
        "table=1,priority=9,ct_state=+new+rel+trk,ip actions=ct(commit,zone=1,nat,table=2)\n"
            .into(),
        "table=1,priority=9,ct_state=+new+rel+trk,ipv6 actions=ct(commit,zone=1,nat,table=2)\n"
            .into(),
        "table=1,ct_state=+est+trk actions=resubmit(,2)\n".to_owned(),
        "table=2,in_port=p1 actions=output:p2\n".to_owned(),
        "table=2,in_port=p2 actions=output:p1\n".to_owned(),
    ]
    .concat()
}

/// Where the next data connection goes.
enum Data {
    Passive(TcpListener),
    Active(SocketAddr),
}

/// Serves one control connection to its end.
fn serve(ns: &Namespace, control: TcpStream) -> io::Result<()> {
    let own: IpAddr = control.local_addr()?.ip();
    control.set_read_timeout(Some(LIMIT))?;
    let mut out = control.try_clone()?;
    out.write_all(b"220 here\r\n")?;
    let mut data = None;
    for line in BufReader::new(control).lines() {
        let line = line?;
        let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
        match verb {
            "PASV" | "EPSV" => {
                let listener = ns.run(|| TcpListener::bind((own, 0)))?;
                let port = listener.local_addr()?.port();
                let ip = own.to_string().replace('.', ",");
                let text = match verb {
                    "PASV" => format!("227 at ({ip},{},{})\r\n", port >> 8, port & 255),
                    _ => format!("229 at (|||{port}|)\r\n"),
                };
                data = Some(Data::Passive(listener));
                out.write_all(text.as_bytes())?;
            }
            "PORT" | "EPRT" => {
                data = Some(Data::Active(announced(verb, rest)));
                out.write_all(b"200 ok\r\n")?;
            }
            "RETR" | "STOR" => {
                out.write_all(b"150 now\r\n")?;
                let mut stream = match data.take() {
                    Some(Data::Passive(listener)) => listener.accept()?.0,
                    Some(Data::Active(to)) => ns.run(|| TcpStream::connect(to))?,
                    None => return Err(io::Error::other("no data connection")),
                };
                if verb == "RETR" {
                    stream.write_all(&vec![7; FILE_BYTES])?;
                } else {
                    let mut all = Vec::new();
                    stream.read_to_end(&mut all)?;
                    assert_eq!(all.len(), FILE_BYTES);
                }
                drop(stream);
                out.write_all(b"226 done\r\n")?;
            }
            "QUIT" => return out.write_all(b"221 bye\r\n"),
            _ => out.write_all(b"230 fine\r\n")?,
        }
    }
    Ok(())
}

fn announced(verb: &str, rest: &str) -> SocketAddr {
    if verb == "EPRT" {
        let parts: Vec<&str> = rest.split('|').collect();
        return SocketAddr::new(parts[2].parse().unwrap(), parts[3].parse().unwrap());
    }
    let n: Vec<u8> = rest.split(',').map(|n| n.parse().unwrap()).collect();
    SocketAddr::from(([n[0], n[1], n[2], n[3]], u16::from_be_bytes([n[4], n[5]])))
}

const CLIENT: &str = "
import ftplib, io, sys
f = ftplib.FTP()
f.trust_server_pasv_ipv4_address = True
f.connect(sys.argv[1], 21, timeout=10)
f.login()
f.set_pasv(sys.argv[2] == 'passive')
for _ in range(3):
    got = []
    f.retrbinary('RETR file', got.append)
    assert b''.join(got) == b'\\x07' * int(sys.argv[3]), len(b''.join(got))
    f.storbinary('STOR file', io.BytesIO(b'x' * int(sys.argv[3])))
f.quit()
";

/// Transfers files with a client that connects to `to`; the server is at `at`.
fn transfer(scene: &Pair, to: &str, at: &str, mode: &str) {
    let (c1, c2) = (&scene.c1.ns, &scene.c2.ns);
    let listener = c2.run(|| TcpListener::bind((ip(at), 21))).unwrap();
    std::thread::scope(|scope| {
        let server = scope.spawn(|| serve(c2, listener.accept()?.0));
        let mut client = Command::new("python3");
        client.args(["-c", CLIENT, to, mode, &FILE_BYTES.to_string()]);
        let done = c1.output(&mut client).unwrap();
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        if !done.status.success() {
            // The server may still wait.
            drop(c2.run(|| TcpStream::connect((ip(at), 21))));
        }
        assert!(done.status.success(), "{to} {mode}: {told}\n{:?}", scene.daemon.counters());
        server.join().unwrap().unwrap();
    });
}

fn has_python() -> bool {
    let found = Command::new("python3").args(["-c", "import ftplib"]).status();
    let has = found.is_ok_and(|s| s.success());
    if !has {
        eprintln!("skipped: FTP (no python3)");
    }
    has
}

#[test]
fn files_go_through_source_nat_both_ways() {
    if !root_or_skip("daemon: FTP through SNAT") || !has_python() {
        return;
    }
    let scene = Pair::start(&flows(&format!("src={SHOWN}"), &format!("src=[{SHOWN_SIX}]")));
    let c2 = &scene.c2.ns;
    for shown in [SHOWN, SHOWN_SIX] {
        c2.ip(&format!("neigh add {shown} lladdr 02:00:00:00:00:01 dev eth0")).unwrap();
    }
    for mode in ["passive", "active"] {
        transfer(&scene, C2, C2, mode);
        transfer(&scene, C2_SIX, C2_SIX, mode);
    }
    // Three times two files, in two modes, of two families.
    assert_eq!(scene.daemon.counter("ct_expected"), 3 * 2 * 2 * 2);
    assert_eq!(scene.daemon.counter("ct_unexpected"), 0);
    tftp(&scene);
    counters_add_up(&scene.daemon);
}

#[test]
fn files_go_through_destination_nat_both_ways() {
    if !root_or_skip("daemon: FTP through DNAT") || !has_python() {
        return;
    }
    let scene = Pair::start(&flows(&format!("dst={C2}"), &format!("dst=[{C2_SIX}]")));
    for shown in [SHOWN, SHOWN_SIX] {
        let neighbour = format!("neigh add {shown} lladdr 02:00:00:00:00:02 dev eth0");
        scene.c1.ns.ip(&neighbour).unwrap();
    }
    for mode in ["passive", "active"] {
        transfer(&scene, SHOWN, C2, mode);
        transfer(&scene, SHOWN_SIX, C2_SIX, mode);
    }
    assert_eq!(scene.daemon.counter("ct_expected"), 3 * 2 * 2 * 2);
}

/// A request, and the answer from another port.
fn tftp(scene: &Pair) {
    let (c1, c2) = (&scene.c1.ns, &scene.c2.ns);
    let bind = |ns: &Namespace, at: &str| {
        let socket = ns.run(|| UdpSocket::bind(at)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    };
    let (server, answers) = (bind(c2, &format!("{C2}:69")), bind(c2, &format!("{C2}:0")));
    let client = bind(c1, "0.0.0.0:0");
    client.send_to(b"\0\x01file\0octet\0", (ip(C2), 69)).unwrap();
    let mut buffer = [0; 64];
    let (_, seen) = server.recv_from(&mut buffer).unwrap();
    assert_eq!(seen.ip(), ip(SHOWN));
    answers.send_to(b"\0\x03\0\x01data", seen).unwrap();
    let (len, from) = client.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"\0\x03\0\x01data");
    client.send_to(b"\0\x04\0\x01", from).unwrap();
    assert_eq!(answers.recv_from(&mut buffer).unwrap().0, 4);
}
