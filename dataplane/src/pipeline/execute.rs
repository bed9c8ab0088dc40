//! Executing steps on a packet's bytes: the end of every road, hit or walk.
//!
//! An output that is the last step takes the frame itself, others a copy, so a packet that leaves
//! once is never copied. A step that fails ends the packet with a reason; what left before stays
//! sent.

use super::freeze::Punts;
use super::help;
use super::lane::Egress;
use super::program::Program;
use super::punt::PacketIns;
use super::world::Templates;
use crate::action::edit;
use crate::action::step::{NO_TEMPLATE, Step};
use crate::action::translate::translate;
use crate::clock::Now;
use crate::conntrack::{NatRewrite, rewrite_icmp_error};
use crate::counters::{Counters, Drop, Stat};
use crate::packet::frame::Frame;
use crate::packet::key::{PacketKey, PortIx};
use crate::packet::parse::Layers;
use crate::tunnel::{self, EncapTemplate};
use crate::xsk::pool::FramePool;

/// Translates an ICMP error, its quoted packet included.
fn translate_error(bytes: &mut [u8], layers: &Layers, rewrite: &NatRewrite) -> bool {
    let (l3, l4) = (usize::from(layers.l3), usize::from(layers.l4));
    let ip = bytes.get_mut(l3..).filter(|_| l4 > l3);
    ip.is_some_and(|ip| rewrite_icmp_error(ip, l4 - l3, rewrite).is_ok())
}

/// Grows the frame by the tunnel's headers and writes them.
#[inline]
fn put_on(template: &EncapTemplate, frame: &mut Frame, entropy: u16) -> bool {
    let len = template.len();
    if frame.prepend(len).is_none() {
        return false;
    }
    let (room, inner) = frame.bytes_mut().split_at_mut_checked(len).unwrap_or_default();
    template.push(room, inner, entropy)
}

/// What a batch has sent so far; counted once at its end.
#[derive(Default)]
pub(super) struct Sent {
    pub packets: u64,
    pub bytes: u64,
}

/// What executing steps needs. It borrows apart from the lane, so that steps can be read from the
/// cache while they run.
pub(super) struct Hand<'a, E> {
    pub translations: &'a [NatRewrite],
    /// None: no step hands a packet to a controller.
    pub punts: Option<&'a Punts>,
    pub packet_ins: &'a mut PacketIns,
    pub program: &'a Program,
    pub now: Now,
    /// State of the generator that `sample` draws from; not 0.
    pub chance: &'a mut u64,
    pub templates: &'a Templates,
    pub counters: &'a Counters,
    pub sent: &'a mut Sent,
    pub pool: &'a mut FramePool,
    pub egress: &'a mut E,
}

