//! The TCP state machine with window tracking.
//!
//! Theory: Guido van Rooij, "Real stateful TCP packet filtering in IP Filter" (2000), as the BSD
//! packet filter and Open vSwitch's userspace conntrack apply it. For each side the tracker keeps
//! the highest octet sent (`seqlo`), the highest octet the other side allows (`seqhi`), and the
//! largest window it offered. A segment is good when its last octet lies inside what the peer
//! allows, its first not more than a window back, its acknowledgement not further from what the
//! peer sent than a window, and a reset hits the expected number exactly or by one.
//! A connection may be picked up in mid-stream: the side's numbers are then learned from its
//! first segment, with the largest window scale assumed.
//! Sequence numbers compare modulo 2^32 (RFC 9293, section 3.4).

use super::conn::Peer;
use super::expire::Class;

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const RST: u8 = 0x04;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const URG: u8 = 0x20;

/// States of one side; the numbers order them as the packet filter does.
pub mod state {
    pub const CLOSED: u8 = 0;
    pub const LISTEN: u8 = 1;
    pub const SYN_SENT: u8 = 2;
    pub const SYN_RECV: u8 = 3;
    pub const ESTABLISHED: u8 = 4;
    pub const CLOSE_WAIT: u8 = 5;
    pub const FIN_WAIT_1: u8 = 6;
    pub const CLOSING: u8 = 7;
    pub const LAST_ACK: u8 = 8;
    pub const FIN_WAIT_2: u8 = 9;
    pub const TIME_WAIT: u8 = 10;
}
use state::*;

/// Bits of `Peer::wscale` beside the factor.
pub const WSCALE_GIVEN: u8 = 0x80;
pub const WSCALE_UNKNOWN: u8 = 0x40;
const WSCALE_MASK: u8 = 0x0f;
/// RFC 7323, section 2.3.
const WSCALE_MAX: u8 = 14;
/// How far an acknowledgement may lag: a window and one segment.
const ACK_WINDOW: u32 = 0xffff + 1500;

/// What the tracker needs of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    pub seq: u32,
    pub ack: u32,
    pub payload_len: u32,
    pub win: u16,
    pub flags: u8,
    /// Window scale option of a SYN, with `WSCALE_GIVEN`; else 0.
    pub wscale: u8,
}

impl Segment {
    /// Reads a header with the whole segment behind it.
    #[inline]
    pub fn parse(l4: &[u8]) -> Option<Self> {
        Self::parse_cut(l4, l4.len())
    }

    /// Reads a header; the segment has `l4_len` bytes, of which `l4` holds the first.
    #[inline]
    pub fn parse_cut(l4: &[u8], l4_len: usize) -> Option<Self> {
        let h = l4.first_chunk::<20>()?;
        let header_len = usize::from(h[12] >> 4) * 4;
        if header_len < 20 || header_len > l4_len {
            return None;
        }
        let flags = h[13] & 0x3f;
        let wscale = if flags & SYN != 0 { wscale_option(l4.get(20..header_len)?) } else { 0 };
        Some(Self {
            seq: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
            ack: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
            payload_len: (l4_len - header_len) as u32,
            win: u16::from_be_bytes([h[14], h[15]]),
            flags,
            wscale,
        })
    }

    /// The same of a segment that `is_plain`; `None` if it is another one, or none.
    #[inline(always)]
    pub fn parse_plain(l4: &[u8]) -> Option<Self> {
        let h = l4.first_chunk::<20>()?;
        let header_len = usize::from(h[12] >> 4) * 4;
        let segment = Self {
            seq: u32::from_be_bytes([h[4], h[5], h[6], h[7]]),
            ack: u32::from_be_bytes([h[8], h[9], h[10], h[11]]),
            payload_len: l4.len().wrapping_sub(header_len) as u32,
            win: u16::from_be_bytes([h[14], h[15]]),
            flags: h[13] & 0x3f,
            wscale: 0,
        };
        let fits = (20..=l4.len()).contains(&header_len);
        (fits && is_plain(&segment)).then_some(segment)
    }

    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Sequence numbers that the segment takes: payload, SYN and FIN.
    fn seq_len(&self) -> u32 {
        self.payload_len + u32::from(self.has(SYN)) + u32::from(self.has(FIN))
    }
}

