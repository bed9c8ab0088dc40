//! Tier 2, megaflows: masked match, for traffic of many short microflows.
//!
//! **What is kept.** A walk depends on some bits of its packet only: those that its lookups had
//! to look at to tell the rule met from others, and those that the actions of the rules met read
//! or write. All packets that agree in these bits take the same walk. So a *megaflow* is a mask
//! with a value under it, and stands for the walk of every packet that has this value. The first
//! packet of a new connection then needs no walk.
//!
//! **Lookup.** Megaflows of one mask lie in one hash table together with those of the others; a
//! lookup tries the masks one after the other, the most successful first, one probe each, and
//! takes the first hit. Megaflows may overlap; those that do come to the same, because each is
//! right by itself for every packet that it matches.
//!
//! **Connection tracking.** What `ct` says of a packet is not in the packet. So a walk through it
//! is kept in two megaflows. The *question* has the bits that led the walk to its first `ct`, and
//! says in which zone to ask. The *answer* has the bits of the whole walk and, beside the key, what
//! came out: the state, and mark and label as far as the walk looked at them. A lookup of a packet
//! that finds a question asks, and looks up again with what it is told. Whatever else has to agree
//! is among the guards of the answer's traversal. A walk whose commit was refused has an answer of
//! its own, under a state that no packet is in ([`REFUSED`]): a packet that has no connection is
//! looked up under it once its commit has been refused.
//!
//! **Bounds.** The number of masks is bounded, so a lookup costs at most that many probes: a
//! sender who makes the tables show a new mask with each packet (tuple space explosion, Csikor
//! et al., CoNEXT 2019) fills the masks and is walked from then on. Tables have two slots to a
//! bucket. Nothing grows. Whether a lookup pays at all is measured (`pipeline::adapt`).
//!
//! **When an entry may be used**: as in tier 1; see the room's head.

use super::entry::{EMPTY, Entry, Kept, LINES, Masked, NONE, OF_THE_PLACE, QUESTION, Tick};
use super::mask::KeyMask;
use super::memo::Memo;
use crate::conntrack::{Guess, ct_state};
use crate::limits::MEGAFLOW_MASKS;
use crate::packet::key::{KeyBase, PacketKey};

/// What IPv6, tunnelled and tagged packets have beyond the first line: zero where there is none.
type Lines = [[u64; 8]; 3];

/// In place of the state: there is no connection, the packet may open one, and it was refused.
pub const REFUSED: u8 = ct_state::TRK | ct_state::NEW | ct_state::INV;

/// What a megaflow is about, beside the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// A walk without connection tracking, or the question of one with it.
    Nothing,
    /// What was answered, and the bits of it that count.
    Told { state: u8, mark: u32, label: u128, mark_mask: u32, label_mask: u128 },
}

/// A mask in use.
#[derive(Clone, Copy, Debug)]
struct Tuple {
    mask: KeyMask,
    /// For answers: the bits of mark and label.
    told: Option<(u32, u128)>,
    /// Megaflows that have it.
    entries: u32,
    /// Lookups that it answered, halved now and then.
    hits: u32,
}

/// An answer that packets one after the other are held against.
pub struct Answer<'a> {
    pub entry: &'a mut Entry,
    tuple: &'a mut Tuple,
}

impl Answer<'_> {
    /// Whether a packet matches it. Of packets with one line only.
    #[inline(always)]
    pub fn is_for(&self, key: &PacketKey) -> bool {
        let (base, m) = (super::mask::base_ref(&key.base), &self.tuple.mask.base);
        let differs = (0..5).fold(0, |d, i| d | ((base[i] & m[i]) ^ self.entry.key[i]));
        differs == 0 && is_one_line(key)
    }

    /// So many did.
    pub fn served(&mut self, packets: u32) {
        self.tuple.hits = self.tuple.hits.saturating_add(packets);
    }
}

/// The megaflows of a worker. All memory is taken at start.
pub struct Megaflows {
    slots: Box<[Entry]>,
    /// Beside each slot: touched for packets with more than a line only.
    lines: Box<[Lines]>,
    tuples: Vec<Tuple>,
    /// Places in `tuples`, the most successful first.
    order: Vec<u8>,
    memo: Memo,
    seed: u64,
    bucket_mask: u64,
    live: usize,
}

fn words(key: &PacketKey) -> (Masked, Lines) {
    let all = KeyMask::new(key);
    let l3 = if key.has_l3() { all.l3 } else { [0; 8] };
    let tunnel = if key.has_tunnel() { all.tunnel } else { [0; 8] };
    let stack = if key.has_stack() { all.stack } else { [0; 8] };
    (all.base, [l3, tunnel, stack])
}

fn is_one_line(key: &PacketKey) -> bool {
    key.base.shape & LINES == 0
}

