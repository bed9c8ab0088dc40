//! Where a packet leaves a bridge: a device, a cable to another bridge, a tunnel.

use super::commit::stacked_bytes;
use super::miss::{Event, Flow, Stop, Walk};
use crate::action::step::{NO_TEMPLATE, Step};
use crate::action::{PORT_LOCAL, PORT_NONE, port};
use crate::counters::Drop;
use crate::packet::key::{FlowKey, PortIx, TUN_METADATA_BYTES};
use crate::pipeline::program::{Port, PortRole};
use crate::pipeline::underlay::NextHop;
use crate::tunnel::{GeneveParams, TunnelConfig, TunnelKey, TunnelRemote};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

impl Walk<'_, '_> {
    /// Sends a copy to a port by number. Back out of the in_port only when asked for by name.
    #[inline(never)]
    pub(super) fn output(&mut self, number: u32, back: bool) -> Flow {
        self.output_cut(number, back, u32::MAX)
    }

    /// To the port of any number, reserved ones included. A number that no port can have is no
    /// error.
    #[inline(never)]
    pub(super) fn output_number(&mut self, number: u128) -> Flow {
        let Some(number) = u16::try_from(number).ok().map(u32::from) else {
            self.seen.note("the port number is out of range");
            return Ok(());
        };
        match number {
            port::IN_PORT => self.output(self.key.in_port, true),
            port::TABLE => self.resubmit(None, 0),
            port::NORMAL => {
                // No key mask says that this action looks at MAC addresses.
                self.rec.cacheable = false;
                self.normal()
            }
            port::FLOOD => self.flood(true),
            port::ALL => self.flood(false),
            port::CONTROLLER => self.output_controller(),
            PORT_NONE => Ok(()),
            _ => self.output(number, false),
        }
    }

    /// To a port, the frame cut. Only devices and tunnels can be named.
    #[inline(never)]
    pub(super) fn output_truncated(&mut self, number: u32, max_len: u32) -> Flow {
        let is_reserved = number >= port::MAX && number != PORT_LOCAL;
        let ix = self.bridge.port(number);
        let role = ix.and_then(|ix| self.program.port(ix)).map(|p| &p.role);
        if is_reserved || matches!(role, Some(PortRole::Patch { .. })) {
            self.drop_copy(Drop::TruncateUnsupported);
            return Ok(());
        }
        self.output_cut(number, false, max_len)
    }

    #[inline(never)]
    pub(super) fn enqueue(&mut self, number: u32, queue: u32) -> Flow {
        let before = self.queue.replace(queue);
        let end = match number {
            port::IN_PORT => self.output(self.key.in_port, true),
            _ => self.output(number, false),
        };
        self.queue = before;
        end
    }

    fn output_cut(&mut self, number: u32, back: bool, max_len: u32) -> Flow {
        if number == self.key.in_port && !back {
            self.reason = Drop::SameInPort;
            self.seen.note("not sent back to the in_port");
            return Ok(());
        }
        let Some(ix) = self.bridge.port(number) else {
            self.drop_copy(Drop::NoSuchPort);
            return Ok(());
        };
        let Some(port) = self.program.port(ix) else {
            self.drop_copy(Drop::NoSuchPort);
            return Ok(());
        };
        if !port.up {
            self.drop_copy(Drop::PortDown);
            return Ok(());
        }
        match &port.role {
            PortRole::Device => {
                self.commit()?;
                self.seen.queue(self.queue);
                self.emit(match max_len {
                    u32::MAX => Step::Output(ix),
                    _ => Step::OutputCut { port: ix, max_len, template: NO_TEMPLATE },
                })
            }
            PortRole::Patch { peer } => self.cross(*peer),
            PortRole::Tunnel(config) => self.tunnel(port, config, max_len),
        }
    }

    /// Through a cable into another bridge: fresh metadata there, and neither changes nor errors
    /// come back.
    #[inline(never)]
    fn cross(&mut self, peer: PortIx) -> Flow {
        let Some((far, bridge)) = self
            .program
            .port(peer)
            .and_then(|p| self.program.bridges.get(p.bridge as usize).map(|b| (p, b)))
        else {
            self.drop_copy(Drop::NoSuchPort);
            return Ok(());
        };
        let (kept, scope) = (self.keep_and_clear(), self.open_scope());
        let saved = (self.bridge, self.bridge_ix, self.table);
        self.key = crossing(&self.key, far.number);
        self.bridge = bridge;
        self.bridge_ix = far.bridge;
        self.seen.bridge(&bridge.name);
        let end = self.fork(0);
        let end = self.conclude_fork(end);
        (self.bridge, self.bridge_ix, self.table) = saved;
        self.restore(&kept);
        if let Err(Stop::Error(reason)) = end {
            self.drop_copy(reason);
        }
        self.close_scope(&scope)
    }

