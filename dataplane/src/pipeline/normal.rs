//! NORMAL and FLOOD: the bridge's own L2 switching, one VLAN-aware MAC table per bridge.
//!
//! As in Open vSwitch: the source is learned (unless it is a group address), a known
//! destination gets the packet unless that is where it came from, anything else is flooded.
//! 01:80:c2:00:00:0x is link-local to the segment (IEEE 802.1D 7.12.6) and not forwarded.

use super::miss::{Flow, Walk};
use crate::action::PORT_NONE;
use crate::cache::traversal::{FdbGuard, Item, WHOLE_FDB};
use crate::counters::{Drop, Stat};
use crate::fdb::Learned;
use crate::packet::key::PortIx;

const GROUP_BIT: u64 = 1 << 40;
const RESERVED: u64 = 0x0180_c200_0000;

impl Walk<'_, '_> {
    #[inline(never)]
    pub(super) fn normal(&mut self) -> Flow {
        let (dst, src) = (self.key.eth_dst, self.key.eth_src);
        let vlan = self.key.vlan_tci & 0xfff;
        if dst & !0xf == RESERVED {
            self.drop_copy(Drop::ReservedMac);
            return Ok(());
        }
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
