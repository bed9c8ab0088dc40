//! `ct(...)`: connection tracking as the walk sees it.
//!
//! Header changes made so far are applied first (conntrack looks at what the packet will be),
//! then the connection is looked up and, if asked for, committed, its translation written into the
//! bytes, and, with `table=`, a copy goes on with the connection's state and sees what the packet
//! is by now. Then the original goes on, translated but untracked: connection fields are readable
//! only behind `table=` (Open vSwitch clears them after each `ct`), and so is the translation
//! (`veil`). What goes wrong in the copy ends the copy alone.
//!
//! **Twice in one zone.** `ct(nat,table=1)` and, there, `ct(commit,nat(src=...),table=2)` is how
//! many programs translate: the first serves connections that are known, the second makes new ones.
//! A packet of a connection that nobody has answered yet is new and known: the first translates it,
//! and the second meets it under a tuple that no connection answers to. So the walk remembers what
//! it translated last. In the same zone such a packet is looked up by its tuple of before, and
//! stays `+snat` or `+dnat`; a `ct` of another zone, and a `ct_clear`, forget it (Open vSwitch,
//! `lib/conntrack.c`, looks a translated packet up by the reverse of its tuple).

use super::guards::refusal;
use super::miss::{Flow, Stop, Walk};
use super::veil::Veil;
use crate::action::step::Step;
use crate::action::{Action, Ct, Nat, Zone};
use crate::conntrack::{
    Commit, CtPacket, CtResult, Judged, Kind, NatRewrite, Tuple, ct_state, rewrite_icmp_error,
};
use crate::counters::Drop;
use crate::limits::RECORDED_TRANSLATIONS_MAX;
use crate::packet::field::Field;
use crate::packet::key::{FRAG_LATER, FlowKey, shape};
use crate::packet::l4sum;

/// A translation that the packet bears.
#[derive(Clone, Copy, Debug)]
pub(super) struct Translated {
    zone: u16,
    /// `SNAT` or `DNAT`.
    state: u8,
    from: Tuple,
    to: Tuple,
}

/// What became of a `ct`, for the recording.
pub(super) struct Outcome {
    pub judged: Judged,
    /// State with the bits of the connection's translation, mark and label before a commit.
    pub kind: u8,
    pub told: (u32, u128),
    /// There was a connection before.
    pub was_known: bool,
    pub commit: Option<Commit>,
    pub is_refused: bool,
}

impl Walk<'_, '_> {
    #[inline(never)]
    pub(super) fn ct(&mut self, ct: &Ct) -> Flow {
        if !matches!(self.key.eth_type, 0x0800 | 0x86dd) {
            self.drop_copy(Drop::CtInvalidPacket);
            return Ok(());
        }
        self.commit()?;
        let zone = match ct.zone {
            Zone::Number(n) => n,
            Zone::Field(f) => f.get(&self.key) as u16,
        };
        if self.has_to_wait() {
            return self.hold(ct, zone);
        }
        self.translated = self.translated.filter(|t| t.zone == zone);
        let packet = self.ct_packet(zone);
        let (mut result, outcome) = if self.dry {
            let asks = self.seen.asks_conntrack();
            let told = asks.then(|| self.world.conntrack.peek(&packet, self.world.now));
            (told.unwrap_or_else(|| self.seen.ct(zone, ct, &packet)), None)
        } else if self.datagram.is_some() {
            (self.track_datagram(ct, &packet), None)
        } else {
            let (result, outcome) = self.track(ct, &packet);
            (result, Some(outcome))
        };
        if self.world.conntrack.is_helped(&result) && !self.dry {
            self.help(ct, &packet, &result);
        }
        if ct.alg.is_some() || is_announced(&result) {
            // What the walk goes by is not in the recording.
            self.rec.cacheable = false;
        }
        let before = self.rec.translations.len();
        if ct.nat.is_some() {
            self.translate(&packet, &result)?;
        }
        if let Some(translated) = self.translated
            && result.state & ct_state::INV == 0
        {
            result.state |= translated.state;
        }
        if let Some(outcome) = outcome {
            let turns = self.rec.translations.len() > before;
            self.note_tracked(ct, &packet, (&result, &outcome), turns);
        }
        if let Some(table) = ct.table {
            self.fork_tracked(table, &result, zone)?;
        }
        self.clear_ct();
        Ok(())
    }

    /// A copy goes on in `table` with the connection's state. An error discards all that the copy
    /// did, and nothing else.
    #[inline(never)]
    fn fork_tracked(&mut self, table: u8, result: &CtResult, zone: u16) -> Flow {
        let (kept, scope) = (self.keep()?, self.open_scope());
        self.unveil();
        show(&mut self.key, result, zone);
        let end = self.fork(table);
        let end = self.conclude_fork(end);
        self.restore(&kept);
        if let Err(Stop::Error(reason)) = end {
            self.void_scope(&scope);
            self.drop_copy(reason);
            return Ok(());
        }
        self.close_scope(&scope)
    }

