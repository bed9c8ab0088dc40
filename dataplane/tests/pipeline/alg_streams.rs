//! Both ends of a helped connection see streams without a seam, whatever is rewritten.

use crate::alg::{FAR, SHOWN, program, snat};
use crate::chance::Chance;
use crate::kit::*;
use crate::packets::*;
use proptest::prelude::*;
use sluice_dataplane::conntrack::Alg;

/// What a receiver has, by sequence number.
#[derive(Default)]
struct Heard {
    bytes: Vec<u8>,
}

impl Heard {
    fn take(&mut self, seq: u32, text: &[u8]) {
        let at = seq.wrapping_sub(START) as usize;
        assert!(at <= self.bytes.len(), "a hole before {at} of {}", self.bytes.len());
        for (n, byte) in text.iter().enumerate() {
            match self.bytes.get(at + n) {
                Some(have) => assert_eq!(have, byte, "the same again"),
                None => self.bytes.push(*byte),
            }
        }
    }
}

/// Numbers wrap around on the way.
const START: u32 = 0u32.wrapping_sub(40);

fn numbers(frame: &[u8]) -> (u32, u32, Vec<u8>) {
    let number = |at: usize| u32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
    let end = 14 + usize::from(u16::from_be_bytes([frame[16], frame[17]]));
    (number(38), number(42), frame[54..end].to_vec())
}

fn line(c: &mut Chance) -> (String, String) {
    let port = 1024 + c.below(5000);
    let (high, low) = (port >> 8, port & 255);
    match c.below(4) {
        0 => {
            let with = |ip: &str| format!("PORT {ip},{high},{low}\r\n");
            (with("192,168,0,1"), with("203,0,113,111"))
        }
        1 => {
            let with = |ip: &str| format!("EPRT |1|{ip}|{port}|\r\n");
            (with("192.168.0.1"), with("203.0.113.111"))
        }
        _ => {
            let text = format!("STOR {}\r\n", "x".repeat(c.below(30) as usize));
            (text.clone(), text)
        }
    }
}

fn life(seed: u64) -> usize {
    let mut c = Chance(seed);
    let mut s = Switch::new(&program(Alg::Ftp, Some(snat())));
    let to = |flags, seq, ack, text: &[u8]| {
        let p = eth().ipv4(IP_A, FAR).tcp(4000, 21).flags(flags).seq(seq).ack(ack);
        p.payload(text).build()
    };
    let from = |flags, seq, ack, text: &[u8]| {
        let p = eth().ipv4(FAR, SHOWN).tcp(21, 4000).flags(flags).seq(seq).ack(ack);
        p.payload(text).build()
    };
    s.send(1, &to(2, START.wrapping_sub(1), 0, b""));
    s.send(2, &from(18, 500, START, b""));
    let (mut heard, mut expect) = (Heard::default(), Vec::new());
    // Where lines end, as they were said and as they are heard.
    let mut ends = vec![(START, START)];
    let (mut said, mut server, mut grown) = (Vec::new(), 501u32, 0);
    for _ in 0..c.below(20) {
        let (text, new) = line(&mut c);
        grown += usize::from(text != new);
        let &(seq, moved) = ends.last().unwrap();
        expect.extend_from_slice(new.as_bytes());
        ends.push((seq.wrapping_add(text.len() as u32), moved.wrapping_add(new.len() as u32)));
        said.push((seq, text));
        // The last again, and again; then an answer, to it or to what was before.
        for _ in 0..1 + c.below(3) {
            let (seq, text) = said.last().unwrap();
            let sent = s.send(1, &to(24, *seq, server, text.as_bytes()));
            let (seq, ack, text) = numbers(&sent[0].1);
            assert_eq!(ack, server);
            heard.take(seq, &text);
        }
        assert_eq!(heard.bytes, expect);
        let lag = (c.below(2) as usize).min(ends.len() - 1);
        let (end, moved) = ends[ends.len() - 1 - lag];
        let sent = s.send(2, &from(24, server, moved, b"200 fine\r\n"));
        let (seq, ack, _) = numbers(&sent[0].1);
        assert_eq!((seq, ack), (server, end), "in the client's numbers");
        server += 10;
    }
    grown
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None, cases: 100, max_shrink_iters: 0, ..ProptestConfig::default()
    })]
    #[test]
    fn streams_have_no_seam(seed: u64) {
        life(seed);
    }
}

#[test]
fn lines_do_grow() {
    assert!((0..20).map(life).sum::<usize>() > 50);
}
