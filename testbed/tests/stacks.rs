//! TCP stacks behind NAT, in a network that loses, delays, reorders and repeats packets.
//!
//! Each client and each server is a stack of its own (smoltcp); between them the lanes of one or
//! two workers run the program of the soak, with source NAT, destination NAT by a group, and both,
//! for IPv4 and IPv6. Time is simulated, and a seed decides all of it. Whatever the network does,
//! and whatever strangers throw in (resets and data out of the window, packets of long ago), each
//! transfer's bytes arrive as they were sent, its connections close, and when they have timed out
//! nothing of them is left (`conntrack::Audit`).
//!
//! Strangers do not know sequence numbers, and begin when a connection stands: a tracker that takes
//! connections up in their middle cannot tell whose a first segment is.

use sluice_dataplane::clock::Now;
use sluice_testbed::chance::Chance;
use sluice_testbed::soak::packets::{ACK, PSH, Packet, RST, SYN};
use sluice_testbed::soak::rig::{Ends, Rig};
use sluice_testbed::soak::world::{self, Class, ENDS, ENDS_BOTH};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp::{self, State};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, Ipv4Address, Ipv6Address};
use std::collections::{BTreeMap, VecDeque};

const CLIENTS: u16 = 8;
/// Connections that a client opens, one after the other by chance.
const EACH: usize = 10;
/// Ports that servers answer at.
const SERVED: [u16; 3] = [80, 8000, 8080];
/// Places of the ports.
const INSIDE: u16 = 0;
const OUTSIDE: u16 = 1;
/// Longer must nothing take.
const LIMIT_MS: u64 = 240_000;

/// A link's manners, in percent.
#[derive(Clone, Copy)]
struct Manners {
    loss: u64,
    repeats: u64,
    /// Milliseconds that a packet takes more than another, at most.
    jitter_ms: u64,
    /// Packets of strangers, per hundred of others.
    noise: u64,
}

/// What a stack has received and not read, and has sent.
#[derive(Default)]
struct Wire {
    received: VecDeque<Vec<u8>>,
    sent: Vec<Vec<u8>>,
}

struct Received(Vec<u8>);
struct Sending<'a>(&'a mut Vec<Vec<u8>>);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut packet = vec![0; len];
        let result = f(&mut packet);
        self.0.push(packet);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sending<'_>)> {
        let packet = self.received.pop_front()?;
        Some((Received(packet), Sending(&mut self.sent)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Sending<'_>> {
        Some(Sending(&mut self.sent))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut caps = DeviceCapabilities::default();
        caps.medium = Medium::Ip;
        caps.max_transmission_unit = 1400;
        caps
    }
}

fn address(v6: bool, a: u128) -> IpAddress {
    match v6 {
        true => IpAddress::Ipv6(Ipv6Address::from_bits(a)),
        false => IpAddress::Ipv4(Ipv4Address::from_bits(a as u32)),
    }
}

/// A host with its stack.
struct Host {
    wire: Wire,
    stack: Interface,
    sockets: SocketSet<'static>,
    tasks: Vec<Task>,
    /// Ports where somebody must be waiting.
    serves: &'static [u16],
}

/// A client's transfer, or a server's socket.
struct Task {
    socket: SocketHandle,
    /// Where a client connects to; `None`: it waits at this port.
    to: Option<(IpAddress, u16)>,
    own_port: u16,
    begins_ms: u64,
    begun: bool,
    said: Vec<u8>,
    sent: usize,
    heard: Vec<u8>,
    /// A server: what is to be sent back.
    back: VecDeque<u8>,
    done: bool,
}

impl Host {
    /// With an address of either version, which it takes all others to be neighbours of.
    fn new(v4: u128, v6: u128, seed: u64) -> Self {
        let mut wire = Wire::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut stack = Interface::new(config, &mut wire, Instant::ZERO);
        stack.update_ip_addrs(|list| {
            list.push(IpCidr::new(address(false, v4), 0)).unwrap();
            list.push(IpCidr::new(address(true, v6), 0)).unwrap();
        });
        let sockets = SocketSet::new(Vec::new());
        Self { wire, stack, sockets, tasks: Vec::new(), serves: &[] }
    }

