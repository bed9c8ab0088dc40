//! A bare AF_XDP forwarder: what comes in at one device leaves at the other, nothing is read.
//!
//! The floor that the whole switch is compared with end to end: the same sockets, rings and
//! wake-ups, no packet work. `xsk_loop IF_A IF_B SECONDS [RX_ENTRIES]` runs in the current network
//! namespace and prints one line of JSON.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_control::attach::{Steer, SteerConfig};
use sluice_dataplane::limits::{RING_ENTRIES, frames_wanted};
use sluice_dataplane::port::xsk::{XskPort, XskPortConfig};
use sluice_dataplane::port::{Port, RxBurst};
use sluice_dataplane::sys::if_index;
use sluice_dataplane::xsk::pool::FramePool;
use sluice_dataplane::xsk::umem::{Umem, UmemConfig};

const USAGE: &str = "usage: xsk_loop IF_A IF_B SECONDS [RX_ENTRIES]";

type Error = Box<dyn std::error::Error>;

struct Settings {
    names: [String; 2],
    seconds: u64,
    rx_entries: u32,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(settings) = parse(&args) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(&settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xsk_loop: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(args: &[String]) -> Option<Settings> {
    let (names, rest) = args.split_first_chunk::<2>()?;
    let seconds = rest.first()?.parse().ok()?;
    let rx_entries = rest.get(1).map_or(Some(RING_ENTRIES), |text| text.parse().ok())?;
    (rest.len() <= 2).then(|| Settings { names: names.clone(), seconds, rx_entries })
}

/// A port on queue 0 with its program. The program is detached when the second value is dropped.
fn open(name: &str, rx_entries: u32, umem: &Arc<Umem>) -> Result<(XskPort, Steer), Error> {
    let index = if_index(name).map_err(|e| format!("{name}: {e}"))?;
    let config = XskPortConfig { rx_entries, ..XskPortConfig::new(index, vec![0]) };
    let port = XskPort::open(&config, umem).map_err(|e| format!("{name}: {e}"))?;
    let mut steer = Steer::attach(index, &SteerConfig::all(false))?;
    for (queue, socket) in port.sockets() {
        steer.set_socket(queue, socket)?;
    }
    Ok((port, steer))
}

fn run(settings: &Settings) -> Result<(), Error> {
    let frames = frames_wanted(2, settings.rx_entries, RING_ENTRIES);
    let umem = Umem::new(UmemConfig { frames, ..UmemConfig::default() })?;
    let mut pool = FramePool::new(&umem, frames)?;
    let [name_a, name_b] = &settings.names;
    let (mut a, _steer_a) = open(name_a, settings.rx_entries, &umem)?;
    let (mut b, _steer_b) = open(name_b, settings.rx_entries, &umem)?;

    let start = Instant::now();
    let end = Duration::from_secs(settings.seconds);
    let mut burst = RxBurst::new();
    let (mut rounds, mut first) = (0u32, None);
    while !rounds.is_multiple_of(1024) || start.elapsed() < end {
        rounds = rounds.wrapping_add(1);
        let mut count = a.rx(&mut pool, &mut burst);
        burst.drain().for_each(|frame| b.tx(&mut pool, frame));
        b.flush(&mut pool);
        count += b.rx(&mut pool, &mut burst);
        burst.drain().for_each(|frame| a.tx(&mut pool, frame));
        a.flush(&mut pool);
        if count > 0 && first.is_none() {
            first = Some(Instant::now());
        }
    }
    // The rate counts from the first packet, so that a late generator does not dilute it.
    let busy_s = first.map_or(end, |first| first.elapsed()).as_secs_f64().max(1e-9);
    let modes = (a.bind_modes(), b.bind_modes());
    let (sa, sb) = (a.stats(), b.stats());
    a.close(&mut pool);
    b.close(&mut pool);
    if pool.available() != pool.total() {
        return Err(format!("{} of {} frames lost", pool.available(), pool.total()).into());
    }
    let packets = sa.rx_packets + sb.rx_packets;
    println!(
        "{{\"packets\": {packets}, \"pps\": {:.0}, \"seconds\": {busy_s:.3}, \
         \"syscalls_per_packet\": {:.4}, \"rx_ring_full\": {}, \"fill_empty\": {}, \
         \"tx_dropped\": {}, \"rx_entries\": {}, \"modes\": \"{modes:?}\"}}",
        packets as f64 / busy_s,
        (sa.syscalls + sb.syscalls) as f64 / packets.max(1) as f64,
        sa.kernel_rx_ring_full + sb.kernel_rx_ring_full,
        sa.kernel_fill_empty + sb.kernel_fill_empty,
        sa.tx_ring_full + sa.tx_errors + sb.tx_ring_full + sb.tx_errors,
        settings.rx_entries,
    );
    Ok(())
}
