//! Packets of connections that a helper listens to (`ct(alg=ftp)`): the walk's side, and the bytes.
//!
//! Such a packet always walks: what it says may make a connection expected, and what is to be
//! written into it is its own. Of several zones that would write into one packet, the first that
//! is asked does. A datagram in fragments is not listened to: no command is that long.

use super::miss::Walk;
use super::world::Subject;
use crate::action::Ct;
use crate::action::step::Step;
use crate::conntrack::{Alg, AlgEdit, CtPacket, CtResult};
use crate::counters::Drop;
use crate::limits::RECORDED_ALG_EDITS_MAX;
use crate::packet::frame::Frame;
use crate::packet::parse::Layers;
use crate::wire::checksum::{Delta, Sum, pseudo_v4, pseudo_v6};
use crate::wire::tcp;

/// A packet is padded up to here.
const FRAME_MIN: usize = 60;
const TCP: u8 = 6;
const SACK: u8 = 5;

impl Walk<'_, '_> {
    /// The helper that a connection gets: the flow's, if the packet goes to its port, or to one
    /// that the flow itself names.
    pub(super) fn helper(&self, ct: &Ct) -> Option<Alg> {
        let named = self.rule.is_some_and(|r| r.matching.mask().tp_dst == u16::MAX);
        ct.alg.filter(|alg| named || self.key.tp_dst == alg.port())
    }

    /// Hands a packet of a helped connection to its helper.
    #[cold]
    #[inline(never)]
    pub(super) fn help(&mut self, ct: &Ct, packet: &CtPacket, result: &CtResult) {
        self.rec.cacheable = false;
        if self.helped || self.datagram.is_some() {
            return;
        }
        self.helped = true;
        let l4 = l4_bytes(self.packet);
        let header = match (packet.tuple.proto, l4.get(12)) {
            (TCP, Some(offset)) => usize::from(offset >> 4) * 4,
            _ => 8,
        };
        let payload = l4.get(header..).unwrap_or(&[]);
        let (nat, now) = (ct.nat.is_some(), self.world.now);
        let Some(edit) = self.world.conntrack.help(result, packet, payload, nat, now) else {
            return;
        };
        if let Some(at) = self.punts.edits.push(edit) {
            self.rec.steps.push(Step::Alg(at));
        }
    }
}

/// From the transport header to the end, as it came; nothing if there is none.
fn l4_bytes(p: Subject<'_>) -> &[u8] {
    let (l4, end) = (usize::from(p.layers.l4), usize::from(p.layers.end));
    if l4 == 0 { &[] } else { p.bytes.get(l4..end.min(p.bytes.len())).unwrap_or(&[]) }
}

/// Edits that a walk has recorded.
#[derive(Debug)]
pub(super) struct AlgEdits(Vec<AlgEdit>);

impl Default for AlgEdits {
    fn default() -> Self {
        Self(Vec::with_capacity(RECORDED_ALG_EDITS_MAX))
    }
}

impl AlgEdits {
    pub fn clear(&mut self) {
        self.0.clear();
    }

    pub fn push(&mut self, edit: AlgEdit) -> Option<u16> {
        let at = self.0.len();
        let has_room = at < RECORDED_ALG_EDITS_MAX;
        has_room.then(|| self.0.push(edit))?;
        Some(at as u16)
    }

    pub fn get(&self, at: u16) -> Option<&AlgEdit> {
        self.0.get(usize::from(at))
    }
}

/// Writes text and numbers into a segment, lengths and checksums with them. On error the packet
/// may be half written and is to be dropped.
pub(super) fn apply(edit: &AlgEdit, frame: &mut Frame, layers: &mut Layers) -> Result<(), Drop> {
    let fail = Drop::EditFailed;
    let (l3, l4) = (usize::from(layers.l3), usize::from(layers.l4));
    let end = usize::from(layers.end);
    if l4 <= l3 || end < l4 + tcp::HEADER_MIN_BYTES {
        return Err(fail);
    }
    let header = frame.bytes().get(l4 + 12).map_or(0, |o| usize::from(o >> 4) * 4);
    let end = replace(edit, frame, (l4 + header, end)).ok_or(fail)?;
    layers.end = end as u16;
    let bytes = frame.bytes_mut().get_mut(l3..end).ok_or(fail)?;
    put_length(bytes).ok_or(fail)?;
    let segment = bytes.get_mut(l4 - l3..).ok_or(fail)?;
    add(segment, 4, edit.seq).ok_or(fail)?;
    add(segment, 8, edit.ack).ok_or(fail)?;
    move_sacks(segment.get_mut(tcp::HEADER_MIN_BYTES..header).ok_or(fail)?, edit.ack);
    put_checksum(bytes, l4 - l3).ok_or(fail)
}

