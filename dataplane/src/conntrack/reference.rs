//! The slow conntrack: the oracle of the tests.
//!
//! A vector of connections, searched from the front; dead ones are swept before every step; time
//! in 64 bits. The TCP rules are written down one by one as the packet filter's paper and Open
//! vSwitch's documentation give them, with named states and no sharing with the fast code. NAT's
//! choice is not predicted: the model is told what was chosen and checks that it may be.

use super::ct_state::{EST, INV, NEW, REL, RPL, TRK};
use super::key::{CtPacket, Kind, Tuple};
use super::{Commit, DEFAULT_TIMEOUTS_S, Segment};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tcp {
    Closed,
    SynSent,
    Established,
    Closing,
    FinWait2,
    TimeWait,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Side {
    pub state: Tcp,
    pub seqlo: u32,
    pub seqhi: u32,
    pub max_win: u32,
    /// `None`: unknown, picked up. `Some(None)`: no scaling.
    pub scale: Option<Option<u8>>,
}

#[derive(Clone, Debug)]
pub struct Conn {
    pub orig: Tuple,
    pub reply: Tuple,
    pub zone: u16,
    pub mark: u32,
    pub label: u128,
    pub answered: bool,
    pub tcp: Option<[Side; 2]>,
    class: usize,
    pub deadline: u64,
}

impl Conn {
    /// When a full table gives it up: 0, half-open, first; 1, closed, then; 2, established, never.
    pub fn worth(&self) -> u8 {
        match self.class {
            0 | 1 | 6 | 7 | 9 => 0,
            4 | 5 => 1,
            _ => 2,
        }
    }
}

/// What a packet is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub state: u8,
    pub found: bool,
    pub reply: bool,
    pub mark: u32,
    pub label: u128,
    pub orig: Tuple,
}

#[derive(Default)]
pub struct Model {
    pub conns: Vec<Conn>,
}

enum Outcome {
    Valid(Option<usize>),
    New,
    Reopen,
    Invalid,
}

fn timeout(class: usize) -> u64 {
    (u64::from(DEFAULT_TIMEOUTS_S[class]) * 1_000_000_000).div_ceil(1 << 20)
}

fn not_before(a: u32, b: u32) -> bool {
    a == b || a.wrapping_sub(b) < 1 << 31
}

fn flag(seg: &Segment, letter: char) -> bool {
    let bit = "FSRPAU".find(letter).unwrap();
    seg.flags >> bit & 1 == 1
}

fn option_scale(seg: &Segment) -> Option<u8> {
    (seg.wscale & 0x80 != 0).then_some(seg.wscale & 15)
}

impl Model {
    fn find(&self, t: &Tuple, zone: u16) -> Option<(usize, bool)> {
        self.conns.iter().enumerate().filter(|(_, c)| c.zone == zone).find_map(|(i, c)| {
            if c.orig == *t {
                Some((i, false))
            } else if c.reply == *t {
                Some((i, true))
            } else {
                None
            }
        })
    }

    pub fn taken(&self, t: &Tuple, zone: u16) -> bool {
        self.find(t, zone).is_some()
    }

    pub fn sweep(&mut self, tick: u64) {
        self.conns.retain(|c| c.deadline > tick);
    }

    fn nothing(p: &CtPacket, state: u8) -> Seen {
        Seen { state, found: false, reply: false, mark: 0, label: 0, orig: p.tuple }
    }

    fn seen(&self, i: usize, reply: bool, state: u8) -> Seen {
        let c = &self.conns[i];
        Seen { state, found: true, reply, mark: c.mark, label: c.label, orig: c.orig }
    }

    fn unknown(p: &CtPacket) -> Seen {
        let syn_ack = p.tuple.proto == 6 && flag(&p.seg, 'S') && flag(&p.seg, 'A');
        // Replies to echo, timestamp, information and mask requests.
        let replies: &[u16] = if p.tuple.v6 { &[129] } else { &[0, 14, 16, 18] };
        let unasked = p.tuple.is_icmp() && replies.contains(&(p.tuple.dport >> 8));
        let bad = p.kind == Kind::Related || syn_ack || unasked;
        Self::nothing(p, TRK | if bad { INV } else { NEW })
    }

