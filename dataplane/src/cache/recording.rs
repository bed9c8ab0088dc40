//! What a walk leaves behind before it is kept: the material of a traversal.
//!
//! A walk records which guards its outcome rests on, its steps, the rules to credit, and which
//! bits of the packet it has looked at. Lists have room for the longest walk and are cut at the
//! bounds of `limits.rs`; `Traversals::store` makes records of them.
//!
//! **What is of the connection.** Another packet that takes the walk has a connection of its own.
//! So the recording keeps what each `ct` was told ([`Tracked`]), and once the walk is over what it
//! has looked at of that becomes part of the guards ([`Recording::conclude_tracking`]). A walk that
//! has looked at more, the tuple of its connection or of the translated packet, is *pinned*: it
//! holds for its connections only.

use super::traversal::{Item, NONE, are_of_refused};
use crate::action::step::Step;
use crate::conntrack::{ConnRef, NatRewrite, Tuple};
use crate::counters::Drop;
use crate::limits::{
    RECORDED_DROPS_MAX, RECORDED_STEPS_MAX, RECORDED_TRANSLATIONS_MAX, RESUBMITS_MAX,
    STACK_MAX_BYTES, TRAVERSAL_CONNS_MAX, TRAVERSAL_GUARDS_MAX,
};
use crate::packet::key::{FlowKey, Mask};

/// Bytes of an ICMP error that later connection tracking looks at: 40 of IPv6, 8 of ICMP, 40 and
/// 8 of the quoted packet, and room for options and extension headers. Empty if there is none.
#[derive(Debug)]
pub struct ErrorCopy {
    bytes: [u8; 256],
    len: usize,
}

impl Default for ErrorCopy {
    fn default() -> Self {
        Self { bytes: [0; 256], len: 0 }
    }
}

impl ErrorCopy {
    /// Copies the beginning of `packet`, unless a copy is there already.
    pub fn take(&mut self, packet: &[u8]) -> &mut [u8] {
        if self.len == 0 {
            self.len = packet.len().min(self.bytes.len());
            self.bytes[..self.len].copy_from_slice(&packet[..self.len]);
        }
        &mut self.bytes[..self.len]
    }

    pub fn bytes(&self) -> Option<&[u8]> {
        (self.len > 0).then(|| &self.bytes[..self.len])
    }
}

/// The result of a walk before it is stored. Lists are cut at the bounds of `limits.rs`, and
/// `cacheable` says whether they were.
#[derive(Debug, Default)]
pub struct Recording {
    pub guards: Vec<Item>,
    pub steps: Vec<Step>,
    pub rules: Vec<u32>,
    /// What else is credited: buckets and learned flows.
    pub credits: Vec<Item>,
    /// The packet's stack: values, each with its length behind it.
    pub stack: Vec<u8>,
    /// What `Step::Translate` and `Step::NatIcmpError` refer to.
    pub translations: Vec<NatRewrite>,
    /// An ICMP error from its IP header on, as the translations so far leave it.
    pub error: ErrorCopy,
    /// Copies that could not leave; put before the steps at the end of the walk.
    pub drops: Vec<Drop>,
    pub outputs: u16,
    pub tables: u64,
    pub dirty: u16,
    /// Bits of the packet that the walk depended on.
    pub seen: Mask,
    /// Whether `seen` is all of them.
    pub wide: bool,
    pub len_min: u16,
    pub len_max: u16,
    pub cacheable: bool,
    /// What there is to know of the first `ct`.
    pub question: Option<Question>,
    /// What each `ct` came to, in the order of the guards.
    pub tracked: Vec<Tracked>,
    /// `seen` is of the packet as connections have translated it.
    pub(super) is_of_translated: bool,
    /// The bits of the other one: those of the packet as it came, while `seen` is of the translated
    /// one, and the other way round.
    pub(super) seen_other: Mask,
    /// The walk holds for its connections only.
    pub pinned: bool,
    /// The walk is what becomes of packets whose commit is refused.
    pub is_of_refused: bool,
}

/// What a `ct` of a walk came to.
#[derive(Clone, Copy, Debug)]
pub struct Tracked {
    pub zone: u16,
    pub tuple: Tuple,
    pub conn: Option<ConnRef>,
    pub mark: u32,
    pub label: u128,
}

/// A walk up to its first `ct`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Question {
    pub zone: u16,
    /// The state that was told, or `REFUSED`.
    pub kind: u8,
    pub mark: u32,
    pub label: u128,
    /// Bits of the packet that led there.
    pub seen: Mask,
    pub tables: u64,
    pub dirty: u16,
}

impl Recording {
    /// With room for the longest walk: recording never allocates.
    pub fn new() -> Self {
        Self {
            guards: Vec::with_capacity(TRAVERSAL_GUARDS_MAX),
            steps: Vec::with_capacity(RECORDED_STEPS_MAX + RECORDED_DROPS_MAX),
            rules: Vec::with_capacity(RESUBMITS_MAX as usize + 1),
            credits: Vec::with_capacity(2 * RESUBMITS_MAX as usize),
            stack: Vec::with_capacity(STACK_MAX_BYTES),
            translations: Vec::with_capacity(RECORDED_TRANSLATIONS_MAX),
            drops: Vec::with_capacity(RECORDED_DROPS_MAX),
            tracked: Vec::with_capacity(TRAVERSAL_CONNS_MAX),
            ..Self::default()
        }
    }

