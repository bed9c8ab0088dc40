//! NORMAL and FLOOD: the bridge's own L2 switching, one VLAN-aware MAC table per bridge.
//!
//! As in Open vSwitch: the source is learned (unless it is a group address), a known
//! destination gets the packet unless that is where it came from, anything else is flooded.
//! 01:80:c2:00:00:0x and its like are local to the segment and not forwarded.

use super::miss::{Flow, Walk};
use crate::action::PORT_NONE;
use crate::cache::traversal::{FdbGuard, Item, WHOLE_FDB};
use crate::counters::{Drop, Stat};
use crate::fdb::Learned;
use crate::packet::key::{PortIx, VLAN_PRESENT};
use crate::wire::vlan;

const GROUP_BIT: u64 = 1 << 40;
const RESERVED: u64 = 0x0180_c200_0000;

/// Whether frames to this address stay on their segment: IEEE 802.1D 7.12.6, and the link protocols
/// of vendors that Open vSwitch treats alike (ovs-vswitchd.conf.db(5), `forward-bpdu`).
fn is_reserved(dst: u64) -> bool {
    dst & !0xf == RESERVED
        || matches!(
            dst,
            0x00e0_2b00_0000
                | 0x00e0_2b00_0004
                | 0x00e0_2b00_0006
                | 0x0100_0c00_0000
                | 0x0100_0ccc_cccc
                | 0x0100_0ccc_cccd
                | 0x0100_0ccd_cdcd
                | 0x0100_0ccc_ccc0..=0x0100_0ccc_ccc7
        )
}

impl Walk<'_, '_> {
    #[inline(never)]
    pub(super) fn normal(&mut self) -> Flow {
        let dst = self.key.eth_dst;
        // Writes may leave bits of a tag that is not there: such a frame is in VLAN 0.
        let tagged = self.key.vlan_tci & VLAN_PRESENT != 0;
        let vlan = if tagged { self.key.vlan_tci & 0xfff } else { 0 };
        if is_reserved(dst) {
            self.drop_copy(Drop::ReservedMac);
            return Ok(());
        }
        // Half a tag, or one that came to light when the one before it was taken off.
        if vlan::is_tpid(self.key.eth_type) && self.key.vlan_tci & VLAN_PRESENT == 0 {
            self.drop_copy(Drop::VlanPartial);
            return Ok(());
        }
        // A tag that says nothing, neither VLAN nor priority, stays behind (Open vSwitch:
        // `priority-tags`). Its type does not: a bridge behind a cable may tag anew.
        let tci = self.key.vlan_tci;
        if tci == VLAN_PRESENT {
            self.key.vlan_tci = 0;
        }
        let end = self.switch(dst, vlan);
        self.key.vlan_tci = tci;
        end
    }

    /// Learns, and forwards to the port that is known, or to all.
    fn switch(&mut self, dst: u64, vlan: u16) -> Flow {
        let src = self.key.eth_src;
        let in_port = self.key.in_port;
        if in_port != PORT_NONE {
            let Some(port) = self.bridge.port(in_port) else {
                self.drop_copy(Drop::PortBlocked);
                return Ok(());
            };
            if src & GROUP_BIT == 0 {
                self.learn(src, vlan, port);
            }
        }
        if dst & GROUP_BIT != 0 {
            return self.flood(true);
        }
        let fdb = &self.bridge.fdb;
        let generation = fdb.generation();
        let Some(found) = fdb.lookup(dst, vlan, self.world.now) else {
            self.guard_fdb(WHOLE_FDB, generation, false);
            return self.flood(true);
        };
        self.guard_fdb(found.slot, found.port_gen, false);
        self.seen.note("destination is known");
        match self.program.port(found.port()) {
            Some(p) if p.bridge == self.bridge_ix => self.output(p.number, false),
            _ => self.flood(true),
        }
    }

    fn guard_fdb(&mut self, slot: u32, value: u64, touch: bool) {
        let bridge = self.bridge_ix;
        self.guard(Item::Fdb(FdbGuard { value, slot, bridge, touch }));
    }

    fn learn(&mut self, mac: u64, vlan: u16, port: PortIx) {
        if self.dry {
            return;
        }
        match self.bridge.fdb.learn(mac, vlan, port, self.world.now) {
            Learned::Known(f) => self.guard_fdb(f.slot, f.port_gen, true),
            Learned::New(f) => {
                self.count(Stat::FdbLearned);
                self.guard_fdb(f.slot, f.port_gen, true);
            }
            Learned::Moved(f) => {
                self.count(Stat::FdbMoved);
                self.guard_fdb(f.slot, f.port_gen, true);
            }
            Learned::Full => {
                self.count(Stat::FdbFull);
                self.rec.cacheable = false;
            }
        }
    }

    /// Every port but the in_port; with `flood_only` those marked no-flood are left out too.
    #[inline(never)]
    pub(super) fn flood(&mut self, flood_only: bool) -> Flow {
        let bridge = self.bridge;
        let mut any = false;
        for (number, ix) in bridge.ports.iter() {
            let takes = self.program.port(*ix).is_some_and(|p| p.up && (p.flood || !flood_only));
            if *number != self.key.in_port && takes {
                any = true;
                self.output(*number, false)?;
            }
        }
        if !any {
            self.reason = Drop::NormalNoPorts;
        }
        Ok(())
    }
}