/// Window scale option (RFC 7323): kind 3, length 3. Never more than 14.
fn wscale_option(mut options: &[u8]) -> u8 {
    while let [kind, rest @ ..] = options {
        match (*kind, rest) {
            (0, _) => break,
            (1, _) => options = rest,
            (3, [3, shift, ..]) => return (*shift).min(WSCALE_MAX) | WSCALE_GIVEN,
            (_, [len, ..]) if *len >= 2 => {
                options = options.get(usize::from(*len)..).unwrap_or(&[]);
            }
            _ => break,
        }
    }
    0
}

/// Flag combinations that no TCP sends.
#[inline]
pub fn flags_impossible(flags: u8) -> bool {
    let has = |f: u8| flags & f != 0;
    if has(SYN) {
        if has(RST | FIN) {
            return true;
        }
    } else if !has(ACK | RST) {
        return true;
    }
    !has(ACK) && has(FIN | PSH | URG)
}

/// Whether the segment may open a connection: a SYN, or mid-stream; not a SYN+ACK, whose SYN
/// we would have to have seen.
pub fn may_open(seg: &Segment) -> bool {
    seg.flags & (SYN | ACK) != SYN | ACK
}

/// The sides of a connection that `seg` opens.
pub fn open(seg: &Segment) -> [Peer; 2] {
    let scale_of = |syn: bool| if syn { 0 } else { WSCALE_UNKNOWN };
    let syn = seg.has(SYN);
    let wscale = if syn { seg.wscale } else { scale_of(false) };
    let scale = wscale & WSCALE_MASK;
    let offered = u32::from(seg.win.max(1));
    // The window of a SYN is never scaled: keep it in units of the scale to come.
    let max_win = (offered.div_ceil(1 << scale)) as u16;
    let src = Peer {
        seqlo: seg.seq,
        seqhi: seg.seq.wrapping_add(seg.seq_len()).wrapping_add(1),
        max_win,
        wscale,
        state: SYN_SENT,
    };
    let dst = Peer { seqlo: 0, seqhi: 1, max_win: 1, wscale: scale_of(syn), state: CLOSED };
    [src, dst]
}

/// What a segment did to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Established.
    Valid,
    /// A repeated SYN: still new.
    StillNew,
    /// A SYN over a finished connection: forget that one, this is a new one.
    Reopen,
    Invalid,
}

#[inline]
fn ge(a: u32, b: u32) -> bool {
    a.wrapping_sub(b) as i32 >= 0
}

#[inline]
fn window(p: &Peer, scale: u8) -> u32 {
    u32::from(p.max_win) << scale
}

/// The shifts in force for the sender's and the other side's windows.
#[inline]
fn scales(src: &Peer, dst: &Peer, syn: bool) -> (u8, u8) {
    let both = src.wscale & dst.wscale;
    if syn {
        (0, 0)
    } else if both & WSCALE_GIVEN != 0 {
        (src.wscale & WSCALE_MASK, dst.wscale & WSCALE_MASK)
    } else if both & WSCALE_UNKNOWN != 0 {
        (WSCALE_MAX, WSCALE_MAX)
    } else {
        (0, 0)
    }
}

