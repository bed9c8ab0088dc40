//! What `controller(pause)` keeps of a walk (ovs-actions(7) "continuation", NXT_RESUME).
//!
//! **What pauses** is one copy of the packet: what the bridge's pipeline would still do with it. A
//! clone, a bucket, the far side of a cable and the fork of `ct` are copies of their own, so what
//! led to them goes on at once (Open vSwitch `finish_freezing`).
//!
//! **A program with pauses that are resumed is the program without them.** Open vSwitch wants that
//! too, and misses it in three places where this does not follow: a pause in a clone ends the lists
//! around the clone; what is left of a bucket runs the action set of what the group is part of,
//! which runs it as well; and a set that leads to a pause runs what was written on the way there.
//! (What a table writes behind a pause that a bucket led to, both run at the end of that copy.)
//!
//! **How.** The walk unwinds. Each list that it comes through on the way up leaves a [`Frame`]:
//! what follows in it, which is a rule (counted) and two numbers, for a list of actions is a part
//! of some rule's. A bucket leaves none, for what nests is the last of it. At the end of the copy
//! the frames are a continuation; resuming runs them one after another, innermost first
//! (`resume`). All else that later actions can see is copied: key, stack, action set, queue.
//!
//! **Whose it is.** A worker keeps nothing. The continuation goes to control with the packet, in a
//! buffer made at the start, and comes back with it; so control bounds how many wait, and for how
//! long. A rule that a continuation names lives as long as it does, whatever becomes of its table:
//! lists are run as they were, lookups meet what is there by then (as in Open vSwitch).

use super::commit::Payload;
use super::connect::Translated;
use super::help::AlgEdits;
use super::miss::{Flow, Stop, Walk};
use super::punt::Punt;
use super::rule::Rule;
use super::set::Written;
use crate::action::{Action, Ct};
use crate::counters::Drop;
use crate::limits::{
    ACTION_SETS_MAX, FROZEN_LISTS_MAX, FROZEN_STACK_MAX_BYTES, RECORDED_PUNTS_MAX,
};
use crate::packet::key::{FlowKey, Mask, TUN_METADATA_BYTES};
use crate::packet::parse::Layers;
use crate::tunnel::TlvMap;
use std::ops::Range;
use std::sync::Arc;

/// What may be changed of a paused packet besides its bytes: registers, and what tells where it
/// came from. (Connection state is for connection tracking to say.)
pub const METADATA: Mask = Mask {
    xxreg: [u128::MAX; 4],
    metadata: u64::MAX,
    pkt_mark: u32::MAX,
    in_port: u32::MAX,
    tun_id: u64::MAX,
    tun_src: u32::MAX,
    tun_dst: u32::MAX,
    tun_ipv6_src: u128::MAX,
    tun_ipv6_dst: u128::MAX,
    tun_metadata: [u8::MAX; TUN_METADATA_BYTES],
    tun_present: u16::MAX,
    tun_flags: u16::MAX,
    tun_tos: u8::MAX,
    tun_ttl: u8::MAX,
    ..Mask::ZERO
};

/// What is left of a list.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    /// The rule that the list is a part of.
    pub rule: Arc<Rule>,
    /// Which of its lists ([`list_of`]), and the first action that is left.
    list: u32,
    next: u32,
    /// The rule is a packet-out's: no flow that is met.
    pub is_sent: bool,
}

impl Frame {
    /// The actions that are left.
    pub fn actions(&self) -> &[Action] {
        list_of(&self.rule.actions, self.list)
            .and_then(|l| l.get(self.next as usize..))
            .unwrap_or(&[])
    }
}

/// A list of an action set.
#[derive(Clone, Debug)]
struct FrozenWrite {
    rule: Arc<Rule>,
    /// Which action of the rule: the number of the list that it writes.
    list: u32,
}

