//! The hosts of a soak: clients that open connections, and ends that answer whatever comes.
//!
//! No end remembers anything. What it answers goes by the packet alone: by its numbers, by how many
//! packets the conversation still has (`Packet::hops`), and by chance. So there can be as many
//! conversations as the switch under test has room for, and what it translates is answered as it
//! was translated. Among honest packets come those that nobody should send: segments out of their
//! window, resets and errors by third parties, halves of datagrams, bytes cut off or changed.

use super::packets::{ACK, FIN, ICMP, ICMPV6, PSH, Packet, RST, SYN, TCP, UDP};
use super::rig::Ends;
use super::world::{CLASSES, Class, INSIDE, client, server, text};
use crate::chance::Chance;
use sluice_dataplane::clock::Now;

/// Packets under way; what comes beyond is lost, as on a wire.
const UNDER_WAY_MAX: usize = 4096;

/// Conversations are at most so long.
const HOPS_MAX: u64 = 12;

/// Clients and servers, and the packets they have sent.
pub struct Hosts {
    pub chance: Chance,
    under_way: std::collections::VecDeque<(u16, Vec<u8>)>,
    /// Of a hundred TCP openings, those that are never answered.
    half_open: u64,
    /// No new conversations, and none goes on.
    is_over: bool,
    pub opened: u64,
}

impl Hosts {
    pub fn new(seed: u64) -> Self {
        Self {
            chance: Chance::new(seed),
            under_way: std::collections::VecDeque::with_capacity(UNDER_WAY_MAX),
            half_open: 20,
            is_over: false,
            opened: 0,
        }
    }

    /// Another mood: from a calm hour to a flood of half-open connections.
    pub fn turn(&mut self) {
        self.half_open = *self.chance.pick(&[0, 10, 20, 50, 95]);
    }

    fn send(&mut self, port: u16, bytes: Vec<u8>) {
        if self.under_way.len() < UNDER_WAY_MAX {
            self.under_way.push_back((port, bytes));
        }
    }

    /// A client opens a conversation.
    pub fn open(&mut self) {
        let c = &mut self.chance;
        let class = CLASSES[c.weighted(&[30, 20, 15, 12, 8, 6, 6])];
        let (v6, n) = (c.percent(35), c.below(1 << 16));
        let hops = c.below(HOPS_MAX) as u8;
        let mut p = Packet {
            v6,
            src: client(v6, n as u16 & 0x3ff),
            dst: server(v6, class, c.below(16) as u8),
            sport: c.within(1024, 65535) as u16,
            dport: *c.pick(&[80, 443, 53, 8000]),
            hops,
            ..Packet::default()
        };
        p.proto = [TCP, UDP, if v6 { ICMPV6 } else { ICMP }][c.weighted(&[60, 30, 10])];
        if class == Class::Helped {
            p.proto = if c.percent(70) { TCP } else { UDP };
            p.dport = if p.proto == TCP { 21 } else { 69 };
            p.hops = HOPS_MAX as u8;
        }
        match p.proto {
            TCP => (p.seq, p.flags) = (c.bits() as u32, SYN),
            UDP if p.dport == 69 => p.payload = b"\0\x01file\0octet\0".to_vec(),
            UDP => p.payload = vec![b'u'; c.below(60) as usize],
            _ => {
                p.dport = c.bits() as u16;
                p.sport = if v6 { 128 } else { 8 };
                p.payload = vec![b'e'; 24];
            }
        }
        self.opened += 1;
        if p.proto == UDP && class != Class::Helped && self.chance.percent(4) {
            self.send_in_pieces(&mut p);
            return;
        }
        self.send(INSIDE, p.build());
        if self.chance.percent(2) {
            self.disturb(INSIDE, &p);
        }
    }

    /// A datagram in pieces: in order or not, perhaps with one too few, or two that overlap.
    fn send_in_pieces(&mut self, p: &mut Packet) {
        p.payload = vec![b'f'; 700 + self.chance.below(600) as usize];
        let id = self.chance.bits() as u32;
        let mut pieces = p.fragments(id, 456);
        match self.chance.below(5) {
            0 => pieces.reverse(),
            1 => _ = pieces.pop(),
            2 => pieces.push(p.fragments(id, 448).swap_remove(1)),
            3 => pieces.push(pieces[0].clone()),
            _ => {}
        }
        pieces.into_iter().for_each(|piece| self.send(INSIDE, piece));
    }

    /// What nobody should send, near a packet of somebody else.
    fn disturb(&mut self, port: u16, p: &Packet) {
        let mut other = p.clone();
        let mut bytes = match self.chance.below(6) {
            0 => {
                other.seq = self.chance.bits() as u32;
                other.flags = RST;
                other.build()
            }
            1 => {
                other.seq = p.seq.wrapping_add(0x4000_0000);
                other.flags = ACK | PSH;
                other.payload = vec![b'x'; 40];
                other.build()
            }
            2 => {
                other.flags = self.chance.bits() as u16 & 0x3f;
                other.build()
            }
            3 => p.error_about(&p.build()),
            _ => p.build(),
        };
        if self.chance.percent(40) {
            let at = self.chance.within(14, bytes.len() as u64 - 1) as usize;
            bytes[at] ^= 1 << self.chance.below(8);
        }
        if self.chance.percent(20) {
            bytes.truncate(self.chance.below(bytes.len() as u64) as usize);
        }
        self.send(port, bytes);
    }