    fn ct_packet(&self, zone: u16) -> CtPacket {
        let p = &self.packet;
        // The payload's, should labels have been before it.
        let mut room = None;
        let (bare, layers) = p.behind_labels(&mut room);
        let (l3, l4_at) = (usize::from(layers.l3), usize::from(layers.l4));
        let l4 = match (p.layers.l4, self.rec.error.bytes()) {
            (0, _) => &[],
            (_, Some(translated)) => translated.get(l4_at - l3..).unwrap_or(&[]),
            _ => p.bytes.get(l4_at..usize::from(p.layers.end).min(p.bytes.len())).unwrap_or(&[]),
        };
        let lifted = self.veil.as_ref().map(|v| v.lift(&self.key));
        let key = lifted.as_ref().unwrap_or(&self.key);
        let mut packet = match self.whole_packet(key, zone) {
            Some(whole) => whole,
            None => CtPacket::from_key(key, l4, zone),
        };
        packet.checksum_ok &= p.checksums_good || l4sum::checksums_ok(p.bytes, &layers, bare);
        // What `pop_mpls` has called by a wrong name is none either.
        if self.payload.shape & shape::L3_VALID == 0 || self.key.l3_lost != 0 {
            // Cut, or otherwise no IP packet: its addresses are not to be believed.
            packet.kind = Kind::Invalid;
        }
        let known = self.translated.filter(|t| t.to == packet.tuple);
        packet.tuple = known.map_or(packet.tuple, |t| t.from);
        packet
    }

    /// Looks up and commits, for real.
    pub(super) fn track(&mut self, ct: &Ct, packet: &CtPacket) -> (CtResult, Outcome) {
        let now = self.world.now;
        let conntrack = &mut *self.world.conntrack;
        let judged = conntrack.judge(packet, conntrack.hash_of(packet), now);
        let (kind, mark, label) = conntrack.told(&judged);
        let told = (mark, label);
        conntrack.accept(&judged, now);
        let mut result = conntrack.result(&judged, packet);
        let was_known = result.conn.is_some();
        let mut outcome =
            Outcome { judged, kind, told, was_known, commit: None, is_refused: false };
        if ct.commit && result.state & ct_state::INV == 0 {
            let commit = self.commit_of(ct);
            outcome.commit = Some(commit);
            let known = (&outcome.judged, &result);
            match self.world.conntrack.commit_judged(packet, known, &commit, now) {
                Ok(r) => result = r,
                Err(e) => {
                    outcome.is_refused = true;
                    self.count(refusal(e));
                }
            }
        } else if ct.commit {
            outcome.commit = Some(self.commit_of(ct));
        }
        (result, outcome)
    }

    /// What `exec` and `nat` ask for. `exec` may only write mark and label; its sources are
    /// fields as they are now.
    pub(super) fn commit_of(&self, ct: &Ct) -> Commit {
        let (mut value, mut mask) = (self.key, FlowKey::ZERO);
        for a in ct.exec.iter() {
            match a {
                Action::Set(s) => {
                    s.dst.set_masked(&mut value, s.value, s.mask);
                    s.dst.set_masked(&mut mask, u128::MAX, s.mask);
                }
                Action::Move { src, dst, .. } => {
                    let v = src.get(&self.key);
                    dst.set(&mut value, v);
                    dst.set(&mut mask, u128::MAX);
                }
                _ => {}
            }
        }
        let mark = Field::CtMark.info();
        let label = Field::CtLabel.info();
        let pair = |v: u128, m: u128| (m != 0).then_some((v & m, m));
        Commit {
            force: ct.force,
            nat: match &ct.nat {
                Some(Nat::New(spec)) => Some(*spec),
                _ => None,
            },
            follows_nat: ct.nat.is_some(),
            alg: self.helper(ct),
            mark: pair(mark.get(&value), mark.get(&mask)).map(|(v, m)| (v as u32, m as u32)),
            label: pair(label.get(&value), label.get(&mask)),
        }
    }

