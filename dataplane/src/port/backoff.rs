//! When to look at a device that can only be asked by a system call.
//!
//! A worker goes round all its ports in a microsecond or so. Asking an idle device each time would
//! cost more than a busy one's packets; asking it every 16th time costs at most some ten
//! microseconds of latency on its first packet.

/// Rounds that may be skipped between two looks.
const SKIP_MAX: u8 = 15;

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff {
    skip: u8,
    left: u8,
}

impl Backoff {
    /// Whether to look this time.
    #[inline]
    pub(super) fn due(&mut self) -> bool {
        if self.left == 0 {
            return true;
        }
        self.left -= 1;
        false
    }

    /// What the look found.
    #[inline]
    pub(super) fn found(&mut self, count: usize) {
        self.skip = if count > 0 { 0 } else { (self.skip * 2 + 1).min(SKIP_MAX) };
        self.left = self.skip;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_device_is_asked_less_often_until_it_has_something() {
        let mut backoff = Backoff::default();
        let mut looks = Vec::new();
        for round in 0..64 {
            if backoff.due() {
                looks.push(round);
                backoff.found(0);
            }
        }
        assert_eq!(looks, [0, 2, 6, 14, 30, 46, 62]);
        backoff.found(1);
        assert!(backoff.due());
    }
}
