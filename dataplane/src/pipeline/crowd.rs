//! Which ports bring crowds of first packets.
//!
//! A packet that opens a connection, or is refused one, is not in tier 1, and does not come to be.
//! Where nearly all that comes by a port is such (a flood, a scan, a proxy's uplink), the look at
//! tier 1 is in vain, a line far away each time, and so is the search for the question of tier 2,
//! which is the same each time. So a crowd's batch is looked up nowhere: connection tracking's
//! index is asked for in the zone that was asked last, and each packet is held against what opened
//! the last connection (`Lane::serve_firsts`). What that is not for goes through all tiers.
//!
//! The next batch of a port is guessed from its last ones, and each says anew what it was: one that
//! did not go this road nearly as a whole ends it. The outcome of a packet never depends on this.

use crate::limits::PORTS_MAX;
use crate::packet::key::PortIx;

/// Batches in a row that were crowds make the next one taken for one.
const ROW: u8 = 4;

/// Ports, and what their last batches were.
#[derive(Debug)]
pub(super) struct Crowds {
    /// Crowds in a row, by port, up to `ROW`.
    rows: Box<[u8]>,
    /// The batch in hand is taken for one.
    expected: bool,
    /// Of the batch in hand, packets that were served like the last first packet.
    opened: u32,
    /// Every batch is taken for one.
    always: bool,
}

impl Crowds {
    pub fn new(always: bool) -> Self {
        Self { rows: vec![0; PORTS_MAX].into(), expected: false, opened: 0, always }
    }

    /// Whether the batch in hand is taken for a crowd.
    #[inline]
    pub fn is_expected(&self) -> bool {
        self.expected
    }

    /// A batch by this port comes. `any`: what is done with crowds can be done.
    #[inline]
    pub fn begin(&mut self, port: PortIx, any: bool) {
        let row = self.rows.get(usize::from(port.0)).copied().unwrap_or(0);
        self.expected = any && (row >= ROW || self.always);
        self.opened = 0;
    }

    /// So many packets of it were served like the last first packet.
    #[inline]
    pub fn opened(&mut self, packets: u32) {
        self.opened += packets;
    }

    /// It is over, of so many packets: none tell nothing.
    #[inline]
    pub fn end(&mut self, port: PortIx, packets: usize) {
        self.expected = false;
        if packets == 0 {
            return;
        }
        if let Some(row) = self.rows.get_mut(usize::from(port.0)) {
            let is_crowd = 8 * self.opened as usize >= 7 * packets;
            *row = if is_crowd { (*row + 1).min(ROW) } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(c: &mut Crowds, port: u16, opened: u32, packets: usize) -> bool {
        c.begin(PortIx(port), true);
        let expected = c.is_expected();
        c.opened(opened);
        c.end(PortIx(port), packets);
        expected
    }

    #[test]
    fn some_crowds_in_a_row_and_the_next_is_expected_by_that_port() {
        let mut c = Crowds::new(false);
        let expected: Vec<_> = (0..6).map(|_| batch(&mut c, 3, 32, 32)).collect();
        assert_eq!(expected, [false, false, false, false, true, true]);
        assert!(!batch(&mut c, 4, 32, 32), "another port");
        assert!(batch(&mut c, 3, 28, 32), "nearly all is enough");
        assert!(batch(&mut c, 3, 0, 0) && !c.is_expected() && batch(&mut c, 3, 32, 32), "none");
        c.begin(PortIx(3), false);
        assert!(!c.is_expected(), "nothing can be done");
        c.end(PortIx(3), 1);
        assert!((0..ROW).all(|_| !batch(&mut c, 3, 1, 1)), "it ends at once");
        assert!(batch(&mut c, 3, 0, 1) && !batch(&mut c, 3, 27, 32));
        assert!(!batch(&mut c, u16::MAX, 32, 32), "no such port");
    }
}