/// First segment of this side: learn its numbers. Says whether the acknowledgement can be
/// judged already.
fn learn(src: &mut Peer, dst: &mut Peer, seg: &Segment, s: &mut Step) {
    if seg.has(SYN) && dst.wscale & WSCALE_GIVEN != 0 {
        src.wscale = seg.wscale;
        let dst_scale = dst.wscale & WSCALE_MASK;
        if src.wscale & WSCALE_GIVEN != 0 {
            s.src_scale = src.wscale & WSCALE_MASK;
            s.win = s.win.div_ceil(1 << s.src_scale);
            s.dst_scale = dst_scale;
        } else {
            // The answer scales nothing, so neither does the asker.
            dst.max_win = window(dst, dst_scale).min(0xffff) as u16;
            dst.wscale = 0;
        }
    }
    src.seqlo = seg.seq;
    src.state = SYN_SENT;
    let allowed = s.end.wrapping_add(window(dst, s.dst_scale).max(1));
    if src.seqhi == 1 || ge(allowed, src.seqhi) {
        src.seqhi = allowed;
        s.judge_ack = false;
    }
    src.max_win = src.max_win.max(s.win as u16);
}

/// Values of one segment on its way through the checks.
struct Step {
    seq: u32,
    end: u32,
    ack: u32,
    win: u32,
    src_scale: u8,
    dst_scale: u8,
    judge_ack: bool,
}

/// Whether the segment fits both windows.
#[inline]
fn in_window(src: &Peer, dst: &Peer, seg: &Segment, s: &Step) -> bool {
    let skew = if s.judge_ack { dst.seqlo.wrapping_sub(s.ack) as i32 } else { 0 };
    let off = seg.seq.wrapping_sub(src.seqlo) as i32;
    ge(src.seqhi, s.end)
        && ge(s.seq, src.seqlo.wrapping_sub(window(dst, s.dst_scale)))
        && skew >= -(ACK_WINDOW as i32)
        && i64::from(skew) <= i64::from(ACK_WINDOW) << s.src_scale
        && (!seg.has(RST) || (-1..=1).contains(&off))
}

/// Moves the windows on.
#[inline]
fn slide(src: &mut Peer, dst: &mut Peer, s: &Step) {
    src.max_win = src.max_win.max(s.win as u16);
    if !ge(src.seqlo, s.end) {
        src.seqlo = s.end;
    }
    let allowed = s.ack.wrapping_add(s.win << s.src_scale);
    if ge(allowed, dst.seqhi) {
        dst.seqhi = s.ack.wrapping_add((s.win << s.src_scale).max(1));
    }
}

/// The timeout that the two states call for.
fn class_of(a: u8, b: u8) -> Class {
    let (low, high) = (a.min(b), a.max(b));
    if low >= FIN_WAIT_2 {
        Class::TcpClosed
    } else if low >= CLOSING {
        Class::TcpFinWait
    } else if low < ESTABLISHED {
        Class::TcpOpening
    } else if high >= CLOSING {
        Class::TcpClosing
    } else {
        Class::TcpEstablished
    }
}

#[inline]
fn sides(peers: &mut [Peer; 2], reply: bool) -> (&mut Peer, &mut Peer) {
    let [a, b] = peers;
    if reply { (b, a) } else { (a, b) }
}

#[inline]
fn step_of(src: &Peer, dst: &Peer, seg: &Segment) -> Step {
    let (src_scale, dst_scale) = scales(src, dst, seg.has(SYN));
    let end = seg.seq.wrapping_add(seg.seq_len());
    let win = u32::from(seg.win);
    Step { seq: seg.seq, end, ack: seg.ack, win, src_scale, dst_scale, judge_ack: true }
}

/// An acknowledgement that says nothing counts as the expected one; a segment without
/// sequence space is placed where it fits.
#[inline]
fn ease(src: &Peer, dst: &Peer, seg: &Segment, s: &mut Step) {
    let no_ack = !seg.has(ACK) || (s.ack == 0 && seg.has(RST));
    if no_ack {
        s.ack = dst.seqlo;
    }
    if s.seq == s.end {
        s.seq = src.seqlo;
        s.end = src.seqlo;
    }
}

