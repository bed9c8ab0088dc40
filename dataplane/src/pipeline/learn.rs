//! `learn` and `fin_timeout` as the walk runs them: what a packet does to flows.
//!
//! **learn.** The flow is looked for in its table. If it is there as it would be learned, it is
//! credited as young ("learned again") by this packet and, out of the cache, by all later ones; a
//! program without it makes the cached walk stale. If not, control is told, once per flow until it
//! has taken its events, and the walk is not kept. What shadows the flow (a flow of higher priority
//! for the very same packet) hides it from this look: then control is told each time, finds the
//! flow and refreshes it.
//!
//! Open vSwitch adds the flow before the next packet; here it is there when control has added it,
//! some milliseconds later.

use super::miss::{Event, Walk};
use crate::action::learn::{Learn, is_learned, place};
use crate::cache::traversal::Item;
use crate::counters::Stat;

const FIN: u16 = 1;
const RST: u16 = 4;
const TCP: u8 = 6;

impl<'w> Walk<'_, 'w> {
    #[inline(never)]
    pub(super) fn learn_flow(&mut self, learn: &'w Learn) {
        let known = self.already(learn);
        self.seen.learn(learn, &self.key, known.is_some());
        match known {
            Some(number) => self.credit(Item::Learned(number)),
            None => {
                self.rec.cacheable = false;
                self.ask_for(learn);
            }
        }
        if let Some(dst) = learn.result {
            let room = self.rule.is_none_or(|r| !r.stats.is_learn_full());
            let is_there = known.is_some() || learn.limit == 0 || room;
            dst.set(&mut self.key, is_there.into());
        }
    }

    /// Number of the flow that would be learned, if it is there.
    fn already(&mut self, learn: &Learn) -> Option<u32> {
        self.note_table(learn.table);
        let m = learn.matching(&self.key);
        let table = self.bridge.tables.get(usize::from(learn.table))?.as_ref()?;
        let number = table.lookup(&m.value)?;
        let rule = self.program.rules.get(number)?;
        let same = rule.priority == learn.priority
            && *rule.matching.mask() == m.mask
            && rule.matching.value() == m.value
            && is_learned(learn, &self.key, rule.cookie, rule.actions.spelled_out());
        same.then_some(number)
    }

    fn ask_for(&mut self, learn: &Learn) {
        let Some(rule) = self.rule.filter(|_| !self.dry) else { return };
        let Some(nth) = place(&rule.actions, learn) else { return };
        let hash = learn.hash(&self.key) ^ u64::from(self.bridge_ix) << 1;
        let (bridge, key) = (self.bridge_ix, self.key);
        let event = || Event::Learn { bridge, rule: rule.clone(), nth, key };
        match self.world.events.tell_once(hash, event) {
            Some(true) => self.count(Stat::LearnsTold),
            Some(false) => self.count(Stat::LearnsLost),
            None => {}
        }
    }

    /// A packet that ends its connection shortens the life of the flow that it meets.
    pub(super) fn fin_timeout(&mut self, idle_s: u16, hard_s: u16) {
        let base = &self.packet.key.base;
        let ends = base.ip_proto == TCP && u16::from_be_bytes(base.tcp_flags) & (FIN | RST) != 0;
        if let Some(rule) = self.rule.filter(|_| ends && !self.dry) {
            rule.stats.reduce_timeouts(idle_s, hard_s);
        }
    }
}
