//! Kernels' own conversations, that come and go: who asks whom, what is said, and how it ends.
//!
//! Everything is bounded in time. That something does not come to stand is the soak's point (tables
//! are full, connections flushed, flows changed under it) and counted; that somebody hears other
//! bytes than were said is a finding.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

use super::scene::{ASKED, CLIENTS, CLOSED_PORT, NOBODY, SERVERS, TCP_PORT, UDP_PORT};
use crate::chance::Chance;
use crate::netns::Handle;

/// Threads that ask; more that answer, as each keeps to one connection.
const ASKING: usize = 6;
const ANSWERING: usize = 24;
/// Connections that one who asks keeps open.
const HELD: usize = 2;
const PATIENCE: Duration = Duration::from_millis(400);
/// How often a thread looks whether it is to end.
const GLANCE: Duration = Duration::from_millis(50);
/// SYNs to nobody at a time.
const FLOOD: u64 = 60;
const SAID_MAX: u64 = 6000;

/// What was tried, and what came of it.
#[derive(Debug, Default)]
pub struct Tally {
    pub tcp: AtomicU64,
    pub udp: AtomicU64,
    pub half_open: AtomicU64,
    /// Of `tcp` and `udp`: heard again what they had said.
    pub answered: AtomicU64,
}

/// What threads share.
#[derive(Debug, Default)]
pub struct Churn {
    pub tally: Tally,
    wrong: Mutex<Vec<String>>,
    ends: AtomicBool,
    rests: AtomicBool,
    resting: AtomicUsize,
}

