//! Asking the kernel who has an address, and not too often.
//!
//! A tunnel whose next hop is unknown drops its packets and asks; it may drop a million a second.
//! One question per address and second is enough: the kernel itself repeats it three times. The
//! table of asked addresses is bounded, so a flow that scans a network cannot make it grow.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::socket::{NetlinkError, Socket};

/// Between two questions for the same address.
pub const INTERVAL: Duration = Duration::from_secs(1);
/// Addresses remembered. When all are younger than the interval, further questions wait.
const ASKED_MAX: usize = 1024;

/// When which address was asked for.
#[derive(Debug, Default)]
pub struct Pace {
    asked: HashMap<(u32, IpAddr), Instant>,
}

impl Pace {
    /// Whether a question may go out now; if so, it is taken as asked.
    pub fn allows(&mut self, ifindex: u32, address: IpAddr, now: Instant) -> bool {
        let old = |at: &Instant| now.saturating_duration_since(*at) >= INTERVAL;
        if self.asked.get(&(ifindex, address)).is_some_and(|at| !old(at)) {
            return false;
        }
        if self.asked.len() >= ASKED_MAX {
            self.asked.retain(|_, at| !old(at));
        }
        let room = self.asked.len() < ASKED_MAX;
        if room {
            self.asked.insert((ifindex, address), now);
        }
        room
    }
}

/// The asker: a socket of the daemon's namespace, and the pace.
#[derive(Debug)]
pub struct Resolver {
    socket: Socket,
    pace: Pace,
}

impl Resolver {
    pub fn new() -> Result<Self, NetlinkError> {
        Ok(Self { socket: Socket::open()?, pace: Pace::default() })
    }

    /// Asks the kernel to resolve `address`, or to confirm what it knows. The answer comes as a new
    /// snapshot of the underlay. True: asked; false: asked a moment ago.
    pub fn resolve(&mut self, ifindex: u32, address: IpAddr) -> Result<bool, NetlinkError> {
        if !self.pace.allows(ifindex, address, Instant::now()) {
            return Ok(false);
        }
        self.socket.use_neighbour(ifindex, address)?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn one_question_per_address_and_second_and_a_bounded_table() {
        let mut pace = Pace::default();
        let start = Instant::now();
        let address = |n: u32| IpAddr::V4(Ipv4Addr::from(n));
        assert!(pace.allows(1, address(1), start));
        assert!(!pace.allows(1, address(1), start + Duration::from_millis(999)));
        assert!(pace.allows(2, address(1), start), "another link is another neighbour");
        assert!(pace.allows(1, address(1), start + INTERVAL));
        let allowed = (0..5000).filter(|n| pace.allows(3, address(*n), start)).count();
        assert_eq!(allowed, ASKED_MAX - 2);
        assert!(pace.allows(3, address(9999), start + 3 * INTERVAL));
        assert!(pace.asked.len() <= ASKED_MAX);
    }
}
