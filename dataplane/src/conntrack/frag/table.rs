//! The fragments that wait, and what becomes of datagrams that do not complete.
//!
//! **Overlaps.** A datagram of which two fragments overlap, or disagree on where it ends, is
//! dropped whole, with what comes of it later (RFC 5722; RFC 8200 section 4.5). Nobody sends such;
//! hosts differ in which copy they believe, and filters were fooled by it (RFC 1858, RFC 3128), in
//! IPv4 as well. A fragment that comes twice, byte for byte, is dropped alone. (Open vSwitch lets
//! what overlaps pass as invalid, and the rest complete.)
//!
//! **Bounds.** `held_max` fragments wait, of as many datagrams at most; what was refused is
//! remembered as one of these. What is full drops its oldest datagram: senders send the fragments
//! of one datagram in one go, so what has waited long is what lacks one, and a flood of halves has
//! to be faster than that to harm others. (Open vSwitch refuses the new ones until the old have
//! timed out, for which 67 fragments a second suffice.)
//!
//! Datagrams are in a list by age, fragments of one in a list by offset; both lists are numbers in
//! arrays that grow up to their bound and are used again.

use super::{FragConfig, FragKey, Piece};
use crate::clock::Now;
use std::collections::HashMap;

/// What waits with a fragment.
pub trait Waiting: Default {
    /// Lets go of what is shared; buffers stay.
    fn clear(&mut self);
}

/// Why a fragment does not wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It is there already.
    Duplicate,
    /// It overlaps another, or did one before.
    Overlap,
    /// No more may wait.
    Full,
}

/// Fragments that were dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragDrops {
    pub overlap: u64,
    pub duplicate: u64,
    pub limit: u64,
    pub timeout: u64,
}

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Part<T> {
    next: u32,
    offset: u32,
    len: u32,
    waiting: T,
}

#[derive(Debug)]
struct Datagram {
    key: FragKey,
    older: u32,
    newer: u32,
    first: u32,
    parts: u32,
    /// Bytes that are here.
    have: u32,
    /// Length, known from the last fragment.
    len: Option<u32>,
    deadline_ns: u64,
    /// Nothing of it is let through any more.
    is_bad: bool,
}

/// A fragment that waits from now on.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// To be filled in.
    pub part: u32,
    /// Its datagram is whole.
    pub is_whole: bool,
}

/// A worker's fragments.
#[derive(Debug)]
pub struct Fragments<T> {
    cfg: FragConfig,
    parts: Vec<Part<T>>,
    free_parts: Vec<u32>,
    datagrams: Vec<Datagram>,
    free_datagrams: Vec<u32>,
    by_key: HashMap<FragKey, u32>,
    oldest: u32,
    newest: u32,
    drops: FragDrops,
}

impl<T: Waiting> Fragments<T> {
    pub fn new(cfg: FragConfig) -> Self {
        Self {
            cfg,
            parts: Vec::new(),
            free_parts: Vec::with_capacity(cfg.held_max),
            datagrams: Vec::new(),
            free_datagrams: Vec::with_capacity(cfg.held_max),
            // Half full at most, it clears itself of what was removed without growing.
            by_key: HashMap::with_capacity(2 * cfg.held_max + 2),
            oldest: NONE,
            newest: NONE,
            drops: FragDrops::default(),
        }
    }

    pub fn config(&self) -> &FragConfig {
        &self.cfg
    }

    /// Fragments that wait.
    pub fn held(&self) -> usize {
        self.parts.len() - self.free_parts.len()
    }

    /// Datagrams that are remembered, those included of which nothing waits.
    pub fn datagrams(&self) -> usize {
        self.by_key.len()
    }

    /// What was dropped since the last time.
    pub fn take_drops(&mut self) -> FragDrops {
        std::mem::take(&mut self.drops)
    }

    /// What waits with a part.
    pub fn waiting(&mut self, part: u32) -> Option<&mut T> {
        self.parts.get_mut(part as usize).map(|p| &mut p.waiting)
    }

    /// Takes a fragment. `is_same` says whether it is what waits at its very place.
    pub fn take(
        &mut self,
        key: FragKey,
        piece: &Piece,
        now: Now,
        is_same: impl FnOnce(&T) -> bool,
    ) -> Result<Taken, Refused> {
        self.expire(now, 2);
        let at = match self.by_key.get(&key).copied() {
            Some(at) => at,
            None => self.open(key, now)?,
        };
        let taken = self.add(at, piece, is_same);
        match taken {
            Ok(_) => {}
            Err(Refused::Duplicate) => self.drops.duplicate += 1,
            Err(Refused::Overlap) => {
                self.drops.overlap += 1;
                self.drops.overlap += u64::from(self.empty(at));
                if let Some(d) = self.datagrams.get_mut(at as usize) {
                    d.is_bad = true;
                }
            }
            Err(Refused::Full) => {
                self.drops.limit += 1;
                self.drops.limit += u64::from(self.close(at));
            }
        }
        taken
    }