    pub fn lookup(&mut self, p: &CtPacket, tick: u64) -> Seen {
        self.sweep(tick);
        if p.kind == Kind::Invalid || !p.checksum_ok {
            return Self::nothing(p, TRK | INV);
        }
        let Some((i, reply)) = self.find(&p.tuple, p.zone) else { return Self::unknown(p) };
        let rpl = if reply { RPL } else { 0 };
        if p.kind == Kind::Related {
            return self.seen(i, reply, TRK | REL | rpl);
        }
        if self.conns[i].tcp.is_some() {
            match tcp_step(&mut self.conns[i], &p.seg, reply) {
                Outcome::Valid(class) => {
                    self.conns[i].answered |= reply;
                    class.inspect(|class| self.touch(i, *class, tick));
                    self.seen(i, reply, TRK | EST | rpl)
                }
                Outcome::New => {
                    self.touch(i, 0, tick);
                    self.seen(i, reply, TRK | NEW | rpl)
                }
                Outcome::Invalid => Self::nothing(p, TRK | INV),
                Outcome::Reopen => {
                    self.conns.remove(i);
                    Self::unknown(p)
                }
            }
        } else {
            self.conns[i].answered |= reply;
            let answered = self.conns[i].answered;
            let class = match (p.tuple.is_icmp(), answered) {
                (false, false) => 7,
                (false, true) => 8,
                (true, false) => 9,
                (true, true) => 10,
            };
            self.touch(i, class, tick);
            self.seen(i, reply, TRK | if answered { EST | rpl } else { NEW })
        }
    }

    /// Lives at least the timeout; the deadline is written an eighth too far, and only when
    /// less than the timeout is left or the class changes.
    fn touch(&mut self, i: usize, class: usize, tick: u64) {
        let c = &mut self.conns[i];
        if c.class != class || c.deadline - tick < timeout(class) {
            c.deadline = tick + timeout(class) + timeout(class) / 8;
            c.class = class;
        }
    }

    /// Whether a commit would have to create an entry; what `force` replaces goes.
    pub fn must_create(&mut self, p: &CtPacket, c: &Commit, state: u8) -> bool {
        if state & INV != 0 {
            return false;
        }
        match self.find(&p.tuple, p.zone) {
            Some((i, true)) if c.force && p.kind == Kind::Normal => {
                self.conns.remove(i);
            }
            Some(_) => return false,
            None => {}
        }
        p.kind == Kind::Normal && Self::unknown(p).state & NEW != 0
    }

    pub fn create(&mut self, p: &CtPacket, reply: Tuple, tick: u64) {
        assert!(!self.taken(&p.tuple, p.zone) && !self.taken(&reply, p.zone));
        let tcp = (p.tuple.proto == 6).then(|| tcp_open(&p.seg));
        let class = if tcp.is_some() {
            0
        } else if p.tuple.is_icmp() {
            9
        } else {
            6
        };
        let deadline = tick + timeout(class) + timeout(class) / 8;
        let zone = p.zone;
        self.conns.push(Conn {
            orig: p.tuple,
            reply,
            zone,
            mark: 0,
            label: 0,
            answered: false,
            tcp,
            class,
            deadline,
        });
    }

    /// What a full table gave up, if that may have been: `kept` says of a connection whether it is
    /// still there. Says how many went.
    pub fn give_up(&mut self, kept: impl Fn(&Conn) -> bool) -> usize {
        let worth = self.conns.iter().map(Conn::worth).min().unwrap_or(2);
        let first = |c: &&Conn| c.worth() == worth;
        let few = self.conns.iter().filter(first).count() <= 8;
        let nearest = self.conns.iter().filter(first).map(|c| c.deadline >> 9).min();
        let gone: Vec<usize> = (0..self.conns.len()).filter(|i| !kept(&self.conns[*i])).collect();
        for i in gone.iter().rev() {
            let c = self.conns.remove(*i);
            assert_eq!(c.worth(), worth, "given up before others: {c:?}");
            assert!(worth < 2, "an established connection was given up: {c:?}");
            assert!(!few || Some(c.deadline >> 9) == nearest, "not the first to die: {c:?}");
        }
        gone.len()
    }

    /// `exec(...)` of a commit, and what the packet sees after it.
    pub fn exec(&mut self, p: &CtPacket, c: &Commit, before: Seen) -> Seen {
        let Some((i, reply)) = self.find(&p.tuple, p.zone) else { return before };
        if before.state & INV != 0 {
            return before;
        }
        let conn = &mut self.conns[i];
        if let Some((v, m)) = c.mark {
            conn.mark = (conn.mark & !m) | (v & m);
        }
        if let Some((v, m)) = c.label {
            conn.label = (conn.label & !m) | (v & m);
        }
        self.seen(i, reply, before.state)
    }
}

fn tcp_open(seg: &Segment) -> [Side; 2] {
    let syn = flag(seg, 'S');
    let scale = if syn { Some(option_scale(seg)) } else { None };
    let divisor = 1u32 << scale.flatten().unwrap_or(0);
    let taken = seg.payload_len + syn as u32 + flag(seg, 'F') as u32;
    let first = Side {
        state: Tcp::SynSent,
        seqlo: seg.seq,
        seqhi: seg.seq.wrapping_add(taken + 1),
        max_win: u32::from(seg.win.max(1)).div_ceil(divisor),
        scale,
    };
    let other_scale = if syn { Some(None) } else { None };
    let other = Side { state: Tcp::Closed, seqlo: 0, seqhi: 1, max_win: 1, scale: other_scale };
    [first, other]
}