impl Churn {
    /// Runs `f` while clients and servers talk.
    pub fn during<T>(
        &self,
        (clients, servers): (&Handle, &Handle),
        seed: u64,
        f: impl FnOnce() -> T,
    ) -> io::Result<T> {
        let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, TCP_PORT));
        let listener = servers.run(|| TcpListener::bind(at))?;
        listener.set_nonblocking(true)?;
        let bind = |a: &&str| servers.run(|| UdpSocket::bind((*a, UDP_PORT)));
        let sockets = SERVERS.iter().map(bind).collect::<io::Result<Vec<_>>>()?;
        Ok(std::thread::scope(|scope| {
            let end = End(self);
            for _ in 0..ANSWERING {
                scope.spawn(|| self.answer_tcp(&listener));
            }
            for socket in &sockets {
                scope.spawn(|| self.answer_udp(socket));
            }
            for n in 0..ASKING {
                let chance = Chance::of_case(seed, n as u64);
                scope.spawn(move || clients.run(|| self.ask(chance)));
            }
            let result = f();
            drop(end);
            result
        }))
    }

    /// Nobody asks any more, and nothing is held; says whether all have come to rest in time.
    pub fn rest(&self) -> crate::Result<()> {
        self.rests.store(true, SeqCst);
        let all = || (self.resting.load(SeqCst) == ASKING).then_some(());
        crate::process::wait_until("clients at rest", Duration::from_secs(20), all)
    }

    pub fn go_on(&self) {
        self.rests.store(false, SeqCst);
    }

    /// What was heard and not said.
    pub fn wrong(&self) -> Vec<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn is_wrong(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    fn ask(&self, mut c: Chance) {
        let mut held = Vec::new();
        while !self.ends.load(SeqCst) {
            if self.rests.load(SeqCst) {
                held.clear();
                self.resting.fetch_add(1, SeqCst);
                while self.rests.load(SeqCst) && !self.ends.load(SeqCst) {
                    std::thread::sleep(Duration::from_millis(2));
                }
                self.resting.fetch_sub(1, SeqCst);
                continue;
            }
            // What fails is counted by what does not.
            let _ = match c.weighted(&[8, 3, 8, 2, 1]) {
                0 => self.converse(&mut c, &mut held),
                1 => self.again(&mut c, &mut held),
                2 => self.ask_udp(&mut c),
                3 => knock(&mut c),
                _ => self.flood(&mut c),
            };
        }
    }

    /// A TCP connection, and how it ends: closed, reset, or kept for later.
    fn converse(&self, c: &mut Chance, held: &mut Vec<TcpStream>) -> io::Result<()> {
        let to = SocketAddrV4::new(address(c.pick::<&str>(&ASKED)), TCP_PORT);
        self.tally.tcp.fetch_add(1, SeqCst);
        let mut stream = TcpStream::connect_timeout(&to.into(), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        self.say(c, &mut stream)?;
        self.tally.answered.fetch_add(1, SeqCst);
        match c.below(10) {
            0..6 => {}
            6..8 => sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?,
            _ => {
                if held.len() >= HELD {
                    held.remove(0);
                }
                held.push(stream);
            }
        }
        Ok(())
    }

    /// One that was kept says more; whoever forgot it, it is over then.
    fn again(&self, c: &mut Chance, held: &mut Vec<TcpStream>) -> io::Result<()> {
        std::thread::sleep(Duration::from_millis(c.below(30)));
        let Some(mut stream) = held.pop() else { return Ok(()) };
        self.say(c, &mut stream)?;
        held.push(stream);
        Ok(())
    }

    fn say(&self, c: &mut Chance, stream: &mut TcpStream) -> io::Result<()> {
        let len = c.within(1, SAID_MAX) as usize;
        let said = words(c, len);
        stream.write_all(&(said.len() as u32).to_be_bytes())?;
        stream.write_all(&said)?;
        let mut heard = vec![0; said.len()];
        stream.read_exact(&mut heard)?;
        if heard != said {
            self.is_wrong(format!("{stream:?} heard other bytes than it had said"));
        }
        Ok(())
    }

    fn ask_udp(&self, c: &mut Chance) -> io::Result<()> {
        self.tally.udp.fetch_add(1, SeqCst);
        let socket = UdpSocket::bind((*c.pick(&CLIENTS), 0))?;
        let to = *c.pick(&ASKED);
        socket.connect((to, UDP_PORT))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        // Now and then more than fits a frame.
        let most = if c.percent(8) { 6000 } else { 1400 };
        for _ in 0..c.within(1, 3) {
            let len = c.within(1, most) as usize;
            let said = words(c, len);
            socket.send(&said)?;
            let mut heard = [0; 8000];
            let len = socket.recv(&mut heard)?;
            if heard.get(..len) != Some(&said[..]) {
                self.is_wrong(format!("{socket:?}: {len} other bytes than {} said", said.len()));
            }
        }
        self.tally.answered.fetch_add(1, SeqCst);
        Ok(())
    }

    /// Connections that nobody answers.
    fn flood(&self, c: &mut Chance) -> io::Result<()> {
        let to = SocketAddrV4::new(address(NOBODY), TCP_PORT);
        for _ in 0..c.within(1, FLOOD) {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let fd = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
            // In progress, which is not done.
            let _ = connect(&fd, &SocketAddr::V4(to));
            self.tally.half_open.fetch_add(1, SeqCst);
        }
        Ok(())
    }

    fn answer_tcp(&self, listener: &TcpListener) {
        while !self.ends.load(SeqCst) {
            match listener.accept() {
                Ok((stream, _)) => {
                    // Ends with whatever goes wrong.
                    let _ = self.echo(stream);
                }
                Err(_) => std::thread::sleep(Duration::from_millis(3)),
            }
        }
    }

    fn echo(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut said = [0; SAID_MAX as usize];
        loop {
            let mut len = [0; 4];
            stream.read_exact(&mut len)?;
            let len = u32::from_be_bytes(len) as usize;
            let Some(said) = said.get_mut(..len) else {
                self.is_wrong(format!("{stream:?}: a length of {len} bytes that nobody said"));
                return Ok(());
            };
            stream.read_exact(said)?;
            stream.write_all(said)?;
        }
    }

    fn answer_udp(&self, socket: &UdpSocket) {
        let _ = socket.set_read_timeout(Some(GLANCE));
        let mut said = [0; 8000];
        while !self.ends.load(SeqCst) {
            if let Ok((len, from)) = socket.recv_from(&mut said) {
                let _ = socket.send_to(said.get(..len).unwrap_or_default(), from);
            }
        }
    }
}

/// Ends the threads, also if `f` panics.
struct End<'a>(&'a Churn);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.ends.store(true, SeqCst);
    }
}

/// At a port where an ICMP error is the answer.
fn knock(c: &mut Chance) -> io::Result<()> {
    let socket = UdpSocket::bind((*c.pick(&CLIENTS), 0))?;
    socket.connect((*c.pick(&ASKED), CLOSED_PORT))?;
    socket.set_read_timeout(Some(Duration::from_millis(20)))?;
    socket.send(b"knock")?;
    socket.recv(&mut [0; 8]).map(drop)
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap_or(Ipv4Addr::UNSPECIFIED)
}

/// Bytes that no other conversation says.
fn words(c: &mut Chance, len: usize) -> Vec<u8> {
    let word = c.bits().to_be_bytes();
    (0..len).map(|i| word[i % 8] ^ (i / 8) as u8).collect()
}