/// The parts of a copy's state that are of one size.
#[derive(Clone, Debug)]
pub(super) struct State {
    /// The packet's bytes as they are, and as flows see them.
    pub base: FlowKey,
    pub key: FlowKey,
    pub payload: Payload,
    /// Where the headers are in the bytes.
    pub layers: Layers,
    /// As `Walk` has them.
    pub len_untagged: usize,
    pub checksums_good: bool,
    pub bridge: u16,
    pub tlv: Option<Arc<TlvMap>>,
    pub translated: Option<Translated>,
    pub queue: Option<u32>,
    /// The rule whose list the copy is made in, which is the one that its action set tells of; and
    /// whether that is a packet-out's. None: the copy is the packet itself.
    pub maker: Option<(Arc<Rule>, bool)>,
    pub in_set: bool,
    /// The copy's action set is still to be run.
    pub runs_set: bool,
    /// A packet has left already.
    pub has_left: bool,
    /// What is run first.
    pub at: Option<AtCt>,
    /// Tells apart what the copies of one packet wait for.
    pub lineage: u16,
}

/// A `ct` that a fragment waits at, and whose list it is in: the rule, and whether that is a
/// packet-out's.
#[derive(Clone, Debug)]
pub(super) struct AtCt {
    pub ct: Ct,
    pub owner: Option<(Arc<Rule>, bool)>,
    zone: u16,
}

impl State {
    const BLANK: Self = Self {
        base: FlowKey::ZERO,
        key: FlowKey::ZERO,
        payload: Payload { eth_type: 0, shape: 0 },
        layers: Layers { l3: 0, l4: 0, payload: 0, end: 0, flags: 0 },
        len_untagged: 0,
        checksums_good: false,
        bridge: 0,
        tlv: None,
        translated: None,
        queue: None,
        maker: None,
        in_set: false,
        runs_set: false,
        has_left: false,
        at: None,
        lineage: 0,
    };
}

/// A paused copy of a packet without its bytes.
#[derive(Debug)]
pub struct Continuation {
    pub(super) state: State,
    /// Innermost first.
    pub(super) frames: Vec<Frame>,
    set: Vec<FrozenWrite>,
    pub(super) stack: Vec<u8>,
}

impl Default for Continuation {
    /// One that nothing is left of, with room for all that may be.
    fn default() -> Self {
        Self {
            state: State::BLANK,
            frames: Vec::with_capacity(FROZEN_LISTS_MAX),
            set: Vec::with_capacity(ACTION_SETS_MAX),
            stack: Vec::with_capacity(FROZEN_STACK_MAX_BYTES),
        }
    }
}

impl Continuation {
    /// The same, where room is made by use.
    pub(super) fn empty() -> Self {
        let (frames, set, stack) = (Vec::new(), Vec::new(), Vec::new());
        Self { state: State::BLANK, frames, set, stack }
    }

    /// Place of the bridge that it was paused in.
    pub fn bridge(&self) -> u16 {
        self.state.bridge
    }

    /// Writes bits of [`METADATA`].
    pub fn set_metadata(&mut self, value: &FlowKey, mask: &Mask) {
        let (key, mask) = (&mut self.state.key, METADATA.and(mask));
        let bits = value.words().iter().zip(mask.words());
        for (word, (v, m)) in key.words_mut().iter_mut().zip(bits) {
            *word = *word & !m | v & m;
        }
    }

    pub(super) fn checksums_good(&self) -> bool {
        self.state.checksums_good
    }

    /// The action set, in the order written.
    pub(super) fn written(&self) -> impl Iterator<Item = Written<'_>> {
        self.set.iter().filter_map(|w| {
            let action = write_of(&w.rule.actions, w.list)?;
            Some(Written { action, rule: &w.rule })
        })
    }

    /// Lets go of what is shared.
    pub(super) fn clear(&mut self) {
        self.frames.clear();
        self.set.clear();
        self.stack.clear();
        (self.state.tlv, self.state.maker, self.state.at) = (None, None, None);
    }

    fn fill(&mut self, halt: &Halt, from: &Punts, (key, layers): (&FlowKey, Layers)) {
        self.clear();
        self.state = State { key: *key, layers, ..halt.state.clone() };
        self.frames.extend_from_slice(from.frames.get(halt.frames.clone()).unwrap_or(&[]));
        self.set.extend_from_slice(from.set.get(halt.set.clone()).unwrap_or(&[]));
        self.stack.extend_from_slice(from.stack.get(halt.stack.clone()).unwrap_or(&[]));
    }
}

/// What a copy that pauses has to do with the action set in force.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Left {
    /// It runs the set at its end.
    Whole,
    /// The set is another copy's; it runs what it will write itself.
    Later,
    /// The set has been run, or led here.
    None,
}