    pub fn clear(&mut self) {
        self.guards.clear();
        self.steps.clear();
        self.rules.clear();
        self.credits.clear();
        self.stack.clear();
        self.translations.clear();
        self.error.len = 0;
        self.drops.clear();
        self.outputs = 0;
        self.tables = 0;
        self.dirty = 0;
        self.seen = FlowKey::ZERO;
        self.wide = true;
        self.len_min = 0;
        self.len_max = u16::MAX;
        self.cacheable = true;
        self.question = None;
        self.tracked.clear();
        self.is_of_translated = false;
        self.seen_other = FlowKey::ZERO;
        self.pinned = false;
        self.is_of_refused = false;
    }

    /// From here on the walk looks at the packet as it was translated, or as it came.
    pub fn look_at_translated(&mut self, translated: bool) {
        if self.is_of_translated != translated {
            self.is_of_translated = translated;
            std::mem::swap(&mut self.seen, &mut self.seen_other);
        }
    }

    /// Ends the recording of a walk through connection tracking: what the walk has looked at of its
    /// connections becomes what later packets' connections are held against.
    pub fn conclude_tracking(&mut self) {
        self.look_at_translated(false);
        self.pinned |= looks_at(&self.seen_other, &TUPLE);
        self.seen.or_assign(&self.seen_other);
        if !self.wide {
            // What it has looked at is not known.
            (self.seen.ct_mark, self.seen.ct_label) = (u32::MAX, u128::MAX);
        }
        self.pinned |= !self.wide || looks_at(&self.seen, &ORIGINAL);
        self.wide &= !self.pinned;
        if self.guards.len() + 3 * self.tracked.len() > TRAVERSAL_GUARDS_MAX {
            self.cacheable = false;
            return;
        }
        self.name_what_was_told();
        // Only tier 2 is asked by what became of a commit, and only of a first one.
        let has_place = !self.is_of_refused || self.wide && are_of_refused(&self.guards);
        self.cacheable &= has_place;
    }

    /// Fills in what the walk has looked at of its connections.
    fn name_what_was_told(&mut self) {
        let (seen, pinned) = (self.seen, self.pinned);
        let mut tracked = self.tracked.iter();
        let mut at = 0;
        while let Some(guard) = self.guards.get_mut(at) {
            at += 1;
            let Item::Ct(t) = guard else { continue };
            let Some(told) = tracked.next() else { break };
            (t.mark, t.mark_mask) = (told.mark & seen.ct_mark, seen.ct_mark);
            let (label, mask) = (halves(told.label & seen.ct_label), halves(seen.ct_label));
            if mask[0] != 0 {
                self.guards.insert(at, Item::LabelLow([label[0], mask[0]]));
                at += 1;
            }
            if mask[1] != 0 {
                self.guards.insert(at, Item::LabelHigh([label[1], mask[1]]));
                at += 1;
            }
            if let Some(conn) = told.conn.filter(|_| pinned) {
                self.guards.insert(at, Item::Pin(conn));
                at += 1;
            }
        }
    }

    /// Equal for equal walks.
    pub(super) fn content_hash(&self) -> u64 {
        let mut h = 0x1234_5678_9abc_def0u64;
        let mut mix = |v: u64| h = (h ^ v).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        self.rules.iter().for_each(|r| mix(u64::from(*r)));
        self.steps.iter().for_each(|s| {
            if let Step::Output(p) = s {
                mix(u64::from(p.0) + 7);
            }
        });
        self.guards.iter().for_each(|g| {
            if let Item::Ct(t) = g {
                mix(u64::from(t.zone) << 16 | u64::from(t.state) << 1 | u64::from(t.again));
            }
        });
        mix(self.steps.len() as u64);
        h ^ (h >> 32)
    }

    pub(super) fn items(&self) -> impl Iterator<Item = Item> + '_ {
        let credits = self.rules.chunks(4).map(|c| {
            let mut four = [NONE; 4];
            four[..c.len()].copy_from_slice(c);
            Item::Credit(four)
        });
        let steps = self.steps.iter().map(|s| Item::Do(*s));
        self.guards.iter().copied().chain(steps).chain(credits).chain(self.credits.iter().copied())
    }

    pub(super) fn item_count(&self) -> usize {
        self.guards.len() + self.steps.len() + self.credit_count()
    }

    pub(super) fn credit_count(&self) -> usize {
        self.rules.len().div_ceil(4) + self.credits.len()
    }
}

/// Addresses and ports.
const TUPLE: Mask = FlowKey {
    ip_src: u32::MAX,
    ip_dst: u32::MAX,
    ipv6_src: u128::MAX,
    ipv6_dst: u128::MAX,
    tp_src: u16::MAX,
    tp_dst: u16::MAX,
    ..FlowKey::ZERO
};

/// Those of the connection's first packet.
const ORIGINAL: Mask = FlowKey {
    ct_nw_proto: u8::MAX,
    ct_nw_src: u32::MAX,
    ct_nw_dst: u32::MAX,
    ct_ipv6_src: u128::MAX,
    ct_ipv6_dst: u128::MAX,
    ct_tp_src: u16::MAX,
    ct_tp_dst: u16::MAX,
    ..FlowKey::ZERO
};

/// Low half first.
fn halves(v: u128) -> [u64; 2] {
    [v as u64, (v >> 64) as u64]
}

/// Whether a mask has bits of addresses or ports.
pub fn is_of_tuple(mask: &Mask) -> bool {
    looks_at(mask, &TUPLE)
}

fn looks_at(seen: &Mask, fields: &Mask) -> bool {
    seen.words().iter().zip(fields.words()).any(|(s, f)| s & f != 0)
}