    fn add(
        &mut self,
        at: u32,
        piece: &Piece,
        is_same: impl FnOnce(&T) -> bool,
    ) -> Result<Taken, Refused> {
        let Some(d) = self.datagrams.get(at as usize) else { return Err(Refused::Full) };
        let (offset, len) = (piece.offset, piece.data.len() as u32);
        let end = offset + len;
        let last = if piece.more { d.len } else { Some(end) };
        if d.is_bad || last.is_some_and(|l| end > l || d.len.is_some_and(|known| known != l)) {
            return Err(Refused::Overlap);
        }
        let (before, after) = self.neighbours(d.first, offset);
        let follows = self.parts.get(after as usize);
        // What is behind the last one overlaps what is not there.
        if follows.is_some_and(|p| p.offset < end || !piece.more) {
            return Err(Refused::Overlap);
        }
        if let Some(p) = self.parts.get(before as usize)
            && p.offset + p.len > offset
        {
            let same = (p.offset, p.len) == (offset, len) && is_same(&p.waiting);
            return Err(if same { Refused::Duplicate } else { Refused::Overlap });
        }
        let part = self.new_part(at)?;
        if let Some(p) = self.parts.get_mut(part as usize) {
            (p.next, p.offset, p.len) = (after, offset, len);
        }
        match self.parts.get_mut(before as usize) {
            Some(p) => p.next = part,
            None => self.datagrams[at as usize].first = part,
        }
        let d = &mut self.datagrams[at as usize];
        (d.parts, d.have, d.len) = (d.parts + 1, d.have + len, last);
        Ok(Taken { part, is_whole: d.len == Some(d.have) })
    }

    /// The last part that begins at this offset or before it, and what follows.
    fn neighbours(&self, first: u32, offset: u32) -> (u32, u32) {
        let (mut before, mut after) = (NONE, first);
        while let Some(p) = self.parts.get(after as usize).filter(|p| p.offset <= offset) {
            (before, after) = (after, p.next);
        }
        (before, after)
    }

    /// Room for a part of this datagram, if need be in the place of other datagrams.
    fn new_part(&mut self, own: u32) -> Result<u32, Refused> {
        while self.free_parts.is_empty() && self.parts.len() >= self.cfg.held_max {
            let oldest = self.oldest;
            if oldest == own || oldest == NONE {
                return Err(Refused::Full);
            }
            self.drops.limit += u64::from(self.close(oldest));
        }
        Ok(self.free_parts.pop().unwrap_or_else(|| {
            self.parts.push(Part { next: NONE, offset: 0, len: 0, waiting: T::default() });
            self.parts.len() as u32 - 1
        }))
    }

    fn open(&mut self, key: FragKey, now: Now) -> Result<u32, Refused> {
        if self.free_datagrams.is_empty() && self.datagrams.len() >= self.cfg.held_max {
            if self.oldest == NONE {
                self.drops.limit += 1;
                return Err(Refused::Full);
            }
            self.drops.limit += u64::from(self.close(self.oldest));
        }
        let datagram = Datagram {
            key,
            older: self.newest,
            newer: NONE,
            first: NONE,
            parts: 0,
            have: 0,
            len: None,
            deadline_ns: now.ns + u64::from(self.cfg.timeout_s) * 1_000_000_000,
            is_bad: false,
        };
        let at = match self.free_datagrams.pop() {
            Some(at) => {
                self.datagrams[at as usize] = datagram;
                at
            }
            None => {
                self.datagrams.push(datagram);
                self.datagrams.len() as u32 - 1
            }
        };
        match self.datagrams.get_mut(self.newest as usize) {
            Some(d) => d.newer = at,
            None => self.oldest = at,
        }
        self.newest = at;
        self.by_key.insert(key, at);
        Ok(at)
    }

    /// Frees the parts of a datagram. Says how many.
    fn empty(&mut self, at: u32) -> u32 {
        let d = &mut self.datagrams[at as usize];
        let (mut part, parts) = (std::mem::replace(&mut d.first, NONE), d.parts);
        (d.parts, d.have) = (0, 0);
        while let Some(p) = self.parts.get(part as usize) {
            let next = p.next;
            self.free(part);
            part = next;
        }
        parts
    }

    /// Forgets a datagram. Says how many of its fragments went with it.
    fn close(&mut self, at: u32) -> u32 {
        let parts = self.empty(at);
        self.unlink(at);
        parts
    }

    fn unlink(&mut self, at: u32) {
        let (key, older, newer) = {
            let d = &self.datagrams[at as usize];
            (d.key, d.older, d.newer)
        };
        match self.datagrams.get_mut(older as usize) {
            Some(d) => d.newer = newer,
            None => self.oldest = newer,
        }
        match self.datagrams.get_mut(newer as usize) {
            Some(d) => d.older = older,
            None => self.newest = older,
        }
        self.by_key.remove(&key);
        self.free_datagrams.push(at);
    }

    /// Forgets a datagram that is whole, and writes its parts in order of offset. They are the
    /// caller's, to be freed.
    pub fn release(&mut self, key: &FragKey, parts: &mut Vec<u32>) {
        parts.clear();
        let Some(at) = self.by_key.get(key).copied() else { return };
        let mut part = self.datagrams[at as usize].first;
        while let Some(p) = self.parts.get(part as usize) {
            parts.push(part);
            part = p.next;
        }
        self.unlink(at);
    }

    /// Takes a part back.
    pub fn free(&mut self, part: u32) {
        if let Some(p) = self.parts.get_mut(part as usize) {
            p.waiting.clear();
            self.free_parts.push(part);
        }
    }

    /// Drops datagrams whose time is over, up to a number. Those that were refused go silently.
    pub fn expire(&mut self, now: Now, most: usize) {
        for _ in 0..most {
            let oldest = self.oldest;
            match self.datagrams.get(oldest as usize) {
                Some(d) if d.deadline_ns <= now.ns => {}
                _ => return,
            }
            self.drops.timeout += u64::from(self.close(oldest));
        }
    }
}
