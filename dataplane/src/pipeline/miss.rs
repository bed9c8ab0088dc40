//! Tier 3: one packet walks the tables.
//!
//! The walk works on a flow key and leaves a `Recording`: guards, steps, rules met. It touches
//! no byte of the packet. Two things do happen while it walks, because later tables need their
//! outcome: connection tracking (lookup, commit) and MAC learning.
//!
//! **Bounds** (`limits.rs`), as in Open vSwitch: 64 nested resubmits, where going forward in the
//! tables does not deepen; 4096 resubmits in all. Beyond, *all* actions of the packet are
//! discarded, also outputs recorded before.
//!
//! **Forks.** A patch port, `ct(table=)` and `resubmit` all run something and come back. What
//! comes back differs: `resubmit` keeps all changes and errors; `ct(table=)` keeps none but the
//! translation, which is of the bytes alone (`veil`); a patch port keeps none.
//!
//! **in_port.** It is a field like others, and `output`, NORMAL and FLOOD go by its present value,
//! as in Open vSwitch: a flow that sets it to NONE may send a packet back where it came from. The
//! in_port that a `resubmit` gives holds for that one lookup.

use super::commit::Payload;
use super::connect::Translated;
pub use super::events::Event;
use super::hold::Datagram;
use super::veil::Veil;
use super::world::{Subject, World};
use crate::action::step::Step;
use crate::cache::recording::Recording;
use crate::cache::traversal::Item;
use crate::counters::{Drop, Stat};
use crate::limits::{
    DEPTH_MAX, OUTPUTS_MAX, RECORDED_DROPS_MAX, RECORDED_STEPS_MAX, RESUBMITS_MAX,
    TRAVERSAL_CREDITS_MAX, TRAVERSAL_GUARDS_MAX,
};
use crate::packet::key::{FRAG_ANY, FlowKey};
use crate::pipeline::delta::{Dirty, table_bit};
use crate::pipeline::freeze::Punts;
use crate::pipeline::keymask;
use crate::pipeline::program::{Bridge, Program};
use crate::pipeline::rule::Rule;
use crate::pipeline::set::ActionSet;
use crate::pipeline::trace::{Depends, Observer, Silent};
use crate::pipeline::tracked::Before;
use std::sync::Arc;

/// Why the rest of a walk does not happen.
pub(super) enum Stop {
    /// This list is over.
    List,
    /// This list is over, and all that led to it.
    Exit,
    /// The walk unwinds to the beginning of this copy of the packet, to go on another time.
    Pause,
    /// All actions of the packet are void.
    Error(Drop),
}

pub(super) type Flow = Result<(), Stop>;

/// Steps that one `commit` and the output behind it add at most.
const COMMIT_STEPS_MAX: usize = 24;

/// One walk.
pub struct Walk<'a, 'w> {
    pub(super) world: &'a mut World<'w>,
    pub(super) program: &'w Program,
    pub(super) packet: Subject<'a>,
    pub(super) rec: &'a mut Recording,
    pub(super) punts: &'a mut Punts,
    pub(super) seen: &'a mut dyn Observer,
    pub(super) bridge: &'w Bridge,
    pub(super) bridge_ix: u16,
    /// The packet as it came, and the bridge it came to.
    pub(super) own: FlowKey,
    own_bridge: u16,
    /// The packet's bytes after the steps so far.
    pub(super) base: FlowKey,
    /// The packet as flows see it.
    pub(super) key: FlowKey,
    /// What keeps translations from them.
    pub(super) veil: Option<Veil>,
    /// What is behind all tags and labels.
    pub(super) payload: Payload,
    /// Bytes of tags and labels that the packet came with.
    pub(super) came_with: usize,
    /// Bytes of the packet as it came, without its outer tag.
    pub(super) len_untagged: usize,
    pub(super) table: u8,
    pub(super) depth: u32,
    pub(super) resubmits: u32,
    /// The flow that is run.
    pub(super) rule: Option<&'w Arc<Rule>>,
    /// What is run where no flow is met: a packet-out's actions.
    pub(super) sender: Option<&'w Arc<Rule>>,
    /// Where the present segment of the stack begins.
    pub(super) stack_base: usize,
    pub(super) set: ActionSet<'w>,
    /// Queue that outputs leave by; no device of ours has queues, so it is only shown.
    pub(super) queue: Option<u32>,
    /// The list that is run is a bucket's.
    pub(super) in_bucket: bool,
    /// An action set is being run.
    pub(super) in_set: bool,
    /// What the last `ct(nat)` did, if no other zone was asked since.
    pub(super) translated: Option<Translated>,
    pub(super) before: Before,
    /// The datagram that the packet is a fragment of, once it is whole.
    pub(super) datagram: Option<&'a mut Datagram>,
    /// As `freeze::State` has it; 1 if the packet has not paused.
    pub(super) lineage: u16,
    /// A helper has had the packet.
    pub(super) helped: bool,
    /// The next lookup sees the connection's first packet.
    with_ct: bool,
    /// The present scope has a meter.
    pub(super) metered: bool,
    /// Why nothing came of it, should nothing come of it.
    pub(super) reason: Drop,
    /// The packet has left before it was paused.
    pub(super) has_left: bool,
    /// Nothing outside the walk may change: `trace`.
    pub(super) dry: bool,
}

