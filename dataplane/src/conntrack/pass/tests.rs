//! What passes is what would have been judged and accepted.

use super::{Plain, Wanted};
use crate::clock::Now;
use crate::conntrack::ct_state::{EST, RPL, TRK};
use crate::conntrack::judge::Guess;
use crate::conntrack::{
    Commit, Conntrack, CtConfig, CtPacket, Judged, Narrow, NatKind, NatMode, NatSpec,
};
use crate::packet::build::PacketBuilder;
use crate::packet::l4sum;
use proptest::prelude::*;
use zerocopy::IntoBytes;

/// A packet of one of a few connections. Sides answer each other in order, unless it is `odd`.
#[derive(Clone, Copy, Debug)]
struct Packet {
    client: u8,
    tcp: bool,
    reply: bool,
    flags: u8,
    payload: u8,
    odd: u8,
    /// Seconds that went by before it.
    after: u8,
    /// What is wanted: what comes out, what would come out of an established connection, or another
    /// state.
    wants: u8,
    /// Where it is looked for: where the last of this tuple was, nowhere, or at any place.
    guess: u8,
}

fn packet() -> impl Strategy<Value = Packet> {
    let flags = prop_oneof![
        2 => Just(0x02u8), 2 => Just(0x12), 12 => Just(0x10), 4 => Just(0x18),
        1 => Just(0x11), 1 => Just(0x04), 1 => any::<u8>(),
    ];
    let after = prop_oneof![20 => Just(0u8), 4 => 1u8..9, 1 => 20u8..70];
    let odd = prop_oneof![12 => Just(0u8), 4 => 1u8..8];
    let guess = prop_oneof![6 => Just(0u8), 2 => 1u8..24];
    (0u8..4, any::<bool>(), any::<bool>(), flags, 0u8..40, odd, after, 0u8..8, guess).prop_map(
        |(client, tcp, reply, flags, payload, odd, after, wants, guess)| Packet {
            client,
            tcp,
            reply,
            flags,
            payload,
            odd,
            after,
            wants,
            guess,
        },
    )
}

/// How the connections of a client are translated.
fn commit_of(client: u8) -> Commit {
    let spec = |kind, addr: u32| NatSpec {
        kind,
        v6: false,
        addr_min: addr.into(),
        addr_max: addr.into(),
        ports: None,
        mode: NatMode::Hash,
    };
    let nat = match client {
        0 => Some(spec(NatKind::Src, 0x0a00_0900)),
        1 => Some(spec(NatKind::Dst, 0x0a00_0800)),
        _ => None,
    };
    Commit { nat, ..Commit::default() }
}

/// The next sequence number of either side of a connection.
type Course = [u32; 2];

impl Packet {
    fn narrow(&self, ct: &Conntrack) -> Narrow {
        let n = Narrow {
            addresses: ((0x0a00_0001 + u64::from(self.client)) << 32) | 0x0a00_0100,
            ports: ((4000 + u32::from(self.client)) << 16) | 80,
            proto: if self.tcp { 6 } else { 17 },
        };
        if !self.reply {
            return n;
        }
        // What the other side sees.
        let hash = ct.hash_of_narrow(&n, 1);
        let found = ct.table.find_narrow(hash, &n, 1);
        found.and_then(|(ix, _)| ct.table.hot(ix).narrow(1)).unwrap_or(n.reversed())
    }

    /// IPv4 header and what follows.
    fn bytes(&self, n: &Narrow, course: &mut Course) -> Vec<u8> {
        let address = |a: u64| (a as u32).to_be_bytes();
        let (sport, dport) = ((n.ports >> 16) as u16, n.ports as u16);
        let frame = PacketBuilder::eth([2; 6], [4; 6])
            .ipv4(address(n.addresses >> 32), address(n.addresses));
        let payload = vec![self.payload; usize::from(self.payload)];
        let (own, other) = (usize::from(self.reply), usize::from(!self.reply));
        let frame = if self.tcp {
            let seq = match self.odd {
                1 => course[own].wrapping_add(1 << 30),
                2 => course[own].wrapping_sub(200_000),
                _ => course[own],
            };
            let takes = u32::from(self.flags & 3 != 0) + u32::from(self.payload);
            course[own] = course[own].wrapping_add(takes);
            let frame = frame.tcp(sport, dport).flags(self.flags.into()).seq(seq);
            frame.ack(course[other]).window(8000)
        } else {
            frame.udp(sport, dport)
        };
        let frame = if self.odd == 3 && !self.tcp { frame.no_checksum() } else { frame };
        let mut bytes = frame.payload(&payload).build();
        bytes.drain(..14);
        let l4 = 20;
        match self.odd {
            4 => bytes[10] ^= 1,
            5 => *bytes.last_mut().unwrap() ^= 0x40,
            6 => bytes[l4 + if self.tcp { 12 } else { 5 }] ^= 0x20,
            7 => bytes[l4..l4 + 2].fill(0),
            _ => {}
        }
        bytes
    }
}

