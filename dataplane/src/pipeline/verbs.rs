//! The action list: one exhaustive match.
//!
//! Resubmits nest on the stack, 4096 of them at worst, so what they pass through (`list`, `action`)
//! keeps its frame small: the verbs that need room are functions of their own.

use super::miss::{Flow, Stop, Walk};
use crate::action::step::Step;
use crate::action::{Action, Sample, Set, SetOwn};
use crate::counters::Drop;
use crate::limits::DEPTH_MAX;
use crate::packet::field::{Prereq, Subfield, prereq_met};
use crate::packet::key::VLAN_PRESENT;

impl<'w> Walk<'_, 'w> {
    /// Runs a list to its end.
    pub(super) fn list(&mut self, actions: &'w [Action]) -> Flow {
        let mut rest = actions.iter();
        while let Some(a) = rest.next() {
            match self.action(a) {
                Ok(()) => {}
                Err(Stop::List) => break,
                Err(Stop::Pause) => return self.leave(rest.as_slice()),
                stop => return stop,
            }
        }
        Ok(())
    }

    pub(super) fn action(&mut self, a: &'w Action) -> Flow {
        if self.before.borne() > 0 {
            self.note_turned(a);
        }
        match a {
            Action::Output(number) => self.output(*number, false),
            Action::OutputOwn(at) => self.output(self.own_value(*at) as u32, false),
            Action::InPort => self.output(self.key.in_port, true),
            Action::Flood => self.flood(true),
            Action::All => self.flood(false),
            Action::Normal => self.normal(),
            Action::Set(s) => {
                self.set(s);
                Ok(())
            }
            Action::SetOwn(own) => {
                self.set_own(own);
                Ok(())
            }
            Action::Move { src, src_prereq, dst, dst_prereq } => {
                self.copy_field((*src, *src_prereq), (*dst, *dst_prereq));
                Ok(())
            }
            Action::ModVlan { vid, pcp } => {
                self.mod_vlan(*vid, *pcp);
                Ok(())
            }
            Action::PushVlan { tpid } => {
                self.push_vlan(*tpid);
                Ok(())
            }
            Action::PopVlan => {
                self.pop_vlan();
                Ok(())
            }
            Action::DecTtl => self.dec_ttl(&[0]),
            Action::DecTtlFor(controllers) => self.dec_ttl(controllers),
            Action::Resubmit { in_port, table, with_ct: false } => {
                self.resubmit(*in_port, table.unwrap_or(self.table))
            }
            Action::Resubmit { in_port, table, with_ct: true } => {
                self.resubmit_tracked(*in_port, table.unwrap_or(self.table))
            }
            Action::Goto(table) => self.resubmit(None, *table),
            Action::Ct(ct) => self.ct(ct),
            Action::CtClear => {
                self.untrack();
                Ok(())
            }
            Action::CheckPktLarger { len, dst } => {
                self.is_larger(*len, *dst);
                Ok(())
            }
            Action::Clone(list) => self.clone_of(list),
            Action::Exit => Err(Stop::Exit),
            more => self.more(more),
        }
    }

    /// The verbs that nest no resubmits.
    #[inline(never)]
    fn more(&mut self, a: &'w Action) -> Flow {
        match a {
            Action::OutputField(src) => return self.output_number(src.get(&self.key)),
            Action::OutputTruncated { port, max_len } => {
                return self.output_truncated(*port, *max_len);
            }
            Action::Enqueue { port, queue } => return self.enqueue(*port, *queue),
            Action::SetQueue(queue) => self.queue = Some(*queue),
            Action::PopQueue => self.queue = None,
            Action::Push { src, zeros } => return self.push(*src, *zeros),
            Action::Pop { dst, prereq, skip } => self.pop((*dst, *prereq), *skip),
            Action::Group(id) => return self.group(*id),
            Action::Meter(id) => return self.meter(*id),
            Action::Learn(learn) => self.learn_flow(learn),
            Action::Multipath(m) => self.multipath(m),
            Action::Bundle(b) => return self.bundle(b),
            Action::Controller(c) => return self.controller(c),
            Action::Sample(sample) => return self.sample(sample),
            Action::WriteActions(_) => return self.write_actions(a),
            Action::ClearActions => self.clear_actions(),
            Action::WriteMetadata { value, mask } => {
                self.key.metadata = self.key.metadata & !mask | value & mask;
            }
            Action::PushMpls(eth_type) => return self.push_mpls(*eth_type),
            Action::PopMpls(eth_type) => return self.pop_mpls(*eth_type),
            Action::SetMplsTtl(ttl) => self.set_mpls_ttl(*ttl),
            Action::DecMplsTtl => return self.dec_mpls_ttl(),
            Action::DeleteField(field) => self.delete_field(*field),
            Action::FinTimeout { idle_s, hard_s } => self.fin_timeout(*idle_s, *hard_s),
            // Those that `action` runs itself.
            Action::Output(_)
            | Action::OutputOwn(_)
            | Action::InPort
            | Action::Flood
            | Action::All
            | Action::Normal
            | Action::Set(_)
            | Action::SetOwn(_)
            | Action::Move { .. }
            | Action::ModVlan { .. }
            | Action::PushVlan { .. }
            | Action::PopVlan
            | Action::DecTtl
            | Action::DecTtlFor(_)
            | Action::Resubmit { .. }
            | Action::Goto(_)
            | Action::Ct(_)
            | Action::CtClear
            | Action::CheckPktLarger { .. }
            | Action::Clone(_)
            | Action::Exit => {}
        }
        Ok(())
    }

    /// A meter that is not there lets all pass, as in Open vSwitch.
    fn meter(&mut self, id: u32) -> Flow {
        self.seen.meter(id);
        if !self.bridge.meters.contains_key(&id) {
            return Ok(());
        }
        self.room()?;
        self.metered = true;
        self.rec.steps.push(Step::Meter { bridge: self.bridge_ix, skip: u16::MAX, id });
        Ok(())
    }

    fn sample(&mut self, s: &Sample) -> Flow {
        self.room()?;
        self.rec.steps.push(Step::Sample(s.probability));
        Ok(())
    }

    /// Runs a list whose changes do not come back; it deepens, as it keeps a key on the stack. Only
    /// `exit` and errors end what led here too (so does Open vSwitch); a pause concerns the clone
    /// alone.
    #[inline(never)]
    fn clone_of(&mut self, list: &'w [Action]) -> Flow {
        if self.depth >= DEPTH_MAX {
            return Err(Stop::Error(Drop::ResubmitDepth));
        }
        let (kept, scope) = (self.keep()?, self.open_scope());
        self.depth += 1;
        let end = self.list(list);
        let end = self.conclude(end);
        self.depth -= 1;
        self.restore(&kept);
        self.close_scope(&scope)?;
        end
    }

    /// A value beside the list of the rule that is run.
    #[inline]
    fn own_value(&self, at: u8) -> u64 {
        self.owner().map_or(0, |r| r.actions.value(at))
    }

    #[inline(never)]
    fn set_own(&mut self, own: &SetOwn) {
        if prereq_met(own.prereq, &self.key) {
            let set = own.with(self.own_value(own.at));
            set.dst.set_masked(&mut self.key, set.value, set.mask);
        }
    }

    #[inline(never)]
    fn set(&mut self, s: &Set) {
        if prereq_met(s.prereq, &self.key) {
            s.dst.set_masked(&mut self.key, s.value, s.mask);
        }
    }

    #[inline(never)]
    fn copy_field(&mut self, src: (Subfield, Prereq), dst: (Subfield, Prereq)) {
        if prereq_met(src.1, &self.key) && prereq_met(dst.1, &self.key) {
            let v = src.0.get(&self.key);
            dst.0.set(&mut self.key, v);
        }
    }

    fn mod_vlan(&mut self, vid: Option<u16>, pcp: Option<u8>) {
        let k = &mut self.key;
        if k.vlan_tci & VLAN_PRESENT == 0 {
            k.vlan_tci = VLAN_PRESENT;
            // A tag that a write to `vlan_tci` took away leaves its type behind (Open vSwitch).
            k.vlan_tpid = if k.vlan_tpid == 0 { 0x8100 } else { k.vlan_tpid };
        }
        if let Some(v) = vid {
            k.vlan_tci = (k.vlan_tci & !0x0fff) | (v & 0x0fff);
        }
        if let Some(p) = pcp {
            k.vlan_tci = (k.vlan_tci & !0xe000) | (u16::from(p & 7) << 13);
        }
    }

    /// A TTL that would reach zero ends this list, and only this list (Open vSwitch: "stop
    /// processing for current table").
    fn dec_ttl(&mut self, controllers: &[u16]) -> Flow {
        if !matches!(self.key.eth_type, 0x0800 | 0x86dd) {
            return Ok(());
        }
        if self.key.ip_ttl <= 1 {
            self.drop_copy(Drop::TtlExpired);
            self.tell_ttl(controllers)?;
            return Err(Stop::List);
        }
        self.key.ip_ttl -= 1;
        Ok(())
    }

    /// Open vSwitch compares the frame without its VLAN tags; the walk may have added or taken
    /// one, which does not count.
    #[inline(never)]
    fn is_larger(&mut self, len: u16, dst: Subfield) {
        let at = len.saturating_add(if self.packet.key.base.vlan_tci == [0, 0] { 0 } else { 4 });
        let larger = self.len_untagged > usize::from(len);
        if larger {
            self.rec.len_min = self.rec.len_min.max(at.saturating_add(1));
        } else {
            self.rec.len_max = self.rec.len_max.min(at);
        }
        dst.set(&mut self.key, u128::from(larger));
    }
}