fn under(lines: &Lines, m: &KeyMask) -> Lines {
    let and = |a: &[u64; 8], b: &[u64; 8]| std::array::from_fn(|i| a[i] & b[i]);
    [and(&lines[0], &m.l3), and(&lines[1], &m.tunnel), and(&lines[2], &m.stack)]
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let p = u128::from(a) * u128::from(b);
    (p as u64) ^ ((p >> 64) as u64)
}

impl Megaflows {
    /// `entries`: a power of two; 0 switches the tier off.
    pub fn new(entries: usize, seed: u64) -> Self {
        let slots = if entries == 0 { 0 } else { entries.next_power_of_two().max(2) };
        Self {
            slots: vec![EMPTY; slots].into(),
            lines: vec![[[0; 8]; 3]; slots].into(),
            tuples: Vec::with_capacity(MEGAFLOW_MASKS),
            order: Vec::with_capacity(MEGAFLOW_MASKS),
            memo: Memo::new(),
            seed: seed | 1,
            bucket_mask: (slots / 2).max(1) as u64 - 1,
            live: 0,
        }
    }

    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Masks in use.
    pub fn masks(&self) -> usize {
        self.tuples.iter().filter(|t| t.entries > 0).count()
    }

    /// Finds a megaflow that the packet matches, and that is no answer; says how many masks it
    /// tried.
    pub fn find(&mut self, key: &PacketKey) -> (Option<u32>, usize) {
        if is_one_line(key) {
            return self.find_words(super::mask::base_ref(&key.base));
        }
        let (base, lines) = words(key);
        self.probe::<false>(&base, Some(&lines), (0, 0, 0))
    }

    /// The same for a packet whose key is one line, of these words.
    #[inline]
    pub fn find_words(&mut self, base: &Masked) -> (Option<u32>, usize) {
        self.find_again::<false>(base, (0, 0, 0))
    }

    /// Finds an answer for a packet of which connection tracking has told state, mark and label.
    #[inline]
    pub fn find_answer(&mut self, key: &PacketKey, told: (u8, u32, u128)) -> (Option<u32>, usize) {
        if is_one_line(key) {
            return self.find_again::<true>(super::mask::base_ref(&key.base), told);
        }
        self.find_long_answer(key, told)
    }

    /// Compares with the megaflow that served the last packet of this kind first.
    #[inline(always)]
    fn find_again<const TOLD: bool>(
        &mut self,
        base: &Masked,
        told: (u8, u32, u128),
    ) -> (Option<u32>, usize) {
        let place = Memo::place(base[2], told.0);
        let guess = self.memo.guess(place);
        if let Some(at) = guess
            && self.serves::<TOLD>(at, base, told)
        {
            self.memo.right(place);
            return (guess, 1);
        }
        let (found, tried) = self.probe::<TOLD>(base, None, told);
        if let Some(at) = found {
            self.memo.put(place, guess.is_some(), at);
        }
        (found, tried)
    }

    /// Whether a packet of one line with these words matches the megaflow at a place.
    #[inline(always)]
    fn serves<const TOLD: bool>(
        &mut self,
        at: u32,
        base: &Masked,
        (state, mark, label): (u8, u32, u128),
    ) -> bool {
        let Some(e) = self.slots.get(at as usize) else { return false };
        let Some(tuple) = self.tuples.get_mut(usize::from(e.tag[0])) else { return false };
        let kind_fits = match tuple.told {
            Some(bits) if TOLD => [e.tag[1], e.tag[2]] == [state, gist((mark, label), bits)],
            Some(_) => false,
            None => !TOLD,
        };
        let m = &tuple.mask.base;
        let differs = (0..5).fold(0, |d, i| d | ((base[i] & m[i]) ^ e.key[i]));
        let serves = e.traversal != NONE && kind_fits && differs == 0;
        tuple.hits = tuple.hits.saturating_add(u32::from(serves));
        serves
    }