/// Walks the tables for one packet and leaves the result in `rec`.
pub fn walk(
    world: &mut World<'_>,
    packet: Subject<'_>,
    (rec, punts): (&mut Recording, &mut Punts),
    seen: &mut dyn Observer,
    dry: bool,
) {
    rec.clear();
    punts.clear();
    rec.seen = keymask::always();
    rec.wide = world.wide;
    let program = world.program;
    let Some(port) = program.port(packet.in_port) else {
        rec.steps.push(Step::Drop(Drop::PortBlocked));
        return;
    };
    let Some(bridge) = program.bridges.get(port.bridge as usize) else {
        rec.steps.push(Step::Drop(Drop::PortBlocked));
        return;
    };
    let mut w = Walk::new(world, packet, (rec, punts), seen, (port.bridge, port.number), bridge);
    w.dry = dry;
    w.seen.start(&w.key, &bridge.name);
    let end = w.table(0, port.number);
    let end = w.conclude(end);
    w.finish(end);
    if dry {
        let may_be = w.rec.wide && w.rec.cacheable;
        w.seen.megaflow(&w.own, &w.rec.seen, may_be);
    }
}

/// Runs the actions of `rule`, which need not be in any table, on a packet that comes to its bridge
/// by the port of this number, and leaves the result in `rec`, which is good for this once.
pub(super) fn walk_actions<'w>(
    world: &mut World<'w>,
    packet: Subject<'_>,
    (rec, punts): (&mut Recording, &mut Punts),
    (number, rule): (u32, &'w Arc<Rule>),
) {
    rec.clear();
    punts.clear();
    rec.cacheable = false;
    let Some(bridge) = world.program.bridges.get(usize::from(rule.bridge)) else {
        rec.steps.push(Step::Drop(Drop::PortBlocked));
        return;
    };
    let place = (rule.bridge, number);
    let mut nobody = Silent;
    let mut w = Walk::new(world, packet, (rec, punts), &mut nobody, place, bridge);
    w.sender = Some(rule);
    let end = w.list(&rule.actions);
    let end = w.conclude(end);
    w.finish(end);
}

impl<'a, 'w> Walk<'a, 'w> {
    pub(super) fn new(
        world: &'a mut World<'w>,
        packet: Subject<'a>,
        (rec, punts): (&'a mut Recording, &'a mut Punts),
        seen: &'a mut dyn Observer,
        (bridge_ix, in_port): (u16, u32),
        bridge: &'w Bridge,
    ) -> Self {
        let key = FlowKey::from_packet(packet.key, in_port);
        let (eth_type, shape) = packet.key.innermost();
        let tag = if packet.key.base.vlan_tci == [0, 0] { 0 } else { 4 };
        Walk {
            program: world.program,
            packet,
            rec,
            punts,
            seen,
            bridge,
            bridge_ix,
            own: key,
            own_bridge: bridge_ix,
            base: key,
            key,
            veil: None,
            payload: Payload { eth_type, shape },
            came_with: super::commit::stacked_bytes(&key),
            len_untagged: packet.bytes.len().saturating_sub(tag),
            table: 0,
            depth: 0,
            resubmits: 0,
            rule: None,
            sender: None,
            stack_base: 0,
            set: ActionSet::new(),
            queue: None,
            in_bucket: false,
            in_set: false,
            translated: None,
            before: Before::default(),
            datagram: None,
            lineage: 1,
            helped: false,
            with_ct: false,
            metered: false,
            reason: Drop::NoOutput,
            has_left: false,
            dry: false,
            world,
        }
    }
}

