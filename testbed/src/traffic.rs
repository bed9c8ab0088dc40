//! Real kernels' sockets as traffic: ping, TCP transfers, UDP echo, all bounded in count and time.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::netns::Namespace;
use crate::{Error, Result};

/// How to ping.
#[derive(Clone, Copy, Debug)]
pub struct PingOptions {
    pub count: u32,
    pub payload_bytes: u32,
    pub interval_ms: u32,
    /// Waited for answers that are out; long, as a late one is not lost.
    pub wait_s: u32,
    /// The ICMP identifier; `ping` makes one up without.
    pub id: Option<u16>,
}

impl Default for PingOptions {
    fn default() -> Self {
        Self { count: 5, payload_bytes: 56, interval_ms: 20, wait_s: 1, id: None }
    }
}

/// What the stock `ping` saw.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PingReport {
    pub sent: u32,
    pub received: u32,
    pub rtt_avg_ms: Option<f64>,
}

impl PingReport {
    pub fn all_answered(&self) -> bool {
        self.sent > 0 && self.received == self.sent
    }
}

/// Runs the stock `ping`. No answer is a report, not an error.
pub fn ping(ns: &Namespace, dest: IpAddr, options: PingOptions) -> Result<PingReport> {
    let interval = format!("{:.3}", f64::from(options.interval_ms) / 1000.0);
    let mut command = Command::new("ping");
    command.env("LC_ALL", "C").args(["-n", "-q", "-i", &interval]);
    command.args(["-c", &options.count.to_string(), "-s", &options.payload_bytes.to_string()]);
    // Not -w, which would make it send on until enough has been answered.
    command.args(["-W", &options.wait_s.to_string()]);
    if let Some(id) = options.id {
        command.args(["-e", &id.to_string()]);
    }
    let out = ns.output(command.arg(dest.to_string()))?;
    let text = String::from_utf8_lossy(&out.stdout);
    parse_ping(&text).ok_or_else(|| {
        let told = String::from_utf8_lossy(&out.stderr);
        Error::Unexpected(format!("ping {dest}: {}{text}", told.trim()))
    })
}

/// Reads the two closing lines of iputils' ping.
fn parse_ping(text: &str) -> Option<PingReport> {
    let line = text.lines().find(|l| l.contains("packets transmitted"))?;
    let number = |part: &str| part.split_whitespace().next()?.parse().ok();
    let mut parts = line.split(", ");
    let (sent, received) = (number(parts.next()?)?, number(parts.next()?)?);
    let rtt = text.lines().find_map(|l| l.strip_prefix("rtt ")).and_then(|l| l.split(" = ").nth(1));
    let rtt_avg_ms = rtt.and_then(|l| l.split('/').nth(1)).and_then(|avg| avg.parse().ok());
    Some(PingReport { sent, received, rtt_avg_ms })
}

/// A bulk transfer's result.
#[derive(Clone, Copy, Debug)]
pub struct TcpReport {
    pub bytes: u64,
    pub elapsed: Duration,
    /// The client's address as the server saw it.
    pub client_seen: SocketAddr,
}

impl TcpReport {
    pub fn gbit_per_s(&self) -> f64 {
        self.bytes as f64 * 8.0 / self.elapsed.as_secs_f64().max(1e-9) / 1e9
    }
}

/// One TCP connection from `client` to `server`, where `at` is an address of the server's: sends
/// `bytes` of a known pattern, which the server compares byte by byte, and gets their count back.
pub fn tcp_transfer(
    client: &Namespace,
    server: &Namespace,
    at: SocketAddr,
    bytes: u64,
    limit: Duration,
) -> Result<TcpReport> {
    let deadline = Instant::now() + limit;
    let what = format!("TCP {} -> {} {at}", client.name(), server.name());
    let listener = server.run(|| TcpListener::bind(at)).map_err(Error::io(what.clone()))?;
    let pattern = &pattern();
    // A socket stays in the namespace it was made in: only making it needs to be done inside.
    let result = std::thread::scope(|scope| {
        let receiving = scope.spawn(move || {
            let (mut stream, peer) = accept(&listener, deadline)?;
            let seen = receive_pattern(&mut stream, pattern, deadline)?;
            stream.write_all(&seen.to_be_bytes())?;
            io::Result::Ok((seen, peer))
        });
        let sent = client.run(|| send_pattern(at, pattern, bytes, deadline));
        let received = receiving.join().unwrap_or_else(|_| Err(io::Error::other("panic")));
        // The receiver's complaint is the more telling one, unless it merely waited.
        match (sent, received) {
            (Ok(elapsed), Ok((seen, client_seen))) if seen == bytes => {
                Ok(TcpReport { bytes, elapsed, client_seen })
            }
            (Ok(_), Ok((seen, _))) => Err(io::Error::other(format!("{seen} of {bytes} arrived"))),
            (Err(e), Err(r)) if r.kind() == io::ErrorKind::TimedOut => Err(e),
            (_, Err(r)) => Err(r),
            (Err(e), _) => Err(e),
        }
    });
    result.map_err(Error::io(what))
}