impl<E: Egress> Hand<'_, E> {
    /// Runs the steps on a packet, `count` of them. An output that is the last step takes the frame
    /// itself, others a copy.
    #[inline]
    pub fn execute(
        &mut self,
        mut steps: impl Iterator<Item = Step>,
        count: usize,
        mut frame: Frame,
        key: &PacketKey,
        mut layers: Layers,
    ) {
        let mut left = count;
        while let Some(step) = steps.next() {
            left = left.wrapping_sub(1);
            match step {
                Step::Output(port) if left == 0 => return self.send(port, frame),
                Step::Output(port) => {
                    if let Some(copy) = self.copy(&frame) {
                        self.send(port, copy);
                    }
                }
                Step::TunnelOutput { template, port } if left == 0 => {
                    return self.send_tunnel(template, port, frame, key);
                }
                Step::TunnelOutput { template, port } => {
                    if let Some(copy) = self.copy(&frame) {
                        self.send_tunnel(template, port, copy, key);
                    }
                }
                Step::Drop(reason) => self.counters.count_drop(reason),
                Step::OutputCut { port, max_len, template } => {
                    self.send_cut(&frame, port, max_len as usize, (template, key));
                }
                Step::PacketIn(at) => self.punt(at, &frame, layers),
                Step::Sample(probability) => self.sample(probability),
                Step::Meter { bridge, skip, id } => {
                    if !self.passes(bridge, id, frame.len()) {
                        self.counters.count_drop(Drop::Meter);
                        let skip = usize::from(skip);
                        if skip >= left {
                            break;
                        }
                        left -= skip;
                        if let Some(last) = skip.checked_sub(1) {
                            let _ = steps.nth(last);
                        }
                    }
                }
                Step::Translate(at) => {
                    let rewrite = self.translations.get(usize::from(at)).ok_or(Drop::EditFailed);
                    let done = rewrite.and_then(|r| translate(r, &mut frame, &mut layers));
                    if let Err(reason) = done {
                        self.counters.count_drop(reason);
                        break;
                    }
                }
                Step::NatIcmpError(_) | Step::Alg(_) => {
                    if let Err(reason) = self.rewrite(step, &mut frame, &mut layers) {
                        self.counters.count_drop(reason);
                        break;
                    }
                }
                edit => {
                    if let Err(reason) = edit::apply(&edit, &mut frame, &mut layers) {
                        self.counters.count_drop(reason);
                        break;
                    }
                }
            }
        }
        self.pool.free(frame);
    }

    /// Writes what is in the recording, for it does not fit a step.
    #[cold]
    fn rewrite(&self, step: Step, frame: &mut Frame, layers: &mut Layers) -> Result<(), Drop> {
        match step {
            Step::NatIcmpError(at) => {
                let rewrite = self.translations.get(usize::from(at));
                let done = rewrite.is_some_and(|r| translate_error(frame.bytes_mut(), layers, r));
                done.then_some(()).ok_or(Drop::EditFailed)
            }
            Step::Alg(at) => {
                let edit = self.punts.and_then(|p| p.edits.get(at)).ok_or(Drop::EditFailed)?;
                help::apply(edit, frame, layers)
            }
            _ => Ok(()),
        }
    }

    /// Sends a copy that is cut first and then put in its tunnel, if there is one.
    #[cold]
    fn send_cut(
        &mut self,
        frame: &Frame,
        port: PortIx,
        max_len: usize,
        (template, key): (u32, &PacketKey),
    ) {
        let Some(mut copy) = self.copy(frame) else { return };
        copy.trim_tail(copy.len().saturating_sub(max_len));
        if template == NO_TEMPLATE {
            self.send(port, copy);
        } else {
            self.send_tunnel(template, port, copy, key);
        }
    }

    fn passes(&self, bridge: u16, id: u32, len: usize) -> bool {
        let bridge = self.program.bridges.get(usize::from(bridge));
        let meter = bridge.and_then(|b| b.meters.get(&id));
        meter.is_none_or(|m| m.passes(len, self.now))
    }

    /// Keeps a copy for a controller; of one that is paused there is no other.
    #[cold]
    fn punt(&mut self, at: u16, frame: &Frame, layers: Layers) {
        let at = usize::from(at);
        let Some((punts, punt)) = self.punts.and_then(|p| Some((p, p.get(at)?))) else { return };
        if punts.waits(at).is_some() {
            return self.hold((punts, at), frame, layers);
        }
        if punt.meter.is_some_and(|id| !self.passes(punt.bridge, id, frame.len())) {
            return self.counters.count_drop(Drop::Meter);
        }
        let kept = match punt.pause {
            false => self.packet_ins.keep(punt, frame.bytes()),
            true => self.packet_ins.keep_paused((punts, at), frame.bytes(), layers),
        };
        if !kept && punt.pause {
            self.counters.count_drop(Drop::PauseLost);
        }
        self.counters.add(if kept { Stat::PacketIns } else { Stat::PacketInsLost }, 1);
    }

    #[cold]
    fn sample(&mut self, probability: u16) {
        // Marsaglia's xorshift64: never zero, period 2^64 - 1.
        let x = &mut *self.chance;
        *x ^= *x << 13;
        *x ^= *x >> 7;
        *x ^= *x << 17;
        if ((*x >> 32) * 0xffff) >> 32 < u64::from(probability) {
            self.counters.add(Stat::Samples, 1);
        }
    }

    #[inline]
    fn send(&mut self, port: PortIx, frame: Frame) {
        self.sent.packets += 1;
        self.sent.bytes += frame.len() as u64;
        self.egress.output(port, frame, self.pool);
    }

    #[inline]
    fn send_tunnel(&mut self, at: u32, port: PortIx, mut frame: Frame, key: &PacketKey) {
        let Some(template) = self.templates.get(at) else {
            self.counters.count_drop(Drop::TunnelNoHeadroom);
            return self.pool.free(frame);
        };
        if !put_on(template, &mut frame, tunnel::entropy(key)) {
            self.counters.count_drop(Drop::TunnelNoHeadroom);
            return self.pool.free(frame);
        }
        self.counters.add(Stat::TunnelPush, 1);
        self.send(port, frame);
    }

    #[cold]
    fn copy(&mut self, frame: &Frame) -> Option<Frame> {
        let Some(mut copy) = self.pool.alloc() else {
            self.counters.count_drop(Drop::FramePoolEmpty);
            return None;
        };
        if !copy.clone_from_frame(frame) {
            self.counters.count_drop(Drop::ParseOversize);
            self.pool.free(copy);
            return None;
        }
        Some(copy)
    }
}