    /// Somebody waits at each port. One socket at a time, and the last of all: the stack gives a
    /// repeated SYN to the first that takes it, which is to be the one that had it before.
    fn wait_for_clients(&mut self) {
        for port in self.serves {
            let waits = |t: &Task| {
                let socket = self.sockets.get::<tcp::Socket>(t.socket);
                t.own_port == *port && socket.state() == State::Listen
            };
            if !self.tasks.iter().any(waits) {
                self.add(None, *port, Vec::new(), 0);
                let handle = self.tasks.last().unwrap().socket;
                self.sockets.get_mut::<tcp::Socket>(handle).listen(*port).unwrap();
            }
        }
    }

    fn add(&mut self, to: Option<(IpAddress, u16)>, own_port: u16, said: Vec<u8>, begins_ms: u64) {
        let buffer = || tcp::SocketBuffer::new(vec![0; 8192]);
        let socket = self.sockets.add(tcp::Socket::new(buffer(), buffer()));
        self.tasks.push(Task {
            socket,
            to,
            own_port,
            begins_ms,
            begun: false,
            said,
            sent: 0,
            heard: Vec::new(),
            back: VecDeque::new(),
            done: false,
        });
    }

    /// Lets the stack do what it has to do, and then whoever uses it.
    fn poll(&mut self, ms: u64) {
        let now = Instant::from_millis(ms as i64);
        let mut came = std::mem::take(&mut self.wire.received);
        loop {
            self.wait_for_clients();
            self.wire.received.extend(came.pop_front());
            _ = self.stack.poll(now, &mut self.wire, &mut self.sockets);
            if came.is_empty() {
                break;
            }
        }
        for task in &mut self.tasks {
            let socket = self.sockets.get_mut::<tcp::Socket>(task.socket);
            match task.to {
                Some(to) => task.ask(socket, &mut self.stack, to, ms),
                None => task.answer(socket),
            }
        }
        _ = self.stack.poll(now, &mut self.wire, &mut self.sockets);
    }
}

impl Task {
    /// A client: says all it has to say, closes, and hears it all again.
    fn ask(
        &mut self,
        socket: &mut tcp::Socket,
        stack: &mut Interface,
        to: (IpAddress, u16),
        ms: u64,
    ) {
        if !self.begun && ms >= self.begins_ms {
            socket.connect(stack.context(), to, self.own_port).unwrap();
            self.begun = true;
        }
        if !self.begun || self.done {
            return;
        }
        if socket.can_send() && self.sent < self.said.len() {
            self.sent += socket.send_slice(&self.said[self.sent..]).unwrap();
            if self.sent == self.said.len() {
                socket.close();
            }
        }
        self.hear(socket);
        if matches!(socket.state(), State::Closed | State::TimeWait) {
            assert!(self.heard == self.said, "{} of {}", self.heard.len(), self.said.len());
            self.done = true;
        }
    }

    fn hear(&mut self, socket: &mut tcp::Socket) {
        let mut some = [0; 2048];
        while socket.can_recv() {
            let n = socket.recv_slice(&mut some).unwrap();
            self.heard.extend_from_slice(&some[..n]);
        }
    }

    /// A server: says what it hears, and closes when the other one has.
    fn answer(&mut self, socket: &mut tcp::Socket) {
        self.heard.clear();
        self.hear(socket);
        self.back.extend(&self.heard);
        if socket.can_send() {
            let n = socket.send_slice(self.back.make_contiguous()).unwrap();
            self.back.drain(..n);
        }
        if self.back.is_empty() && !socket.may_recv() && socket.state() == State::CloseWait {
            socket.close();
        }
    }
}

/// The network on either side of the switch.
struct Net {
    chance: Chance,
    manners: Manners,
    hosts: Vec<Host>,
    by_address: BTreeMap<u128, usize>,
    /// By the time they arrive: at the switch by a port, or at a host.
    to_switch: BTreeMap<(u64, u64), (u16, Vec<u8>)>,
    to_hosts: BTreeMap<(u64, u64), (usize, Vec<u8>)>,
    number: u64,
    /// What came to the switch before.
    past: VecDeque<(u16, Vec<u8>)>,
    /// What strangers have forged.
    noise: u64,
    lost: u64,
}

impl Net {
    fn ms(now: Now) -> u64 {
        now.ns / 1_000_000
    }

    /// When a packet arrives that is sent now: not at all, or once, or twice.
    fn arrivals(&mut self, ms: u64) -> Vec<(u64, u64)> {
        let times = if self.chance.percent(self.manners.loss) {
            self.lost += 1;
            0
        } else {
            1 + usize::from(self.chance.percent(self.manners.repeats))
        };
        let mut all = Vec::new();
        for _ in 0..times {
            self.number += 1;
            all.push((ms + 2 + self.chance.below(self.manners.jitter_ms + 1), self.number));
        }
        all
    }