/// The long way, as a cached walk goes it (`Asked::first`).
fn judge(ct: &Conntrack, p: &Plain, now: Now) -> Judged {
    let mut j = Judged::default();
    let is_good = l4sum::narrow_ok(p.ip, p.l4, p.narrow.is_udp());
    match CtPacket::narrow_segment(&p.narrow, p.l4) {
        Some(seg) if is_good => {
            ct.judge_narrow((&p.narrow, &seg), (1, None, Guess::NONE), now, &mut j);
        }
        _ => j.set_invalid(),
    }
    j
}

/// Judged, accepted, and committed if it is new.
fn go_long(ct: &mut Conntrack, p: &Plain, client: u8, now: Now) -> Judged {
    let mut j = judge(ct, p, now);
    ct.accept(&j, now);
    if let Some(seg) = CtPacket::narrow_segment(&p.narrow, p.l4).filter(|_| j.is_stranger()) {
        let packet = CtPacket::of_narrow(&p.narrow, &seg, 1);
        _ = ct.open(&packet, &mut j, &commit_of(client), now);
    }
    j
}

fn lines(ct: &Conntrack) -> Vec<Vec<u8>> {
    (0..ct.table.capacity() as u32).map(|ix| ct.table.hot(ix).as_bytes().to_vec()).collect()
}

/// Two tables, one of which lets pass what does. How many did.
fn live(seed: u64, tcp_seq_check: bool, packets: &[Packet]) -> usize {
    let config = CtConfig { conns_max: 12, seed, tcp_seq_check, ..CtConfig::default() };
    let (mut long, mut short) = (Conntrack::new(&config), Conntrack::new(&config));
    let mut courses = [[[1000u32, 5000]; 2]; 4];
    let mut guesses = [[[Guess::NONE; 2]; 2]; 4];
    let (mut now, mut passed) = (Now::from_secs(10), 0);
    for step in packets {
        now = now.plus_ms(u64::from(step.after) * 1000);
        let (client, tcp) = (usize::from(step.client), usize::from(step.tcp));
        let narrow = step.narrow(&long);
        let bytes = step.bytes(&narrow, &mut courses[client][tcp]);
        let narrow =
            Narrow { ports: u32::from_be_bytes(bytes[20..24].try_into().unwrap()), ..narrow };
        let (ip, l4) = bytes.split_first_chunk::<20>().unwrap();
        let packet = Plain { narrow, ip, l4, checksums_good: false };
        let last = &mut guesses[client][tcp][usize::from(step.reply)];
        let guess = match step.guess {
            0 => *last,
            n => Guess::new(u32::from(n) / 2, usize::from(n) % 2),
        };

        let before = judge(&long, &packet, now);
        let nat = commit_of(step.client).nat.is_some();
        let own = if nat { long.nat_bits_of(&before) } else { 0 };
        let turn = long.narrow_translation_of(&before).filter(|_| nat);
        let comes = before.state | own;
        let state = match step.wants {
            0 => comes ^ RPL,
            1..4 => TRK | EST | if step.reply { RPL } else { 0 } | own,
            _ => comes,
        };
        go_long(&mut long, &packet, step.client, now);

        let want = Wanted { zone: 1, state, nat, turns: turn.is_some() };
        match short.pass(&packet, guess, want, now) {
            Some((found, rewrite)) => {
                assert_eq!(state, comes, "another state came out");
                assert_eq!(rewrite, turn);
                assert_eq!(found, before.guess());
                passed += 1;
            }
            None => _ = go_long(&mut short, &packet, step.client, now),
        }
        *last = before.guess();
        assert_eq!(lines(&long), lines(&short), "{step:?}");
        assert_eq!(format!("{:?}", long.stats()), format!("{:?}", short.stats()));
    }
    passed
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, ..ProptestConfig::with_cases(300)
    })]
    #[test]
    fn what_passes_is_what_is_judged(
        seed: u64,
        seq_check: bool,
        packets in prop::collection::vec(packet(), 1..120),
    ) {
        live(seed, seq_check, &packets);
    }
}

/// And most of an established connection's packets do.
#[test]
fn packets_of_established_connections_pass() {
    for (client, tcp) in [(0, false), (1, true), (2, false), (3, true)] {
        let packets: Vec<Packet> = (0..40u8)
            .map(|n| Packet {
                client,
                tcp,
                reply: n % 2 == 1,
                flags: [0x02, 0x12].get(usize::from(n)).copied().unwrap_or(0x10),
                payload: if n < 4 { 0 } else { n },
                odd: 0,
                after: 0,
                wants: 9,
                guess: 0,
            })
            .collect();
        assert!(live(5, true, &packets) >= 34, "client {client}");
    }
}
