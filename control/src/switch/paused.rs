//! Packets that `controller(pause)` holds back until somebody resumes them.
//!
//! A listener is told a handle: where the switch keeps the rest is nobody's business, so what comes
//! back can be wrong but never harmful. Handles are numbers that are used once, behind a word that
//! this run of the daemon has to itself; so a handle that is not there is one of another run, one
//! that was never given, or one whose packet has gone on or was given up: the answer says which.
//!
//! (Open vSwitch sends all state along and takes it back, so it keeps nothing; there, a packet can
//! go on twice.)

use super::Core;
use super::calls::refusals;
use crate::api::ApiResult;
use crate::api::types::{ApiError, ErrorCode, NamedCount, ResumeRequest};
use crate::flow::{parse_metadata, parse_packet};
use sluice_dataplane::clock::Now;
use sluice_dataplane::packet::key::{PacketKey, PortIx};
use sluice_dataplane::packet::parse::{self, Layers};
use sluice_dataplane::pipeline::punt::PacketIn;
use sluice_dataplane::pipeline::{Continuation, Resume};
use std::collections::BTreeMap;

/// Packets that wait: a jumbo frame and 12 KiB for the rest of its walk each, 5.5 MB at the worst.
const PAUSED_MAX: usize = 256;
/// A packet whose listener does not answer is given up. Hosts have sent it again by then.
const AGE_MAX_S: u64 = 60;

struct Waiting {
    since_ns: u64,
    /// Who had it, and has its connections.
    worker: usize,
    bytes: Box<[u8]>,
    continuation: Continuation,
}

/// All that wait, by number: the oldest first.
pub(super) struct Paused {
    run: u32,
    next: u64,
    list: BTreeMap<u64, Waiting>,
    expired: u64,
    displaced: u64,
    unheard: u64,
    failed: u64,
}

impl Paused {
    /// `run`: by chance, for the handles of one run not to fit another.
    pub fn new(run: u32) -> Self {
        let (list, counts) = (BTreeMap::new(), 0);
        let [expired, displaced, unheard, failed] = [counts; 4];
        Self { run, next: 1, list, expired, displaced, unheard, failed }
    }

    /// Keeps what a packet needs to go on. Gives its handle.
    pub fn keep(&mut self, packet: &mut PacketIn, worker: usize, now: Now) -> Option<String> {
        let bytes = packet.bytes().into();
        let continuation = packet.take_continuation()?;
        Some(self.put(Waiting { since_ns: now.ns, worker, bytes, continuation }))
    }

    fn put(&mut self, waiting: Waiting) -> String {
        if self.list.len() >= PAUSED_MAX {
            self.list.pop_first();
            self.displaced += 1;
        }
        let number = self.next;
        self.next += 1;
        self.list.insert(number, waiting);
        format!("{:08x}-{number}", self.run)
    }

    /// A packet came where nobody listens: if it paused, it ends.
    pub fn not_heard(&mut self, packet: &PacketIn) {
        self.unheard += u64::from(packet.punt().pause);
    }

    /// Gives up what has waited for too long.
    pub fn expire(&mut self, now: Now) {
        while let Some(first) = self.list.first_entry() {
            if now.ns.saturating_sub(first.get().since_ns) < AGE_MAX_S * 1_000_000_000 {
                break;
            }
            first.remove();
            self.expired += 1;
        }
    }

    /// The number of a packet that waits.
    fn find(&self, handle: &str) -> ApiResult<u64> {
        let refused = |code, said: &str, hint: &str| {
            Err(ApiError::new(code, format!("{handle:?} {said}"), hint))
        };
        let monitor = "`sluice monitor` prints a packet's handle as continuation=HANDLE";
        let parts = handle.split_once('-').and_then(|(run, number)| {
            Some((u32::from_str_radix(run, 16).ok()?, number.parse::<u64>().ok()?))
        });
        let Some((run, number)) = parts else {
            return refused(ErrorCode::Invalid, "is not the handle of a packet", monitor);
        };
        match self.list.contains_key(&number) {
            _ if run != self.run => {
                refused(ErrorCode::NotFound, "is a handle of another run of sluiced", monitor)
            }
            true => Ok(number),
            false if number == 0 || number >= self.next => {
                refused(ErrorCode::NotFound, "was never given to a paused packet", monitor)
            }
            false => {
                let said = "is stale: its packet was resumed already, or given up";
                let hint = "a packet can be resumed once, for 60 s, and as one of the 256 youngest";
                refused(ErrorCode::NotFound, said, hint)
            }
        }
    }