/// One pause of a walk. Its parts lie in [`Punts`].
#[derive(Debug)]
struct Halt {
    punt: usize,
    /// The walk still unwinds.
    is_open: bool,
    state: State,
    frames: Range<usize>,
    set: Range<usize>,
    stack: Range<usize>,
}

/// What a walk has for controllers, and what its pauses keep.
#[derive(Debug)]
pub struct Punts {
    list: Vec<Punt>,
    halts: Vec<Halt>,
    frames: Vec<Frame>,
    set: Vec<FrozenWrite>,
    stack: Vec<u8>,
    /// What helpers write into the packet.
    pub(super) edits: AlgEdits,
}

impl Default for Punts {
    fn default() -> Self {
        Self {
            list: Vec::with_capacity(RECORDED_PUNTS_MAX),
            halts: Vec::with_capacity(RECORDED_PUNTS_MAX),
            frames: Vec::with_capacity(FROZEN_LISTS_MAX),
            set: Vec::with_capacity(ACTION_SETS_MAX),
            stack: Vec::with_capacity(FROZEN_STACK_MAX_BYTES),
            edits: AlgEdits::default(),
        }
    }
}

impl Punts {
    pub(super) fn clear(&mut self) {
        self.edits.clear();
        self.truncate(0);
        self.frames.clear();
        self.set.clear();
        self.stack.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn get(&self, at: usize) -> Option<&Punt> {
        self.list.get(at)
    }

    pub(super) fn push(&mut self, punt: Punt) {
        self.list.push(punt);
    }

    /// Takes back all but the first `len`.
    pub(super) fn truncate(&mut self, len: usize) {
        self.list.truncate(len);
        self.halts.retain(|h| h.punt < len);
    }

    /// Writes what is left behind a pause. False: nothing was kept of it.
    pub(super) fn freeze(&self, at: usize, layers: Layers, into: &mut Continuation) -> bool {
        let Some(halt) = self.halts.iter().find(|h| h.punt == at && !h.is_open) else {
            return false;
        };
        let Some(punt) = self.list.get(at) else { return false };
        into.fill(halt, self, (&punt.key, layers));
        true
    }

    /// What a fragment waits for, if the punt is one that waits: a zone's `ct`, the bridge, and
    /// which of the packet's copies it is.
    pub(super) fn waits(&self, at: usize) -> Option<(u16, (u16, u16))> {
        let state = &self.halts.iter().find(|h| h.punt == at)?.state;
        Some((state.at.as_ref()?.zone, (state.bridge, state.lineage)))
    }

    fn open(&mut self) -> Option<&mut Halt> {
        self.halts.last_mut().filter(|h| h.is_open)
    }

    /// The pause cannot be kept: an error, which voids all actions.
    fn give_up(&mut self) -> Flow {
        if self.open().is_some() {
            self.halts.pop();
        }
        Err(Stop::Error(Drop::PauseTooLarge))
    }
}

impl<'w> Walk<'_, 'w> {
    /// Pauses this copy of the packet, which is told as the last punt.
    #[cold]
    #[inline(never)]
    pub(super) fn halt(&mut self, at: Option<AtCt>) -> Flow {
        let state = State {
            base: self.base,
            payload: self.payload,
            len_untagged: self.len_untagged,
            checksums_good: self.packet.checksums_good,
            bridge: self.bridge_ix,
            tlv: Some(self.bridge.tlv.clone()),
            translated: self.translated,
            queue: self.queue,
            in_set: self.in_set,
            has_left: self.rec.outputs > 1 || self.has_left,
            at,
            // Fragments that walk alike pause alike.
            lineage: self.lineage.wrapping_mul(31).wrapping_add(self.punts.halts.len() as u16),
            ..State::BLANK
        };
        let punts = &mut *self.punts;
        let stack = self.rec.stack.get(self.stack_base..).unwrap_or(&[]);
        if punts.stack.len() + stack.len() > FROZEN_STACK_MAX_BYTES {
            return punts.give_up();
        }
        let (frames, first, set) = (punts.frames.len(), punts.stack.len(), punts.set.len());
        punts.stack.extend_from_slice(stack);
        for w in self.set.written() {
            let list = number_of(&w.rule.actions, |l| is_same(l, w.list()));
            let Some(list) = list.filter(|_| punts.set.len() < ACTION_SETS_MAX) else {
                return punts.give_up();
            };
            punts.set.push(FrozenWrite { rule: w.rule.clone(), list });
        }
        punts.halts.push(Halt {
            punt: punts.list.len() - 1,
            is_open: true,
            state,
            frames: frames..frames,
            set: set..punts.set.len(),
            stack: first..punts.stack.len(),
        });
        Err(Stop::Pause)
    }