fn send_pattern(
    at: SocketAddr,
    pattern: &[u8],
    bytes: u64,
    deadline: Instant,
) -> io::Result<Duration> {
    let mut stream = TcpStream::connect_timeout(&at, left(deadline)?)?;
    let start = Instant::now();
    let mut sent = 0;
    while sent < bytes {
        stream.set_write_timeout(Some(left(deadline)?))?;
        let from = (sent % pattern.len() as u64) as usize;
        let rest = usize::try_from(bytes - sent).unwrap_or(usize::MAX);
        let part = pattern.get(from..).unwrap_or(pattern);
        sent += stream.write(part.get(..rest).unwrap_or(part)).map_err(late)? as u64;
    }
    stream.shutdown(std::net::Shutdown::Write)?;
    stream.set_read_timeout(Some(left(deadline)?))?;
    let mut count = [0; 8];
    stream.read_exact(&mut count).map_err(late)?;
    let elapsed = start.elapsed();
    if u64::from_be_bytes(count) != bytes {
        return Err(io::Error::other("the server counted other bytes than were sent"));
    }
    Ok(elapsed)
}

fn receive_pattern(stream: &mut TcpStream, pattern: &[u8], deadline: Instant) -> io::Result<u64> {
    let mut buffer = vec![0; 256 << 10];
    let mut seen = 0_u64;
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let got = stream.read(&mut buffer).map_err(late)?;
        if got == 0 {
            return Ok(seen);
        }
        let mut rest = buffer.get(..got).unwrap_or_default();
        while !rest.is_empty() {
            let from = (seen % pattern.len() as u64) as usize;
            let want = pattern.get(from..).unwrap_or_default();
            let len = want.len().min(rest.len());
            let (head, tail) = rest.split_at(len);
            if head != &want[..len] {
                return Err(io::Error::other(format!(
                    "wrong bytes between {seen} and {len} later"
                )));
            }
            seen += len as u64;
            rest = tail;
        }
    }
}

/// Pseudo-random bytes; the odd length keeps the repetition off every power of two.
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..1_048_573).map(|_| next()).collect()
}

fn accept(listener: &TcpListener, deadline: Instant) -> io::Result<(TcpStream, SocketAddr)> {
    listener.set_nonblocking(true)?;
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                stream.set_nonblocking(false)?;
                return Ok((stream, peer));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                left(deadline)?;
                std::thread::sleep(Duration::from_millis(2));
            }
            Err(error) => return Err(error),
        }
    }
}

fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// A blocking socket reports its timeout as "would block".
fn late(error: io::Error) -> io::Error {
    if is_late(&error) { io::ErrorKind::TimedOut.into() } else { error }
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

/// Nothing came in time, or a signal did: a wait with a timeout is not taken up again by itself.
fn is_nothing(error: &io::Error) -> bool {
    is_late(error) || error.kind() == io::ErrorKind::Interrupted
}

/// A connection that stays open while other things happen, as a person's ssh session does.
#[derive(Debug)]
pub struct Session {
    client: TcpStream,
    server: TcpStream,
}

impl Session {
    pub fn open(client: &Namespace, server: &Namespace, at: SocketAddr) -> Result<Self> {
        let deadline = Instant::now() + Duration::from_secs(5);
        let what = format!("session {} -> {} {at}", client.name(), server.name());
        let open = || -> io::Result<Self> {
            let listener = server.run(|| TcpListener::bind(at))?;
            let connected = client.run(|| TcpStream::connect_timeout(&at, left(deadline)?))?;
            let (server, _) = accept(&listener, deadline)?;
            Ok(Self { client: connected, server })
        };
        open().map_err(Error::io(what))
    }

    /// A line each way; how long that took.
    pub fn exchange(&mut self) -> Result<Duration> {
        let limit = Some(Duration::from_secs(5));
        let start = Instant::now();
        let cross = |from: &mut TcpStream, to: &mut TcpStream| -> io::Result<()> {
            let mut line = [0; 5];
            to.set_read_timeout(limit)?;
            from.write_all(b"line\n")?;
            to.read_exact(&mut line).map_err(late)
        };
        cross(&mut self.client, &mut self.server)
            .and_then(|()| cross(&mut self.server, &mut self.client))
            .map_err(Error::io("session"))?;
        Ok(start.elapsed())
    }
}

/// How to send datagrams that are sent back.
#[derive(Clone, Copy, Debug)]
pub struct UdpOptions {
    pub count: u32,
    pub payload_bytes: usize,
    /// Between two datagrams.
    pub gap: Duration,
    /// Waited for the last answer.
    pub wait: Duration,
}

impl Default for UdpOptions {
    fn default() -> Self {
        let (gap, wait) = (Duration::from_millis(1), Duration::from_secs(5));
        Self { count: 100, payload_bytes: 64, gap, wait }
    }
}

/// What came back of the datagrams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpReport {
    pub sent: u32,
    /// Came back unchanged, each counted once.
    pub returned: u32,
    pub duplicated: u32,
    pub damaged: u32,
    /// The first that did not come back.
    pub first_lost: Option<u32>,
    /// Datagrams that the server got.
    pub served: u32,
    /// The client's address as the server saw it.
    pub client_seen: Option<SocketAddr>,
}

