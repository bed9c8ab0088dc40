//! When connections die: timeout classes and lazy deadlines. Who watches them is `wheel`.
//!
//! Time is in ticks of 2^20 ns (1.05 ms), so that no division is needed; a deadline is 32 bits
//! and compares modulo 2^32 (24 days either way).
//!
//! **Lazy deadlines.** A packet gives its connection `timeout` more to live. Writing that down
//! for each packet dirties a line that UDP otherwise only reads. So a deadline is written an
//! eighth too far, and only written again when less than the timeout is left. A connection lives
//! at least its timeout after the last packet, at most 9/8 of it, and a fast flow writes once in
//! an eighth of its timeout.

use crate::clock::Now;
use crate::limits::CT_POLICIES_MAX;

/// Which timeout is in force; the names are those of Open vSwitch's timeout policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    TcpFirst,
    TcpOpening,
    TcpEstablished,
    TcpClosing,
    TcpFinWait,
    TcpClosed,
    OtherFirst,
    OtherMultiple,
    OtherBidir,
    IcmpFirst,
    IcmpReply,
}

pub const CLASSES: usize = 11;

/// Seconds per class, in their order: the defaults of Open vSwitch's userspace conntrack.
pub const DEFAULT_TIMEOUTS_S: [u32; CLASSES] =
    [30, 30, 24 * 3600, 15 * 60, 45, 30, 60, 60, 30, 60, 30];

/// A longer one would not fit the arithmetic of deadlines.
const TIMEOUT_MAX_S: u32 = 10 * 24 * 3600;

const TICK_SHIFT: u32 = 20;

/// Ticks since the clock's start.
#[inline]
pub fn ticks(now: Now) -> u64 {
    now.ns >> TICK_SHIFT
}

/// Ticks until a deadline; negative once it has passed.
#[inline]
pub fn left(deadline: u32, tick: u64) -> i32 {
    deadline.wrapping_sub(tick as u32) as i32
}

/// Whether a deadline has passed.
#[inline]
pub fn is_due(deadline: u32, tick: u64) -> bool {
    left(deadline, tick) <= 0
}

/// Which of a policy's timeouts is in force for a connection: what `Hot` says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    pub policy: u8,
    pub class: u8,
}

/// Timeouts in ticks, of each policy; policy 0 is that of zones without one of their own. A line of
/// memory a policy, so with one policy it is always the same line.
#[derive(Clone, Debug)]
pub struct Timeouts(Box<[[u32; 16]]>);

const POLICIES: usize = CT_POLICIES_MAX + 1;
const _: () = assert!(POLICIES == 256, "`Hot::policy` is a byte");

fn in_ticks(seconds: &[u32; CLASSES]) -> [u32; 16] {
    let mut all = [1; 16];
    for (t, s) in all.iter_mut().zip(seconds) {
        let ns = u64::from((*s).clamp(1, TIMEOUT_MAX_S)) * 1_000_000_000;
        *t = ns.div_ceil(1 << TICK_SHIFT) as u32;
    }
    all
}

impl Timeouts {
    pub fn new(seconds: &[u32; CLASSES]) -> Self {
        Self(vec![in_ticks(seconds); POLICIES].into_boxed_slice())
    }

    /// Sets the timeouts of a policy; connections that have it follow with their next packet.
    pub fn set(&mut self, policy: u8, seconds: &[u32; CLASSES]) {
        if let Some(t) = self.0.get_mut(usize::from(policy)) {
            *t = in_ticks(seconds);
        }
    }

    #[inline]
    fn of(&self, term: Term) -> u32 {
        self.0.get(usize::from(term.policy)).map_or(1, |t| t[usize::from(term.class & 15)])
    }

    /// The deadline after a packet at `tick` of a connection in `term`, whose deadline was
    /// `old`, set under the same term: unchanged while it leaves the whole timeout.
    #[inline]
    pub fn refreshed(&self, term: Term, old: u32, tick: u64) -> u32 {
        let timeout = self.of(term);
        if left(old, tick) >= timeout as i32 { old } else { self.fresh(term, tick) }
    }

    /// A new deadline.
    #[inline]
    pub fn fresh(&self, term: Term, tick: u64) -> u32 {
        let timeout = self.of(term);
        (tick as u32).wrapping_add(timeout + (timeout >> 3))
    }

    /// Seconds left as an operator sees them: the eighth is not shown.
    pub fn shown_s(&self, term: Term, deadline: u32, tick: u64) -> u32 {
        let left = left(deadline, tick).clamp(0, self.of(term) as i32) as u64;
        ((left << TICK_SHIFT) / 1_000_000_000) as u32
    }
}
