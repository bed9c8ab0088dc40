//! Opening the device behind a port, and what must be kept while it is open.

use super::workers::Part;
use crate::attach::{
    AttachError, Endpoint, NatAddress, NatPart, Place, Steer, SteerConfig, SteerMode, TunnelProto,
};
use crate::config::{self, Afxdp, Internal, MacAddr, PortMode, PortType, XdpMode};
use crate::netlink::{Link, Socket, Underlay, configure_internal, ethtool, netns};
use sluice_dataplane::port::packet::PacketPort;
use sluice_dataplane::port::tap::{TapConfig, TapPort};
use sluice_dataplane::port::xsk::{XskPort, XskPortConfig};
use sluice_dataplane::port::{AnyPort, PortKind, memory::MemoryPort};
use sluice_dataplane::xsk::socket::BindMode;
use sluice_dataplane::xsk::umem::Umem;
use std::net::IpAddr;
use std::sync::Arc;

/// What control keeps of an open device. Dropping it gives a NIC back to the kernel.
pub struct Opened {
    pub steer: Option<Steer>,
    pub ifindex: Option<u32>,
    pub queues: u32,
    /// "native copy", "tap" ...
    pub status: String,
    pub frames_wanted: u32,
}

/// A device, and the port on it in one part for each worker that serves it.
pub type Device = (Vec<Part>, Opened);

/// Why a device could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody else's program is on it. No waiting helps: a person must decide.
    #[error("{0}")]
    Taken(AttachError),
    #[error("{0}")]
    Other(String),
}

impl OpenError {
    fn new(error: impl ToString) -> Self {
        Self::Other(error.to_string())
    }
}

impl From<AttachError> for OpenError {
    fn from(error: AttachError) -> Self {
        match error {
            AttachError::Foreign { .. } => Self::Taken(error),
            other => Self::new(other),
        }
    }
}

/// What opening needs to know.
pub struct Site<'a> {
    pub umem: &'a Arc<Umem>,
    pub net: &'a Underlay,
    /// UDP ports of the tunnels.
    pub tunnel_ports: &'a [u16],
    pub workers: usize,
    /// The port's number among all: devices that cannot serve all workers are dealt out by it.
    pub nth: usize,
}

impl Site<'_> {
    /// A port that one worker serves alone.
    fn whole(&self, port: AnyPort) -> Vec<Part> {
        let worker = self.nth % self.workers.max(1);
        vec![Part { worker, port: Box::new(port), sends: true }]
    }
}

/// Opens the device of a port; `None` for ports that have none.
pub fn open(port: &config::Port, site: &Site<'_>) -> Result<Option<Device>, OpenError> {
    Ok(Some(match &port.kind {
        PortType::Geneve(_) | PortType::Patch { .. } => return Ok(None),
        PortType::Memory => (
            site.whole(AnyPort::Memory(MemoryPort::discard())),
            Opened {
                steer: None,
                ifindex: None,
                queues: 0,
                status: "memory".into(),
                frames_wanted: 0,
            },
        ),
        PortType::Internal(internal) => open_internal(internal, site)?,
        PortType::Tap(tap) => open_tap(tap, site)?,
        PortType::Packet { device } => open_packet(device, site)?,
        PortType::Afxdp(afxdp) => open_afxdp(afxdp, site)?,
    }))
}

fn open_internal(internal: &Internal, site: &Site<'_>) -> Result<Device, OpenError> {
    // Asked first: a device that is made and taken back at every try is news to everybody.
    if let Some(path) = &internal.netns {
        netns::open(path).map_err(OpenError::new)?;
    }
    let config = TapConfig {
        name: internal.device.clone(),
        mac: None,
        mtu: None,
        up: false,
        kind: PortKind::Internal,
    };
    let tap = TapPort::create(&config).map_err(OpenError::new)?;
    let ifindex = tap.if_index();
    configure_internal(ifindex, internal).map_err(OpenError::new)?;
    let place = internal.netns.as_ref().map(|n| format!(" in {}", n.display()));
    let status = format!("tap{}", place.unwrap_or_default());
    Ok((
        site.whole(AnyPort::Tap(tap)),
        Opened { steer: None, ifindex: Some(ifindex), queues: 1, status, frames_wanted: 0 },
    ))
}

fn open_tap(tap: &config::Tap, site: &Site<'_>) -> Result<Device, OpenError> {
    let config = TapConfig {
        name: tap.device.clone(),
        mac: tap.mac.map(|m: MacAddr| m.0),
        mtu: tap.mtu_bytes,
        up: true,
        kind: PortKind::Tap,
    };
    let tap = TapPort::create(&config).map_err(OpenError::new)?;
    let ifindex = Some(tap.if_index());
    let status = "tap".to_owned();
    Ok((
        site.whole(AnyPort::Tap(tap)),
        Opened { steer: None, ifindex, queues: 1, status, frames_wanted: 0 },
    ))
}

fn link<'a>(device: &str, site: &Site<'a>) -> Result<&'a Link, OpenError> {
    site.net.link_by_name(device).ok_or_else(|| {
        OpenError::Other(format!(
            "there is no device {device}; create it, or correct `device`; \
             it is taken up when it comes"
        ))
    })
}