/// Datagrams from `client` to an echo at `at` in `server`. Loss is a report, not an error.
pub fn udp_echo(
    client: &Namespace,
    server: &Namespace,
    at: SocketAddr,
    options: UdpOptions,
) -> Result<UdpReport> {
    let what = format!("UDP {} -> {} {at}", client.name(), server.name());
    let echo = server.run(|| bind_again(at)).map_err(Error::io(what.clone()))?;
    let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = client.run(|| UdpSocket::bind(any)).map_err(Error::io(what.clone()))?;
    let done = std::sync::atomic::AtomicBool::new(false);
    let result = std::thread::scope(|scope| {
        let serving = scope.spawn(|| serve_echo(&echo, &done));
        let asked = ask_echo(&socket, at, options);
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        let (client_seen, served) =
            serving.join().unwrap_or_else(|_| Err(io::Error::other("panic")))?;
        asked.map(|report| UdpReport { client_seen, served, ..report })
    });
    result.map_err(Error::io(what))
}

/// Binds an address that may have been in use a moment ago: until it runs its program, a process
/// that another thread is starting holds what was open when it was forked.
fn bind_again(at: SocketAddr) -> io::Result<UdpSocket> {
    for _ in 0..100 {
        match UdpSocket::bind(at) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {
                std::thread::sleep(Duration::from_millis(10));
            }
            bound => return bound,
        }
    }
    UdpSocket::bind(at)
}

fn serve_echo(
    socket: &UdpSocket,
    done: &std::sync::atomic::AtomicBool,
) -> io::Result<(Option<SocketAddr>, u32)> {
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    let mut buffer = vec![0; 65_536];
    let (mut seen, mut served) = (None, 0);
    while !done.load(std::sync::atomic::Ordering::Relaxed) {
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) => {
                (seen, served) = (Some(from), served + 1);
                socket.send_to(buffer.get(..len).unwrap_or_default(), from)?;
            }
            Err(error) if is_nothing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok((seen, served))
}

fn ask_echo(socket: &UdpSocket, at: SocketAddr, options: UdpOptions) -> io::Result<UdpReport> {
    socket.connect(at)?;
    let mut report = UdpReport::default();
    let mut came = vec![false; options.count as usize];
    let payload = |n: u32| -> Vec<u8> {
        let tail = (4..options.payload_bytes.max(4)).map(|i| (i as u32 ^ n) as u8);
        n.to_be_bytes().into_iter().chain(tail).collect()
    };
    let mut buffer = vec![0; 65_536];
    let mut take = |wait: Duration, report: &mut UdpReport| -> io::Result<bool> {
        socket.set_read_timeout(Some(wait.max(Duration::from_micros(1))))?;
        let len = match socket.recv(&mut buffer) {
            Ok(len) => len,
            // Refused: an ICMP error came back; to us that is loss.
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => return Ok(true),
            Err(e) if is_nothing(&e) => return Ok(false),
            Err(e) => return Err(e),
        };
        let got = buffer.get(..len).unwrap_or_default();
        let n = got.first_chunk().map_or(u32::MAX, |head| u32::from_be_bytes(*head));
        match came.get_mut(n as usize) {
            Some(seen) if got == payload(n) => {
                if std::mem::replace(seen, true) {
                    report.duplicated += 1
                } else {
                    report.returned += 1
                }
            }
            _ => report.damaged += 1,
        }
        Ok(true)
    };
    for n in 0..options.count {
        match socket.send(&payload(n)) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(e) => return Err(e),
        }
        report.sent += 1;
        let next = Instant::now() + options.gap;
        while let Ok(wait) = left(next) {
            take(wait, &mut report)?;
        }
    }
    let end = Instant::now() + options.wait;
    while report.returned < report.sent {
        let Ok(wait) = left(end) else { break };
        take(wait, &mut report)?;
    }
    let lost = came.iter().position(|came| !came).filter(|at| *at < report.sent as usize);
    report.first_lost = lost.map(|at| at as u32);
    Ok(report)
}

#[cfg(test)]
mod tests;
