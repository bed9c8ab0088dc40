//! The table of fragments against one that keeps every byte.

use super::table::{Fragments, Refused, Taken, Waiting};
use super::*;
use crate::clock::Now;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Default)]
struct Mark(u8, bool);

impl Waiting for Mark {
    fn clear(&mut self) {
        self.1 = true;
    }
}

fn piece(offset: u32, len: usize, more: bool) -> Piece {
    Piece { v6: false, src: 1, dst: 2, id: 3, proto: 17, offset, data: 0..len, more }
}

fn key(id: u32) -> FragKey {
    FragKey::new(&Piece { id, ..piece(0, 8, true) }, 1, (0, 0))
}

fn table(held_max: usize) -> Fragments<Mark> {
    Fragments::new(FragConfig { held_max, ..FragConfig::default() })
}

/// What a datagram is in the reference: who sent each unit of eight bytes, and its length.
#[derive(Default)]
struct Slow {
    units: BTreeMap<u32, (usize, u8)>,
    len: Option<u32>,
    is_bad: bool,
}

impl Slow {
    fn take(&mut self, n: usize, p: &Piece, mark: u8) -> Result<bool, Refused> {
        let units: Vec<u32> = (p.offset / 8..(p.offset + p.data.len() as u32) / 8).collect();
        let end = units.last().map_or(0, |u| u + 1);
        let mut met: Vec<_> = units.iter().filter_map(|u| self.units.get(u).copied()).collect();
        let last = self.units.keys().last().map_or(0, |u| u + 1);
        met.dedup();
        let all = |n| self.units.values().filter(|u| u.0 == n).count();
        let ends = if p.more { None } else { Some(end) };
        let contradicts = match (self.len, ends) {
            (Some(a), Some(b)) => a != b,
            (Some(a), None) => end > a,
            (None, Some(b)) => last > b,
            (None, None) => false,
        };
        if self.is_bad || contradicts {
            self.is_bad = true;
        } else if let [(n, have)] = met[..]
            && have == mark
            && all(n) == units.len()
            && units.iter().all(|u| self.units.contains_key(u))
        {
            return Err(Refused::Duplicate);
        } else if met.is_empty() {
            units.iter().for_each(|u| {
                self.units.insert(*u, (n, mark));
            });
            self.len = self.len.or(ends);
            return Ok(self.len == Some(self.units.len() as u32));
        }
        self.is_bad = true;
        Err(Refused::Overlap)
    }
}

fn a_piece() -> impl Strategy<Value = (u32, usize, u8, bool)> {
    (0u32..12, 1usize..5, 0u8..2, prop::bool::weighted(0.8))
}

proptest! {
    #[test]
    fn fragments_are_taken_as_if_each_byte_was_looked_at(
        pieces in proptest::collection::vec(a_piece(), 1..40)
    ) {
        let (mut fast, mut slow) = (table(100), Slow::default());
        for (n, (at, units, mark, more)) in pieces.into_iter().enumerate() {
            let p = piece(at * 8, units * 8, more);
            let got = fast.take(key(1), &p, Now::default(), |m| m.0 == mark);
            let expect = slow.take(n, &p, mark);
            prop_assert_eq!(got.as_ref().map(|t| t.is_whole).map_err(|e| *e), expect, "{}", n);
            if let Ok(Taken { part, is_whole }) = got {
                *fast.waiting(part).unwrap() = Mark(mark, false);
                if is_whole {
                    let mut parts = Vec::new();
                    fast.release(&key(1), &mut parts);
                    let marks: Vec<u8> =
                        parts.iter().map(|p| fast.waiting(*p).unwrap().0).collect();
                    let mut expect: Vec<_> = slow.units.values().copied().collect();
                    expect.dedup();
                    prop_assert_eq!(marks, expect.iter().map(|e| e.1).collect::<Vec<_>>());
                    parts.into_iter().for_each(|p| fast.free(p));
                    slow = Slow::default();
                }
            }
            if slow.is_bad {
                prop_assert_eq!(fast.held(), 0);
            }
        }
        fast.expire(Now::from_secs(15), 10);
        prop_assert_eq!((fast.held(), fast.datagrams()), (0, 0));
    }
}