    fn send(&mut self, ms: u64, port: u16, frame: &[u8]) {
        for at in self.arrivals(ms) {
            self.to_switch.insert(at, (port, frame.to_vec()));
        }
    }

    /// Lets all hosts run, and puts on the wire what they send.
    fn poll(&mut self, now: Now) {
        let ms = Self::ms(now);
        while let Some(entry) = self.to_hosts.first_entry().filter(|e| e.key().0 <= ms) {
            let (host, packet) = entry.remove();
            self.hosts[host].wire.received.push_back(packet);
        }
        for n in 0..self.hosts.len() {
            self.hosts[n].poll(ms);
            let port = if n < usize::from(CLIENTS) { INSIDE } else { OUTSIDE };
            for packet in std::mem::take(&mut self.hosts[n].wire.sent) {
                let eth_type = if packet[0] >> 4 == 6 { [0x86, 0xdd] } else { [0x08, 0x00] };
                let frame =
                    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2], &eth_type[..], &packet].concat();
                self.send(ms, port, &frame);
                self.disturb(ms, port, &frame);
            }
        }
    }

    /// What a stranger throws in who knows the addresses and ports.
    fn disturb(&mut self, ms: u64, port: u16, frame: &[u8]) {
        self.past.push_back((port, frame.to_vec()));
        if self.past.len() > 300 {
            self.past.pop_front();
        }
        if !self.chance.percent(self.manners.noise) {
            return;
        }
        // Of connections that stand: before both sides have spoken, a tracker of this kind (as Open
        // vSwitch's) cannot tell a stranger's reset from one of theirs.
        let stands = |p: &Packet| p.flags & SYN == 0 && !p.payload.is_empty();
        let Some(p) = Packet::read(frame).filter(stands) else { return };
        // Far from any window of these hosts.
        let off = self.chance.within(1 << 24, (1 << 31) - (1 << 24)) as u32;
        let forged = match self.chance.below(4) {
            0 => {
                let old = self.chance.below(self.past.len() as u64) as usize;
                let (port, bytes) = self.past[old].clone();
                return self.send(ms, port, &bytes);
            }
            1 => Packet { flags: RST, seq: p.seq.wrapping_add(off), payload: Vec::new(), ..p },
            2 => Packet { flags: RST | ACK, seq: p.seq.wrapping_sub(off), ..p },
            _ => {
                let (seq, payload) = (p.seq.wrapping_add(off), vec![0x55; 100]);
                Packet { flags: ACK | PSH, seq, payload, ..p }
            }
        };
        self.noise += 1;
        self.send(ms, port, &forged.build());
    }

    fn is_done(&self) -> bool {
        self.hosts.iter().flat_map(|h| &h.tasks).all(|t| t.done || t.to.is_none())
    }
}

impl Ends for Net {
    fn next(&mut self, now: Now) -> Option<(u16, Vec<u8>)> {
        let entry = self.to_switch.first_entry()?;
        (entry.key().0 <= Self::ms(now)).then(|| entry.remove())
    }

    fn take(&mut self, now: Now, _: u16, frame: &[u8]) {
        let v6 = frame[12..14] == [0x86, 0xdd];
        let to = match v6 {
            true => u128::from_be_bytes(frame[38..54].try_into().unwrap()),
            false => u32::from_be_bytes(frame[30..34].try_into().unwrap()).into(),
        };
        let Some(host) = self.by_address.get(&to).copied() else { return };
        for at in self.arrivals(Self::ms(now)) {
            self.to_hosts.insert(at, (host, frame[14..].to_vec()));
        }
    }

    fn stop(&mut self, _: bool) {
        self.to_switch.clear();
    }
}