    /// Writes the connection's translation into the packet, and not into what flows see of it.
    fn translate(&mut self, packet: &CtPacket, result: &CtResult) -> Flow {
        let Some(rewrite) = self.rewrite_of(result) else { return Ok(()) };
        let (from, to) = (packet.tuple, rewrite.apply(&packet.tuple));
        let state = rewrite.ct_state;
        self.translated = Some(Translated { zone: packet.zone, state, from, to });
        if self.rec.translations.len() >= RECORDED_TRANSLATIONS_MAX {
            return self.too_much();
        }
        let at = self.rec.translations.len() as u16;
        self.rec.translations.push(rewrite);
        if packet.kind == Kind::Related {
            return self.translate_error(&rewrite, at);
        }
        if self.payload.shape & shape::L4_VALID == 0
            && let Some(written) = self.rec.translations.last_mut()
        {
            // A later fragment: what its datagram's ports are is in the first.
            (written.new_sport, written.new_dport, written.new_icmp_id) = (None, None, None);
        }
        // Not as constants: another packet that takes this walk has a connection of its own.
        self.rec.steps.push(Step::Translate(at));
        self.note_translated();
        let v6 = self.key.eth_type == 0x86dd;
        self.veil.get_or_insert_with(|| Veil::of(&self.key)).translate(v6, &rewrite);
        put_tuple(&mut self.base, &rewrite);
        Ok(())
    }

    /// An ICMP error is translated inside and outside in one step, on the bytes; and on a copy, by
    /// which the next `ct` sees what it quotes then.
    fn translate_error(&mut self, rewrite: &NatRewrite, at: u16) -> Flow {
        self.rec.cacheable = false;
        if self.key.ip_frag & FRAG_LATER != 0 {
            // The quoted packet is in the first fragment.
            self.veil_addresses(rewrite);
            return Ok(());
        }
        self.rec.steps.push(Step::NatIcmpError(at));
        let layers = self.packet.behind_labels(&mut None).1;
        let (l3, l4) = (usize::from(layers.l3), usize::from(layers.l4));
        let copy = self.rec.error.take(self.packet.bytes.get(l3..).unwrap_or(&[]));
        // A copy that is cut too early stays as it is: the next `ct` calls it invalid.
        let _ = rewrite_icmp_error(copy, l4.saturating_sub(l3), rewrite);
        let v6 = self.key.eth_type == 0x86dd;
        self.veil_addresses(rewrite);
        put_addresses(&mut self.base, rewrite, v6);
        Ok(())
    }

    fn veil_addresses(&mut self, rewrite: &NatRewrite) {
        let v6 = self.key.eth_type == 0x86dd;
        let veil = self.veil.get_or_insert_with(|| Veil::of(&self.key));
        veil.translate_addresses(v6, rewrite);
    }

    /// From here on flows see the packet as it is.
    #[inline]
    pub(super) fn unveil(&mut self) {
        if let Some(veil) = self.veil.take() {
            self.key = veil.lift(&self.key);
            self.note_shown();
        }
    }

    /// `ct_clear`: of a packet that is not tracked it changes nothing.
    pub(super) fn untrack(&mut self) {
        if self.key.ct_state != 0 {
            self.translated = None;
        }
        self.clear_ct();
    }

    fn clear_ct(&mut self) {
        let k = &mut self.key;
        (k.ct_state, k.ct_zone, k.ct_mark, k.ct_label) = (0, 0, 0, 0);
        (k.ct_nw_proto, k.ct_nw_src, k.ct_nw_dst) = (0, 0, 0);
        (k.ct_ipv6_src, k.ct_ipv6_dst, k.ct_tp_src, k.ct_tp_dst) = (0, 0, 0, 0);
    }
}

/// A helper expects it, or has.
fn is_announced(r: &CtResult) -> bool {
    r.state & (ct_state::NEW | ct_state::REL) == ct_state::NEW | ct_state::REL
}

fn put_tuple(k: &mut FlowKey, r: &NatRewrite) {
    let v6 = k.eth_type == 0x86dd;
    put_addresses(k, r, v6);
    k.icmp_id = r.new_icmp_id.unwrap_or(k.icmp_id);
    k.tp_src = r.new_sport.unwrap_or(k.tp_src);
    k.tp_dst = r.new_dport.unwrap_or(k.tp_dst);
}

fn put_addresses(k: &mut FlowKey, r: &NatRewrite, v6: bool) {
    if v6 {
        k.ipv6_src = r.new_src.unwrap_or(k.ipv6_src);
        k.ipv6_dst = r.new_dst.unwrap_or(k.ipv6_dst);
    } else {
        k.ip_src = r.new_src.map_or(k.ip_src, |a| a as u32);
        k.ip_dst = r.new_dst.map_or(k.ip_dst, |a| a as u32);
    }
}

/// Makes the connection's state visible to flows.
fn show(k: &mut FlowKey, r: &CtResult, zone: u16) {
    k.ct_state = r.state;
    k.ct_zone = zone;
    k.ct_mark = r.mark;
    k.ct_label = r.label;
    let t = &r.orig;
    k.ct_nw_proto = t.proto;
    (k.ct_nw_src, k.ct_nw_dst, k.ct_ipv6_src, k.ct_ipv6_dst) =
        if t.v6 { (0, 0, t.src, t.dst) } else { (t.src as u32, t.dst as u32, 0, 0) };
    (k.ct_tp_src, k.ct_tp_dst) = t.tp();
}