impl<'w> Walk<'_, 'w> {
    /// Ends the walk: cuts what follows the last output, and names the reason if there is none.
    pub(super) fn finish(&mut self, end: Flow) {
        if !self.rec.tracked.is_empty() {
            self.rec.conclude_tracking();
        }
        if let Err(Stop::Error(reason)) = end {
            self.rec.steps.clear();
            self.rec.drops.clear();
            self.punts.clear();
            self.rec.steps.push(Step::Drop(reason));
            self.seen.dropped(reason);
            return;
        }
        let last = self.rec.steps.iter().rposition(Step::is_seen);
        self.rec.steps.truncate(last.map_or(0, |at| at + 1));
        let leaves = self.has_left || self.rec.steps.iter().any(Step::leaves);
        if self.rec.drops.is_empty() && !leaves {
            // Behind a meter, which may give another reason.
            self.rec.steps.push(Step::Drop(self.reason));
            self.seen.dropped(self.reason);
        }
        // The last output takes the frame and ends the run, so what is only counted comes first.
        let rec = &mut *self.rec;
        let drops = rec.drops.len();
        rec.steps.extend(rec.drops.drain(..).map(Step::Drop));
        rec.steps.rotate_right(drops);
        if self.rec.steps.len() > crate::limits::TRAVERSAL_STEPS_MAX
            || self.rec.rules.len() > crate::limits::TRAVERSAL_RULES_MAX
            || self.rec.credits.len() > TRAVERSAL_CREDITS_MAX
        {
            self.rec.cacheable = false;
        }
    }

    /// Looks the key up in a table, with this in_port, and runs what it finds.
    fn table(&mut self, table: u8, in_port: u32) -> Flow {
        self.table = table;
        let bridge: &'w Bridge = self.bridge;
        let own_port = std::mem::replace(&mut self.key.in_port, in_port);
        let with_ct = std::mem::replace(&mut self.with_ct, false);
        if with_ct {
            swap_tuples(&mut self.key);
        }
        let own_ports = (self.key.tp_src, self.key.tp_dst);
        if self.key.ip_frag & FRAG_ANY != 0 {
            // No fragment matches by ports, not even the first (Open vSwitch's `frags=normal`).
            (self.key.tp_src, self.key.tp_dst) = (0, 0);
        }
        self.note_lookup(table);
        let classifier = bridge.tables.get(table as usize).and_then(Option::as_ref);
        let found = match self.world.wide {
            true => classifier.and_then(|t| t.lookup_wild(&self.key, &mut self.rec.seen)),
            false => classifier.and_then(|t| t.lookup(&self.key)),
        };
        self.key.in_port = own_port;
        (self.key.tp_src, self.key.tp_dst) = own_ports;
        if with_ct {
            swap_tuples(&mut self.key);
        }
        if self.dry {
            self.seen.depends(table, Depends::Lookup, &self.rec.seen);
        }
        let Some((number, rule)) = found.and_then(|n| self.rule_of(n)) else {
            self.reason = Drop::NoMatch;
            self.seen.miss(table);
            return Ok(());
        };
        self.rec.rules.push(number);
        if self.world.wide {
            let sees = self.program.rules.add_sees(number, &mut self.rec.seen);
            self.rec.wide &= sees;
            if self.dry {
                self.seen.depends(table, Depends::Actions, &self.rec.seen);
            }
        }
        self.seen.rule(rule, self.depth);
        if rule.actions.is_empty() {
            self.reason = Drop::NoActions;
        }
        let before = self.rule.replace(rule);
        let end = self.list(&rule.actions);
        self.rule = before;
        end
    }

    /// The rule that the list which is run is a part of.
    pub(super) fn owner(&self) -> Option<&'w Arc<Rule>> {
        self.rule.or(self.sender)
    }

    fn rule_of(&self, number: u32) -> Option<(u32, &'w Arc<Rule>)> {
        let program: &'w Program = self.program;
        program.rules.get(number).map(|r| (number, r))
    }

    /// What a change of rules is held against later (`delta`).
    #[inline]
    fn note_lookup(&mut self, table: u8) {
        self.rec.tables |= table_bit(self.bridge_ix, table);
        let mut dirty = Dirty(self.rec.dirty);
        dirty.note(&self.own, &self.key);
        if self.bridge_ix != self.own_bridge {
            dirty.crossed();
        }
        if self.before.shown() > 0 {
            dirty.translated();
        }
        self.rec.dirty = dirty.0;
    }

    /// The same for a lookup of another key than the packet's: any change of the table counts.
    pub(super) fn note_table(&mut self, table: u8) {
        self.rec.tables |= table_bit(self.bridge_ix, table);
        self.rec.dirty = Dirty::ALL.0;
    }

    /// Continues in `table` and comes back, as resubmit and goto do.
    pub(super) fn resubmit(&mut self, in_port: Option<u32>, table: u8) -> Flow {
        self.nest(in_port, table, table <= self.table)
    }

    /// The same for forks and cables, which always deepen: each keeps the key as it was on the
    /// stack.
    pub(super) fn fork(&mut self, table: u8) -> Flow {
        self.nest(None, table, true)
    }

    fn nest(&mut self, in_port: Option<u32>, table: u8, deepens: bool) -> Flow {
        if self.depth >= DEPTH_MAX {
            return Err(Stop::Error(Drop::ResubmitDepth));
        }
        if self.resubmits >= RESUBMITS_MAX {
            return Err(Stop::Error(Drop::ResubmitCount));
        }
        self.resubmits += 1;
        let (from, in_bucket) = (self.table, self.in_bucket);
        self.in_bucket = false;
        self.depth += u32::from(deepens);
        let end = self.table(table, in_port.unwrap_or(self.key.in_port));
        self.depth -= u32::from(deepens);
        (self.table, self.in_bucket) = (from, in_bucket);
        end
    }

    /// The same with the addresses and ports of the connection's first packet in the place of this
    /// one's, for the lookup alone.
    #[inline(never)]
    pub(super) fn resubmit_tracked(&mut self, in_port: Option<u32>, table: u8) -> Flow {
        if !matches!(self.key.eth_type, 0x0800 | 0x86dd) || self.key.ct_nw_proto == 0 {
            self.reason = Drop::NotTracked;
            self.seen.note("resubmit(ct) of a packet that is not tracked: not run");
            return Ok(());
        }
        // What the lookup says of addresses and ports it says of the connection's.
        self.rec.pinned = true;
        self.with_ct = true;
        self.resubmit(in_port, table)
    }

    /// Makes sure that there is room for the steps of a `commit`, and one more.
    pub(super) fn room(&mut self) -> Flow {
        if self.rec.steps.len() + COMMIT_STEPS_MAX >= RECORDED_STEPS_MAX {
            return self.too_much();
        }
        Ok(())
    }

    /// Emits the header changes that are due.
    pub(super) fn commit(&mut self) -> Flow {
        self.room()?;
        self.note_commit();
        if self.veil.is_some() {
            self.commit_veiled();
        } else {
            super::commit::commit(&mut self.base, &self.key, self.payload, &mut self.rec.steps);
        }
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn commit_veiled(&mut self) {
        let Some(veil) = &mut self.veil else { return };
        let lifted = veil.lift(&self.key);
        super::commit::commit(&mut self.base, &lifted, self.payload, &mut self.rec.steps);
        veil.settle(&self.key, &lifted);
    }

    /// Records an output step, for which `commit` made sure there is room.
    pub(super) fn emit(&mut self, step: Step) -> Flow {
        if self.rec.outputs as usize >= OUTPUTS_MAX {
            return self.too_much();
        }
        self.rec.outputs += 1;
        self.rec.steps.push(step);
        self.seen.step(&step);
        Ok(())
    }

    /// The packet's outputs reach a bound: what is recorded leaves, the rest does not.
    pub(super) fn too_much(&mut self) -> Flow {
        self.rec.cacheable = false;
        self.drop_copy(Drop::OutputCount);
        Err(Stop::Exit)
    }

    /// A copy of the packet ends here.
    pub(super) fn drop_copy(&mut self, reason: Drop) {
        self.seen.dropped(reason);
        if self.rec.drops.len() < RECORDED_DROPS_MAX {
            self.rec.drops.push(reason);
            return;
        }
        self.rec.cacheable = false;
        if !self.dry {
            self.world.counters.count_drop(reason);
        }
    }

    /// The outcome rests on this.
    pub(super) fn guard(&mut self, item: Item) {
        if self.rec.guards.len() < TRAVERSAL_GUARDS_MAX {
            self.rec.guards.push(item);
        } else {
            self.rec.cacheable = false;
        }
    }

    /// Something besides rules is to be credited.
    pub(super) fn credit(&mut self, item: Item) {
        if self.rec.credits.len() < self.rec.credits.capacity() {
            self.rec.credits.push(item);
        } else {
            self.rec.cacheable = false;
        }
    }

    pub(super) fn count(&self, stat: Stat) {
        self.world.counters.add(stat, 1);
    }
}

/// Exchanges the packet's addresses and ports with those of its connection's first packet.
#[inline(never)]
fn swap_tuples(k: &mut FlowKey) {
    use std::mem::swap;
    swap(&mut k.ip_proto, &mut k.ct_nw_proto);
    if k.eth_type == 0x0800 {
        swap(&mut k.ip_src, &mut k.ct_nw_src);
        swap(&mut k.ip_dst, &mut k.ct_nw_dst);
    } else {
        swap(&mut k.ipv6_src, &mut k.ct_ipv6_src);
        swap(&mut k.ipv6_dst, &mut k.ct_ipv6_dst);
    }
    swap(&mut k.tp_src, &mut k.ct_tp_src);
    swap(&mut k.tp_dst, &mut k.ct_tp_dst);
}