/// Who is there: clients, and behind each way of translation some servers.
fn net(seed: u64, manners: Manners) -> Net {
    let mut chance = Chance::new(seed);
    let mut list: Vec<[u128; 2]> =
        (0..CLIENTS).map(|n| [false, true].map(|v6| world::client(v6, n))).collect();
    let ways = [(Class::Snat, 80), (Class::Dnat, 80), (Class::Both, 8000)];
    for n in 0..3u8 {
        let own = |block| [false, true].map(|v6| world::own(v6, block) + u128::from(n) + 1);
        list.push([false, true].map(|v6| world::server(v6, Class::Snat, n)));
        list.push(own(ENDS));
        list.push(own(ENDS_BOTH));
    }
    // The program leads to five ends of the last kind.
    for n in 3..5u128 {
        list.push([false, true].map(|v6| world::own(v6, ENDS_BOTH) + n + 1));
    }
    let mut by_address = BTreeMap::new();
    let mut hosts = Vec::new();
    for (n, [v4, v6]) in list.into_iter().enumerate() {
        by_address.extend([(v4, n), (v6, n)]);
        let mut host = Host::new(v4, v6, chance.bits());
        if n < usize::from(CLIENTS) {
            for k in 0..EACH {
                let (class, port) = *chance.pick(&ways);
                let (v6, server) = (chance.percent(50), chance.below(3) as u8);
                let to = (address(v6, world::server(v6, class, server)), port);
                let said = (0..chance.within(1, 60_000)).map(|_| chance.bits() as u8).collect();
                let (own_port, begins_ms) = (2000 + k as u16, chance.below(10_000));
                host.add(Some(to), own_port, said, begins_ms);
            }
        } else {
            host.serves = &SERVED;
        }
        hosts.push(host);
    }
    let (to_switch, to_hosts, past) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
    let (number, noise, lost) = (0, 0, 0);
    Net { chance, manners, hosts, by_address, to_switch, to_hosts, number, past, noise, lost }
}

/// Plays until every transfer has ended well, and sees that nothing is left.
fn play(seed: u64, workers: u8, manners: Manners) {
    println!("seed {seed}, {workers} workers");
    let mut config = world::config(4096, 7).unwrap();
    // Longer than a stack waits before it says something again, which doubles each time.
    let t = &mut config.conntrack.timeouts;
    (t.tcp_established_s, t.tcp_fin_wait_s) = (200, 200);
    // Both have closed as soon as both have said so, and any acknowledgement has come.
    (t.tcp_time_wait_s, t.tcp_close_s) = (200, 200);
    config.conntrack.zones.iter_mut().for_each(|z| z.timeouts = None);
    let mut rig = Rig::new(&config, workers, seed, net(seed, manners)).unwrap();
    let begin = Net::ms(rig.now);
    while !rig.ends.is_done() {
        rig.now = rig.now.plus_ms(1);
        let now = rig.now;
        rig.ends.poll(now);
        while rig.round() > 0 {}
        assert!(Net::ms(now) < begin + LIMIT_MS, "seed {seed}: {}", undone(&rig.ends));
    }
    let transfers = u64::from(CLIENTS) * EACH as u64;
    let made = rig.stats().created;
    // Both ways take two connections; some are made again by packets of long ago.
    assert!(made >= transfers && rig.ends.lost > 0 && rig.ends.noise > 0, "{made} connections");
    assert_eq!(rig.stats().nat_exhausted, 0);
    // Who forges is found out, unless it got lost.
    let found_out = rig.stats().invalid;
    assert!(found_out * 2 > rig.ends.noise, "{found_out} of {} found out", rig.ends.noise);
    let live = rig.audit().unwrap();
    assert!(live.nat_ports > 0 && live.live > 0, "{live:?}");
    let took_ms = Net::ms(rig.now) - begin;
    rig.drain(true).unwrap();
    rig.audit_bare().unwrap();
    println!(
        "{transfers} transfers in {took_ms} ms by {made} connections: {} packets, {} lost, \
         {} of strangers",
        rig.moved.received, rig.ends.lost, rig.ends.noise
    );
}

fn undone(net: &Net) -> String {
    let mut text = String::new();
    for (n, host) in net.hosts.iter().enumerate() {
        for t in host.tasks.iter().filter(|t| t.to.is_some() && !t.done) {
            let state = host.sockets.get::<tcp::Socket>(t.socket).state();
            text += &format!(
                "client {n} to {:?}: {state:?}, sent {} of {}, heard {}\n",
                t.to,
                t.sent,
                t.said.len(),
                t.heard.len()
            );
        }
    }
    text
}

const CALM: Manners = Manners { loss: 1, repeats: 1, jitter_ms: 3, noise: 1 };
const ROUGH: Manners = Manners { loss: 5, repeats: 5, jitter_ms: 30, noise: 10 };

#[test]
fn transfers_arrive_over_a_calm_network() {
    [1, 2].into_iter().for_each(|workers| play(31, workers, CALM));
}

#[test]
fn transfers_arrive_over_a_rough_network() {
    let seeds = [41, 42, 43];
    seeds.into_iter().for_each(|seed| play(seed, 1 + (seed % 2) as u8, ROUGH));
}
