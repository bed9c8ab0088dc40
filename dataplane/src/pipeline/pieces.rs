//! Fragments on their way home.
//!
//! Where a datagram has its home is in its first fragment alone. So fragments go first to a worker
//! that their addresses and identifier name, which all of them have; it reads the first one and
//! sends that, and all others, to the datagram's home, where they wait at `ct` as ever (`hold`).
//! What comes before the first one waits here, as bytes and not as frames, in order of arrival, and
//! goes when that has come; not longer than a fragment may wait at `ct`. As there, what is full
//! gives up its oldest.
//!
//! A datagram whose home redirects it to another worker (`conntrack::redirect`) is sent on from
//! there; only the home knows of that. The other one may be the worker where the fragments met: so
//! that it does not take them for new ones, these frames are marked.
//!
//! Of a program that tracks only some of its traffic, other fragments wait as well: nobody knows
//! before the walk.

use super::world::Subject;
use crate::clock::Now;
use crate::conntrack::frag::{FragConfig, FragKey, Piece};
use crate::conntrack::{Homes, Tuple, tuple_of_packet};
use crate::counters::{Counters, Drop};
use crate::limits::{DATAGRAM_HOMES_MAX, FRAME_SIZE_BYTES};
use crate::packet::key::{FRAG_LATER, PortIx};
use std::collections::{HashMap, VecDeque};

/// Where a fragment goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whither {
    /// It is judged here.
    Here,
    To(u8),
    /// It is that worker's, whatever that thinks.
    Home(u8),
    /// Nobody knows yet.
    Waits(FragKey),
}

/// A fragment that waits, as it came in.
#[derive(Debug)]
pub(super) struct Part {
    pub bytes: Vec<u8>,
    pub in_port: PortIx,
    key: FragKey,
    deadline_ns: u64,
}

/// Where a datagram's fragments go.
#[derive(Debug)]
struct Known {
    key: FragKey,
    owner: u8,
    until_ns: u64,
}

/// Fragments that wait for the first of their datagram, and datagrams whose first has come.
#[derive(Debug)]
pub(super) struct Pieces {
    cfg: FragConfig,
    /// By place in `ring`.
    known: HashMap<FragKey, u32>,
    /// The last datagrams and their homes, oldest first from `next` on.
    ring: Vec<Known>,
    next: usize,
    waiting: VecDeque<Part>,
    ready: VecDeque<(u8, Part)>,
    spare: Vec<Vec<u8>>,
}

impl Pieces {
    /// For a worker among others.
    pub fn new(cfg: FragConfig, is_shared: bool) -> Self {
        let (homes, held) = if is_shared { (DATAGRAM_HOMES_MAX, cfg.held_max) } else { (0, 0) };
        let cfg = FragConfig { held_max: held, ..cfg };
        Self {
            cfg,
            // Half full at most, it clears itself of what was removed without growing.
            known: HashMap::with_capacity(2 * homes),
            ring: Vec::with_capacity(homes),
            next: 0,
            waiting: VecDeque::with_capacity(held),
            ready: VecDeque::with_capacity(held),
            spare: Vec::with_capacity(held),
        }
    }

    /// Fragments that wait.
    pub fn held(&self) -> usize {
        self.waiting.len() + self.ready.len()
    }

    /// Where a fragment goes. `fresh`: it came from a port.
    pub fn whither(&mut self, p: &Subject<'_>, homes: &Homes, fresh: bool, now: Now) -> Whither {
        let (me, mut room) = (homes.seat().worker, None);
        let layers = p.behind_labels(&mut room).1;
        let ip = p.bytes.get(usize::from(layers.l3)..usize::from(layers.end)).unwrap_or(&[]);
        // What `ct` would not hold is invalid, wherever it is judged.
        let Some(piece) = Piece::read(ip, &self.cfg) else { return Whither::Here };
        let first_home = homes.of(&meeting_place(&piece));
        let key = FragKey::new(&piece, 0, (0, 0));
        if first_home != me {
            // Or it was sent to here by who knows.
            return if fresh { Whither::To(first_home) } else { self.onward(p, key, homes, now) };
        }
        if p.key.base.ip_frag & FRAG_LATER != 0 {
            return self.owner_of(&key, now).map_or(Whither::Waits(key), Whither::To);
        }
        let owner = tuple_of_packet(p.key, p.bytes, p.layers).map_or(me, |tuple| {
            let home = homes.of(&tuple);
            let redirect = || homes.redirect_of(homes.ask_redirect(&tuple), &tuple);
            if home == me { redirect().unwrap_or(me) } else { home }
        });
        self.learn(Known { key, owner, until_ns: self.deadline(now) });
        Whither::To(owner)
    }