    fn answer_udp(&mut self, port: u16, p: &Packet) {
        if p.hops == 0 || self.chance.percent(20) {
            return;
        }
        let mut answer = p.turned();
        answer.payload = vec![b'a'; self.chance.below(60) as usize];
        if p.dport == 69 {
            // A server of TFTP answers from another port.
            answer.sport = self.chance.within(1024, 65535) as u16;
        }
        self.send(port, answer.build());
    }

    fn answer_tcp(&mut self, port: u16, p: &Packet) {
        if p.flags & RST != 0 {
            return;
        }
        let mut answer = p.turned();
        if p.flags & SYN != 0 {
            if p.flags & ACK == 0 {
                if self.chance.percent(self.half_open) {
                    return;
                }
                answer.seq = self.chance.bits() as u32;
                answer.flags = if self.chance.percent(5) { RST | ACK } else { SYN | ACK };
                self.send(port, answer.build());
                return;
            }
            self.send(port, answer.build());
            if self.chance.percent(90) {
                answer.flags = ACK | PSH;
                answer.payload = self.first_words(p);
                self.send(port, answer.build());
            }
            return;
        }
        if self.is_command(port, p) {
            return;
        }
        if p.flags & FIN != 0 {
            answer.flags = if p.hops > 0 { ACK | FIN } else { ACK };
            answer.hops = 0;
            self.send(port, answer.build());
            return;
        }
        if p.payload.is_empty() || p.hops == 0 {
            return;
        }
        let (flags, len) = match self.chance.below(100) {
            0..50 => (ACK | PSH, 1 + self.chance.below(80)),
            50..60 => (ACK, 0),
            60..80 => (ACK | FIN, 0),
            80..85 => (RST | ACK, 0),
            _ => return,
        };
        answer.flags = flags;
        answer.payload = vec![b'd'; len as usize];
        if flags & FIN != 0 {
            answer.hops = 1;
        }
        self.send(port, answer.build());
    }

    /// What a client says first; `p` is the server's consent.
    fn first_words(&mut self, p: &Packet) -> Vec<u8> {
        if p.sport != 21 {
            return vec![b'q'; 1 + self.chance.below(80) as usize];
        }
        let port = self.chance.within(1024, 65535) as u16;
        let [hi, lo] = port.to_be_bytes();
        match (self.chance.percent(50), p.v6) {
            (true, false) => {
                let own = text(false, p.dst).replace('.', ",");
                format!("PORT {own},{hi},{lo}\r\n").into_bytes()
            }
            (true, true) => format!("EPRT |2|{}|{port}|\r\n", text(true, p.dst)).into_bytes(),
            (false, false) => b"PASV\r\n".to_vec(),
            (false, true) => b"EPSV\r\n".to_vec(),
        }
    }

    /// FTP: what says where a data connection goes to, and then it comes.
    fn is_command(&mut self, port: u16, p: &Packet) -> bool {
        if p.dport != 21 && p.sport != 21 {
            return false;
        }
        let Ok(said) = std::str::from_utf8(&p.payload) else { return false };
        let mut data = p.turned();
        (data.seq, data.flags, data.ack) = (self.chance.bits() as u32, SYN, 0);
        if said.starts_with("PASV") || said.starts_with("EPSV") {
            let at = self.chance.within(1024, 65535) as u16;
            let [hi, lo] = at.to_be_bytes();
            let mut answer = p.turned();
            answer.flags = ACK | PSH;
            answer.payload = match p.v6 {
                true => format!("229 Extended Passive Mode (|||{at}|)\r\n").into_bytes(),
                false => {
                    let own = text(false, p.dst).replace('.', ",");
                    format!("227 Entering Passive Mode ({own},{hi},{lo}).\r\n").into_bytes()
                }
            };
            self.send(port, answer.build());
            return true;
        }
        let numbers: Vec<u128> = match said.rsplit(['(', ' ']).next() {
            Some(list) => {
                list.split([',', ')', '|', '\r', '.']).filter_map(|n| n.parse().ok()).collect()
            }
            None => return false,
        };
        let is_offer = ["PORT", "EPRT", "227", "229"].iter().any(|w| said.starts_with(w));
        let at = match numbers[..] {
            _ if !is_offer => return false,
            [.., hi, lo] if !p.v6 => (hi << 8 | lo) as u16,
            [.., at] if p.v6 => at as u16,
            _ => return true,
        };
        data.sport = if p.dport == 21 { 20 } else { self.chance.within(1024, 65535) as u16 };
        data.dport = at;
        self.send(port, data.build());
        true
    }
}

impl Ends for Hosts {
    fn next(&mut self, _: Now) -> Option<(u16, Vec<u8>)> {
        self.under_way.pop_front()
    }

    /// Whoever it is for may answer.
    fn take(&mut self, _: Now, port: u16, frame: &[u8]) {
        if self.is_over {
            return;
        }
        let Some(p) = Packet::read(frame) else { return };
        if self.chance.percent(1) {
            let error = p.error_about(frame);
            self.send(port, error);
        }
        if self.chance.percent(1) {
            self.disturb(port, &p.turned());
        }
        if self.chance.percent(1) {
            // Lost on its way.
            return;
        }
        match p.proto {
            TCP => self.answer_tcp(port, &p),
            UDP => self.answer_udp(port, &p),
            ICMP | ICMPV6 => {
                let kind = match p.sport {
                    8 => 0,
                    128 => 129,
                    _ => return,
                };
                let answer = Packet { sport: kind, dport: p.dport, ..p.turned() };
                self.send(port, Packet { payload: p.payload, ..answer }.build());
            }
            _ => {}
        }
    }

    fn stop(&mut self, is_over: bool) {
        self.is_over = is_over;
    }
}