    #[inline(never)]
    fn tunnel(&mut self, port: &Port, config: &TunnelConfig, max_len: u32) -> Flow {
        let Some(remote) = remote_of(config, &self.key) else {
            self.drop_copy(Drop::TunnelNoRemote);
            return Ok(());
        };
        if came_from(remote, &self.key) {
            self.drop_copy(Drop::TunnelLoop);
            return Ok(());
        }
        let local = config.local;
        let hop = match self.program.underlay.next_hop(remote, local) {
            Ok(hop) => hop,
            Err(no) => {
                self.rec.cacheable = false;
                if let Some((addr, ifindex)) = no.resolve {
                    self.hint(Event::Resolve { addr, ifindex });
                }
                self.drop_copy(no.reason);
                return Ok(());
            }
        };
        let params = self.params(config, &hop, remote);
        let (template, len) = match self.world.templates.geneve(&params) {
            Ok(found) => found,
            Err(reason) => {
                self.rec.cacheable = false;
                self.drop_copy(reason);
                return Ok(());
            }
        };
        let room = hop.mtu.saturating_add(14);
        let cut_fits = max_len as usize <= usize::from(room).saturating_sub(len);
        if !cut_fits && !self.fits(len, room) {
            self.drop_copy(Drop::TooBig);
            return Ok(());
        }
        self.commit()?;
        self.seen.tunnel(&port.name, remote, &hop);
        self.emit(match max_len {
            u32::MAX => Step::TunnelOutput { template, port: hop.port },
            _ => Step::OutputCut { port: hop.port, max_len, template },
        })
    }

    fn params(&self, config: &TunnelConfig, hop: &NextHop, remote: IpAddr) -> GeneveParams {
        let vni = match config.key {
            TunnelKey::Number(n) => n,
            TunnelKey::Flow => self.key.tun_id as u32 & 0xff_ffff,
        };
        GeneveParams {
            src_mac: hop.src_mac,
            dst_mac: hop.dst_mac,
            vlan: None,
            src_ip: hop.source,
            dst_ip: remote,
            vni,
            tos: config.tos,
            ttl: config.ttl,
            df: config.df,
            csum: config.csum,
            dst_port: config.dst_port,
            options: self.bridge.tlv.encode(&self.key),
        }
    }

    /// Whether the frame with `extra` bytes in front is at most `room` long. Lengths that decide
    /// alike share the traversal.
    fn fits(&mut self, extra: usize, room: u16) -> bool {
        let grows = stacked_bytes(&self.key) as i32 - self.came_with as i32;
        let limit = i32::from(room) - extra as i32 - grows;
        let limit = limit.clamp(0, i32::from(u16::MAX)) as u16;
        let fits = self.packet.bytes.len() <= limit as usize;
        if fits {
            self.rec.len_max = self.rec.len_max.min(limit);
        } else {
            self.rec.len_min = self.rec.len_min.max(limit.saturating_add(1));
        }
        fits
    }

    fn hint(&mut self, event: Event) {
        if !self.dry {
            self.world.events.hint(event);
        }
    }
}

/// The key as the far end of a patch cable sees it.
fn crossing(k: &FlowKey, in_port: u32) -> FlowKey {
    FlowKey {
        xxreg: [0; 4],
        metadata: 0,
        in_port,
        tun_id: 0,
        tun_src: 0,
        tun_dst: 0,
        tun_ipv6_src: 0,
        tun_ipv6_dst: 0,
        tun_flags: 0,
        tun_present: 0,
        tun_metadata: [0; TUN_METADATA_BYTES],
        tun_tos: 0,
        tun_ttl: 0,
        ct_state: 0,
        ct_zone: 0,
        ct_mark: 0,
        ct_label: 0,
        ct_nw_src: 0,
        ct_nw_dst: 0,
        ct_nw_proto: 0,
        ct_ipv6_src: 0,
        ct_ipv6_dst: 0,
        ct_tp_src: 0,
        ct_tp_dst: 0,
        conj_id: 0,
        ..*k
    }
}

fn remote_of(config: &TunnelConfig, k: &FlowKey) -> Option<IpAddr> {
    match config.remote {
        TunnelRemote::Address(a) => Some(a),
        TunnelRemote::Flow if k.tun_dst != 0 => Some(Ipv4Addr::from(k.tun_dst).into()),
        TunnelRemote::Flow if k.tun_ipv6_dst != 0 => Some(Ipv6Addr::from(k.tun_ipv6_dst).into()),
        TunnelRemote::Flow => None,
    }
}

/// The packet came out of a tunnel from this very address and was not sent elsewhere since.
fn came_from(remote: IpAddr, k: &FlowKey) -> bool {
    match remote {
        IpAddr::V4(a) => k.tun_src != 0 && k.tun_src == u32::from(a),
        IpAddr::V6(a) => k.tun_ipv6_src != 0 && k.tun_ipv6_src == u128::from(a),
    }
}
