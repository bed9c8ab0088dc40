//! Actions that put headers on and take them off.
//!
//! They change the walk's key alone; `commit` finds out what that means for the bytes.
//!
//! **Tags.** Two are known, the outermost first. A third push forgets the innermost, and so does
//! the packet when it leaves: that is what Open vSwitch 3.1 does, whatever its `vlan-limit`, which
//! only says how many are read from a packet that arrives.
//!
//! **Labels.** Three are known (Open vSwitch: `FLOW_MAX_MPLS_LABELS`). Open vSwitch runs a packet
//! whose labels were popped through its datapath again, to read what came to light; here parsing
//! has done that already, so the next action sees it. Popping to a type that is not MPLS takes the
//! whole stack off, as there.

use super::miss::{Flow, Stop, Walk};
use crate::counters::Drop;
use crate::packet::field::Field;
use crate::packet::key::{MPLS_LABELS_MAX, VLAN_PRESENT, is_mpls};
use crate::wire::{ether, mpls};

const DSCP_SHIFT: u8 = 2;
const TTL_DEFAULT: u8 = 64;

impl Walk<'_, '_> {
    pub(super) fn push_vlan(&mut self, tpid: u16) {
        let k = &mut self.key;
        (k.inner_tpid, k.inner_tci) = (k.vlan_tpid, k.vlan_tci);
        (k.vlan_tpid, k.vlan_tci) = (tpid, VLAN_PRESENT);
    }

    pub(super) fn pop_vlan(&mut self) {
        let k = &mut self.key;
        if k.vlan_tci & VLAN_PRESENT == 0 {
            return;
        }
        let has_inner = k.inner_tci & VLAN_PRESENT != 0;
        let inner = if has_inner { (k.inner_tpid, k.inner_tci) } else { (0, 0) };
        (k.vlan_tpid, k.vlan_tci) = inner;
        (k.inner_tpid, k.inner_tci) = (0, 0);
    }

    /// The new label is a copy of the outermost; the first takes DSCP and TTL from IP and is
    /// "explicit null".
    #[inline(never)]
    pub(super) fn push_mpls(&mut self, eth_type: u16) -> Flow {
        let k = &mut self.key;
        let have = k.mpls_labels();
        if have >= MPLS_LABELS_MAX {
            return Err(Stop::Error(Drop::MplsTooMany));
        }
        if have == 0 {
            let is_v6 = k.eth_type == ether::TYPE_IPV6;
            let is_ip = is_v6 || k.eth_type == ether::TYPE_IPV4;
            let label = if is_v6 { mpls::LABEL_IPV6_NULL } else { mpls::LABEL_IPV4_NULL };
            let tc = if is_ip { k.ip_tos >> DSCP_SHIFT } else { 0 };
            let ttl = if is_ip && k.ip_ttl != 0 { k.ip_ttl } else { TTL_DEFAULT };
            k.mpls_lse[0] = mpls::lse(label, tc, true, ttl);
        } else {
            k.mpls_lse.copy_within(..MPLS_LABELS_MAX - 1, 1);
            k.mpls_lse[0] &= !mpls::BOS;
        }
        k.eth_type = eth_type;
        Ok(())
    }

    #[inline(never)]
    pub(super) fn pop_mpls(&mut self, eth_type: u16) -> Flow {
        let payload = self.payload;
        let k = &mut self.key;
        let have = k.mpls_labels();
        if have == 0 {
            return Ok(());
        }
        if have == MPLS_LABELS_MAX && k.mpls_lse[MPLS_LABELS_MAX - 1] & mpls::BOS == 0 {
            // Nobody knows what comes up from below.
            return Err(Stop::Error(Drop::MplsTooMany));
        }
        k.eth_type = eth_type;
        if is_mpls(eth_type) {
            k.mpls_lse.copy_within(1.., 0);
            k.mpls_lse[have - 1] = 0;
            return Ok(());
        }
        k.mpls_lse = [0; MPLS_LABELS_MAX];
        if !payload.is(eth_type) {
            k.lose_l3();
        }
        // What lies open is looked at anew.
        self.unveil();
        Ok(())
    }

    pub(super) fn set_mpls_ttl(&mut self, ttl: u8) {
        let k = &mut self.key;
        if is_mpls(k.eth_type) {
            k.mpls_lse[0] = k.mpls_lse[0] & !mpls::TTL_MASK | u32::from(ttl);
        }
    }

    /// Takes a tunnel option off; its data stays until it is written again.
    pub(super) fn delete_field(&mut self, field: Field) {
        let there = field.tun_metadata_index().and_then(|n| self.bridge.tlv.present(n));
        if let Some(bit) = there {
            bit.set(&mut self.key, 0);
        }
    }

    /// Ends this list if the TTL would reach zero, or there is none.
    pub(super) fn dec_mpls_ttl(&mut self) -> Flow {
        if !is_mpls(self.key.eth_type) {
            return Err(Stop::List);
        }
        let ttl = (self.key.mpls_lse[0] & mpls::TTL_MASK) as u8;
        if ttl <= 1 {
            self.drop_copy(Drop::TtlExpired);
            self.tell_ttl(&[0])?;
            return Err(Stop::List);
        }
        self.set_mpls_ttl(ttl - 1);
        Ok(())
    }
}
