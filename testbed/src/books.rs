//! A running switch's books: every packet that came in went out or was dropped for a reason, and no
//! frame is lost.
//!
//! Workers do not count at the same moment, and packets may be under way between two looks: one
//! look that does not add up proves nothing, so who asks does so until it does, or gives up.

use std::collections::BTreeMap;

use sluice_control::api::types::{PortInfo, SwitchInfo};

use crate::sluiced::Daemon;

/// No frame is lost: what is not free is lent to a port, or on its way between two workers.
pub fn frames(info: &SwitchInfo) -> Result<(), String> {
    let held: u64 = ports(info).map(|p| p.frames_held).sum();
    if info.frames_free + info.frames_waiting + held == info.frames {
        return Ok(());
    }
    let (free, waiting, all) = (info.frames_free, info.frames_waiting, info.frames);
    Err(format!("frames: {free} free, {waiting} waiting and {held} held of {all}: {info:?}"))
}

/// What came in went out or was dropped for a reason, and ports and workers agree. For bridges on
/// which no packet is copied, and ports that stayed.
pub fn packets(daemon: &Daemon) -> Result<(), String> {
    let look = || daemon.counters().map(moving).map_err(|e| e.to_string());
    let before = look()?;
    let info = daemon.show().map_err(|e| e.to_string())?;
    let drops: u64 = before.iter().filter(|(n, _)| n.starts_with("drop ")).map(|c| c.1).sum();
    let count = |name: &str| before.get(name).copied().unwrap_or(0);
    let (rx, tx) = (count("rx_packets"), count("tx_packets"));
    let refused = count("drop tx_ring_full") + count("drop tx_failed");
    // Dropped at the port: counted as sent and as dropped. Of `port_down`, some may be.
    let late = refused + count("drop tx_too_long");
    let late_max = late + count("drop port_down");
    let port_rx: u64 = ports(&info).map(|p| p.counters.rx_packets).sum();
    let port_tx: u64 = ports(&info).map(|p| p.counters.tx_packets).sum();
    let both = rx + late <= tx + drops && tx + drops <= rx + late_max;
    let sent = port_tx + late <= tx && tx <= port_tx + late_max;
    if both && sent && port_rx == rx && before == look()? {
        return Ok(());
    }
    Err(format!("packets: ports received {port_rx} and sent {port_tx}; {before:?}"))
}

fn ports(info: &SwitchInfo) -> impl Iterator<Item = &PortInfo> {
    info.bridges.iter().flat_map(|b| &b.ports)
}

/// Counters of packets; an idle worker counts its sleeps.
fn moving(mut all: BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    all.retain(|name, _| name != "polls" && name != "busy_ns");
    all
}