    /// The same in front of a `ct`.
    pub(super) fn halt_at_ct(&mut self, ct: &Ct, zone: u16) -> Flow {
        let owner = self.owner().map(|rule| (rule.clone(), self.rule.is_none()));
        self.halt(Some(AtCt { ct: ct.clone(), owner, zone }))
    }

    /// A paused walk comes through a list of which this is left.
    #[cold]
    #[inline(never)]
    pub(super) fn leave(&mut self, rest: &'w [Action]) -> Flow {
        let (owner, is_sent) = (self.owner(), self.rule.is_none());
        if rest.is_empty() || self.punts.open().is_none() {
            return Err(Stop::Pause);
        }
        let Some(rule) = owner else { return self.punts.give_up() };
        let list = number_of(&rule.actions, |l| {
            l.len() >= rest.len() && std::ptr::eq(l.as_ptr_range().end, rest.as_ptr_range().end)
        });
        let whole = list.and_then(|n| Some((n, list_of(&rule.actions, n)?.len())));
        let Some((list, len)) = whole else { return self.punts.give_up() };
        let (rule, next) = (rule.clone(), (len - rest.len()) as u32);
        self.keep_frame(Frame { rule, list, next, is_sent })
    }

    /// Adds to what is left, from the inside out.
    pub(super) fn keep_frame(&mut self, frame: Frame) -> Flow {
        let punts = &mut *self.punts;
        if punts.frames.len() >= FROZEN_LISTS_MAX {
            return punts.give_up();
        }
        if punts.open().is_some() {
            punts.frames.push(frame);
        }
        Err(Stop::Pause)
    }

    /// A paused walk has come to the beginning of the copy: what is left of it waits from now on.
    #[cold]
    #[inline(never)]
    pub(super) fn freeze(&mut self, set: Left) -> Flow {
        let runs_set = match set {
            Left::Whole => true,
            Left::Later => !self.in_set,
            Left::None => false,
        };
        let maker = self.owner().map(|rule| (rule.clone(), self.rule.is_none()));
        let punts = &mut *self.punts;
        let end = punts.frames.len();
        if let Some(halt) = punts.open() {
            halt.is_open = false;
            halt.frames.end = end;
            (halt.state.runs_set, halt.state.maker) = (runs_set, maker);
            if set != Left::Whole {
                halt.set.end = halt.set.start;
            }
        }
        Ok(())
    }
}

fn is_same(a: &[Action], b: &[Action]) -> bool {
    std::ptr::eq(a, b)
}

/// The number of the first list of a rule that is wanted: 0 is the whole, then come those that
/// clones and `write_actions` hold, in the order of the text.
fn number_of(whole: &[Action], mut is_it: impl FnMut(&[Action]) -> bool) -> Option<u32> {
    find(whole, &mut |_, list| is_it(list), &mut 0).map(|(at, _)| at)
}

/// The list of this number.
fn list_of(whole: &[Action], number: u32) -> Option<&[Action]> {
    find(whole, &mut |at, _| at == number, &mut 0).map(|(_, list)| list)
}

fn find<'a>(
    list: &'a [Action],
    is_it: &mut dyn FnMut(u32, &[Action]) -> bool,
    next: &mut u32,
) -> Option<(u32, &'a [Action])> {
    let at = *next;
    *next += 1;
    if is_it(at, list) {
        return Some((at, list));
    }
    list.iter().find_map(|a| match a {
        Action::Clone(inner) | Action::WriteActions(inner) => find(inner, is_it, next),
        _ => None,
    })
}

/// The action that writes the list of this number.
fn write_of(whole: &[Action], number: u32) -> Option<&Action> {
    let wanted = list_of(whole, number)?;
    writer(whole, wanted)
}

fn writer<'a>(list: &'a [Action], wanted: &[Action]) -> Option<&'a Action> {
    list.iter().find_map(|a| match a {
        Action::WriteActions(inner) if is_same(inner, wanted) => Some(a),
        Action::WriteActions(inner) | Action::Clone(inner) => writer(inner, wanted),
        _ => None,
    })
}