    /// The answer at a place, if it is one for packets of which connection tracking has told this
    /// state, and no mark or label.
    #[inline]
    pub fn answer_at(&mut self, at: u32, state: u8) -> Option<Answer<'_>> {
        self.answer(at).filter(|a| {
            let bits = a.tuple.told.unwrap_or_default();
            [a.entry.tag[1], a.entry.tag[2]] == [state, gist((0, 0), bits)]
        })
    }

    /// The answer at a place, if there is one.
    #[inline]
    pub fn answer(&mut self, at: u32) -> Option<Answer<'_>> {
        let entry = self.slots.get_mut(at as usize).filter(|e| e.traversal != NONE)?;
        let tuple = self.tuples.get_mut(usize::from(entry.tag[0]))?;
        tuple.told.is_some().then_some(Answer { entry, tuple })
    }

    #[inline(never)]
    fn find_long_answer(&mut self, key: &PacketKey, told: (u8, u32, u128)) -> (Option<u32>, usize) {
        let (base, lines) = words(key);
        self.probe::<true>(&base, Some(&lines), told)
    }

    #[inline(always)]
    fn probe<const TOLD: bool>(
        &mut self,
        base: &Masked,
        lines: Option<&Lines>,
        (state, mark, label): (u8, u32, u128),
    ) -> (Option<u32>, usize) {
        let mut tried = 0;
        for place in &self.order {
            let Some(tuple) = self.tuples.get_mut(usize::from(*place)) else { continue };
            if tuple.entries == 0 || tuple.told.is_some() != TOLD {
                continue;
            }
            tried += 1;
            let m = &tuple.mask.base;
            let masked = std::array::from_fn(|i| base[i] & m[i]);
            let rest = lines.map(|lines| under(lines, &tuple.mask));
            let kind = match tuple.told {
                Some(bits) if TOLD => [state, gist((mark, label), bits)],
                _ => [0, 0],
            };
            let mut h = hash_base(&masked, salt(self.seed, *place, kind));
            if let Some(rest) = &rest {
                h = hash_lines(h, rest);
            }
            let bucket = ((h ^ (h >> 32)) & self.bucket_mask) as u32 * 2;
            for at in [bucket, bucket + 1] {
                let Some(e) = self.slots.get(at as usize) else { continue };
                let same = is_of(e, *place, &masked) && (!TOLD || [e.tag[1], e.tag[2]] == kind);
                if same && rest.as_ref().is_none_or(|r| self.lines.get(at as usize) == Some(r)) {
                    tuple.hits = tuple.hits.saturating_add(1);
                    return (Some(at), tried);
                }
            }
        }
        (None, tried)
    }

    /// The slot for a new megaflow of this mask: an empty one, else the longer unused. `None` if
    /// the mask is new and there are too many. What the slot holds must be given back before
    /// [`Megaflows::fill`].
    pub fn place(
        &mut self,
        key: &PacketKey,
        mask: &KeyMask,
        asked: About,
        now: Tick,
    ) -> Option<Place> {
        if self.slots.is_empty() {
            return None;
        }
        let (told, kind) = match asked {
            About::Nothing => (None, [0, 0]),
            About::Told { state, mark, label, mark_mask, label_mask } => {
                let bits = (mark_mask, label_mask);
                (Some(bits), [state, gist((mark, label), bits)])
            }
        };
        let tuple = self.tuple(mask, told)?;
        let (base, lines) = words(key);
        let base: Masked = std::array::from_fn(|i| base[i] & mask.base[i]);
        let lines = under(&lines, mask);
        let mut h = hash_base(&base, salt(self.seed, tuple, kind));
        if !is_one_line(key) {
            h = hash_lines(h, &lines);
        }
        let first = ((h ^ (h >> 32)) & self.bucket_mask) as u32 * 2;
        let (a, b) = (&self.slots[first as usize], &self.slots[first as usize + 1]);
        let [of_a, of_b] = [0, 1].map(|n| self.lines[first as usize + n]);
        let same = |e: &Entry| is_of(e, tuple, &base) && (told.is_none() || e.tag[1..] == kind);
        let at = match () {
            () if same(a) && of_a == lines => first,
            () if same(b) && of_b == lines => first + 1,
            () if a.traversal == NONE
                || (b.traversal != NONE && a.used.age(now) >= b.used.age(now)) =>
            {
                first
            }
            () => first + 1,
        };
        Some(Place { at, tuple, kind, base, lines })
    }

    fn tuple(&mut self, mask: &KeyMask, told: Option<(u32, u128)>) -> Option<u8> {
        if let Some(at) = self.tuples.iter().position(|t| t.mask == *mask && t.told == told) {
            return Some(at as u8);
        }
        let fresh = Tuple { mask: *mask, told, entries: 0, hits: 0 };
        if let Some(at) = self.tuples.iter().position(|t| t.entries == 0) {
            self.tuples[at] = fresh;
            return Some(at as u8);
        }
        if self.tuples.len() >= MEGAFLOW_MASKS {
            return None;
        }
        self.tuples.push(fresh);
        self.order.push(self.tuples.len() as u8 - 1);
        Some(self.tuples.len() as u8 - 1)
    }

    /// Writes a megaflow into its place, which holds none any more.
    pub fn fill(&mut self, place: &Place, walk: Kept) {
        let i = place.at as usize;
        let (Some(slot), Some(lines)) = (self.slots.get_mut(i), self.lines.get_mut(i)) else {
            return;
        };
        *slot = Entry {
            key: place.base,
            traversal: walk.traversal,
            conn: Guess::NONE,
            bytes: 0,
            packets: 0,
            used: walk.used,
            epoch: walk.epoch,
            tag: [place.tuple, place.kind[0], place.kind[1]],
            flags: slot.flags & OF_THE_PLACE,
        };
        *lines = place.lines;
        if let Some(t) = self.tuples.get_mut(place.tuple as usize) {
            t.entries += 1;
        }
        self.live += 1;
    }

    /// Makes the megaflow in its place a question.
    pub fn set_question(&mut self, at: u32) {
        if let Some(slot) = self.slots.get_mut(at as usize) {
            slot.tag[1] = QUESTION;
        }
    }

    /// Empties a slot; its traversal, for the caller to release.
    pub fn vacate(&mut self, at: u32) -> Option<u32> {
        let slot = self.slots.get_mut(at as usize).filter(|s| s.traversal != NONE)?;
        if let Some(t) = self.tuples.get_mut(usize::from(slot.tag[0])) {
            t.entries -= 1;
        }
        self.live -= 1;
        let held = slot.traversal;
        *slot = Entry { flags: slot.flags & OF_THE_PLACE, ..EMPTY };
        Some(held)
    }

    /// Megaflows that are there.
    pub fn live(&self) -> usize {
        self.live
    }

    #[inline]
    pub fn get(&self, at: u32) -> Option<&Entry> {
        self.slots.get(at as usize).filter(|s| s.traversal != NONE)
    }

    /// A megaflow, and the first line of its mask.
    #[inline]
    pub fn get_mut(&mut self, at: u32) -> Option<(&mut Entry, &Masked)> {
        let e = self.slots.get_mut(at as usize).filter(|s| s.traversal != NONE)?;
        let mask = &self.tuples.get(usize::from(e.tag[0]))?.mask.base;
        Some((e, mask))
    }

    /// A slot, whether there is a megaflow in it or not.
    pub fn slot_mut(&mut self, at: u32) -> Option<&mut Entry> {
        self.slots.get_mut(at as usize)
    }

    /// The first line of an entry's mask.
    pub fn mask_of(&self, e: &Entry) -> &Masked {
        self.tuples.get(usize::from(e.tag[0])).map_or(&[u64::MAX; 5], |t| &t.mask.base)
    }

    /// Puts the masks that answered most first; to be called now and then.
    pub fn rank(&mut self) {
        let tuples = &mut self.tuples;
        self.order.sort_unstable_by_key(|p| u32::MAX - tuples[*p as usize].hits);
        tuples.iter_mut().for_each(|t| t.hits /= 2);
    }
}