    pub fn counts(&self) -> [NamedCount; 5] {
        let waiting = self.list.len() as u64;
        [
            ("paused_waiting", waiting, "Paused packets that can be resumed now."),
            ("paused_unheard", self.unheard, "Packets that paused without a monitor: they ended."),
            ("paused_expired", self.expired, "Paused packets that nobody resumed within 60 s."),
            (
                "paused_displaced",
                self.displaced,
                "Paused packets that ended because more than 256 waited: the oldest go.",
            ),
            (
                "paused_failed",
                self.failed,
                "Paused packets that ended because they could not go on.",
            ),
        ]
        .map(|(name, count, help)| NamedCount {
            name: name.into(),
            count,
            help: help.into(),
        })
    }
}

impl Core {
    /// Lets a paused packet go on. One that is refused here waits on.
    pub(super) fn resume(&mut self, request: &ResumeRequest) -> ApiResult<()> {
        self.paused.expire(self.now());
        let number = self.paused.find(&request.continuation)?;
        let edited = request.packet.as_deref().map(new_bytes).transpose()?;
        let bridge = self.paused.list.get(&number).map_or(0, |w| w.continuation.bridge());
        let names = &self.model.bridges[usize::from(bridge)];
        let set = parse_metadata(&request.metadata, names).map_err(|e| refusals(&[e]))?;
        let Some(mut waiting) = self.paused.list.remove(&number) else { return Ok(()) };
        waiting.continuation.set_metadata(&set.key, &set.mask);
        let is_edited = edited.is_some();
        let bytes = edited.unwrap_or(waiting.bytes);
        let resume = Resume { bytes, is_edited, continuation: waiting.continuation };
        let done = self.workers.resume(waiting.worker, resume);
        self.paused.failed += u64::from(done.is_err());
        done
    }
}

fn new_bytes(text: &str) -> ApiResult<Box<[u8]>> {
    let bytes = parse_packet(text).map_err(|e| refusals(&[e]))?;
    let (mut key, mut layers) = (PacketKey::default(), Layers::default());
    let parsed = parse::parse(&bytes, PortIx::NONE, &mut key, &mut layers);
    let hint = "give the whole packet, from the Ethernet header on";
    parsed.map_err(|reason| ApiError::new(ErrorCode::Invalid, reason.help(), hint))?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(since_s: u64) -> Waiting {
        let (bytes, continuation) = (Box::default(), Continuation::default());
        Waiting { since_ns: Now::from_secs(since_s).ns, worker: 0, bytes, continuation }
    }

    fn counted(p: &Paused) -> [u64; 5] {
        p.counts().map(|c| c.count)
    }

    #[test]
    fn as_many_wait_as_may_and_no_longer_than_they_may() {
        let mut paused = Paused::new(7);
        let handles: Vec<String> = (0..300).map(|n| paused.put(at(n))).collect();
        assert_eq!(counted(&paused), [PAUSED_MAX as u64, 0, 0, 44, 0]);
        assert!(paused.find(&handles[43]).is_err() && paused.find(&handles[44]).is_ok());
        paused.expire(Now::from_secs(100));
        assert!(paused.find(&handles[44]).is_ok());
        paused.expire(Now::from_secs(104));
        assert!(paused.find(&handles[44]).is_err() && paused.find(&handles[45]).is_ok());
        paused.expire(Now::from_secs(299 + AGE_MAX_S - 1));
        assert_eq!(counted(&paused), [1, 0, 255, 44, 0]);
        paused.expire(Now::from_secs(299 + AGE_MAX_S));
        assert!(paused.list.is_empty());
    }

    #[test]
    fn a_handle_that_is_not_there_is_told_why() {
        let mut paused = Paused::new(0xab);
        let handle = paused.put(at(0));
        assert_eq!((handle.as_str(), paused.find(&handle)), ("000000ab-1", Ok(1)));
        for (wrong, code, said) in [
            ("", ErrorCode::Invalid, "\"\" is not the handle"),
            ("ab", ErrorCode::Invalid, "is not the handle"),
            ("ab-99999999999999999999", ErrorCode::Invalid, "is not the handle"),
            ("ac-1", ErrorCode::NotFound, "of another run"),
            ("ab-0", ErrorCode::NotFound, "never given"),
            ("ab-2", ErrorCode::NotFound, "never given"),
        ] {
            let error = paused.find(wrong).unwrap_err();
            assert!(error.code == code && error.message.contains(said), "{wrong}: {error}");
        }
        paused.list.clear();
        let stale = paused.find(&handle).unwrap_err();
        assert!(stale.message.contains("is stale") && stale.hint.contains("once"), "{stale}");
    }
}