#[test]
fn what_is_full_drops_its_oldest_and_counts_it() {
    let mut t = table(3);
    for id in 0..5 {
        let taken = t.take(key(id), &piece(0, 8, true), Now::from_ms(id.into()), |_| false);
        assert!(taken.is_ok());
        assert_eq!(t.held(), 3.min(id as usize + 1));
    }
    assert_eq!(t.take_drops().limit, 2);
    // One datagram alone can fill it.
    for n in 1..3 {
        assert!(t.take(key(4), &piece(n * 8, 8, true), Now::from_ms(9), |_| false).is_ok());
    }
    assert_eq!((t.take_drops().limit, t.datagrams()), (2, 1));
    let full = t.take(key(4), &piece(24, 8, true), Now::from_ms(9), |_| false);
    assert_eq!((full, t.held(), t.datagrams()), (Err(Refused::Full), 0, 0));
    assert_eq!(t.take_drops().limit, 4);
    // Nothing may wait at all.
    let mut none = table(0);
    assert_eq!(
        none.take(key(1), &piece(0, 8, true), Now::default(), |_| false),
        Err(Refused::Full)
    );
    assert_eq!((none.held(), none.take_drops().limit), (0, 1));
}

#[test]
fn zones_places_and_protocols_are_apart() {
    let p = piece(0, 8, true);
    let mut t = table(10);
    let keys = [
        FragKey::new(&p, 1, (0, 0)),
        FragKey::new(&p, 2, (0, 0)),
        FragKey::new(&p, 1, (0, 1)),
        FragKey::new(&p, 1, (1, 0)),
        FragKey::new(&Piece { proto: 6, ..p.clone() }, 1, (0, 0)),
        FragKey::new(&Piece { v6: true, ..p.clone() }, 1, (0, 0)),
        FragKey::new(&Piece { src: 9, ..p.clone() }, 1, (0, 0)),
    ];
    for k in keys {
        assert!(t.take(k, &p, Now::default(), |_| true).is_ok());
    }
    assert_eq!(t.datagrams(), keys.len());
    // In IPv6 what follows is the first fragment's to say.
    let v6 = |proto| FragKey::new(&Piece { v6: true, proto, ..p.clone() }, 1, (0, 0));
    assert_eq!(v6(60), v6(17));
}

fn ipv6(next: u8, rest: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0, 0, rest.len() as u8, next, 64];
    ip.extend([1; 16]);
    ip.extend([2; 16]);
    ip.extend(rest);
    ip
}

#[test]
fn headers_of_many_kinds_are_read_or_refused() {
    let cfg = FragConfig { ipv4_min: 0, ipv6_min: 0, ..FragConfig::default() };
    let frag = [17, 0, 0, 9, 0, 0, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8];
    let read = |next, chain: &[&[u8]]| Piece::read(&ipv6(next, &chain.concat()), &cfg);
    let plain = read(44, &[&frag]).unwrap();
    assert_eq!(
        (plain.offset, plain.data, plain.more, plain.id, plain.proto),
        (8, 48..56, true, 7, 17)
    );
    let hop = [44, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(read(0, &[&hop, &frag]).unwrap().data, 56..64);
    assert_eq!(read(0, &[&hop[..7]]), None, "cut");
    assert_eq!(read(0, &[&[44, 9, 0, 0, 0, 0, 0, 0], &frag]), None, "a length that lies");
    assert_eq!(read(44, &[&frag[..8]]), None, "no data");
    assert_eq!(read(44, &[&frag[..15]]), None, "no multiple of eight, and not the last");
    assert_eq!(read(17, &[&frag]), None, "no fragment");
    let round = [0u8, 0, 0, 0, 0, 0, 0, 0].repeat(17);
    assert_eq!(read(0, &[&round, &hop, &frag]), None, "too many headers");
    let mut far = frag;
    (far[2], far[3]) = (0xff, 0xf8);
    assert_eq!(read(44, &[&far]), None, "beyond 64 KiB");
    for len in 0..48 {
        assert_eq!(Piece::read(&ipv6(44, &frag)[..len], &cfg), None);
    }
    // Fragments of fragments have no transport.
    let mut whole = Payload::with_room();
    whole.begin(&Piece { proto: 44, ..plain_piece() });
    whole.push(&frag);
    whole.finish();
    assert!(!whole.is_good());
}

fn plain_piece() -> Piece {
    Piece { v6: true, ..piece(0, 8, true) }
}