/// Gives where the datagram ends then.
fn replace(edit: &AlgEdit, frame: &mut Frame, (data, end): (usize, usize)) -> Option<usize> {
    let (text, from) = (edit.text.as_bytes(), data + usize::from(edit.at));
    let behind = from + usize::from(edit.old_len);
    if edit.old_len == 0 {
        return Some(end);
    }
    (behind <= end && end <= frame.len()).then_some(())?;
    let new_end = from + text.len() + (end - behind);
    if new_end > frame.len() {
        frame.append(new_end - frame.len())?;
    }
    let bytes = frame.bytes_mut();
    bytes.copy_within(behind..end, from + text.len());
    bytes.get_mut(from..from + text.len())?.copy_from_slice(text);
    // What was padding may have been data.
    bytes.get_mut(new_end..)?.fill(0);
    let len = new_end.max(frame.len().min(FRAME_MIN));
    frame.set_len(len).then_some(new_end)
}

fn put_length(ip: &mut [u8]) -> Option<()> {
    let len = ip.len();
    if ip.first()? >> 4 == 6 {
        let payload = u16::try_from(len - 40).ok()?;
        ip.get_mut(4..6)?.copy_from_slice(&payload.to_be_bytes());
        return Some(());
    }
    let new = u16::try_from(len).ok()?.to_be_bytes();
    let field: &mut [u8; 2] = ip.get_mut(2..)?.first_chunk_mut()?;
    let change = Delta::NONE.change_2(*field, new);
    *field = new;
    change.apply(ip.get_mut(10..)?.first_chunk_mut()?);
    Some(())
}

fn add(bytes: &mut [u8], at: usize, what: u32) -> Option<()> {
    let field: &mut [u8; 4] = bytes.get_mut(at..)?.first_chunk_mut()?;
    *field = u32::from_be_bytes(*field).wrapping_add(what).to_be_bytes();
    Some(())
}

/// Selective acknowledgements (RFC 2018) count in the other side's numbers too.
fn move_sacks(mut options: &mut [u8], by: u32) {
    while let [kind, rest @ ..] = options {
        let len = match (*kind, rest.first()) {
            (0, _) | (_, None) => return,
            (1, _) => 0,
            (_, Some(len)) if *len >= 2 => usize::from(*len) - 1,
            _ => return,
        };
        let Some((this, behind)) = rest.split_at_mut_checked(len) else { return };
        if *kind == SACK {
            let (_, edges) = this.split_at_mut(1);
            edges.chunks_exact_mut(4).for_each(|edge| {
                let _ = add(edge, 0, by);
            });
        }
        options = behind;
    }
}

fn put_checksum(ip: &mut [u8], l4: usize) -> Option<()> {
    let len = u16::try_from(ip.len().checked_sub(l4)?).ok()?;
    let pseudo = match ip.first()? >> 4 {
        6 => pseudo_v6(ip.get(8..)?.first_chunk()?, ip.get(24..)?.first_chunk()?, TCP, len),
        _ => pseudo_v4(ip.get(12..)?.first_chunk()?, ip.get(16..)?.first_chunk()?, TCP, len),
    };
    let segment = ip.get_mut(l4..)?;
    segment.get_mut(tcp::CHECKSUM_AT..tcp::CHECKSUM_AT + 2)?.fill(0);
    let sum = pseudo.plus(Sum::of(segment)).checksum();
    segment.get_mut(tcp::CHECKSUM_AT..tcp::CHECKSUM_AT + 2)?.copy_from_slice(&sum);
    Some(())
}