/// The rules, in order.
fn tcp_step(conn: &mut Conn, seg: &Segment, reply: bool) -> Outcome {
    let Some(sides) = conn.tcp.as_mut() else { return Outcome::Invalid };
    let (me, you) = (usize::from(reply), usize::from(!reply));
    let [mut src, mut dst] = [sides[me], sides[you]];
    let (syn, ack_set) = (flag(seg, 'S'), flag(seg, 'A'));
    let (fin, rst) = (flag(seg, 'F'), flag(seg, 'R'));
    // A SYN alone begins anew, or repeats.
    if syn && !ack_set {
        if src.state >= Tcp::FinWait2 && dst.state >= Tcp::FinWait2 {
            return Outcome::Reopen;
        }
        if src.state == Tcp::SynSent && dst.state == Tcp::Closed {
            [sides[me], sides[you]] = tcp_open(seg);
            return Outcome::New;
        }
    }
    // Scales count once both sides gave one; of a picked-up stream the largest is assumed.
    let mut shifts = match (src.scale, dst.scale) {
        _ if syn => (0, 0),
        (Some(Some(a)), Some(Some(b))) => (a, b),
        (None, None) => (14, 14),
        _ => (0, 0),
    };
    let end = seg.seq.wrapping_add(seg.payload_len + syn as u32 + fin as u32);
    let mut win = u32::from(seg.win);
    let judge_ack = src.state >= Tcp::SynSent
        || first_segment(&mut src, &mut dst, seg, end, &mut win, &mut shifts);
    let (src_shift, dst_shift) = shifts;
    let ack = if !ack_set || (seg.ack == 0 && rst) { dst.seqlo } else { seg.ack };
    let (seq, end) = if seg.seq == end { (src.seqlo, src.seqlo) } else { (seg.seq, end) };
    let skew = if judge_ack { i64::from(dst.seqlo.wrapping_sub(ack) as i32) } else { 0 };
    let margin = 65535 + 1500;
    let reset_fits = !rst
        || [src.seqlo, src.seqlo.wrapping_add(1), src.seqlo.wrapping_sub(1)].contains(&seg.seq);
    let strict = not_before(src.seqhi, end)
        && not_before(seq, src.seqlo.wrapping_sub(dst.max_win << dst_shift))
        && skew >= -margin
        && skew <= margin << src_shift
        && reset_fits;
    let half_known =
        dst.state < Tcp::SynSent || dst.state >= Tcp::FinWait2 || src.state >= Tcp::FinWait2;
    let loose = half_known
        && not_before(src.seqhi.wrapping_add(margin as u32), end)
        && not_before(seq, src.seqlo.wrapping_sub(margin as u32));
    if !strict && !loose {
        return Outcome::Invalid;
    }
    src.max_win = src.max_win.max(win);
    if !not_before(src.seqlo, end) {
        src.seqlo = end;
    }
    if not_before(ack.wrapping_add(win << src_shift), dst.seqhi) {
        dst.seqhi = ack.wrapping_add((win << src_shift).max(1));
    }
    if fin && src.state < Tcp::Closing {
        src.state = Tcp::Closing;
    }
    if strict && ack_set {
        dst.state = match dst.state {
            Tcp::SynSent => Tcp::Established,
            Tcp::Closing => Tcp::FinWait2,
            other => other,
        };
    }
    if rst {
        (src.state, dst.state) = (Tcp::TimeWait, Tcp::TimeWait);
    }
    (sides[me], sides[you]) = (src, dst);
    Outcome::Valid(strict.then(|| tcp_class(src.state, dst.state)))
}

/// A side's first segment teaches its numbers. Whether its acknowledgement can be judged.
fn first_segment(
    src: &mut Side,
    dst: &mut Side,
    seg: &Segment,
    end: u32,
    win: &mut u32,
    shifts: &mut (u8, u8),
) -> bool {
    if flag(seg, 'S')
        && let Some(Some(theirs)) = dst.scale
    {
        src.scale = Some(option_scale(seg));
        if let Some(mine) = option_scale(seg) {
            *win = win.div_ceil(1 << mine);
            *shifts = (mine, theirs);
        } else {
            dst.max_win = (dst.max_win << theirs).min(65535);
            dst.scale = Some(None);
        }
    }
    src.seqlo = seg.seq;
    src.state = Tcp::SynSent;
    src.max_win = src.max_win.max(*win);
    let limit = end.wrapping_add((dst.max_win << shifts.1).max(1));
    if src.seqhi == 1 || not_before(limit, src.seqhi) {
        src.seqhi = limit;
        return false;
    }
    true
}

fn tcp_class(a: Tcp, b: Tcp) -> usize {
    if a >= Tcp::FinWait2 && b >= Tcp::FinWait2 {
        5
    } else if a >= Tcp::Closing && b >= Tcp::Closing {
        4
    } else if a < Tcp::Established || b < Tcp::Established {
        1
    } else if a >= Tcp::Closing || b >= Tcp::Closing {
        3
    } else {
        2
    }
}