fn open_packet(device: &str, site: &Site<'_>) -> Result<Device, OpenError> {
    let link = link(device, site)?;
    let port = PacketPort::open(link.ifindex).map_err(|e| {
        OpenError::Other(format!("cannot open an AF_PACKET socket on {device}: {e}"))
    })?;
    let status = "AF_PACKET".to_owned();
    let ifindex = Some(link.ifindex);
    Ok((
        site.whole(AnyPort::Packet(Box::new(port))),
        Opened { steer: None, ifindex, queues: 1, status, frames_wanted: 0 },
    ))
}

/// What the steering program of a shared device takes.
pub fn steering(
    afxdp: &Afxdp,
    link: &Link,
    net: &Underlay,
    tunnel_ports: &[u16],
) -> (Vec<Endpoint>, Vec<NatAddress>) {
    let addresses: Vec<IpAddr> = if afxdp.endpoints.is_empty() {
        net.addresses_of(link.ifindex).map(|c| c.address).collect()
    } else {
        afxdp.endpoints.clone()
    };
    let ends = addresses.iter().flat_map(|addr| {
        tunnel_ports.iter().map(|p| Endpoint { addr: *addr, proto: TunnelProto::Udp(*p) })
    });
    #[expect(clippy::reversed_empty_ranges, reason = "what was not reserved is no number at all")]
    const NOTHING: std::ops::RangeInclusive<u16> = 1..=0;
    let nat = afxdp.nat.iter().map(|n| NatAddress {
        addr: n.address,
        part: match (n.ports, n.icmp_ids) {
            (None, None) => NatPart::Whole,
            (ports, ids) => NatPart::Ranges {
                ports: ports.map_or(NOTHING, |(a, b)| a..=b),
                icmp_ids: ids.map_or(NOTHING, |(a, b)| a..=b),
            },
        },
    });
    (ends.collect(), nat.collect())
}

fn open_afxdp(afxdp: &Afxdp, site: &Site<'_>) -> Result<Device, OpenError> {
    let link = link(&afxdp.device, site)?;
    if afxdp.mode == PortMode::All && !link.admin_up {
        let up = Socket::open().and_then(|mut s| s.set_up(link.ifindex, true));
        up.map_err(|e| OpenError::Other(format!("cannot set {} up: {e}", afxdp.device)))?;
    }
    let (endpoints, nat) = steering(afxdp, link, site.net, site.tunnel_ports);
    let steer_config = SteerConfig {
        mode: match afxdp.mode {
            PortMode::All => SteerMode::All,
            PortMode::Shared => SteerMode::Shared,
        },
        // Sockets take one buffer a frame; with `frags` a veth's peer would send 64 KiB segments.
        frags: false,
        place: match afxdp.xdp {
            XdpMode::Auto => Place::Auto,
            XdpMode::Native => Place::Native,
            XdpMode::Skb => Place::Generic,
        },
        endpoints,
        nat,
    };
    let mut steer = Steer::attach(link.ifindex, &steer_config)?;
    let queues = match afxdp.queues {
        // A driver that cannot say how many it uses has one.
        0 => ethtool::rx_queues(&afxdp.device).unwrap_or(1).max(1),
        n => u32::from(n),
    };
    let tx_queues = ethtool::tx_queues(&afxdp.device).unwrap_or(1).max(1);
    let (mut parts, mut zero, mut frames_wanted) = (Vec::new(), true, 0);
    for (worker, queues) in deal(queues, site) {
        let config = XskPortConfig::new(link.ifindex, queues);
        let port = XskPort::open(&config, site.umem).map_err(OpenError::new)?;
        for (queue, socket) in port.sockets() {
            steer.set_socket(queue, socket)?;
        }
        zero &= port.bind_modes().iter().all(|m| m.1 == BindMode::ZeroCopy);
        frames_wanted += config.queues.len() as u32 * (config.rx_entries + config.tx_entries);
        // The kernel sends by a queue's number, and quietly not at all where there is none.
        let sends = config.queues.first().is_some_and(|queue| *queue < tx_queues);
        parts.push(Part { worker, port: Box::new(AnyPort::Xsk(port)), sends });
    }
    let status = format!("{} {}", steer.mode().name(), if zero { "zero-copy" } else { "copy" });
    let ifindex = Some(link.ifindex);
    Ok((parts, Opened { steer: Some(steer), ifindex, queues, status, frames_wanted }))
}

/// The queues of each worker that has any: in turn from the first worker on, so that devices which
/// spread connections alike bring both directions to one worker; a device with fewer queues than
/// there are workers begins at another one, so that few do not serve all such devices.
fn deal(queues: u32, site: &Site<'_>) -> impl Iterator<Item = (usize, Vec<u32>)> {
    let workers = site.workers.max(1);
    let first = if (queues as usize) < workers { site.nth % workers } else { 0 };
    let busy = workers.min(queues as usize);
    (0..busy)
        .map(move |nth| ((first + nth) % workers, (nth as u32..queues).step_by(workers).collect()))
}