    /// Where a fragment goes whose datagram has its home here: the first one tells.
    fn onward(&mut self, p: &Subject<'_>, key: FragKey, homes: &Homes, now: Now) -> Whither {
        if p.key.base.ip_frag & FRAG_LATER != 0 {
            return self.owner_of(&key, now).map_or(Whither::Here, Whither::Home);
        }
        let redirect = tuple_of_packet(p.key, p.bytes, p.layers)
            .filter(|tuple| homes.redirects() && homes.of(tuple) == homes.seat().worker)
            .and_then(|tuple| homes.redirect_of(homes.ask_redirect(&tuple), &tuple));
        match redirect {
            Some(owner) => {
                self.learn(Known { key, owner, until_ns: self.deadline(now) });
                Whither::Home(owner)
            }
            None => {
                // Its identifier was another datagram's.
                let known = self.known.get(&key).and_then(|at| self.ring.get_mut(*at as usize));
                known.into_iter().for_each(|k| k.until_ns = 0);
                Whither::Here
            }
        }
    }

    fn owner_of(&self, key: &FragKey, now: Now) -> Option<u8> {
        let known = self.known.get(key).and_then(|at| self.ring.get(*at as usize));
        known.filter(|k| k.until_ns > now.ns).map(|k| k.owner)
    }

    fn deadline(&self, now: Now) -> u64 {
        now.ns + u64::from(self.cfg.timeout_s) * 1_000_000_000
    }

    /// The first fragment of a datagram has come.
    fn learn(&mut self, new: Known) {
        let (key, owner) = (new.key, new.owner);
        let known = self.known.get(&key).map(|at| *at as usize);
        if let Some(known) = known.and_then(|at| self.ring.get_mut(at)) {
            *known = new;
        } else if self.ring.len() < self.ring.capacity() {
            self.known.insert(key, self.ring.len() as u32);
            self.ring.push(new);
        } else if let Some(oldest) = self.ring.get_mut(self.next) {
            self.known.remove(&oldest.key);
            *oldest = new;
            self.known.insert(key, self.next as u32);
            self.next = (self.next + 1) % self.ring.len();
        }
        for _ in 0..self.waiting.len() {
            let Some(part) = self.waiting.pop_front() else { break };
            if part.key == key {
                self.ready.push_back((owner, part));
            } else {
                self.waiting.push_back(part);
            }
        }
    }

    /// Keeps a fragment until the first one comes.
    pub fn hold(
        &mut self,
        key: FragKey,
        in_port: PortIx,
        bytes: &[u8],
        now: Now,
        counters: &Counters,
    ) {
        if self.held() >= self.cfg.held_max {
            counters.count_drop(Drop::FragmentLimit);
            match self.waiting.pop_front() {
                Some(oldest) => self.recycle(oldest),
                None => return,
            }
        }
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.reserve(bytes.len().max(FRAME_SIZE_BYTES as usize));
        copy.extend_from_slice(bytes);
        let deadline_ns = self.deadline(now);
        self.waiting.push_back(Part { bytes: copy, in_port, key, deadline_ns });
    }

    /// Gives a buffer back.
    pub fn recycle(&mut self, mut part: Part) {
        if self.spare.len() < self.spare.capacity() {
            part.bytes.clear();
            self.spare.push(part.bytes);
        }
    }

    /// The next that can go to another worker.
    pub fn next_for_others(&mut self, me: u8) -> Option<(u8, Part)> {
        let at = self.ready.iter().position(|(owner, _)| *owner != me)?;
        self.ready.remove(at)
    }

    /// The next that this worker judges.
    pub fn next_for(&mut self, me: u8) -> Option<Part> {
        let at = self.ready.iter().position(|(owner, _)| *owner == me)?;
        self.ready.remove(at).map(|(_, part)| part)
    }

    /// Whether some that waited are to be judged.
    #[inline]
    pub fn are_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Gives up what has waited too long, at most so many.
    pub fn expire(&mut self, now: Now, most: usize, counters: &Counters) {
        for _ in 0..most {
            if self.waiting.front().is_none_or(|part| part.deadline_ns > now.ns) {
                return;
            }
            self.waiting.pop_front().into_iter().for_each(|part| self.recycle(part));
            counters.count_drop(Drop::FragmentTimeout);
        }
    }
}

/// The tuple by which the fragments of a datagram meet. IPv6 tells the protocol in the first alone.
fn meeting_place(p: &Piece) -> Tuple {
    let (low, high) = (p.id as u16, (p.id >> 16) as u16);
    let proto = if p.v6 { 0 } else { p.proto };
    Tuple { src: p.src, dst: p.dst, sport: low ^ high, dport: low ^ high, proto, v6: p.v6 }
}