/// Runs a segment. `None` as class leaves the timer as it is.
pub fn update(
    peers: &mut [Peer; 2],
    seg: &Segment,
    reply: bool,
    check_seq: bool,
) -> (Verdict, Option<Class>) {
    let before = *peers;
    let (src, dst) = sides(peers, reply);
    if seg.flags & (SYN | ACK) == SYN {
        if src.state >= FIN_WAIT_2 && dst.state >= FIN_WAIT_2 {
            return (Verdict::Reopen, None);
        }
        // Unanswered: a repetition, or the sender has begun anew with another number. The side
        // that has said nothing can only be the one that was called.
        if src.state == SYN_SENT && dst.state == CLOSED {
            *peers = open(seg);
            return (Verdict::StillNew, Some(Class::TcpFirst));
        }
    }
    let mut s = step_of(src, dst, seg);
    if src.state < SYN_SENT {
        learn(src, dst, seg, &mut s);
    }
    ease(src, dst, seg, &mut s);
    if !check_seq || in_window(src, dst, seg, &s) {
        slide(src, dst, &s);
        if seg.has(FIN) {
            src.state = src.state.max(CLOSING);
        }
        if seg.has(ACK) {
            match dst.state {
                SYN_SENT => dst.state = ESTABLISHED,
                CLOSING => dst.state = FIN_WAIT_2,
                _ => {}
            }
        }
        if seg.has(RST) {
            (src.state, dst.state) = (TIME_WAIT, TIME_WAIT);
        }
        return (Verdict::Valid, Some(class_of(src.state, dst.state)));
    }
    let loose = dst.state < SYN_SENT || dst.state >= FIN_WAIT_2 || src.state >= FIN_WAIT_2;
    if loose
        && ge(src.seqhi.wrapping_add(ACK_WINDOW), s.end)
        && ge(s.seq, src.seqlo.wrapping_sub(ACK_WINDOW))
    {
        // Both sides opened at once, a picked-up stream, or late segments after the close.
        slide(src, dst, &s);
        if seg.has(FIN) {
            src.state = src.state.max(CLOSING);
        }
        if seg.has(RST) {
            (src.state, dst.state) = (TIME_WAIT, TIME_WAIT);
        }
        return (Verdict::Valid, None);
    }
    // What an invalid segment said was not learned.
    *peers = before;
    (Verdict::Invalid, None)
}

/// A segment that changes no state of an established connection.
#[inline]
pub fn is_plain(seg: &Segment) -> bool {
    seg.flags & (SYN | FIN | RST | ACK) == ACK
}

/// The cached path: a plain segment of an established connection, in window. `false` changes
/// nothing; `true` did what `update` would have done, with class `TcpEstablished`.
#[inline]
pub fn hit(peers: &mut [Peer; 2], seg: &Segment, reply: bool, check_seq: bool) -> bool {
    let (src, dst) = sides(peers, reply);
    if !is_plain(seg) || src.state != ESTABLISHED || dst.state != ESTABLISHED {
        return false;
    }
    let mut s = step_of(src, dst, seg);
    ease(src, dst, seg, &mut s);
    if check_seq && !in_window(src, dst, seg, &s) {
        return false;
    }
    slide(src, dst, &s);
    true
}

/// The one state that a dump shows for both sides, as `dpctl/dump-conntrack` chooses it.
pub fn shown_state(peers: &[Peer; 2]) -> &'static str {
    match peers[0].state.max(peers[1].state) {
        CLOSED => "CLOSED",
        LISTEN => "LISTEN",
        SYN_SENT => "SYN_SENT",
        SYN_RECV | ESTABLISHED => "ESTABLISHED",
        CLOSE_WAIT => "CLOSE_WAIT",
        FIN_WAIT_1 => "FIN_WAIT_1",
        CLOSING => "CLOSING",
        LAST_ACK => "LAST_ACK",
        _ => "TIME_WAIT",
    }
}
