//! A configured port, with what is known of its device, as the dataplane sees it.

use crate::config::{self, Checksum, PortMode, PortType};
use sluice_dataplane::packet::key::PortIx;
use sluice_dataplane::pipeline::{Port, PortRole};
use sluice_dataplane::tunnel::{Inherit, TunnelConfig, TunnelKey, TunnelRemote};
use std::sync::Arc;

/// The kernel device behind a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    pub ifindex: u32,
    pub mac: [u8; 6],
    pub mtu: u32,
    /// "veth", "tun" ...
    pub kind: String,
    /// The node has addresses on it.
    pub has_addresses: bool,
}

/// A port as control knows it.
#[derive(Clone, Debug)]
pub struct PortState {
    pub config: config::Port,
    pub ix: PortIx,
    /// Its worker has it and it takes packets.
    pub up: bool,
    pub device: Option<Device>,
}

/// Compiles a port. `peer` finds a patch port by name.
pub fn compile_port(state: &PortState, bridge: u16, peer: &dyn Fn(&str) -> Option<PortIx>) -> Port {
    let is_shared = matches!(&state.config.kind, PortType::Afxdp(p) if p.mode == PortMode::Shared);
    let device = state.device.as_ref();
    let (role, up) = match &state.config.kind {
        PortType::Geneve(g) => (PortRole::Tunnel(Arc::new(tunnel(g))), true),
        PortType::Patch { peer: name } => match peer(name) {
            Some(peer) => (PortRole::Patch { peer }, true),
            None => (PortRole::Device, false),
        },
        PortType::Internal(_)
        | PortType::Tap(_)
        | PortType::Afxdp(_)
        | PortType::Packet { .. }
        | PortType::Memory => (PortRole::Device, state.up),
    };
    Port {
        name: state.config.name.clone(),
        bridge,
        number: u32::from(state.config.number),
        role,
        up,
        // A shared NIC is the node's own: broadcasts of the bridge have no business there.
        flood: !is_shared,
        mtu: device.map_or(0, |d| d.mtu.min(u32::from(u16::MAX)) as u16),
        underlay: is_shared || device.is_some_and(|d| d.has_addresses),
        partial_checksums: leaves_checksums(&state.config.kind, device),
        checksums_good: trusts_checksums(&state.config.kind),
    }
}

/// Whether the sender behind a port may leave checksums to hardware that is not there.
fn leaves_checksums(kind: &PortType, device: Option<&Device>) -> bool {
    let is_veth = device.is_some_and(|d| d.kind == "veth");
    match kind {
        PortType::Afxdp(p) => match p.checksum {
            Checksum::Auto => is_veth,
            Checksum::Software => true,
            Checksum::Trust => false,
        },
        PortType::Packet { .. } => is_veth,
        _ => false,
    }
}

fn trusts_checksums(kind: &PortType) -> bool {
    matches!(kind, PortType::Afxdp(p) if p.checksum == Checksum::Trust)
}

fn tunnel(g: &config::Geneve) -> TunnelConfig {
    let inherit = |i: config::Inherit, otherwise: u8| match i {
        config::Inherit::Inner => Inherit::Else(otherwise),
        config::Inherit::Fixed(v) => Inherit::Fixed(v),
    };
    TunnelConfig {
        remote: match g.remote {
            config::TunnelRemote::Flow => TunnelRemote::Flow,
            config::TunnelRemote::Ip(a) => TunnelRemote::Address(a),
        },
        local: g.local,
        key: match g.key {
            config::TunnelKey::Flow => TunnelKey::Flow,
            config::TunnelKey::Vni(n) => TunnelKey::Number(n),
        },
        dst_port: g.dst_port,
        csum: g.csum.unwrap_or(false),
        tos: inherit(g.tos, 0),
        ttl: inherit(g.ttl, 64),
        df: g.df,
    }
}
