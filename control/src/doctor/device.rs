//! Checks of the devices that are to be ports.

use sluice_dataplane::packet::frame::HEADROOM_BYTES;

use super::{DeviceWish, Level, Report, Wish};
use crate::attach;
use crate::config::PortMode;
use crate::netlink::ethtool;
use crate::netlink::{Link, Socket};

/// Ethernet header and one VLAN tag, in front of what the MTU counts.
const LINK_HEADER_BYTES: u32 = 18;
/// The largest MTU at which native XDP runs without multi-buffer: a page of 4096 bytes less 256
/// bytes of headroom, 320 for the kernel's `skb_shared_info`, and the link header with a VLAN tag.
const XDP_MTU_MAX: u32 = 3498;
/// The name that the steering program has in the kernel.
const STEER: &str = "steer";

pub(super) fn examine(wish: &Wish, report: &mut Report) {
    let mut socket = match Socket::open() {
        Ok(socket) => socket,
        Err(error) => {
            return report.add(Level::Fail, "netlink", error.to_string(), "");
        }
    };
    for device in &wish.devices {
        let link = match socket.link_named(&device.name) {
            Ok(Some(link)) => link,
            Ok(None) => {
                let fix = "ip -br link lists the devices of this namespace; check the name";
                report.add(Level::Fail, &device.name, "there is no such device here", fix);
                continue;
            }
            Err(error) => {
                report.add(Level::Fail, &device.name, error.to_string(), "");
                continue;
            }
        };
        state(&link, report);
        if device.afxdp {
            kind(&link, report);
            queues(device, &link, report);
            mtu(wish, &link, report);
            program(wish, &link, report);
            offloads(device, &link, report);
        }
    }
}

fn state(link: &Link, report: &mut Report) {
    let what = &link.name;
    let name = driver(link);
    if link.up {
        report.ok(what, format!("up, {name}"));
    } else if link.admin_up {
        let fix = "check the cable, or set the other end of the veth up";
        report.add(Level::Warn, what, format!("no carrier, {name}"), fix);
    } else {
        report.add(Level::Warn, what, format!("down, {name}"), format!("ip link set {what} up"));
    }
}

/// The kind of a virtual device, or the driver of a real one where it can be seen.
fn driver(link: &Link) -> String {
    if !link.kind.is_empty() {
        return link.kind.clone();
    }
    let path = format!("/sys/class/net/{}/device/driver", link.name);
    let target = std::fs::read_link(path).ok();
    let name = target.and_then(|t| Some(t.file_name()?.to_string_lossy().into_owned()));
    name.unwrap_or_else(|| "driver unknown".into())
}

pub(super) fn kind(link: &Link, report: &mut Report) {
    let what = format!("{} type", link.name);
    match link.kind.as_str() {
        "bond" | "team" => {
            let why = format!("{}: XDP is refused or not seen by its members", link.kind);
            report.add(Level::Fail, what, why, "give the member devices to sluice instead");
        }
        "vlan" | "macvlan" | "bridge" => {
            let why = format!("{}: it can run XDP in generic mode only", link.kind);
            report.add(Level::Warn, what, why, "give the device below it to sluice");
        }
        _ if link.mac.is_none() => {
            report.add(Level::Fail, what, "its frames are not Ethernet", "use another device");
        }
        _ => {}
    }
}

pub(super) fn queues(device: &DeviceWish, link: &Link, report: &mut Report) {
    let what = format!("{} queues", link.name);
    let name = &link.name;
    let wanted = u32::from(device.queues);
    if wanted > link.rx_queues {
        let why = format!("{wanted} wanted, the device has {}", link.rx_queues);
        let fix =
            format!("set queues = {}, or ethtool -L {name} combined {wanted}", link.rx_queues);
        report.add(Level::Fail, what, why, fix);
    } else if wanted != 0 && wanted < link.rx_queues {
        let rest = link.rx_queues - wanted;
        let why =
            format!("{} queues, {wanted} used: packets of {rest} are not seen", link.rx_queues);
        let fix = format!("leave queues out, or ethtool -L {name} combined {wanted}");
        report.add(Level::Warn, what, why, fix);
    } else {
        report.ok(what, format!("{} rx, {} tx", link.rx_queues, link.tx_queues));
    }
}

pub(super) fn mtu(wish: &Wish, link: &Link, report: &mut Report) {
    let what = format!("{} mtu", link.name);
    let room = wish.frame_size_bytes - u32::from(HEADROOM_BYTES) - LINK_HEADER_BYTES;
    if link.mtu_bytes > room {
        let why = format!(
            "{}: a frame of {} bytes holds an MTU of {room}, longer packets are not received",
            link.mtu_bytes, wish.frame_size_bytes
        );
        let fix = if link.mtu_bytes <= 4096 - u32::from(HEADROOM_BYTES) - LINK_HEADER_BYTES {
            "set frame_size_bytes = 4096".to_owned()
        } else {
            format!("ip link set {} mtu {}", link.name, XDP_MTU_MAX)
        };
        report.add(Level::Warn, what, why, fix);
    } else if link.mtu_bytes > XDP_MTU_MAX {
        let why = format!(
            "{}: above {XDP_MTU_MAX} native XDP needs a driver with multi-buffer",
            link.mtu_bytes
        );
        let fix = format!("ip link set {} mtu {XDP_MTU_MAX}, if attaching fails", link.name);
        report.add(Level::Warn, what, why, fix);
    } else {
        report.ok(what, format!("{}, frames hold {room}", link.mtu_bytes));
    }
}

fn program(wish: &Wish, link: &Link, report: &mut Report) {
    let what = format!("{} xdp", link.name);
    match attach::device(link.ifindex).map(|device| device.xdp) {
        Ok(None) => report.ok(what, "no program there"),
        Ok(Some(there)) => {
            let name = attach::program_name(there.id);
            if wish.running && name == STEER {
                return report.ok(what, format!("sluice's own, {}", there.how));
            }
            let why = format!("program {} \"{name}\" is there already ({})", there.id, there.how);
            let fix = if name == STEER {
                "a sluiced is using this device: stop it first".to_owned()
            } else {
                format!("stop its owner, or ip link set {} xdp off", link.name)
            };
            report.add(Level::Fail, what, why, fix);
        }
        Err(error) => report.add(Level::Warn, what, error.to_string(), ""),
    }
}

fn offloads(device: &DeviceWish, link: &Link, report: &mut Report) {
    match ethtool::active_features(&link.name) {
        Ok(features) => lro(device, link, &features, report),
        Err(error) => {
            let what = format!("{} lro", link.name);
            report.add(Level::Warn, what, format!("cannot be seen: {error}"), "");
        }
    }
}

pub(super) fn lro(device: &DeviceWish, link: &Link, features: &[String], report: &mut Report) {
    let what = format!("{} lro", link.name);
    let on = features.iter().any(|f| f == "rx-lro" || f == "rx-gro-hw");
    if on && device.mode == PortMode::All {
        let why = "on: drivers refuse XDP, or give merged packets longer than a frame";
        report.add(Level::Warn, what, why, format!("ethtool -K {} lro off", link.name));
    } else if on {
        let why = "on: drivers refuse XDP while it is";
        report.add(Level::Warn, what, why, format!("ethtool -K {} lro off", link.name));
    } else {
        report.ok(what, "off");
    }
}