/// Where a new megaflow goes.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub at: u32,
    tuple: u8,
    /// Of an answer: the state, and the gist of mark and label.
    kind: [u8; 2],
    base: Masked,
    lines: Lines,
}

/// Whether this is a megaflow of the mask at this place, with this value in the first line.
#[inline]
fn is_of(e: &Entry, place: u8, masked: &Masked) -> bool {
    let differs = e.key.iter().zip(masked).fold(0, |d, (a, b)| d | (a ^ b));
    e.traversal != NONE && e.tag[0] == place && differs == 0
}

/// What tells most marks and labels apart; the guards do the rest.
#[inline]
fn gist((mark, label): (u32, u128), (mark_mask, label_mask): (u32, u128)) -> u8 {
    if mark_mask == 0 && label_mask == 0 {
        return 0;
    }
    let label = label & label_mask;
    let word = u64::from(mark & mark_mask) ^ label as u64 ^ ((label >> 64) as u64).rotate_left(29);
    (fold(word ^ 0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03) >> 56) as u8
}

#[inline]
fn salt(seed: u64, tuple: u8, [state, gist]: [u8; 2]) -> u64 {
    seed ^ (u64::from(gist) << 16 | u64::from(state) << 8 | u64::from(tuple))
}

#[inline]
fn hash_base(k: &Masked, seed: u64) -> u64 {
    let h = fold(k[0] ^ seed, k[1] ^ 0x9e37_79b9_7f4a_7c15)
        ^ fold(k[2] ^ seed.rotate_left(21), k[3] ^ 0xd1b5_4a32_d192_ed03);
    fold(h ^ seed, k[4] ^ 0x94d0_49bb_1331_11eb)
}

fn hash_lines(h: u64, lines: &Lines) -> u64 {
    let words = lines.iter().flatten();
    words.fold(h, |h, w| fold(h ^ w, 0x2545_f491_4f6c_dd1d) ^ h.rotate_left(9))
}

const _: () = assert!(MEGAFLOW_MASKS <= u8::MAX as usize, "a mask's place is a byte");
const _: () = assert!(size_of::<KeyBase>() == size_of::<Masked>());

#[cfg(test)]
mod tests;
